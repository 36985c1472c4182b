//! The asking side, for commands. It blocks, and never for longer than the deadline.

use super::{ANSWER_AT_MOST, Said, Verb, short};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer is waited for: a second less than what is promised of `freeze`.
const PATIENCE: Duration = Duration::from_secs(9);

/// Why nothing was said.
#[derive(Debug)]
pub enum NotHeard {
    /// No process listens there, or this user cannot look there: then opening the ledger says why.
    Nobody,
    /// One does, and says no, in these words.
    No(String),
    /// One does, and does not answer, or not in words that are understood.
    Silent(String),
}

/// Asks the process that serves the ledger in this folder. `wanted` takes the answer that belongs to the verb.
///
/// # Errors
/// See [`NotHeard`]. After [`NotHeard::Silent`] it is not known whether it does what it was asked.
pub fn ask<T>(folder: &Path, verb: &Verb, wanted: impl FnOnce(Said) -> Option<T>) -> Result<T, NotHeard> {
    let said = said(folder, verb)?;
    if let Said::No(words) = said {
        return Err(NotHeard::No(words));
    }
    let strange = || NotHeard::Silent("it answers something else than it was asked; is it of another version?".into());
    wanted(said).ok_or_else(strange)
}

fn said(folder: &Path, verb: &Verb) -> Result<Said, NotHeard> {
    let silent = |e: std::io::Error| NotHeard::Silent(e.to_string());
    let nobody = |e: std::io::Error| {
        let none = [ErrorKind::NotFound, ErrorKind::ConnectionRefused, ErrorKind::NotADirectory];
        let is_nobody = none.contains(&e.kind());
        if is_nobody { NotHeard::Nobody } else { silent(e) }
    };
    let unseen = |e: std::io::Error| if e.kind() == ErrorKind::PermissionDenied { NotHeard::Nobody } else { nobody(e) };
    let (_folder, path) = short(folder).map_err(unseen)?;
    let mut stream = UnixStream::connect(path).map_err(nobody)?;
    let timed = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    timed.map_err(silent)?;
    let mut line = serde_json::to_vec(verb).map_err(|e| NotHeard::Silent(e.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(silent)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_AT_MOST)).read_until(b'\n', &mut answer).map_err(|e| {
        if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            let seconds = PATIENCE.as_secs();
            return NotHeard::Silent(format!(
                "it did not answer in {seconds} s; once it goes on it may still do what it was asked"
            ));
        }
        silent(e)
    })?;
    if answer.is_empty() {
        return Err(NotHeard::Silent("it closed the connection".to_owned()));
    }
    serde_json::from_slice(&answer).map_err(|e| NotHeard::Silent(e.to_string()))
}
