//! Patterns over ids: literal text, and `*` for any characters within one id.

use std::collections::HashSet;

/// A set of patterns. Literal ones, of which there may be very many, are found in constant time.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    literal: HashSet<Box<str>>,
    globs: Vec<Box<str>>,
}

const SUFFIX: &str = "@g.us";

/// An id without `@g.us`.
fn bare(id: &str) -> &str {
    id.strip_suffix(SUFFIX).unwrap_or(id)
}

impl Patterns {
    pub(super) fn new(patterns: &[impl AsRef<str>]) -> Self {
        let (globs, literal): (Vec<&str>, Vec<&str>) =
            patterns.iter().map(AsRef::as_ref).partition(|pattern| pattern.contains('*'));
        Self {
            literal: literal.into_iter().map(Box::from).collect(),
            globs: globs.into_iter().map(Box::from).collect(),
        }
    }

    /// The same for [`Patterns::matching_either`]: both spellings of a literal one are one.
    pub(super) fn of_either_spelling(patterns: &[impl AsRef<str>]) -> Self {
        let Self { literal, globs } = Self::new(patterns);
        Self { literal: literal.iter().map(|id| Box::from(bare(id))).collect(), globs }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.literal.len() + self.globs.len()
    }

    /// One that matches a group with or without `@g.us`, of patterns made for this.
    pub(super) fn matching_either(&self, id: &str) -> Option<&str> {
        let bare = bare(id);
        if let Some(literal) = self.literal.get(bare) {
            return Some(literal);
        }
        if self.globs.is_empty() {
            return None;
        }
        let suffixed = [bare, SUFFIX].concat();
        let either = |glob: &&str| [bare, &suffixed].iter().any(|id| glob_matches(glob.as_bytes(), id.as_bytes()));
        self.globs.iter().map(AsRef::as_ref).find(either)
    }

    /// One that matches: the id itself where it is there, else the first with a `*`.
    pub(super) fn matching(&self, id: &str) -> Option<&str> {
        let glob = || self.globs.iter().find(|glob| glob_matches(glob.as_bytes(), id.as_bytes()));
        self.literal.get(id).or_else(glob).map(AsRef::as_ref)
    }
}

/// Greedy with one point of return, so linear for one `*` and quadratic at worst.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(read) {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&wanted) if wanted == byte => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((glob_at, text_at)) => {
                    star = Some((glob_at, text_at + 1));
                    at = glob_at + 1;
                    read = text_at + 1;
                }
                None => return false,
            },
        }
    }
    glob.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Slow and obvious: a star takes nothing, or one byte and asks again.
    fn reference(glob: &[u8], text: &[u8]) -> bool {
        match (glob.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) if reference(rest, text) => true,
            (Some((b'*', _)), Some((_, tail))) => reference(glob, tail),
            (Some((wanted, rest)), Some((byte, tail))) => wanted == byte && reference(rest, tail),
            _ => false,
        }
    }

    #[test]
    fn whole_ids_are_not_tried_one_by_one() {
        let listed: Vec<String> = (0..100_000).map(|n| format!("{n}@g.us")).collect();
        let patterns = Patterns::new(&listed);
        assert_eq!((patterns.literal.len(), patterns.globs.len(), patterns.len()), (100_000, 0, 100_000));
        assert_eq!((patterns.matching("99999@g.us"), patterns.matching("99999")), (Some("99999@g.us"), None));
        let either = Patterns::of_either_spelling(&listed);
        assert_eq!((either.literal.len(), either.globs.len()), (100_000, 0));
        assert_eq!(
            (either.matching_either("99999@g.us"), either.matching_either("99999")),
            (Some("99999"), Some("99999"))
        );
    }

    proptest! {
        #[test]
        fn globs_agree_with_an_obvious_reference(glob in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), reference(glob.as_bytes(), text.as_bytes()));
        }
    }
}
