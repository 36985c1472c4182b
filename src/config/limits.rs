//! `[limits]`: where rates are counted, and those of all callers together.

use super::callers::{Rate, common_rates};
use super::section::Section;
use std::path::PathBuf;
use std::time::Duration;

/// Where rates are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limits {
    /// In this process, for it alone.
    Process,
    /// In Redis or Valkey, for all processes that ask the same one.
    Redis(Redis),
}

/// Which Redis, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Holds the URL, with the password in it: never a value here. Read again for each new connection.
    pub url_file: PathBuf,
    /// Trust these certificates instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// What every key begins with.
    pub prefix: String,
    /// How long an answer is waited for; after it the request is refused.
    pub timeout: Duration,
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        return Err("is no prefix; write 1 to 64 of A-Z a-z 0-9 - _ . :".to_owned());
    }
    Ok(text.to_owned())
}

impl Limits {
    /// The store, and the rates of all callers together.
    pub(super) fn read(mut section: Section) -> (Self, Vec<Rate>) {
        let shared = section.one_of("kind", &[("process", false), ("redis", true)]) == Some(true);
        let url_file = if shared { section.required_path("url_file") } else { section.path("url_file") };
        let redis = Redis {
            ca_file: section.path("ca_file"),
            prefix: section.parsed("prefix", prefix).unwrap_or_default(),
            timeout: Duration::from_millis(section.number("timeout_ms", 1, 5_000)),
            url_file: url_file.unwrap_or_default(),
        };
        let rates = common_rates(&mut section);
        section.finish();
        (if shared { Self::Redis(redis) } else { Self::Process }, rates)
    }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_prefix_cannot_reach_into_the_rest_of_a_key() {
        for good in ["wasend-gateway", "a", "team:eu.1"] {
            assert!(prefix(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "{a}", "a*", "é", &"a".repeat(65)] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }
}
