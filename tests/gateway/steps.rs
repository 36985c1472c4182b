//! The system's clock steps back and forth under the running process: limits, budgets and the order of the ledger
//! hold.

use crate::cluster::Cluster;
use crate::freezing::post;
use crate::operators::{ALICE, operator};
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, command, configuration};
use crate::wire::delete;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const BUDGET: &str = "canary-token-budget-000";

/// libfaketime, where Debian puts it.
pub fn faketime() -> String {
    let found =
        ["x86_64", "aarch64"].map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|file| Path::new(file).exists()).expect("libfaketime (tests/setup.sh)")
}

/// A gateway in a folder, with a clock that [`step`] steps.
pub fn stepped(folder: &Arc<tempfile::TempDir>, text: &str) -> Gateway {
    let (library, file) = (faketime(), folder.path().join("off"));
    let environment = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Gateway::in_folder(Arc::clone(folder), text, &environment)
}

/// From now on its clock is so far off.
pub fn step(folder: &Path, off: &str) {
    // Whole at once: it is read at each look at the clock.
    let new = folder.join("new");
    std::fs::write(&new, off).unwrap();
    std::fs::rename(new, folder.join("off")).unwrap();
}

/// A gateway whose wall clock is as far off as its file says; the monotonic one is left alone, as by the kernel.
struct Stepped {
    folder: Arc<tempfile::TempDir>,
    gateway: Gateway,
    text: String,
}

impl Stepped {
    fn start(text: String, off: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("off"), off).unwrap();
        let gateway = Self::run(&folder, &text);
        Self { folder, gateway, text }
    }

    fn run(folder: &Arc<tempfile::TempDir>, text: &str) -> Gateway {
        stepped(folder, text)
    }

    /// From now on its clock is so far off.
    fn step(&self, off: &str) {
        step(self.folder.path(), off);
    }

    fn restart(&mut self) {
        assert!(self.gateway.stop().success(), "{}", self.gateway.log());
        self.gateway = Self::run(&self.folder, &self.text);
    }

    fn delete(&self, token: &str) -> (u16, String) {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let target = format!("/sess1/groups/{}@g.us/picture", NEXT.fetch_add(1, Ordering::SeqCst));
        let answer = delete(self.gateway.listen, &target, token);
        (answer.status, answer.code())
    }

    /// The time of each entry, which may not run backwards.
    fn times(&self) -> Vec<String> {
        let times: Vec<String> =
            self.gateway.entries().iter().map(|entry| entry["time"].as_str().unwrap().to_owned()).collect();
        // RFC 3339 in UTC with six digits: in the order of time these are in the order of bytes.
        for pair in times.windows(2) {
            assert!(pair[0] <= pair[1], "{} stands before {}", pair[0], pair[1]);
        }
        times
    }
}

fn text(provider: &Provider) -> String {
    let callers = caller("moderation", TOKEN, "rates = [{ max = 2, per_s = 36000 }]")
        + &caller("cleaner", BUDGET, "budgets = [{ max = 2, per_s = 36000 }]");
    configuration(&provider.url(), &[], &callers)
}

/// By the database's clock, as entries spell it.
const NOW: &str = r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
const OK: (u16, &str) = (200, "");
const SPENT: (u16, &str) = (429, "budget-exhausted");

fn is(stepped: &Stepped, token: &str, told: (u16, &str), when: &str) {
    let (status, code) = stepped.delete(token);
    assert_eq!((status, &*code), told, "{when}");
}

