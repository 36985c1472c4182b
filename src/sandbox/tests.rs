//! The sandbox over real sockets: each behaviour, what becomes of the picture, and what is told about it.

use super::{Sandbox, Seen};
use crate::secret::Secret;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const KEY: &str = "canary-provider-key-000";
const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox on a port of its own, and the lines that it told.
struct Stand {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
    stop: oneshot::Sender<()>,
    server: JoinSet<()>,
}

/// One response, or the lack of one.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Stand {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&lines);
        let tell = move |seen: &Seen| told.lock().unwrap().push(serde_json::to_string(seen).unwrap());
        let sandbox = Sandbox::new(Secret::new(String::from(KEY)), tell);
        let (stop, stopped) = oneshot::channel::<()>();
        let mut server = JoinSet::new();
        server.spawn(Arc::new(sandbox).serve(listener, async {
            let _ = stopped.await;
        }));
        Self { address, lines, stop, server }
    }

    async fn open(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends the bytes on a connection of their own and returns what comes until it ends.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.open().await;
        // A connection that is hung up on may be gone before all is written.
        let _ = stream.write_all(request.as_bytes()).await;
        rest(&mut stream).await
    }

    async fn send(&self, method: &str, path: &str, fields: &str, body: &str) -> Got {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: s\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        );
        let text = self.raw(&request).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        if !text.is_empty() {
            assert!(head.contains("x-sandbox: nothing-real-happened"), "{text}");
        }
        let status = head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
        Got { status, head: String::from(head), body: String::from(body) }
    }

    /// Sends it with the key, for session `s1`.
    async fn group(&self, method: &str, group: &str, body: &str) -> Got {
        let path = format!("/s1/groups/{group}/picture");
        self.send(method, &path, &format!("Authorization: Bearer {KEY}\r\n"), body).await
    }

    async fn delete(&self, group: &str) -> Got {
        self.group("DELETE", group, "").await
    }

    async fn has_picture(&self, group: &str) -> bool {
        let got = self.group("GET", group, "").await;
        assert!(got.status == 200 || got.status == 404, "{got:?}");
        got.status == 200
    }

    async fn order(&self, order: &Value) -> Got {
        self.send("POST", "/_sandbox/next", "", &order.to_string()).await
    }

    async fn seen(&self) -> Vec<Value> {
        let got = self.send("GET", "/_sandbox/seen", "", "").await;
        serde_json::from_str(&got.body).unwrap()
    }
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What still comes until the connection ends, by a reset too.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    String::from_utf8(bytes).unwrap()
}

const NEW_PICTURE: &str = r#"{"url":"https://example.org/a.png","format":"png","cropToSquare":true}"#;

