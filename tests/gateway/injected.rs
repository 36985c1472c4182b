//! Each system call that touches a file is made to fail in turn, from the first one of the process on.

use crate::crash::FAILPOINTS;
use crate::promises::{Promises, ask, connect};
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TOKEN, caller, configuration, eventually};
use crate::soak::{Random, count};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Those that the process makes on files.
const CALLS: [&str; 8] = ["openat", "pwrite64", "write", "fdatasync", "fsync", "ftruncate", "fallocate", "unlink"];
/// A commit is synced by the thread that made it, or by one of its own.
pub const WAYS: [&str; 2] = ["", "sync-elsewhere"];
const ERRORS: [&str; 2] = ["EIO", "ENOSPC"];

/// A folder whose ledger is not there yet, or was left behind with an open intent.
fn folder(old: bool) -> Arc<tempfile::TempDir> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    if old {
        let provider = Provider::start();
        let text = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
        let mut gateway = Gateway::in_folder(folder.clone(), &text, &[]);
        assert_eq!(connect(gateway.listen).and_then(|mut stream| ask(&mut stream)).unwrap().status, 200);
        provider.next(Reply::Silent);
        let waiting = connect(gateway.listen).map(|mut stream| std::thread::spawn(move || ask(&mut stream)));
        eventually("it is at the provider", || provider.heads().len() == 2);
        gateway.kill();
        assert!(waiting.unwrap().join().unwrap().is_none());
    }
    folder
}

/// strace around the process from its start, looking at our files alone.
fn strace(folder: &Path, rest: &[&str]) -> Vec<String> {
    let mut words: Vec<String> = ["strace", "-D", "-f", "-o"].map(str::to_owned).into();
    words.push(folder.join("strace").display().to_string());
    let ledger = ["ledger", "ledger/lock", "ledger/reserve", "ledger/ledger.db"].map(str::to_owned);
    let beside = ["wal", "shm", "journal"].map(|end| format!("ledger/ledger.db-{end}"));
    for file in ledger.into_iter().chain(beside).chain(["key", "gateway.toml"].map(str::to_owned)) {
        words.extend(["-P".to_owned(), folder.join(file).display().to_string()]);
    }
    words.extend(rest.iter().map(|word| (*word).to_owned()));
    words
}

/// A start, deletions, a refusal and a stop under strace, then a start without it. Returns strace's log.
fn life(folder: &Arc<tempfile::TempDir>, rest: &[&str], way: &str, what: &str) -> String {
    let provider = Provider::start();
    let text = configuration(&provider.url(), &[("ledger", "reserve_kib = 64")], &caller("moderation", TOKEN, ""));
    let words = strace(folder.path(), rest);
    let wrapper: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut promises = Promises::default();
    match Gateway::attempt(folder.clone(), &text, &[(FAILPOINTS, way)], &wrapper) {
        Err((code, said)) => {
            assert!(matches!(code, Some(64 | 69 | 74)), "{what}: exit {code:?}, {said}");
            assert!(!said.trim().is_empty(), "{what}: it ends without a word");
        }
        Ok(mut gateway) => {
            for _ in 0..3 {
                promises.heard.extend(connect(gateway.listen).and_then(|mut stream| ask(&mut stream)));
            }
            if let Some(mut stream) = connect(gateway.listen) {
                let _ = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n");
            }
            gateway.signal("TERM");
            let code = gateway.ended().code();
            assert!(matches!(code, Some(0 | 75)), "{what}: exit {code:?}, {}", gateway.log());
            assert!(code == Some(0) || gateway.log().contains("ERROR"), "{what}: it ends without a word");
        }
    }
    eventually("the provider has read what was sent", || provider.connections() == 0);
    let log = std::fs::read_to_string(folder.path().join("strace")).unwrap_or_default();
    let again = Gateway::attempt(folder.clone(), &text, &[], &[]).unwrap_or_else(|(_, said)| panic!("{what}: {said}"));
    promises.look_at(&provider);
    promises.read(&again);
    promises.hold(what);
    log
}

/// How often the busiest thread makes each call.
fn calls(log: &str) -> HashMap<&'static str, usize> {
    let mut most = HashMap::new();
    for call in CALLS {
        let mut threads: HashMap<&str, usize> = HashMap::new();
        for line in log.lines() {
            let thread = line.split_once(' ').filter(|(_, rest)| rest.trim_start().starts_with(&format!("{call}(")));
            if let Some((thread, _)) = thread {
                *threads.entry(thread).or_default() += 1;
            }
        }
        most.insert(call, threads.into_values().max().unwrap_or(0));
    }
    most
}

fn each_call_fails_in_turn(old: bool) {
    let mut random = Random::new();
    let trace = format!("trace={}", CALLS.join(","));
    let most = calls(&life(&folder(old), &["-e", &trace], WAYS[0], "no fault"));
    assert!(["openat", "pwrite64", "fdatasync", "fallocate"].iter().all(|call| most[call] > 0), "{most:?}");
    let left = folder(old);
    let (mut lives, mut hits) = (0, 0);
    for call in CALLS {
        let all = most[call] + 8;
        for error in ERRORS {
            // In full: from the first call on until none is hit. Otherwise some of them, by chance.
            let (full, some) = (count(50) == 50, count(all));
            for step in 0..if full { usize::MAX } else { some } {
                let when = if full { step + 1 } else { 1 + random.below(most[call]) };
                let folder = copy(&left, old);
                let inject = format!("inject={call}:error={error}:when={when}");
                let way = WAYS[random.below(WAYS.len())];
                let log =
                    life(&folder, &["-e", &format!("trace={call}"), "-e", &inject], way, &format!("{inject} {way}"));
                let hit = log.matches("(INJECTED)").count();
                (lives, hits) = (lives + 1, hits + usize::from(hit > 0));
                if full && hit == 0 {
                    break;
                }
            }
        }
    }
    assert!(hits > 0);
    println!("{hits} faults in {lives} lives; calls of the busiest thread: {most:?}");
}

/// Another folder with the same ledger.
fn copy(left: &Arc<tempfile::TempDir>, old: bool) -> Arc<tempfile::TempDir> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    if old {
        std::fs::create_dir(folder.path().join("ledger")).unwrap();
        for file in std::fs::read_dir(left.path().join("ledger")).unwrap() {
            let file = file.unwrap();
            if !file.file_type().unwrap().is_file() {
                continue;
            }
            std::fs::copy(file.path(), folder.path().join("ledger").join(file.file_name())).unwrap();
        }
    }
    folder
}

#[test]
fn every_call_on_a_new_ledger_may_fail_and_every_promise_is_kept() {
    each_call_fails_in_turn(false);
}

#[test]
fn every_call_on_a_ledger_with_an_open_intent_may_fail_and_every_promise_is_kept() {
    each_call_fails_in_turn(true);
}
