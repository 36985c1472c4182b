//! The disk is filled, at many points, and emptied again: nothing is forwarded without a record, and nothing
//! that was accepted loses its outcome.

use crate::old::said;
use crate::promises::{Heard, Promises, ask, connect};
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TOKEN, caller, command, configuration, eventually};
use crate::soak::{Random, count};
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

const PAGE: u64 = 4096;

/// A tmpfs, gone with this value.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn new(size_mib: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(folder.path())
            .status();
        assert!(
            mount.is_ok_and(|status| status.success()),
            "a small tmpfs cannot be mounted; run the tests as root, or under `unshare --map-root-user --mount`"
        );
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves so many pages free.
    pub fn fill(&self, pages: u64) {
        let mut file = File::options().create(true).append(true).open(self.0.path().join("filler")).unwrap();
        while file.write_all(&[0; PAGE as usize]).is_ok() {}
        let length = file.metadata().unwrap().len() / PAGE * PAGE;
        file.set_len(length.saturating_sub(pages * PAGE)).unwrap();
    }

    pub fn is_read_only_from_now_on(&self) {
        let again = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status();
        assert!(again.unwrap().success());
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }

    fn gateway(&self, provider: &Provider, reserve_kib: usize) -> Gateway {
        let ledger = format!("path = \"{}\"\nreserve_kib = {reserve_kib}", self.0.path().join("ledger").display());
        let callers = caller("moderation", TOKEN, "");
        let text = configuration(&provider.url(), &[("ledger", &ledger)], &callers);
        Gateway::with(&text.replace("path = \"ledger\"\n", ""))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn deletion(to: SocketAddr) -> Heard {
    ask(&mut connect(to).unwrap()).expect("an answer")
}

/// A deletion that waits at the provider until it is told to go on.
struct Held {
    go_on: Arc<AtomicBool>,
    answer: JoinHandle<Heard>,
}

impl Held {
    fn at(provider: &Provider, gateway: &Gateway) -> Self {
        let (go_on, before, address) = (Arc::new(AtomicBool::new(false)), provider.heads().len(), gateway.listen);
        provider.next(Reply::When(go_on.clone()));
        let answer = std::thread::spawn(move || deletion(address));
        eventually("it is at the provider", || provider.heads().len() > before);
        Self { go_on, answer }
    }

    fn release(self) -> Heard {
        self.go_on.store(true, Ordering::SeqCst);
        self.answer.join().unwrap()
    }
}

/// Deletes until there is no room for an intent.
fn until_refused(gateway: &Gateway, promises: &mut Promises) {
    for _ in 0..4000 {
        let heard = deletion(gateway.listen);
        let refused = (heard.status, heard.sent.as_str()) == (503, "no");
        assert!(refused || (heard.status, heard.warned) == (200, false), "{heard:?}");
        promises.heard.push(heard);
        if refused {
            return;
        }
    }
    panic!("never full");
}

#[test]
fn a_full_disk_means_503_and_nothing_sent_and_it_goes_on_by_itself() {
    let (mut random, points) = (Random::new(), count(200));
    for done in (0..points).step_by(10) {
        let (disk, provider, mut promises) = (SmallDisk::new(8), Provider::start(), Promises::default());
        let gateway = disk.gateway(&provider, 256);
        for _ in done..points.min(done + 10) {
            for _ in 0..random.below(8) {
                promises.heard.push(deletion(gateway.listen));
            }
            let held: Vec<Held> = (0..3).map(|_| Held::at(&provider, &gateway)).collect();
            disk.fill(random.below(12) as u64);
            until_refused(&gateway, &mut promises);
            let sent = provider.heads().len();
            let refused = deletion(gateway.listen);
            assert_eq!((refused.status, refused.sent.as_str()), (503, "no"));
            assert_eq!(provider.heads().len(), sent, "nothing is forwarded");
            for held in held {
                let late = held.release();
                assert_eq!((late.status, late.warned), (200, false), "it is recorded in the reserve");
                promises.heard.push(late);
            }
            disk.empty();
            eventually("it goes on", || deletion(gateway.listen).status == 200);
        }
        promises.look_at(&provider);
        promises.read(&gateway);
        promises.hold("with room again");
    }
    println!("filled at {points} points");
}

#[test]
fn an_outcome_that_found_no_room_is_recorded_by_the_same_process_as_soon_as_there_is_some() {
    let (disk, provider, mut promises) = (SmallDisk::new(4), Provider::start(), Promises::default());
    let gateway = disk.gateway(&provider, 64);
    let held: Vec<Held> = (0..8).map(|_| Held::at(&provider, &gateway)).collect();
    disk.fill(0);
    until_refused(&gateway, &mut promises);
    let mut warned = 0;
    for held in held {
        disk.fill(0);
        let heard = held.release();
        assert_eq!(heard.status, 200, "{heard:?}");
        warned += usize::from(heard.warned);
        promises.heard.push(heard);
    }
    let without = || gateway.of_kind("intent").len() - gateway.of_kind("outcome").len();
    assert!(warned > 0, "the reserve was not used up");
    assert_eq!(without(), warned);
    disk.empty();
    eventually("the outcomes are recorded, and nobody had to call", || without() == 0);
    let deleted = gateway.of_kind("outcome").iter().filter(|outcome| outcome["outcome"] == "deleted").count();
    assert_eq!(deleted, gateway.of_kind("intent").len());
    eventually("it goes on", || deletion(gateway.listen).status == 200);
    promises.look_at(&provider);
    promises.read(&gateway);
    promises.hold("with room again");
}

#[test]
fn on_a_full_disk_the_brake_takes_as_soon_as_what_is_under_way_has_its_outcome() {
    let (disk, provider, mut promises) = (SmallDisk::new(8), Provider::start(), Promises::default());
    let gateway = disk.gateway(&provider, 256);
    let held = Held::at(&provider, &gateway);
    disk.fill(3);
    until_refused(&gateway, &mut promises);
    let freeze = ["freeze", "--all", "--reason", "an incident"];
    let late = std::thread::scope(|scope| {
        let freezing = scope.spawn(|| said(&command(&freeze, &gateway.config())));
        eventually("it is asked for", || gateway.log().contains("a freeze is asked for"));
        let status = said(&command(&["status", "--json"], &gateway.config())).1;
        assert!(status.contains("\"freezes\":[]"), "it waits: {status}");
        let late = held.release();
        let (code, words) = freezing.join().unwrap();
        assert_eq!(code, Some(0), "{words}");
        late
    });
    assert_eq!((late.status, late.warned), (200, false), "the room for outcomes was left to it");
    promises.heard.push(late);
    assert_eq!(deletion(gateway.listen).status, 403, "it is frozen");
    disk.empty();
    eventually("there is room again", || gateway.log().contains("takes intents again"));
    assert_eq!(deletion(gateway.listen).status, 403, "it stays so");
    promises.look_at(&provider);
    promises.read(&gateway);
    promises.hold("behind a brake on a full disk");
}
