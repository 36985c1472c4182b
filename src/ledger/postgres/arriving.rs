//! A ledger that comes from a folder: filled in step by step, over any number of connections, verified, and only then
//! opened. As long as it is not whole, a row in `arriving` keeps everybody out who would write to it or read it.

use super::asking::PostgresReader;
use super::blocking::{Blocking, signed};
use super::index::{self, Index};
use super::keeper::{BATCH, committed};
use super::schema::MISSING;
use super::sealing::{self, Sealer};
use super::session::{Fault, Role};
use crate::clock::Timestamp;
use crate::config;
use crate::failpoint;
use crate::ledger::OpenError;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::copy::{KeptKey, Luggage, Spent, Target, Waiting};
use crate::ledger::tree::TileData;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// Any number that is ours: one copy at a time.
const LOCK: i64 = 0x7767_6d03;
const BEGIN: &str = "
    TRUNCATE ledger.entry, ledger.tile, ledger.pruned, ledger.arriving, ledger.signed;
    TRUNCATE search.request, search.day;";
const LISTS: &str = "TRUNCATE ledger.frozen, ledger.idempotency, ledger.spent, ledger.unresolved, ledger.in_flight";
const FREEZES: &str = "INSERT INTO ledger.frozen (place, body)
    SELECT place, body FROM unnest($1::text[]) WITH ORDINALITY AS a (body, place)";
const KEYS: &str = "INSERT INTO ledger.idempotency (key, since_us, seq, target, request_id, answered)
    SELECT * FROM unnest($1::bytea[], $2::int8[], $3::int8[], $4::bytea[], $5::text[], $6::text[])";
const SPENT: &str = "INSERT INTO ledger.spent (counter, ordinal, time_us, seq)
    SELECT * FROM unnest($1::bytea[], $2::int8[], $3::int8[], $4::int8[])";
const WAITING: &str = "INSERT INTO ledger.unresolved (since_us, seq, attempts)
    SELECT since_us, seq, attempts::int4 FROM unnest($1::int8[], $2::int8[], $3::int8[]) AS a (since_us, seq, attempts)";
const ENTRIES: &str = "INSERT INTO ledger.entry (seq, bytes) SELECT * FROM unnest($1::int8[], $2::bytea[])";
/// Moves on, if it is where this one left it. Locks the row: another backend may still commit what it was sent.
const MOVE_ON: &str = "UPDATE ledger.arriving SET next = $2, whole = NULL WHERE next = $1";
const SETTINGS: &str =
    "SELECT current_database()::text, coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a socket')";

type Values<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// A database that a ledger is copied into, held by this copy alone.
pub(in crate::ledger) struct Arriving {
    config: config::Ledger,
    db: Blocking,
}

impl Arriving {
    /// Connects, and holds the database against other copies.
    ///
    /// # Errors
    /// In words, when it cannot be reached, is not to be used, has not been migrated, or another copy is under way.
    pub(in crate::ledger) fn open(config: &config::Ledger) -> Result<Self, OpenError> {
        let db = Blocking::open(super::place(config)?, Role::Copying)?;
        let is_free = db.ask(async |client| {
            let sql = "SELECT pg_try_advisory_lock($1)";
            client.query_typed_one(sql, &[(&LOCK, Type::INT8)]).await?.try_get::<_, bool>(0)
        });
        if !is_free? {
            return Err(OpenError::Unusable("another copy into this database is under way".to_owned()));
        }
        // What is copied elsewhere is written by who serves.
        let config = config::Ledger { checkpoint_copy: None, ..config.clone() };
        Ok(Self { config, db })
    }

    /// The key that is to go on with the log: it has to be the log's own.
    ///
    /// # Errors
    /// In words, when it is not.
    pub(in crate::ledger) fn key_of(&self, luggage: &Luggage) -> Result<VerifyingKey, String> {
        let key = sealing::load(&self.config).map_err(|error| {
            format!("{error}; put the ledger's own signing key there, that is the file that its `serve` signs with")
        })?;
        let is = key.verifying_key();
        if is.to_string() == luggage.key {
            return Ok(is);
        }
        Err(format!(
            "the ledger is signed with the key {}, but ledger.signing_key_file of the database holds {is}: with another \
             key this would be another log; put the ledger's own key there",
            luggage.key
        ))
    }

