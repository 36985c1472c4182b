//! Signed tokens (JWT) through the real binary: whose they are, which are refused, and keys that change.

use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::{Response, delete, delete_with, get};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub const ISSUER: &str = "https://kubernetes.default.svc";
const SUBJECT: &str = "system:serviceaccount:chat:moderation";
/// The usual caller, but known by the tokens of its service account.
pub const JWT: &str = "jwt = { issuer = \"cluster\", subject = \"system:serviceaccount:chat:moderation\" }";

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub struct Signer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    pub fn new(kid: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap() }
    }

    pub fn jwk(&self) -> String {
        let x = encoded(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "use": "sig", "x": x}).to_string()
    }

    /// A token with the usual claims but for those in `other`.
    pub fn token(&self, other: &serde_json::Value) -> String {
        self.with_header(&json!({"alg": "EdDSA", "kid": self.kid}), other)
    }

    fn with_header(&self, header: &serde_json::Value, other: &serde_json::Value) -> String {
        let signed = format!("{}.{}", encoded(header.to_string()), encoded(claims(other)));
        format!("{signed}.{}", encoded(self.pair.sign(signed.as_bytes())))
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(other: &serde_json::Value) -> String {
    let mut claims = json!({
        "iss": ISSUER, "aud": ["wasend-gateway"], "sub": SUBJECT, "exp": now_s() + 600, "iat": now_s(), "nbf": now_s(),
        "kubernetes.io": {"namespace": "chat", "serviceaccount": {"name": "moderation", "uid": "0"}}
    });
    for (name, value) in other.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.to_string()
}

pub fn publish(folder: &Path, keys: &[String]) {
    std::fs::write(folder.join("jwks.json"), format!("{{\"keys\":[{}]}}", keys.join(","))).unwrap();
}

/// A gateway with these keys, the usual caller known by JWT, and one known by a token.
fn gateway(provider: &Provider, keys: &[String]) -> Gateway {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    publish(folder.path(), keys);
    let text = caller("moderation", TOKEN, JWT);
    let known: Vec<&str> = text.lines().filter(|line| !line.starts_with("tokens")).collect();
    let issuer = format!(
        "[reload]\ninterval_ms = 50\n[[identity.issuers]]\nname = \"cluster\"\nissuer = \"{ISSUER}\"\naudience = \"wasend-gateway\"\njwks_file = \"jwks.json\"\n"
    );
    let callers = format!("{issuer}{}\n{}", known.join("\n"), caller("plain", TOKEN, ""));
    Gateway::in_folder(folder, &configuration(&provider.url(), &[], &callers), &[])
}

fn ask(gateway: &Gateway, token: &str) -> Response {
    delete(gateway.listen, TARGET, token)
}

/// A key of 2048 bits in `folder`, by OpenSSL; its public part.
fn rsa(folder: &Path, kid: &str) -> String {
    let openssl = |words: &[&str]| {
        let output = Command::new("openssl").args(words).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    openssl(&["genrsa", "-out", "rsa.pem", "2048"]);
    let modulus = String::from_utf8(openssl(&["rsa", "-in", "rsa.pem", "-noout", "-modulus"])).unwrap();
    let hex = modulus.trim().strip_prefix("Modulus=").unwrap();
    let n: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": encoded(n), "e": "AQAB"}).to_string()
}

#[test]
fn a_service_accounts_token_is_its_callers_and_the_intent_names_issuer_and_key() {
    let (provider, folder) = (Provider::start(), tempfile::tempdir().unwrap());
    let kid = "hR8tD8X0Zt3Vw1yT0tq7bq0i1m6m2u9yZ0kq1n3o5aA";
    let gateway = gateway(&provider, &[rsa(folder.path(), kid)]);
    let signed =
        format!("{}.{}", encoded(json!({"alg": "RS256", "kid": kid}).to_string()), encoded(claims(&json!({}))));
    std::fs::write(folder.path().join("signed"), &signed).unwrap();
    let words = ["dgst", "-sha256", "-sign", "rsa.pem", "signed"];
    let signature = Command::new("openssl").args(words).current_dir(folder.path()).output().unwrap().stdout;
    let token = format!("{signed}.{}", encoded(&signature));
    let answer = ask(&gateway, &token);
    assert_eq!(answer.status, 200, "{answer:?}");
    let intent = &gateway.of_kind("intent")[0];
    assert_eq!((&intent["caller"], &intent["credential"]), (&"moderation".into(), &format!("cluster-{kid}").into()));
    assert_eq!(ask(&gateway, TOKEN).status, 200, "tokens are taken beside it");
    let head = provider.heads()[0].clone();
    assert!(!head.contains(&signed) && !gateway.log().contains(&token), "the token stays here");
}

#[test]
fn a_signed_token_with_anything_wrong_is_401_and_nothing_is_sent() {
    let provider = Provider::start();
    let (ours, second, theirs) = (Signer::new("ours"), Signer::new("second"), Signer::new("ours"));
    let gateway = gateway(&provider, &[ours.jwk(), second.jwk()]);
    let good = ours.token(&json!({}));
    let unsigned = format!("{}.{}.", encoded(json!({"alg": "none"}).to_string()), encoded(claims(&json!({}))));
    for (token, word) in [
        (ours.token(&json!({"exp": now_s() - 31})), "expired"),
        (ours.token(&json!({"nbf": now_s() + 90})), "not valid yet"),
        (ours.token(&json!({"aud": ["https://kubernetes.default.svc"]})), "another audience"),
        (ours.token(&json!({"iss": "https://elsewhere.example"})), "issuer"),
        (ours.token(&json!({"sub": "system:serviceaccount:chat:default"})), "not that of a caller"),
        (ours.with_header(&json!({"alg": "EdDSA", "kid": "unknown"}), &json!({})), "not among"),
        (ours.with_header(&json!({"alg": "EdDSA"}), &json!({})), "names no key"),
        (ours.with_header(&json!({"alg": "HS256", "kid": "ours"}), &json!({})), "`alg`"),
        (ours.with_header(&json!({"alg": "EdDSA", "kid": "ours", "jku": "https://e.example"}), &json!({})), "header"),
        (second.with_header(&json!({"alg": "EdDSA", "kid": "ours"}), &json!({})), "signature"),
        (theirs.token(&json!({})), "signature"),
        (unsigned, "`alg`"),
    ] {
        let answer = ask(&gateway, &token);
        assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (401, "unauthenticated", "no"));
        assert!(answer.json()["detail"].as_str().unwrap().contains(word), "{word}: {answer:?}");
    }
    let both = format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {TOKEN}\r\n");
    assert_eq!(delete_with(gateway.listen, TARGET, &both).status, 401);
    assert_eq!(provider.bytes(), 0);
    assert!(gateway.of_kind("intent").is_empty());
    assert_eq!(ask(&gateway, &good).status, 200);
}

#[test]
fn keys_are_replaced_with_an_overlap_and_a_bad_key_set_changes_nothing() {
    let provider = Provider::start();
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let gateway = gateway(&provider, &[old.jwk()]);
    let status = |signer: &Signer| ask(&gateway, &signer.token(&json!({}))).status;
    assert_eq!((status(&old), status(&new)), (200, 401));
    publish(gateway.folder.path(), &[old.jwk(), new.jwk()]);
    eventually("the new key is known", || status(&new) == 200);
    assert_eq!(status(&old), 200);
    publish(gateway.folder.path(), &[new.jwk()]);
    eventually("the old key is gone", || status(&old) == 401);
    let reasons =
        || serde_json::from_str::<serde_json::Value>(&get(gateway.ops, "/readyz").body).unwrap()["reasons"].clone();
    for bad in ["{\"keys\":[", "{\"keys\":[]}", &format!("{{\"keys\":[{0},{0}]}}", new.jwk())] {
        std::fs::write(gateway.folder.path().join("jwks.json"), bad).unwrap();
        eventually("it is told", || reasons() == json!(["policy-not-reloaded"]));
        assert_eq!((status(&new), status(&old)), (200, 401));
        publish(gateway.folder.path(), &[new.jwk()]);
        eventually("a good one is taken", || reasons() != json!(["policy-not-reloaded"]));
    }
}

#[test]
fn another_issuer_is_taken_over_while_it_runs_with_its_callers() {
    let provider = Provider::start();
    let ours = Signer::new("ours");
    let gateway = gateway(&provider, &[ours.jwk()]);
    let token = ours.token(&json!({"iss": "https://other.example"}));
    assert_eq!(ask(&gateway, &token).status, 401);
    let text = std::fs::read_to_string(gateway.config()).unwrap().replace(ISSUER, "https://other.example");
    std::fs::write(gateway.config(), text).unwrap();
    eventually("it is believed", || ask(&gateway, &token).status == 200);
    assert_eq!(ask(&gateway, &ours.token(&json!({}))).status, 401);
    gateway.signal("HUP");
    eventually("it is read again", || gateway.log().matches("callers and rates were reloaded").count() > 1);
    assert!(!gateway.log().contains("need a restart"), "{}", gateway.log());
}

#[test]
fn a_peer_whose_signed_tokens_fail_too_often_is_held_back_and_a_valid_one_never() {
    let provider = Provider::start();
    let ours = Signer::new("ours");
    let gateway = gateway(&provider, &[ours.jwk()]);
    let bad = Signer::new("ours").token(&json!({}));
    eventually("it is held back", || ask(&gateway, &bad).status == 429);
    assert_eq!(ask(&gateway, &ours.token(&json!({}))).status, 200);
    assert_eq!(ask(&gateway, &bad).status, 429);
}

#[test]
fn check_config_and_explain_say_by_what_a_caller_is_known() {
    let provider = Provider::start();
    let gateway = gateway(&provider, &[Signer::new("ours").jwk()]);
    let words = ["explain", "--caller", "moderation", "--session", "sess1", "--group", "1@g.us"];
    let explained = String::from_utf8(command(&words, &gateway.config()).stdout).unwrap();
    assert!(explained.contains(&format!("JWT of issuer `cluster` with sub = \"{SUBJECT}\"")), "{explained}");
    let good = std::fs::read_to_string(gateway.config()).unwrap();
    let file = gateway.folder.path().join("other.toml");
    for (replace, with, code, word) in [
        (JWT, "", 0, "caller `moderation` has no tokens, no `jwt` and no `certificate`: it cannot call"),
        (JWT, "certificate = { dns = \"a.example\" }", 0, "listen.tls.client_ca_file is missing"),
        (JWT, "jwt = { issuer = \"other\", subject = \"a\" }", 64, "names issuer `other`"),
        (JWT, "jwt = { issuer = \"cluster\" }", 64, "everybody's tokens"),
        (JWT, "certificate = { spiffe = \"spiffe://Example/a\" }", 64, "SPIFFE"),
        ("jwks.json", "missing.json", 64, "cannot be read"),
        ("audience = ", "leeway_s = 301\naudience = ", 64, "identity.issuers[0].leeway_s"),
    ] {
        assert!(good.contains(replace));
        std::fs::write(&file, good.replace(replace, with)).unwrap();
        let output = command(&["check-config"], &file);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{with}: {said}");
        assert!(said.contains(word), "{with}: {said}");
    }
}
