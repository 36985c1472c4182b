//! A fixed number of inputs for each target, made of its seeds by a fixed chance: `fixed COUNT [TARGET …]`. It needs no
//! coverage, so what the tests have built serves it; libFuzzer goes on from here for as long as one likes.

use wasend_gateway_fuzz::seeds::TARGETS;

const MARKS: [&[u8]; 24] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b":",
    b"%40",
    b"%2f",
    b"..",
    b"/",
    b"@g.us",
    b"?",
    b"0",
    b"9",
    b"\"",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: gw\r\n",
    b"Authorization: Bearer T\r\n",
    b"deny",
    b"*",
    b"\xff",
];

/// Chance that is the same each time (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap_or(0)
    }

    /// Changes bytes in one of the ways in which bytes get changed.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(self.below(256)).unwrap_or(0),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            4 => bytes.truncate(at),
            5 => {
                let from = self.below(other.len());
                let part = &other[from..(from + 1 + self.below(64)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => drop(bytes.splice(at..at, MARKS[self.below(MARKS.len())].iter().copied())),
        }
    }
}

fn main() {
    let mut words = std::env::args().skip(1);
    let count: usize = words.next().and_then(|word| word.parse().ok()).expect("fixed COUNT [TARGET …]");
    let wanted: Vec<String> = words.collect();
    for target in TARGETS.iter().filter(|target| wanted.is_empty() || wanted.iter().any(|name| name == target.name)) {
        let (seeds, mut chance) = ((target.seeds)(), Chance(1));
        for seed in &seeds {
            (target.hold)(seed);
        }
        for _ in 0..count {
            let [mut bytes, other] = [(); 2].map(|()| seeds[chance.below(seeds.len())].clone());
            for _ in 0..=chance.below(4) {
                chance.change(&mut bytes, &other);
            }
            (target.hold)(&bytes);
        }
        println!("{}: {} seeds and {count} inputs made of them, all held", target.name, seeds.len());
    }
}
