//! What is frozen, made anew from the entries.

use super::order::Members;
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::prune::Pruned;
use std::collections::{BTreeMap, HashSet};

/// What the entries so far say about freezes.
pub(in crate::ledger) struct Frozen {
    /// The last word about each thing that was frozen, and the entry that has it. `None`: it was unfrozen.
    said: BTreeMap<String, (u64, Option<Freeze>)>,
    /// Nothing was frozen before what is read, beyond what is in `said`.
    from_the_start: bool,
}

impl Default for Frozen {
    fn default() -> Self {
        Self { said: BTreeMap::new(), from_the_start: true }
    }
}

impl Frozen {
    /// Behind what was pruned, whose last words the entry says that says so; earlier versions had it say nothing.
    pub(in crate::ledger) fn after(pruned: &Pruned) -> Self {
        let frozen = pruned.freezes.iter().flatten();
        let said = frozen.map(|freeze| (freeze.covers.to_string(), (pruned.seq, Some(freeze.clone())))).collect();
        Self { said, from_the_start: pruned.freezes.is_some() }
    }

    /// Takes the next entry in.
    pub(in crate::ledger) fn see(&mut self, entry: &Members<'_>, bytes: &[u8]) -> Result<(), String> {
        let not_one = |e| format!("cannot be read as a freeze: {e}");
        match &*entry.kind {
            "freeze" => {
                let freeze: Freeze = serde_json::from_slice(bytes).map_err(not_one)?;
                self.said.insert(freeze.covers.to_string(), (entry.seq, Some(freeze)));
            }
            "unfreeze" => {
                let covers: Covers = serde_json::from_slice(bytes).map_err(not_one)?;
                self.said.insert(covers.to_string(), (entry.seq, None));
            }
            "gap" if entry.previous.as_ref().is_some_and(|previous| previous.freezes.is_none()) => {
                self.from_the_start = false;
            }
            _ => {}
        }
        Ok(())
    }

    /// Every freeze that nobody has taken back; `None`: there may be some that no entry says.
    pub(in crate::ledger) fn all(&self) -> Option<Vec<Freeze>> {
        self.from_the_start.then(|| self.said.values().filter_map(|(_, freeze)| freeze.clone()).collect())
    }

    /// Holds what is listed against it. Returns how many rows no entry speaks of and none need speak of.
    pub(super) fn compare(&self, listed: &[Freeze]) -> Result<u64, String> {
        let (mut names, mut beyond) = (HashSet::new(), 0);
        for freeze in listed {
            let name = freeze.covers.to_string();
            match self.said.get(&name) {
                None if self.from_the_start => {
                    return Err(format!("a freeze of {name} is listed, but no entry says that there is one"));
                }
                None => beyond += 1,
                Some((seq, None)) => {
                    return Err(format!("a freeze of {name} is listed, but entry {seq} takes it back"));
                }
                Some((seq, Some(said))) if said != freeze => {
                    return Err(format!("the freeze of {name} is listed otherwise than entry {seq} says it"));
                }
                Some((_, Some(_))) => {}
            }
            if !names.insert(name) {
                return Err(format!("a freeze of {} is listed twice", freeze.covers));
            }
        }
        let missing = self.said.iter().find(|(name, (_, freeze))| freeze.is_some() && !names.contains(*name));
        missing.map_or(Ok(beyond), |(name, (seq, _))| {
            Err(format!("entry {seq} says that {name} is frozen, but that freeze is not listed: nothing holds to it"))
        })
    }
}
