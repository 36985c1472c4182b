//! The record proves itself: tampering is found by our own commands, and what they write verifies with Go's code.

use crate::provider::{Provider, Reply};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration};
use crate::wire::delete;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What Go's program printed, or why it said no.
fn go(arguments: &[&str]) -> Result<Value, String> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/proof-check");
    assert!(Path::new(program).exists(), "{program} is not built: `make test` builds it (tests/setup.sh)");
    let done = Command::new(program).args(arguments).output().unwrap();
    match done.status.code() {
        Some(0) => Ok(serde_json::from_slice(&done.stdout).unwrap()),
        _ => Err(String::from_utf8(done.stderr).unwrap()),
    }
}

fn sql(file: &Path, sql: &str) {
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()";
    let done = Command::new("python3").args(["-c", script]).arg(file).arg(sql).status();
    assert!(done.unwrap().success());
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let both = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(both).unwrap())
}

fn start(provider: &Provider) -> Gateway {
    let sections = [("ledger", "origin = \"gateway.example/log\"\ncheckpoint_copy = \"elsewhere\"")];
    Gateway::with(&configuration(&provider.url(), &sections, &caller("moderation", TOKEN, "")))
}

/// The verification key, as the command prints it.
fn vkey(gateway: &Gateway) -> String {
    let printed = command(&["audit", "checkpoint", "--vkey"], &gateway.config());
    assert!(printed.status.success());
    String::from_utf8(printed.stdout).unwrap().lines().last().unwrap().to_owned()
}

#[test]
fn a_request_is_proven_beside_a_running_gateway_and_go_agrees() {
    let provider = Provider::start();
    let gateway = start(&provider);
    let answer = delete(gateway.listen, TARGET, TOKEN);
    let id = answer.header("x-request-id").unwrap();
    let out = gateway.folder.path().join("proofs");
    let proven = command(&["audit", "prove", id, "--out", text(&out)], &gateway.config());
    let (code, words) = said(&proven);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("audit verify --receipt") && words.contains("proves one leaf"), "{words}");
    let key = vkey(&gateway);
    assert_eq!(std::fs::read_to_string(out.join("vkey")).unwrap(), format!("{key}\n"));
    let of_request = gateway.entries().into_iter().filter(|entry| entry["request_id"] == id);
    let seqs: Vec<u64> = of_request.map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs.len(), 2);
    for seq in &seqs {
        let place = |end: &str| text(&out.join(format!("{seq}.{end}"))).to_owned();
        let (entry, proof) = (place("entry"), place("tlog-proof"));
        let checked = go(&["verify-receipt", &entry, &proof, &key]).expect("Go agrees");
        assert_eq!(checked["index"], *seq);
        for vkey in [key.as_str(), text(&out.join("vkey"))] {
            let options = ["audit", "verify", "--receipt", &entry, &proof, "--vkey", vkey];
            let (code, words) = said(&Command::new(BINARY).args(options).output().unwrap());
            assert!(code == Some(0) && words.contains(&format!("is entry {seq} of gateway.example/log")), "{words}");
        }
        let other = place("entry").replace(&format!("{seq}.entry"), &format!("{}.entry", seqs[0] + seqs[1] - seq));
        let no = Command::new(BINARY)
            .args(["audit", "verify", "--json", "--receipt", &other, &proof, "--vkey", &key])
            .output()
            .unwrap();
        assert!(said(&no).0 == Some(1) && said(&no).1.contains("do not lead to the signed root"), "{no:?}");
    }
    let again = command(&["audit", "prove", id, "--out", text(&out)], &gateway.config());
    assert!(said(&again).0 == Some(69) && said(&again).1.contains("is there already"), "{again:?}");
    let nobody = "00000000-0000-7000-8000-000000000000";
    assert_eq!(command(&["audit", "prove", nobody, "--out", text(&out)], &gateway.config()).status.code(), Some(1));
}

#[test]
fn the_log_is_written_as_files_that_go_verifies_beside_a_running_gateway_and_without_one() {
    let provider = Provider::start();
    let mut gateway = start(&provider);
    for _ in 0..130 {
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    }
    for running in [true, false] {
        if !running {
            assert!(gateway.stop().success());
        }
        let folder = gateway.folder.path().join(format!("tiles-{running}"));
        let (code, words) = said(&command(&["audit", "export", "--tiles", text(&folder)], &gateway.config()));
        assert_eq!(code, Some(0), "{words}");
        let checked = go(&["verify-tiles", text(&folder), &vkey(&gateway)]).expect("Go agrees");
        assert_eq!(checked["size"], checked["entries"]);
        if !running {
            assert_eq!(checked["size"], gateway.entries().len());
            assert!(folder.join("tile/0/000").exists() && folder.join("tile/entries/000").exists());
        }
        let again = command(&["audit", "export", "--tiles", text(&folder)], &gateway.config());
        assert!(said(&again).0 == Some(69) && said(&again).1.contains("is not empty"), "{again:?}");
    }
}

