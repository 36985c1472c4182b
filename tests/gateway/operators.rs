//! The operators' port: who may read the log, what of it there is, and that it answers whatever the callers' port does.

use crate::hostile::connect_as;
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, command, configuration, eventually, sha256};
use crate::wire::{Response, connect, delete, exchange, get, request, response};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub const ALICE: &str = "canary-token-alice-000";
pub const BOB: &str = "canary-token-bob-000";

pub fn operator(name: &str, role: &str, token: &str) -> String {
    let hash = sha256(token);
    format!("[[ops.operators]]\nname = \"{name}\"\nrole = \"{role}\"\ntoken_sha256 = [\"{hash}\"]\n")
}

/// With an operator and an auditor.
pub fn staffed(provider: &Provider) -> String {
    let staff = operator("alice", "operator", ALICE) + &operator("bob", "auditor", BOB);
    let sections = [("ops", &*staff), ("ledger", "origin = \"gateway.example/log\"")];
    configuration(&provider.url(), &sections, &caller("moderation", TOKEN, ""))
}

pub fn ask(to: SocketAddr, method: &str, path: &str, fields: &str) -> Response {
    let bytes = format!("{method} {path} HTTP/1.1\r\nHost: gw\r\n{fields}\r\n");
    exchange(to, bytes.as_bytes(), 1).pop().expect("an answer")
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A resource whose contents need not be text.
fn bytes(to: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = connect(to);
    let fields = bearer(ALICE);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gw\r\n{fields}Connection: close\r\n\r\n").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(all[..end].to_vec()).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
    assert!(head.contains("content-type: application/octet-stream\r\n"), "{head}");
    assert!(head.contains("immutable") && head.contains("private"), "{head}");
    all.split_off(end)
}

/// How many entries the newest checkpoint covers.
fn covered(to: SocketAddr) -> u64 {
    let answer = ask(to, "GET", "/log/checkpoint", &bearer(ALICE));
    if answer.status == 200 { answer.body.lines().nth(1).unwrap().parse().unwrap() } else { 0 }
}

#[test]
fn only_an_operator_or_auditor_reads_the_log_and_a_caller_is_neither() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    eventually("there is a checkpoint", || covered(gateway.ops) > 0);
    for path in ["/log", "/log/", "/log/checkpoint", "/log/tile/0/000.p/1", "/log/nothing"] {
        for fields in [String::new(), bearer(TOKEN), bearer(KEY), bearer(ALICE) + &bearer(BOB), bearer("x")] {
            let answer = ask(gateway.ops, "GET", path, &fields);
            assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{path} {fields}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
    }
    for token in [ALICE, BOB] {
        let answer = ask(gateway.ops, "GET", "/log/checkpoint", &bearer(token));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.body.starts_with("gateway.example/log\n"), "{}", answer.body);
    }
    let answer = ask(gateway.ops, "DELETE", "/log/checkpoint", &bearer(ALICE));
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.ops, path).status, 200, "{path}");
    }
    assert_eq!(delete(gateway.listen, TARGET, ALICE).status, 401, "an operator is no caller");
    assert_ne!(ask(gateway.listen, "GET", "/log/checkpoint", &bearer(ALICE)).status, 200, "nor is it the other port");
    let refused = || gateway.log().matches("\"status\":401,\"peer\":\"127.0.0.1\"").count();
    eventually("each refusal is logged", || refused() == 25);
    let freeze = "POST /api/v1/freeze HTTP/1.1\r\nHost: gw\r\nContent-Length: 2\r\n".to_owned() + &bearer(BOB);
    assert_eq!(exchange(gateway.ops, format!("{freeze}\r\n{{}}").as_bytes(), 1)[0].status, 403);
    eventually("and who may not act", || gateway.log().contains("\"status\":403,\"peer\":\"127.0.0.1\""));
    for token in [ALICE, BOB] {
        assert!(!gateway.log().contains(token) && !gateway.log().contains(&sha256(token)));
    }
}

