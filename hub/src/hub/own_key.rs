//! Where the hub has its private key from: its file, which it makes at first
//! start, or SSM's Parameter Store, whose key it keeps in the file. With the
//! latter an instance that replaces another is the same hub to all spokes.
//! It never writes to SSM.

use anyhow::Result;
use privnet_ec2::ParameterStore;
use privnet_model::config::hub::HubConfig;
use privnet_model::id::Region;
use privnet_model::key::PrivateKey;
use privnet_runtime::key_file;
use tracing::info;

/// Where the key is.
pub(super) enum OwnKey {
    /// It was in its file, or was made there.
    Here(PrivateKey),
    /// It has to be [fetched](fetch) from the parameter of this name.
    InSsm(String),
}

/// The key of the file; made there if that is meant.
pub(super) fn in_file(config: &HubConfig) -> Result<OwnKey> {
    let Some(name) = &config.private_key_parameter else {
        return Ok(OwnKey::Here(key_file::load_or_create(&config.private_key)?));
    };
    let kept = key_file::find_private_key(&config.private_key)?;
    Ok(kept.map_or_else(|| OwnKey::InSsm(name.clone()), OwnKey::Here))
}

/// The key in its parameter, from now on also in the file: a restart needs no SSM.
///
/// Asked once: whoever starts the hub starts it again.
pub(super) async fn fetch(config: &HubConfig, name: &str, region: &Region) -> Result<PrivateKey> {
    let key = ParameterStore::from_env(region).private_key(name).await?;
    key_file::keep_private_key(&config.private_key, &key)?;
    info!(parameter = name, public_key = %key.public(), "has its private key from SSM");
    Ok(key)
}
