//! Proofs (RFC 6962 §2.1.1, §2.1.2) made from tiles, and their verification (RFC 9162 §2.1.3.2, §2.1.4.2).

use super::tile::{TILE_WIDTH, Tile};
use super::{Hash, Head, MAX_SIZE, empty_root, fold, node_hash};
use std::collections::BTreeMap;
use std::fmt;

/// Where tiles are read from.
pub trait Tiles {
    /// Why a tile cannot be read.
    type Error;

    /// Exactly the tile's `width` hashes, its first ones. What is stored may be wider; [`Tile::decode`] cuts it.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, Self::Error>;
}

/// Why a hash cannot be had from tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError<E> {
    /// The store's answer.
    Tiles(E),
    /// The store gave more or fewer hashes than this tile has.
    Width(Tile),
    /// An index or a size that the tree does not have.
    Beyond,
}

impl<E: fmt::Display> fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Tiles(e) => e.fmt(f),
            ReadError::Width(tile) => write!(f, "the stored {tile} does not hold {} hashes", tile.width()),
            ReadError::Beyond => f.write_str("the tree does not have so many entries"),
        }
    }
}

/// A tile, with as many hashes as it has to have.
pub(super) fn read<T: Tiles>(tiles: &T, tile: Tile) -> Result<Vec<Hash>, ReadError<T::Error>> {
    let hashes = tiles.hashes(tile).map_err(ReadError::Tiles)?;
    if hashes.len() == usize::from(tile.width()) { Ok(hashes) } else { Err(ReadError::Width(tile)) }
}

/// How many tiles a [`Prover`] keeps: 8 MiB.
const KEPT: usize = 1024;

/// Makes proofs in the tree of one size. It reads only the tiles that are needed, each once.
///
/// Nothing here compares with a root: what was stored wrongly gives a proof that does not verify.
#[derive(Debug)]
pub struct Prover<'a, T> {
    tiles: &'a T,
    size: u64,
    kept: BTreeMap<Tile, Vec<Hash>>,
}

impl<'a, T: Tiles> Prover<'a, T> {
    /// For the tree of `size`, whose tiles are all there.
    ///
    /// # Errors
    /// `size` is above [`MAX_SIZE`].
    pub fn new(tiles: &'a T, size: u64) -> Result<Self, ReadError<T::Error>> {
        if size > MAX_SIZE { Err(ReadError::Beyond) } else { Ok(Self { tiles, size, kept: BTreeMap::new() }) }
    }

    /// The root of the tree when it had `size` entries.
    ///
    /// # Errors
    /// `size` is above this tree's, or a tile cannot be read.
    pub fn root(&mut self, size: u64) -> Result<Hash, ReadError<T::Error>> {
        match size {
            0 => Ok(empty_root()),
            _ if size > self.size => Err(ReadError::Beyond),
            _ => self.range(0, size),
        }
    }

