//! Makes text from outside harmless to a terminal.
//!
//! A `Name` tag may hold escape sequences that recolour, retitle or answer for
//! the terminal, or direction marks that make one name look like another.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with everything that a terminal would obey instead of show written
/// as `\n` or `\u{9b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .flat_map(|c| {
                let escaped = is_harmful(c).then(|| c.escape_default());
                let plain = escaped.is_none().then_some(c);
                escaped.into_iter().flatten().chain(plain)
            })
            .collect(),
    )
}

/// The same for JSON that is already written: there such characters occur only
/// within strings, where `\u009b` stands for them.
pub(crate) fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Invisible, or turning the direction of what follows.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn plain_text_of_any_language_stays() {
        for text in ["spoke-a", "büro", "東京", "a\\b", "🛰"] {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(escape("\x1b[2Jx"), "\\u{1b}[2Jx");
        assert_eq!(escape("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(escape("a\r\nb\t\u{7f}"), "a\\r\\nb\\t\\u{7f}");
        assert_eq!(escape("\u{202e}evil"), "\\u{202e}evil");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "name": "\u{9b}31m\u{1b}\u{202e}\u{e0041}", "x": "東" });
        for json in [
            serde_json::to_string(&value).unwrap(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let escaped = escape_json(&json);
            assert!(!escaped.contains(|c| is_harmful(c) && c != '\n'));
            let again: serde_json::Value = serde_json::from_str(&escaped).unwrap();
            assert_eq!(again, value);
        }
    }
}
