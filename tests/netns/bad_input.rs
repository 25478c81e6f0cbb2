//! Bad input and bad surroundings, at the programs themselves: one clear message
//! and an exit code, never a panic, and nothing of the operator's destroyed.
//! (The errors of config files one by one are tests of `shared/model`.)

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use privnet_tests::daemon::{self, config_file, hub_config};
use privnet_tests::deployment::{self, PATIENCE, reach_each_other, start_spokes, wait_until_up};
use privnet_tests::namespace::{Namespace, logs};
use privnet_tests::process::{Process, wait_until};
use privnet_tests::programs;
use privnet_tests::topology::{self, HUB_PUBLIC, PORT};
use privnet_tests::world::World;

pub(crate) fn check_tells_everything_that_is_wrong_at_once_with_its_line() -> Result<()> {
    let host = Namespace::add("host")?;
    let file = host.directory().join("hub.toml");
    std::fs::write(
        &file,
        r#"privnet = "10.0.0.0/8"
listen_port = 123456
colour = "blue"

[discovery]
regions = ["us-west-2", "nowhere"]
tags = { service = "nat" }

[[site]]
name = "dc"
cidrs = ["172.16.0.0/16"]
public_key = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="

[[site]]
name = "dc"
cidrs = ["10.200.0.0/16"]
public_key = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
"#,
    )?;
    let check = |program: &str| -> Result<Command> {
        let mut command = daemon::command(&host, program)?;
        command.arg("check").arg(&file);
        Ok(command)
    };
    let said = fails("check", check("privnet-hub")?)?;
    let file_name = file.display();
    for expected in [
        format!("{file_name}:2:"),
        "123456".to_owned(),
        format!("{file_name}:3:"),
        "colour".to_owned(),
        format!("{file_name}:6:"),
        "nowhere".to_owned(),
        format!("{file_name}:11:"),
        "172.16.0.0/16".to_owned(),
        format!("{file_name}:15:"),
    ] {
        ensure!(said.contains(&expected), "no {expected} in:\n{said}");
    }
    std::fs::write(
        &file,
        "privnet = \"10.0.0.0/8\"\ntransport = \"none\"\n[[hub]]\n",
    )?;
    let said = fails("spoke-check", check("privnet-spoke")?)?;
    ensure!(said.contains(&format!("{file_name}:3:")), "{said}");
    Ok(())
}

pub(crate) fn a_config_file_that_is_not_there_is_named() -> Result<()> {
    let host = Namespace::add("host")?;
    for program in ["privnet-hub", "privnet-spoke"] {
        let mut command = daemon::command(&host, program)?;
        command.args(["check", "/nonexistent/privnet.toml"]);
        let said = fails(program, command)?;
        ensure!(said.contains("/nonexistent/privnet.toml"), "{said}");
    }
    Ok(())
}

pub(crate) fn a_key_file_that_makes_no_sense_is_never_overwritten() -> Result<()> {
    let host = Namespace::add("host")?;
    let directory = host.directory();
    let key = directory.join("hub.key");
    let config = directory.join("hub.toml");
    std::fs::write(
        &config,
        format!(
            "privnet = \"10.0.0.0/8\"\nprivate_key = {{ file = \"{}\" }}\n[discovery]\nregions = [\"us-west-2\"]\ntags = {{ a = \"b\" }}\n",
            key.display()
        ),
    )?;
    for content in ["", "not a key\n", "AgICAgICAgI=\n"] {
        std::fs::write(&key, content)?;
        let mut command = daemon::command(&host, "privnet-hub")?;
        command.arg("public-key").arg(&config);
        let said = fails("public-key", command)?;
        ensure!(said.contains("hub.key"), "{said}");
        ensure!(
            content.is_empty() || !said.contains(content.trim()),
            "it shows the file:\n{said}"
        );
        ensure!(
            std::fs::read_to_string(&key)? == content,
            "the file was changed"
        );
    }
    Ok(())
}

pub(crate) fn a_second_hub_on_the_same_socket_says_so_and_harms_nothing() -> Result<()> {
    let world = deployment::demo()?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    let hub = world.host("hub")?;
    let mut command = daemon::command(&hub.namespace, "privnet-hub")?;
    command.arg("run").arg(config_file(hub));
    let said = fails("second", command)?;
    ensure!(said.contains("hub.sock"), "{said}");
    wait_until_up(&world, &["spoke-a", "spoke-b"], Duration::ZERO)?;
    reach_each_other(&world, "host-a", "host-b")
}

