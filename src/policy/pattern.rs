//! Patterns over ids: literal text, and `*` for any characters within one id.

use std::collections::HashSet;

/// A set of patterns. Literal ones, of which there may be very many, are found in constant time.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    literal: HashSet<Box<str>>,
    globs: Vec<Box<str>>,
}

impl Patterns {
    pub(super) fn new(patterns: &[String]) -> Self {
        let (globs, literal): (Vec<&String>, _) = patterns.iter().partition(|p| p.contains('*'));
        Self {
            literal: literal.into_iter().map(|p| Box::from(p.as_str())).collect(),
            globs: globs.into_iter().map(|p| Box::from(p.as_str())).collect(),
        }
    }

    pub(super) fn matches(&self, id: &str) -> bool {
        self.literal.contains(id) || self.globs.iter().any(|glob| glob_matches(glob.as_bytes(), id.as_bytes()))
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

    proptest! {
        #[test]
        fn globs_agree_with_an_obvious_reference(glob in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), reference(glob.as_bytes(), text.as_bytes()));
        }
    }
}
