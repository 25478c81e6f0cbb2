//! The namespace tests: the real programs, in worlds of their own.
//!
//! Each test runs in a process inside private namespaces (see
//! `privnet_tests::isolation`), so that tests can run side by side and nothing
//! is left of one that was killed. Under `cargo test`, `cargo nextest` and by
//! hand: `netns NAME`. Nothing is skipped: a missing tool is a failure.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test reports")]

mod addresses;
mod bad_input;
mod config_parameter;
mod connections;
mod demo_network;
mod doctor;
mod dropin;
mod enrolment;
mod failover;
mod false_answers;
mod faults;
mod first_start;
mod hub_faults;
mod iam;
mod ipsec;
mod ipsec_spokes;
mod keys;
mod offload_matrix;
mod offloads;
mod path_mtu;
mod policy;
mod remedy;
mod route_tables;
mod scale;
mod spoke_nat;
mod star;
mod static_site;
mod takeover;
mod templates;
mod three_zones;
mod traffic;
mod upgrades;
mod userspace_api;
mod vpc_routes;
mod wireguard_interop;
mod wireguard_pair;
mod world;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use privnet_tests::isolation;
use privnet_tests::namespace::logs;
use privnet_tests::process::log_tail;
use privnet_tests::tuning::Tuning;

/// A test by name.
type Test = (&'static str, fn() -> Result<()>);

/// The tests of a module, named as in a path: `tests![hosts::a_test, hosts::another]`.
macro_rules! tests {
    ($($module:ident::$name:ident),+ $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name)),+]
    };
}

