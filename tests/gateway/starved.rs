//! The system takes something away: memory, room in files, descriptors, the ledger's folder. The process refuses or
//! ends; nothing is sent without a record, and the next start records what is open.

use crate::crash::Load;
use crate::full::SmallDisk;
use crate::promises::{Promises, ask};
use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{connect, delete, get, request, response};
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Instant;

fn text(provider: &Provider, listen: &str) -> String {
    let sections = [("ledger", "reserve_kib = 64"), ("listen", listen)];
    configuration(&provider.url(), &sections, &caller("moderation", TOKEN, ""))
}

/// Sets a limit of the running process, both its soft and its hard part.
fn limit(gateway: &Gateway, name: &str, value: &str) {
    let process = gateway.process_id().to_string();
    let status = Command::new("prlimit").args(["--pid", &process, &format!("--{name}={value}")]).status();
    assert!(status.expect("prlimit").success(), "{name} = {value}");
}

/// So many requests that their heads alone need more than there is.
fn crowd(gateway: &Gateway) -> Vec<TcpStream> {
    let field = format!("x: {}\r\n", "y".repeat(12_000));
    let head = request(TARGET, &field);
    let half = head.len() - 4;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let Ok(mut stream) = TcpStream::connect(gateway.listen) else { break };
        if stream.write_all(&head.as_bytes()[..half]).is_ok() {
            crowd.push(stream);
        }
    }
    crowd
}

/// One ledger, over any number of processes that get too little of something.
struct Poor {
    provider: Provider,
    folder: Arc<tempfile::TempDir>,
    text: String,
    promises: Promises,
}

impl Poor {
    fn new() -> Self {
        let provider = Provider::start();
        let (folder, text) = (Arc::new(tempfile::tempdir().unwrap()), text(&provider, ""));
        Self { provider, folder, text, promises: Promises::default() }
    }

    /// Serves deletions and a crowd until it has ended or goes on all the same. How it ended by itself.
    fn live(&mut self, mut gateway: Gateway, take_away: impl FnOnce(&Gateway)) -> Option<ExitStatus> {
        let load = Load::on(gateway.listen);
        let before = self.provider.heads().len();
        eventually("deletions", || !gateway.is_running() || self.provider.heads().len() >= before + 3);
        take_away(&gateway);
        let crowd = crowd(&gateway);
        let sent = self.provider.heads().len();
        eventually("an end, or deletions", || !gateway.is_running() || self.provider.heads().len() >= sent + 30);
        let by_itself = !gateway.is_running();
        drop(crowd);
        let status = if by_itself { Some(gateway.ended()) } else { None };
        if !by_itself {
            gateway.kill();
        }
        self.promises.heard.extend(load.heard());
        status
    }

    /// The next start, with all that it needs, records what is open.
    fn recovers(&mut self, when: &str) {
        eventually("the provider has read what was sent", || self.provider.connections() == 0);
        let again = Gateway::in_folder(self.folder.clone(), &self.text, &[]);
        self.promises.read(&again);
        self.promises.look_at(&self.provider);
        self.promises.hold(when);
    }
}

#[test]
fn with_too_little_memory_it_does_not_start_or_ends_or_serves_and_keeps_every_promise() {
    let (mut poor, mut refused, mut ended, mut served) = (Poor::new(), 0, 0, 0);
    for (name, mib) in
        [("as", 64), ("data", 1)].into_iter().flat_map(|(name, least)| (0..8).map(move |n| (name, least << n)))
    {
        // A backtrace is put together under a lock of std's: where memory runs out in it, that waits for itself.
        let words = ["env", "-u", "RUST_BACKTRACE", "prlimit", &format!("--{name}={}", mib << 20)];
        match Gateway::attempt(poor.folder.clone(), &poor.text, &[], &words) {
            Err((code, _)) => {
                assert_ne!(code, Some(0), "{name} of {mib} MiB");
                refused += 1;
            }
            Ok(gateway) => match poor.live(gateway, |_| {}) {
                Some(status) => {
                    assert!(!status.success(), "{name} of {mib} MiB: {status}");
                    ended += 1;
                }
                None => served += 1,
            },
        }
        poor.recovers(&format!("{name} of {mib} MiB"));
    }
    assert!(refused > 0 && served > 0, "{refused} did not start, {served} served");
    println!("{refused} did not start, {ended} ended, {served} served; {} deletions", poor.promises.sent());
}

#[test]
fn where_files_may_not_grow_it_sends_nothing_more_and_ends_with_a_word() {
    let mut poor = Poor::new();
    for round in 0..3 {
        let gateway = Gateway::in_folder(poor.folder.clone(), &poor.text, &[]);
        let wal = poor.folder.path().join("ledger/ledger.db-wal");
        let status = poor.live(gateway, |gateway| {
            let length = std::fs::metadata(wal).unwrap().len() + 16 * 1024;
            limit(gateway, "fsize", &length.to_string());
        });
        assert_eq!(status.and_then(|status| status.code()), Some(75), "round {round}: {status:?}");
        poor.recovers(&format!("round {round}"));
    }
}

/// How many descriptors it has open.
fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.process_id())).unwrap().count()
}

