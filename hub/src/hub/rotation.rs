//! The change of the hub's own key, without losing a packet. It takes two steps,
//! because every spoke has to know the next key before the hub uses it: the first
//! makes it and tells it to the operator, the second uses it.

use privnet_model::admin::{RotateAnswer, RotateRequest};
use privnet_runtime::key_file;
use tracing::info;

use super::Hub;

impl Hub {
    pub(super) async fn rotate_key(
        &mut self,
        request: RotateRequest,
    ) -> Result<RotateAnswer, String> {
        let told = |error: anyhow::Error| format!("the key in use stays: {error:#}");
        let file = self.config.private_key.clone();
        if !request.commit {
            let next = key_file::load_or_create_next(&file).map_err(|error| told(error.into()))?;
            self.next_key = Some(next.public());
            return Ok(RotateAnswer {
                public_key: self.public_key,
                next: self.next_key,
                text: format!(
                    "write next_public_key = \"{}\" into the [[hub]] section of every spoke, \
                     reload them, and then run this again with --commit. A [[site]] that is not \
                     ours gets the new key by its own means, at that moment",
                    next.public()
                ),
            });
        }
        let next = key_file::read_next(&file).map_err(|error| told(error.into()))?;
        let next = next.ok_or(
            "there is no next key: run this without --commit first, and tell the spokes of it",
        )?;
        // First for good: a crash from here on starts with the key that spokes wait for.
        key_file::take_next(&file).map_err(|error| told(error.into()))?;
        let public_key = next.public();
        self.router
            .set_private_key(next.clone())
            .map_err(|error| format!("a restart will use the next key: {error:#}"))?;
        self.private_key = next;
        self.public_key = public_key;
        self.next_key = None;
        info!(%public_key, "uses the next key");
        // The preshared keys follow from it.
        self.decide_anew();
        self.reconcile().await;
        let elsewhere = match &self.config.private_key_parameter {
            Some(name) => format!(
                ". Put the key of {} into the SSM parameter {name} as well: the next instance has \
                 it from there",
                file.display()
            ),
            None => String::new(),
        };
        Ok(RotateAnswer {
            public_key,
            next: None,
            text: "tunnels move to the new key as they handshake, within two minutes; sessions of \
                   the old one live on until then. Spokes that do not know the new key are cut off \
                   after three minutes: `tunnels list` shows them"
                .to_owned()
                + &elsewhere,
        })
    }
}
