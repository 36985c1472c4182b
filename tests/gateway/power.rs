//! The power fails: at each moment at which something was sent or answered, the ledger is put together from what
//! had been synced by then, with and without parts of what had not, and opened by the real binary.

use crate::crash::FAILPOINTS;
use crate::platter::{Event, Platter, events};
use crate::promises::{Heard, Promises, ask, connect};
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, configuration};
use crate::soak::{Random, count};
use std::sync::Arc;

const CALLS: &str = "trace=openat,mkdir,unlink,write,pwrite64,ftruncate,fsync,fdatasync,sendto,sendmsg,writev";

/// How one ledger lives before the power fails.
struct Lives {
    failpoints: &'static str,
    /// Each is ended by `kill -9`.
    count: usize,
    /// How often each of two callers deletes in each of them.
    deletions: usize,
    /// Images are made at each so many-th thing that was sent or answered.
    every: usize,
    /// Images at one moment: of what was synced alone, then with parts of the rest.
    variants: usize,
}

impl Lives {
    /// Runs them under strace, one after another. Returns their events.
    fn record(&self, folder: &Arc<tempfile::TempDir>, text: &str) -> Vec<Event> {
        let log = folder.path().join("strace").display().to_string();
        let wrapper = ["strace", "-D", "-f", "-yy", "-xx", "-s", "1000000", "-e", CALLS, "-o", &log];
        let (mut all, deletions) = (Vec::new(), self.deletions);
        for _ in 0..self.count {
            let environment = [(FAILPOINTS, self.failpoints)];
            let mut gateway = Gateway::attempt(folder.clone(), text, &environment, &wrapper).unwrap();
            let call = |_| {
                let address = gateway.listen;
                std::thread::spawn(move || {
                    let mut stream = connect(address).unwrap();
                    (0..deletions).for_each(|_| assert_eq!(ask(&mut stream).unwrap().status, 200));
                })
            };
            (0..2).map(call).collect::<Vec<_>>().into_iter().for_each(|caller| caller.join().unwrap());
            gateway.kill();
            all.extend(events(&std::fs::read_to_string(&log).unwrap()));
        }
        all
    }
}

/// What a socket was given: a deletion for the provider, or a success for a caller.
fn said(event: &Event) -> Option<Result<String, Heard>> {
    let text = String::from_utf8_lossy(&event.data);
    let is_socket = event.begins && event.on.starts_with("TCP");
    if let Some(target) = text.strip_prefix("DELETE ").filter(|_| is_socket) {
        return target.split(' ').next().map(|target| Ok(target.to_owned()));
    }
    let id = text.strip_prefix("HTTP/1.1 200").filter(|_| is_socket)?.split_once("x-request-id: ")?.1.lines().next()?;
    let (target, sent) = (String::new(), String::new());
    Some(Err(Heard { target, status: 200, warned: text.contains("ledger-warning"), sent, id: id.to_owned() }))
}

#[derive(Default)]
struct Found {
    /// Every promise that a power failure would have broken.
    broken: Vec<String>,
    /// How many images were opened.
    images: usize,
    /// How often the database itself was written to after something had been sent.
    copied: usize,
}

fn failures(lives: &Lives, random: &mut Random) -> Found {
    let (provider, folder) = (Provider::start(), Arc::new(tempfile::tempdir().unwrap()));
    let text = configuration(&provider.url(), &[("ledger", "reserve_kib = 64")], &caller("moderation", TOKEN, ""));
    let events = lives.record(&folder, &text);
    let bytes = provider.bytes();
    let mut platter = Platter::new(&folder.path().join("ledger"));
    let (mut sent, mut answered, mut found) = (Vec::new(), Vec::new(), Found::default());
    for event in &events {
        platter.take(event);
        let is_copy = event.begins && event.call == "pwrite64" && event.on.ends_with("/ledger.db");
        found.copied += usize::from(is_copy && !sent.is_empty());
        match said(event) {
            None => continue,
            Some(Ok(target)) => sent.push(target),
            // A call that the kernel begins anew is in strace's log twice; a success is one answer all the same.
            Some(Err(heard)) if answered.iter().any(|known: &Heard| known.id == heard.id) => continue,
            Some(Err(heard)) => answered.push(heard),
        }
        let here = (sent.len() + answered.len()) % lives.every == 0;
        for variant in 0..if here { lives.variants } else { 0 } {
            let image = Arc::new(tempfile::tempdir().unwrap());
            platter.leave(&image.path().join("ledger"), (variant > 0).then_some(&mut *random));
            if image.path().join("ledger/tree.db").exists() {
                // It was there, synced and named, before anything was signed with it.
                let key = "ledger/signing-key";
                std::fs::copy(folder.path().join(key), image.path().join(key)).unwrap();
            }
            found.images += 1;
            let gateway = match Gateway::attempt(image, &text, &[], &[]) {
                Ok(gateway) => gateway,
                Err((_, said)) => {
                    found.broken.push(format!("it does not start: {said}"));
                    continue;
                }
            };
            let mut promises = Promises::default();
            promises.saw(sent.iter().cloned());
            promises.read(&gateway);
            found.broken.extend(promises.broken());
            found.broken.extend(answered.iter().filter_map(|heard| promises.unrecorded(heard)));
        }
    }
    let all = 2 * lives.deletions * lives.count;
    let ids = answered.iter().map(|heard| heard.id.as_str()).collect::<Vec<_>>();
    assert_eq!((sent.len(), answered.len()), (all, all), "the log was understood: {sent:?} {ids:?}");
    assert_eq!(provider.bytes(), bytes, "no image made the gateway send anything");
    found
}

#[test]
fn a_power_failure_at_any_moment_leaves_every_intent_and_every_answered_outcome() {
    let (mut random, variants) = (Random::new(), 3);
    let many = Lives { failpoints: "sync-elsewhere", count: 1 + count(50), deletions: 4, every: 1, variants };
    // Long enough for SQLite to copy the log into the database, more than once.
    let long = Lives { failpoints: "", count: 1, deletions: 200, every: if count(50) > 1 { 10 } else { 80 }, variants };
    for lives in [many, long] {
        let Found { broken, images, copied } = failures(&lives, &mut random);
        assert!(broken.is_empty(), "{}", broken.join("\n"));
        assert!(copied > 0, "the log was never copied into the database");
        println!("{images} images of a disk after a power failure; {copied} pages copied into the database");
    }
}

#[test]
fn the_power_failures_notice_a_commit_that_is_not_synced() {
    let lives = Lives { failpoints: "synchronous-normal", count: 1, deletions: 4, every: 1, variants: 1 };
    let broken = failures(&lives, &mut Random::new()).broken;
    // Where a checkpoint was signed over what was lost, the start itself notices it.
    let noticed = |what: &str| broken.iter().any(|fault| fault.contains(what) || fault.contains("does not start"));
    assert!(noticed("sent without an intent"), "{broken:?}");
    assert!(noticed("was answered, but its outcome is"), "{broken:?}");
}

#[test]
fn the_power_failures_notice_an_intent_that_is_answered_before_its_commit() {
    let lives = Lives { failpoints: "answer-before-commit", count: 1, deletions: 4, every: 1, variants: 1 };
    let broken = failures(&lives, &mut Random::new()).broken;
    assert!(broken.iter().any(|fault| fault.contains("sent without an intent")), "{broken:?}");
}
