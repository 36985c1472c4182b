//! Posting lists: which entries of a segment have a term. A short one is a list of offsets, a long one a
//! bitmap, so that none takes more than 512 bytes.

use sha2::{Digest, Sha256};

/// The most entries of a segment.
pub(in crate::ledger::sqlite) const SEGMENT: u64 = 4_096;
const BYTES: usize = 512;
const WORDS: usize = 64;

/// A field with a value, as 63 bits. Two may be equal by chance: whoever finds one reads the entry.
pub(in crate::ledger::sqlite) fn term(field: &str, value: &str) -> i64 {
    let hash = Sha256::new().chain_update(field).chain_update([0]).chain_update(value).finalize();
    let bytes = hash.first_chunk::<8>().copied().unwrap_or_default();
    i64::from_be_bytes(bytes) & i64::MAX
}

/// Terms that were wanted lately: a log says the same few words over and over, and comparing costs less than hashing.
#[derive(Default)]
pub(in crate::ledger::sqlite) struct Recent {
    terms: Vec<(&'static str, String, i64)>,
    oldest: usize,
}

/// As many as are looked through faster than one is hashed.
const RECENT: usize = 8;

impl Recent {
    /// As [`term`].
    pub(in crate::ledger::sqlite) fn term(&mut self, field: &'static str, value: &str) -> i64 {
        let known = self.terms.iter().find(|(known, text, _)| *known == field && text == value);
        if let Some((_, _, term)) = known {
            return *term;
        }
        let new = (field, value.to_owned(), term(field, value));
        let hash = new.2;
        match self.terms.get_mut(self.oldest) {
            Some(oldest) => *oldest = new,
            None => self.terms.push(new),
        }
        self.oldest = (self.oldest + 1) % RECENT;
        hash
    }
}

/// Offsets in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::ledger::sqlite) struct Set([u64; WORDS]);

impl Set {
    pub(in crate::ledger::sqlite) fn empty() -> Self {
        Self([0; WORDS])
    }

    pub(in crate::ledger::sqlite) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(in crate::ledger::sqlite) fn insert(&mut self, offset: u16) {
        if let Some(word) = self.0.get_mut(usize::from(offset / 64)) {
            *word |= 1 << (offset % 64);
        }
    }

    pub(in crate::ledger::sqlite) fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
    }

    pub(in crate::ledger::sqlite) fn or(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
    }

    /// The offsets, ascending.
    pub(in crate::ledger::sqlite) fn offsets(&self) -> impl DoubleEndedIterator<Item = u16> {
        let has =
            |offset: &u16| self.0.get(usize::from(offset / 64)).is_some_and(|word| word >> (offset % 64) & 1 == 1);
        (0..4_096).filter(has)
    }

    /// Reads what [`encode`] or [`Set::encode`] wrote.
    pub(in crate::ledger::sqlite) fn decode(bytes: &[u8]) -> Self {
        let mut set = Self::empty();
        if bytes.len() == BYTES {
            let words = bytes.as_chunks::<8>().0;
            set.0.iter_mut().zip(words).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
        } else {
            bytes.as_chunks::<2>().0.iter().for_each(|offset| set.insert(u16::from_le_bytes(*offset)));
        }
        set
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The offsets that [`encode`] wrote; `None`: it did not write this.
pub(in crate::ledger::sqlite) fn list(bytes: &[u8]) -> Option<Vec<u16>> {
    let offsets: Vec<u16> = if bytes.len() == BYTES {
        let words = (0_u16..).step_by(64).zip(bytes.as_chunks::<8>().0);
        let of_word = |(first, word): (u16, &[u8; 8])| {
            let mut left = u64::from_le_bytes(*word);
            std::iter::from_fn(move || {
                let next = u16::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
                left &= left - 1;
                Some(first + next)
            })
        };
        words.flat_map(of_word).collect()
    } else {
        bytes.as_chunks::<2>().0.iter().map(|offset| u16::from_le_bytes(*offset)).collect()
    };
    let ascending =
        offsets.is_sorted_by(|one, next| one < next) && offsets.iter().all(|last| u64::from(*last) < SEGMENT);
    let form = if offsets.len() * 2 < BYTES { offsets.len() * 2 } else { BYTES };
    (ascending && form == bytes.len() && !offsets.is_empty()).then_some(offsets)
}

/// Offsets, ascending and each once, as bytes.
pub(in crate::ledger::sqlite) fn encode(offsets: &[u16]) -> Vec<u8> {
    if offsets.len() * 2 < BYTES {
        return offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
    }
    let mut set = Set::empty();
    offsets.iter().for_each(|offset| set.insert(*offset));
    set.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(offsets in proptest::collection::btree_set(0u16..4096, 0..1000)) {
            let offsets: Vec<u16> = offsets.into_iter().collect();
            let bytes = encode(&offsets);
            prop_assert!(bytes.len() <= BYTES);
            let set = Set::decode(&bytes);
            prop_assert_eq!(list(&bytes), Some(offsets.clone()).filter(|offsets| !offsets.is_empty()));
            prop_assert_eq!(set.is_empty(), offsets.is_empty());
            prop_assert_eq!(set.offsets().collect::<Vec<_>>(), offsets);
        }
    }

    #[test]
    fn a_term_is_the_same_whether_it_was_wanted_lately_or_not() {
        let mut recent = Recent::default();
        for n in (0..40).chain(30..40).chain(0..3) {
            for field in ["caller", "session"] {
                assert_eq!(recent.term(field, &n.to_string()), term(field, &n.to_string()));
            }
            assert!(recent.terms.len() <= RECENT);
        }
    }

    #[test]
    fn a_term_says_field_and_value_apart() {
        assert_ne!(term("caller", "a"), term("session", "a"));
        assert_ne!(term("ab", "c"), term("a", "bc"));
        assert!(term("caller", "a") >= 0);
    }
}
