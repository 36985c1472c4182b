//! Holds a whole ledger against what proves it: every entry, every stored hash, and the signed heads.
//!
//! Pure over what reads a ledger. What is found is the first bad entry by number, in words.

mod admitted;
mod counters;
pub(super) mod frozen;
pub(super) mod order;
mod standing;

use super::checkpoint::Checkpoint;
use super::checkpoint::note::VerifyingKey;
use super::glance::Glance;
use super::prune::Pruned;
use super::tree::proof::{Prover, includes};
use super::tree::tile::{TILE_WIDTH, Tile};
use super::tree::{Hash, Head, TileData, Tree, empty_root, leaf_hash};
use super::{OpenError, ProofReader, READ_AT_MOST, Reader};
use crate::id::{Origin, RequestId};
use admitted::Admitted;
pub use admitted::{KeyRow, SpentRow, Tables};
use frozen::Frozen;
use order::Order;
pub use standing::Standing;
pub(super) use standing::misfit;

/// A checkpoint that was kept elsewhere.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where, to name it.
    pub place: String,
    /// The signed note.
    pub note: String,
}

/// What a store derives from the entries to be asked by, held against them while they are read: nobody reads them twice.
pub trait SearchData {
    /// Takes the next entry in. One that they do not cover is passed over.
    ///
    /// # Errors
    /// In words, when they cannot be read.
    fn see(&mut self, seq: u64, entry: &Glance<'_>) -> Result<(), OpenError>;

    /// Compares, once all entries were seen. Returns how many they cover.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] names what they are wrong about; [`OpenError::Unusable`] where a prune came in between.
    fn done(self: Box<Self>) -> Result<u64, OpenError>;
}

/// What was found: nothing bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which log.
    pub origin: Origin,
    /// How many entries the log has; each that was not pruned is whole, in its place and in its order.
    pub entries: u64,
    /// The newest signed head: the entries lead to it. `None`: none is stored.
    pub signed: Option<Head>,
    /// The heads of the checkpoints that were kept elsewhere, as they were given: the entries lead to them too.
    pub kept: Vec<Head>,
    /// How many stored tiles were compared; `None`: they are being built anew.
    pub tiles: Option<u64>,
    /// What the store keeps beside the entries of what they mean was compared with them: what is open, unresolved and
    /// frozen, idempotency keys, what budgets count. So many of those rows are about what these entries do not say: what
    /// was pruned, the log before this one, intents of older versions. `None`: it keeps none.
    pub beyond: Option<u64>,
    /// How many entries the search data cover, which say just what these say. `None`: there are none yet.
    pub searchable: Option<u64>,
    /// What was pruned, as a signed entry says: of it there are hashes alone, and they lead to the signed root.
    pub pruned: Option<Gone>,
    /// Intents without an outcome: sequence number and request.
    pub open: Vec<(u64, RequestId)>,
}

/// What was pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// What the log says about it.
    pub pruned: Pruned,
    /// Whether each entry's hash is there. Otherwise all that is left are those at the edge, and the root over them.
    pub hashes: bool,
}

impl Report {
    /// How many entries were read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.entries.saturating_sub(self.pruned.as_ref().map_or(0, |gone| gone.pruned.first))
    }

    /// How many entries came after the newest checkpoint: nothing proves them yet.
    #[must_use]
    pub fn uncovered(&self) -> u64 {
        self.entries.saturating_sub(self.signed.map_or(0, |head| head.size))
    }
}

/// Verifies a ledger, beside a running process or without one. `progress` hears how many entries of how many are done.
///
/// # Errors
/// [`OpenError::Damaged`] names the first thing that is bad. Otherwise the ledger cannot be read, or nothing proves it:
/// none of it has been signed yet, and no checkpoint was kept elsewhere.
pub fn verify<L: Reader + ProofReader>(
    ledger: &L,
    key: &VerifyingKey,
    kept: &[Kept],
    progress: impl FnMut(u64, u64),
) -> Result<Report, OpenError> {
    // Before all else: the ledger only grows, so what is searchable now is there when the length is read.
    verify_with(ledger, key, kept, ledger.search_data(), progress).map_err(|error| error.if_there(ledger))
}

