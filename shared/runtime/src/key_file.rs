//! The files that hold keys: the host's own private key, made at first start,
//! and preshared keys and the fleet's secret, which the operator puts there.
//!
//! A key file is never overwritten, but by the next key that was made beside it
//! (`FILE.next`) when all who must know that one do. One that cannot be read or
//! makes no sense is an error for the operator to settle: a new key in its place
//! would cut off every peer that knows the old one. No error and no log line
//! shows what a key file holds.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use privnet_model::ipsec::{CertificateKey, IkeSecret, IkeSecretError};
use privnet_model::key::{KeyError, PresharedKey, PrivateKey};
use privnet_model::secret::{FleetSecret, SecretError};
use privnet_model::site_key::SiteKey;
use rand::TryRng;
use rand::rngs::SysRng;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::atomic_file;

/// A key is 45 bytes with its newline; what is much longer is another file.
const MAX_KEY_BYTES: usize = 1024;
/// A certificate and the authorities up to its root; VICI takes 64 KB.
const MAX_PEM_BYTES: usize = 60_000;
/// Two lines of at most 4096 bytes each, and some white space.
const MAX_SECRET_BYTES: usize = 8400;
/// 1,700 of the longest, which have 600 bytes; of those that tools make, 10,000.
const MAX_SITE_KEYS_BYTES: usize = 1 << 20;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("key file {}: there is none; {}", path.display(), hint)]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// The file exists and cannot be read.
    #[error(
        "key file {}: cannot be read; make it a file that this program's user can read \
         (it was not touched)", path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else than a file is there.
    #[error("key file {}: not a regular file; name another path or remove it", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// The file holds no key.
    #[error(
        "key file {}: holds no key; expected 32 bytes as base64 on one line, as `wg genkey` \
         writes them (it was not touched: put the right key back, or move it away{})",
        path.display(), if *made_anew { " to have a new key made" } else { "" }
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Whether a start without the file would make a new key.
        made_anew: bool,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The file holds no fleet secret.
    #[error("key file {}: holds no fleet secret (it was not touched)", path.display())]
    NoSecret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SecretError,
    },
    /// The file holds no preshared key for IKE.
    #[error("key file {}: holds no preshared key for IPsec (it was not touched)", path.display())]
    NoIkeSecret {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IkeSecretError,
    },
    /// The file is not the PEM that it should be.
    #[error("key file {}: holds no {what} in PEM (it was not touched)", path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// What it should hold: "certificate", say.
        what: &'static str,
    },
    /// The file holds no copies of sites' keys, or is not to hold them.
    #[error(
        "key file {}: copies of sites' keys are a text of less than {} bytes, and {what}",
        path.display(), MAX_SITE_KEYS_BYTES
    )]
    NoSiteKeys {
        /// The file.
        path: PathBuf,
        /// In words: what is in it, or was to be.
        what: &'static str,
    },
    /// A new key could not be made or written.
    #[error("key file {}: a new key cannot be {step}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// How far it came.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The private key of this file; makes it, readable by its owner alone, when
/// there is no such file.
///
/// The directory is made too (mode 0700). Of two programs that do this at the
/// same time, both get the key of whichever was first.
pub fn load_or_create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    match read_key(path, true) {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => {}
        Err(error) => return Err(error),
    }
    let failed = |step| {
        move |source| KeyFileError::Create {
            path: path.to_owned(),
            step,
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(atomic_file::directory_of(path))
        .map_err(failed(
            "written: its directory is missing and cannot be made",
        ))?;

    let mut random = Zeroizing::new([0; 32]);
    SysRng
        .try_fill_bytes(random.as_mut_slice())
        .map_err(|error| failed("made: the kernel gives no random bytes")(error.into()))?;
    let key = PrivateKey::from_random(*random);
    match write_private_key(path, &key) {
        Ok(()) => {
            info!(path = %path.display(), public_key = %key.public(), "made a new private key");
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_private_key(path),
        Err(error) => Err(failed("written")(error)),
    }
}

/// Puts a key that is kept elsewhere into its file, which must not exist.
pub fn keep_private_key(path: &Path, key: &PrivateKey) -> Result<(), KeyFileError> {
    write_private_key(path, key).map_err(|source| KeyFileError::Create {
        path: path.to_owned(),
        step: "written",
        source,
    })
}

fn write_private_key(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let mut line = Zeroizing::new(Vec::with_capacity(64));
    line.extend_from_slice(key.to_base64().as_bytes());
    line.push(b'\n');
    atomic_file::create(path, &line)
}

/// The private key of this file, `None` when there is no such file.
pub fn find_private_key(path: &Path) -> Result<Option<PrivateKey>, KeyFileError> {
    read_key(path, true)
}

/// The private key of this file, which must exist.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, KeyFileError> {
    read_key(path, true)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
        hint: "start the daemon once, which makes it",
    })
}

