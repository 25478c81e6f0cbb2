//! The daemon: whether it runs, and what it says of itself.

use std::path::Path;

use privnet_model::doctor::{Area, Finding};
use privnet_model::offload::{Offload, OffloadObstacle, OffloadReport, OffloadState};
use privnet_model::status::{Role, Status};

use super::{Known, service};

const AREA: Area = Area::Daemon;

/// What came of asking the daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Daemon {
    /// It runs, and said this.
    Runs(Box<Status>),
    /// Nobody listens on its socket.
    DoesNotRun,
    /// Its socket is not for this user.
    NotPermitted,
    /// It listens, and gave no answer that makes sense.
    Silent(String),
}

impl Daemon {
    /// What it says of itself; else why not.
    pub fn status(&self) -> Known<&Status> {
        match self {
            Self::Runs(status) => Ok(status),
            Self::DoesNotRun => Err("the daemon does not run".to_owned()),
            Self::NotPermitted => Err("no permission to ask the daemon".to_owned()),
            Self::Silent(problem) => Err(problem.clone()),
        }
    }
}

/// Whether it runs, and is of this version.
pub fn running(daemon: &Daemon, role: Role, socket: &Path, version: &str) -> Finding {
    let check = "running";
    let (service, socket) = (service(role), socket.display());
    match daemon {
        Daemon::Runs(status) if status.role != role => {
            let other = status.role.program();
            Finding::wrong(AREA, check, format!("on {socket} answers {other}"))
                .mend("give each daemon an `admin_socket` of its own in its config file")
        }
        Daemon::Runs(status) if status.version != version => {
            let found = format!(
                "the daemon is {}, this program {version}: it was not started anew since it was \
                 updated",
                status.version
            );
            Finding::warning(AREA, check, found).mend(format!("systemctl restart {service}"))
        }
        Daemon::Runs(status) => {
            let found = format!("{service} {version}, since {:.0}", status.started);
            Finding::ok(AREA, check, found)
        }
        Daemon::DoesNotRun => Finding::wrong(AREA, check, format!("no daemon answers on {socket}"))
            .mend(format!("systemctl enable --now {service}"))
            .mend(format!(
                "journalctl -u {service} -n 30   # if it does not stay up"
            )),
        Daemon::NotPermitted => {
            Finding::not_checked(AREA, check, format!("no permission to use {socket}"))
                .mend("run this with sudo, or as a member of the group privnet")
        }
        Daemon::Silent(problem) => Finding::wrong(AREA, check, problem.clone())
            .mend(format!("systemctl restart {service}"))
            .mend(format!("journalctl -u {service} -n 50")),
    }
}

/// What the daemon says is wrong, NAT that is not in place, and what keeps a spoke from
/// serving routes. Nothing, if it does not run.
pub fn said(status: &Status) -> Vec<Finding> {
    let service = service(status.role);
    let log = || format!("journalctl -u {service} -n 50");
    let mut findings: Vec<Finding> = status
        .problems
        .iter()
        .map(|problem| Finding::wrong(AREA, "problem", problem.clone()).mend(log()))
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, "problem", "it reports none"));
    }
    if let Some(nat) = &status.nat {
        let check = "NAT";
        findings.push(if nat.active {
            Finding::ok(AREA, check, format!("in place on {}", nat.interface))
        } else {
            let found = format!("its rules are not in place on {}", nat.interface);
            Finding::wrong(AREA, check, found).mend(log())
        });
    }
    if let Some(routes) = &status.routes {
        let check = "self-test";
        findings.push(match &routes.sick {
            None => Finding::ok(AREA, check, "passed"),
            Some(why) => {
                let found = format!("this spoke serves no route: {why}");
                Finding::wrong(AREA, check, found).mend(log())
            }
        });
    }
    if let Some(held) = &status.held_removals {
        findings.push(
            Finding::warning(AREA, "removals", held.to_string())
                .mend("tunnels refresh --dry-run   # which would go, and why")
                .mend("tunnels refresh --accept-removals   # only if they are meant to go"),
        );
    }
    if let Some(interface) = &status.interface {
        findings.push(offloads(&interface.offloads));
    }
    findings
}

