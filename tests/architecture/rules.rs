//! The rules, as functions from files to findings. What they hold is said in `architecture.rs`.

use crate::source::{Kind, Source, find, functions, imports};
use std::fmt;

/// One breach: where, and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// The layers, lowest first. A module imports from layers below its own, and nothing else but [`SIDEWAYS`].
pub(crate) const LAYERS: &[&[&str]] = &[
    &["id", "secret", "clock", "head", "failpoint", "plain"],
    &["error", "problem", "config", "telemetry", "tasks"],
    &["identity", "policy", "rate", "ledger", "upstream"],
    &["gateway", "resolver"],
    &["console"],
    &["server"],
    &["cli"],
];

/// The one import within a layer: `problem` turns `error` into an answer.
const SIDEWAYS: &[(&str, &str)] = &[("problem", "error"), ("config", "telemetry")];

/// The stand-in provider takes no part in the path: it imports these, and [`SANDBOX_USER`] alone imports it.
const SANDBOX: &str = "sandbox";
const SANDBOX_IMPORTS: &[&str] = &["id", "secret"];
const SANDBOX_USER: &str = "cli";

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Imports that do not run downward.
pub(crate) fn upward_imports(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let from = source.module().first().copied();
        for (to, line) in imports(source) {
            if let Some(why) = objection(from, &to) {
                found.push(Finding::new(&source.path, line, why));
            }
        }
    }
    found
}

/// Why `from` (`None` is `main.rs` or `lib.rs`, above all) may not import `to`.
fn objection(from: Option<&str>, to: &str) -> Option<String> {
    let Some(from) = from else { return (to == SANDBOX).then(|| format!("only {SANDBOX_USER} may import {SANDBOX}")) };
    if from == to {
        return None;
    }
    let allowed = match (from, to) {
        (SANDBOX, _) => SANDBOX_IMPORTS.contains(&to),
        (_, SANDBOX) => from == SANDBOX_USER,
        _ if SIDEWAYS.contains(&(from, to)) => true,
        _ => match (layer(from), layer(to)) {
            (Some(from), Some(to)) => to < from,
            (None, _) => return Some(format!("the module {from} has no layer")),
            (_, None) => return Some(format!("crate::{to} is not a module with a layer")),
        },
    };
    (!allowed).then(|| format!("{from} may not import {to}"))
}

/// Occurrences of any of the patterns in what ships, outside of the modules in `home`.
pub(crate) fn outside(sources: &[Source], patterns: &[&str], home: &[&str]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !home.iter().any(|module| source.is_within(module))) {
        for pattern in patterns {
            let lines = find(&source.shipped, pattern);
            found.extend(
                lines.into_iter().map(|line| Finding::new(&source.path, line, format!("`{pattern}` stands here"))),
            );
        }
    }
    found
}

/// What SQL begins with. Upper case, as all SQL here is written: prose does not match.
const SQL: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "DROP TABLE ",
    "PRAGMA ",
];

/// Strings that hold SQL, outside of the modules in `home`.
pub(crate) fn sql_outside(sources: &[Source], home: &[&str]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !home.iter().any(|module| source.is_within(module))) {
        for token in source.shipped.iter().filter(|token| token.kind == Kind::Text) {
            let text = token.text.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(word) = SQL.iter().find(|word| text.contains(*word)) {
                found.push(Finding::new(&source.path, token.line, format!("a string holds SQL (`{}`)", word.trim())));
            }
        }
    }
    found
}

/// The pattern must stand exactly once in what ships outside of `home`, in the file `path`.
pub(crate) fn exactly_once(sources: &[Source], pattern: &str, home: &[&str], path: &str) -> Vec<Finding> {
    let everywhere = outside(sources, &[pattern], home);
    match everywhere.as_slice() {
        [one] if one.path == path => Vec::new(),
        [] => vec![Finding::new(path, 1, format!("`{pattern}` stands nowhere"))],
        _ => everywhere,
    }
}

/// Files with more lines than `most`.
pub(crate) fn long_files(sources: &[Source], most: usize) -> Vec<Finding> {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources.iter().filter(|source| lines(source) > most);
    long.map(|source| Finding::new(&source.path, lines(source), format!("{} lines, at most {most}", lines(source))))
        .collect()
}

/// Functions with more lines than `most`, from `fn` to the closing brace.
pub(crate) fn long_functions(sources: &[Source], most: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        for function in functions(&source.tokens).into_iter().filter(|function| function.lines > most) {
            let what = format!("fn {} has {} lines, at most {most}", function.name, function.lines);
            found.push(Finding::new(&source.path, function.line, what));
        }
    }
    found
}

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "types", "manager", "managers"];

