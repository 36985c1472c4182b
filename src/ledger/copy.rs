//! A ledger moves from its folder to a database that replicas share: the same log goes on there, and never here again.
//!
//! As long as the copy is not whole, the folder is the ledger: it can be served again, and a copy that was interrupted
//! goes on where it was. Then the folder is marked, durably, and only after that the database may be served. So there is
//! no moment at which both may: the same number would be signed twice with other bytes. Between the two steps neither
//! may, and the next run of the copy does the second.

use super::entry::{Body, encode};
use super::prune::{Edge, Pruned};
use super::sqlite::{Leaving, SqliteReader};
use super::tree::{Head, TileData};
use super::verify::{Kept, Report, verify, verify_log};
use super::{OpenError, postgres::Arriving};
use crate::config;
use crate::failpoint;
use crate::id::Origin;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::note::VerifyingKey;

/// The entries of one step: so many, or so many bytes, whichever come first.
pub(super) const STEP: u64 = 4_096;
const STEP_BYTES: usize = 8 * 1024 * 1024;

/// An idempotency key as both stores keep it: key, since when, the intent's number, target, request, answer.
pub(super) type KeptKey = (Vec<u8>, i64, i64, Vec<u8>, String, Option<String>);
/// What is counted: counter, ordinal, time, the intent's number.
pub(super) type Spent = (Vec<u8>, i64, i64, i64);
/// What waits for a look at its picture: since when, the intent's number, how often it was looked at.
pub(super) type Waiting = (i64, i64, i64);

/// What is being done, for who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The folder's entries are held against what was signed.
    Verifying,
    /// They are copied.
    Copying,
    /// The tree is built from what the database holds, and held against what was signed.
    Hashing,
    /// The search data are built.
    Indexing,
    /// The copy is verified as a whole.
    VerifyingCopy,
}

impl Step {
    /// In a word, for a line about it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Verifying => "verified",
            Step::Copying => "copied",
            Step::Hashing => "hashed in the copy",
            Step::Indexing => "made searchable",
            Step::VerifyingCopy => "verified in the copy",
        }
    }
}

/// Hears how many of how many entries are done.
pub type Progress<'a> = &'a mut dyn FnMut(Step, u64, u64);

/// A ledger that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Which log goes on.
    pub origin: Origin,
    /// What was copied: so many entries with this root. The next one says so.
    pub head: Head,
    /// The first entry that is there; earlier ones were pruned.
    pub first: u64,
    /// Where it is now, in words.
    pub place: String,
    /// It had moved before: nothing was done.
    pub was_done: bool,
}

/// Why it has not moved.
#[derive(Debug)]
pub enum CopyFault {
    /// It was asked for wrongly, in these words: the database is not empty, or the key is not the ledger's.
    Wish(String),
    /// The folder or the database cannot be used.
    Ledger(OpenError),
}

impl From<OpenError> for CopyFault {
    fn from(error: OpenError) -> Self {
        Self::Ledger(error)
    }
}

/// What a ledger says about itself when it goes.
#[derive(Debug, Clone)]
pub(super) struct Luggage {
    /// Its newest checkpoint, which covers all its entries, and the key that verifies it, as they are stored.
    pub(super) note: String,
    pub(super) key: String,
    pub(super) head: Head,
    /// Where it begins, if not at 0.
    pub(super) beginning: Option<(Pruned, Edge)>,
}

impl Luggage {
    pub(super) fn first(&self) -> u64 {
        self.beginning.as_ref().map_or(0, |(pruned, _)| pruned.first)
    }
}

/// What a database that is to be copied into holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// No ledger yet.
    Empty,
    /// A copy that is not whole: where it begins, which entry it wants next, the root that it was found whole with, and
    /// the key of the log.
    Begun { first: u64, next: u64, whole: Option<String>, key: Option<String> },
    /// A ledger of so many entries.
    Ledger { length: u64 },
}

