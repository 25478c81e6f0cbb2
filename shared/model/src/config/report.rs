//! What is wrong with a document, collected while its sections are read: each
//! finding with its line, and a guess at what an unknown key was meant to be.

use std::cell::RefCell;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::DeValue;

use super::document::{ConfigError, Located, Place};
use super::source::Source;
use super::value::Kind;

/// What was found wrong, while the sections are being read.
pub(super) struct Report<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) findings: RefCell<Vec<Finding>>,
    pub(super) unknown: RefCell<Vec<Unknown>>,
    pub(super) known: RefCell<BTreeSet<String>>,
}

pub(super) struct Finding {
    pub(super) error: ConfigError,
    /// Whether it says that a key is missing or unknown where it is, which a
    /// syntax error before it makes doubtful.
    pub(super) of_structure: bool,
}

/// A key that its section does not know. What to say of it is decided when
/// all the keys that the others know have been heard.
pub(super) struct Unknown {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) known_here: Vec<&'static str>,
}

impl Report<'_> {
    pub(super) fn accept<T>(
        &self,
        place: Place,
        value: &Spanned<DeValue<'_>>,
        kind: &Kind<T>,
    ) -> Option<Located<T>> {
        match (kind.parse)(value.get_ref()) {
            Ok(value) => Some(Located { value, place }),
            Err(rejection) => {
                let expected = rejection.expected.unwrap_or_else(|| kind.expected.into());
                self.reject(&place, &rejection.problem, Some(expected));
                None
            }
        }
    }

    pub(super) fn reject(&self, place: &Place, problem: &str, expected: Option<String>) {
        let finding = self.finding(place, problem, expected);
        self.findings.borrow_mut().push(finding);
    }

    pub(super) fn finding(
        &self,
        place: &Place,
        problem: &str,
        expected: Option<String>,
    ) -> Finding {
        let value = (!place.secret).then(|| self.source.shown(&place.span));
        let error = ConfigError {
            key: place.path.clone(),
            value: value.filter(|value| !value.is_empty() && !is_header(value)),
            expected,
            ..self.source.error(place.span.start, problem)
        };
        Finding {
            error,
            of_structure: false,
        }
    }

    pub(super) fn finish(self) -> (Vec<Finding>, BTreeSet<String>) {
        let known = self.known.take();
        for unknown in self.unknown.take() {
            let mut finding = self.finding(&unknown.place, "unknown key", None);
            // Only the key is wrong; and what is written under a mistyped
            // `private_key` may be one.
            finding.error.value = None;
            finding.of_structure = true;
            finding.error.expected = suggestion(&unknown, &known);
            self.findings.borrow_mut().push(finding);
        }
        (self.findings.into_inner(), known)
    }
}

/// Whether this is how a table starts, which is no value to show.
fn is_header(text: &str) -> bool {
    let name = text.trim_matches(['[', ']']);
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() < text.len() && !name.is_empty() && name.bytes().all(bare)
}

/// What the writer of an unknown key may have meant.
fn suggestion(unknown: &Unknown, known: &BTreeSet<String>) -> Option<String> {
    let name = &unknown.name;
    if known.contains(name) && unknown.place.path != *name {
        // In TOML everything below a header belongs to it.
        return Some(format!("`{name}` above the first [section] of the file"));
    }
    let close = unknown
        .known_here
        .iter()
        .map(|key| (distance(key, name), key));
    let (distance, key) = close.min()?;
    (distance <= 2 && distance < key.len()).then(|| format!("perhaps `{key}`"))
}

/// The edits (insert, delete, replace) that make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}
