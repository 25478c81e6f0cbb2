//! What is wrong with a file as TOML, in the form of the other config errors.
//!
//! The parser recovers and goes on, so several syntax errors are told at once;
//! of those on one line only the first, because the rest are mostly its echo.

use std::collections::BTreeSet;

use toml::de::{DeTable, DeValue, Error};

use super::document::{ConfigError, join};
use super::source::{Source, cut};

/// More lines than this are most likely the echo of one unclosed bracket.
const MOST_LINES: usize = 10;

/// The first syntax error of each line, of the first few lines.
pub(super) fn errors(
    source: &Source<'_>,
    table: &DeTable<'_>,
    faults: &[Error],
) -> Vec<ConfigError> {
    let mut by_offset: Vec<(usize, &Error)> = faults
        .iter()
        .map(|fault| (fault.span().map_or(0, |span| span.start), fault))
        .collect();
    by_offset.sort_by_key(|(offset, _)| *offset);
    let mut lines = BTreeSet::new();
    by_offset
        .into_iter()
        .filter(|(offset, _)| lines.insert(source.position(*offset).0))
        .take(MOST_LINES)
        .map(|(offset, fault)| match fault.message() {
            "duplicate key" => duplicate(source, table, offset, fault),
            message => malformed(source, offset, message),
        })
        .collect()
}

/// A key or a header that was there already: the nearest one before it with
/// the same name, which is the one in its own table.
fn duplicate(
    source: &Source<'_>,
    table: &DeTable<'_>,
    offset: usize,
    fault: &Error,
) -> ConfigError {
    let name = fault.span().map(|span| source.shown(&span));
    let name = name.unwrap_or_default();
    let bare = name.trim_matches(['"', '\'']);
    let mut nearest: Option<(usize, String)> = None;
    visit(table, "", &mut |key, path, at| {
        let nearer = nearest.as_ref().is_none_or(|(best, _)| at >= *best);
        if key == bare && at <= offset && nearer {
            nearest = Some((at, path.to_owned()));
        }
    });
    let mut error = source.error(offset, "given twice");
    if let Some((first, _)) = nearest.as_ref().filter(|(first, _)| *first < offset) {
        error.problem = format!("given already in line {}", source.position(*first).0);
    }
    error.key = nearest.map_or_else(|| join("", bare), |(_, path)| path);
    error
}

/// Calls `found` with the name, the path and the offset of each key.
fn visit(table: &DeTable<'_>, path: &str, found: &mut impl FnMut(&str, &str, usize)) {
    for (key, value) in table {
        let path = join(path, key.get_ref());
        found(key.get_ref(), &path, key.span().start);
        match value.get_ref() {
            DeValue::Table(table) => visit(table, &path, found),
            DeValue::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    if let Some(table) = element.get_ref().as_table() {
                        visit(table, &format!("{path}[{index}]"), found);
                    }
                }
            }
            _ => {}
        }
    }
}

fn malformed(source: &Source<'_>, offset: usize, message: &str) -> ConfigError {
    let (problem, expected) = match message.split_once(", expected ") {
        // The parser means: nothing more after a number that looked complete.
        Some((problem, "nothing")) => (problem, "text in \"quotes\" or a plain number"),
        Some((problem, "literal string")) => (problem, "text in \"quotes\""),
        Some((problem, expected)) => (problem, expected),
        None => (message, ""),
    };
    let mut error = source.error(offset, &format!("not valid TOML: {problem}"));
    error.expected = (!expected.is_empty()).then(|| expected.to_owned());
    if let Some((key, value)) = entry(source.line(error.line)) {
        error.key = key.to_owned();
        error.value = (!may_be_private(key, value)).then(|| cut(value));
    }
    error
}

/// The key and value of a line that looks like an entry. A key of base64
/// alone, in the middle of a text over several lines, must not look like one:
/// it is longer than any key of ours, and has nothing after its `=`.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_key = (1..40).contains(&key.len()) && key.bytes().all(bare);
    (is_key && !value.is_empty()).then_some((key, value))
}

/// Whether a line that does not parse may hold private material. Its key may
/// be mistyped and its section is not known, so this asks for little: any
/// mention of a key but the public one.
fn may_be_private(key: &str, value: &str) -> bool {
    let mentions = |text: &str| {
        let text = text.to_ascii_lowercase().replace("public_key", "");
        text.contains("key") || text.contains("file") || text.contains("secret")
    };
    mentions(key) || mentions(value)
}
