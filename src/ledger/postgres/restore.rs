//! A new log in a database that lies behind what was signed: restored from a backup, or failed over to a standby that was
//! behind. Its next entries would get numbers that were signed before with other bytes; so, only if that is accepted, a
//! new log begins, with a key and a name of its own. What is left of the old one is renamed, and read by nobody here.
//!
//! All of it is one transaction. Before it the new key lies beside the old one; after it the two change places. An
//! interrupted one is finished by the next, which knows by the key that the database names.

use super::blocking::Blocking;
use super::session::{Fault, Role};
use super::{copy_of, keeper, place, schema, sealing};
use crate::clock::Timestamp;
use crate::config;
use crate::failpoint;
use crate::id::{Origin, RequestId};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::note::{SigningKey, VerifyingKey};
use crate::ledger::entry::{Body, Outcome, Previous, encode, encode_carried};
use crate::ledger::glance::Glance;
use crate::ledger::sqlite::{RestoreFault, Restored, read_copy, write_durably};
use crate::ledger::tree::{Head, Tree, leaf_hash};
use crate::ledger::{Entries, OpenError, READ_AT_MOST};
use std::path::{Path, PathBuf};
use tokio_postgres::types::{ToSql, Type};

const REASON: &str = "a database was restored, and entries of the log before this one are lost or may be";
const OPEN: &str = "
    SELECT e.seq, e.bytes FROM (SELECT seq FROM ledger.in_flight UNION SELECT seq FROM ledger.unresolved) o
    LEFT JOIN ledger.entry e ON e.seq = o.seq ORDER BY o.seq";
const LIVING: &str = "
    SELECT count(*), coalesce(ceil(extract(epoch FROM max(lease_until) - clock_timestamp())), 0)::int8,
        EXISTS (SELECT FROM ledger.arriving)
    FROM ledger.replica WHERE lease_until >= clock_timestamp() AND NOT stopped";
/// From here on whoever would write waits, and finds the new log in the old one's place: a row's lock would leave them
/// with the old head.
const HOLD_OFF: &str = "BEGIN; LOCK TABLE ledger.head IN ACCESS EXCLUSIVE MODE";
const LENGTH: &str = "SELECT coalesce(max(seq) + 1, 0) FROM ledger.entry";
const CHANGED: &str = "a replica or a command has used the ledger in this database while it was read. Nothing was \
                       changed: stop all replicas, and run it again";
const ENTRY: &str = "INSERT INTO ledger.entry SELECT * FROM unnest($1::int8[], $2::bytea[])";

/// A signed head, where it was found, and its note.
struct Known {
    place: String,
    head: Head,
    note: String,
    /// It was kept outside of the database, so that it says what that may lack.
    outside: bool,
}

