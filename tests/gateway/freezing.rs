//! The brake: after `freeze` has returned, nothing that it covers reaches the provider, however it was pulled.

use crate::operators::{ALICE, BOB, ask, bearer, staffed};
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::{Response, delete, exchange, response};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub const OTHER: &str = "canary-token-other-000";

pub fn post(gateway: &Gateway, path: &str, token: &str, body: &Value) -> Response {
    let (body, fields) = (body.to_string(), bearer(token));
    let length = body.len();
    let head = format!("POST /api/v1/{path} HTTP/1.1\r\nHost: gw\r\n{fields}Content-Length: {length}\r\n\r\n");
    exchange(gateway.ops, (head + &body).as_bytes(), 1).pop().expect("an answer")
}

pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}: {}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub fn frozen(answer: &Response, reason: &str) {
    let said = (answer.status, answer.code(), answer.sent());
    assert_eq!(said, (403, "frozen".into(), "no".into()), "{}", answer.body);
    assert!(answer.body.contains(reason), "{}", answer.body);
}

/// Two callers, so that a freeze of one can be seen not to cover the other.
pub fn two(provider: &Provider) -> String {
    configuration(&provider.url(), &[], &(caller("moderation", TOKEN, "") + &caller("other", OTHER, "")))
}

#[test]
fn what_is_frozen_is_refused_with_the_reason_until_it_is_unfrozen_over_restarts_and_a_broken_policy() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&two(&provider));
    let config = gateway.config();
    let freeze = ["freeze", "--caller", "moderation", "--reason", "an incident, call 42"];
    // The brake needs no valid policy: the file is broken while it is pulled.
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[[callers.allow]]", "[[callers.allows]]")).unwrap();
    let output = command(&freeze, &config);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("caller moderation") && said(&output).contains("warning:"), "{}", said(&output));
    std::fs::write(&config, &text).unwrap();
    for _ in 0..2 {
        frozen(&delete(gateway.listen, TARGET, TOKEN), "an incident, call 42");
        assert_eq!(delete(gateway.listen, TARGET, OTHER).status, 200);
        gateway.kill();
        gateway = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    }
    let status = command(&["status", "--json"], &config);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        (&status["freezes"][0]["caller"], &status["serving"]["ledger"]),
        (&"moderation".into(), &"writable".into())
    );
    let entry = &gateway.of_kind("freeze")[0];
    assert_eq!(
        (&entry["covers"], &entry["caller"], &entry["reason"]),
        (&"caller".into(), &"moderation".into(), &"an incident, call 42".into())
    );
    assert!(entry["by"].as_str().unwrap().starts_with("uid "), "{entry}");
    let unfreeze = ["unfreeze", "--caller", "moderation", "--reason", "over"];
    assert_eq!(command(&unfreeze, &config).status.code(), Some(0));
    assert_eq!(command(&unfreeze, &config).status.code(), Some(1), "it is not frozen any more");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert_eq!(gateway.of_kind("unfreeze").len(), 1);
}

#[test]
fn where_nothing_serves_the_ledger_is_frozen_itself_and_the_next_start_holds_it() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&two(&provider));
    let config = gateway.config();
    gateway.stop();
    let output = command(&["freeze", "--session", "sess1", "--for", "2h", "--reason", "a drill", "--json"], &config);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let status: Value = serde_json::from_slice(&command(&["status", "--json"], &config).stdout).unwrap();
    assert_eq!((&status["serving"], &status["freezes"][0]["session"]), (&Value::Null, &"sess1".into()));
    let text = std::fs::read_to_string(&config).unwrap();
    let gateway = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    frozen(&delete(gateway.listen, TARGET, OTHER), "a drill");
    assert_eq!(provider.bytes(), 0);
    let none = gateway.folder.path().join("none.toml");
    std::fs::write(&none, text.replace("path = \"ledger\"", "path = \"none\"")).unwrap();
    let output = command(&["freeze", "--all", "--reason", "x"], &none);
    assert_eq!(output.status.code(), Some(69), "{}", said(&output));
    assert!(!gateway.folder.path().join("none").exists(), "no ledger is made by it");
}

