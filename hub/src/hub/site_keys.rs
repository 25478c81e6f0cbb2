//! The preshared keys of static sites that are parameters of SSM: each is asked for at the
//! start and when the config file is read again, and again for as long as it cannot be had.
//!
//! A few are asked for at a time, and nothing waits for them. A question that fails changes
//! nothing: what was known before stays in force, also over a restart, by a copy beside
//! the hub's private key. Nothing here ever writes to SSM.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use privnet_ec2::ParameterStore;
use privnet_model::config::hub::SiteLink;
use privnet_model::ipsec::{Authentication, ConnectionName, IkeCredential};
use privnet_model::site_key::SiteKey;
use privnet_reconcile::fleet::{Site, SiteSecret};
use privnet_runtime::key_file;
use tokio::sync::Semaphore;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

/// After a question that failed, before the next; doubled at each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For one question.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions under way: SSM takes 40 in a second from an account and region.
const MOST_AT_ONCE: usize = 8;
/// After the first answer that is news, for those that come with it: all of them are one
/// decision of the hub.
const GATHER: Duration = Duration::from_millis(250);

/// What is known of them. All is by the site's name.
pub(super) struct SiteKeys {
    fetch: Fetch,
    copy: PathBuf,
    /// Why it is not as it should be.
    copy_problem: Option<String>,
    wanted: BTreeMap<String, Wanted>,
    known: BTreeMap<String, SiteKey>,
    /// What came of the last question, where that was nothing.
    problems: BTreeMap<String, Failure>,
    asking: JoinSet<Answer>,
    questions: BTreeMap<task::Id, Question>,
    turns: Arc<Semaphore>,
    /// When news that nobody was told is told.
    tell_at: Option<Instant>,
}

type Fetch = Box<dyn Fn(Wanted) -> Fetched + Send + Sync>;
type Fetched = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Answer = Result<SiteKey, Failure>;

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// In one sentence; asking again may be all it needs.
    Temporary(String),
    /// Likewise; somebody must change something.
    Lasting(String),
}

impl Failure {
    fn problem(&self) -> String {
        let (Self::Temporary(problem) | Self::Lasting(problem)) = self;
        format!("preshared_key: {problem}")
    }
}

/// A key that a site's section names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    parameter: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wireguard,
    Ipsec,
}

/// A question that is under way, or waits for its turn.
struct Question {
    site: String,
    parameter: String,
    /// Before it was asked.
    pause: Duration,
}

impl SiteKeys {
    /// Those of this store; what it said last is in the file `copy`.
    pub(super) fn new(store: ParameterStore, copy: PathBuf) -> Self {
        Self::by(
            Box::new(move |wanted: Wanted| -> Fetched {
                let store = store.clone();
                Box::pin(async move { fetch(&store, &wanted).await })
            }),
            copy,
        )
    }