#[test]
fn a_crowd_of_connections_leaves_the_ledger_and_the_provider_their_descriptors() {
    let provider = Provider::start();
    let listen = "max_requests = 16\nmax_connections = 2048\nmax_connections_per_peer = 2048";
    // Room for 32 connections, 16 requests and what is kept for everything else.
    let wrapper = ["prlimit", "--nofile=240:240"];
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let gateway =
        Gateway::attempt(folder, &text(&provider, listen), &[], &wrapper).unwrap_or_else(|(_, log)| panic!("{log}"));
    let mut good = connect(gateway.listen);
    assert_eq!(ask(&mut good).unwrap().status, 200);
    let crowd: Vec<TcpStream> = (0..300).map(|_| connect(gateway.listen)).collect();
    let turned_away = |gateway: &Gateway| {
        let metrics = get(gateway.ops, "/metrics").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("wasend_gateway_connections_refused_total "));
        line.map_or(0, |count| count.parse::<usize>().unwrap())
    };
    eventually("those above the limit are turned away", || turned_away(&gateway) >= 260);
    for _ in 0..20 {
        assert_eq!(ask(&mut good).unwrap().status, 200);
    }
    assert!(gateway.of_kind("outcome").len() >= 21);
    assert!(!gateway.log().contains("could not be accepted"), "{}", gateway.log());
    drop(crowd);
    eventually("there is room again", || response(&mut gateway.send()).is_some_and(|answer| answer.status == 200));
}

#[test]
fn without_a_descriptor_left_it_waits_does_not_spin_and_goes_on_by_itself() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&text(&provider, ""));
    let mut good = connect(gateway.listen);
    assert_eq!(ask(&mut good).unwrap().status, 200);
    let (failed, began) = ("a connection could not be accepted", Instant::now());
    limit(&gateway, "nofile", &format!("{}:4096", descriptors(&gateway)));
    // In the backlog, where nobody takes them.
    let crowd: Vec<TcpStream> = (0..8).map(|_| connect(gateway.listen)).collect();
    eventually("accepting fails", || gateway.log().matches(failed).count() >= 5);
    // What has its descriptors goes on: this connection, the ledger, and the provider's, if it is still there.
    let heard = ask(&mut good).unwrap();
    assert!(heard.status == 200 || (heard.status, &*heard.sent) == (502, "no"), "{heard:?}");
    let times = gateway.log().matches(failed).count();
    let spent = began.elapsed();
    assert!(times as u128 <= spent.as_millis() / 50 + 2, "it tried {times} times in {spent:?}");
    limit(&gateway, "nofile", "4096:4096");
    drop(crowd);
    eventually("it takes connections again", || {
        response(&mut gateway.send()).is_some_and(|answer| answer.status == 200)
    });
    assert!(gateway.stop().success());
    let (intents, outcomes) = (gateway.of_kind("intent").len(), gateway.of_kind("outcome").len());
    assert_eq!(intents, outcomes);
}

#[test]
fn a_ledger_whose_folder_vanishes_or_is_replaced_takes_no_more_intents() {
    type Deed = fn(&Path);
    let rename: Deed = |ledger| std::fs::rename(ledger, ledger.with_file_name("away")).unwrap();
    let remove: Deed = |ledger| std::fs::remove_dir_all(ledger).unwrap();
    let replace: Deed = |ledger| {
        std::fs::rename(ledger, ledger.with_file_name("away")).unwrap();
        let copied = Command::new("cp").arg("-a").args([ledger.with_file_name("away"), ledger.to_owned()]).status();
        assert!(copied.unwrap().success());
    };
    let cover: Deed = |ledger| {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(ledger.parent().unwrap()).status();
        assert!(mounted.unwrap().success());
    };
    let unmount: Deed = |ledger| {
        let gone = Command::new("umount").arg("-l").arg(ledger.parent().unwrap()).status();
        assert!(gone.unwrap().success());
    };
    for (name, deed) in
        [("renamed", rename), ("removed", remove), ("replaced", replace), ("covered", cover), ("unmounted", unmount)]
    {
        let (provider, disk) = (Provider::start(), SmallDisk::new(32));
        let ledger = disk.path().join("ledger");
        let text = text(&provider, "").replace("path = \"ledger\"", &format!("path = \"{}\"", ledger.display()));
        let mut gateway = Gateway::with(&text);
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "{name}");
        deed(&ledger);
        let answer = delete(gateway.listen, TARGET, TOKEN);
        let heard = (answer.status, answer.code(), answer.sent());
        assert_eq!(heard, (503, "ledger-unavailable".to_owned(), "no".to_owned()), "{name}");
        assert_eq!(provider.heads().len(), 1, "{name}: nothing more was sent");
        assert_eq!(gateway.ended().code(), Some(75), "{name}");
        assert!(gateway.log().contains("was removed or replaced"), "{name}: {}", gateway.log());
        if name == "covered" {
            let _ = Command::new("umount").arg("-l").arg(disk.path()).status();
        }
    }
}

#[test]
fn a_ledger_that_cannot_be_had_at_the_start_ends_it_with_a_word() {
    let provider = Provider::start();
    let disk = SmallDisk::new(32);
    let at = |name: &str| disk.path().join(name);
    let start = |path: &Path| {
        let text = text(&provider, "").replace("path = \"ledger\"", &format!("path = \"{}\"", path.display()));
        Gateway::attempt(Arc::new(tempfile::tempdir().unwrap()), &text, &[], &[])
    };
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink(at("nowhere/at/all"), at("dangling")).unwrap();
    let mut gateway = start(&at("old")).unwrap_or_else(|(_, log)| panic!("{log}"));
    assert!(gateway.stop().success());
    drop(gateway);
    let remount = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()).status().unwrap();
    assert!(remount.success());
    for name in ["file", "file/ledger", "dangling", "new", "old"] {
        let (code, said) = start(&at(name)).err().unwrap_or_else(|| panic!("{name}: it serves"));
        assert!(matches!(code, Some(64 | 69 | 74)), "{name}: exit {code:?}, {said}");
        assert!(said.contains(name.split('/').next().unwrap()), "{name}: it does not say where: {said}");
    }
    assert_eq!(provider.connections(), 0);
}
