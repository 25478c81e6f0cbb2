//! One partition, asked once: which spokes run, what became of those that are
//! missing, and what their VPCs and zones hold.
//!
//! The answer is complete or an error. Only what a spoke can do without is left
//! out when EC2 does not tell it: the CIDRs of its zone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::describe_subnets::DescribeSubnetsOutput;
use aws_sdk_ec2::operation::describe_vpcs::DescribeVpcsOutput;
use ipnet::IpNet;
use privnet_model::id::{InstanceId, Region, VpcId, Zone};
use privnet_model::inventory::{Answer, Fate, SpokeRecord};

use crate::asking::{Asking, FILTER_VALUES, PAGE_SIZE};
use crate::budget::Budget;
use crate::error::{Ec2Error, Operation, Reason};
use crate::filter;
use crate::record::{self, State};

/// The subnets' CIDRs by VPC and zone.
type Zones = BTreeMap<(VpcId, Zone), BTreeSet<IpNet>>;

/// A partition and the time and requests that it has left.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    client: Client,
    /// A spoke has all of these.
    tags: &'a BTreeMap<String, String>,
    asking: Asking<'a>,
}

/// What is found by tags.
#[derive(Debug, Default)]
struct Found {
    /// By id: an instance that moves between pages while they are read comes twice.
    spokes: BTreeMap<InstanceId, SpokeRecord>,
    /// Those that EC2 found by tags which its description of them then lacks. It
    /// contradicts itself, and has been seen to leave out all tags for a while:
    /// neither are they spokes for certain, nor has anybody taken their tags.
    contradicted: BTreeSet<InstanceId>,
}

/// An answer, and what could not be learned beside it.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) answer: Answer,
    /// Why the CIDRs of the zones are missing, if they are.
    pub(crate) zones_missing: Option<Ec2Error>,
}

