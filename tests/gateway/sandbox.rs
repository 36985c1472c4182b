//! The stand-in provider, through its own command: what it is told to do, and what it remembers.

use crate::running::{BINARY, Gateway, TOKEN, caller, configuration};
use crate::wire::{Response, delete, exchange};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

const KEY: &str = "canary-provider-key-000";

pub struct Sandbox {
    child: Child,
    pub address: SocketAddr,
    out: BufReader<std::process::ChildStdout>,
}

impl Sandbox {
    pub fn start() -> Self {
        let mut child = Command::new(BINARY)
            .args(["sandbox", "--listen", "127.0.0.1:0", "--api-key", KEY])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["note"], "nothing real happens here");
        Self { child, address: ready["listen"].as_str().unwrap().parse().unwrap(), out }
    }

    pub fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> Response {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(self.address, text.as_bytes(), 1).pop().expect("an answer")
    }

    fn picture(&self, group: &str) -> u16 {
        self.ask("GET", &format!("/sess1/groups/{group}/picture"), KEY, "").status
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_group_id_that_asks_for_a_fault_gets_it_through_the_gateway() {
    let mut sandbox = Sandbox::start();
    let gateway =
        Gateway::with(&configuration(&format!("http://{}", sandbox.address), &[], &caller("moderation", TOKEN, "")));
    // Group, the gateway's answer, and whether the picture is there afterwards.
    for (group, status, picture) in [
        ("120363000000000001@g.us", 200, 404),
        ("slow-300@g.us", 200, 404),
        ("answer-400@g.us", 400, 200),
        ("answer-401@g.us", 502, 200),
        ("answer-403@g.us", 403, 200),
        ("answer-404-x@g.us", 404, 200),
        ("answer-500@g.us", 500, 200),
        ("answer-503@g.us", 502, 200),
        ("answer-202@g.us", 502, 200),
        ("answer-204@g.us", 502, 200),
        ("answer-false@g.us", 502, 200),
        ("answer-garbage@g.us", 502, 200),
        ("answer-redirect@g.us", 502, 200),
        ("hang-up-lost@g.us", 504, 200),
        ("hang-up-after-reading@g.us", 504, 404),
        ("cut-body@g.us", 504, 404),
        ("answer-429@g.us", 429, 200),
    ] {
        assert_eq!(delete(gateway.listen, &format!("/sess1/groups/{group}/picture"), TOKEN).status, status, "{group}");
        assert_eq!(sandbox.picture(group), picture, "{group}");
        let mut line = String::new();
        sandbox.out.read_line(&mut line).unwrap();
        assert!(
            line.contains("nothing real happened") && line.contains("\"authorization\":\"ok\"") && !line.contains(KEY),
            "{line}"
        );
        line.clear();
        sandbox.out.read_line(&mut line).unwrap();
    }
}

#[test]
fn the_next_requests_can_be_told_what_to_get_and_connections_to_end_unread() {
    let sandbox = Sandbox::start();
    let gateway =
        Gateway::with(&configuration(&format!("http://{}", sandbox.address), &[], &caller("moderation", TOKEN, "")));
    let target = |number: u32| format!("/sess1/groups/{number}@g.us/picture");
    let tell = |behave: &str, times: u32| {
        sandbox.ask("POST", "/_sandbox/next", "", &format!("{{\"behave\": \"{behave}\", \"times\": {times}}}"))
    };
    assert_eq!(tell("answer-500", 2).status, 200);
    assert_eq!([1, 2, 3].map(|number| delete(gateway.listen, &target(number), TOKEN).status), [500, 500, 200]);
    let unknown = tell("dance", 1);
    assert!(unknown.status == 400 && unknown.body.contains("hang-up-before-reading"), "{unknown:?}");
    assert_eq!(tell("hang-up-before-reading", 1).status, 200);
    // Nothing was read, but that cannot be known from outside.
    assert_eq!(delete(gateway.listen, &target(4), TOKEN).code(), "outcome-unknown");
    assert_eq!((sandbox.picture("4"), delete(gateway.listen, &target(4), TOKEN).status), (200, 200));
    let seen = sandbox.ask("GET", "/_sandbox/seen", "", "");
    assert_eq!(
        seen.json().as_array().unwrap().iter().filter(|seen| seen["method"] == "DELETE").count(),
        4,
        "{}",
        seen.body
    );
    assert!(!seen.body.contains(KEY));
    sandbox.ask("POST", "/_sandbox/reset", "", "");
    assert_eq!(sandbox.picture("3"), 200);
}

#[test]
fn a_group_that_is_a_misspelt_switch_is_refused_with_those_that_there_are() {
    let sandbox = Sandbox::start();
    for group in ["answer-418@g.us", "slow-1s", "hang-up-before-reading"] {
        let answer = sandbox.ask("DELETE", &format!("/sess1/groups/{group}/picture"), KEY, "");
        assert!(answer.status == 400 && answer.body.contains("hang-up-lost"), "{group} {answer:?}");
        assert_eq!(sandbox.picture(group), 200, "{group}");
    }
    let mut nobody = Command::new("timeout");
    let nobody = nobody.args(["5", BINARY, "sandbox", "--listen", "127.0.0.1:0", "--api-key", ""]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(64), "an empty key would let nobody in");
}

#[test]
fn it_has_the_picture_routes_behind_its_key() {
    let sandbox = Sandbox::start();
    let path = "/sess1/groups/1@g.us/picture";
    assert_eq!(sandbox.ask("DELETE", path, "canary-wrong", "").status, 401);
    let answer = sandbox.ask("DELETE", path, KEY, "");
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("x-sandbox")),
        (200, "{\"success\": true}", Some("nothing-real-happened"))
    );
    assert_eq!((sandbox.picture("1"), sandbox.ask("DELETE", path, KEY, "").status), (404, 404));
    assert_eq!(sandbox.ask("PUT", path, KEY, "{}").status, 400);
    assert_eq!(
        sandbox.ask("PUT", path, KEY, "{\"url\": \"https://sandbox.invalid/a.jpg\", \"format\": \"jpeg\"}").status,
        200
    );
    assert_eq!((sandbox.picture("1"), sandbox.picture("1@g.us")), (200, 200));
    assert_eq!(sandbox.ask("DELETE", "/sess%31/groups/1/picture", KEY, "").status, 400);
}

#[test]
fn it_listens_on_a_loopback_address_alone() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8090"] {
        let mut child = Command::new("timeout")
            .args(["5", BINARY, "sandbox", "--listen", address, "--api-key", "canary-provider-key-000"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(64), "{address}");
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(said.contains("is not a loopback address"), "{said}");
    }
}