const TESTS: &[Test] = tests![
    bad_input::check_tells_everything_that_is_wrong_at_once_with_its_line,
    bad_input::a_config_file_that_is_not_there_is_named,
    bad_input::a_key_file_that_makes_no_sense_is_never_overwritten,
    bad_input::a_second_hub_on_the_same_socket_says_so_and_harms_nothing,
    bad_input::a_port_in_use_is_named,
    bad_input::without_privileges_it_says_which_it_needs,
    bad_input::without_a_tun_device_it_says_so,
    bad_input::garbage_at_the_hubs_port_disturbs_no_tunnel,
    bad_input::a_spoke_off_ec2_says_so,
    config_parameter::it_comes_as_it_was_put_and_an_exit_code_says_whether_to_ask_again,
    demo_network::the_hub_finds_every_spoke_at_boot_and_routes_between_them,
    demo_network::private_hosts_reach_the_internet_as_their_gateway,
    demo_network::a_spoke_launched_later_joins_and_a_terminated_one_leaves,
    demo_network::a_gigabyte_crosses_the_relay_with_its_checksum,
    demo_network::a_hub_restarted_while_the_api_is_down_restores_every_tunnel,
    demo_network::a_restarted_spoke_carries_traffic_again,
    demo_network::tunnels_tells_of_a_daemon_that_does_not_run_in_one_line,
    demo_network::a_dry_run_tells_what_would_change_and_changes_nothing,
    keys::a_spoke_changes_its_key_without_losing_a_packet,
    keys::the_hub_changes_its_key_without_losing_a_packet,
    ipsec::a_firewall_and_wireguard_spokes_reach_each_other,
    ipsec::a_key_in_ssm_is_taken_when_it_is_there,
    ipsec::what_runs_goes_on_while_ssm_does_not_give_the_key,
    ipsec::the_kernel_does_esp_or_its_lack_is_explained,
    ipsec::a_firewall_behind_a_nat_calls_the_hub,
    ipsec::what_is_wrong_is_told_in_plain_words,
    ipsec::what_is_wrong_with_one_who_calls_is_told,
    ipsec::nothing_leaves_in_clear_whatever_dies,
    ipsec::a_change_of_one_site_leaves_the_other_alone,
    ipsec::the_policy_holds_between_ipsec_sites,
    ipsec::rekeys_by_the_clock_lose_nothing,
    ipsec::who_asks_for_anothers_addresses_gets_none_of_them,
    ipsec::a_firewall_and_the_hub_prove_themselves_by_certificates,
    ipsec_spokes::a_spoke_without_its_secret_sends_nothing_in_clear,
    ipsec_spokes::a_spoke_by_ipsec_is_discovered_listed_and_removed,
    ipsec_spokes::a_spoke_by_ipsec_goes_to_the_next_hub_when_one_dies,
    ipsec_spokes::a_cidr_that_strongswans_own_esp_cannot_serve_is_told,
    ipsec_spokes::a_new_spoke_by_ipsec_joins_when_it_calls,
    ipsec_spokes::spokes_by_ipsec_serve_a_zone_each_and_stand_in_for_each_other,
    ipsec_spokes::of_two_hubs_the_next_serves_its_private_network_when_one_dies,
    policy::sites_that_may_not_talk_do_not_and_the_operator_is_told_why,
    policy::a_first_policy_that_cannot_be_closes_the_hub_until_it_is_removed,
    failover::each_zone_of_a_vpc_is_reached_through_its_own_spoke,
    failover::a_gateway_that_hangs_is_replaced_within_seconds_and_comes_back,
    doctor::a_healthy_spoke_is_well_and_everything_that_breaks_is_named,
    doctor::a_healthy_hub_is_well_and_everything_that_breaks_is_named,
    doctor::a_narrow_way_and_a_nearly_full_connection_table_are_named,
    dropin::another_listen_port_takes_the_peers_along,
    dropin::a_port_that_is_taken_is_refused_and_the_old_one_stays,
    dropin::peers_endpoints_keepalives_and_allowed_ips_change_without_a_lost_packet,
    dropin::a_preshared_key_comes_changes_and_goes,
    dropin::another_private_key_is_another_peer,
    dropin::the_firewall_mark_is_on_what_is_sent_in_both_families,
    dropin::the_most_specific_allowed_ips_win,
    dropin::the_interface_works_in_another_namespace_while_the_sockets_stay,
    dropin::the_device_ends_with_the_namespace_that_its_interface_moved_to,
    dropin::a_new_mtu_is_noticed_here_and_in_another_namespace,
    dropin::packets_as_large_as_an_interface_can_have_cross_whole_in_both_directions,
    dropin::a_deleted_interface_ends_the_device_under_load,
    dropin::a_peer_that_roams_between_families_and_ports_is_followed,
    dropin::answers_come_from_the_address_that_was_asked_until_it_is_gone,
    dropin::a_link_local_endpoint_is_on_the_interface_that_it_names,
    enrolment::the_hub_answers_inside_its_tunnels_alone_and_knows_who_asks,
    enrolment::a_fleet_secret_lets_in_who_has_it_and_changes_without_a_lost_packet,
    enrolment::a_hub_that_wants_proofs_lets_in_who_gives_one,
    enrolment::a_spoke_that_gives_no_proof_is_kept_out,
    faults::whatever_way_the_api_fails_no_packet_is_lost_and_it_heals,
    faults::a_throttled_api_costs_no_packet_and_is_named,
    faults::a_slow_api_costs_no_packet_and_is_waited_for,
    faults::an_answer_that_stops_between_its_pages_costs_no_packet,
    faults::an_api_that_resets_or_swallows_connections_costs_no_packet,
    faults::a_region_that_is_down_for_long_keeps_its_tunnels_while_others_change,
    faults::a_role_that_is_refused_costs_no_packet_and_only_its_own_account,
    false_answers::an_empty_list_takes_no_tunnel_that_works,
    false_answers::a_spoke_that_only_a_search_misses_is_not_missed,
    false_answers::instances_without_tags_prove_nothing,
    false_answers::what_somebody_else_wrote_into_a_tag_takes_no_tunnel_that_works,
    false_answers::many_removals_at_once_wait_for_the_operator,
    false_answers::a_region_that_is_mistyped_in_the_config_takes_no_tunnel,
    false_answers::a_spoke_that_is_untagged_and_handshakes_goes_when_the_operator_names_it,
    first_start::who_cannot_serve_claims_nothing_and_says_why,
    hub_faults::a_hub_that_starts_without_the_api_finds_the_spokes_when_it_is_back,
    hub_faults::a_hangup_signal_asks_for_a_poll,
    hub_faults::the_interval_asks_for_a_poll,
    hub_faults::a_region_that_hangs_at_the_first_poll_holds_up_no_other,
    hub_faults::a_new_spoke_is_up_within_seconds_though_the_hub_polls_by_the_hour,
    hub_faults::a_spoke_that_knocks_for_long_before_it_publishes_is_up_within_seconds_then,
    hub_faults::a_damaged_state_cache_is_kept_aside_and_rebuilt,
    hub_faults::instances_that_lack_something_are_listed_with_the_reason,
    iam::the_hubs_policy_is_enough_for_the_hub_and_another_is_refused,
    iam::each_role_is_refused_what_it_has_no_use_for,
    iam::a_spoke_that_may_not_read_the_fleets_secret_says_so_and_does_the_rest,
    offload_matrix::every_offload_on_and_off_with_one_worker,
    offload_matrix::every_offload_on_and_off_with_two_workers,
    offload_matrix::every_offload_on_and_off_with_four_workers,
    offload_matrix::a_link_without_checksum_offload_carries_everything,
    offload_matrix::a_link_narrower_than_the_tunnel_loses_segmentation_and_no_other_does,
    offloads::with_all_offloads_off_the_traffic_goes_on_and_the_reason_is_told,
    offloads::by_default_what_this_kernel_has_is_on_and_stays_on_under_load,
    offloads::metrics_are_scraped_on_the_socket_and_on_loopback_and_not_from_outside,
    path_mtu::a_full_packet_that_may_not_be_fragmented_is_told_the_tunnels_mtu,
    path_mtu::the_largest_packet_that_fits_crosses_whole,
    path_mtu::large_packets_that_may_be_fragmented_cross,
    path_mtu::tcp_never_stalls_even_where_icmp_is_lost,
    path_mtu::a_used_up_hop_limit_is_answered_by_each_router_on_the_way_and_not_too_often,
    remedy::one_that_stays_lost_is_restarted_once_and_no_other_ever,
    remedy::a_restart_that_is_not_permitted_is_named_and_nothing_is_stopped_for_good,
    remedy::one_of_an_auto_scaling_group_is_reported_to_it_once,
    route_tables::what_is_in_the_way_in_a_table_is_named_and_left_alone,
    route_tables::a_host_in_a_public_subnet_is_known_to_a_data_centre_by_the_spokes_address,
    scale::a_thousand_spokes_in_ten_regions_and_three_accounts,
    spoke_nat::egress_never_stops_while_the_daemon_is_down,
    spoke_nat::established_connections_outlive_the_daemon,
    spoke_nat::what_others_configured_is_left_alone,
    spoke_nat::a_rule_that_somebody_removed_comes_back,
    spoke_nat::inside_the_privnet_nothing_is_translated,
    spoke_nat::a_forward_and_a_redirect_lead_through_the_spoke,
    spoke_nat::a_server_sees_no_source_ports_but_the_configured_ones,
    spoke_nat::a_server_tells_the_hosts_apart_by_their_source_ports,
    static_site::a_data_centre_that_calls_the_hub_reaches_every_spoke,
    static_site::a_site_comes_and_goes_with_the_config_file_and_a_hangup,
    static_site::a_key_in_ssm_is_taken_when_it_is_there_and_kept_when_ssm_is_away,
    takeover::an_instance_that_fails_or_hangs_is_stood_in_for,
    takeover::what_breaks_beneath_a_spoke_that_lives_is_noticed,
    takeover::a_daemon_that_crashes_and_is_back_at_once_keeps_its_routes,
    takeover::a_throttled_or_absent_ec2_delays_a_takeover_and_breaks_nothing,
    takeover::a_helper_that_ec2_refuses_is_stepped_in_for_by_the_next,
    takeover::a_split_between_siblings_costs_nothing_and_two_losses_at_once_are_covered,
    takeover::a_split_while_ec2_is_away_ends_in_no_fight_and_with_every_table_at_home,
    takeover::a_spoke_whose_tunnel_dies_leaves_the_privnet_to_a_sibling,
    takeover::a_spoke_that_flaps_loses_its_routes_for_longer_each_time,
    takeover::a_missing_permission_is_named_and_everything_else_goes_on,
    takeover::a_planned_stop_loses_one_request_at_most,
    takeover::who_is_told_that_it_will_go_hands_over_before,
    templates::the_hub_of_a_template_finds_the_spokes_of_another,
    templates::the_whole_cloud_is_made_from_one_document,
    templates::the_demo_runs_on_what_the_templates_made,
    templates::every_role_may_do_what_ami_iam_says_and_its_user_data_is_valid,
    upgrades::a_hub_that_is_upgraded_is_missed_for_less_than_three_seconds,
    upgrades::a_spoke_that_is_upgraded_in_place_goes_on_with_nat,
    userspace_api::every_request_has_the_answer_and_the_effect_that_wireguard_go_gives_it,
    userspace_api::one_request_sets_130_000_allowed_ips_under_traffic_and_get_returns_all,
    userspace_api::clients_at_one_time_each_get_what_they_asked_for,
    userspace_api::clients_that_never_read_or_never_finish_hold_up_nobody,
    userspace_api::a_line_or_a_request_without_end_is_given_up,
    wireguard_interop::handshakes_and_traffic_when_we_call,
    wireguard_interop::handshakes_and_traffic_when_they_call,
    wireguard_interop::handshakes_and_traffic_over_ipv6,
    wireguard_interop::traffic_goes_on_without_loss_across_several_rekeys,
    wireguard_interop::both_follow_a_peer_to_its_new_address,
    wireguard_interop::an_idle_tunnel_is_kept_alive_by_either_side,
    wireguard_interop::a_preshared_key_must_be_the_same_on_both_sides,
    wireguard_interop::a_packet_from_an_address_that_is_not_the_peers_is_dropped,
    wireguard_interop::garbage_at_the_port_is_dropped_and_harms_nothing,
    wireguard_interop::a_peer_that_is_removed_is_cut_off_at_once,
    wireguard_interop::the_program_ends_when_its_interface_is_deleted,
    addresses::the_address_that_two_spokes_name_goes_along_with_their_routes,
    addresses::of_a_pool_each_spoke_takes_one_and_keeps_it,
    addresses::what_is_in_the_way_is_named_and_everything_else_works,
    connections::connections_outlive_the_spoke_that_carried_them,
    connections::without_it_they_end,
    vpc_routes::a_spoke_that_hangs_or_dies_is_stood_in_for,
    vpc_routes::a_spoke_without_egress_serves_nothing_until_it_has_it_again,
    vpc_routes::a_spoke_that_stops_hands_its_routes_over_first,
    world::an_instance_with_a_public_address_is_seen_by_it,
    world::without_a_public_address_nothing_leaves_or_enters,
    world::a_private_hosts_packets_reach_the_instance_its_route_names,
    world::metadata_is_given_only_for_a_token,
    world::the_api_knows_the_instances_and_their_addresses,
    world::the_proxy_breaks_only_what_it_is_told_to,
];

