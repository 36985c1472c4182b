//! Asking the ledger through the commands, beside a running gateway and without one.

use crate::provider::{Provider, Reply};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, command, eventually};
use crate::wire::{delete, get};
use serde_json::Value;

fn ask(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let output = command(arguments, &gateway.config());
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn rows(gateway: &Gateway, options: &[&str]) -> Vec<Value> {
    let (code, text) = ask(gateway, &[&["audit", "search", "--json"], options].concat());
    assert_eq!(code, Some(0));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn on_a_terminal(gateway: &Gateway, words: &str, columns: usize) -> String {
    let words = format!("stty cols {columns} && {BINARY} {words} --config {}", gateway.config().display());
    let output = std::process::Command::new("script").args(["-qec", &words, "/dev/null"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Three deletions (deleted, refused, unknown), a dry run and a refusal.
fn history(gateway: &Gateway, provider: &Provider) {
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    provider.next(Reply::Json(404, "{}"));
    assert_eq!(delete(gateway.listen, "/sess1/groups/2@g.us/picture", TOKEN).status, 404);
    provider.next(Reply::HangUp);
    assert_eq!(delete(gateway.listen, "/sess1/groups/3@g.us/picture", TOKEN).status, 504);
    assert_eq!(delete(gateway.listen, &format!("/dry-run{TARGET}"), TOKEN).status, 200);
    assert_eq!(delete(gateway.listen, "/sess2/groups/-4@g.us/picture", TOKEN).status, 403);
    eventually("all five are recorded", || rows(gateway, &[]).len() == 5);
}

#[test]
fn search_show_and_stats_say_the_same_beside_a_gateway_and_without_one() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    history(&gateway, &provider);
    for running in [true, false] {
        if !running {
            assert!(gateway.stop().success());
        }
        for (options, outcomes) in [
            (&["--decision", "allowed"][..], &["unknown", "refused", "deleted"][..]),
            (&["--decision", "refused"], &["refused-here"]),
            (&["--decision", "dry-run", "--session", "sess1"], &["dry-run"]),
            (&["--open"], &["unknown"]),
            (&["--open", "--until", "1h"], &[]),
            (&["--group", "2", "--caller", "moderation", "--since", "1h"], &["refused"]),
            (&["--outcome", "open"], &[]),
        ] {
            let found = rows(&gateway, options);
            assert_eq!(
                found.iter().map(|row| row["outcome"].as_str().unwrap()).collect::<Vec<_>>(),
                outcomes,
                "{options:?}"
            );
        }
        let (mut paged, mut before) = (Vec::new(), u64::MAX / 2);
        loop {
            let page = rows(&gateway, &["--limit", "2", "--before", &before.to_string()]);
            let Some(last) = page.last() else { break };
            before = last["seq"].as_u64().unwrap();
            paged.extend(page);
        }
        assert_eq!(paged, rows(&gateway, &[]));
        let unknown = rows(&gateway, &["--open"])[0]["request_id"].as_str().unwrap().to_uppercase();
        assert_eq!(ask(&gateway, &["audit", "show", &unknown, "--json"]).1.lines().count(), 2);
        let stats: Value = serde_json::from_str(ask(&gateway, &["audit", "stats", "--json"]).1.trim()).unwrap();
        for (word, count) in [
            ("deleted", 1),
            ("refused", 1),
            ("not-sent", 0),
            ("unknown", 1),
            ("open", 0),
            ("refused-here", 1),
            ("dry-run", 1),
        ] {
            assert_eq!(stats[word], count, "{word}: {stats}");
        }
        assert_eq!(stats["caller"], "moderation");
        assert!(ask(&gateway, &["audit", "stats"]).1.contains("refused-here"));
        assert_eq!(ask(&gateway, &["audit", "stats", "--json", "--until", "2020-01-01"]).1, "");
    }
}

#[test]
fn an_export_goes_on_where_another_one_ended_and_csv_loses_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    history(&gateway, &provider);
    let export = |options: &[&str]| ask(&gateway, &[&["audit", "export"], options].concat()).1;
    let whole = export(&[]);
    let first: String = whole.split_inclusive('\n').take(3).collect();
    assert_eq!(first + &export(&["--from", "3"]), whole);
    let csv = export(&["--format", "csv"]);
    assert!(csv.starts_with("seq,time,kind,request_id,caller,"), "{csv}");
    assert_eq!(csv.matches("\r\n").count(), whole.lines().count() + 1);
    assert!(csv.contains(",'-4@g.us,"), "a group that looks like a formula is a text: {csv}");
    let head: String = csv.split_inclusive("\r\n").take(4).collect();
    assert_eq!(head + &export(&["--format", "csv", "--from", "3", "--no-header"]), csv);
}

#[test]
fn search_data_are_filled_behind_the_commit_and_built_anew_only_while_nothing_serves() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    history(&gateway, &provider);
    let expected = rows(&gateway, &[]);
    let search = gateway.folder.path().join("ledger/search.db");
    eventually("the follower has taken every entry", || {
        get(gateway.ops, "/metrics").body.contains("wasend_gateway_follower_behind 0\n")
    });
    assert!(search.exists());
    let held = command(&["audit", "reindex"], &gateway.config());
    assert_eq!(held.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&held.stderr).contains(&gateway.process_id().to_string()));
    assert!(gateway.stop().success());
    for damage in [&b"not a database at all"[..], b""] {
        std::fs::write(&search, damage).unwrap();
        assert_eq!(rows(&gateway, &[]), expected, "without usable search data the answer is the same");
        assert_eq!(ask(&gateway, &["audit", "reindex", "--json"]).0, Some(0));
        assert_eq!(rows(&gateway, &[]), expected);
    }
    std::fs::write(&search, "not a database at all").unwrap();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    eventually("it builds them anew", || std::fs::read(&search).is_ok_and(|bytes| bytes.starts_with(b"SQLite")));
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert_eq!(rows(&again, &[]).len(), expected.len() + 1);
}

#[test]
fn tail_is_a_table_on_a_terminal_and_json_in_a_pipe() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    history(&gateway, &provider);
    assert!(command(&["freeze", "--session", "sess7", "--reason", "a drill"], &gateway.config()).status.success());
    assert!(gateway.stop().success());
    let (_, piped) = ask(&gateway, &["audit", "tail", "-n", "3"]);
    assert_eq!(piped.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(), 3, "{piped}");
    let tail = |options: &str| on_a_terminal(&gateway, &format!("audit tail -n 100 {options}"), 200);
    let table = tail("");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].split_whitespace().eq(["seq", "time", "(UTC)", "kind", "caller", "what"]), "{table}");
    assert!(lines.iter().any(|line| line.contains("intent") && line.contains("moderation") && line.contains("2@g.us")));
    assert!(lines.iter().any(|line| line.contains("outcome") && line.contains("refused 404")), "{table}");
    let freeze = lines.iter().find(|line| line.contains(" freeze "));
    assert!(freeze.is_some_and(|line| line.contains("session sess7 uid ") && line.contains("a drill")), "{table}");
    assert!(!table.contains('{') && !table.contains("\u{1b}"), "{table}");
    assert!(tail("--json").lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn show_shows_an_entry_that_belongs_to_no_request_and_search_takes_an_id_in_capitals() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    let (code, words) = ask(&gateway, &["audit", "show", "0", "--json"]);
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(serde_json::from_str::<Value>(&words).unwrap(), gateway.entries()[0]);
    let (code, words) = ask(&gateway, &["audit", "show", "0"]);
    assert!(code == Some(0) && words.starts_with("entry 0\n") && words.contains("start"), "{words}");
    assert_eq!(ask(&gateway, &["audit", "show", "4000"]).0, Some(1));
    for id in [id.to_uppercase(), id] {
        assert_eq!(rows(&gateway, &["--request-id", &id]).len(), 1, "{id}");
    }
}

