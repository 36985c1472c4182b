//! Several gateways, one Redis: together they let through what one would, and what is not sure is refused.

use crate::provider::Provider;
use crate::redis::{PASSWORD, Redis, SERVERS, configuration_for, held_to};
use crate::running::{Gateway, TARGET, TOKEN, caller, command, eventually};
use crate::soak::{Random, count};
use crate::wire::{Response, delete, get, response};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// So high that no test reaches it.
const FREE: &str = "{ max = 1000000, per_s = 1 }";

/// One deletion of each of `count` groups, spread over the gateways and sent at once; how many were let through.
fn rush(gateways: &[&Gateway], count: usize) -> usize {
    let answers: Vec<Response> = thread::scope(|scope| {
        let send = |n: usize| {
            let to = gateways[n % gateways.len()].listen;
            scope.spawn(move || delete(to, &format!("/sess1/groups/{n}@g.us/picture"), TOKEN))
        };
        let sent: Vec<_> = (0..count).map(send).collect();
        sent.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for answer in &answers {
        assert!(matches!(answer.status, 200 | 429), "{answer:?}");
        assert_eq!(answer.status == 429, answer.header("retry-after").is_some(), "{answer:?}");
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[test]
fn gateways_that_share_rates_let_through_together_what_one_would() {
    for server in SERVERS {
        let (provider, redis) = (Provider::start(), Redis::start_as(server));
        let callers = held_to("{ max = 7, per_s = 3600 }") + &caller("other", "canary-token-other-0000", "");
        let start = || redis.gateway(&provider.url(), "rates = [{ max = 9, per_s = 3600 }]", &callers);
        let (first, second) = (start(), start());
        assert_eq!(rush(&[&first, &second], 40), 7);
        let answer = delete(second.listen, TARGET, TOKEN);
        assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (429, "rate-limited", "no"));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"caller-7-3600s\";q=7;w=3600"));
        assert!(answer.header("ratelimit").unwrap().starts_with("\"caller-7-3600s\";r=0;t="), "{}", answer.head);
        // The seven took from the rate of all as well; a caller's own refusal took nothing there.
        let other = |gateway: &Gateway| delete(gateway.listen, TARGET, "canary-token-other-0000");
        assert_eq!((other(&first).status, other(&second).status), (200, 200));
        assert!(other(&first).body.contains("the rate of all callers together is 9 in 3600 s"));
        // A new process finds what the others took.
        drop(first);
        let third = start();
        assert_eq!((rush(&[&third], 3), provider.heads().len()), (0, 9));
    }
}

#[test]
fn gateways_that_share_a_rate_per_session_let_through_together_what_one_would_in_each() {
    let (provider, redis) = (Provider::start(), Redis::start());
    let callers = held_to("{ max = 3, per_s = 3600, per = \"session\" }, { max = 7, per_s = 7200 }");
    let start = || redis.gateway(&provider.url(), "", &callers.replace("\"sess1\"", "\"*\""));
    let (first, second) = (start(), start());
    let passed = |session: &str| {
        let path = |n: u8| format!("/{session}/groups/{n}@g.us/picture");
        let asked = (0..6).map(|n| delete([&first, &second][usize::from(n % 2)].listen, &path(n), TOKEN));
        asked.filter(|answer| answer.status == 200).count()
    };
    assert_eq!(["s1", "s2", "s1", "s3", "s4"].map(passed), [3, 3, 0, 1, 0]);
}

#[test]
fn a_dry_run_looks_at_shared_rates_and_takes_nothing() {
    let (provider, redis) = (Provider::start(), Redis::start());
    let gateway = redis.gateway(&provider.url(), "", &held_to("{ max = 1, per_s = 3600 }"));
    let dry_run = || delete(gateway.listen, &format!("/dry-run{TARGET}"), TOKEN);
    for _ in 0..5 {
        let answer = dry_run();
        assert_eq!((answer.status, answer.header("ratelimit")), (200, Some("\"caller-1-3600s\";r=0;t=3600")));
    }
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert_eq!((dry_run().status, delete(gateway.listen, TARGET, TOKEN).status), (429, 429));
    assert_eq!(provider.heads().len(), 1);
}

#[test]
fn after_a_flush_there_is_one_further_burst_in_all_and_an_unknown_script_is_no_fault() {
    for server in SERVERS {
        let (provider, redis) = (Provider::start(), Redis::start_as(server));
        let start = || redis.gateway(&provider.url(), "", &held_to("{ max = 5, per_s = 3600 }"));
        let (first, second) = (start(), start());
        assert_eq!(rush(&[&first, &second], 20), 5);
        redis.ask(&["FLUSHALL"]);
        redis.ask(&["SCRIPT", "FLUSH"]);
        assert_eq!(rush(&[&first, &second], 20), 5);
        assert_eq!(rush(&[&first, &second], 20), 0);
        assert_eq!(provider.heads().len(), 10);
    }
}

/// What is wrong with Redis, and how it ends. Between the two nothing may be sent.
fn refused_until_it_ends(redis: &mut Redis, name: &str, begin: impl Fn(&mut Redis), end: impl Fn(&mut Redis)) {
    let provider = Provider::start();
    let gateway = redis.gateway(&provider.url(), "timeout_ms = 300", &held_to(FREE));
    eventually("it works before", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    begin(redis);
    let bytes = provider.bytes();
    for attempt in 0..6 {
        if attempt == 3 {
            eventually("it tried to connect again", || gateway.log().contains("the shared rates cannot be asked"));
        }
        let answer = delete(gateway.listen, TARGET, TOKEN);
        let heard = (answer.status, answer.code(), answer.sent());
        assert_eq!(heard, (503, "limits-unavailable".to_owned(), "no".to_owned()), "{name} {attempt}: {answer:?}");
        assert!(answer.header("retry-after").is_some() && answer.header("ratelimit").is_none(), "{}", answer.head);
    }
    eventually("readiness says it", || get(gateway.ops, "/readyz").body.contains("limits-unavailable"));
    let ready = get(gateway.ops, "/readyz");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &"degraded".into()), "{name}");
    assert!(get(gateway.ops, "/metrics").body.contains("wasend_gateway_limits_failures_total{kind=\""), "{name}");
    assert_eq!(provider.bytes(), bytes, "{name}: bytes went to the provider");
    let recorded = |entry: &serde_json::Value| entry["code"] == "limits-unavailable" && entry["status"] == 503;
    eventually("it is recorded", || gateway.of_kind("refusal").iter().any(recorded));
    end(redis);
    eventually("it works again by itself", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    eventually("and says so", || get(gateway.ops, "/readyz").json()["status"] == "ready");
    assert_eq!(gateway.of_kind("intent").len(), provider.heads().len(), "{name}");
    assert!(!gateway.log().contains("canary"), "{name}: a secret was logged");
}

#[test]
fn a_redis_that_is_killed_stopped_or_paused_means_503_and_nothing_sent_until_it_is_back() {
    for server in SERVERS {
        let mut redis = Redis::start_as(server);
        refused_until_it_ends(&mut redis, "killed", Redis::kill, Redis::run);
        refused_until_it_ends(&mut redis, "stopped", |redis| redis.signal("STOP"), |redis| redis.signal("CONT"));
        let pause = |redis: &mut Redis| drop(redis.ask(&["CLIENT", "PAUSE", "600000", "WRITE"]));
        refused_until_it_ends(&mut redis, "paused", pause, |redis| drop(redis.ask(&["CLIENT", "UNPAUSE"])));
    }
}

#[test]
fn a_redis_that_takes_no_writes_means_503_and_nothing_sent_until_it_does() {
    for server in SERVERS {
        let mut redis = Redis::start_as(server);
        let set = |name: &'static str, value: &'static str| {
            move |redis: &mut Redis| drop(redis.ask(&["CONFIG", "SET", name, value]))
        };
        refused_until_it_ends(&mut redis, "full", set("maxmemory", "1"), set("maxmemory", "0"));
        let follow = |redis: &mut Redis| drop(redis.ask(&["REPLICAOF", "127.0.0.1", "1"]));
        refused_until_it_ends(&mut redis, "a replica", follow, |redis| drop(redis.ask(&["REPLICAOF", "NO", "ONE"])));
        let forget = |redis: &mut Redis| {
            redis.ask(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
            redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
        };
        refused_until_it_ends(&mut redis, "a replica without a primary", forget, |redis| {
            drop(redis.ask(&["REPLICAOF", "NO", "ONE"]))
        });
        let forbid = |redis: &mut Redis| drop(redis.ask(&["ACL", "SETUSER", "default", "-set"]));
        refused_until_it_ends(&mut redis, "forbidden", forbid, |redis| {
            drop(redis.ask(&["ACL", "SETUSER", "default", "+set"]))
        });
    }
}

#[test]
fn a_redis_that_throws_keys_away_when_it_is_full_is_not_used() {
    for server in SERVERS {
        let mut redis = Redis::start_as(server);
        let evict = |redis: &mut Redis| {
            redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb"]);
            redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        };
        refused_until_it_ends(&mut redis, "evicting", evict, |redis| {
            drop(redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]))
        });
    }
}

