//! The corpus through nginx, HAProxy and Apache in front of the gateway, each as lenient as it can be told to be and with
//! connections to the gateway that are used again. What the proxy read of each case is in its log: method, target,
//! length. Whatever is deleted was read so by the proxy too: as a DELETE of just this target, without a body.

use crate::corpus::{Case, all};
use crate::hostile::connect_as;
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, configuration, eventually};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

const AT_ONCE: usize = 4;

struct Front {
    name: &'static str,
    text: &'static str,
    command: &'static [&'static str],
    /// What makes it end when it has answered what is under way.
    stop: &'static str,
}

const FRONTS: [Front; 3] = [
    Front { name: "nginx", text: include_str!("../fronts/nginx.conf"), command: &["nginx", "-c"], stop: "QUIT" },
    Front {
        name: "haproxy",
        text: include_str!("../fronts/haproxy.cfg"),
        command: &["haproxy", "-db", "-f"],
        stop: "USR1",
    },
    Front {
        name: "apache",
        text: include_str!("../fronts/apache.conf"),
        command: &["apache2", "-DFOREGROUND", "-f"],
        stop: "WINCH",
    },
];

struct Running {
    child: Child,
    listen: SocketAddr,
    folder: tempfile::TempDir,
    stop: &'static str,
}

impl Front {
    fn start(&self, gateway: &Gateway) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let place = folder.path().to_str().unwrap();
        let text = self.text.replace("FOLDER", place).replace("LISTEN", &listen.to_string());
        let (file, log) = (folder.path().join("front.conf"), folder.path().join("read.log"));
        std::fs::write(&file, text.replace("GATEWAY", &gateway.listen.to_string())).unwrap();
        // HAProxy logs to where it writes; the others open the file themselves, and append.
        let said = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(self.command[0])
            .args(&self.command[1..])
            .arg(&file)
            .stdout(said)
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (tests/setup.sh installs it)", self.name));
        let running = Running { child, listen, folder, stop: self.stop };
        eventually("the proxy listens", || TcpStream::connect(listen).is_ok());
        running
    }
}

impl Running {
    /// Ends it, so that its log is whole, and reads what it has read: by the caller's address.
    fn read(mut self) -> BTreeMap<String, Vec<[String; 4]>> {
        let told = Command::new("kill").args([&format!("-{}", self.stop), &self.child.id().to_string()]).status();
        assert!(told.unwrap().success());
        let child = &mut self.child;
        eventually("the proxy ends", || child.try_wait().unwrap().is_some());
        read_log(&self.folder.path().join("read.log"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of `ADDRESS "METHOD" "TARGET" "Content-Length" "Transfer-Encoding"`.
fn read_log(file: &Path) -> BTreeMap<String, Vec<[String; 4]>> {
    let mut read: BTreeMap<String, Vec<[String; 4]>> = BTreeMap::new();
    let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    for line in text.lines() {
        let parts: Vec<&str> = line.split(" \"").map(|part| part.trim_end_matches('"')).collect();
        // Other lines are about the proxy itself.
        let [address, method, target, length, coding] = parts[..] else { continue };
        read.entry(address.to_owned()).or_default().push([method, target, length, coding].map(str::to_owned));
    }
    read
}

/// Sends a case; whether the proxy passed its first request on. The gateway's answers have our request id.
fn send(number: usize, case: &Case, to: SocketAddr) -> (String, bool) {
    let mut stream = connect_as(number, to);
    let address = stream.local_addr().unwrap().ip().to_string();
    let _ = stream.write_all(&case.bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let heard = String::from_utf8_lossy(&heard).to_lowercase();
    let first = heard.split("\r\n\r\n").find(|head| !head.starts_with("http/1.1 1")).unwrap_or_default();
    (address, first.contains("\r\nx-request-id: "))
}

/// Whether a case's first body is chunked and empty: the one body that is as good as none. A proxy reads it whole.
fn has_empty_chunks(case: &Case) -> bool {
    let body = case.bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|end| &case.bytes[end + 4..]);
    let rest = body.map(|body| body.trim_ascii_start()).filter(|body| body.starts_with(b"0"));
    rest.is_some_and(|body| matches!(body.iter().find(|byte| **byte != b'0'), Some(b'\r' | b'\n' | b';')))
}

/// Whether this is what the proxy has read when the provider got `path`: a DELETE of it, of no length.
fn is_deletion_of([method, target, length, coding]: &[String; 4], path: &str, case: &Case) -> bool {
    let is_zero = |length: &str| length == "-" || length.bytes().all(|digit| digit == b'0');
    let no_coding =
        coding.is_empty() || coding == "-" || (coding.eq_ignore_ascii_case("chunked") && has_empty_chunks(case));
    method == "DELETE" && target.replace("%40", "@") == path && is_zero(length) && no_coding
}

fn differential(front: &Front) {
    let (provider, cases) = (Provider::start(), all());
    let callers = caller("moderation", TOKEN, "").replace("\"*@g.us\"", "\"*\"");
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &callers));
    let running = front.start(&gateway);
    let next = AtomicUsize::new(0);
    let mut sent: Vec<(usize, String, bool)> = std::thread::scope(|threads| {
        let work = || {
            let mut sent = Vec::new();
            while let Some((number, case)) =
                Some(next.fetch_add(1, Ordering::SeqCst)).and_then(|n| Some((n, cases.get(n)?)))
            {
                let (address, is_passed_on) = send(number, case, running.listen);
                sent.push((number, address, is_passed_on));
            }
            sent
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| threads.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    sent.sort();
    let read = running.read();
    let mut deletions = provider.take_targets();
    let (mut passed_on, mut deleted, mut wrong) = (0, 0, Vec::new());
    for (number, address, is_passed_on) in &sent {
        let case = &cases[*number];
        passed_on += usize::from(*is_passed_on);
        let of_case: Vec<String> = deletions.extract_if(.., |path| path.contains(&case.group)).collect();
        deleted += of_case.len();
        let mut of_proxy = read.get(address).cloned().unwrap_or_default();
        for path in of_case {
            match of_proxy.iter().position(|one| is_deletion_of(one, &path, case)) {
                Some(place) => drop(of_proxy.remove(place)),
                None => wrong.push(format!(
                    "{}: {path} was deleted; {} read {of_proxy:?} of {}",
                    case.name,
                    front.name,
                    case.shown()
                )),
            }
        }
    }
    wrong.extend(deletions.iter().map(|path| format!("{path} was deleted, and is of no case")));
    println!(
        "{}: {} cases compared; it refused {} itself and passed {passed_on} on; {deleted} deletions, each read alike",
        front.name,
        cases.len(),
        cases.len() - passed_on
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(deleted > 50 && passed_on > deleted, "{}: too little came through", front.name);
}

#[test]
fn nothing_is_deleted_that_nginx_in_front_read_otherwise() {
    differential(&FRONTS[0]);
}

#[test]
fn nothing_is_deleted_that_haproxy_in_front_read_otherwise() {
    differential(&FRONTS[1]);
}

#[test]
fn nothing_is_deleted_that_apache_in_front_read_otherwise() {
    differential(&FRONTS[2]);
}
