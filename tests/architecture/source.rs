//! Reads Rust source far enough to hold rules over it: files into tokens, tokens into imports and functions.
//!
//! Not a parser. It knows comments, strings, characters, lifetimes and brackets, which is what it takes not to be
//! fooled by a brace in a string or a name in a comment.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// One character of punctuation.
    Mark,
    /// A string or character, with its quotes.
    Text,
}

/// A piece of code; comments are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

/// One file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the repository, such as `src/gateway/forward.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Everything but comments.
    pub(crate) tokens: Vec<Token>,
    /// The tokens that ship: without `#[cfg(test)]` items, and none at all in a file of tests.
    pub(crate) shipped: Vec<Token>,
}

/// A function and the lines from its `fn` to its closing brace.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let tokens = lex(text);
        let is_test = path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/");
        let shipped = if is_test { Vec::new() } else { without_tests(&tokens) };
        Self { path: path.to_owned(), text: text.to_owned(), tokens, shipped }
    }

    /// The module's name, outermost first: `src/gateway/forward.rs` is `gateway`, `forward`; `src/lib.rs` is nothing.
    pub(crate) fn module(&self) -> Vec<&str> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let name = inside.strip_suffix(".rs").unwrap_or(inside);
        let name = name.strip_suffix("/mod").unwrap_or(name);
        if name == "lib" || name == "main" { Vec::new() } else { name.split('/').collect() }
    }

    /// Whether this is the file of `name` (`ledger/sqlite`, `main`) or lies in its folder.
    pub(crate) fn is_within(&self, name: &str) -> bool {
        let rest = self.path.strip_prefix("src/").and_then(|inside| inside.strip_prefix(name));
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }
}

/// All Rust files under a folder of the repository, in the order of their paths.
///
/// # Errors
/// What reading the folder or a file reports. A folder that does not exist holds no files.
pub(crate) fn read_all(root: &Path, folder: &str) -> io::Result<Vec<Source>> {
    let mut paths = BTreeSet::new();
    if root.join(folder).is_dir() {
        walk(&root.join(folder), &mut |path| {
            let relative = path.strip_prefix(root).unwrap_or(path);
            paths.insert(relative.to_string_lossy().into_owned());
        })?;
    }
    paths.into_iter().map(|path| Ok(Source::new(&path, &fs::read_to_string(root.join(&path))?))).collect()
}

fn walk(folder: &Path, found: &mut impl FnMut(&Path)) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found(&path);
        }
    }
    Ok(())
}

