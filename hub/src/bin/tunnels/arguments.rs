//! The command line. Help, completions and man pages all come from here.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use privnet_model::id::{InstanceId, Region, VpcId};
use privnet_model::status::TunnelState;

/// In every help text and man page, so that scripts can rely on it.
const EXIT_CODES: &str = "\
Exit codes:
  0  done (also when the reader of the output went away)
  1  an error, told on stderr
  2  the command line is wrong
  3  the daemon is not running
  4  no permission to use its socket
  5  with --check: a tunnel is not up; why: not connected
  6  no tunnel, or more than one, goes by that name; with --check: none is listed
  7  refresh: part of it failed; what is known of the failed part stays as it is
  8  refresh: removals are held, because they are too many at once";

/// Shows and refreshes the tunnels of this hub or spoke
///
/// Asks the privnet-hub or privnet-spoke that runs on this machine. Without a
/// command it lists all tunnels.
#[derive(Debug, Parser)]
#[command(name = "tunnels", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The daemon's admin socket [default: the hub's, else the spoke's, under /run/privnet]
    #[arg(long, global = true, value_name = "PATH", env = "PRIVNET_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// When to use colour; `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl From<Color> for anstream::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// List the tunnels, those that are not up with the reason
    ///
    /// On a terminal the table fits its width: what matters less is left out
    /// or shortened. Elsewhere, and with --wide, every column is there.
    List(ListOptions),
    /// Show everything about one tunnel, or about the tunnel interface
    ///
    /// Without a name: the interface that all tunnels share, which offloads are
    /// on and why the others are not, what was counted, and what was dropped and
    /// why.
    Show(ShowOptions),
    /// Tell what happened lately, and why, oldest first
    ///
    /// What happens again is one line that says how often. The daemon keeps the
    /// last 1000 events since it started; its log has all.
    Events(EventsOptions),
    /// Tell why something is or is not connected
    ///
    /// With a second address or name: whether the two may talk, and by which way.
    Why(WhyOptions),
    /// Have the daemon look again now: at EC2, and at what the host really has
    Refresh(RefreshOptions),
    /// Print a completion script, to be sourced by the shell
    #[command(after_help = EXIT_CODES)]
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        /// An existing directory
        directory: PathBuf,
    },
}

impl Default for Command {
    fn default() -> Self {
        Self::List(ListOptions::default())
    }
}

#[derive(Debug, Clone, Default, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ListOptions {
    /// Print the daemon's status as JSON, with the listed tunnels
    #[arg(long)]
    pub(crate) json: bool,
    /// Print every column, whatever the width of the terminal
    #[arg(long, conflicts_with = "json")]
    pub(crate) wide: bool,
    /// Print again and again until interrupted; with --json one line each time
    #[arg(long)]
    pub(crate) watch: bool,
    /// How often, with --watch [default: 2s]
    #[arg(long, requires = "watch", value_name = "TIME", value_parser = interval)]
    pub(crate) interval: Option<Duration>,
    /// Exit with 5 when a listed tunnel is not up (a spoke that is only a NAT
    /// gateway has none and does not count)
    #[arg(long, conflicts_with = "watch")]
    pub(crate) check: bool,
    /// Only tunnels of this region; may be given several times
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Vec<Region>,
    /// Only tunnels of this VPC; may be given several times
    #[arg(long, value_name = "VPC")]
    pub(crate) vpc: Vec<VpcId>,
    /// Only tunnels in this state; may be given several times
    #[arg(long, value_name = "STATE", value_parser = state_parser())]
    pub(crate) state: Vec<TunnelState>,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ShowOptions {
    /// The tunnel's or site's name, its instance id, or its VPC id [default: the
    /// tunnel interface itself]
    pub(crate) name: Option<String>,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with 5 when it is not up
    #[arg(long, requires = "name")]
    pub(crate) check: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RefreshOptions {
    /// Only tell what would change, and why
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Let go the tunnels that are held because they are many
    #[arg(long)]
    pub(crate) accept_removals: bool,
    /// Let this spoke's tunnel go though it still handshakes, if EC2 says that it is
    /// stopped, no longer tagged as a spoke or unknown; may be given several times
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) remove: Vec<InstanceId>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct EventsOptions {
    /// Only the last so many; 0 is none, for --follow
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 50)]
    pub(crate) lines: usize,
    /// Go on, and print what happens, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print them as JSON; with --follow one line each
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct WhyOptions {
    /// A CIDR, an address, an instance or VPC id, or a tunnel's or site's name
    pub(crate) subject: String,
    /// An address or name that it should reach
    pub(crate) towards: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn state_parser() -> impl TypedValueParser<Value = TunnelState> {
    PossibleValuesParser::new(TunnelState::ALL.map(TunnelState::as_str)).try_map(|word| {
        TunnelState::ALL
            .into_iter()
            .find(|state| state.as_str() == word)
            .ok_or("no such state")
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = text
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .filter(|time| (Duration::from_millis(200)..=Duration::from_secs(86_400)).contains(time));
    time.ok_or_else(|| "expected a time from 200ms to 1 day, such as 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_interval_has_a_unit_and_bounds() {
        assert_eq!(interval("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(interval("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["2", "", "0s", "-2s", "10ms", "2 days", "x"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
