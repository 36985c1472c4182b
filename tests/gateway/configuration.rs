//! A broken configuration never starts, and says everything that is wrong with it.

use crate::provider::Provider;
use crate::running::{BINARY, Gateway, KEY, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::{delete, get};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

fn check(text: &str, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    std::fs::write(folder.path().join("key"), "canary-provider-key-000").unwrap();
    let output = Command::new(BINARY)
        .args(["check-config", "--config"])
        .arg(&file)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn all_faults_are_reported_together_with_key_source_and_mend() {
    let text = "[listen]\naddress = \"nowhere\"\nport = 1\n[upstream]\nurl = \"http://api.wasend.dev\"\n[resolver]\nenabled = 1\ndelay_s = 0\nattempts = 101\nmethod = \"DELETE\"\n[[callers]]\nname = \"a b\"\ntokens = [{ id = \"t\", sha256 = \"abc\" }]\nrates = [{ max = 0, per_s = 1 }]\n[[callers.allow]]\nsessions = []\ngroups = [\"a/b\"]\n";
    let (status, said) = check(text, &[("WASEND_GATEWAY__OPS__ADDRESS", "x"), ("WASEND_GATEWAY__OPS__COLOUR", "red")]);
    assert_eq!(status, Some(64), "{said}");
    for part in [
        "listen.address",
        "listen.port",
        "is not a known key",
        "upstream.url",
        "upstream.api_key_file",
        "is missing",
        "ledger.path",
        "callers[0].name",
        "callers[0].tokens[0].sha256",
        "token new",
        "callers[0].rates[0].max",
        "callers[0].allow[0].sessions",
        "callers[0].allow[0].groups[0]",
        "ops.address (the environment)",
        "ops.colour (the environment)",
        "resolver.enabled",
        "resolver.delay_s",
        "resolver.attempts",
        "resolver.method",
        "gateway.toml",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn what_is_not_toml_or_not_there_is_said() {
    assert_eq!(check("[listen\n", &[]).0, Some(64));
    let output = Command::new(BINARY).args(["check-config", "--config", "/nonexistent/gateway.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(Command::new(BINARY).arg("undelete").output().unwrap().status.code(), Some(64));
}

#[test]
fn effective_values_are_shown_with_their_source_and_without_hashes() {
    let text = configuration("http://127.0.0.1:9", &[], &caller("moderation", TOKEN, ""));
    let (status, said) = check(&text, &[("WASEND_GATEWAY__LISTEN__MAX_REQUESTS", "7")]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("the environment") && said.contains("default") && said.contains("***"), "{said}");
    assert!(!said.contains(&crate::running::sha256(TOKEN)));
    assert!(said.contains("warning: limits.rates is empty"), "{said}");
}

#[test]
fn a_broken_configuration_or_key_never_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    for (text, key) in [("surprise = 1\n", "k"), ("", ""), ("", "a\nb")] {
        std::fs::write(
            &file,
            configuration("http://127.0.0.1:9", &[], &caller("moderation", TOKEN, "")).replacen(
                "[listen]",
                &format!("{text}[listen]"),
                1,
            ),
        )
        .unwrap();
        std::fs::write(folder.path().join("key"), key).unwrap();
        let output = command(&["serve"], &file);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(64), 0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_new_token_fits_its_hash_and_explain_agrees_with_the_gateway() {
    let output = String::from_utf8(Command::new(BINARY).args(["token", "new"]).output().unwrap().stdout).unwrap();
    let word = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let (token, hash) = (word("token"), word("sha256"));
    assert_eq!(crate::running::sha256(&token), hash);
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &caller("moderation", &token, "")));
    assert_eq!(delete(gateway.listen, TARGET, &token).status, 200);
    let explain = |session: &str| {
        let output = command(
            &["explain", "--caller", "moderation", "--session", session, "--group", "1@g.us"],
            &gateway.config(),
        );
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = explain("sess1");
    assert!(code == Some(0) && said.starts_with("allowed: rule moderation.allow[0] allows it\n"), "{said}");
    assert_eq!(explain("sess2").0, Some(1));
    assert_eq!(delete(gateway.listen, "/sess2/groups/1@g.us/picture", &token).status, 403);
}

#[test]
fn the_brake_reads_its_own_section_alone() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), text.replace("[ops]", "[ops]\nsurprise = 1")).unwrap();
    let output = command(&["audit", "export"], &gateway.config());
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("warning: ops.surprise"));
}

#[test]
fn the_example_runs_as_it_is_and_the_demo_goes_as_expected() {
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml");
    let output = command(&["check-config"], &example);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let demo = Command::new(BINARY).args(["demo", "--once"]).output().unwrap();
    let said = String::from_utf8(demo.stdout).unwrap();
    assert!(demo.status.success() && said.contains("All went as expected"), "{said}");
}

#[test]
fn a_demo_whose_terminal_is_closed_leaves_nothing_behind() {
    for signal in ["HUP", "TERM"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut demo = Command::new(BINARY);
        let mut demo = demo.arg("demo").env("TMPDIR", temporary.path()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
        let next = lines.skip_while(|line| !line.contains("It goes on running")).nth(2).unwrap();
        let ops = next.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
        assert!(TcpStream::connect(ops).is_ok(), "{next}");
        let told = Command::new("kill").arg(format!("-{signal}")).arg(demo.id().to_string()).status();
        assert!(told.unwrap().success());
        let ended = demo.wait().unwrap();
        assert!(TcpStream::connect(ops).is_err(), "{signal}: the gateway goes on, {ended}");
        assert_eq!((ended.code(), temporary.path().read_dir().unwrap().count()), (Some(0), 0), "{signal}");
    }
}

#[test]
fn a_demo_that_is_told_to_end_ends_at_once_whatever_it_waits_for() {
    for (stalled, signal) in [("recovery-begin=stall", "TERM"), ("accept=stall", "INT")] {
        let temporary = tempfile::tempdir().unwrap();
        let demo = Command::new(BINARY)
            .args(["demo", "--once"])
            .env("TMPDIR", temporary.path())
            .env(crate::crash::FAILPOINTS, stalled)
            .stdout(Stdio::null())
            .spawn();
        let (mut demo, mut children) = (demo.unwrap(), Vec::new());
        eventually("both have begun", || {
            let of = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.id())).unwrap();
            children = of.split_whitespace().map(|id| format!("/proc/{id}")).collect();
            children.len() == 2
        });
        let told = Command::new("kill").arg(format!("-{signal}")).arg(demo.id().to_string()).status();
        assert!(told.unwrap().success());
        let mut ended = None;
        eventually("it ends", || {
            ended = demo.try_wait().unwrap();
            ended.is_some()
        });
        assert!(!children.iter().any(|child| std::path::Path::new(child).exists()), "{stalled}: {children:?}");
        let left = temporary.path().read_dir().unwrap().count();
        assert_eq!((ended.unwrap().code(), left), (Some(1), 0), "{stalled}: not all was shown");
    }
}

#[test]
fn a_demo_goes_on_without_its_terminal_where_it_was_told_to() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = Command::new("sh");
    let words = format!("trap '' HUP; exec {BINARY} demo");
    let mut demo = demo.args(["-c", &words]).env("TMPDIR", temporary.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("It goes on running")));
    let status = std::fs::read_to_string(format!("/proc/{}/status", demo.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    let told = Command::new("kill").arg(demo.id().to_string()).status();
    assert!(told.unwrap().success() && demo.wait().unwrap().success());
    assert_eq!(ignored & 1, 1, "nohup says that HUP ends nothing");
}

#[test]
fn the_demo_fits_into_a_narrow_terminal() {
    let words = format!("stty cols 80 && {BINARY} demo --once");
    let output = Command::new("script").args(["-qec", &words, "/dev/null"]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("All went as expected"), "{said}");
    assert!(said.lines().all(|line| line.trim_end().chars().count() <= 80), "{said}");
}

#[test]
fn check_config_and_serve_name_every_file_that_is_missing_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    let sections = [
        ("upstream", "ca_file = \"none-ca.pem\""),
        ("listen", "[listen.tls]\ncertificate_file = \"none.pem\"\nkey_file = \"none.key\""),
    ];
    std::fs::write(&config, configuration("https://127.0.0.1:9", &sections, &caller("moderation", TOKEN, ""))).unwrap();
    for words in [["check-config"], ["serve"]] {
        let output = command(&words, &config);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        for key in ["upstream.api_key_file", "upstream.ca_file", "listen.tls"] {
            assert!(said.contains(key), "{words:?} {key}: {said}");
        }
    }
}

