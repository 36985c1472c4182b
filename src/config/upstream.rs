//! `[upstream]`: the provider.

use super::section::Section;
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

/// The provider, and what we take for its yes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each is documented in config/default.toml
pub struct Upstream {
    /// Scheme, host and port; no path, no trailing `/`.
    pub url: String,
    pub api_key_file: PathBuf,
    pub timeout: Duration,
    pub confirm: Confirm,
    pub ca_file: Option<PathBuf>,
    pub allow_private: bool,
    pub reuse_connections: bool,
}

/// What confirms a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// 200 with `success: true`, as the provider documents it.
    Documented,
    /// Every 2xx whose body does not say otherwise.
    Any2xx,
}

fn origin(text: &str) -> Result<String, String> {
    let meant = text.strip_suffix('/').unwrap_or(text);
    let url = Url::parse(meant).map_err(|error| format!("is not a URL ({error}); write https://host"))?;
    let loopback = match url.host() {
        None => false,
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => {
            return Err("would send the key in clear text; write https:// (http:// is for loopback alone)".to_owned());
        }
        other => return Err(format!("has the scheme {other}; write https://")),
    }
    // Every deletion's URL is compared with what was meant, byte for byte: so this one has to be as the parser
    // writes it.
    let plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    let normal = url.as_str().strip_suffix('/').unwrap_or_default();
    match (plain && url.query().is_none() && url.fragment().is_none(), normal == meant) {
        (false, _) => Err("holds more than scheme, host and port; write https://host:port".to_owned()),
        (true, false) => Err(format!("is another spelling; write {normal}")),
        (true, true) => Ok(normal.to_owned()),
    }
}

impl Upstream {
    pub(super) fn read(mut section: Section) -> Self {
        let upstream = Self {
            url: section.parsed("url", origin).unwrap_or_default(),
            api_key_file: section.required_path("api_key_file").unwrap_or_default(),
            timeout: Duration::from_millis(section.number("timeout_ms", 2_500, 600_000)),
            confirm: section
                .one_of("confirm", &[("documented", Confirm::Documented), ("any-2xx", Confirm::Any2xx)])
                .unwrap_or(Confirm::Documented),
            ca_file: section.path("ca_file"),
            allow_private: section.flag("allow_private"),
            reuse_connections: section.flag("reuse_connections"),
        };
        section.finish();
        upstream
    }
}

#[cfg(test)]
mod tests {
    use super::origin;

    #[test]
    fn the_key_never_goes_out_in_clear_text_except_to_loopback() {
        for good in [
            "https://api.wasend.dev",
            "https://api.wasend.dev/",
            "https://api.wasend.dev:8443",
            "http://127.0.0.1:8090",
            "http://[::1]:9",
            "http://localhost:1",
        ] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in [
            "http://api.wasend.dev",
            "http://127.0.0.1.evil.example",
            "https://a/b",
            "https://u@a",
            "ftp://a",
            "a",
            "https://",
            "https://a?b",
            "https://a#b",
            "https://a:443",
            "https://API.wasend.dev",
            "http://127.0.0.1:80",
            "http://127.0.0.1:",
            "https://:443",
            "https://a:99999",
            "https://[zz]",
            "https://127.0.0.1:1:2",
            "https://0x7f.1",
            "https:a",
            " https://a",
            "https://ä.example",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
