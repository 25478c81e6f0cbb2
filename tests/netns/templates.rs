//! The CloudFormation templates of `ami/cloudformation`, made in moto, and the hub
//! that runs with what one of them gives its instance as user data. Of `cloud.yaml`
//! come VPCs with the demo's CIDRs, and their spokes. The demo itself, hosts, gateways and
//! hub, runs in VPCs of the templates and with their user data.
//!
//! What moto leaves out of a template is named in `privnet_tests::cloudformation`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use privnet_model::config::hub::HubConfig;
use privnet_model::config::spoke::{OWN_ZONE, SpokeConfig, TableSelection};
use privnet_model::id::{InstanceId, Region};
use privnet_model::inventory::{PORT_TAG, PUBLIC_KEY_TAG, Transport};
use privnet_model::ipsec::IKE_PORTS;
use privnet_model::key::PrivateKey;
use privnet_model::status::{Status, TunnelState};
use privnet_tests::adoption::Adopted;
use privnet_tests::cloudformation::Templates;
use privnet_tests::deployment::{self, PATIENCE, tunnels};
use privnet_tests::iam;
use privnet_tests::moto::{Ec2, Stack};
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, ACCOUNT, HUB_PUBLIC, Network, Role, SECOND_HUB_PUBLIC, WEB};
use privnet_tests::world::World;
use serde_json::{Value, json};

const HUB_KEY: [u8; 32] = [7; 32];
const IMAGE: &str = "ami-12c6146b";
const SECRET: &str = "correct horse battery staple, and some more";
const TARGETS: &str = "192.0.2.1:443,198.51.100.1:443";

type Parameters = BTreeMap<String, String>;

fn parameters<const N: usize>(given: [(&str, &str); N]) -> Parameters {
    let owned = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
    owned.into_iter().collect()
}

fn region() -> Result<Region> {
    Ok("us-west-2".parse()?)
}

fn key() -> PrivateKey {
    PrivateKey::from_random(HUB_KEY)
}

/// A VPC of `vpc.yaml`.
fn vpc(templates: &Templates, ec2: &Ec2, name: &str, cidr: &str, zones: &str) -> Result<Stack> {
    let given = parameters([("Name", name), ("VpcCidr", cidr), ("Zones", zones)]);
    let stack = format!("{name}-vpc");
    templates.make(ec2, &region()?, (&stack, "vpc"), &given)
}

/// What `hub.yaml` wants to know of a VPC, and the rest.
fn hub_parameters(vpc: &Stack, more: &[(&str, &str)]) -> Result<Parameters> {
    let mut given = parameters([("ImageId", IMAGE), ("Regions", "us-west-2,eu-west-1")]);
    for output in [
        "VpcId",
        "VpcCidr",
        "PublicSubnetId",
        "PublicSubnetZone",
        "Zones",
        "PrivateRouteTableIds",
    ] {
        given.insert(output.to_owned(), vpc.output(output)?.to_owned());
    }
    given.extend(more.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())));
    Ok(given)
}

/// The same of `spoke.yaml`.
fn spoke_parameters(vpc: &Stack, more: &[(&str, &str)]) -> Result<Parameters> {
    let mut given = parameters([("ImageId", IMAGE), ("SelfTestTargets", TARGETS)]);
    for output in [
        "VpcId",
        "VpcCidr",
        "PublicSubnetIds",
        "Zones",
        "PrivateRouteTableArns",
    ] {
        given.insert(output.to_owned(), vpc.output(output)?.to_owned());
    }
    given.extend(more.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())));
    Ok(given)
}

/// What a stack gives its instances: as XML, and the user data.
fn launched_with(ec2: &Ec2, stack: &Stack) -> Result<(String, String)> {
    let groups = stack
        .output("HubGroup")
        .or_else(|_| stack.output("SpokeGroups"))?;
    launched_by(ec2, groups.split(',').next().unwrap_or_default())
}

/// What a group of one gives its instance.
fn launched_by(ec2: &Ec2, group: &str) -> Result<(String, String)> {
    let region = region()?;
    let launched = ec2.instances_with(&region, "tag:aws:autoscaling:groupName", group)?;
    let [instance] = launched.as_slice() else {
        anyhow::bail!("{group} has {launched:?}");
    };
    ec2.launch_template(&region, &tag(ec2, instance, "aws:ec2launchtemplate:id")?)
}

fn hub_of_the_demo() -> Network {
    let vpcs = topology::demo().vpcs.into_iter().take(1);
    Network {
        vpcs: vpcs.collect(),
    }
}

/// What the hub reads in SSM.
fn put_secrets(ec2: &Ec2) -> Result<()> {
    let line = format!("{}\n", *key().to_base64());
    ec2.put_secret(&region()?, "/privnet/hub/private-key", &line)?;
    ec2.put_secret(&region()?, "/privnet/psk", SECRET)
}

