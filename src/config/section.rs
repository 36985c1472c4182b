//! Reads one table of the merged configuration and collects every fault instead of stopping at the first.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "every kind of value that is not the expected one is the same fault"
)]

use super::file::Seen;
use super::rules::Listed;
use config::{Map, Value, ValueKind};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// One thing that is wrong: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The full key, such as `callers[0].tokens[1].sha256`.
    pub key: String,
    /// Where its value came from: a file, the environment, the defaults.
    pub source: String,
    /// What is wrong and how to mend it.
    pub what: String,
}

impl Fault {
    /// One of the file as a whole.
    pub(super) fn of(file: &Path, what: String) -> Self {
        Self { key: "the file".to_owned(), source: file.display().to_string(), what }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.source, self.what)
    }
}

/// What is shared by all sections of one reading.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) faults: Rc<RefCell<Vec<Fault>>>,
    pub(super) file: String,
    pub(super) folder: PathBuf,
    /// What was read, with what each file was then.
    pub(super) files: Rc<RefCell<Vec<Seen>>>,
    /// Each `groups_file`, read once; nothing where it could not be read.
    pub(super) lists: Rc<RefCell<HashMap<PathBuf, Option<Arc<Listed>>>>>,
    /// What is in the files that it names is not wanted: they are left alone, and taken as good.
    pub(super) without_files: bool,
}

impl Reading {
    /// Reads a text and remembers what its file was.
    pub(super) fn read_text(&self, file: &Path, at_most: u64) -> std::io::Result<String> {
        let (text, seen) = super::file::read_seen(file, at_most);
        self.files.borrow_mut().push(seen);
        text
    }
}

/// A table being read; each key that is asked for is taken out, and what is left at the end is unknown.
pub(super) struct Section {
    path: String,
    rest: Map<String, Value>,
    known: Vec<&'static str>,
    pub(super) reading: Reading,
}

impl Section {
    pub(super) fn new(path: String, table: Map<String, Value>, reading: Reading) -> Self {
        Self { path, rest: table, known: Vec::new(), reading }
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn fault(&self, name: &str, origin: Option<&str>, what: impl Into<String>) {
        let source = origin.unwrap_or(&self.reading.file).to_owned();
        let fault = Fault { key: self.key(name), source, what: what.into() };
        self.reading.faults.borrow_mut().push(fault);
    }

    /// A list is empty, which is a fault unless what was in it had faults of its own.
    pub(super) fn empty(&self, name: &str, what: impl Into<String>) {
        let key = self.key(name);
        let is_of_it =
            |fault: &Fault| fault.key.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
        if !self.reading.faults.borrow().iter().any(is_of_it) {
            self.fault(name, None, what);
        }
    }

    /// Whether something stands under this name, whatever it is.
    pub(super) fn has(&self, name: &str) -> bool {
        self.rest.contains_key(name)
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.rest.remove(name)
    }

    /// A text, if it is there.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.take(name)?;
        let origin = value.origin().map(str::to_owned);
        match value.kind {
            ValueKind::String(text) => Some(text),
            other => {
                self.fault(name, origin.as_deref(), format!("is {}; write a text in quotes", kind_name(&other)));
                None
            }
        }
    }

