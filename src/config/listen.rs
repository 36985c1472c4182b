//! `[listen]`, `[ops]` and their `tls`.

use super::operators::Operator;
use super::section::Section;
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The caller port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each is documented in config/default.toml
pub struct Listen {
    pub address: SocketAddr,
    pub trusted_proxies: Vec<IpNet>,
    pub proxy_protocol: bool,
    pub max_connections: usize,
    pub max_connections_per_peer: usize,
    pub max_requests: usize,
    pub head_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_age: Duration,
    pub drain_timeout: Duration,
    pub tls: Option<Tls>,
}

/// The operators' port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ops {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub operators: Vec<Operator>,
}

/// Where a port's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tls {
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    pub client_auth: Option<ClientAuth>,
}

/// Whose client certificates are taken: on the caller port alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The certificates of those who may issue them.
    pub ca_file: PathBuf,
    /// Without one there is no connection; a wrong one is refused either way.
    pub required: bool,
}

impl Tls {
    /// The files that it is made of.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let ca_file = self.client_auth.as_ref().map(|auth| auth.ca_file.as_path());
        [self.certificate_file.as_path(), self.key_file.as_path()].into_iter().chain(ca_file)
    }
}

/// Reads a network; a single address is a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    // Each number has one spelling: where somebody reads 010 as 8, 010.0.0.0/8 is another network.
    let whole = match text.split_once('/') {
        None => text.parse().ok().map(|ip: IpAddr| IpNet::from(ip)),
        Some((ip, length)) => ip
            .parse::<IpAddr>()
            .ok()
            .zip(length.parse::<u8>().ok().filter(|number| number.to_string() == length))
            .and_then(|(ip, length)| IpNet::new(ip, length).ok()),
    };
    whole.map(canonical).ok_or_else(|| format!("\"{text}\" is not a network; write 10.0.0.0/8 or fd00::/8"))
}

/// Addresses are compared as IPv4 where they are IPv4 in an IPv6 coat (RFC 4291 §2.5.5.2).
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(ip, length)| Ipv4Net::new(ip, length).ok()).map_or(network, IpNet::V4)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an address with a port; write 127.0.0.1:8080"))
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl Listen {
    pub(super) fn read(mut section: Section) -> Self {
        let listen = Self {
            address: section.parsed("address", address).unwrap_or(NOWHERE),
            trusted_proxies: section.list("trusted_proxies", network).unwrap_or_default(),
            proxy_protocol: section.flag("proxy_protocol"),
            max_connections: size(section.number("max_connections", 1, 1_000_000)),
            max_connections_per_peer: size(section.number("max_connections_per_peer", 1, 1_000_000)),
            max_requests: size(section.number("max_requests", 1, 100_000)),
            head_timeout: Duration::from_millis(section.number("head_timeout_ms", 100, 60_000)),
            idle_timeout: Duration::from_millis(section.number("idle_timeout_ms", 100, 3_600_000)),
            max_age: Duration::from_millis(section.number("max_age_ms", 1_000, 86_400_000)),
            drain_timeout: Duration::from_millis(section.number("drain_timeout_ms", 100, 3_600_000)),
            tls: section.table("tls").and_then(Tls::read_with_clients),
        };
        if listen.proxy_protocol && listen.trusted_proxies.is_empty() {
            let what = "is empty, so anybody could say where it calls from; name the proxies that may (proxy_protocol = true needs it)";
            section.empty("trusted_proxies", what);
        }
        section.finish();
        listen
    }

    /// Whose `X-Forwarded-For` is believed. Nobody's where a PROXY header says where each connection comes from: what is
    /// behind that are the caller's own bytes.
    #[must_use]
    pub fn forwarders(&self) -> &[IpNet] {
        if self.proxy_protocol { &[] } else { &self.trusted_proxies }
    }
}

impl Ops {
    pub(super) fn read(mut section: Section) -> Self {
        let ops = Self {
            address: section.parsed("address", address).unwrap_or(NOWHERE),
            tls: section.table("tls").and_then(Tls::read),
            operators: Operator::read_all(&mut section),
        };
        section.finish();
        ops
    }
}

impl Tls {
    fn read(section: Section) -> Option<Self> {
        Self::read_rest(section, None)
    }

    fn read_with_clients(mut section: Section) -> Option<Self> {
        let ca_file = section.path("client_ca_file");
        let required = section.one_of_if_there("client_auth", &[("required", true), ("optional", false)]);
        if ca_file.is_none() && required.is_some() {
            section.fault("client_ca_file", None, "is missing: client_auth needs to know who issues certificates");
        }
        let client_auth = ca_file.map(|ca_file| ClientAuth { ca_file, required: required.unwrap_or(true) });
        Self::read_rest(section, client_auth)
    }

    fn read_rest(mut section: Section, client_auth: Option<ClientAuth>) -> Option<Self> {
        let certificate_file = section.required_path("certificate_file");
        let key_file = section.required_path("key_file");
        section.finish();
        Some(Self { certificate_file: certificate_file?, key_file: key_file?, client_auth })
    }
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn a_network_has_one_spelling() {
        for good in ["10.0.0.0/8", "10.0.0.1", "fd00::/8", "::1", "0.0.0.0/0"] {
            assert!(network(good).is_ok(), "{good}");
        }
        for bad in [
            "010.0.0.0/8",
            "10.00.0.0/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0/8",
            " 10.0.0.0/8",
            "",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
