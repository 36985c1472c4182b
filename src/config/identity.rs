//! `[[identity.issuers]]`: whose signed tokens (JWT) are believed. And how a caller is known by one, or by a certificate.

use super::callers::{Caller, name};
use super::jwks::{self, Key};
use super::section::Section;
use crate::id::CallerName;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

const LEEWAY_S: u64 = 30;
const LEEWAY_AT_MOST_S: u64 = 300;
const TEXT_AT_MOST: usize = 1024;

/// Who signs tokens, and with which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its name in `callers.jwt.issuer`, and the beginning of the credential's name in entries.
    pub name: CallerName,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be, or hold.
    pub audience: String,
    /// The public keys that signatures are verified with.
    pub keys: Vec<Key>,
    /// How far its clock and ours may differ.
    pub leeway: Duration,
}

/// Which tokens of which issuer are a caller's: all that is here must be equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Jwt {
    /// The issuer's name in the configuration.
    pub issuer: CallerName,
    /// What `sub` must be.
    pub subject: Option<String>,
    /// What other claims must be.
    pub claims: BTreeMap<String, String>,
}

/// The name in a client certificate (a subject alternative name) by which a caller is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// A SPIFFE id: the certificate's only URI, `spiffe://domain/path`.
    Spiffe(String),
    /// A DNS name, in lower case.
    Dns(String),
}

fn claim(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > TEXT_AT_MOST {
        return Err(format!("has not 1 to {TEXT_AT_MOST} bytes"));
    }
    Ok(text.to_owned())
}

/// SPIFFE-ID §2: a trust domain in lower case and a path without empty or dot segments.
fn spiffe(text: &str) -> Result<String, String> {
    let domain_fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let parts = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let is_id = parts.is_some_and(|(domain, path)| {
        !domain.is_empty()
            && domain.bytes().all(domain_fits)
            && path.split('/').all(|s| !s.is_empty() && s != "." && s != ".." && s.bytes().all(fits))
    });
    if is_id && text.len() <= 2048 {
        return Ok(text.to_owned());
    }
    Err("is no SPIFFE id of a workload; write spiffe://trust.domain/path".to_owned())
}

fn dns(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let labels = || text.split('.');
    if text.len() <= 253 && labels().all(|label| (1..=63).contains(&label.len()) && label.bytes().all(fits)) {
        return Ok(text.to_owned());
    }
    Err("is no DNS name in lower case; write svc.example, without a wildcard".to_owned())
}

impl Issuer {
    fn read(mut section: Section) -> Option<Self> {
        let (name, issuer) = (section.parsed("name", name), section.parsed("issuer", claim));
        let audience = section.parsed("audience", claim);
        let file = section.required_path("jwks_file");
        let keys = file.and_then(|file| {
            if section.reading.without_files {
                return Some(Vec::new());
            }
            let text = section.reading.read_text(&file, jwks::FILE_AT_MOST);
            let keys = text.map_err(|e| format!("cannot be read: {e}")).and_then(|text| jwks::parse(&text));
            let wrong = |what: String| section.fault("jwks_file", None, format!("{}: {what}", file.display()));
            keys.map_err(wrong).ok()
        });
        let leeway_s = section.number_if_there("leeway_s", 0, LEEWAY_AT_MOST_S).unwrap_or(LEEWAY_S);
        section.finish();
        let leeway = Duration::from_secs(leeway_s);
        Some(Self { name: name?, issuer: issuer?, audience: audience?, keys: keys?, leeway })
    }

    /// Reads `[identity]`. A name, or an issuer with one audience, that is there twice is a fault.
    pub(super) fn read_all(root: &mut Section) -> Vec<Self> {
        let mut section = root.table_or_empty("identity");
        let issuers: Vec<Self> = section.tables("issuers").into_iter().filter_map(Self::read).collect();
        let (mut names, mut issued) = (HashSet::new(), HashSet::new());
        for one in &issuers {
            if !names.insert(&one.name) {
                let what = format!("issuer `{}` is there twice; give each a name of its own", one.name);
                section.fault("issuers", None, what);
            }
            if !issued.insert((&one.issuer, &one.audience)) {
                let what = format!("issuer `{}` has issuer and audience of another one; leave one out", one.name);
                section.fault("issuers", None, what);
            }
        }
        section.finish();
        issuers
    }
}

