//! `[[callers]]`: who is known, from where, and how fast. And the rates, which `[limits]` has too.

use super::budget::{Budget, Per};
use super::identity::{CertificateName, Jwt};
use super::listen::network;
use super::rules::Rule;
use super::section::Section;
use crate::clock::Timestamp;
use crate::id::CallerName;
use ipnet::IpNet;

/// One caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its name in rules, entries and logs.
    pub name: CallerName,
    /// Its tokens; several so that they can be replaced with an overlap.
    pub tokens: Vec<Token>,
    /// Which signed tokens are its own.
    pub jwt: Option<Jwt>,
    /// The name in its client certificate.
    pub certificate: Option<CertificateName>,
    /// Where it may call from; `None` is anywhere, an empty list is nowhere.
    pub from: Option<Vec<IpNet>>,
    /// How fast.
    pub rates: Vec<Rate>,
    /// How many in hours or days.
    pub budgets: Vec<Budget>,
    /// What it may do.
    pub allow: Vec<Rule>,
    /// What it may not do, whatever is allowed.
    pub deny: Vec<Rule>,
}

/// A bearer token, known by its hash alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name in entries and logs.
    pub id: CallerName,
    /// SHA-256 of the token's bytes.
    pub sha256: [u8; 32],
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({}, ***, {:?})", self.id, self.expires)
    }
}

/// `max` at once, and `max` per `per_s` seconds in the long run: what was used comes back evenly (GCRA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many at once.
    pub max: u32,
    /// In how many seconds they come back.
    pub per_s: u32,
    /// What is counted together.
    pub per: Per,
}

pub(super) fn name(text: &str) -> Result<CallerName, String> {
    CallerName::parse(text).map_err(|fault| format!("{fault}; write a short name such as moderation"))
}

pub(super) fn sha256(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "is not a SHA-256 in 64 hex digits; `wasend-gateway token new` prints one".to_owned();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(hash)
}

pub(super) fn expiry(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "is not a time; write 2027-06-01T00:00:00Z".to_owned())
}

/// Reads `rates` of a caller, each of which may be one of each of its sessions.
fn own_rates(section: &mut Section) -> Vec<Rate> {
    rates(section, Per::read)
}

/// Reads `rates` of all callers together.
pub(super) fn common_rates(section: &mut Section) -> Vec<Rate> {
    rates(section, |_| Per::Caller)
}

fn rates(section: &mut Section, per: impl Fn(&mut Section) -> Per) -> Vec<Rate> {
    let read = |mut rate: Section| {
        let max = u32::try_from(rate.number("max", 1, 1_000_000)).unwrap_or(1);
        let per_s = u32::try_from(rate.number("per_s", 1, 86_400)).unwrap_or(1);
        let per = per(&mut rate);
        rate.finish();
        Rate { max, per_s, per }
    };
    let rates: Vec<Rate> = section.tables("rates").into_iter().map(read).collect();
    for (index, rate) in rates.iter().enumerate() {
        if rates.iter().take(index).any(|earlier| earlier == rate) {
            section.fault(&format!("rates[{index}]"), None, "is there twice; leave one out");
        }
    }
    rates
}

impl Token {
    fn read(mut section: Section) -> Option<Self> {
        let (id, sha256) = (section.parsed("id", name), section.parsed("sha256", sha256));
        let expires = section.parsed_if_there("expires", expiry);
        section.finish();
        Some(Self { id: id?, sha256: sha256?, expires })
    }
}

impl Caller {
    fn read(mut section: Section) -> Option<Self> {
        let name = section.parsed("name", name);
        let tokens = section.tables("tokens").into_iter().filter_map(Token::read).collect();
        let jwt = section.table("jwt").and_then(Jwt::read);
        let certificate = section.table("certificate").and_then(CertificateName::read);
        let from = section.list("from", network);
        let (rates, budgets) = (own_rates(&mut section), Budget::read_all(&mut section));
        let allow = section.tables("allow").into_iter().map(Rule::read).collect();
        let deny = section.tables("deny").into_iter().map(Rule::read).collect();
        section.finish();
        Some(Self { name: name?, tokens, jwt, certificate, from, rates, budgets, allow, deny })
    }

    /// Reads all callers; a name or a token that is there twice is a fault.
    pub(super) fn read_all(root: &mut Section) -> Vec<Self> {
        let callers: Vec<Self> = root.tables("callers").into_iter().filter_map(Self::read).collect();
        let mut names = std::collections::HashSet::new();
        let mut hashes = std::collections::HashSet::new();
        for caller in &callers {
            if !names.insert(&caller.name) {
                root.fault(
                    "callers",
                    None,
                    format!("caller `{}` is there twice; give each a name of its own", caller.name),
                );
            }
            let mut ids = std::collections::HashSet::new();
            for token in &caller.tokens {
                if !ids.insert(&token.id) {
                    let what = format!(
                        "caller `{}` has two tokens with the id `{}`; entries could not tell them apart",
                        caller.name, token.id
                    );
                    root.fault("callers", None, what);
                }
                if !hashes.insert(token.sha256) {
                    let what =
                        format!("token `{}` of caller `{}` is there twice; make a new one", token.id, caller.name);
                    root.fault("callers", None, what);
                }
            }
        }
        callers
    }
}
