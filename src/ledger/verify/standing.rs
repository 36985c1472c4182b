//! What a store keeps beside the entries of what they mean: it has to be exactly that.

use super::admitted::{Admitted, Tables};
use super::frozen::Frozen;
use super::order::Order;
use crate::ledger::OpenError;
use crate::ledger::freeze::Freeze;
use crate::ledger::prune::{Edge, Pruned};

/// What waits for something, as the store has it, all of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many entries there were.
    pub length: u64,
    /// What the store takes for intents without an outcome: number and request id, ascending.
    pub in_flight: Vec<(u64, String)>,
    /// What the store takes for intents whose outcome is `unknown` and that have no resolution: their numbers,
    /// ascending.
    pub unresolved: Vec<u64>,
    /// What the store takes for frozen.
    pub freezes: Vec<Freeze>,
    /// What it decides about intents by.
    pub tables: Tables,
    /// What does not fit in what it keeps about where the log begins, in words.
    pub beginning: Option<String>,
}

/// What does not fit where a log begins, in words: what is kept of the hashes that went, or an entry that stands before
/// the first one. What a prune that is under way has still to remove may be there.
pub(in crate::ledger) fn misfit(
    beginning: Option<&(Pruned, Edge)>,
    lowest: Option<i64>,
    is_under_way: bool,
) -> Option<String> {
    if let Some(Err(fault)) = beginning.map(|(pruned, edge)| pruned.tree(edge)) {
        return Some(fault.to_string());
    }
    let first = beginning.map_or(0, |(pruned, _)| pruned.first.cast_signed());
    let lowest = lowest.filter(|lowest| *lowest < first)?;
    (lowest < 0 || !is_under_way).then(|| {
        format!("the ledger's entries go from {lowest} on; they begin at {first}, and none is to stand before that")
    })
}

impl Standing {
    /// Holds it against what the entries say. Returns how many rows are about what they do not say.
    pub(super) fn compare(&self, order: &Order, frozen: &Frozen, admitted: Admitted<'_>) -> Result<u64, OpenError> {
        if let Some(words) = &self.beginning {
            return Err(OpenError::Damaged(words.clone()));
        }
        self.compare_waiting(order)?;
        let beyond = frozen.compare(&self.freezes).and_then(|beyond| Ok(beyond + admitted.compare()?));
        beyond.map_err(OpenError::Damaged)
    }

    fn compare_waiting(&self, order: &Order) -> Result<(), OpenError> {
        let open = order.open().into_iter().map(|(seq, id)| (seq, id.to_string()));
        let words = match first_difference(&self.in_flight, &open.collect::<Vec<_>>()) {
            Some(Difference::Extra((seq, id))) => Some(format!(
                "entry {seq} is listed as an intent in flight, of request `{}`, but is none that has no outcome",
                id.escape_debug()
            )),
            Some(Difference::Missing((seq, _))) => Some(format!(
                "entry {seq} is an intent without an outcome, but is not listed as in flight: nobody would close it"
            )),
            None => match first_difference(&self.unresolved, &order.unresolved()) {
                Some(Difference::Extra(seq)) => Some(format!(
                    "entry {seq} is listed as an intent that waits for a resolution, but is none, or is listed twice"
                )),
                Some(Difference::Missing(seq)) => Some(format!(
                    "entry {seq} is an intent whose outcome is unknown, but is not listed as waiting for a resolution"
                )),
                None => None,
            },
        };
        words.map_or(Ok(()), |words| Err(OpenError::Damaged(words)))
    }
}

enum Difference<T> {
    Extra(T),
    Missing(T),
}

/// The first place at which two ascending rows differ: one has what the other has not.
fn first_difference<T: Ord + Clone>(listed: &[T], meant: &[T]) -> Option<Difference<T>> {
    let at = listed.iter().zip(meant).take_while(|(listed, meant)| listed == meant).count();
    match (listed.get(at), meant.get(at)) {
        (None, None) => None,
        (Some(listed), Some(meant)) if meant < listed => Some(Difference::Missing(meant.clone())),
        (Some(listed), _) => Some(Difference::Extra(listed.clone())),
        (None, Some(meant)) => Some(Difference::Missing(meant.clone())),
    }
}
