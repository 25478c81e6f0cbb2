//! The simulated world behaves as AWS does where the other tests rely on it.
//! Nothing of ours runs here.
//!
//! The demo network: see `privnet_tests::topology::demo`.

use anyhow::{Result, bail, ensure};
use privnet_tests::deployment::PATIENCE;
use privnet_tests::fault_proxy::{Fault, FaultKind};
use privnet_tests::imds;
use privnet_tests::moto::Ec2;
use privnet_tests::process::wait_until;
use privnet_tests::topology::{self, API, API_PORT, WEB};
use privnet_tests::vpc_router::INTERFACE;
use privnet_tests::world::World;

pub(crate) fn an_instance_with_a_public_address_is_seen_by_it() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let url = format!("http://{WEB}/");
    let spoke = world.namespace("spoke-a")?;
    ensure!(spoke.fetch(&url)? == "198.51.100.11");
    ensure!(world.web.ping("198.51.100.11", 3)? == 3);
    ensure!(world.namespace("spoke-b")?.ping("198.51.100.11", 3)? == 3);

    world.map_address("spoke-a", Some("198.51.100.77".parse()?))?;
    let seen = world.namespace("spoke-a")?.fetch(&url)?;
    ensure!(seen == "198.51.100.77", "seen as {seen}");
    ensure!(world.web.ping("198.51.100.11", 1)? == 0);
    Ok(())
}

pub(crate) fn without_a_public_address_nothing_leaves_or_enters() -> Result<()> {
    let network = topology::demo();
    let mut world = World::build(&network)?;
    world.capture(&network, &["spoke-b"])?;
    ensure!(world.namespace("host-a")?.ping(WEB, 1)? == 0);
    world.map_address("spoke-a", None)?;
    ensure!(world.namespace("spoke-a")?.ping(WEB, 1)? == 0);
    // Even who knows the way to a private address does not get in.
    world
        .internet()
        .ip(&["route add 10.1.0.0/16 dev vpc-a scope link"])?;
    ensure!(world.web.ping("10.1.0.10", 1)? == 0);
    // What is in no tunnel is found in a capture, wherever it goes.
    let is_found = |world: &World, words: &str| {
        wait_until(words, PATIENCE, || {
            let said = world
                .captures_are_clean()
                .err()
                .map(|said| said.to_string());
            Ok(said.filter(|said| said.contains(words)))
        })
    };
    ensure!(world.namespace("spoke-b")?.ping(WEB, 1)? == 1);
    is_found(&world, "the inside of a ping")?;
    // And what is meant for the privnet is counted when it tries to leave in clear.
    ensure!(world.leaked_packets()? == 0);
    ensure!(world.namespace("spoke-b")?.ping("10.1.0.10", 2)? == 0);
    ensure!(world.leaked_packets()? == 2);
    is_found(&world, "> 10.1.0.10: ICMP echo request")?;
    Ok(())
}

pub(crate) fn a_private_hosts_packets_reach_the_instance_its_route_names() -> Result<()> {
    let world = World::build(&topology::demo())?;
    // A NAT gateway of two commands, in the place of a spoke.
    let spoke = world.namespace("spoke-b")?;
    spoke.sysctl(&["net.ipv4.ip_forward=1"])?;
    spoke.nft(&format!(
        "table ip plain {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname {INTERFACE} ip saddr {{ 10.2.0.0/16, 10.20.0.0/16 }} ip daddr != 10.0.0.0/8 masquerade
    }}
}}
"
    ))?;
    for host in ["host-b", "host-b2"] {
        let seen = world.namespace(host)?.fetch(&format!("http://{WEB}/"))?;
        ensure!(seen == "203.0.113.20", "{host} is seen as {seen}");
    }
    // Inside the VPC the way is direct.
    ensure!(world.namespace("host-b")?.fetch("http://10.20.1.10/")? == "10.2.1.10");
    Ok(())
}