#[test]
fn what_cannot_be_meant_is_a_fault_of_usage_and_nothing_is_frozen() {
    let provider = Provider::start();
    let gateway = Gateway::with(&two(&provider));
    for wrong in [
        &["freeze", "--reason", "x"][..],
        &["freeze", "--all"],
        &["freeze", "--all", "--caller", "c", "--reason", "x"],
        &["freeze", "--all", "--reason", ""],
        &["freeze", "--all", "--reason", "a\u{202e}b"],
        &["freeze", "--all", "--reason", "x", "--for", "soon"],
        &["freeze", "--all", "--reason", "x", "--for", "0s"],
        &["freeze", "--all", "--reason", "x", "--for", "9999999d"],
        &["freeze", "--session", "a/b", "--reason", "x"],
    ] {
        let output = command(wrong, &gateway.config());
        assert_eq!(output.status.code(), Some(64), "{wrong:?} {}", said(&output));
    }
    assert_eq!(gateway.of_kind("freeze").len(), 0);
}

#[test]
fn what_was_recorded_before_a_freeze_is_waited_for_and_named_where_it_takes_too_long() {
    let provider = Provider::start();
    let sections = [("upstream", "timeout_ms = 4000")];
    let gateway = Gateway::with(&configuration(&provider.url(), &sections, &caller("moderation", TOKEN, "")));
    provider.next(Reply::Late(Duration::from_millis(700)));
    let mut waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let output = command(&["freeze", "--all", "--reason", "stop", "--json"], &gateway.config());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [json!({"frozen": true}), json!({"open": []})]);
    assert_eq!(gateway.of_kind("outcome").len(), 1, "it had its outcome when the command returned");
    assert_eq!(response(&mut waiting).unwrap().status, 200);
}

#[test]
fn a_socket_that_goes_away_meanwhile_is_no_sign_that_all_is_over() {
    let provider = Provider::start();
    let gateway = Gateway::with(&two(&provider));
    provider.next(Reply::Late(Duration::from_millis(1500)));
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let socket = gateway.folder.path().join("ledger/control.sock");
    std::thread::scope(|scope| {
        let freezing = scope.spawn(|| command(&["freeze", "--all", "--reason", "stop"], &gateway.config()));
        eventually("it is frozen", || gateway.of_kind("freeze").len() == 1);
        std::fs::remove_file(&socket).unwrap();
        let output = freezing.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(gateway.of_kind("outcome").len(), 1, "it had its outcome when the command returned");
    });
    for words in [&["status"][..], &["freeze", "--all", "--reason", "again"]] {
        let output = command(words, &gateway.config());
        assert_eq!(output.status.code(), Some(69), "{}", said(&output));
        assert!(said(&output).contains(&format!("process {}", gateway.process_id())), "{}", said(&output));
    }
}

#[test]
fn who_neither_serves_nor_is_root_is_not_heard_by_the_control_socket() {
    const ASK: &str = "import os, socket, sys
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
asking = socket.socket(socket.AF_UNIX)
asking.connect(sys.argv[1])
try: asking.sendall(b'{\"verb\":\"freeze\",\"covers\":{\"covers\":\"all\"},\"until\":null,\"reason\":\"x\"}\\n')
except BrokenPipeError: pass
print(asking.recv(65536).decode())";
    let provider = Provider::start();
    let gateway = Gateway::with(&two(&provider));
    let ledger = gateway.folder.path().join("ledger");
    let socket = ledger.join("control.sock");
    let open = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o077, 0, "its user alone can reach it");
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Modes are not all: whoever gets to it all the same is asked for.
        open(gateway.folder.path(), 0o755);
        open(&ledger, 0o755);
        let asked = || said(&Command::new("python3").args(["-c", ASK]).arg(&socket).output().unwrap());
        assert!(asked().contains("PermissionError"), "{}", asked());
        open(&socket, 0o666);
        assert!(asked().contains("only the user that serves, and root, may ask"), "{}", asked());
    }
    assert_eq!(gateway.of_kind("freeze").len(), 0);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    let output = command(&["freeze", "--all", "--reason", "x"], &gateway.config());
    assert_eq!(output.status.code(), Some(0), "who serves is heard: {}", said(&output));
}

