//! The self-test of NAT egress against a real kernel, each case in network and mount
//! namespaces of its own:
//!
//! ```text
//!   privnet-test ──── spoke ──── wan 10.1.0.10 ──── 10.1.0.1 internet 203.0.113.80:80 listens
//!   (169.254.78.2)                                                    203.0.113.81:80 refuses
//!                                                                     203.0.113.82:80 is silent
//!                                                                     203.0.113.83:80 has no route
//! ```
//!
//! The case runs in `spoke`'s place: a real `Router` with NAT egress, and a
//! `SelfTester`. `internet` knows no way to 169.254.78.2, as the internet knows none to
//! a host of the VPC. The kernel checks sources strictly (`rp_filter`). Needs root or
//! user namespaces, `unshare`, `setpriv`, `ip`, `nft`; without them it fails and says so.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
#![expect(clippy::print_stderr, reason = "figures, for who wants to see them")]

mod cases;
mod network;

use std::env;
use std::io::{Write, stderr};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// Set inside the namespaces: the case to run.
const CASE: &str = "PRIVNET_SELF_TEST_CASE";

struct Case {
    name: &'static str,
    /// Started through this command, which takes something away from it.
    through: &'static [&'static str],
    run: fn(),
}

const CASES: &[Case] = &[
    case(
        "each_target_is_told_apart_and_none_of_their_programs_hears_of_it",
        cases::each_target,
    ),
    case("a_deleted_table_is_seen_and_mended", cases::table_deleted),
    case("missing_masquerading_is_seen", cases::masquerade_missing),
    case("forwarding_switched_off_is_seen", cases::forwarding_off),
    case("a_strangers_filter_is_seen", cases::foreign_filter),
    case("an_uplink_that_is_down_is_seen", cases::uplink_down),
    case("a_missing_default_route_is_seen", cases::no_default_route),
    case("an_upstream_that_drops_is_seen", cases::upstream_drops),
    case(
        "what_is_mended_at_the_first_bad_round_is_no_fault",
        cases::mended_in_time,
    ),
    case("the_interface_is_made_anew", cases::interface_deleted),
    case(
        "a_tenth_of_the_packets_lost_is_no_fault",
        cases::lossy_upstream,
    ),
    Case {
        name: "without_privileges_it_is_sick_and_says_what_is_missing",
        through: &["setpriv", "--bounding-set", "-all"],
        run: cases::without_privileges,
    },
];

const fn case(name: &'static str, run: fn()) -> Case {
    Case {
        name,
        through: &[],
        run,
    }
}

fn main() -> ExitCode {
    if network::play_a_server() {
        return ExitCode::SUCCESS;
    }
    if let Ok(name) = env::var(CASE) {
        let case = CASES.iter().find(|case| case.name == name);
        (case.expect("a known case").run)();
        return ExitCode::SUCCESS;
    }
    let trials = CASES
        .iter()
        .map(|case| Trial::test(case.name, || isolated(case)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs a case in namespaces of its own.
fn isolated(case: &'static Case) -> Result<(), Failed> {
    let mut command = Command::new("unshare");
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--"]);
    // A private /run holds `ip netns`' names, a private /proc the processes of this
    // case.
    let prepare = "mount --make-rprivate / && mount -t proc proc /proc && \
                   mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$@\"";
    command.args(["sh", "-c", prepare, "sh"]);
    command.args(case.through).arg(env::current_exe()?);
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.env(CASE, case.name).output()?;
    if output.status.success() {
        stderr().write_all(&output.stderr)?; // figures
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Failed::from(format!(
        "{} (root or user namespaces are needed)\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    )))
}
