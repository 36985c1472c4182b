//! Every case of the corpus against the real binary, each with its answers, with what becomes of its connection, and
//! with the bytes that the provider got of all of them: the canonical deletions of those that are forwarded, and no
//! other byte.

use crate::corpus::{BEFORE, BEHIND, Case, all, good, path};
use crate::provider::Provider;
use crate::running::{Gateway, KEY, TOKEN, caller, configuration};
use crate::soak::Random;
use rustix::net::{AddressFamily, SocketType};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection of an address that no other case has: some of them are held to what one peer may do.
pub fn connect_as(number: usize, to: SocketAddr) -> TcpStream {
    let [.., high, low] = (number + 256).to_be_bytes();
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 1, high, low), 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// One answer: its status and its problem's code; of a 200, `dry-run` or `-`. `None`: the connection has ended.
pub fn answer(stream: &mut impl Read, has_body: bool) -> Result<Option<(u16, String)>, String> {
    let (mut head, mut one) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut one) {
            Ok(1..) => head.push(one[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err("no answer, and the connection stays open".to_owned());
            }
            _ if head.is_empty() => return Ok(None),
            _ => return Err(format!("half an answer: {}", head.escape_ascii())),
        }
    }
    let text = String::from_utf8(head).map_err(|error| error.to_string())?;
    let status = text.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(|| format!("no answer: {text}"))?;
    if !has_body {
        return Ok(Some((status, "-".to_owned())));
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.ok_or_else(|| format!("no length: {text}"))?.parse::<usize>().unwrap()];
    stream.read_exact(&mut body).map_err(|error| format!("half a body: {error}"))?;
    let json: serde_json::Value = serde_json::from_slice(&body).map_err(|error| format!("{error}: {text}"))?;
    let code = match (status, json["code"].as_str()) {
        (200, _) if json["dry_run"] == true => "dry-run",
        (200, _) => "-",
        (_, Some(code)) if json["sent"] == "no" && text.contains("\r\ncontent-type: application/problem+json\r\n") => {
            code
        }
        _ => return Err(format!("an error that does not say `sent: no`: {text}{json}")),
    };
    Ok(Some((status, code.to_owned())))
}

/// How the bytes of a case go out.
pub type Sending<'a> = &'a (dyn Fn(&mut dyn Write, &[u8]) + Sync);

/// What is played, and how.
struct Play<'a> {
    cases: &'a [Case],
    sending: Sending<'a>,
    /// Whether a good request stands before each case.
    is_second: bool,
}

impl Play<'_> {
    /// Plays one case on its connection; what was wrong.
    fn one(
        &self,
        case: &Case,
        mut stream: impl Read + Write,
        end_of_sending: impl Fn(&mut dyn Write),
    ) -> Result<(), String> {
        let (mut sent, mut statuses, mut codes) = (case.bytes.clone(), case.statuses.clone(), case.codes.clone());
        if self.is_second {
            sent.splice(..0, good(BEFORE, &case.group).bytes());
            statuses.insert(0, 200);
            codes.insert(0, "-".to_owned());
        }
        (self.sending)(&mut stream, &sent);
        if case.is_half {
            end_of_sending(&mut stream);
        }
        for (status, code) in statuses.iter().zip(&codes) {
            let is = answer(&mut stream, *status < 400 || code != "-")?;
            if is.as_ref().map(|(status, code)| (*status, code.as_str())) != Some((*status, code)) {
                return Err(format!("{is:?} instead of {status} {code}"));
            }
        }
        // Nobody hears this where the connection has ended.
        let _ = stream.write_all(good(BEHIND, &case.group).as_bytes());
        let is = answer(&mut stream, true)?;
        if is != case.is_kept.then(|| (200, "-".to_owned())) {
            return Err(format!(
                "then {is:?}, though the connection is {}",
                if case.is_kept { "kept" } else { "closed" }
            ));
        }
        Ok(())
    }

    /// The paths that the provider gets of a case.
    fn forwarded(&self, case: &Case) -> Vec<String> {
        let marked = |mark: char, is: bool| is.then(|| path(&format!("{mark}{}@g.us", case.group)));
        let around = marked(BEFORE, self.is_second).into_iter().chain(marked(BEHIND, case.is_kept));
        case.forwarded().into_iter().chain(around).collect()
    }
}

/// What the provider reads of one deletion: these bytes and no others.
fn canonical(provider: &Provider, path: &str) -> String {
    let host = provider.url().replace("http://", "");
    format!("DELETE {path} HTTP/1.1\r\nauthorization: Bearer {KEY}\r\naccept: */*\r\nhost: {host}\r\n\r\n")
}

