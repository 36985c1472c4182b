//! The head of one HTTP/1.1 request, read strictly from its raw bytes (RFC 9112).
//!
//! hyper is lenient where a guard must not be: it takes bare LF as a line end, HTTP/1.0, a missing or a
//! second `Host`, and it drops `Content-Length` beside `Transfer-Encoding`. So the bytes are judged here
//! before hyper sees them. Pure: bytes in, [`Head`] or [`HeadFault`] out.
//!
//! Since no request has a body, what a caller sends on a connection is a row of heads.

use std::fmt;
use std::net::Ipv6Addr;

/// The most bytes a head may have, its final empty line included.
pub const MAX_BYTES: usize = 16 * 1024;
/// The most header fields a head may have.
pub const MAX_FIELDS: usize = 64;
/// The most bytes a request target may have.
pub const MAX_TARGET: usize = 256;
/// Past this many bytes without a line end, it is the target that is too long.
const MAX_LINE: usize = 1024;
/// No method is longer than this.
const MAX_METHOD: usize = 32;

/// The fields that the path looks at. Nothing else of a head is kept.
const KEPT: [&str; 6] =
    ["authorization", "idempotency-key", "x-dry-run", "x-forwarded-for", "x-request-id", "traceparent"];

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadFault {
    /// Against the grammar, in these words (400).
    Malformed(&'static str),
    /// The target has more than [`MAX_TARGET`] bytes (414).
    TargetTooLong,
    /// More than [`MAX_BYTES`] bytes or [`MAX_FIELDS`] fields (431).
    TooLarge,
    /// The request announces a body (413).
    HasBody,
    /// The request carries `Expect` (417).
    Expects,
    /// The head was begun, but not finished in time (408).
    TooSlow,
}

impl fmt::Display for HeadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadFault::Malformed(what) => f.write_str(what),
            HeadFault::TargetTooLong => write!(f, "the request target is longer than {MAX_TARGET} bytes"),
            HeadFault::TooLarge => {
                write!(f, "the request head is larger than {MAX_BYTES} bytes or has more than {MAX_FIELDS} fields")
            }
            HeadFault::HasBody => f.write_str("the request announces a body; this operation takes none"),
            HeadFault::Expects => f.write_str("`Expect` is not supported: the request has no body to wait for"),
            HeadFault::TooSlow => f.write_str("the request head did not arrive in time"),
        }
    }
}

/// Fields of which nothing else may remind: a reader that takes `_` for `-`, or drops either, would see a body there, or
/// a dry run, that is none here.
const UNMISTAKABLE: [&str; 3] = ["content-length", "transfer-encoding", "x-dry-run"];

const fn malformed<T>(what: &'static str) -> Result<T, HeadFault> {
    Err(HeadFault::Malformed(what))
}

/// A head that keeps every rule of RFC 9112 that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    method: String,
    target: String,
    close: bool,
    fields: Vec<(&'static str, Vec<u8>)>,
}

impl Head {
    /// The method, exactly as sent.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The request target, exactly as sent: visible ASCII, at most [`MAX_TARGET`] bytes.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether the caller wants the connection closed after the answer (RFC 9112 §9.6).
    #[must_use]
    pub fn wants_close(&self) -> bool {
        self.close
    }

    /// The values of a field, in the order sent. `name` is lower-case and one of those kept.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        debug_assert!(KEPT.contains(&name), "{name} is not kept");
        self.fields.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_slice())
    }

    /// Parses a complete head, as delimited by [`Progress::advance`].
    ///
    /// # Errors
    /// The first rule that the head breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadFault> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut slots);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return malformed("the request head ends early"),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadFault::TooLarge),
            Err(error) => return malformed(in_words(error)),
        }
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return malformed("the request line is incomplete");
        };
        if target.len() > MAX_TARGET {
            return Err(HeadFault::TargetTooLong);
        }
        if request.version != Some(1) {
            return malformed("only HTTP/1.1 is spoken here");
        }
        let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
        if line.len() != method.len() + target.len() + "  HTTP/1.1".len() {
            return malformed("the request line needs exactly one space between its parts");
        }
        if !target.bytes().all(|b| b.is_ascii_graphic()) {
            return malformed("the request target holds a byte that is not visible ASCII");
        }
        names(request.headers)?;
        framing(request.headers)?;
        host(request.headers)?;
        let (method, target, close) = (method.to_owned(), target.to_owned(), closes(request.headers));
        Ok(Self { method, target, close, fields: kept(request.headers) })
    }
}

fn in_words(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "a header field name is malformed",
        httparse::Error::HeaderValue => "a header field value holds a forbidden byte",
        httparse::Error::NewLine => "a line does not end with CR LF",
        httparse::Error::Status | httparse::Error::Token => "the request line is malformed",
        httparse::Error::TooManyHeaders => "there are too many header fields",
        httparse::Error::Version => "only HTTP/1.1 is spoken here",
    }
}

fn named<'a>(fields: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

fn names(fields: &[httparse::Header<'_>]) -> Result<(), HeadFault> {
    fn letters(name: &str) -> impl Iterator<Item = u8> {
        name.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase())
    }
    let reminds = |name: &str| {
        UNMISTAKABLE.iter().any(|known| !name.eq_ignore_ascii_case(known) && letters(name).eq(letters(known)))
    };
    if fields.iter().any(|field| reminds(field.name)) {
        return malformed("a header field name can be taken for `Content-Length`, `Transfer-Encoding` or `X-Dry-Run`");
    }
    Ok(())
}