pub(crate) fn metadata_is_given_only_for_a_token() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let spoke = world.host("spoke-b")?;
    let root = format!("http://{}/latest", imds::ADDRESS);
    let curl = |arguments: &[&str]| {
        let all = ["-s", "-w", "\n%{http_code}", "--max-time", "5"];
        spoke.namespace.run("curl", all.iter().chain(arguments))
    };
    let instance_id = format!("{root}/meta-data/instance-id");
    ensure!(curl(&[&instance_id])?.ends_with("\n401"));
    let token_url = format!("{root}/api/token");
    ensure!(curl(&["-X", "PUT", &token_url])?.ends_with("\n400"));
    let lifetime = "X-aws-ec2-metadata-token-ttl-seconds: 60";
    let answer = curl(&["-X", "PUT", "-H", lifetime, &token_url])?;
    let Some(token) = answer.strip_suffix("\n200") else {
        bail!("no token: {answer}");
    };
    let token = format!("X-aws-ec2-metadata-token: {token}");
    let id = curl(&["-H", &token, &instance_id])?;
    ensure!(id == format!("{}\n200", spoke.metadata.instance), "{id}");
    let mac = spoke
        .namespace
        .run("cat", [format!("/sys/class/net/{INTERFACE}/address")])?;
    let cidrs = curl(&[
        "-H",
        &token,
        &format!(
            "{root}/meta-data/network/interfaces/macs/{}/vpc-ipv4-cidr-blocks",
            mac.trim()
        ),
    ])?;
    ensure!(cidrs == "10.2.0.0/16\n10.20.0.0/16\n200", "{cidrs}");
    ensure!(curl(&["-H", &token, &format!("{root}/meta-data/nonsense")])?.ends_with("\n404"));
    Ok(())
}

pub(crate) fn the_api_knows_the_instances_and_their_addresses() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let region = "us-west-2".parse()?;
    let answer = world.ec2.call(
        &region,
        "DescribeInstances",
        &[
            ("Filter.1.Name", "tag:service"),
            ("Filter.1.Value.1", "nat"),
        ],
    )?;
    for text in ["198.51.100.11", "198.51.100.101", "10.1.0.10", "spoke-a"] {
        ensure!(answer.contains(text), "no {text} in {answer}");
    }
    ensure!(!answer.contains("host-a"), "{answer}");
    let (region, vpc) = world.vpc_id("vpc-b")?;
    let answer = world
        .ec2
        .call(region, "DescribeVpcs", &[("VpcId.1", vpc.as_str())])?;
    ensure!(
        answer.contains("10.2.0.0/16") && answer.contains("10.20.0.0/16"),
        "{answer}"
    );
    Ok(())
}

pub(crate) fn the_proxy_breaks_only_what_it_is_told_to() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let proxied = Ec2::new(format!("http://{API}:{API_PORT}"));
    let (west, europe) = ("us-west-2".parse()?, "eu-west-1".parse()?);
    let describe = |region| proxied.call(region, "DescribeVpcs", &[]);
    let whole = describe(&west)?;
    world.faults.set(&[Fault {
        region: Some("us-west-2".to_owned()),
        times: Some(1),
        ..Fault::everywhere(FaultKind::Unavailable)
    }])?;
    ensure!(describe(&europe).is_ok());
    ensure!(describe(&west).is_err());
    ensure!(describe(&west).is_ok(), "the rule is used up");
    world.faults.set(&[Fault::everywhere(FaultKind::Cut)])?;
    let cut = describe(&west)?;
    ensure!(whole.starts_with(&cut) && cut.len() < whole.len());
    world.faults.set(&[Fault::everywhere(FaultKind::Abort)])?;
    ensure!(describe(&west).is_err());
    world.faults.clear()?;
    ensure!(describe(&west)? == whole);
    let broken = world
        .faults
        .calls()?
        .iter()
        .filter(|call| call.fault.is_some())
        .count();
    ensure!(broken == 3, "{broken} calls met a fault");
    Ok(())
}
