//! Pruning: which entries may go, what is kept of them, and how far it has come. Pure.
//!
//! What goes is a beginning of the log, in whole bundles of 256 entries that a signed checkpoint covers. Their hashes
//! stay, and an entry of the kind `prune` says from where on the log is kept. Only that entry, once it is signed too,
//! lets a log begin elsewhere than at 0: a beginning that somebody else removed is damage.

mod plan;

use super::admission::KEPT;
use super::freeze::Freeze;
use super::glance::Glance;
use super::tree::proof::Tiles;
use super::tree::tile::{TILE_WIDTH, Tile};
use super::tree::{HASH_BYTES, Hash, Head, TileData, Tree};
use super::{OpenError, entry};
use crate::clock::Timestamp;
pub use plan::plan;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The time before which entries may go: not within the retention period, the longest window in which a budget counts
/// intents, and the time for which answers are kept under an `Idempotency-Key`.
#[must_use]
pub fn latest(now: Timestamp, retention: Duration, longest_budget: Duration) -> Timestamp {
    now.before(retention.max(longest_budget).max(KEPT))
}

/// Whether entries that are older than this may go at all, by the ledger's clock.
///
/// # Errors
/// Why not: no retention period is set, or they are too young.
pub fn may_be(
    before: Timestamp,
    now: Timestamp,
    retention: Option<Duration>,
    longest_budget: Duration,
) -> Result<(), Stage> {
    let Some(retention) = retention else {
        let words = "ledger.retention_days is not set: every entry is kept. Set how many days entries have to be kept, and \
                     restart `serve`";
        return Err(Stage::ended(Why::Usage, words));
    };
    let latest = latest(now, retention, longest_budget);
    if before <= latest {
        return Ok(());
    }
    Err(Stage::ended(
        Why::Usage,
        format!(
            "--before {before} is too late: by ledger.retention_days = {}, the budgets and the keys of the last 24 h only \
             entries before {latest} may go",
            retention.as_secs() / 86_400
        ),
    ))
}

/// The keys of requests that were used until then are over, and go with the entries: those of all that go, by the time of
/// the entry that says so.
///
/// # Errors
/// [`OpenError::Damaged`] where the entry has no time.
pub fn keys_until(seq: u64, entry: &[u8]) -> Result<Timestamp, OpenError> {
    let time = Timestamp::parse(&Glance::at(seq, entry)?.time);
    time.map(|time| time.before(KEPT)).ok_or_else(|| OpenError::Damaged(format!("entry {seq} has no time")))
}

/// The whole bundles before an entry, counted in entries.
#[must_use]
pub fn whole_bundles(entries: u64) -> u64 {
    entries - entries % u64::from(TILE_WIDTH)
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub struct Order {
    /// Only entries before this time.
    pub before: Timestamp,
    /// Who asked, for the entry.
    pub by: String,
    /// The longest window in which a budget that is in force counts intents.
    pub longest_budget: Duration,
}

/// What a log that was pruned says about its beginning, in its entry `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pruned {
    /// The number of the entry that says so.
    pub seq: u64,
    /// When it was recorded.
    pub time: String,
    /// All entries that went were older.
    pub before: String,
    /// The first entry that is kept: a multiple of 256.
    pub first: u64,
    /// The root over the entries that went.
    pub root: String,
    /// How many of the intents that went have their outcome among the kept entries.
    pub carried_outcomes: u64,
    /// How many of the `unknown` outcomes that went have their resolution there.
    pub carried_resolutions: u64,
    /// What was frozen there. `None`: a version before this one recorded it, or there were too many.
    pub freezes: Option<Vec<Freeze>>,
    /// Who asked for it.
    pub by: String,
    kind: String,
}

impl Pruned {
    /// Reads the entry of that number, which has to be such a one.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] where it is not.
    pub fn read(seq: u64, bytes: &[u8]) -> Result<Self, OpenError> {
        let wrong = || OpenError::Damaged(format!("entry {seq} is to say where the log begins, and does not"));
        let pruned: Self = serde_json::from_slice(bytes).map_err(|_| wrong())?;
        let says_so = pruned.kind == "prune" && pruned.seq == seq;
        let fits = pruned.first > 0 && pruned.first <= seq && whole_bundles(pruned.first) == pruned.first;
        if says_so && fits && pruned.head().is_some() { Ok(pruned) } else { Err(wrong()) }
    }

