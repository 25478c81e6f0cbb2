//! A checkup as text: what needs somebody, grouped, each with what mends it beneath; and
//! how much else was looked at.

use std::fmt::Write as _;

use privnet_model::doctor::{Area, Checkup, Finding, Verdict};

/// The text. Of what is well only the number is told, unless `all` is.
pub(super) fn text(checkup: &Checkup, all: bool, colour: bool) -> String {
    let mut text = String::new();
    for area in Area::ALL {
        let findings = checkup.findings.iter();
        let mut shown = findings
            .filter(|finding| finding.area == area)
            .filter(|finding| all || finding.verdict != Verdict::Ok)
            .peekable();
        if shown.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "{}", paint(&area.to_string(), BOLD, colour));
        for finding in shown {
            write(&mut text, finding, colour);
        }
        text.push('\n');
    }
    text.push_str(&summary(checkup, all));
    text
}

fn write(text: &mut String, finding: &Finding, colour: bool) {
    let verdict = finding.verdict;
    // Padded before it is painted: colour has no width.
    let padded = format!("{verdict:<11}");
    let style = match verdict {
        Verdict::Ok => GREEN,
        Verdict::NotChecked => FAINT,
        Verdict::Warning => YELLOW,
        Verdict::Wrong => RED,
    };
    let Finding { check, found, .. } = finding;
    let padded = paint(&padded, style, colour);
    let _ = writeln!(
        text,
        "  {padded}  {}: {}",
        printable(check),
        printable(found)
    );
    for remedy in &finding.remedy {
        let _ = writeln!(text, "{:15}→ {}", "", printable(remedy));
    }
}

fn summary(checkup: &Checkup, all: bool) -> String {
    let count = |verdict| checkup.count(verdict);
    let mut summary = format!(
        "{} checks: {} ok",
        checkup.findings.len(),
        count(Verdict::Ok)
    );
    for (verdict, word) in [
        (Verdict::Warning, "to be warned of"),
        (Verdict::Wrong, "WRONG"),
        (Verdict::NotChecked, "not checked"),
    ] {
        if count(verdict) > 0 {
            let _ = write!(summary, ", {} {word}", count(verdict));
        }
    }
    let more = if all || count(Verdict::Ok) == 0 {
        ""
    } else {
        " (--all shows them)"
    };
    let _ = writeln!(summary, "{more}");
    summary
}

const BOLD: &str = "1";
const FAINT: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

fn paint(text: &str, style: &str, colour: bool) -> String {
    if colour {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Without what could move a terminal's cursor: tags and errors are other people's words.
fn printable(text: &str) -> String {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use privnet_model::status::Role;

    use super::*;

    fn checkup() -> Checkup {
        Checkup {
            program: Role::Spoke,
            version: "1.0.0".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            instance: None,
            findings: vec![
                Finding::ok(Area::Host, "kernel", "Linux 6.1"),
                Finding::wrong(Area::Host, "private key", "mode 0644").mend("chmod 0600 x"),
                Finding::warning(Area::Aws, "public\x1b[2J", "y")
                    .mend("a")
                    .mend("b"),
                Finding::not_checked(Area::Aws, "network ACL", "not allowed"),
            ],
        }
    }

    #[test]
    fn what_needs_somebody_is_told_with_its_remedy_and_the_rest_is_counted() {
        let expected = "\
Host
  WRONG        private key: mode 0644
               → chmod 0600 x

AWS
  warning      public [2J: y
               → a
               → b
  not checked  network ACL: not allowed

4 checks: 1 ok, 1 to be warned of, 1 WRONG, 1 not checked (--all shows them)
";
        assert_eq!(text(&checkup(), false, false), expected);
    }

    #[test]
    fn all_is_told_when_all_is_asked_for() {
        let text = text(&checkup(), true, false);
        assert!(
            text.contains("  ok           kernel: Linux 6.1\n"),
            "{text}"
        );
        assert!(text.ends_with("1 not checked\n"), "{text}");
    }

    #[test]
    fn colour_is_around_the_words_alone() {
        let painted = text(&checkup(), true, true);
        assert!(painted.contains("\x1b[1;31mWRONG      \x1b[0m  private key"));
        let plain: Vec<String> = painted
            .split('\x1b')
            .map(|part| match part.split_once('m') {
                Some((style, rest)) if style.starts_with('[') => rest.to_owned(),
                _ => part.to_owned(),
            })
            .collect();
        assert_eq!(plain.concat(), text(&checkup(), true, false));
    }
}