/// What spokes do themselves, and the addresses that moto forgets.
fn publish(ec2: &Ec2, instances: &[InstanceId]) -> Result<()> {
    let region = region()?;
    for (number, instance) in (1..).zip(instances) {
        ec2.give_address(&region, instance, [198, 51, 100, 200 + number].into())?;
        let key = PrivateKey::from_random([number; 32]).public().to_string();
        let tags = [(PUBLIC_KEY_TAG, key.as_str()), (PORT_TAG, "51820")];
        ec2.tag(&region, instance.as_str(), &tags)?;
    }
    Ok(())
}

/// The hub's user data, with files of this world's hub.
fn config_here(world: &World, user_data: &str) -> Result<String> {
    let directory = world.namespace("hub")?.directory();
    let directory = directory.display();
    let config = user_data.replace(
        "private_key = {",
        &format!(
            "state = \"{directory}/state.json\"\nprivate_key = {{ file = \"{directory}/key\","
        ),
    );
    ensure!(config != user_data, "{user_data}");
    Ok(config)
}

pub(crate) fn the_hub_of_a_template_finds_the_spokes_of_another() -> Result<()> {
    let mut world = World::build(&hub_of_the_demo())?;
    let (region, templates) = (region()?, Templates::read()?);
    let ec2 = world.ec2.clone();
    put_secrets(&ec2)?;

    let hub_vpc = vpc(&templates, &ec2, "hub", "10.0.0.0/16", "1")?;
    // Without a proof: nothing runs on the instances.
    let given = hub_parameters(&hub_vpc, &[("Proof", "ask")])?;
    let hub = templates.make(&ec2, &region, ("hub", "hub"), &given)?;
    let (address, public_key) = (HUB_PUBLIC.to_string(), key().public().to_string());
    let given = [
        ("Name", "a"),
        ("HubAddress", &address),
        ("HubPublicKey", &public_key),
    ];
    let client = vpc(&templates, &ec2, "a", "10.1.0.0/16", "2")?;
    let given = spoke_parameters(&client, &given)?;
    templates.make(&ec2, &region, ("a", "spoke"), &given)?;

    let instances = ec2.instances_with(&region, "vpc-id", client.output("VpcId")?)?;
    ensure!(instances.len() == 2, "{instances:?}");
    publish(&ec2, &instances)?;

    let (_, user_data) = launched_with(&ec2, &hub)?;
    let config = config_here(&world, &user_data)?;
    world.start("hub", &config)?;
    // They have no profile yet, which moto forgot.
    let listed = |world: &World, expected: TunnelState| {
        wait_until("both spokes to be listed", PATIENCE, || {
            let status = world.daemon("hub")?.status()?;
            let named: BTreeSet<&str> = status.tunnels.iter().map(|t| t.name.as_str()).collect();
            ensure!(named == BTreeSet::from(["a-1", "a-2"]), "{named:?}");
            for tunnel in &status.tunnels {
                ensure!(tunnel.state == expected, "{:?}", tunnel.reason);
            }
            Ok(Some(status))
        })
    };
    let status = listed(&world, TunnelState::Rejected)?;
    for tunnel in &status.tunnels {
        let reason = tunnel.reason.as_ref().context("no reason")?.to_string();
        ensure!(reason.contains("trust.instance_profiles"), "{reason}");
    }
    for instance in &instances {
        ec2.give_profile(&region, instance, "privnet-spoke-us-west-2-a")?;
    }
    tunnels(&world, &["refresh"])?;
    let status = listed(&world, TunnelState::Connecting)?;
    for tunnel in &status.tunnels {
        let vpc = tunnel.vpc.as_ref().context("no VPC")?;
        ensure!(vpc.as_str() == client.output("VpcId")?, "{vpc}");
    }
    let cidrs: Vec<String> = status
        .tunnels
        .iter()
        .flat_map(|tunnel| &tunnel.cidrs)
        .map(ToString::to_string)
        .collect();
    ensure!(cidrs.contains(&"10.1.0.0/16".to_owned()), "{cidrs:?}");
    its_key_is_that_of_ssm(&status)?;

    // Another instance in its place, with nothing on its disk.
    world.stop("hub")?;
    for file in ["key", "state.json"] {
        std::fs::remove_file(world.namespace("hub")?.directory().join(file))?;
    }
    world.start_again("hub")?;
    let status = listed(&world, TunnelState::Connecting)?;
    its_key_is_that_of_ssm(&status)?;
    world.check()
}

fn its_key_is_that_of_ssm(status: &Status) -> Result<()> {
    let interface = status.interface.as_ref().context("no interface")?;
    ensure!(interface.public_key == key().public());
    Ok(())
}

