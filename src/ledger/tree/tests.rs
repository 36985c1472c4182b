//! The tree and its proofs against the definitions of RFC 6962 §2.1, written down as they stand there.

use super::memory::Memory;
use super::proof::{Prover, ReadError, continues, includes, path_length};
use super::tile::Tile;
use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(format!("entry {n}").as_bytes())).collect()
}

fn k(n: usize) -> usize {
    let mut k = 1;
    while 2 * k < n {
        k *= 2;
    }
    k
}

/// The leaves, and what the definitions make of D\[from:until\]. What was once computed is remembered.
struct Definition {
    d: Vec<Hash>,
    known: RefCell<HashMap<(usize, usize), Hash>>,
}

impl Definition {
    fn of(count: u64) -> Self {
        Self { d: leaves(count), known: RefCell::default() }
    }

    fn mth(&self, from: usize, until: usize) -> Hash {
        match until - from {
            0 => return Hash::from_bytes(Sha256::digest(b"").into()),
            1 => return self.d[from],
            _ => {}
        }
        let known = self.known.borrow().get(&(from, until)).copied();
        known.unwrap_or_else(|| {
            let middle = from + k(until - from);
            let hash = node_hash(&self.mth(from, middle), &self.mth(middle, until));
            self.known.borrow_mut().insert((from, until), hash);
            hash
        })
    }

    /// The head at a size.
    fn head(&self, size: usize) -> Head {
        Head { size: size as u64, root: self.mth(0, size) }
    }

    /// PATH(m, D\[from:until\]), where m counts from 0.
    fn path(&self, m: usize, from: usize, until: usize) -> Vec<Hash> {
        if until - from == 1 {
            return Vec::new();
        }
        let middle = from + k(until - from);
        let (mut below, sibling) = if m < middle {
            (self.path(m, from, middle), self.mth(middle, until))
        } else {
            (self.path(m, middle, until), self.mth(from, middle))
        };
        below.push(sibling);
        below
    }

    /// SUBPROOF(m, D\[from:until\], b), where m counts from 0.
    fn subproof(&self, m: usize, from: usize, until: usize, b: bool) -> Vec<Hash> {
        if m == until {
            return if b { Vec::new() } else { vec![self.mth(from, until)] };
        }
        let middle = from + k(until - from);
        let (mut below, sibling) = if m <= middle {
            (self.subproof(m, from, middle, b), self.mth(middle, until))
        } else {
            (self.subproof(m, middle, until, false), self.mth(from, middle))
        };
        below.push(sibling);
        below
    }
}

fn flipped(hash: &Hash, bit: usize) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[bit / 8] ^= 1 << (bit % 8);
    Hash::from_bytes(bytes)
}

