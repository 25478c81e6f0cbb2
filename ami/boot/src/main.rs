//! Runs once at each boot of an instance that was launched from the image, before the
//! daemon: takes the configuration from user data, or from the SSM parameter that user
//! data names, has the daemon check it, opens the firewall for it, and sets the host's
//! name. What is wrong it says on the console.
//!
//! It never replaces a good configuration by a bad one, and knows nothing of AWS but
//! the metadata service (IMDSv2): the parameter the daemon's program fetches for it, and
//! the secrets that a configuration names the daemon for itself.

#![forbid(unsafe_code)]

mod firewall;
mod host;
mod metadata;
mod user_data;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use crate::firewall::Firewall;
use crate::host::{Host, Role, Unfetched};
use crate::metadata::Metadata;
use crate::user_data::{Config, Instance, Source, UserData};

const STRONGSWAN: &str = "strongswan.service";

/// How long the metadata service may take to answer at boot. The unit tries again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wrong user data: it does not become right by trying again.
const WRONG: u8 = 2;
/// The unit tries again.
const NOT_NOW: u8 = 1;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what somebody asks for at a terminal"
)]
fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        None => {}
        Some(it) if it == "--version" => {
            println!("privnet-boot {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            let other = other.to_string_lossy();
            eprintln!("privnet-boot: argument {other:?}, expected none or --version");
            return ExitCode::from(WRONG);
        }
    }
    let host = match Host::here() {
        Ok(host) => host,
        Err(error) => return fail(&format!("{error:#}"), NOT_NOW),
    };
    match boot(&host) {
        Ok(Outcome::Configured(said)) => {
            host::say(&said);
            ExitCode::SUCCESS
        }
        Ok(Outcome::Wrong(said)) => fail(&said, WRONG),
        Ok(Outcome::NotNow(said)) => fail(&said, NOT_NOW),
        Err(error) => fail(&format!("{error:#}"), NOT_NOW),
    }
}

fn fail(said: &str, code: u8) -> ExitCode {
    host::say(said);
    ExitCode::from(code)
}

/// How it ended, and what to tell who looks at the console.
#[derive(Debug)]
enum Outcome {
    Configured(String),
    Wrong(String),
    NotNow(String),
}

fn boot(host: &Host) -> Result<Outcome> {
    let metadata = Metadata::ask(PATIENCE)?;
    host.set_name(&metadata.hostname)?;
    configure(host, metadata.user_data.as_deref(), &metadata.vpc_cidrs)
}

fn configure(host: &Host, user_data: Option<&str>, vpc: &[IpNet]) -> Result<Outcome> {
    let source = Source::UserData;
    let Some(text) = user_data else {
        return Ok(without_config(host, &source));
    };
    let data = match UserData::parse(text, &source) {
        Ok(data) => data,
        Err(wrong) => return refused(host, &source, &wrong),
    };
    match data.config {
        Config::Text(config) => {
            // First, and also where the rest is wrong: somebody may have to log in.
            host.apply(&data.instance.unwrap_or_default())?;
            install(host, &config, &source, vpc)
        }
        Config::In(parameter) => refer(host, data.instance, parameter, vpc),
    }
}

/// The parameter holds what user data would: an `[instance]` as well, but one that is in
/// user data counts alone.
fn refer(
    host: &Host,
    instance: Option<Instance>,
    parameter: String,
    vpc: &[IpNet],
) -> Result<Outcome> {
    let fetched = match &instance {
        Some(instance) => {
            host.apply(instance)?;
            host.fetch(&parameter, &instance.environment)?
        }
        None => host.fetch(&parameter, &BTreeMap::new())?,
    };
    let source = Source::Parameter(parameter);
    let text = match fetched {
        Ok(text) => text,
        Err(Unfetched::Wrong(said)) => return refused(host, &source, &said),
        Err(Unfetched::NotNow(said)) => return not_now(host, &source, &said),
    };
    let data = match UserData::parse(&text, &source) {
        Ok(data) => data,
        Err(wrong) => return refused(host, &source, &wrong),
    };
    if instance.is_none() {
        host.apply(&data.instance.unwrap_or_default())?;
    }
    match data.config {
        Config::Text(config) => install(host, &config, &source, vpc),
        Config::In(other) => {
            let wrong = format!("it names another one, {other}; expected the configuration");
            refused(host, &source, &wrong)
        }
    }
}

