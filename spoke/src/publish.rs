//! Telling EC2 how this spoke is reached: tags on its own instance, by which
//! the hub finds key, port and transport. Beside the main loop, and tried again
//! for as long as it takes: the tunnel and NAT do not wait for it.

use std::time::Duration;

use privnet_ec2::{SdkContext, TagPublisher};
use privnet_model::inventory::{Identity, PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG, Transport};
use privnet_model::key::PublicKey;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

const ATTEMPT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) transport: Transport,
    /// Key and port; a spoke without tunnel has neither.
    pub(crate) tunnel: Option<(PublicKey, u16)>,
}

/// The task that publishes.
pub(crate) struct Publisher {
    again: mpsc::Sender<()>,
    problem: watch::Receiver<Option<String>>,
}

impl Publisher {
    pub(crate) fn start(identity: &Identity, what: Published) -> Self {
        let (again, asked) = mpsc::channel(1);
        let (tell, problem) = watch::channel(None);
        tokio::spawn(publish(identity.clone(), what, asked, tell));
        Self { again, problem }
    }

    /// Publishes once more, also what was published before: somebody may have
    /// removed a tag.
    pub(crate) fn again(&self) {
        // A full channel means that it is about to happen anyway.
        let _ = self.again.try_send(());
    }

    /// Why the tags are not up to date.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

async fn publish(
    identity: Identity,
    what: Published,
    mut asked: mpsc::Receiver<()>,
    tell: watch::Sender<Option<String>>,
) {
    let sdk = SdkContext::load(&identity.region).await;
    let mut publisher = TagPublisher::new(&sdk, &identity.region, &identity.instance, ATTEMPT);
    let mut tags = vec![(TRANSPORT_TAG, what.transport.to_string())];
    if let Some((key, port)) = what.tunnel {
        tags.push((PUBLIC_KEY_TAG, key.to_string()));
        tags.push((PORT_TAG, port.to_string()));
    }
    let tags: Vec<(&str, &str)> = tags
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    loop {
        let mut pause = FIRST_PAUSE;
        loop {
            match publisher.publish(&tags).await {
                Ok(_) => break,
                Err(error) => {
                    let problem = format!("tags not published: {:#}", anyhow::Error::from(error));
                    warn!(problem, retry_in = ?pause, "the hub cannot find this spoke yet");
                    tell.send_replace(Some(problem));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                asked = asked.recv() => if asked.is_none() { return },
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        info!(instance = %identity.instance, "tags published");
        tell.send_replace(None);
        if asked.recv().await.is_none() {
            return;
        }
        publisher.forget();
    }
}