#[test]
fn a_new_password_is_read_from_the_file_when_the_old_one_is_refused() {
    let (provider, redis) = (Provider::start(), Redis::start());
    let gateway = redis.gateway(&provider.url(), "", &held_to(FREE));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    // What the docs say that it needs, and no more.
    let manual = include_str!("../../docs/running-in-production.md");
    let rule = manual.lines().find_map(|line| line.strip_prefix("ACL SETUSER gateway on >PASSWORD ")).unwrap();
    let rule: Vec<&str> =
        ["ACL", "SETUSER", "next", "on", ">canary-next-000"].into_iter().chain(rule.split(' ')).collect();
    redis.ask(&rule);
    redis.ask(&["CONFIG", "SET", "requirepass", "canary-changed-000"]);
    let mut admin = ::redis::Client::open(redis.url().replace(PASSWORD, "canary-changed-000")).unwrap();
    let mut ask = |words: &[&str]| ::redis::cmd(words[0]).arg(&words[1..]).exec(&mut admin).unwrap();
    ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    eventually("the old one is refused", || gateway.log().contains("does not accept the user or the password"));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "limits-unavailable");
    let url = redis.url().replace(&format!("pass={PASSWORD}"), "user=next&pass=canary-next-000");
    std::fs::write(gateway.folder.path().join("redis-url"), url).unwrap();
    eventually("the new one is used", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    assert!(!gateway.log().contains("canary"), "a password was logged");
}

