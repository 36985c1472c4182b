//! `[upstream]`: the provider.

use super::section::Section;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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
}

/// What confirms a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// 200 with `success: true`, as the provider documents it.
    Documented,
    /// Every 2xx.
    Any2xx,
}

fn origin(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").ok_or("is not a URL; write https://host")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
    if authority.is_empty() || !authority.bytes().all(fits) {
        return Err("holds more than scheme, host and port; write https://host:port".to_owned());
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match scheme {
        "https" => Ok(format!("https://{authority}")),
        "http" if loopback => Ok(format!("http://{authority}")),
        "http" => Err("would send the key in clear text; write https:// (http:// is for loopback alone)".to_owned()),
        _ => Err(format!("has the scheme {scheme}; write https://")),
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
            "http://127.0.0.1:80",
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
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
