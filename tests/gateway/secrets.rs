//! Promise 6: no secret is in what the process writes, and the key goes to the configured host alone.

use crate::cluster::Cluster;
use crate::crash::FAILPOINTS;
use crate::operators::{ALICE, BOB, ask, bearer, operator};
use crate::provider::{Provider, Reply};
use crate::redis::{PASSWORD, Redis};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::searched::Written;
use crate::signed::{ISSUER, JWT, Signer, publish};
use crate::wire::{delete, delete_with, exchange, get};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Looks different in every encoding.
const KEY: &str = "canary/Key+of=the~provider%2f000";
const STRANGER: &str = "canary-token-of-another-service";

/// Callers by token and by signed token, operators, and rates in Redis.
fn everything(provider: &Provider, format: &str) -> String {
    let staff = operator("alice", "operator", ALICE) + &operator("bob", "auditor", BOB);
    let limits = "kind = \"redis\"\nurl_file = \"redis-url\"\ntimeout_ms = 5000\n";
    let sections = [("ops", &*staff), ("limits", limits), ("ledger", "origin = \"gateway.example/log\"")];
    let signed = caller("signed", "canary-none", JWT);
    let signed: String = signed.lines().filter(|line| !line.starts_with("tokens")).map(|l| format!("{l}\n")).collect();
    let issuer = format!(
        "[[identity.issuers]]\nname = \"cluster\"\nissuer = \"{ISSUER}\"\naudience = \"wasend-gateway\"\njwks_file = \"jwks.json\"\n"
    );
    let callers = caller("moderation", TOKEN, "") + &signed + &issuer;
    configuration(&provider.url(), &sections, &callers)
        + &format!("[log]\nlevel = \"debug\"\nformat = \"{format}\"\n[reload]\nwatch = false\n")
}

/// Answers that repeat what they were asked with, and every kind of failure.
fn replies(elsewhere: &Provider) -> Vec<Reply> {
    let echo = |status: u16, field: &str| {
        let body = format!("{{\"success\": {}, \"{field}\": \"{KEY} and Bearer {KEY}\"}}", status == 200);
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\nX-Key: {KEY}\r\nWWW-Authenticate: {KEY}\r\nContent-Length: {length}");
        Reply::Raw(format!("{head}\r\n\r\n{body}").into_bytes())
    };
    let redirect = format!("HTTP/1.1 307 X\r\nLocation: {}/x\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let mut replies: Vec<Reply> = [200, 400, 401, 403, 404, 500, 503].map(|status| echo(status, "message")).into();
    replies.extend([echo(403, "error"), Reply::Raw(redirect.into_bytes()), Reply::HangUp]);
    replies.push(Reply::RawThenClose(format!("{KEY}\r\n\r\n").into_bytes()));
    // After it nothing is sent for a while.
    replies.push(echo(429, "message"));
    replies
}

/// Requests with secrets in the right places and in wrong ones.
fn knock(gateway: &Gateway, jwt: &str, written: &mut Written) {
    for token in [jwt, STRANGER, ALICE, &jwt[..jwt.len() - 4], KEY] {
        written.answer("a token", &delete(gateway.listen, TARGET, token));
    }
    for fields in [
        bearer(TOKEN) + &bearer(ALICE),
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("u:{STRANGER}"))),
        format!("Authorization: {TOKEN}\r\n"),
        format!("X-Api-Key: {STRANGER}\r\nProxy-Authorization: Bearer {TOKEN}\r\nCookie: t={TOKEN}\r\n"),
        format!("Authorization: Bearer {TOKEN}\r\n {ALICE}\r\n"),
        format!("Authorization : Bearer {TOKEN}\r\n"),
        format!("{}Authorization\x01{TOKEN}: x\r\n", bearer(TOKEN)),
        format!("{}X-Dry-Run: {STRANGER}\r\n", bearer(TOKEN)),
        format!("{}Content-Length: {STRANGER}\r\n", bearer(TOKEN)),
    ] {
        written.answer(&format!("{fields:?}"), &delete_with(gateway.listen, TARGET, &fields));
    }
    for target in [format!("{TARGET}?token={TOKEN}"), format!("/{TOKEN}"), format!("http://u:{TOKEN}@gw{TARGET}")] {
        written.answer("a wrong target", &delete(gateway.listen, &target, TOKEN));
    }
    for path in ["/livez", "/readyz", "/metrics", "/nothing", "/log/checkpoint", "/api/v1/status", "/api/v1/freezes"] {
        for token in ["", ALICE, BOB, TOKEN, KEY, STRANGER] {
            written.answer(path, &ask(gateway.ops, "GET", path, &bearer(token)));
        }
        written.answer(path, &get(gateway.ops, &format!("{path}?token={ALICE}")));
    }
    let odd = format!("{KEY} {TOKEN} {ALICE}\r\n\r\n");
    for port in [gateway.listen, gateway.ops] {
        exchange(port, odd.as_bytes(), 1).iter().for_each(|answer| written.answer("no request", answer));
    }
}

