//! Files that are either the old one or the new one, whole, whatever happens
//! meanwhile: a crash, a full disk, a loss of power.
//!
//! A new file is written under a temporary name in the same directory, flushed
//! to the disk, and only then given its name; it never exists half-written.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Puts `bytes` in the place of whatever is at `path`, readable by the owner
/// alone. On an error what was there is still there, untouched.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    written_aside(path, &directory, bytes)?
        .persist(path)
        .map_err(|error| error.error)?;
    sync_directory(&directory)
}

/// Makes the file, readable by the owner alone; an error of the kind
/// `AlreadyExists` when there is anything at `path`, which stays untouched.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = directory_of(path);
    written_aside(path, &directory, bytes)?
        .persist_noclobber(path)
        .map_err(|error| error.error)?;
    sync_directory(&directory)
}

/// The directory that holds `path`.
pub(crate) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn written_aside(path: &Path, directory: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    // tempfile makes it with O_EXCL and mode 0600, and removes it when dropped.
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".new")
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    // Some filesystems report a full disk only here.
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes the rename itself survive a loss of power.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_replaced_file_is_private_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn create_never_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        create(&path, b"first").unwrap();
        let error = create(&path, b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
