//! What the instance's metadata service says: IMDSv2 alone, never version 1.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

const SERVICE: &str = "http://169.254.169.254";
/// It is on the host next door: it answers in milliseconds or not.
const TIMEOUT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(1);

/// What is needed of it.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// The first label of the instance's private name, as `ip-10-1-0-10`.
    pub(crate) hostname: String,
    /// The CIDRs of its VPC.
    pub(crate) vpc_cidrs: Vec<IpNet>,
    /// User data, if it has any.
    pub(crate) user_data: Option<String>,
}

impl Metadata {
    /// Asks until it answers, for as long as `patience`.
    ///
    /// # Errors
    /// What the last try said.
    pub(crate) fn ask(patience: Duration) -> Result<Self> {
        let start = Instant::now();
        loop {
            match Session::open().and_then(|session| session.metadata()) {
                Err(_) if start.elapsed() < patience => std::thread::sleep(PAUSE),
                outcome => return outcome,
            }
        }
    }
}

struct Session {
    agent: ureq::Agent,
    token: String,
}

impl Session {
    fn open() -> Result<Self> {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        let mut answer = agent
            .put(format!("{SERVICE}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "60")
            .send_empty()
            .with_context(|| format!("no instance metadata at {SERVICE}"))?;
        if !answer.status().is_success() {
            bail!(
                "the metadata service at {SERVICE} gives no session token (HTTP status {}): enable it in the instance's metadata options",
                answer.status()
            );
        }
        let token = answer.body_mut().read_to_string()?;
        Ok(Self { agent, token })
    }

    fn metadata(&self) -> Result<Metadata> {
        let mac = self.require("meta-data/mac")?;
        let cidrs = format!(
            "meta-data/network/interfaces/macs/{}/vpc-ipv4-cidr-blocks",
            mac.trim_end_matches('/')
        );
        let vpc_cidrs = self
            .require(&cidrs)?
            .split_whitespace()
            .map(|cidr| {
                cidr.parse()
                    .with_context(|| format!("{cidrs}: {cidr:?} is no CIDR"))
            })
            .collect::<Result<_>>()?;
        let name = self.require("meta-data/local-hostname")?;
        Ok(Metadata {
            hostname: label(&name)?,
            vpc_cidrs,
            user_data: self.optional("user-data")?,
        })
    }

    fn require(&self, key: &str) -> Result<String> {
        self.optional(key)?
            .with_context(|| format!("the metadata service has no {key}"))
    }

    /// `None` where it has no such key.
    fn optional(&self, key: &str) -> Result<Option<String>> {
        let mut answer = self
            .agent
            .get(format!("{SERVICE}/latest/{key}"))
            .header("x-aws-ec2-metadata-token", &self.token)
            .call()
            .with_context(|| format!("instance metadata {key}"))?;
        match answer.status().as_u16() {
            200 => {
                Ok(Some(answer.body_mut().read_to_string().with_context(
                    || format!("instance metadata {key} is no text"),
                )?))
            }
            404 => Ok(None),
            status => bail!("instance metadata {key}: HTTP status {status}"),
        }
    }
}

/// The first label of a name, which becomes a host's name and part of a file.
fn label(name: &str) -> Result<String> {
    let label = name.trim().split('.').next().unwrap_or_default();
    let good = (1..=63).contains(&label.len())
        && label
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || one == '-');
    if !good {
        bail!("instance metadata local-hostname is {name:?}: expected a host name");
    }
    Ok(label.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn the_host_is_called_by_the_first_label() {
        let name = label("ip-10-1-0-10.us-west-2.compute.internal\n").unwrap();
        assert_eq!(name, "ip-10-1-0-10");
        assert!(label("").is_err());
        assert!(label("a b").is_err());
        assert!(label("a\nb").is_err());
    }
}