    fn by(fetch: Fetch, copy: PathBuf) -> Self {
        Self {
            fetch,
            wanted: BTreeMap::new(),
            known: key_file::read_site_keys(&copy).unwrap_or_else(|error| {
                let problem = format!("{:#}", anyhow::Error::from(error));
                warn!(problem, "SSM is needed for the keys of which it has copies");
                BTreeMap::new()
            }),
            copy,
            copy_problem: None,
            problems: BTreeMap::new(),
            asking: JoinSet::new(),
            questions: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(MOST_AT_ONCE)),
            tell_at: None,
        }
    }

    /// Asks for the keys of these sites, also for those that are known, and gives the
    /// sites what is known of them. `before` are the sites so far: until a key was read
    /// from its parameter, the one that its site has is in force. Within a Tokio runtime
    /// only.
    pub(super) fn configure(&mut self, sites: &mut [Site], before: &[Site]) {
        let wanted = sites.iter().filter_map(|site| {
            let wanted = Wanted::of(&site.config.link)?;
            Some((site.config.name.clone(), wanted))
        });
        let wanted: BTreeMap<String, Wanted> = wanted.collect();
        for site in before {
            if let Some(key) = key_of(&site.secret) {
                self.known.entry(site.config.name.clone()).or_insert(key);
            }
        }
        self.known.retain(|site, key| {
            let wanted = wanted.get(site);
            wanted.is_some_and(|wanted| wanted.kind == kind_of(key))
        });
        let asked_before = std::mem::replace(&mut self.wanted, wanted);
        self.problems
            .retain(|site, _| self.wanted.get(site) == asked_before.get(site));
        // Those under way end with the set that they are in.
        self.asking = JoinSet::new();
        self.questions.clear();
        self.tell_at = None;
        let names: Vec<String> = self.wanted.keys().cloned().collect();
        for site in names {
            self.ask(site, Duration::ZERO);
        }
        self.keep();
        self.put_into(sites);
    }

    /// Gives the sites what is known of their keys.
    pub(super) fn put_into(&self, sites: &mut [Site]) {
        for site in sites {
            let name = &site.config.name;
            if let Some(wanted) = self.wanted.get(name) {
                site.secret = self.secret(name, wanted);
            }
        }
    }

    fn secret(&self, site: &str, wanted: &Wanted) -> SiteSecret {
        match (self.known.get(site), self.problems.get(site)) {
            (Some(SiteKey::Wireguard(key)), _) => SiteSecret::Wireguard(Some(key.clone())),
            (Some(SiteKey::Ipsec(key)), _) => SiteSecret::Ipsec {
                authentication: Authentication::PresharedKey,
                credential: IkeCredential::PresharedKey(key.clone()),
            },
            (None, Some(failure @ Failure::Temporary(_))) => SiteSecret::Awaited {
                problem: failure.problem(),
            },
            (None, Some(failure @ Failure::Lasting(_))) => SiteSecret::Unreadable {
                problem: failure.problem(),
            },
            (None, None) => unread(&wanted.parameter),
        }
    }

    /// Done when something is to be given to the sites that was not, with what else comes
    /// at about the same time. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        loop {
            let next = self.asking.join_next_with_id();
            let ended = match self.tell_at {
                Some(at) => timeout_at(at, next).await.ok().flatten(),
                None => next.await,
            };
            match (ended, self.tell_at) {
                (Some(ended), tell_at) => {
                    if self.take(ended) && tell_at.is_none() {
                        self.tell_at = Some(Instant::now() + GATHER);
                    }
                }
                (None, Some(_)) => {
                    self.tell_at = None;
                    self.keep();
                    return;
                }
                (None, None) => return std::future::pending().await,
            }
        }
    }

    /// The connections by IPsec whose keys are not known, whatever came of asking: what
    /// runs of them from before stays.
    pub(super) fn unknown(&self) -> impl Iterator<Item = ConnectionName> {
        let wanted = self.wanted.iter();
        wanted
            .filter(|(site, it)| it.kind == Kind::Ipsec && !self.known.contains_key(*site))
            .filter_map(|(site, _)| ConnectionName::of(site).ok())
    }

    /// Why keys could not be read again that are known from before, or not be kept. (Of one
    /// that is not known its site's tunnel tells it.)
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let problems = self.problems.iter();
        problems
            .filter(|(site, _)| self.known.contains_key(*site))
            .map(|(site, failure)| {
                let problem = failure.problem();
                format!("site {site}: {problem}; the key from before stays in force")
            })
            .chain(self.copy_problem.clone())
    }

    fn ask(&mut self, site: String, pause: Duration) {
        let Some(wanted) = self.wanted.get(&site) else {
            return;
        };
        let parameter = wanted.parameter.clone();
        let fetched = (self.fetch)(wanted.clone());
        let turns = self.turns.clone();
        let question = Question {
            site,
            parameter: parameter.clone(),
            pause,
        };
        let task = self.asking.spawn(async move {
            sleep(pause).await;
            let _turn = turns.acquire().await;
            timeout(PATIENCE, fetched).await.unwrap_or_else(|_| {
                Err(Failure::Temporary(format!(
                    "SSM parameter {parameter}: no answer within {PATIENCE:?}"
                )))
            })
        });
        self.questions.insert(task.id(), question);
    }

    /// Whether that is anything new.
    fn take(&mut self, ended: Result<(task::Id, Answer), JoinError>) -> bool {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, Some(answer)),
            Err(error) => (error.id(), None),
        };
        let Some(question) = self.questions.remove(&id) else {
            return false;
        };
        let Question {
            site,
            parameter,
            pause,
        } = question;
        let broke_off = || {
            Err(Failure::Temporary(format!(
                "SSM parameter {parameter}: the question broke off"
            )))
        };
        match answer.unwrap_or_else(broke_off) {
            Ok(key) => {
                self.problems.remove(&site);
                if self.known.get(&site) == Some(&key) {
                    return false;
                }
                info!(site, "the site's preshared key is known");
                self.known.insert(site, key);
                true
            }
            Err(failure) => {
                let is_new = self.problems.get(&site) != Some(&failure);
                if is_new {
                    let known_before = self.known.contains_key(&site);
                    let problem = failure.problem();
                    warn!(
                        site,
                        problem, known_before, "the site's preshared key cannot be read"
                    );
                    self.problems.insert(site.clone(), failure);
                }
                self.ask(site, (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE));
                is_new
            }
        }
    }

    fn keep(&mut self) {
        let kept = key_file::keep_site_keys(&self.copy, &self.known);
        let problem = kept
            .err()
            .map(|error| format!("{:#}", anyhow::Error::from(error)));
        if let Some(problem) = &problem
            && self.copy_problem.as_ref() != Some(problem)
        {
            warn!(problem, "a restart would need SSM");
        }
        self.copy_problem = problem;
    }
}