/// The same without the search data, for who takes the log and leaves them.
///
/// # Errors
/// Those of [`verify`].
pub(super) fn verify_log<L: Reader + ProofReader>(
    ledger: &L,
    key: &VerifyingKey,
    kept: &[Kept],
    progress: impl FnMut(u64, u64),
) -> Result<Report, OpenError> {
    verify_with(ledger, key, kept, Ok(None), progress).map_err(|error| error.if_there(ledger))
}

fn verify_with<'a, L: Reader + ProofReader>(
    ledger: &'a L,
    key: &VerifyingKey,
    kept: &'a [Kept],
    search: Result<Option<Box<dyn SearchData + 'a>>, OpenError>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, OpenError> {
    // In this order: what is signed now is there when the length is read, and what says that entries were pruned is
    // signed. What is wrong with the search data is told last.
    let pruned = ledger.pruned()?;
    let note = if ledger.has_tree() { ledger.checkpoint()? } else { None };
    let standing = ledger.standing()?;
    let length = standing.as_ref().map_or_else(|| ledger.length(), |standing| Ok(standing.length))?;
    let stored = note.map(|note| open(&note, key, "the stored checkpoint")).transpose()?;
    let kept = kept.iter().map(|kept| open(&kept.note, key, &kept.place)).collect::<Result<Vec<_>, _>>()?;
    let mut heads: Vec<(Head, &str)> = stored.iter().chain(&kept).map(|(head, place)| (*head, *place)).collect();
    heads.sort_by_key(|(head, _)| std::cmp::Reverse(head.size));
    let signed = stored.map(|(head, _)| head);
    let mut walk = Walk {
        ledger,
        signed,
        heads,
        tree: Tree::new(),
        order: Order::default(),
        frozen: Frozen::default(),
        row: Vec::new(),
        tiles: 0,
        search,
        built: !ledger.is_being_built()?,
    };
    walk.compare_heads()?;
    let pruned = pruned.map(|pruned| walk.pass(pruned, |done| progress(done, length))).transpose()?;
    let nothing = Tables::default();
    let tables = standing.as_ref().map_or(&nothing, |standing| &standing.tables);
    let mut admitted = Admitted::new(tables, pruned.as_ref().map(|gone| &gone.pruned));
    let mut next = walk.tree.size();
    while next < length {
        let until = length.min(next + READ_AT_MOST);
        for (seq, bytes) in ledger.read(next, until)? {
            walk.see(seq, &bytes, &mut admitted)?;
            if pruned.as_ref().is_some_and(|gone| gone.pruned.seq == seq) && walk.order.awaited() > 0 {
                let words = "says that more became of pruned requests than is there";
                return Err(OpenError::Damaged(format!("entry {seq} {words}")));
            }
        }
        if walk.tree.size() != until {
            return Err(walk.missing());
        }
        next = until;
        progress(next, length);
    }
    if let Some((head, place)) = walk.heads.last() {
        return Err(OpenError::Damaged(format!(
            "{place} was signed for {} entries, but the ledger has {length}: entries were cut off, or an older copy \
             was put in its place",
            head.size
        )));
    }
    let Walk { tiles, order, frozen, built, search, .. } = walk;
    let beyond = standing.as_ref().map(|standing| standing.compare(&order, &frozen, admitted)).transpose()?;
    let kept: Vec<Head> = kept.into_iter().map(|(head, _)| head).collect();
    if signed.is_none() && kept.is_empty() {
        let words = "the entries are in order, but nothing proves them: none has been signed yet; `serve` signs them";
        return Err(OpenError::Unusable(words.to_owned()));
    }
    let (origin, tiles) = (key.origin().clone(), built.then_some(tiles));
    let searchable = search?.map(SearchData::done).transpose()?;
    Ok(Report { origin, entries: length, signed, kept, tiles, beyond, searchable, pruned, open: order.open() })
}

fn open<'a>(note: &str, key: &VerifyingKey, place: &'a str) -> Result<(Head, &'a str), OpenError> {
    let checkpoint = Checkpoint::verify(note, key).map_err(|fault| OpenError::Damaged(format!("{place}: {fault}")))?;
    Ok((*checkpoint.head(), place))
}

