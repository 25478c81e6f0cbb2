//! The hub's image, in the demo network: it is the hub, a guest; the spokes are the same
//! programs in namespaces.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use privnet_model::status::{Status, TunnelState};
use privnet_tests::daemon::{hub_config, spoke_config};
use privnet_tests::deployment::{
    PATIENCE, nothing_leaked, reach_each_other, wait_for_published_key,
};
use privnet_tests::firewall::{EAST, Firewall, SECRET};
use privnet_tests::guest::{Disk, Guest, LoginKey, private_directory};
use privnet_tests::long_ping::LongPing;
use privnet_tests::process::wait_until;
use privnet_tests::programs;
use privnet_tests::topology::{self, API, API_PORT, HUB_PUBLIC, PORT};
use privnet_tests::world::World;

use crate::report::Figures;
use crate::{BOOT, gateways, machine, upgrade};

const NAME: &str = "hub";

pub(crate) fn test(image: &Path, packages: &Path, figures: &mut Figures) -> Result<()> {
    let network = topology::demo();
    let mut world = World::build_with_guests(&network, &[NAME])?;
    world.capture(&network, &[NAME])?;
    let files = world.namespace(NAME)?.directory();
    private_directory(&files)?;
    let login = LoginKey::make(&files)?;
    let work = tempfile::tempdir()?;
    let disk = Disk::copy_of(image, work.path(), machine::VOLUME)?;
    let api = format!("http://{API}:{API_PORT}");
    let user_data = format!(
        "{}{}",
        config(&world)?,
        machine::instance_section(&login, "10.0.0.1", &api)
    );
    world.change_metadata(NAME, |metadata| {
        metadata.user_data = Some(user_data.clone())
    })?;

    let instance = &world.host(NAME)?.instance;
    let mut guest = Guest::boot(world.router("vpc-hub")?, instance, &disk, "good")?;
    guest.wait_for_login(&login, BOOT)?;
    wait_until("privnet-hub to be ready", BOOT, || {
        guest
            .run(&login, "systemctl is-active privnet-hub")
            .map(Some)
    })
    .with_context(|| guest.console_tail(40))?;
    let took = guest.started.elapsed();
    figures.row(
        "hub ready after power on",
        machine::in_time("privnet-hub", took)?,
    );
    machine::inspect(&guest, &login, "privnet-hub", "ip-10-0-0-10", figures)?;

    let key = guest.run(
        &login,
        "runuser -u privnet -- privnet-hub public-key /etc/privnet/hub.toml",
    )?;
    for name in ["spoke-a", "spoke-b"] {
        let config = spoke_config(world.host(name)?, &format!("{HUB_PUBLIC}:{PORT}"), &key);
        world.start(name, &config)?;
        wait_for_published_key(&mut world, name)?;
    }
    guest.run(&login, "tunnels refresh")?;
    wait_until_up(&guest, &login, &["spoke-a", "spoke-b"])?;
    figures.quote("`tunnels list` on it", &guest.run(&login, "tunnels list")?);
    reach_each_other(&world, "host-a", "host-b")?;
    reach_each_other(&world, "host-hub", "host-a")?;
    figures.row(
        "hosts behind two spokes, and its own VPC's, through it",
        "all ways, no NAT",
    );
    ipsec(&mut world, &guest, &login, &user_data, figures)?;
    gateways::by_ipsec(&mut world, &guest, &login, &user_data, figures)?;
    config_in_ssm(&mut world, &mut guest, &login, &user_data, figures)?;
    let packages = upgrade::of_hub(disk.architecture, packages)?;
    upgrade::in_place(&world, &guest, &login, &packages, figures)?;
    guest.check()?;
    let empty = tempfile::tempdir()?;
    let disk = Disk::copy_of(image, empty.path(), machine::VOLUME)?;
    let mut guest =
        upgrade::by_another_instance(&mut world, guest, &login, &disk, &user_data, figures)?;
    reach_each_other(&world, "host-hub", "host-a")?;
    nothing_leaked(&world)?;
    guest.check()?;
    world.check()?;
    guest.shut_down(&login, Duration::from_secs(120))
}