    /// The inclusion proof for an entry: PATH(index, D\[size\]), from the leaf's sibling up.
    ///
    /// # Errors
    /// The tree does not have this entry, or a tile cannot be read.
    pub fn inclusion(&mut self, index: u64) -> Result<Vec<Hash>, ReadError<T::Error>> {
        if index >= self.size {
            return Err(ReadError::Beyond);
        }
        let (mut from, mut until) = (0, self.size);
        let mut path = Vec::new();
        while until - from > 1 {
            let middle = from + split(until - from);
            if index < middle {
                path.push(self.range(middle, until)?);
                until = middle;
            } else {
                path.push(self.range(from, middle)?);
                from = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// The consistency proof from the tree when it had `old` entries: PROOF(old, D\[size\]). Empty where `old` is 0,
    /// since everything continues the empty tree, or the size itself.
    ///
    /// # Errors
    /// `old` is above this tree's size, or a tile cannot be read.
    pub fn consistency(&mut self, old: u64) -> Result<Vec<Hash>, ReadError<T::Error>> {
        if old > self.size {
            return Err(ReadError::Beyond);
        }
        let (mut from, mut until) = (0, self.size);
        let mut path = Vec::new();
        if old == 0 {
            return Ok(path);
        }
        while old < until {
            let middle = from + split(until - from);
            if old <= middle {
                path.push(self.range(middle, until)?);
                until = middle;
            } else {
                path.push(self.range(from, middle)?);
                from = middle;
            }
        }
        // The whole old tree is known to who asks; a part of it is not.
        if from > 0 {
            path.push(self.range(from, until)?);
        }
        path.reverse();
        Ok(path)
    }

    /// MTH(D\[from:until\]), where `from` is a multiple of a power of two that is at least `until - from`: so it is
    /// for every range that the splits of RFC 6962 lead to.
    fn range(&mut self, mut from: u64, until: u64) -> Result<Hash, ReadError<T::Error>> {
        let mut whole = Vec::new();
        while from < until {
            let height = (until - from).ilog2();
            whole.push(self.subtree(height, from >> height)?);
            from += 1 << height;
        }
        let joined = whole.into_iter().rev().reduce(|right, left| node_hash(&left, &right));
        joined.ok_or(ReadError::Beyond)
    }

    /// The hash of the `index`th full subtree of 2^height leaves.
    fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, ReadError<T::Error>> {
        let level = u8::try_from(height / 8).map_err(|_| ReadError::Beyond)?;
        let first = index << (height % 8);
        let start = usize::try_from(first % u64::from(TILE_WIDTH)).map_err(|_| ReadError::Beyond)?;
        let tile = Tile::in_tree(level, first / u64::from(TILE_WIDTH), self.size).ok_or(ReadError::Beyond)?;
        let hashes = self.tile(tile)?.get(start..start + (1 << (height % 8)));
        hashes.and_then(|row| fold(row.to_vec())).ok_or(ReadError::Beyond)
    }

    fn tile(&mut self, tile: Tile) -> Result<&[Hash], ReadError<T::Error>> {
        if self.kept.len() >= KEPT && !self.kept.contains_key(&tile) {
            self.kept.clear();
        }
        match self.kept.entry(tile) {
            std::collections::btree_map::Entry::Occupied(there) => Ok(there.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => Ok(free.insert(read(self.tiles, tile)?)),
        }
    }
}

/// The largest power of two below `n`, for n > 1.
fn split(n: u64) -> u64 {
    1 << n.saturating_sub(1).max(1).ilog2()
}

/// How many hashes the inclusion proof for `index` in a tree of `size` has.
#[must_use]
pub fn path_length(index: u64, size: u64) -> usize {
    // Below the node where the ways to this leaf and to the last one part, each level has a sibling. Above it, the
    // levels at which this way turns right.
    let parting = u64::BITS - (index ^ size.saturating_sub(1)).leading_zeros();
    let turns = index.checked_shr(parting).unwrap_or(0).count_ones();
    usize::try_from(parting + turns).unwrap_or(usize::MAX)
}

/// Whether `path` proves that `leaf` stands at `index` in the tree of `size` with this `root` (RFC 9162 §2.1.3.2).
#[must_use]
pub fn includes(leaf: &Hash, index: u64, path: &[Hash], size: u64, root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            // Levels where the last node has no sibling are passed over.
            let lone = at.trailing_zeros();
            at >>= lone;
            last >>= lone;
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `path` proves that the tree of `new` continues that of `old` (RFC 9162 §2.1.4.2). The same size needs the
/// same root and an empty path, and so does an empty old tree.
#[must_use]
pub fn continues(old: &Head, new: &Head, path: &[Hash]) -> bool {
    if old.size == 0 || old.size == new.size {
        let known = if old.size == new.size { new.root } else { empty_root() };
        return path.is_empty() && old.root == known;
    }
    if old.size > new.size {
        return false;
    }
    // A full old tree is itself the first node of the proof, and is left out there.
    let (first, rest) = match (old.size.is_power_of_two(), path) {
        (true, path) => (old.root, path),
        (false, [first, rest @ ..]) => (*first, rest),
        (false, []) => return false,
    };
    let skipped = (old.size - 1).trailing_ones();
    let (mut at, mut last) = ((old.size - 1) >> skipped, (new.size - 1) >> skipped);
    let (mut was, mut is) = (first, first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            was = node_hash(sibling, &was);
            is = node_hash(sibling, &is);
            let lone = at.trailing_zeros();
            at >>= lone;
            last >>= lone;
        } else {
            is = node_hash(&is, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && was == old.root && is == new.root
}
