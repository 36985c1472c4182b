//! Files that change while it runs: the new policy is in force at once, a bad file changes nothing, and nothing in
//! between is ever wider than one of the two.

use crate::crash::{FAILPOINTS, Held};
use crate::full::SmallDisk;
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::soak::count;
use crate::wire::{delete, get, response};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const OFTEN: &str = "[reload]\ninterval_ms = 50\n";

/// A configuration whose files are looked at often. Its caller may delete in `session`.
fn watched(provider: &Provider, session: &str) -> String {
    let callers = caller("moderation", TOKEN, "").replace("sess1", session);
    configuration(&provider.url(), &[], &(OFTEN.to_owned() + &callers))
}

fn status(gateway: &Gateway, session: &str) -> u16 {
    delete(gateway.listen, &format!("/{session}/groups/1@g.us/picture"), TOKEN).status
}

fn readiness(gateway: &Gateway) -> Value {
    serde_json::from_str(&get(gateway.ops, "/readyz").body).unwrap()
}

fn hash(config: &Path) -> String {
    String::from_utf8(command(&["policy", "show", "--hash"], config).stdout).unwrap().trim_end().to_owned()
}

/// Writes a file beside another and renames it over that one, as editors do.
fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, file).unwrap();
}

#[test]
fn a_changed_file_is_in_force_without_a_signal_and_each_intent_names_its_policy() {
    let provider = Provider::start();
    let gateway = Gateway::with(&watched(&provider, "sess1"));
    assert_eq!((status(&gateway, "sess1"), status(&gateway, "sess2")), (200, 403));
    std::fs::write(gateway.config(), watched(&provider, "sess2")).unwrap();
    eventually("what was written in place is in force", || status(&gateway, "sess2") == 200);
    assert_eq!(status(&gateway, "sess1"), 403);
    replace(&gateway.config(), &watched(&provider, "sess3"));
    eventually("what was renamed over it is in force", || status(&gateway, "sess3") == 200);
    assert_eq!(status(&gateway, "sess2"), 403);
    assert_eq!(readiness(&gateway)["policy"], hash(&gateway.config()));
    let policies: Vec<_> = gateway.of_kind("policy").iter().map(|entry| entry["policy"].clone()).collect();
    assert_eq!((policies.len(), &policies[2]), (3, &hash(&gateway.config()).into()));
    for (intent, session) in gateway.of_kind("intent").iter().zip(["sess1", "sess2", "sess3"]) {
        let place = policies.iter().position(|policy| *policy == intent["policy"]).expect("an applied policy");
        assert_eq!((intent["session"].as_str(), place), (Some(session), session.bytes().last().unwrap() as usize - 49));
    }
}

#[test]
fn a_list_of_groups_that_changes_is_a_change_of_the_policy() {
    let provider = Provider::start();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let list = folder.path().join("groups.txt");
    std::fs::write(&list, "7@g.us\n").unwrap();
    let text = watched(&provider, "sess1").replace("groups = [\"*@g.us\"]", "groups_file = \"groups.txt\"");
    let gateway = Gateway::in_folder(folder, &text, &[]);
    assert_eq!(status(&gateway, "sess1"), 403);
    std::fs::write(&list, "7@g.us\n1@g.us\n").unwrap();
    eventually("the list is read again", || status(&gateway, "sess1") == 200);
    std::fs::remove_file(&list).unwrap();
    eventually("its absence is told", || readiness(&gateway)["reasons"] == serde_json::json!(["policy-not-reloaded"]));
    assert_eq!(status(&gateway, "sess1"), 200);
    std::fs::write(&list, "7@g.us\n").unwrap();
    eventually("it is there again", || status(&gateway, "sess1") == 403);
    assert_eq!(readiness(&gateway)["status"], "ready");
}

