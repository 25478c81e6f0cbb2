//! The spoke's image, in the demo network (drawn at `privnet_tests::topology::demo`): it
//! is spoke-a, a guest; the hub and spoke-b are the same programs in namespaces. At the end
//! it is a spoke by IPsec: its kernel does ESP, the hub's strongSwan does its own.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use privnet_model::inventory::{PORT_TAG, PUBLIC_KEY_TAG, TRANSPORT_TAG, Transport};
use privnet_tests::charon::Charon;
use privnet_tests::daemon::{hub_config, hub_public_key, spoke_config};
use privnet_tests::deployment::{
    FLEET_SECRET, PATIENCE, fleet_secret, nothing_leaked, ping_without_loss, public_address,
    reach_each_other, sees, start_spoke, wait_for_published_key, wait_until_up,
};
use privnet_tests::guest::{Architecture, Disk, Guest, LoginKey, private_directory};
use privnet_tests::process::{run, wait_until};
use privnet_tests::topology::{self, API, API_PORT, HUB_PUBLIC, PORT, PRIVNET, WEB};
use privnet_tests::world::World;

use crate::report::Figures;
use crate::{BOOT, machine};

const NAME: &str = "spoke-a";
/// What lies behind the kernel's WireGuard, when that has its turn.
const SITE: &str = "10.200.0.1";
/// How many connections the kernel remembers at most.
const CONNECTIONS: &str = "sysctl -n net.netfilter.nf_conntrack_max";
/// Where the templates keep the fleet's secret.
pub(crate) const SECRET_PARAMETER: &str = "/privnet/psk";

pub(crate) fn test(image: &Path, figures: &mut Figures) -> Result<()> {
    let network = topology::demo();
    let mut world = World::build_with_guests(&network, &[NAME])?;
    world.capture(&network, &[NAME])?;
    let files = world.namespace(NAME)?.directory();
    private_directory(&files)?;
    let login = LoginKey::make(&files)?;
    let kernel = KernelPeer::make()?;
    start_others(&mut world, &kernel)?;

    let work = tempfile::tempdir()?;
    let disk = Disk::copy_of(image, work.path(), machine::VOLUME)?;
    let router = "10.1.0.1";
    let api = format!("http://{API}:{API_PORT}");
    let section = machine::instance_section(&login, router, &api);
    let good = format!("{}{section}", config(&world)?);
    let wrong = good
        .replace("51820\"", "everywhere\"")
        .replace("egress", "egres");

    give(&mut world, &wrong)?;
    let mut guest = boot(&world, &disk, "wrong")?;
    refuses_wrong_user_data(&mut guest, &login, figures)?;
    give(&mut world, &good)?;
    guest.shut_down(&login, Duration::from_secs(120))?;

    let mut guest = boot(&world, &disk, "good")?;
    joins(&world, &mut guest, figures)?;
    guest.wait_for_login(&login, BOOT)?;
    machine::inspect(&guest, &login, "privnet-spoke", "ip-10-1-0-10", figures)?;
    let flowtables = guest.run(&login, "nft list flowtables")?;
    ensure!(flowtables.contains("devices"), "{flowtables}");
    figures.row("the kernel's flowtable for NAT", "used");
    machine::stranger_is_kept_out(world.namespace("host-a")?, "10.1.0.10")?;
    figures.row("SSH from an address that is not in ssh_from", "refused");
    remembers_by_memory(&guest, &login, figures)?;
    takes_what_is_asked_for(&mut world, &guest, &login, &good, figures)?;
    keeps_the_last_good(&mut world, &mut guest, &login, &wrong, figures)?;
    nothing_leaked(&world)?;
    kernel.speaks_to_our_hub(&world, &guest, &login, figures)?;
    nat_by_this_kernel(&guest, &login, disk.architecture, figures)?;
    guest.check()?;
    world.check()?;
    guest.shut_down(&login, Duration::from_secs(120))?;
    by_ipsec(&mut world, &disk, &login, &section, figures)
}

