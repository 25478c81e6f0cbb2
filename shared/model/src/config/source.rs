//! The text of a config file: where its lines are, and how a piece of it is shown.

use std::ops::Range;

use super::document::ConfigError;

/// Longest value shown in a message, in characters: enough to recognise it by.
const SHOWN_CHARS: usize = 60;

/// A file's text.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(breaks.map(|(offset, _)| offset + 1))
            .collect();
        Self { file, text, lines }
    }

    /// Line and column, both from 1, of a byte offset. The end of the text
    /// counts to the last line that has any text.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let offset = match offset < self.text.len() {
            true => offset,
            false => self.text.trim_end().len(),
        };
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.lines[line - 1]..offset).unwrap_or("");
        (line, before.chars().count() + 1)
    }

    /// The text of a line, from 1, without its line break.
    pub(super) fn line(&self, line: usize) -> &'a str {
        let start = self.lines.get(line - 1).copied();
        let rest = start.and_then(|start| self.text.get(start..));
        rest.and_then(|rest| rest.lines().next()).unwrap_or("")
    }

    /// A piece of the text as written: one line of it, cut short, nothing in it
    /// that a terminal would obey.
    pub(super) fn shown(&self, span: &Range<usize>) -> String {
        cut(self.text.get(span.clone()).unwrap_or(""))
    }

    /// An error at a byte offset, so far without key, value and expectation.
    pub(super) fn error(&self, offset: usize, problem: &str) -> ConfigError {
        let (line, column) = self.position(offset);
        ConfigError {
            file: self.file.to_owned(),
            line,
            column,
            key: String::new(),
            value: None,
            problem: problem.to_owned(),
            expected: None,
        }
    }
}

/// One line of a text, cut short, control characters escaped.
pub(super) fn cut(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or("");
    let mut shown = String::new();
    for (position, char) in line.chars().enumerate() {
        if position == SHOWN_CHARS {
            break;
        }
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    if line.chars().count() > SHOWN_CHARS || line.len() < text.trim().len() {
        shown.push('…');
    }
    shown
}
