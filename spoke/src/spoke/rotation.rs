//! The change of this spoke's own key, without losing a packet: the next key is made
//! beside the one in use and named to the hub through the tunnel, which proves that
//! whoever has the one has the other; when the hub has taken note, the tunnel moves
//! to it, and the session of the old key goes on until there is one of the new.

use std::time::Duration;

use privnet_model::admin::RotateAnswer;
use privnet_model::enrol::{HUB, Me, NextKey};
use privnet_model::key::PublicKey;
use privnet_runtime::events::Answer;
use privnet_runtime::key_file;
use privnet_runtime::tunnel_client::{HubCallError, HubClient};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::hubs::key_in_use;
use super::{Spoke, publisher};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a hub is told of the next key before that is given up: well within what
/// the operator's command waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A change that the hub is being told of.
pub(super) struct Rotation {
    next: PublicKey,
    task: JoinHandle<Result<(), HubCallError>>,
    answer: Answer<RotateAnswer>,
}

/// What came of that.
pub(super) struct Announced {
    next: PublicKey,
    result: Result<(), String>,
    answer: Answer<RotateAnswer>,
}

/// The end of the announcement under way; never, while there is none. Cancel-safe.
pub(super) async fn announced(rotation: &mut Option<Rotation>) -> Announced {
    let Some(running) = rotation else {
        return std::future::pending().await;
    };
    let result = match (&mut running.task).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(format!("telling the hub broke off: {error}")),
    };
    match rotation.take() {
        Some(Rotation { next, answer, .. }) => Announced {
            next,
            result,
            answer,
        },
        None => std::future::pending().await,
    }
}

impl Spoke {
    /// Begins to change the key.
    pub(super) fn rotate_key(&mut self, answer: Answer<RotateAnswer>) {
        match self.next_key() {
            Ok(named) => {
                let client = HubClient::new(&self.config.interface, HUB.into());
                let next = named.public_key;
                let task = tokio::spawn(announce(client, named, PATIENCE));
                self.rotation = Some(Rotation { next, task, answer });
            }
            Err(problem) => {
                let _ = answer.send(Err(problem));
            }
        }
    }

    fn next_key(&self) -> Result<NextKey, String> {
        let (Some(used), Some(hub)) = (self.public_key, self.config.hubs.first()) else {
            return Err("this spoke has no tunnel, and so no key to change".to_owned());
        };
        if self.rotation.is_some() {
            return Err("the key is being changed already".to_owned());
        }
        let next = key_file::load_or_create_next(&self.config.private_key);
        let next = next.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let hub_key = key_in_use(hub, self.hub_moved_on);
        NextKey::new(&next, &used, &hub_key).ok_or_else(|| "the hub's key is nobody's".to_owned())
    }

    /// The hub knows the next key, or does not.
    pub(super) async fn announced(&mut self, announced: Announced) {
        let Announced {
            next,
            result,
            answer,
        } = announced;
        let changed = match result {
            Ok(()) => self.use_next_key(next).await,
            Err(problem) => Err(format!(
                "the hub did not take note of the next key, so the one in use stays: {problem}"
            )),
        };
        if let Err(problem) = &changed {
            warn!("{problem}");
        }
        let _ = answer.send(changed.map(|()| {
            RotateAnswer {
                public_key: next,
                next: None,
                text:
                    "the hub knows the new key and the tunnel moves to it; sessions of the old one \
                   live on until then"
                        .to_owned(),
            }
        }));
    }

    async fn use_next_key(&mut self, next: PublicKey) -> Result<(), String> {
        let told = |error: anyhow::Error| format!("the key in use stays: {error:#}");
        let file = &self.config.private_key;
        let key = key_file::read_next(file).map_err(|error| told(error.into()))?;
        let Some(key) = key.filter(|key| key.public() == next) else {
            return Err("the file of the next key was changed meanwhile; try again".to_owned());
        };
        // First for good: a crash from here on starts with a key that the hub knows.
        key_file::take_next(file).map_err(|error| told(error.into()))?;
        self.router
            .set_private_key(key)
            .map_err(|error| format!("a restart will use the next key: {error:#}"))?;
        self.public_key = Some(next);
        info!(public_key = %next, "uses the next key");
        // The preshared key follows from it.
        self.router.want(self.desired());
        self.router.reconcile().await;
        self.publisher = publisher(&self.config, self.router.identity(), self.public_key);
        self.enrol();
        Ok(())
    }
}

/// Tells the hub, through the tunnel of the key in use, which key comes next, until it
/// has taken note.
async fn announce(
    client: HubClient,
    next: NextKey,
    patience: Duration,
) -> Result<(), HubCallError> {
    let tell = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match client.next_key(&next).await {
                Ok(Me { next_key, .. }) if next_key == Some(next.public_key) => return Ok(()),
                Ok(_) => {
                    let other = "it names another next key".to_owned();
                    return Err(HubCallError::Protocol(other));
                }
                Err(error @ (HubCallError::Refused(_) | HubCallError::Protocol(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    debug!(%error, retry_in = ?pause, "the hub does not know the next key yet");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    timeout(patience, tell)
        .await
        .unwrap_or(Err(HubCallError::NoAnswer(patience)))
}
