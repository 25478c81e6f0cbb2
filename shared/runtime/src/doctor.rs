//! The command `doctor`: looks at everything that a person would look at, and tells what
//! is wrong and what mends it. It changes nothing, works whether or not the daemon runs,
//! and is done within ten seconds, whoever does not answer.
//!
//! What follows from what was found is decided in [`privnet_reconcile::doctor`]; what
//! EC2 and the metadata service say is gathered by the programs themselves.

mod daemon;
mod host;
mod text;
mod tunnel;

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use privnet_model::config::hub::SecretSource;
use privnet_model::config::spoke::NatConfig;
use privnet_model::doctor::{Checkup, Finding};
use privnet_model::id::InstanceId;
use privnet_model::net::Supernet;
use privnet_model::status::Role;
use privnet_reconcile::doctor::Known;
use tokio::time::timeout;

use crate::command::{ConfigFile, Daemon};

pub use daemon::{Asked, ask};
pub use host::{dns, has_session, look, time_keeper};
pub use tunnel::{full_size, path_mtu, target};

/// What the metadata service and the daemon may take, which are on this host.
pub const NEARBY: Duration = Duration::from_secs(3);
/// What all may take that follows from what those say. With what lies between it makes
/// less than ten seconds.
pub const AFTERWARDS: Duration = Duration::from_millis(5500);
/// What one question of these may take: one that follows from its answer has a chance.
pub const PATIENCE: Duration = Duration::from_millis(3500);
/// After this time it ends, whatever hangs.
const LONGEST: Duration = Duration::from_millis(9500);

/// How `doctor` was called.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Tells also what is well
    #[arg(long)]
    all: bool,
    /// Prints everything as JSON
    #[arg(long)]
    json: bool,
}

/// What a program found.
#[derive(Debug, Clone, Default)]
pub struct Examination {
    /// The instance, where that was to be learned.
    pub instance: Option<InstanceId>,
    /// One for each check.
    pub findings: Vec<Finding>,
}

/// A gateway as its config describes it, in as much as its host matters.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Which of the two it is.
    pub role: Role,
    /// The private network.
    pub privnet: Supernet,
    /// NAT, on a spoke.
    pub nat: Option<NatConfig>,
    /// Name and MTU of the tunnel interface, if there is to be one.
    pub tunnel: Option<(String, u16)>,
    /// charon's socket, where the config has IPsec tunnels.
    pub charon: Option<PathBuf>,
    /// Whether NAT egress is tested.
    pub self_test: bool,
    /// The private key's file.
    pub private_key: PathBuf,
    /// Where the fleet's secret is, if there is one.
    pub preshared_key: Option<SecretSource>,
    /// Further files with keys, with what each is.
    pub keys: Vec<(String, PathBuf)>,
    /// The state file.
    pub state: PathBuf,
}

/// Runs the command: 0 if nothing is wrong, 1 if something is, 2 if the config cannot
/// even be read (that is the caller's to say).
pub(crate) fn run<D: Daemon>(config: D::Config, options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let examined = runtime.block_on(async { timeout(LONGEST, D::examine(config)).await });
    // A name that nobody resolves keeps a thread for longer than anybody wants to wait.
    runtime.shutdown_background();
    let examination = examined.ok().context("not done in time: this is a bug")?;
    let mut findings = examination.findings;
    findings.sort_by_key(|finding| finding.area);
    without_repeats(&mut findings);
    let checkup = Checkup {
        program: D::ROLE,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: Timestamp::now(),
        instance: examination.instance,
        findings,
    };
    let text = if options.json {
        let json = serde_json::to_string_pretty(&checkup).context("as JSON")?;
        format!("{json}\n")
    } else {
        let colour = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        text::text(&checkup, options.all, colour)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(error).context("standard output");
        }
        _ => {}
    }
    Ok(if checkup.is_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Two ways to the same finding are one finding.
fn without_repeats(findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    findings.retain(|finding| seen.insert((finding.check.clone(), finding.found.clone())));
}

/// What comes within this time; else why nothing came.
pub async fn within<T>(time: Duration, what: impl Future<Output = Known<T>>) -> Known<T> {
    let answer = timeout(time, what).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", time.as_secs_f32())))
}

/// An error as one line of text, with what caused it.
pub fn told<T, E>(result: Result<T, E>) -> Known<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}

#[cfg(test)]
mod tests {
    use privnet_model::doctor::Area;

    use super::*;

    #[test]
    fn the_same_is_not_told_twice() {
        let finding = |found: &str| Finding::wrong(Area::Aws, "permission", found);
        let mut findings = vec![finding("a"), finding("b"), finding("a")];
        without_repeats(&mut findings);
        assert_eq!(findings, [finding("a"), finding("b")]);
    }

    #[tokio::test]
    async fn who_does_not_answer_is_not_waited_for() {
        let short = Duration::from_millis(500);
        let never = std::future::pending::<Known<()>>();
        let answer = within(short, never).await;
        assert_eq!(answer, Err("no answer within 0.5 s".to_owned()));
        let now = std::future::ready(Ok(1));
        assert_eq!(within(short, now).await, Ok(1));
    }
}
