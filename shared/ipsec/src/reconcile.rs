//! What charon has, and carrying out what a plan says.

use std::collections::{BTreeMap, BTreeSet};

use privnet_model::ipsec::{ConnectionName, IkeSecret};
use privnet_reconcile::ipsec::{ActualIpsec, IpsecChange};

use crate::charon::{Charon, Farewell, Which};
use crate::connection::Connection;
use crate::vici::ViciError;

/// A connection with its preshared key, if it has one.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The connection.
    pub connection: Connection,
    /// Its key.
    pub secret: Option<IkeSecret>,
}

impl Charon {
    /// What charon has of ours. Which preshared keys are the wanted ones, only who
    /// loaded them knows.
    pub async fn fetch(
        &self,
        current_secrets: &BTreeSet<ConnectionName>,
    ) -> Result<ActualIpsec, ViciError> {
        Ok(ActualIpsec {
            connections: self.connections().await?,
            secrets: self.secrets().await?,
            current_secrets: current_secrets.clone(),
            associations: self.associations().await?,
        })
    }

    /// Carries out the changes in their order, all of them, whatever becomes of
    /// each, unless charon no longer answers. `current_secrets` is kept up to date.
    pub async fn apply(
        &self,
        changes: &[IpsecChange],
        wanted: &BTreeMap<ConnectionName, Configured>,
        current_secrets: &mut BTreeSet<ConnectionName>,
    ) -> Vec<(IpsecChange, Result<(), ViciError>)> {
        let mut results = Vec::with_capacity(changes.len());
        for change in changes {
            let result = self.apply_one(change, wanted, current_secrets).await;
            let hangs = matches!(result, Err(ViciError::Timeout { .. }));
            results.push((change.clone(), result));
            // The others would each wait as long.
            if hangs {
                break;
            }
        }
        results
    }

    async fn apply_one(
        &self,
        change: &IpsecChange,
        wanted: &BTreeMap<ConnectionName, Configured>,
        current_secrets: &mut BTreeSet<ConnectionName>,
    ) -> Result<(), ViciError> {
        let missing = || ViciError::NotWanted {
            change: change.to_string(),
        };
        match change {
            IpsecChange::UnloadConnection(name) => self.unload_connection(name).await,
            IpsecChange::TerminateIke { id, .. } => {
                self.terminate(&Which::Ike(*id), Farewell::Polite).await?;
                Ok(())
            }
            IpsecChange::TerminateChild { id, .. } => {
                self.terminate(&Which::Child(*id), Farewell::Polite).await?;
                Ok(())
            }
            IpsecChange::UnloadSecret(name) => {
                current_secrets.remove(name);
                self.unload_secret(name).await
            }
            IpsecChange::LoadSecret(name) => {
                let it = wanted.get(name).ok_or_else(missing)?;
                let secret = it.secret.as_ref().ok_or_else(missing)?;
                self.load_secret(name, it.connection.identities(), secret)
                    .await?;
                current_secrets.insert(name.clone());
                Ok(())
            }
            IpsecChange::LoadConnection(name) => {
                let it = wanted.get(name).ok_or_else(missing)?;
                self.load_connection(&it.connection).await
            }
            IpsecChange::Initiate { name, child } => self.initiate(name, child.as_deref()).await,
        }
    }
}