/// A site by IPsec joins a hub that serves, by other user data: the guest's kernel does
/// ESP, the firewall's strongSwan does its own.
fn ipsec(
    world: &mut World,
    guest: &Guest,
    login: &LoginKey,
    user_data: &str,
    figures: &mut Figures,
) -> Result<()> {
    let on = |script: &str| guest.run(login, script);
    let firewall = Firewall::start(world, "firewall", &EAST)?;
    let key = "/etc/privnet/site.psk";
    on(&format!(
        "umask 077; echo '{SECRET}' >{key}; chown privnet: {key}"
    ))?;
    let more = format!(
        "\n[[site]]\nname = \"dc-east\"\ntransport = \"ipsec\"\nendpoint = \"{}\"\n\
         cidrs = [\"{}\"]\npreshared_key = {{ file = \"{key}\" }}\n",
        EAST.public, EAST.cidr
    );
    let with_site = format!("{user_data}{more}");
    give(world, guest, login, &with_site)?;
    let began = Instant::now();
    wait_until_up(guest, login, &["spoke-a", "spoke-b", "dc-east"])?;
    figures.row(
        "a site by IPsec up after the reload",
        format!("{:.0} s", began.elapsed().as_secs_f64()),
    );
    let shown = on("tunnels show")?;
    ensure!(shown.contains("kernel ESP"), "{shown}");
    // Confined as the drop-in says, and its socket is the daemons' alone.
    let confined = on("systemctl show -p NoNewPrivileges,ProtectSystem strongswan")?;
    for property in ["NoNewPrivileges=yes", "ProtectSystem=strict"] {
        ensure!(confined.contains(property), "{confined}");
    }
    let socket = on("stat -c '%G %a' /run/charon.vici")?;
    ensure!(socket.trim() == "privnet 660", "{socket}");
    let exposure = on("systemd-analyze security --no-pager strongswan.service")?;
    let exposure = exposure.lines().last().unwrap_or_default();
    figures.quote("`systemd-analyze security strongswan`", exposure);
    let inside = EAST.inside()?;
    let both_ways = |when: &str| -> Result<()> {
        for host in ["host-a", "host-hub"] {
            let namespace = world.namespace(host)?;
            let address = world.host(host)?.instance.address;
            for (from, to) in [(namespace, inside), (&firewall.namespace, address)] {
                let what = format!("a ping from {} to {to} {when}", from.name());
                wait_until(&what, PATIENCE, || {
                    Ok((from.ping(to, 1)? == 1).then_some(()))
                })?;
            }
        }
        Ok(())
    };
    both_ways("at first")?;
    let address = world.host("host-a")?.instance.address;
    let server = format!("{inside}:80");
    let simulator = programs::ours("privnet-sim")?;
    let _web = firewall
        .namespace
        .start("web", simulator, ["web", &server])?;
    let host_a = world.namespace("host-a")?;
    let sent = machine::checksum(host_a, &address.to_string())?;
    for (from, server) in [(&firewall.namespace, address.to_string()), (host_a, server)] {
        let received = machine::checksum(from, &server)?;
        ensure!(sent == received, "sent {sent}, received {received}");
    }
    figures.row(
        "by the kernel's ESP, between the site, a spoke's host and the hub's VPC",
        "both ways; 5 MB each way by checksum",
    );

    // From the hub's own VPC, which needs no WireGuard: that ends with the daemon.
    let mut pings = LongPing::start(world.namespace("host-hub")?, inside)?;
    pings.answers(10, PATIENCE)?;
    let spis = "ip xfrm state | awk '/spi/ { print $4 }' | sort";
    let at_first = on(spis)?;
    firewall.rekey_under(&mut pings, PATIENCE)?;
    // Of what a rekey replaced the last packets are still waited for, some seconds.
    pings.answers(100, PATIENCE * 2)?;
    let before = on(spis)?;
    ensure!(!at_first.is_empty() && before != at_first, "no new keys");
    on("systemctl restart privnet-hub")?;
    wait_until_up(guest, login, &["dc-east"])?;
    pings.answers(20, PATIENCE)?;
    ensure!(!before.is_empty() && on(spis)? == before, "other SAs");
    pings.has_lost_nothing(PATIENCE)?;
    figures.row(
        "rekeys of child and IKE, and a restart of privnet-hub",
        "no ping lost, same SAs",
    );
    // What the kernel has goes on without charon; the new one makes others.
    on("kill -9 $(systemctl show -P MainPID strongswan)")?;
    both_ways("after charon was killed")?;
    wait_until(
        "other SAs than before charon was killed",
        PATIENCE * 2,
        || {
            let now = on(spis)?;
            Ok(now.lines().any(|spi| !before.contains(spi)).then_some(()))
        },
    )?;
    wait_until_up(guest, login, &["dc-east"])?;
    both_ways("by the new SAs")?;
    figures.quote(
        "`ip -d link show type xfrm` on it",
        &on("ip -d link show type xfrm")?,
    );

    // The policy holds on that interface; and what is not wanted any more goes.
    let rule = "\n[[policy]]\naction = \"deny\"\nbetween = [\"site:dc-east\"]\nand = [\"hub\"]\n";
    give(world, guest, login, &format!("{with_site}{rule}"))?;
    let reached = |world: &World, from: &str| -> Result<bool> {
        Ok(world.namespace(from)?.ping(inside, 2)? > 0)
    };
    wait_until("the policy to hold", PATIENCE, || {
        Ok((!reached(world, "host-hub")?).then_some(()))
    })?;
    ensure!(
        reached(world, "host-a")?,
        "more is denied than the policy says"
    );
    give(world, guest, login, user_data)?;
    // The SAs of the charon that was killed stay in the kernel until they expire: without
    // an interface nothing gets to them.
    let left = "ip -o link show type xfrm; ip route show 10.200.0.0/16";
    wait_until("the site's interface to go", PATIENCE, || {
        let left = on(left)?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(Some(()))
    })?;
    ensure!(
        !reached(world, "host-a")?,
        "the site is reached without a tunnel"
    );
    figures.row(
        "a policy denies the site the hub's VPC; then the site is removed",
        "nothing of it is left, no packet in clear",
    );
    Ok(())
}

