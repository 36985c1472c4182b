//! `audit show`: all entries of one request.

use super::Common;
use crate::cli::{Exit, page};
use crate::id::RequestId;
use crate::ledger::glance::Glance;
use crate::ledger::search::decode;
use crate::ledger::{Entries, OpenError, Reader};

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// The X-Request-Id of its answer, or the number of one of its entries; of one that belongs to no request, that entry
    request: String,
}

/// The entries of the request that is meant, by its id or by one of them. An entry of no request stands for itself.
fn meant(text: &str, ledger: &dyn Reader) -> Result<Entries, OpenError> {
    if let Some(id) = RequestId::parse(text) {
        return ledger.request(&id.to_string());
    }
    let Ok(seq) = text.parse::<u64>() else { return ledger.request(text) };
    let entries = ledger.read(seq, seq.saturating_add(1))?;
    let Some((is, bytes)) = entries.first().filter(|(is, _)| *is == seq) else { return Ok(Entries::new()) };
    let entry = decode(*is, bytes)?;
    match entry.get("request_id").and_then(|id| id.as_str()) {
        Some(id) => ledger.request(id),
        None => Ok(entries),
    }
}

pub(super) fn run(options: &Options, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    let entries = meant(&options.request, ledger)?;
    let begun = |(seq, bytes): &(u64, Vec<u8>)| {
        Glance::at(*seq, bytes).is_ok_and(|entry| entry.decision().is_some() || entry.request_id.is_empty())
    };
    if let Some(pruned) = ledger.pruned()?.filter(|_| !entries.iter().any(begun)) {
        let first = pruned.first;
        page::complain(format_args!(
            "entries before {first} were pruned: what this request began with may be among them"
        ));
    }
    for (seq, bytes) in &entries {
        let entry = decode(*seq, bytes)?;
        if options.common.json {
            page::json(&entry);
            continue;
        }
        page::line(format_args!("entry {seq}"));
        for (member, value) in
            entry.as_object().into_iter().flatten().filter(|(member, _)| !matches!(member.as_str(), "v" | "seq"))
        {
            let shown = value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string());
            page::line(format_args!("  {member:<18} {shown}"));
        }
    }
    if entries.is_empty() {
        page::complain(
            "no entry has this request id or number; a refusal that was only counted has none (audit export shows the counts)",
        );
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}
