//! The command line that both daemons share: `run`, `check`, `public-key`, `rotate-key`,
//! `fetch-config` and `doctor`.
//!
//! Everything that ends a daemon ends here: with a message on standard error
//! (or in the log, once there is one) and an exit code.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use privnet_model::admin::RotateRequest;
use privnet_model::config::ConfigErrors;
use privnet_model::status::Role;

use crate::client::AdminClient;
use crate::doctor::{self, Examination};
use crate::events::Events;
use crate::{key_file, logging, service};

/// How long a daemon may take to change its key: a spoke's hub has to take note.
const ROTATION_PATIENCE: Duration = Duration::from_secs(60);

/// What makes a program out of this: its config, and what it does with it.
pub trait Daemon: Sized {
    /// The checked config.
    type Config: Send;
    /// The program's name.
    const PROGRAM: &'static str;
    /// One line that says what it is for.
    const ABOUT: &'static str;
    /// Where its config file is by default.
    const CONFIG: &'static str;
    /// Which of the two it is.
    const ROLE: Role;

    /// Parses the text of a config file.
    fn parse(file: &str, text: &str) -> Result<Self::Config, ConfigErrors>;
    /// Where the private key is.
    fn private_key(config: &Self::Config) -> &Path;
    /// Whether a key is made there when there is none, instead of fetched.
    fn makes_key(_config: &Self::Config) -> bool {
        true
    }
    /// The log filter.
    fn log(config: &Self::Config) -> &str;
    /// Where its admin API answers and, if anywhere, the loopback address of its metrics.
    fn doors(config: &Self::Config) -> (&Path, Option<SocketAddr>);
    /// Looks at all that `doctor` looks at, and changes nothing. What could not be
    /// looked at is among the findings.
    fn examine(config: Self::Config) -> impl Future<Output = Examination>;
    /// The text of an SSM parameter in this instance's region.
    fn fetch(parameter: &str) -> impl Future<Output = Result<String, Unfetched>>;
    /// Brings it up. `None` when told to stop meanwhile.
    fn start(
        config: Self::Config,
        file: ConfigFile,
        events: &mut Events,
    ) -> impl Future<Output = Result<Option<Self>>>;
    /// Runs until it is told to stop, or cannot go on.
    fn main_loop(&mut self, events: &mut Events) -> impl Future<Output = Result<()>>;
    /// Ends what it brought up, and keeps what the next start wants.
    fn close(self);
}

/// Why there is no text of a parameter.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
pub struct Unfetched {
    /// One sentence that names it.
    pub said: String,
    /// Whether asking again may help without anybody changing anything.
    pub is_temporary: bool,
}

/// The config file a daemon was started with.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The config file.
    #[arg(value_name = "CONFIG")]
    path: Option<PathBuf>,
    #[arg(skip)]
    default: &'static str,
}

impl ConfigFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(self.default))
    }

    /// Reads and parses it. The error lists everything that is wrong with it.
    pub fn read<D: Daemon>(&self) -> Result<D::Config> {
        let path = self.path();
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let config = D::parse(&path.display().to_string(), &text)?;
        logging::check_filter(D::log(&config))
            .with_context(|| format!("{}: log", path.display()))?;
        Ok(config)
    }
}

#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon in the foreground until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Checks a config file and tells all that is wrong with it
    Check(ConfigFile),
    /// Prints the public key; makes the private key if there is none yet
    PublicKey(ConfigFile),
    /// Has the running daemon change its key without losing a packet
    RotateKey {
        #[command(flatten)]
        file: ConfigFile,
        /// On a hub: every spoke knows the next key; use it from now on
        #[arg(long)]
        commit: bool,
    },
    /// Prints the config that is an SSM parameter in this instance's region, as it is there
    #[command(
        after_help = "Exit code: 0 it is printed, 1 it cannot be had now, 2 it cannot be had \
                            until somebody changes something."
    )]
    FetchConfig {
        /// The parameter's name, or its ARN
        #[arg(value_name = "PARAMETER")]
        parameter: String,
    },
    /// Looks for what is wrong with host, AWS and tunnels, and tells what mends it
    #[command(
        after_help = "Exit code: 0 nothing is wrong, 1 something is, 2 the config file \
                            cannot be used. Needs root to see the firewall."
    )]
    Doctor(doctor::Options),
}

