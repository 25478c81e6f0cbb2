//! A TOML document read key by key, so that everything wrong with it can be
//! told at once, each with its line.
//!
//! Deserializing into a struct stops at the first problem and forgets where it
//! was. Here a [`Section`] is asked for each key it may hold; it notes what is
//! missing, wrong or unknown and goes on. Never shows the value of a key that
//! may hold private material.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Report, Unknown};
use super::source::Source;
use super::syntax;
use super::value::Kind;

/// Everything wrong with one file, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, sorted by line.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }
}

/// One error a line.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// One thing wrong. Prints as `FILE:LINE: KEY = VALUE: PROBLEM; expected …`,
/// which editors take for a compiler's message and jump to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named to the program.
    pub file: String,
    /// The line, from 1. A key that is missing has its section's line.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// The key with its path, such as `site[1].cidrs[0]`; empty where a syntax
    /// error leaves it unknown.
    pub key: String,
    /// The value as written, cut short; `None` where there is none or it may
    /// be private.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub expected: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        match (self.key.as_str(), &self.value) {
            ("", _) => {}
            (key, None) => write!(f, "{key}: ")?,
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(&self.problem)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        Ok(())
    }
}

/// Parses `text` and has `read` read it. `file` is for the messages.
///
/// With syntax errors in the file, what could be parsed is read as well, but
/// nothing is called missing or unknown (it may belong to what did not parse)
/// and nothing more is said of the lines that do not parse.
pub(super) fn parse<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(&mut Section<'_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    parse_noting_keys(file, text, read).0
}

/// As [`parse`]; tells also which keys were asked for, as `site[].cidrs`, so
/// that a test can hold the documentation against them.
pub(super) fn parse_noting_keys<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(&mut Section<'_>) -> Option<T>,
) -> (Result<T, ConfigErrors>, BTreeSet<String>) {
    let source = Source::new(file, text);
    let (table, faults) = DeTable::parse_recoverable(text);
    let report = Report {
        source: &source,
        findings: RefCell::default(),
        unknown: RefCell::default(),
        known: RefCell::default(),
    };
    let mut top = Section {
        report: &report,
        table: table.get_ref(),
        place: Place {
            path: String::new(),
            span: 0..0,
            secret: false,
        },
        pattern: String::new(),
        asked: Vec::new(),
        free: false,
    };
    let value = read(&mut top);
    top.close();
    let (mut findings, known) = report.finish();

    if !faults.is_empty() {
        let broken_lines: BTreeSet<usize> = faults
            .iter()
            .filter_map(toml::de::Error::span)
            .map(|span| source.position(span.start).0)
            .collect();
        findings
            .retain(|finding| !finding.of_structure && !broken_lines.contains(&finding.error.line));
    }
    let mut errors: Vec<ConfigError> = findings.into_iter().map(|finding| finding.error).collect();
    errors.extend(syntax::errors(&source, table.get_ref(), &faults));
    errors.sort_by(|a, b| (a.line, a.column, &a.key).cmp(&(b.line, b.column, &b.key)));

    let result = match value {
        Some(value) if errors.is_empty() => Ok(value),
        // A reader that gives no value has said why; should it not have, the
        // file must not pass for a good one all the same.
        None if errors.is_empty() => Err(ConfigErrors(vec![source.error(0, "cannot be read")])),
        _ => Err(ConfigErrors(errors)),
    };
    (result, known)
}

/// One table of the document.
pub(super) struct Section<'a> {
    report: &'a Report<'a>,
    table: &'a DeTable<'a>,
    place: Place,
    /// The path with `[]` for every index.
    pattern: String,
    /// The keys that may be here.
    asked: Vec<&'static str>,
    /// Whether any key may be here.
    free: bool,
}

impl<'a> Section<'a> {
    /// The value of a key that must be there.
    pub(super) fn required<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<Located<T>> {
        if !self.has(key) {
            self.missing(key, kind.expected);
        }
        self.optional(key, kind)
    }

    /// The value of a key that may be left out. `None` also where it is wrong,
    /// which is noted then.
    pub(super) fn optional<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<Located<T>> {
        let (place, value) = self.take(key)?;
        self.report.accept(place, value, kind)
    }

    /// The value of a key, or its default.
    pub(super) fn with_default<T>(&mut self, key: &'static str, kind: &Kind<T>, default: T) -> T {
        self.optional(key, kind)
            .map_or(default, |found| found.value)
    }

