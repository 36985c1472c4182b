//! A port's certificate: TLS 1.2 and 1.3, ALPN `http/1.1` alone, read again on request.

use crate::config;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A certificate that can be replaced while connections are open; they keep the one that they began with.
pub struct Certificate {
    from: config::Tls,
    current: ArcSwap<ServerConfig>,
}

fn read(from: &config::Tls) -> Result<ServerConfig, String> {
    let wrong = |file: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let chain = CertificateDer::pem_file_iter(&from.certificate_file)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(&from.certificate_file, &e))?;
    let key = PrivateKeyDer::from_pem_file(&from.key_file).map_err(|e| wrong(&from.key_file, &e))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| wrong(&from.certificate_file, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
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