/// Where the key is that comes after the one of this file.
fn next_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

/// The key that comes after the one of this file; made when there is none yet.
pub fn load_or_create_next(path: &Path) -> Result<PrivateKey, KeyFileError> {
    load_or_create(&next_of(path))
}

/// The key that comes after the one of this file, when one was made.
pub fn read_next(path: &Path) -> Result<Option<PrivateKey>, KeyFileError> {
    read_key(&next_of(path), true)
}

/// Puts the next key in the place of this file's, for good.
pub fn take_next(path: &Path) -> Result<(), KeyFileError> {
    fs::rename(next_of(path), path)
        .and_then(|()| atomic_file::sync_directory(&atomic_file::directory_of(path)))
        .map_err(|source| KeyFileError::Create {
            path: path.to_owned(),
            step: "put in the place of the old one",
            source,
        })
}

/// The preshared key of this file, which must exist.
pub fn read_preshared_key(path: &Path) -> Result<PresharedKey, KeyFileError> {
    read_key(path, false)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
        hint: "put the preshared key there (`wg genpsk` makes one)",
    })
}

/// The preshared key of an IPsec tunnel in this file, which must exist.
pub fn read_ike_secret(path: &Path) -> Result<IkeSecret, KeyFileError> {
    let content = read(path, MAX_KEY_BYTES)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
        hint: "put the preshared key there, as both sides have it (`openssl rand -base64 33` \
               makes one)",
    })?;
    // Bytes that are no text are no printable characters either.
    let text = Zeroizing::new(String::from_utf8_lossy(&content).into_owned());
    IkeSecret::new(&text).map_err(|source| KeyFileError::NoIkeSecret {
        path: path.to_owned(),
        source,
    })
}

/// The certificates in this file, which must exist, in PEM.
pub fn read_certificate(path: &Path) -> Result<String, KeyFileError> {
    let pem = read_pem(path, "certificate", "CERTIFICATE-----")?;
    Ok(pem.to_string())
}

/// The private key of a certificate in this file, which must exist, in PEM.
pub fn read_certificate_key(path: &Path) -> Result<CertificateKey, KeyFileError> {
    let mut pem = read_pem(path, "private key", "PRIVATE KEY-----")?;
    Ok(CertificateKey::new(std::mem::take(&mut *pem)))
}

fn read_pem(
    path: &Path,
    what: &'static str,
    mark: &str,
) -> Result<Zeroizing<String>, KeyFileError> {
    let content = read(path, MAX_PEM_BYTES)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
        hint: "ami/IPSEC.md tells how to make an authority and certificates",
    })?;
    let other = || KeyFileError::NoPem {
        path: path.to_owned(),
        what,
    };
    let text = std::str::from_utf8(&content).map_err(|_| other())?;
    match text.contains("-----BEGIN ") && text.contains(mark) {
        true => Ok(Zeroizing::new(text.to_owned())),
        false => Err(other()),
    }
}

