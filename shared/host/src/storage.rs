//! Files that the daemons need, looked at from outside: their mode, and the room that is
//! left for them. What they hold is never read.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use privnet_reconcile::doctor::host::SecretFile;

/// The file's mode; `None` where there is no such file.
pub(crate) async fn secret_file(path: &Path) -> io::Result<Option<SecretFile>> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) => Ok(Some(SecretFile {
            mode: metadata.permissions().mode() & 0o777,
            is_file: metadata.is_file(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes that are free for a file of this name, or in the first directory above it
/// that exists.
pub(crate) fn free(path: &Path) -> io::Result<u64> {
    let there = path.ancestors().skip(1).find(|path| path.exists());
    let file_system = rustix::fs::statvfs(there.unwrap_or(Path::new("/")))?;
    Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn room_is_told_also_where_the_directory_is_not_there_yet() {
        assert!(free(Path::new("/proc-that-is-not-there/a/b")).unwrap() > 0);
        // A file system of the kernel's own has none.
        assert_eq!(free(Path::new("/proc/x")).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_no_error() {
        let missing = secret_file(Path::new("/not-there/key")).await.unwrap();
        assert_eq!(missing, None);
        let directory = secret_file(Path::new("/")).await.unwrap().unwrap();
        assert!(!directory.is_file);
    }
}
