//! Client certificates through the real binary: whose they are, which never get as far as a request, and authorities
//! that change.

use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::steps::{step, stepped};
use crate::wire::{Response, connect, request, response};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

const SPIFFE: &str = "spiffe://chat.example/ns/chat/sa/moderation";
type Stream = StreamOwned<ClientConnection, TcpStream>;

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1.clone_key())
    }
}

impl Authority {
    fn new() -> Self {
        Self::with(vec![])
    }

    fn with(extensions: Vec<CustomExtension>) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.custom_extensions = extensions;
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, names: &[SanType], change: impl Fn(&mut CertificateParams)) -> Identity {
        let (mut params, key) = (CertificateParams::new(vec![]).unwrap(), KeyPair::generate().unwrap());
        params.subject_alt_names = names.to_vec();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity(certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

fn trust(folder: &Path, authorities: &[&Authority]) {
    let text: String = authorities.iter().map(|authority| authority.0.pem()).collect();
    std::fs::write(folder.join("clients.pem"), text).unwrap();
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

/// A gateway that takes the certificates of `authority`: callers by SPIFFE id, by DNS name, and by token.
fn gateway(provider: &Provider, authority: &Authority, client_auth: &str) -> Gateway {
    let (folder, text) = set_up(provider, authority, client_auth);
    Gateway::in_folder(folder, &text, &[])
}

/// Its folder and configuration.
fn set_up(provider: &Provider, authority: &Authority, client_auth: &str) -> (Arc<tempfile::TempDir>, String) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("chain.key"), made.signing_key.serialize_pem()).unwrap();
    trust(folder.path(), &[authority]);
    let tls = format!(
        "tls = {{ certificate_file = \"chain.pem\", key_file = \"chain.key\", client_ca_file = \"clients.pem\"{client_auth} }}"
    );
    let known = |name: &str, certificate: &str| {
        let text = caller(name, TOKEN, &format!("certificate = {{ {certificate} }}"));
        text.lines().filter(|line| !line.starts_with("tokens")).collect::<Vec<_>>().join("\n")
    };
    let callers = [
        "[reload]\ninterval_ms = 50".to_owned(),
        known("moderation", &format!("spiffe = \"{SPIFFE}\"")),
        known("cleaner", "dns = \"cleaner.example\""),
        caller("plain", TOKEN, ""),
    ];
    (folder, configuration(&provider.url(), &[("listen", &tls)], &callers.join("\n")))
}

fn client(gateway: &Gateway, identity: Option<Identity>, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(gateway.folder.path().join("chain.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity(certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn open(gateway: &Gateway, config: &Arc<ClientConfig>) -> Stream {
    let connection = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(connection, connect(gateway.listen))
}

fn on(stream: &mut Stream, fields: &str) -> Result<Response, String> {
    stream.write_all(request(TARGET, fields).as_bytes()).map_err(|e| e.to_string())?;
    response(stream).ok_or_else(|| "closed".to_owned())
}

/// One request on a connection of its own; the error where there is no connection.
fn ask(gateway: &Gateway, identity: Option<&Identity>, fields: &str) -> Result<Response, String> {
    on(&mut open(gateway, &Arc::new(client(gateway, identity.cloned(), &TLS13))), fields)
}

fn status(gateway: &Gateway, identity: &Identity) -> Option<u16> {
    ask(gateway, Some(identity), "").ok().map(|answer| answer.status)
}

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

#[test]
fn a_certificate_is_its_callers_over_both_versions_of_tls_and_the_intent_names_it() {
    let (provider, authority) = (Provider::start(), Authority::new());
    let gateway = gateway(&provider, &authority, "");
    let moderation = authority.issue(&[uri(SPIFFE)], |_| {});
    let cleaner = authority.issue(&[dns("cleaner.example")], |params| params.extended_key_usages.clear());
    for version in [&TLS12, &TLS13] {
        for (identity, name) in [(&moderation, "moderation"), (&cleaner, "cleaner")] {
            let config = Arc::new(client(&gateway, Some(identity.clone()), version));
            for _ in 0..2 {
                let mut stream = open(&gateway, &config);
                let answer = on(&mut stream, "").unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full), "each is verified anew");
                let intent = gateway.of_kind("intent").pop().unwrap();
                assert_eq!(intent["caller"], name);
                assert!(intent["credential"].as_str().unwrap().starts_with("x509-"), "{intent}");
            }
        }
    }
    let mut other = client(&gateway, Some(moderation), &TLS13);
    other.alpn_protocols = vec![b"h2".to_vec()];
    assert!(on(&mut open(&gateway, &Arc::new(other)), "").is_err());
    assert_eq!(provider.heads().len(), 8);
}

#[test]
fn where_a_certificate_is_required_nothing_but_a_good_one_gets_as_far_as_a_request() {
    let (provider, authority, other) = (Provider::start(), Authority::new(), Authority::new());
    let gateway = gateway(&provider, &authority, ", client_auth = \"required\"");
    let names = [uri(SPIFFE)];
    let bad = [
        ("another authority's", other.issue(&names, |_| {})),
        ("expired", authority.issue(&names, |params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not valid yet", authority.issue(&names, |params| params.not_before = date_time_ymd(2100, 1, 1))),
        ("a server's", authority.issue(&names, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
    ];
    assert!(ask(&gateway, None, "").is_err() && ask(&gateway, None, &bearer()).is_err());
    for (what, identity) in &bad {
        assert!(ask(&gateway, Some(identity), "").is_err(), "{what}");
        assert!(ask(&gateway, Some(identity), &bearer()).is_err(), "{what}");
    }
    assert_eq!(provider.bytes(), 0);
    assert_eq!(status(&gateway, &authority.issue(&names, |_| {})), Some(200));
}

#[test]
fn exactly_one_credential_counts_and_a_certificate_of_nobody_serves_the_transport_alone() {
    let (provider, authority, other) = (Provider::start(), Authority::new(), Authority::new());
    let gateway = gateway(&provider, &authority, ", client_auth = \"optional\"");
    let moderation = authority.issue(&[uri(SPIFFE)], |_| {});
    let nobody = authority.issue(&[dns("mesh.example")], |_| {});
    let two = authority.issue(&[uri(SPIFFE), dns("cleaner.example")], |_| {});
    for (identity, fields, word) in [
        (Some(&moderation), bearer(), "two credentials"),
        (Some(&moderation), "Authorization: Bearer wrong\r\n".to_owned(), "two credentials"),
        (Some(&moderation), "Authorization:\r\n".to_owned(), "two credentials"),
        (Some(&nobody), String::new(), "no caller's"),
        (Some(&nobody), "Authorization: Bearer wrong\r\n".to_owned(), "not known"),
        (Some(&two), String::new(), "several callers"),
        (Some(&two), bearer(), "several callers"),
        (None, String::new(), "no Authorization header"),
        (None, format!("X-Forwarded-Client-Cert: URI={SPIFFE}\r\n"), "no Authorization header"),
    ] {
        let answer = ask(&gateway, identity, &fields).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{word}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(word), "{word}: {answer:?}");
    }
    assert_eq!(provider.bytes(), 0);
    assert!(ask(&gateway, Some(&other.issue(&[uri(SPIFFE)], |_| {})), &bearer()).is_err(), "a wrong one is not none");
    for (identity, fields, name) in [
        (None, bearer(), "plain"),
        (Some(&nobody), bearer(), "plain"),
        (Some(&moderation), String::new(), "moderation"),
    ] {
        assert_eq!(ask(&gateway, identity, &fields).unwrap().status, 200);
        assert_eq!(gateway.of_kind("intent").pop().unwrap()["caller"], name);
    }
}

#[test]
fn authorities_are_replaced_with_an_overlap_and_an_open_connection_keeps_what_it_proved() {
    let (provider, old, new) = (Provider::start(), Authority::new(), Authority::new());
    let gateway = gateway(&provider, &old, "");
    let [before, after] = [&old, &new].map(|authority| authority.issue(&[uri(SPIFFE)], |_| {}));
    let mut kept = open(&gateway, &Arc::new(client(&gateway, Some(before.clone()), &TLS13)));
    assert_eq!(on(&mut kept, "").unwrap().status, 200);
    assert_eq!((status(&gateway, &before), status(&gateway, &after)), (Some(200), None));
    trust(gateway.folder.path(), &[&old, &new]);
    eventually("the new authority is trusted", || status(&gateway, &after) == Some(200));
    assert_eq!(status(&gateway, &before), Some(200));
    trust(gateway.folder.path(), &[&new]);
    gateway.signal("HUP");
    eventually("the old authority is not", || status(&gateway, &before).is_none());
    std::fs::write(gateway.folder.path().join("clients.pem"), "nothing").unwrap();
    gateway.signal("HUP");
    eventually("the fault is logged", || gateway.log().contains("a certificate was not reloaded"));
    assert_eq!(status(&gateway, &after), Some(200));
    assert_eq!(on(&mut kept, "").unwrap().status, 200, "its handshake was good");
    // But whose it is, each request asks anew.
    let text = std::fs::read_to_string(gateway.config()).unwrap().replace("sa/moderation", "sa/another");
    std::fs::write(gateway.config(), text).unwrap();
    eventually("it is nobody's", || on(&mut kept, "").unwrap().status == 401);
}

#[test]
fn a_certificate_that_expires_is_refused_on_an_open_connection_which_ends_with_that() {
    let (provider, authority) = (Provider::start(), Authority::new());
    let (folder, text) = set_up(&provider, &authority, ", client_auth = \"optional\"");
    step(folder.path(), "+0");
    let gateway = stepped(&folder, &text);
    let until = |year| move |params: &mut CertificateParams| params.not_after = date_time_ymd(year, 1, 1);
    let (short, long) = (authority.issue(&[uri(SPIFFE)], until(2050)), authority.issue(&[uri(SPIFFE)], until(2090)));
    let transport = authority.issue(&[dns("mesh.example")], until(2050));
    let kept = |identity: &Identity| open(&gateway, &Arc::new(client(&gateway, Some(identity.clone()), &TLS13)));
    let (mut short, mut long, mut transport) = (kept(&short), kept(&long), kept(&transport));
    for (stream, fields) in [(&mut short, String::new()), (&mut long, String::new()), (&mut transport, bearer())] {
        let answer = on(stream, &fields).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None), "{answer:?}");
    }
    step(folder.path(), "+40y");
    let answer = on(&mut short, "").unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("expired"), "{answer:?}");
    assert_eq!(on(&mut long, "").unwrap().status, 200);
    let carried = on(&mut transport, &bearer()).unwrap();
    assert_eq!(carried.status, 200, "its token is the credential: {carried:?}");
    for (mut stream, last) in [(short, answer), (transport, carried)] {
        assert_eq!(last.header("connection"), Some("close"));
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    }
    assert_eq!(provider.heads().len(), 5);
}

#[test]
fn whose_certificate_may_not_issue_others_is_no_authority() {
    let (provider, authority) = (Provider::start(), Authority::new());
    let gateway = gateway(&provider, &authority, "");
    let moderation = authority.issue(&[uri(SPIFFE)], |_| {});
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let (mut params, key) = (CertificateParams::new(vec![]).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = is_ca;
        // Who has its key could be any caller, though it says itself that it is nobody's issuer.
        let pinned = Authority(CertifiedIssuer::self_signed(params, key).unwrap());
        let forged = pinned.issue(&[dns("cleaner.example")], |_| {});
        let refused = gateway.of_kind("policy-refused").len();
        trust(gateway.folder.path(), &[&authority, &pinned]);
        gateway.signal("HUP");
        eventually("it is refused", || gateway.of_kind("policy-refused").len() > refused);
        assert_eq!((status(&gateway, &forged), status(&gateway, &moderation)), (None, Some(200)));
    }
    assert!(gateway.log().contains("may not issue certificates"), "{}", gateway.log());
    let checked = command(&["check-config"], &gateway.config());
    assert_eq!(checked.status.code(), Some(64), "{checked:?}");
}

#[test]
fn an_authority_whose_extensions_only_authorities_have_is_one() {
    let provider = Provider::start();
    // policyConstraints and inhibitAnyPolicy (RFC 5280 §4.2.1.11, §4.2.1.14), which must be critical.
    for (id, value) in [(36, vec![0x30, 3, 0x80, 1, 0]), (54, vec![2, 1, 0])] {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, id], value);
        extension.set_criticality(true);
        let authority = Authority::with(vec![extension]);
        let gateway = gateway(&provider, &authority, "");
        assert_eq!(status(&gateway, &authority.issue(&[uri(SPIFFE)], |_| {})), Some(200), "{id}");
    }
}

#[test]
fn what_is_wrong_with_a_file_of_authorities_is_told_as_it_is() {
    let (provider, authority) = (Provider::start(), Authority::new());
    let (folder, text) = set_up(&provider, &authority, "");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    for (file, words) in [
        ("", "clients.pem: holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n", "clients.pem: invalid peer certificate"),
    ] {
        std::fs::write(folder.path().join("clients.pem"), file).unwrap();
        let checked = command(&["check-config"], &folder.path().join("gateway.toml"));
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.code() == Some(64) && said.contains(words) && !said.contains("no CA"), "{said}");
    }
}