/// Moves the ledger of `from`, a folder that nothing serves, to the database of `to`, which holds no ledger yet. `by` is
/// who does it, for the entry. What was under way in the folder is closed as `unknown` first.
///
/// # Errors
/// [`CopyFault::Wish`] where the database holds a ledger or the key of `to` is another one; [`OpenError::Held`] while a
/// process serves the folder; [`OpenError::Damaged`] where folder or copy is not what was signed; else one of them
/// cannot be used. Nothing is lost by any of them: the next run goes on.
pub fn copy(from: &config::Ledger, to: &config::Ledger, by: &str, progress: Progress<'_>) -> Result<Copied, CopyFault> {
    let mut target = Arriving::open(to)?;
    // Before anything is closed in the folder.
    if let Target::Ledger { length } = target.state()?
        && !Leaving::has_moved(&from.path)?
    {
        return Err(taken(length));
    }
    let mut source = Leaving::hold(from)?;
    let luggage = source.luggage()?;
    let key = target.key_of(&luggage).map_err(CopyFault::Wish)?;
    let (place, moved) = (target.place()?, source.moved()?);
    let copied = |was_done| {
        let (origin, head, first) = (key.origin().clone(), luggage.head, luggage.first());
        Copied { origin, head, first, place: moved.as_ref().map_or(&place, |moved| &moved.place).clone(), was_done }
    };
    let state = target.state()?;
    if let Some(moved) = &moved {
        if matches!(state, Target::Ledger { .. }) && target.is_continued(&luggage)? {
            return Ok(copied(true));
        }
        if !matches!(&state, Target::Begun { whole: Some(root), .. } if *root == moved.root) {
            return Err(
                OpenError::Unusable(format!("{}; what `--to` names is not that database", moved.words())).into()
            );
        }
    } else {
        begin(&mut target, &luggage, state)?;
        let kept = from.checkpoint_copy.as_deref().map(|file| {
            let note = super::sqlite::read_copy(file)?;
            Ok::<_, OpenError>(note.map(|note| Kept { place: file.display().to_string(), note }))
        });
        let kept = kept.transpose()?.flatten();
        // Its search data do not go along.
        let verified = verify_log(&SqliteReader::open(&from.path)?, &key, kept.as_slice(), |done, all| {
            progress(Step::Verifying, done, all);
        });
        check(&verified?, &luggage)?;
        entries(&source, &mut target, &luggage, progress)?;
        whole(&source, &mut target, &luggage, &key, progress)?;
        failpoint::hit("copy-before-mark");
        source.leave(&place, &luggage.head)?;
        failpoint::hit("copy-after-mark");
    }
    let body = Body::Copy {
        from: "sqlite",
        to: "postgres",
        entries: luggage.head.size,
        root: luggage.head.root.to_string(),
        by: by.to_owned(),
    };
    let time = source.latest()?.max(target.now()?);
    let entry = encode(luggage.head.size, time, &body).map_err(|e| OpenError::Unusable(e.to_string()))?;
    target.arrive(&luggage, &entry, time)?;
    failpoint::hit("copy-arrived");
    Ok(copied(false))
}

fn taken(length: u64) -> CopyFault {
    CopyFault::Wish(format!(
        "the database holds a ledger of {length} entries already, and a log cannot be put behind another one; name a \
         database without one (`migrate` makes its tables)"
    ))
}

/// Begins the copy, or goes on with one that was begun.
fn begin(target: &mut Arriving, luggage: &Luggage, state: Target) -> Result<(), CopyFault> {
    match state {
        Target::Ledger { length } => Err(taken(length)),
        // What was pruned meanwhile is not to stay in the copy, nor is a log that a new one has taken the place of.
        Target::Begun { first, key, .. } if first == luggage.first() && key.as_ref() == Some(&luggage.key) => Ok(()),
        Target::Begun { .. } | Target::Empty => Ok(target.begin(luggage)?),
    }
}