fn start_others(world: &mut World, kernel: &KernelPeer) -> Result<()> {
    start_spoke(world, "spoke-b")?;
    wait_for_published_key(world, "spoke-b")?;
    let config = format!(
        "{}\n[[site]]\nname = \"kernel\"\ncidrs = [\"10.200.0.0/24\"]\npublic_key = \"{}\"\n",
        hub_config(world.host("hub")?),
        kernel.public
    );
    world.start("hub", &config)?;
    wait_until_up(world, &["spoke-b"], PATIENCE).map(drop)
}

/// What an operator gives a spoke: nothing in it is of the test.
fn config(world: &World) -> Result<String> {
    let key = hub_public_key(world.host("hub")?)?;
    Ok(format!(
        "privnet = \"{PRIVNET}\"\n\n[[hub]]\nendpoint = \"{HUB_PUBLIC}:{PORT}\"\npublic_key = \"{key}\"\n\n[nat]\negress = true\n"
    ))
}

fn give(world: &mut World, user_data: &str) -> Result<()> {
    world.change_metadata(NAME, |metadata| {
        metadata.user_data = Some(user_data.to_owned())
    })
}

fn boot(world: &World, disk: &Disk, name: &str) -> Result<Guest> {
    Guest::boot(
        world.router("vpc-a")?,
        &world.host(NAME)?.instance,
        disk,
        name,
    )
}

