//! A backup becomes the ledger again, while nothing serves it.
//!
//! Where it holds everything that was signed, the log goes on. Where it does not, or nobody can say, its next entry
//! would get a number that was signed before with other bytes: then, and only if that is accepted, a new log begins,
//! with a key and a name of its own. What is left of the old one is kept beside it, to be read and verified.
//!
//! Everything is made ready in a folder of its own; then files are moved, in an order in which a second run can go on
//! from any point. Nothing of the operator's is deleted.

mod old;
mod successor;
mod swap;

use super::folder::Lock;
use super::tree_store::{self, TreeStore, shown};
use super::{database, moving, reindex, sealing};
use crate::config;
use crate::id::Origin;
use crate::ledger::OpenError;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::tree::Head;
use crate::ledger::tree::proof::Prover;
use old::Old;
use std::path::Path;
pub(super) use successor::is_untouched;
pub(super) use swap::refuse_half_done;

/// What is to be put back, and what is known about what was signed.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The backup; without one, the `ledger.db` that is in the folder.
    pub from: Option<&'a Path>,
    /// A checkpoint that was kept elsewhere: its place and its note.
    pub kept: Option<(&'a str, &'a str)>,
    /// Begin a new log where entries that were signed are lost, or nobody can say.
    pub accept_loss: bool,
}

/// What has become the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// The log goes on: nothing that was signed is lost.
    Continued {
        /// Which log.
        origin: Origin,
        /// How many entries it has.
        entries: u64,
        /// The newest signed head.
        signed: Head,
    },
    /// A new log begins.
    Begun {
        /// Which log it is.
        origin: Origin,
        /// What `--log` reads the old one by.
        number: u64,
        /// How many entries are left of the old one.
        entries: u64,
        /// How many of it were signed, as far as is known.
        signed: Option<u64>,
        /// How many intents without a known end go on in the new one.
        carried: u64,
    },
    /// A restore that was interrupted has come to its end.
    Finished,
}

/// Why nothing was restored; the ledger is as it was.
#[derive(Debug)]
pub enum RestoreFault {
    /// It was asked for wrongly, in these words.
    Wish(String),
    /// Entries are lost, or may be, in these words, and that was not accepted.
    Loss(String),
    /// The ledger or the backup cannot be used.
    Ledger(OpenError),
}

impl From<OpenError> for RestoreFault {
    fn from(error: OpenError) -> Self {
        Self::Ledger(error)
    }
}

/// A signed head, where it was found, and its note.
struct Known {
    place: String,
    head: Head,
    note: String,
    /// It was kept outside of what is restored, so that it says what the backup may lack.
    outside: bool,
}