struct Walk<'a, L> {
    ledger: &'a L,
    /// The stored checkpoint's head: the stored tiles are those of its tree.
    signed: Option<Head>,
    /// Signed heads that were not reached yet, the smallest last.
    heads: Vec<(Head, &'a str)>,
    tree: Tree,
    order: Order,
    frozen: Frozen,
    /// The stored hashes of the entries around the next one.
    row: Vec<Hash>,
    tiles: u64,
    /// What is wrong with them, where they cannot be compared.
    search: Result<Option<Box<dyn SearchData + 'a>>, OpenError>,
    /// All tiles are there. While they are being built anew, the entries are held against the signed root alone.
    built: bool,
}

impl<L: Reader + ProofReader> Walk<'_, L> {
    fn missing(&self) -> OpenError {
        let next = self.tree.size();
        if self.ledger.pruned().is_ok_and(|now| now.is_some_and(|now| now.first > next)) {
            return OpenError::Unusable("the ledger was pruned while it was verified; try again".to_owned());
        }
        OpenError::Damaged(format!("entry {next} is missing"))
    }

    /// Passes over what was pruned, by the hashes that are left of it. The entry that says so is compared like any other
    /// when it is reached.
    fn pass(&mut self, pruned: Pruned, mut progress: impl FnMut(u64)) -> Result<Gone, OpenError> {
        let nobody = Head { size: 0, root: empty_root() };
        pruned.signed_by(self.heads.first().map_or(&nobody, |(newest, _)| newest))?;
        let width = u64::from(TILE_WIDTH);
        let hashes = Tile::new(0, 0, TILE_WIDTH).is_some_and(|tile| self.ledger.hashes(tile).is_ok());
        let head = pruned.head().unwrap_or(nobody);
        if hashes {
            while self.tree.size() < pruned.first {
                let Some(row) = Tile::new(0, self.tree.size() / width, TILE_WIDTH) else { break };
                for hash in self.ledger.hashes(row)? {
                    for made in self.tree.append(hash) {
                        self.compare(&made)?;
                    }
                    self.compare_heads()?;
                }
                self.tiles += 1;
                progress(self.tree.size());
            }
        } else if self.heads.last().is_some_and(|(head, _)| head.size < pruned.first) {
            let words =
                "an older checkpoint cannot be compared: the hashes of the pruned entries are not there any more";
            return Err(OpenError::Unusable(words.to_owned()));
        } else {
            self.tree = Tree::open(self.ledger, &head).map_err(|fault| {
                OpenError::Damaged(format!("the entries before {}, which were pruned: {fault}", head.size))
            })?;
        }
        if self.tree.head() != head {
            return Err(OpenError::Damaged(format!(
                "the hashes of the entries before {}, which were pruned, do not lead to the root {} in entry {}: some of \
                 them were changed",
                head.size, head.root, pruned.seq
            )));
        }
        self.order = Order::after(&pruned);
        self.frozen = Frozen::after(&pruned);
        Ok(Gone { pruned, hashes })
    }

    /// Takes in the next entry.
    fn see(&mut self, seq: u64, bytes: &[u8], admitted: &mut Admitted<'_>) -> Result<(), OpenError> {
        if seq != self.tree.size() {
            return Err(self.missing());
        }
        let leaf = leaf_hash(bytes);
        let formal = order::read(seq, bytes).and_then(|entry| {
            self.order.see(&entry)?;
            self.frozen.see(&entry, bytes)?;
            admitted.see(&entry)?;
            Ok(entry)
        });
        let stored = self.stored_leaf(seq)?;
        let foreign = stored.filter(|stored| *stored != leaf).map(|stored| self.blame(seq, &leaf, &stored));
        let entry = match (formal, foreign) {
            (Ok(entry), None) => Ok(entry),
            (Ok(_), Some(foreign)) => Err(foreign),
            (Err(formal), None) => Err(formal),
            (Err(formal), Some(foreign)) => Err(format!("{formal}; it {foreign}")),
        };
        let entry = entry.map_err(|words| OpenError::Damaged(format!("entry {seq} {words}")))?;
        if let Ok(Some(search)) = &mut self.search
            && let Err(error) = search.see(seq, &entry.glance())
        {
            self.search = Err(error);
        }
        for made in self.tree.append(leaf) {
            self.compare(&made)?;
        }
        if self.signed.is_some_and(|head| head.size == self.tree.size()) {
            for made in self.tree.edge() {
                self.compare(&made)?;
            }
        }
        self.compare_heads()
    }

    /// The hash that the tree has of this entry, where the checkpoint covers it.
    fn stored_leaf(&mut self, seq: u64) -> Result<Option<Hash>, OpenError> {
        let Some(size) = self.signed.map(|head| head.size).filter(|size| seq < *size) else { return Ok(None) };
        let width = u64::from(TILE_WIDTH);
        if self.built && seq.is_multiple_of(width) {
            self.row = match Tile::in_tree(0, seq / width, size) {
                Some(tile) => self.stored(tile)?.unwrap_or_default(),
                None => Vec::new(),
            };
        }
        if !self.built {
            return Ok(None);
        }
        let hash = usize::try_from(seq % width).ok().and_then(|at| self.row.get(at)).copied();
        hash.map(Some).ok_or_else(|| OpenError::Damaged(format!("entry {seq} has no hash in the tree")))
    }

    /// A stored tile. `None`: a process has begun to build them anew meanwhile.
    fn stored(&mut self, tile: Tile) -> Result<Option<Vec<Hash>>, OpenError> {
        let stored = self.ledger.hashes(tile);
        self.built = stored.is_ok() || !self.ledger.is_being_built()?;
        if !self.built {
            return Ok(None);
        }
        self.tiles += 1;
        stored.map(Some)
    }

    /// What was changed, where an entry and its stored hash differ.
    fn blame(&self, seq: u64, leaf: &Hash, stored: &Hash) -> String {
        let head = self.signed.unwrap_or_else(|| self.tree.head());
        let path = Prover::new(self.ledger, head.size).and_then(|mut prover| prover.inclusion(seq));
        let leads = |hash| path.as_ref().is_ok_and(|path| includes(hash, seq, path, head.size, &head.root));
        if leads(stored) {
            "was changed: its bytes are not those that were signed".to_owned()
        } else if leads(leaf) {
            "is the one that was signed, but its hash in the tree was changed".to_owned()
        } else {
            "does not fit its hash in the tree, and the tree does not lead to the signed root: more than one of them \
             was changed"
                .to_owned()
        }
    }

    /// Holds a tile above the leaves against the stored one, where the checkpoint covers it.
    fn compare(&mut self, made: &TileData) -> Result<(), OpenError> {
        let tile = made.tile;
        if !self.built || tile.level() == 0 || !self.signed.is_some_and(|head| tile.is_covered_by(head.size)) {
            return Ok(());
        }
        let Some(stored) = self.stored(tile)? else { return Ok(()) };
        let made = tile.decode(&made.bytes).unwrap_or_default();
        let differs = (0_u64..).zip(made.iter().zip(&stored)).find(|(_, (made, stored))| made != stored);
        if made.len() == stored.len() && differs.is_none() {
            return Ok(());
        }
        let at = differs.map_or(0, |(at, _)| at) + tile.index() * u64::from(TILE_WIDTH);
        let (first, last) = (at << (8 * u32::from(tile.level())), (at + 1) << (8 * u32::from(tile.level())));
        Err(OpenError::Damaged(format!(
            "entries {first} to {} do not lead to their hash in {tile}: that hash was changed, or some of them \
             together with their own",
            last.saturating_sub(1)
        )))
    }

    /// Compares the root with the heads that were signed for as many entries.
    fn compare_heads(&mut self) -> Result<(), OpenError> {
        while let Some((head, place)) = self.heads.pop_if(|(head, _)| head.size == self.tree.size()) {
            let root = self.tree.root();
            if root != head.root {
                return Err(OpenError::Damaged(format!(
                    "the first {} entries have the root {root}, but {place} was signed for the root {}: some of them \
                     were changed together with their hashes, or removed",
                    head.size, head.root
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
