//! Tiles kept in memory, for tests: what a store keeps, and which tiles were asked for.

use super::proof::Tiles;
use super::tile::Tile;
use super::{Hash, TileData, Tree};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The widest known bytes of each tile, by level and index.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) kept: BTreeMap<(u8, u64), Vec<u8>>,
    pub(crate) asked: RefCell<Vec<Tile>>,
}

impl Memory {
    pub(crate) fn put(&mut self, tiles: Vec<TileData>) {
        self.kept.extend(tiles.into_iter().map(|data| ((data.tile.level(), data.tile.index()), data.bytes)));
    }

    /// A tree of these leaves, with all its tiles put here.
    pub(crate) fn of(leaves: &[Hash]) -> (Self, Tree) {
        let (mut memory, mut tree) = (Self::default(), Tree::new());
        for leaf in leaves {
            memory.put(tree.append(*leaf));
        }
        memory.put(tree.edge());
        (memory, tree)
    }
}

impl Tiles for Memory {
    type Error = Tile;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, Tile> {
        self.asked.borrow_mut().push(tile);
        let bytes = self.kept.get(&(tile.level(), tile.index())).ok_or(tile)?;
        tile.decode(bytes).ok_or(tile)
    }
}
