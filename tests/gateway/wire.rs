//! HTTP/1.1 as bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let same = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(same).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn sent(&self) -> String {
        self.json()["sent"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Reads one response by its `Content-Length`; `None` at the end of the connection.
pub fn response(stream: &mut impl Read) -> Option<Response> {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        // Goes on after a signal, as that of a child which has ended.
        if stream.read_exact(&mut one).is_err() {
            assert!(bytes.is_empty(), "cut: {:?}", String::from_utf8_lossy(&bytes));
            return None;
        }
        bytes.push(one[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let mut response = Response { status: head[9..12].parse().unwrap(), head, body: String::new() };
    let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    response.body = String::from_utf8(body).unwrap();
    Some(response)
}

/// Sends bytes and reads all responses until the connection ends or has answered `count` times.
pub fn exchange(to: SocketAddr, bytes: &[u8], count: usize) -> Vec<Response> {
    let mut stream = connect(to);
    // A refusal may close while the rest is still being sent.
    let _ = stream.write_all(bytes);
    (0..count).map_while(|_| response(&mut stream)).collect()
}

pub fn request(target: &str, fields: &str) -> String {
    format!("DELETE {target} HTTP/1.1\r\nHost: gw\r\n{fields}\r\n")
}

/// One DELETE with a token.
pub fn delete(to: SocketAddr, target: &str, token: &str) -> Response {
    delete_with(to, target, &format!("Authorization: Bearer {token}\r\n"))
}

pub fn delete_with(to: SocketAddr, target: &str, fields: &str) -> Response {
    exchange(to, request(target, fields).as_bytes(), 1).pop().expect("an answer")
}

pub fn get(to: SocketAddr, path: &str) -> Response {
    exchange(to, format!("GET {path} HTTP/1.1\r\nHost: gw\r\n\r\n").as_bytes(), 1).pop().expect("an answer")
}