#[test]
fn a_bad_file_leaves_the_old_policy_and_is_told_everywhere_until_a_good_one_comes() {
    let provider = Provider::start();
    let gateway = Gateway::with(&watched(&provider, "sess1"));
    let before = readiness(&gateway)["policy"].clone();
    let metric = |name: &str| {
        let text = get(gateway.ops, "/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("wasend_gateway_{name} "))).map(str::to_owned);
        line.unwrap_or_else(|| format!("no {name}"))
    };
    assert_eq!(metric("policy_stale"), "wasend_gateway_policy_stale 0");
    let good = watched(&provider, "sess2");
    for bad in [
        &good[..good.len() - 20],
        &good.replace("sessions = [\"sess2\"]", "sessions = []"),
        &good.replace("[[callers]]", "surprise = 1\n[[callers]]"),
        "",
    ] {
        let told = refused(&gateway, &good).len();
        std::fs::write(gateway.config(), bad).unwrap();
        eventually("it is recorded", || refused(&gateway, &good).len() > told);
        let ready = readiness(&gateway);
        assert_eq!(ready["status"], "degraded");
        assert_eq!((&ready["reasons"], &ready["policy"]), (&serde_json::json!(["policy-not-reloaded"]), &before));
        assert_eq!((status(&gateway, "sess1"), status(&gateway, "sess2")), (200, 403));
        assert_eq!(metric("policy_stale"), "wasend_gateway_policy_stale 1");
    }
    let refused = refused(&gateway, &good);
    assert!(refused.iter().all(|entry| entry["policy"] == before), "it is the one that stays: {refused:?}");
    let faults = serde_json::json!(["callers[0].allow[0].sessions"]);
    assert!(refused.iter().any(|entry| entry["faults"] == faults), "{refused:?}");
    assert!(gateway.log().contains("the configuration was not reloaded; the old one stays"));
    std::fs::write(gateway.config(), &good).unwrap();
    eventually("the good one is in force", || status(&gateway, "sess2") == 200);
    assert_eq!((status(&gateway, "sess1"), &readiness(&gateway)["status"]), (403, &"ready".into()));
    assert!(command(&["audit", "verify"], &gateway.config()).status.success());
    assert_eq!(metric("policy_stale"), "wasend_gateway_policy_stale 0");
    let refused = metric("reloads_total{kind=\"refused\"}");
    assert!(refused.starts_with("wasend_gateway_") && !refused.ends_with(" 0"), "{refused}");
}

#[test]
fn a_panic_while_a_policy_is_taken_over_is_told_as_its_fault_and_the_next_one_is_taken_over() {
    let provider = Provider::start();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let environment = [(crate::crash::FAILPOINTS, "reload=panic@1")];
    let text = watched(&provider, "sess1").replace(OFTEN, "[reload]\nwatch = false\n");
    let gateway = Gateway::in_folder(folder, &text, &environment);
    replace(&gateway.config(), &text.replace("sess1", "sess2"));
    gateway.signal("HUP");
    eventually("it is recorded", || gateway.of_kind("policy-refused").len() == 1);
    assert_eq!(gateway.of_kind("policy-refused")[0]["faults"], serde_json::json!(["the file"]));
    assert!(gateway.log().contains("makes the gateway panic"), "{}", gateway.log());
    let reasons = serde_json::json!(["policy-not-reloaded"]);
    let status = command(&["status", "--json"], &gateway.config());
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&readiness(&gateway)["reasons"], &status["serving"]["degraded"]), (&reasons, &reasons));
    assert_eq!((self::status(&gateway, "sess1"), self::status(&gateway, "sess2")), (200, 403));
    gateway.signal("HUP");
    eventually("it is in force", || self::status(&gateway, "sess2") == 200);
    assert_eq!(readiness(&gateway)["status"], "ready");
}

/// The policies that were refused, asked with another file than the one in place, which is bad.
fn refused(gateway: &Gateway, good: &str) -> Vec<Value> {
    let file = gateway.folder.path().join("good.toml");
    std::fs::write(&file, good).unwrap();
    let entries = crate::running::entries(&file);
    entries.into_iter().filter(|entry| entry["kind"] == "policy-refused").collect()
}

#[test]
fn the_providers_key_is_replaced_when_its_file_is() {
    let provider = Provider::start();
    let gateway = Gateway::with(&watched(&provider, "sess1"));
    assert_eq!(status(&gateway, "sess1"), 200);
    let key = gateway.folder.path().join("key");
    replace(&key, "canary-provider-key-001\n");
    let sent_with = |key: &str| provider.heads().last().unwrap().contains(&format!("Bearer {key}\r\n"));
    assert!(sent_with(KEY));
    eventually("it is sent", || status(&gateway, "sess1") == 200 && sent_with("canary-provider-key-001"));
    // Taken away when it is gone for longer than a moment, and there again.
    std::fs::remove_file(&key).unwrap();
    eventually("it is gone", || delete(gateway.listen, TARGET, TOKEN).code() == "key-unavailable");
    std::fs::write(&key, "canary-provider-key-002").unwrap();
    eventually("it is there", || status(&gateway, "sess1") == 200 && sent_with("canary-provider-key-002"));
    assert!(!gateway.log().contains("canary-provider-key"));
}

