//! Who is calling: exactly one credential, which is a bearer token that is known by its SHA-256.

use crate::clock::Timestamp;
use crate::config;
use crate::error::Refused;
use crate::id::CallerName;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use subtle::ConstantTimeEq;

/// A caller who proved who it is, and with which of its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The caller.
    pub caller: CallerName,
    /// The id of the token that it showed.
    pub credential: CallerName,
}

struct Known {
    sha256: [u8; 32],
    expires: Option<Timestamp>,
    who: Identified,
}

/// Everybody that the configuration knows.
pub struct Identity {
    /// By the first bytes of the hash: of a high-entropy token nobody can choose them, so that finding
    /// the right drawer tells nothing; within a drawer the whole hash is compared in constant time.
    drawers: HashMap<[u8; 8], Vec<Known>>,
}

fn drawer(hash: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
    first
}

impl Identity {
    /// Takes over the callers' tokens.
    #[must_use]
    pub fn new(callers: &[config::Caller]) -> Self {
        let mut drawers: HashMap<_, Vec<Known>> = HashMap::new();
        for caller in callers {
            for token in &caller.tokens {
                let who = Identified { caller: caller.name.clone(), credential: token.id.clone() };
                let known = Known { sha256: token.sha256, expires: token.expires, who };
                drawers.entry(drawer(&token.sha256)).or_default().push(known);
            }
        }
        Self { drawers }
    }

    /// Looks at all `Authorization` values of a request (RFC 9110 §11.6.2, RFC 6750 §2.1).
    ///
    /// # Errors
    /// [`Refused::Unauthenticated`] unless there is exactly one and it is a token that is known and has
    /// not expired at `now`.
    pub fn identify<'a>(
        &self,
        mut values: impl Iterator<Item = &'a [u8]>,
        now: Timestamp,
    ) -> Result<Identified, Refused> {
        let value = values
            .next()
            .ok_or(Refused::Unauthenticated("there is no Authorization header; send `Bearer` and your token"))?;
        if values.next().is_some() {
            return Err(Refused::Unauthenticated("there is more than one Authorization header; send one"));
        }
        let token =
            bearer(value).ok_or(Refused::Unauthenticated("the Authorization header is not `Bearer` and one token"))?;
        let hash: [u8; 32] = Sha256::digest(token).into();
        let candidates = self.drawers.get(&drawer(&hash)).map(Vec::as_slice).unwrap_or_default();
        let mut found = None;
        for known in candidates {
            if bool::from(known.sha256.ct_eq(&hash)) {
                found = Some(known);
            }
        }
        match found {
            None => Err(Refused::Unauthenticated("the token is not known")),
            Some(known) if known.expires.is_some_and(|at| at <= now) => {
                Err(Refused::Unauthenticated("the token has expired"))
            }
            Some(known) => Ok(known.who.clone()),
        }
    }
}

/// The token of `Bearer <token68>`, nothing else.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii_start();
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b);
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty() && token.iter().all(fits)).then_some(token)
}

/// A new token (256 random bits after a prefix by which leaks can be searched for) and its SHA-256 in hex.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_token() -> Result<(String, String), getrandom::Error> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random)?;
    let token = format!("wgt_{}", hex(&random));
    let hash = hex(&Sha256::digest(token.as_bytes()));
    Ok((token, hash))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(expires: Option<Timestamp>) -> (Identity, String) {
        let (token, _) = new_token().unwrap();
        let name = |text| CallerName::parse(text).unwrap();
        let tokens = vec![config::Token { id: name("t1"), sha256: Sha256::digest(token.as_bytes()).into(), expires }];
        let caller = config::Caller { name: name("c"), tokens, from: None, rates: vec![], allow: vec![], deny: vec![] };
        (Identity::new(&[caller]), token)
    }

    fn ask(identity: &Identity, values: &[&str]) -> Result<String, Refused> {
        let now = Timestamp::from_micros(1_000);
        identity
            .identify(values.iter().map(|v| v.as_bytes()), now)
            .map(|who| format!("{}/{}", who.caller, who.credential))
    }

    #[test]
    fn one_known_token_identifies_whatever_the_case_of_the_scheme() {
        let (identity, token) = identity(None);
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert_eq!(ask(&identity, &[&format!("{scheme} {token}")]), Ok("c/t1".to_owned()));
        }
    }

    #[test]
    fn anything_but_exactly_one_known_token_is_refused() {
        let (identity, token) = identity(None);
        let good = format!("Bearer {token}");
        for values in [
            &[][..],
            &[good.as_str(), good.as_str()],
            &[&format!("{good}, {good}")],
            &["Bearer"],
            &["Bearer "],
            &[&token],
            &["Basic YTpi"],
            &[&format!("{good}x")],
            &[&good[..good.len() - 1]],
            &["Bearer wgt_unknown"],
            &[&format!("Bearer\t{token}")],
        ] {
            assert!(matches!(ask(&identity, values), Err(Refused::Unauthenticated(_))), "{}", values.len());
        }
    }

    #[test]
    fn a_token_is_refused_from_the_moment_it_expires() {
        let (expired, token) = identity(Some(Timestamp::from_micros(1_000)));
        assert!(ask(&expired, &[&format!("Bearer {token}")]).is_err());
        let (valid, token) = identity(Some(Timestamp::from_micros(1_001)));
        assert!(ask(&valid, &[&format!("Bearer {token}")]).is_ok());
    }
}
