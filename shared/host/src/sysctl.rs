//! Sysctls, read and written under `/proc/sys`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use privnet_reconcile::sysctl::{SysctlKey, normal_value};

use crate::error::HostError;

/// The values of those keys that exist.
pub(crate) async fn fetch(
    keys: &BTreeSet<SysctlKey>,
) -> Result<BTreeMap<SysctlKey, String>, HostError> {
    let mut values = BTreeMap::new();
    for key in keys {
        match tokio::fs::read_to_string(path(key)).await {
            Ok(value) => {
                values.insert(key.clone(), normal_value(&value));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", key, error)),
        }
    }
    Ok(values)
}

/// Writes one value.
pub(crate) async fn set(key: &SysctlKey, value: &str) -> Result<(), HostError> {
    let written = tokio::fs::write(path(key), format!("{value}\n")).await;
    written.map_err(|error| failed("write", key, error))
}

fn path(key: &SysctlKey) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.as_str())
}

fn failed(operation: &'static str, key: &SysctlKey, source: io::Error) -> HostError {
    let key = key.clone();
    match source.kind() {
        io::ErrorKind::NotFound => HostError::NoSysctl { key },
        io::ErrorKind::PermissionDenied => HostError::NotPermitted {
            operation: format!("{operation} sysctl {key}"),
        },
        _ => HostError::Sysctl {
            operation,
            key,
            source,
        },
    }
}
