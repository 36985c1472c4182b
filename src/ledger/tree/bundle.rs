//! The contents of entry bundles (C2SP tlog-tiles, "Log entries"): each entry behind its length, a big-endian u16.

/// Appends an entry to the bytes of a bundle. `false`, and nothing is appended: it is longer than 65,535 bytes.
#[must_use]
pub fn push(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(length) = u16::try_from(entry.len()) else { return false };
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// The entries of a bundle, in order. `None`: it does not end where an entry ends.
#[must_use]
pub fn entries(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_stands_behind_its_length() {
        let mut bundle = Vec::new();
        assert!(push(&mut bundle, b"ab") && push(&mut bundle, b""));
        assert_eq!(bundle, [0, 2, b'a', b'b', 0, 0]);
    }

    #[test]
    fn an_entry_that_is_too_long_is_not_cut() {
        let mut bundle = Vec::new();
        assert!(!push(&mut bundle, &[7; 65_536]));
        assert!(bundle.is_empty());
        assert!(push(&mut bundle, &[7; 65_535]));
        assert_eq!(entries(&bundle).map(|entries| entries[0].len()), Some(65_535));
    }

    proptest! {
        #[test]
        fn a_bundle_reads_back_and_none_that_was_cut_within_an_entry_does(
            wanted in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)
        ) {
            let mut bundle = Vec::new();
            let mut ends = vec![0];
            for entry in &wanted {
                prop_assert!(push(&mut bundle, entry));
                ends.push(bundle.len());
            }
            let read = entries(&bundle).expect("a bundle");
            prop_assert_eq!(read, wanted.iter().map(Vec::as_slice).collect::<Vec<_>>());
            for cut in 0..bundle.len() {
                prop_assert_eq!(entries(&bundle[..cut]).is_some(), ends.contains(&cut), "cut at {}", cut);
            }
        }
    }
}