/// Files that hold secrets are broken, and read again.
fn spoil(gateway: &Gateway, text: &str) {
    let folder = gateway.folder.path();
    let reload = |said: &str| {
        let before = gateway.log().matches(said).count();
        gateway.signal("HUP");
        eventually(said, || gateway.log().matches(said).count() > before);
    };
    std::fs::write(folder.join("key"), format!("{KEY}\n{KEY}\n")).unwrap();
    reload("holds more than a key");
    std::fs::write(folder.join("key"), format!("{KEY}\n")).unwrap();
    std::fs::write(folder.join("redis-url"), format!("redis://:{PASSWORD}@redis.example/{PASSWORD}")).unwrap();
    for line in [format!("api_key = {KEY}"), format!("[callers.{TOKEN}\n"), format!("api_key = \"{KEY}\"\n")] {
        std::fs::write(gateway.config(), format!("{text}{line}\n")).unwrap();
        reload("was not reloaded");
    }
    std::fs::write(gateway.config(), text).unwrap();
}

/// The configuration and the ledger, asked by every command.
fn commands(gateway: &Gateway, written: &mut Written) {
    for words in [
        &["check-config"][..],
        &["explain", "--caller", "moderation", "--session", "sess1", "--group", "1@g.us"],
        &["policy", "show"],
        &["freeze", "--all", "--reason", "a drill"],
        &["status"],
        &["unfreeze", "--all", "--reason", "over"],
        &["audit", "search"],
        &["audit", "export"],
        &["audit", "stats"],
        &["audit", "verify"],
        &["audit", "checkpoint", "--vkey"],
    ] {
        let output = command(words, &gateway.config());
        assert_ne!(output.status.code(), Some(64), "{words:?} is not understood");
        written.output(words, &output);
    }
}

