//! The Linux host: what its kernel can do, and whether it is set up as the plan wants.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use privnet_model::doctor::{Area, Finding, quoted};
use privnet_model::offload::{Offload, OffloadObstacle};
use privnet_model::status::{ConnectionUse, EspStatus, FlowtableState, Role};

use super::{Known, service};
use crate::ruleset::{LoadedRuleset, Ruleset};
use crate::sysctl::SysctlKey;

const AREA: Area = Area::Host;

/// `CAP_NET_ADMIN`, as a bit of a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;
/// What the state file and its next version take with 10,000 spokes, several times.
const ENOUGH_BYTES: u64 = 64 << 20;
/// Below this nothing is left for a second copy beside the first.
const TOO_FEW_BYTES: u64 = 4 << 20;

/// The kernel's release.
pub fn kernel(release: &Known<String>) -> Finding {
    let check = "kernel";
    let release = match release {
        Ok(release) => release,
        Err(why) => return Finding::not_checked(AREA, check, why.clone()),
    };
    let mut bugs = Offload::ALL
        .into_iter()
        .filter_map(|offload| offload.known_bug(release));
    match bugs.next() {
        Some(OffloadObstacle::KnownBug { .. }) => {
            let found =
                format!("Linux {release} damages super-packets of UDP, so they are not used");
            Finding::warning(AREA, check, found)
                .mend("a newer kernel (package linux-image-cloud-amd64); reboot when it suits")
        }
        Some(_) | None => Finding::ok(AREA, check, format!("Linux {release}")),
    }
}

/// The device by which tunnels are made, if the config wants any.
pub fn tun(opened: &Known<()>) -> Finding {
    let check = "TUN";
    match opened {
        Ok(()) => Finding::ok(AREA, check, "/dev/net/tun can be opened"),
        Err(why) => Finding::wrong(AREA, check, why.clone())
            .mend("modprobe tun")
            .mend("echo tun > /etc/modules-load.d/privnet.conf   # at each boot"),
    }
}

/// strongSwan, where the config has IPsec tunnels: its program, and who does ESP; `xfrm` is
/// whether the kernel has the interfaces that its own needs.
pub fn charon(asked: &Known<(String, EspStatus)>, xfrm: &Known<()>) -> Finding {
    let check = "strongSwan";
    match asked {
        Ok((version, EspStatus::Kernel)) if let Err(why) = xfrm => Finding::wrong(
            AREA,
            check,
            format!("{version}, {}: {why}", EspStatus::Kernel),
        )
        .mend("systemctl restart strongswan   # after that"),
        Ok((version, esp)) => Finding::ok(AREA, check, format!("{version}, {esp}")),
        Err(why) => Finding::wrong(AREA, check, why.clone())
            .mend("systemctl enable --now strongswan   # packages and settings: ami/IPSEC.md"),
    }
}

/// Whether kernel and program can do NAT by nftables.
pub fn nftables(probed: &Known<()>) -> Finding {
    let check = "nftables";
    match probed {
        Ok(()) => Finding::ok(
            AREA,
            check,
            "masquerading and connection tracking are there",
        ),
        Err(why) => Finding::wrong(AREA, check, why.clone())
            .mend("apt-get install -y nftables")
            .mend("modprobe nft_masq nf_conntrack"),
    }
}

/// The short cut of established connections: as the running daemon says, else as tried.
pub fn flowtable(daemon: Option<&FlowtableState>, probed: &Known<()>) -> Finding {
    let check = "flowtable";
    let missing = |why: &str| {
        let found = format!("established connections do not take the kernel's short cut: {why}");
        Finding::warning(AREA, check, found).mend("modprobe nft_flow_offload nf_flow_table_inet")
    };
    match (daemon, probed) {
        (Some(FlowtableState::Configured), _) => {
            Finding::ok(AREA, check, "off, as the config says")
        }
        (Some(FlowtableState::On), _) => Finding::ok(AREA, check, "in use"),
        (Some(FlowtableState::Unsupported { error }), _) => missing(error),
        (None, Ok(())) => Finding::ok(AREA, check, "this kernel has it"),
        (None, Err(why)) => missing(why),
    }
}

