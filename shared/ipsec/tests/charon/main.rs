//! The crate against the real charon, each case in network and mount namespaces of
//! its own:
//!
//! ```text
//!   10.1.0.1  us   192.0.2.1 ──── 192.0.2.2   peer  10.2.0.1
//!   (lo)      charon, told by this crate      charon, by a swanctl.conf   (lo)
//! ```
//!
//! The peer's configuration is written as the administrator of a firewall would, and
//! never by our generator. Both do ESP in userspace (`kernel-libipsec`), unless a
//! case says otherwise. Needs root or user namespaces, `unshare`, `ip`, `nft`,
//! `ping`, `openssl`, `swanctl` and `charon-systemd`; without them it fails and says so.
//! Nothing outside the namespaces is touched, and all of it is gone when the case
//! ends.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod associations;
mod certificates;
mod changes;
mod commands;
mod failures;
mod world;

use std::env;
use std::io::{Write, stderr};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// Set inside the namespaces: the case to run.
const CASE: &str = "PRIVNET_IPSEC_CASE";

type Case = (&'static str, fn());

/// Cases by their names: `cases![module::name, …]`.
macro_rules! cases {
    ($($module:ident::$name:ident),+ $(,)?) => {
        &[$((stringify!($name), || world::run($module::$name())),)+]
    };
}

const CASES: &[Case] = cases![
    associations::a_tunnel_comes_up_from_our_side_and_carries_packets,
    associations::a_tunnel_comes_up_from_the_peers_side,
    associations::an_old_firewall_is_reached_with_legacy_proposals_only,
    associations::rekeys_are_told_and_lose_no_packet,
    associations::we_may_be_behind_a_nat,
    associations::a_peer_behind_a_nat_is_known_by_its_identity,
    associations::kernel_esp_is_up_or_says_why_not,
    failures::a_wrong_key_is_told_on_both_sides,
    failures::proposals_that_differ_are_told_on_both_sides,
    failures::groups_that_differ_are_told_at_the_first_rekey,
    failures::selectors_that_differ_are_told_on_both_sides,
    failures::identities_that_differ_are_told_on_both_sides,
    failures::a_peer_that_does_not_answer_is_told,
    failures::a_peer_that_dies_is_told,
    certificates::certificates_instead_of_keys,
    certificates::certificates_that_are_not_trusted,
    changes::what_runs_is_adopted_after_a_restart_of_ours,
    changes::a_changed_connection_leaves_the_others_counters_running,
    changes::what_others_loaded_is_left_alone,
    commands::every_kind_of_connection_is_understood,
    commands::a_thousand_connections_are_loaded_and_fetched_in_seconds,
    commands::what_charon_refuses_is_told_in_its_words,
    commands::charon_killed_under_a_command_and_a_stream_of_events,
];

fn main() -> ExitCode {
    if let Ok(name) = env::var(CASE) {
        let case = CASES.iter().find(|case| case.0 == name);
        (case.expect("a known case").1)();
        return ExitCode::SUCCESS;
    }
    let trials = CASES
        .iter()
        .map(|case| Trial::test(case.0, || isolated(case.0)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs a case in namespaces of its own.
fn isolated(case: &'static str) -> Result<(), Failed> {
    let mut command = Command::new("unshare");
    if !is_root()? {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--"]);
    // A private /run holds `ip netns`' names and the daemons' files, a private
    // /proc the processes of this case.
    let prepare = "mount --make-rprivate / && mount -t proc proc /proc && \
                   mount -t tmpfs tmpfs /run && ip link set lo up && exec \"$@\"";
    command.args(["sh", "-c", prepare, "sh"]);
    command.arg(env::current_exe()?);
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.env(CASE, case).output()?;
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

fn is_root() -> std::io::Result<bool> {
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}
