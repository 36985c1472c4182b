//! A session for threads that wait: the keeper, and whoever reads.

use super::session::{Fault, Role, Session};
use crate::clock::Timestamp;
use crate::config;
use crate::ledger::prune::{Edge, Pruned};
use crate::ledger::tree::Hash;
use crate::ledger::tree::proof::Tiles;
use crate::ledger::tree::tile::Tile;
use crate::ledger::{Entries, OpenError, READ_AT_MOST};
use std::cell::RefCell;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};

/// A session and the runtime that drives it, on the thread that asks.
pub(super) struct Blocking {
    // Dropped before the runtime: its socket belongs to that.
    session: RefCell<Session>,
    runtime: Runtime,
}

/// Where a tile stands: its level above its index, so that each level grows at its end.
pub(super) fn place(tile: Tile) -> i64 {
    (i64::from(tile.level()) << 55) | i64::try_from(tile.index() & ((1 << 55) - 1)).unwrap_or(i64::MAX)
}

/// A number of entries or of one, as SQL has it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Where a log that was pruned begins, as it is stored.
pub(super) struct Beginning {
    seq: u64,
    first: u64,
    edge: Vec<u8>,
    entry: Vec<u8>,
}

impl Beginning {
    pub(super) async fn ask(client: &Client) -> Result<Option<Self>, Error> {
        const SQL: &str = "
            SELECT p.seq, p.first, p.edge, coalesce(e.bytes, '') FROM ledger.pruned p
            LEFT JOIN ledger.entry e ON e.seq = p.seq WHERE p.state > 0 ORDER BY p.seq DESC LIMIT 1";
        let Some(row) = client.query_typed_opt(SQL, &[]).await? else { return Ok(None) };
        let number = |at| row.try_get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(Some(Self { seq: number(0)?, first: number(1)?, edge: row.try_get(2)?, entry: row.try_get(3)? }))
    }

    /// What its entry says, and the edge of the tree there.
    pub(super) fn read(self) -> Result<(Pruned, Edge), OpenError> {
        let Self { seq, first, edge, entry } = self;
        let pruned = Pruned::read(seq, &entry)?;
        if pruned.first != first {
            let words = format!("where the log begins: entry {seq} says {}, and the row {first}", pruned.first);
            return Err(OpenError::Damaged(words));
        }
        Ok((pruned, Edge::new(first, edge)))
    }
}

impl Blocking {
    /// Connects, and checks the schema.
    ///
    /// # Errors
    /// In words, when the database cannot be reached, is not to be used, or holds no ledger that this program knows.
    pub(super) fn open(place: &config::Postgres, role: Role) -> Result<Self, OpenError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| OpenError::Unusable(format!("the runtime cannot be started: {e}")))?;
        let session = runtime.block_on(async {
            let mut session = Session::open(place, role).await?;
            super::schema::check(&mut session, role).await?;
            Ok::<_, OpenError>(session)
        })?;
        Ok(Self { session: RefCell::new(session), runtime })
    }

    /// Asks something.
    pub(super) fn ask<T>(&self, question: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Fault> {
        self.runtime.block_on(self.session.borrow_mut().ask(question))
    }

    /// Says goodbye.
    pub(super) fn close(self) {
        self.runtime.block_on(self.session.into_inner().close());
    }

    /// The number of entries. They are numbered from 0 without a gap, so the last number says it.
    pub(super) fn length(&self) -> Result<u64, OpenError> {
        let last = self.ask(async |client| {
            let row = client.query_typed_one("SELECT max(seq) FROM ledger.entry", &[]).await?;
            row.try_get::<_, Option<i64>>(0)
        })?;
        Ok(last.map_or(0, |last| last.cast_unsigned() + 1))
    }

    /// See [`Session::now`].
    pub(super) fn now(&self) -> Result<Timestamp, OpenError> {
        Ok(self.runtime.block_on(self.session.borrow_mut().now())?)
    }

    /// Up to [`READ_AT_MOST`] entries in `from..until`, ascending.
    pub(super) fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        const SQL: &str = "SELECT seq, bytes FROM ledger.entry WHERE seq >= $1 AND seq < $2 ORDER BY seq";
        let until = until.min(from.saturating_add(READ_AT_MOST));
        let rows = self.ask(async |client| {
            client.query_typed(SQL, &[(&signed(from), Type::INT8), (&signed(until), Type::INT8)]).await
        })?;
        let entry = |row: &tokio_postgres::Row| Ok((row.try_get::<_, i64>(0)?.cast_unsigned(), row.try_get(1)?));
        let entries: Result<Entries, Error> = rows.iter().map(entry).collect();
        entries.map_err(|e| Fault::from(e).into())
    }

    /// Some entries, each by its number, ascending.
    pub(super) fn entries(&self, seqs: &[i64]) -> Result<Entries, OpenError> {
        const SQL: &str = "SELECT seq, bytes FROM ledger.entry WHERE seq = ANY($1) ORDER BY seq";
        let rows = self.ask(async |client| client.query_typed(SQL, &[(&seqs, Type::INT8_ARRAY)]).await)?;
        let entry = |row: &tokio_postgres::Row| Ok((row.try_get::<_, i64>(0)?.cast_unsigned(), row.try_get(1)?));
        let entries: Result<Entries, Error> = rows.iter().map(entry).collect();
        entries.map_err(|e| Fault::from(e).into())
    }

    /// Where the log begins, and the edge of the tree there. `None`: at 0. A prune that was only recorded is none yet.
    pub(super) fn beginning(&self) -> Result<Option<(Pruned, Edge)>, OpenError> {
        let row = self.ask(async |client| Beginning::ask(client).await);
        row?.map(Beginning::read).transpose()
    }

    /// The number of the first entry.
    pub(super) fn first(&self) -> Result<u64, OpenError> {
        Ok(self.beginning()?.map_or(0, |(pruned, _)| pruned.first))
    }

    /// The newest signed checkpoint, and the key that verifies it, as they are stored.
    pub(super) fn signed(&self) -> Result<Option<(Option<String>, String)>, OpenError> {
        let row = self
            .ask(async |client| client.query_typed_opt("SELECT note, verifying_key FROM ledger.signed", &[]).await)?;
        let Some(row) = row else { return Ok(None) };
        let read = row.try_get(0).and_then(|note| Ok((note, row.try_get(1)?)));
        read.map(Some).map_err(|e| Fault::from(e).into())
    }
}

impl Tiles for Blocking {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        let row = self.ask(async |client| {
            let place = place(tile);
            client.query_typed_opt("SELECT hashes FROM ledger.tile WHERE place = $1", &[(&place, Type::INT8)]).await
        })?;
        let Some(row) = row else {
            // Of what was pruned, the edge is kept beside the entries, too.
            let missing = || OpenError::Damaged(format!("the ledger's tree has no {tile}"));
            return self.beginning()?.ok_or_else(missing)?.1.hashes(tile).map_err(|_| missing());
        };
        let bytes: &[u8] = row.try_get(0).map_err(Fault::from)?;
        tile.decode(bytes).ok_or_else(|| OpenError::Damaged(format!("the stored {tile} is too short")))
    }
}
