//! A set of public keys as an issuer publishes it (RFC 7517): those of them that a token may be signed with here.

use super::json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// A key set of this many bytes is read.
pub(super) const FILE_AT_MOST: u64 = 256 * 1024;
const KEYS_AT_MOST: usize = 64;
/// Of a modulus: what is shorter can be broken, and what is longer costs whoever verifies too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const KID_AT_MOST: usize = 256;

/// A public key, and with it the one algorithm that its signatures have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RS256: RSA of 2048 to 4096 bits; modulus and exponent, big-endian without leading zeros.
    Rs256 {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// ES256: a point on P-256, uncompressed (SEC 1 §2.3.3).
    Es256(Vec<u8>),
    /// EdDSA with Ed25519 (RFC 8037).
    EdDsa(Vec<u8>),
}

impl PublicKey {
    /// The algorithm, as a token's header names it (RFC 7518 §3.1, RFC 8037 §3.1).
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self {
            PublicKey::Rs256 { .. } => "RS256",
            PublicKey::Es256(_) => "ES256",
            PublicKey::EdDsa(_) => "EdDSA",
        }
    }
}

/// One key of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its id, which tokens name.
    pub kid: Option<String>,
    /// The key.
    pub public: PublicKey,
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match jwk.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("`{name}` is no text")),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(jwk, name)?.ok_or_else(|| format!("`{name}` is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("`{name}` is not base64url without padding"))
}

/// Bytes of exactly this length.
fn sized(jwk: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, String> {
    let bytes = bytes(jwk, name)?;
    if bytes.len() == length { Ok(bytes) } else { Err(format!("`{name}` has not {length} bytes")) }
}

fn rsa(jwk: &Map<String, Value>) -> Result<PublicKey, String> {
    let number = |name| bytes(jwk, name).map(|bytes| bytes.into_iter().skip_while(|b| *b == 0).collect::<Vec<u8>>());
    let (n, e) = (number("n")?, number("e")?);
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("an RSA key has {bits} bits; from {} to {} are taken", RSA_BITS.start(), RSA_BITS.end()));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !is_odd(&n) || !is_odd(&e) || e.len() > 4 || e == [1] {
        return Err("an RSA key has a modulus or exponent that no key has".to_owned());
    }
    Ok(PublicKey::Rs256 { n, e })
}

/// The key, or nothing where it is for something else or of a kind that is not taken (RFC 7517 §5 has those ignored).
fn key(jwk: &Map<String, Value>) -> Result<Option<Key>, String> {
    let kid = text(jwk, "kid")?;
    if kid.is_some_and(|kid| kid.is_empty() || kid.len() > KID_AT_MOST) {
        return Err(format!("`kid` has not 1 to {KID_AT_MOST} bytes"));
    }
    let kty = text(jwk, "kty")?.ok_or("`kty` is missing")?;
    if kty != "oct" && jwk.contains_key("d") {
        return Err("it holds a private key; leave in what is public alone".to_owned());
    }
    let verifies = match jwk.get("key_ops") {
        None => true,
        Some(value) => value.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")),
    };
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") || !verifies {
        return Ok(None);
    }
    let (alg, crv) = (text(jwk, "alg")?, text(jwk, "crv")?);
    if alg.is_some_and(|alg| !["RS256", "ES256", "EdDSA"].contains(&alg)) {
        return Ok(None);
    }
    let public = match (kty, crv) {
        ("RSA", _) if alg.is_none_or(|alg| alg == "RS256") => rsa(jwk)?,
        ("EC", Some("P-256")) => {
            let point = [vec![4], sized(jwk, "x", 32)?, sized(jwk, "y", 32)?].concat();
            PublicKey::Es256(point)
        }
        ("OKP", Some("Ed25519")) => PublicKey::EdDsa(sized(jwk, "x", 32)?),
        _ => return Ok(None),
    };
    if alg.is_some_and(|alg| alg != public.algorithm()) {
        return Err(format!("`alg` is another one than {}, which this kind of key has here", public.algorithm()));
    }
    Ok(Some(Key { kid: kid.map(str::to_owned), public }))
}