impl Jwt {
    pub(super) fn read(mut section: Section) -> Option<Self> {
        let issuer = section.parsed("issuer", name);
        let faults = section.reading.faults.borrow().len();
        let subject = section.parsed_if_there("subject", claim);
        let claims = section.table("claims").map(|claims| claims.texts(claim)).unwrap_or_default();
        if subject.is_none() && claims.is_empty() && section.reading.faults.borrow().len() == faults {
            let what = "is missing, and so are `claims`: everybody's tokens would be this caller's; name one of them";
            section.fault("subject", None, what);
        }
        for own in ["iss", "sub", "aud", "exp", "nbf"].into_iter().filter(|own| claims.contains_key(*own)) {
            section.fault("claims", None, format!("has `{own}`, which has a place of its own"));
        }
        section.finish();
        Some(Self { issuer: issuer?, subject, claims })
    }

    /// An issuer that is not there, and what would make one credential two callers', are faults.
    pub(super) fn tell_apart(issuers: &[Issuer], callers: &[Caller], root: &Section) {
        let (mut tokens, mut certificates) = (HashSet::new(), HashSet::new());
        for caller in callers {
            let name = &caller.name;
            if let Some(jwt) = &caller.jwt {
                // While an issuer has faults it is not known here, and those are told.
                let is_known = issuers.iter().any(|one| one.name == jwt.issuer);
                if !is_known && root.reading.faults.borrow().iter().all(|f| !f.key.starts_with("identity")) {
                    let what =
                        format!("caller `{name}` names issuer `{}`, which [[identity.issuers]] has not", jwt.issuer);
                    root.fault("callers", None, what);
                }
                if !tokens.insert((&jwt.issuer, &jwt.subject, &jwt.claims)) {
                    root.fault("callers", None, format!("caller `{name}` has the `jwt` of another caller"));
                }
            }
            if let Some(certificate) = &caller.certificate
                && !certificates.insert(certificate)
            {
                root.fault("callers", None, format!("caller `{name}` has the `certificate` of another caller"));
            }
        }
    }
}

impl CertificateName {
    pub(super) fn read(mut section: Section) -> Option<Self> {
        let faults = section.reading.faults.borrow().len();
        let spiffe = section.parsed_if_there("spiffe", spiffe).map(Self::Spiffe);
        let dns = section.parsed_if_there("dns", dns).map(Self::Dns);
        let names: Vec<Self> = spiffe.into_iter().chain(dns).collect();
        if names.len() > 1 {
            section.fault("dns", None, "is there beside `spiffe`; leave one out");
        } else if names.is_empty() && section.reading.faults.borrow().len() == faults {
            section.fault("spiffe", None, "is missing, and so is `dns`; write one of them");
        }
        section.finish();
        names.into_iter().next()
    }
}

impl Caller {
    /// By what it is known, in words without a secret.
    #[must_use]
    pub fn credentials(&self) -> Vec<String> {
        let tokens = self.tokens.iter().map(|token| match token.expires {
            None => format!("token `{}`", token.id),
            Some(at) => format!("token `{}`, until {at}", token.id),
        });
        let jwt = self.jwt.iter().map(|jwt| {
            let subject = jwt.subject.iter().map(|subject| format!("sub = {subject:?}"));
            let claims = jwt.claims.iter().map(|(name, value)| format!("{name} = {value:?}"));
            format!("JWT of issuer `{}` with {}", jwt.issuer, subject.chain(claims).collect::<Vec<_>>().join(", "))
        });
        let certificate = self.certificate.iter().map(|name| match name {
            CertificateName::Spiffe(id) => format!("client certificate with the URI {id}"),
            CertificateName::Dns(name) => format!("client certificate with the DNS name {name}"),
        });
        tokens.chain(jwt).chain(certificate).collect()
    }
}

/// What works, but is probably not meant.
pub(super) fn warnings(issuers: &[Issuer], callers: &[Caller], asks_for_certificates: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for caller in callers {
        let name = &caller.name;
        let kinds = [!caller.tokens.is_empty(), caller.jwt.is_some(), caller.certificate.is_some()];
        match kinds.iter().filter(|there| **there).count() {
            0 => warnings.push(format!("caller `{name}` has no tokens, no `jwt` and no `certificate`: it cannot call")),
            1 => {}
            _ => warnings
                .push(format!("caller `{name}` is known by credentials of several kinds; each of them suffices")),
        }
        if caller.certificate.is_some() && !asks_for_certificates {
            warnings.push(format!(
                "caller `{name}` is known by a certificate, and nobody is asked for one: listen.tls.client_ca_file is missing"
            ));
        }
    }
    for issuer in
        issuers.iter().filter(|one| callers.iter().all(|c| c.jwt.as_ref().is_none_or(|j| j.issuer != one.name)))
    {
        warnings.push(format!("no caller has a `jwt` of issuer `{}`", issuer.name));
    }
    warnings
}

#[cfg(test)]
mod tests;
