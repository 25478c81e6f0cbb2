//! The fleet's secret as a daemon has it: read at start and looked at again every
//! few minutes, beside the main loop, since it may be in a store that hangs.
//!
//! A look that fails changes nothing: what was known before stays in force. How
//! a parameter of SSM is fetched comes in as an argument; nothing here knows AWS.

use std::path::Path;
use std::time::Duration;

use privnet_model::config::hub::SecretSource;
use privnet_model::ipsec::{IkeId, IkeSecret};
use privnet_model::key::PublicKey;
use privnet_model::secret::{FleetSecret, TunnelSecrets};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::key_file;

/// How often it is looked at, and how long.
#[derive(Debug, Clone, Copy)]
struct Pace {
    interval: Duration,
    /// After a look that failed; doubled at each.
    first_pause: Duration,
    longest_pause: Duration,
    /// For one look at a store.
    patience: Duration,
}

/// A look at SSM is a call of GetParameter, of which SSM takes 40 in a second
/// from an account and region: enough for 12,000 spokes.
const PACE: Pace = Pace {
    interval: Duration::from_secs(5 * 60),
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(60),
    patience: Duration::from_secs(30),
};

/// The preshared keys of a daemon's tunnels, if its config names a fleet secret.
#[derive(Debug, Default)]
pub struct Preshared {
    source: Option<SecretSource>,
    watch: Option<FleetSecretWatch>,
    configured: bool,
    /// Whether tunnels worked without a secret when the config began to name one:
    /// they go on until it has been read.
    had_none: bool,
}

/// What is known of the preshared keys of one tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelKeys {
    /// It has none.
    None,
    /// It has some, which are not known so far: without them it is not set up.
    Unknown,
    /// These.
    Known(TunnelSecrets),
}

impl Preshared {
    /// By what the config says now. Until a new source has been read, what the old
    /// one said is in force; from the same one it is read again. `fetch` gets the
    /// secret that SSM has under a name, or says in one sentence why not; what it got
    /// last is in the file `copy`, so that a restart while SSM does not answer finds
    /// it there. Within a Tokio runtime only.
    pub fn configure<F, A>(&mut self, source: Option<&SecretSource>, copy: &Path, fetch: F)
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Result<FleetSecret, String>> + Send + 'static,
    {
        let configured = std::mem::replace(&mut self.configured, true);
        if self.source.as_ref() == source {
            return self.again();
        }
        self.had_none = configured && self.source.is_none();
        let known = self.watch.as_ref().and_then(FleetSecretWatch::secret);
        let kept = || match source {
            Some(SecretSource::Ssm(_)) => key_file::read_fleet_secret(copy).ok(),
            Some(SecretSource::File(_)) | None => None,
        };
        let known = known.or_else(kept);
        let copy = copy.to_owned();
        let fetch = move |name| {
            let (fetched, copy) = (fetch(name), copy.clone());
            async move {
                let secret = fetched.await?;
                if let Err(error) = key_file::keep_fleet_secret(&copy, &secret) {
                    warn!("{:#}", anyhow::Error::from(error));
                }
                Ok(secret)
            }
        };
        self.source = source.cloned();
        let start = |source| FleetSecretWatch::start(source, known, fetch);
        self.watch = self.source.clone().map(start);
    }

    /// Those of the tunnel between these two.
    pub fn keys(&self, spoke: &PublicKey, hub: &PublicKey) -> TunnelKeys {
        match &self.watch {
            None => TunnelKeys::None,
            Some(watch) => match watch.secret() {
                None if self.had_none => TunnelKeys::None,
                None => TunnelKeys::Unknown,
                Some(secret) => TunnelKeys::Known(secret.tunnel(spoke, hub)),
            },
        }
    }

