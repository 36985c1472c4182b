//! The store that a configuration names, for those who read.

use super::checkpoint::note::VerifyingKey;
use super::freeze::Freezes;
use super::postgres::PostgresReader;
use super::prune::Pruned;
use super::search::{Page, Query};
use super::sqlite::SqliteReader;
use super::stats::{Span, Tally};
use super::tree::Hash;
use super::tree::proof::Tiles;
use super::tree::tile::Tile;
use super::verify::{SearchData, Standing};
use super::{Entries, OpenError, ProofReader, Reader};
use crate::config;

/// What can be read and proved.
trait Readable: Reader + ProofReader {}

impl<T: Reader + ProofReader> Readable for T {}

/// A ledger opened for reading, in whichever store it is.
pub enum Stored {
    /// A folder.
    Sqlite(Box<SqliteReader>),
    /// A database.
    Postgres(Box<PostgresReader>),
}

impl Stored {
    /// Opens it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(config: &config::Ledger) -> Result<Self, OpenError> {
        Ok(match &config.postgres {
            Some(_) => Self::Postgres(Box::new(PostgresReader::open(config)?)),
            None => Self::Sqlite(Box::new(SqliteReader::open(&config.path)?)),
        })
    }

    fn reader(&self) -> &dyn Readable<Error = OpenError> {
        match self {
            Stored::Sqlite(reader) => reader.as_ref(),
            Stored::Postgres(reader) => reader.as_ref(),
        }
    }

    fn ask<'a, T>(
        &'a self,
        question: impl FnOnce(&'a dyn Readable<Error = OpenError>) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        question(self.reader()).map_err(|error| error.if_there(self))
    }
}

impl Reader for Stored {
    fn length(&self) -> Result<u64, OpenError> {
        self.ask(|reader| reader.length())
    }

    fn is_there(&self) -> bool {
        self.reader().is_there()
    }

    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        self.ask(|reader| reader.read(from, until))
    }

    fn search(&self, query: &Query) -> Result<Page, OpenError> {
        self.ask(|reader| reader.search(query))
    }

    fn request(&self, request_id: &str) -> Result<Entries, OpenError> {
        self.ask(|reader| reader.request(request_id))
    }

    fn freezes(&self) -> Result<Freezes, OpenError> {
        self.ask(|reader| reader.freezes())
    }

    fn pruned(&self) -> Result<Option<Pruned>, OpenError> {
        self.ask(|reader| reader.pruned())
    }

    fn stats(&self, span: Span) -> Result<Vec<Tally>, OpenError> {
        self.ask(|reader| reader.stats(span))
    }
}

impl Tiles for Stored {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        self.ask(|reader| reader.hashes(tile))
    }
}

impl ProofReader for Stored {
    fn checkpoint(&self) -> Result<Option<String>, OpenError> {
        self.ask(|reader| reader.checkpoint())
    }

    fn verifying_key(&self) -> Result<VerifyingKey, OpenError> {
        self.ask(|reader| reader.verifying_key())
    }

    fn has_tree(&self) -> bool {
        self.reader().has_tree()
    }

    fn is_being_built(&self) -> Result<bool, OpenError> {
        self.ask(|reader| reader.is_being_built())
    }

    fn standing(&self) -> Result<Option<Standing>, OpenError> {
        self.ask(|reader| reader.standing())
    }

    fn search_data(&self) -> Result<Option<Box<dyn SearchData + '_>>, OpenError> {
        self.ask(|reader| reader.search_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::conformance::{Place, conclude, intend};
    use crate::ledger::entry::End;
    use crate::ledger::verify::verify;
    use std::process::Command;

    /// A folder seen where it cannot be written, though it can be elsewhere.
    struct Seen(tempfile::TempDir);

    impl Seen {
        fn of(folder: &std::path::Path) -> Self {
            let place = tempfile::tempdir().unwrap();
            let mut mount = Command::new("mount");
            let mounted = mount.args(["--bind", "-o", "ro"]).arg(folder).arg(place.path()).status();
            assert!(mounted.is_ok_and(|status| status.success()), "it cannot be mounted");
            Self(place)
        }
    }

    impl Drop for Seen {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_found_in_a_file_that_was_read_as_it_is_and_is_written_meanwhile_says_nothing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let place = Place::sqlite();
        let ledger = place.open();
        conclude(&*ledger, intend(&*ledger, "1").await, End::Deleted).await.unwrap();
        ledger.close().await;
        let seen = Seen::of(&place.config.path);
        let there = config::Ledger { path: seen.0.path().to_owned(), ..place.config.clone() };
        let open = || Stored::open(&there).unwrap();
        // Somebody serves it.
        let stored = open();
        assert!(stored.is_there());
        let ledger = place.open();
        assert!(!stored.is_there());
        ledger.close().await;
        // It was served between two looks.
        assert!(!stored.is_there());
        // And in a database that was opened before, there may be pages of both.
        let (stored, key) = (open(), open().verifying_key().unwrap());
        let file = place.config.path.join("ledger.db");
        let first = std::fs::read(&file).unwrap();
        let mut mixed = first.get(..4096).unwrap().to_vec();
        mixed.resize(first.len() + 4096, 0);
        std::fs::write(&file, mixed).unwrap();
        for found in [stored.read(0, u64::MAX).map(drop), verify(&stored, &key, &[], |_, _| ()).map(drop)] {
            assert!(matches!(&found, Err(OpenError::Unusable(words)) if words.contains("again")), "{found:?}");
        }
        // Of a file that nobody writes meanwhile it is said.
        assert!(matches!(open().read(0, u64::MAX), Err(OpenError::Damaged(_))));
    }
}