#[test]
fn without_operators_the_log_says_how_to_name_one_and_a_reload_is_enough() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let answer = ask(gateway.ops, "GET", "/log/checkpoint", &bearer(ALICE));
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("[[ops.operators]]") && answer.body.contains("token new"), "{}", answer.body);
    let before = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), before.clone() + &operator("alice", "operator", ALICE)).unwrap();
    gateway.signal("HUP");
    eventually("alice is known", || ask(gateway.ops, "GET", "/log/checkpoint", &bearer(ALICE)).status != 401);
    std::fs::write(gateway.config(), before).unwrap();
    gateway.signal("HUP");
    eventually("alice is gone", || ask(gateway.ops, "GET", "/log/checkpoint", &bearer(ALICE)).status == 401);
    assert!(!gateway.log().contains("need a restart"), "{}", gateway.log());
}

#[test]
fn every_fault_of_an_operator_is_reported_and_its_hashes_are_not_shown() {
    let provider = Provider::start();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(folder.path().join("key"), KEY).unwrap();
    let faulty = [
        operator("alice", "owner", "a"),
        operator("bob", "auditor", "b"),
        operator("bob", "auditor", "b"),
        operator("moderation", "auditor", TOKEN),
        "[[ops.operators]]\nrole = \"auditor\"\ntoken_sha256 = [\"abc\"]\ncolour = 1\n".to_owned(),
    ];
    let text = configuration(&provider.url(), &[("ops", &faulty.concat())], &caller("moderation", TOKEN, ""));
    std::fs::write(&config, text).unwrap();
    let output = command(&["check-config"], &config);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    for part in [
        "ops.operators[0].role",
        "write one of: operator, auditor",
        "operator `bob` is there twice",
        "a token of operator `bob` is there twice",
        "operator `moderation` has the name of a caller",
        "a token of operator `moderation` is also token `t1` of caller `moderation`",
        "ops.operators[4].name",
        "ops.operators[4].token_sha256[0]",
        "ops.operators[4].colour",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    std::fs::write(&config, staffed(&provider)).unwrap();
    let output = command(&["check-config"], &config);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let line = said.lines().find(|line| line.contains("ops.operators[0].token_sha256")).expect("a line");
    assert!(line.contains("***") && !said.contains(&sha256(ALICE)), "{said}");
}

#[test]
fn a_log_that_crosses_a_tile_is_served_as_far_as_it_is_signed_and_go_verifies_it() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    let mut stream = connect(gateway.listen);
    for _ in 0..140 {
        stream.write_all(request(TARGET, &bearer(TOKEN)).as_bytes()).unwrap();
        assert_eq!(response(&mut stream).expect("an answer").status, 200);
    }
    let entries = gateway.entries();
    let length = entries.len() as u64;
    assert!(length > 280 && length < 512, "{length}");
    eventually("all of it is signed", || covered(gateway.ops) == length);

    // One entry's bytes, behind their length.
    let exported = command(&["audit", "export"], &gateway.config()).stdout;
    let first: Vec<&[u8]> = exported.split(|byte| *byte == b'\n').take(256).collect();
    let framed = |entry: &&[u8]| [&u16::try_from(entry.len()).unwrap().to_be_bytes(), *entry].concat();
    assert_eq!(bytes(gateway.ops, "/log/tile/entries/000"), first.iter().flat_map(framed).collect::<Vec<u8>>());
    let hashes = bytes(gateway.ops, "/log/tile/0/000");
    assert_eq!(hashes.len(), 8192);
    assert_eq!(bytes(gateway.ops, "/log/tile/0/000.p/3"), hashes[..96]);
    assert_eq!(bytes(gateway.ops, "/log/tile/1/000.p/1").len(), 32);

    let rest = length - 256;
    for path in [
        &*format!("tile/0/001.p/{}", rest + 1),
        &*format!("tile/entries/001.p/{}", rest + 1),
        "tile/0/001",
        "tile/entries/001",
        "tile/1/000.p/2",
        "tile/2/000.p/1",
        "tile/0/002",
        "tile/00/000",
        "tile/0/000?x=1",
        "tile/0/%30%30%30",
        "",
    ] {
        let answer = ask(gateway.ops, "GET", &format!("/log/{path}"), &bearer(BOB));
        assert_eq!((answer.status, answer.code().as_str()), (404, "not-found"), "{path}");
    }

    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/proof-check");
    assert!(Path::new(program).exists(), "{program} is not built: `make test` builds it (tests/setup.sh)");
    let verify = |key: &str, token: &str| {
        let url = format!("http://{}/log", gateway.ops);
        Command::new(program).args(["verify-tiles", &url, key, token]).output().unwrap()
    };
    let key = verifying_key(&gateway);
    let output = verify(&key, BOB);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["size"], length, "{said}");
    assert!(!verify(&key, "x").status.success(), "it reads only with a token");
}

