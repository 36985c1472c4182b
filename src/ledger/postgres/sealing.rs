//! Behind the commits: the replica that keeps hashes what is committed into the tree and signs its head, at most once a
//! second. Every replica looks at what was signed: each head has to continue the last one that it saw, and goes to its
//! own copy.

use super::blocking::{Blocking, place};
use super::session::Role;
use super::{copy_of, schema};
use crate::clock::{Moment, moment, since};
use crate::config;
use crate::ledger::OpenError;
use crate::ledger::checkpoint::note::{SigningKey, VerifyingKey};
use crate::ledger::checkpoint::{self, Checkpoint};
use crate::ledger::sqlite::{make_key, read_copy, write_durably};
use crate::ledger::tree::proof::Prover;
use crate::ledger::tree::{Head, TileData, Tree, empty_root, leaf_hash};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::types::Type;

/// Between two checkpoints at least.
const PAUSE: Duration = Duration::from_millis(900);
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Complete tiles that wait for the next checkpoint; more are stored before it.
const TILES_AT_MOST: usize = 64;
const TILES: &str = "INSERT INTO ledger.tile (place, hashes) SELECT * FROM unnest($1::int8[], $2::bytea[])
    ON CONFLICT (place) DO UPDATE SET hashes = excluded.hashes";
/// Only over what this one signed last, or found when it began: two that keep cannot sign beside each other.
const SIGN: &str = "UPDATE ledger.signed SET note = $1 WHERE note IS NOT DISTINCT FROM $2";

/// Keeps tree and checkpoints.
pub(super) struct Sealer {
    key: SigningKey,
    verifying: VerifyingKey,
    copy: Option<PathBuf>,
    /// The newest checkpoint that this replica has seen, and its head.
    note: Option<String>,
    seen: Head,
    /// Heads that were signed, and that the tree has to pass through before anything is signed.
    ahead: Vec<Head>,
    signed_at: Option<Moment>,
    logged_at: Option<Moment>,
    copy_is_behind: bool,
    /// The tree, while this replica keeps it.
    tree: Option<Tree>,
    waiting: Vec<TileData>,
}

/// Tiles, column by column.
fn columns<'a>(tiles: &[&'a TileData]) -> (Vec<i64>, Vec<&'a [u8]>) {
    tiles.iter().map(|data| (place(data.tile), data.bytes.as_slice())).unzip()
}

/// Stores tiles.
pub(super) fn store(db: &Blocking, tiles: &[TileData]) -> Result<(), OpenError> {
    let (places, bytes) = columns(&tiles.iter().collect::<Vec<_>>());
    let stored = db.ask(async |client| {
        client.execute_typed(TILES, &[(&places, Type::INT8_ARRAY), (&bytes, Type::BYTEA_ARRAY)]).await
    });
    Ok(stored.map(drop)?)
}

/// The key of the file; it has to be of the log that the configuration names.
pub(super) fn load(config: &config::Ledger) -> Result<SigningKey, OpenError> {
    let key = SigningKey::load(file_of(config)?).map_err(OpenError::Unusable)?;
    match &config.origin {
        Some(origin) if !key.origin().is_or_follows(origin) => Err(OpenError::Unusable(format!(
            "ledger.origin is {origin}, but ledger.signing_key_file holds the key of {}; leave ledger.origin out, or \
             name the key's",
            key.origin()
        ))),
        _ => Ok(key),
    }
}

pub(super) fn file_of(config: &config::Ledger) -> Result<&Path, OpenError> {
    let missing = || OpenError::Unusable("ledger.signing_key_file is missing".to_owned());
    config.signing_key_file.as_deref().ok_or_else(missing)
}

/// A log that has been signed with a key is not gone on with by another.
pub(super) fn is_the_one(stored: &str, key: &SigningKey) -> Result<(), OpenError> {
    let is = key.verifying_key().to_string();
    if is == stored {
        return Ok(());
    }
    Err(OpenError::Unusable(format!(
        "this ledger is signed with the key {stored}, but ledger.signing_key_file holds {is}: with another key this would \
         be another log; put the ledger's own key there"
    )))
}

/// Has a new ledger remember which key signs it, and makes the key where there is none. Returns whether it was made.
pub(super) fn introduce(config: &config::Ledger, place: &config::Postgres) -> Result<bool, OpenError> {
    const REMEMBER: &str = "INSERT INTO ledger.signed (verifying_key) VALUES ($1) ON CONFLICT DO NOTHING";
    let db = Blocking::open(place, Role::Migration)?;
    let (file, stored) = (file_of(config)?, db.signed()?);
    let missing = !file.try_exists().unwrap_or(true);
    if let (true, Some((_, key))) = (missing, &stored) {
        return Err(OpenError::Unusable(format!(
            "{}: the signing key is missing; put it back: this ledger is signed with {key}, and with another key it would \
             be another log",
            file.display()
        )));
    }
    if missing {
        make_key(config.origin.clone(), file)?;
    }
    let key = load(config)?;
    match stored {
        Some((_, stored)) => is_the_one(&stored, &key)?,
        None => {
            let line = key.verifying_key().to_string();
            db.ask(async |client| client.execute_typed(REMEMBER, &[(&line, Type::TEXT)]).await)?;
            // Somebody else may have been faster, with another key.
            is_the_one(&db.signed()?.map_or(line, |(_, stored)| stored), &key)?;
        }
    }
    db.close();
    Ok(missing)
}

