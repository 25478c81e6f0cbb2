//! What every gateway that booted from an image has to be, whatever its role.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use privnet_tests::guest::{Guest, LoginKey};
use privnet_tests::namespace::Namespace;

use crate::report::Figures;

/// The size of the volume that the image is copied to: larger, as on EC2.
pub(crate) const VOLUME: u64 = 2 << 30;

/// Within what time from power on a gateway has to serve, emulated: about half a minute is
/// what it takes on a machine that does nothing else; on one whose processors were all busy
/// a hub took 114 s.
pub(crate) const IN_SERVICE: Duration = Duration::from_secs(240);

/// The kernel's drivers for EC2's network cards and volumes.
const EC2_DRIVERS: [&str; 2] = ["ena", "nvme"];

/// How far the journal may grow, and what it leaves free, in bytes: as `journald.conf.d` of
/// the image has it (200M, 500M).
const JOURNAL: [&str; 2] = ["DISK_KEEP_FREE=524288000", "MAX_USE=209715200"];

/// The kernel's settings that the image makes, as files of `sysctl.d`.
const SYSCTLS: [&str; 3] = [
    include_str!("../../../../ami/sysctl.d/60-privnet.conf"),
    include_str!("../../../../ami/image/root/usr/lib/sysctl.d/61-privnet-image.conf"),
    include_str!("../../../../ami/image/root/etc/sysctl.d/99-protect-links.conf"),
];

/// How long something took since power on, for the report; an error if that is longer
/// than stated.
pub(crate) fn in_time(what: &str, took: Duration) -> Result<String> {
    ensure!(
        took <= IN_SERVICE,
        "{what}: after {took:?}, {IN_SERVICE:?} are stated"
    );
    Ok(format!(
        "{:.0} s, of {} s at most",
        took.as_secs_f64(),
        IN_SERVICE.as_secs()
    ))
}

/// The SHA-256 sum of 5 MB that `from` fetches from a host's web server.
pub(crate) fn checksum(from: &Namespace, server: &str) -> Result<String> {
    let url = format!("http://{server}/bytes/5000000");
    let command = format!("curl -sS --fail --max-time 240 {url} | sha256sum");
    from.run("sh", ["-c", &command])
}

/// The section of user data that lets the test in, from this address alone.
pub(crate) fn instance_section(key: &LoginKey, from: &str, api: &str) -> String {
    format!(
        "\n[instance]\nssh_authorized_keys = [\n    \"{}\",\n]\nssh_from = [\"{from}/32\"]\n\
         environment = {{ AWS_ENDPOINT_URL = \"{api}\" }}\n",
        key.public
    )
}