/// How full the table of connections is.
pub fn connections(used: &Known<ConnectionUse>) -> Finding {
    let check = "conntrack";
    let used = match used {
        Ok(used) => used,
        Err(why) => return Finding::not_checked(AREA, check, why.clone()),
    };
    let ConnectionUse {
        tracked,
        limit,
        dropped,
        insert_failed,
        ..
    } = used;
    let percent = tracked.saturating_mul(100) / (*limit).max(1);
    let found = format!(
        "{tracked} connections of at most {limit} ({percent} %); since boot {dropped} packets \
         dropped, {insert_failed} of them for want of a source port"
    );
    let mend = |finding: Finding| {
        let more = limit.saturating_mul(2);
        finding
            .mend(format!(
                "connections = {more}   # in [nat] of the config file"
            ))
            .mend("idle_timeout = \"120s\"   # in [nat]: forgets idle connections sooner")
    };
    match percent {
        0..75 => Finding::ok(AREA, check, found),
        75..90 => mend(Finding::warning(AREA, check, found)),
        _ => mend(Finding::wrong(AREA, check, found)),
    }
}

/// The kernel settings that a router needs, against what they are. What the kernel does
/// not have is not among `is`.
pub fn sysctls(
    wanted: &BTreeMap<SysctlKey, String>,
    is: &Known<BTreeMap<SysctlKey, String>>,
    role: Role,
) -> Vec<Finding> {
    let is = match is {
        Ok(is) => is,
        Err(why) => return vec![Finding::not_checked(AREA, "sysctls", why.clone())],
    };
    let differs = wanted
        .iter()
        .filter_map(|(key, wanted)| Some((key, wanted, is.get(key)?)))
        .filter(|(_, wanted, is)| wanted != is);
    let mut findings: Vec<Finding> = differs
        .map(|(key, wanted, is)| {
            Finding::wrong(AREA, "sysctls", format!("{key} is {is}, expected {wanted}"))
                .mend(format!("sysctl -w {key}={wanted}"))
                .mend(format!(
                    "systemctl restart {}   # sets it, and every 30 s again: what sets it back?",
                    service(role)
                ))
        })
        .collect();
    if findings.is_empty() {
        let found = format!("{} as they should be", wanted.len());
        findings.push(Finding::ok(AREA, "sysctls", found));
    }
    findings
}

/// The table `inet privnet`, against what it should be: any of these, or with
/// `open_ended` more, which only the daemon knows.
pub fn ruleset(
    wanted: &[Ruleset],
    loaded: &Known<Option<LoadedRuleset>>,
    role: Role,
    open_ended: bool,
) -> Finding {
    let check = "nftables rules";
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(why) => return Finding::not_checked(AREA, check, why.clone()),
    };
    let fingerprints: Vec<_> = wanted.iter().map(Ruleset::fingerprint).collect();
    let empty = wanted.iter().any(Ruleset::is_empty);
    let service = service(role);
    match loaded {
        None if empty => Finding::ok(AREA, check, "none, as the config says"),
        None => Finding::wrong(AREA, check, "there is no table inet privnet")
            .mend(format!("systemctl restart {service}"))
            .mend(format!("journalctl -u {service} -n 30")),
        Some(LoadedRuleset::Intact(print)) if open_ended || fingerprints.contains(print) => {
            Finding::ok(AREA, check, "in place, and as they were loaded")
        }
        Some(LoadedRuleset::Intact(_)) => {
            let found = "those of another config or version: the config file was changed since";
            Finding::warning(AREA, check, found).mend(format!("systemctl reload {service}"))
        }
        Some(LoadedRuleset::Altered) => {
            let found = "somebody changed the table inet privnet by hand";
            Finding::warning(AREA, check, found)
                .mend(format!("systemctl reload {service}   # loads it anew"))
        }
    }
}

