//! What spokes tell the hub through their tunnels: which instance they are, and
//! which key comes next. Who calls is known by then; whether that is believed is
//! decided by `privnet_reconcile::{proof, pin}`, and what follows is the hub's.
//!
//! STS is asked beside the main loop.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use privnet_ec2::ProofCourier;
use privnet_model::config::hub::{ProofMode, TrustConfig};
use privnet_model::enrol::{Me, NextKey, Proof, ProofState};
use privnet_model::id::InstanceId;
use privnet_model::inventory::{Inventory, Partition, Proof as Proved};
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_reconcile::fleet::{Fleet, TunnelId};
use privnet_reconcile::pin;
use privnet_reconcile::proof::{self, Checked, Claim, ProofError, Replays, StsEndpoints};
use privnet_runtime::tunnel_port::{Call, Question, Refusal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// How often a spoke may name another next key: each has the hub decide anew.
const NEXT_KEY_PAUSE: Duration = Duration::from_secs(10);
/// Questions to STS at once; who comes then is told to come again.
const MOST_AT_ONCE: usize = 64;

type Answer = oneshot::Sender<Result<Me, Refusal>>;

/// A spoke that calls, as the inventory knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller {
    partition: Partition,
    instance: InstanceId,
    /// Of the tunnel that it calls through.
    key: PublicKey,
    /// The key that it named before.
    next_key: Option<PublicKey>,
    proof: ProofState,
}

impl Caller {
    /// The spoke whose own address this is, which nobody else can call from.
    fn at(
        source: IpAddr,
        fleet: &Fleet,
        inventory: &Inventory,
        proof_wanted: bool,
    ) -> Option<Self> {
        let (id, tunnel) = fleet.speaker(source)?;
        let TunnelId::Spoke(partition, instance) = id else {
            return None;
        };
        let pin = inventory.partitions.get(partition)?.pins.get(instance);
        let proof = match pin.map(|pin| &pin.proof) {
            _ if !proof_wanted => ProofState::NotWanted,
            Some(Proved::Accepted { .. }) => ProofState::Accepted,
            Some(Proved::Missing | Proved::Refused { .. }) | None => ProofState::Wanted,
        };
        Some(Self {
            partition: partition.clone(),
            instance: instance.clone(),
            key: tunnel.public_key?,
            next_key: pin.and_then(|pin| pin.next),
            proof,
        })
    }

    fn me(&self) -> Me {
        Me {
            public_key: self.key,
            next_key: self.next_key,
            proof: self.proof,
        }
    }

    fn claim<'a>(&'a self, hub_key: &'a PublicKey) -> Claim<'a> {
        Claim {
            spoke_key: &self.key,
            hub_key,
            account: &self.partition.account,
            instance: &self.instance,
        }
    }
}

/// The proofs under way.
pub(crate) struct Enrolment {
    courier: ProofCourier,
    endpoints: StsEndpoints,
    replays: Replays,
    asking: JoinSet<Judged>,
    /// When each spoke named its next key last.
    named: BTreeMap<InstanceId, Instant>,
}

/// The hub, as far as it matters here.
pub(crate) struct Hub<'a> {
    pub(crate) key: &'a PrivateKey,
    pub(crate) trust: &'a TrustConfig,
}

/// An answer that is true once what it says is in force, and saved.
pub(crate) struct Promise {
    me: Me,
    answer: Answer,
}

impl Promise {
    pub(crate) fn keep(self) {
        // Whoever asked may have gone.
        let _ = self.answer.send(Ok(self.me));
    }
}

/// A proof that STS was asked about, and the spoke that waits for what came of it.
pub(crate) struct Judged {
    caller: Caller,
    result: Result<(), ProofError>,
    answer: Answer,
}

impl Enrolment {
    pub(crate) fn new(courier: ProofCourier) -> Self {
        let endpoints = match courier.endpoint() {
            Some(url) => StsEndpoints::Only(url.to_owned()),
            None => StsEndpoints::Aws,
        };
        Self {
            courier,
            endpoints,
            replays: Replays::default(),
            asking: JoinSet::new(),
            named: BTreeMap::new(),
        }
    }

