//! What filters a spoke's packets in EC2: security groups, and the subnet's network ACL.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use privnet_ec2::doctor::asked;
use privnet_model::config::spoke::HubPeerConfig;
use privnet_model::doctor::Finding;
use privnet_model::instance::{InstanceDescription, TCP, Traffic, UDP};
use privnet_model::inventory::Transport;
use privnet_model::ipsec::IKE_PORTS;
use privnet_model::vpc::Siblings;
use privnet_reconcile::doctor::network_acl::{self, Opening, Sample};
use privnet_reconcile::doctor::permission;
use privnet_reconcile::doctor::security_group::{self, Direction, Passage};

use super::surroundings::Surroundings;

/// Somewhere on the internet, for samples of what a network ACL lets through
/// (RFC 5737: it is nobody's).
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 80));
const EVERYWHERE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
/// A port that a kernel chooses for a connection.
const CHOSEN: u16 = 40_000;

fn at_hub(hub: &HubPeerConfig) -> IpNet {
    IpNet::from(hub.endpoint.ip())
}

impl Surroundings<'_> {
    /// What the security groups let through.
    pub(super) async fn groups(
        self,
        described: &InstanceDescription,
        siblings: Option<&Siblings>,
    ) -> Vec<Finding> {
        let groups = asked(self.patience(), self.vpc.security_groups(&described.groups)).await;
        let groups = match groups {
            Ok(groups) => groups,
            Err(_) => {
                let action = "ec2:DescribeSecurityGroups";
                return permission::extra("security group", action, &groups)
                    .into_iter()
                    .collect();
            }
        };
        let vpc = &self.identity.vpc_cidrs;
        let mut findings = Vec::new();
        if !self.config.nat.is_off() || self.config.transport != Transport::None {
            findings.push(security_group::passes(
                &groups,
                &Passage {
                    check: "security group, from the VPC",
                    consequence: "the VPC's hosts get nothing forwarded",
                    direction: Direction::In,
                    traffic: Traffic::ALL,
                    with: vpc,
                    siblings: false,
                    vital: true,
                },
            ));
        }
        if self.config.nat.egress {
            findings.push(security_group::passes(
                &groups,
                &Passage {
                    check: "security group, to the internet",
                    consequence: "nothing behind this spoke reaches the internet",
                    direction: Direction::Out,
                    traffic: Traffic::ALL,
                    with: &[EVERYWHERE],
                    siblings: false,
                    vital: true,
                },
            ));
        }
        for hub in &self.config.hubs {
            let at = [at_hub(hub)];
            findings.push(security_group::passes(
                &groups,
                &Passage {
                    check: "security group, to the hub",
                    consequence: "there is no tunnel",
                    direction: Direction::Out,
                    traffic: Traffic::port(UDP, hub.endpoint.port()),
                    with: &at,
                    siblings: false,
                    vital: true,
                },
            ));
        }
        let hubs: Vec<IpNet> = self.config.hubs.iter().map(at_hub).collect();
        if !hubs.is_empty() {
            // A group lets answers in, so this spoke's keepalives hide that the hub's own
            // packets are dropped until the spoke speaks.
            findings.push(security_group::passes(
                &groups,
                &Passage {
                    check: "security group, from the hub",
                    consequence: "the hub cannot start the tunnel, and only this spoke's \
                                  keepalives hold it open",
                    direction: Direction::In,
                    traffic: Traffic::port(UDP, self.config.listen_port),
                    with: &hubs,
                    siblings: false,
                    vital: false,
                },
            ));
        }
        for hub in &self.config.ipsec_hubs {
            let at = [IpNet::from(hub.endpoint)];
            findings.extend(IKE_PORTS.map(|port| {
                security_group::passes(
                    &groups,
                    &Passage {
                        check: "security group, to the hub",
                        consequence: "there is no tunnel",
                        direction: Direction::Out,
                        traffic: Traffic::port(UDP, port),
                        with: &at,
                        siblings: false,
                        vital: true,
                    },
                )
            }));
        }
        let takeover = self
            .config
            .routes
            .as_ref()
            .and_then(|it| it.takeover.as_ref());
        if let (Some(takeover), Some(siblings)) = (takeover, siblings) {
            let others = siblings.spokes.values();
            let others = others.filter(|it| it.instance != self.identity.instance);
            let others: Vec<IpNet> = others.map(|it| IpNet::from(it.address)).collect();
            if !others.is_empty() {
                findings.push(security_group::passes(
                    &groups,
                    &Passage {
                        check: "security group, health port",
                        consequence: "the other spokes take this one for dead",
                        direction: Direction::In,
                        traffic: Traffic::port(UDP, takeover.health_port),
                        with: &others,
                        siblings: true,
                        vital: true,
                    },
                ));
            }
            if !others.is_empty() && self.config.keeps_connections {
                findings.push(security_group::passes(
                    &groups,
                    &Passage {
                        check: "security group, connections",
                        consequence: "connections end when the Elastic IP moves",
                        direction: Direction::In,
                        traffic: Traffic::port(TCP, takeover.health_port),
                        with: &others,
                        siblings: true,
                        vital: false,
                    },
                ));
            }
        }
        findings
    }

    /// Samples of what crosses the subnet's network ACL.
    pub(super) async fn acl(self, described: &InstanceDescription) -> Vec<Finding> {
        let acl = asked(self.patience(), self.vpc.network_acl(&described.subnet)).await;
        let acl = match acl {
            Ok(acl) => acl,
            Err(_) => {
                let action = "ec2:DescribeNetworkAcls";
                let finding = permission::extra("network ACL", action, &acl);
                return finding.into_iter().collect();
            }
        };
        let mut samples = Vec::new();
        let mut sample = |what, egress, traffic, peer, opening| {
            samples.push(Sample {
                what,
                egress,
                traffic,
                peer,
                opening,
            });
        };
        if self.config.nat.egress {
            let out = "what goes to web servers";
            let web = Traffic::port(TCP, 443);
            sample(out, true, web, SOMEWHERE, Opening::Unknown);
            let back = "what comes back from the internet";
            let answers = Traffic::port(TCP, CHOSEN);
            sample(back, false, answers, SOMEWHERE, Opening::Answers);
        }
        for hub in &self.config.hubs {
            let (ip, port) = (hub.endpoint.ip(), hub.endpoint.port());
            let there = Traffic::port(UDP, port);
            sample("what goes to the hub", true, there, ip, Opening::Peer);
            let own = Traffic::port(UDP, self.config.listen_port);
            sample("what comes from the hub", false, own, ip, Opening::Peer);
        }
        for hub in &self.config.ipsec_hubs {
            let there = Traffic::port(UDP, IKE_PORTS[1]);
            let ip = hub.endpoint;
            sample("what goes to the hub", true, there, ip, Opening::Peer);
            sample("what comes from the hub", false, there, ip, Opening::Peer);
        }
        network_acl::network_acl(&acl, &samples)
    }
}