    /// The preshared key of the IPsec tunnel between these two; `None` while there is
    /// no secret. A spoke and its hub may know a new one minutes apart: what is set up
    /// goes on meanwhile, as changing keys needs no secret.
    pub fn ike_secret(&self, spoke: &IkeId, hub: &IkeId) -> Option<IkeSecret> {
        let secret = self.secret()?;
        IkeSecret::derive(&secret, spoke, hub).into_iter().next()
    }

    /// The secret itself, as far as it is known.
    pub fn secret(&self) -> Option<FleetSecret> {
        self.watch.as_ref().and_then(FleetSecretWatch::secret)
    }

    /// Whether there should be a secret, and none is known.
    pub fn is_missing(&self) -> bool {
        let missing = |watch: &FleetSecretWatch| watch.secret().is_none();
        !self.had_none && self.watch.as_ref().is_some_and(missing)
    }

    /// Reads the secret again, now.
    pub fn again(&self) {
        self.watch.iter().for_each(FleetSecretWatch::again);
    }

    /// Why the secret could not be read last.
    pub fn problem(&self) -> Option<String> {
        self.watch.as_ref().and_then(FleetSecretWatch::problem)
    }

    /// Done when the keys are others than at the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// The task that looks. It ends when this is dropped.
#[derive(Debug)]
struct FleetSecretWatch {
    again: mpsc::Sender<()>,
    secret: watch::Receiver<Option<FleetSecret>>,
    problem: watch::Receiver<Option<String>>,
}

impl FleetSecretWatch {
    /// Starts to look; `known` is the secret until then, as another source had it.
    fn start<F, A>(source: SecretSource, known: Option<FleetSecret>, fetch: F) -> Self
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Result<FleetSecret, String>> + Send + 'static,
    {
        Self::at_pace(PACE, source, known, fetch)
    }

    fn at_pace<F, A>(pace: Pace, source: SecretSource, known: Option<FleetSecret>, fetch: F) -> Self
    where
        F: Fn(String) -> A + Send + Sync + 'static,
        A: Future<Output = Result<FleetSecret, String>> + Send + 'static,
    {
        let (again, asked) = mpsc::channel(1);
        let (tell, secret) = watch::channel(known);
        let (complain, problem) = watch::channel(None);
        tokio::spawn(look(pace, source, fetch, asked, tell, complain));
        Self {
            again,
            secret,
            problem,
        }
    }

    /// The secret, once it is known.
    fn secret(&self) -> Option<FleetSecret> {
        self.secret.borrow().clone()
    }

    /// Why the last look brought nothing.
    fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Looks now.
    fn again(&self) {
        // A full channel means that it is about to happen anyway.
        let _ = self.again.try_send(());
    }