/// User data that names a parameter: while that is missing the last good configuration
/// goes on, and then what is in it counts.
fn config_in_ssm(
    world: &mut World,
    guest: &mut Guest,
    login: &LoginKey,
    user_data: &str,
    figures: &mut Figures,
) -> Result<()> {
    const PARAMETER: &str = "/privnet/hub/config";
    let config = config(world)?;
    let section = user_data.strip_prefix(&config).context("other user data")?;
    let reference = format!("config = {{ ssm = \"{PARAMETER}\" }}\n{section}");
    world.change_metadata(NAME, |metadata| metadata.user_data = Some(reference))?;
    let again = "systemctl restart privnet-boot; systemctl is-active privnet-boot || true";
    let outcome = guest.run(login, again)?;
    ensure!(outcome == "failed", "privnet-boot is {outcome}");
    for expected in [
        "THE CONFIGURATION OF THIS INSTANCE IS WRONG: SSM parameter /privnet/hub/config",
        "there is none",
        "privnet-hub goes on with the configuration that it had before",
    ] {
        guest.wait_for_console(expected, PATIENCE)?;
    }
    let state = guest.run(login, "systemctl is-active privnet-hub")?;
    ensure!(state == "active", "privnet-hub is {state}");

    let region = world.host(NAME)?.metadata.region.clone();
    let fetched = format!("{config}# From SSM\n");
    world.ec2.put_secret(&region, PARAMETER, &fetched)?;
    let outcome = guest.run(login, again)?;
    ensure!(outcome == "active", "privnet-boot is {outcome}");
    let kept = guest.run(login, "cat /etc/privnet/hub.toml")?;
    ensure!(kept.contains("# From SSM"), "{kept}");
    wait_until_up(guest, login, &["spoke-a", "spoke-b"])?;
    figures.row(
        "user data that names an SSM parameter",
        "its text is the configuration; while it is missing, the last good one goes on",
    );
    Ok(())
}

/// What an operator gives a hub: without the paths that a namespace needs.
fn config(world: &World) -> Result<String> {
    let config = hub_config(world.host(NAME)?);
    let ours = |line: &&str| !line.starts_with("private_key") && !line.starts_with("state");
    Ok(config
        .lines()
        .filter(ours)
        .map(|line| format!("{line}\n"))
        .collect())
}

/// Has it take other user data while it serves.
pub(crate) fn give(
    world: &mut World,
    guest: &Guest,
    login: &LoginKey,
    user_data: &str,
) -> Result<()> {
    world.change_metadata(NAME, |metadata| {
        metadata.user_data = Some(user_data.to_owned())
    })?;
    let again = "systemctl restart privnet-boot && systemctl reload privnet-hub";
    guest.run(login, again).map(drop)
}

/// What it says of itself.
pub(crate) fn status(guest: &Guest, login: &LoginKey) -> Result<Status> {
    let answer = guest.run(login, "tunnels list --json")?;
    serde_json::from_str(&answer).with_context(|| answer)
}

pub(crate) fn wait_until_up(guest: &Guest, login: &LoginKey, names: &[&str]) -> Result<()> {
    wait_until("the tunnels up at the guest", PATIENCE * 2, || {
        let tunnels = status(guest, login)?.tunnels;
        let up = |name: &str| {
            tunnels
                .iter()
                .any(|tunnel| tunnel.name == name && tunnel.state == TunnelState::Up)
        };
        if names.iter().all(|name| up(name)) {
            return Ok(Some(()));
        }
        bail!("it has {tunnels:?}")
    })
}
