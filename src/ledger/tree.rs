//! The Merkle tree over the entries (RFC 6962 §2.1), and its growing right edge. Pure: no I/O.
//!
//! Only the right edge is in memory: for each level of tiles the hashes that do not fill a tile yet, at most
//! 255. What is complete is handed out once, by [`Tree::append`], and never needed again to go on.

pub mod bundle;
pub mod proof;
pub mod tile;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proof::{ReadError, Tiles};
use sha2::{Digest, Sha256};
use std::fmt;
use tile::{TILE_WIDTH, Tile, above};

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;

/// The most entries that a tree may have. Their numbers fit into SQL's and Go's signed integers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// A SHA-256 hash in the tree: of a leaf, of a node, or the root. Prints as base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; HASH_BYTES]);

impl Hash {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// From base64 (RFC 4648 §4, padded), exactly 32 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hash of an entry as a leaf: SHA-256(0x00 || entry).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// The hash of a node: SHA-256(0x01 || left || right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut message = [1; 1 + 2 * HASH_BYTES];
    message.iter_mut().skip(1).zip(left.0.iter().chain(&right.0)).for_each(|(to, from)| *to = *from);
    Hash(Sha256::digest(message).into())
}

/// The root of the tree without entries: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// The root over a row of subtrees of one size, of which the last may be smaller. `None`: there is none.
///
/// Pairs from the left, with an odd last one moved up as it is: this is the tree that RFC 6962 splits from the top.
fn fold(mut row: Vec<Hash>) -> Option<Hash> {
    while row.len() > 1 {
        row = row
            .chunks(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(node_hash(left, right)),
                rest => rest.first().copied(),
            })
            .collect();
    }
    row.first().copied()
}

/// How large a tree is, and the root that belongs to it: what a checkpoint signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// A tile and its bytes, as they are stored and served: `32 * width`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileData {
    /// Which tile.
    pub tile: Tile,
    /// Its hashes, one after the other.
    pub bytes: Vec<u8>,
}

impl TileData {
    fn new(tile: Tile, hashes: &[Hash]) -> Self {
        Self { tile, bytes: hashes.iter().flat_map(|hash| hash.0).collect() }
    }
}

/// Why a tree cannot be opened at a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenFault<E> {
    /// A tile could not be had.
    Read(ReadError<E>),
    /// The tiles give another root than the one that was asked for.
    Root {
        /// What the tiles give.
        found: Hash,
    },
}

impl<E: fmt::Display> fmt::Display for OpenFault<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenFault::Read(e) => e.fmt(f),
            OpenFault::Root { found } => write!(f, "the stored tiles have the root {found}, not the checkpoint's"),
        }
    }
}

/// A tree that grows at its right edge.
///
/// `Clone` is cheap (at most 8 KiB a level), so that a batch can be tried on a copy and dropped with its transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// For each level the hashes that do not fill a tile yet.
    edge: Vec<Vec<Hash>>,
}

impl Tree {
    /// The tree without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree with this head, from the partial tiles at its right edge: one read a level at most.
    ///
    /// # Errors
    /// When a tile cannot be read, the size is above [`MAX_SIZE`], or the tiles do not have this root.
    pub fn open<T: Tiles>(tiles: &T, head: &Head) -> Result<Self, OpenFault<T::Error>> {
        if head.size > MAX_SIZE {
            return Err(OpenFault::Read(ReadError::Beyond));
        }
        let mut tree = Self { size: head.size, edge: Vec::new() };
        for level in (0_u8..).take_while(|level| above(head.size, *level) > 0) {
            let hashes = match Tile::partial(level, head.size) {
                Some(tile) => proof::read(tiles, tile).map_err(OpenFault::Read)?,
                None => Vec::new(),
            };
            tree.edge.push(hashes);
        }
        let found = tree.root();
        if found == head.root { Ok(tree) } else { Err(OpenFault::Root { found }) }
    }

    /// Adds a leaf. Returns the tiles that it made complete, lowest level first: mostly none, at every 256th leaf
    /// one, and seldom more. They are not kept here.
    #[must_use = "a complete tile is handed out once"]
    pub fn append(&mut self, leaf: Hash) -> Vec<TileData> {
        let mut complete = Vec::new();
        let mut carried = Some(leaf);
        let mut level = 0_u8;
        self.size = self.size.saturating_add(1);
        while let Some(hash) = carried.take() {
            let Some(row) = self.edge.get_mut(usize::from(level)) else {
                self.edge.push(vec![hash]);
                break;
            };
            row.push(hash);
            if row.len() < usize::from(TILE_WIDTH) {
                break;
            }
            let hashes = std::mem::take(row);
            if let Some(tile) = Tile::new(level, above(self.size, level + 1).saturating_sub(1), TILE_WIDTH) {
                complete.push(TileData::new(tile, &hashes));
            }
            carried = fold(hashes);
            level += 1;
        }
        complete
    }

    /// How many entries it has: the next one's index.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its root, MTH(D\[size\]). Some hundred hashes a level: for each checkpoint, not for each entry.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut right = None;
        for row in &self.edge {
            right = fold(row.iter().copied().chain(right).collect());
        }
        right.unwrap_or_else(empty_root)
    }

    /// Its size and root, for a checkpoint.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { size: self.size, root: self.root() }
    }

    /// The partial tiles at its right edge, lowest level first. With them, and its head, [`Tree::open`] goes on.
    #[must_use]
    pub fn edge(&self) -> Vec<TileData> {
        let rows = (0_u8..).zip(&self.edge);
        rows.filter_map(|(level, row)| Some(TileData::new(Tile::partial(level, self.size)?, row))).collect()
    }
}

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;
