//! Signed notes and their keys (C2SP signed-note), Ed25519 alone: the same text as Go's `sumdb/note` writes.

use crate::id::{Origin, OriginFault};
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// Ed25519, as the first byte of an encoded key.
const ALGORITHM: u8 = 1;
const SEED_BYTES: usize = 32;
const ID_BYTES: usize = 4;
/// A key line is far shorter: 255 bytes of name and about 70 around it.
const LONGEST_KEY: u64 = 1024;
/// Room for a hundred signatures of today's kinds, post-quantum ones by the dozen.
const LONGEST_NOTE: usize = 256 * 1024;
/// As in Go's implementation; the specification asks for 16 at least.
const MOST_SIGNATURES: usize = 100;

/// Why a text is not a key. The text itself is not repeated: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// It is not `PRIVATE+KEY+<name>+<id>+<base64>`, or not `<name>+<id>+<base64>`.
    Form,
    /// The key is of another kind than Ed25519.
    Algorithm,
    /// The name in it cannot be an origin.
    Name(OriginFault),
    /// The id does not belong to name and key: one of them was changed.
    Id,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFault::Form => f.write_str("is not a note key: one line, [PRIVATE+KEY+]<name>+<8 hex digits>+<base64>"),
            KeyFault::Algorithm => f.write_str("is not an Ed25519 key"),
            KeyFault::Name(fault) => write!(f, "has a name that {fault}"),
            KeyFault::Id => f.write_str("has an id that does not belong to its name and key: something was changed"),
        }
    }
}

/// What signs checkpoints: an Ed25519 seed and the log's name. The seed is not printed and is wiped when dropped.
#[derive(Debug)]
pub struct SigningKey {
    seed: Secret<[u8; SEED_BYTES]>,
    verifying: VerifyingKey,
}

/// What checks them. Prints as the line that other tools take, `<name>+<id>+<base64>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    origin: Origin,
    public: [u8; 32],
}

impl SigningKey {
    /// A new key for a log of this name.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(origin: Origin) -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(Self::from_seed(origin, *seed))
    }

    pub(crate) fn from_seed(origin: Origin, seed: [u8; SEED_BYTES]) -> Self {
        let seed = Secret::new(seed);
        let mut public = [0; 32];
        if let Some(pair) = pair(&seed) {
            public.iter_mut().zip(pair.public_key().as_ref()).for_each(|(to, from)| *to = *from);
        }
        Self { seed, verifying: VerifyingKey { origin, public } }
    }

    /// Reads the one line of a key file, as [`SigningKey::to_line`] and Go's `note.GenerateKey` write it.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn parse(line: &str) -> Result<Self, KeyFault> {
        let Parts { origin, id, key } = parts(line.strip_prefix("PRIVATE+KEY+").ok_or(KeyFault::Form)?)?;
        let (algorithm, seed) = key.split_first().ok_or(KeyFault::Form)?;
        if *algorithm != ALGORITHM {
            return Err(KeyFault::Algorithm);
        }
        let key = Self::from_seed(origin, seed.try_into().map_err(|_| KeyFault::Form)?);
        if key.verifying.id() == id { Ok(key) } else { Err(KeyFault::Id) }
    }

    /// Reads a key file: one line, with or without a newline at its end.
    ///
    /// # Errors
    /// In words, with the path and the mend.
    pub fn load(path: &Path) -> Result<Self, String> {
        let place = path.display();
        let mut text = Zeroizing::new(String::with_capacity(1024));
        std::fs::File::open(path)
            .and_then(|file| file.take(LONGEST_KEY).read_to_string(&mut text))
            .map_err(|e| format!("{place}: the signing key cannot be read: {e}; make it readable to this user"))?;
        Self::parse(text.strip_suffix('\n').unwrap_or(&text)).map_err(|fault| {
            format!("{place}: this signing key {fault}; restore the file: a new key is a new log to those who verify")
        })
    }

    /// The line for a key file, without a newline.
    #[must_use]
    pub fn to_line(&self) -> Secret<String> {
        let mut key = Zeroizing::new([ALGORITHM; 1 + SEED_BYTES]);
        key.iter_mut().skip(1).zip(self.seed.expose()).for_each(|(to, from)| *to = *from);
        let key = Zeroizing::new(STANDARD.encode(*key));
        Secret::new(format!("PRIVATE+KEY+{}+{}+{}", self.origin(), hex(self.verifying.id()), *key))
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.verifying.origin
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        self.verifying.clone()
    }

    /// A note: the text, which ends with a newline, an empty line, and the signature.
    pub(super) fn sign(&self, text: &str) -> String {
        let mut signature = self.verifying.id().to_vec();
        if let Some(pair) = pair(&self.seed) {
            signature.extend_from_slice(pair.sign(text.as_bytes()).as_ref());
        }
        format!("{text}\n— {} {}\n", self.origin(), STANDARD.encode(signature))
    }
}

/// Every 32 bytes are a seed, so there always is a pair.
fn pair(seed: &Secret<[u8; SEED_BYTES]>) -> Option<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).ok()
}