/// Which offloads are in use. One that this kernel never had costs speed, and is no
/// news; one that it got wrong is.
fn offloads(report: &OffloadReport) -> Finding {
    let check = "offloads";
    let off = |which: fn(&OffloadObstacle) -> bool| -> Vec<String> {
        let off = report.iter().filter_map(|(offload, state)| match state {
            OffloadState::Off(why) if which(why) => Some(format!("{offload} is {state}")),
            OffloadState::Off(_) | OffloadState::On => None,
        });
        off.collect()
    };
    let bad = off(|why| {
        matches!(
            why,
            OffloadObstacle::KnownBug { .. } | OffloadObstacle::Rejected { .. }
        )
    });
    if !bad.is_empty() {
        return Finding::warning(AREA, check, bad.join("; "))
            .mend("install a newer kernel, or another instance type: nothing but speed is lost");
    }
    match off(|_| true) {
        off if off.is_empty() => Finding::ok(AREA, check, format!("all {} on", Offload::ALL.len())),
        off => Finding::ok(AREA, check, off.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use jiff::Timestamp;
    use privnet_model::doctor::Verdict;
    use privnet_model::inventory::HeldRemovals;
    use privnet_model::key::PrivateKey;
    use privnet_model::net::Supernet;
    use privnet_model::status::{FlowtableState, InterfaceStatus, NatStatus, RoutesStatus};

    use super::*;

    fn status() -> Status {
        Status {
            role: Role::Spoke,
            version: "1.0.0".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
            instance: None,
            privnet: Supernet::new(["10.0.0.0/8".parse().unwrap()]).unwrap(),
            interface: None,
            charon: None,
            nat: None,
            tunnels: Vec::new(),
            partitions: Vec::new(),
            next_poll: None,
            held_removals: None,
            policy: Vec::new(),
            routes: None,
            problems: Vec::new(),
        }
    }

    fn judged(daemon: &Daemon) -> Finding {
        running(
            daemon,
            Role::Spoke,
            Path::new("/run/privnet/spoke.sock"),
            "1.0.0",
        )
    }

    #[test]
    fn a_daemon_that_runs_is_well_and_all_else_has_its_remedy() {
        let runs = |status| Daemon::Runs(Box::new(status));
        let hub = Status {
            role: Role::Hub,
            ..status()
        };
        let old = Status {
            version: "0.9.0".to_owned(),
            ..status()
        };
        for (daemon, verdict, mend) in [
            (runs(status()), Verdict::Ok, ""),
            (runs(hub), Verdict::Wrong, "admin_socket"),
            (
                runs(old),
                Verdict::Warning,
                "systemctl restart privnet-spoke",
            ),
            (
                Daemon::DoesNotRun,
                Verdict::Wrong,
                "systemctl enable --now privnet-spoke",
            ),
            (Daemon::NotPermitted, Verdict::NotChecked, "sudo"),
            (
                Daemon::Silent("it did not answer within 2 s".to_owned()),
                Verdict::Wrong,
                "systemctl restart privnet-spoke",
            ),
        ] {
            let finding = judged(&daemon);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.remedy.join("\n").contains(mend), "{finding:?}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_answer_says_nothing() {
        assert!(Daemon::Runs(Box::new(status())).status().is_ok());
        for daemon in [
            Daemon::DoesNotRun,
            Daemon::NotPermitted,
            Daemon::Silent("x".to_owned()),
        ] {
            assert!(daemon.status().is_err());
        }
    }

    #[test]
    fn a_daemon_without_complaints_is_well() {
        let mut status = status();
        status.nat = Some(nat(true));
        status.routes = Some(RoutesStatus::default());
        status.interface = Some(interface([].into()));
        let findings = said(&status);
        let checks: Vec<&str> = findings.iter().map(|it| it.check.as_str()).collect();
        assert_eq!(checks, ["problem", "NAT", "self-test", "offloads"]);
        for finding in findings {
            assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        }
    }

    fn nat(active: bool) -> NatStatus {
        NatStatus {
            active,
            interface: "ens5".to_owned(),
            sources: Vec::new(),
            forwards: Vec::new(),
            redirects: Vec::new(),
            flowtable: FlowtableState::On,
            connections: None,
            destinations: Vec::new(),
        }
    }

    fn interface(offloads: OffloadReport) -> InterfaceStatus {
        InterfaceStatus {
            name: "privnet0".to_owned(),
            public_key: PrivateKey::from_random([1; 32]).public(),
            listen_port: 51820,
            mtu: 1440,
            offloads,
            counters: [].into(),
            drops: [].into(),
        }
    }

    #[test]
    fn what_the_daemon_complains_of_is_told() {
        let mut status = status();
        status.problems = vec!["tags not published: no".to_owned()];
        status.nat = Some(nat(false));
        status.routes = Some(RoutesStatus {
            sick: Some("no way to the internet".to_owned()),
            ..RoutesStatus::default()
        });
        status.held_removals = Some(HeldRemovals {
            since: Timestamp::UNIX_EPOCH,
            count: 2,
            of: 7,
        });
        let findings = said(&status);
        let told: Vec<(&str, Verdict)> = findings
            .iter()
            .map(|it| (it.check.as_str(), it.verdict))
            .collect();
        assert_eq!(
            told,
            [
                ("problem", Verdict::Wrong),
                ("NAT", Verdict::Wrong),
                ("self-test", Verdict::Wrong),
                ("removals", Verdict::Warning),
            ]
        );
        assert!(findings[2].found.contains("no way to the internet"));
        assert!(findings[3].found.contains("2 of 7 tunnels"));
        assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
    }

    #[test]
    fn an_offload_that_the_kernel_lacks_is_no_trouble_and_one_that_it_gets_wrong_is() {
        let off = |why| OffloadReport::from([(Offload::UdpGso, OffloadState::Off(why))]);
        let lacks = offloads(&off(OffloadObstacle::Unsupported));
        assert_eq!(lacks.verdict, Verdict::Ok);
        assert!(lacks.found.contains("udp_gso is off: this kernel lacks it"));
        let configured = offloads(&off(OffloadObstacle::Configured));
        assert_eq!(configured.verdict, Verdict::Ok);
        let kernel = "7.0.3".to_owned();
        let error = "EIO".to_owned();
        for bad in [
            OffloadObstacle::KnownBug { kernel },
            OffloadObstacle::Rejected { error },
        ] {
            assert_eq!(offloads(&off(bad)).verdict, Verdict::Warning);
        }
    }
}
