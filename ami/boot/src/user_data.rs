//! What user data says. Pure.
//!
//! It is the daemon's config file, with one section more, `[instance]`, that is for the
//! instance and not for the daemon. Or it names the SSM parameter which holds all that:
//! `config = { ssm = "/a/parameter" }`.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use privnet_model::config::parameter_name;
use serde::Deserialize;
use toml::Spanned;

/// The name of that section.
const SECTION: &str = "instance";
/// The key whose value is a reference.
const REFERENCE: &str = "config";

/// Where a text is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// User data itself.
    UserData,
    /// The SSM parameter that it names.
    Parameter(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserData => f.write_str("user data"),
            Self::Parameter(name) => write!(f, "SSM parameter {name}"),
        }
    }
}

/// User data, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UserData {
    /// The section, if it is there.
    pub(crate) instance: Option<Instance>,
    /// The daemon's config.
    pub(crate) config: Config,
}

/// The daemon's config.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Config {
    /// Every line where it was, those of the section empty, so that what is wrong has the
    /// line that the operator sees.
    Text(String),
    /// It is in the SSM parameter of this name.
    In(String),
}

/// What is for the instance.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Instance {
    /// Who may log in as `admin`: lines of `authorized_keys`. None: there is no SSH.
    pub(crate) ssh_authorized_keys: Vec<String>,
    /// From where.
    pub(crate) ssh_from: Vec<IpNet>,
    /// The daemon's environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Whether Debian's security updates are installed every day.
    pub(crate) security_updates: bool,
}

#[derive(Deserialize)]
struct Document {
    instance: Option<Instance>,
    config: Option<Spanned<Reference>>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "{ ssm = \"/a/parameter\" }, the SSM parameter that holds the configuration"
)]
struct Reference {
    ssm: ParameterName,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct ParameterName(String);

impl TryFrom<String> for ParameterName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match parameter_name(&name) {
            Ok(()) => Ok(Self(name)),
            Err(problem) => Err(format!(
                "{problem}; expected the name of an SSM parameter such as /privnet/hub/config"
            )),
        }
    }
}

impl UserData {
    /// Takes it apart.
    ///
    /// # Errors
    /// What is wrong, one line for each.
    pub(crate) fn parse(text: &str, source: &Source) -> Result<Self, String> {
        let at = |line: usize, wrong: &str| format!("{source}:{line}: {wrong}");
        if let Some(kind) = other_kind(text) {
            let wrong = format!(
                "this is {kind}; expected the TOML of a config file, or {REFERENCE} = {{ ssm = \"/a/parameter\" }}: the image has no cloud-init"
            );
            return Err(at(1, &wrong));
        }
        let no_toml = |error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            at(line_of(text, start), error.message())
        };
        let whole: toml::Table = toml::from_str(text).map_err(no_toml)?;
        let document: Document = toml::from_str(text).map_err(no_toml)?;
        if let Some(instance) = &document.instance {
            let wrong = |wrong: String| at(line_of_section(text), &wrong);
            instance.check().map_err(wrong)?;
        }
        let rest = without_section(text);
        let mut expected = whole;
        expected.remove(SECTION);
        if toml::from_str::<toml::Table>(&rest).ok().as_ref() != Some(&expected) {
            let wrong = format!(
                "instance: expected a section, [{SECTION}] with a line for each key, up to the next section"
            );
            return Err(at(line_of_section(text), &wrong));
        }
        let config = match document.config {
            None => Config::Text(rest),
            Some(reference) if expected.len() > 1 => {
                let wrong = format!("{REFERENCE}: expected nothing beside it but [{SECTION}]");
                return Err(at(line_of(text, reference.span().start), &wrong));
            }
            Some(reference) => Config::In(reference.into_inner().ssm.0),
        };
        let instance = document.instance;
        Ok(Self { instance, config })
    }
}