/// RFC 9112 §6: no body at all, and nothing that two readers could take for one.
fn framing(fields: &[httparse::Header<'_>]) -> Result<(), HeadFault> {
    if named(fields, "transfer-encoding").next().is_some() {
        return malformed("`Transfer-Encoding` is not accepted: this operation takes no body");
    }
    let mut lengths = named(fields, "content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) | (Some(b"0"), None) => {}
        (Some(_), Some(_)) => return malformed("`Content-Length` is there twice"),
        (Some(length), None) => {
            let text = std::str::from_utf8(length).unwrap_or_default();
            let number = text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok_and(|n| n > 0);
            return if number { Err(HeadFault::HasBody) } else { malformed("`Content-Length` is not a length") };
        }
    }
    if named(fields, "expect").next().is_some() { Err(HeadFault::Expects) } else { Ok(()) }
}

/// RFC 9112 §3.2: exactly one `Host`, and a value that is a host with an optional port.
fn host(fields: &[httparse::Header<'_>]) -> Result<(), HeadFault> {
    let mut hosts = named(fields, "host");
    match (hosts.next(), hosts.next()) {
        (None, _) => malformed("`Host` is missing"),
        (Some(_), Some(_)) => malformed("`Host` is there twice"),
        (Some(host), None) => {
            if std::str::from_utf8(host).is_ok_and(is_host) {
                Ok(())
            } else {
                malformed("`Host` is not a host with, perhaps, a port")
            }
        }
    }
}

/// RFC 3986 §3.2: a name or an IPv4 address, or an IPv6 address in brackets; then perhaps `:` and perhaps a port.
fn is_host(text: &str) -> bool {
    let (host_fits, behind) =
        if let Some((inside, behind)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            (inside.parse::<Ipv6Addr>().is_ok(), behind)
        } else {
            let (name, behind) = text.split_at(text.find(':').unwrap_or(text.len()));
            let names = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            (name.bytes().any(names) && name.bytes().all(|b| names(b) || b"-.".contains(&b)), behind)
        };
    let port_fits = match behind.strip_prefix(':') {
        None => behind.is_empty(),
        Some(port) => port.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok()),
    };
    host_fits && port_fits && text.len() <= 255
}

fn closes(fields: &[httparse::Header<'_>]) -> bool {
    let options = named(fields, "connection").flat_map(|value| value.split(|b| *b == b','));
    options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(b"close"))
}

fn kept(fields: &[httparse::Header<'_>]) -> Vec<(&'static str, Vec<u8>)> {
    let of_interest = |field: &httparse::Header<'_>| {
        let name = KEPT.iter().find(|name| field.name.eq_ignore_ascii_case(name))?;
        Some((*name, field.value.to_vec()))
    };
    fields.iter().filter_map(of_interest).collect()
}

/// How far the reading of one head has come, so that no byte is looked at twice.
#[derive(Debug, Default)]
pub struct Progress {
    scanned: usize,
    line_ended: bool,
}

impl Progress {
    /// Looks at what has arrived (`bytes`: all of this head so far, from its first byte). Returns the
    /// length of the head once its empty line is there, `None` while more is needed.
    ///
    /// # Errors
    /// As soon as it is clear that the head cannot become a good one.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        while let Some(&byte) = bytes.get(self.scanned) {
            let at = self.scanned;
            self.scanned += 1;
            match byte {
                b'\n' if at == 0 || bytes.get(at - 1) != Some(&b'\r') => {
                    return malformed("a line does not end with CR LF");
                }
                b'\n' => {
                    if !self.line_ended {
                        self.line_ended = true;
                        request_line(bytes.get(..at - 1).unwrap_or_default())?;
                    }
                    if bytes.get(..at - 1).is_some_and(|before| before.ends_with(b"\r\n")) {
                        return Ok(Some(at + 1));
                    }
                }
                _ if at > 0 && bytes.get(at - 1) == Some(&b'\r') => {
                    return malformed("a CR stands without its LF");
                }
                _ => {}
            }
            if !self.line_ended && self.scanned > MAX_LINE {
                break;
            }
            if self.scanned >= MAX_BYTES {
                return Err(HeadFault::TooLarge);
            }
        }
        if !self.line_ended { unfinished_line(bytes).map(|()| None) } else { Ok(None) }
    }
}

/// Judges the request line as soon as it is whole, so that HTTP/0.9 need not wait for a header.
fn request_line(line: &[u8]) -> Result<(), HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), ..) if !could_be_method(method) => malformed("the request line is malformed"),
        (Some(_), Some(target), Some(_), None) if target.len() > MAX_TARGET => Err(HeadFault::TargetTooLong),
        (Some(_), Some(_), Some(b"HTTP/1.1"), None) => Ok(()),
        (Some(_), Some(_), Some(version), None) if version.starts_with(b"HTTP/") => {
            malformed("only HTTP/1.1 is spoken here")
        }
        _ => malformed("the request line is malformed"),
    }
}

/// Asked of a line that is whole and of one that is not, so that where the bytes were cut decides nothing.
fn could_be_method(method: &[u8]) -> bool {
    method.len() <= MAX_METHOD && method.iter().all(u8::is_ascii_graphic)
}

fn unfinished_line(line: &[u8]) -> Result<(), HeadFault> {
    let method = line.split(|b| *b == b' ').next().unwrap_or_default();
    // What may still become the line's end is not of the method.
    if !could_be_method(method.strip_suffix(b"\r").unwrap_or(method)) {
        return malformed("the request line is malformed");
    }
    if line.len() > MAX_LINE { Err(HeadFault::TargetTooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