    /// The head of the tree over what went.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        Hash::parse(&self.root).map(|root| Head { size: self.first, root })
    }

    /// The tree over what went, to go on with.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] where its edge is not that of this entry.
    pub fn tree(&self, edge: &Edge) -> Result<Tree, OpenError> {
        let not_whole = || OpenError::Damaged("the hashes of the pruned entries are not whole".to_owned());
        Tree::open(edge, &self.head().ok_or_else(not_whole)?).map_err(|_| not_whole())
    }

    /// Whether what was signed covers the entry: nothing goes before that.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] where it does not.
    pub fn signed_by(&self, head: &Head) -> Result<(), OpenError> {
        if self.seq < head.size {
            return Ok(());
        }
        Err(OpenError::Damaged(format!(
            "entries before {} are gone, and entry {}, which says that they were pruned, is not signed",
            self.first, self.seq
        )))
    }
}

/// The most freezes that the entry names, so that it is no longer than an entry may be.
const FREEZES_AT_MOST: usize = 40;

/// What is recorded: the body of that entry.
#[must_use]
pub fn body(order: &Order, head: &Head, carried: (u64, u64), freezes: Option<Vec<Freeze>>) -> entry::Body {
    entry::Body::Prune {
        freezes: freezes.filter(|freezes| freezes.len() <= FREEZES_AT_MOST),
        before: order.before,
        first: head.size,
        root: head.root.to_string(),
        carried_outcomes: carried.0,
        carried_resolutions: carried.1,
        by: order.by.clone(),
    }
}

/// The right edge of the tree over what went: with it the tree goes on, and proofs of what is kept can be made, where
/// all other hashes are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    bytes: Vec<u8>,
}

impl Edge {
    /// Of a tree.
    #[must_use]
    pub fn of(tree: &Tree) -> Self {
        Self { size: tree.size(), bytes: tree.edge().into_iter().flat_map(|tile| tile.bytes).collect() }
    }

    /// From what [`Edge::bytes`] gave, for a tree of this size.
    #[must_use]
    pub fn new(size: u64, bytes: Vec<u8>) -> Self {
        Self { size, bytes }
    }

    /// How many entries the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// As it is stored.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its partial tiles, lowest level first. `None`: there are more or fewer bytes than they have.
    #[must_use]
    pub fn tiles(&self) -> Option<Vec<TileData>> {
        let (mut rest, mut tiles) = (self.bytes.as_slice(), Vec::new());
        for tile in (0..8).filter_map(|level| Tile::partial(level, self.size)) {
            let (bytes, after) = rest.split_at_checked(usize::from(tile.width()) * HASH_BYTES)?;
            tiles.push(TileData { tile, bytes: bytes.to_vec() });
            rest = after;
        }
        rest.is_empty().then_some(tiles)
    }
}

impl Tiles for Edge {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        let found = self.tiles().into_iter().flatten().find(|data| data.tile == tile);
        let hashes = found.and_then(|data| tile.decode(&data.bytes));
        hashes.ok_or_else(|| OpenError::Damaged("the hashes of the pruned entries are not whole".to_owned()))
    }
}

/// Why it did not come to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It cannot be asked for so.
    Usage,
    /// The ledger holds something that must stay.
    No,
    /// The ledger cannot be used now.
    Unavailable,
    /// The ledger is broken.
    Damaged,
}

/// How far it has come. The words of the socket's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was asked for since the start.
    Idle,
    /// What would go is read and held against its hashes.
    Looking {
        /// How many entries.
        done: u64,
        /// Of how many.
        of: u64,
    },
    /// It is recorded, and waits for a checkpoint that covers the record.
    Signing {
        /// The entry.
        seq: u64,
    },
    /// The search data forget it.
    Forgetting,
    /// Entries go.
    Deleting {
        /// How many.
        done: u64,
        /// Of how many.
        of: u64,
    },
    /// The entries are gone, but their bytes are still in the write-ahead log: a reader keeps it.
    Emptying {
        /// How many entries.
        removed: u64,
    },
    /// Nothing is left but the hashes.
    Done {
        /// The first entry that is kept.
        first: u64,
        /// How many went.
        removed: u64,
        /// The entry that says so.
        seq: u64,
    },
    /// No whole bundle is older.
    Nothing {
        /// The first entry, as before.
        first: u64,
    },
    /// It did not come to an end.
    Ended {
        /// In a word.
        why: Why,
        /// In words.
        words: String,
    },
}

