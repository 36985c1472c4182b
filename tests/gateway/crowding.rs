//! Callers that misbehave: they hang up, they are slow in every way, they come in crowds. Who behaves is served all
//! the same.

use crate::promises::{Promises, ask, fresh_target};
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, configuration, eventually};
use crate::soak::{Random, count};
use crate::wire::{connect, get, request, response};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// With seats for everybody: what is asked here is how they are served.
fn gateway(provider: &Provider, listen: &str) -> Gateway {
    // Thousands of sockets are this process's too.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let listen = format!("max_connections = 8192\nmax_connections_per_peer = 8192\n{listen}");
    let sections = [("listen", &*listen), ("ledger", "reserve_kib = 64")];
    Gateway::with(&configuration(&provider.url(), &sections, &caller("moderation", TOKEN, "")))
}

fn metric(gateway: &Gateway, name: &str) -> u64 {
    let metrics = get(gateway.ops, "/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("wasend_gateway_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {metrics}")).parse().unwrap()
}

/// Good callers, on connections that stay, for as long as `work` takes; how many deletions they got.
fn beside(gateway: &Gateway, work: impl FnOnce()) -> usize {
    let (ended, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = connect(gateway.listen);
                while !ended.load(Ordering::SeqCst) {
                    let heard = ask(&mut stream).expect("an answer on a connection that stays");
                    assert_eq!(heard.status, 200, "{heard:?}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Also when it fails: they would go on for ever.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let before = served.load(Ordering::SeqCst);
        if worked.is_ok() {
            eventually("they are still served", || served.load(Ordering::SeqCst) > before + 10);
        }
        ended.store(true, Ordering::SeqCst);
        worked.unwrap();
    });
    served.into_inner()
}

fn credential() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

/// One call that ends at any moment: in its head, before its answer, in the middle of it.
fn hang_up(gateway: &Gateway, random: &mut Random) {
    let mut stream = connect(gateway.listen);
    let text = request(&fresh_target(), &credential());
    let cut = if random.below(4) == 0 { random.below(text.len()) } else { text.len() };
    let _ = stream.write_all(&text.as_bytes()[..cut]);
    for _ in 0..random.below(60_000) {
        std::hint::spin_loop();
    }
    match random.below(4) {
        // Bytes that nobody reads: closing resets the connection.
        0 => drop(stream.write_all(b"DELETE ")),
        1 => drop(stream.shutdown(std::net::Shutdown::Write)),
        2 if cut == text.len() => drop(stream.read_exact(&mut vec![0; 1 + random.below(100)])),
        _ => {}
    }
}

#[test]
fn callers_that_hang_up_at_any_moment_leave_every_intent_with_its_true_outcome() {
    let (random, provider, calls) = (Random::new(), Provider::start(), count(10_000));
    let mut gateway = gateway(&provider, "");
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (mut random, gateway) = (random.of(part), &gateway);
            scope.spawn(move || (0..calls / 4).for_each(|_| hang_up(gateway, &mut random)));
        }
    });
    eventually("every seat is free", || metric(&gateway, "connections") == 0);
    assert_eq!(metric(&gateway, "in_flight"), 0);
    assert!(gateway.stop().success());
    let mut promises = Promises::default();
    promises.read(&gateway);
    promises.look_at(&provider);
    promises.hold("after all of them");
    // The provider has confirmed each; so that nobody waited for the answer changes nothing.
    assert_eq!((promises.deleted(), promises.sent()), (promises.recorded(), promises.recorded()));
    assert!(promises.sent() > calls / 4, "{} of {calls}", promises.sent());
    println!("{calls} hung up; {} deletions", promises.sent());
}

/// Sends a byte of a head that never ends, now and then, until it is told to stop or answered.
fn crawl(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // An answer may be there though we cannot write any more.
        let wrote = stream.write_all(b"x").is_ok();
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) && wrote => {}
            Err(_) => break,
        }
    }
    answer.starts_with(b"HTTP/1.1 408 ")
}

/// Asks on and on, reads nothing; whether the gateway has ended it.
fn gorge(to: SocketAddr) -> bool {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    // Soon full.
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let mut stream = TcpStream::from(socket);
    let text = request("/nowhere", "").repeat(64);
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    loop {
        if let Err(error) = stream.write_all(text.as_bytes()) {
            // Ours: it is still there, and takes nothing.
            return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        }
    }
}

#[test]
fn slow_heads_silence_and_answers_that_nobody_reads_are_ended_and_good_callers_served() {
    let (provider, sockets) = (Provider::start(), count(5_000));
    let gateway = gateway(&provider, "head_timeout_ms = 2000\nidle_timeout_ms = 2000");
    let served = beside(&gateway, || {
        std::thread::scope(|scope| {
            let slow: Vec<_> = (0..sockets)
                .map(|number| {
                    let to = gateway.listen;
                    if number < 4 {
                        return scope.spawn(move || gorge(to));
                    }
                    let mut stream = connect(to);
                    match number % 25 {
                        // A body, of which there is none to be had.
                        0..5 => {
                            let fields = credential() + "Content-Length: 1000000\r\n";
                            stream.write_all(request(&fresh_target(), &fields).as_bytes()).unwrap();
                            scope.spawn(move || response(&mut stream).is_some_and(|answer| answer.status == 413))
                        }
                        5..15 => scope.spawn(move || response(&mut stream).is_none()),
                        _ => {
                            let head = request(&fresh_target(), &credential());
                            stream.write_all(&head.as_bytes()[..30]).unwrap();
                            scope.spawn(move || crawl(stream))
                        }
                    }
                })
                .collect();
            for (number, slow) in slow.into_iter().enumerate() {
                assert!(slow.join().unwrap(), "socket {number} was not ended as it should");
            }
        });
    });
    eventually("every seat is free", || metric(&gateway, "connections") == 0);
    assert_eq!(provider.heads().len(), served, "nothing of theirs was sent");
    println!("{sockets} slow sockets; {served} deletions beside them");
}

