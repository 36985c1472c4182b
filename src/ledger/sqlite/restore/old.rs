//! What is left of the old log: read from a backup, held against what was signed, and written anew.

use super::Known;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::prune::Pruned;
use crate::ledger::sqlite::database::Statements;
use crate::ledger::sqlite::tree_store::{self, Signed, TreeStore, shown};
use crate::ledger::sqlite::{backup, database, folder, moving, prune};
use crate::ledger::tree::{Head, Tree, leaf_hash};
use crate::ledger::{OpenError, READ_AT_MOST};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::path::Path;

/// A backup, or a ledger that nobody writes to.
pub(super) struct Old {
    db: Connection,
    /// What was signed when the backup was made.
    pub(super) signed: Option<Signed>,
}

/// It as it was written anew, with all its tiles; not signed yet.
pub(super) struct Built {
    tree: TreeStore,
    pub(super) head: Head,
    /// What says where it begins.
    pub(super) pruned: Option<Pruned>,
}

impl Built {
    /// Stores what is signed of it.
    pub(super) fn sign(mut self, signed: Option<(&str, &VerifyingKey)>) -> Result<(), OpenError> {
        self.tree.save(&[], signed)
    }
}

impl Old {
    pub(super) fn open(from: &Path) -> Result<Self, OpenError> {
        let unusable = |e: &dyn std::fmt::Display| OpenError::Unusable(format!("{}: {e}", from.display()));
        access(from, Access::READ_OK).map_err(|e| match e {
            Errno::NOENT => unusable(&"there is no such file"),
            e => unusable(&std::io::Error::from(e)),
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(from, flags).map_err(|e| unusable(&e))?;
        moving::refuse_moved(&db)?;
        database::known_backup(&db, from)?;
        database::check_ends(&db)?;
        let signed = tree_store::signed_in(&db)?;
        Ok(Self { db, signed })
    }

    /// Writes it into a new folder, as a ledger and its tree. Where a head was signed for its beginning, it has to have
    /// that root.
    pub(super) fn copy(
        &self,
        to: &Path,
        known: &[Known],
        progress: &mut dyn FnMut(&'static str, u64, u64),
    ) -> Result<Built, OpenError> {
        std::fs::create_dir(to).map_err(|e| OpenError::Unusable(format!("{}: {e}", to.display())))?;
        let failed = |e: rusqlite::Error| {
            if database::is_full(&e) {
                return OpenError::Unusable(format!("there is no room in {}; make room first", to.display()));
            }
            OpenError::Unusable(format!("{}: {e}", to.display()))
        };
        let (copy, mut store) = (database::open_to_write(to)?, TreeStore::open_to_write(to)?);
        let (mut tree, pruned) = self.beginning(known)?;
        let (begin, all) = (tree.size(), database::length(&self.db)?);
        while tree.size() < all {
            let (first, mut tiles) = (tree.size(), Vec::new());
            let mut statements = Statements::new(&copy).map_err(failed)?;
            database::begin(&copy).map_err(failed)?;
            for (seq, bytes) in database::read(&self.db, first, all.min(first + READ_AT_MOST))? {
                if seq != tree.size() {
                    return Err(OpenError::Damaged(format!("what is to be put back has no entry {}", tree.size())));
                }
                statements.append(seq, &bytes).map_err(failed)?;
                tiles.extend(tree.append(leaf_hash(&bytes)));
                compare(&tree, known)?;
            }
            if tree.size() == first {
                return Err(OpenError::Damaged(format!("what is to be put back has no entry {first}")));
            }
            database::commit(&copy).map_err(failed)?;
            store.save(&tiles, None)?;
            progress("copied", tree.size() - begin, all - begin);
        }
        self.lists(&copy).map_err(failed)?;
        store.save(&tree.edge(), None)?;
        copy.close().map_err(|(_, e)| failed(e))?;
        folder::sync(to)?;
        Ok(Built { tree: store, head: tree.head(), pruned })
    }

    /// The tree over what was pruned of it, and the entry that says so. A head that was signed before its end cannot be
    /// compared: then nobody could tell whether this is that log.
    fn beginning(&self, known: &[Known]) -> Result<(Tree, Option<Pruned>), OpenError> {
        let Some((pruned, edge)) = prune::beginning(&self.db)? else { return Ok((Tree::new(), None)) };
        if let Some(older) = known.iter().find(|known| known.head.size < pruned.first) {
            return Err(OpenError::Unusable(format!(
                "{} was signed for {} entries and cannot be compared: those before {} were pruned; take a newer one, or \
                 move it away",
                older.place, older.head.size, pruned.first
            )));
        }
        let tree = pruned.tree(&edge)?;
        compare(&tree, known)?;
        Ok((tree, Some(pruned)))
    }

    /// Copies the small tables, as they are.
    fn lists(&self, copy: &Connection) -> rusqlite::Result<()> {
        let tables = backup::others(&self.db)?;
        database::begin(copy)?;
        tables.iter().filter(|table| table.name != "signed").try_for_each(|table| backup::fill(copy, table))?;
        database::commit(copy)
    }
}

fn compare(tree: &Tree, known: &[Known]) -> Result<(), OpenError> {
    let Some(known) = known.iter().find(|known| known.head.size == tree.size() && known.head.root != tree.root())
    else {
        return Ok(());
    };
    Err(OpenError::Damaged(format!(
        "what is to be put back is not this log: {} was signed for {}, and these entries have another root",
        known.place,
        shown(&known.head)
    )))
}