    /// Where it is, as the server says: nothing of it is out of the file with the password.
    pub(in crate::ledger) fn place(&self) -> Result<String, OpenError> {
        let (name, at) = self.db.ask(async |client| {
            let row = client.query_typed_one(SETTINGS, &[]).await?;
            Ok((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?))
        })?;
        Ok(format!("the PostgreSQL database `{name}` at {at}"))
    }

    /// What there is.
    pub(in crate::ledger) fn state(&self) -> Result<Target, OpenError> {
        const SQL: &str = "SELECT h.length, a.first, a.next, a.whole, s.verifying_key FROM ledger.head h
            LEFT JOIN ledger.arriving a ON true LEFT JOIN ledger.signed s ON true";
        let state = self.db.ask(async |client| {
            let row = client.query_typed_one(SQL, &[]).await?;
            let number = |at| Ok::<_, Error>(row.try_get::<_, Option<i64>>(at)?.map(i64::cast_unsigned));
            let word = |at| row.try_get::<_, Option<String>>(at);
            Ok((number(0)?, number(1)?, number(2)?, word(3)?, word(4)?))
        });
        match state? {
            (_, Some(first), Some(next), whole, key) => Ok(Target::Begun { first, next, whole, key }),
            (length, ..) => {
                let length = length.unwrap_or(0).max(self.db.length()?);
                Ok(if length == 0 { Target::Empty } else { Target::Ledger { length } })
            }
        }
    }

    /// Whether the log that has left goes on here. Once the entry that says so is pruned, its key alone does.
    pub(in crate::ledger) fn is_continued(&self, luggage: &Luggage) -> Result<bool, OpenError> {
        let is_its_key = self.db.signed()?.is_some_and(|(_, key)| key == luggage.key);
        if self.db.first()? > luggage.head.size {
            return Ok(is_its_key);
        }
        let next = self.db.read(luggage.head.size, luggage.head.size + 1)?.pop();
        let entry: Option<serde_json::Value> = next.and_then(|(_, bytes)| serde_json::from_slice(&bytes).ok());
        let root = luggage.head.root.to_string();
        let says =
            |member: &str, what: &str| entry.as_ref().and_then(|entry| entry.get(member)).is_some_and(|is| is == what);
        Ok(is_its_key && says("kind", "copy") && says("root", &root))
    }

    /// Begins: whatever an earlier copy has left goes. Nobody else may write to the database from here on.
    pub(in crate::ledger) fn begin(&mut self, luggage: &Luggage) -> Result<(), OpenError> {
        let first = signed(luggage.first());
        let beginning = luggage.beginning.as_ref();
        let begun = self.transaction(async |client| {
            let head = client.query_typed_one("SELECT length FROM ledger.head FOR UPDATE", &[]).await?;
            if head.try_get::<_, i64>(0)? != 0 {
                return Ok(false);
            }
            client.batch_execute(BEGIN).await?;
            let sql = "INSERT INTO ledger.arriving (first, next) VALUES ($1, $1)";
            client.execute_typed(sql, &[(&first, Type::INT8)]).await?;
            let sql = "INSERT INTO ledger.signed (verifying_key) VALUES ($1)";
            client.execute_typed(sql, &[(&luggage.key, Type::TEXT)]).await?;
            if let Some((pruned, edge)) = beginning {
                // At its end: what is copied begins there.
                let sql = "INSERT INTO ledger.pruned (seq, first, edge, state) VALUES ($1, $2, $3, 2)";
                let (seq, bytes) = (signed(pruned.seq), edge.bytes());
                client.execute_typed(sql, &[(&seq, Type::INT8), (&first, Type::INT8), (&bytes, Type::BYTEA)]).await?;
            }
            client.execute_typed("UPDATE search.cursor SET (next, base) = ($1, $1)", &[(&first, Type::INT8)]).await?;
            Ok(true)
        });
        if !begun? {
            return Err(OpenError::Unusable("a replica has begun a ledger in this database meanwhile".to_owned()));
        }
        failpoint::hit("copy-begun");
        Ok(())
    }

    /// The entry that it wants next.
    pub(in crate::ledger) fn next(&self) -> Result<u64, OpenError> {
        match self.state()? {
            Target::Begun { next, .. } => Ok(next),
            Target::Empty | Target::Ledger { .. } => Err(OpenError::Unusable("the copy was not begun".to_owned())),
        }
    }