/// Capabilities: of the daemon where it runs, else of this program.
pub fn capabilities(daemon: Option<&Known<u64>>, own: &Known<u64>) -> Finding {
    let check = "capabilities";
    match (daemon, own) {
        (Some(Ok(set)), _) if set & NET_ADMIN == 0 => {
            Finding::wrong(AREA, check, "the daemon lacks CAP_NET_ADMIN")
                .mend("AmbientCapabilities=CAP_NET_ADMIN   # in its unit, as in ami/systemd")
        }
        (_, Ok(set)) if set & NET_ADMIN == 0 => {
            let found = "this program lacks CAP_NET_ADMIN, and so sees no rules";
            Finding::not_checked(AREA, check, found).mend("run this with sudo")
        }
        (Some(Err(why)), _) | (_, Err(why)) => Finding::not_checked(AREA, check, why.clone()),
        (Some(Ok(_)), Ok(_)) => Finding::ok(AREA, check, "the daemon has CAP_NET_ADMIN"),
        (None, Ok(_)) => Finding::ok(AREA, check, "this program has CAP_NET_ADMIN"),
    }
}

/// A file that holds a key or a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretFile {
    /// Its mode's last nine bits.
    pub mode: u32,
    /// Whether it is a file and no directory or device.
    pub is_file: bool,
}

/// A file that holds a key or a secret, under the name of what it is; `None` if there is
/// no such file, which is fine where the daemon makes it (`made`).
pub fn secret_file(
    what: &str,
    path: &Path,
    found: &Known<Option<SecretFile>>,
    made: bool,
) -> Finding {
    let path = path.display();
    let word = quoted(&path.to_string());
    match found {
        Err(why) => Finding::not_checked(AREA, what, why.clone()),
        Ok(None) if made => {
            let found = format!("{path}: none yet; the daemon makes it at its first start");
            Finding::ok(AREA, what, found)
        }
        Ok(None) => Finding::wrong(AREA, what, format!("{path}: there is no such file"))
            .mend(format!("install -o privnet -g privnet -m 0600 FILE {word}")),
        Ok(Some(file)) if !file.is_file => {
            Finding::wrong(AREA, what, format!("{path} is not a regular file"))
                .mend("name another path in the config file")
        }
        Ok(Some(file)) if file.mode & 0o077 != 0 => {
            let mode = file.mode;
            let found = format!("{path} has mode {mode:04o}: others than its owner can read it");
            Finding::wrong(AREA, what, found).mend(format!("chmod 0600 {word}"))
        }
        Ok(Some(file)) => Finding::ok(AREA, what, format!("{path}, mode {:04o}", file.mode)),
    }
}

/// Room for the state file, in bytes that this user can write.
pub fn disk(path: &Path, free: &Known<u64>) -> Finding {
    let check = "disk";
    let path = path.display();
    let free = match free {
        Ok(free) => *free,
        Err(why) => return Finding::not_checked(AREA, check, why.clone()),
    };
    let found = format!("{} MB free for {path}", free >> 20);
    let mend = |finding: Finding| {
        finding
            .mend("journalctl --vacuum-size=100M")
            .mend("du -xh / | sort -h | tail -20   # what takes the room")
    };
    match free {
        0..TOO_FEW_BYTES => mend(Finding::wrong(AREA, check, found)),
        TOO_FEW_BYTES..ENOUGH_BYTES => mend(Finding::warning(AREA, check, found)),
        _ => Finding::ok(AREA, check, found),
    }
}

/// Whether the name of EC2's endpoint has an address.
pub fn dns(name: &str, addresses: &Known<Vec<IpAddr>>) -> Finding {
    let check = "DNS";
    match addresses {
        Ok(addresses) if addresses.is_empty() => unresolved(&format!("{name} has no address")),
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            Finding::ok(AREA, check, format!("{name} is {}", addresses.join(", ")))
        }
        Err(why) => unresolved(&format!("{name}: {why}")),
    }
}

fn unresolved(found: &str) -> Finding {
    Finding::wrong(AREA, "DNS", found)
        .mend("resolvectl status   # a VPC's resolver is at 169.254.169.253")
        .mend("aws ec2 modify-vpc-attribute --region $REGION --vpc-id $VPC --enable-dns-support")
}

#[cfg(test)]
mod tests;