fn main() -> ExitCode {
    if isolation::inside() {
        return run_inside();
    }
    let trials = TESTS
        .iter()
        .map(|(name, _)| Trial::test(*name, move || run_outside(name)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs one test in a process inside.
fn run_outside(name: &str) -> Result<(), Failed> {
    let output = isolation::again([OsString::from(name)])
        .and_then(|mut command| {
            command
                .env("RUST_LIB_BACKTRACE", "1")
                .stdin(Stdio::null())
                .output()
                .context("cannot run unshare")
        })
        .map_err(|error| Failed::from(format!("{error:#}")))?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        print!("{said}");
        return Ok(());
    }
    Err(Failed::from(format!("{}\n{said}", output.status)))
}

fn run_inside() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let outcome = TESTS
        .iter()
        .find(|(known, _)| *known == name)
        .with_context(|| format!("no test is called {name}"))
        .and_then(|(_, test)| {
            Tuning::from_environment()?;
            isolation::settle()?;
            test()
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            // Of the backtrace, only where in a test it was: the rest is the way there.
            let backtrace = error.backtrace().to_string();
            for place in backtrace
                .lines()
                .filter(|line| line.contains("/netns/") && !line.contains("main.rs"))
            {
                eprintln!("  {}", place.trim());
            }
            print_logs();
            ExitCode::FAILURE
        }
    }
}

/// The ends of the logs of the programs under test, without the world's own servers.
fn print_logs() {
    const SERVERS: [&str; 4] = ["-imds.log", "-web.log", "-proxy.log", "-moto.log"];
    let entries = std::fs::read_dir(logs()).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let name = file.to_string_lossy().into_owned();
        if !SERVERS.iter().any(|server| name.ends_with(server)) {
            eprintln!("{}", log_tail(&file, 25));
        }
    }
}