pub(crate) fn a_port_in_use_is_named() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let hub = world.host("hub")?;
    programs::require_tools(&["wireguard-go", "wg"])?;
    let _other = hub
        .namespace
        .start("other", "wireguard-go", ["-f", "other"])?;
    wait_until("wireguard-go", PATIENCE, || {
        hub.namespace
            .run("wg", ["set", "other", "listen-port", &PORT.to_string()])?;
        hub.namespace.ip(&["link set other up"]).map(Some)
    })?;
    let said = fails("port", run_hub(&world)?)?;
    ensure!(said.contains(&PORT.to_string()), "{said}");
    Ok(())
}

pub(crate) fn without_privileges_it_says_which_it_needs() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let hub = world.host("hub")?;
    std::fs::write(config_file(hub), hub_config(hub))?;
    let mut command = hub.namespace.command("setpriv");
    daemon::as_on_an_instance(&mut command);
    command
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(programs::ours("privnet-hub")?)
        .arg("run")
        .arg(config_file(hub));
    let said = fails("unprivileged", command)?;
    ensure!(said.contains("CAP_NET_ADMIN"), "{said}");
    Ok(())
}

pub(crate) fn without_a_tun_device_it_says_so() -> Result<()> {
    let world = World::build(&topology::demo())?;
    let hub = world.host("hub")?;
    std::fs::write(config_file(hub), hub_config(hub))?;
    let mut command = hub.namespace.command("sh");
    daemon::as_on_an_instance(&mut command);
    command
        .args([
            "-c",
            r#"mount --bind /dev/null /dev/net/tun && exec "$@""#,
            "sh",
        ])
        .arg(programs::ours("privnet-hub")?)
        .arg("run")
        .arg(config_file(hub));
    let said = fails("no-tun", command)?;
    ensure!(said.contains("/dev/net/tun"), "{said}");
    Ok(())
}

pub(crate) fn garbage_at_the_hubs_port_disturbs_no_tunnel() -> Result<()> {
    let mut world = deployment::demo()?;
    wait_until_up(&world, &["spoke-a", "spoke-b"], PATIENCE)?;
    let script = format!(
        r"for type in '' '\001\000\000\000' '\002\000\000\000' '\003\000\000\000' '\004\000\000\000'; do
            for length in 0 1 4 16 28 31 32 33 60 64 88 92 93 144 148 149 1400 9000; do
                {{ printf $type; head -c $length /dev/urandom; }} | dd bs=65536 iflag=fullblock status=none >/dev/udp/{HUB_PUBLIC}/{PORT}
            done
        done"
    );
    world.web.run("bash", ["-c", &script])?;
    world.check()?;
    deployment::ping_without_loss(&world, "host-a", "host-b", 100)
}

pub(crate) fn a_spoke_off_ec2_says_so() -> Result<()> {
    let mut world = World::build(&topology::demo())?;
    start_spokes(&mut world)?;
    world.stop("spoke-a")?;
    let spoke = world.host("spoke-a")?;
    // No such address any more, and nobody else answers for it.
    spoke.namespace.ip(&[
        "addr del 169.254.169.254/32 dev lo",
        "route add unreachable 169.254.169.254/32",
    ])?;
    let mut command = daemon::command(&spoke.namespace, "privnet-spoke")?;
    command.arg("run").arg(config_file(spoke));
    let mut process = Process::start("off-ec2", &logs(), command)?;
    // It may end or go on trying: it must say what is missing.
    wait_until("a word about the metadata service", PATIENCE, || {
        let said = process.log();
        let told = said.contains("metadata") || said.contains("169.254.169.254");
        Ok(told.then_some(()))
    })?;
    ensure!(
        !process.log().contains("panicked"),
        "{}",
        process.log_tail(30)
    );
    let _ = process.check();
    Ok(())
}

/// The hub's own command, with its usual config.
fn run_hub(world: &World) -> Result<Command> {
    let hub = world.host("hub")?;
    std::fs::write(config_file(hub), hub_config(hub))?;
    let mut command = daemon::command(&hub.namespace, "privnet-hub")?;
    command.arg("run").arg(config_file(hub));
    Ok(command)
}

/// Runs a command that must end by itself with a failure; returns what it said.
fn fails(name: &str, command: Command) -> Result<String> {
    let mut process = Process::start(name, &logs(), command)?;
    let status = process.wait(PATIENCE)?;
    let said = process.log();
    ensure!(!status.success(), "it succeeded:\n{said}");
    ensure!(status.code().is_some(), "it died of a signal:\n{said}");
    ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    ensure!(!said.trim().is_empty(), "it said nothing");
    Ok(said)
}
