//! The host crate against a real kernel, each case in network and mount
//! namespaces of its own:
//!
//! ```text
//!   private 10.1.0.5 ──── 10.1.0.1 lan   router   wan 192.0.2.1 ──── internet 192.0.2.80
//!           fd01::5           fd01::1             tunnel 172.31.0.1      (and 10.2.0.5)
//!                                                   └──────────────── far 172.31.0.2
//! ```
//!
//! Cases of forwards and redirects add a `target` 10.1.0.6 beside `private`, at the
//! router's `lan2` 10.1.0.2: to `private` it has a way of its own, as two hosts of
//! a VPC do.
//!
//! The case runs in `router`'s place; `private`, `internet` and `far` are made
//! by the cases that need traffic. Needs root or user namespaces, `unshare`,
//! `setpriv`, `ip`, `nft`; without them it fails and says so. Nothing outside
//! the namespaces is touched, and all of it is gone when the case ends.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

mod connections;
mod diversions;
mod hosts;
mod interfaces;
mod kept;
mod routes;
mod rules;
mod traffic;
mod world;

use std::env;
use std::io::{Write, stderr};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

/// Set inside the namespaces: the case to run.
const CASE: &str = "PRIVNET_HOST_CASE";

struct Case {
    name: &'static str,
    /// Started through this command, which takes something away from it.
    through: &'static [&'static str],
    run: fn(),
}

const CASES: &[Case] = &[
    case(
        "routes_are_made_changed_and_removed_and_foreign_ones_stay",
        routes::made_changed_removed,
    ),
    case(
        "a_foreign_route_in_our_place_is_an_error_and_stays",
        routes::foreign_in_our_place,
    ),
    case(
        "routes_altered_by_hand_are_put_right",
        routes::altered_by_hand,
    ),
    case(
        "ten_thousand_routes_are_made_in_seconds",
        routes::ten_thousand,
    ),
    case(
        "addresses_come_and_go_on_the_tunnel_interface_only",
        interfaces::addresses,
    ),
    case(
        "an_xfrm_interface_is_made_and_kept_or_its_lack_is_told",
        interfaces::xfrm,
    ),
    case(
        "interfaces_are_found_by_hardware_address",
        interfaces::found_by_mac,
    ),
    case(
        "the_default_gateway_is_that_of_the_interface",
        interfaces::default_gateway,
    ),
    case(
        "sysctls_are_set_and_a_missing_one_stops_nothing",
        interfaces::sysctls,
    ),
    case("rules_are_loaded_once_and_known_again", rules::loaded_once),
    case(
        "rules_altered_by_hand_are_loaded_again",
        rules::altered_by_hand,
    ),
    case("foreign_tables_stay", rules::foreign_tables),
    case(
        "what_the_policy_denies_is_counted_and_unseals_nothing",
        rules::denied,
    ),
    case(
        "the_internet_sees_the_routers_address_and_the_privnet_the_hosts_own",
        traffic::masquerade,
    ),
    case(
        "tcp_through_the_tunnel_agrees_on_segments_that_fit",
        traffic::clamp,
    ),
    case(
        "a_forward_is_open_to_its_callers_alone",
        diversions::open_to_its_callers_alone,
    ),
    case(
        "forwards_of_ranges_and_of_udp_keep_or_move_their_ports",
        diversions::ranges_and_udp,
    ),
    case(
        "a_forward_can_be_called_from_inside",
        diversions::from_inside,
    ),
    case(
        "a_redirect_takes_what_goes_outside_but_never_a_proxys_own",
        diversions::redirects,
    ),
    case(
        "diverting_rules_are_known_again_and_put_back",
        diversions::known_again,
    ),
    case(
        "rules_are_replaced_under_running_and_new_connections",
        connections::replaced_while_in_use,
    ),
    case(
        "a_connection_that_was_idle_for_too_long_goes_on_when_the_private_host_speaks",
        connections::idle,
    ),
    case(
        "established_connections_take_the_short_cut_where_there_is_one",
        connections::short_cut,
    ),
    case(
        "used_up_source_ports_are_noticed",
        connections::ports_used_up,
    ),
    case(
        "the_kernel_is_asked_what_it_can_and_nothing_is_loaded",
        connections::kernel,
    ),
    case(
        "an_addresss_connections_are_entered_listed_and_forgotten",
        kept::entered_and_forgotten,
    ),
    case(
        "an_addresss_connections_are_told_as_they_come_and_go_and_held",
        kept::told_as_they_come_and_go,
    ),
    Case {
        name: "without_privileges_the_error_says_what_is_missing",
        through: &["setpriv", "--bounding-set", "-all"],
        run: interfaces::without_privileges,
    },
    Case {
        name: "without_nft_the_error_says_what_to_install",
        through: &["env", "PATH=/nowhere"],
        run: rules::without_nft,
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
    if hosts::play() {
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
    if !is_root()? {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--"]);
    // A private /run holds `ip netns`' names, a private /proc the
    // processes of this case.
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

fn is_root() -> std::io::Result<bool> {
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}
