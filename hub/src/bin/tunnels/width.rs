//! Text in the columns of a terminal: how wide it is, and how it is padded,
//! shortened and wrapped.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many columns the text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text in at most `limit` columns, with `…` for what is left out of its
/// middle: names of one kind differ at their ends as often as at their
/// beginnings.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    if text.width() <= limit {
        return text.to_owned();
    }
    let kept = limit.saturating_sub(1);
    let head = fitting(text.chars(), kept.div_ceil(2));
    let tail: Vec<char> = fitting(text.chars().rev(), kept / 2).chars().collect();
    let ellipsis = if limit > 0 { "…" } else { "" };
    head + ellipsis + &tail.into_iter().rev().collect::<String>()
}

fn fitting(chars: impl Iterator<Item = char>, limit: usize) -> String {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= limit
        })
        .collect()
}

/// The text, broken at spaces so that no line is wider than `limit` (where a
/// word allows), each line after the first indented.
pub(crate) fn wrap(text: &str, limit: usize, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut used = 0;
    for word in text.split_inclusive(' ') {
        let needed = word.trim_end().width();
        if used > indent && used + needed > limit {
            wrapped.truncate(wrapped.trim_end().len());
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            used = indent;
        }
        wrapped.push_str(word);
        used += word.width();
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays_and_what_does_not_loses_its_middle() {
        assert_eq!(shorten("spoke-a", 7), "spoke-a");
        assert_eq!(shorten("prod-eu-west-1-nat-a", 11), "prod-…nat-a");
        assert_eq!(shorten("spoke", 1), "…");
        assert_eq!(shorten("spoke", 0), "");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        for limit in 0..12 {
            assert!(width(&shorten("東京東京東京", limit)) <= limit);
        }
        assert_eq!(shorten("東京東京東京", 5), "東…京");
    }

    #[test]
    fn lines_break_at_spaces_and_keep_their_indent() {
        assert_eq!(wrap("one two three", 80, 2), "one two three");
        assert_eq!(wrap("one two three", 7, 2), "one two\n  three");
        assert_eq!(wrap("  one two three", 7, 2), "  one\n  two\n  three");
        assert_eq!(wrap("verylongword two", 5, 2), "verylongword\n  two");
    }
}
