//! Checkpoints (C2SP tlog-checkpoint): the head of the tree, signed, as text.

pub mod note;

use crate::id::Origin;
use crate::ledger::tree::{Hash, Head, MAX_SIZE, empty_root};
use note::{NoteFault, SigningKey, VerifyingKey};
use std::fmt;

/// A head that was signed: there is no other way to one than [`Checkpoint::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: Origin,
    head: Head,
}

/// Why a note is not a checkpoint of the log whose key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointFault {
    /// It is not a note, or not one that this key signed.
    Note(NoteFault),
    /// It is signed, but says something else than a checkpoint does.
    Body(&'static str),
    /// It is signed, but its first line names another log than the key.
    Origin(Origin),
}

impl fmt::Display for CheckpointFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointFault::Note(fault) => write!(f, "the checkpoint {fault}"),
            CheckpointFault::Body(what) => write!(f, "the checkpoint is signed, but {what}"),
            CheckpointFault::Origin(key) => {
                write!(f, "the checkpoint is signed, but its first line is not the name of the key, {key}")
            }
        }
    }
}

/// Signs a head. The origin is the key's name. The caller answers for never signing two heads of which neither
/// continues the other.
#[must_use]
pub fn sign(key: &SigningKey, head: &Head) -> String {
    key.sign(&format!("{}\n{}\n{}\n", key.origin(), head.size, head.root))
}

impl Checkpoint {
    /// Reads a signed note as a checkpoint of the log that `key` belongs to. Extension lines are passed over, and so
    /// are signatures of other keys.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn verify(note: &str, key: &VerifyingKey) -> Result<Self, CheckpointFault> {
        let text = note::open(note, key).map_err(CheckpointFault::Note)?;
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        if lines.next() != Some(key.origin().as_str()) {
            return Err(CheckpointFault::Origin(key.origin().clone()));
        }
        let head = head(lines).map_err(CheckpointFault::Body)?;
        Ok(Self { origin: key.origin().clone(), head })
    }

    /// Which log.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What was signed.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }
}

/// Size and root, which follow the first line of a checkpoint.
fn head<'a>(mut lines: impl Iterator<Item = &'a str>) -> Result<Head, &'static str> {
    let size = lines.next().and_then(number).filter(|size| *size <= MAX_SIZE);
    let size = size.ok_or("its second line is not a size")?;
    let root = lines.next().and_then(Hash::parse).ok_or("its third line is not a SHA-256 hash in base64")?;
    if size == 0 && root != empty_root() {
        return Err("its root is not that of a tree without entries");
    }
    if lines.any(str::is_empty) {
        return Err("it has an empty line");
    }
    Ok(Head { size, root })
}

/// The note in a text that was kept: a checkpoint by its form, whoever signed it. The verification key may stand behind
/// it on a line of its own, as `audit checkpoint --vkey` prints it; it is passed over.
///
/// # Errors
/// In words, where it is none.
pub fn by_form(text: &str) -> Result<&str, String> {
    let last = text.strip_suffix('\n').unwrap_or(text).rfind('\n').map_or(0, |end| end + 1);
    let (before, line) = text.split_at(last);
    let is_key = VerifyingKey::parse(line.trim_end_matches('\n')).is_ok();
    let note = if is_key { before } else { text };
    let (body, _) = note::parse(note).map_err(|fault| format!("it {fault}"))?;
    head(body.lines().skip(1)).map_err(|what| format!("it is no checkpoint: {what}"))?;
    Ok(note)
}

/// A decimal number in its one spelling: digits, without leading zeroes.
pub(super) fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tree::leaf_hash;

    fn key(name: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(Origin::parse(name).expect("an origin"), [seed; 32])
    }

    fn head() -> Head {
        Head { size: 1, root: leaf_hash(b"obviously fake") }
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let key = key("gateway.example/log", 1);
        let note = sign(&key, &head());
        assert!(note.starts_with(&format!("gateway.example/log\n1\n{}\n\n— gateway.example/log ", head().root)));
        let read = Checkpoint::verify(&note, &key.verifying_key()).expect("a checkpoint");
        assert_eq!((read.origin().as_str(), *read.head()), ("gateway.example/log", head()));
    }

    #[test]
    fn no_changed_byte_passes() {
        let key = key("gateway.example/log", 1);
        let note = sign(&key, &head());
        let verify = |note: &str| Checkpoint::verify(note, &key.verifying_key());
        for place in 0..note.len() {
            for bit in 0..8 {
                let mut forged = note.clone().into_bytes();
                forged[place] ^= 1 << bit;
                if let Ok(forged) = String::from_utf8(forged) {
                    assert!(verify(&forged).is_err(), "byte {place}, bit {bit}: {forged}");
                }
            }
            if note.is_char_boundary(place) {
                assert!(verify(&note[..place]).is_err(), "cut at {place}");
            }
        }
    }

    #[test]
    fn the_key_must_be_the_logs_own() {
        let note = sign(&key("gateway.example/log", 1), &head());
        for other in [key("gateway.example/log", 2), key("gateway.example/other", 1)] {
            let fault = Checkpoint::verify(&note, &other.verifying_key()).expect_err("another key");
            assert_eq!(fault, CheckpointFault::Note(NoteFault::Unsigned(other.verifying_key().to_string())));
        }
        let key = key("gateway.example/log", 1);
        let moved = key.sign(&format!("gateway.example/other\n1\n{}\n", head().root));
        let fault = Checkpoint::verify(&moved, &key.verifying_key()).expect_err("another log");
        assert_eq!(fault, CheckpointFault::Origin(key.origin().clone()));
    }

    #[test]
    fn what_is_signed_must_be_a_checkpoint() {
        let (key, root) = (key("a", 1), head().root);
        let verify = |body: &str| Checkpoint::verify(&key.sign(body), &key.verifying_key());
        assert!(verify(&format!("a\n9223372036854775807\n{root}\nextension\nanother\n")).is_ok());
        assert!(verify(&format!("a\n0\n{}\n", empty_root())).is_ok());
        for bad in [
            "a\n".to_owned(),
            "a\n1\n".to_owned(),
            format!("a\n01\n{root}\n"),
            format!("a\n+1\n{root}\n"),
            format!("a\n-1\n{root}\n"),
            format!("a\n \n{root}\n"),
            format!("a\n0\n{root}\n"),
            format!("a\n9223372036854775808\n{root}\n"),
            "a\n1\nAAAA\n".to_owned(),
            format!("a\n1\n{}\n", root.to_string().trim_end_matches('=')),
            format!("a\n1\n{root}\n\n"),
            format!("a\n1\n{root}\n\nextension\n"),
            format!("\na\n1\n{root}\n"),
        ] {
            assert!(verify(&bad).is_err(), "{bad:?}");
        }
    }
}
