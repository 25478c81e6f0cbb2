//! A cache of what a daemon knew, so that a restart needs nobody's answer.
//!
//! It is only a cache: a file that is missing, cut short, malformed, of
//! another format or from the future is set aside with the reason, and the
//! daemon builds its knowledge again. What was set aside is kept for somebody
//! to look at. Nothing secret belongs in it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::atomic_file;

/// How far a clock may have been set back between saving and loading.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);
/// How many files that were set aside are kept: the newest.
const MAX_ASIDE: usize = 3;

/// A state file: where it is, and which format of its data this program knows.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    format: u32,
    program_version: &'static str,
}

/// What [`StateFile::load`] found.
#[derive(Debug)]
pub enum Loaded<T> {
    /// The data, whole.
    Found {
        /// The data.
        data: T,
        /// When it was saved.
        saved: Timestamp,
    },
    /// There is no such file, as at first start.
    Missing,
    /// There is a file of which nothing was taken.
    Ignored {
        /// Why.
        why: Unusable,
        /// Where it is now; `None` when it could not be moved.
        aside: Option<PathBuf>,
    },
}

/// Why nothing is taken of a state file.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is not the JSON it should be, or ends early.
    #[error("it is cut short or malformed: {0}")]
    Malformed(serde_json::Error),
    /// Another version's format.
    #[error("it has format {found} (of version {program_version}), this version reads {known}")]
    Format {
        /// The file's.
        found: u32,
        /// This program's.
        known: u32,
        /// The version that wrote it.
        program_version: String,
    },
    /// The clock was set back since, or the file is another machine's: what
    /// it says about times cannot be trusted.
    #[error("it was saved at {saved}, which is in the future")]
    FromTheFuture {
        /// When it says it was saved.
        saved: Timestamp,
    },
}

/// A state file that could not be written; the one before it is still there.
#[derive(Debug, thiserror::Error)]
#[error("state file {}: cannot be written; the one before it stays", path.display())]
pub struct SaveError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Serialize)]
struct EnvelopeOut<'a, T> {
    format: u32,
    program_version: &'a str,
    saved: Timestamp,
    data: &'a T,
}

/// Read first, and alone: the data may be of a format that is not known.
#[derive(Deserialize)]
struct Head {
    format: u32,
    program_version: String,
    saved: Timestamp,
}

#[derive(Deserialize)]
struct Body<T> {
    data: T,
}