pub(crate) fn the_whole_cloud_is_made_from_one_document() -> Result<()> {
    let mut world = World::build(&hub_of_the_demo())?;
    let (region, templates) = (region()?, Templates::read()?);
    let ec2 = &world.ec2.clone();
    let public_key = key().public().to_string();
    let given = parameters([
        ("HubImageId", IMAGE),
        ("SpokeImageId", IMAGE),
        ("HubPublicKey", &public_key),
        ("SelfTestTargets", TARGETS),
    ]);
    let cloud = templates.make_nested(ec2, &region, "cloud", &given)?;
    let names: Vec<&str> = cloud.keys().map(String::as_str).collect();
    let spokes = ["ClientASpokes", "ClientBSpokes", "HubNat"];
    let vpcs = ["ClientAVpc", "ClientBVpc", "HubVpc"];
    let expected = [
        spokes[0], vpcs[0], spokes[1], vpcs[1], "Hub", spokes[2], vpcs[2],
    ];
    ensure!(names == expected, "{names:?}");

    // The demo's hub and first two clients.
    let hub = &cloud["Hub"];
    let mut cidrs = BTreeSet::new();
    for name in vpcs {
        let vpc = &cloud[name];
        cidrs.insert(vpc.output("VpcCidr")?);
        let subnets = ["PublicSubnetIds", "PrivateSubnetIds"].map(|output| vpc.output(output));
        for list in subnets {
            ensure!(list?.split(',').count() == 2, "{name}: two zones");
        }
        let tables = vpc.output("PrivateRouteTableIds")?;
        let arns: Vec<String> = tables
            .split(',')
            .map(|table| format!("arn:aws:ec2:{region}:{ACCOUNT}:route-table/{table}"))
            .collect();
        ensure!(vpc.output("PrivateRouteTableArns")? == arns.join(","));
        // The privnet leads to the hub in its own VPC, and what the spokes are to
        // serve is left to them.
        let privnet = match name {
            "HubVpc" => vec![(
                "10.0.0.0/8".to_owned(),
                hub.output("HubInterface")?.to_owned(),
            )],
            _ => vec![],
        };
        for table in tables.split(',') {
            let routes = ec2.routes_of(&region, table)?;
            ensure!(routes == privnet, "{name}, {table}: {routes:?}");
        }
        let groups = spokes[vpcs.iter().position(|vpc| *vpc == name).context("which")?];
        let groups: BTreeSet<&str> = cloud[groups].output("SpokeGroups")?.split(',').collect();
        let instances = ec2.instances_with(&region, "vpc-id", vpc.output("VpcId")?)?;
        let mut launched_by = BTreeSet::new();
        for instance in &instances {
            launched_by.insert(tag(ec2, instance, "aws:autoscaling:groupName")?);
            ensure!(tag(ec2, instance, "service")? == "nat");
            ensure!(tag(ec2, instance, "env")? == "prod");
        }
        let launched_by: BTreeSet<&str> = launched_by.iter().map(String::as_str).collect();
        ensure!(launched_by == groups, "{name}: {launched_by:?}");
        ensure!(instances.len() == 2, "{name}: one spoke a zone");
    }
    ensure!(cidrs == BTreeSet::from(["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"]));

    let (launch, toml) = launched_with(ec2, hub)?;
    let config = HubConfig::parse("hub.toml", &toml)?;
    let parameter = config.private_key_parameter.as_deref();
    ensure!(parameter == Some("/privnet/hub/private-key"));
    ensure!(config.discovery.tags["service"] == "nat" && config.discovery.tags["env"] == "prod");
    // The interface that has the address is the instance's, and IMDSv2 the only way.
    let interface = hub.output("HubInterface")?;
    for said in [interface, "<httpTokens>required</httpTokens>"] {
        ensure!(launch.contains(said), "no {said}: {launch}");
    }
    for name in spokes {
        let (launch, toml) = launched_with(ec2, &cloud[name])?;
        ensure!(launch.contains("<httpTokens>required</httpTokens>"));
        let config = SpokeConfig::parse("spoke.toml", &toml)?;
        let routes = config.routes.context("no routes")?;
        ensure!(routes.takeover.is_some(), "{toml}");
        match name {
            "HubNat" => ensure!(config.transport == Transport::None && config.hubs.is_empty()),
            _ => {
                let [named] = config.hubs.as_slice() else {
                    anyhow::bail!("{toml}");
                };
                let address = format!("{}:51820", hub.output("HubAddress")?);
                ensure!(named.endpoint == address.parse()?, "{toml}");
                ensure!(named.public_key == key().public(), "{toml}");
            }
        }
    }
    its_hub_finds_its_spokes(&mut world, &cloud)
}