/// Splits source into tokens and drops comments.
pub(crate) fn lex(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (kind, length) = next(rest, first);
        let (text, after) = rest.split_at(length);
        if let Some(kind) = kind {
            tokens.push(Token { kind, text: text.to_owned(), line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The kind of what `rest` begins with, `None` for blanks and comments, and its length in bytes.
fn next(rest: &str, first: char) -> (Option<Kind>, usize) {
    if rest.starts_with("//") {
        (None, rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        (None, block_comment(rest))
    } else if let Some(length) = string(rest) {
        (Some(Kind::Text), length)
    } else if first == '\'' {
        quote(rest)
    } else if is_word(first) {
        (Some(Kind::Word), rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
    } else if first.is_whitespace() {
        (None, first.len_utf8())
    } else {
        (Some(Kind::Mark), first.len_utf8())
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut length) = (0_usize, 0);
    while let Some(tail) = rest.get(length..).filter(|tail| !tail.is_empty()) {
        let step = if tail.starts_with("/*") {
            depth += 1;
            2
        } else if tail.starts_with("*/") {
            depth -= 1;
            2
        } else {
            tail.chars().next().map_or(1, char::len_utf8)
        };
        length += step;
        if depth == 0 {
            break;
        }
    }
    length
}

/// The length of the string literal that `rest` begins with: plain, byte, C or raw.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|p| {
        rest.strip_prefix(p).is_some_and(|tail| tail.starts_with('"') || (p.ends_with('r') && raw_opening(tail)))
    })?;
    let body = rest.get(prefix.len()..)?;
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let closing = format!("\"{}", "#".repeat(hashes));
        let inside = body.get(hashes + 1..)?;
        let end = inside.find(&closing).map_or(inside.len(), |at| at + closing.len());
        return Some(prefix.len() + hashes + 1 + end);
    }
    Some(prefix.len() + escaped(body, '"'))
}

fn raw_opening(tail: &str) -> bool {
    tail.starts_with('#') && tail.trim_start_matches('#').starts_with('"')
}

/// The length of a literal that begins and ends with `quote` and in which `\` escapes one character.
fn escaped(literal: &str, quote: char) -> usize {
    let mut skip = false;
    for (at, c) in literal.char_indices().skip(1) {
        match c {
            _ if skip => skip = false,
            '\\' => skip = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    literal.len()
}

/// A character (`'{'`, `'\''`) or the mark before a lifetime (`'a`).
fn quote(rest: &str) -> (Option<Kind>, usize) {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => (Some(Kind::Text), escaped(rest, '\'')),
        _ => (Some(Kind::Mark), 1),
    }
}

/// Where `pattern` (`Instant::now`, `upstream.delete(`) stands in the tokens: blanks and line breaks do not matter, and
/// names match whole.
pub(crate) fn find(tokens: &[Token], pattern: &str) -> Vec<usize> {
    let wanted = lex(pattern);
    let same = |window: &&[Token]| window.iter().zip(&wanted).all(|(token, want)| token.is(&want.text));
    tokens
        .windows(wanted.len().max(1))
        .filter(same)
        .filter_map(|window| window.first())
        .map(|token| token.line)
        .collect()
}

/// Drops every item under exactly `#[cfg(test)]`, its attributes included.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let attribute = lex("#[cfg(test)]");
    let (mut kept, mut rest) = (Vec::new(), tokens);
    while let Some((first, after)) = rest.split_first() {
        let marked = rest.len() >= attribute.len() && rest.iter().zip(&attribute).all(|(a, b)| a.is(&b.text));
        if marked {
            let item = rest.get(attribute.len()..).unwrap_or_default();
            rest = item.get(item_length(item)..).unwrap_or_default();
        } else {
            kept.push(first.clone());
            rest = after;
        }
    }
    kept
}

/// How many tokens an item has: to its `;`, or to the brace that closes its body.
pub(crate) fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Mark) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Every function with a body, nested ones too.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate().filter(|(_, token)| token.is("fn")) {
        let item = tokens.get(at..).unwrap_or_default();
        let item = item.get(..item_length(item)).unwrap_or_default();
        let (Some(name), Some(last)) = (item.get(1), item.last()) else { continue };
        if name.kind == Kind::Word && last.is("}") {
            found.push(Function { name: name.text.clone(), line: token.line, lines: last.line - token.line + 1 });
        }
    }
    found
}

/// The top-level modules that the code names, through `crate::`, the library's name or enough `super::`, with lines.
/// What a brace list names is found too.
pub(crate) fn imports(source: &Source) -> Vec<(String, usize)> {
    let depth = source.module().len();
    let mut found = Vec::new();
    let mut rest = source.shipped.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let from_root = match first.text.as_str() {
            "crate" | "wasend_gateway" => after,
            "super" => {
                let (count, end) = supers(after);
                rest = end;
                if count < depth {
                    continue;
                }
                end
            }
            _ => continue,
        };
        found.extend(named_first(from_root));
    }
    found
}

/// How many `super` there are in a row when `after` follows the first, and what follows the last.
fn supers(mut after: &[Token]) -> (usize, &[Token]) {
    let mut count = 1;
    while let [a, b, word, end @ ..] = after
        && a.is(":")
        && b.is(":")
        && word.is("super")
    {
        count += 1;
        after = end;
    }
    (count, after)
}

/// The names that directly follow `::`, or that begin the members of `::{ … }`.
fn named_first(after: &[Token]) -> Vec<(String, usize)> {
    let [a, b, inner @ ..] = after else { return Vec::new() };
    if !a.is(":") || !b.is(":") {
        return Vec::new();
    }
    let Some(first) = inner.first() else { return Vec::new() };
    if !first.is("{") {
        return vec![(first.text.clone(), first.line)];
    }
    let (mut depth, mut begins, mut names) = (0_usize, false, Vec::new());
    for token in inner {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            _ if begins => names.push((token.text.clone(), token.line)),
            _ => {}
        }
        begins = depth == 1 && (token.is("{") || token.is(","));
    }
    names
}