#[test]
fn a_log_that_cannot_be_read_is_503_and_the_reason_stands_in_our_log_alone() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    eventually("there is a checkpoint", || covered(gateway.ops) > 0);
    let tree = gateway.folder.path().join("ledger/tree.db");
    let away = gateway.folder.path().join("away.db");
    std::fs::rename(&tree, &away).unwrap();
    let answer = ask(gateway.ops, "GET", "/log/checkpoint", &bearer(BOB));
    assert_eq!((answer.status, answer.code().as_str()), (503, "ledger-unavailable"), "{answer:?}");
    assert!(answer.header("retry-after").is_some() && !answer.body.contains("tree.db"), "{answer:?}");
    eventually("it is logged", || gateway.log().contains("there is no tree.db"));
    std::fs::rename(&away, &tree).unwrap();
    assert!(covered(gateway.ops) > 0);
}

/// The key that the ledger names.
fn verifying_key(gateway: &Gateway) -> String {
    let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT verifying_key FROM signed').fetchone()[0])";
    let tree = gateway.folder.path().join("ledger/tree.db");
    let output = Command::new("python3").args(["-c", script]).arg(tree).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_provider_that_floods_every_thread_with_interim_answers_silences_neither_port() {
    let provider = Provider::start();
    let sections = [("upstream", "timeout_ms = 8000")];
    let gateway = Gateway::with(&configuration(&provider.url(), &sections, &caller("moderation", TOKEN, "")));
    let floods = std::thread::available_parallelism().unwrap().get() + 2;
    let (begin, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let calls: Vec<_> = (0..floods)
        .map(|group| {
            provider.next(Reply::Flood([Arc::clone(&begin), Arc::clone(&end)]));
            let mut stream = connect(gateway.listen);
            let target = format!("/sess1/groups/{group}@g.us/picture");
            stream.write_all(request(&target, &bearer(TOKEN)).as_bytes()).unwrap();
            (group, stream)
        })
        .collect();
    eventually("every deletion is at the provider", || provider.heads().len() == floods);
    begin.store(true, Ordering::SeqCst);
    eventually("every flood is on", || provider.floods() == floods);
    // On the threads of those connections these would take a second or so each.
    for path in ["/livez", "/readyz", "/metrics"].repeat(16) {
        assert_eq!(get(gateway.ops, path).status, 200, "{path}");
        assert_eq!(delete(gateway.listen, &format!("/dry-run{TARGET}"), TOKEN).status, 200);
    }
    assert_eq!(provider.floods(), floods, "they were answered only after a flood had ended");
    end.store(true, Ordering::SeqCst);
    for (group, mut stream) in calls {
        let answer = response(&mut stream).expect("an answer");
        let told = (answer.status, answer.code(), answer.sent());
        assert_eq!(told, (504, "outcome-unknown".into(), "unknown".into()), "group {group}");
    }
    let mut targets = provider.take_targets();
    targets.sort();
    targets.dedup();
    assert_eq!((targets.len(), provider.heads().len()), (floods, 0));
    // An answer that is late by then does not wait for its record.
    eventually("every outcome is recorded", || gateway.of_kind("outcome").len() == floods);
    let outcomes = gateway.of_kind("outcome");
    assert!(outcomes.iter().all(|entry| entry["outcome"] == "unknown"), "{outcomes:?}");
}

#[test]
fn what_the_operators_port_does_not_have_is_a_problem_with_a_body() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    for (method, path, fields, status, code, allow) in [
        ("GET", "/", String::new(), 404, "not-found", None),
        ("GET", "/nothing", String::new(), 404, "not-found", None),
        ("POST", "/readyz/x", String::new(), 404, "not-found", None),
        ("GET", "/api", String::new(), 404, "not-found", None),
        ("GET", "/api/v1", bearer(BOB), 404, "not-found", None),
        ("GET", "/api/v1/", bearer(BOB), 404, "not-found", None),
        ("GET", "/api/v1", String::new(), 401, "unauthenticated", None),
        ("POST", "/metrics", String::new(), 405, "method-not-allowed", Some("GET, HEAD")),
        ("DELETE", "/livez", String::new(), 405, "method-not-allowed", Some("GET, HEAD")),
    ] {
        let answer = ask(gateway.ops, method, path, &fields);
        let told = (answer.status, answer.code(), answer.header("allow"), answer.header("content-type"));
        assert_eq!(told, (status, code.into(), allow, Some("application/problem+json")), "{method} {path}");
        assert!(answer.header("x-request-id").is_some(), "{method} {path}");
    }
}

#[test]
fn a_head_of_the_operators_port_is_bounded_and_plain_probes_are_answered() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    let long = |bytes: usize| format!("GET /livez HTTP/1.1\r\nHost: gw\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    let status = |text: &str| exchange(gateway.ops, text.as_bytes(), 1).pop().map(|answer| answer.status);
    assert_eq!((status(&long(15_000)), status(&long(40_000))), (Some(200), Some(431)));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(status(&format!("GET {path} HTTP/1.0\r\n\r\n")), Some(200), "{path}");
    }
}

