//! Offloads and figures on the demo network (drawn at
//! `privnet_tests::topology::demo`): what the config switches off is off and the
//! traffic goes on, what the kernel has is on, and all of it can be scraped.

use anyhow::{Context, Result, ensure};
use privnet_model::admin::HUB_SOCKET;
use privnet_model::offload::{Offload, OffloadObstacle, OffloadReport, OffloadState};
use privnet_tests::daemon::{hub_config, hub_public_key, spoke_config};
use privnet_tests::deployment::{
    self, PATIENCE, nothing_leaked, reach_each_other, start_spokes, tunnels,
    wait_for_published_key, wait_until_up,
};
use privnet_tests::process::run;
use privnet_tests::topology::{self, HUB_PUBLIC, PORT};
use privnet_tests::tuning::Tuning;
use privnet_tests::world::World;

const SPOKES: [&str; 2] = ["spoke-a", "spoke-b"];
const DAEMONS: [&str; 3] = ["hub", "spoke-a", "spoke-b"];

/// Some thousands of super-packets: enough that each offload is used.
const BYTES: u32 = 50_000_000;

pub(crate) fn with_all_offloads_off_the_traffic_goes_on_and_the_reason_is_told() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    let keys = Offload::ALL.map(|offload| format!("{offload} = false\n"));
    let section = format!("\n[offload]\n{}", keys.concat());
    // Each key once: the suite's own are left out.
    let told = Tuning::current().offload_config();
    let hub_key = hub_public_key(world.host("hub")?)?;
    for name in SPOKES {
        let config = spoke_config(world.host(name)?, &format!("{HUB_PUBLIC}:{PORT}"), &hub_key);
        world.start(name, &(config.replace(&told, "") + &section))?;
        wait_for_published_key(&mut world, name)?;
    }
    let config = hub_config(world.host("hub")?);
    world.start("hub", &(config.replace(&told, "") + &section))?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    carries_whole(&world)?;
    let off = OffloadState::Off(OffloadObstacle::Configured);
    for name in DAEMONS {
        let report = offloads(&world, name)?;
        ensure!(report.len() == Offload::ALL.len(), "{name}: {report:?}");
        ensure!(
            report.values().all(|state| *state == off),
            "{name}: {report:?}"
        );
    }
    for arguments in [&["show"][..], &["show", "spoke-a"]] {
        let told = tunnels(&world, arguments)?;
        for line in ["none on", "udp_gso off: switched off in the config"] {
            ensure!(told.contains(line), "no `{line}` in:\n{told}");
        }
    }
    nothing_leaked(&world)?;
    world.check()
}

pub(crate) fn by_default_what_this_kernel_has_is_on_and_stays_on_under_load() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;
    carries_whole(&world)?;
    let release = run(std::process::Command::new("uname").arg("-r"))?;
    let release = release.trim();
    let wanted = Tuning::current().offloads;
    let expected: OffloadReport = Offload::ALL
        .map(|offload| {
            let obstacle = if wanted.contains(offload) {
                offload.known_bug(release)
            } else {
                Some(OffloadObstacle::Configured)
            };
            (
                offload,
                obstacle.map_or(OffloadState::On, OffloadState::Off),
            )
        })
        .into();
    for name in DAEMONS {
        let report = offloads(&world, name)?;
        ensure!(report == expected, "{name}: {report:?}, not {expected:?}");
    }
    world.check()
}

pub(crate) fn metrics_are_scraped_on_the_socket_and_on_loopback_and_not_from_outside() -> Result<()>
{
    const ADDRESS: &str = "127.0.0.1:9587";
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    let config = hub_config(world.host("hub")?);
    world.start("hub", &format!("metrics = \"{ADDRESS}\"\n{config}"))?;
    wait_until_up(&world, &SPOKES, PATIENCE)?;
    reach_each_other(&world, "host-a", "host-b")?;

    let hub = world.host("hub")?;
    let port = hub.namespace.fetch(&format!("http://{ADDRESS}/metrics"))?;
    let curl = ["-sS", "--fail", "--max-time", "5", "--unix-socket"];
    let socket = hub.namespace.run(
        "curl",
        curl.iter().chain(&[HUB_SOCKET, "http://localhost/metrics"]),
    )?;
    for page in [&port, &socket] {
        for name in SPOKES {
            let id = &world.host(name)?.metadata.instance;
            let labels = format!("{{tunnel=\"{name}\",instance_id=\"{id}\"}}");
            ensure!(sample(page, &format!("privnet_tunnel_up{labels}"))? == 1.0);
            let received = format!("privnet_tunnel_received_bytes_total{labels}");
            ensure!(sample(page, &received)? > 0.0);
        }
        for offload in Offload::ALL {
            sample(page, &format!("privnet_offload{{name=\"{offload}\"}}"))?;
        }
        ensure!(sample(page, "privnet_tunnels{state=\"up\"}")? == 2.0);
        ensure!(sample(page, "privnet_dataplane_handshakes_total")? >= 2.0);
        ensure!(sample(page, "privnet_dataplane_relayed_total")? > 0.0);
        for region in topology::REGIONS {
            let polls = page
                .lines()
                .find(|line| {
                    line.starts_with("privnet_discovery_polls_total{")
                        && line.contains(&format!("region=\"{region}\""))
                })
                .with_context(|| format!("no polls of {region} in:\n{page}"))?;
            ensure!(!polls.ends_with(" 0"), "{polls}");
        }
    }

    // Nothing else answers there, and nobody outside is answered.
    let status = hub.namespace.fetch(&format!("http://{ADDRESS}/v1/status"));
    ensure!(status.is_err(), "{status:?}");
    let outside = format!("http://{}:9587/metrics", hub.instance.address);
    ensure!(world.namespace("host-hub")?.fetch(&outside).is_err());
    let own = hub.namespace.fetch(&outside);
    ensure!(own.is_err(), "the port is not on loopback alone");
    world.check()
}

/// The value of a series.
pub(crate) fn sample(page: &str, series: &str) -> Result<f64> {
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.with_context(|| format!("no {series} in:\n{page}"))?;
    Ok(value.parse()?)
}

fn offloads(world: &World, daemon: &str) -> Result<OffloadReport> {
    let status = world.daemon(daemon)?.status()?;
    let interface = status
        .interface
        .with_context(|| format!("{daemon} has no interface"))?;
    Ok(interface.offloads)
}

/// An error unless a stream crosses the relay with its checksum, either way.
fn carries_whole(world: &World) -> Result<()> {
    for (server, client) in [("host-b", "host-a"), ("host-a", "host-b")] {
        let address = world.host(server)?.instance.address;
        let command =
            format!("curl -sS --fail --max-time 60 http://{address}/bytes/{BYTES} | sha256sum");
        let checksum = |host: &str| world.namespace(host)?.run("sh", ["-c", command.as_str()]);
        let (sent, received) = (checksum(server)?, checksum(client)?);
        ensure!(
            sent == received,
            "{server} sent {sent}, {client} received {received}"
        );
    }
    Ok(())
}