#[test]
fn a_clock_that_steps_gives_no_rate_back_and_a_budget_only_when_its_window_is_over() {
    let provider = Provider::start();
    let mut stepped = Stepped::start(text(&provider), "+0");
    for token in [TOKEN, TOKEN, BUDGET, BUDGET] {
        is(&stepped, token, OK, "at first");
    }
    for off in ["+0", "-1d", "-10y", "+0", "+9h", "-9h", "+0"] {
        stepped.step(off);
        is(&stepped, BUDGET, SPENT, off);
        is(&stepped, TOKEN, (429, "rate-limited"), off);
    }
    stepped.restart();
    is(&stepped, BUDGET, SPENT, "after a restart");
    stepped.step("-1d");
    stepped.restart();
    is(&stepped, BUDGET, SPENT, "after a restart in the past");
    // Ahead of the window's end: that is what this clock says, and what it gives is given once.
    stepped.step("+11h");
    is(&stepped, BUDGET, OK, "a window later");
    is(&stepped, BUDGET, OK, "a window later");
    for off in ["+11h", "+0", "-1d", "+11h", "+20h"] {
        stepped.step(off);
        is(&stepped, BUDGET, SPENT, off);
    }
    let times = stepped.times();
    assert!(times.first().unwrap()[..4] >= *"2026" && times.last() > times.first());
    assert!(stepped.gateway.stop().success());
    let verified = command(&["audit", "verify"], &stepped.gateway.config());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn a_clock_that_steps_between_intent_and_outcome_leaves_their_order_and_the_deadline() {
    let provider = Provider::start();
    let stepped = Stepped::start(configuration(&provider.url(), &[], &caller("moderation", TOKEN, "")), "+0");
    for off in ["-1d", "+1d", "-40y", "+0"] {
        let go_on = Arc::new(std::sync::atomic::AtomicBool::new(false));
        provider.next(crate::provider::Reply::When(Arc::clone(&go_on)));
        let before = provider.heads().len();
        let mut waiting = stepped.gateway.send();
        crate::running::eventually("it is at the provider", || provider.heads().len() > before);
        stepped.step(off);
        go_on.store(true, Ordering::SeqCst);
        let answer = crate::wire::response(&mut waiting).unwrap();
        assert_eq!((answer.status, answer.header("ledger-warning")), (200, None), "{off}");
    }
    stepped.times();
    let outcomes = stepped.gateway.of_kind("outcome");
    assert_eq!(outcomes.iter().filter(|entry| entry["outcome"] == "deleted").count(), 4);
}

#[test]
fn replicas_go_by_the_clock_of_their_database_whatever_their_own_ones_say() {
    let callers = caller("cleaner", BUDGET, "budgets = [{ max = 4, per_s = 3600 }]");
    let cluster = Cluster::for_callers(&(callers + &operator("alice", "operator", ALICE)));
    cluster.migrate();
    let (library, begun) = (faketime(), cluster.database.ask(NOW));
    let replica = |off: &str| {
        let off = [("LD_PRELOAD", &*library), ("FAKETIME", off), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        Gateway::in_folder(Arc::new(tempfile::tempdir().unwrap()), &cluster.text, &off)
    };
    let replicas = ["+0", "+2h", "-2h"].map(replica);
    let ask = |at: usize, group: &str| {
        let answer = delete(replicas[at].listen, &format!("/sess1/groups/{group}@g.us/picture"), BUDGET);
        (answer.status, answer.code())
    };
    // The fourth of an hour, whoever is asked; behind who is ahead, and ahead of who is behind.
    for (at, group, told) in [(0, "1", OK), (1, "2", OK), (2, "3", OK), (0, "4", OK), (1, "5", SPENT), (2, "6", SPENT)]
    {
        let (status, code) = ask(at, group);
        assert_eq!((status, &*code), told, "{group}");
    }
    let readyz = |at: usize| crate::wire::get(replicas[at].ops, "/readyz").body;
    for at in [1, 2] {
        crate::running::eventually("it says that its clock is off", || readyz(at).contains("clock-differs"));
    }
    assert!(!readyz(0).contains("clock-differs"), "{}", readyz(0));
    // An hour is one for all of them, whoever is told.
    for at in [1, 2, 0] {
        let wish = serde_json::json!({"covers": "all", "reason": "stop", "for": "1h"});
        let stopped = post(&replicas[at], "freeze", ALICE, &wish);
        assert_eq!(stopped.status, 200, "{stopped:?}");
        let (status, code) = ask(at, "7");
        assert_eq!((status, &*code), (403, "frozen"), "{at}");
        let until = stopped.json()["until"].as_str().unwrap().to_owned();
        let lasts =
            cluster.database.ask(&format!("SELECT '{until}'::timestamptz - now() BETWEEN '59 min' AND '61 min'"));
        assert_eq!(lasts, "t", "{at}: {until}");
    }
    // Before a rate and the budget is asked: neither lets through what is frozen, nor refuses what is not any more.
    let over = "UPDATE ledger.frozen SET body = regexp_replace(body, '\"until\":\"[^\"]*\"',
        '\"until\":\"' || to_char(now() AT TIME ZONE 'UTC' - interval '1 second',
            'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || '\"')";
    cluster.database.ask(over);
    for at in [1, 2, 0] {
        crate::running::eventually("it has heard that the freeze is over", || ask(at, "8").1 != "frozen");
        let (status, code) = ask(at, "8");
        assert_eq!((status, &*code), SPENT, "{at}");
    }
    let ended = cluster.database.ask(NOW);
    for entry in replicas[0].entries() {
        let time = entry["time"].as_str().unwrap();
        assert!(*begun <= *time && *time <= *ended, "{entry}");
    }
}

#[test]
fn a_freeze_of_replicas_lasts_by_their_databases_clock_wherever_the_command_runs() {
    let (cluster, library) = (Cluster::of(1), faketime());
    let status =
        || crate::promises::ask(&mut crate::promises::connect(cluster.replicas[0].listen).unwrap()).unwrap().status;
    let run = |off: &str, words: &[&str]| {
        let mut run = std::process::Command::new(crate::running::BINARY);
        run.args(words).arg("--config").arg(cluster.config()).env("LD_PRELOAD", &library).env("FAKETIME", off);
        let output = run.output().unwrap();
        assert!(output.status.success(), "{off} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for off in ["-2h", "+2h"] {
        crate::running::eventually("nothing is frozen", || status() == 200);
        let said = run(off, &["freeze", "--all", "--for", "1h", "--reason", "stop"]);
        assert!(!said.contains("an earlier freeze"), "{off}: {said}");
        assert_eq!(status(), 403, "{off}");
        for off in ["-2h", "+0", "+2h"] {
            let said = run(off, &["status"]);
            assert!(said.contains("everything") && said.contains("stop"), "{off}: {said}");
        }
        run(off, &["unfreeze", "--all", "--reason", "done"]);
    }
}
