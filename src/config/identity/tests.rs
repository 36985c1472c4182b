//! Faults and warnings of issuers, and of how callers are known.

use crate::config::{Fault, Loaded, load};

const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const ISSUER: &str =
    "[[identity.issuers]]\nname = \"i\"\nissuer = \"https://i.example\"\naudience = \"gw\"\njwks_file = \"jwks\"\n";
const WHOLE: &str = "[upstream]\napi_key_file = \"key\"\n[ledger]\npath = \"ledger\"\n";

fn loaded(text: &str) -> Result<Loaded, Vec<Fault>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks"), JWKS).unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, format!("{text}\n{WHOLE}")).unwrap();
    load(&file)
}

/// Callers `c0`, `c1` … with these lines.
fn callers(lines: &[&str]) -> String {
    let caller = |(index, line): (usize, &&str)| format!("[[callers]]\nname = \"c{index}\"\n{line}\n");
    lines.iter().enumerate().map(caller).collect()
}

#[test]
fn what_could_not_identify_anybody_or_would_identify_two_is_a_fault_that_names_its_place() {
    let (jwt, spiffe) =
        ("jwt = { issuer = \"i\", subject = \"s\" }", "certificate = { spiffe = \"spiffe://a.example/b\" }");
    let tls = |table: &str, more: &str| format!("[{table}]\ncertificate_file = \"c\"\nkey_file = \"k\"\n{more}\n");
    for (text, key, word) in [
        (ISSUER.to_owned() + &callers(&[jwt, jwt]), "callers", "`jwt` of another"),
        (callers(&[spiffe, spiffe]), "callers", "`certificate` of another"),
        (ISSUER.to_owned() + &ISSUER.replace("gw", "other"), "identity.issuers", "there twice"),
        (ISSUER.to_owned() + &ISSUER.replace("\"i\"", "\"j\""), "identity.issuers", "issuer and audience"),
        (ISSUER.replace("\"jwks\"", "\"none\"") + &callers(&[jwt]), "identity.issuers[0].jwks_file", "cannot be read"),
        (callers(&[jwt]), "callers", "names issuer `i`"),
        (
            ISSUER.to_owned() + &callers(&["jwt = { issuer = \"i\", claims = { sub = \"s\" } }"]),
            "callers[0].jwt.claims",
            "a place of its own",
        ),
        (
            ISSUER.to_owned() + &callers(&["jwt = { issuer = \"i\", claims = { admin = true } }"]),
            "callers[0].jwt.claims.admin",
            "a text",
        ),
        (callers(&["certificate = {}"]), "callers[0].certificate.spiffe", "is missing"),
        (callers(&["certificate = { dns = \"*.example\" }"]), "callers[0].certificate.dns", "wildcard"),
        (callers(&["certificate = { spiffe = \"spiffe://a\" }"]), "callers[0].certificate.spiffe", "SPIFFE"),
        (callers(&["certificate = { spiffe = \"spiffe://a/../b\" }"]), "callers[0].certificate.spiffe", "SPIFFE"),
        (
            callers(&["certificate = { dns = \"a.example\", spiffe = \"spiffe://a/b\" }"]),
            "callers[0].certificate.dns",
            "leave one out",
        ),
        (tls("listen.tls", "client_auth = \"optional\""), "listen.tls.client_ca_file", "is missing"),
        (tls("listen.tls", "client_ca_file = \"a\"\nclient_auth = \"maybe\""), "listen.tls.client_auth", "not known"),
        (tls("ops.tls", "client_ca_file = \"a\""), "ops.tls.client_ca_file", "not a known key"),
    ] {
        let found = loaded(&text).map(|_| ()).unwrap_err();
        assert!(
            matches!(found.as_slice(), [fault] if fault.key == key && fault.what.contains(word)),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn what_works_but_is_probably_not_meant_is_a_warning() {
    let jwt = "jwt = { issuer = \"i\", subject = \"s\" }";
    let tls = "[listen.tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\nclient_ca_file = \"a\"\n";
    let both = format!("{jwt}\ncertificate = {{ dns = \"a.example\" }}");
    for (text, word) in [
        (callers(&[""]), Some("no tokens, no `jwt` and no `certificate`")),
        (ISSUER.to_owned(), Some("no caller has a `jwt` of issuer `i`")),
        (ISSUER.to_owned() + tls + &callers(&[&both]), Some("credentials of several kinds")),
        (callers(&["certificate = { dns = \"a.example\" }"]), Some("client_ca_file is missing")),
        (tls.to_owned() + &callers(&["certificate = { dns = \"a.example\" }"]), None),
        (ISSUER.to_owned() + &callers(&[jwt]), None),
    ] {
        let warnings = loaded(&text).unwrap().warnings;
        let ours = ["no tokens", "`jwt`", "several kinds", "client_ca_file"];
        let found: Vec<_> = warnings.iter().filter(|one| ours.iter().any(|part| one.contains(part))).collect();
        assert_eq!(found.len(), usize::from(word.is_some()), "{text}: {warnings:?}");
        assert!(word.is_none_or(|word| found.iter().all(|one| one.contains(word))), "{text}: {found:?}");
    }
}