#[test]
fn without_redis_it_starts_refuses_what_has_a_rate_and_nothing_else() {
    let (provider, mut redis) = (Provider::start(), Redis::prepare(SERVERS[0], &[]));
    let callers = held_to(FREE) + &caller("free", "canary-token-free-0000", "");
    let gateway = redis.gateway(&provider.url(), "", &callers);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "limits-unavailable");
    assert_eq!(delete(gateway.listen, TARGET, "canary-token-free-0000").status, 200, "it has no rate to ask");
    assert_eq!(delete(gateway.listen, TARGET, "canary-token-none-0000").status, 401);
    let status = command(&["status", "--json"], &gateway.config());
    assert!(String::from_utf8_lossy(&status.stdout).contains(r#""degraded":["limits-unavailable"]"#), "{status:?}");
    redis.run();
    eventually("it connects by itself", || delete(gateway.listen, TARGET, TOKEN).status == 200);
}

#[test]
fn a_question_whose_answer_was_lost_may_have_taken_and_never_lets_more_through() {
    let (provider, redis) = (Provider::start(), Redis::start());
    let gateway = redis.gateway(&provider.url(), "timeout_ms = 300", &held_to("{ max = 3, per_s = 3600 }"));
    redis.signal("STOP");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "limits-unavailable");
    redis.signal("CONT");
    let mut passed = 0;
    eventually("the rate is used up", || {
        let answer = delete(gateway.listen, TARGET, TOKEN);
        passed += usize::from(answer.status == 200);
        answer.status == 429
    });
    assert!(passed <= 3, "{passed}");
    assert_eq!(provider.heads().len(), passed);
}