/// The secret half of the ledger's signing key: as it stands in its file, and its bytes.
fn signing_key(folder: &Path) -> [(&'static str, Vec<u8>); 2] {
    let line = std::fs::read_to_string(folder.join("ledger/signing-key")).unwrap();
    // `PRIVATE+KEY+name+id+base64`, and base64 may hold a `+` too.
    let encoded = line.trim().splitn(5, '+').last().unwrap();
    // The first byte names the algorithm.
    let seed = STANDARD.decode(encoded).unwrap().split_off(1);
    [("the signing key's line", encoded.as_bytes().to_vec()), ("the signing key", seed)]
}

#[test]
fn no_secret_is_written_anywhere() {
    let redis = Redis::start();
    let signer = Signer::new("k1");
    let jwt = signer.token(&serde_json::json!({}));
    for format in ["json", "text"] {
        let (provider, elsewhere) = (Provider::start(), Provider::start());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
        std::fs::write(folder.path().join("redis-url"), redis.url()).unwrap();
        publish(folder.path(), &[signer.jwk()]);
        let text = everything(&provider, format);
        let mut gateway = Gateway::in_folder(folder, &text, &[(FAILPOINTS, "send=panic")]);

        let mut written = Written::default();
        written.answer("a panic", &delete(gateway.listen, TARGET, TOKEN));
        assert_eq!(delete(gateway.listen, TARGET, &jwt).status, 200, "the signed token is good");
        for reply in replies(&elsewhere) {
            provider.next(reply);
            written.answer("what the provider says", &delete(gateway.listen, TARGET, TOKEN));
        }
        assert!(provider.heads().iter().all(|head| head.contains(&format!("Bearer {KEY}\r\n"))), "with the key");
        knock(&gateway, &jwt, &mut written);
        commands(&gateway, &mut written);
        spoil(&gateway, &text);
        for file in ["cmdline", "environ"] {
            written.add(file, std::fs::read(format!("/proc/{}/{file}", gateway.process_id())).unwrap());
        }
        assert!(gateway.stop().success());
        written.add("the log", gateway.log());
        written.folder(gateway.folder.path(), &["key", "redis-url", "signing-key", "gateway.toml"]);

        let mut secrets = signing_key(gateway.folder.path()).to_vec();
        for secret in [KEY, TOKEN, STRANGER, ALICE, BOB, PASSWORD] {
            secrets.push((secret, secret.as_bytes().to_vec()));
        }
        let signature = jwt.rsplit('.').next().unwrap();
        secrets.extend([("the signed token", jwt.clone().into_bytes()), ("its signature", signature.into())]);
        written.hold(&secrets);
        for (place, text) in [
            ("the log", "upstream-credentials-refused"),
            ("the log", "panicked"),
            ("the log", "is not TOML"),
            ("ledger.db", "upstream-refused"),
            ("what the provider says", "*** and Bearer ***"),
            ("/metrics", "wasend_gateway_"),
            ("cmdline", "serve"),
        ] {
            assert!(written.has(place, text), "{place} was not searched: {text}");
        }
        assert_eq!(elsewhere.bytes(), 0, "a redirect was followed");
    }
}

#[test]
fn the_password_of_the_database_is_written_nowhere() {
    let mut cluster = Cluster::of(1);
    let mut written = Written::default();
    let mut replica = cluster.replicas.pop().unwrap();
    written.answer("a deletion", &delete(replica.listen, TARGET, TOKEN));
    for running in [true, false] {
        if !running {
            cluster.database.stop("QUIT");
            written.answer("a deletion without a database", &delete(replica.listen, TARGET, TOKEN));
        }
        for words in [&["check-config"][..], &["status"], &["audit", "search"]] {
            written.output(words, &command(words, &cluster.config()));
        }
    }
    written.answer("readiness", &get(replica.ops, "/readyz"));
    replica.kill();
    written.add("the log", replica.log());
    assert!(written.has("without a database", "ledger-unavailable") && written.has("the log", "ready"), "not searched");
    written.hold(&[("the password", b"canary-password".to_vec())]);
}

/// Where a traced call sent its bytes: what stands between `<` and `>` behind the descriptor.
fn destination(line: &str) -> &str {
    line.split_once('<').and_then(|(_, rest)| rest.split_once(">,")).map_or("", |(socket, _)| socket)
}

#[test]
fn the_key_is_written_to_sockets_of_the_configured_host_alone() {
    let (provider, elsewhere, redis) = (Provider::start(), Provider::start(), Redis::start());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
    std::fs::write(folder.path().join("redis-url"), redis.url()).unwrap();
    publish(folder.path(), &[Signer::new("k1").jwk()]);
    let trace = folder.path().join("strace");
    // Whatever sends or writes; what is read from callers is not.
    let calls = "trace=connect,sendto,sendmsg,sendmmsg,write,writev,pwrite64,pwritev,pwritev2,sendfile";
    let strace = ["strace", "-D", "-f", "-yy", "-s", "65536", "-e", calls, "-o", trace.to_str().unwrap()];
    let proxies = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"];
    let proxies = proxies.map(|name| (name, elsewhere.url()));
    let environment: Vec<_> = proxies.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let mut gateway = Gateway::attempt(folder, &everything(&provider, "json"), &environment, &strace)
        .unwrap_or_else(|(_, log)| panic!("not ready: {log}"));
    for reply in replies(&elsewhere) {
        provider.next(reply);
        delete(gateway.listen, TARGET, TOKEN);
    }
    for token in [STRANGER, ALICE, KEY] {
        delete(gateway.listen, TARGET, token);
        ask(gateway.ops, "GET", "/api/v1/status", &bearer(token));
    }
    assert!(gateway.stop().success());

    let log = std::fs::read_to_string(&trace).unwrap();
    let (host, port) = (provider.url().replace("http://", "->"), provider.url().rsplit(':').next().unwrap().to_owned());
    let (mut to_provider, mut to_redis, mut to_others) = (String::new(), String::new(), String::new());
    for line in log.lines() {
        let socket = destination(line);
        let place = if socket.ends_with(&format!("{host}]")) {
            &mut to_provider
        } else if socket.starts_with("UNIX") {
            &mut to_redis
        } else {
            &mut to_others
        };
        place.extend([line, "\n"]);
        let is_connection = line.contains("connect(") && line.contains("sin_port");
        assert!(!is_connection || line.contains(&format!("htons({port})")), "another connection: {line}");
    }
    let (keys, passwords) = (to_provider.matches(KEY).count(), to_redis.matches(PASSWORD).count());
    let tokens: [(&str, Vec<u8>); 3] =
        [("a token", TOKEN.into()), ("another's token", STRANGER.into()), ("alice's", ALICE.into())];
    let (key, password) = (("the key", KEY.into()), ("the password", PASSWORD.into()));
    for (place, text, own) in [
        ("the provider's sockets", to_provider, vec![password.clone()]),
        ("redis's socket", to_redis, vec![key.clone()]),
        ("what else is written", to_others, vec![key, password]),
    ] {
        let mut written = Written::default();
        written.add(place, text);
        written.hold(&[&tokens[..], &own[..]].concat());
    }
    // As many as there are replies; the last of them holds the next ones back.
    assert_eq!((keys, passwords > 0), (replies(&elsewhere).len(), true), "the trace was not searched");
    assert_eq!((elsewhere.bytes(), elsewhere.connections()), (0, 0), "a proxy or a redirect was asked");
}

/// Another user's words, where there is another user to be.
fn as_nobody() -> &'static [&'static str] {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root { &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] } else { &[] }
}

