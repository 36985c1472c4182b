//! Tiles and their addresses (C2SP tlog-tiles): height 8, which is 256 hashes.

use super::{HASH_BYTES, Hash};
use std::fmt;

/// Hashes of a full tile, and entries of a full bundle.
pub const TILE_WIDTH: u16 = 256;

/// The highest level that an address may name. Trees that fit into 64 bits end at level 7.
const MAX_LEVEL: u8 = 63;

/// How many hashes level `level` has in a tree of `size`: each stands for 256^level entries, all of them there.
pub(super) fn above(size: u64, level: u8) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

/// Which 1 to 256 hashes: the first `width` of tile `index` at `level`. Prints as its path,
/// `tile/<L>/<N>[.p/<W>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    level: u8,
    index: u64,
    width: u16,
}

impl Tile {
    /// `None` unless the level is 0 to 63 and the width 1 to 256.
    #[must_use]
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        (level <= MAX_LEVEL && (1..=TILE_WIDTH).contains(&width)).then_some(Self { level, index, width })
    }

    /// The partial tile at the right edge of a tree of `size`; `None` where the level ends with a full tile.
    #[must_use]
    pub fn partial(level: u8, size: u64) -> Option<Self> {
        let width = u16::try_from(above(size, level) % u64::from(TILE_WIDTH)).ok()?;
        Self::new(level, above(size, level) / u64::from(TILE_WIDTH), width)
    }

    /// The tile as far as it is filled in a tree of `size`; `None` where it is empty there.
    #[must_use]
    pub fn in_tree(level: u8, index: u64, size: u64) -> Option<Self> {
        let left = above(size, level).checked_sub(index.checked_mul(u64::from(TILE_WIDTH))?)?;
        Self::new(level, index, u16::try_from(left.min(u64::from(TILE_WIDTH))).ok()?)
    }

    /// 0: its hashes are leaves. Above: each is the hash of a full tile below.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Its place in the level, from 0.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes, 1 to 256.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it is full: then it never changes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// Whether all its hashes are in a tree of `size`. A log serves what its signed checkpoint covers, and no more.
    #[must_use]
    pub fn is_covered_by(&self, size: u64) -> bool {
        Self::in_tree(self.level, self.index, size).is_some_and(|there| there.width >= self.width)
    }

    /// The hashes in the bytes of this tile, or of the same tile when it had become wider. `None`: the bytes are
    /// too few, or no whole hashes.
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> Option<Vec<Hash>> {
        let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
        let wanted = hashes.get(..usize::from(self.width))?;
        rest.is_empty().then(|| wanted.iter().copied().map(Hash::from_bytes).collect())
    }
}

/// Which 1 to 256 entries: the first `width` of bundle `index`. Prints as its path, `tile/entries/<N>[.p/<W>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bundle {
    index: u64,
    width: u16,
}

impl Bundle {
    /// `None` unless the width is 1 to 256.
    #[must_use]
    pub fn new(index: u64, width: u16) -> Option<Self> {
        (1..=TILE_WIDTH).contains(&width).then_some(Self { index, width })
    }

    /// Its place, from 0.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many entries, 1 to 256.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether all its entries are in a tree of `size`.
    #[must_use]
    pub fn is_covered_by(&self, size: u64) -> bool {
        self.hashes().is_covered_by(size)
    }

    /// The tile with the hashes of its entries.
    #[must_use]
    pub fn hashes(&self) -> Tile {
        Tile { level: 0, index: self.index, width: self.width }
    }

    /// The index of its first entry; `None` where that is above every tree.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.index.checked_mul(u64::from(TILE_WIDTH))
    }
}

/// What a path under a log's prefix names, apart from `checkpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Hashes.
    Tile(Tile),
    /// Entries.
    Bundle(Bundle),
}

impl Resource {
    /// Reads a path, `tile/…` without a leading slash. `None` for every spelling but the one that is written here.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok()?),
            None => (rest, TILE_WIDTH),
        };
        let index = index(number)?;
        let read = match kind {
            "entries" => Self::Bundle(Bundle::new(index, width)?),
            level => Self::Tile(Tile::new(level.parse().ok()?, index, width)?),
        };
        // Leading zeroes, signs, `x000` and `.p/256` do not come back.
        (read.to_string() == path).then_some(read)
    }
}

/// `x001/x234/067` is 1234067.
fn index(text: &str) -> Option<u64> {
    text.split('/').try_fold(0_u64, |index, element| {
        let digits = element.strip_prefix('x').unwrap_or(element);
        index.checked_mul(1000)?.checked_add(digits.parse().ok()?)
    })
}

