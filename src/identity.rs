//! Who is calling, and who operates. A caller has exactly one credential: a bearer token that is known by its SHA-256,
//! a signed token (JWT), or a client certificate. An operator has a bearer token.

mod certificate;
mod jwt;

pub use certificate::{Proven, may_not_issue};

use crate::clock::Timestamp;
use crate::config;
use crate::error::{Refused, Withheld};
use crate::id::CallerName;
use arc_swap::ArcSwap;
use certificate::Certificates;
use jwt::Issuers;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;

const NO_OPERATORS: &str = "no operator has a token here; make one with `wasend-gateway token new`, put its sha256 into \
    [[ops.operators]] of the configuration (name, role, token_sha256) and send SIGHUP";

/// A caller who proved who it is, and with which of its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// The caller.
    pub caller: CallerName,
    /// Which of its credentials: the id of its token, the issuer and key of its JWT, or the fingerprint of its certificate.
    pub credential: CallerName,
}

struct Known<W> {
    sha256: [u8; 32],
    expires: Option<Timestamp>,
    whose: W,
}

/// Tokens by their hashes, each with what is known of its holder.
struct Tokens<W> {
    /// By the first bytes of the hash: of a high-entropy token nobody can choose them, so that finding
    /// the right drawer tells nothing; within a drawer the whole hash is compared in constant time.
    drawers: HashMap<[u8; 8], Vec<Known<W>>>,
}

fn drawer(hash: &[u8; 32]) -> [u8; 8] {
    let mut first = [0; 8];
    first.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
    first
}

impl<W> Tokens<W> {
    fn new(tokens: impl Iterator<Item = Known<W>>) -> Self {
        let mut drawers: HashMap<_, Vec<Known<W>>> = HashMap::new();
        for known in tokens {
            drawers.entry(drawer(&known.sha256)).or_default().push(known);
        }
        Self { drawers }
    }

    /// Whose token it is, if it is known. What is wrong with one that is known is said in words.
    fn holder(&self, token: &[u8], now: Timestamp) -> Result<Option<&W>, &'static str> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let candidates = self.drawers.get(&drawer(&hash)).map(Vec::as_slice).unwrap_or_default();
        let mut found = None;
        for known in candidates {
            if bool::from(known.sha256.ct_eq(&hash)) {
                found = Some(known);
            }
        }
        match found {
            None => Ok(None),
            Some(known) if known.expires.is_some_and(|at| at <= now) => Err("the token has expired"),
            Some(known) => Ok(Some(&known.whose)),
        }
    }
}

/// The one token of all `Authorization` values of a request (RFC 9110 §11.6.2, RFC 6750 §2.1). What is wrong with them
/// is said in words.
fn only_token<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<&'a [u8], &'static str> {
    let value = values.next().ok_or("there is no Authorization header; send `Bearer` and your token")?;
    if values.next().is_some() {
        return Err("there is more than one Authorization header; send one");
    }
    bearer(value).ok_or("the Authorization header is not `Bearer` and one token")
}

/// Every caller that the configuration knows.
pub struct Identity {
    tokens: Tokens<Identified>,
    issuers: Issuers,
    certificates: Certificates,
}

impl Identity {
    /// Takes over the callers' credentials, and the keys of those who sign tokens.
    #[must_use]
    pub fn new(callers: &[config::Caller], issuers: &[config::Issuer]) -> Self {
        let tokens = callers.iter().flat_map(|caller| {
            caller.tokens.iter().map(|token| Known {
                sha256: token.sha256,
                expires: token.expires,
                whose: Identified { caller: caller.name.clone(), credential: token.id.clone() },
            })
        });
        Self {
            tokens: Tokens::new(tokens),
            issuers: Issuers::new(issuers, callers),
            certificates: Certificates::new(callers),
        }
    }

    /// Looks at all `Authorization` values of a request, and at the certificate of its connection. A certificate that is
    /// no caller's serves the transport alone.
    ///
    /// # Errors
    /// [`Refused::Unauthenticated`] unless there is exactly one credential that is a caller's at `now`.
    pub fn identify<'a>(
        &self,
        values: impl Iterator<Item = &'a [u8]>,
        certificate: Option<&Proven>,
        now: Timestamp,
    ) -> Result<Identified, Refused> {
        self.who(values, certificate, now).map_err(Refused::Unauthenticated)
    }

    fn who<'a>(
        &self,
        values: impl Iterator<Item = &'a [u8]>,
        certificate: Option<&Proven>,
        now: Timestamp,
    ) -> Result<Identified, &'static str> {
        let mut values = values.peekable();
        if let Some(proven) = certificate {
            match (self.certificates.holder(proven, now)?, values.peek()) {
                (Some(who), None) => return Ok(who),
                (Some(_), Some(_)) => {
                    return Err(
                        "there are two credentials, a caller's certificate and an Authorization header; send one",
                    );
                }
                (None, None) => {
                    return Err("the client certificate is no caller's, and there is no Authorization header");
                }
                (None, Some(_)) => {}
            }
        }
        let token = only_token(values)?;
        match self.tokens.holder(token, now)? {
            Some(who) => Ok(who.clone()),
            None if self.issuers.is_empty() => Err("the token is not known"),
            None => self.issuers.holder(token, now),
        }
    }
}

