//! `audit show`: all entries of one request.

use super::Common;
use crate::cli::{Exit, page};
use crate::id::RequestId;
use crate::ledger::search::decode;
use crate::ledger::{OpenError, Reader};

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// The X-Request-Id of its answer
    request_id: String,
}

pub(super) fn run(options: &Options, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    let canonical = RequestId::parse(&options.request_id).map(|id| id.to_string());
    let entries = ledger.request(canonical.as_ref().unwrap_or(&options.request_id))?;
    for (seq, bytes) in &entries {
        let entry = decode(*seq, bytes)?;
        if options.common.json {
            page::line(entry);
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
            "no entry has this request id; a refusal that was only counted has none (audit export shows the counts)",
        );
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}