#[test]
fn what_the_provider_says_of_a_key_that_was_replaced_meanwhile_is_said_of_that_one_alone() {
    let provider = Provider::start();
    let gateway = Gateway::with(&watched(&provider, "sess1"));
    let reasons = || readiness(&gateway)["reasons"].clone();
    let told = |reply: fn(Arc<AtomicBool>) -> Reply, key: &str| {
        let go_on = Arc::new(AtomicBool::new(false));
        provider.next(reply(Arc::clone(&go_on)));
        let before = provider.heads().len();
        let mut waiting = gateway.send();
        eventually("it is at the provider", || provider.heads().len() > before);
        let read = gateway.log().matches("key was read again").count();
        replace(&gateway.folder.path().join("key"), key);
        eventually("the new key is read", || gateway.log().matches("key was read again").count() > read);
        move || {
            go_on.store(true, Ordering::SeqCst);
            response(&mut waiting).unwrap().status
        }
    };
    assert_eq!(told(|set| Reply::JsonWhen(401, set), "canary-provider-key-001")(), 502);
    assert_eq!(reasons(), serde_json::json!([]), "nobody has refused the new one");
    let mut accepts = told(Reply::When, "canary-provider-key-002");
    provider.next(Reply::Json(401, "{}"));
    assert_eq!(delete(gateway.listen, "/sess1/groups/2@g.us/picture", TOKEN).code(), "upstream-credentials-refused");
    assert_eq!(accepts(), 200);
    assert_eq!(reasons(), serde_json::json!(["upstream-credentials-refused"]), "nobody has accepted the new one");
}

/// A folder as Kubernetes mounts it: files are links into `..data`, which is a link to a folder of its own.
fn mount(folder: &Path, sides: [(&str, &str); 2]) {
    for (name, (config, list)) in ["..a", "..b"].iter().zip(sides) {
        let side = folder.join(name);
        std::fs::create_dir(&side).unwrap();
        std::fs::write(side.join("gateway.toml"), config).unwrap();
        std::fs::write(side.join("groups.txt"), list).unwrap();
    }
    std::os::unix::fs::symlink("..a", folder.join("..data")).unwrap();
    for file in ["gateway.toml", "groups.txt"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), folder.join(file)).unwrap();
    }
}

/// Turns `..data` to the other folder, at once.
fn turn(folder: &Path, side: &str) {
    let beside = folder.join("..data_tmp");
    std::os::unix::fs::symlink(side, &beside).unwrap();
    std::fs::rename(beside, folder.join("..data")).unwrap();
}

#[test]
fn no_request_is_decided_by_a_mix_of_two_policies_while_one_replaces_the_other() {
    let provider = Provider::start();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let side =
        |session: &str| watched(&provider, session).replace("groups = [\"*@g.us\"]", "groups_file = \"groups.txt\"");
    mount(folder.path(), [(&side("sess1"), "1@g.us\n"), (&side("sess2"), "2@g.us\n")]);
    // Written through the link, it is what stands there already.
    let gateway = Gateway::in_folder(Arc::clone(&folder), &side("sess1"), &[]);
    let first = hash(&gateway.config());
    turn(folder.path(), "..b");
    eventually("the other side is in force without a signal", || readiness(&gateway)["policy"] != first);
    let second = hash(&gateway.config());
    assert_eq!(readiness(&gateway)["policy"], second);

    let done = AtomicBool::new(false);
    let ask = |session: u8, group: u8| {
        delete(gateway.listen, &format!("/sess{session}/groups/{group}@g.us/picture"), TOKEN).status
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count(10_000) {
                turn(folder.path(), "..a");
                gateway.signal("HUP");
                turn(folder.path(), "..b");
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            assert_eq!((ask(1, 2), ask(2, 1)), (403, 403), "neither side allows it");
            assert!([ask(1, 1), ask(2, 2)].iter().all(|status| matches!(status, 200 | 403 | 409)));
        }
    });
    eventually("the last one is in force", || readiness(&gateway)["policy"] == second);
    let entries = gateway.entries();
    for entry in entries.iter().filter(|entry| entry["kind"] == "intent") {
        let expected = if entry["session"] == "sess1" { &first } else { &second };
        assert_eq!(entry["policy"], **expected, "{entry}");
    }
    let known = |entry: &&Value| entry["policy"] == *first || entry["policy"] == *second;
    assert!(entries.iter().filter(|entry| entry["kind"] == "policy").all(|entry| known(&entry)));
}

#[test]
fn a_policy_that_is_applied_while_the_disk_is_full_is_recorded_as_soon_as_there_is_room() {
    let (disk, provider) = (SmallDisk::new(8), Provider::start());
    let place = format!("path = \"{}\"\nreserve_kib = 256", disk.path().join("ledger").display());
    let text = |session: &str| {
        watched(&provider, session).replace("path = \"ledger\"\n", &place).replace("[limits]", "\n[limits]")
    };
    let gateway = Gateway::with(&text("sess1"));
    disk.fill(0);
    eventually("it is full", || status(&gateway, "sess1") == 503);
    replace(&gateway.config(), &text("sess2"));
    let second = hash(&gateway.config());
    eventually("the new policy is in force all the same", || readiness(&gateway)["policy"] == *second);
    assert_eq!(status(&gateway, "sess1"), 403);
    assert!(gateway.of_kind("policy").iter().all(|entry| entry["policy"] != *second), "there is no room for it");
    disk.empty();
    eventually("it is recorded", || gateway.of_kind("policy").iter().any(|entry| entry["policy"] == *second));
}

