//! Two gateways behind HAProxy with the configuration that is shipped, but for names and ports.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{Response, get, request, response};
use rustix::net::{AddressFamily, SocketType};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SHIPPED: &str = include_str!("../../deploy/replicas/haproxy.cfg");
const CALLER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

struct Proxy {
    child: Child,
    listen: SocketAddr,
    folder: tempfile::TempDir,
}

impl Proxy {
    fn before(gateways: &[&Gateway]) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut text = SHIPPED.replace("bind :8080", &format!("bind {listen}"));
        text = text.replace(" resolvers docker init-addr none", "");
        for (number, gateway) in gateways.iter().enumerate() {
            let name = format!("gateway-{}", number + 1);
            let line = format!("server {name} {} port {}", gateway.listen, gateway.ops.port());
            text = text.replace(&format!("server {name} {name}:8080"), &line);
        }
        let text: String =
            text.lines().filter(|line| !line.contains(":8080")).map(|line| format!("{line}\n")).collect();
        let folder = tempfile::tempdir().unwrap();
        let socket = format!("\nglobal\n    stats socket {}\n", folder.path().join("stats").display());
        let text = text.replace("\nglobal\n", &socket);
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy (tests/setup.sh installs it)");
        let proxy = Self { child, listen, folder };
        eventually("the proxy listens", || TcpStream::connect(listen).is_ok());
        proxy
    }

    /// A connection from an address of this machine, with the usual deletion on it.
    fn send(&self, from: Ipv4Addr) -> TcpStream {
        let mut stream = connect_from(from, self.listen);
        stream.write_all(request(TARGET, &format!("Authorization: Bearer {TOKEN}\r\n")).as_bytes()).unwrap();
        stream
    }

    /// Whether it has found a gateway that is not ready.
    fn knows_one_is_down(&self) -> bool {
        let mut stats = UnixStream::connect(self.folder.path().join("stats")).unwrap();
        stats.write_all(b"show stat\n").unwrap();
        let mut said = String::new();
        stats.read_to_string(&mut said).unwrap();
        said.lines().any(|line| line.starts_with("gateways,gateway-") && line.contains(",DOWN,"))
    }

    fn ask(&self, from: Ipv4Addr) -> Option<Response> {
        response(&mut self.send(from))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gateway(upstream: &str) -> Gateway {
    let listen = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]";
    let callers = caller("moderation", TOKEN, &format!("from = [\"{CALLER}\"]"));
    Gateway::with(&configuration(upstream, &[("listen", listen)], &callers))
}

#[test]
fn behind_the_shipped_proxy_callers_are_known_by_their_own_address() {
    let provider = Provider::start();
    let gateway = gateway(&provider.url());
    let proxy = Proxy::before(&[&gateway]);
    assert_eq!(proxy.ask(CALLER).unwrap().status, 200);
    let other = proxy.ask(OTHER).unwrap();
    assert_eq!((other.status, other.code().as_str()), (403, "not-allowed"), "{other:?}");
    assert_eq!(gateway.of_kind("intent")[0]["peer"], CALLER.to_string());
    eventually("the refusal is recorded", || gateway.of_kind("refusal").iter().any(|e| e["peer"] == OTHER.to_string()));
    // Who is no proxy is not believed, whatever it says.
    let mut liar = connect_from(OTHER, gateway.listen);
    let lie = format!("PROXY TCP4 {CALLER} 127.0.0.1 1 2\r\n");
    let words = request(TARGET, &format!("Authorization: Bearer {TOKEN}\r\n"));
    liar.write_all((lie + &words).as_bytes()).unwrap();
    assert!(response(&mut liar).is_none_or(|answer| answer.status == 403));
    assert_eq!(provider.heads().len(), 1);
}

#[test]
fn a_rolling_restart_behind_the_shipped_proxy_loses_no_request() {
    let provider = Provider::start();
    let (mut first, mut second) = (gateway(&provider.url()), gateway(&provider.url()));
    let proxy = Proxy::before(&[&first, &second]);
    eventually("both are asked", || {
        proxy.ask(CALLER);
        [&first, &second].iter().all(|gateway| !gateway.of_kind("intent").is_empty())
    });
    let release = Arc::new(AtomicBool::new(false));
    provider.next(Reply::When(Arc::clone(&release)));
    let before = provider.heads().len();
    let mut slow = proxy.send(CALLER);
    eventually("it is at the provider", || provider.heads().len() > before);
    let holds_it = |gateway: &Gateway| get(gateway.ops, "/metrics").body.contains("wasend_gateway_in_flight 1");
    let (stopping, staying) = if holds_it(&first) { (&mut first, &mut second) } else { (&mut second, &mut first) };
    stopping.signal("TERM");
    for attempt in 0..40 {
        let answer = proxy.ask(CALLER);
        assert_eq!(answer.map(|answer| answer.status), Some(200), "request {attempt} while one drains");
    }
    eventually("the proxy knows", || proxy.knows_one_is_down());
    release.store(true, Ordering::SeqCst);
    assert_eq!(response(&mut slow).map(|answer| answer.status), Some(200), "what was under way is answered");
    assert_eq!(stopping.ended().code(), Some(0));
    let recorded = stopping.of_kind("intent").len() + staying.of_kind("intent").len();
    assert_eq!(recorded, provider.heads().len());
}
