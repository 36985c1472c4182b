//! A port's certificate, and whose client certificates it takes: TLS 1.2 and 1.3, ALPN `http/1.1` alone, read again on
//! request.

use crate::config;
use crate::identity::may_not_issue;
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A certificate that can be replaced while connections are open; they keep the one that they began with.
pub struct Certificate {
    from: config::Tls,
    current: ArcSwap<ServerConfig>,
}

fn read(from: &config::Tls) -> Result<ServerConfig, String> {
    let chain = config::file::certificates(&from.certificate_file)?;
    let key = config::file::private_key(&from.key_file)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &from.client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder.with_client_cert_verifier(verifier(auth, provider)?),
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|e| format!("{}: {e}", from.certificate_file.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if from.client_auth.is_some() {
        // A session that is taken up again is not verified again: a certificate could outlive itself in it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

/// Takes client certificates that one of the authorities issued for clients, or for nothing in particular, in their time.
fn verifier(auth: &config::ClientAuth, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", auth.ca_file.display());
    let mut roots = RootCertStore::empty();
    for certificate in config::file::certificates(&auth.ca_file)? {
        roots.add(certificate.clone()).map_err(|e| wrong(&e))?;
        if may_not_issue(&certificate) {
            let what = "holds a certificate that may not issue certificates (it is no CA): whoever has its key could be \
                any caller; name the authority that issues those of the callers";
            return Err(wrong(&what));
        }
    }
    if roots.is_empty() {
        return Err(wrong(&"holds no certificate"));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|e| wrong(&e))
}

impl Certificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// In words, naming the file.
    pub fn new(from: &config::Tls) -> Result<Self, String> {
        Ok(Self { current: ArcSwap::from_pointee(read(from)?), from: from.clone() })
    }

    /// Reads them again; with an error the old ones stay.
    ///
    /// # Errors
    /// As [`Certificate::new`].
    pub fn reload(&self) -> Result<(), String> {
        self.current.store(Arc::new(read(&self.from)?));
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}