impl Instance {
    fn check(&self) -> Result<(), String> {
        for (number, key) in self.ssh_authorized_keys.iter().enumerate() {
            let fields = key.split_whitespace().count();
            if fields < 2 || key.contains(['\n', '\r']) {
                return Err(format!(
                    "instance.ssh_authorized_keys[{number}] = {key:?}: expected a line of authorized_keys, such as \"ssh-ed25519 AAAA... name\""
                ));
            }
        }
        if self.ssh_authorized_keys.is_empty() != self.ssh_from.is_empty() {
            return Err(
                "instance.ssh_authorized_keys and instance.ssh_from: expected both or neither: who may log in, and from which CIDRs".to_owned(),
            );
        }
        for (name, value) in &self.environment {
            let good = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && name
                    .chars()
                    .all(|one| one.is_ascii_alphanumeric() || one == '_');
            if !good {
                return Err(format!(
                    "instance.environment: {name:?}: expected letters, digits and \"_\""
                ));
            }
            if value.chars().any(char::is_control) {
                return Err(format!(
                    "instance.environment.{name} = {value:?}: expected one line of text"
                ));
            }
        }
        Ok(())
    }
}

/// What people give to instances of other images.
fn other_kind(text: &str) -> Option<&'static str> {
    if text.starts_with("#!") {
        Some("a script")
    } else if text.starts_with("#cloud-config") {
        Some("a cloud-config")
    } else if text.starts_with("Content-Type:") || text.starts_with("MIME-Version:") {
        Some("a MIME archive")
    } else if text.starts_with("ssm:") || text.starts_with("s3:") {
        Some("a reference")
    } else {
        None
    }
}

fn line_of(text: &str, start: usize) -> usize {
    text.get(..start).unwrap_or(text).matches('\n').count() + 1
}

fn line_of_section(text: &str) -> usize {
    text.lines()
        .position(opens_section)
        .map_or(1, |index| index + 1)
}

