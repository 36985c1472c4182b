//! The brake on three replicas under load, while one of them is stopped: once `freeze` has returned 0, nothing that it
//! covers reaches the provider, not from the one that wakes either.

use crate::cluster::Cluster;
use crate::old::said;
use crate::promises::connect;
use crate::running::{TOKEN, caller, command, eventually};
use crate::wire::{request, response};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const OTHER: &str = "canary-token-other-000";
/// How the groups of each caller begin, so that the provider's heads tell them apart.
const MODERATION: u8 = 1;
const OTHERS: u8 = 2;

/// A deletion of a fresh group.
fn deletion(sign: u8) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let target = format!("/sess1/groups/{sign}{:08}@g.us/picture", NEXT.fetch_add(1, Ordering::SeqCst));
    let token = if sign == MODERATION { TOKEN } else { OTHER };
    request(&target, &format!("Authorization: Bearer {token}\r\n"))
}

/// Two connections of one caller at one replica, until they are told to end or the replica does.
struct Calls {
    ended: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
    frozen: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Calls {
    fn on(listen: SocketAddr, sign: u8) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let [passed, frozen] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let call = |_| {
            let (ended, passed, frozen) = (ended.clone(), passed.clone(), frozen.clone());
            std::thread::spawn(move || {
                let Some(mut stream) = connect(listen) else { return };
                while !ended.load(Ordering::SeqCst) && stream.write_all(deletion(sign).as_bytes()).is_ok() {
                    let Some(answer) = response(&mut stream) else { return };
                    match answer.status {
                        200 => passed.fetch_add(1, Ordering::SeqCst),
                        403 => frozen.fetch_add(1, Ordering::SeqCst),
                        // Who is stopped may have held the others up: nothing was sent.
                        503 => 0,
                        other => panic!("{other}: {}", answer.body),
                    };
                }
            })
        };
        Self { threads: (0..2).map(call).collect(), ended, passed, frozen }
    }

    fn end(self) {
        self.ended.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn go_on(what: &str, counts: &[&Arc<AtomicUsize>], by: usize) {
        let before: Vec<usize> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let has = || counts.iter().zip(&before).all(|(count, before)| count.load(Ordering::SeqCst) >= before + by);
        eventually(what, has);
    }
}

/// How many deletions of a caller have reached the provider.
fn sent(cluster: &Cluster, sign: u8) -> usize {
    let begin = format!("DELETE /sess1/groups/{sign}");
    cluster.provider.heads().iter().filter(|head| head.starts_with(&begin)).count()
}

/// 75 promises nothing, and says to ask again: a busy machine may keep the database from answering in time.
fn brake(cluster: &Cluster, words: &[&str]) {
    for asked in 1.. {
        let (code, words_said) = said(&command(&[words, &["--reason", "load"]].concat(), &cluster.config()));
        match code {
            Some(0) => return,
            Some(75) if asked < 4 => {}
            _ => panic!("{words:?}: {words_said}"),
        }
    }
}

/// The intent that stands in flight for longer than any that is not held.
fn held(cluster: &Cluster) -> String {
    let mut oldest = (String::new(), Instant::now());
    eventually("one is recorded, and not sent", || {
        let now = cluster.database.ask("SELECT coalesce(min(seq)::text, '') FROM ledger.in_flight");
        if now != oldest.0 {
            oldest = (now, Instant::now());
        }
        !oldest.0.is_empty() && oldest.1.elapsed() > Duration::from_millis(700)
    });
    oldest.0
}

#[test]
fn once_a_freeze_has_returned_nothing_it_covers_is_sent_by_a_stopped_replica_that_wakes_either() {
    let callers = [caller("moderation", TOKEN, ""), caller("other", OTHER, "")].concat();
    let mut cluster = Cluster::for_callers(&callers);
    cluster.migrate();
    cluster.join(2);
    let third = cluster.start("forward=linger@30").unwrap_or_else(|(_, log)| panic!("{log}"));
    cluster.replicas.push(third);
    let listens: Vec<SocketAddr> = cluster.replicas.iter().map(|replica| replica.listen).collect();
    let moderation: Vec<Calls> = listens.iter().map(|listen| Calls::on(*listen, MODERATION)).collect();
    let others: Vec<Calls> = listens.iter().take(2).map(|listen| Calls::on(*listen, OTHERS)).collect();

    // A caller is frozen while a replica is stopped between the record of a deletion and its sending.
    let intent = held(&cluster);
    cluster.replicas[2].signal("STOP");
    Calls::go_on("the others go on", &[&moderation[0].passed, &moderation[1].passed], 20);
    brake(&cluster, &["freeze", "--caller", "moderation"]);
    let is_open = format!("SELECT count(*) FROM ledger.in_flight WHERE seq = {intent}");
    assert_eq!(cluster.database.ask(&is_open), "0", "what was recorded before has its outcome");
    let before = sent(&cluster, MODERATION);
    let status = {
        cluster.replicas[2].signal("CONT");
        cluster.replicas[2].ended()
    };
    assert_eq!(status.signal(), Some(9), "its lease was over, and the kernel has killed it");
    Calls::go_on("they are refused", &[&moderation[0].frozen, &moderation[1].frozen], 50);
    Calls::go_on("what is not covered goes on", &[&others[0].passed, &others[1].passed], 20);
    assert_eq!(sent(&cluster, MODERATION), before, "nothing that is covered was sent");
    let outcomes = cluster.replicas[0].of_kind("outcome");
    let of_it =
        cluster.database.ask(&format!("SELECT convert_from(bytes, 'UTF8') FROM ledger.entry WHERE seq = {intent}"));
    let of_it: serde_json::Value = serde_json::from_str(&of_it).unwrap();
    let of_it: Vec<_> = outcomes.iter().filter(|outcome| outcome["request_id"] == of_it["request_id"]).collect();
    assert!(of_it.len() == 1 && of_it[0]["outcome"] == "unknown", "{of_it:?}");

    // All are frozen while a replica without an open deletion is stopped; requests for it wait in its sockets.
    brake(&cluster, &["unfreeze", "--caller", "moderation"]);
    Calls::go_on("they go on", &[&moderation[0].passed, &others[1].passed], 20);
    cluster.join(1);
    let woken = cluster.replicas.last().unwrap();
    let mut stream = connect(woken.listen).unwrap();
    stream.write_all(deletion(MODERATION).as_bytes()).unwrap();
    assert_eq!(response(&mut stream).unwrap().status, 200);
    woken.signal("STOP");
    let waiting = Calls::on(woken.listen, MODERATION);
    brake(&cluster, &["freeze", "--all"]);
    let before = cluster.provider.heads().len();
    woken.signal("CONT");
    let calls: Vec<&Calls> = moderation.iter().take(2).chain(&others).chain([&waiting]).collect();
    let refused: Vec<&Arc<AtomicUsize>> = calls.iter().map(|calls| &calls.frozen).collect();
    Calls::go_on("all are refused, also by the one that woke", &refused, 50);
    let deletions = |heads: Vec<String>| heads.iter().filter(|head| head.starts_with("DELETE ")).count();
    let after = cluster.provider.heads();
    assert_eq!(deletions(after[before..].to_vec()), 0, "nothing was sent");
    moderation.into_iter().chain(others).chain([waiting]).for_each(Calls::end);
    let verified = command(&["audit", "verify"], &cluster.config());
    assert_eq!(said(&verified).0, Some(0), "{:?}", said(&verified));
}