/// The fleet's secret in this file, which must exist.
pub fn read_fleet_secret(path: &Path) -> Result<FleetSecret, KeyFileError> {
    let content = read(path, MAX_SECRET_BYTES)?.ok_or_else(|| KeyFileError::Missing {
        path: path.to_owned(),
        hint: "put the fleet's secret there (`openssl rand -base64 48` makes one)",
    })?;
    let bytes = content.len();
    let parsed = match std::str::from_utf8(&content) {
        // There may be more of it.
        Ok(_) if bytes == MAX_SECRET_BYTES => Err(SecretError::Long { line: 1, bytes }),
        Ok(text) => text.parse(),
        Err(_) => Err(SecretError::NotText { line: 1 }),
    };
    parsed.map_err(|source| KeyFileError::NoSecret {
        path: path.to_owned(),
        source,
    })
}

/// Where a copy of a secret that is kept elsewhere stands: beside the private key.
pub fn fleet_secret_copy(private_key: &Path) -> PathBuf {
    private_key.with_extension("fleet-secret")
}

/// Keeps a copy of the fleet's secret in this file, so that a restart does not need
/// the place where it is from.
pub fn keep_fleet_secret(path: &Path, secret: &FleetSecret) -> Result<(), KeyFileError> {
    if read_fleet_secret(path).is_ok_and(|kept| kept == *secret) {
        return Ok(());
    }
    atomic_file::replace(path, secret.to_text().as_bytes()).map_err(|source| KeyFileError::Create {
        path: path.to_owned(),
        step: "written",
        source,
    })
}

/// Where copies of sites' keys stand that are kept elsewhere: beside the private key.
pub fn site_keys_copy(private_key: &Path) -> PathBuf {
    private_key.with_extension("site-keys")
}

/// The sites' keys of which this file has copies, by the sites' names; none when there is
/// no such file.
///
/// # Errors
/// The file is there and cannot be read, or is no such file.
pub fn read_site_keys(path: &Path) -> Result<BTreeMap<String, SiteKey>, KeyFileError> {
    let no_copies = |what| KeyFileError::NoSiteKeys {
        path: path.to_owned(),
        what,
    };
    let Some(content) = read(path, MAX_SITE_KEYS_BYTES)? else {
        return Ok(BTreeMap::new());
    };
    if content.len() == MAX_SITE_KEYS_BYTES {
        return Err(no_copies("this file is longer"));
    }
    let text = std::str::from_utf8(&content).map_err(|_| no_copies("this file is no text"))?;
    Ok(text.lines().filter_map(SiteKey::from_line).collect())
}