impl Wanted {
    fn of(link: &SiteLink) -> Option<Self> {
        Some(Self {
            parameter: link.parameter()?.to_owned(),
            kind: match link {
                SiteLink::Wireguard(_) => Kind::Wireguard,
                SiteLink::Ipsec(_) => Kind::Ipsec,
            },
        })
    }
}

/// What a site has whose key SSM was not asked for yet, or has not told.
pub(super) fn unread(parameter: &str) -> SiteSecret {
    SiteSecret::Awaited {
        problem: format!("preshared_key: SSM parameter {parameter}: no answer yet"),
    }
}

fn kind_of(key: &SiteKey) -> Kind {
    match key {
        SiteKey::Wireguard(_) => Kind::Wireguard,
        SiteKey::Ipsec(_) => Kind::Ipsec,
    }
}

fn key_of(secret: &SiteSecret) -> Option<SiteKey> {
    match secret {
        SiteSecret::Wireguard(key) => key.clone().map(SiteKey::Wireguard),
        SiteSecret::Ipsec {
            credential: IkeCredential::PresharedKey(key),
            ..
        } => Some(SiteKey::Ipsec(key.clone())),
        SiteSecret::Ipsec {
            credential: IkeCredential::PrivateKey(_),
            ..
        }
        | SiteSecret::Awaited { .. }
        | SiteSecret::Unreadable { .. } => None,
    }
}