#[test]
fn an_intent_that_was_recorded_before_a_freeze_and_not_sent_is_never_sent() {
    let provider = Provider::start();
    let text = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let paused = [("WASEND_GATEWAY_FAILPOINTS", "forward=pause")];
    let gateway = Gateway::in_folder(folder, &text, &paused);
    let mut waiting = gateway.send();
    eventually("it is recorded", || gateway.of_kind("intent").len() == 1);
    let output = command(&["freeze", "--all", "--reason", "stop"], &gateway.config());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    frozen(&response(&mut waiting).unwrap(), "stop");
    assert_eq!(gateway.of_kind("outcome")[0]["outcome"], "not-sent");
    assert_eq!(provider.bytes(), 0);
}

/// Which deletion is held before it is sent: so many others have passed when the freeze is pulled.
const LINGERS: usize = 20;

/// Ends the clients when the test ends, however it does.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Freezes in `pull` while clients call; nothing may reach the provider once that has returned, and what was recorded
/// before has its outcome then. One deletion stands between its record and the provider for five seconds: it is never
/// sent.
fn under_load(staffed_by: &str, provider: &Provider, pull: impl Fn(&Gateway), release: impl Fn(&Gateway)) {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let lingers = [("WASEND_GATEWAY_FAILPOINTS", format!("forward=linger@{LINGERS}"))];
    let lingers = lingers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let gateway = Gateway::in_folder(folder, staffed_by, &lingers);
    let (ended, passed, stopped) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _ending = Ending(&ended);
        for client in 0..8 {
            let (gateway, ended, passed, stopped) = (&gateway, &ended, &passed, &stopped);
            scope.spawn(move || {
                for number in 0_u32.. {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let target = format!("/sess1/groups/1203630000{client}{number:07}@g.us/picture");
                    match delete(gateway.listen, &target, TOKEN).status {
                        200 => passed.fetch_add(1, Ordering::SeqCst),
                        403 => stopped.fetch_add(1, Ordering::SeqCst),
                        other => panic!("{other}"),
                    };
                }
            });
        }
        for round in 0..3 {
            let before = passed.load(Ordering::SeqCst);
            eventually("deletions pass", || passed.load(Ordering::SeqCst) > before + LINGERS);
            pull(&gateway);
            let outcomes = gateway.of_kind("outcome");
            assert_eq!(gateway.of_kind("intent").len(), outcomes.len(), "round {round}: all have their outcomes");
            let not_sent = |outcome: &&Value| outcome["outcome"] == "not-sent" && outcome["code"] == "frozen";
            assert!(outcomes.iter().any(|outcome| not_sent(&outcome)), "round {round}: what was held is not sent");
            let (sent, refused) = (provider.heads().len(), stopped.load(Ordering::SeqCst));
            eventually("many are refused", || stopped.load(Ordering::SeqCst) > refused + 100);
            assert_eq!(provider.heads().len(), sent, "nothing was sent after the freeze had returned");
            release(&gateway);
        }
    });
    let outcomes = gateway.of_kind("outcome");
    assert_eq!(gateway.of_kind("intent").len(), outcomes.len());
    assert_eq!(outcomes.iter().filter(|entry| entry["outcome"] == "deleted").count(), provider.heads().len());
}

#[test]
fn under_load_nothing_is_sent_after_the_command_has_returned() {
    let provider = Provider::start();
    let run = |gateway: &Gateway, verb| {
        let output = command(&[verb, "--all", "--reason", "load"], &gateway.config());
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    };
    under_load(&two(&provider), &provider, |gateway| run(gateway, "freeze"), |gateway| run(gateway, "unfreeze"));
}