/// Folders, files and inline modules with a name that says nothing.
pub(crate) fn empty_names(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let parts = source.path.split('/').map(|part| part.strip_suffix(".rs").unwrap_or(part));
        for name in parts.filter(|part| EMPTY_NAMES.contains(part)) {
            found.push(Finding::new(&source.path, 1, format!("`{name}` in the path")));
        }
        for name in EMPTY_NAMES {
            let lines = find(&source.tokens, &format!("mod {name} {{"));
            found.extend(lines.into_iter().map(|line| Finding::new(&source.path, line, format!("mod {name}"))));
        }
    }
    found
}

/// What is written down to be done later. In pieces, so that this file does not find itself.
const LEFT_OVER: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const LEFT_OVER_CODE: &[&str] = &["dbg!", "todo!", "unimplemented!"];

/// Notes to self and unfinished code, in comments and tests too.
pub(crate) fn left_over(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            let words = || line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = LEFT_OVER.iter().find(|word| words().any(|w| w == **word)) {
                found.push(Finding::new(&source.path, number + 1, format!("{word} is left")));
            }
        }
        for pattern in LEFT_OVER_CODE {
            let lines = find(&source.tokens, pattern);
            found.extend(lines.into_iter().map(|line| Finding::new(&source.path, line, format!("{pattern} is left"))));
        }
    }
    found
}

/// Files whose first line is no `//!`, or whose last does not end.
pub(crate) fn unframed(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        if !source.text.lines().next().is_some_and(|line| line.starts_with("//! ")) {
            found.push(Finding::new(&source.path, 1, "the first line is not `//! …`"));
        }
        if !source.text.ends_with('\n') {
            found.push(Finding::new(&source.path, source.text.lines().count(), "no newline at the end"));
        }
    }
    found
}

/// The section `## Code map` of a text, with the line that it begins on.
pub(crate) fn code_map(text: &str) -> Option<(usize, String)> {
    let begin = text.lines().position(|line| line.trim_end().eq_ignore_ascii_case("## code map"))?;
    let lines = text.lines().skip(begin + 1).take_while(|line| !line.starts_with("## "));
    Some((begin + 1, lines.collect::<Vec<_>>().join("\n")))
}

/// Files under `src/` that the code map names neither themselves nor by a folder.
pub(crate) fn unmapped(sources: &[Source], map: &str) -> Vec<Finding> {
    let words: Vec<&str> = names(map).collect();
    let is_named = |source: &&Source| {
        let inside = source.path.strip_prefix("src/").unwrap_or(&source.path);
        let folders = inside.match_indices('/').filter_map(|(at, _)| inside.get(..=at));
        words.contains(&inside) || folders.into_iter().any(|folder| words.contains(&folder))
    };
    let missing = sources.iter().filter(|source| !is_named(source));
    missing.map(|source| Finding::new(&source.path, 1, "the code map does not know this file")).collect()
}

/// Rust files that the code map names and that are gone. `start` is the map's line in `ARCHITECTURE.md`.
pub(crate) fn gone(sources: &[Source], map: &str, start: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    for (number, line) in map.lines().enumerate() {
        for name in names(line).filter(|name| name.ends_with(".rs")) {
            let exists = sources.iter().any(|s| s.path == name || s.path.ends_with(&format!("/{name}")));
            if !exists {
                let what = format!("names {name}, which does not exist");
                found.push(Finding::new("ARCHITECTURE.md", start + number + 1, what));
            }
        }
    }
    found
}

/// The paths in a text, without a leading `src/` and with a folder's `*` dropped.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || "_-./".contains(c)));
    words.map(|word| word.trim_end_matches('.')).map(|word| word.strip_prefix("src/").unwrap_or(word))
}

/// Tests that a page names as `` `file.rs`: `test`, `test` `` and that are not there; how many are. A file without a folder
/// is in `tests/gateway`. What a line of a list names last is meant until the next line of the list.
pub(crate) fn named_tests(page: &str, text: &str, sources: &[Source]) -> (usize, Vec<Finding>) {
    let (mut file, mut there, mut findings) = (None, 0, Vec::new());
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() || line.trim_start().starts_with(['-', '#', '|']) {
            file = None;
        }
        for name in line.split('`').skip(1).step_by(2) {
            let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            let is_test = name.matches('_').count() > 1 && name.bytes().all(is_name);
            if name.ends_with(".rs") {
                let path = if name.contains('/') { name.to_owned() } else { format!("tests/gateway/{name}") };
                file = sources.iter().find(|source| source.path == path);
                if file.is_none() {
                    findings.push(Finding::new(page, number, format!("there is no {path}")));
                }
            } else if let Some(file) = file.filter(|_| is_test) {
                if functions(&file.tokens).iter().any(|function| function.name == name) {
                    there += 1;
                } else {
                    findings.push(Finding::new(page, number, format!("{} has no test {name}", file.path)));
                }
            }
        }
    }
    (there, findings)
}