/// A stopped gateway with some history; its folder can be changed and put back.
struct Stopped {
    gateway: Gateway,
    ledger: PathBuf,
    whole: PathBuf,
}

impl Stopped {
    fn new(provider: &Provider) -> Self {
        let mut gateway = start(provider);
        for _ in 0..3 {
            assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
        }
        provider.next(Reply::HangUp);
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 504);
        assert!(gateway.stop().success());
        let (ledger, whole) = (gateway.folder.path().join("ledger"), gateway.folder.path().join("whole"));
        copy_folder(&ledger, &whole);
        Self { gateway, ledger, whole }
    }

    fn verify(&self, options: &[&str]) -> (Option<i32>, String) {
        said(&command(&[&["audit", "verify"], options].concat(), &self.gateway.config()))
    }

    fn restore(&self) {
        std::fs::remove_dir_all(&self.ledger).unwrap();
        copy_folder(&self.whole, &self.ledger);
    }
}

#[test]
fn what_nobody_touched_verifies_beside_a_running_gateway_and_without_one() {
    let provider = Provider::start();
    let mut gateway = start(&provider);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    // What this waits for is a checkpoint that covers it.
    let out = gateway.folder.path().join("proofs");
    assert!(command(&["audit", "prove", &id, "--out", text(&out)], &gateway.config()).status.success());
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    crate::running::eventually("it is at the provider", || provider.heads().len() == 3);
    let copy = gateway.folder.path().join("elsewhere");
    let (code, words) = said(&command(&["audit", "verify", "--json", "--checkpoint", text(&copy)], &gateway.config()));
    assert_eq!(code, Some(0), "{words}");
    let report: Value = serde_json::from_str(&words).unwrap();
    assert_eq!((&report["ok"], &report["origin"]), (&json!(true), &json!("gateway.example/log")));
    assert_eq!(report["open"].as_array().unwrap().len(), 1, "{report}");
    let size = |of: &str| report[of]["size"].as_u64().unwrap();
    assert_eq!(report["entries"].as_u64().unwrap() - size("signed"), report["not_yet_covered"].as_u64().unwrap());
    assert!(size("kept") >= 4, "{report}");
    gateway.kill();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let mut again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    assert!(again.stop().success());
    let (code, words) = said(&command(&["audit", "verify"], &again.config()));
    assert_eq!(code, Some(0), "{words}");
    let length = again.entries().len();
    assert!(
        words.contains(&format!("{length} entries, root "))
            && words.contains("as the entries say")
            && words.contains("search data"),
        "{words}"
    );
}

#[test]
fn every_kind_of_tampering_with_the_folder_is_found_and_named() {
    let provider = Provider::start();
    let stopped = Stopped::new(&provider);
    assert_eq!(stopped.verify(&[]).0, Some(0));
    let swap = "CREATE TEMP TABLE other AS SELECT * FROM entry; UPDATE entry SET bytes = (SELECT bytes FROM other WHERE other.seq = 5 - entry.seq) WHERE seq IN (2, 3)";
    for (file, harm, words) in [
        (
            "ledger.db",
            "UPDATE entry SET bytes = CAST(replace(bytes, 'moderation', 'moderator!') AS BLOB) WHERE seq = 2",
            "entry 2 was changed",
        ),
        ("ledger.db", "DELETE FROM entry WHERE seq = 2", "entry 2 is missing"),
        (
            "ledger.db",
            "DELETE FROM entry WHERE seq = 2; UPDATE entry SET seq = seq - 1 WHERE seq > 2",
            "entry 2 says that it is entry 3",
        ),
        ("ledger.db", swap, "entry 2 says that it is entry 3"),
        ("ledger.db", "DELETE FROM entry WHERE seq > 4", "was signed for"),
        ("tree.db", "UPDATE tile SET hashes = zeroblob(length(hashes))", "entry 0 does not fit its hash in the tree"),
        ("tree.db", "DELETE FROM tile", "tree.db has no tile/0/000"),
        ("tree.db", "UPDATE signed SET note = replace(note, 'gateway', 'another')", "the stored checkpoint: "),
        ("tree.db", "UPDATE signed SET verifying_key = 'a+b+c'", "key"),
        ("tree.db", "UPDATE signed SET note = CAST(x'ff' AS TEXT)", "invalid utf-8"),
    ] {
        sql(&stopped.ledger.join(file), harm);
        let (code, said) = stopped.verify(&[]);
        assert!(code == Some(74) && said.contains(words), "{harm}: {code:?} {said}");
        let (_, said) = stopped.verify(&["--json"]);
        let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!(first["ok"], false, "{said}");
        stopped.restore();
    }
    assert_eq!(stopped.verify(&[]).0, Some(0), "what was put back");
}

