//! Files that the configuration names: regular ones, and not without a bound. A pipe in the place of a file would
//! otherwise hold up whoever reads it, a reload among them.

use crate::secret::Secret;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Reads a regular file of at most `at_most` bytes.
///
/// # Errors
/// The system's; or that it is no file, or too large.
pub fn read(file: &Path, at_most: u64) -> io::Result<Secret<Vec<u8>>> {
    contents(&open(file)?, at_most)
}

fn open(file: &Path) -> io::Result<File> {
    // Looked at before it is opened: opening a pipe waits for whoever writes to it.
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(file)
}

fn contents(file: &File, at_most: u64) -> io::Result<Secret<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(at_most.saturating_add(1)).read_to_end(&mut bytes)?;
    let bytes = Secret::new(bytes);
    if bytes.expose().len() as u64 > at_most {
        return Err(io::Error::other(format!("it is larger than {at_most} bytes")));
    }
    Ok(bytes)
}

/// Whether a path is a folder or in it, whatever links lead there; what does not exist yet counts as its parent's.
#[must_use]
pub fn is_within(folder: &Path, path: &Path) -> bool {
    real(path).starts_with(real(folder))
}

fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let Some((ancestor, mut real)) = known else { return path };
    for part in path.strip_prefix(ancestor).unwrap_or(Path::new("")) {
        if part == ".." {
            real.pop()
        } else {
            real.push(part);
            true
        };
    }
    real
}

/// The same for text.
///
/// # Errors
/// As [`read`], or that it is not UTF-8.
pub fn read_text(file: &Path, at_most: u64) -> io::Result<String> {
    read_seen(file, at_most).0
}

/// The same, with what the file was whose contents these are.
pub(super) fn read_seen(path: &Path, at_most: u64) -> (io::Result<String>, Seen) {
    let opened = open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (was, file) = match opened {
        Ok(opened) => opened,
        Err(error) => return (Err(error), Seen::of(path)),
    };
    let text = contents(&file, at_most).and_then(|bytes| {
        let text = std::str::from_utf8(bytes.expose()).map(str::to_owned);
        text.map_err(|_| io::Error::other("it is not UTF-8"))
    });
    (text, Seen { file: path.to_owned(), is: Some(Is::from(&was)) })
}

/// What a path led to when it was looked at, links followed: enough to see that it is another file, or that it has been
/// written since. A file that is replaced, a symbolic link on the way that is turned elsewhere, and one that is written
/// in place all differ in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    file: PathBuf,
    is: Option<Is>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Is {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds: of the contents, and of anything about the file, which nobody can set back.
    written: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Is {
    fn from(of: &Metadata) -> Self {
        Self {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            written: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

impl Seen {
    /// Looks.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), is: std::fs::metadata(file).ok().map(|of| Is::from(&of)) }
    }

    /// Looks at the same path again.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(&self.file)
    }
}

/// More than a bundle of all public authorities.
const PEM_AT_MOST: u64 = 4 * 1024 * 1024;

/// The certificates in a file, in PEM; perhaps none.
///
/// # Errors
/// In words, naming the file.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let pem = read(file, PEM_AT_MOST).map_err(|e| wrong(&e))?;
    CertificateDer::pem_slice_iter(pem.expose()).collect::<Result<_, _>>().map_err(|e| wrong(&e))
}

/// The private key in a file, in PEM.
///
/// # Errors
/// In words, naming the file.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let pem = read(file, PEM_AT_MOST).map_err(|e| wrong(&e))?;
    PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|e| wrong(&e))
}

/// Whose certificates are trusted: those in `ca_file` alone, or the public ones that are compiled in.
///
/// # Errors
/// In words, naming the file.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|e| wrong(&e))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"holds no certificate"));
            }
        }
    }
    Ok(roots)
}