#[test]
fn one_peer_cannot_keep_the_others_from_the_operators_port() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    let silent: Vec<_> = (0..64).map(|_| connect_as(0, gateway.ops)).collect();
    assert_eq!(get(gateway.ops, "/livez").status, 200);
    let mut over = connect_as(0, gateway.ops);
    assert_eq!(response(&mut over).map(|answer| (answer.status, answer.code())), Some((503, "overloaded".to_owned())));
    drop(silent);
}

#[test]
fn a_freeze_whose_body_never_comes_is_answered_in_time_and_freezes_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    let mut streams = ["freeze", "unfreeze"].map(|verb| {
        let mut stream = connect(gateway.ops);
        let (fields, body) = (bearer(ALICE), "{\"covers\":\"all\",\"reason\":");
        let head = format!("POST /api/v1/{verb} HTTP/1.1\r\nHost: gw\r\n{fields}Content-Length: 100\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    });
    for stream in &mut streams {
        let answer = response(stream).expect("an answer");
        let told = (answer.status, answer.code(), answer.header("content-type"), answer.header("connection"));
        assert_eq!(told, (408, "bad-request".into(), Some("application/problem+json"), Some("close")), "{answer:?}");
        assert!(response(stream).is_none(), "its connection ends");
    }
    assert!(gateway.of_kind("freeze").is_empty());
}

#[test]
fn what_is_asked_with_a_token_is_plain_and_nothing_else_is_looked_at() {
    let provider = Provider::start();
    let gateway = Gateway::with(&staffed(&provider));
    let body = "{\"covers\":\"all\",\"reason\":\"x\"}";
    let (length, chunks) =
        (format!("Content-Length: {}\r\n", body.len()), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    let (host, chunked, staff) = ("Host: gw\r\n", "Transfer-Encoding: chunked\r\n", bearer(ALICE));
    for (version, fields, body) in [
        ("1.1", format!("{host}{length}{chunked}"), chunks.as_str()),
        ("1.1", format!("{host}{chunked}{length}"), &chunks),
        ("1.1", format!("{host}{chunked}"), &chunks),
        ("1.1", format!("{host}{host}{length}"), body),
        ("1.1", length.clone(), body),
        ("1.0", format!("{host}{length}"), body),
        ("1.0", format!("{host}Connection: keep-alive\r\n{length}"), body),
    ] {
        for line in ["POST /api/v1/freeze", "POST /api/v1/unfreeze", "GET /api/v1/status", "GET /log/checkpoint"] {
            let mut stream = connect(gateway.ops);
            stream.write_all(format!("{line} HTTP/{version}\r\n{staff}{fields}\r\n{body}").as_bytes()).unwrap();
            let answer = response(&mut stream).expect("an answer");
            assert_eq!((answer.status, answer.code()), (400, "bad-request".into()), "{line} {version} {fields}");
            assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "nothing more is answered: {line} {version} {fields}");
        }
    }
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "nothing is frozen");
    eventually("the last is logged", || gateway.log().matches("the operators' port refused who asked").count() == 28);
    assert!(
        gateway.log().lines().any(|line| line.contains("\"status\":400") && line.contains("\"peer\":\"127.0.0.1\""))
    );
    let plain = format!("POST /api/v1/freeze HTTP/1.1\r\n{host}{staff}{length}\r\n{body}");
    assert_eq!(exchange(gateway.ops, plain.as_bytes(), 1)[0].status, 200);
}