#[test]
fn an_older_copy_of_the_folder_and_another_key_are_found_by_what_is_kept_elsewhere() {
    let provider = Provider::start();
    let stopped = Stopped::new(&provider);
    let (copy, key) = (stopped.gateway.folder.path().join("elsewhere"), vkey(&stopped.gateway));
    let configuration = std::fs::read_to_string(stopped.gateway.config()).unwrap();
    let older = std::fs::read(&copy).unwrap();
    let mut again = Gateway::in_folder(stopped.gateway.folder.clone(), &configuration, &[]);
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert!(again.stop().success());
    let newer = std::fs::read(&copy).unwrap();
    assert_ne!(older, newer);
    assert_eq!(stopped.verify(&["--checkpoint", text(&copy), "--vkey", &key]).0, Some(0));
    let kept = stopped.gateway.folder.path().join("kept");
    std::fs::write(&kept, older).unwrap();
    assert_eq!(stopped.verify(&["--checkpoint", text(&kept)]).0, Some(0), "an older one that it continues");

    stopped.restore();
    let alone = ["audit", "verify", "--ledger", text(&stopped.ledger), "--checkpoint", text(&kept)];
    let alone = Command::new(BINARY).args(alone).output().unwrap();
    assert_eq!(said(&alone).0, Some(0), "by itself an older copy is whole");
    // An older checkpoint that is given hides nothing of what the newer one elsewhere shows.
    for options in [&[][..], &["--checkpoint", text(&copy)], &["--checkpoint", text(&kept)]] {
        let (code, said) = stopped.verify(options);
        assert!(code == Some(74) && said.contains("an older copy was put in its place"), "{options:?}: {said}");
    }

    // The same entries, signed by somebody else: such a folder does not start by itself.
    std::fs::remove_file(stopped.ledger.join("signing-key")).unwrap();
    let tree = stopped.ledger.join("tree.db");
    std::fs::rename(&tree, stopped.gateway.folder.path().join("tree")).unwrap();
    let without_copy = configuration.replace("checkpoint_copy = \"elsewhere\"\n", "");
    std::fs::write(stopped.gateway.config(), &without_copy).unwrap();
    let (code, words) = said(&command(&["serve"], &stopped.gateway.config()));
    assert!(code == Some(74) && words.contains("nothing says which of them were signed"), "{words}");
    std::fs::rename(stopped.gateway.folder.path().join("tree"), &tree).unwrap();
    sql(&tree, "DELETE FROM signed; DELETE FROM tile");
    let mut forger = Gateway::in_folder(stopped.gateway.folder.clone(), &without_copy, &[]);
    assert!(forger.stop().success());
    assert_eq!(stopped.verify(&[]).0, Some(0));
    for options in [["--vkey", key.as_str()], ["--checkpoint", text(&kept)]] {
        let (code, said) = stopped.verify(&options);
        assert!(code == Some(74) && said.contains("is not signed with the key"), "{options:?}: {said}");
    }
}

#[test]
fn nothing_is_written_into_the_ledgers_own_folder() {
    let provider = Provider::start();
    let gateway = start(&provider);
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    let (ledger, link) = (gateway.folder.path().join("ledger"), gateway.folder.path().join("link"));
    std::os::unix::fs::symlink(&ledger, &link).unwrap();
    for place in [ledger.join("out"), ledger.join("sub/out"), link.join("out"), link.clone()] {
        for arguments in [
            &["audit", "backup", "--to", text(&place)][..],
            &["audit", "prove", &id, "--out", text(&place)],
            &["audit", "export", "--tiles", text(&place)],
        ] {
            let (code, said) = said(&command(arguments, &gateway.config()));
            assert!(
                code == Some(64) && said.contains("is in the ledger's own folder"),
                "{arguments:?}: {code:?} {said}"
            );
        }
    }
    assert!(!ledger.join("out").exists() && !ledger.join("sub").exists());
}
