//! The provider is not reached: its certificate is not to be believed, its name leads nowhere, or somebody wants to
//! stand in between. Then nothing is sent, and that is what is said.

use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::delete;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const YES: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"success\": true}";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server with a certificate for these names.
    fn server(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (mut params, key) = (CertificateParams::new(names).unwrap(), KeyPair::generate().unwrap());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        config(certificate.der().clone(), &key)
    }
}

fn config(certificate: rustls::pki_types::CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
}

/// What is done with each connection.
enum Manner {
    Tls(Arc<ServerConfig>),
    /// TLS, closed as soon as it stands.
    Closing(Arc<ServerConfig>),
    /// These bytes, whatever comes.
    Says(&'static [u8]),
    Silent,
    Closes,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// What arrived inside of TLS, or without it where there is none.
    read: Mutex<Vec<u8>>,
}

struct Server {
    port: u16,
    seen: Arc<Seen>,
}

fn serve(manner: &Manner, seen: &Seen, mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let begin = |config: &Arc<ServerConfig>, stream: TcpStream| {
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).ok()?;
        }
        Some(tls)
    };
    match manner {
        Manner::Tls(config) => {
            let Some(mut tls) = begin(config, stream) else { return };
            while let Ok(count @ 1..) = tls.read(&mut buffer) {
                let mut read = seen.read.lock().unwrap();
                read.extend_from_slice(&buffer[..count]);
                if read.ends_with(b"\r\n\r\n") && tls.write_all(YES).is_err() {
                    return;
                }
            }
        }
        Manner::Closing(config) => drop(begin(config, stream)),
        Manner::Says(bytes) => {
            let _ = stream.write_all(bytes);
            while let Ok(1..) = stream.read(&mut buffer) {}
        }
        Manner::Silent => while let Ok(1..) = stream.read(&mut buffer) {},
        Manner::Closes => {}
    }
}

impl Server {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), seen: Arc::default() };
        let (seen, manner) = (Arc::clone(&server.seen), Arc::new(manner));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, manner) = (Arc::clone(&seen), Arc::clone(&manner));
                std::thread::spawn(move || serve(&manner, &seen, stream));
            }
        });
        server
    }

    fn read(&self) -> String {
        String::from_utf8_lossy(&self.seen.read.lock().unwrap()).into_owned()
    }
}

/// A gateway that believes `authority` alone, and what goes before its command line.
fn gateway(url: &str, authority: Option<&Authority>, environment: &[(&str, &str)], wrapper: &[&str]) -> Gateway {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut lines = "allow_private = true\ntimeout_ms = 6000\n".to_owned();
    if let Some(authority) = authority {
        std::fs::write(folder.path().join("ca.pem"), authority.0.pem()).unwrap();
        lines += "ca_file = \"ca.pem\"\n";
    }
    let text = configuration(url, &[("upstream", &lines)], &caller("moderation", TOKEN, ""));
    Gateway::attempt(folder, &text, environment, wrapper).unwrap_or_else(|(_, log)| panic!("not ready: {log}"))
}