/// Keeps copies of these keys in this file, and of no others, so that a restart does not
/// need the place where they are from.
///
/// # Errors
/// The file cannot be written, or could not be read again, as there are too many keys.
pub fn keep_site_keys(path: &Path, keys: &BTreeMap<String, SiteKey>) -> Result<(), KeyFileError> {
    // What cannot be read gives way to what is known, once there is something.
    let kept = read_site_keys(path).unwrap_or_default();
    if kept == *keys {
        return Ok(());
    }
    let lines: Vec<_> = keys.iter().map(|(site, key)| key.to_line(site)).collect();
    let bytes: usize = lines.iter().map(|line| line.len()).sum();
    if bytes >= MAX_SITE_KEYS_BYTES {
        return Err(KeyFileError::NoSiteKeys {
            path: path.to_owned(),
            what: "these are too many: a restart needs the place where they are from",
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(bytes));
    lines.iter().for_each(|line| text.push_str(line));
    atomic_file::replace(path, text.as_bytes()).map_err(|source| KeyFileError::Create {
        path: path.to_owned(),
        step: "written",
        source,
    })
}

fn read_key<K>(path: &Path, made_anew: bool) -> Result<Option<K>, KeyFileError>
where
    K: FromStr<Err = KeyError>,
{
    let Some(content) = read(path, MAX_KEY_BYTES)? else {
        return Ok(None);
    };
    let parsed = if content.len() == MAX_KEY_BYTES {
        Err(KeyError::Length(content.len()))
    } else {
        std::str::from_utf8(&content)
            .map_err(|_| KeyError::NotBase64)
            .and_then(str::parse)
    };
    parsed.map(Some).map_err(|source| KeyFileError::Malformed {
        path: path.to_owned(),
        made_anew,
        source,
    })
}

/// The first bytes of the file, at most so many; `None` when there is none.
fn read(path: &Path, most: usize) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // Asked before opening: opening a FIFO would wait for its other end.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // A dangling link is not a missing file: a key made there would land
        // who knows where.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        warn!(
            path = %path.display(), mode = %format_args!("{mode:04o}"),
            "other users can get at this key file: it should have mode 0600"
        );
    }
    // At its full size from the start: growing would leave copies behind.
    let mut content = Zeroizing::new(vec![0; most]);
    let mut length = 0;
    let mut file = File::open(path).map_err(unreadable)?;
    while length < most {
        match file.read(&mut content[length..]).map_err(unreadable)? {
            0 => break,
            read => length += read,
        }
    }
    content.truncate(length);
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::error::Error;
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_a_key_and_the_next_reads_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lib/privnet/hub.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
        assert_eq!(read_private_key(&path).unwrap().public(), made.public());
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(mode_of(path.parent().unwrap()), 0o700);
    }

    #[test]
    fn the_next_key_waits_beside_the_one_in_use_and_then_takes_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.key");
        let first = load_or_create(&path).unwrap().public();
        assert!(read_next(&path).unwrap().is_none());
        let next = load_or_create_next(&path).unwrap().public();
        assert_ne!(next, first);
        assert_eq!(load_or_create_next(&path).unwrap().public(), next);
        assert_eq!(read_next(&path).unwrap().unwrap().public(), next);
        assert_eq!(read_private_key(&path).unwrap().public(), first);
        take_next(&path).unwrap();
        assert_eq!(read_private_key(&path).unwrap().public(), next);
        assert_eq!(mode_of(&path), 0o600);
        assert!(read_next(&path).unwrap().is_none());
        assert!(take_next(&path).is_err());
        assert_eq!(read_private_key(&path).unwrap().public(), next);
    }

    #[test]
    fn two_hosts_make_two_keys() {
        let directory = tempfile::tempdir().unwrap();
        let one = load_or_create(&directory.path().join("one")).unwrap();
        let other = load_or_create(&directory.path().join("other")).unwrap();
        assert_ne!(one.public(), other.public());
    }

    #[test]
    fn programs_that_start_at_once_get_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| load_or_create(&path).unwrap().public()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_malformed_key_file_is_an_error_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.key");
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let long = "A".repeat(5000);
        for content in ["", "\n", "not a key", "c2hvcnQ=", zero, &long] {
            fs::write(&path, content).unwrap();
            let error = load_or_create(&path).unwrap_err();
            let KeyFileError::Malformed { .. } = error else {
                panic!("{content:.10}: {error}");
            };
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let message = error.to_string();
            assert!(
                message.contains("hub.key") && message.contains("move it away"),
                "{message}"
            );
            assert!(error.source().is_some());
        }
        fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(load_or_create(&path).is_err());
    }

    #[test]
    fn an_error_does_not_show_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.key");
        fs::write(&path, "c2VjcmV0c2VjcmV0").unwrap();
        let error = load_or_create(&path).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("c2Vjcm"));
    }

    #[test]
    fn an_unreadable_key_file_is_an_error_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.key");
        // Root reads every file, so a link that leads nowhere and one that
        // leads to itself stand for what cannot be read.
        symlink(directory.path().join("nowhere"), &path).unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(KeyFileError::Unreadable { .. })
        ));
        let circle = directory.path().join("circle");
        symlink(&circle, &circle).unwrap();
        assert!(matches!(
            load_or_create(&circle),
            Err(KeyFileError::Unreadable { .. })
        ));
        assert!(path.is_symlink() && circle.is_symlink());
    }

    #[test]
    fn a_directory_or_a_fifo_is_no_key_file() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            load_or_create(directory.path()),
            Err(KeyFileError::NotAFile { .. })
        ));
        assert!(matches!(
            load_or_create(Path::new("/dev/null")),
            Err(KeyFileError::NotAFile { .. })
        ));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = load_or_create(&file.join("hub.key")).unwrap_err();
        assert!(error.to_string().contains("file/hub.key"), "{error}");
    }

    #[test]
    fn a_missing_preshared_key_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("psk");
        assert!(matches!(
            read_preshared_key(&path),
            Err(KeyFileError::Missing { .. })
        ));
        assert!(!path.exists());
        fs::write(
            &path,
            format!("{}\n", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="),
        )
        .unwrap();
        assert_eq!(read_preshared_key(&path).unwrap().as_bytes(), &[7; 32]);
    }

    #[test]
    fn copies_of_sites_keys_are_those_of_the_sites_that_there_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = site_keys_copy(&directory.path().join("hub.key"));
        assert!(path.ends_with("hub.site-keys"));
        let mut keys = BTreeMap::new();
        keep_site_keys(&path, &keys).unwrap();
        assert!(!path.exists(), "no key, no file");
        let ike = IkeSecret::new("correct horse battery").unwrap();
        let preshared = PresharedKey::from_bytes([7; 32]);
        keys.insert("dc-east".to_owned(), SiteKey::Ipsec(ike));
        keys.insert("dc-west".to_owned(), SiteKey::Wireguard(preshared));
        keep_site_keys(&path, &keys).unwrap();
        assert_eq!(read_site_keys(&path).unwrap(), keys);
        assert_eq!(mode_of(&path), 0o600);
        keys.remove("dc-east");
        keep_site_keys(&path, &keys).unwrap();
        assert_eq!(read_site_keys(&path).unwrap(), keys);
        assert!(!fs::read_to_string(&path).unwrap().contains("horse"));
    }

    #[test]
    fn copies_of_sites_keys_that_cannot_be_read_are_an_error_until_there_are_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.site-keys");
        let none = BTreeMap::new();
        let key = SiteKey::Wireguard(PresharedKey::from_bytes([7; 32]));
        let one = BTreeMap::from([("dc-west".to_owned(), key)]);
        for content in [vec![0xff, 0xfe], vec![b'\n'; MAX_SITE_KEYS_BYTES]] {
            fs::write(&path, &content).unwrap();
            let error = read_site_keys(&path).unwrap_err().to_string();
            assert!(error.contains("hub.site-keys: "), "{error}");
            keep_site_keys(&path, &none).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            keep_site_keys(&path, &one).unwrap();
            assert_eq!(read_site_keys(&path).unwrap(), one);
        }
        fs::remove_file(&path).unwrap();
        symlink(directory.path().join("nowhere"), &path).unwrap();
        let unreadable = read_site_keys(&path);
        assert!(matches!(unreadable, Err(KeyFileError::Unreadable { .. })));
    }

    #[test]
    fn more_keys_than_can_be_read_again_are_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hub.site-keys");
        let longest = SiteKey::Ipsec(IkeSecret::new(&"x".repeat(512)).unwrap());
        let keys = |count: usize| {
            let keys = (0..count).map(|number| (format!("{number:064}"), longest.clone()));
            keys.collect::<BTreeMap<_, _>>()
        };
        keep_site_keys(&path, &keys(1_700)).unwrap();
        assert_eq!(read_site_keys(&path).unwrap(), keys(1_700));
        let error = keep_site_keys(&path, &keys(2_000)).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
        assert_eq!(read_site_keys(&path).unwrap(), keys(1_700), "as it was");
    }

    #[test]
    fn a_fleet_secret_is_read_and_what_is_none_is_refused_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.secret");
        assert!(matches!(
            read_fleet_secret(&path),
            Err(KeyFileError::Missing { .. })
        ));
        let secret = "correct horse battery staple, and some more";
        fs::write(
            &path,
            format!("{secret}\nwhat the fleet had before this day\n"),
        )
        .unwrap();
        let read = read_fleet_secret(&path).unwrap();
        assert!(read.is_changing());
        for content in [
            b"hunter2".to_vec(),
            b"\xff\xfe".repeat(30),
            secret.repeat(400).into_bytes(),
        ] {
            fs::write(&path, &content).unwrap();
            let error = read_fleet_secret(&path).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("fleet.secret"), "{shown}");
            assert!(
                !shown.contains("hunter") && !shown.contains("horse"),
                "{shown}"
            );
        }
    }
}