fn write_index(f: &mut fmt::Formatter<'_>, index: u64, width: u16) -> fmt::Result {
    let mut groups = vec![index % 1000];
    let mut rest = index / 1000;
    while rest > 0 {
        groups.push(rest % 1000);
        rest /= 1000;
    }
    for (place, group) in groups.iter().enumerate().rev() {
        if place > 0 { write!(f, "x{group:03}/")? } else { write!(f, "{group:03}")? }
    }
    if width < TILE_WIDTH { write!(f, ".p/{width}") } else { Ok(()) }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        write_index(f, self.index, self.width)
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tile/entries/")?;
        write_index(f, self.index, self.width)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Tile(tile) => tile.fmt(f),
            Resource::Bundle(bundle) => bundle.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_spelt_as_the_specification_spells_them() {
        let tile = |level, index, width| Tile::new(level, index, width).expect("a tile").to_string();
        assert_eq!(tile(0, 0, 256), "tile/0/000");
        assert_eq!(tile(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile(1, 1000, 17), "tile/1/x001/000.p/17");
        assert_eq!(Bundle::new(273, 112).expect("a bundle").to_string(), "tile/entries/273.p/112");
    }

    #[test]
    fn only_the_one_spelling_of_a_path_is_read() {
        for bad in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "/tile/0/000",
            "tile/0/000/",
            "tile/00/000",
            "tile/+0/000",
            "tile/64/000",
            "tile/256/000",
            "tile/-1/000",
            "tile/0/0",
            "tile/0/0000",
            "tile/0/1000",
            "tile/0/x000/001",
            "tile/0/001/x234",
            "tile/0/x001",
            "tile/0/x01/234",
            "tile/0/001/234",
            "tile/0/+01",
            "tile/0/xx01/001",
            "tile/0/000.p/0",
            "tile/0/000.p/01",
            "tile/0/000.p/256",
            "tile/0/000.p/+5",
            "tile/0/000.p/",
            "tile/0/000.p",
            "tile/0/000.p/5/",
            "tile/0/000.p/5.p/5",
            "tile/data/000",
            "tile/entries/00",
            "tile/Entries/000",
            "tile//000",
            "tile/0/../000",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "tile/8/0/000",
            "tile/0/٠٠٠",
        ] {
            assert_eq!(Resource::parse(bad), None, "{bad}");
        }
        let last = "tile/63/x018/x446/x744/x073/x709/x551/615.p/255";
        assert_eq!(Resource::parse(last), Some(Resource::Tile(Tile { level: 63, index: u64::MAX, width: 255 })));
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_of_the_specification() {
        assert_eq!(Tile::partial(0, 70_000), Tile::new(0, 273, 112));
        assert_eq!(Tile::partial(1, 70_000), Tile::new(1, 1, 17));
        assert_eq!(Tile::partial(2, 70_000), Tile::new(2, 0, 1));
        assert_eq!((Tile::partial(3, 70_000), Tile::partial(0, 256)), (None, None));
        assert_eq!(Tile::partial(1, 256), Tile::new(1, 0, 1));
        assert_eq!(Tile::in_tree(0, 272, 70_000), Tile::new(0, 272, 256));
        assert_eq!(Tile::in_tree(0, 273, 70_000), Tile::new(0, 273, 112));
        assert_eq!((Tile::in_tree(0, 274, 70_000), Tile::in_tree(0, u64::MAX, 70_000)), (None, None));
        assert_eq!(Tile::in_tree(63, 0, u64::MAX), None);
    }

    #[test]
    fn what_the_checkpoint_does_not_cover_is_known() {
        let covered = |width| Tile::new(0, 273, width).expect("a tile").is_covered_by(70_000);
        assert!(covered(1) && covered(112) && !covered(113) && !covered(256));
        assert!(Bundle::new(272, 256).expect("a bundle").is_covered_by(70_000));
        assert!(!Bundle::new(273, 113).expect("a bundle").is_covered_by(70_000));
    }

    #[test]
    fn a_narrower_tile_is_read_from_a_wider_one_and_never_the_other_way() {
        let bytes: Vec<u8> = (0..96).collect();
        let tile = |width| Tile::new(0, 0, width).expect("a tile");
        assert_eq!(tile(2).decode(&bytes).map(|hashes| hashes.len()), Some(2));
        assert_eq!(tile(3).decode(&bytes).and_then(|hashes| hashes.last().map(|hash| hash.as_bytes()[0])), Some(64));
        assert_eq!(tile(4).decode(&bytes), None);
        assert_eq!(tile(2).decode(&bytes[..95]), None);
    }

    proptest! {
        #[test]
        fn every_path_reads_back(level in 0..=63_u8, index in any::<u64>(), shift in 0..64_u32, width in 1..=256_u16) {
            let index = index >> shift;
            let tile = Resource::Tile(Tile::new(level, index, width).expect("a tile"));
            prop_assert_eq!(Resource::parse(&tile.to_string()), Some(tile));
            let bundle = Resource::Bundle(Bundle::new(index, width).expect("a bundle"));
            prop_assert_eq!(Resource::parse(&bundle.to_string()), Some(bundle));
        }

        #[test]
        fn what_is_read_is_spelt_the_same(path in "tile/(entries|[0-9]{1,3})/(x[0-9]{3}/){0,2}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(read) = Resource::parse(&path) {
                prop_assert_eq!(read.to_string(), path);
            }
        }
    }
}
