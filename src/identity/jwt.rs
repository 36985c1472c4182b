//! Signed tokens: JSON Web Tokens (RFC 7519) in the compact form (RFC 7515), with the advice of RFC 8725.
//!
//! What costs little is looked at first: only a token of a known issuer, for us, in its time and by a known key has its
//! signature verified, which comes before anything is made of what it says.

use super::{Identified, hex};
use crate::clock::Timestamp;
use crate::config::{self, PublicKey, json};
use crate::id::CallerName;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256};
use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Below what a head may have.
const AT_MOST: usize = 8 * 1024;
/// A header that says one of these wants something that is not done here, or brings its own key (RFC 8725 §3.10).
const REFUSED: [&str; 9] = ["b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5u", "zip"];
/// 9999-12-31T23:59:59Z.
const LAST_S: f64 = 253_402_300_799.0;

type Fault = &'static str;

struct Key {
    kid: Option<String>,
    public: PublicKey,
    /// What entries call a token that it signed.
    credential: CallerName,
}

struct Caller {
    name: CallerName,
    claims: BTreeMap<String, String>,
}

struct Issuer {
    issuer: String,
    audience: String,
    leeway: Duration,
    keys: Vec<Key>,
    /// By subject, and those that have any.
    callers: HashMap<Option<String>, Vec<Caller>>,
}

/// A token that is taken apart, and of which nothing is believed yet.
struct Token<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

impl Token<'_> {
    fn alg(&self) -> Result<&str, Fault> {
        algorithm(&self.header)
    }
}

/// Everybody whose tokens are believed.
pub(super) struct Issuers(Vec<Issuer>);

/// The issuer's name and the key's id, or of the latter a hash where it is no short word.
fn credential(issuer: &CallerName, kid: Option<&str>) -> CallerName {
    let named = |kid: &str| CallerName::parse(&format!("{issuer}-{kid}"));
    let hashed = |kid: &str| hex(&Sha256::digest(kid)).chars().take(16).collect::<String>();
    kid.and_then(|kid| named(kid).or_else(|_| named(&hashed(kid))).ok()).unwrap_or_else(|| issuer.clone())
}

impl Issuer {
    fn new(from: &config::Issuer, callers: &[config::Caller]) -> Self {
        let mut known: HashMap<_, Vec<Caller>> = HashMap::new();
        for caller in callers {
            if let Some(jwt) = caller.jwt.as_ref().filter(|jwt| jwt.issuer == from.name) {
                let (name, claims) = (caller.name.clone(), jwt.claims.clone());
                known.entry(jwt.subject.clone()).or_default().push(Caller { name, claims });
            }
        }
        let key = |key: &config::Key| Key {
            kid: key.kid.clone(),
            public: key.public.clone(),
            credential: credential(&from.name, key.kid.as_deref()),
        };
        Self {
            issuer: from.issuer.clone(),
            audience: from.audience.clone(),
            leeway: from.leeway,
            keys: from.keys.iter().map(key).collect(),
            callers: known,
        }
    }

    /// The key that a header names, which must be one for its algorithm. A token may leave the name out where there is
    /// one key.
    fn key(&self, header: &Map<String, Value>, alg: &str) -> Result<&Key, Fault> {
        let key = match (header.get("kid"), self.keys.as_slice()) {
            (None, [only]) => only,
            (None, _) => return Err("the token names no key (`kid`), and its issuer has several"),
            (Some(kid), keys) => {
                let named = |key: &&Key| key.kid.is_some() && key.kid.as_deref() == kid.as_str();
                keys.iter().find(named).ok_or("the token's key (`kid`) is not among its issuer's")?
            }
        };
        if key.public.algorithm() == alg { Ok(key) } else { Err("the token's `alg` is not that of its key") }
    }

    fn in_time(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(), Fault> {
        let exp = time(claims, "exp")?.ok_or("the token has no `exp`")?;
        if exp.after(self.leeway) <= now {
            return Err("the token has expired");
        }
        match time(claims, "nbf")? {
            Some(nbf) if now < nbf.before(self.leeway) => Err("the token is not valid yet"),
            Some(_) | None => Ok(()),
        }
    }

    /// The callers whose subject and claims these are.
    fn callers(&self, claims: &Map<String, Value>) -> Result<impl Iterator<Item = &CallerName>, Fault> {
        let subject = claims.get("sub").map(|sub| sub.as_str().ok_or("the token's `sub` is no text")).transpose()?;
        let by_subject = subject.and_then(|subject| self.callers.get(&Some(subject.to_owned())));
        let has = |(name, value): (&String, &String)| claims.get(name).and_then(Value::as_str) == Some(value);
        let known = by_subject.into_iter().chain(self.callers.get(&None)).flatten();
        Ok(known.filter(move |caller| caller.claims.iter().all(has)).map(|caller| &caller.name))
    }

    /// The key that has signed a token of its, in its time.
    fn signed_by(&self, token: &Token, now: Timestamp) -> Result<&Key, Fault> {
        self.in_time(&token.claims, now)?;
        let key = self.key(&token.header, token.alg()?)?;
        verify(&key.public, token.signed, &token.signature)?;
        Ok(key)
    }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, Fault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_S).contains(seconds));
    let seconds = seconds.ok_or("the token has a time that is none")?;
    Ok(Some(Timestamp::from_micros((seconds * 1_000_000.0) as i64)))
}