/// Begins a new log where the database lacks entries that were signed, or nobody can say. `kept` is a checkpoint that was
/// kept elsewhere: its place and its note.
///
/// # Errors
/// See [`RestoreFault`]; the database is then as it was.
pub fn restore(
    config: &config::Ledger,
    kept: Option<(&str, &str)>,
    accept_loss: bool,
    progress: impl FnMut(u64, u64),
) -> Result<Restored, RestoreFault> {
    let (db, file) = (Blocking::open(place(config)?, Role::Migration)?, sealing::file_of(config)?);
    nobody_serves(&db)?;
    let (note, stored) = db.signed()?.ok_or_else(|| OpenError::Unusable(schema::MISSING.to_owned()))?;
    let staged = beside(file, "next");
    if staged.exists() && key_in(&staged)?.verifying_key().to_string() == stored {
        swap(config, file, &staged)?;
        return Ok(Restored::Finished);
    }
    let key = sealing::load(config)?;
    sealing::is_the_one(&stored, &key)?;
    let verifying = key.verifying_key();
    let known = known(config, kept, note, &verifying)?;
    let (restored, latest) = read_whole(&db, &known, progress)?;
    let newest = known.iter().max_by_key(|known| known.head.size);
    let covered = newest.filter(|newest| newest.head.size <= restored.size);
    if let Some(signed) = covered.filter(|_| known.iter().any(|known| known.outside)) {
        let (origin, entries) = (key.origin().clone(), restored.size);
        return Ok(Restored::Continued { origin, entries, signed: signed.head });
    }
    if !accept_loss {
        return Err(RestoreFault::Loss(loss(&restored, newest)));
    }
    let number = key.origin().number();
    let successor = key.origin().successor();
    let origin = successor.map_err(|fault| OpenError::Unusable(format!("the new log's name {fault}")))?;
    let open = open(&db)?;
    let freezes = super::kept::read(&db)?.freezes;
    let previous = Previous {
        origin: key.origin().clone(),
        restored: restored.size,
        restored_root: restored.root.to_string(),
        signed: newest.map(|newest| newest.head.size),
        checkpoint: newest.map(|newest| newest.note.clone()),
        carried: open.len() as u64,
        freezes: freezes.len() as u64,
    };
    let (carried, signed) = (previous.carried, previous.signed);
    let time = db.now()?.max(latest);
    let mut log = Log { time, entries: Vec::new(), waits: Vec::new() };
    log.append(&Body::Gap { reason: REASON, previous: Some(Box::new(previous)) })?;
    open.iter().try_for_each(|(seq, bytes)| log.carry(*seq, bytes, key.origin()))?;
    freezes.into_iter().try_for_each(|freeze| log.append(&Body::Freeze(freeze)))?;
    let _ = std::fs::remove_file(&staged);
    let new = SigningKey::generate(origin.clone()).map_err(|e| OpenError::Unusable(e.to_string()))?;
    let unusable = |e: std::io::Error| OpenError::Unusable(format!("{}: {e}", staged.display()));
    write_durably(&staged, format!("{}\n", new.to_line().expose()).as_bytes(), 0o600).map_err(unusable)?;
    failpoint::hit("restore-before-commit");
    log.commit(&db, restored.size, number, &new.verifying_key().to_string())?;
    db.close();
    swap(config, file, &staged)?;
    Ok(Restored::Begun { origin, number, entries: restored.size, signed, carried })
}

/// No replica is there that could write or sign: none keeps the tree, and every lease is over. And no ledger is being
/// copied, which goes on elsewhere until it is whole.
fn nobody_serves(db: &Blocking) -> Result<(), OpenError> {
    let found = db.ask(async |client| {
        let free = client.query_typed_one("SELECT pg_try_advisory_lock($1)", &[(&keeper::LOCK, Type::INT8)]).await?;
        let living = client.query_typed_one(LIVING, &[]).await?;
        let is_arriving = living.try_get::<_, bool>(2)?;
        Ok((is_arriving, free.try_get::<_, bool>(0)?, living.try_get::<_, i64>(0)?, living.try_get::<_, i64>(1)?))
    });
    match found? {
        (true, ..) => Err(OpenError::Unusable(schema::ARRIVING.to_owned())),
        (false, true, 0, _) => Ok(()),
        (false, false, ..) => {
            Err(OpenError::Unusable("a replica serves this ledger: stop all of them first".to_owned()))
        }
        (false, true, living, seconds) => Err(OpenError::Unusable(format!(
            "{living} replicas may still be there: stop them; the last lease of those that have died ends in {seconds} s"
        ))),
    }
}

/// Every signed head that can be found of this log.
fn known(
    config: &config::Ledger,
    kept: Option<(&str, &str)>,
    stored: Option<String>,
    key: &VerifyingKey,
) -> Result<Vec<Known>, OpenError> {
    let mut notes: Vec<(String, String, bool)> = Vec::new();
    notes.extend(stored.map(|note| ("the stored checkpoint".to_owned(), note, false)));
    if let Some(file) = copy_of(config) {
        notes.extend(read_copy(file)?.map(|note| (file.display().to_string(), note, true)));
    }
    notes.extend(kept.map(|(place, note)| (place.to_owned(), note.to_owned(), true)));
    let known = notes.into_iter().map(|(place, note, outside)| {
        let checkpoint = Checkpoint::verify(&note, key);
        let checkpoint = checkpoint.map_err(|fault| OpenError::Damaged(format!("{place}: {fault}")))?;
        Ok(Known { place, head: *checkpoint.head(), note, outside })
    });
    known.collect()
}