    /// The elements of a list, without those that are wrong, each of which is
    /// noted. `None` where the key is missing or no list.
    pub(super) fn list<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<Vec<Located<T>>> {
        let (place, value) = self.take(key)?;
        let DeValue::Array(elements) = value.get_ref() else {
            let expected = format!("a list, each {}", kind.expected);
            self.report.reject(&place, "not a list", Some(expected));
            return None;
        };
        let accepted = elements.iter().enumerate().filter_map(|(index, element)| {
            let place = place.element(index, element.span());
            self.report.accept(place, element, kind)
        });
        Some(accepted.collect())
    }

    /// As [`Self::list`], of a key that may be left out, and may not be empty:
    /// no elements could mean all or none.
    pub(super) fn nonempty_list<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
    ) -> Option<Vec<Located<T>>> {
        self.reject_if_empty(key, kind.expected);
        self.list(key, kind)
    }

    /// As [`Self::list`], of a key that must be there with at least one element.
    pub(super) fn required_list<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
    ) -> Option<Vec<Located<T>>> {
        if !self.has(key) {
            self.missing(key, &at_least_one(kind.expected));
        }
        self.nonempty_list(key, kind)
    }

    /// One value or a list of them, as `privnet` is given. Must be there.
    pub(super) fn required_one_or_more<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
    ) -> Option<Vec<Located<T>>> {
        match self.table.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.required_list(key, kind),
            _ => self.required(key, kind).map(|one| vec![one]),
        }
    }

    /// The table of a key, read by `read`.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&mut Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let (place, value) = self.take(key)?;
        self.enter(key, place, value, expected, read)
    }

    /// As [`Self::table`], of a key that must be there.
    pub(super) fn required_table<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&mut Section<'_>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, expected);
        }
        self.table(key, expected, read)
    }

    /// As [`Self::table`], of a key under which an operator may have written
    /// private material: no value of it is ever shown.
    pub(super) fn secret_table<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&mut Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let (mut place, value) = self.take(key)?;
        place.secret = true;
        self.enter(key, place, value, expected, read)
    }

    /// Every `[[key]]` table, read by `read`, with its place. One that cannot
    /// be read is a `None` among them.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> Option<T>,
    ) -> Vec<Located<Option<T>>> {
        let Some((place, value)) = self.take(key) else {
            return Vec::new();
        };
        let expected = format!("tables that start with [[{key}]]");
        let Some(elements) = value.get_ref().as_array() else {
            let problem = match value.get_ref().is_table() {
                true => "one table where there may be several",
                false => "not a list of tables",
            };
            self.report.reject(&place, problem, Some(expected));
            return Vec::new();
        };
        let pattern = format!("{key}[]");
        let read_one = |(index, element): (usize, &'a Spanned<DeValue<'a>>)| {
            let place = place.element(index, element.span());
            let value = self.enter(&pattern, place.clone(), element, &expected, &mut read);
            Located { place, value }
        };
        elements.iter().enumerate().map(read_one).collect()
    }

    /// The elements of a list that holds words, taken by `kind`, and tables, read
    /// by `read`. Not empty; without those that are wrong.
    pub(super) fn words_or_tables<T>(
        &mut self,
        key: &'static str,
        kind: &Kind<T>,
        mut read: impl FnMut(&mut Section<'_>) -> Option<T>,
    ) -> Vec<Located<T>> {
        self.reject_if_empty(key, kind.expected);
        let Some((place, value)) = self.take(key) else {
            return Vec::new();
        };
        let Some(elements) = value.get_ref().as_array() else {
            let expected = format!("a list, each {}", kind.expected);
            self.report.reject(&place, "not a list", Some(expected));
            return Vec::new();
        };
        let pattern = format!("{key}[]");
        let read_one = |(index, element): (usize, &'a Spanned<DeValue<'a>>)| {
            let place = place.element(index, element.span());
            if !element.get_ref().is_table() {
                return self.report.accept(place, element, kind);
            }
            let value = self.enter(&pattern, place.clone(), element, kind.expected, &mut read)?;
            Some(Located { place, value })
        };
        elements.iter().enumerate().filter_map(read_one).collect()
    }

    /// Every entry of a table whose keys are the operator's own, so that none
    /// of them is unknown.
    pub(super) fn entries<T>(&mut self, kind: &Kind<T>) -> Vec<(String, Located<T>)> {
        self.free = true;
        let accepted = self.table.iter().filter_map(|(key, value)| {
            let place = self.place.child(key.get_ref(), value.span());
            let value = self.report.accept(place, value, kind)?;
            Some((key.get_ref().clone().into_owned(), value))
        });
        accepted.collect()
    }

    /// Notes no key as unknown, where it cannot be told which there are.
    pub(super) fn take_any(&mut self) {
        self.free = true;
    }

    /// Notes what is wrong with a value that was good by itself.
    pub(super) fn reject(&self, place: &Place, problem: &str, expected: Option<String>) {
        self.report.reject(place, problem, expected);
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &str, expected: &str) {
        let place = self.place.child(key, self.place.span.clone());
        let expected = Some(expected.to_owned());
        let mut finding = self.report.finding(&place, "missing", expected);
        finding.of_structure = true;
        finding.error.value = None;
        self.report.findings.borrow_mut().push(finding);
    }

    /// The line of a place, for a message about another.
    pub(super) fn line_of(&self, place: &Place) -> usize {
        self.report.source.position(place.span.start).0
    }

    /// Where this section is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether nothing at all is written in this section.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether the key was written, rightly or wrongly.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// Whether the key was written with text for its value.
    pub(super) fn has_text(&self, key: &str) -> bool {
        self.table
            .get(key)
            .is_some_and(|value| value.get_ref().is_str())
    }

    /// Whether the key was written with a table for its value.
    pub(super) fn has_table(&self, key: &str) -> bool {
        self.table
            .get(key)
            .is_some_and(|value| value.get_ref().is_table())
    }

    fn reject_if_empty(&self, key: &str, expected: &str) {
        let Some(value) = self.table.get(key) else {
            return;
        };
        if value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
        {
            let place = self.place.child(key, value.span());
            self.report
                .reject(&place, "empty", Some(at_least_one(expected)));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<(Place, &'a Spanned<DeValue<'a>>)> {
        self.asked.push(key);
        let pattern = join(&self.pattern, key);
        self.report.known.borrow_mut().insert(pattern);
        let value = self.table.get(key)?;
        Some((self.place.child(key, value.span()), value))
    }

    fn enter<T>(
        &self,
        key: &str,
        place: Place,
        value: &'a Spanned<DeValue<'a>>,
        expected: &str,
        read: impl FnOnce(&mut Section<'_>) -> Option<T>,
    ) -> Option<T> {
        let DeValue::Table(table) = value.get_ref() else {
            let expected = Some(expected.to_owned());
            self.report.reject(&place, "not a table", expected);
            return None;
        };
        let mut section = Section {
            report: self.report,
            table,
            place,
            pattern: join(&self.pattern, key),
            asked: Vec::new(),
            free: false,
        };
        let value = read(&mut section);
        section.close();
        value
    }

    /// Notes every key that nobody asked for.
    fn close(self) {
        if self.free {
            return;
        }
        let strange = self.table.keys().filter(|key| {
            let key: &str = key.get_ref();
            !self.asked.contains(&key)
        });
        for key in strange {
            self.report.unknown.borrow_mut().push(Unknown {
                name: key.get_ref().clone().into_owned(),
                place: self.place.child(key.get_ref(), key.span()),
                known_here: self.asked.clone(),
            });
        }
    }
}

fn at_least_one(expected: &str) -> String {
    format!("a list of at least one, each {expected}")
}

/// Where something is in the document.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) span: Range<usize>,
    pub(super) secret: bool,
}

impl Place {
    fn child(&self, key: &str, span: Range<usize>) -> Self {
        Self {
            path: join(&self.path, key),
            span,
            secret: self.secret,
        }
    }

    fn element(&self, index: usize, span: Range<usize>) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            span,
            secret: self.secret,
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// The dotted path of a key in a section, quoted where TOML would need it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_[]".contains(&byte);
    // The 32 bytes of a WireGuard key in base64, less the `=` that makes them
    // an entry: no key of ours, but perhaps somebody's secret.
    let may_be_private = key.len() == 43 && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let key = match !key.is_empty() && key.bytes().all(bare) {
        _ if may_be_private => "…".to_owned(),
        true => key.to_owned(),
        false => format!("{key:?}"),
    };
    match path.is_empty() {
        true => key,
        false => format!("{path}.{key}"),
    }
}