    /// Takes entries from `first` on, durably.
    pub(in crate::ledger) fn take(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), OpenError> {
        let next = first + entries.len() as u64;
        let seqs: Vec<i64> = (first..next).map(u64::cast_signed).collect();
        let (first, next) = (signed(first), signed(next));
        let is_ours = self.transaction(async |client| {
            let moved = client.execute_typed(MOVE_ON, &[(&first, Type::INT8), (&next, Type::INT8)]).await?;
            if moved == 1 {
                client.execute_typed(ENTRIES, &[(&seqs, Type::INT8_ARRAY), (&entries, Type::BYTEA_ARRAY)]).await?;
            }
            Ok(moved == 1)
        });
        if is_ours? { Ok(()) } else { Err(OpenError::Unusable("another copy goes on with it".to_owned())) }
    }

    /// What is kept beside the entries is filled in from the beginning.
    pub(in crate::ledger) fn clear_lists(&mut self) -> Result<(), OpenError> {
        Ok(self.db.ask(async |client| client.batch_execute(LISTS).await)?)
    }

    pub(in crate::ledger) fn freezes(&mut self, freezes: &[String]) -> Result<(), OpenError> {
        self.fill(FREEZES, &[(&freezes, Type::TEXT_ARRAY)])
    }

    pub(in crate::ledger) fn keys(&mut self, keys: &[KeptKey]) -> Result<(), OpenError> {
        let marks: [Vec<&[u8]>; 2] =
            [keys.iter().map(|key| key.0.as_slice()).collect(), keys.iter().map(|key| key.3.as_slice()).collect()];
        let numbers: [Vec<i64>; 2] = [keys.iter().map(|key| key.1).collect(), keys.iter().map(|key| key.2).collect()];
        let ids: Vec<&str> = keys.iter().map(|key| key.4.as_str()).collect();
        let answers: Vec<Option<&str>> = keys.iter().map(|key| key.5.as_deref()).collect();
        let [key, target] = &marks;
        let [since, seq] = &numbers;
        self.fill(
            KEYS,
            &[
                (key, Type::BYTEA_ARRAY),
                (since, Type::INT8_ARRAY),
                (seq, Type::INT8_ARRAY),
                (target, Type::BYTEA_ARRAY),
                (&ids, Type::TEXT_ARRAY),
                (&answers, Type::TEXT_ARRAY),
            ],
        )
    }

    pub(in crate::ledger) fn spent(&mut self, spent: &[Spent]) -> Result<(), OpenError> {
        let counters: Vec<&[u8]> = spent.iter().map(|row| row.0.as_slice()).collect();
        let ordinals: Vec<i64> = spent.iter().map(|row| row.1).collect();
        let times: Vec<i64> = spent.iter().map(|row| row.2).collect();
        let seqs: Vec<i64> = spent.iter().map(|row| row.3).collect();
        let numbers = [&ordinals, &times, &seqs].map(|column| (column as &(dyn ToSql + Sync), Type::INT8_ARRAY));
        let [ordinals, times, seqs] = numbers;
        self.fill(SPENT, &[(&counters, Type::BYTEA_ARRAY), ordinals, times, seqs])
    }

    pub(in crate::ledger) fn waiting(&mut self, waiting: &[Waiting]) -> Result<(), OpenError> {
        let since: Vec<i64> = waiting.iter().map(|row| row.0).collect();
        let seqs: Vec<i64> = waiting.iter().map(|row| row.1).collect();
        let attempts: Vec<i64> = waiting.iter().map(|row| row.2).collect();
        let columns = [&since, &seqs, &attempts].map(|column| (column as &(dyn ToSql + Sync), Type::INT8_ARRAY));
        self.fill(WAITING, &columns)
    }

    /// Stores tiles over what was pruned.
    pub(in crate::ledger) fn tiles(&self, tiles: &[TileData]) -> Result<(), OpenError> {
        sealing::store(&self.db, tiles)
    }

    /// Builds the tree from the entries that are here. They have to lead to what was signed.
    pub(in crate::ledger) fn seal(
        &mut self,
        luggage: &Luggage,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), OpenError> {
        let sql = "UPDATE ledger.signed SET note = $1";
        self.db.ask(async |client| client.execute_typed(sql, &[(&luggage.note, Type::TEXT)]).await)?;
        let mut sealer = Sealer::open(&self.config, &self.db)?;
        let (first, all) = (luggage.first(), luggage.head.size);
        loop {
            let next = sealer.next(&self.db)?;
            if next >= all {
                return sealer.keep(&self.db);
            }
            sealer.take(&self.db, &committed(&self.db, next, all.min(next + BATCH))?)?;
            progress(all.min(next + BATCH) - first, all - first);
        }
    }