/// Makes a configuration the daemon's, if it is good.
fn install(host: &Host, config: &str, source: &Source, vpc: &[IpNet]) -> Result<Outcome> {
    if config.trim().is_empty() {
        return Ok(without_config(host, source));
    }
    if let Err(wrong) = host.check(config, source)? {
        return refused(host, source, &wrong);
    }
    let firewall = Firewall::of(config, vpc)?;
    host.open(&firewall)?;
    if firewall.ipsec {
        host.start(STRONGSWAN)?;
    }
    host.keep(config)?;
    Ok(Outcome::Configured(format!(
        "{} has its configuration from {source}: {}",
        host.role,
        host.config().display()
    )))
}

fn without_config(host: &Host, source: &Source) -> Outcome {
    let config = host.config();
    if config.exists() {
        return Outcome::Configured(format!(
            "no configuration in {source}: {} keeps {}",
            host.role,
            config.display()
        ));
    }
    Outcome::Wrong(format!(
        "no configuration in {source}, and no {}: {} does not run.\n    \
         Put the text of a {} there (/usr/share/doc/privnet has the reference).",
        config.display(),
        host.role,
        host.role.config_name(),
    ))
}

fn refused(host: &Host, source: &Source, wrong: &str) -> Result<Outcome> {
    let (what, correct) = match source {
        Source::UserData => (
            "USER DATA OF THIS INSTANCE IS WRONG".to_owned(),
            "stop the instance, edit its user data, start it; or launch another.",
        ),
        Source::Parameter(_) => (
            format!("CONFIGURATION OF THIS INSTANCE IS WRONG: {source}"),
            "correct the parameter and reboot the instance; or give it other user data.",
        ),
    };
    let (wrong, consequence) = (indented(wrong), consequence(host)?);
    Ok(Outcome::Wrong(format!(
        "THE {what}\n{wrong}{consequence}\nTo correct it: {correct}"
    )))
}