#[tokio::test]
async fn a_group_has_a_picture_until_it_is_deleted_and_again_once_it_is_set() {
    let stand = Stand::start().await;
    let picture = stand.group("GET", "g1?refresh=true", "").await;
    assert_eq!(picture.status, 404, "the query belongs behind the route");
    let picture =
        stand.send("GET", "/s1/groups/g1/picture?refresh=true", &format!("Authorization: Bearer {KEY}\r\n"), "").await;
    let expected = json!({"url": "https://sandbox.invalid/s1/g1.jpg", "type": "image/jpeg", "size": 12345});
    assert_eq!(picture.json(), json!({"success": true, "picture": expected}));

    let deleted = stand.delete("g1").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (200, r#"{"success": true}"#));
    let again = stand.delete("g1").await;
    assert_eq!((again.status, again.json()["success"].clone()), (404, json!(false)));
    assert!(again.json()["message"].is_string() && !stand.has_picture("g1").await);

    assert_eq!(stand.group("PUT", "g1", NEW_PICTURE).await.status, 200);
    assert!(stand.has_picture("g1").await);
    assert_eq!(stand.delete("g1").await.status, 200);
}

#[tokio::test]
async fn all_spellings_of_a_group_are_one_group_and_sessions_are_apart() {
    let stand = Stand::start().await;
    assert_eq!(stand.delete("123-4@g.us").await.status, 200);
    for spelling in ["123-4", "123-4@g.us", "123-4%40g.us"] {
        assert!(!stand.has_picture(spelling).await, "{spelling}");
    }
    let other = stand.send("GET", "/s2/groups/123-4/picture", &format!("Authorization: Bearer {KEY}\r\n"), "").await;
    assert_eq!(other.status, 200);
}

#[tokio::test]
async fn nobody_without_exactly_the_one_key_is_let_in() {
    let stand = Stand::start().await;
    let once = format!("Authorization: Bearer {KEY}\r\n");
    let cases = [
        (String::new(), "missing"),
        (format!("X-Api-Key: {KEY}\r\n"), "missing"),
        (once.repeat(2), "wrong"),
        (format!("Authorization: {KEY}\r\n"), "wrong"),
        (format!("Authorization: bearer {KEY}\r\n"), "wrong"),
        (format!("Authorization: Bearer {KEY}0\r\n"), "wrong"),
        (String::from("Authorization: Bearer \r\n"), "wrong"),
    ];
    for (fields, worth) in cases {
        for group in ["g1", "hang-up-lost"] {
            let got = stand.send("DELETE", &format!("/s1/groups/{group}/picture"), &fields, "").await;
            assert_eq!((got.status, got.json()["success"].clone()), (401, json!(false)), "{fields}");
            assert_eq!(stand.seen().await.last().unwrap()["authorization"], worth, "{fields}");
        }
    }
    assert!(stand.has_picture("g1").await);
    assert_eq!(stand.seen().await.last().unwrap()["authorization"], "ok");
}

#[tokio::test]
async fn what_is_not_the_route_is_refused() {
    let stand = Stand::start().await;
    for bad in ["", "..", "1%2f2", "1@c.us", "1@g.us@evil", "1%40%40g.us", &"x".repeat(65)] {
        let got = stand.delete(bad).await;
        assert_eq!((got.status, got.json()["success"].clone()), (400, json!(false)), "{bad}");
    }
    let fields = format!("Authorization: Bearer {KEY}\r\n");
    for other in ["/", "/s1/groups/1", "/s1/groups/1/picture/", "/a/s1/groups/1/picture", "/s1/groups/a/b/picture"] {
        assert_eq!(stand.send("DELETE", other, &fields, "").await.status, 404, "{other}");
    }
    let got = stand.group("POST", "g1", "").await;
    assert!(got.status == 405 && got.head.contains("allow: GET, PUT, DELETE"), "{got:?}");
    assert_eq!(stand.seen().await.len(), 13, "a stray request is seen, too");
}

#[tokio::test]
async fn a_new_picture_is_read_before_it_is_believed() {
    let stand = Stand::start().await;
    stand.delete("g1").await;
    let bad = ["", "{}", r#"{"url":"file:///a"}"#, r#"{"url":"https://e.org/a","format":"gif"}"#, r#"{"url":1}"#];
    for body in bad {
        assert_eq!(stand.group("PUT", "g1", body).await.status, 400, "{body}");
    }
    let large = format!(r#"{{"url":"https://e.org/{}"}}"#, "x".repeat(64 * 1024));
    assert_eq!(stand.group("PUT", "g1", &large).await.status, 413);
    assert!(!stand.has_picture("g1").await);
}

#[tokio::test]
async fn a_group_id_orders_any_of_the_statuses() {
    let stand = Stand::start().await;
    for status in [202, 204, 400, 401, 403, 404, 429, 500, 502, 503] {
        let group = format!("answer-{status}-a@g.us");
        let got = stand.delete(&group).await;
        assert_eq!(got.status, status);
        assert_eq!(got.head.contains("retry-after: 7"), status == 429, "{got:?}");
        assert_eq!(got.body.is_empty(), status == 204, "{got:?}");
        assert!(stand.has_picture(&group).await, "{status}");
        let delete = stand.seen().await.into_iter().rfind(|seen| seen["method"] == "DELETE").unwrap();
        assert_eq!(
            (delete["answer"].clone(), delete["behaviour"].clone()),
            (json!(status), json!(format!("answer-{status}")))
        );
    }
}

#[tokio::test]
async fn a_group_id_orders_answers_that_confirm_nothing() {
    let stand = Stand::start().await;
    let refused = stand.delete("answer-false").await;
    assert_eq!((refused.status, refused.json()), (200, json!({"success": false})));
    assert!(stand.has_picture("answer-false").await);

    let redirect = stand.delete("answer-redirect").await;
    assert!(redirect.status == 307 && redirect.head.contains("location: /redirected/groups/redirected/picture"));
    assert!(stand.has_picture("answer-redirect").await);

    let garbage = stand.delete("answer-garbage").await;
    assert!(garbage.status == 200 && serde_json::from_str::<Value>(&garbage.body).is_err(), "{garbage:?}");
    assert!(stand.has_picture("answer-garbage").await);

    let cut = stand.delete("cut-body").await;
    let announced = cut.head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!((cut.status, cut.body.as_str()), (200, r#"{"success":"#));
    assert!(announced.parse::<usize>().unwrap() > cut.body.len());
    assert!(!stand.has_picture("cut-body").await);
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_tells_nothing_of_the_picture() {
    let stand = Stand::start().await;
    for (group, stays) in [("hang-up-after-reading", false), ("hang-up-lost-1@g.us", true)] {
        let got = stand.delete(group).await;
        assert_eq!((got.status, got.head.len()), (0, 0), "{got:?}");
        assert_eq!(stand.has_picture(group).await, stays, "{group}");
    }
    assert_eq!(stand.seen().await[0]["answer"], "hang-up-after-reading");
}

#[tokio::test]
async fn a_slow_answer_is_late_and_the_picture_gone_at_once() {
    let stand = Stand::start().await;
    let got = stand.delete("slow-5").await;
    assert_eq!((got.status, got.json()), (200, json!({"success": true})));

    let mut waiting = stand.open().await;
    let request =
        format!("DELETE /s1/groups/slow-60000/picture HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    waiting.write_all(request.as_bytes()).await.unwrap();
    let gone = async {
        while stand.has_picture("slow-60000").await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the picture goes while the answer is waited for");
    let early = waiting.try_read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn orders_go_before_group_ids_and_wait_for_a_delete_with_the_key() {
    let stand = Stand::start().await;
    assert_eq!(stand.order(&json!({"behave": "answer-500", "times": 2})).await.status, 200);
    assert!(stand.has_picture("g1").await);
    assert_eq!(stand.send("DELETE", "/s1/groups/g1/picture", "", "").await.status, 401);
    for (group, status) in [("g1", 500), ("answer-403", 500), ("answer-403", 403), ("g1", 200)] {
        assert_eq!(stand.delete(group).await.status, status);
    }
}

#[tokio::test]
async fn an_unknown_order_is_answered_with_the_names_of_all() {
    let stand = Stand::start().await;
    let got = stand.order(&json!({"behave": "answer-418"})).await;
    assert_eq!((got.status, got.json()["success"].clone()), (400, json!(false)));
    assert_eq!(got.json()["behaviours"], json!(super::behaviour::names().collect::<Vec<_>>()));
    assert_eq!(stand.delete("g1").await.status, 200);
    assert_eq!(stand.send("GET", "/_sandbox/next", "", "").await.status, 405);
    assert_eq!(stand.send("POST", "/_sandbox/next", "", &"x".repeat(65 * 1024)).await.status, 413);
    assert_eq!(stand.seen().await.len(), 1, "control requests are not seen");
}

#[tokio::test]
async fn connections_end_before_they_are_read_as_often_as_ordered_and_idle_ones_too() {
    let stand = Stand::start().await;
    let request = format!("DELETE /s1/groups/g1/picture HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    let (mut idle, mut untouched, mut halfway) = (stand.open().await, stand.open().await, stand.open().await);
    idle.write_all(request.replace("DELETE", "GET").as_bytes()).await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    let (begin, end) = request.split_at(request.len() / 2);
    halfway.write_all(begin.as_bytes()).await.unwrap();

    assert_eq!(stand.order(&json!({"behave": "hang-up-before-reading", "times": 2})).await.status, 200);
    assert!(!rest(&mut idle).await.contains("HTTP/1.1"));
    assert_eq!(rest(&mut untouched).await, "");
    // A request that races with the end of its connection is not carried out either.
    let _ = halfway.write_all(end.as_bytes()).await;
    assert_eq!(rest(&mut halfway).await, "");
    for _ in 0..2 {
        assert_eq!(stand.raw(&request).await, "");
    }
    assert!(stand.has_picture("g1").await);
    let seen = stand.seen().await;
    let hung_up: Vec<_> = seen.iter().filter(|seen| seen["answer"] == "hang-up-before-reading").collect();
    assert!(hung_up.len() >= 2 && hung_up.iter().all(|seen| seen["method"].is_null()), "{seen:?}");
    assert!(seen.iter().all(|seen| seen["method"] != "DELETE"), "{seen:?}");
}

#[tokio::test]
async fn what_was_seen_is_names_and_never_the_key() {
    let stand = Stand::start().await;
    let fields = format!("Authorization: Bearer {KEY}\r\nX-Trace: {KEY}\r\nX-{KEY}: 1\r\n");
    let hidden = format!("/s1/groups/1/picture?key={}", KEY.to_ascii_uppercase());
    stand.send("DELETE", "/s1/groups/1@g.us/picture", &fields, "").await;
    stand.send(KEY, &hidden, &fields, KEY).await;
    stand.send("PUT", "/s1/groups/1/picture", &fields, &format!(r#"{{"url":"{KEY}"}}"#)).await;

    let seen = stand.seen().await;
    let expected = json!({
        "sandbox": true, "note": "nothing real happened", "method": "DELETE", "path": "/s1/groups/1@g.us/picture",
        "authorization": "ok", "answer": 200,
        "headers": ["host", "connection", "content-length", "authorization", "x-trace", "***"],
    });
    let mut first = seen[0].clone();
    let sorted = |value: &Value| {
        let mut names: Vec<String> = serde_json::from_value(value["headers"].clone()).unwrap();
        names.sort();
        names
    };
    assert_eq!(sorted(&first), sorted(&expected));
    first["headers"] = expected["headers"].clone();
    assert_eq!(first, expected);
    assert_eq!((seen[1]["method"].clone(), seen[1]["path"].clone()), (json!("***"), json!("***")));

    let lines = stand.lines.lock().unwrap().clone();
    assert_eq!(lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>(), seen);
    assert!(lines.iter().all(|line| !line.to_ascii_lowercase().contains(KEY)), "{lines:?}");
}

#[tokio::test]
async fn a_reset_brings_pictures_back_and_forgets_the_rest() {
    let stand = Stand::start().await;
    stand.delete("g1").await;
    for behaviour in ["answer-500", "hang-up-before-reading"] {
        stand.order(&json!({"behave": behaviour, "times": 1})).await;
    }
    assert_eq!(stand.raw("GET / HTTP/1.1\r\n\r\n").await, "");
    assert_eq!(stand.send("POST", "/_sandbox/reset", "", "").await.status, 200);
    assert_eq!(stand.seen().await, Vec::<Value>::new());
    assert!(stand.has_picture("g1").await);
    assert_eq!(stand.delete("g1").await.status, 200);
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_whatever_is_under_way() {
    let mut stand = Stand::start().await;
    let mut waiting = stand.open().await;
    let request =
        format!("DELETE /s1/groups/slow-60000/picture HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    waiting.write_all(request.as_bytes()).await.unwrap();
    stand.stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, stand.server.join_next()).await.expect("serve returns").unwrap().unwrap();
    assert_eq!(rest(&mut waiting).await, "");
    assert!(TcpStream::connect(stand.address).await.is_err());
}
