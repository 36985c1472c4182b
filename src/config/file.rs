//! Files that the configuration names: regular ones, and not without a bound. A pipe in the place of a file would
//! otherwise hold up whoever reads it, a reload among them.

use crate::secret::Secret;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Reads a regular file of at most `at_most` bytes.
///
/// # Errors
/// The system's; or that it is no file, or too large.
pub fn read(file: &Path, at_most: u64) -> io::Result<Secret<Vec<u8>>> {
    // Looked at before it is opened: opening a pipe waits for whoever writes to it.
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(at_most.saturating_add(1)).read_to_end(&mut bytes)?;
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
    let bytes = read(file, at_most)?;
    std::str::from_utf8(bytes.expose()).map(str::to_owned).map_err(|_| io::Error::other("it is not UTF-8"))
}