impl StateFile {
    /// The state file at `path`. `format` goes up whenever older data can no
    /// longer be read.
    pub fn new(path: impl Into<PathBuf>, format: u32, program_version: &'static str) -> Self {
        Self {
            path: path.into(),
            format,
            program_version,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `data` in the place of what is there, readable by the owner alone;
    /// its directory is made if missing. Waits for the disk: not on an async
    /// thread.
    pub fn save<T: Serialize>(&self, data: &T, now: Timestamp) -> Result<(), SaveError> {
        let save = || {
            let mut bytes = serde_json::to_vec(&EnvelopeOut {
                format: self.format,
                program_version: self.program_version,
                saved: now,
                data,
            })?;
            bytes.push(b'\n');
            fs::create_dir_all(atomic_file::directory_of(&self.path))?;
            atomic_file::replace(&self.path, &bytes)
        };
        save().map_err(|source| SaveError {
            path: self.path.clone(),
            source,
        })
    }

    /// What was saved last. A file that is of no use is renamed to
    /// `NAME.bad-TIME`, and a warning is logged. Waits for the disk: not on an
    /// async thread.
    pub fn load<T: DeserializeOwned>(&self, now: Timestamp) -> Loaded<T> {
        let why = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Missing,
            Err(error) => Unusable::Unreadable(error),
            Ok(bytes) => match self.parse(&bytes, now) {
                Ok((data, saved)) => return Loaded::Found { data, saved },
                Err(why) => why,
            },
        };
        let aside = self
            .set_aside(now)
            .inspect_err(|error| {
                warn!(path = %self.path.display(), %error, "the state file cannot be set aside");
            })
            .ok();
        warn!(
            path = %self.path.display(),
            kept_as = aside.as_ref().map(|aside| tracing::field::display(aside.display())),
            "the state file is ignored: {why}"
        );
        Loaded::Ignored { why, aside }
    }

    fn parse<T: DeserializeOwned>(
        &self,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<(T, Timestamp), Unusable> {
        let head: Head = serde_json::from_slice(bytes).map_err(Unusable::Malformed)?;
        if head.format != self.format {
            return Err(Unusable::Format {
                found: head.format,
                known: self.format,
                program_version: head.program_version,
            });
        }
        if head.saved > now.saturating_add(MAX_SKEW).unwrap_or(now) {
            return Err(Unusable::FromTheFuture { saved: head.saved });
        }
        let body: Body<T> = serde_json::from_slice(bytes).map_err(Unusable::Malformed)?;
        Ok((body.data, head.saved))
    }

    fn set_aside(&self, now: Timestamp) -> io::Result<PathBuf> {
        let prefix = self.aside_prefix();
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let directory = atomic_file::directory_of(&self.path);
        let aside = (0_u32..)
            .map(|count| {
                let mut name = prefix.clone();
                name.push(&time);
                if count > 0 {
                    name.push(format!("-{count}"));
                }
                directory.join(name)
            })
            .find(|aside| aside.symlink_metadata().is_err())
            .ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(&self.path, &aside)?;
        self.forget_the_oldest(&directory, &prefix, &aside);
        Ok(aside)
    }

    fn aside_prefix(&self) -> OsString {
        let mut prefix = self.path.file_name().unwrap_or_default().to_owned();
        prefix.push(".bad-");
        prefix
    }

    fn forget_the_oldest(&self, directory: &Path, prefix: &OsString, newest: &Path) {
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        let mut others: Vec<(i64, i64, PathBuf)> = entries
            .filter_map(Result::ok)
            .filter(|entry| {
                let name = entry.file_name();
                name.as_encoded_bytes()
                    .starts_with(prefix.as_encoded_bytes())
            })
            .filter(|entry| entry.path() != newest)
            .filter_map(|entry| {
                // The time of the renaming.
                let metadata = entry.metadata().ok()?;
                Some((metadata.ctime(), metadata.ctime_nsec(), entry.path()))
            })
            .collect();
        others.sort();
        let surplus = (others.len() + 1).saturating_sub(MAX_ASIDE);
        for (_, _, aside) in others.drain(..surplus) {
            if let Err(error) = fs::remove_file(&aside) {
                warn!(path = %aside.display(), %error, "an old state file cannot be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn now() -> Timestamp {
        at("2026-11-21T05:00:00Z")
    }

    fn state_in(directory: &tempfile::TempDir) -> StateFile {
        StateFile::new(directory.path().join("lib/hub.state"), 2, "0.1.0")
    }

    fn saved_in(directory: &tempfile::TempDir) -> StateFile {
        let state = state_in(directory);
        state.save(&vec!["spoke-a".to_owned()], now()).unwrap();
        state
    }

    fn names(state: &StateFile) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(state.path().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn ignored(state: &StateFile, now: Timestamp) -> (String, PathBuf) {
        match state.load::<Vec<String>>(now) {
            Loaded::Ignored { why, aside } => (why.to_string(), aside.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_saved_is_found_again_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        match state.load::<Vec<String>>(now()) {
            Loaded::Found { data, saved } => {
                assert_eq!(data, ["spoke-a"]);
                assert_eq!(saved, now());
            }
            other => panic!("{other:?}"),
        }
        let mode = fs::metadata(state.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(&state), ["hub.state"]);
    }

    #[test]
    fn a_first_start_has_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            state_in(&directory).load::<Vec<String>>(now()),
            Loaded::Missing
        ));
    }

    #[test]
    fn a_file_cut_short_anywhere_is_set_aside_whole() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        let whole = fs::read(state.path()).unwrap();
        // Without its last byte, the newline, nothing is missing.
        for length in 0..whole.len() - 1 {
            fs::write(state.path(), &whole[..length]).unwrap();
            let (why, aside) = ignored(&state, now());
            assert!(why.contains("cut short or malformed"), "{why}");
            assert_eq!(fs::read(&aside).unwrap(), &whole[..length]);
            assert!(!state.path().exists());
        }
    }

    #[test]
    fn garbage_and_other_data_are_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        for content in [
            &b"\xff\x00\x01"[..],
            b"{}",
            br#"{"format":2,"program_version":"0.1.0","saved":"2026-11-21T05:00:00Z","data":{"a":1}}"#,
            br#"{"format":2,"program_version":"0.1.0","saved":"2026-11-21T05:00:00Z"}"#,
        ] {
            fs::write(state.path(), content).unwrap();
            let (_, aside) = ignored(&state, now());
            assert_eq!(fs::read(aside).unwrap(), content);
        }
    }

    #[test]
    fn another_format_is_set_aside_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        let newer = br#"{"format":3,"program_version":"9.1.0","saved":"2026-11-21T05:00:00Z","data":{"a":1}}"#;
        fs::write(state.path(), newer).unwrap();
        let (why, aside) = ignored(&state, now());
        assert_eq!(
            why,
            "it has format 3 (of version 9.1.0), this version reads 2"
        );
        assert_eq!(fs::read(aside).unwrap(), newer);
    }

    #[test]
    fn a_file_from_the_future_is_set_aside_and_a_little_skew_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        assert!(matches!(
            state.load::<Vec<String>>(at("2026-11-21T04:55:00Z")),
            Loaded::Found { .. }
        ));
        let (why, aside) = ignored(&state, at("2026-11-21T04:54:59Z"));
        assert!(why.contains("2026-11-21T05:00:00Z"), "{why}");
        assert_eq!(aside.file_name().unwrap(), "hub.state.bad-20261121T045459Z");
    }

    #[test]
    fn only_the_newest_that_were_set_aside_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        for second in [1, 1, 2, 3, 4] {
            fs::write(state.path(), "bad").unwrap();
            ignored(&state, at(&format!("2026-11-21T05:00:0{second}Z")));
        }
        assert_eq!(
            names(&state),
            [
                "hub.state.bad-20261121T050002Z",
                "hub.state.bad-20261121T050003Z",
                "hub.state.bad-20261121T050004Z"
            ]
        );
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_too() {
        let directory = tempfile::tempdir().unwrap();
        let state = state_in(&directory);
        fs::create_dir_all(state.path()).unwrap();
        let (why, aside) = ignored(&state, now());
        assert!(why.contains("cannot be read"), "{why}");
        assert!(aside.is_dir());
    }

    #[test]
    fn on_a_full_disk_the_old_file_stays_and_nothing_is_left_over() {
        let directory = tempfile::tempdir().unwrap();
        let state = saved_in(&directory);
        let old = fs::read(state.path()).unwrap();
        // A limit on the size of files stands for the full disk; it is the
        // process's, so the saving is done in one of its own.
        let status = Command::new("sh")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 8; exec \"$@\" >/dev/null",
                "sh",
            ])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "state_file::tests::child_saves_too_much",
            ])
            .env("STATE_FILE", state.path())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(fs::read(state.path()).unwrap(), old);
        assert_eq!(names(&state), ["hub.state"]);
    }

    #[test]
    #[ignore = "run by on_a_full_disk_the_old_file_stays_and_nothing_is_left_over"]
    fn child_saves_too_much() {
        let state = StateFile::new(std::env::var_os("STATE_FILE").unwrap(), 2, "0.1.0");
        let error = state.save(&vec!["x".repeat(1 << 20)], now()).unwrap_err();
        assert!(
            error.to_string().contains("the one before it stays"),
            "{error}"
        );
    }
}