impl Stage {
    /// That it ended so.
    #[must_use]
    pub fn ended(why: Why, words: impl Into<String>) -> Self {
        Self::Ended { why, words: words.into() }
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        match self {
            Stage::Idle | Stage::Done { .. } | Stage::Nothing { .. } | Stage::Ended { .. } => false,
            Stage::Looking { .. }
            | Stage::Signing { .. }
            | Stage::Forgetting
            | Stage::Deleting { .. }
            | Stage::Emptying { .. } => true,
        }
    }
}

impl From<OpenError> for Stage {
    fn from(error: OpenError) -> Self {
        let why = if matches!(error, OpenError::Damaged(_)) { Why::Damaged } else { Why::Unavailable };
        Self::ended(why, error.to_string())
    }
}

/// A store that can be pruned while it records.
pub trait Prune: Send + Sync {
    /// Begins, and does not wait for the end. What was begun goes on after a restart of the process.
    ///
    /// # Errors
    /// How far an earlier one is, that is still under way.
    fn prune(&self, order: Order) -> Result<(), Stage>;

    /// How far it has come.
    fn pruning(&self) -> Stage;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tree::leaf_hash;

    #[test]
    fn no_entry_goes_that_the_retention_period_a_budget_or_an_idempotency_key_needs() {
        let now = Timestamp::from_micros(1_790_000_000_000_000);
        let days = |days: u64| Duration::from_secs(days * 86_400);
        assert_eq!(latest(now, days(400), days(31)), now.before(days(400)));
        assert_eq!(latest(now, days(7), days(31)), now.before(days(31)));
        assert_eq!(latest(now, Duration::ZERO, Duration::ZERO), now.before(days(1)));
    }

    #[test]
    fn from_its_edge_a_tree_goes_on_as_if_nothing_had_gone() {
        let leaf = |n: u64| leaf_hash(&n.to_be_bytes());
        let mut whole = Tree::new();
        for size in 1..=70_000 {
            let _complete = whole.append(leaf(size));
            if !matches!(size, 256 | 512 | 65_536 | 66_048) {
                continue;
            }
            let edge = Edge::of(&whole);
            let edge = Edge::new(size, edge.bytes().to_vec());
            let mut again = Tree::open(&edge, &whole.head()).expect("the edge");
            let mut other = whole.clone();
            for more in 0..300 {
                assert_eq!(again.append(leaf(more)), other.append(leaf(more)));
            }
            assert_eq!(again.head(), other.head());
            for wrong in [edge.bytes().len() + HASH_BYTES, edge.bytes().len().saturating_sub(1)] {
                let mut bytes = edge.bytes().to_vec();
                bytes.resize(wrong, 0);
                assert_eq!(Edge::new(size, bytes).tiles(), None, "{size}");
            }
        }
    }

    #[test]
    fn only_an_entry_that_says_so_tells_where_the_log_begins() {
        let head = Head { size: 512, root: leaf_hash(b"x") };
        let order = Order { before: Timestamp::from_micros(0), by: "uid 0".to_owned(), longest_budget: Duration::ZERO };
        let time = Timestamp::from_micros(1);
        let bytes = entry::encode(700, time, &body(&order, &head, (2, 1), Some(Vec::new()))).expect("an entry");
        let read = Pruned::read(700, &bytes).expect("it says so");
        assert_eq!((read.head(), read.carried_outcomes, read.carried_resolutions), (Some(head), 2, 1));
        assert_eq!(read.freezes, Some(Vec::new()));
        assert!(Pruned::read(701, &bytes).is_err(), "another number");
        let text = String::from_utf8(bytes).expect("text");
        let earlier = text.replace("\"freezes\":[],", "");
        assert_eq!(Pruned::read(700, earlier.as_bytes()).expect("an earlier version's").freezes, None);
        for (is, becomes) in
            [("\"prune\"", "\"dry-run\""), ("512", "513"), ("512", "1024"), ("512", "0"), ("=\"", "\"")]
        {
            assert!(Pruned::read(700, text.replace(is, becomes).as_bytes()).is_err(), "{becomes}");
        }
    }
}
