//! A ledger with entries of long ago, what is left of it on disk, and who else has it open.

use crate::crash::FAILPOINTS;
use crate::promises::{ask, connect};
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, command, configuration, eventually, sha256};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A group of the old form: its id begins with a phone number.
pub const PHONE: &str = "15551234567-1600000000";
/// One that stays.
pub const KEPT: &str = "15557654321-1600000000";
pub const AUDITOR: &str = "canary-token-auditor-000";

/// Runs Python with these words, and what it says.
pub fn python(script: &str, arguments: &[&Path]) {
    let done = Command::new("python3").arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Requests from 400 days ago on, and some of 20 days ago. The last bundle of the old ones knows no phone number.
const SEED: &str = r#"
import datetime, json, sqlite3, sys
db, old, new = sqlite3.connect(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
db.execute("DELETE FROM entry")
now, seq, rows = datetime.datetime.utcnow(), 0, []
def add(time, body):
    global seq
    entry = {"v": 1, "seq": seq, "time": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z"), **body}
    rows.append((seq, json.dumps(entry, separators=(",", ":"))))
    seq += 1
def intent(n, time, group):
    add(time, {"kind": "intent", "request_id": "01900000-0000-7000-8000-%012x" % n, "caller": "c%d" % (n % 3), "credential": "t1", "peer": "127.0.0.1", "session": "sess1", "group": group, "rule": "r", "policy": "p"})
def outcome(n, time, end):
    add(time, {"kind": "outcome", "request_id": "01900000-0000-7000-8000-%012x" % n, "outcome": end, "status": 200, "sent": "yes"})
def resolution(n, time):
    add(time, {"kind": "resolution", "request_id": "01900000-0000-7000-8000-%012x" % n, "resolution": "absent"})
began = now - datetime.timedelta(days=400)
add(began, {"kind": "start", "version": "0.1.0", "recovered": 0})
intent(1, began, "PHONE@g.us"); outcome(1, began, "deleted")
intent(2, began, "2@g.us"); outcome(2, began, "unknown")
intent(3, began, "3@g.us")
n = 4
while seq < old:
    phone = seq < old - 256
    time = began + datetime.timedelta(minutes=n)
    if n % 5 == 0:
        add(time, {"kind": "refusal", "request_id": "01900000-0000-7000-8000-%012x" % n, "status": 403, "code": "not-allowed", "detail": "x", "caller": "c1", "peer": "127.0.0.1", "session": "sess1", "group": "PHONE@g.us" if phone else "1@g.us"})
    else:
        intent(n, time, "PHONE" if phone and n % 7 == 0 else "%d@g.us" % n); outcome(n, time, "deleted" if n % 3 else "refused")
    n += 1
# What became of old requests, known only lately.
lately = now - datetime.timedelta(days=20)
outcome(3, lately, "deleted"); resolution(2, lately)
while seq < old + new:
    lately += datetime.timedelta(seconds=1)
    intent(n, lately, "KEPT@g.us"); outcome(n, lately, "deleted")
    n += 1
add(lately, {"kind": "stop"})
db.executemany("INSERT INTO entry VALUES (?, cast(? AS BLOB))", rows)
db.commit()
db.execute("PRAGMA wal_checkpoint(TRUNCATE)"); db.close()
"#;

/// A ledger with old entries and new ones, that a gateway serves.
pub struct Old {
    pub provider: Provider,
    pub folder: Arc<tempfile::TempDir>,
    pub text: String,
    ledger: PathBuf,
}

impl Old {
    pub fn new(old: usize, new: usize, retention: &str) -> Self {
        Self::at(None, old, new, retention)
    }

    /// With its ledger on a disk of its own.
    pub fn at(disk: Option<&Path>, old: usize, new: usize, retention: &str) -> Self {
        let provider = Provider::start();
        let staff = format!(
            "[[ops.operators]]\nname = \"eve\"\nrole = \"auditor\"\ntoken_sha256 = [\"{}\"]\n",
            sha256(AUDITOR)
        );
        let lines = format!("origin = \"gateway.example/log\"\nreserve_kib = 64\n{retention}");
        let mut text =
            configuration(&provider.url(), &[("ops", &staff), ("ledger", &lines)], &caller("moderation", TOKEN, ""));
        if let Some(disk) = disk {
            text = text.replace("path = \"ledger\"", &format!("path = \"{}/ledger\"", disk.display()));
        }
        let mut gateway = Gateway::with(&text);
        assert!(gateway.stop().success());
        let folder = gateway.folder.clone();
        let ledger = disk.unwrap_or(folder.path()).join("ledger");
        let old = Self { provider, folder, text, ledger }.seeded(old, new);
        drop(gateway);
        old
    }

    fn seeded(self, old: usize, new: usize) -> Self {
        let script = SEED.replace("PHONE", PHONE).replace("KEPT", KEPT);
        let (old, new) = (old.to_string(), new.to_string());
        python(&script, &[&self.ledger().join("ledger.db"), Path::new(&old), Path::new(&new)]);
        // As if nothing had been signed yet.
        let forget = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript('DELETE FROM tile; DELETE FROM signed'); db.close()";
        python(forget, &[&self.ledger().join("tree.db")]);
        for file in ["search.db", "search.db-wal", "signing-key"] {
            let _ = std::fs::remove_file(self.ledger().join(file));
        }
        self
    }

    /// As if it had begun after another log, of which it took over what a budget counts. Before its first start.
    pub fn follows_another_log(&self) {
        let script = r#"
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
first = json.loads(db.execute("SELECT bytes FROM entry WHERE seq = 0").fetchone()[0])
gap = {"v": 1, "seq": 0, "time": first["time"], "kind": "gap", "reason": "r", "previous": {"carried": 1, "freezes": 0}}
db.execute("UPDATE entry SET bytes = cast(? AS BLOB) WHERE seq = 0", [json.dumps(gap, separators=(",", ":"))])
db.execute("INSERT INTO spent SELECT zeroblob(16), 7, (unixepoch(?) - 60) * 1000000, -1", [first["time"]])
db.commit()
db.execute("PRAGMA wal_checkpoint(TRUNCATE)"); db.close()
"#;
        python(script, &[&self.ledger().join("ledger.db")]);
    }

    pub fn ledger(&self) -> PathBuf {
        self.ledger.clone()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    pub fn start(&self, failpoints: &str) -> Gateway {
        Gateway::in_folder(self.folder.clone(), &self.text, &[(FAILPOINTS, failpoints)])
    }

    /// Starts it and waits until all old entries are signed and, as far as they fill segments, can be searched.
    pub fn settled(&self) -> Gateway {
        let gateway = self.start("");
        eventually("all is signed", || {
            let verified = self.run(&["audit", "verify", "--json"]);
            verified.0 == Some(0) && verified.1.contains("\"not_yet_covered\":0")
        });
        gateway
    }

    pub fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        said(&command(words, &self.config()))
    }

    pub fn prune(&self) -> (Option<i32>, String) {
        self.run(&["audit", "prune", "--before", "60d"])
    }

    /// The files of the ledger's folder in which these bytes stand.
    pub fn holding(&self, bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        for file in std::fs::read_dir(self.ledger()).unwrap().flatten() {
            let contents = std::fs::read(file.path()).unwrap_or_default();
            if contents.windows(bytes.len()).any(|window| window == bytes) {
                names.push(file.file_name().into_string().unwrap());
            }
        }
        names
    }

    /// Nothing is left of the phone number, whatever is looked for.
    pub fn is_gone(&self) {
        for bytes in [PHONE.as_bytes(), b"15551234567", &term("group", PHONE), b"01900000-0000-7000-8000-000000000001"]
        {
            assert_eq!(self.holding(bytes), [""; 0], "{}", String::from_utf8_lossy(bytes));
        }
        assert!(!self.holding(KEPT.as_bytes()).is_empty(), "what is kept is there: the search can find something");
    }

    /// The numbers of the entries, which begin where the log does.
    pub fn first(&self) -> u64 {
        let (code, said) = self.run(&["audit", "export"]);
        assert_eq!(code, Some(0), "{said}");
        let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        first["seq"].as_u64().unwrap()
    }

    pub fn verifies(&self, words: &str) {
        let (code, said) = self.run(&["audit", "verify"]);
        let flat = said.replace(['│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == Some(0) && flat.contains(words), "{said}");
    }
}

pub fn said(output: &Output) -> (Option<i32>, String) {
    let both = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

/// A value as the search data have it: 63 bits of a hash, which whoever knows the number could make as well.
pub fn term(field: &str, value: &str) -> [u8; 8] {
    let hex = sha256(&format!("{field}\0{value}"));
    let number = u64::from_str_radix(&hex[..16], 16).unwrap() & (u64::MAX >> 1);
    number.to_be_bytes()
}

/// Another program that has the ledger open for reading, until it is dropped.
pub struct Reading(Child);

impl Reading {
    pub fn of(file: &Path) -> Self {
        let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN'); db.execute('SELECT max(seq) FROM entry').fetchall(); print('held', flush=True); sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        Self(child)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Deletes pictures without a pause, and counts.
pub struct Deleting {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Deleting {
    pub fn at(gateway: &Gateway) -> Self {
        let (stop, answered, address) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), gateway.listen);
        let (stopped, count) = (stop.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            let mut stream = connect(address).unwrap();
            while !stopped.load(Ordering::SeqCst) {
                let heard = ask(&mut stream).expect("an answer");
                assert_eq!((heard.status, heard.warned), (200, false), "{heard:?}");
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, answered, thread }
    }

    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.answered.load(Ordering::SeqCst)
    }
}
