//! The clock. AWS refuses a request whose signature is more than five minutes away
//! from its own clock, and the log of a host that is a minute off is hard to read
//! beside others.

use std::time::Duration;

use privnet_model::doctor::{Area, Finding};

use super::Known;

const AREA: Area = Area::Host;

/// Where AWS's signatures stop to count ("Authenticating requests (AWS Signature
/// Version 4)": five minutes for EC2's query API; S3 has fifteen).
const BREAKS: Duration = Duration::from_secs(300);
/// What no clock that somebody keeps right is off by.
const ODD: Duration = Duration::from_secs(60);

/// How far this host's clock is from one of AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// By how much.
    pub by: Duration,
    /// Whether this host is ahead.
    pub ahead: bool,
}

/// What keeps the clock right, as far as is to be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// This service says that the clock is synchronised.
    Synchronised(&'static str),
    /// This service runs; whether it has succeeded it tells only those who ask it.
    Runs(&'static str),
    /// Nothing is to be seen.
    Nobody,
}

/// The clock, against AWS's own.
pub fn clock(offset: &Known<Offset>, keeper: &Keeper) -> Finding {
    let check = "clock";
    let keeper_told = match keeper {
        Keeper::Synchronised(name) => format!("synchronised by {name}"),
        Keeper::Runs(name) => format!("{name} runs"),
        Keeper::Nobody => "no service is to be seen that keeps it right".to_owned(),
    };
    let mended = |finding: Finding| {
        finding
            .mend("timedatectl set-ntp true")
            .mend("apt-get install -y chrony   # where there is no time service")
    };
    match (offset, keeper) {
        (Ok(offset), _) => {
            let side = if offset.ahead { "ahead of" } else { "behind" };
            // AWS's answers tell whole seconds.
            let seconds = offset.by.as_secs();
            let found = format!("{seconds} s {side} AWS's; {keeper_told}");
            if offset.by > BREAKS {
                let found = format!("{found}: AWS refuses what this host signs");
                mended(Finding::wrong(AREA, check, found))
            } else if offset.by > ODD {
                let found = format!("{found}; from 300 s on AWS refuses what this host signs");
                mended(Finding::warning(AREA, check, found))
            } else if seconds <= 1 {
                Finding::ok(AREA, check, format!("as AWS's; {keeper_told}"))
            } else {
                Finding::ok(AREA, check, found)
            }
        }
        (Err(_), Keeper::Synchronised(_)) => Finding::ok(AREA, check, keeper_told),
        (Err(why), Keeper::Runs(_) | Keeper::Nobody) => {
            let why = format!("nobody told the time ({why}); {keeper_told}");
            Finding::not_checked(AREA, check, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use privnet_model::doctor::Verdict;

    use super::*;

    fn judged(seconds: u64) -> Finding {
        let by = Duration::from_secs(seconds);
        clock(&Ok(Offset { by, ahead: false }), &Keeper::Nobody)
    }

    #[test]
    fn a_clock_that_is_off_is_told_before_it_breaks_signatures() {
        for (seconds, verdict) in [
            (0, Verdict::Ok),
            (60, Verdict::Ok),
            (61, Verdict::Warning),
            (300, Verdict::Warning),
            (301, Verdict::Wrong),
            (86_400, Verdict::Wrong),
        ] {
            let finding = judged(seconds);
            assert_eq!(finding.verdict, verdict, "{seconds} s");
            assert_eq!(finding.remedy.is_empty(), verdict == Verdict::Ok);
        }
        assert!(judged(400).found.contains("400 s behind AWS's"));
    }

    #[test]
    fn without_a_clock_to_compare_with_the_time_service_is_believed() {
        let unknown = Err("EC2 did not answer".to_owned());
        let name = "systemd-timesyncd";
        let finding = clock(&unknown, &Keeper::Synchronised(name));
        assert_eq!(finding.verdict, Verdict::Ok);
        for keeper in [Keeper::Runs("chronyd"), Keeper::Nobody] {
            let finding = clock(&unknown, &keeper);
            assert_eq!(finding.verdict, Verdict::NotChecked);
            assert!(finding.found.contains("EC2 did not answer"));
        }
    }
}