/// What is there, held against every head that was signed for a beginning of it; and the last entry's time.
fn read_whole(
    db: &Blocking,
    known: &[Known],
    mut progress: impl FnMut(u64, u64),
) -> Result<(Head, Timestamp), OpenError> {
    let damaged = |words: String| OpenError::Damaged(words);
    let mut tree = match db.beginning()? {
        None => Tree::new(),
        Some((pruned, edge)) => pruned.tree(&edge)?,
    };
    let (length, mut latest) = (db.length()?, Timestamp::from_micros(i64::MIN));
    if let Some(older) = known.iter().find(|known| known.head.size < tree.size()) {
        return Err(OpenError::Unusable(format!(
            "{} was signed for {} entries and cannot be compared: those before {} were pruned; take a newer one",
            older.place,
            older.head.size,
            tree.size()
        )));
    }
    loop {
        let next = tree.size();
        for (seq, bytes) in db.read(next, length.min(next + READ_AT_MOST))? {
            if seq != tree.size() {
                return Err(damaged(format!("entry {} is missing", tree.size())));
            }
            let _complete = tree.append(leaf_hash(&bytes));
            if let Some(wrong) =
                known.iter().find(|known| known.head.size == tree.size() && known.head.root != tree.root())
            {
                let words = "was signed for as many entries, and these have another root: this is not that log";
                return Err(damaged(format!("{} {words}", wrong.place)));
            }
            latest = Timestamp::parse(&Glance::at(seq, &bytes)?.time).unwrap_or(latest);
        }
        progress(tree.size(), length);
        if tree.size() >= length {
            return Ok((tree.head(), latest));
        }
        if tree.size() == next {
            return Err(damaged(format!("entry {next} is missing")));
        }
    }
}

/// The intents without an outcome, and those whose outcome is `unknown` and not resolved.
fn open(db: &Blocking) -> Result<Entries, OpenError> {
    let found = db.ask(async |client| {
        let rows = client.query_typed(OPEN, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get::<_, Option<i64>>(0)?, row.try_get::<_, Option<Vec<u8>>>(1)?))).collect()
    });
    let rows: Vec<(Option<i64>, Option<Vec<u8>>)> = found?;
    let missing = || OpenError::Damaged("an intent is listed without a known end, but is not there".to_owned());
    rows.into_iter().map(|(seq, bytes)| seq.map(i64::cast_unsigned).zip(bytes).ok_or_else(missing)).collect()
}

/// Why the log cannot go on.
fn loss(restored: &Head, newest: Option<&Known>) -> String {
    let why = match newest {
        Some(newest) if newest.head.size > restored.size => format!(
            "{} was signed for {} entries, and the database has {}: entries {} to {} are lost",
            newest.place,
            newest.head.size,
            restored.size,
            restored.size,
            newest.head.size - 1
        ),
        _ => "nothing outside of the database says how many entries were signed: some may be lost".to_owned(),
    };
    format!(
        "{why}. Nothing was changed. With a newer backup, or with the checkpoint that was kept elsewhere (--checkpoint), the \
         log may go on; --accept-loss begins a new log after it, which says so in its first entry"
    )
}

/// The entries of the new log.
struct Log {
    time: Timestamp,
    entries: Vec<Vec<u8>>,
    /// Intents that wait for a look at their picture.
    waits: Vec<i64>,
}

impl Log {
    fn append(&mut self, body: &Body) -> Result<(), OpenError> {
        let bytes = encode(self.entries.len() as u64, self.time, body);
        self.entries.push(bytes.map_err(|e| OpenError::Unusable(e.to_string()))?);
        Ok(())
    }

