//! Notes and keys, against the specification's example and against what Go's `sumdb/note` writes.

use super::*;

/// What Go's `note.GenerateKey` makes of the name and 32 times the byte 7.
const LINE: &str = "PRIVATE+KEY+gateway.example/log+dd992f04+AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";
const VKEY: &str = "gateway.example/log+dd992f04+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";

fn key(name: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(Origin::parse(name).expect("an origin"), [seed; 32])
}

#[test]
fn the_example_of_the_specification_verifies() {
    let vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let key = VerifyingKey::parse(vkey).expect("a key");
    assert_eq!(key.to_string(), vkey);
    let note = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg\
                1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    assert_eq!(open(note, &key), Ok("This is an example message.\n"));
    let forged = note.replace("example message", "exbmple message");
    assert_eq!(open(&forged, &key), Err(NoteFault::Forged(vkey.to_owned())));
}

#[test]
fn keys_are_written_and_read_as_go_writes_them() {
    let key = key("gateway.example/log", 7);
    assert_eq!(key.to_line().expose(), LINE);
    assert_eq!(key.verifying_key().to_string(), VKEY);
    assert_eq!(SigningKey::parse(LINE).map(|key| key.verifying_key()), Ok(key.verifying_key()));
    assert_eq!(VerifyingKey::parse(VKEY), Ok(key.verifying_key()));
}

#[test]
fn a_changed_key_is_refused() {
    let refused = |line: &str| SigningKey::parse(line).err();
    for place in 0..LINE.len() {
        let mut changed = LINE.as_bytes().to_vec();
        changed[place] ^= 1;
        assert!(refused(&String::from_utf8(changed).expect("text")).is_some(), "byte {place}");
        assert!(refused(&LINE[..place]).is_some(), "cut at {place}");
    }
    assert_eq!(refused(&LINE.replace("/log", "/dog")), Some(KeyFault::Id));
    assert_eq!(refused(&LINE.replace("+AQcH", "+AgcH")), Some(KeyFault::Algorithm));
    assert_eq!(refused(&format!("{LINE}\n")), Some(KeyFault::Form));
    assert_eq!(refused(VKEY), Some(KeyFault::Form));
    assert_eq!(VerifyingKey::parse(LINE), Err(KeyFault::Form));
    assert_eq!(VerifyingKey::parse(&format!("a+00000000+{}", STANDARD.encode([4; 33]))), Err(KeyFault::Algorithm));
    assert_eq!(VerifyingKey::parse("a+00000000+AQcH"), Err(KeyFault::Form));
    assert_eq!(VerifyingKey::parse("a b+00000000+AQcH"), Err(KeyFault::Name(OriginFault::Character)));
}

#[test]
fn a_seed_is_never_printed() {
    let key = key("gateway.example/log", 7);
    let printed = format!("{key:?} {:?}", key.to_line());
    assert!(printed.contains("***") && !printed.contains("BwcHBwcH") && !printed.contains("7, 7, 7"), "{printed}");
}

#[test]
fn two_generated_keys_differ_and_sign() {
    let origin = Origin::parse("gateway.example/log").expect("an origin");
    let [one, two] = [(), ()].map(|()| SigningKey::generate(origin.clone()).expect("a key"));
    assert_ne!(one.verifying_key(), two.verifying_key());
    assert_eq!(open(&one.sign("text\n"), &one.verifying_key()), Ok("text\n"));
    let again = SigningKey::parse(one.to_line().expose()).expect("a key");
    assert_eq!(one.sign("text\n"), again.sign("text\n"));
}

#[test]
fn a_key_file_is_one_line_and_a_fault_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("signing.key");
    let fault = SigningKey::load(&path).expect_err("no file");
    assert!(fault.contains("signing.key: the signing key cannot be read"), "{fault}");
    for good in [LINE.to_owned(), format!("{LINE}\n")] {
        std::fs::write(&path, good).expect("written");
        assert_eq!(SigningKey::load(&path).map(|key| key.verifying_key().to_string()), Ok(VKEY.to_owned()));
    }
    for bad in [String::new(), format!("{LINE}\n{LINE}\n"), format!("{LINE}{}", "A".repeat(1_000_000))] {
        std::fs::write(&path, bad).expect("written");
        let fault = SigningKey::load(&path).expect_err("no key");
        assert!(fault.contains("signing.key") && fault.contains("restore") && !fault.contains("BwcH"), "{fault}");
    }
}

