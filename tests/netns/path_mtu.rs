//! What routers must tell a sender: that a packet is larger than the tunnel (and TCP
//! never stalls), that its hop limit is used up. On the demo
//! network (drawn at `privnet_tests::topology::demo`), whose every link has an
//! MTU of 1500.

use std::time::Duration;

use anyhow::{Result, ensure};
use privnet_tests::deployment::{self, PATIENCE, reach_each_other, wait_until_up};
use privnet_tests::world::World;

/// The tunnel's ends, by their private addresses.
const HUB: &str = "10.0.0.10";
const FAR_SPOKE: &str = "10.2.0.10";

pub(crate) fn a_full_packet_that_may_not_be_fragmented_is_told_the_tunnels_mtu() -> Result<()> {
    let world = running()?;
    let ping = |from: &str, to: &str| -> Result<String> {
        let output = world
            .namespace(from)?
            .command("ping")
            .args([
                "-n", "-M", "do", "-s", "1472", "-c", "3", "-i", "0.2", "-W", "1", to,
            ])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr))
    };
    // At the spoke, and in the hub VPC at the hub.
    for (from, to) in [("host-a", "10.2.1.10"), ("host-hub", "10.1.1.10")] {
        let said = ping(from, to)?;
        ensure!(
            said.contains("Frag needed") || said.contains("message too long"),
            "{from} was told nothing:\n{said}"
        );
        ensure!(
            said.contains("mtu = 1440") || said.contains("mtu=1440"),
            "{said}"
        );
    }
    Ok(())
}

pub(crate) fn the_largest_packet_that_fits_crosses_whole() -> Result<()> {
    let world = running()?;
    // 1440 less 28 bytes of IPv4 and ICMP.
    let arguments = [
        "-n",
        "-q",
        "-M",
        "do",
        "-s",
        "1412",
        "-c",
        "10",
        "-i",
        "0.05",
        "-W",
        "1",
        "10.2.1.10",
    ];
    let said = world.namespace("host-a")?.run("ping", arguments)?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

pub(crate) fn large_packets_that_may_be_fragmented_cross() -> Result<()> {
    let world = running()?;
    let arguments = [
        "-n",
        "-q",
        "-M",
        "dont",
        "-s",
        "8000",
        "-c",
        "10",
        "-i",
        "0.05",
        "-W",
        "1",
        "10.2.1.10",
    ];
    let said = world.namespace("host-a")?.run("ping", arguments)?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

pub(crate) fn tcp_never_stalls_even_where_icmp_is_lost() -> Result<()> {
    let world = running()?;
    // Nobody hears that a packet was too big: only the clamped MSS helps.
    for host in ["host-a", "host-b", "host-hub"] {
        world.namespace(host)?.nft(
            "table ip deaf {
    chain input {
        type filter hook input priority filter
        icmp type destination-unreachable drop
    }
}
",
        )?;
    }
    for (from, url) in [
        ("host-a", "http://10.2.1.10/bytes/5000000"),
        ("host-b", "http://10.1.1.10/bytes/5000000"),
        ("host-hub", "http://10.1.1.10/bytes/5000000"),
        ("host-a", "http://10.0.1.10/bytes/5000000"),
    ] {
        let size = world.namespace(from)?.run(
            "curl",
            [
                "-sS",
                "--fail",
                "--max-time",
                "30",
                "-o",
                "/dev/null",
                "-w",
                "%{size_download}",
                url,
            ],
        )?;
        ensure!(size == "5000000", "{from} got {size} bytes of {url}");
    }
    Ok(())
}

/// The hub relays without its kernel, yet is a hop like any other.
pub(crate) fn a_used_up_hop_limit_is_answered_by_each_router_on_the_way_and_not_too_often()
-> Result<()> {
    let world = running()?;
    let exceeded = |hops: usize, count: &str| -> Result<Vec<String>> {
        let output = world
            .namespace("host-a")?
            .command("ping")
            .args(["-n", "-W", "1", "-i", "0.02", "-c", count, "-t"])
            .args([&hops.to_string(), "10.2.1.10"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(said
            .lines()
            .filter(|line| line.contains("Time to live exceeded"))
            .filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
            .collect())
    };
    let mut way = Vec::new();
    for hops in 1.. {
        match exceeded(hops, "1")?.pop() {
            Some(router) => way.push(router),
            None => break,
        }
        ensure!(hops < 10, "the way has no end: {way:?}");
    }
    let hub = way.iter().position(|router| router == HUB);
    let (Some(hub), Some(far)) = (hub, way.iter().position(|router| router == FAR_SPOKE)) else {
        anyhow::bail!("not on the way: the hub or the far spoke: {way:?}");
    };
    ensure!(hub + 1 == far, "{way:?}");
    // Linux answers one destination six times at once, then once a second.
    let answers = exceeded(hub + 1, "100")?;
    ensure!(
        (1..50).contains(&answers.len()),
        "{} of 100 answered",
        answers.len()
    );
    Ok(())
}

fn running() -> Result<World> {
    let world = deployment::demo()?;
    wait_until_up(
        &world,
        &["spoke-a", "spoke-b"],
        PATIENCE.max(Duration::from_secs(30)),
    )?;
    reach_each_other(&world, "host-a", "host-b")?;
    reach_each_other(&world, "host-hub", "host-a")?;
    Ok(world)
}
