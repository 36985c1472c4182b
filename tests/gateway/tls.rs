//! TLS on both ports and towards the provider, with certificates made here.

use crate::provider::Provider;
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{Response, connect, delete, get, request, response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

pub const TLS: &str = "tls = { certificate_file = \"chain.pem\", key_file = \"chain.key\" }";

/// Writes a new certificate for `localhost` and its key.
pub fn certify(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("chain.key"), made.signing_key.serialize_pem()).unwrap();
}

/// A session of a client that trusts `trusted` alone.
pub fn session(over: TcpStream, trusted: &Path, alpn: &[u8]) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, over)
}

/// One request by such a client; the error of its handshake otherwise.
fn ask(to: SocketAddr, trusted: &Path, alpn: &[u8], bytes: &str) -> Result<Response, String> {
    let mut stream = session(connect(to), trusted, alpn);
    stream.write_all(bytes.as_bytes()).map_err(|e| e.to_string())?;
    response(&mut stream).ok_or_else(|| "closed".to_owned())
}

fn with_tls(folder: &Arc<tempfile::TempDir>, upstream: &str, lines: &[(&str, &str)]) -> Gateway {
    let lines = [&[("listen", TLS), ("ops", TLS)], lines].concat();
    Gateway::in_folder(Arc::clone(folder), &configuration(upstream, &lines, &caller("moderation", TOKEN, "")), &[])
}

fn deletion() -> String {
    request(TARGET, &format!("Authorization: Bearer {TOKEN}\r\n"))
}

