//! Looks for secrets in what was written, in every form in which one could have got there.

use crate::wire::Response;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::fmt::Write;
use std::path::Path;

/// Text as it is; of other bytes each becomes the character of its number. So both can be searched as text.
fn characters(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|&byte| char::from(byte)).collect(), str::to_owned)
}

fn each(secret: &[u8], mut form: impl FnMut(&mut String, u8)) -> String {
    secret.iter().fold(String::new(), |mut text, &byte| {
        form(&mut text, byte);
        text
    })
}

/// Every form of a secret: what it is called, and how it looks.
fn forms(secret: &[u8]) -> Vec<(String, String)> {
    let mut forms = vec![
        ("raw".to_owned(), characters(secret)),
        ("in hex".to_owned(), each(secret, |text, byte| write!(text, "{byte:02x}").unwrap())),
        ("in upper hex".to_owned(), each(secret, |text, byte| write!(text, "{byte:02X}").unwrap())),
        ("as \\x".to_owned(), each(secret, |text, byte| write!(text, "\\x{byte:02x}").unwrap())),
        ("as %".to_owned(), each(secret, |text, byte| write!(text, "%{byte:02X}").unwrap())),
        ("as a list".to_owned(), each(secret, |text, byte| write!(text, "{byte}, ").unwrap())),
        ("as a dense list".to_owned(), each(secret, |text, byte| write!(text, "{byte},").unwrap())),
    ];
    // What is printed as a list ends without a comma.
    for (_, form) in &mut forms {
        form.truncate(form.trim_end_matches([',', ' ']).len());
    }
    for unreserved in ["-._~", "-._~/", "-_.!~*'()"] {
        let escaped = each(secret, |text, byte| match char::from(byte) {
            plain if plain.is_ascii_alphanumeric() || unreserved.contains(plain) => text.push(plain),
            _ => write!(text, "%{byte:02X}").unwrap(),
        });
        forms.push((format!("escaped but for {unreserved}"), escaped));
    }
    for (alphabet, name) in [(&STANDARD_NO_PAD, "base64"), (&URL_SAFE_NO_PAD, "base64url")] {
        // It may begin at each of three places of a longer text; what hangs together with its neighbours is cut off.
        for before in 0..3_usize {
            let encoded = alphabet.encode([vec![0; before], secret.to_vec()].concat());
            let (from, to) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
            forms.push((format!("in {name}, {before} bytes in"), encoded[from..to].to_owned()));
        }
    }
    forms
}

/// What was written, and where.
#[derive(Default)]
pub struct Written(Vec<(String, String)>);

impl Written {
    pub fn add(&mut self, place: impl Into<String>, bytes: impl AsRef<[u8]>) {
        self.0.push((place.into(), characters(bytes.as_ref())));
    }

    pub fn answer(&mut self, place: &str, answer: &Response) {
        self.add(format!("the answer to {place}"), format!("{}{}", answer.head, answer.body));
    }

    pub fn output(&mut self, words: &[&str], output: &std::process::Output) {
        self.add(format!("stdout of {words:?}"), &output.stdout);
        self.add(format!("stderr of {words:?}"), &output.stderr);
    }

    /// Every file under a folder but those of these names.
    pub fn folder(&mut self, folder: &Path, but: &[&str]) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                self.folder(&path, but);
            } else if path.is_file() && !but.contains(&entry.file_name().to_str().unwrap()) {
                self.add(format!("the file {}", path.display()), std::fs::read(&path).unwrap());
            }
        }
    }

    /// Whether a place of this name holds this text: that it was really searched.
    pub fn has(&self, place: &str, text: &str) -> bool {
        self.0.iter().any(|(name, written)| name.contains(place) && written.contains(text))
    }

    /// Each secret that was found: its name, its form, and where. What it is, is not said.
    pub fn found(&self, secrets: &[(&str, Vec<u8>)]) -> Vec<String> {
        let mut found = Vec::new();
        for (name, secret) in secrets {
            for (form, text) in forms(secret) {
                let places = self.0.iter().filter(|(_, written)| written.contains(&text));
                found.extend(places.map(|(place, _)| format!("{name}, {form}, in {place}")));
            }
        }
        found
    }

    pub fn hold(&self, secrets: &[(&str, Vec<u8>)]) {
        let found = self.found(secrets);
        assert!(found.is_empty(), "secrets were written:\n{}", found.join("\n"));
    }
}

#[test]
fn a_secret_is_found_in_every_form() {
    let secret = b"canary/Key+of=the~provider%2f000".to_vec();
    let found_in = |text: &str| {
        let mut written = Written::default();
        written.add("here", text);
        written.found(&[("it", secret.clone())]).len()
    };
    assert_eq!(found_in("canary/Key+of=the~provider%2f00 canary"), 0);
    for (form, text) in [
        ("raw", "x canary/Key+of=the~provider%2f000\n"),
        ("escaped", "?key=canary%2FKey%2Bof%3Dthe~provider%252f000&"),
        ("in hex", "63616e6172792f4b65792b6f663d7468657e70726f76696465722532663030300a"),
        ("in base64, behind `Bearer `", "QmVhcmVyIGNhbmFyeS9LZXkrb2Y9dGhlfnByb3ZpZGVyJTJmMDAw"),
        (
            "as a list",
            "[99, 97, 110, 97, 114, 121, 47, 75, 101, 121, 43, 111, 102, 61, 116, 104, 101, 126, 112, 114, 111, 118, 105, 100, 101, 114, 37, 50, 102, 48, 48, 48]",
        ),
    ] {
        assert!(found_in(text) > 0, "{form}");
    }
    let mut written = Written::default();
    written.add("bytes", [&[0xff, 0xfe][..], &secret, &[0x80]].concat());
    assert!(!written.found(&[("it", secret)]).is_empty(), "between bytes that are no text");
}