    /// Answers a call, or has it answered when STS did. When the inventory has
    /// changed, the answer is for later: nothing is promised that is not kept.
    pub(crate) fn called(
        &mut self,
        call: Call,
        fleet: &Fleet,
        inventory: &mut Inventory,
        hub: &Hub<'_>,
    ) -> Option<Promise> {
        let Call {
            source,
            question,
            answer,
        } = call;
        let proof_wanted = hub.trust.proof != ProofMode::Off;
        let reply = match Caller::at(source, fleet, inventory, proof_wanted) {
            None => Err(Refusal::Unknown(format!(
                "no spoke of this hub has the address {source}"
            ))),
            Some(caller) => match question {
                Question::Me => Ok(caller.me()),
                Question::Proof(_) if !proof_wanted => Ok(caller.me()),
                Question::Proof(proof) => match self.admit(&proof, &caller, &hub.key.public()) {
                    Ok(checked) => {
                        self.ask(checked, caller, hub, answer);
                        return None;
                    }
                    Err(refusal) => Err(refusal),
                },
                Question::NextKey(next) if caller.next_key == Some(next.public_key) => {
                    Ok(caller.me())
                }
                Question::NextKey(_) if self.named_lately(&caller) => {
                    let error = "another next key was named just now: come again";
                    Err(Refusal::Later(error.to_owned()))
                }
                Question::NextKey(next) => match name_next(inventory, &caller, &next, hub.key) {
                    Ok(me) => return Some(Promise { me, answer }),
                    Err(refusal) => Err(refusal),
                },
            },
        };
        // Whoever asked may have gone.
        let _ = answer.send(reply);
        None
    }

    fn named_lately(&mut self, caller: &Caller) -> bool {
        self.named
            .retain(|_, named| named.elapsed() < NEXT_KEY_PAUSE);
        if self.named.contains_key(&caller.instance) {
            return true;
        }
        self.named.insert(caller.instance.clone(), Instant::now());
        false
    }

    fn admit(
        &mut self,
        proof: &Proof,
        caller: &Caller,
        hub_key: &PublicKey,
    ) -> Result<Checked, Refusal> {
        if self.asking.len() >= MOST_AT_ONCE {
            let error = "many prove themselves now: come again in a moment";
            return Err(Refusal::Later(error.to_owned()));
        }
        let now = Timestamp::now();
        proof::check(proof, caller.claim(hub_key), &self.endpoints, now)
            .and_then(|checked| {
                self.replays.admit(&caller.key, &checked, now)?;
                Ok(checked)
            })
            .map_err(|error| refused(caller, &error))
    }

    fn ask(&mut self, checked: Checked, caller: Caller, hub: &Hub<'_>, answer: Answer) {
        let hub_key = hub.key.public();
        let roles = hub.trust.proof_roles.clone();
        let courier = self.courier.clone();
        self.asking.spawn(async move {
            let partition = checked.partition;
            let said = courier.ask(checked.url, checked.headers, checked.body);
            let result = match said.await {
                Ok(said) => {
                    let claim = caller.claim(&hub_key);
                    proof::judge(said.status, &said.body, claim, partition, &roles)
                }
                Err(error) => Err(ProofError::NoAnswer(error.to_string())),
            };
            Judged {
                caller,
                result,
                answer,
            }
        });
    }

    /// The next proof that STS was asked about; never, while there is none.
    /// Cancel-safe.
    pub(crate) async fn judged(&mut self) -> Judged {
        loop {
            match self.asking.join_next().await {
                Some(Ok(judged)) => return judged,
                Some(Err(error)) => warn!(%error, "a question to STS broke off"),
                None => return std::future::pending().await,
            }
        }
    }
}