/// With nothing but what the document made: user data, tags, profiles, VPCs.
fn its_hub_finds_its_spokes(world: &mut World, cloud: &BTreeMap<String, Stack>) -> Result<()> {
    let (region, ec2) = (region()?, world.ec2.clone());
    put_secrets(&ec2)?;
    // The demo's hub is that of the cloud, which has NAT gateways of its own.
    world.terminate("nat-hub")?;
    let home = cloud["HubVpc"].output("VpcId")?.parse()?;
    world.change_metadata("hub", |hub| hub.vpc = home)?;
    let mut instances = Vec::new();
    for (stack, name) in [("ClientAVpc", "client-a"), ("ClientBVpc", "client-b")] {
        let vpc = cloud[stack].output("VpcId")?;
        let spokes = ec2.instances_with(&region, "vpc-id", vpc)?;
        for instance in &spokes {
            let profile = format!("privnet-spoke-{region}-{name}");
            ec2.give_profile(&region, instance, &profile)?;
        }
        instances.extend(spokes);
    }
    publish(&ec2, &instances)?;

    // Nothing runs on the instances that could give a proof.
    let (_, user_data) = launched_with(&ec2, &cloud["Hub"])?;
    let asking = user_data.replace("\"require\"", "\"ask\"");
    ensure!(asking != user_data, "{user_data}");
    let config = config_here(world, &asking)?;
    world.start("hub", &config)?;
    let expected = BTreeSet::from(["client-a-1", "client-a-2", "client-b-1", "client-b-2"]);
    wait_until("the cloud's spokes to be listed", PATIENCE, || {
        let status = world.daemon("hub")?.status()?;
        let named: BTreeSet<&str> = status.tunnels.iter().map(|t| t.name.as_str()).collect();
        ensure!(named == expected, "{named:?}");
        let mut cidrs = BTreeSet::new();
        for tunnel in &status.tunnels {
            ensure!(
                tunnel.state == TunnelState::Connecting,
                "{:?}",
                tunnel.reason
            );
            cidrs.extend(tunnel.cidrs.iter().map(ToString::to_string));
        }
        for vpc in &topology::demo().vpcs[1..] {
            let cidr = vpc.cidrs[0].to_string();
            ensure!(cidrs.contains(&cidr), "no {cidr}: {cidrs:?}");
        }
        Ok(Some(()))
    })?;
    world.check()
}

/// The demo's gateways, in the order of its VPCs.
const GATEWAYS: [&str; 3] = ["nat-hub", "spoke-a", "spoke-b"];

pub(crate) fn the_demo_runs_on_what_the_templates_made() -> Result<()> {
    let mut world = World::build(&Network { vpcs: vec![] })?;
    let (templates, ec2) = (Templates::read()?, world.ec2.clone());
    put_secrets(&ec2)?;
    ec2.put_secret(&"eu-west-1".parse()?, "/privnet/psk", SECRET)?;
    let vpcs = the_demos_stacks(&templates, &ec2)?;
    for (vpc, _) in &vpcs {
        world.adopt(vpc)?;
    }
    for name in GATEWAYS {
        start_as_launched(&mut world, name)?;
    }
    for name in ["spoke-a", "spoke-b"] {
        deployment::wait_for_published_key(&mut world, name)?;
    }
    start_as_launched(&mut world, "hub")?;

    // By the names that the template gives the instances.
    let status = deployment::wait_until_up(&world, &["a-1", "b-1"], PATIENCE)?;
    ensure!(status.tunnels.len() == 2, "{:?}", status.tunnels);
    for (name, vpc) in [("a-1", "vpc-a"), ("b-1", "vpc-b")] {
        let tunnel = status.tunnels.iter().find(|tunnel| tunnel.name == name);
        let found = tunnel.and_then(|tunnel| tunnel.vpc.as_ref());
        let (_, expected) = world.vpc_id(vpc)?;
        ensure!(found == Some(expected), "{name} is in {found:?}");
    }
    its_key_is_that_of_ssm(&status)?;

    for (one, other) in [("host-a", "host-b"), ("host-hub", "host-a")] {
        deployment::reach_each_other(&world, one, other)?;
        deployment::ping_without_loss(&world, one, other, 100)?;
    }
    for (host, gateway) in [
        ("host-hub", "nat-hub"),
        ("host-a", "spoke-a"),
        ("host-b", "spoke-b"),
    ] {
        let public = deployment::public_address(&world, gateway)?;
        deployment::sees(&world, host, WEB, public)?;
    }

    // What the drawing says of the private subnets' routes is in the stacks' tables, of which
    // only the hub's stack makes one.
    let hub = &world.host("hub")?.metadata.interface;
    for ((vpc, table), gateway) in vpcs.iter().zip(GATEWAYS) {
        let own = &world.host(gateway)?.metadata.interface;
        let privnet = if gateway == "nat-hub" { hub } else { own };
        let expected = [("0.0.0.0/0", own), ("10.0.0.0/8", privnet)];
        let expected = expected.map(|(to, interface)| (to.to_owned(), interface.clone()));
        let expected = BTreeSet::from(expected);
        let what = format!("{gateway} to serve {table}");
        wait_until(&what, PATIENCE * 3, || {
            let routes = ec2.routes_of(&vpc.vpc.region, table)?;
            let routes: BTreeSet<_> = routes.into_iter().collect();
            ensure!(routes == expected, "{routes:?}");
            Ok(Some(()))
        })?;
    }
    deployment::nothing_leaked(&world)?;
    world.check()
}

