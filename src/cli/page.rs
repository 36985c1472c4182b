//! What commands write: lines on stdout, complaints on stderr, tables that fit a terminal. A reader that has
//! gone away is no error; what cannot be written otherwise is said, and is not done.

use super::Exit;
use crate::clock::{Moment, moment, since};
use crate::config::Fault;
use crate::ledger::OpenError;
use crate::plain::is_invisible;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// No group's id that the provider makes is wider: `491701234567-1234567890@g.us`.
const GROUP: u16 = 28;

/// Something for stdout was lost, though somebody may read it.
static LOST: AtomicBool = AtomicBool::new(false);

/// Says once what keeps stdout from being written. `false`: it is not, or nobody reads any more.
pub(super) fn written(result: std::io::Result<()>) -> bool {
    let Err(error) = result else { return true };
    if error.kind() != ErrorKind::BrokenPipe && !LOST.swap(true, Ordering::Relaxed) {
        complain(format_args!("what there is to say cannot be written to stdout: {error}"));
    }
    false
}

/// How a command ends that would end so: what was to be said and is lost is not done.
pub(super) fn end(exit: Exit) -> Exit {
    if exit == Exit::Done && LOST.load(Ordering::Relaxed) { Exit::Unavailable } else { exit }
}

/// Writes a line to stdout. `false`: nobody reads any more, or it cannot be written.
pub(super) fn line(text: impl Display) -> bool {
    let mut out = std::io::stdout().lock();
    written(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// A text for a terminal: what would move the cursor or colour the screen is written out.
pub(super) fn shown(text: &str) -> String {
    let shown = |c: char| if is_invisible(c) && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Writes bytes to stdout as they are. `false`: nobody reads any more, or they cannot be written.
pub(super) fn bytes(bytes: &[u8]) -> bool {
    let mut out = std::io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// JSON on one line in which nothing can mislead who reads it.
pub(super) fn json_text(value: &impl serde::Serialize) -> String {
    escaped(&serde_json::to_string(value).unwrap_or_default())
}

/// JSON in which what would move the cursor or turn the direction of the text is written as an escape. It parses to the
/// same.
pub(super) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_invisible(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text
}

/// Whether people read what is written to stdout.
pub(super) fn is_watched() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes JSON, one line. `false`: nobody reads any more, or it cannot be written.
pub(super) fn json(value: &impl serde::Serialize) -> bool {
    line(json_text(value))
}

/// Writes JSON, one object a line, until nobody reads any more.
pub(super) fn json_lines(values: impl IntoIterator<Item = impl serde::Serialize>) {
    values.into_iter().all(|value| json(&value));
}

/// Writes a line to stderr.
pub(super) fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", shown(&text.to_string()));
}

/// How far a long command is: a line a second on stderr, if that is a terminal.
pub(super) struct Progress {
    started: Moment,
    said: Moment,
    watched: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { started: moment(), said: moment(), watched: std::io::stderr().is_terminal() }
    }

    /// So many entries of so many are done.
    pub(super) fn tick(&mut self, done: u64, all: u64) {
        if self.watched && since(self.said) >= Duration::from_secs(1) {
            self.said = moment();
            let rate = u128::from(done) * 1000 / since(self.started).as_millis().max(1);
            complain(format_args!("{done} of {all} entries ({} %), {rate} entries/s", done * 100 / all.max(1)));
        }
    }
}

/// Says how far something is, if stderr is a terminal.
pub(super) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        complain(text);
    }
}

/// A table for people.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.to_vec());
    let mut widest = vec![0; head.len()];
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| shown(cell)).collect();
        widest.iter_mut().zip(&cells).for_each(|(widest, cell)| *widest = cell.chars().count().max(*widest));
        table.add_row(cells);
    }
    // An id that is broken over two lines cannot be copied; one longer than any real one takes no room from the others.
    // A column is padded by a space on each side.
    for (index, name) in head.iter().enumerate().filter(|(_, name)| matches!(**name, "request id" | "group")) {
        if let Some(column) = table.column_mut(index) {
            let is_usual =
                *name == "request id" || widest.get(index).is_none_or(|widest| *widest <= usize::from(GROUP));
            column.set_constraint(if is_usual {
                ColumnConstraint::ContentWidth
            } else {
                ColumnConstraint::LowerBoundary(Width::Fixed(GROUP + 2))
            });
        }
    }
    table
}

/// How many columns the terminal has; `None`: it is none, and nothing has to fit.
pub(super) fn width() -> Option<u16> {
    Table::new().width()
}

/// Reports all faults of a configuration.
pub(super) fn faults(file: &Path, faults: &[Fault]) -> Exit {
    let count = faults.len();
    complain(format_args!("{}: {count} {}", file.display(), if count == 1 { "fault" } else { "faults" }));
    for fault in faults {
        complain(format_args!("  {fault}"));
    }
    Exit::Usage
}

/// Reports why a ledger cannot be used.
pub(super) fn ledger(error: &OpenError) -> Exit {
    complain(error);
    match error {
        OpenError::Held(_) | OpenError::Unusable(_) => Exit::Unavailable,
        OpenError::Damaged(_) => Exit::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::json_text;

    #[test]
    fn json_says_the_same_and_shows_what_hides_in_it() {
        let value = serde_json::json!({"detail\u{202e}": "a\u{1b}[31m \u{7f}\u{9b}\u{2066}\u{feff} é漢\u{1f600}\n"});
        let text = json_text(&value);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert!(!text.chars().any(crate::plain::is_invisible), "{text}");
        assert!(text.contains("\\u202e") && text.contains("\\u009b") && text.contains("é漢\u{1f600}"), "{text}");
    }
}