impl VerifyingKey {
    /// Reads `<name>+<id>+<base64>`.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn parse(line: &str) -> Result<Self, KeyFault> {
        let Parts { origin, id, key } = parts(line)?;
        let (algorithm, public) = key.split_first().ok_or(KeyFault::Form)?;
        if *algorithm != ALGORITHM {
            return Err(KeyFault::Algorithm);
        }
        let key = Self { origin, public: public.try_into().map_err(|_| KeyFault::Form)? };
        if key.id() == id { Ok(key) } else { Err(KeyFault::Id) }
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The first bytes of SHA-256(name || newline || algorithm || key).
    fn id(&self) -> [u8; ID_BYTES] {
        let hash = Sha256::new()
            .chain_update(self.origin.as_str())
            .chain_update([b'\n', ALGORITHM])
            .chain_update(self.public)
            .finalize();
        hash.first_chunk().copied().unwrap_or_default()
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = [ALGORITHM; 33];
        key.iter_mut().skip(1).zip(self.public).for_each(|(to, from)| *to = from);
        write!(f, "{}+{}+{}", self.origin, hex(self.id()), STANDARD.encode(key))
    }
}

fn hex(id: [u8; ID_BYTES]) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}

/// What both kinds of keys are made of: algorithm and key are still in one.
struct Parts {
    origin: Origin,
    id: [u8; ID_BYTES],
    key: Zeroizing<Vec<u8>>,
}

/// Reads `<name>+<id>+<base64>`. The base64 may hold a `+` of its own.
fn parts(text: &str) -> Result<Parts, KeyFault> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(digits), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(KeyFault::Form);
    };
    let id = u32::from_str_radix(digits, 16).map(u32::to_be_bytes).map_err(|_| KeyFault::Form)?;
    if hex(id) != digits {
        return Err(KeyFault::Form);
    }
    let key = Zeroizing::new(STANDARD.decode(key).map_err(|_| KeyFault::Form)?);
    Ok(Parts { origin: Origin::parse(name).map_err(KeyFault::Name)?, id, key })
}

/// Why a text is not a note that was signed with the key that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoteFault {
    /// It has more bytes or signatures than are read.
    TooLarge,
    /// It holds a control character, or has no signatures after an empty line.
    Form,
    /// This line, counted from 1, is not a signature line.
    Line(usize),
    /// None of its signatures is of this key.
    Unsigned(String),
    /// A signature is said to be of this key and is not: text or signature were changed.
    Forged(String),
}

impl fmt::Display for NoteFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoteFault::TooLarge => {
                write!(f, "has more than {LONGEST_NOTE} bytes or {MOST_SIGNATURES} signatures, and is not read")
            }
            NoteFault::Form => f.write_str("is not a signed note: text, an empty line, then signatures"),
            NoteFault::Line(line) => write!(f, "is not a signed note: its line {line} is no signature"),
            NoteFault::Unsigned(key) => write!(f, "is not signed with the key {key}"),
            NoteFault::Forged(key) => {
                write!(f, "does not fit its signature with the key {key}: one of them was changed")
            }
        }
    }
}

/// The text of a note, if it was signed with `key`. Signatures of other keys are passed over; more than one of this
/// key must all be right.
///
/// # Errors
/// Says what does not fit.
pub(super) fn open<'a>(note: &'a str, key: &VerifyingKey) -> Result<&'a str, NoteFault> {
    let (text, signatures) = parse(note)?;
    let mut signed = false;
    for Signature { name, id, bytes } in signatures {
        if name == key.origin.as_str() && id == key.id() {
            let public = UnparsedPublicKey::new(&ED25519, key.public);
            public.verify(text.as_bytes(), &bytes).map_err(|_| NoteFault::Forged(key.to_string()))?;
            signed = true;
        }
    }
    if signed { Ok(text) } else { Err(NoteFault::Unsigned(key.to_string())) }
}

/// One line under a note's text.
pub(super) struct Signature<'a> {
    name: &'a str,
    id: [u8; ID_BYTES],
    bytes: Vec<u8>,
}

/// Text and signatures of a note, by its form alone.
///
/// # Errors
/// Says what does not fit.
pub(super) fn parse(note: &str) -> Result<(&str, Vec<Signature<'_>>), NoteFault> {
    if note.len() > LONGEST_NOTE {
        return Err(NoteFault::TooLarge);
    }
    if note.contains(|c: char| c < ' ' && c != '\n') {
        return Err(NoteFault::Form);
    }
    let end = note.rfind("\n\n").ok_or(NoteFault::Form)?;
    let (text, rest) = note.split_at_checked(end + 1).ok_or(NoteFault::Form)?;
    let lines = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n')).ok_or(NoteFault::Form)?;
    let before = text.lines().count() + 1;
    let mut signatures = Vec::new();
    for (place, line) in (1..).zip(lines.split('\n')) {
        if place > MOST_SIGNATURES {
            return Err(NoteFault::TooLarge);
        }
        signatures.push(signature(line).ok_or(NoteFault::Line(before + place))?);
    }
    Ok((text, signatures))
}

/// Reads `— <name> <base64>`.
fn signature(line: &str) -> Option<Signature<'_>> {
    let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (id, signature) = bytes.split_first_chunk()?;
    let fits = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+') && !signature.is_empty();
    fits.then(|| Signature { name, id: *id, bytes: signature.to_vec() })
}

#[cfg(test)]
mod tests;
