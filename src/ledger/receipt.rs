//! Receipts (C2SP tlog-proof): one entry's way to a signed checkpoint, as text that verifies offline.

use crate::id::Origin;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::checkpoint::{Checkpoint, CheckpointFault, number};
use crate::ledger::tree::proof::{Prover, ReadError, Tiles, includes, path_length};
use crate::ledger::tree::{Hash, leaf_hash};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// A tree has fewer levels, so a path is never longer.
const LONGEST_PATH: usize = 63;
/// Room for a path, and for a checkpoint as large as those that are read.
const LONGEST: usize = 512 * 1024;

/// What a receipt proves: that the entry stands there, in a tree whose head this log's key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Which log.
    pub origin: Origin,
    /// The entry's place, from 0.
    pub index: u64,
    /// How many entries the log had when it signed.
    pub size: u64,
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptFault {
    /// It is longer than what is read.
    TooLong,
    /// This line, counted from 1, is not what belongs there; the words say what does.
    Line(usize, &'static str),
    /// Its checkpoint is not one of this log.
    Checkpoint(CheckpointFault),
    /// The index is not below the size of the signed tree.
    Index {
        /// The receipt's.
        index: u64,
        /// The checkpoint's.
        size: u64,
    },
    /// The path has another length than one for this index has.
    Length {
        /// How many hashes it has.
        found: usize,
        /// How many it needs.
        needed: usize,
    },
    /// All of it has the right form, but entry and path do not lead to the signed root.
    Root(u64),
}

impl fmt::Display for ReceiptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReceiptFault::TooLong => write!(f, "the receipt has more than {LONGEST} bytes and is not read"),
            ReceiptFault::Line(line, what) => write!(f, "line {line} of the receipt is not {what}"),
            ReceiptFault::Checkpoint(fault) => fault.fmt(f),
            ReceiptFault::Index { index, size } => {
                write!(f, "the receipt is for entry {index}, but its checkpoint covers {size} entries")
            }
            ReceiptFault::Length { found, needed } => {
                write!(f, "the path in the receipt has {found} hashes, and one to this index has {needed}")
            }
            ReceiptFault::Root(index) => write!(
                f,
                "the entry and the path do not lead to the signed root: this is not entry {index}, or the path was changed"
            ),
        }
    }
}

/// A receipt as it was read: nothing in it is proven yet.
struct Receipt<'a> {
    index: u64,
    path: Vec<Hash>,
    checkpoint: &'a str,
}

impl<'a> Receipt<'a> {
    fn parse(text: &'a str) -> Result<Self, ReceiptFault> {
        if text.len() > LONGEST {
            return Err(ReceiptFault::TooLong);
        }
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(ReceiptFault::Line(1, "the start of a tlog-proof with a checkpoint"))?;
        let mut lines = (1..).zip(head.split('\n')).peekable();
        if lines.next().is_none_or(|(_, line)| line != FIRST_LINE) {
            return Err(ReceiptFault::Line(1, "`c2sp.org/tlog-proof@v1`"));
        }
        // Not signed by anybody, so nothing is concluded from it.
        if let Some((place, extra)) = lines.next_if(|(_, line)| line.starts_with("extra ")) {
            let data = extra.strip_prefix("extra ").and_then(|data| STANDARD.decode(data).ok());
            data.ok_or(ReceiptFault::Line(place, "`extra` and base64"))?;
        }
        let index = lines.next().and_then(|(_, line)| number(line.strip_prefix("index ")?));
        let after = lines.peek().map_or_else(|| head.split('\n').count() + 1, |(place, _)| *place);
        let index = index.ok_or(ReceiptFault::Line(after - 1, "`index` and a number"))?;
        let mut path = Vec::new();
        for (place, line) in lines {
            if path.len() >= LONGEST_PATH {
                return Err(ReceiptFault::Line(place, "an empty line, and no path is longer"));
            }
            path.push(Hash::parse(line).ok_or(ReceiptFault::Line(place, "a SHA-256 hash in base64"))?);
        }
        Ok(Self { index, path, checkpoint })
    }
}

/// Checks a receipt for an entry: the bytes as they were exported, without a newline.
///
/// # Errors
/// Says what does not fit.
pub fn verify(entry: &[u8], receipt: &str, key: &VerifyingKey) -> Result<Proven, ReceiptFault> {
    let receipt = Receipt::parse(receipt)?;
    let checkpoint = Checkpoint::verify(receipt.checkpoint, key).map_err(ReceiptFault::Checkpoint)?;
    let (head, index) = (checkpoint.head(), receipt.index);
    if index >= head.size {
        return Err(ReceiptFault::Index { index, size: head.size });
    }
    let needed = path_length(index, head.size);
    if receipt.path.len() != needed {
        return Err(ReceiptFault::Length { found: receipt.path.len(), needed });
    }
    if !includes(&leaf_hash(entry), index, &receipt.path, head.size, &head.root) {
        return Err(ReceiptFault::Root(index));
    }
    Ok(Proven { origin: checkpoint.origin().clone(), index, size: head.size })
}

/// Why no receipt can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssueFault<E> {
    /// The tiles cannot be read, or the checkpoint does not cover the entry.
    Read(ReadError<E>),
    /// What came of it would not verify: entry, tiles and checkpoint do not belong together.
    Receipt(ReceiptFault),
}

impl<E: fmt::Display> fmt::Display for IssueFault<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IssueFault::Read(e) => e.fmt(f),
            IssueFault::Receipt(fault) => write!(f, "no receipt can be written that verifies: {fault}"),
        }
    }
}

/// Writes the receipt for an entry under a signed checkpoint (the note as text). It is verified before it is given
/// out, so that damaged tiles or a damaged entry cannot leave as a proof.
///
/// # Errors
/// When checkpoint, tiles and entry do not belong together, or a tile cannot be read.
pub fn issue<T: Tiles>(
    entry: &[u8],
    index: u64,
    checkpoint: &str,
    key: &VerifyingKey,
    tiles: &T,
) -> Result<String, IssueFault<T::Error>> {
    let verified = Checkpoint::verify(checkpoint, key).map_err(|e| IssueFault::Receipt(ReceiptFault::Checkpoint(e)))?;
    let prover = Prover::new(tiles, verified.head().size);
    let path = prover.and_then(|mut prover| prover.inclusion(index)).map_err(IssueFault::Read)?;
    let path: String = path.iter().map(|hash| format!("{hash}\n")).collect();
    let receipt = format!("{FIRST_LINE}\nindex {index}\n{path}\n{checkpoint}");
    verify(entry, &receipt, key).map_err(IssueFault::Receipt)?;
    Ok(receipt)
}

#[cfg(test)]
mod outside;
#[cfg(test)]
mod tests;
