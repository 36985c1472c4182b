//! Where the ledger is, by files that are cut off or broken in every way: the right place, or a fault.

use super::*;
use std::path::PathBuf;

const BEFORE: &str =
    "[listen]\naddress = \"127.0.0.1:0\"\n[upstream]\napi_key_file = \"key\" # “a key”\nurl = 'http://127.0.0.1:9'\n";
const OWN: &str = "  [ledger] # [ledger]\npath = \"Entrées/ledger\"   # [x]\nreserve_kib = 64\nsigning_key_file = '''\n[upstream]'''\norigin = \"gateway.example/\\\"log\"\n";
const BEHIND: &str = "[[callers]]\nname = \"c\" # …\nbudgets = [{ max = 5, per_s = 60 }]\n[[callers.allow]]\nsessions = [\"*\"]\ngroups_file = \"groups\"\n[log]\nlevel = \"info\"\n";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let file = self.folder.path().join("gateway.toml");
        std::fs::write(&file, bytes).unwrap();
        file
    }

    fn load(&self, bytes: impl AsRef<[u8]>) -> Result<(Ledger, Vec<Fault>), Vec<Fault>> {
        load_ledger(&self.file(bytes.as_ref()))
    }

    /// The ledger's place and log are those that `OWN` says.
    fn is_right(&self, ledger: &Ledger, note: &str) {
        assert_eq!(ledger.path, self.folder.path().join("Entrées/ledger"), "{note}");
    }
}

#[test]
fn of_a_file_that_is_cut_off_anywhere_the_ledgers_place_is_found_once_its_section_is_whole_and_never_another() {
    let (place, whole) = (Place::new(), [BEFORE, OWN, BEHIND].concat());
    let complete = BEFORE.len() + OWN.len();
    for end in 0..=whole.len() {
        let (bytes, note) = (&whole.as_bytes()[..end], format!("cut off at {end} of {complete}"));
        match place.load(bytes) {
            Ok((ledger, elsewhere)) => {
                place.is_right(&ledger, &note);
                assert!(end < complete || ledger.origin.is_some() && ledger.signing_key_file.is_some(), "{note}");
                assert!(elsewhere.iter().all(|fault| !fault.what.is_empty()), "{note}");
            }
            Err(faults) => {
                assert!(end < complete && !faults.is_empty(), "{note}: {faults:?}");
                assert!(faults.iter().all(|fault| !fault.what.is_empty()), "{note}: {faults:?}");
            }
        }
    }
}

#[test]
fn what_is_not_toml_before_or_behind_the_section_is_a_warning_and_its_line_is_named() {
    let place = Place::new();
    for broken in ["[listen\n", "= 3\n", "x = \"open\n", "a = [1,\n", "b = {\n", "\"\n'\n", "x = 1\nx = 2\n"] {
        for text in [[broken, BEFORE, OWN, BEHIND].concat(), [BEFORE, OWN, BEHIND, broken].concat()] {
            let (ledger, elsewhere) = place.load(&text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
            place.is_right(&ledger, &text);
            assert!(matches!(elsewhere.as_slice(), [fault] if fault.what.contains("is not TOML")), "{elsewhere:?}");
        }
    }
    let binary = [BEFORE.as_bytes(), OWN.as_bytes(), b"[log]\nlevel = \"\xff\"\n"].concat();
    place.is_right(&place.load(&binary).unwrap().0, "not UTF-8 behind it");
    let windows = ["\u{feff}", OWN, "[log]\nlevel = "].concat().replace('\n', "\r\n");
    place.is_right(&place.load(&windows).unwrap().0, "with a mark and carriage returns");
}

#[test]
fn a_section_that_is_itself_broken_there_twice_or_only_in_a_text_is_a_fault() {
    let place = Place::new();
    let quoted = "[log]\nlevel = \"\"\"\n[ledger]\npath = \"elsewhere\"\n\"\"\"\n[listen\n";
    let literal = "[log]\nlevel = '''\n[ledger]\npath = \"elsewhere\"\n'''\n[listen\n";
    let unclosed = "[log]\nlevel = \"\"\"\n[ledger]\npath = \"elsewhere\"\n";
    let twice = [OWN, "[ledger]\npath = \"elsewhere\"\n[listen\n"].concat();
    let broken = "[ledger]\npath = \"led\nreserve_kib = 64\n[listen]\n";
    let none = "[listen\n[[ledger]]\npath = \"elsewhere\"\n";
    let not_text = b"[ledger]\npath = \"led\xffger\"\n[listen]\n";
    for bytes in [quoted, literal, unclosed, &twice, broken, none].map(str::as_bytes).iter().chain([&&not_text[..]]) {
        let found = place.load(bytes);
        assert!(found.as_ref().is_err_and(|faults| faults.len() > 1), "{found:?}\n{}", String::from_utf8_lossy(bytes));
    }
    // Beside one in a text the section itself is found.
    place.is_right(&place.load([quoted, OWN].concat()).unwrap().0, "beside a text");
    // Of a section's own tables nothing is known, and that is said.
    let found = place.load([OWN, "[listen\n[ledger.more]\nx = 1\n"].concat());
    assert!(found.as_ref().is_err_and(|faults| faults.iter().any(|fault| fault.key == "ledger.more")), "{found:?}");
}

#[test]
fn files_that_other_sections_name_are_not_read() {
    let place = Place::new();
    let pipe = place.folder.path().join("groups");
    // Whoever opens it waits for a writer.
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let issuer = "[[identity.issuers]]\nname = \"i\"\nissuer = \"i\"\naudience = \"a\"\njwks_file = \"gone\"\n";
    let (ledger, elsewhere) = place.load([BEFORE, OWN, issuer, BEHIND].concat()).unwrap();
    place.is_right(&ledger, "beside files that cannot be read");
    assert_eq!((elsewhere, ledger.longest_budget.as_secs()), (Vec::new(), 60));
}

#[test]
fn what_panics_at_the_rest_is_a_warning_and_keeps_what_any_budget_could_count() {
    let place = Place::new();
    let file = place.file([BEFORE, OWN, BEHIND].concat().as_bytes());
    let (ledger, elsewhere) = load_beside(&file, |_| panic!("at the rest")).unwrap();
    place.is_right(&ledger, "beside a panic");
    assert!(matches!(elsewhere.as_slice(), [fault] if fault.what.contains("panic")), "{elsewhere:?}");
    assert_eq!(ledger.longest_budget, LONGEST);
    let cut = [OWN, "[[callers]]\nname = \"c\"\nbudgets = [{ max = 5, per_s = 86"].concat();
    assert_eq!(place.load(cut).unwrap().0.longest_budget, LONGEST);
}
