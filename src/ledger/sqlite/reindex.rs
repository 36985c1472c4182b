//! Builds the search data anew, while nothing else writes to the ledger.

use super::database;
use super::folder::Lock;
use super::follower::Follow;
use super::index::{Index, store};
use crate::ledger::{OpenError, READ_AT_MOST};
use std::path::Path;

/// Throws the search data away and builds them from all entries; `progress` hears how many of how many are
/// done. The last entries stay out until they fill a segment; readers read those one by one.
///
/// # Errors
/// [`OpenError::Held`] while a process writes to this ledger; else when there is no ledger, when an entry
/// cannot be read, or when the disk is full.
pub fn reindex(folder: &Path, mut progress: impl FnMut(u64, u64)) -> Result<u64, OpenError> {
    let ledger = database::open_to_read(folder)?;
    let _lock = Lock::take(folder)?;
    store::throw_away(folder)?;
    let length = database::length(&ledger)?;
    let mut index = Index::new(folder);
    index.rest(true)?;
    while index.next() < length {
        let first = index.next();
        let read = database::read(&ledger, first, length.min(first + READ_AT_MOST))?;
        let entries: Vec<Vec<u8>> = read.into_iter().map(|(_, bytes)| bytes).collect();
        index.take(first, &entries)?;
        progress(index.next(), length);
    }
    Ok(length)
}
