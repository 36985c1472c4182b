//! A slow and obvious reader of what the gateway reads: whole texts, one rule a line, none of the gateway's code.

/// A head that keeps every rule.
pub struct Read<'a> {
    /// As sent.
    pub method: &'a [u8],
    /// As sent.
    pub target: &'a [u8],
    fields: Vec<(Vec<u8>, &'a [u8])>,
    /// How many bytes it has, its empty line included.
    pub length: usize,
}

/// Whose bytes may stand in a method and in a field's name (RFC 9110 §5.6.2).
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether a name is not one of these, but some readers may take it for it.
fn reminds(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    ["content-length", "transfer-encoding", "x-dry-run"]
        .iter()
        .any(|known| name != *known && letters(&name) == letters(known))
}

/// A name, or an IPv6 address in brackets, and perhaps a port (RFC 3986 §3.2).
fn is_host(bytes: &[u8]) -> bool {
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (host, port) = match bytes.split_at(bytes.len() - digits) {
        ([host @ .., b':'], port) if host.ends_with(b"]") || !host.contains(&b':') => (host, port),
        _ => (bytes, &b""[..]),
    };
    let number = port.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    let is_address = |inside: &[u8]| String::from_utf8_lossy(inside).parse::<std::net::Ipv6Addr>().is_ok();
    number <= 65_535
        && match host {
            [b'[', inside @ .., b']'] => is_address(inside),
            name => {
                name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
                    && name.iter().any(|byte| !b".-".contains(byte))
            }
        }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(found) = rest.windows(at.len()).position(|window| window == at) {
        parts.push(&rest[..found]);
        rest = &rest[found + at.len()..];
    }
    parts.push(rest);
    parts
}

fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

impl<'a> Read<'a> {
    /// Reads the head that these bytes begin with.
    pub fn first(bytes: &'a [u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let lines = split(&bytes[..end], b"\r\n");
        if end + 4 > 16 * 1024
            || lines.len() > 65
            || lines.iter().any(|line| line.contains(&b'\r') || line.contains(&b'\n'))
        {
            return None;
        }
        let [method, target, b"HTTP/1.1"] = split(lines[0], b" ")[..] else { return None };
        if !is_token(method)
            || method.len() > 32
            || target.is_empty()
            || target.len() > 256
            || !target.iter().all(u8::is_ascii_graphic)
        {
            return None;
        }
        let mut fields = Vec::new();
        for line in &lines[1..] {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if !is_token(name) || reminds(name) || value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
                return None;
            }
            fields.push((name.to_ascii_lowercase(), trimmed(value)));
        }
        let read = Self { method, target, fields, length: end + 4 };
        let lengths = read.values(b"content-length");
        let no_body = lengths.is_empty() || lengths == [b"0"];
        let host_is_one = matches!(read.values(b"host")[..], [host] if host.len() < 256 && is_host(host));
        let surprises = read.values(b"transfer-encoding").len() + read.values(b"expect").len();
        (no_body && host_is_one && surprises == 0).then_some(read)
    }

    /// The values of a field, in the order sent.
    pub fn values(&self, name: &[u8]) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect()
    }

    /// Whether nothing comes behind it.
    pub fn is_last(&self) -> bool {
        let closes = |value: &&[u8]| split(value, b",").iter().any(|part| trimmed(part).eq_ignore_ascii_case(b"close"));
        self.method == b"HEAD" || self.values(b"connection").iter().any(closes)
    }

    /// What it deletes, as the provider has to be asked, where it deletes anything.
    fn deletes(&self, token: &str) -> Option<String> {
        let (path, is_dry_run) = deletion(self.target)?;
        let credential = self.values(b"authorization");
        let dry_run = self.values(b"x-dry-run");
        (self.method == b"DELETE"
            && !is_dry_run
            && (dry_run.is_empty() || dry_run == [b"false"])
            && credential.len() == 1
            && is_bearer(credential[0], token))
        .then_some(path)
    }
}

fn is_bearer(credential: &[u8], token: &str) -> bool {
    let words: Vec<&[u8]> = split(credential, b" ").into_iter().filter(|word| !word.is_empty()).collect();
    matches!(words[..], [scheme, word] if scheme.eq_ignore_ascii_case(b"bearer") && word == token.as_bytes())
}

fn is_id(bytes: &[u8]) -> bool {
    (1..=64).contains(&bytes.len()) && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(byte))
}

/// The provider's path and whether it is a dry run, of a target in one of the spellings that are taken.
pub fn deletion(target: &[u8]) -> Option<(String, bool)> {
    let (path, is_dry_run) = target.strip_prefix(b"/dry-run").map_or((target, false), |rest| (rest, true));
    let [b"", session, b"groups", group, b"picture"] = split(path, b"/")[..] else { return None };
    let bare = group.strip_suffix(b"@g.us").or_else(|| group.strip_suffix(b"%40g.us"));
    let of_users = if bare.is_some() { "@g.us" } else { "" };
    let bare = bare.unwrap_or(group);
    if !is_id(session) || !is_id(bare) || session == b"dry-run" {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((format!("/{}/groups/{}{of_users}/picture", text(session), text(bare)), is_dry_run))
}

/// What may be deleted, at most and in this order, for a connection on which these bytes were sent.
pub fn deletions(mut bytes: &[u8], token: &str) -> Vec<String> {
    let mut paths = Vec::new();
    loop {
        let Some(read) = Read::first(bytes.strip_prefix(b"\r\n").unwrap_or(bytes)) else { return paths };
        bytes = &bytes[bytes.len() - bytes.strip_prefix(b"\r\n").unwrap_or(bytes).len() + read.length..];
        paths.extend(read.deletes(token));
        if read.is_last() {
            return paths;
        }
    }
}
