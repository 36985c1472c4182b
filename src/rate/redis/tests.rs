//! The same questions to both stores, and what Redis is left with afterwards. A private server, on a socket of its own.

use super::script::{BODY, CLOCK};
use super::*;
use crate::id::CallerName;
use crate::rate::process::{self, Window};
use governor::clock::FakeRelativeClock;
use proptest::collection::vec;
use proptest::prelude::*;
use redis::{Connection, IntoConnectionInfo};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// In the place of the server's clock: the last two arguments. The rest of the script is the one that ships.
const TOLD: &str = "local now = {ARGV[#ARGV - 1], ARGV[#ARGV]}\n";
/// Any time will do; it lies so that seconds and nanoseconds both matter.
const BEGIN_US: u64 = 1_794_000_000_999_993;

struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

const VALKEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/valkey-server");

impl Server {
    fn start() -> Self {
        Self::start_as("redis-server")
    }

    fn start_as(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(server)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.path().join("socket"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("tests/setup.sh installs the servers");
        Self { child, folder }
    }

    fn connect(&self) -> Connection {
        let url = format!("redis+unix://{}", self.folder.path().join("socket").display());
        let client = redis::Client::open(url.into_connection_info().unwrap()).unwrap();
        for _ in 0..4000 {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        panic!("the server does not listen");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn caller(rates: Vec<Rate>) -> Caller {
    let name = CallerName::parse("c").unwrap();
    Caller {
        name,
        tokens: vec![],
        jwt: None,
        certificate: None,
        from: None,
        rates,
        budgets: vec![],
        allow: vec![],
        deny: vec![],
    }
}

/// Each its own prefix, so that nobody finds what another left.
fn prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

const SESSIONS: [&str; 3] = ["s1", "s2", "c"];

/// The answer of the script for the first session when the clock says so.
fn told(row: &Row, to: &mut Connection, mode: Mode, now_us: u64) -> redis::RedisResult<Vec<i64>> {
    told_in(SESSIONS[0], row, to, mode, now_us)
}

fn told_in(session: &str, row: &Row, to: &mut Connection, mode: Mode, now_us: u64) -> redis::RedisResult<Vec<i64>> {
    let [take, look] = &row.calls;
    let call = if mode == Mode::Take { take } else { look };
    let mut command = call.command("EVAL", &[TOLD, BODY].concat(), session);
    command.arg(now_us / 1_000_000).arg(now_us % 1_000_000).query(to)
}

fn rate(max: u32, per_s: u32) -> Rate {
    Rate { max, per_s, per: Per::Caller }
}

fn rates(longest_s: u32, pers: &'static [Per]) -> impl Strategy<Value = Vec<Rate>> {
    let rate = (1_u32..8, 1_u32..=longest_s, proptest::sample::select(pers));
    let rate = rate.prop_map(|(max, per_s, per)| Rate { max, per_s, per });
    vec(rate, 0..4).prop_map(|mut rates| {
        rates.sort_by_key(|rate| (rate.per_s, rate.max, rate.per == Per::Caller));
        rates.dedup();
        rates
    })
}

type Step = (u64, Mode, &'static str);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let span_us = prop_oneof![3 => Just(0), 3 => 0_u64..2_000_000, 1 => 0_u64..90_000_000, 1 => Just(333_333), 1 => Just(333_334)];
    let mode = prop_oneof![4 => Just(Mode::Take), 1 => Just(Mode::Look)];
    vec((span_us, mode, proptest::sample::select(&SESSIONS)), 1..40)
}

/// Asks both stores the same, at the same times, and compares every answer to the last bit.
fn both_decide_the_same(to: &mut Connection, own: &[Rate], all: &[Rate], steps: &[Step]) {
    let clock = FakeRelativeClock::default();
    let caller = caller(own.to_vec());
    let window = |terms| Window::new(terms, clock.clone());
    let mut windows: Vec<Window<FakeRelativeClock>> = Vec::new();
    windows.extend(narrowest_first(own).into_iter().map(|rate| window(Terms::of_caller(&caller.name, rate))));
    windows.extend(narrowest_first(all).into_iter().map(|rate| window(Terms::of_all(rate))));
    let row = Row::new(&prefix(), &caller, all);
    let mut now_us = BEGIN_US;
    for (number, (span_us, mode, session)) in steps.iter().enumerate() {
        clock.advance(Duration::from_micros(*span_us));
        now_us += span_us;
        let here = process::ask(windows.iter(), &SessionId::parse(session).unwrap(), *mode);
        let answer = told_in(session, &row, to, *mode, now_us).unwrap();
        let there = row.verdict(&answer).expect("an answer that makes sense");
        assert_eq!(here, there, "question {number}, {answer:?}");
    }
}

#[test]
fn redis_and_the_process_decide_the_same_whatever_is_asked_when() {
    for server in ["redis-server", VALKEY] {
        let server = Server::start_as(server);
        let connection = std::cell::RefCell::new(server.connect());
        let few = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(few, |(own in rates(20, &[Per::Caller, Per::Session]), all in rates(86_400, &[Per::Caller]), steps in steps())| {
            both_decide_the_same(&mut connection.borrow_mut(), &own, &all, &steps);
        });
    }
}

#[test]
fn the_largest_and_the_smallest_windows_are_counted_to_the_nanosecond() {
    let (server, every) = (Server::start(), 86_399_999_999_u64);
    let mut to = server.connect();
    for (max, per_s) in [(1, 86_400), (1_000_000, 1), (1_000_000, 86_400), (999_999, 1), (7, 86_400), (3, 1)] {
        let rate = rate(max, per_s);
        let edge = u64::from(rate.per_s) * 1_000_000 / u64::from(rate.max);
        let take = |span_us| (span_us, Mode::Take, "s1");
        let steps: Vec<_> = [0, 0, 0, edge.saturating_sub(1), 1, 1, 0, every, 1, 0].map(take).to_vec();
        both_decide_the_same(&mut to, &[rate], &[], &steps);
    }
}

#[test]
fn a_clock_that_goes_back_holds_nobody_up_for_longer_than_a_window() {
    let server = Server::start();
    let mut to = server.connect();
    let row = Row::new(&prefix(), &caller(vec![rate(2, 10)]), &[]);
    let mut take = |now_us| row.verdict(&told(&row, &mut to, Mode::Take, now_us).unwrap()).unwrap().1.is_ok();
    let back_us = BEGIN_US - 3_600_000_000;
    assert!(take(BEGIN_US) && take(BEGIN_US) && !take(BEGIN_US));
    assert!(!take(back_us), "what was taken is not forgotten");
    assert!(take(back_us + 5_000_000 + 3_600_000_000), "and it is over when it would have been");
    let row = Row::new(&prefix(), &caller(vec![rate(2, 10)]), &[]);
    let mut ask = |mode, now_us| row.verdict(&told(&row, &mut to, mode, now_us).unwrap()).unwrap();
    assert!(ask(Mode::Take, BEGIN_US).1.is_ok() && ask(Mode::Take, BEGIN_US).1.is_ok());
    assert_eq!(ask(Mode::Look, back_us).0[0].reset_s, 5, "one request's time, not an hour");
}

#[test]
fn the_clock_is_the_servers_and_keys_go_when_their_windows_are_unused_again() {
    let server = Server::start();
    let mut to = server.connect();
    let prefix = prefix();
    let row = Row::new(&prefix, &caller(vec![rate(2, 3600)]), &[rate(9, 1)]);
    let [take, look] = &row.calls;
    let script = [CLOCK, BODY].concat();
    let keys = |to: &mut Connection| redis::cmd("KEYS").arg("*").query::<Vec<String>>(to).unwrap();
    let _: Vec<i64> = look.command("EVAL", &script, "s1").query(&mut to).unwrap();
    assert_eq!(keys(&mut to), Vec::<String>::new(), "looking leaves nothing");
    let (before, _): (u64, u64) = redis::cmd("TIME").query(&mut to).unwrap();
    let answer: Vec<i64> = take.command("EVAL", &script, "s1").query(&mut to).unwrap();
    assert_eq!(answer, [1_800_000_000_000, 111_111_111]);
    let narrow = format!("{{{prefix}}}:caller:c:2-3600s");
    let left_ms: u64 = redis::cmd("PTTL").arg(&narrow).query(&mut to).unwrap();
    assert!((1_700_000..=1_801_000).contains(&left_ms), "{left_ms}");
    let held: String = redis::cmd("GET").arg(&narrow).query(&mut to).unwrap();
    let until: u64 = held.split_once('.').unwrap().0.parse().unwrap();
    assert!((1800..1900).contains(&(until - before)), "{held} {before}");
    assert!(keys(&mut to).iter().all(|key| key.starts_with(&format!("{{{prefix}}}:"))));
}

#[test]
fn each_session_has_a_key_of_its_own_that_no_other_window_has() {
    let server = Server::start();
    let mut to = server.connect();
    let prefix = prefix();
    let both = vec![rate(2, 3600), Rate { max: 2, per_s: 3600, per: Per::Session }];
    let row = Row::new(&prefix, &caller(both), &[rate(2, 3600)]);
    assert_eq!(told_in("s1", &row, &mut to, Mode::Take, BEGIN_US).unwrap().len(), 3, "one call asks them all");
    // A session that is called like the caller.
    told_in("c", &row, &mut to, Mode::Take, BEGIN_US).unwrap();
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut to).unwrap();
    keys.sort();
    let expected = ["all:2-3600s", "caller:c:2-3600s", "session:c:2-3600s:c", "session:c:2-3600s:s1"];
    assert_eq!(keys, expected.map(|key| format!("{{{prefix}}}:{key}")));
    for key in keys {
        let left_ms: i64 = redis::cmd("PTTL").arg(&key).query(&mut to).unwrap();
        assert!((1..=3_601_000).contains(&left_ms), "{key} {left_ms}");
    }
}

#[test]
fn a_key_that_holds_something_else_is_no_answer_and_spoils_no_other() {
    let server = Server::start();
    let mut to = server.connect();
    for (number, set) in [vec!["SET", "soon"], vec!["LPUSH", "1"], vec!["SET", "1.5e3"]].into_iter().enumerate() {
        let prefix = prefix();
        let row = Row::new(&prefix, &caller(vec![rate(2, 10)]), &[]);
        let mut command = redis::cmd(set[0]);
        command.arg(format!("{{{prefix}}}:caller:c:2-10s")).arg(set[1]).exec(&mut to).unwrap();
        let unsure = Unsure::from(told(&row, &mut to, Mode::Take, BEGIN_US).unwrap_err());
        assert_eq!((unsure.kind, unsure.ends_the_connection), ("foreign", false), "{number} {unsure:?}");
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_none() {
    let row = Row::new("p", &caller(vec![rate(2, 10)]), &[rate(9, 60)]);
    for senseless in [vec![], vec![1], vec![1, 1, 1], vec![-1, 1]] {
        assert!(row.verdict(&senseless).is_none(), "{senseless:?}");
    }
    for sensible in [vec![1, 1], vec![-1], vec![1, -1]] {
        assert!(row.verdict(&sensible).is_some(), "{sensible:?}");
    }
}

#[test]
fn waits_grow_to_a_bound_and_differ() {
    let waits: Vec<Duration> = (0..20).map(wait).collect();
    assert!(waits.iter().all(|wait| (Duration::from_millis(10)..=WAITS[1]).contains(wait)), "{waits:?}");
    assert!(waits[19] >= WAITS[1] / 2);
    assert!((0..20).map(|_| wait(9)).collect::<std::collections::HashSet<_>>().len() > 1);
}
