//! A table of expected decisions, which `policy test` holds a configuration against.

use super::callers::{expiry, name};
use super::section::{Fault, Section};
use super::{FILE_AT_MOST, Named, reading, without_source};
use crate::clock::Timestamp;
use crate::id::{CallerName, GroupId, SessionId, Target};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Who would call.
    pub caller: CallerName,
    /// What it is about.
    pub target: Target,
    /// From where; 127.0.0.1 unless it is said.
    pub from: IpAddr,
    /// When; now unless it is said.
    pub at: Option<Timestamp>,
    /// What the decision is to be.
    pub allowed: bool,
    /// The rule that it is to be by, where that is said.
    pub rule: Option<String>,
}

impl Expected {
    /// Reads `decisions` of a file, in TOML.
    ///
    /// # Errors
    /// Every fault of the file at once; a file without decisions is one, since it tests nothing.
    pub fn read_all(file: &Path) -> Result<Vec<Self>, Vec<Fault>> {
        let reading = reading(file);
        let source = file.display().to_string();
        let fault = |what: String| vec![Fault { key: "the file".into(), source: source.clone(), what }];
        let text = reading.read_text(file, FILE_AT_MOST).map_err(|e| fault(format!("cannot be read: {e}")))?;
        let named = Named { name: source.clone(), text };
        let built = ::config::Config::builder().add_source(named).build();
        let table = built.map_err(|e| fault(format!("is not TOML: {}", without_source(&e.to_string()))))?;
        let table = ::config::Source::collect(&table).map_err(|e| fault(e.to_string()))?;
        let mut root = Section::new(String::new(), table, reading.clone());
        let sections = root.tables("decisions");
        if sections.is_empty() {
            let row = "{ caller = \"…\", session = \"…\", group = \"…\", expect = \"refused\" }";
            root.fault("decisions", None, format!("there are none; write decisions = [{row}]"));
        }
        let decisions = sections.into_iter().filter_map(Self::read).collect();
        root.finish();
        let faults = reading.faults.take();
        if faults.is_empty() { Ok(decisions) } else { Err(faults) }
    }

    fn read(mut section: Section) -> Option<Self> {
        let caller = section.parsed("caller", name);
        let session = section.parsed("session", |text| SessionId::parse(text).map_err(|e| e.to_string()));
        let group = section.parsed("group", |text| GroupId::parse(text).map_err(|e| e.to_string()));
        let address = |text: &str| text.parse().map_err(|_| "is not an address; write 10.0.0.1".to_owned());
        let from = section.parsed_if_there("from", address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let at = section.parsed_if_there("at", expiry);
        let allowed = section.one_of("expect", &[("allowed", true), ("refused", false)]);
        let rule = section.text("rule");
        section.finish();
        let target = Target { session: session?, group: group? };
        Some(Self { caller: caller?, target, from, at, allowed: allowed?, rule })
    }
}