async fn fetch(store: &ParameterStore, wanted: &Wanted) -> Answer {
    let name = &wanted.parameter;
    let key = match wanted.kind {
        Kind::Wireguard => store.preshared_key(name).await.map(SiteKey::Wireguard),
        Kind::Ipsec => store.ike_secret(name).await.map(SiteKey::Ipsec),
    };
    key.map_err(|error| match error.reason.is_temporary() {
        true => Failure::Temporary(error.to_string()),
        false => Failure::Lasting(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use privnet_model::config::hub::HubConfig;

    use super::*;

    /// What SSM says of every parameter.
    type Store = Arc<Mutex<Answer>>;

    fn down() -> Failure {
        Failure::Temporary("down".to_owned())
    }

    fn none() -> Failure {
        Failure::Lasting("there is none".to_owned())
    }

    fn store(failure: Failure) -> Store {
        Arc::new(Mutex::new(Err(failure)))
    }

    fn says(store: &Store, answer: Answer) {
        *store.lock().unwrap() = answer;
    }

    fn keys(store: &Store, copy: &Path) -> SiteKeys {
        let store = store.clone();
        let fetch = move |_: Wanted| -> Fetched {
            let answer = store.clone();
            Box::pin(async move { answer.lock().unwrap().clone() })
        };
        SiteKeys::by(Box::new(fetch), copy.to_owned())
    }

    fn key(text: &str) -> SiteKey {
        SiteKey::from_line(&format!("ipsec dc {text}")).unwrap().1
    }

    /// A site by IPsec, of which nothing is read.
    fn site(preshared_key: &str) -> Site {
        let text = format!(
            "privnet = '10.0.0.0/8'\n[discovery]\nregions = ['eu-west-1']\ntags.service = 'nat'\n\
             [[site]]\nname = 'dc'\ncidrs = ['10.200.0.0/16']\ntransport = 'ipsec'\n\
             endpoint = '192.0.2.1'\npreshared_key = {preshared_key}"
        );
        let mut config = HubConfig::parse("hub.toml", &text).unwrap();
        Site {
            config: config.sites.remove(0),
            secret: unread("/dc"),
        }
    }

    fn in_ssm() -> [Site; 1] {
        [site("{ ssm = '/dc' }")]
    }

    async fn changed(keys: &mut SiteKeys) {
        let within = timeout(Duration::from_secs(10), keys.changed());
        within.await.unwrap();
    }

    fn awaited(problem: &str) -> SiteSecret {
        let problem = problem.to_owned();
        SiteSecret::Awaited { problem }
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_read_is_asked_for_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("hub.site-keys");
        let ssm = store(down());
        let mut keys = keys(&ssm, &copy);
        let mut sites = in_ssm();
        keys.configure(&mut sites, &[]);
        let asked = "preshared_key: SSM parameter /dc: no answer yet";
        assert_eq!(sites[0].secret, awaited(asked));
        let dc = [ConnectionName::of("dc").unwrap()];
        assert!(keys.unknown().eq(dc.clone()));

        changed(&mut keys).await;
        keys.put_into(&mut sites);
        assert_eq!(sites[0].secret, awaited("preshared_key: down"));
        assert_eq!(keys.problems().count(), 0, "the tunnel's reason tells it");
        assert!(keys.unknown().eq(dc.clone()), "it changes nothing");

        // Nothing is wrong with the config before SSM says so.
        says(&ssm, Err(none()));
        changed(&mut keys).await;
        keys.put_into(&mut sites);
        let problem = "preshared_key: there is none".to_owned();
        assert_eq!(sites[0].secret, SiteSecret::Unreadable { problem });
        assert!(keys.unknown().eq(dc));

        says(&ssm, Ok(key("correct horse")));
        changed(&mut keys).await;
        keys.put_into(&mut sites);
        assert_eq!(key_of(&sites[0].secret), Some(key("correct horse")));
        assert_eq!(keys.unknown().count(), 0);
    }

    #[tokio::test]
    async fn what_was_known_stays_in_force_over_a_failure_and_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("hub.site-keys");
        let ssm = store(down());
        says(&ssm, Ok(key("correct horse")));
        let mut before = keys(&ssm, &copy);
        let mut sites = in_ssm();
        before.configure(&mut sites, &[]);
        changed(&mut before).await;

        says(&ssm, Err(down()));
        let mut after = keys(&ssm, &copy);
        let mut sites = in_ssm();
        after.configure(&mut sites, &[]);
        assert_eq!(key_of(&sites[0].secret), Some(key("correct horse")));
        changed(&mut after).await;
        after.put_into(&mut sites);
        assert_eq!(key_of(&sites[0].secret), Some(key("correct horse")));
        let told: Vec<String> = after.problems().collect();
        assert!(told[0].contains("dc") && told[0].contains("down"));
        assert!(!told[0].contains("horse"));

        // A key that was changed is taken when the config file is read again.
        says(&ssm, Ok(key("another horse")));
        let before = sites.clone();
        after.configure(&mut sites, &before);
        changed(&mut after).await;
        after.put_into(&mut sites);
        assert_eq!(key_of(&sites[0].secret), Some(key("another horse")));
        assert_eq!(after.problems().count(), 0);

        // Nor is there a copy of one that no site has any more.
        after.configure(&mut [], &sites);
        assert!(key_file::read_site_keys(&copy).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_copy_that_cannot_be_read_or_kept_costs_no_key_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let ssm = store(down());
        says(&ssm, Ok(key("correct horse")));
        std::fs::create_dir(directory.path().join("directory")).unwrap();
        for copy in ["directory", "none/hub.site-keys"] {
            let mut keys = keys(&ssm, &directory.path().join(copy));
            let mut sites = in_ssm();
            keys.configure(&mut sites, &[]);
            changed(&mut keys).await;
            keys.put_into(&mut sites);
            assert_eq!(key_of(&sites[0].secret), Some(key("correct horse")));
            let told: Vec<String> = keys.problems().collect();
            assert!(told.len() == 1 && told[0].contains("key file"), "{told:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_moves_from_a_file_to_ssm_stays_until_it_is_read_there() {
        let directory = tempfile::tempdir().unwrap();
        let mut keys = keys(&store(down()), &directory.path().join("copy"));
        let mut in_file = [site("{ file = '/dc.psk' }")];
        let secret = SiteSecret::Ipsec {
            authentication: Authentication::PresharedKey,
            credential: match key("correct horse") {
                SiteKey::Ipsec(key) => IkeCredential::PresharedKey(key),
                SiteKey::Wireguard(_) => panic!("it is IPsec's"),
            },
        };
        in_file[0].secret = secret.clone();
        let before = in_file.clone();
        keys.configure(&mut in_file, &[]);
        assert_eq!(in_file, before, "SSM has nothing to do with it");
        assert_eq!(keys.unknown().count(), 0);
        let mut sites = in_ssm();
        keys.configure(&mut sites, &before);
        assert_eq!(sites[0].secret, secret);
        assert_eq!(keys.unknown().count(), 0);
    }

    #[tokio::test]
    async fn a_question_that_breaks_off_is_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let asked = AtomicUsize::new(0);
        let fetch = move |_: Wanted| -> Fetched {
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move {
                assert!(!is_first, "a mistake of ours");
                Ok(key("correct horse"))
            })
        };
        let mut keys = SiteKeys::by(Box::new(fetch), directory.path().join("copy"));
        let mut sites = in_ssm();
        keys.configure(&mut sites, &[]);
        changed(&mut keys).await;
        keys.put_into(&mut sites);
        let said = "preshared_key: SSM parameter /dc: the question broke off";
        assert_eq!(sites[0].secret, awaited(said));
        changed(&mut keys).await;
        keys.put_into(&mut sites);
        assert_eq!(key_of(&sites[0].secret), Some(key("correct horse")));
    }

    #[tokio::test]
    async fn many_keys_are_asked_for_in_turns_and_told_together() {
        const SITES: usize = 40;
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let most_at_once = most.clone();
        let fetch = move |_: Wanted| -> Fetched {
            let (now, most) = (now.clone(), most.clone());
            Box::pin(async move {
                let under_way = now.fetch_add(1, Ordering::Relaxed) + 1;
                most.fetch_max(under_way, Ordering::Relaxed);
                sleep(Duration::from_millis(5)).await;
                now.fetch_sub(1, Ordering::Relaxed);
                Ok(key("correct horse"))
            })
        };
        let mut keys = SiteKeys::by(Box::new(fetch), copy.clone());
        let site = |number: usize| {
            let [mut site] = in_ssm();
            site.config.name = format!("dc-{number}");
            site
        };
        let mut sites: Vec<Site> = (0..SITES).map(site).collect();
        keys.configure(&mut sites, &[]);
        assert_eq!(keys.unknown().count(), SITES);
        let mut told = 0;
        while keys.unknown().count() > 0 {
            changed(&mut keys).await;
            told += 1;
        }
        assert!(told < SITES / 4, "told {told} times");
        assert_eq!(most_at_once.load(Ordering::Relaxed), MOST_AT_ONCE);
        let kept = key_file::read_site_keys(&copy).unwrap();
        assert_eq!(kept.len(), SITES);
    }

    #[tokio::test]
    async fn what_was_taken_in_is_told_though_its_waiting_was_broken_off() {
        let directory = tempfile::tempdir().unwrap();
        let mut keys = keys(&store(none()), &directory.path().join("copy"));
        keys.configure(&mut in_ssm(), &[]);
        let taken_in = async {
            while keys.problems.is_empty() {
                let broken_off = timeout(GATHER / 50, keys.changed()).await;
                assert!(broken_off.is_err(), "others may come with it");
            }
        };
        timeout(Duration::from_secs(10), taken_in).await.unwrap();
        changed(&mut keys).await;
        assert_eq!(keys.tell_at, None);
    }
}