#[test]
fn a_filter_that_can_fit_nothing_is_a_fault_of_usage_and_not_an_answer() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    history(&gateway, &provider);
    for wrong in [
        &["--group", "120363000000000001%40g.us"][..],
        &["--group", "1*"],
        &["--session", "sess1/"],
        &["--caller", "mode ration"],
        &["--request-id", "01a21379"],
        &["--limit", "0"],
        &["--since", "1h", "--until", "2h"],
        &["--since", "2026-01-02", "--until", "2026-01-02"],
    ] {
        let output = command(&[&["audit", "search"], wrong].concat(), &gateway.config());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{wrong:?} {said}");
    }
    let stats = ["audit", "stats", "--since", "1d", "--until", "2d"];
    assert_eq!(ask(&gateway, &stats).0, Some(64));
    assert_eq!(ask(&gateway, &["audit", "export", "--json", "--format", "csv"]).0, Some(64));
    assert_eq!(ask(&gateway, &["audit", "search", "--caller", "nobody"]), (Some(0), "nothing found\n".into()));
    let output = command(&["audit", "search", "--log", "7"], &gateway.config());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(69) && !said.contains("serve"), "{said}");
}

#[test]
fn a_table_says_in_which_zone_its_times_are() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    history(&gateway, &provider);
    let (_, table) = ask(&gateway, &["audit", "search"]);
    let head = table.lines().nth(1).unwrap_or_default();
    assert!(head.contains("time (UTC)"), "{table}");
}

#[test]
fn one_long_id_that_anybody_may_send_does_not_spoil_the_table_for_the_others() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let usual = "491701234567-1234567890@g.us";
    assert_eq!(delete(gateway.listen, &format!("/sess1/groups/{usual}/picture"), TOKEN).status, 200);
    let long = format!("/{}/groups/{}@g.us/picture", "s".repeat(64), "g".repeat(64));
    assert_eq!(delete(gateway.listen, &long, "canary-wrong").status, 401);
    eventually("both are recorded", || rows(&gateway, &[]).len() == 2);
    for columns in [80, 100, 150, 200] {
        let table = on_a_terminal(&gateway, "audit search", columns);
        assert!(table.lines().all(|line| line.trim_end().chars().count() <= columns), "{columns} {table}");
        assert!(table.contains(usual), "{columns} {table}");
    }
}