/// How much memory of its own a process has, in KiB.
fn memory_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_thousand_callers_and_a_hundred_thousand_listed_groups_take_less_than_50_mib() {
    let provider = Provider::start();
    let small = Gateway::with(&watched(&provider, "sess1"));
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let list: String = (0..100_000).map(|n| format!("1203630000{n:08}@g.us\n")).collect();
    std::fs::write(folder.path().join("groups.txt"), list).unwrap();
    // All of them name the whole list.
    let callers: String = (0..1_000)
        .map(|n| {
            caller(&format!("c{n}"), &format!("canary-token-{n}"), "")
                .replace("groups = [\"*@g.us\"]", "groups_file = \"groups.txt\"")
        })
        .collect();
    let large = Gateway::in_folder(folder, &configuration(&provider.url(), &[], &(OFTEN.to_owned() + &callers)), &[]);
    let target = |group: &str| format!("/sess1/groups/{group}@g.us/picture");
    assert_eq!(delete(large.listen, &target("120363000000099999"), "canary-token-999").status, 200);
    assert_eq!(delete(large.listen, &target("120363000000100000"), "canary-token-999").status, 403);
    let more = || memory_kib(&large).saturating_sub(memory_kib(&small));
    let at_first = more();
    large.signal("HUP");
    eventually("it is read again", || large.log().contains("callers and rates were reloaded"));
    // The old rules are gone with the last request that they decide.
    assert_eq!(delete(large.listen, &target("120363000000000001"), "canary-token-0").status, 200);
    let after = more();
    println!("{at_first} KiB, after a reload {after} KiB");
    assert!(at_first < 50 * 1024 && after < 50 * 1024, "{at_first} KiB, after a reload {after} KiB");
}

/// The ledger's database, held by another program until this is dropped.
struct Holding(Child);

impl Holding {
    fn begin(gateway: &Gateway) -> Self {
        let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read(); db.execute('ROLLBACK')";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .arg(gateway.folder.path().join("ledger/ledger.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        Self(child)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_policy_and_refusals_of_a_time_in_which_another_program_holds_the_database_are_recorded_after_it() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&watched(&provider, "sess1"));
    assert_eq!(status(&gateway, "sess1"), 200);
    let holding = Holding::begin(&gateway);
    assert_eq!(status(&gateway, "sess1"), 503);
    eventually("readiness says so", || readiness(&gateway)["reasons"] == serde_json::json!(["ledger-unavailable"]));
    std::fs::write(gateway.config(), watched(&provider, "sess2")).unwrap();
    eventually("the new policy decides", || status(&gateway, "sess1") == 403);
    drop(holding);
    eventually("it goes on", || status(&gateway, "sess2") == 200);
    assert_eq!(readiness(&gateway)["status"], "ready");
    let named = |kind: &str, policy: &Value| gateway.of_kind(kind).iter().any(|entry| entry["policy"] == *policy);
    let intent = gateway.of_kind("intent").pop().unwrap();
    eventually("the policy has its entry", || named("policy", &intent["policy"]));
    assert!(gateway.stop().success());
    let refused = gateway.entries().into_iter().any(|entry| entry.to_string().contains("not-allowed"));
    assert!(refused, "the refusals are told, one by one or counted");
}

#[test]
fn an_outcome_that_could_not_be_recorded_before_is_recorded_with_the_stop() {
    let provider = Provider::start();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let held = Held::new();
    let armed = held.at("stop-begin");
    let mut gateway = Gateway::in_folder(folder, &watched(&provider, "sess1"), &[(FAILPOINTS, &armed)]);
    let go_on = Arc::new(AtomicBool::new(false));
    provider.next(Reply::When(go_on.clone()));
    let mut waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let holding = Holding::begin(&gateway);
    go_on.store(true, Ordering::SeqCst);
    let answer = response(&mut waiting).unwrap();
    assert_eq!((answer.status, answer.header("ledger-warning")), (200, Some("outcome-unrecorded")));
    gateway.signal("TERM");
    // The writer has done with its queue, and waits before it stops.
    eventually("its last try is over", || held.is_reached());
    drop(holding);
    held.let_go();
    assert!(gateway.ended().success());
    let kinds: Vec<_> = gateway.entries().iter().map(|entry| entry["kind"].clone()).collect();
    let is_whole = kinds.iter().any(|kind| kind == "outcome") && kinds.last().is_some_and(|kind| kind == "stop");
    assert!(is_whole, "{kinds:?}");
}