    /// Takes an intent over, and says that nobody knows its end.
    fn carry(&mut self, seq: u64, bytes: &[u8], origin: &Origin) -> Result<(), OpenError> {
        let wrong = || OpenError::Damaged(format!("entry {seq} is not an intent that can be taken over"));
        let request_id: Option<RequestId> = Glance::at(seq, bytes)?.intended().map(|(id, _)| id);
        let intent = self.entries.len() as u64;
        let carried = encode_carried(intent, self.time, bytes, origin, seq).ok_or_else(wrong)?;
        self.entries.push(carried);
        self.waits.push(intent.cast_signed());
        self.append(&Body::Outcome(Outcome::unknown(request_id.ok_or_else(wrong)?)))
    }

    /// Puts the old log aside under its number, and this one in its place; unless it is not the one that was read any
    /// more, with so many entries, or a replica is there that could write to it.
    fn commit(&self, db: &Blocking, read: u64, number: u64, key: &str) -> Result<(), OpenError> {
        let seqs: Vec<i64> = (0..).take(self.entries.len()).collect();
        let (entries, latest): (i64, i64) = (self.entries.len().try_into().unwrap_or(i64::MAX), self.time.as_micros());
        let waits = "INSERT INTO ledger.unresolved SELECT $1::int8, seq, 0 FROM unnest($2::int8[]) AS a (seq)";
        let took: Result<bool, Fault> = db.ask(async |client| {
            client.batch_execute(HOLD_OFF).await?;
            let length: i64 = client.query_typed_one(LENGTH, &[]).await?.try_get(0)?;
            let living = client.query_typed_one(LIVING, &[]).await?;
            let is_used = living.try_get::<_, i64>(0)? > 0 || living.try_get::<_, bool>(2)?;
            if is_used || length.cast_unsigned() != read {
                client.batch_execute("ROLLBACK").await?;
                return Ok(false);
            }
            for statement in schema::successor(number) {
                client.batch_execute(&statement).await?;
            }
            client.execute(ENTRY, &[&seqs, &self.entries]).await?;
            client.execute(waits, &[&latest, &self.waits]).await?;
            let values: [(&(dyn ToSql + Sync), Type); 2] = [(&entries, Type::INT8), (&latest, Type::INT8)];
            client.execute_typed("UPDATE ledger.head SET length = $1, latest_us = $2", &values).await?;
            let sign = "INSERT INTO ledger.signed (verifying_key) VALUES ($1)";
            client.execute_typed(sign, &[(&key, Type::TEXT)]).await?;
            client.batch_execute("COMMIT").await?;
            Ok(true)
        });
        if took? { Ok(()) } else { Err(OpenError::Unusable(CHANGED.to_owned())) }
    }
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{end}"));
    file.with_file_name(name)
}

fn key_in(file: &Path) -> Result<SigningKey, OpenError> {
    SigningKey::load(file).map_err(OpenError::Unusable)
}

/// Puts the new key in the place of the old one, which stays beside it, and so does the copy of the old checkpoint.
fn swap(config: &config::Ledger, file: &Path, staged: &Path) -> Result<(), OpenError> {
    let number = key_in(staged)?.origin().number().saturating_sub(1).to_string();
    let moved = |from: &Path, to: &Path| {
        let failed = |e: std::io::Error| OpenError::Unusable(format!("{}: {e}", from.display()));
        std::fs::rename(from, to).map_err(failed)
    };
    if let Some(copy) = copy_of(config).filter(|copy| copy.exists()) {
        moved(copy, &free(copy, &number))?;
    }
    if file.exists() {
        moved(file, &free(file, &number))?;
    }
    moved(staged, file)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| OpenError::Unusable(format!("{}: {e}", folder.display())))
}

/// A name for an older file beside it that is not taken.
fn free(file: &Path, number: &str) -> PathBuf {
    let names = std::iter::once(number.to_owned()).chain((1..).map(|n: u32| format!("{number}.{n}")));
    let mut free = names.map(|end| beside(file, &end)).filter(|path| path.symlink_metadata().is_err());
    free.next().unwrap_or_else(|| beside(file, number))
}