#[test]
fn the_hashes_are_those_of_the_reference_implementation() {
    // From the test vectors of Certificate Transparency's first implementation.
    let hex = |hash: Hash| hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(empty_root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(hex(leaf_hash(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    let mut tree = Tree::new();
    for entry in [&b""[..], &[0x00], &[0x10], &[0x20, 0x21], &[0x30, 0x31], &[0x40, 0x41, 0x42, 0x43]] {
        assert!(tree.append(leaf_hash(entry)).is_empty());
    }
    assert_eq!(hex(tree.root()), "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef");
}

#[test]
fn the_root_is_that_of_the_definition_at_every_size() {
    let definition = Definition::of(1_100);
    let mut tree = Tree::new();
    for size in 0..=1_100 {
        assert_eq!(tree.head(), definition.head(size), "size {size}");
        if let Some(leaf) = definition.d.get(size) {
            let complete = tree.append(*leaf);
            assert_eq!(complete.len(), usize::from(size % 256 == 255), "size {size}");
        }
    }
}

#[test]
fn every_tile_is_handed_out_once_when_it_becomes_complete() {
    let definition = Definition::of(65_536 + 300);
    let d = &definition.d;
    let mut tree = Tree::new();
    for (n, leaf) in d.iter().enumerate() {
        let complete = tree.append(*leaf);
        let mut expected = Vec::new();
        if n % 256 == 255 {
            expected.push((Tile::new(0, n as u64 / 256, 256).expect("a tile"), d[n - 255..=n].to_vec()));
        }
        if n == 65_535 {
            let row = (0..256).map(|tile| definition.mth(256 * tile, 256 * tile + 256)).collect();
            expected.push((Tile::new(1, 0, 256).expect("a tile"), row));
        }
        assert_eq!(complete.len(), expected.len(), "entry {n}");
        for (data, (tile, hashes)) in complete.iter().zip(expected) {
            assert_eq!((data.tile, data.bytes.len(), tile.decode(&data.bytes)), (tile, 8_192, Some(hashes)));
        }
    }
    let edge: Vec<_> = tree.edge().iter().map(|data| (data.tile.to_string(), data.bytes.len())).collect();
    let edge: Vec<_> = edge.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
    assert_eq!(edge, [("tile/0/257.p/44", 44 * 32), ("tile/1/001.p/1", 32), ("tile/2/000.p/1", 32)]);
}

#[test]
fn around_a_full_tile_of_tiles_all_agrees_with_the_definition() {
    let definition = Definition::of(65_536 + 257);
    let (whole, _) = Memory::of(&definition.d);
    let (mut memory, mut tree) = Memory::of(&definition.d[..65_279]);
    for size in [65_280, 65_281, 65_535, 65_536, 65_537, 65_536 + 256, 65_536 + 257] {
        for leaf in &definition.d[usize::try_from(tree.size()).expect("a size")..size] {
            memory.put(tree.append(*leaf));
        }
        memory.put(tree.edge());
        let head = definition.head(size);
        let mut prover = Prover::new(&whole, 65_536 + 257).expect("a size");
        assert_eq!(prover.root(head.size), Ok(head.root), "size {size}");
        assert_eq!(Tree::open(&memory, &head).as_ref(), Ok(&tree), "size {size}");
        let mut prover = Prover::new(&memory, head.size).expect("a size");
        for index in [0, 255, 256, 65_279, size - 1] {
            let proof = prover.inclusion(index as u64).expect("a proof");
            assert_eq!(proof, definition.path(index, 0, size), "size {size}, index {index}");
            assert!(includes(&definition.d[index], index as u64, &proof, head.size, &head.root));
        }
        for old in [1, 255, 256, 257, 32_768, 65_279, 65_280, size - 1] {
            let proof = prover.consistency(old as u64).expect("a proof");
            assert_eq!(proof, definition.subproof(old, 0, size, true), "size {size}, old {old}");
            assert!(continues(&definition.head(old), &head, &proof));
        }
    }
}

#[test]
fn a_proof_reads_few_tiles_and_each_once() {
    let (memory, tree) = Memory::of(&leaves(65_536 + 300));
    Prover::new(&memory, tree.size()).and_then(|mut prover| prover.inclusion(1_000)).expect("a proof");
    let mut asked: Vec<_> = memory.asked.take().iter().map(Tile::to_string).collect();
    asked.sort();
    assert_eq!(asked, ["tile/0/003", "tile/0/257.p/44", "tile/1/000", "tile/1/001.p/1"]);
    Tree::open(&memory, &tree.head()).expect("it opens");
    let asked: Vec<_> = memory.asked.take().iter().map(Tile::to_string).collect();
    assert_eq!(asked, ["tile/0/257.p/44", "tile/1/001.p/1", "tile/2/000.p/1"]);
}

#[test]
fn a_tree_does_not_open_on_tiles_that_have_another_root() {
    let (mut memory, tree) = Memory::of(&leaves(600));
    let root = tree.root();
    let open = |memory: &Memory, size, root| Tree::open(memory, &Head { size, root });
    assert_eq!(open(&memory, 600, flipped(&root, 9)), Err(OpenFault::Root { found: root }));
    assert_eq!(open(&memory, 599, root).map_err(|e| matches!(e, OpenFault::Root { .. })), Err(true));
    let missing = Tile::new(1, 0, 2).expect("a tile");
    memory.kept.get_mut(&(0, 2)).expect("a tile")[40] ^= 1;
    assert!(matches!(open(&memory, 600, root), Err(OpenFault::Root { .. })));
    memory.kept.remove(&(1, 0));
    assert_eq!(open(&memory, 600, root), Err(OpenFault::Read(ReadError::Tiles(missing))));
    assert_eq!(open(&memory, u64::MAX, root), Err(OpenFault::Read(ReadError::Beyond)));
    assert_eq!(open(&memory, 0, empty_root()), Ok(Tree::new()));
}

#[test]
fn a_store_that_gives_too_many_or_too_few_hashes_is_found_out() {
    struct Wrong(i8);
    impl Tiles for Wrong {
        type Error = ();
        fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, ()> {
            Ok(leaves(tile.width().checked_add_signed(self.0.into()).expect("a width").into()))
        }
    }
    let tile = Tile::new(0, 0, 3).expect("a tile");
    for wrong in [-1, 1] {
        let opened = Tree::open(&Wrong(wrong), &Head { size: 3, root: empty_root() });
        assert_eq!(opened, Err(OpenFault::Read(ReadError::Width(tile))));
        let proof = Prover::new(&Wrong(wrong), 3).and_then(|mut prover| prover.inclusion(0));
        assert_eq!(proof, Err(ReadError::Width(tile)));
    }
}

#[test]
fn what_the_tree_does_not_have_is_not_proved() {
    let (memory, tree) = Memory::of(&leaves(5));
    let mut prover = Prover::new(&memory, tree.size()).expect("a size");
    assert_eq!(prover.inclusion(5), Err(ReadError::Beyond));
    assert_eq!(prover.consistency(6), Err(ReadError::Beyond));
    assert_eq!(prover.root(6), Err(ReadError::Beyond));
    assert_eq!((prover.root(0), prover.consistency(0)), (Ok(empty_root()), Ok(Vec::new())));
    assert!(Prover::new(&memory, u64::MAX).is_err());
    let nothing = Memory::default();
    let mut prover = Prover::new(&nothing, 0).expect("a size");
    assert_eq!((prover.inclusion(0), prover.root(0)), (Err(ReadError::Beyond), Ok(empty_root())));
}

#[test]
fn every_tree_up_to_forty_entries_proves_every_entry_and_every_older_tree() {
    let definition = Definition::of(40);
    for size in 1..=40 {
        let (memory, tree) = Memory::of(&definition.d[..size]);
        let new = tree.head();
        let mut prover = Prover::new(&memory, new.size).expect("a size");
        for index in 0..size {
            let proof = prover.inclusion(index as u64).expect("a proof");
            assert_eq!(proof, definition.path(index, 0, size));
            assert_eq!(path_length(index as u64, new.size), proof.len());
            for other in 0..size {
                let holds = includes(&definition.d[index], other as u64, &proof, new.size, &new.root);
                assert_eq!(holds, other == index, "the proof of {index} for {other} of {size}");
            }
        }
        for old in 0..=size {
            let proof = prover.consistency(old as u64).expect("a proof");
            let old = definition.head(old);
            assert!(continues(&old, &new, &proof), "{} to {size}", old.size);
            assert!(!continues(&new, &old, &proof) || old == new, "{size} back to {}", old.size);
            if old.size > 0 && old.size < new.size {
                let forged = Head { size: new.size, root: flipped(&new.root, 0) };
                assert!(!continues(&old, &forged, &proof));
                assert!(!continues(&old, &new, &[]));
            }
        }
    }
}

#[test]
fn an_equal_or_empty_old_tree_is_continued_without_a_proof_alone() {
    let definition = Definition::of(9);
    let root = |size| definition.head(size);
    assert!(
        continues(&root(0), &root(9), &[]) && continues(&root(9), &root(9), &[]) && continues(&root(0), &root(0), &[])
    );
    assert!(!continues(&root(0), &root(9), &[empty_root()]));
    assert!(!continues(&root(9), &root(9), &[root(9).root]));
    assert!(!continues(&Head { size: 0, root: root(1).root }, &root(9), &[]));
    assert!(!continues(&Head { size: 9, root: root(8).root }, &root(9), &[]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tree_that_was_reopened_goes_on_as_if_it_had_not(at in 0..1_100_u64, more in 0..1_100_u64) {
        let d = leaves(at + more);
        let (mut memory, tree) = Memory::of(&d[..at as usize]);
        let mut reopened = Tree::open(&memory, &tree.head()).expect("it opens");
        prop_assert_eq!(&reopened, &tree);
        for leaf in &d[at as usize..] {
            memory.put(reopened.append(*leaf));
        }
        memory.put(reopened.edge());
        let (whole, tree) = Memory::of(&d);
        prop_assert_eq!(reopened, tree);
        prop_assert_eq!(memory.kept, whole.kept);
    }

    #[test]
    fn proofs_are_those_of_the_definition_and_no_flipped_bit_passes(
        size in 1..1_100_u64, index in any::<prop::sample::Index>(), old in any::<prop::sample::Index>(), bit in 0..256_usize
    ) {
        let (definition, index, old) = (Definition::of(size), index.index(size as usize), old.index(size as usize));
        let d = &definition.d;
        let (memory, tree) = Memory::of(d);
        let root = tree.root();
        let mut prover = Prover::new(&memory, size).expect("a size");

        let proof = prover.inclusion(index as u64).expect("a proof");
        prop_assert_eq!(&proof, &definition.path(index, 0, d.len()));
        let holds = |leaf: &Hash, proof: &[Hash], root: &Hash| includes(leaf, index as u64, proof, size, root);
        prop_assert!(holds(&d[index], &proof, &root));
        prop_assert!(!holds(&flipped(&d[index], bit), &proof, &root));
        prop_assert!(!holds(&d[index], &proof, &flipped(&root, bit)));
        prop_assert!(!holds(&d[index], &[proof.as_slice(), &[root]].concat(), &root));
        for place in 0..proof.len() {
            let mut forged = proof.clone();
            forged[place] = flipped(&proof[place], bit);
            prop_assert!(!holds(&d[index], &forged, &root));
            prop_assert!(!holds(&d[index], &proof[..place], &root));
        }

        let (old, new) = (definition.head(old), Head { size, root });
        let proof = prover.consistency(old.size).expect("a proof");
        if old.size > 0 {
            prop_assert_eq!(&proof, &definition.subproof(old.size as usize, 0, d.len(), true));
        }
        prop_assert!(continues(&old, &new, &proof));
        let (forged_old, forged_new) = (flipped(&old.root, bit), flipped(&root, bit));
        let (forged_old, forged_new) = (Head { root: forged_old, ..old }, Head { root: forged_new, ..new });
        prop_assert!(!continues(&forged_old, &new, &proof));
        if old.size > 0 {
            prop_assert!(!continues(&old, &forged_new, &proof));
        }
        prop_assert!(!continues(&old, &new, &[proof.as_slice(), &[root]].concat()));
        for place in 0..proof.len() {
            let mut forged = proof.clone();
            forged[place] = flipped(&proof[place], bit);
            prop_assert!(!continues(&old, &new, &forged));
            prop_assert!(!continues(&old, &new, &proof[..place]));
        }
    }
}