/// Of a ledger that was verified, all has to be covered by what was signed, and nothing may be open.
fn check(report: &Report, luggage: &Luggage) -> Result<(), OpenError> {
    let is_whole = report.signed == Some(luggage.head) && report.entries == luggage.head.size && report.open.is_empty();
    if is_whole { Ok(()) } else { Err(OpenError::Damaged("the ledger changed while it was copied".to_owned())) }
}

fn entries(
    source: &Leaving,
    target: &mut Arriving,
    luggage: &Luggage,
    progress: Progress<'_>,
) -> Result<(), OpenError> {
    let (first, all) = (luggage.first(), luggage.head.size);
    let mut next = target.next()?;
    if next > all {
        return Err(OpenError::Damaged(format!(
            "the database holds {next} entries of a copy, and the ledger has {all}: an older one was put in its place"
        )));
    }
    while next < all {
        let read = source.read(next, all.min(next + STEP))?;
        let mut places = (next..).zip(&read);
        if let Some((place, _)) = places.find(|(place, (seq, _))| place != seq).filter(|_| !read.is_empty()) {
            return Err(OpenError::Damaged(format!("the ledger has no entry {place}")));
        }
        let mut entries: Vec<Vec<u8>> = Vec::with_capacity(read.len());
        let mut bytes = 0;
        for (_, entry) in read {
            if bytes >= STEP_BYTES {
                break;
            }
            bytes += entry.len();
            entries.push(entry);
        }
        if entries.is_empty() {
            return Err(OpenError::Damaged(format!("the ledger has no entry {next}")));
        }
        target.take(next, &entries)?;
        next += entries.len() as u64;
        progress(Step::Copying, next - first, all - first);
        failpoint::hit("copy-entries");
    }
    Ok(())
}

/// Everything beside the entries, and the copy verified.
fn whole(
    source: &Leaving,
    target: &mut Arriving,
    luggage: &Luggage,
    key: &VerifyingKey,
    progress: Progress<'_>,
) -> Result<(), OpenError> {
    target.clear_lists()?;
    target.freezes(&source.freezes()?)?;
    let mut after: Option<KeptKey> = None;
    loop {
        let keys = source.keys(after.as_ref())?;
        let Some(last) = keys.last().cloned() else { break };
        target.keys(&keys)?;
        after = Some(last);
    }
    let mut after: Option<Spent> = None;
    loop {
        let spent = source.spent(after.as_ref())?;
        let Some(last) = spent.last().cloned() else { break };
        target.spent(&spent)?;
        after = Some(last);
    }
    let mut after: Option<Waiting> = None;
    loop {
        let waiting = source.waiting(after.as_ref())?;
        let Some(last) = waiting.last().copied() else { break };
        target.waiting(&waiting)?;
        after = Some(last);
    }
    failpoint::hit("copy-lists");
    source.pruned_tiles(luggage.first(), |tiles: &[TileData]| target.tiles(tiles))?;
    target.seal(luggage, |done, all| progress(Step::Hashing, done, all))?;
    target.index(|done, all| progress(Step::Indexing, done, all))?;
    let kept = Kept { place: "the folder's checkpoint".to_owned(), note: luggage.note.clone() };
    let verified = verify(&target.reader()?, key, &[kept], |done, all| progress(Step::VerifyingCopy, done, all));
    check(&verified?, luggage)?;
    target.found_whole(luggage)
}

/// The head that a checkpoint signs, by the key that is stored beside it.
pub(super) fn head_of(note: &str, key: &str) -> Result<Head, OpenError> {
    let wrong = |what: &dyn std::fmt::Display| OpenError::Damaged(format!("the stored checkpoint: {what}"));
    let key = VerifyingKey::parse(key).map_err(|fault| wrong(&format!("its key {fault}")))?;
    Checkpoint::verify(note, &key).map(|checkpoint| *checkpoint.head()).map_err(|fault| wrong(&fault))
}