#[test]
fn a_caller_that_hangs_up_while_the_rates_are_asked_leaves_no_slot_taken_and_no_intent_open() {
    let (provider, redis) = (Provider::start(), Redis::start());
    let text = configuration_for(&provider.url(), "", &held_to(FREE)).replace("[ops]", "max_requests = 1\n[ops]");
    let gateway = redis.gateway_with(&redis.url(), &text);
    redis.ask(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let waiting = gateway.send();
    eventually("it asks", || redis.holds_a_question_up());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "overloaded", "it has the slot");
    drop(waiting);
    redis.ask(&["CLIENT", "UNPAUSE"]);
    eventually("the slot is free again", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    let kinds = |kind| gateway.of_kind(kind).len();
    assert_eq!((kinds("intent"), kinds("outcome")), (provider.heads().len(), provider.heads().len()));
}

#[test]
fn what_asks_the_rates_when_it_stops_is_not_sent() {
    let (provider, redis) = (Provider::start(), Redis::start());
    let mut gateway = redis.gateway(&provider.url(), "", &held_to(FREE));
    redis.ask(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut waiting = gateway.send();
    eventually("it asks", || redis.holds_a_question_up());
    gateway.signal("TERM");
    eventually("it is draining", || gateway.log().contains("stopping"));
    redis.ask(&["CLIENT", "UNPAUSE"]);
    let answer = response(&mut waiting).expect("an answer");
    assert_eq!((answer.status, answer.sent().as_str()), (503, "no"), "{answer:?}");
    assert_eq!((gateway.ended().code(), provider.bytes()), (Some(0), 0));
    assert_eq!(gateway.of_kind("intent").len(), 0);
}

/// One thing after the other happens to connections and server, which keeps its data: it syncs each write.
fn disturb(redis: &mut Redis, how: usize) {
    match how {
        0 => drop(redis.ask(&["CLIENT", "KILL", "TYPE", "normal"])),
        1 => drop(redis.ask(&["SCRIPT", "FLUSH"])),
        2 => drop(redis.ask(&["CLIENT", "PAUSE", "130", "WRITE"])),
        3 => {
            redis.signal("STOP");
            thread::sleep(Duration::from_millis(130));
            redis.signal("CONT");
        }
        _ => {
            redis.kill();
            redis.run();
        }
    }
}

#[test]
fn whatever_happens_to_a_redis_that_keeps_its_data_no_more_passes_than_the_rate_says() {
    const MOST: usize = 60;
    let (provider, mut random) = (Provider::start(), Random::new());
    let mut redis = Redis::prepare(SERVERS[0], &["--appendonly", "yes", "--appendfsync", "always"]);
    redis.run();
    let start = || redis.gateway(&provider.url(), "timeout_ms = 100", &held_to("{ max = 60, per_s = 86400 }"));
    let gateways = [start(), start()];
    let (passed, refused, unsure) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..4 {
            let (to, counts, ended) = (gateways[number % 2].listen, [&passed, &refused, &unsure], &ended);
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    let answer = delete(to, &format!("/sess1/groups/{number}@g.us/picture"), TOKEN);
                    let code = if answer.status == 200 { String::new() } else { answer.code() };
                    let index = ["", "rate-limited", "limits-unavailable"].iter().position(|known| *known == code);
                    counts[index.unwrap_or_else(|| panic!("{answer:?}"))].fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        for round in 0..count(600) {
            // Each once, then by chance.
            disturb(&mut redis, if round < 5 { round } else { random.below(5) });
            thread::sleep(Duration::from_millis(20));
        }
        eventually("the rate is used up", || refused.load(Ordering::SeqCst) > 0);
        ended.store(true, Ordering::SeqCst);
    });
    let (passed, unsure) = (passed.into_inner(), unsure.into_inner());
    println!("passed {passed}, refused {}, unsure {unsure}", refused.into_inner());
    assert!(passed <= MOST, "{passed} passed");
    assert_eq!(provider.heads().len(), passed);
    assert!(unsure > 0, "nothing went wrong, so nothing was tried out");
}

#[test]
fn redis_is_spoken_to_over_tls_that_is_verified() {
    let provider = Provider::start();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let names = ["--tls-cert-file", "tls.pem", "--tls-key-file", "tls.key", "--tls-auth-clients", "no"];
    let mut redis = Redis::prepare(SERVERS[0], &[&["--tls-port", port.as_str()], names.as_slice()].concat());
    std::fs::write(redis.folder.path().join("tls.pem"), made.cert.pem()).unwrap();
    std::fs::write(redis.folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    redis.run();
    let url = format!("rediss://:{PASSWORD}@localhost:{port}");
    let trust = format!("ca_file = \"{}\"", redis.folder.path().join("tls.pem").display());
    let gateway = redis.gateway_with(&url, &configuration_for(&provider.url(), &trust, &held_to(FREE)));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    let gateway = redis.gateway_with(&url, &configuration_for(&provider.url(), "", &held_to(FREE)));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "limits-unavailable");
    assert!(gateway.log().contains("certificate"), "{}", gateway.log());
    assert_eq!(provider.heads().len(), 1);
}

#[test]
fn a_missing_or_clear_text_url_never_starts_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (config, url) = (folder.path().join("gateway.toml"), folder.path().join("redis-url"));
    std::fs::write(folder.path().join("key"), "canary-provider-key-000").unwrap();
    let text = configuration_for("http://127.0.0.1:9", "ca_file = \"none.pem\"", &held_to(FREE));
    let said = |words: &str, text: &str| {
        std::fs::write(&config, text).unwrap();
        let output = command(&[words], &config);
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8(output.stderr).unwrap()
    };
    for words in ["check-config", "serve"] {
        let _ = std::fs::remove_file(&url);
        let missing = said(words, &text);
        assert!(missing.contains("limits.url_file") && missing.contains("limits.ca_file"), "{missing}");
        std::fs::write(&url, "redis://:canary-redis@redis.example:6379").unwrap();
        let clear = said(words, &text);
        assert!(clear.contains("clear text") && !clear.contains("canary"), "{clear}");
    }
    let faulty = text.replace("url_file = \"redis-url\"\n", "prefix = \"{a}\"\n");
    let faulty = said("check-config", &faulty.replace("timeout_ms = 5000", "timeout_ms = 0"));
    for key in ["limits.url_file", "is missing", "limits.prefix", "limits.timeout_ms"] {
        assert!(faulty.contains(key), "{key}: {faulty}");
    }
}
