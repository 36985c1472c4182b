//! Real clients, with nothing changed but base URL and key: the provider's published SDKs and the clients of
//! its page. `tests/setup.sh` installs their runtimes.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, configuration};
use std::path::{Path, PathBuf};
use std::process::Command;

const GROUP: &str = "120363000000000001@g.us";
/// The five calls that every client makes: key, session, group, then what must come of it.
pub const CALLS: [([&str; 3], u16, &str); 5] = [
    ([TOKEN, "sess1", GROUP], 200, ""),
    (["canary-token-wrong", "sess1", GROUP], 401, "the token is not known"),
    ([TOKEN, "sess2", GROUP], 403, "no rule allows"),
    ([TOKEN, "sess1", "120363000000000002@g.us"], 404, "Session or group not found"),
    ([TOKEN, "sess1", GROUP], 429, "the rate of caller `moderation`"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn work(name: &str) -> PathBuf {
    let path = folder().join(".work").join(name);
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

pub fn world() -> (Provider, Gateway) {
    let provider = Provider::start();
    provider.next(Reply::Json(200, "{\"success\": true}"));
    provider.next(Reply::Json(404, "{\"message\": \"Session or group not found\"}"));
    let callers = caller("moderation", TOKEN, "rates = [{ max = 2, per_s = 3600 }]");
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &callers));
    (provider, gateway)
}

/// The provider saw the first and the fourth call, each once, with the real key and nothing of the caller's.
pub fn seen(provider: &Provider) {
    let heads = provider.heads();
    assert_eq!(heads.len(), 2, "{heads:?}");
    for (head, target) in heads.iter().zip([TARGET, "/sess1/groups/120363000000000002@g.us/picture"]) {
        assert!(head.starts_with(&format!("DELETE {target} HTTP/1.1\r\n")), "{head}");
    }
    assert_eq!(provider.bytes(), heads.iter().map(String::len).sum::<usize>(), "heads alone, no body");
    for head in heads {
        assert!(head.contains(&format!("authorization: Bearer {KEY}\r\n")), "{head}");
        let head = head.to_lowercase();
        for theirs in [TOKEN, "user-agent", "upgrade", "http2-settings", "cookie", "content-type", "accept-encoding"] {
            assert!(!head.contains(theirs), "{theirs}: {head}");
        }
    }
}

/// A proxy in the environment of whoever runs the tests is none of the clients' business.
fn direct(program: &mut Command) -> &mut Command {
    program.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1")
}

fn said(program: &mut Command, base: &str, calls: &[[&str; 3]]) -> Vec<String> {
    let output = direct(program)
        .arg(base)
        .args(calls.concat())
        .env("JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION", "1")
        .output()
        .expect("the client runs");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), calls.len(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    lines
}

fn base(gateway: &Gateway) -> String {
    format!("http://{}", gateway.listen)
}

/// For clients that see status and body.
fn plain(program: &mut Command) {
    let (provider, gateway) = world();
    let lines = said(program, &base(&gateway), &CALLS.map(|(call, ..)| call));
    for (line, (_, status, message)) in lines.iter().zip(CALLS) {
        assert!(line.starts_with(&format!("{status} ")) && line.contains(message), "{line}");
    }
    seen(&provider);
}

/// For the SDKs, whose users see success or a message; and an id that would be another operation.
/// `tells` is how an error shows in this SDK: the Python one passes on the status, the JavaScript one our message.
fn sdk(program: impl Fn() -> Command, tells: impl Fn(u16, &str) -> String) {
    let (provider, gateway) = world();
    let lines = said(&mut program(), &base(&gateway), &CALLS.map(|(call, ..)| call));
    for (line, (_, status, message)) in lines.iter().zip(CALLS) {
        assert!(
            if status == 200 {
                line == "ok"
            } else {
                line.starts_with("error") && line.contains(&tells(status, message))
            },
            "{status} {line}"
        );
    }
    seen(&provider);
    let callers = caller("moderation", TOKEN, "");
    let (quiet, fresh) =
        (Provider::start(), |provider: &Provider| Gateway::with(&configuration(&provider.url(), &[], &callers)));
    let gateway = fresh(&quiet);
    let injected =
        said(&mut program(), &base(&gateway), &[[TOKEN, "sessions/abc#", GROUP], [TOKEN, "sess1/groups/x?", GROUP]]);
    assert!(injected.iter().all(|line| line.starts_with("error")), "{injected:?}");
    let dry = said(
        &mut program(),
        &format!("{}/dry-run", base(&gateway)),
        &[[TOKEN, "sess1", GROUP], [TOKEN, "sess2", GROUP]],
    );
    assert!(dry[0] == "ok" && dry[1].contains(&tells(403, "no rule allows")), "{dry:?}");
    assert_eq!(quiet.bytes(), 0);
}

fn node(script: &str) -> Command {
    work("node_modules");
    let mut node = Command::new("node");
    node.arg(folder().join(script));
    node
}

#[test]
fn the_python_sdk_deletes_through_the_gateway() {
    sdk(
        || {
            let mut python = Command::new(work("venv/bin/python"));
            python.arg(folder().join("sdk.py"));
            python
        },
        |status, _| format!("status code {status}"),
    );
}

#[test]
fn the_javascript_sdk_as_es_module_deletes_through_the_gateway() {
    sdk(|| node("sdk.mjs"), |_, message| message.to_owned());
}

#[test]
fn the_javascript_sdk_by_require_deletes_through_the_gateway() {
    sdk(|| node("sdk.cjs"), |_, message| message.to_owned());
}

#[test]
fn java_http_client_deletes_through_the_gateway() {
    plain(Command::new("java").arg(folder().join("Client.java")));
}

#[test]
fn php_curl_deletes_through_the_gateway() {
    plain(Command::new("php").arg(folder().join("client.php")));
}

#[test]
fn ruby_net_http_deletes_through_the_gateway() {
    plain(Command::new("ruby").arg(folder().join("client.rb")));
}

#[test]
fn go_net_http_deletes_through_the_gateway() {
    plain(&mut Command::new(work("go-client")));
}

#[test]
fn curl_deletes_through_the_gateway() {
    let (provider, gateway) = world();
    for ([key, session, group], status, message) in CALLS {
        let url = format!("{}/{session}/groups/{group}/picture", base(&gateway));
        let output = direct(&mut Command::new("curl"))
            .args(["-sS", "-X", "DELETE", &url, "-H", &format!("Authorization: Bearer {key}"), "-w", " %{http_code}"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.ends_with(&format!(" {status}")) && said.contains(message), "{said}");
    }
    seen(&provider);
}

#[test]
#[allow(clippy::disallowed_types, reason = "the client of the provider's page")]
fn rust_reqwest_deletes_through_the_gateway() {
    let (provider, gateway) = world();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        for ([key, session, group], status, message) in CALLS {
            let url = format!("{}/{session}/groups/{group}/picture", base(&gateway));
            let response = client.delete(&url).header("Authorization", format!("Bearer {key}")).send().await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            assert!(response.text().await.unwrap().contains(message));
        }
    });
    seen(&provider);
}