/// Whether a line is the header of the section, or of one below it.
fn opens_section(line: &str) -> bool {
    header(line).is_some_and(|name| {
        name == SECTION
            || name
                .strip_prefix(SECTION)
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The name in a header, `[name]` or `[[name]]`, without the spaces that TOML allows.
fn header(line: &str) -> Option<String> {
    let inner = line.trim_start().strip_prefix('[')?;
    let inner = inner.strip_prefix('[').unwrap_or(inner);
    let (name, _) = inner.split_once(']')?;
    let is_name = |one: char| one.is_alphanumeric() || "_-. \"'".contains(one);
    let name: String = name.trim().to_owned();
    (!name.is_empty() && !name.starts_with(['"', '\'']) && name.chars().all(is_name))
        .then(|| name.replace(' ', ""))
}

/// The text with the section's lines empty. A line inside a multi-line string or array that
/// looks like a header may mislead it: the caller compares what both texts mean.
fn without_section(text: &str) -> String {
    let mut inside = false;
    let mut rest = String::with_capacity(text.len());
    for line in text.lines() {
        if header(line).is_some() {
            inside = opens_section(line);
        }
        if !inside {
            rest.push_str(line);
        }
        rest.push('\n');
    }
    rest
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn parse(text: &str) -> Result<UserData, String> {
        UserData::parse(text, &Source::UserData)
    }

    const GOOD: &str = r#"privnet = "10.0.0.0/8"

[instance]
ssh_authorized_keys = [
    "ssh-ed25519 AAAA me",
]
ssh_from = ["10.0.0.0/8", "2001:db8::/32"]
environment = { AWS_ENDPOINT_URL_EC2 = "https://ec2.example" }
security_updates = true

[[hub]]
endpoint = "198.51.100.100:51820"
"#;

    #[test]
    fn the_daemon_gets_all_but_the_section_on_the_same_lines() {
        let data = parse(GOOD).unwrap();
        let instance = data.instance.unwrap();
        assert_eq!(instance.ssh_authorized_keys, ["ssh-ed25519 AAAA me"]);
        assert_eq!(instance.ssh_from.len(), 2);
        assert!(instance.security_updates);
        let Config::Text(config) = data.config else {
            panic!("a reference");
        };
        let lines: Vec<&str> = config.lines().collect();
        assert_eq!(lines[0], r#"privnet = "10.0.0.0/8""#);
        assert!(lines[1..10].iter().all(|line| line.is_empty()), "{lines:?}");
        assert_eq!(lines[10], "[[hub]]");
        assert_eq!(lines.len(), GOOD.lines().count());
    }

    #[test]
    fn sections_below_it_belong_to_it_whatever_their_spaces() {
        let text = "a = 1\n[ instance . environment ]\nA = \"b\"\n[other]\nb = 2\n";
        let data = parse(text).unwrap();
        assert_eq!(data.instance.unwrap().environment["A"], "b");
        let rest = "a = 1\n\n\n[other]\nb = 2\n".to_owned();
        assert_eq!(data.config, Config::Text(rest));
    }

    #[test]
    fn without_the_section_the_config_is_the_text() {
        let text = "privnet = \"10.0.0.0/8\"\n";
        let data = parse(text).unwrap();
        assert_eq!(data.config, Config::Text(text.to_owned()));
        assert_eq!(data.instance, None);
    }

    #[test]
    fn a_reference_stands_for_the_config() {
        let section = "[instance]\nsecurity_updates = true\n";
        for reference in [
            "config = { ssm = \"/privnet/hub/config\" }\n",
            "config.ssm = \"/privnet/hub/config\"\n",
            "# Where it is\n[config]\nssm = \"/privnet/hub/config\"\n",
        ] {
            let data = parse(reference).unwrap();
            let name = "/privnet/hub/config".to_owned();
            assert_eq!(data.config, Config::In(name), "{reference}");
            assert_eq!(data.instance, None);
            let data = parse(&format!("{reference}{section}")).unwrap();
            assert!(data.instance.unwrap().security_updates);
        }
    }

    #[test]
    fn a_section_that_cannot_be_cut_out_is_refused() {
        for text in [
            "instance = { security_updates = true }\na = 1\n",
            "instance.security_updates = true\n",
            "a = \"\"\"\n[instance]\n\"\"\"\n",
            "a = [\n[\"x\"],\n[instance]\n]\n",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, expected) in [
            ("a = 1\nb 2\n", "user data:2: "),
            (
                "a = 1\n[instance]\nshh = true\n",
                "user data:3: unknown field `shh`",
            ),
            (
                "a = 1\n[instance]\nssh_from = [\"10.0.0.0/8\"]\n",
                "user data:2: instance.ssh_authorized_keys and instance.ssh_from: expected both",
            ),
            ("[instance]\nssh_from = [\"everywhere\"]\n", "user data:2: "),
            (
                "[instance]\nenvironment = { A = \"b\\nC=d\" }\n",
                "user data:1: instance.environment.A = ",
            ),
            (
                "[instance]\nssh_authorized_keys = [\"ssh-ed25519 AAAA\\nrestrict\"]\nssh_from = [\"10.0.0.0/8\"]\n",
                "user data:1: instance.ssh_authorized_keys[0] = ",
            ),
            ("#!/bin/sh\necho\n", "user data:1: this is a script"),
            ("#cloud-config\n", "user data:1: this is a cloud-config"),
            (
                "ssm:/privnet/hub\n",
                "user data:1: this is a reference; expected the TOML of a config file, or config = { ssm = ",
            ),
            (
                "\nconfig = { ssm = \"/a\" }\nprivnet = \"10.0.0.0/8\"\n",
                "user data:2: config: expected nothing beside it but [instance]",
            ),
            (
                "config = \"ssm:/a\"\n",
                "user data:1: invalid type: string \"ssm:/a\", expected { ssm = \"/a/parameter\" }",
            ),
            (
                "config = { s3 = \"/a\" }\n",
                "user data:1: unknown field `s3`, expected `ssm`",
            ),
            ("config = {}\n", "user data:1: missing field `ssm`"),
            (
                "config = { ssm = \"a/b\" }\n",
                "user data:1: a path that does not start with `/`; expected the name of an SSM parameter",
            ),
            (
                "config = { ssm = \"/a\\u0000\" }\n",
                "user data:1: not the name of a parameter",
            ),
        ] {
            let wrong = parse(text).unwrap_err();
            assert!(wrong.starts_with(expected), "{text:?}: {wrong}");
        }
    }
}