#[test]
fn a_key_that_cannot_be_read_leaves_the_old_one_and_a_removed_one_is_taken_away() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let key = gateway.folder.path().join("key");
    let reload = |said: &str| {
        gateway.signal("HUP");
        eventually(said, || gateway.log().contains(said));
    };
    std::fs::remove_file(&key).unwrap();
    // A pipe that nobody writes to would hold up whoever opens it.
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    let reasons = || {
        let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
        let ready = json(get(gateway.ops, "/readyz").body.as_bytes());
        let status = json(&command(&["status", "--json"], &gateway.config()).stdout);
        if status["serving"]["degraded"] != ready["reasons"] {
            return (ready["reasons"].clone(), status["serving"]["degraded"].clone());
        }
        (ready["status"].clone(), ready["reasons"][0].clone())
    };
    reload("the old one stays");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    eventually("it is told", || reasons() == ("degraded".into(), "key-not-reloaded".into()));
    std::fs::remove_file(&key).unwrap();
    std::fs::write(&key, "two\nlines\n").unwrap();
    gateway.signal("HUP");
    eventually("it is recorded each time", || gateway.of_kind("policy-refused").len() == 2);
    eventually("both say the same", || reasons() == ("degraded".into(), "key-not-reloaded".into()));
    std::fs::remove_file(&key).unwrap();
    reload("there is no key for the provider any more");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "key-unavailable");
    eventually("it is told", || reasons() == ("unready".into(), "key-unavailable".into()));
    let refused = gateway.of_kind("policy-refused");
    assert!(refused.iter().all(|entry| entry["faults"] == serde_json::json!(["upstream.api_key_file"])), "{refused:?}");
    let metrics = get(gateway.ops, "/metrics").body;
    assert!(metrics.contains("wasend_gateway_reloads_total{kind=\"refused\"} 3"), "{metrics}");
    std::fs::write(&key, KEY).unwrap();
    gateway.signal("HUP");
    eventually("it is ready again", || reasons() == ("ready".into(), serde_json::Value::Null));
}