fn not_now(host: &Host, source: &Source, said: &str) -> Result<Outcome> {
    let (said, consequence) = (indented(said), consequence(host)?);
    Ok(Outcome::NotNow(format!(
        "THE CONFIGURATION OF THIS INSTANCE CANNOT BE HAD NOW: {source}\n{said}{consequence}\n\
         It is asked for again until it can be had."
    )))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// What there was before goes on, and with it what it needs.
fn consequence(host: &Host) -> Result<String> {
    let role = host.role;
    let Ok(kept) = std::fs::read_to_string(host.config()) else {
        return Ok(format!(
            "{role} does not run: it never had another configuration."
        ));
    };
    if Firewall::of(&kept, &[]).is_ok_and(|firewall| firewall.ipsec) {
        host.start(STRONGSWAN)?;
    }
    Ok(format!(
        "{role} goes on with the configuration that it had before."
    ))
}

impl Role {
    /// What its config file is called.
    fn config_name(self) -> &'static str {
        match self {
            Self::Hub => "hub.toml",
            Self::Spoke => "spoke.toml",
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    const REFERENCE: &str = "config = { ssm = \"/privnet/hub/config\" }\n";
    const SECTION: &str =
        "[instance]\nenvironment = { AWS_ENDPOINT_URL_SSM = \"https://ssm.example\" }\n";

    /// A hub whose program fetches by this script and takes what has no `wrong` in it.
    fn hub(fetch: &str) -> (tempfile::TempDir, Host) {
        let script = format!(
            "case $1 in\n\
             fetch-config) test \"$2 $3\" = \"-- /privnet/hub/config\" || exit 7; {fetch};;\n\
             check) ! grep -n wrong \"$2\" >&2;;\n\
             esac"
        );
        Host::for_test(Role::Hub, &script)
    }

    fn said(outcome: Result<Outcome>) -> (&'static str, String) {
        match outcome.unwrap() {
            Outcome::Configured(said) => ("configured", said),
            Outcome::Wrong(said) => ("wrong", said),
            Outcome::NotNow(said) => ("not now", said),
        }
    }

    fn kept(host: &Host) -> Option<String> {
        std::fs::read_to_string(host.config()).ok()
    }

    #[test]
    fn what_user_data_refers_to_is_taken_as_user_data_is() {
        let (root, host) = hub("printf 'transport = \"ipsec\"\n[instance]\n'");
        let (outcome, told) = said(configure(&host, Some(REFERENCE), &[]));
        assert_eq!(outcome, "configured", "{told}");
        assert!(told.contains("from SSM parameter /privnet/hub/config: "));
        assert_eq!(kept(&host).unwrap(), "transport = \"ipsec\"\n\n");
        assert!(!root.path().join("etc/privnet/parameter.toml").exists());
        let opened = root.path().join("etc/privnet/input.d/50-tunnels.nft");
        let opened = std::fs::read_to_string(opened).unwrap();
        assert!(opened.contains("esp"), "{opened}");
    }

    #[test]
    fn ssm_is_asked_in_the_environment_that_user_data_gives() {
        let fetch =
            "printf 'a = \"%s\"\n[instance]\nenvironment = { B = \"c\" }\n' $AWS_ENDPOINT_URL_SSM";
        let (root, host) = hub(fetch);
        let user_data = format!("{REFERENCE}{SECTION}");
        let (outcome, told) = said(configure(&host, Some(&user_data), &[]));
        assert_eq!(outcome, "configured", "{told}");
        assert_eq!(kept(&host).unwrap(), "a = \"https://ssm.example\"\n\n\n");
        // The section beside the reference counts, and no other.
        let environment = root.path().join("etc/privnet/environment");
        let environment = std::fs::read_to_string(environment).unwrap();
        assert!(
            environment.ends_with("AWS_ENDPOINT_URL_SSM=\"https://ssm.example\"\n"),
            "{environment}"
        );
    }

    #[test]
    fn a_parameter_that_is_wrong_or_cannot_be_had_takes_nothing_that_was_good() {
        for (fetch, expected, says) in [
            (
                "echo there is none >&2; exit 2",
                "wrong",
                "    there is none\n",
            ),
            (
                "echo nobody answers >&2; exit 1",
                "not now",
                "    nobody answers\n",
            ),
            ("kill -9 $$", "not now", "fetch-config: signal: 9"),
            ("printf 'a = 1\nwrong = 1\n'", "wrong", "    2:wrong = 1\n"),
            (
                "printf 'a = 1\nb 2\n'",
                "wrong",
                "    SSM parameter /privnet/hub/config:2: ",
            ),
            (
                "printf 'config.ssm = \"/b\"\n'",
                "wrong",
                "names another one, /b",
            ),
        ] {
            let (_root, host) = hub(fetch);
            let (outcome, told) = said(configure(&host, Some(REFERENCE), &[]));
            assert_eq!(outcome, expected, "{told}");
            assert!(told.contains("privnet-hub does not run"), "{told}");
            assert_eq!(kept(&host), None);

            std::fs::write(host.config(), "good = true\n").unwrap();
            let (outcome, told) = said(configure(&host, Some(REFERENCE), &[]));
            assert_eq!(outcome, expected, "{told}");
            assert!(told.contains(says), "{fetch}: {told}");
            assert!(told.contains("/privnet/hub/config"), "{told}");
            assert!(told.contains("goes on with the configuration"), "{told}");
            assert_eq!(kept(&host).unwrap(), "good = true\n");
        }
    }

    #[test]
    fn an_empty_parameter_takes_nothing_either() {
        let (_root, host) = hub("echo");
        let (outcome, told) = said(configure(&host, Some(REFERENCE), &[]));
        assert_eq!(outcome, "wrong", "{told}");
        std::fs::write(host.config(), "good = true\n").unwrap();
        let (outcome, told) = said(configure(&host, Some(REFERENCE), &[]));
        assert_eq!(outcome, "configured", "{told}");
        let says = "no configuration in SSM parameter /privnet/hub/config: privnet-hub keeps";
        assert!(told.starts_with(says), "{told}");
        assert_eq!(kept(&host).unwrap(), "good = true\n");
    }

    #[test]
    fn strongswan_goes_on_with_the_configuration_that_needs_it() {
        let (root, host) = hub("exit 1");
        let started = || {
            let calls = std::fs::read_to_string(root.path().join("calls"));
            calls.unwrap_or_default().contains("strongswan")
        };
        for (config, expected) in [("", false), ("transport = \"ipsec\"\n", true)] {
            std::fs::write(host.config(), config).unwrap();
            let (outcome, told) = said(configure(&host, Some(REFERENCE), &[]));
            assert_eq!(outcome, "not now", "{told}");
            assert_eq!(started(), expected);
        }
    }
}