    /// Builds the search data.
    pub(in crate::ledger) fn index(&mut self, mut progress: impl FnMut(u64, u64)) -> Result<(), OpenError> {
        let (first, all, mut index) = (self.db.first()?, self.db.length()?, Index::default());
        if index::cursor(&self.db)? > all {
            index::begin_anew(&self.db)?;
        }
        loop {
            let next = index.next(&self.db)?;
            if next >= all {
                return Ok(());
            }
            index.take(&self.db, next, &committed(&self.db, next, all.min(next + BATCH))?)?;
            progress(all.min(next + BATCH) - first, all - first);
        }
    }

    /// Reads what has arrived, over a connection of its own.
    pub(in crate::ledger) fn reader(&self) -> Result<PostgresReader, OpenError> {
        Blocking::open(super::place(&self.config)?, Role::Copying).map(PostgresReader)
    }

    /// It was verified as a whole: from now on nothing is missing but the word that it may be served.
    pub(in crate::ledger) fn found_whole(&mut self, luggage: &Luggage) -> Result<(), OpenError> {
        let (next, root) = (signed(luggage.head.size), luggage.head.root.to_string());
        let sql = "UPDATE ledger.arriving SET whole = $2 WHERE next = $1";
        let found =
            self.db.ask(async |client| client.execute_typed(sql, &[(&next, Type::INT8), (&root, Type::TEXT)]).await);
        if found? == 1 { Ok(()) } else { Err(OpenError::Unusable("another copy goes on with it".to_owned())) }
    }

    /// The time by the database's clock.
    pub(in crate::ledger) fn now(&self) -> Result<Timestamp, OpenError> {
        self.db.now()
    }

    /// Opens it: its next entry says where it came from, and from now on replicas may serve it.
    ///
    /// # Errors
    /// It may be open all the same: the next run looks.
    pub(in crate::ledger) fn arrive(
        &mut self,
        luggage: &Luggage,
        entry: &[u8],
        time: Timestamp,
    ) -> Result<(), OpenError> {
        let (seq, root) = (signed(luggage.head.size), luggage.head.root.to_string());
        let (length, time) = (seq + 1, time.as_micros());
        let arrived = self.transaction(async |client| {
            client.query_typed_one("SELECT length FROM ledger.head FOR UPDATE", &[]).await?;
            let sql = "DELETE FROM ledger.arriving WHERE next = $1 AND whole = $2";
            if client.execute_typed(sql, &[(&seq, Type::INT8), (&root, Type::TEXT)]).await? != 1 {
                return Ok(false);
            }
            let sql = "INSERT INTO ledger.entry (seq, bytes) VALUES ($1, $2)";
            client.execute_typed(sql, &[(&seq, Type::INT8), (&entry, Type::BYTEA)]).await?;
            let sql = "UPDATE ledger.head SET length = $1, latest_us = $2";
            client.execute_typed(sql, &[(&length, Type::INT8), (&time, Type::INT8)]).await?;
            Ok(true)
        });
        if arrived? { Ok(()) } else { Err(OpenError::Damaged(format!("{MISSING}, or the copy in it is another one"))) }
    }

    fn fill(&mut self, sql: &str, values: &Values<'_>) -> Result<(), OpenError> {
        Ok(self.db.ask(async |client| client.execute_typed(sql, values).await).map(drop)?)
    }

    /// One transaction; `false` and an error take it back.
    fn transaction(&self, work: impl AsyncFnOnce(&Client) -> Result<bool, Error>) -> Result<bool, OpenError> {
        let done: Result<bool, Fault> = self.db.ask(async |client| {
            client.batch_execute("BEGIN").await?;
            let is_done = work(client).await?;
            client.batch_execute(if is_done { "COMMIT" } else { "ROLLBACK" }).await?;
            Ok(is_done)
        });
        if done.is_err() {
            let _ = self.db.ask(async |client| client.batch_execute("ROLLBACK").await);
        }
        Ok(done?)
    }
}