/// The `main` of a daemon.
pub fn main<D: Daemon>() -> ExitCode {
    let command = Cli::command()
        .name(D::PROGRAM)
        .about(D::ABOUT)
        .after_help(format!("CONFIG is {} unless given.", D::CONFIG));
    let cli = match Cli::from_arg_matches(&command.get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Run(file) => run::<D>(named::<D>(file)),
        Command::Check(file) => check::<D>(&named::<D>(file)),
        Command::PublicKey(file) => public_key::<D>(&named::<D>(file)),
        Command::RotateKey { file, commit } => rotate_key::<D>(&named::<D>(file), commit),
        Command::FetchConfig { parameter } => fetch_config::<D>(&parameter),
        Command::Doctor(options) => return doctor::<D>(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain::<D>(&error);
            match error.downcast_ref::<Unfetched>() {
                Some(unfetched) if !unfetched.is_temporary => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn complain<D: Daemon>(error: &anyhow::Error) {
    // A config's errors are lines that begin with the file's name, as
    // compilers print them; nothing is put before those.
    let text = if error.is::<ConfigErrors>() {
        format!("{error}")
    } else {
        format!("{}: {error:#}", D::PROGRAM)
    };
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Unlike the others it tells what could not even begin from what is wrong.
fn doctor<D: Daemon>(options: doctor::Options) -> ExitCode {
    let file = named::<D>(options.file.clone());
    let examined = file
        .read::<D>()
        .and_then(|config| doctor::run::<D>(config, &options));
    examined.unwrap_or_else(|error| {
        complain::<D>(&error);
        ExitCode::from(2)
    })
}

fn named<D: Daemon>(file: ConfigFile) -> ConfigFile {
    ConfigFile {
        default: D::CONFIG,
        ..file
    }
}

fn run<D: Daemon>(file: ConfigFile) -> Result<()> {
    let config = file.read::<D>()?;
    logging::init(D::log(&config))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(live::<D>(config, file));
    // A task that hangs in a system call must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// A daemon's life, from the first of its doors to the last.
async fn live<D: Daemon>(config: D::Config, file: ConfigFile) -> Result<()> {
    // Before anything is touched: a second daemon fails here.
    let (socket, metrics) = D::doors(&config);
    let mut events = Events::open(socket, metrics, D::PROGRAM).await?;
    let result = match D::start(config, file, &mut events).await {
        Ok(Some(mut daemon)) => {
            let result = daemon.main_loop(&mut events).await;
            service::stopping();
            daemon.close();
            result
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    events.close().await;
    result
}

fn check<D: Daemon>(file: &ConfigFile) -> Result<()> {
    file.read::<D>()?;
    print(&format!("{}: fine", file.path().display()))
}

fn public_key<D: Daemon>(file: &ConfigFile) -> Result<()> {
    let config = file.read::<D>()?;
    let path = D::private_key(&config);
    let key = match D::makes_key(&config) {
        true => key_file::load_or_create(path)?,
        false => key_file::read_private_key(path)?,
    };
    print(&key.public().to_string())
}

/// The running daemon does it: it alone has the sessions.
fn rotate_key<D: Daemon>(file: &ConfigFile, commit: bool) -> Result<()> {
    let config = file.read::<D>()?;
    let (socket, _) = D::doors(&config);
    let client = AdminClient::new(socket).with_patience(ROTATION_PATIENCE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let answer = runtime.block_on(client.rotate_key(RotateRequest { commit }))?;
    print(&format!("public key: {}", answer.public_key))?;
    if let Some(next) = answer.next {
        print(&format!("next public key: {next}"))?;
    }
    print(&answer.text)
}

/// For `privnet-boot`, which knows nothing of SSM.
fn fetch_config<D: Daemon>(parameter: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let fetched = runtime.block_on(D::fetch(parameter));
    // A question to DNS that hangs must not keep the process.
    runtime.shutdown_background();
    print_as_it_is(&fetched?)
}

fn print(line: &str) -> Result<()> {
    print_as_it_is(&format!("{line}\n"))
}

fn print_as_it_is(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output")
        }
        _ => Ok(()),
    }
}
