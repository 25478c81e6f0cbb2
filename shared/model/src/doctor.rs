//! What `doctor` found: the answer of `privnet-hub doctor` and `privnet-spoke doctor`,
//! for people and, by `--json`, for programs.
//!
//! Each finding says what was looked at, what was found there, and beneath what is
//! wrong the command or the line that mends it. What is right and what is not is
//! decided elsewhere.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::InstanceId;
use crate::status::Role;

/// All that one run found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    /// Which of the two programs looked.
    pub program: Role,
    /// Its version.
    pub version: String,
    /// When.
    pub at: Timestamp,
    /// On which instance, where that was to be learned.
    pub instance: Option<InstanceId>,
    /// One for each check that was made or should have been.
    pub findings: Vec<Finding>,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing was looked at.
    pub area: Area,
    /// What was looked at, in a word or two that stay the same from run to run.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found; of what was not checked, why not.
    pub found: String,
    /// Commands and config lines that mend it, each whole.
    pub remedy: Vec<String>,
}

/// What kind of thing a check looks at. Shown in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The daemon and what it says of itself.
    Daemon,
    /// The Linux host.
    Host,
    /// The instance metadata service.
    Metadata,
    /// EC2: permissions and what surrounds the instance.
    Aws,
    /// The far ends of tunnels, and the way there.
    Peers,
}

impl Area {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Daemon,
        Self::Host,
        Self::Metadata,
        Self::Aws,
        Self::Peers,
    ];
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Daemon => "Daemon",
            Self::Host => "Host",
            Self::Metadata => "Instance metadata",
            Self::Aws => "AWS",
            Self::Peers => "Peers",
        })
    }
}

/// How it is with what a check looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The check could not be made.
    NotChecked,
    /// It works, and may not for long, or not in every case.
    Warning,
    /// It does not work.
    Wrong,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ok, Self::NotChecked, Self::Warning, Self::Wrong];
}

/// In capitals where somebody has to do something.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Wrong => "WRONG",
        })
    }
}

impl Checkup {
    /// Whether nothing is wrong. Warnings, and checks that could not be made, do not
    /// count: a script must be able to tell them from what needs somebody now.
    pub fn is_well(&self) -> bool {
        self.count(Verdict::Wrong) == 0
    }

    /// How many findings have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.verdict == verdict)
            .count()
    }
}

impl Finding {
    /// A finding with nothing yet that mends it.
    pub fn new(area: Area, check: &str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            area,
            check: check.to_owned(),
            verdict,
            found: found.into(),
            remedy: Vec::new(),
        }
    }

    /// All is well.
    pub fn ok(area: Area, check: &str, found: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::Ok, found)
    }

    /// It may not be well for long.
    pub fn warning(area: Area, check: &str, found: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::Warning, found)
    }

    /// It is not well.
    pub fn wrong(area: Area, check: &str, found: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::Wrong, found)
    }

    /// It could not be looked at, and why not.
    pub fn not_checked(area: Area, check: &str, why: impl Into<String>) -> Self {
        Self::new(area, check, Verdict::NotChecked, why)
    }

    /// The same with one more thing that mends it.
    #[must_use]
    pub fn mend(mut self, by: impl Into<String>) -> Self {
        self.remedy.push(by.into());
        self
    }
}

/// A value as one word of a shell. Commands of remedies are copied by people with root's
/// rights, and whoever may tag an instance chooses what some of them contain.
pub fn quoted(value: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "_-./:=,+@%".contains(char);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// A tag as the AWS CLI takes it, as one word of a shell.
pub fn quoted_tag(key: &str, value: &str) -> String {
    // The CLI's shorthand ends a value at a comma, unless it stands in quotes of its own.
    let part = |text: &str| {
        if text.contains([',', '"', '\'', '=', '\\', '[', '{', ' ']) {
            let text = text.replace('\\', r"\\").replace('"', r#"\""#);
            return format!("\"{text}\"");
        }
        text.to_owned()
    };
    quoted(&format!("Key={},Value={}", part(key), part(value)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn no_value_ends_its_word_of_the_shell() {
        for (value, expected) in [
            ("i-0123456789abcdef0", "i-0123456789abcdef0"),
            ("/etc/privnet/spoke.key", "/etc/privnet/spoke.key"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("x; reboot #", "'x; reboot #'"),
            ("x\nreboot", "'x\nreboot'"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(quoted(value), expected);
        }
        assert_eq!(quoted_tag("env", "prod"), "Key=env,Value=prod");
        assert_eq!(
            quoted_tag("env", "a, \"b\""),
            r#"'Key=env,Value="a, \"b\""'"#
        );
    }

    fn checkup(findings: Vec<Finding>) -> Checkup {
        Checkup {
            program: Role::Spoke,
            version: "1.0.0".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            instance: None,
            findings,
        }
    }

    #[test]
    fn only_what_is_wrong_makes_a_checkup_bad() {
        let mut findings = vec![
            Finding::ok(Area::Host, "kernel", "6.1"),
            Finding::warning(Area::Aws, "address", "not an Elastic IP"),
            Finding::not_checked(Area::Aws, "network ACL", "not allowed"),
        ];
        assert!(checkup(findings.clone()).is_well());
        findings.push(Finding::wrong(Area::Host, "forwarding", "off"));
        let checkup = checkup(findings);
        assert!(!checkup.is_well());
        assert_eq!(Verdict::ALL.map(|verdict| checkup.count(verdict)), [1; 4]);
    }

    #[test]
    fn programs_read_it_as_json() {
        let finding = Finding::wrong(Area::Aws, "source/dest check", "it is on")
            .mend("aws ec2 modify-network-interface-attribute");
        let checkup = checkup(vec![finding]);
        let json = serde_json::to_value(&checkup).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "program": "spoke",
                "version": "1.0.0",
                "at": "1970-01-01T00:00:00Z",
                "instance": null,
                "findings": [{
                    "area": "aws",
                    "check": "source/dest check",
                    "verdict": "wrong",
                    "found": "it is on",
                    "remedy": ["aws ec2 modify-network-interface-attribute"],
                }],
            })
        );
        assert_eq!(serde_json::from_value::<Checkup>(json).unwrap(), checkup);
    }
}
