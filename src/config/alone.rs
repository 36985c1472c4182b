//! `[ledger]` alone, for the brake and for what reads: whatever else the file says, and whether the rest of it is TOML at
//! all. No other file is read for it, and what panics at the rest is told like a fault of it.

use super::budget::LONGEST;
use super::file;
use super::section::{Fault, Reading, Section};
use super::{Caller, Config, FILE_AT_MOST, Ledger, merge_text, reading};
use config::{Map, Value};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Reads `[ledger]`. Faults elsewhere come back as warnings: of a file that is cut off or otherwise not TOML, the lines
/// of `[ledger]` are read by themselves.
///
/// # Errors
/// The file cannot be read, or a fault in `[ledger]`.
pub fn load_ledger(file: &Path) -> Result<(Ledger, Vec<Fault>), Vec<Fault>> {
    load_beside(file, super::read)
}

/// The same, with how the rest is read.
fn load_beside(file: &Path, rest: impl FnOnce(&mut Section) -> Config) -> Result<(Ledger, Vec<Fault>), Vec<Fault>> {
    let bytes = file::read(file, FILE_AT_MOST).map_err(|e| vec![Fault::of(file, format!("cannot be read: {e}"))])?;
    let text = std::str::from_utf8(bytes.expose());
    let text = text.map_err(|at| vec![Fault::of(file, format!("is not UTF-8 from byte {} on", at.valid_up_to()))]);
    let whole = text.and_then(|text| calmly(file, || merge_text(file, text.to_owned())));
    let (merged, mut elsewhere) = match whole {
        Ok(merged) => (Ok(merged), Vec::new()),
        Err(faults) => (own_lines(file, bytes.expose()), faults),
    };
    let read = merged.and_then(|merged| Ok((calmly(file, || own(file, merged.clone()))?, merged)));
    // What is wrong with the whole is told first: it is the reason why so little of it was read.
    let (mut ledger, merged) = read.map_err(|faults| [elsewhere.clone(), faults].concat())?;
    if elsewhere.is_empty() {
        let read = calmly(file, || Ok(read_rest(file, merged, rest)));
        let read = read.map(|(config, faults)| (config.ledger.longest_budget, faults));
        (ledger.longest_budget, elsewhere) = read.unwrap_or_else(|faults| (LONGEST, faults));
    }
    if !elsewhere.is_empty() {
        // Nobody knows which budgets there are: nothing goes that one of them could still count.
        ledger.longest_budget = LONGEST;
    }
    Ok((ledger, elsewhere))
}

/// The callers with those of their rules' parts that stand in the file itself; `None` where it has a fault.
#[must_use]
pub fn load_callers(file: &Path) -> Option<Vec<Caller>> {
    let text = file::read_text(file, FILE_AT_MOST).ok()?;
    let read = calmly(file, || Ok(read_rest(file, merge_text(file, text)?, super::read)));
    read.ok().filter(|(_, faults)| faults.is_empty()).map(|(config, _)| config.callers)
}

/// A panic is a fault of the file.
fn calmly<T>(file: &Path, read: impl FnOnce() -> Result<T, Vec<Fault>>) -> Result<T, Vec<Fault>> {
    let panicked = |_| Err(vec![Fault::of(file, "makes the gateway panic".to_owned())]);
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(panicked)
}

/// `[ledger]` of a merged configuration, and nothing else of it.
fn own(file: &Path, merged: Map<String, Value>) -> Result<Ledger, Vec<Fault>> {
    let reading = reading(file);
    let mut root = Section::new(String::new(), merged, reading.clone());
    let ledger = Ledger::read(root.table_or_empty("ledger"), &[]);
    let faults = reading.faults.take();
    if faults.is_empty() { Ok(ledger) } else { Err(faults) }
}

/// The whole, and what is wrong with it. Files that other sections name are left alone: a list may
/// be long, and a disk may not answer.
fn read_rest(
    file: &Path,
    merged: Map<String, Value>,
    rest: impl FnOnce(&mut Section) -> Config,
) -> (Config, Vec<Fault>) {
    let reading = Reading { without_files: true, ..reading(file) };
    let mut root = Section::new(String::new(), merged, reading.clone());
    let config = rest(&mut root);
    root.finish();
    (config, reading.faults.take())
}

/// The lines of `[ledger]` with defaults and environment, each in its place, so that faults name it.
fn own_lines(file: &Path, bytes: &[u8]) -> Result<Map<String, Value>, Vec<Fault>> {
    let (mut kept, mut inside, mut is_ours) = (Vec::new(), None, false);
    for line in bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes).split_inclusive(|byte| *byte == b'\n') {
        if inside.is_none()
            && let Some(name) = table(line)
        {
            is_ours = name == b"ledger";
        }
        inside = open_after(line, inside);
        kept.extend_from_slice(if is_ours { line } else { b"\n" });
    }
    let not_text = |_| vec![Fault::of(file, "has a [ledger] that is not UTF-8".to_owned())];
    let text = String::from_utf8(kept).map_err(not_text)?;
    calmly(file, || merge_text(file, text)).map_err(|mut faults| {
        faults.iter_mut().for_each(|fault| fault.what.insert_str(0, "also in [ledger] alone: "));
        faults
    })
}

/// Whose table begins with a line: the first part of its name.
fn table(line: &[u8]) -> Option<&[u8]> {
    let name = line.trim_ascii_start().strip_prefix(b"[")?;
    let name = name.strip_prefix(b"[").unwrap_or(name);
    let first = name.split(|byte| b".]".contains(byte)).next().unwrap_or_default().trim_ascii();
    let quoted = |quote: &[u8]| first.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    Some(quoted(b"\"").or_else(|| quoted(b"'")).unwrap_or(first))
}

/// The quote of the text over several lines that is open behind a line, which began in such a one or not. A text that is
/// not closed in its line ends with it.
fn open_after(mut rest: &[u8], mut inside: Option<u8>) -> Option<u8> {
    let mut short = None;
    while let Some((byte, behind)) = rest.split_first() {
        let is_three = behind.starts_with(&[*byte; 2]);
        let far = behind.get(2..).unwrap_or_default();
        rest = behind;
        match (inside.or(short), *byte) {
            (Some(b'"'), b'\\') => rest = behind.get(1..).unwrap_or_default(),
            (Some(quote), byte) if byte == quote && short == Some(quote) => short = None,
            (Some(quote), byte) if byte == quote && is_three => (inside, rest) = (None, far),
            (None, b'#') => return None,
            (None, quote @ (b'"' | b'\'')) if is_three => (inside, rest) = (Some(quote), far),
            (None, quote @ (b'"' | b'\'')) => short = Some(quote),
            _ => {}
        }
    }
    inside
}

#[cfg(test)]
mod tests;