impl Sealer {
    /// Opens the key, and holds the ledger against what was signed, here and in the copy.
    ///
    /// # Errors
    /// A key that is missing or of another log; a ledger that is shorter than, or different from, what was signed.
    pub(super) fn open(config: &config::Ledger, db: &Blocking) -> Result<Self, OpenError> {
        let (_, stored) = db.signed()?.ok_or_else(|| OpenError::Unusable(schema::MISSING.to_owned()))?;
        let key = load(config)?;
        is_the_one(&stored, &key)?;
        let mut sealer = Self {
            verifying: key.verifying_key(),
            key,
            // What the copy says is read before anything is written over it.
            copy: None,
            note: None,
            seen: Head { size: 0, root: empty_root() },
            ahead: Vec::new(),
            signed_at: None,
            logged_at: None,
            copy_is_behind: true,
            tree: None,
            waiting: Vec::new(),
        };
        let length = db.length()?;
        sealer.look(db, Some(length))?;
        db.beginning()?.map_or(Ok(()), |(pruned, _)| pruned.signed_by(&sealer.seen))?;
        sealer.copy = copy_of(config).map(Path::to_path_buf);
        let Some(file) = sealer.copy.clone() else { return Ok(sealer) };
        let Some(copied) = read_copy(&file)? else { return Ok(sealer) };
        let head = sealer.head(&copied, &file.display().to_string(), Some(length))?;
        if head.size > sealer.seen.size {
            sealer.ahead.push(head);
        } else {
            sealer.continues(db, &head, &sealer.seen, &file.display().to_string())?;
            sealer.copy_is_behind = sealer.note.as_ref() != Some(&copied);
        }
        Ok(sealer)
    }

    /// Whether the log whose key is stored is the one that this signs.
    pub(super) fn signs(&self, stored: &str) -> Result<(), OpenError> {
        is_the_one(stored, &self.key)
    }

    fn head(&self, note: &str, place: &str, length: Option<u64>) -> Result<Head, OpenError> {
        let wrong = |what: String| OpenError::Damaged(format!("{place}: {what}"));
        let head = *Checkpoint::verify(note, &self.verifying).map_err(|fault| wrong(fault.to_string()))?.head();
        if length.is_some_and(|length| head.size > length) {
            return Err(wrong(format!(
                "it was signed for {} entries, but the ledger has {}: entries were cut off, an older copy was put in \
                 their place, or a failover lost them",
                head.size,
                length.unwrap_or_default()
            )));
        }
        Ok(head)
    }

    /// Whether `newer` continues `older`, by the stored tiles.
    fn continues(&self, db: &Blocking, older: &Head, newer: &Head, place: &str) -> Result<(), OpenError> {
        let wrong = |what: &dyn std::fmt::Display| OpenError::Damaged(format!("{place}: {what}"));
        if older.size > newer.size {
            return Err(wrong(&format!("a checkpoint of {} entries followed one of {}", newer.size, older.size)));
        }
        let root = Prover::new(db, newer.size).and_then(|mut prover| prover.root(older.size));
        if root.map_err(|e| wrong(&e))? == older.root {
            return Ok(());
        }
        Err(wrong(&format!(
            "it was signed for {} entries with the root {}, but the ledger's have another: entries were changed",
            older.size, older.root
        )))
    }

    /// Looks at what is signed now: it has to continue what this replica has seen, and goes to its copy.
    pub(super) fn look(&mut self, db: &Blocking, length: Option<u64>) -> Result<(), OpenError> {
        let note = db.signed()?.and_then(|(note, _)| note);
        if note != self.note {
            let Some(text) = &note else {
                return Err(OpenError::Damaged("the stored checkpoint is gone".to_owned()));
            };
            let head = self.head(text, "the stored checkpoint", length)?;
            if self.seen.size > 0 {
                self.continues(db, &self.seen, &head, "the stored checkpoint")?;
            }
            (self.note, self.seen, self.copy_is_behind) = (note, head, true);
        }
        let Some(note) = &self.note else { return Ok(()) };
        if self.logged_at.is_none_or(|logged| since(logged) >= LOG_EVERY) {
            tracing::info!(checkpoint = note, "checkpoint");
            self.logged_at = Some(moment());
        }
        // What the copy has and the tree has not yet is not overwritten.
        if let (Some(file), true, true) = (&self.copy, self.copy_is_behind, self.ahead.is_empty()) {
            write_durably(file, note.as_bytes(), 0o644)
                .map_err(|e| OpenError::Unusable(format!("ledger.checkpoint_copy: {}: {e}", file.display())))?;
            self.copy_is_behind = false;
        }
        Ok(())
    }

