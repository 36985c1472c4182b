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
}

impl Reader for Stored {
    fn length(&self) -> Result<u64, OpenError> {
        self.reader().length()
    }

    fn is_there(&self) -> bool {
        self.reader().is_there()
    }

    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        self.reader().read(from, until)
    }

    fn search(&self, query: &Query) -> Result<Page, OpenError> {
        self.reader().search(query)
    }

    fn request(&self, request_id: &str) -> Result<Entries, OpenError> {
        self.reader().request(request_id)
    }

    fn freezes(&self) -> Result<Freezes, OpenError> {
        self.reader().freezes()
    }

    fn pruned(&self) -> Result<Option<Pruned>, OpenError> {
        self.reader().pruned()
    }

    fn stats(&self, span: Span) -> Result<Vec<Tally>, OpenError> {
        self.reader().stats(span)
    }
}

impl Tiles for Stored {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        self.reader().hashes(tile)
    }
}

impl ProofReader for Stored {
    fn checkpoint(&self) -> Result<Option<String>, OpenError> {
        self.reader().checkpoint()
    }

    fn verifying_key(&self) -> Result<VerifyingKey, OpenError> {
        self.reader().verifying_key()
    }

    fn has_tree(&self) -> bool {
        self.reader().has_tree()
    }

    fn is_being_built(&self) -> Result<bool, OpenError> {
        self.reader().is_being_built()
    }

    fn standing(&self) -> Result<Option<Standing>, OpenError> {
        self.reader().standing()
    }

    fn search_data(&self) -> Result<Option<Box<dyn SearchData + '_>>, OpenError> {
        self.reader().search_data()
    }
}