#[test]
fn a_reload_names_the_keys_that_need_a_restart() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), text.replace("[listen]", "[listen]\nmax_requests = 7")).unwrap();
    gateway.signal("HUP");
    eventually("it is reloaded", || gateway.log().contains("callers and rates were reloaded"));
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("need a restart")).expect("a warning");
    assert!(line.contains("\"keys\":\"listen.max_requests\""), "{line}");
}

#[test]
fn too_few_open_files_are_a_clear_refusal_to_start_and_few_mean_fewer_connections() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let limited = |files: u32, ledger: &str| {
        let words = format!("ulimit -n {files}; exec \"$0\" serve --config \"$1\"");
        Command::new("sh")
            .args(["-c", &words, BINARY])
            .arg(gateway.config())
            .env("WASEND_GATEWAY__LEDGER__PATH", ledger)
            .output()
    };
    let output = limited(100, "other").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("100 open files are too few") && said.contains("ulimit -n"), "{said}");
    // Enough to start, so it goes on to the ledger, which is held.
    let output = limited(800, "ledger").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(
        said.contains("fewer connections than listen.max_connections") && said.contains("already writes"),
        "{said}"
    );
}

#[test]
fn the_ready_line_has_its_members_in_the_promised_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, configuration("http://127.0.0.1:9", &[], &caller("moderation", TOKEN, ""))).unwrap();
    std::fs::write(folder.path().join("key"), "canary-provider-key-000").unwrap();
    let serve = ["serve", "--config", config.to_str().unwrap()];
    let mut child = Command::new(BINARY).args(serve).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.starts_with("{\"ready\":true,\"listen\":\"127.0.0.1:"), "{line}");
    assert!(line.contains("\",\"ops\":\"127.0.0.1:") && line.ends_with("\"}\n"), "{line}");
}

#[test]
fn an_unknown_key_of_the_environment_is_said_to_be_of_the_environment() {
    let text = configuration("http://127.0.0.1:9", &[], &caller("moderation", TOKEN, ""));
    let (status, said) = check(&text, &[("WASEND_GATEWAY__NO__SUCH", "1"), ("WASEND_GATEWAY__SURPRISE", "1")]);
    assert_eq!(status, Some(64), "{said}");
    assert!(said.contains("no (the environment)") && said.contains("surprise (the environment)"), "{said}");
}

#[test]
fn the_help_says_what_each_exit_code_means_and_so_does_the_readme() {
    let help = std::process::Command::new(crate::running::BINARY).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for code in ["0", "1", "64", "69", "74", "75"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "{code}: {help}");
        assert!(readme.contains(&format!("\n| {code} | ")), "{code}");
    }
}