/// Plays all cases, a few at a time, and holds what each was answered, and what the provider read, to the corpus.
fn play<S: Read + Write>(play: &Play, listen: &str, connect: impl Fn(usize, &Gateway) -> S + Sync, close: fn(&mut S)) {
    let provider = Provider::start();
    let callers = caller("moderation", TOKEN, "").replace("\"*@g.us\"", "\"*\"");
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    crate::tls::certify(folder.path());
    let gateway = Gateway::in_folder(folder, &configuration(&provider.url(), &[("listen", listen)], &callers), &[]);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                while let Some((number, case)) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|n| Some((n, play.cases.get(n)?)))
                {
                    let stream = std::cell::RefCell::new(connect(number, &gateway));
                    let done = play.one(case, Shared(&stream), |_| close(&mut stream.borrow_mut()));
                    if let Err(what) = done {
                        wrong.lock().unwrap().push(format!("{}: {what}\n    {}", case.name, case.shown()));
                    }
                }
            });
        }
    });
    let mut may_be: Vec<String> =
        play.cases.iter().flat_map(|case| play.forwarded(case)).map(|path| canonical(&provider, &path)).collect();
    let mut heads = provider.heads();
    may_be.sort();
    heads.sort();
    let mut wrong = wrong.into_inner().unwrap();
    let surplus: Vec<&String> = heads.iter().filter(|head| may_be.binary_search(head).is_err()).collect();
    wrong.extend(surplus.iter().map(|head| format!("the provider read {head:?}")));
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    assert_eq!(heads, may_be);
    assert_eq!(provider.bytes(), heads.iter().map(String::len).sum::<usize>(), "not one byte more");
    assert_eq!(gateway.of_kind("intent").len(), heads.len());
    println!("{} cases, {} deletions forwarded", play.cases.len(), heads.len());
}

/// A stream that is used from two places of one thread.
struct Shared<'a, S>(&'a std::cell::RefCell<S>);

impl<S: Read> Read for Shared<'_, S> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().read(to)
    }
}

impl<S: Write> Write for Shared<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

fn play_plain(cases: &[Case], sending: Sending<'_>, is_second: bool) {
    let close = |stream: &mut TcpStream| drop(stream.shutdown(std::net::Shutdown::Write));
    play(&Play { cases, sending, is_second }, "", |number, gateway| connect_as(number, gateway.listen), close);
}

/// In one go. A refusal may close while the rest is still being sent.
fn at_once(stream: &mut dyn Write, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

#[test]
fn each_case_is_answered_as_it_says_and_nothing_but_its_deletions_is_sent() {
    let cases = all();
    assert!(cases.len() >= 400, "{} cases", cases.len());
    play_plain(&cases, &at_once, false);
}

#[test]
fn each_case_is_the_same_when_it_comes_byte_by_byte() {
    let each = |stream: &mut dyn Write, bytes: &[u8]| {
        // Who has been refused closes; what is long comes in parts of some hundred bytes.
        let part = 1 + bytes.len() / 1000;
        let _ = bytes.chunks(part).try_for_each(|part| stream.write_all(part));
    };
    play_plain(&all(), &each, false);
}

#[test]
fn each_case_is_the_same_when_it_is_cut_anywhere() {
    let random = Mutex::new(Random::new());
    let anywhere = |stream: &mut dyn Write, bytes: &[u8]| {
        let cut = random.lock().unwrap().below(bytes.len() + 1);
        let (one, other) = bytes.split_at(cut);
        let _ = stream.write_all(one);
        std::thread::yield_now();
        let _ = stream.write_all(other);
    };
    play_plain(&all(), &anywhere, false);
}

#[test]
fn each_case_is_the_same_behind_a_good_request() {
    play_plain(&all(), &at_once, true);
}

#[test]
fn each_fifth_case_is_the_same_over_tls() {
    let cases: Vec<Case> = all().into_iter().step_by(5).collect();
    let play_tls = Play { cases: &cases, sending: &at_once, is_second: false };
    let connect = |number: usize, gateway: &Gateway| {
        crate::tls::session(connect_as(number, gateway.listen), &gateway.folder.path().join("chain.pem"), b"http/1.1")
    };
    let close = |stream: &mut rustls::StreamOwned<rustls::ClientConnection, TcpStream>| {
        stream.conn.send_close_notify();
        let _ = stream.flush();
        let _ = stream.sock.shutdown(std::net::Shutdown::Write);
    };
    play(&play_tls, crate::tls::TLS, connect, close);
}
