//! What the spoke tells its hub through the tunnel: which instance it is, when
//! the hub wants that proved. Beside the main loop: a hub that does not answer
//! holds up nothing.

use std::time::Duration;

use privnet_ec2::{ProofSigner, SdkContext};
use privnet_model::enrol::{HUB, ProofState};
use privnet_model::id::Region;
use privnet_model::key::PublicKey;
use privnet_runtime::tunnel_client::{HubCallError, HubClient};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// How often the hub is asked what it wants: a hub that was restarted without its
/// cache, or set to want proofs, gets one within this time.
const INTERVAL: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The tunnel whose ends are known to each other.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel {
    pub(crate) interface: String,
    pub(crate) region: Region,
    pub(crate) own_key: PublicKey,
    pub(crate) hub_key: PublicKey,
}

/// The task that proves; it ends when this is dropped. After a change of either
/// key start another.
pub(crate) struct Enrolment {
    again: mpsc::Sender<()>,
    problem: watch::Receiver<Option<String>>,
}

impl Enrolment {
    pub(crate) fn start(tunnel: Tunnel) -> Self {
        let client = HubClient::new(&tunnel.interface, HUB.into());
        let (again, asked) = mpsc::channel(1);
        let (tell, problem) = watch::channel(None);
        tokio::spawn(enrol(tunnel, client, asked, tell));
        Self { again, problem }
    }

    /// Asks the hub now what it wants.
    pub(crate) fn again(&self) {
        // A full channel means that it is about to happen anyway.
        let _ = self.again.try_send(());
    }

    /// Why the hub has no proof, though it wants one.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

async fn enrol(
    tunnel: Tunnel,
    client: HubClient,
    mut asked: mpsc::Receiver<()>,
    tell: watch::Sender<Option<String>>,
) {
    let sdk = SdkContext::load(&tunnel.region).await;
    let signer = ProofSigner::new(&sdk, &tunnel.region);
    let mut pause = FIRST_PAUSE;
    loop {
        let wait = match tried(&tunnel, &client, &signer).await {
            Ok(()) => {
                tell.send_replace(None);
                pause = FIRST_PAUSE;
                INTERVAL
            }
            // The tunnel's own state tells that.
            Err(Failure::NoHub(error)) => {
                debug!(%error, "the hub cannot be asked what it wants");
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
            Err(Failure::NoProof(problem)) => {
                if tell.borrow().as_ref() != Some(&problem) {
                    warn!(problem, "the hub wants a proof of identity");
                }
                tell.send_replace(Some(problem));
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            asked = asked.recv() => if asked.is_none() { return },
        }
    }
}

enum Failure {
    /// The hub does not say what it wants.
    NoHub(HubCallError),
    /// It wants a proof, and has none.
    NoProof(String),
}

async fn tried(tunnel: &Tunnel, client: &HubClient, signer: &ProofSigner) -> Result<(), Failure> {
    let me = client.me().await.map_err(Failure::NoHub)?;
    match me.proof {
        ProofState::NotWanted | ProofState::Accepted => return Ok(()),
        ProofState::Wanted => {}
    }
    let no_proof =
        |why: &dyn std::fmt::Display| Failure::NoProof(format!("proof to the hub: {why}"));
    let signed = signer.sign(&tunnel.own_key, &tunnel.hub_key).await;
    let proof = signed.map_err(|error| no_proof(&format!("cannot be signed: {error}")))?;
    let me = client
        .prove(&proof)
        .await
        .map_err(|error| no_proof(&error))?;
    match me.proof {
        ProofState::Accepted => {
            info!("the hub knows which instance this is");
            Ok(())
        }
        ProofState::NotWanted => Ok(()),
        ProofState::Wanted => Err(no_proof(&"the hub took it and wants another")),
    }
}