    /// Done when there is another secret than at the last call. Cancel-safe.
    async fn changed(&mut self) {
        if self.secret.changed().await.is_err() {
            // The task ends with the daemon only.
            std::future::pending().await
        }
    }
}

async fn look<F, A>(
    pace: Pace,
    source: SecretSource,
    fetch: F,
    mut asked: mpsc::Receiver<()>,
    tell: watch::Sender<Option<FleetSecret>>,
    complain: watch::Sender<Option<String>>,
) where
    F: Fn(String) -> A + Send + Sync + 'static,
    A: Future<Output = Result<FleetSecret, String>> + Send + 'static,
{
    let mut pause = pace.first_pause;
    loop {
        let wait = match read(&source, &fetch, pace.patience).await {
            Ok(secret) => {
                pause = pace.first_pause;
                complain.send_replace(None);
                if tell.send_if_modified(|known| replace(known, &secret)) {
                    info!(
                        changing = secret.is_changing(),
                        "the fleet's secret is known"
                    );
                }
                pace.interval
            }
            Err(problem) => {
                let known = tell.borrow().is_some();
                let problem = format!("preshared_key: {problem}");
                if complain.borrow().as_ref() != Some(&problem) {
                    warn!(
                        problem,
                        known_before = known,
                        "the fleet's secret cannot be read"
                    );
                }
                complain.send_replace(Some(problem));
                let wait = pause;
                pause = (pause * 2).min(pace.longest_pause);
                wait
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            asked = asked.recv() => if asked.is_none() { return },
        }
    }
}

fn replace(known: &mut Option<FleetSecret>, secret: &FleetSecret) -> bool {
    let changed = known.as_ref() != Some(secret);
    if changed {
        *known = Some(secret.clone());
    }
    changed
}

async fn read<F, A>(
    source: &SecretSource,
    fetch: &F,
    patience: Duration,
) -> Result<FleetSecret, String>
where
    F: Fn(String) -> A,
    A: Future<Output = Result<FleetSecret, String>>,
{
    match source {
        // A local file, of a few bytes.
        SecretSource::File(path) => key_file::read_fleet_secret(path)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error))),
        SecretSource::Ssm(name) => {
            timeout(patience, fetch(name.clone()))
                .await
                .unwrap_or_else(|_| {
                    Err(format!(
                        "SSM parameter {name}: no answer within {patience:?}"
                    ))
                })
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::fs;
    use std::sync::Arc;

    use tokio::sync::Mutex;

    use super::*;

    const ONE: &str = "correct horse battery staple, and some more";
    const OTHER: &str = "what the fleet has in common from today on";

    async fn within<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(10), future).await.unwrap()
    }

    async fn no_store(_: String) -> Result<FleetSecret, String> {
        panic!("a file is not asked of SSM")
    }

    #[tokio::test]
    async fn a_file_that_changes_is_read_again_and_one_that_breaks_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fleet.secret");
        fs::write(&path, ONE).unwrap();
        // Until it is read, the one of another place is in force.
        let before = Some(OTHER.parse().unwrap());
        let source = SecretSource::File(path.clone());
        let mut watch = FleetSecretWatch::start(source, before.clone(), no_store);
        assert_eq!(watch.secret(), before);
        within(watch.changed()).await;
        assert_eq!(watch.secret(), Some(ONE.parse().unwrap()));

        fs::write(&path, "too short").unwrap();
        watch.again();
        until(&mut watch, Some("9 bytes")).await;
        assert!(watch.problem().unwrap().contains("fleet.secret"));
        assert_eq!(watch.secret(), Some(ONE.parse().unwrap()));

        fs::write(&path, format!("{OTHER}\n{ONE}\n")).unwrap();
        watch.again();
        within(watch.changed()).await;
        assert!(watch.secret().unwrap().is_changing());
        assert_eq!(watch.problem(), None);
    }

    /// Waits for the problem to be told, or to be over.
    async fn until(watch: &mut FleetSecretWatch, problem: Option<&str>) {
        let expected = |told: &Option<String>| match (told, problem) {
            (Some(told), Some(problem)) => told.contains(problem),
            (told, problem) => told.is_none() && problem.is_none(),
        };
        within(watch.problem.wait_for(expected)).await.unwrap();
    }

    #[tokio::test]
    async fn a_restart_while_the_store_is_down_has_the_secret_of_before() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("hub.fleet-secret");
        let [spoke, hub] = [[1; 32], [2; 32]].map(PublicKey::from_bytes);
        let source = SecretSource::Ssm("/privnet/psk".to_owned());
        let mut before = Preshared::default();
        before.configure(Some(&source), &copy, async |_| Ok(ONE.parse().unwrap()));
        within(before.changed()).await;
        let keys = before.keys(&spoke, &hub);
        assert!(matches!(keys, TunnelKeys::Known(_)));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&copy).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);

        let mut after = Preshared::default();
        after.configure(Some(&source), &copy, async |_| Err("down".to_owned()));
        assert_eq!(after.keys(&spoke, &hub), keys);
        // A file is its own copy, and a store that was never read has none.
        let mut file = Preshared::default();
        let missing = SecretSource::File(directory.path().join("none"));
        file.configure(Some(&missing), &copy, no_store);
        assert_eq!(file.keys(&spoke, &hub), TunnelKeys::Unknown);
    }

    #[tokio::test]
    async fn a_tunnel_has_the_old_places_keys_until_the_new_one_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        let (first, second) = (directory.path().join("one"), directory.path().join("other"));
        fs::write(&first, ONE).unwrap();
        let [spoke, hub] = [[1; 32], [2; 32]].map(PublicKey::from_bytes);
        let keys = |secret: &str| {
            let secret: FleetSecret = secret.parse().unwrap();
            TunnelKeys::Known(secret.tunnel(&spoke, &hub))
        };
        let mut preshared = Preshared::default();
        let named = SecretSource::File(first);
        preshared.configure(Some(&named), &copy, no_store);
        assert_eq!(preshared.keys(&spoke, &hub), TunnelKeys::Unknown);
        assert!(preshared.is_missing());
        // Where tunnels worked without one, they go on until it is read.
        preshared = Preshared::default();
        preshared.configure(None, &copy, no_store);
        assert_eq!(preshared.keys(&spoke, &hub), TunnelKeys::None);
        preshared.configure(Some(&named), &copy, no_store);
        assert_eq!(preshared.keys(&spoke, &hub), TunnelKeys::None);
        within(preshared.changed()).await;
        assert_eq!(preshared.keys(&spoke, &hub), keys(ONE));

        let source = SecretSource::File(second.clone());
        preshared.configure(Some(&source), &copy, no_store);
        assert_eq!(preshared.keys(&spoke, &hub), keys(ONE));
        fs::write(&second, OTHER).unwrap();
        // The same place: read again at once.
        preshared.configure(Some(&source), &copy, no_store);
        within(preshared.changed()).await;
        assert_eq!(preshared.keys(&spoke, &hub), keys(OTHER));
        assert_eq!(preshared.problem(), None);
        preshared.configure(None, &copy, no_store);
        assert_eq!(preshared.keys(&spoke, &hub), TunnelKeys::None);
    }

    #[tokio::test]
    async fn a_store_that_fails_or_hangs_is_asked_again_and_what_was_known_stays() {
        let (answer, answers) = mpsc::channel::<Option<Result<&str, &str>>>(1);
        let answers = Arc::new(Mutex::new(answers));
        let fetch = move |name: String| {
            assert_eq!(name, "/privnet/psk");
            let answers = Arc::clone(&answers);
            async move {
                match answers.lock().await.recv().await {
                    Some(Some(Ok(secret))) => Ok(secret.parse().unwrap()),
                    Some(Some(Err(problem))) => Err(problem.to_owned()),
                    // Hangs.
                    Some(None) | None => std::future::pending().await,
                }
            }
        };
        let pace = Pace {
            interval: Duration::from_millis(1),
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(2),
            patience: Duration::from_millis(500),
        };
        let source = SecretSource::Ssm("/privnet/psk".to_owned());
        let mut watch = FleetSecretWatch::at_pace(pace, source, None, fetch);

        answer.send(Some(Err("unreachable"))).await.unwrap();
        until(&mut watch, Some("preshared_key: unreachable")).await;
        assert_eq!(watch.secret(), None);
        answer.send(Some(Ok(ONE))).await.unwrap();
        within(watch.changed()).await;
        assert_eq!(watch.secret(), Some(ONE.parse().unwrap()));
        for (next, said) in [
            (Some(Err("throttled")), "throttled"),
            (None, "no answer within"),
        ] {
            answer.send(next).await.unwrap();
            until(&mut watch, Some(said)).await;
            assert_eq!(watch.secret(), Some(ONE.parse().unwrap()));
        }
        answer.send(Some(Ok(OTHER))).await.unwrap();
        within(watch.changed()).await;
        assert_eq!(watch.secret(), Some(OTHER.parse().unwrap()));
    }
}