/// Looks at a gateway whose daemon runs.
pub(crate) fn inspect(
    guest: &Guest,
    key: &LoginKey,
    daemon: &str,
    host_name: &str,
    figures: &mut Figures,
) -> Result<()> {
    let on = |script: &str| guest.run(key, script);
    let equals = |script: &str, expected: &str| -> Result<()> {
        let seen = on(script)?;
        ensure!(
            seen == expected,
            "{script}: {seen:?}, expected {expected:?}"
        );
        Ok(())
    };

    let services =
        format!("{daemon} privnet-boot privnet-firewall chrony systemd-networkd systemd-resolved");
    for service in services.split(' ') {
        equals(&format!("systemctl is-active {service}"), "active").with_context(|| {
            on(&format!("journalctl -n 30 --no-pager -u {service}")).unwrap_or_default()
        })?;
    }
    equals(&format!("systemctl show -P Type {daemon}"), "notify")?;
    equals("systemctl --failed --plain --no-legend", "")?;
    figures.row("services active, none failed", &services);
    let last = on(&format!(
        "systemctl show -P ActiveEnterTimestampMonotonic {services} | sort -n | tail -n 1"
    ))?;
    let last = Duration::from_micros(last.parse().context("no time")?);
    figures.row(
        "the last of them active after the kernel's start",
        in_time("the last service", last)?,
    );
    let since_kernel = on(&format!(
        "systemctl show -P ActiveEnterTimestampMonotonic {daemon}"
    ))?;
    let seconds: f64 = since_kernel.parse::<f64>().context("no time")? / 1e6;
    figures.row(
        &format!("{daemon} ready after the kernel's start"),
        format!("{seconds:.0} s"),
    );
    figures.row("systemd-analyze", on("systemd-analyze time | head -n 1")?);

    equals("hostname", host_name)?;
    equals("cat /etc/hostname", host_name)?;
    figures.row("host name from metadata", host_name);
    equals("wc -c </etc/machine-id", "33")?;
    let grown = on("df --output=size -BM / | tail -n 1")?;
    let megabytes: u64 = grown.trim().trim_end_matches('M').parse().context("df")?;
    ensure!(
        megabytes > 1500,
        "the root file system did not grow: {grown}"
    );
    figures.row(
        "root file system grown to the volume",
        format!("{megabytes} MB of 2048"),
    );

    equals("swapon --show --noheadings", "")?;
    equals("sysctl -n net.ipv4.ip_forward", "1")?;
    let settings = sysctls_are_in_force(guest, key)?;
    figures.row(
        "settings of sysctl.d (buffers, redirects, hardening) in force",
        format!("all {settings}"),
    );
    equals(
        "ls /usr/bin/gcc /usr/bin/cc /usr/bin/python3 2>/dev/null | wc -l",
        "0",
    )?;
    equals("awk -F: '$2 !~ /^[!*]/' /etc/shadow", "")?;
    equals(
        "systemctl is-enabled ssh.service strongswan.service | sort -u",
        "disabled",
    )?;
    ensure!(
        on("journalctl --header | grep -c /var/log/journal")? != "0",
        "the journal does not outlive a reboot"
    );
    let bounds = on(
        "journalctl -q -b -o export 'JOURNAL_NAME=System Journal' | grep -aE '^(MAX_USE|DISK_KEEP_FREE)=' | sort -u",
    )?;
    ensure!(
        bounds.lines().eq(JOURNAL),
        "the journal's bounds: {bounds}, expected {JOURNAL:?}"
    );
    let updates = "privnet-security-updates.timer";
    equals(
        &format!("systemctl is-active {updates} || true"),
        "inactive",
    )?;
    equals(
        &format!("systemctl is-enabled {updates} || true"),
        "disabled",
    )?;
    ensure!(
        on("chronyc -n sources")?.contains("169.254.169.123"),
        "chrony does not ask Amazon"
    );
    let offload = on(
        "ethtool -k $(ip -o -4 route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/') | grep -E 'rx-(udp-gro-forwarding|gro-list):'",
    )?;
    ensure!(
        offload.contains("rx-udp-gro-forwarding: on") && offload.contains("rx-gro-list: off"),
        "{offload}"
    );
    figures.row(
        "swap, passwords, compilers; SSH and strongSwan by default",
        "none; off",
    );
    figures.row(
        "journal persistent, chrony at 169.254.169.123, UDP GRO forwarding",
        "yes",
    );
    figures.row(
        "the journal's bounds in force",
        "200 MB at most, 500 MB left free",
    );
    figures.row("automatic security updates, not asked for", "off");
    figures.row("running kernel", on("uname -r")?);
    // What EC2 has for a network card and a disk, and QEMU has not. `modinfo` knows modules
    // and what is built in.
    for driver in EC2_DRIVERS {
        equals(&format!("modinfo -F name {driver}"), driver)?;
    }
    figures.row("drivers for EC2 in that kernel", EC2_DRIVERS.join(", "));
    figures.row(
        "memory in use",
        on("free -m | awk '/^Mem/ { print $3 \" MB of \" $2 }'")?,
    );

    let rules = on("nft list table inet gateway")?;
    ensure!(rules.contains("policy drop"), "{rules}");
    let exposure: Vec<String> = [daemon, "privnet-boot", "privnet-firewall"]
        .iter()
        .map(|service| {
            let all = on(&format!(
                "systemd-analyze security --no-pager {service}.service"
            ))?;
            let last = all.lines().last().unwrap_or_default().trim();
            Ok(last.trim_start_matches("→ ").to_owned())
        })
        .collect::<Result<_>>()?;
    figures.quote("`systemd-analyze security`", &exposure.join("\n"));
    Ok(())
}

/// Compares the kernel's settings with the image's files; returns how many there are.
fn sysctls_are_in_force(guest: &Guest, key: &LoginKey) -> Result<usize> {
    let expected: Vec<(&str, &str)> = SYSCTLS
        .iter()
        .flat_map(|file| file.lines())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .collect();
    ensure!(expected.len() > 20, "the files are not read: {expected:?}");
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let names = names.join(" ");
    // One that the kernel has not is told in the value's place.
    let script = format!("for name in {names}; do echo \"$name = $(sysctl -n $name 2>&1)\"; done");
    let seen = guest.run(key, &script)?;
    let differs: Vec<String> = expected
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .zip(seen.lines())
        .filter(|(expected, seen)| expected != seen)
        .map(|(expected, seen)| format!("{seen}, expected {expected}"))
        .collect();
    ensure!(
        differs.is_empty() && seen.lines().count() == expected.len(),
        "{differs:?} in:\n{seen}"
    );
    Ok(expected.len())
}

/// Nobody but who is configured gets to the SSH port, though it listens and answers pings:
/// what is sent there is dropped.
pub(crate) fn stranger_is_kept_out(stranger: &Namespace, address: &str) -> Result<()> {
    const WAITED: i32 = 124;
    ensure!(
        stranger.ping(address, 3)? > 0,
        "{} does not even reach {address}",
        stranger.name()
    );
    let tried = stranger
        .command("timeout")
        .args(["3", "bash", "-c", &format!("</dev/tcp/{address}/22")])
        .output()?;
    ensure!(
        tried.status.code() == Some(WAITED),
        "{} at the SSH port of {address}: {}, expected no answer at all: {}",
        stranger.name(),
        tried.status,
        String::from_utf8_lossy(&tried.stderr)
    );
    Ok(())
}
