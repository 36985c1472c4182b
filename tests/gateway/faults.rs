//! System calls of the running process are watched or made to fail. Each fault comes as a pair: the write is
//! lost (`pwrite64`), and the write is there although its sync failed (`fdatasync`).

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{delete, response};
use std::process::{Child, Command, Stdio};

/// strace, attached.
pub struct Strace(Child);

impl Strace {
    pub fn attach(gateway: &Gateway, arguments: &[&str]) -> Self {
        let log = gateway.folder.path().join("strace");
        let id = gateway.process_id();
        let child = Command::new("strace")
            .arg("-f")
            .args(arguments)
            .arg("-o")
            .arg(log)
            .args(["-p", &id.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let threads = || {
            std::fs::read_dir(format!("/proc/{id}/task"))
                .unwrap()
                .flatten()
                .map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default())
        };
        eventually("strace is attached to every thread", || {
            threads().all(|status| status.contains(&format!("TracerPid:\t{}\n", child.id())))
        });
        Self(child)
    }

    fn log(gateway: &Gateway) -> String {
        std::fs::read_to_string(gateway.folder.path().join("strace")).unwrap_or_default()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn restart(gateway: &Gateway) -> Gateway {
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    Gateway::in_folder(gateway.folder.clone(), &text, &[])
}

/// Every intent has exactly one outcome.
fn whole(gateway: &Gateway) {
    for intent in gateway.of_kind("intent") {
        let of_it = |entry: &&serde_json::Value| entry["request_id"] == intent["request_id"];
        assert_eq!(gateway.of_kind("outcome").iter().filter(of_it).count(), 1, "{intent}");
    }
}

#[test]
fn every_intent_and_every_outcome_is_synced_before_it_counts() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let strace = Strace::attach(&gateway, &["-e", "trace=fdatasync,fsync"]);
    for _ in 0..5 {
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    }
    eventually("two syncs for each deletion", || Strace::log(&gateway).matches("sync(").count() >= 10);
    drop(strace);
}

#[test]
fn an_intent_that_cannot_be_written_or_synced_is_not_forwarded_and_the_process_ends() {
    for call in ["pwrite64", "fdatasync"] {
        let provider = Provider::start();
        let mut gateway = Gateway::start(&provider.url());
        let strace =
            Strace::attach(&gateway, &["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error=EIO")]);
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.sent().as_str()),
            (503, "ledger-unavailable", "no"),
            "{call}"
        );
        assert_eq!(gateway.ended().code(), Some(75), "{call}");
        drop(strace);
        let again = restart(&gateway);
        assert_eq!(provider.bytes(), 0, "{call}: nothing was forwarded, and nothing is after a restart");
        whole(&again);
        assert!(again.of_kind("outcome").iter().all(|outcome| outcome["outcome"] == "unknown"), "{call}");
    }
}

#[test]
fn an_outcome_that_cannot_be_recorded_leaves_the_answer_true_and_says_so() {
    for call in ["pwrite64", "fdatasync"] {
        let provider = Provider::start();
        let mut gateway = Gateway::start(&provider.url());
        provider.next(Reply::Late(std::time::Duration::from_secs(3)));
        let mut waiting = gateway.send();
        eventually("it is at the provider", || provider.heads().len() == 1);
        let strace =
            Strace::attach(&gateway, &["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error=EIO")]);
        let answer = response(&mut waiting).unwrap();
        assert_eq!((answer.status, answer.header("ledger-warning")), (200, Some("outcome-unrecorded")), "{call}");
        assert_eq!(gateway.ended().code(), Some(75), "{call}");
        drop(strace);
        let again = restart(&gateway);
        whole(&again);
        let outcome = again.of_kind("outcome")[0]["outcome"].clone();
        // Lost: nobody knows any more. Persisted although the sync failed: then it is what it was.
        assert!(outcome == "unknown" || (call == "fdatasync" && outcome == "deleted"), "{call}: {outcome}");
        assert_eq!(provider.heads().len(), 1, "{call}: never sent again");
    }
}

#[test]
fn a_ledger_that_is_too_slow_is_answered_in_time_and_what_it_records_late_is_concluded_as_not_sent() {
    let provider = Provider::start();
    let text = configuration(&provider.url(), &[("upstream", "timeout_ms = 2500")], &caller("moderation", TOKEN, ""));
    let gateway = Gateway::with(&text);
    let slow = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=4000000:when=1"];
    let strace = Strace::attach(&gateway, &slow);
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.sent().as_str()),
        (503, "ledger-unavailable", "no"),
        "{answer:?}"
    );
    eventually("the late intent is concluded", || gateway.of_kind("outcome").len() == 1);
    assert_eq!((gateway.of_kind("outcome")[0]["outcome"].as_str(), provider.bytes()), (Some("not-sent"), 0));
    drop(strace);
    // The disk may still be busy with what was held up.
    eventually("it goes on", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    whole(&gateway);
}

#[test]
fn a_ledger_that_was_removed_or_moved_under_the_process_takes_no_more_intents() {
    for name in ["ledger.db", "ledger.db-wal", "lock"] {
        let provider = Provider::start();
        let mut gateway = Gateway::start(&provider.url());
        eventually("the start is recorded", || gateway.of_kind("policy").len() == 1);
        std::fs::rename(gateway.folder.path().join("ledger").join(name), gateway.folder.path().join("moved")).unwrap();
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!((answer.code().as_str(), provider.bytes()), ("ledger-unavailable", 0), "{name}");
        assert_eq!(gateway.ended().code(), Some(75), "{name}");
        assert!(gateway.log().contains("was removed or replaced"), "{name}: {}", gateway.log());
    }
}