/// The demo's VPCs, each with its private route table: made step by step as in
/// `ami/DEPLOY.md`, in their regions. Without the second CIDR that one has in the demo,
/// which no template makes.
fn the_demos_stacks(templates: &Templates, ec2: &Ec2) -> Result<Vec<(Adopted, String)>> {
    let own_zone = json!({
        "Key": "privnet:az",
        "Value": { "Fn::GetAtt": ["PrivateSubnet1", "AvailabilityZone"] },
    });
    let tags = &templates.get("vpc")?["Resources"]["PrivateTable1"]["Properties"]["Tags"];
    let tags = tags.as_array().context("the tables have no tags")?;
    ensure!(tags.contains(&own_zone), "{tags:?}");

    let (address, public_key) = (HUB_PUBLIC.to_string(), key().public().to_string());
    let targets = format!("{WEB}:80");
    let mut made = Vec::new();
    let drawn = topology::demo().vpcs.into_iter().zip(["hub", "a", "b"]);
    for ((mut drawn, name), gateway) in drawn.zip(GATEWAYS) {
        drawn.cidrs.truncate(1);
        drawn.subnets.truncate(2);
        let (region, cidr) = (drawn.region.clone(), drawn.cidrs[0].to_string());
        let given = parameters([("Name", name), ("VpcCidr", &cidr), ("Zones", "1")]);
        let stack = format!("{name}-vpc");
        let network = templates.make(ec2, &region, (&stack, "vpc"), &given)?;
        let mut vpc = Adopted::new(ec2, drawn, &network)?;

        // Without Elastic IPs it keeps the public address that it is launched with.
        let mut more = vec![("SelfTestTargets", targets.as_str()), ("Addresses", "none")];
        let stack = if name == "hub" {
            let given = hub_parameters(&network, &[])?;
            let hub = templates.make(ec2, &region, ("hub", "hub"), &given)?;
            vpc.gateway(ec2, "hub", &hub)?;
            more.push(("Transport", "none"));
            "hub-nat"
        } else {
            // Not the stack's output: moto takes Elastic IPs out of 127.0.0.0/8.
            more.push(("HubAddress", address.as_str()));
            more.push(("HubPublicKey", public_key.as_str()));
            name
        };
        more.push(("Name", stack));
        let given = spoke_parameters(&network, &more)?;
        let spokes = templates.make(ec2, &region, (stack, "spoke"), &given)?;
        vpc.gateway(ec2, gateway, &spokes)?;

        // The tag from above, which moto forgets.
        let table = network.output("PrivateRouteTableIds")?;
        let zone = network.output("PublicSubnetZone")?;
        ec2.tag(&region, table, &[("privnet:az", zone)])?;
        made.push((vpc, table.to_owned()));
    }
    Ok(made)
}

/// Starts a daemon with the user data of its stack. Only its files are elsewhere: the key,
/// and the hub's state.
fn start_as_launched(world: &mut World, name: &str) -> Result<()> {
    let host = world.host(name)?;
    let user_data = host.metadata.user_data.as_deref();
    let user_data = user_data.with_context(|| format!("{name} has no user data"))?;
    let config = if host.instance.role == Role::Hub {
        config_here(world, user_data)?
    } else {
        let key = host.namespace.directory().join("spoke.key");
        let key = key.display();
        format!("private_key = {{ file = \"{key}\" }}\n{user_data}")
    };
    world.start(name, &config).map(drop)
}

fn tag(ec2: &Ec2, instance: &InstanceId, key: &str) -> Result<String> {
    let tag = ec2.tag_of(&region()?, instance, key)?;
    tag.with_context(|| format!("{instance} has no tag {key}"))
}

/// Which of a role's policies, by its name in the template, says what which file of
/// `ami/iam` says, without which of its statements.
type Granted = [(&'static str, &'static str, &'static [&'static str])];

/// With listed regions, `ec2:DescribeRegions` is of no use.
const OF_THE_HUB: &Granted = &[
    ("hub", iam::HUB, &["ListRegions", "PollOtherAccounts"]),
    ("key", iam::HUB_KEY, &[]),
    ("secret", iam::SECRET, &[]),
    ("site-secret", iam::SITE_SECRET, &[]),
    ("doctor", iam::DOCTOR, &[]),
    ("other-accounts", iam::HUB, &["ListRegions", "FindSpokes"]),
];
const OF_A_SPOKE: &Granted = &[
    ("spoke", iam::SPOKE, &[]),
    ("routes", iam::ROUTES, &[]),
    ("source-dest-check", iam::SOURCE_DEST_CHECK, &[]),
    ("address", iam::ADDRESS, &[]),
    ("secret", iam::SECRET, &[]),
    ("doctor", iam::DOCTOR, &[]),
];