/// An operator or auditor who proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Its name.
    pub name: CallerName,
    /// What it may do.
    pub role: config::Role,
}

/// Every operator and auditor that the configuration knows. A reload replaces them while they are asked for.
pub struct Operators(ArcSwap<Tokens<Operator>>);

fn tokens_of(operators: &[config::Operator]) -> Tokens<Operator> {
    Tokens::new(operators.iter().flat_map(|operator| {
        operator.tokens.iter().map(|sha256| Known {
            sha256: *sha256,
            expires: None,
            whose: Operator { name: operator.name.clone(), role: operator.role },
        })
    }))
}

impl Operators {
    /// Takes over the operators' tokens.
    #[must_use]
    pub fn new(operators: &[config::Operator]) -> Self {
        Self(ArcSwap::from_pointee(tokens_of(operators)))
    }

    /// Replaces them all at once.
    pub fn reload(&self, operators: &[config::Operator]) {
        self.0.store(Arc::new(tokens_of(operators)));
    }

    /// Looks at all `Authorization` values of a request.
    ///
    /// # Errors
    /// [`Withheld::Unauthenticated`] unless there is exactly one and it is a token that is known; where no
    /// operator has a token, it says how to give it one.
    pub fn identify<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> Result<Operator, Withheld> {
        let tokens = self.0.load();
        if tokens.drawers.is_empty() {
            return Err(Withheld::Unauthenticated(NO_OPERATORS));
        }
        let known = only_token(values).and_then(|token| tokens.holder(token, Timestamp::now()));
        let operator = known.and_then(|known| known.cloned().ok_or("the token is not known"));
        operator.map_err(Withheld::Unauthenticated)
    }
}

/// The token of `Bearer <token68>`, nothing else.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let mut token = rest.strip_prefix(b" ")?;
    // RFC 9110 §11.4: any number of spaces, and no other white space.
    while let Some(after) = token.strip_prefix(b" ") {
        token = after;
    }
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
        let caller = config::Caller {
            name: name("c"),
            tokens,
            jwt: None,
            certificate: None,
            from: None,
            rates: vec![],
            budgets: vec![],
            allow: vec![],
            deny: vec![],
        };
        (Identity::new(&[caller], &[]), token)
    }

    fn ask(identity: &Identity, values: &[&str]) -> Result<String, Refused> {
        let now = Timestamp::from_micros(1_000);
        identity
            .identify(values.iter().map(|v| v.as_bytes()), None, now)
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
            &[&format!("Bearer \t{token}")],
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

    #[test]
    fn an_operator_is_known_by_any_of_its_tokens_until_a_reload_takes_it_away() {
        let (first, second) = (new_token().unwrap().0, new_token().unwrap().0);
        let operator = |role, tokens: &[&String]| config::Operator {
            name: CallerName::parse("alice").unwrap(),
            role,
            tokens: tokens.iter().map(|token| Sha256::digest(token.as_bytes()).into()).collect(),
        };
        let operators = Operators::new(&[operator(config::Role::Operator, &[&first, &second])]);
        let ask = |token: &str| {
            let value = format!("Bearer {token}");
            operators.identify(std::iter::once(value.as_bytes())).map(|operator| operator.role)
        };
        assert_eq!((ask(&first), ask(&second)), (Ok(config::Role::Operator), Ok(config::Role::Operator)));
        assert_eq!(ask("wgt_unknown"), Err(Withheld::Unauthenticated("the token is not known")));
        operators.reload(&[operator(config::Role::Auditor, &[&second])]);
        assert_eq!((ask(&first).is_err(), ask(&second)), (true, Ok(config::Role::Auditor)));
        operators.reload(&[operator(config::Role::Auditor, &[])]);
        assert_eq!(ask(&second), Err(Withheld::Unauthenticated(NO_OPERATORS)));
    }
}
