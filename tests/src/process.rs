//! A program that runs beside the test: its output goes to a file, a failure can
//! show the end of it, and it is killed (by its own id) when dropped.
//!
//! Also the one way to wait here: for a condition, with a deadline, and with an
//! error that says what was waited for and what was seen last.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the command; its output is appended to `DIRECTORY/NAME.log`.
    pub fn start(name: &str, directory: &Path, mut command: Command) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its name, as in its log's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of the log if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status})\n{}", self.name, self.log_tail(30)),
        }
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of the log, indented, under a heading.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits for it; an error if it does not in time.
    pub fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(patience)
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let ended = wait_until(&format!("{name} to end"), patience, || {
            Ok(self.child.try_wait()?)
        });
        ended.map_err(|error| error.context(self.log_tail(20)))
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its resident memory and the peak of that, in bytes.
    pub fn memory_bytes(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let field = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|rest| rest.trim_start_matches(':').split_whitespace().next())
                .and_then(|kib| kib.parse::<u64>().ok())
                .map(|kib| kib * 1024)
                .with_context(|| format!("no {key} in /proc/PID/status"))
        };
        Ok((field("VmRSS")?, field("VmHWM")?))
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log file, indented, under a heading.
pub fn log_tail(log: &Path, lines: usize) -> String {
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let mut tail = format!("--- the end of {name}");
    if all.is_empty() {
        tail.push_str(": it is empty");
    }
    for line in &all[all.len().saturating_sub(lines)..] {
        tail.push_str("\n    ");
        tail.push_str(line);
    }
    tail
}

/// Tries until `attempt` gives something, and returns that. When the deadline
/// passes, the error says what was waited for and the attempt's last error.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        let outcome = attempt();
        let late = start.elapsed() >= patience;
        match outcome {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if late => {
                return Err(anyhow!("waited {} s for {what}", patience.as_secs_f32()));
            }
            Err(error) if late => {
                return Err(error.context(format!(
                    "waited {} s for {what}; last",
                    patience.as_secs_f32()
                )));
            }
            Ok(None) | Err(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Runs a command to its end and returns what it printed; an error holds the
/// command and all that it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{command:?}: {}\n{}{}",
        output.status,
        stdout,
        stderr.trim_end()
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn waiting_says_what_for_and_what_was_seen_last() {
        let outcome: Result<()> = wait_until("the moon", Duration::from_millis(20), || {
            bail!("still behind the hill")
        });
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains("for the moon"), "{error}");
        assert!(error.contains("still behind the hill"), "{error}");
    }

    #[test]
    fn a_program_that_ended_is_an_error_that_shows_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo alas; exit 3"]);
        let mut process = Process::start("poet", directory.path(), command).unwrap();
        process.wait(Duration::from_secs(10)).unwrap();
        let error = process.check().unwrap_err().to_string();
        assert!(error.contains("alas") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_command_that_fails_tells_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 1"]);
        let error = run(&mut command).unwrap_err().to_string();
        assert!(error.contains("no such luck"), "{error}");
    }
}