#[test]
fn signatures_of_others_are_passed_over_and_a_false_one_of_ours_is_not() {
    let (ours, other) = (key("a", 1), key("b", 2));
    let (note, vkey) = (ours.sign("text\n"), ours.verifying_key());
    let line = |note: &str| note.split_once("\n\n").expect("a note").1.to_owned();
    let theirs = line(&other.sign("text\n"));
    assert_eq!(open(&format!("{note}{theirs}"), &vkey), Ok("text\n"));
    assert_eq!(open(&format!("text\n\n{theirs}{}", line(&note)), &vkey), Ok("text\n"));
    assert_eq!(open(&format!("{note}{}", line(&note)), &vkey), Ok("text\n"));
    assert_eq!(open(&other.sign("text\n"), &vkey), Err(NoteFault::Unsigned(vkey.to_string())));
    // The same name with another key, and the same key under another name, are others.
    let namesakes = [line(&key("a", 3).sign("text\n")), line(&key("c", 1).sign("text\n"))].concat();
    assert_eq!(open(&format!("{note}{namesakes}"), &vkey), Ok("text\n"));
    // A true one beside a false one of the same key does not help.
    let forged = line(&ours.sign("another text\n"));
    assert_eq!(open(&format!("{note}{forged}"), &vkey), Err(NoteFault::Forged(vkey.to_string())));
    // Fifteen others and one unheard-of kind of 5,000 bytes are no reason to refuse.
    let large = format!("— {} {}\n", "x".repeat(300), STANDARD.encode([9; 5_000]));
    assert_eq!(open(&[note.as_str(), &theirs.repeat(15), &large].concat(), &vkey), Ok("text\n"));
}

#[test]
fn how_much_is_read_is_bounded() {
    let (ours, other) = (key("a", 1), key("b", 2));
    let (note, vkey) = (ours.sign("text\n"), ours.verifying_key());
    let theirs = other.sign("text\n").split_once("\n\n").expect("a note").1.to_owned();
    assert_eq!(open(&format!("{note}{}", theirs.repeat(99)), &vkey), Ok("text\n"));
    assert_eq!(open(&format!("{note}{}", theirs.repeat(100)), &vkey), Err(NoteFault::TooLarge));
    assert_eq!(open(&ours.sign(&format!("{}\n", "x".repeat(LONGEST_NOTE))), &vkey), Err(NoteFault::TooLarge));
}

#[test]
fn the_text_ends_at_the_last_empty_line() {
    let key = key("a", 1);
    let text = "first\n\nsecond\n\n\nthird: é\n";
    assert_eq!(open(&key.sign(text), &key.verifying_key()), Ok(text));
}

#[test]
fn what_is_no_note_is_refused() {
    let key = key("a", 1);
    let (note, vkey) = (key.sign("text\n"), key.verifying_key());
    let mut form = ["", "\n", "\n\n", "text\n", "text\n\n"].map(str::to_owned).to_vec();
    form.push(note.trim_end_matches('\n').to_owned());
    form.extend(["te\txt", "te\rxt"].map(|text| note.replace("text", text)));
    form.push(note.replace('\n', "\r\n"));
    for bad in form {
        assert_eq!(open(&bad, &vkey), Err(NoteFault::Form), "{bad:?}");
    }
    for bad in [
        "- a AAAAAAA=",
        "—a AAAAAAA=",
        "— AAAAAAA=",
        "—  AAAAAAA=",
        "— a",
        "— a ",
        "— a AAAA",
        "— a AAAAAA==",
        "— a+ AAAAAAA=",
        "— a AAAAAAA",
        "— a AAAAAAB=",
        "— a  AAAAAAA=",
        "— a b AAAAAAA=",
        "— a AAAAAAA= ",
    ] {
        assert_eq!(open(&format!("{note}{bad}\n"), &vkey), Err(NoteFault::Line(4)), "{bad}");
    }
}
