//! The spoke's image, in the demo network (drawn at `privnet_tests::topology::demo`): it
//! is spoke-a, a guest; the hub and spoke-b are the same programs in namespaces.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_tests::daemon::{hub_config, hub_public_key};
use privnet_tests::deployment::{
    PATIENCE, nothing_leaked, public_address, reach_each_other, sees, start_spoke,
    wait_for_published_key, wait_until_up,
};
use privnet_tests::guest::{Disk, Guest, LoginKey, private_directory};
use privnet_tests::process::{run, wait_until};
use privnet_tests::topology::{self, API, API_PORT, HUB_PUBLIC, PORT, PRIVNET, WEB};
use privnet_tests::world::World;

use crate::report::Figures;
use crate::{BOOT, machine};

const NAME: &str = "spoke-a";
/// What lies behind the kernel's WireGuard, when that has its turn.
const SITE: &str = "10.200.0.1";

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
    let short_cut = if flowtables.contains("devices") {
        "used"
    } else {
        "not used"
    };
    figures.row("the kernel's flowtable for NAT", short_cut);
    machine::stranger_is_kept_out(world.namespace("host-a")?, "10.1.0.10")?;
    figures.row("SSH from an address that is not in ssh_from", "refused");
    keeps_the_last_good(&mut world, &guest, &login, &wrong, figures)?;
    nothing_leaked(&world)?;
    kernel.speaks_to_our_hub(&world, &guest, &login, figures)?;
    nat_by_this_kernel(&guest, &login, figures)?;
    guest.check()?;
    world.check()?;
    guest.shut_down(&login, Duration::from_secs(120))
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
    figures.row(
        "tunnel up after power on",
        format!("{:.0} s", guest.started.elapsed().as_secs_f64()),
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

fn keeps_the_last_good(
    world: &mut World,
    guest: &Guest,
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
    ensure!(
        guest
            .console()
            .contains("privnet-spoke goes on with the configuration that it had before"),
        "nothing on the console"
    );
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
fn nat_by_this_kernel(guest: &Guest, login: &LoginKey, figures: &mut Figures) -> Result<()> {
    // Not below /run: the bench has one of its own.
    const PLACE: &str = "/var/lib/bench";
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