    /// A text that must be there and that `parse` must understand.
    pub(super) fn parsed<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if !self.rest.contains_key(name) {
            self.known.push(name);
            self.fault(name, None, "is missing; it has no default");
            return None;
        }
        self.parsed_if_there(name, parse)
    }

    /// The same for a text that may be missing.
    pub(super) fn parsed_if_there<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let origin = self.rest.get(name).and_then(Value::origin).map(str::to_owned);
        let text = self.text(name)?;
        parse(&text).map_err(|what| self.fault(name, origin.as_deref(), what)).ok()
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(name, |text| word(text, words))
    }

    /// The same for one that may be missing.
    pub(super) fn one_of_if_there<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parsed_if_there(name, |text| word(text, words))
    }

    /// A path; a relative one starts at the folder of the configuration file.
    pub(super) fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let folder = self.reading.folder.clone();
        self.text(name).map(|text| folder.join(text))
    }

    /// A path that must be there.
    pub(super) fn required_path(&mut self, name: &'static str) -> Option<PathBuf> {
        let folder = self.reading.folder.clone();
        self.parsed(
            name,
            |text| if text.is_empty() { Err("is empty; name a path".to_owned()) } else { Ok(folder.join(text)) },
        )
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &'static str, least: u64, most: u64) -> u64 {
        let Some(value) = self.take(name) else {
            self.fault(name, None, format!("is missing; write a whole number from {least} to {most}"));
            return least;
        };
        let origin = value.origin().map(str::to_owned);
        let number = match value.kind {
            ValueKind::I64(n) => u64::try_from(n).ok(),
            ValueKind::U64(n) => Some(n),
            ValueKind::String(ref text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(n) if (least..=most).contains(&n) => n,
            _ => {
                self.fault(name, origin.as_deref(), format!("is not a whole number from {least} to {most}"));
                least
            }
        }
    }

    /// The same for a number that may be missing.
    pub(super) fn number_if_there(&mut self, name: &'static str, least: u64, most: u64) -> Option<u64> {
        if self.rest.contains_key(name) {
            return Some(self.number(name, least, most));
        }
        self.known.push(name);
        None
    }

    /// Every key of a table that may have any, with its text.
    pub(super) fn texts<T>(self, parse: impl Fn(&str) -> Result<T, String>) -> BTreeMap<String, T> {
        let mut texts = BTreeMap::new();
        for (name, value) in &self.rest {
            let parsed = match &value.kind {
                ValueKind::String(text) => parse(text),
                other => Err(format!("is {}; write a text in quotes", kind_name(other))),
            };
            match parsed {
                Ok(text) => drop(texts.insert(name.clone(), text)),
                Err(what) => self.fault(name, value.origin(), what),
            }
        }
        texts
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let Some(value) = self.take(name) else { return false };
        let origin = value.origin().map(str::to_owned);
        match value.kind {
            ValueKind::Boolean(flag) => flag,
            ValueKind::String(ref text) if text == "true" || text == "false" => text == "true",
            _ => {
                self.fault(name, origin.as_deref(), "is neither true nor false");
                false
            }
        }
    }

    /// A list of texts, each understood by `parse`. `None` where the key is not there.
    pub(super) fn list<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let value = self.take(name)?;
        let origin = value.origin().map(str::to_owned);
        let ValueKind::Array(items) = value.kind else {
            self.fault(name, origin.as_deref(), "is not a list; write [\"…\", \"…\"]");
            return Some(Vec::new());
        };
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let result = match item.kind {
                ValueKind::String(text) => parse(&text),
                other => Err(format!("is {}; write a text in quotes", kind_name(&other))),
            };
            match result {
                Ok(item) => parsed.push(item),
                Err(what) => self.fault(&format!("{name}[{index}]"), origin.as_deref(), what),
            }
        }
        Some(parsed)
    }

    /// A table inside this one, if it is there.
    pub(super) fn table(&mut self, name: &'static str) -> Option<Section> {
        let value = self.take(name)?;
        let origin = value.origin().map(str::to_owned);
        let key = self.key(name);
        match value.kind {
            ValueKind::Table(table) => Some(Section::new(key, table, self.reading.clone())),
            _ => {
                self.fault(name, origin.as_deref(), format!("is not a table; write [{key}]"));
                None
            }
        }
    }

    /// A table that is empty where it is not there.
    pub(super) fn table_or_empty(&mut self, name: &'static str) -> Section {
        let key = self.key(name);
        self.table(name).unwrap_or_else(|| Section::new(key, Map::new(), self.reading.clone()))
    }

    /// A list of tables; empty where it is not there.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<Section> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let origin = value.origin().map(str::to_owned);
        let ValueKind::Array(items) = value.kind else {
            self.fault(name, origin.as_deref(), "is not a list of tables");
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let name = format!("{name}[{index}]");
            match item.kind {
                ValueKind::Table(table) => sections.push(Section::new(self.key(&name), table, self.reading.clone())),
                _ => self.fault(&name, origin.as_deref(), "is not a table; write { … }"),
            }
        }
        sections
    }

    /// What is left is unknown.
    pub(super) fn finish(self) {
        for (name, value) in &self.rest {
            let what = format!("is not a known key; here there are: {}", self.known.join(", "));
            self.fault(name, origin(value), what);
        }
    }
}

/// Where a value came from. A table that the environment made has no origin; what is in it has.
fn origin(value: &Value) -> Option<&str> {
    let within = || match &value.kind {
        ValueKind::Table(table) => table.values().find_map(origin),
        _ => None,
    };
    value.origin().or_else(within)
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("\"{text}\" is not known; write one of: {}", list.join(", "))
    })
}

fn kind_name(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a whole number",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::String(_) => "a text",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
    }
}
