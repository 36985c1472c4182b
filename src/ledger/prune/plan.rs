//! What is recorded before anything goes, made from the entries that would.

use super::{Edge, Order, Pruned, body};
use crate::ledger::tree::proof::Prover;
use crate::ledger::tree::{Head, Tree, leaf_hash};
use crate::ledger::verify::frozen::Frozen;
use crate::ledger::verify::order::{self, Order as Pairs};
use crate::ledger::{OpenError, ProofReader, READ_AT_MOST, Reader, entry};

/// What is recorded to prune the entries before `first`, and the edge of the tree over them. Holds them against what is
/// signed: this is the last time that it can be done. `pruned`: where the log begins. `progress` hears how many of how
/// many are done.
///
/// # Errors
/// [`OpenError::Damaged`] where they are not those that were signed.
pub fn plan<L: Reader + ProofReader>(
    ledger: &L,
    order: &Order,
    pruned: Option<&Pruned>,
    first: u64,
    signed: &Head,
    mut progress: impl FnMut(u64, u64),
) -> Result<(entry::Body, Edge), OpenError> {
    let damaged = |e: &dyn std::fmt::Display| OpenError::Damaged(e.to_string());
    let (mut tree, mut pairs, mut frozen) = match pruned {
        None => (Tree::new(), Pairs::default(), Frozen::default()),
        Some(pruned) => {
            let head = pruned.head().ok_or_else(|| damaged(&"the root of what was pruned is none"))?;
            let tree = Tree::open(ledger, &head).map_err(|e| damaged(&e))?;
            (tree, Pairs::after(pruned), Frozen::after(pruned))
        }
    };
    let begin = tree.size();
    while tree.size() < first {
        progress(tree.size() - begin, first - begin);
        let from = tree.size();
        for (seq, bytes) in ledger.read(from, first.min(from + READ_AT_MOST))? {
            if seq != tree.size() {
                break;
            }
            let seen = order::read(seq, &bytes).and_then(|entry| {
                pairs.see(&entry)?;
                frozen.see(&entry, &bytes)
            });
            seen.map_err(|what| damaged(&format!("entry {seq} {what}")))?;
            let _complete = tree.append(leaf_hash(&bytes));
        }
        if tree.size() == from {
            return Err(damaged(&format!("entry {from} is missing")));
        }
    }
    let head = tree.head();
    let changed = |what: &dyn std::fmt::Display| {
        damaged(&format!(
            "nothing was pruned: the first {first} entries are not those that were signed ({what}); `audit verify` says more"
        ))
    };
    let mut prover = Prover::new(ledger, signed.size).map_err(|e| changed(&e))?;
    let mut root = |size| prover.root(size).map_err(|e| changed(&e));
    if root(signed.size)? != signed.root || root(first)? != head.root {
        return Err(changed(&"another root"));
    }
    Ok((body(order, &head, pairs.carried(), frozen.all()), Edge::of(&tree)))
}
