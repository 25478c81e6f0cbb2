//! Where the daemons' log goes, and in what form: stderr; for people on a
//! terminal, else one JSON object per line.
//!
//! Under systemd's journal, which keeps the time itself, the lines have no
//! time and begin with their priority, so that `journalctl -p warning` works.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;

use tracing::{Event, Level, Subscriber, error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable whose filter goes before the config's.
pub const FILTER_VARIABLE: &str = "PRIVNET_LOG";

/// What goes before every filter, so that a filter that names one of these
/// targets itself still has its way.
///
/// boringtun logs errors for packets that anybody on the internet can send;
/// the data plane counts them instead. The others tell of every request.
const QUIET: &str = "boringtun=off,aws=warn,h2=warn,hyper=warn,netlink=warn,rustls=warn";

/// A log filter that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error(
    "log filter `{filter}`: {problem}; expected a level (off, error, warn, info, debug, trace) \
     or a list such as `info,privnet_hub=debug`"
)]
pub struct FilterError {
    filter: String,
    problem: String,
}

/// Starts logging; `filter` is that of the config. A filter in the
/// environment goes before it; one that makes no sense there is ignored with a
/// warning, because what is set for one look must not keep a daemon from
/// starting.
///
/// Panics are logged too. Call once, first of all.
pub fn init(filter: &str) -> Result<(), FilterError> {
    let mut filter = parse(filter)?;
    let mut ignored = None;
    if let Some(wanted) = std::env::var_os(FILTER_VARIABLE).filter(|wanted| !wanted.is_empty()) {
        match parse(&wanted.to_string_lossy()) {
            Ok(wanted) => filter = wanted,
            Err(error) => ignored = Some(error),
        }
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // The one error here is that logging was started before: then it goes on.
    let _ = if io::stderr().is_terminal() {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(colour).try_init()
    } else if stderr_is_the_journal() {
        let json = format::json().flatten_event(true).without_time();
        builder.json().event_format(WithPriority(json)).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    log_panics();
    if let Some(error) = ignored {
        warn!(variable = FILTER_VARIABLE, "ignored: {error}");
    }
    Ok(())
}

/// Says whether a filter makes sense, for the `check` commands.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let refused = |problem: String| FilterError {
        filter: filter.to_owned(),
        problem,
    };
    // tracing takes a bare word that is no level for the name of a target, so
    // that `inof` would silence everything else.
    for word in filter.split(',').map(str::trim) {
        let is_target = word.contains(['=', '[', ':']);
        if !word.is_empty()
            && !is_target
            && word.parse::<tracing::level_filters::LevelFilter>().is_err()
        {
            return Err(refused(format!("`{word}` is no level")));
        }
    }
    EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|error| refused(error.to_string()))
}

/// systemd says by `JOURNAL_STREAM` which file the journal reads; it is
/// compared because the variable is inherited by what a service starts with
/// its output redirected (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let own = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stderr| File::from(stderr).metadata());
    own.is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

/// The default hook writes free text on stderr, and nothing where a task is
/// the one that panics and nobody looks at its result.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        error!(place, "panic: {message}");
    }));
}

/// Puts the syslog priority in front of each line (sd-daemon(3)).
struct WithPriority<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::process::{Command, Stdio};

    use super::*;

    // Logging is started once per process, so each look at it is a process.
    fn log_of(filter_variable: Option<&str>, journal: bool) -> String {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "logging::tests::child_logs",
            ])
            .env_remove(FILTER_VARIABLE)
            .env_remove("JOURNAL_STREAM")
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap());
        if let Some(filter) = filter_variable {
            command.env(FILTER_VARIABLE, filter);
        }
        if journal {
            let metadata = log.as_file().metadata().unwrap();
            command.env(
                "JOURNAL_STREAM",
                format!("{}:{}", metadata.dev(), metadata.ino()),
            );
        }
        assert!(command.status().unwrap().success());
        std::fs::read_to_string(log.path()).unwrap()
    }

    #[test]
    #[ignore = "run by the tests below, in a process of its own"]
    fn child_logs() {
        init("info").unwrap();
        tracing::debug!("a detail");
        tracing::info!(spoke = "spoke-a", "news");
        tracing::error!(target: "boringtun::noise", "from the internet");
        tracing::info!(target: "aws_smithy_runtime", "a request");
        let _ = std::thread::spawn(|| panic!("oh")).join();
    }

    #[test]
    fn off_a_terminal_the_log_is_json_with_its_fields_and_panics() {
        let log = log_of(None, false);
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert_eq!(lines[0]["message"], "news");
        assert_eq!(lines[0]["spoke"], "spoke-a");
        assert!(lines[0]["timestamp"].is_string());
        assert_eq!(lines[1]["message"], "panic: oh");
    }

    #[test]
    fn in_the_journal_a_line_has_its_priority_and_no_time() {
        let log = log_of(None, true);
        let news = log.lines().next().unwrap().strip_prefix("<6>{").unwrap();
        assert!(!news.contains("timestamp"), "{log}");
        assert!(log.lines().nth(1).unwrap().starts_with("<3>{"), "{log}");
    }

    #[test]
    fn the_environment_goes_before_the_config() {
        assert!(log_of(Some("debug"), false).contains("a detail"));
        assert!(!log_of(Some("error"), false).contains("news"));
    }

    #[test]
    fn a_filter_that_names_a_silenced_target_has_its_way() {
        let log = log_of(Some("warn,boringtun=error"), false);
        assert!(log.contains("from the internet"), "{log}");
    }

    #[test]
    fn nonsense_in_the_environment_is_ignored_with_a_warning() {
        let log = log_of(Some("inof"), false);
        assert!(
            log.contains("`inof` is no level") && log.contains("news"),
            "{log}"
        );
    }

    #[test]
    fn nonsense_in_the_config_is_an_error_that_says_what_was_expected() {
        for filter in ["inof", "info,foo=bar", "info,privnet_hub"] {
            let error = check_filter(filter).unwrap_err().to_string();
            assert!(
                error.contains(filter) && error.contains("expected a level"),
                "{error}"
            );
        }
        for filter in [
            "",
            "info",
            "WARN",
            "info,privnet_hub=debug",
            "privnet_hub::poll",
        ] {
            check_filter(filter).unwrap();
        }
    }
}