    /// This replica keeps from now on, or not any more.
    pub(super) fn forget(&mut self) {
        self.tree = None;
        self.waiting.clear();
    }

    /// The head of the newest checkpoint that this replica has seen.
    pub(super) fn seen(&self) -> &Head {
        &self.seen
    }

    /// The entry that the tree wants next; opens it where it is not yet.
    pub(super) fn next(&mut self, db: &Blocking) -> Result<u64, OpenError> {
        if self.tree.is_none() {
            self.look(db, None)?;
            let tree = match Tree::open(db, &self.seen) {
                Ok(tree) => tree,
                Err(fault) => {
                    tracing::warn!(%fault, "the tree is built anew from the ledger");
                    self.expect(self.seen);
                    db.beginning()?.map_or_else(|| Ok(Tree::new()), |(pruned, edge)| pruned.tree(&edge))?
                }
            };
            self.tree = Some(tree);
        }
        Ok(self.tree.as_ref().map_or(0, Tree::size))
    }

    fn expect(&mut self, head: Head) {
        if head.size > 0 && !self.ahead.contains(&head) {
            self.ahead.push(head);
            self.ahead.sort_by_key(|head| head.size);
        }
    }

    /// Takes committed entries, ascending without a gap from [`Sealer::next`].
    pub(super) fn take(&mut self, db: &Blocking, entries: &[Vec<u8>]) -> Result<(), OpenError> {
        // Tried on a copy: what fails is tried again from where it began.
        let Some(mut tree) = self.tree.clone() else { return Ok(()) };
        let mut complete = Vec::new();
        let mut passed = 0;
        for entry in entries {
            complete.extend(tree.append(leaf_hash(entry)));
            while let Some(head) = self.ahead.get(passed)
                && head.size == tree.size()
            {
                if tree.root() != head.root {
                    return Err(OpenError::Damaged(format!(
                        "the ledger's first {} entries were signed with another root: entries were changed; nothing more \
                         is signed",
                        head.size
                    )));
                }
                passed += 1;
            }
        }
        self.tree = Some(tree);
        self.ahead.drain(..passed);
        self.waiting.extend(complete);
        if self.waiting.len() >= TILES_AT_MOST {
            self.save(db, None)?;
        }
        Ok(())
    }

    /// Signs what the tree has, if it has grown and a second has passed, and stores it with its tiles.
    pub(super) fn sign(&mut self, db: &Blocking, at_once: bool) -> Result<(), OpenError> {
        let due = at_once || self.signed_at.is_none_or(|signed| since(signed) >= PAUSE);
        let Some(head) = self.tree.as_ref().filter(|_| due && self.ahead.is_empty()).map(Tree::head) else {
            return Ok(());
        };
        if head.size <= self.seen.size {
            return Ok(());
        }
        self.save(db, Some(&checkpoint::sign(&self.key, &head)))?;
        self.signed_at = Some(moment());
        self.look(db, None)
    }

    /// Stores the tree as it is, whose head was signed elsewhere.
    ///
    /// # Errors
    /// Also where it has not come to the head that was signed.
    pub(super) fn keep(&mut self, db: &Blocking) -> Result<(), OpenError> {
        if self.tree.as_ref().is_none_or(|tree| tree.head() != self.seen) {
            return Err(OpenError::Damaged("the copied entries do not lead to the root that was signed".to_owned()));
        }
        self.waiting.extend(self.tree.as_ref().map(Tree::edge).unwrap_or_default());
        self.save(db, None)
    }

    fn save(&mut self, db: &Blocking, note: Option<&str>) -> Result<(), OpenError> {
        let edge = self.tree.as_ref().filter(|_| note.is_some()).map(Tree::edge).unwrap_or_default();
        let tiles: Vec<&TileData> = self.waiting.iter().chain(&edge).collect();
        let (places, bytes) = columns(&tiles);
        let old = self.note.as_deref();
        let saved = db.ask(async |client| {
            client.batch_execute("BEGIN").await?;
            client.execute_typed(TILES, &[(&places, Type::INT8_ARRAY), (&bytes, Type::BYTEA_ARRAY)]).await?;
            let is_first = match note {
                Some(note) => client.execute_typed(SIGN, &[(&note, Type::TEXT), (&old, Type::TEXT)]).await? == 1,
                None => true,
            };
            client.batch_execute(if is_first { "COMMIT" } else { "ROLLBACK" }).await?;
            Ok(is_first)
        });
        if saved.is_err() {
            let _ = db.ask(async |client| client.batch_execute("ROLLBACK").await);
        }
        if !saved? {
            self.forget();
            return Err(OpenError::Unusable("another replica has signed meanwhile".to_owned()));
        }
        self.waiting.clear();
        Ok(())
    }
}