/// Reads a key set. What is wrong with it is said in words.
pub(super) fn parse(text: &str) -> Result<Vec<Key>, String> {
    let set = json::object(text.as_bytes()).map_err(|e| format!("is no JSON Web Key Set: {e}"))?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or("is no JSON Web Key Set: there is no list `keys`")?;
    if listed.len() > KEYS_AT_MOST {
        return Err(format!("holds more than {KEYS_AT_MOST} keys"));
    }
    let mut keys = Vec::new();
    for (index, jwk) in listed.iter().enumerate() {
        let jwk = jwk.as_object().ok_or_else(|| format!("keys[{index}] is no object"))?;
        keys.extend(key(jwk).map_err(|what| format!("keys[{index}]: {what}"))?);
    }
    if keys.is_empty() {
        return Err("holds no key for RS256, ES256 (P-256) or EdDSA (Ed25519) signatures".to_owned());
    }
    let mut kids = HashSet::new();
    for key in keys.iter().filter(|_| keys.len() > 1) {
        match &key.kid {
            None => return Err("holds several keys, and not each has a `kid`: tokens could not name it".to_owned()),
            Some(kid) if !kids.insert(kid) => return Err("holds two keys with one `kid`".to_owned()),
            Some(_) => {}
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037 §A.2, RFC 7515 §A.3.1 and §A.2.1.
    const ED25519: &str =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"ed"}"#;
    const P256: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"ec"}"#;
    const RSA: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB","kid":"rsa"}"#;

    fn set(keys: &[&str]) -> String {
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    #[test]
    fn the_keys_of_the_rfcs_are_taken_each_with_its_one_algorithm() {
        let keys = parse(&set(&[RSA, P256, ED25519])).unwrap();
        let found: Vec<_> = keys.iter().map(|key| (key.kid.as_deref().unwrap(), key.public.algorithm())).collect();
        assert_eq!(found, [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")]);
    }

    #[test]
    fn what_is_for_something_else_is_left_out() {
        let others = [
            ED25519.replace("\"kid\"", "\"use\":\"enc\",\"kid\""),
            ED25519.replace("\"kid\"", "\"key_ops\":[\"sign\"],\"kid\""),
            ED25519.replace("Ed25519", "X25519"),
            P256.replace("P-256", "P-384"),
            RSA.replace("\"kid\"", "\"alg\":\"PS256\",\"kid\""),
            P256.replace("\"kid\"", "\"alg\":\"ECDH-ES\",\"kid\""),
            ED25519.replace("\"kid\"", "\"alg\":\"Ed25519\",\"kid\""),
            r#"{"kty":"oct","k":"AAAA","alg":"HS256"}"#.to_owned(),
            r#"{"kty":"new"}"#.to_owned(),
        ];
        for other in &others {
            assert_eq!(parse(&set(&[other, P256])).map(|keys| keys.len()), Ok(1), "{other}");
            assert!(parse(&set(&[other])).unwrap_err().contains("holds no key"), "{other}");
        }
    }

    #[test]
    fn a_key_set_that_could_mislead_is_a_fault() {
        let without_kid = ED25519.replace(",\"kid\":\"ed\"", "");
        assert!(parse(&set(&[&without_kid])).is_ok(), "one key needs no id");
        let short = RSA.replace("ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp", "AAAA");
        for (keys, word) in [
            (set(&[&without_kid, P256]), "not each has a `kid`"),
            (set(&[ED25519, ED25519]), "two keys with one `kid`"),
            (set(&[&ED25519.replace("\"kid\"", "\"d\":\"AAAA\",\"kid\"")]), "private key"),
            (set(&[&ED25519.replace("\"kid\"", "\"alg\":\"ES256\",\"kid\"")]), "`alg`"),
            (set(&[&ED25519.replace("UR", "U")]), "`x`"),
            (set(&[&short]), "bits"),
            (set(&[&RSA.replace("AQAB", "AQ")]), "exponent"),
            (set(&[&ED25519.replace("\"kty\"", "\"kty\":\"OKP\",\"kty\"")]), "twice"),
            (set(&[]), "holds no key"),
            ("{}".to_owned(), "no list `keys`"),
            (set(&["1"]), "keys[0]"),
            (set(&vec![ED25519; 65]), "more than 64"),
        ] {
            let what = parse(&keys).unwrap_err();
            assert!(what.contains(word), "{word}: {what}");
        }
    }
}
