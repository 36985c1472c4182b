//! Client certificates: the names in one that a handshake has verified, and whose they are.

use super::{Identified, hex};
use crate::clock::Timestamp;
use crate::config::{self, CertificateName};
use crate::id::CallerName;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;
use webpki::{EndEntityCert, Error, KeyUsage};

/// What a client proved in its TLS handshake: that it holds the key of a certificate whose issuer is trusted. It holds
/// for as long as the connection, and the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    names: Vec<CertificateName>,
    credential: CallerName,
    expires: Timestamp,
}

/// What is wrong with a client's certificate at a time, though nobody had to have issued it: first its time, then whether
/// it is a client's at all.
fn fault(certificate: &EndEntityCert<'_>, at: UnixTime) -> Option<Error> {
    certificate.verify_for_usage(&[], &[], &[], at, KeyUsage::client_auth(), None, None).err()
}

/// The last second of a certificate, which webpki tells who asks at the end of time.
fn last_second(certificate: &EndEntityCert<'_>) -> Option<UnixTime> {
    match fault(certificate, UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX))) {
        Some(Error::CertExpired { not_after, .. }) => Some(not_after),
        Some(_) | None => None,
    }
}

/// From when on a certificate is refused: it is valid to the end of its last second (RFC 5280 §4.1.2.5).
fn expires(certificate: &EndEntityCert<'_>) -> Option<Timestamp> {
    let end_s = i64::try_from(last_second(certificate)?.as_secs()).ok()?.checked_add(1)?;
    end_s.checked_mul(1_000_000).map(Timestamp::from_micros)
}

/// Whether a certificate says that it may not issue others (RFC 5280 §4.2.1.9). Nobody asks that of one that is trusted.
/// One that cannot be read as a client's, for its age (v1) or for what only authorities have (`policyConstraints`), does
/// not say so.
#[must_use]
pub fn may_not_issue(certificate: &CertificateDer<'_>) -> bool {
    let is_issuer =
        |read: &EndEntityCert<'_>| fault(read, last_second(read)?).filter(|is| *is == Error::CaUsedAsEndEntity);
    EndEntityCert::try_from(certificate).is_ok_and(|read| is_issuer(&read).is_none())
}

impl Proven {
    /// Reads the names (subject alternative names) of a certificate that was verified; the subject is not looked at. A
    /// DNS name with a wildcard names nobody, and neither do URIs of which there are several (X.509-SVID §2). `None`
    /// when it is no certificate.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let read = EndEntityCert::try_from(certificate).ok()?;
        let mut uris = read.valid_uri_names();
        let spiffe = uris.next().filter(|_| uris.next().is_none()).map(|uri| CertificateName::Spiffe(uri.to_owned()));
        let dns = read.valid_dns_names().filter(|name| !name.contains('*'));
        let dns = dns.map(|name| CertificateName::Dns(name.to_ascii_lowercase()));
        let fingerprint = hex(&Sha256::digest(certificate));
        let credential = CallerName::parse(&format!("x509-{}", fingerprint.get(..16)?)).ok()?;
        let expires = expires(&read)?;
        Some(Self { names: spiffe.into_iter().chain(dns).collect(), credential, expires })
    }

    /// Whether the certificate has expired since it was shown.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }
}

/// Callers by the names in their certificates.
pub(super) struct Certificates(HashMap<CertificateName, CallerName>);

impl Certificates {
    pub(super) fn new(callers: &[config::Caller]) -> Self {
        let named = |caller: &config::Caller| Some((caller.certificate.clone()?, caller.name.clone()));
        Self(callers.iter().filter_map(named).collect())
    }

    /// Whose certificate it is at `now`, if anybody's.
    pub(super) fn holder(&self, proven: &Proven, now: Timestamp) -> Result<Option<Identified>, &'static str> {
        let mut callers = proven.names.iter().filter_map(|name| self.0.get(name));
        let Some(caller) = callers.next() else { return Ok(None) };
        if callers.any(|other| other != caller) {
            return Err("the client certificate has the names of several callers; each needs one of its own");
        }
        if proven.has_expired(now) {
            return Err("the client certificate has expired since it was shown; connect anew with one that is valid");
        }
        Ok(Some(Identified { caller: caller.clone(), credential: proven.credential.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(uris: &[&str], dns: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        let name = |text: &&str| Ia5String::try_from(*text).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI(name(uri)));
        params.subject_alt_names = uris.chain(dns.iter().map(|dns| SanType::DnsName(name(dns)))).collect();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn callers() -> Certificates {
        let known = [
            (CertificateName::Spiffe("spiffe://a.example/one".into()), "one"),
            (CertificateName::Dns("two.example".into()), "two"),
            (CertificateName::Dns("one.example".into()), "one"),
        ];
        Certificates(known.map(|(name, caller)| (name, CallerName::parse(caller).unwrap())).into())
    }

    #[test]
    fn a_certificate_is_a_callers_by_its_one_uri_or_by_a_dns_name() {
        for (uris, dns, whose) in [
            (&["spiffe://a.example/one"][..], &[][..], Ok(Some("one"))),
            (&[], &["two.example"], Ok(Some("two"))),
            (&[], &["other.example", "TWO.example"], Ok(Some("two"))),
            (&["spiffe://a.example/one"], &["one.example"], Ok(Some("one"))),
            (&["spiffe://a.example/one"], &["other.example"], Ok(Some("one"))),
            (&[], &[], Ok(None)),
            (&["spiffe://a.example/one/two"], &["three.two.example"], Ok(None)),
            (&["spiffe://A.example/one"], &[], Ok(None)),
            (&["spiffe://a.example/one", "https://a.example"], &[], Ok(None)),
            (&[], &["*.example"], Ok(None)),
            (&["spiffe://a.example/one"], &["two.example"], Err(())),
        ] {
            let proven = Proven::read(&certificate(uris, dns)).unwrap();
            let holder = callers().holder(&proven, at("2029-12-31"));
            let holder = holder.map(|who| who.map(|who| who.caller.as_str().to_owned())).map_err(drop);
            assert_eq!(holder, whose.map(|who: Option<&str>| who.map(str::to_owned)), "{uris:?} {dns:?}");
        }
    }

    #[test]
    fn a_certificate_is_nobodys_credential_from_the_moment_it_expires() {
        let holder = |name: &str, now: &str| {
            let proven = Proven::read(&certificate(&[name], &[])).unwrap();
            callers().holder(&proven, at(now)).map(|who| who.is_some())
        };
        // Its last second is 2030-01-01T00:00:00Z.
        let mine = "spiffe://a.example/one";
        assert_eq!(holder(mine, "2030-01-01T00:00:00.999999Z"), Ok(true));
        assert!(holder(mine, "2030-01-01T00:00:01Z").unwrap_err().contains("expired"));
        assert_eq!(holder("spiffe://a.example/nobody", "2030-01-01T00:00:01Z"), Ok(false), "it serves the transport");
    }

    #[test]
    fn entries_name_a_certificate_by_its_fingerprint() {
        let one = certificate(&["spiffe://a.example/one"], &[]);
        let proven = Proven::read(&one).unwrap();
        let expected = format!("x509-{}", &hex(&Sha256::digest(&one))[..16]);
        assert_eq!(callers().holder(&proven, at("2029-12-31")).unwrap().unwrap().credential.as_str(), expected);
        assert_eq!(Proven::read(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