pub(crate) fn every_role_may_do_what_ami_iam_says_and_its_user_data_is_valid() -> Result<()> {
    let world = World::build(&Network { vpcs: vec![] })?;
    let (region, templates, ec2) = (region()?, Templates::read()?, &world.ec2);
    let home = vpc(&templates, ec2, "home", "10.7.0.0/16", "3")?;
    let role_arn = "arn:aws:iam::222222222222:role/privnet-discovery";
    let accounts = format!(r#"["own", {{ role_arn = "{role_arn}", external_id = "some-thing" }}]"#);
    let policy = "[[policy]]\naction = \"deny\"\nbetween = [\"any\"]\nand = [\"tag:env=dev\"]";

    for (name, more, without) in [
        ("plain", &[][..], &["other-accounts", "site-secret"][..]),
        (
            "full",
            &[
                ("DiscoveryRoleArns", role_arn),
                ("Accounts", &accounts),
                ("MoreConfig", policy),
                ("IpsecSources", "203.0.113.9/32"),
                ("SiteSecretParameters", "/privnet/site/*"),
            ],
            &[],
        ),
        (
            "two",
            &[
                ("Hubs", "2"),
                ("SecondPublicSubnetId", home.output("SecondPublicSubnetId")?),
                (
                    "SecondPublicSubnetZone",
                    home.output("SecondPublicSubnetZone")?,
                ),
                ("MoreConfig", "[ipsec]"),
            ],
            &["other-accounts", "site-secret"],
        ),
    ] {
        let mut given = hub_parameters(&home, more)?;
        given.insert("Name".to_owned(), name.to_owned());
        let stack = templates.make(ec2, &region, (name, "hub"), &given)?;
        let role = format!("privnet-hub-us-west-2-{name}");
        let policies = granted(ec2, &role, OF_THE_HUB, without)?;
        ensure!(policies.contains("\"eu-west-1\""), "{policies}");
        let (_, toml) = launched_with(ec2, &stack)?;
        let config = HubConfig::parse("hub.toml", &toml)?;
        let full = name == "full";
        ensure!(policies.contains(role_arn) == full, "{policies}");
        ensure!(config.policy.is_empty() != full, "{toml}");
        for port in IKE_PORTS {
            let group = format!("privnet-hub-{name}");
            let open = ec2.lets_in(&region, &group, port, "203.0.113.9/32")?;
            ensure!(open == full, "UDP {port} of {group}: {open}");
        }
        ensure!(config.discovery.accounts.is_empty() != full, "{toml}");
        let second = stack.outputs.contains_key("SecondHubAddress");
        ensure!(second == (name == "two"), "{:?}", stack.outputs);
        if second {
            its_second_hub_is_as_the_first(ec2, &stack, &home)?;
            let seconds = granted(ec2, &format!("{role}-2"), OF_THE_HUB, without)?;
            neither_reads_the_others_key(&stack, &policies, &seconds)?;
        }
    }
    the_second_hub_has_its_own_role(templates.get("hub")?)?;
    // Its key is not the first's, and it has a place of its own.
    let one_key = [
        ("Name", "bad"),
        ("Hubs", "2"),
        ("SecondHubKeyParameter", "/privnet/hub/private-key"),
    ];
    let given = hub_parameters(&home, &one_key)?;
    let Err(refused) = templates.make(ec2, &region, ("bad", "hub"), &given) else {
        anyhow::bail!("two hubs with one key, and nowhere");
    };
    let refused = refused.to_string();
    for said in ["the first hub's key", "SecondPublicSubnetId is needed"] {
        ensure!(refused.contains(said), "{refused}");
    }

    let forward = "[[nat.forward]]\nproto = \"tcp\"\nport = 8443\nto = \"10.7.0.10:443\"\n\
                   from = [\"203.0.113.0/24\"]";
    let public_key = key().public().to_string();
    let tunnel = [
        ("HubAddress", "198.51.100.100"),
        ("HubPublicKey", &public_key),
    ];
    for (name, more, without, addresses) in [
        ("each", [tunnel[0], tunnel[1]], &[][..], 3),
        ("one", [tunnel[0], tunnel[1]], &[], 1),
        (
            "none",
            [("Transport", "none"), ("MoreConfig", forward)],
            &["spoke", "address"],
            0,
        ),
    ] {
        let mut given = spoke_parameters(&home, &more)?;
        given.insert("Name".to_owned(), name.to_owned());
        given.insert("Addresses".to_owned(), name.to_owned());
        // Of no consequence but with one address.
        given.insert("KeepConnections".to_owned(), "yes".to_owned());
        let stack = templates.make(ec2, &region, (name, "spoke"), &given)?;
        let role = format!("privnet-spoke-us-west-2-{name}");
        let policies = granted(ec2, &role, OF_A_SPOKE, without)?;
        // Its own things and no others.
        let tables = home.output("PrivateRouteTableArns")?.split(',');
        for own in tables.chain([home.output("VpcId")?]) {
            ensure!(policies.contains(own), "no {own}: {policies}");
        }
        ensure!(policies.matches("route-table/").count() == 3, "{policies}");
        let named = policies.matches("elastic-ip/eipalloc-").count();
        ensure!(
            named == addresses,
            "{addresses} addresses expected: {policies}"
        );

        let (_, toml) = launched_with(ec2, &stack)?;
        let config = SpokeConfig::parse("spoke.toml", &toml)?;
        ensure!(config.address.is_some() == (addresses > 0), "{toml}");
        ensure!(config.keeps_connections == (name == "one"), "{toml}");
        ensure!(config.nat.forwards.is_empty() == (addresses > 0), "{toml}");
        ensure!(stack.outputs.contains_key("EgressAddresses") == (addresses > 0));
        let open = the_hub_may_call(ec2, name)?;
        ensure!(open == (addresses > 0), "the hub may call {name}: {open}");
    }

    by_ipsec_each_zone_has_its_spoke(ec2, &templates, &home)?;

    let given = parameters([
        (
            "HubRoleArns",
            "arn:aws:iam::123456789012:role/privnet-hub-us-west-2-hub,\
             arn:aws:iam::123456789012:role/privnet-hub-us-west-2-hub-2",
        ),
        ("ExternalId", "a-long-random-text-of-ours"),
        ("Regions", "us-west-2"),
    ]);
    templates.make(ec2, &region, ("discovery", "discovery"), &given)?;
    let of_the_hub: &Granted = &[("discovery", iam::DISCOVERY, &["ListRegions"])];
    let (trust, _) = ec2.role("privnet-discovery")?;
    granted_to_whom(
        ec2,
        "privnet-discovery",
        of_the_hub,
        &[],
        iam::DISCOVERY_TRUST,
    )?;
    let trust = trust.to_string();
    for said in ["a-long-random-text-of-ours", "-hub\"", "-hub-2\""] {
        ensure!(trust.contains(said), "no {said}: {trust}");
    }
    Ok(())
}

/// By IPsec it is the spoke who calls. All else is as by WireGuard.
fn by_ipsec_each_zone_has_its_spoke(ec2: &Ec2, templates: &Templates, home: &Stack) -> Result<()> {
    let region = region()?;
    let (hub, public_key) = (HUB_PUBLIC.to_string(), key().public().to_string());
    let (hub, public_key) = (("HubAddress", &*hub), ("HubPublicKey", &*public_key));
    let by_ipsec = [hub, ("Transport", "ipsec"), ("Name", "ipsec")];
    let mut given = spoke_parameters(home, &by_ipsec)?;
    let stack = templates.make(ec2, &region, ("ipsec", "spoke"), &given)?;
    granted(ec2, "privnet-spoke-us-west-2-ipsec", OF_A_SPOKE, &[])?;
    let (_, toml) = launched_with(ec2, &stack)?;
    let config = SpokeConfig::parse("spoke.toml", &toml)?;
    let [named] = config.ipsec_hubs.as_slice() else {
        anyhow::bail!("{toml}");
    };
    ensure!(config.transport == Transport::Ipsec && named.endpoint == HUB_PUBLIC);
    ensure!(!the_hub_may_call(ec2, "ipsec")?, "an open port");
    ensure!(stack.output("SpokeGroups")?.split(',').count() == 3);
    let routes = config.routes.context("no routes")?;
    let own_zone = BTreeMap::from([("privnet:az".to_owned(), OWN_ZONE.to_owned())]);
    ensure!(routes.tables == TableSelection::Tagged(own_zone), "{toml}");

    // Of two hubs the first one first.
    let second = SECOND_HUB_PUBLIC.to_string();
    given.insert("Name".to_owned(), "hubs".to_owned());
    given.insert("SecondHubAddress".to_owned(), second.clone());
    let stack = templates.make(ec2, &region, ("hubs", "spoke"), &given)?;
    let (_, toml) = launched_with(ec2, &stack)?;
    let config = SpokeConfig::parse("spoke.toml", &toml)?;
    let hubs: Vec<_> = config.ipsec_hubs.iter().map(|hub| hub.endpoint).collect();
    ensure!(hubs == [HUB_PUBLIC, SECOND_HUB_PUBLIC], "{toml}");

    // By WireGuard there is no second hub.
    let second = ("SecondHubAddress", second.as_str());
    let given = spoke_parameters(home, &[hub, public_key, second, ("Name", "bad")])?;
    let Err(refused) = templates.make(ec2, &region, ("bad", "spoke"), &given) else {
        anyhow::bail!("by WireGuard with two hubs");
    };
    let refused = refused.to_string();
    ensure!(
        refused.contains("a spoke by WireGuard has one hub"),
        "{refused}"
    );
    Ok(())
}

/// All that differs is the interface, the zone, the role and the key. The VPC's routes stay
/// at the first.
fn its_second_hub_is_as_the_first(ec2: &Ec2, stack: &Stack, home: &Stack) -> Result<()> {
    let (_, first) = launched_by(ec2, stack.output("HubGroup")?)?;
    let (launch, second) = launched_by(ec2, stack.output("SecondHubGroup")?)?;
    let key = stack.output("SecondHubKeyParameter")?;
    ensure!(
        second == first.replace(stack.output("HubKeyParameter")?, key),
        "{second}"
    );
    let config = HubConfig::parse("hub.toml", &second)?;
    ensure!(
        config.private_key_parameter.as_deref() == Some(key),
        "{second}"
    );
    let interface = stack.output("SecondHubInterface")?;
    for said in [interface, "<httpTokens>required</httpTokens>"] {
        ensure!(launch.contains(said), "no {said}: {launch}");
    }
    ensure!(stack.output("SecondHubAddress")? != stack.output("HubAddress")?);
    let privnet = vec![(
        "10.0.0.0/8".to_owned(),
        stack.output("HubInterface")?.to_owned(),
    )];
    for table in home.output("PrivateRouteTableIds")?.split(',') {
        let routes = ec2.routes_of(&region()?, table)?;
        ensure!(routes == privnet, "{table}: {routes:?}");
    }
    Ok(())
}

/// What the role of each may do names its own key, and not the other's.
fn neither_reads_the_others_key(stack: &Stack, first: &str, second: &str) -> Result<()> {
    let own = [
        stack.output("HubKeyParameter")?,
        stack.output("SecondHubKeyParameter")?,
    ];
    let reads = |policies: &str| own.map(|key| policies.contains(key));
    ensure!(reads(first) == [true, false], "{first}");
    ensure!(reads(second) == [false, true], "{second}");
    ensure!(stack.output("SecondHubRoleArn")? != stack.output("HubRoleArn")?);
    Ok(())
}

/// Which profile an instance has, moto leaves out: it is read from the template.
fn the_second_hub_has_its_own_role(template: &Value) -> Result<()> {
    let resources = &template["Resources"];
    for (launched, profile, role) in [
        ("LaunchTemplate", "Profile", "Role"),
        ("SecondLaunchTemplate", "SecondProfile", "SecondRole"),
    ] {
        let data = &resources[launched]["Properties"]["LaunchTemplateData"];
        let named = &data["IamInstanceProfile"]["Arn"]["Fn::GetAtt"];
        ensure!(*named == json!([profile, "Arn"]), "{launched}: {named}");
        let roles = &resources[profile]["Properties"]["Roles"];
        ensure!(*roles == json!([{ "Ref": role }]), "{profile}: {roles}");
    }
    Ok(())
}

/// Whether the spokes' security group lets the tunnels' port in from the hub.
fn the_hub_may_call(ec2: &Ec2, spokes: &str) -> Result<bool> {
    let (group, hub) = (
        format!("privnet-spoke-{spokes}"),
        format!("{HUB_PUBLIC}/32"),
    );
    ec2.lets_in(&region()?, &group, topology::PORT, &hub)
}

fn granted(ec2: &Ec2, role: &str, granted: &Granted, without: &[&str]) -> Result<String> {
    granted_to_whom(ec2, role, granted, without, iam::TRUST)
}

/// An error unless the role has these policies, except those named, and no others, and
/// each says what its file says; the text of them all.
fn granted_to_whom(
    ec2: &Ec2,
    role: &str,
    granted: &Granted,
    without: &[&str],
    trust: &str,
) -> Result<String> {
    let (trusted, policies) = ec2.role(role)?;
    iam::says_the_same(&trusted, trust, &[]).with_context(|| format!("who may have {role}"))?;
    let expected = granted.iter().filter(|(name, ..)| !without.contains(name));
    let mut names = BTreeSet::new();
    for (name, file, left_out) in expected {
        let policy = policies.get(*name);
        let policy = policy.with_context(|| format!("{role} has no policy {name}"))?;
        iam::says_the_same(policy, file, left_out).with_context(|| format!("{role}: {name}"))?;
        names.insert((*name).to_owned());
    }
    let all: BTreeSet<String> = policies.keys().cloned().collect();
    ensure!(all == names, "{role} has the policies {all:?}");
    Ok(policies.values().map(ToString::to_string).collect())
}