/// Puts a ledger back, or begins a new log after it. `progress` hears what was done with how many of how many entries.
/// An interrupted one is finished by the next.
///
/// # Errors
/// See [`RestoreFault`]; [`OpenError::Held`] while a process serves this ledger.
pub fn restore(
    config: &config::Ledger,
    wish: &Wish<'_>,
    mut progress: impl FnMut(&'static str, u64, u64),
) -> Result<Restored, RestoreFault> {
    let from = wish.from.map_or_else(|| config.path.join(database::FILE), Path::to_owned);
    // Before a folder is made; to finish an interrupted one, none is needed any more.
    if !swap::is_ready(&config.path) {
        Old::open(&from)?;
    }
    let _lock = Lock::take(&config.path)?;
    moving::refuse_moved_from(&config.path)?;
    if swap::is_ready(&config.path) {
        swap::finish(config)?;
        return Ok(Restored::Finished);
    }
    let old = Old::open(&from)?;
    let (key, is_at_hand) = key(config, &old)?;
    let known = known(config, wish, &old, &key)?;
    let staging = swap::stage(&config.path)?;
    let archive = staging.join("old");
    let built = old.copy(&archive, &known, &mut progress)?;
    drop(old);
    let head = built.head;
    prove_prefix(config, &known, &head)?;
    let newest = known.iter().max_by_key(|known| known.head.size);
    let covered = newest.filter(|newest| newest.head.size <= head.size);
    let continues = known.iter().any(|known| known.outside) && is_at_hand;
    if let Some(signed) = covered.filter(|_| continues) {
        built.pruned.as_ref().map_or(Ok(()), |pruned| pruned.signed_by(&signed.head))?;
        built.sign(Some((&signed.note, &key)))?;
        swap::begin(config, &staging, None)?;
        let (origin, entries) = (key.origin().clone(), head.size);
        return Ok(Restored::Continued { origin, entries, signed: signed.head });
    }
    if !wish.accept_loss {
        swap::leave(&staging)?;
        return Err(RestoreFault::Loss(loss(&head, newest, is_at_hand)));
    }
    let number = key.origin().number();
    if config.path.join(number.to_string()).exists() {
        let words = format!("{} is there already: move it away", config.path.join(number.to_string()).display());
        return Err(RestoreFault::Wish(words));
    }
    swap::can_be_written(config)?;
    let last = known.iter().filter(|known| known.head.size <= head.size).max_by_key(|known| known.head.size);
    built.sign(last.map(|last| (last.note.as_str(), &key)))?;
    reindex(&archive, |done, all| progress("made searchable", done, all))?;
    let (origin, carried) = successor::begin(&staging, &archive, &key, &head, newest)?;
    swap::begin(config, &staging, Some(number))?;
    let signed = newest.map(|newest| newest.head.size);
    Ok(Restored::Begun { origin, number, entries: head.size, signed, carried })
}

/// The key that verifies the old log: the one at hand, else the one that was stored with what it signed. And whether it
/// is at hand.
fn key(config: &config::Ledger, old: &Old) -> Result<(VerifyingKey, bool), RestoreFault> {
    if sealing::key_file(config).exists() {
        return Ok((sealing::signing_key(config, true)?.verifying_key(), true));
    }
    let stored = TreeStore::open_to_read(&config.path).and_then(|tree| tree.signed()).ok().flatten();
    let stored = stored.map(|signed| signed.key).or_else(|| old.signed.as_ref().map(|signed| signed.key.clone()));
    let key = stored.as_deref().map(VerifyingKey::parse).and_then(Result::ok);
    let key = key.ok_or_else(|| {
        RestoreFault::Wish(format!(
            "{}: the signing key is missing, and nothing else names the key of this log; put it back",
            sealing::key_file(config).display()
        ))
    })?;
    Ok((key, false))
}

/// Every signed head that can be found of this log.
fn known(config: &config::Ledger, wish: &Wish<'_>, old: &Old, key: &VerifyingKey) -> Result<Vec<Known>, OpenError> {
    let mut notes: Vec<(String, String, bool)> = Vec::new();
    if config.path.join(tree_store::FILE).exists() {
        match TreeStore::open_to_read(&config.path).and_then(|tree| tree.signed()) {
            Ok(signed) => notes.extend(signed.map(|signed| ("the stored checkpoint".to_owned(), signed.note, true))),
            Err(error) => tracing::warn!(%error, "what was signed last cannot be read"),
        }
    }
    if let Some(file) = &config.checkpoint_copy {
        notes.extend(sealing::read_copy(file)?.map(|note| (file.display().to_string(), note, true)));
    }
    notes.extend(wish.kept.map(|(place, note)| (place.to_owned(), note.to_owned(), true)));
    notes.extend(old.signed.as_ref().map(|signed| ("the backup's checkpoint".to_owned(), signed.note.clone(), false)));
    let known = notes.into_iter().map(|(place, note, outside)| {
        let checkpoint =
            Checkpoint::verify(&note, key).map_err(|fault| OpenError::Damaged(format!("{place}: {fault}")))?;
        Ok(Known { place, head: *checkpoint.head(), note, outside })
    });
    known.collect()
}

/// Where the tree of the larger log can still be read: the backup has to be its beginning.
fn prove_prefix(config: &config::Ledger, known: &[Known], restored: &Head) -> Result<(), OpenError> {
    let Ok(tree) = TreeStore::open_to_read(&config.path) else { return Ok(()) };
    let Some(larger) = known.iter().find(|known| known.place == "the stored checkpoint") else { return Ok(()) };
    if larger.head.size <= restored.size {
        return Ok(());
    }
    let roots = |size: u64| Prover::new(&tree, larger.head.size).and_then(|mut prover| prover.root(size)).ok();
    // Tiles that are broken say nothing.
    if roots(larger.head.size) != Some(larger.head.root)
        || roots(restored.size).is_none_or(|root| root == restored.root)
    {
        return Ok(());
    }
    Err(OpenError::Damaged(format!(
        "the backup is not a beginning of the log that was signed, {}: it is {}",
        shown(&larger.head),
        shown(restored)
    )))
}

/// Why the log cannot go on.
fn loss(restored: &Head, newest: Option<&Known>, key_is_at_hand: bool) -> String {
    let why = match newest {
        Some(newest) if newest.head.size > restored.size => format!(
            "{} was signed for {} entries, and {} would be put back: entries {} to {} are lost",
            newest.place,
            newest.head.size,
            restored.size,
            restored.size,
            newest.head.size - 1
        ),
        _ if !key_is_at_hand => "the signing key is missing, and no other can go on with this log".to_owned(),
        _ => "nothing outside of the backup says how many entries were signed: some may be lost".to_owned(),
    };
    format!(
        "{why}. Nothing was changed. With a newer backup, or with the checkpoint that was kept elsewhere (--checkpoint), the \
         log may go on; --accept-loss begins a new log after it, which says so in its first entry"
    )
}
