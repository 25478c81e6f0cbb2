//! Runs once at each boot of an instance that was launched from the image, before the
//! daemon: takes the configuration from user data, has the daemon check it, opens the
//! firewall for it, and sets the host's name. What is wrong it says on the console.
//!
//! It never replaces a good configuration by a bad one, and knows nothing of AWS but
//! the metadata service (IMDSv2): what user data refers to, such as secrets in SSM,
//! the daemons fetch themselves.

#![forbid(unsafe_code)]

mod firewall;
mod host;
mod metadata;
mod user_data;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::firewall::Firewall;
use crate::host::{Host, Role};
use crate::metadata::Metadata;
use crate::user_data::UserData;

/// How long the metadata service may take to answer at boot. The unit tries again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wrong user data: it does not become right by trying again.
const WRONG: u8 = 2;

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
        Err(error) => return fail(&format!("{error:#}"), 1),
    };
    match boot(&host) {
        Ok(Outcome::Configured(said)) => {
            host::say(&said);
            ExitCode::SUCCESS
        }
        Ok(Outcome::Wrong(said)) => fail(&said, WRONG),
        Err(error) => fail(&format!("{error:#}"), 1),
    }
}

fn fail(said: &str, code: u8) -> ExitCode {
    host::say(said);
    ExitCode::from(code)
}

/// How it ended, and what to tell who looks at the console.
enum Outcome {
    Configured(String),
    Wrong(String),
}

fn boot(host: &Host) -> Result<Outcome> {
    let metadata = Metadata::ask(PATIENCE)?;
    host.set_name(&metadata.hostname)?;
    let Some(text) = &metadata.user_data else {
        return Ok(without_user_data(host));
    };
    let data = match UserData::parse(text) {
        Ok(data) => data,
        Err(wrong) => return Ok(refused(host, &wrong)),
    };
    // First, and also where the rest is wrong: somebody may have to log in.
    host.apply(&data.instance)?;
    if data.config.trim().is_empty() {
        return Ok(without_user_data(host));
    }
    if let Err(wrong) = host.check(&data.config)? {
        return Ok(refused(host, &wrong));
    }
    let firewall = Firewall::of(&data.config, &metadata.vpc_cidrs)?;
    host.open(&firewall)?;
    if firewall.ipsec {
        host.start("strongswan.service")?;
    }
    host.keep(&data.config)?;
    Ok(Outcome::Configured(format!(
        "{} has its configuration from user data: {}",
        host.role,
        host.config().display()
    )))
}

fn without_user_data(host: &Host) -> Outcome {
    let config = host.config();
    if config.exists() {
        return Outcome::Configured(format!(
            "no configuration in user data: {} keeps {}",
            host.role,
            config.display()
        ));
    }
    Outcome::Wrong(format!(
        "no configuration in user data, and no {}: {} does not run.\n    \
         Give the instance the text of a {} as user data (/usr/share/doc/privnet has the reference).",
        config.display(),
        host.role,
        host.role.config_name(),
    ))
}

fn refused(host: &Host, wrong: &str) -> Outcome {
    let consequence = if host.config().exists() {
        format!(
            "{} goes on with the configuration that it had before.",
            host.role
        )
    } else {
        format!(
            "{} does not run: it never had another configuration.",
            host.role
        )
    };
    let wrong: String = wrong.lines().map(|line| format!("    {line}\n")).collect();
    Outcome::Wrong(format!(
        "THE USER DATA OF THIS INSTANCE IS WRONG\n{wrong}\
         {consequence}\n\
         To correct it: stop the instance, edit its user data, start it; or launch another."
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