impl Judged {
    /// Notes what came of it and tells the spoke. Whether the inventory has changed.
    pub(crate) fn note(self, inventory: &mut Inventory) -> bool {
        let Self {
            caller,
            result,
            answer,
        } = self;
        let (noted, reply) = match &result {
            Ok(()) => {
                info!(instance = %caller.instance, key = %caller.key, "proved to be this instance");
                let me = Me {
                    proof: ProofState::Accepted,
                    ..caller.me()
                };
                (Some(Ok(Timestamp::now())), Ok(me))
            }
            // STS did not say: that is not held against the spoke.
            Err(error) if error.is_temporary() => (None, Err(refused(&caller, error))),
            Err(error) => (Some(Err(error.to_string())), Err(refused(&caller, error))),
        };
        let has_news = noted.is_some();
        let known = noted.is_none_or(|noted| {
            pin::judged(
                inventory,
                &caller.partition,
                &caller.instance,
                caller.key,
                noted,
            )
        });
        let gone = "the hub knows this spoke by another key now: come again";
        let reply = if known {
            reply
        } else {
            Err(Refusal::Later(gone.to_owned()))
        };
        // Whoever asked may have gone.
        let _ = answer.send(reply);
        has_news && known
    }
}

fn name_next(
    inventory: &mut Inventory,
    caller: &Caller,
    named: &NextKey,
    hub: &PrivateKey,
) -> Result<Me, Refusal> {
    let next = named.public_key;
    if next == hub.public() {
        return Err(Refusal::Never("the key is the hub's".to_owned()));
    }
    // To go on with the key in use, which this tunnel proves, needs no other proof.
    if next != caller.key && !named.is_held(hub, &caller.key) {
        let error = "the caller does not show that it has the key's private half";
        warn!(instance = %caller.instance, key = %next, error, "a next key is not taken");
        return Err(Refusal::Never(error.to_owned()));
    }
    let (partition, instance) = (&caller.partition, &caller.instance);
    let named = pin::announce(inventory, partition, instance, caller.key, next);
    if let Err(error) = named {
        warn!(instance = %caller.instance, key = %next, %error, "a next key is not taken");
        // Whose it is, is not the caller's business.
        let error = match error {
            pin::AnnounceError::Unknown(_) => "this spoke has no key in use yet",
            pin::AnnounceError::Taken(_) => "the key is another's",
        };
        return Err(Refusal::Never(error.to_owned()));
    }
    let next_key = (next != caller.key).then_some(next);
    info!(instance = %caller.instance, next_key = next_key.map(tracing::field::display), "names its next key");
    Ok(Me {
        next_key,
        ..caller.me()
    })
}