impl<'a> Question<'a> {
    /// From now on it may take `timeout`.
    pub(crate) fn new(
        client: Client,
        region: &'a Region,
        tags: &'a BTreeMap<String, String>,
        budget: Budget,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            tags,
            asking: Asking::new(region, budget, timeout),
        }
    }

    /// Asks. Of each of the `known` the answer tells that it runs or what became
    /// of it.
    pub(crate) async fn ask(&self, known: &BTreeSet<InstanceId>) -> Result<Told, Ec2Error> {
        let Found {
            mut spokes,
            contradicted,
        } = self.tagged().await?;
        for instance in contradicted.difference(known) {
            tracing::warn!(
                region = %self.asking.region, %instance,
                "EC2 finds an instance by its tags and describes it without them: left out for now"
            );
        }
        let missing: BTreeSet<_> = known.iter().filter(|id| !spokes.contains_key(id)).collect();
        let absent = self.fates(&missing, &contradicted, &mut spokes).await?;
        let vpcs: BTreeSet<_> = spokes
            .values()
            .filter_map(|spoke| spoke.vpc.as_ref())
            .collect();
        let vpcs = self.vpcs(&vpcs).await?;
        for spoke in spokes.values_mut() {
            let Some(id) = &spoke.vpc else { continue };
            match vpcs.get(id) {
                Some(cidrs) => spoke.cidrs.clone_from(cidrs),
                None => tracing::warn!(
                    region = %self.asking.region, instance = %spoke.instance, vpc = %id,
                    "EC2 does not know the VPC of a running instance"
                ),
            }
        }
        let zones_missing = self.add_zones(&mut spokes).await.err();
        Ok(Told {
            answer: Answer {
                spokes: spokes.into_values().collect(),
                absent,
            },
            zones_missing,
        })
    }

    /// The running instances with the tags.
    async fn tagged(&self) -> Result<Found, Ec2Error> {
        let mut found = Found::default();
        self.asking
            .instances(&self.client, filter::running_with(self.tags), |instance| {
                if !matches!(record::state(instance), State::Running | State::Untold) {
                    return Ok(());
                }
                // Skipping one that we cannot name would make the answer look
                // complete without it.
                let spoke = record::spoke(instance).map_err(Reason::unreadable)?;
                if filter::has_all(&spoke.tags, self.tags) {
                    take(&mut found.spokes, spoke)
                } else {
                    found.contradicted.insert(spoke.instance);
                    Ok(())
                }
            })
            .await?;
        let Found {
            spokes,
            contradicted,
        } = &mut found;
        contradicted.retain(|id| !spokes.contains_key(id));
        Ok(found)
    }

    /// What became of these, asked for by id. Those that turn out to be spokes
    /// are added to them.
    async fn fates(
        &self,
        missing: &BTreeSet<&InstanceId>,
        contradicted: &BTreeSet<InstanceId>,
        spokes: &mut BTreeMap<InstanceId, SpokeRecord>,
    ) -> Result<BTreeMap<InstanceId, Fate>, Ec2Error> {
        let mut fates = BTreeMap::new();
        let ids: Vec<_> = missing.iter().copied().collect();
        for chunk in ids.chunks(FILTER_VALUES) {
            self.asking
                .instances(
                    &self.client,
                    vec![filter::instances(chunk.iter().copied())],
                    |instance| {
                        let spoke = record::spoke(instance).map_err(Reason::unreadable)?;
                        if !missing.contains(&spoke.instance) {
                            return Ok(());
                        }
                        let fate = match record::state(instance) {
                            State::Running if filter::has_all(&spoke.tags, self.tags) => {
                                return take(spokes, spoke);
                            }
                            State::Running
                                if spoke.tags.is_empty()
                                    || contradicted.contains(&spoke.instance) =>
                            {
                                Fate::Tagless
                            }
                            State::Running => Fate::Untagged,
                            State::Stopped => Fate::Stopped,
                            State::Terminated => Fate::Terminated,
                            State::Untold | State::Other => Fate::Unclear,
                        };
                        fates
                            .entry(spoke.instance)
                            .and_modify(|known| {
                                if *known != fate {
                                    *known = Fate::Unclear;
                                }
                            })
                            .or_insert(fate);
                        Ok(())
                    },
                )
                .await?;
        }
        for id in ids {
            fates.entry(id.clone()).or_insert(Fate::NotFound);
        }
        fates.retain(|id, _| !spokes.contains_key(id));
        Ok(fates)
    }

    /// The CIDRs of these VPCs; one that EC2 does not know is left out.
    async fn vpcs(&self, ids: &BTreeSet<&VpcId>) -> Result<BTreeMap<VpcId, Vec<IpNet>>, Ec2Error> {
        let ids: Vec<_> = ids.iter().copied().collect();
        let mut vpcs = BTreeMap::new();
        for chunk in ids.chunks(FILTER_VALUES) {
            let request = self
                .client
                .describe_vpcs()
                .filters(filter::vpcs(chunk.iter().copied()))
                .max_results(PAGE_SIZE);
            self.asking
                .pages(
                    Operation::DescribeVpcs,
                    |token| {
                        let request = request.clone().set_next_token(token).customize();
                        request.interceptor(self.asking.budget.clone()).send()
                    },
                    DescribeVpcsOutput::next_token,
                    |page| {
                        for vpc in page.vpcs() {
                            let id = record::vpc_id(vpc).map_err(Reason::unreadable)?;
                            let cidrs = record::cidrs(vpc).map_err(|text| Reason::Unreadable {
                                detail: format!("`{text}` is not a CIDR of a VPC (of {id})"),
                            })?;
                            vpcs.insert(id, cidrs);
                        }
                        Ok(())
                    },
                )
                .await?;
        }
        Ok(vpcs)
    }

    /// Tells the spokes of VPCs that have several what lies in their zones.
    async fn add_zones(
        &self,
        spokes: &mut BTreeMap<InstanceId, SpokeRecord>,
    ) -> Result<(), Ec2Error> {
        let mut gateways: BTreeMap<&VpcId, usize> = BTreeMap::new();
        for vpc in spokes.values().filter_map(|spoke| spoke.vpc.as_ref()) {
            *gateways.entry(vpc).or_default() += 1;
        }
        gateways.retain(|_, count| *count > 1);
        let zones: BTreeSet<&Zone> = spokes
            .values()
            .filter(|spoke| {
                spoke
                    .vpc
                    .as_ref()
                    .is_some_and(|vpc| gateways.contains_key(vpc))
            })
            .filter_map(|spoke| spoke.zone.as_ref())
            .collect();
        let vpcs: Vec<_> = gateways.into_keys().collect();
        let subnets = self.subnets(&vpcs, &zones).await?;
        for spoke in spokes.values_mut() {
            let (Some(vpc), Some(zone)) = (&spoke.vpc, &spoke.zone) else {
                continue;
            };
            let Some(cidrs) = subnets.get(&(vpc.clone(), zone.clone())) else {
                continue;
            };
            let inside = |cidr: &&IpNet| spoke.cidrs.iter().any(|own| own.contains(*cidr));
            spoke.zone_cidrs = cidrs.iter().filter(inside).copied().collect();
        }
        Ok(())
    }

    async fn subnets(&self, vpcs: &[&VpcId], zones: &BTreeSet<&Zone>) -> Result<Zones, Ec2Error> {
        let mut subnets = Zones::new();
        if zones.is_empty() {
            return Ok(subnets);
        }
        for chunk in vpcs.chunks(FILTER_VALUES) {
            let request = self
                .client
                .describe_subnets()
                .filters(filter::vpcs(chunk.iter().copied()))
                .filters(filter::zones(zones.iter().copied()))
                .max_results(PAGE_SIZE);
            self.asking
                .pages(
                    Operation::DescribeSubnets,
                    |token| {
                        let request = request.clone().set_next_token(token).customize();
                        request.interceptor(self.asking.budget.clone()).send()
                    },
                    DescribeSubnetsOutput::next_token,
                    |page| {
                        for (place, cidrs) in page.subnets().iter().filter_map(record::subnet) {
                            subnets.entry(place).or_default().extend(cidrs);
                        }
                        Ok(())
                    },
                )
                .await?;
        }
        Ok(subnets)
    }
}

/// Adds a spoke. Of two descriptions of it the later one is the newer, but no
/// instance ever leaves its VPC: then one of them is wrong, and who knows which.
fn take(spokes: &mut BTreeMap<InstanceId, SpokeRecord>, spoke: SpokeRecord) -> Result<(), Reason> {
    if let Some(before) = spokes
        .get(&spoke.instance)
        .and_then(|before| before.vpc.as_ref())
        && spoke.vpc.as_ref().is_some_and(|vpc| vpc != before)
    {
        return Err(Reason::Unreadable {
            detail: format!("{} is in two VPCs", spoke.instance),
        });
    }
    spokes.insert(spoke.instance.clone(), spoke);
    Ok(())
}
