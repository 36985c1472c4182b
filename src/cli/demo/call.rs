//! A caller as small as can be: one DELETE over HTTP/1.1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    fn member(&self, name: &str) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        json.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    }

    pub(super) fn code(&self) -> String {
        self.member("code")
    }

    /// What a success says: the members that a caller looks at.
    pub(super) fn summary(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let said = |name: &&str| json.get(*name).map(|value| format!("{name}: {value}"));
        ["success", "dry_run"].iter().filter_map(said).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn detail(&self) -> String {
        self.member("detail")
    }
}

pub(super) fn delete(gateway: SocketAddr, target: &str, token: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&gateway, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "DELETE {target} HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Ok(Answer { status, body: body.to_owned() })
}