type Told = (u16, &'static str, &'static str, &'static str);
const REACHED: Told = (200, "", "", "deleted");
const UNREACHED: Told = (502, "upstream-unreachable", "no", "not-sent");
const LOST: Told = (504, "outcome-unknown", "unknown", "unknown");

fn holds(gateway: &Gateway, name: &str, told: Told) {
    let answer = delete(gateway.listen, TARGET, TOKEN);
    let (code, sent) = (answer.code(), answer.sent());
    let outcome = gateway.of_kind("outcome").pop().unwrap()["outcome"].clone();
    let is = (answer.status, &*code, &*sent, outcome.as_str().unwrap());
    assert_eq!(is, told, "{name}: {answer:?}");
}

/// `openssl s_server` with a protocol of long ago.
struct OldTls(Child, u16);

impl OldTls {
    fn start(folder: &Path, authority: &Authority) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority.0).unwrap();
        std::fs::write(folder.join("old.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words = ["s_server", "-quiet", "-www", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-accept"];
        let child = Command::new("openssl")
            .args(words)
            .arg(format!("127.0.0.1:{port}"))
            .arg("-cert")
            .arg(folder.join("old.pem"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        eventually("openssl listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self(child, port)
    }
}

impl Drop for OldTls {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_provider_whose_tls_cannot_be_believed_is_sent_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let good = || ours.server(&["localhost"], |_| {});
    let lone = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let old = date_time_ymd(2001, 1, 1);
    let rows = [
        ("a good certificate", Manner::Tls(good()), REACHED),
        ("expired", Manner::Tls(ours.server(&["localhost"], |params| params.not_after = old)), UNREACHED),
        (
            "not valid yet",
            Manner::Tls(ours.server(&["localhost"], |params| params.not_before = date_time_ymd(4001, 1, 1))),
            UNREACHED,
        ),
        ("another name", Manner::Tls(ours.server(&["localhost.example", "xlocalhost"], |_| {})), UNREACHED),
        ("no name", Manner::Tls(ours.server(&[], |_| {})), UNREACHED),
        ("any name", Manner::Tls(ours.server(&["*"], |_| {})), UNREACHED),
        ("an unknown authority", Manner::Tls(theirs.server(&["localhost"], |_| {})), UNREACHED),
        ("signed by itself", Manner::Tls(config(lone.cert.der().clone(), &lone.signing_key)), UNREACHED),
        (
            "for clients alone",
            Manner::Tls(ours.server(&["localhost"], |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            })),
            UNREACHED,
        ),
        ("no TLS at all", Manner::Says(YES), UNREACHED),
        ("an alert", Manner::Says(b"\x15\x03\x03\x00\x02\x02\x28"), UNREACHED),
        ("silence in the handshake", Manner::Silent, UNREACHED),
        ("closed in the handshake", Manner::Closes, UNREACHED),
        ("closed after the handshake", Manner::Closing(good()), LOST),
    ];
    for (name, manner, told) in rows {
        let server = Server::start(manner);
        let gateway = gateway(&format!("https://localhost:{}", server.port), Some(&ours), &[], &[]);
        holds(&gateway, name, told);
        assert!(server.seen.connections.load(Ordering::SeqCst) > 0, "{name}");
        assert_eq!(server.read().matches("DELETE ").count(), usize::from(told == REACHED), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let old = OldTls::start(folder.path(), &ours);
    let gateway = gateway(&format!("https://localhost:{}", old.1), Some(&ours), &[], &[]);
    holds(&gateway, "TLS 1.1", UNREACHED);
}

#[test]
fn no_proxy_and_no_other_word_of_the_environment_stands_between_us_and_the_provider() {
    let (authority, proxy) = (Authority::new(), Server::start(Manner::Silent));
    let (to, folder) = (format!("http://127.0.0.1:{}", proxy.port), tempfile::tempdir().unwrap());
    let (keys, roots) = (folder.path().join("keys"), folder.path().join("roots.pem"));
    std::fs::write(&roots, authority.0.pem()).unwrap();
    let (keys, roots) = (keys.to_str().unwrap(), roots.to_str().unwrap());
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let mut environment: Vec<(&str, &str)> = names.iter().map(|name| (*name, &*to)).collect();
    environment.extend([("NO_PROXY", ""), ("no_proxy", ""), ("SSLKEYLOGFILE", keys)]);
    environment.extend([("SSL_CERT_FILE", roots), ("SSL_CERT_DIR", folder.path().to_str().unwrap())]);
    let server = Server::start(Manner::Tls(authority.server(&["localhost"], |_| {})));
    let url = format!("https://localhost:{}", server.port);
    holds(&gateway(&url, Some(&authority), &environment, &[]), "over TLS", REACHED);
    holds(&gateway(&url, None, &environment, &[]), "roots of the environment", UNREACHED);
    let plain = crate::provider::Provider::start();
    holds(&gateway(&plain.url(), None, &environment, &[]), "without TLS", REACHED);
    assert_eq!((server.read().matches("DELETE ").count(), plain.heads().len()), (1, 1));
    assert_eq!(proxy.seen.connections.load(Ordering::SeqCst), 0, "the proxy was asked");
    assert!(!Path::new(keys).exists(), "the session's keys were written down");
}

/// A resolver that answers by the first label of the name.
fn resolver(address: Ipv4Addr) {
    let socket = UdpSocket::bind((address, 53)).expect("port 53 of a loopback address; run the tests as root");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let label = String::from_utf8_lossy(&query[13..13 + usize::from(query[12])]).into_owned();
            let question = query[12..].iter().position(|byte| *byte == 0).map_or(12, |end| 12 + end + 5);
            let asks_for_ipv4 = query[question - 3] == 1;
            let address: Option<[u8; 4]> = match &*label {
                "good" => Some([127, 0, 0, 1]),
                "away" => Some([127, 0, 0, 9]),
                _ => None,
            };
            let address = address.filter(|_| asks_for_ipv4);
            let code = match &*label {
                "nobody" => 3,
                "broken" => 2,
                "refused" => 5,
                "silent" => continue,
                _ => 0,
            };
            let mut answer =
                [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]].concat();
            answer.extend_from_slice(&query[12..question]);
            if let Some(address) = address {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend_from_slice(&address);
            }
            if label == "rubbish" {
                answer.truncate(14);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

#[test]
fn a_provider_whose_name_leads_nowhere_is_sent_nothing() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    // Nobody else's: addresses of loopback are many.
    let id = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 53, id[2], id[3]);
    resolver(address);
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {address}\noptions timeout:2 attempts:1\n")).unwrap();
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", file.display());
    let wrapper = ["unshare", "--mount", "sh", "-c", &script];
    let names = ["good", "away", "nobody", "broken", "refused", "nothing", "rubbish", "silent"];
    let full = names.map(|name| format!("{name}.provider.test"));
    let server = Server::start(Manner::Tls(authority.server(&full.each_ref().map(String::as_str), |_| {})));
    let ask = |name: &str| {
        let url = format!("https://{name}:{}", server.port);
        let gateway = gateway(&url, Some(&authority), &[], &wrapper);
        holds(&gateway, name, if name.starts_with("good.") { REACHED } else { UNREACHED });
    };
    std::thread::scope(|scope| {
        for name in &full {
            scope.spawn(move || ask(name));
        }
    });
    assert_eq!(server.read().matches("DELETE ").count(), 1);
}