#[test]
fn the_memory_is_neither_read_by_the_same_user_nor_dumped() {
    let provider = Provider::start();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    // Where this user may run it.
    let binary = folder.path().join("wasend-gateway");
    std::fs::copy(BINARY, &binary).unwrap();
    std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
    if let [_, _, user, ..] = as_nobody() {
        let user: u32 = user.parse().unwrap();
        for path in [folder.path(), &folder.path().join("key")] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }
    // Dumps as large as they get, were there any; `$0` is the copy, `$1` the binary that it stands for.
    let start = format!("shift; ulimit -c unlimited; exec {} \"$0\" \"$@\"", as_nobody().join(" "));
    let wrapper = ["bash", "-c", &start, binary.to_str().unwrap()];
    let text = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
    let mut gateway =
        Gateway::attempt(folder, &text, &[], &wrapper).unwrap_or_else(|(_, log)| panic!("not ready: {log}"));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);

    let look = |file: &str| {
        let file = format!("/proc/{}/{file}", gateway.process_id());
        let head: &[&str] = &["head", "-c", "1", &file];
        let words = [as_nobody(), head].concat();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(look("cmdline").0, "what everybody may read is read");
    for file in ["environ", "mem", "maps"] {
        let (read, said) = look(file);
        assert!(!read && said.contains("Permission denied"), "{file}: {said}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.process_id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    gateway.signal("ABRT");
    let ended = gateway.ended();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(6), false));
}

#[test]
fn a_secret_in_a_wrong_place_is_a_fault_that_does_not_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("gateway.toml");
    std::fs::write(folder.path().join("key"), "canary-provider-key-000").unwrap();
    let upstream = "[upstream]\napi_key_file = \"key\"\n";
    let ledger = "[ledger]\npath = \"ledger\"\n";
    let postgres = "[ledger]\nkind = \"postgres\"\nurl_file = \"url\"\nsigning_key_file = \"signing-key\"\n";
    let redis = "[limits]\nkind = \"redis\"\nurl_file = \"url\"\n";
    let tls = "[listen.tls]\ncertificate_file = \"url\"\nkey_file = \"url\"\n";
    let mut written = Written::default();
    let mut check = |text: &str, url: &str| {
        std::fs::write(&config, text).unwrap();
        std::fs::write(folder.path().join("url"), url).unwrap();
        let output = command(&["check-config"], &config);
        assert_eq!(output.status.code(), Some(64), "{text}{url}: {output:?}");
        written.output(&[text, "with", &url.replace(STRANGER, "***")], &output);
    };
    check(
        &format!("{upstream}{ledger}[[callers]]\nname = \"m\"\ntokens = [{{ id = \"a\", sha256 = \"{STRANGER}\" }}]"),
        "",
    );
    check(&format!("{upstream}api_key = \"{STRANGER}\"\n{ledger}"), "");
    check(&format!("{upstream}api_key = {STRANGER}\n{ledger}"), "");
    check(&format!("{upstream}{STRANGER}\n{ledger}"), "");
    check(&format!("{upstream}url = \"https://u:{STRANGER}@api.wasend.dev\"\n{ledger}"), "");
    check(&format!("{upstream}[ledger]\nkind = \"postgres\"\nurl = \"postgres://u:{STRANGER}@h/l\"\n"), "");
    check(&format!("{upstream}{ledger}[[ops.operators]]\nname = \"a\"\ntoken_sha256 = [\"{STRANGER}\"]\n"), "");
    check(&format!("{upstream}{ledger}{tls}"), &format!("-----BEGIN PRIVATE KEY-----\n{STRANGER}\n"));
    for url in [
        "",
        "postgres://u:P@h:99999/l",
        "postgres://u:P%zz@/l",
        "mysql://u:P@h/l",
        "host=h password=P",
        "postgres://u:P@h/l?x=P",
    ] {
        check(&format!("{upstream}{postgres}"), &url.replace('P', STRANGER));
    }
    for url in [
        "",
        "redis://u:P@h:99999/0",
        "rediss://u:P%zz@/0",
        "http://u:P@h/0",
        "redis+unix:///x?pass=P&db=P",
        "redis://:P@192.0.2.1/0",
    ] {
        check(&format!("{upstream}{ledger}{redis}"), &url.replace('P', STRANGER));
    }
    // The lines that were checked are names of places here, and not searched.
    written.hold(&[("the secret", STRANGER.into())]);
}