#[test]
fn slowhttptest_finds_no_way_to_keep_good_callers_out() {
    // In three modes at once; for all of them there are seats.
    let (provider, sockets) = (Provider::start(), count(5_000).div_ceil(3).to_string());
    let gateway = gateway(&provider, "");
    let url = format!("http://{}{}", gateway.listen, fresh_target());
    let served = beside(&gateway, || {
        let modes = [&["-H", "-t", "DELETE"][..], &["-B", "-t", "DELETE"], &["-X", "-k", "5", "-w", "1", "-y", "8"]];
        let running = modes.map(|mode| {
            Command::new("slowhttptest")
                .args(mode)
                .args(["-c", &sockets, "-r", "1000", "-i", "1", "-l", "5", "-p", "10", "-u", &url])
                .stdout(Stdio::piped())
                .spawn()
                .expect("slowhttptest")
        });
        for (mode, child) in modes.iter().zip(running) {
            let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
            let plain: String =
                said.split('\u{1b}').map(|part| part.split_once('m').map_or(part, |(_, rest)| rest)).collect();
            let available = plain.lines().rfind(|line| line.contains("service available"));
            assert!(available.is_some_and(|line| line.contains("YES")), "{mode:?}: {plain}");
        }
    });
    assert_eq!(provider.heads().len(), served, "nothing of theirs was sent");
    println!("3 times {sockets} sockets of slowhttptest; {served} deletions beside them");
}

#[test]
fn a_flood_of_connections_and_of_heads_without_an_end_takes_bounded_memory() {
    let (provider, floods) = (Provider::start(), count(5_000));
    let gateway = gateway(&provider, "");
    let (endless, fields) = ("y".repeat(64 * 1024), "x: y\r\n".repeat(12_000));
    let round = || {
        for number in 0..floods {
            let mut stream = connect(gateway.listen);
            let text = format!("DELETE {} HTTP/1.1\r\nHost: gw\r\n", fresh_target());
            let flood = [&*endless, &*fields][number % 2];
            // It is cut off in the middle.
            let _ = stream.write_all(format!("{text}x: {flood}").as_bytes());
            let mut first = [0; 12];
            let answered = stream.read_exact(&mut first).is_ok();
            assert!(!answered || &first == b"HTTP/1.1 431", "{:?}", String::from_utf8_lossy(&first));
        }
    };
    round();
    let before = gateway.resident_kib();
    let served = beside(&gateway, || (0..4).for_each(|_| round()));
    let grown = gateway.resident_kib().saturating_sub(before);
    // What these heads hold in all is more than ten times this.
    assert!(grown < 16 * 1024, "{before} KiB grew by {grown} KiB");
    assert_eq!(provider.heads().len(), served);
    println!("{} floods of heads: {before} KiB, then {grown} KiB more", floods * 4);
}

#[test]
fn a_flood_of_refusals_makes_a_bounded_number_of_entries_and_counts_the_rest() {
    let (provider, refusals) = (Provider::start(), count(100_000));
    let mut gateway = gateway(&provider, "");
    let began = Instant::now();
    let served = beside(&gateway, || {
        std::thread::scope(|scope| {
            let flood = |part: usize| {
                let mut stream = connect(gateway.listen);
                for number in (part..refusals).step_by(4) {
                    let (target, fields, status) = match number % 4 {
                        0 => (fresh_target(), format!("Authorization: Bearer wrong-{number}\r\n"), [401, 429]),
                        1 => (format!("/other{number}/groups/1@g.us/picture"), credential(), [403, 403]),
                        2 => (format!("/nowhere/{number}"), credential(), [404, 404]),
                        _ => (format!("{}?x={number}", fresh_target()), credential(), [400, 400]),
                    };
                    stream.write_all(request(&target, &fields).as_bytes()).unwrap();
                    let answer = response(&mut stream).unwrap_or_else(|| panic!("no answer to {target}"));
                    assert!(status.contains(&answer.status), "{target}: {answer:?}");
                    if answer.header("connection") == Some("close") {
                        stream = connect(gateway.listen);
                    }
                }
            };
            let parts: Vec<_> = (0..4).map(|part| scope.spawn(move || flood(part))).collect();
            parts.into_iter().for_each(|part| part.join().unwrap());
        });
    });
    assert!(gateway.stop().success());
    let (own, counted) = (gateway.of_kind("refusal"), gateway.of_kind("refusals-suppressed"));
    let suppressed: u64 = counted.iter().map(|entry| entry["count"].as_u64().unwrap()).sum();
    assert_eq!(own.len() as u64 + suppressed, refusals as u64, "each is in the ledger, alone or counted");
    // Two who are told apart, this address and this caller: twenty each a window, and a count of each. A window is a
    // minute, apart from the first.
    let windows = 2 + usize::try_from(began.elapsed().as_secs() / 60).unwrap();
    assert!(own.len() <= 40 * windows && counted.len() <= 2 * windows, "{} and {}", own.len(), counted.len());
    assert_eq!(gateway.of_kind("outcome").len(), served);
    println!("{refusals} refusals: {} entries; {served} deletions beside them", own.len() + counted.len());
}