fn part(text: &[u8]) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "the token is not known, and no JWT: a part is not base64url")
}

fn object(text: &[u8]) -> Result<Map<String, Value>, Fault> {
    json::object(&part(text)?)
        .map_err(|_| "the token is not known, and no JWT: a part is no JSON object, or an ambiguous one")
}

/// The algorithm of a header that asks for nothing else.
fn algorithm(header: &Map<String, Value>) -> Result<&str, Fault> {
    if REFUSED.iter().any(|name| header.contains_key(*name)) {
        return Err("the token's header asks for what is not done here, or brings its own key");
    }
    let typ = header.get("typ").map(|typ| typ.as_str().unwrap_or_default().to_ascii_lowercase());
    // RFC 7515 §4.1.9: a type without a slash is short for that with `application/` before it.
    let is_for_access = |typ: String| ["jwt", "at+jwt"].contains(&typ.strip_prefix("application/").unwrap_or(&typ));
    if !typ.is_none_or(is_for_access) {
        return Err("the token's `typ` is not that of a token for access");
    }
    let alg = header.get("alg").and_then(Value::as_str).unwrap_or_default();
    if ["RS256", "ES256", "EdDSA"].contains(&alg) {
        Ok(alg)
    } else {
        Err("the token's `alg` is not RS256, ES256 or EdDSA")
    }
}

/// Whom the token is for: texts alone (RFC 7519 §4.1.3).
fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, Fault> {
    let texts = match claims.get("aud") {
        None => return Ok(Vec::new()),
        Some(Value::Array(several)) => several.iter().map(Value::as_str).collect(),
        Some(one) => one.as_str().map(|one| vec![one]),
    };
    texts.ok_or("the token's `aud` is neither a text nor a list of texts")
}

fn verify(key: &PublicKey, signed: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let verified = match key {
        PublicKey::Rs256 { n, e } => {
            RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
        }
        PublicKey::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature),
        PublicKey::EdDsa(public) => UnparsedPublicKey::new(&ED25519, public).verify(signed, signature),
    };
    verified.map_err(|_| "the token's signature is not that of its issuer")
}

impl Issuers {
    pub(super) fn new(issuers: &[config::Issuer], callers: &[config::Caller]) -> Self {
        Self(issuers.iter().map(|issuer| Issuer::new(issuer, callers)).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token it is at `now`; what is wrong with it is said in words.
    pub(super) fn holder(&self, token: &[u8], now: Timestamp) -> Result<Identified, Fault> {
        if token.len() > AT_MOST {
            return Err("the token is longer than 8192 bytes");
        }
        let mut parts = token.split(|b| *b == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("the token is not known");
        };
        let signed = token.get(..header.len() + 1 + claims.len()).unwrap_or_default();
        let (header, signature) = (object(header)?, part(signature)?);
        algorithm(&header)?;
        self.holder_of(&Token { header, claims: object(claims)?, signed, signature }, now)
    }

    /// Several issuers may sign as the same one, for different audiences. Each that the token fits is asked; the callers
    /// of all of them count.
    fn holder_of(&self, token: &Token, now: Timestamp) -> Result<Identified, Fault> {
        let claims = &token.claims;
        let iss = claims.get("iss").and_then(Value::as_str).ok_or("the token has no issuer (`iss`)")?;
        let audiences = audiences(claims)?;
        let mut named = self.0.iter().filter(|one| one.issuer == iss).peekable();
        named.peek().ok_or("the token's issuer (`iss`) is not known")?;
        let mut meant = named.filter(|one| audiences.contains(&&*one.audience)).peekable();
        meant.peek().ok_or("the token is not for this gateway: `aud` names another audience")?;
        let (mut holders, mut wrong, mut is_signed) = (Vec::new(), None, false);
        for issuer in meant {
            match issuer.signed_by(token, now) {
                Ok(key) => {
                    is_signed = true;
                    let holder = |caller: &CallerName| (caller.clone(), key.credential.clone());
                    holders.extend(issuer.callers(claims)?.map(holder));
                }
                Err(fault) => wrong = wrong.or(Some(fault)),
            }
        }
        let nobody = "the token is not that of a caller: no `jwt` fits its subject and claims";
        let mut holders = holders.into_iter();
        match (holders.next(), holders.next()) {
            (Some((caller, credential)), None) => Ok(Identified { caller, credential }),
            (Some(_), Some(_)) => Err("the token is that of several callers"),
            (None, _) => Err(wrong.filter(|_| !is_signed).unwrap_or(nobody)),
        }
    }
}

#[cfg(test)]
mod tests;
