//! `audit restore`: where nothing is lost the log goes on; where something is, a new one begins and says so.

use crate::provider::{Provider, Reply};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::delete;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn said(output: &Output) -> (Option<i32>, String) {
    let both = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn copy_all(from: &Path, to: &Path) {
    assert!(Command::new("cp").args(["-a", text(from), text(to)]).status().unwrap().success());
}

pub fn exported(config: &Path, options: &[&str]) -> Vec<Value> {
    let (code, text) = said(&command(&[&["audit", "export"], options].concat(), config));
    assert_eq!(code, Some(0), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A gateway that has deleted, was backed up while a request was open and one unknown, has deleted more, and stopped.
pub struct Past {
    pub gateway: Gateway,
    pub text: String,
    pub backup: PathBuf,
    pub elsewhere: PathBuf,
    pub old_key: String,
    /// The request that was proven before the backup, and where its receipts are.
    pub receipts: PathBuf,
}

impl Past {
    pub fn new(provider: &Provider) -> Self {
        Self::with(provider, "")
    }

    /// With more lines for `[ledger]`.
    pub fn with(provider: &Provider, more: &str) -> Self {
        let lines = format!("origin = \"gateway.example/log\"\ncheckpoint_copy = \"elsewhere\"\n{more}");
        let text = configuration(&provider.url(), &[("ledger", &lines)], &caller("moderation", TOKEN, ""));
        let mut gateway = Gateway::with(&text);
        let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
        let receipts = gateway.folder.path().join("receipts");
        let proven = command(&["audit", "prove", &id, "--out", self::text(&receipts)], &gateway.config());
        assert_eq!(said(&proven).0, Some(0));
        provider.next(Reply::HangUp);
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 504);
        provider.next(Reply::Silent);
        let open = gateway.send();
        eventually("it is open", || gateway.of_kind("intent").len() == 3);
        let backup = gateway.folder.path().join("backup");
        let made = command(&["audit", "backup", "--to", self::text(&backup)], &gateway.config());
        assert_eq!(said(&made).0, Some(0), "{made:?}");
        drop(open);
        assert_eq!(delete(gateway.listen, "/sess1/groups/9@g.us/picture", TOKEN).status, 200);
        let elsewhere = gateway.folder.path().join("elsewhere");
        let key = command(&["audit", "checkpoint", "--vkey"], &gateway.config());
        let old_key = String::from_utf8(key.stdout).unwrap().lines().last().unwrap().to_owned();
        let length = gateway.entries().len();
        let size = || std::fs::read_to_string(&elsewhere).unwrap().lines().nth(1).unwrap().parse::<usize>().unwrap();
        eventually("all of it is signed", || size() >= length);
        gateway.kill();
        assert!(size() > exported_length(&backup), "more was signed than was backed up");
        Self { gateway, text, backup, elsewhere, old_key, receipts }
    }

    pub fn config(&self) -> PathBuf {
        self.gateway.config()
    }

    pub fn ledger(&self) -> PathBuf {
        self.gateway.folder.path().join("ledger")
    }

    pub fn restore(&self, options: &[&str]) -> (Option<i32>, String) {
        let from = ["audit", "restore", "--from", text(&self.backup)];
        said(&command(&[&from, options].concat(), &self.config()))
    }

    pub fn verify(&self, options: &[&str]) -> (Option<i32>, String) {
        said(&command(&[&["audit", "verify"], options].concat(), &self.config()))
    }

    /// The receipts from before the backup, with the old log's key.
    fn receipts_verify(&self) {
        assert_eq!(verify_receipts(&self.receipts, &self.old_key), [Some(0); 2]);
    }

    /// The key of the log that is there now.
    pub fn key(&self) -> String {
        let key = command(&["audit", "checkpoint", "--vkey"], &self.config());
        String::from_utf8(key.stdout).unwrap().lines().last().unwrap().to_owned()
    }

    pub fn serve(&self) -> Gateway {
        Gateway::in_folder(self.gateway.folder.clone(), &self.text, &[])
    }
}

/// How each receipt of a folder verifies with a key, offline.
pub fn verify_receipts(receipts: &Path, key: &str) -> Vec<Option<i32>> {
    let files = std::fs::read_dir(receipts).unwrap().flatten().map(|file| file.path());
    let entries = files.filter(|file| file.extension().is_some_and(|end| end == "entry"));
    let verify = |entry: PathBuf| {
        let proof = entry.with_extension("tlog-proof");
        let options = ["audit", "verify", "--receipt", text(&entry), text(&proof), "--vkey", key];
        said(&Command::new(BINARY).args(options).output().unwrap()).0
    };
    entries.map(verify).collect()
}

pub fn exported_length(backup: &Path) -> usize {
    let script =
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM entry').fetchone()[0])";
    let counted = Command::new("python3").args(["-c", script]).arg(backup).output().unwrap();
    String::from_utf8(counted.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn a_restore_that_lost_entries_begins_a_new_log_whose_first_entry_names_the_old_checkpoint() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    let old_checkpoint = std::fs::read_to_string(&past.elsewhere).unwrap();
    let signed: u64 = old_checkpoint.lines().nth(1).unwrap().parse().unwrap();
    let kept = exported_length(&past.backup) as u64;
    std::fs::remove_dir_all(past.ledger()).unwrap();
    let (code, words) = said(&command(&["serve"], &past.config()));
    assert!(code == Some(69) && words.contains("the signing key is missing"), "{words}");

    let before = std::fs::read(&past.elsewhere).unwrap();
    let (code, words) = past.restore(&[]);
    assert!(code == Some(1) && words.contains(&format!("entries {kept} to {} are lost", signed - 1)), "{words}");
    assert_eq!(std::fs::read(&past.elsewhere).unwrap(), before, "nothing was changed");
    let (code, words) = past.restore(&["--accept-loss", "--json"]);
    assert_eq!(code, Some(0), "{words}");
    let told: Value = serde_json::from_str(&words).unwrap();
    let expected = json!({"log": "begun", "origin": "gateway.example/log/2", "old_log": 1, "old_entries": kept, "old_signed": signed, "carried": 2});
    assert_eq!(told, expected);

    // The first entry names what was signed; then come the two requests whose end nobody knows.
    let begun = exported(&past.config(), &[]);
    assert_eq!((begun.len(), &begun[0]["seq"], &begun[0]["kind"]), (5, &json!(0), &json!("gap")));
    let previous = &begun[0]["previous"];
    assert_eq!((&previous["origin"], &previous["restored"]), (&json!("gateway.example/log"), &json!(kept)));
    assert_eq!((&previous["signed"], &previous["checkpoint"]), (&json!(signed), &json!(old_checkpoint)));
    let old = exported(&past.config(), &["--log", "1"]);
    assert_eq!(old.len() as u64, kept);
    for (intent, outcome) in [(1, 2), (3, 4)] {
        let was = &old[usize::try_from(begun[intent]["carried"]["seq"].as_u64().unwrap()).unwrap()];
        assert_eq!((&begun[intent]["request_id"], &begun[intent]["group"]), (&was["request_id"], &was["group"]));
        assert_eq!((&begun[outcome]["kind"], &begun[outcome]["outcome"]), (&json!("outcome"), &json!("unknown")));
    }

    // Both verify, each with its own key; the receipts of the old log as well.
    assert_eq!(past.verify(&[]).0, Some(0), "{:?}", past.verify(&[]));
    let (code, words) = past.verify(&["--log", "1", "--vkey", &past.old_key]);
    assert!(code == Some(0) && words.contains("gateway.example/log "), "{words}");
    past.receipts_verify();
    assert_eq!(std::fs::read_to_string(past.elsewhere.with_extension("1")).unwrap(), old_checkpoint);

    // It serves: nothing is sent again, what is open waits for the resolver, and Go accepts the log.
    let sent = provider.heads().len();
    let mut again = past.serve();
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert_eq!(provider.heads().len(), sent + 1);
    let open = said(&command(&["audit", "search", "--open", "--json"], &past.config())).1;
    assert_eq!(open.lines().count(), 2, "{open}");
    assert!(again.stop().success());
    assert_eq!(again.of_kind("gap").len(), 1, "the restore is no crash");
    let tiles = past.gateway.folder.path().join("tiles");
    assert_eq!(said(&command(&["audit", "export", "--tiles", text(&tiles)], &past.config())).0, Some(0));
    let key = String::from_utf8(command(&["audit", "checkpoint", "--vkey"], &past.config()).stdout).unwrap();
    let key = key.lines().last().unwrap();
    assert!(key.starts_with("gateway.example/log/2+") && key != past.old_key);
    let go = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/proof-check");
    let checked = Command::new(go).args(["verify-tiles", text(&tiles), key]).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(past.verify(&[]).0, Some(0));

    // The third log follows the second.
    let (code, words) =
        said(&command(&["audit", "restore", "--from", text(&past.backup), "--accept-loss"], &past.config()));
    assert!(code == Some(74) && words.contains("is not signed with the key"), "a backup of another log: {words}");
}

#[test]
fn a_restore_that_lost_nothing_goes_on_with_the_log() {
    let provider = Provider::start();
    let mut past = Past::new(&provider);
    let again = past.serve();
    past.gateway = again;
    assert!(past.gateway.stop().success());
    past.backup = past.gateway.folder.path().join("newer");
    let made = command(&["audit", "backup", "--to", text(&past.backup)], &past.config());
    assert_eq!(said(&made).0, Some(0));
    let (whole, kept) = (exported(&past.config(), &[]), past.gateway.folder.path().join("kept"));
    copy_all(&past.ledger(), &kept);
    for lost in [&["ledger.db"][..], &["tree.db"], &["ledger.db", "tree.db", "search.db"]] {
        std::fs::remove_dir_all(past.ledger()).unwrap();
        copy_all(&kept, &past.ledger());
        for file in lost {
            std::fs::write(past.ledger().join(file), "nonsense").unwrap();
        }
        assert_eq!(said(&command(&["serve"], &past.config())).0, Some(74), "{lost:?}");
        let (code, words) = past.restore(&[]);
        assert!(code == Some(0) && words.contains("the log gateway.example/log goes on"), "{lost:?}: {words}");
        assert_eq!(exported(&past.config(), &[]), whole);
        assert_eq!(past.verify(&[]).0, Some(0), "{lost:?}: {:?}", past.verify(&[]));
        let replaced = past.ledger().join("replaced-1").join(lost[0]);
        assert_eq!(std::fs::read_to_string(replaced).unwrap(), "nonsense", "nothing is deleted");
        let mut again = past.serve();
        assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
        assert!(again.stop().success());
        assert_eq!(past.verify(&["--vkey", &past.old_key]).0, Some(0), "{lost:?}");
        std::fs::remove_file(&past.elsewhere).unwrap();
        std::fs::write(&past.elsewhere, command(&["audit", "checkpoint"], &kept_config(&past, &kept)).stdout).unwrap();
    }
}

/// A configuration of the ledger that was kept.
fn kept_config(past: &Past, kept: &Path) -> PathBuf {
    let file = past.gateway.folder.path().join("kept.toml");
    std::fs::write(&file, format!("[ledger]\npath = \"{}\"\n", kept.display())).unwrap();
    file
}

#[test]
fn a_backup_of_another_log_or_a_changed_one_or_beside_a_running_gateway_is_not_put_back() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    let whole = exported(&past.config(), &[]);
    let change = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()";
    for (sql, words) in [
        (
            "UPDATE entry SET bytes = CAST(replace(CAST(bytes AS TEXT), 'moderation', 'moderator!') AS BLOB)",
            "not this log",
        ),
        ("DELETE FROM entry WHERE seq = 1", "has no entry 1"),
        ("CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM in_flight; END", "a trigger that no ledger has"),
        ("UPDATE signed SET note = replace(note, 'log', 'lag')", "the backup's checkpoint: "),
        ("UPDATE in_flight SET seq = 0", "is listed as an intent without a known end, but is none"),
    ] {
        let backup = past.gateway.folder.path().join("changed");
        std::fs::copy(&past.backup, &backup).unwrap();
        assert!(Command::new("python3").args(["-c", change]).arg(&backup).arg(sql).status().unwrap().success());
        let restored = command(&["audit", "restore", "--accept-loss", "--from", text(&backup)], &past.config());
        let (code, said) = said(&restored);
        assert!(code == Some(74) && said.contains(words), "{sql}: {code:?} {said}");
        assert_eq!(exported(&past.config(), &[]), whole, "{sql}");
    }
    let running = past.serve();
    let (code, words) = past.restore(&["--accept-loss"]);
    assert!(code == Some(69) && words.contains(&running.process_id().to_string()), "{words}");
    drop(running);
    std::fs::remove_dir_all(past.ledger()).unwrap();
    std::fs::create_dir(past.ledger()).unwrap();
    std::fs::copy(&past.backup, past.ledger().join("ledger.db")).unwrap();
    let (code, words) = said(&command(&["serve"], &past.config()));
    assert!(code == Some(74) && words.contains("is a backup; `audit restore --from` puts it back"), "{words}");
}

#[test]
fn a_restore_that_is_killed_while_it_moves_files_is_finished_by_the_next_one() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    let (kept, elsewhere) = (past.gateway.folder.path().join("kept"), std::fs::read(&past.elsewhere).unwrap());
    copy_all(&past.ledger(), &kept);
    let mut halves = 0;
    let (mut call, mut at) = ("rename", 0);
    loop {
        at += 1;
        std::fs::remove_dir_all(past.ledger()).unwrap();
        copy_all(&kept, &past.ledger());
        let _ = std::fs::remove_file(past.elsewhere.with_extension("1"));
        std::fs::write(&past.elsewhere, &elsewhere).unwrap();
        let inject = format!("inject={call}:signal=SIGKILL:when={at}");
        let killed = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
            .args([BINARY, "audit", "restore", "--accept-loss", "--from", text(&past.backup), "--config"])
            .arg(past.config())
            .output()
            .unwrap();
        let half = past.ledger().join("restoring/ready").exists();
        if half {
            halves += 1;
            let (code, words) = said(&command(&["serve"], &past.config()));
            assert!(code == Some(69) && words.contains("was interrupted"), "{call} {at}: {words}");
        }
        if killed.status.code() == Some(0) {
            if call == "rename" {
                (call, at) = ("fsync", 0);
                continue;
            }
            assert!(halves > 12, "{halves} of them left files of both");
            return;
        }
        if !past.ledger().join("1").exists() || half {
            assert_eq!(
                past.restore(&["--accept-loss"]).0,
                Some(0),
                "{call} {at}: {:?}",
                past.restore(&["--accept-loss"])
            );
        }
        assert_eq!(exported(&past.config(), &[]).len(), 5, "{call} {at}");
        for options in [&[][..], &["--log", "1", "--vkey", &past.old_key]] {
            assert_eq!(past.verify(options).0, Some(0), "{call} {at}: {:?}", past.verify(options));
        }
        assert_eq!(std::fs::read(past.elsewhere.with_extension("1")).unwrap(), elsewhere, "{call} {at}");
        assert!(past.ledger().join("replaced-1/ledger.db").exists() && !past.ledger().join("restoring/ready").exists());
    }
}