fn refuses_wrong_user_data(
    guest: &mut Guest,
    login: &LoginKey,
    figures: &mut Figures,
) -> Result<()> {
    guest.wait_for_console("To correct it: ", BOOT)?;
    let console = guest.console();
    let said: Vec<&str> = console
        .lines()
        .filter_map(|line| line.split_once("privnet-boot: ").map(|(_, said)| said))
        .collect();
    let said = said.join("\n");
    for expected in [
        "THE USER DATA OF THIS INSTANCE IS WRONG",
        "user-data.toml:4: hub[0].endpoint",
        "user-data.toml:8: nat.egres",
        "privnet-spoke does not run",
    ] {
        ensure!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    figures.quote("The console, with wrong user data", &said);
    // Who configured SSH may come in and look.
    guest.wait_for_login(login, BOOT)?;
    let state = guest.run(login, "systemctl is-active privnet-spoke || true")?;
    ensure!(state == "inactive", "privnet-spoke is {state}");
    let restarts = guest.run(login, "systemctl show -P NRestarts privnet-spoke")?;
    ensure!(
        restarts == "0",
        "privnet-spoke was started {restarts} times"
    );
    figures.row(
        "wrong user data",
        "readable on the console, the spoke not started",
    );
    Ok(())
}

fn joins(world: &World, guest: &mut Guest, figures: &mut Figures) -> Result<()> {
    let up = world.daemon("hub")?.wait_until_up(&[NAME], BOOT);
    up.with_context(|| guest.console_tail(60))?;
    let took = guest.started.elapsed();
    figures.row(
        "tunnel up after power on",
        machine::in_time("the tunnel", took)?,
    );
    reach_each_other(world, "host-a", "host-b")?;
    figures.row(
        "private host to private host through it",
        "both ways, no NAT",
    );
    sees(world, "host-a", WEB, public_address(world, NAME)?)?;
    figures.row(
        "private host to the internet through it",
        "as the spoke's public address",
    );
    Ok(())
}

/// NAT remembers as many connections as the memory allows, where nothing else is said.
fn remembers_by_memory(guest: &Guest, login: &LoginKey, figures: &mut Figures) -> Result<()> {
    let kilobytes = number(guest, login, "awk '/^MemTotal/ { print $2 }' /proc/meminfo")?;
    let limit = number(guest, login, CONNECTIONS)?;
    // One for each 4096 bytes, as `spoke.toml` has it; of a guest of 1 GiB neither bound counts.
    ensure!(
        limit == kilobytes / 4 && limit > 65_536,
        "{limit} connections are remembered in {kilobytes} kB"
    );
    let buckets = number(guest, login, "sysctl -n net.netfilter.nf_conntrack_buckets")?;
    ensure!(buckets >= limit, "{buckets} buckets for {limit}");
    figures.row(
        "connections that NAT remembers (nf_conntrack_max)",
        format!("{limit}: one for each 4096 bytes of {kilobytes} kB"),
    );
    Ok(())
}

fn number(guest: &Guest, login: &LoginKey, script: &str) -> Result<u64> {
    let seen = guest.run(login, script)?;
    seen.parse().with_context(|| format!("{script}: {seen:?}"))
}

/// What is off, or the daemon's choice, unless user data says more.
fn takes_what_is_asked_for(
    world: &mut World,
    guest: &Guest,
    login: &LoginKey,
    good: &str,
    figures: &mut Figures,
) -> Result<()> {
    const TIMER: &str = "privnet-security-updates.timer";
    const ASKED: u64 = 100_000;
    let by_memory = number(guest, login, CONNECTIONS)?;
    let take = |world: &mut World, user_data: &str, connections: u64| -> Result<()> {
        give(world, user_data)?;
        guest.run(login, "systemctl restart privnet-boot")?;
        let what = format!("{connections} connections to be remembered");
        wait_until(&what, PATIENCE, || {
            let now = number(guest, login, CONNECTIONS)?;
            ensure!(now == connections, "it is {now}");
            Ok(Some(()))
        })
    };
    // The section for the instance is the last one.
    let more = format!("egress = true\nconnections = {ASKED}");
    let asking = good.replace("egress = true", &more) + "security_updates = true\n";
    take(world, &asking, ASKED)?;
    wait_until("the timer of the security updates", PATIENCE, || {
        let state = guest.run(login, &format!("systemctl is-active {TIMER} || true"))?;
        ensure!(state == "active", "it is {state}");
        Ok(Some(()))
    })?;
    let next = guest.run(
        login,
        &format!("systemctl show -P NextElapseUSecRealtime {TIMER}"),
    )?;
    ensure!(!next.is_empty(), "the timer runs for nothing");
    figures.row("automatic security updates, asked for", "every day");
    figures.row("nat.connections of user data", "in force after a reload");
    // Off again at the next boot; there is no mirror here to ask.
    guest.run(login, &format!("systemctl stop {TIMER}"))?;
    take(world, good, by_memory)
}

fn keeps_the_last_good(
    world: &mut World,
    guest: &mut Guest,
    login: &LoginKey,
    wrong: &str,
    figures: &mut Figures,
) -> Result<()> {
    let before = guest.run(login, "sha256sum /etc/privnet/spoke.toml")?;
    give(world, wrong)?;
    let outcome = guest.run(
        login,
        "systemctl restart privnet-boot; systemctl is-failed privnet-boot",
    )?;
    ensure!(outcome == "failed", "privnet-boot is {outcome}");
    let said = "privnet-spoke goes on with the configuration that it had before";
    guest.wait_for_console(said, PATIENCE)?;
    let after = guest.run(login, "sha256sum /etc/privnet/spoke.toml")?;
    ensure!(
        before == after,
        "the configuration was replaced by a wrong one"
    );
    let state = guest.run(login, "systemctl is-active privnet-spoke")?;
    ensure!(state == "active", "privnet-spoke is {state}");
    reach_each_other(world, "host-a", "host-b")?;
    figures.row(
        "user data that became wrong",
        "the last good configuration goes on",
    );
    Ok(())
}

/// The bench of NAT, where the kernel has flowtables; the spoke does not run.
fn nat_by_this_kernel(
    guest: &Guest,
    login: &LoginKey,
    architecture: Architecture,
    figures: &mut Figures,
) -> Result<()> {
    // Not below /run: the bench has one of its own.
    const PLACE: &str = "/var/lib/bench";
    if architecture != Architecture::HERE {
        figures.row(
            "the bench of NAT by its kernel",
            "left out: emulated, and the bench is a program of the machine around it",
        );
        return Ok(());
    }
    let bench = std::env::current_exe()?.with_file_name("nat");
    let iperf = run(Command::new("which").arg("iperf3"))?;
    let iperf = Path::new(iperf.trim());
    // The image has neither iperf3 nor what it needs.
    let needs = run(Command::new("ldd").arg(iperf))?;
    let needs = needs.lines().filter_map(|line| line.split_once("=> "));
    let needs = needs.filter_map(|(_, file)| file.split_whitespace().next());
    let missing = needs.filter(|file| file.contains("libiperf") || file.contains("libsctp"));
    let mut files = vec![bench.as_path(), iperf];
    files.extend(missing.map(Path::new));
    guest.copy(login, &files, PLACE)?;
    let said = guest.run(
        login,
        &format!(
            "PATH={PLACE}:$PATH LD_LIBRARY_PATH={PLACE} {PLACE}/nat --rounds 3 --seconds 4 --hold 0 2>&1"
        ),
    )?;
    ensure!(!said.contains("not on this kernel"), "{said}");
    figures.quote(
        "NAT by the image's kernel, emulated: what counts is the ratio",
        said.trim(),
    );
    Ok(())
}

/// The same instance, switched on again with user data of a spoke by IPsec.
fn by_ipsec(
    world: &mut World,
    disk: &Disk,
    login: &LoginKey,
    section: &str,
    figures: &mut Figures,
) -> Result<()> {
    let charon = Charon::of_instance(world.namespace("hub")?)?;
    let metadata = world.host(NAME)?.metadata.clone();
    world
        .ec2
        .put_secret(&metadata.region, SECRET_PARAMETER, FLEET_SECRET)?;
    // A hub that never heard of it, in whose EC2 it is as new as at its launch: that it calls
    // makes it known.
    let published = [PUBLIC_KEY_TAG, PORT_TAG, TRANSPORT_TAG];
    world
        .ec2
        .untag(&metadata.region, metadata.instance.as_str(), &published)?;
    start_others_by_ipsec(world, &charon)?;

    give(world, &format!("{}{section}", config_by_ipsec()))?;
    let mut guest = boot(world, disk, "ipsec")?;
    let up = world
        .daemon("hub")?
        .wait_until_up(&[NAME, "spoke-b"], BOOT)
        .with_context(|| guest.console_tail(60))?;
    let took = guest.started.elapsed();
    let tunnel = up.tunnels.iter().find(|tunnel| tunnel.name == NAME);
    ensure!(
        tunnel.is_some_and(|tunnel| tunnel.transport == Transport::Ipsec),
        "not by IPsec: {up:?}"
    );
    figures.row(
        "a spoke by IPsec, its secret in SSM: up after power on",
        format!("{:.0} s", took.as_secs_f64()),
    );
    guest.wait_for_login(login, BOOT)?;
    let shown = wait_until("the tunnel at the guest", PATIENCE * 2, || {
        let list = guest.run(login, "tunnels list --json")?;
        ensure!(list.contains("\"up\""), "{list}");
        guest.run(login, "tunnels show").map(Some)
    })?;
    ensure!(shown.contains("kernel ESP"), "{shown}");
    let interface = guest.run(login, "ip -o link show type xfrm")?;
    ensure!(interface.contains("pnesp-"), "no interface: {interface:?}");
    let states = guest.run(login, "ip xfrm state")?;
    ensure!(states.contains("espinudp"), "no ESP in UDP: {states}");

    carries_by_ipsec(world, figures)?;
    nothing_leaked(world)?;
    guest.check()?;
    world.check()?;
    guest.shut_down(login, Duration::from_secs(120))
}

/// The hub and spoke-b once more, with the fleet's secret, without which there is no IPsec
/// to a spoke.
fn start_others_by_ipsec(world: &mut World, charon: &Charon) -> Result<()> {
    for name in ["hub", "spoke-b"] {
        world.stop(name)?;
    }
    let state = world.namespace("hub")?.directory().join("hub.state.json");
    std::fs::remove_file(state)?;
    let secret = fleet_secret(world, "hub")?;
    let config = format!(
        "{}\n[ipsec]\nsocket = {:?}\n[trust]\n{secret}",
        hub_config(world.host("hub")?),
        charon.socket()
    );
    world.start("hub", &config)?;
    let key = hub_public_key(world.host("hub")?)?;
    let secret = fleet_secret(world, "spoke-b")?;
    let endpoint = format!("{HUB_PUBLIC}:{PORT}");
    let config = spoke_config(world.host("spoke-b")?, &endpoint, &key);
    world.start("spoke-b", &format!("{secret}{config}"))?;
    wait_until_up(world, &["spoke-b"], PATIENCE).map(drop)
}

/// What an operator gives a spoke by IPsec.
fn config_by_ipsec() -> String {
    format!(
        "privnet = \"{PRIVNET}\"\ntransport = \"ipsec\"\npreshared_key = {{ ssm = \"{SECRET_PARAMETER}\" }}\n\n\
         [[hub]]\nendpoint = \"{HUB_PUBLIC}\"\n\n[nat]\negress = true\n"
    )
}

fn carries_by_ipsec(world: &World, figures: &mut Figures) -> Result<()> {
    reach_each_other(world, "host-a", "host-b")?;
    reach_each_other(world, "host-a", "host-hub")?;
    ping_without_loss(world, "host-a", "host-b", 20)?;
    ping_without_loss(world, "host-b", "host-a", 20)?;
    // Egress is NAT as ever.
    sees(world, "host-a", WEB, public_address(world, NAME)?)?;
    figures.row(
        "by its kernel's ESP: private host to private host, and to the hub's VPC",
        "both ways, no NAT; 20 of 20 pings each way; the internet as before",
    );
    let address = |name| Ok::<_, anyhow::Error>(world.host(name)?.instance.address.to_string());
    let (host_a, host_b) = (world.namespace("host-a")?, world.namespace("host-b")?);
    let sent = machine::checksum(host_a, &address("host-a")?)?;
    let began = Instant::now();
    for (from, server) in [(host_a, "host-b"), (host_b, "host-a")] {
        let received = machine::checksum(from, &address(server)?)?;
        ensure!(sent == received, "sent {sent}, received {received}");
    }
    let took = began.elapsed();
    figures.row(
        "by its kernel's ESP: 5 MB of TCP each way",
        format!("by checksum, {:.0} s for both", took.as_secs_f64()),
    );
    Ok(())
}

/// The kernel's own WireGuard, which Debian's cloud kernel has: as a static site of our
/// hub, in the guest.
struct KernelPeer {
    private: String,
    public: String,
}

impl KernelPeer {
    fn make() -> Result<Self> {
        let private = run(Command::new("wg").arg("genkey"))?.trim().to_owned();
        let public =
            run(Command::new("sh").args(["-c", &format!("echo '{private}' | wg pubkey")]))?;
        Ok(Self {
            private,
            public: public.trim().to_owned(),
        })
    }

    fn speaks_to_our_hub(
        &self,
        world: &World,
        guest: &Guest,
        login: &LoginKey,
        figures: &mut Figures,
    ) -> Result<()> {
        let hub = hub_public_key(world.host("hub")?)?;
        guest.run(
            login,
            &format!(
                "set -e
                 systemctl stop privnet-spoke
                 umask 077
                 echo '{private}' >/run/kernel.key
                 ip link add kernel0 mtu 1440 type wireguard
                 wg set kernel0 private-key /run/kernel.key peer {hub} endpoint {HUB_PUBLIC}:{PORT} allowed-ips 10.0.0.0/8 persistent-keepalive 25
                 ip address add {SITE}/24 dev kernel0
                 ip link set kernel0 up
                 ip route replace 10.2.0.0/16 dev kernel0 src {SITE}",
                private = self.private
            ),
        )?;
        // host-b is behind spoke-b: the kernel's packets pass our hub and our spoke.
        let seen = wait_until("the kernel's WireGuard to reach host-b", PATIENCE, || {
            guest
                .run(login, "curl -sS --max-time 5 http://10.2.1.10/")
                .map(Some)
        })?;
        ensure!(seen == SITE, "host-b saw it as {seen}");
        let answered = world.namespace("host-b")?.ping(SITE, 20)?;
        ensure!(
            answered == 20,
            "{answered} of 20 pings to the kernel's WireGuard answered"
        );
        let speed = guest.run(
            login,
            "curl -sS --max-time 60 -o /dev/null -w '%{speed_download}' http://10.2.1.10/bytes/20000000",
        )?;
        let speed: f64 = speed.parse().context("curl's speed")?;
        figures.row(
            "the kernel's WireGuard as a peer of our hub",
            format!(
                "handshake, 20 of 20 pings, 20 MB of TCP at {:.0} Mbit/s",
                speed * 8.0 / 1e6
            ),
        );
        Ok(())
    }
}