#[test]
fn both_ports_speak_tls_with_http_1_1_alone_and_take_a_new_certificate_on_sighup() {
    let (provider, folder) = (Provider::start(), Arc::new(tempfile::tempdir().unwrap()));
    certify(folder.path());
    let gateway = with_tls(&folder, &provider.url(), &[]);
    let (chain, old) = (folder.path().join("chain.pem"), folder.path().join("old.pem"));
    assert_eq!(ask(gateway.listen, &chain, b"http/1.1", &deletion()).unwrap().status, 200);
    assert_eq!(
        ask(gateway.ops, &chain, b"http/1.1", "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap().status,
        200
    );
    assert!(ask(gateway.listen, &chain, b"h2", &deletion()).is_err());
    std::fs::copy(&chain, &old).unwrap();
    certify(folder.path());
    gateway.signal("HUP");
    eventually("the new certificate is shown", || ask(gateway.listen, &chain, b"http/1.1", &deletion()).is_ok());
    assert!(ask(gateway.listen, &old, b"http/1.1", &deletion()).is_err());
    std::fs::write(&chain, "not a certificate").unwrap();
    gateway.signal("HUP");
    eventually("the fault is logged", || gateway.log().contains("a certificate was not reloaded"));
    assert_eq!(gateway.of_kind("intent").len(), provider.heads().len());
}

#[test]
fn a_new_certificate_is_taken_when_its_files_have_changed() {
    let (provider, folder) = (Provider::start(), Arc::new(tempfile::tempdir().unwrap()));
    certify(folder.path());
    let callers = format!("[reload]\ninterval_ms = 50\n{}", caller("moderation", TOKEN, ""));
    let text = configuration(&provider.url(), &[("listen", TLS)], &callers);
    let gateway = Gateway::in_folder(Arc::clone(&folder), &text, &[]);
    let (chain, old) = (folder.path().join("chain.pem"), folder.path().join("old.pem"));
    assert!(ask(gateway.listen, &chain, b"http/1.1", &deletion()).is_ok());
    std::fs::copy(&chain, &old).unwrap();
    certify(folder.path());
    eventually("the new certificate is shown", || ask(gateway.listen, &chain, b"http/1.1", &deletion()).is_ok());
    assert!(ask(gateway.listen, &old, b"http/1.1", &deletion()).is_err());
}

#[test]
fn certificates_that_cannot_be_read_again_are_told_everywhere_until_they_can_and_the_old_ones_stay() {
    let (provider, folder) = (Provider::start(), Arc::new(tempfile::tempdir().unwrap()));
    certify(folder.path());
    let at = |name: &str| folder.path().join(name);
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = authority.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(at("clients.pem"), authority.pem()).unwrap();
    let tls = TLS.replace(" }", ", client_ca_file = \"clients.pem\", client_auth = \"optional\" }");
    let callers = format!("[reload]\ninterval_ms = 50\n{}", caller("moderation", TOKEN, ""));
    let gateway =
        Gateway::in_folder(Arc::clone(&folder), &configuration(&provider.url(), &[("listen", &tls)], &callers), &[]);
    let reasons = || {
        let ready: serde_json::Value = serde_json::from_str(&get(gateway.ops, "/readyz").body).unwrap();
        ready["reasons"].clone()
    };
    std::fs::copy(at("chain.pem"), at("trusted")).unwrap();
    let mut told = 0;
    for name in ["chain.pem", "chain.key", "clients.pem"] {
        let good = std::fs::read_to_string(at(name)).unwrap();
        for bad in ["", "nothing\n", &good[..good.len() / 2], "gone", "a pipe"] {
            let _ = std::fs::remove_file(at(name));
            match bad {
                "gone" => {}
                // Nobody writes to it: who opens it waits.
                "a pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, at(name), rustix::fs::Mode::RWXU).unwrap(),
                bad => std::fs::write(at(name), bad).unwrap(),
            }
            gateway.signal("HUP");
            eventually("it is recorded", || gateway.of_kind("policy-refused").len() > told);
            let entries = gateway.of_kind("policy-refused");
            assert!(
                entries[told..].iter().all(|entry| entry["faults"] == serde_json::json!(["listen.tls"])),
                "{entries:?}"
            );
            told = entries.len();
            assert_eq!(reasons(), serde_json::json!(["certificate-not-reloaded"]), "{name}: {bad:?}");
            assert!(ask(gateway.listen, &at("trusted"), b"http/1.1", &deletion()).is_ok(), "the old one stays");
        }
        let metrics = get(gateway.ops, "/metrics").body;
        let refused =
            metrics.lines().find_map(|line| line.strip_prefix("wasend_gateway_reloads_total{kind=\"refused\"} "));
        assert!(refused.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
        std::fs::remove_file(at(name)).unwrap();
        std::fs::write(at(name), good).unwrap();
        eventually("it is good again", || reasons() == serde_json::json!([]));
        told = gateway.of_kind("policy-refused").len();
    }
}

#[test]
fn the_provider_is_spoken_to_over_tls_that_is_verified_and_never_inside_our_network_unasked() {
    // A second gateway is the provider here: it does not know our key, so its 401 shows that TLS stood.
    let (nobody, folder) = (Provider::start(), Arc::new(tempfile::tempdir().unwrap()));
    certify(folder.path());
    let provider = with_tls(&folder, &nobody.url(), &[]);
    let url = format!("https://localhost:{}", provider.listen.port());
    let trust = format!("ca_file = \"{}\"", folder.path().join("chain.pem").display());
    for (lines, status, code, outcome) in [
        (
            vec![("upstream", trust.as_str()), ("upstream", "allow_private = true")],
            502,
            "upstream-credentials-refused",
            "refused",
        ),
        (vec![("upstream", "allow_private = true")], 502, "upstream-unreachable", "not-sent"),
        (vec![("upstream", trust.as_str())], 502, "upstream-unreachable", "not-sent"),
    ] {
        let gateway = Gateway::with(&configuration(&url, &lines, &caller("moderation", TOKEN, "")));
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{lines:?} {answer:?}");
        assert_eq!(gateway.of_kind("outcome")[0]["outcome"], outcome);
    }
    assert!(!provider.log().contains(KEY) && nobody.bytes() == 0);
}
