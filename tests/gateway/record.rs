//! The ledger: durable before the send, one writer, bounded, recovered, and asked by the commands.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, command, eventually};
use crate::wire::delete;
use std::io::Write;
use std::process::Command;

#[test]
fn the_intent_is_recorded_before_the_provider_reads_anything() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    assert_eq!((gateway.of_kind("intent").len(), gateway.of_kind("outcome").len()), (1, 0));
    let open = command(&["audit", "search", "--outcome", "open", "--json"], &gateway.config());
    assert_eq!(String::from_utf8(open.stdout).unwrap().lines().count(), 1);
}

#[test]
fn after_kill_nine_an_open_intent_becomes_unknown_and_is_never_sent_again() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    gateway.kill();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    let outcomes = again.of_kind("outcome");
    assert_eq!(outcomes.len(), 1);
    assert_eq!((&outcomes[0]["outcome"], &outcomes[0]["sent"]), (&"unknown".into(), &"unknown".into()));
    assert_eq!(outcomes[0]["request_id"], again.of_kind("intent")[0]["request_id"]);
    assert_eq!((again.of_kind("gap").len(), again.of_kind("start")[1]["recovered"].as_u64()), (1, Some(1)));
    assert_eq!(provider.heads().len(), 1);
    let numbers: Vec<u64> = again.entries().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_caller_that_hangs_up_stops_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    for reset in [false, true] {
        provider.next(Reply::Late(std::time::Duration::from_millis(300)));
        let before = provider.heads().len();
        let stream = gateway.send();
        eventually("it is at the provider", || provider.heads().len() > before);
        if reset {
            rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(stream);
        eventually("the outcome is recorded", || gateway.of_kind("outcome").len() == before + 1);
        assert_eq!(gateway.of_kind("outcome")[before]["outcome"], "deleted");
    }
}

#[test]
fn a_second_process_on_one_ledger_ends_and_names_the_first() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let second = command(&["serve"], &gateway.config());
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(69), "{complaint}");
    assert!(complaint.contains(&format!("process {}", gateway.process_id())), "{complaint}");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
}

#[test]
fn a_flood_of_refusals_leaves_a_bounded_number_of_entries_that_count_them_all() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    for _ in 0..300 {
        assert_eq!(delete(gateway.listen, "/sess2/groups/1@g.us/picture", TOKEN).status, 403);
    }
    assert!(gateway.stop().success());
    let (own, counted) = (gateway.of_kind("refusal").len() as u64, gateway.of_kind("refusals-suppressed"));
    let rest: u64 = counted.iter().map(|entry| entry["count"].as_u64().unwrap()).sum();
    assert!(own <= 60, "{own}");
    assert_eq!(own + rest, 300);
    assert_eq!(counted[0]["codes"]["not-allowed"].as_u64(), counted[0]["count"].as_u64());
}

#[test]
fn the_ledger_is_asked_beside_a_running_gateway_and_without_one() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    provider.next(Reply::Json(404, "{}"));
    delete(gateway.listen, "/sess1/groups/2@g.us/picture", TOKEN);
    for running in [true, false] {
        if !running {
            assert!(gateway.stop().success());
        }
        let ask = |arguments: &[&str]| {
            let output = command(arguments, &gateway.config());
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let rows = |arguments: &[&str]| ask(arguments).1.lines().count();
        assert_eq!(rows(&["audit", "search", "--json"]), 2);
        assert_eq!(
            rows(&[
                "audit",
                "search",
                "--json",
                "--group",
                "2",
                "--outcome",
                "refused",
                "--since",
                "1h",
                "--caller",
                "moderation"
            ]),
            1
        );
        assert_eq!(rows(&["audit", "search", "--json", "--limit", "1"]), 1);
        assert_eq!(rows(&["audit", "search", "--json", "--session", "other"]), 0);
        assert!(ask(&["audit", "search"]).1.contains("upstream-refused"));
        assert_eq!(rows(&["audit", "show", &id, "--json"]), 2);
        assert_eq!(ask(&["audit", "show", "00000000-0000-7000-8000-000000000000"]).0, Some(1));
        assert_eq!(rows(&["audit", "tail", "-n", "3"]), 3);
        assert_eq!(rows(&["audit", "export", "--from", "2"]), gateway.entries().len() - 2);
    }
}

#[test]
fn a_full_disk_means_503_and_nothing_sent_and_it_goes_on_by_itself() {
    let Some(disk) = SmallDisk::new() else {
        panic!("a small tmpfs cannot be mounted; run the tests as root, or under `unshare --map-root-user --mount`")
    };
    let provider = Provider::start();
    let caller = crate::running::caller("moderation", TOKEN, "");
    let ledger = format!("path = \"{}\"\nreserve_kib = 256", disk.0.path().join("ledger").display());
    let text = crate::running::configuration(&provider.url(), &[("ledger", &ledger)], &caller)
        .replace("path = \"ledger\"\n", "");
    let gateway = Gateway::with(&text);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    provider.next(Reply::Late(std::time::Duration::from_secs(2)));
    let mut accepted = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 2);
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let mut refused = 0;
    while delete(gateway.listen, "/sess1/groups/3@g.us/picture", TOKEN).status != 503 {
        refused += 1;
        assert!(refused < 1000, "never full");
    }
    let (forwarded, intents) = (provider.heads().len(), gateway.of_kind("intent").len());
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.code().as_str(), answer.sent().as_str()), ("ledger-unavailable", "no"));
    assert_eq!((provider.heads().len(), gateway.of_kind("intent").len()), (forwarded, intents));
    let late = crate::wire::response(&mut accepted).unwrap();
    assert_eq!((late.status, late.header("ledger-warning")), (200, None), "an accepted one is recorded in the reserve");
    assert_eq!(gateway.of_kind("outcome").len(), intents);
    drop(file);
    std::fs::remove_file(filler).unwrap();
    eventually("it goes on", || delete(gateway.listen, TARGET, TOKEN).status == 200);
}

/// A tmpfs of 2 MiB, gone with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(folder.path()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