fn refused(caller: &Caller, error: &ProofError) -> Refusal {
    warn!(instance = %caller.instance, key = %caller.key, %error, "a proof is not accepted");
    match error.is_temporary() {
        true => Refusal::Later(error.to_string()),
        false => Refusal::Never(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::collections::BTreeSet;

    use privnet_ec2::SdkContext;
    use privnet_model::config::hub::TrustConfig;
    use privnet_model::enrol::NextKey;
    use privnet_model::inventory::{PartitionView, Pin, SpokeRecord, Transport};
    use privnet_model::net::Supernet;
    use privnet_reconcile::fleet::{Carried, FleetInput, IpsecInput};

    use super::*;

    /// Whose private key has this number.
    const HUB: u8 = 9;

    fn private(n: u8) -> PrivateKey {
        PrivateKey::from_random([n; 32])
    }

    fn key(n: u8) -> PublicKey {
        private(n).public()
    }

    fn instance(n: u8) -> InstanceId {
        format!("i-000000000000000{n:02x}").parse().unwrap()
    }

    fn partition() -> Partition {
        Partition {
            account: "111122223333".parse().unwrap(),
            region: "eu-west-1".parse().unwrap(),
        }
    }

    fn record(n: u8) -> SpokeRecord {
        SpokeRecord {
            instance: instance(n),
            name: None,
            launched: None,
            zone: None,
            vpc: Some(format!("vpc-000000000000000{n:02x}").parse().unwrap()),
            cidrs: vec![format!("10.{n}.0.0/16").parse().unwrap()],
            public_address: Some(format!("198.51.100.{n}").parse().unwrap()),
            private_address: Some(address(n)),
            public_key: Some(key(n)),
            port: None,
            transport: Transport::Wireguard,
            instance_profile: None,
            image: None,
            zone_cidrs: Vec::new(),
            tags: BTreeMap::new(),
            tag_problems: Vec::new(),
        }
    }

    fn address(n: u8) -> IpAddr {
        format!("10.{n}.0.10").parse().unwrap()
    }

    /// A hub of two spokes.
    struct Known {
        enrolment: Enrolment,
        inventory: Inventory,
        fleet: Fleet,
    }

    impl Known {
        async fn new() -> Self {
            let region = "eu-west-1".parse().unwrap();
            let sdk = SdkContext::load(&region).await;
            let mut view = PartitionView::default();
            for n in [1, 2] {
                view.spokes.insert(instance(n), record(n));
                let pin = Pin {
                    key: key(n),
                    next: None,
                    proof: Proved::Missing,
                };
                view.pins.insert(instance(n), pin);
            }
            let mut inventory = Inventory::default();
            inventory.partitions.insert(partition(), view);
            let fleet = Fleet::decide(FleetInput {
                privnet: &Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
                hub_keys: &[key(HUB)],
                hub_vpc: &"vpc-00000000000000009".parse().unwrap(),
                hub_cidrs: &[],
                sites: &[],
                inventory: &inventory,
                trust: &TrustConfig::default(),
                carried: &Carried::default(),
                alive: &BTreeSet::new(),
                health: &BTreeMap::new(),
                preshared: &|_| None,
                ipsec: IpsecInput {
                    address: "10.0.0.10".parse().unwrap(),
                    id: &"192.0.2.1".parse().unwrap(),
                    secret: &|_| None,
                    up: &BTreeSet::new(),
                    esp: None,
                },
            });
            Self {
                enrolment: Enrolment::new(ProofCourier::new(&sdk, &region)),
                inventory,
                fleet,
            }
        }

        /// Whether something changed, and the answer.
        async fn call(
            &mut self,
            source: u8,
            question: Question,
            proof_wanted: bool,
        ) -> (bool, Result<Me, Refusal>) {
            let (answer, answered) = oneshot::channel();
            let call = Call {
                source: address(source),
                question,
                answer,
            };
            let trust = TrustConfig {
                proof: match proof_wanted {
                    true => ProofMode::Ask,
                    false => ProofMode::Off,
                },
                ..TrustConfig::default()
            };
            let hub = super::Hub {
                key: &private(HUB),
                trust: &trust,
            };
            let (fleet, inventory) = (&self.fleet, &mut self.inventory);
            let promise = self.enrolment.called(call, fleet, inventory, &hub);
            let changed = promise.is_some();
            promise.into_iter().for_each(Promise::keep);
            (changed, answered.await.unwrap())
        }

        async fn next(&mut self, source: u8, next: u8) -> (bool, Result<Me, Refusal>) {
            self.enrolment.named.clear();
            self.name(source, named(source, next)).await
        }

        async fn name(&mut self, source: u8, next: NextKey) -> (bool, Result<Me, Refusal>) {
            self.call(source, Question::NextKey(next), false).await
        }
    }

    /// Its holder names the key, in the tunnel of another.
    fn named(source: u8, next: u8) -> NextKey {
        NextKey::new(&private(next), &key(source), &key(HUB)).unwrap()
    }

    #[tokio::test]
    async fn a_key_that_the_caller_does_not_hold_is_not_taken() {
        let mut known = Known::new().await;
        // The key that a new spoke has just published, named by another spoke.
        let forged = NextKey {
            public_key: key(7),
            ..named(1, 8)
        };
        let (changed, refused) = known.name(1, forged).await;
        assert!(
            !changed && matches!(refused, Err(Refusal::Never(_))),
            "{refused:?}"
        );
        let pins = &known.inventory.partitions[&partition()].pins;
        assert_eq!(pins[&instance(1)].next, None);
    }

    #[tokio::test]
    async fn a_spoke_is_told_who_it_is_and_a_stranger_that_he_is_none() {
        let mut known = Known::new().await;
        let (changed, me) = known.call(2, Question::Me, true).await;
        let expected = Me {
            public_key: key(2),
            next_key: None,
            proof: ProofState::Wanted,
        };
        assert_eq!((changed, me), (false, Ok(expected)));
        let (_, me) = known.call(2, Question::Me, false).await;
        assert_eq!(me.unwrap().proof, ProofState::NotWanted);
        let (_, stranger) = known.call(3, Question::Me, true).await;
        assert!(matches!(stranger, Err(Refusal::Unknown(_))), "{stranger:?}");
    }

    #[tokio::test]
    async fn a_next_key_is_noted_once_and_only_for_its_holder() {
        let mut known = Known::new().await;
        let (changed, me) = known.next(1, 7).await;
        assert_eq!((changed, me.unwrap().next_key), (true, Some(key(7))));
        let pins = |known: &Known| known.inventory.partitions[&partition()].pins.clone();
        assert_eq!(pins(&known)[&instance(1)].next, Some(key(7)));
        assert_eq!(pins(&known)[&instance(2)].next, None);
        // Said again, nothing changes.
        let (changed, me) = known.next(1, 7).await;
        assert_eq!((changed, me.unwrap().next_key), (false, Some(key(7))));
        for taken in [HUB, 7, 1] {
            let (changed, refused) = known.next(2, taken).await;
            assert!(
                !changed && matches!(refused, Err(Refusal::Never(_))),
                "{refused:?}"
            );
        }
        // The key in use takes it back.
        let (changed, me) = known.next(1, 1).await;
        assert_eq!((changed, me.unwrap().next_key), (true, None));
        assert_eq!(pins(&known)[&instance(1)].next, None);
    }

    #[tokio::test]
    async fn a_spoke_that_names_many_next_keys_is_told_to_wait() {
        let mut known = Known::new().await;
        assert!(known.next(1, 7).await.0);
        let (changed, refused) = known.name(1, named(1, 8)).await;
        assert!(
            !changed && matches!(refused, Err(Refusal::Later(_))),
            "{refused:?}"
        );
        let (changed, _) = known.name(2, named(2, 6)).await;
        assert!(changed, "another spoke waits for it");
    }

    #[tokio::test]
    async fn what_sts_said_is_noted_unless_it_did_not_say() {
        let mut known = Known::new().await;
        let other_account = ProofError::NotAnInstance("alice".to_owned());
        for (result, noted) in [
            (Err(ProofError::NoAnswer("503".to_owned())), Proved::Missing),
            (
                Err(other_account.clone()),
                Proved::Refused {
                    problem: other_account.to_string(),
                },
            ),
        ] {
            let caller = Caller::at(address(1), &known.fleet, &known.inventory, true);
            let (answer, answered) = oneshot::channel();
            let judged = Judged {
                caller: caller.unwrap(),
                result,
                answer,
            };
            judged.note(&mut known.inventory);
            assert!(answered.await.unwrap().is_err());
            let pin = known.inventory.partitions[&partition()].pins[&instance(1)].clone();
            assert_eq!(pin.proof, noted);
        }
        let caller = Caller::at(address(1), &known.fleet, &known.inventory, true).unwrap();
        let (answer, answered) = oneshot::channel();
        let judged = Judged {
            caller,
            result: Ok(()),
            answer,
        };
        assert!(judged.note(&mut known.inventory));
        let me = answered.await.unwrap().unwrap();
        assert_eq!(me.proof, ProofState::Accepted);
        let (_, me) = known.call(1, Question::Me, true).await;
        assert_eq!(me.unwrap().proof, ProofState::Accepted);
    }
}