#[test]
fn under_load_nothing_is_sent_once_the_operators_port_lists_nothing_as_open() {
    let provider = Provider::start();
    let freeze = |gateway: &Gateway| {
        let answer =
            post(gateway, "freeze", ALICE, &json!({"covers": "session", "session": "sess1", "reason": "load"}));
        assert_eq!(answer.status, 200, "{}", answer.body);
        eventually("nothing is open", || {
            let status = ask(gateway.ops, "GET", "/api/v1/status", &bearer(BOB)).json();
            status["freezes"][0]["open"].as_array().unwrap().is_empty()
        });
    };
    let unfreeze = |gateway: &Gateway| {
        let body = json!({"covers": "session", "session": "sess1", "reason": "over"});
        assert_eq!(post(gateway, "unfreeze", ALICE, &body).status, 200);
        assert_eq!(post(gateway, "unfreeze", ALICE, &body).status, 404, "it is not frozen any more");
    };
    under_load(&staffed(&provider), &provider, freeze, unfreeze);
}

#[test]
fn operators_act_auditors_read_and_others_are_told_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    let body = json!({"covers": "all", "reason": "x"});
    assert_eq!(post(&gateway, "freeze", TOKEN, &body).status, 401);
    let answer = post(&gateway, "freeze", BOB, &body);
    assert_eq!((answer.status, answer.code()), (403, "not-allowed".into()));
    for wrong in [
        json!({}),
        json!({"covers": "all"}),
        json!({"covers": "caller", "reason": "x"}),
        json!({"covers": "all", "reason": "x", "for": "soon"}),
        json!({"covers": "all", "reason": "x", "for": "0s"}),
        json!({"covers": "all", "reason": "x", "for": "3000000d"}),
        json!({"covers": "all", "reason": "x", "fro": "2h"}),
        json!({"covers": "all", "caller": "moderation", "reason": "x"}),
        json!({"covers": "caller", "caller": "moderation", "session": "sess1", "reason": "x"}),
    ] {
        assert_eq!(post(&gateway, "unfreeze", ALICE, &wrong).status, 400, "{wrong}");
        let answer = post(&gateway, "freeze", ALICE, &wrong);
        assert_eq!((answer.status, answer.code()), (400, "bad-request".into()), "{wrong}");
    }
    let long = json!({"covers": "all", "reason": "x".repeat(20_000)});
    assert_eq!(post(&gateway, "freeze", ALICE, &long).status, 400);
    assert_eq!(gateway.of_kind("freeze").len(), 0);
    for (method, path, allow) in [("GET", "freeze", "POST"), ("DELETE", "status", "GET")] {
        let answer = ask(gateway.ops, method, &format!("/api/v1/{path}"), &bearer(ALICE));
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)));
    }
    assert_eq!(ask(gateway.ops, "GET", "/api/v1/other", &bearer(ALICE)).status, 404);
    assert_eq!(post(&gateway, "freeze", ALICE, &body).status, 200);
    assert_eq!(gateway.of_kind("freeze")[0]["by"], "alice");
    frozen(&delete(gateway.listen, TARGET, TOKEN), "x");
}

#[test]
fn what_is_still_open_is_not_known_rather_than_nothing_once_the_ledger_is_broken() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    provider.next(Reply::Late(Duration::from_secs(8)));
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let body = json!({"covers": "all", "reason": "x"});
    let stopped = post(&gateway, "freeze", ALICE, &body).json();
    assert_eq!(stopped["open"].as_array().unwrap().len(), 1, "{stopped}");
    let lock = gateway.folder.path().join("ledger/lock");
    std::fs::rename(&lock, lock.with_extension("away")).unwrap();
    assert_eq!(post(&gateway, "freeze", ALICE, &body).status, 503, "it does not take");
    let status = ask(gateway.ops, "GET", "/api/v1/status", &bearer(BOB)).json();
    assert_eq!((&status["ledger"], &status["freezes"][0]["open"]), (&"broken".into(), &Value::Null), "{status}");
    let shown = said(&command(&["status"], &gateway.config()));
    assert!(shown.contains("not known"), "{shown}");
}

#[test]
fn within_ten_seconds_a_stopped_process_is_named_and_what_it_may_still_do_is_said() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    gateway.signal("STOP");
    let began = std::time::Instant::now();
    let output = command(&["freeze", "--all", "--reason", "x"], &gateway.config());
    let (code, words) = (output.status.code(), said(&output));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(code == Some(69) && words.contains(&format!("process {}", gateway.process_id())), "{words}");
    assert!(words.contains("once it goes on it may still do what it was asked"), "{words}");
    gateway.signal("CONT");
}
