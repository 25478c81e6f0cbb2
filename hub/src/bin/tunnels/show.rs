//! `tunnels show NAME`: every fact of one tunnel.

use std::path::Path;

use jiff::Timestamp;
use privnet_model::status::{Origin, Tunnel};

use crate::arguments::ShowOptions;
use crate::escape::{escape, escape_json};
use crate::exit::{Failure, Outcome};
use crate::output::Output;
use crate::table::state_style;
use crate::{connection, filter, units};

/// Prints the one tunnel that goes by the name.
pub(crate) async fn run(
    socket: Option<&Path>,
    options: &ShowOptions,
    output: &Output,
) -> Result<Outcome, Failure> {
    let (_, status) = connection::open(socket).await?;
    let tunnel = find(&status.tunnels, &options.name)?;
    let text = if options.json {
        escape_json(&serde_json::to_string_pretty(tunnel)?) + "\n"
    } else {
        render(tunnel, status.now)
    };
    output.print(&text)?;
    Ok(if options.check && !filter::is_well(tunnel) {
        Outcome::NotUp
    } else {
        Outcome::Done
    })
}

fn find<'a>(tunnels: &'a [Tunnel], name: &str) -> Result<&'a Tunnel, Failure> {
    let goes_by = |tunnel: &&Tunnel| {
        tunnel.name == name
            || tunnel
                .instance
                .as_ref()
                .is_some_and(|id| id.as_str() == name)
            || tunnel.vpc.as_ref().is_some_and(|id| id.as_str() == name)
    };
    let found: Vec<&Tunnel> = tunnels.iter().filter(goes_by).collect();
    let list = |tunnels: &[&Tunnel]| {
        let lines: Vec<String> = tunnels.iter().map(|tunnel| candidate(tunnel)).collect();
        lines.concat()
    };
    let shown = escape(name);
    match found.as_slice() {
        [tunnel] => Ok(tunnel),
        [] => {
            let alike: Vec<&Tunnel> = tunnels
                .iter()
                .filter(|tunnel| !name.is_empty() && tunnel.name.contains(name))
                .take(10)
                .collect();
            let hint = if alike.is_empty() {
                "; `tunnels list` shows what there is".to_owned()
            } else {
                format!("; did you mean{}", list(&alike))
            };
            let message = format!("no tunnel goes by {shown}{hint}");
            Err(Failure::new(Outcome::NoSuchTunnel, message))
        }
        several => {
            let message = format!(
                "{} tunnels go by {shown}; say which by its instance id:{}",
                several.len(),
                list(several)
            );
            Err(Failure::new(Outcome::NoSuchTunnel, message))
        }
    }
}

fn candidate(tunnel: &Tunnel) -> String {
    let facts = [
        tunnel.instance.as_ref().map(ToString::to_string),
        tunnel.vpc.as_ref().map(ToString::to_string),
        tunnel.region.as_ref().map(ToString::to_string),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    format!("\n  {}  {}", escape(&tunnel.name), facts.join("  "))
}

fn render(tunnel: &Tunnel, now: Timestamp) -> String {
    let style = state_style(tunnel.state);
    let text = |value: Option<&dyn ToString>| {
        value.map_or_else(Vec::new, |value| {
            vec![escape(&value.to_string()).into_owned()]
        })
    };
    let when = |time: Option<Timestamp>| {
        time.map_or_else(Vec::new, |time| {
            vec![format!("{} ago ({time:.0})", units::age(time, now))]
        })
    };
    let traffic = |total: u64, rate: f64| {
        let (total, rate) = (units::total(total), units::bytes(rate));
        vec![format!("{total}, now {rate}/s")]
    };
    let origin = match tunnel.origin {
        Origin::Discovered => "discovered in EC2",
        Origin::Static => "a site of the config",
        Origin::Hub => "a hub of the config",
    };
    let facts: [(&str, Vec<String>); 19] = [
        ("name", text(Some(&tunnel.name))),
        ("state", vec![format!("{style}{}{style:#}", tunnel.state)]),
        (
            "reason",
            text(tunnel.reason.as_ref().map(|reason| reason as _)),
        ),
        (
            "handshake",
            tunnel
                .last_handshake
                .map_or_else(|| vec!["never".to_owned()], |time| when(Some(time))),
        ),
        ("received", traffic(tunnel.rx_bytes, tunnel.rx_rate)),
        ("sent", traffic(tunnel.tx_bytes, tunnel.tx_rate)),
        (
            "cidrs",
            tunnel.cidrs.iter().map(ToString::to_string).collect(),
        ),
        (
            "excluded",
            tunnel
                .excluded
                .iter()
                .map(|left_out| {
                    let line = format!("{}: {}", left_out.cidr, left_out.why);
                    escape(&line).into_owned()
                })
                .collect(),
        ),
        ("transport", text(Some(&tunnel.transport))),
        (
            "endpoint",
            text(tunnel.endpoint.as_ref().map(|value| value as _)),
        ),
        (
            "private address",
            text(tunnel.private_address.as_ref().map(|value| value as _)),
        ),
        (
            "public key",
            text(tunnel.public_key.as_ref().map(|value| value as _)),
        ),
        ("origin", vec![origin.to_owned()]),
        (
            "account",
            text(tunnel.account.as_ref().map(|value| value as _)),
        ),
        (
            "region",
            text(tunnel.region.as_ref().map(|value| value as _)),
        ),
        ("zone", text(tunnel.zone.as_ref().map(|value| value as _))),
        ("vpc", text(tunnel.vpc.as_ref().map(|value| value as _))),
        (
            "instance",
            text(tunnel.instance.as_ref().map(|value| value as _)),
        ),
        ("launched", when(tunnel.launched)),
    ];
    let mut page = String::new();
    for (key, values) in facts {
        for (number, value) in values.iter().enumerate() {
            let key = if number == 0 {
                format!("{key}:")
            } else {
                String::new()
            };
            page += &format!("{key:<17}{value}\n");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use anstream::adapter::strip_str;

    use super::*;
    use crate::fixture;

    fn named<'a>(tunnels: &'a [Tunnel], name: &str) -> &'a Tunnel {
        tunnels.iter().find(|tunnel| tunnel.name == name).unwrap()
    }

    #[test]
    fn the_page_of_a_tunnel() {
        let status = fixture::hub();
        let page = render(named(&status.tunnels, "prod-web"), status.now);
        let (page, golden) = (
            strip_str(&page).to_string(),
            include_str!("golden/show.txt"),
        );
        assert!(page == golden, "expected:\n{golden}\nbut it is:\n{page}");
    }

    #[test]
    fn a_tunnel_goes_by_its_name_its_instance_and_its_vpc() {
        let tunnels = fixture::hub().tunnels;
        for name in ["prod-web", "i-0bbbbbbbbbbbbbbb1", "vpc-0aaaaaaaaaaaaaaa1"] {
            assert_eq!(find(&tunnels, name).unwrap().name, "prod-web");
        }
    }

    #[test]
    fn of_several_the_candidates_are_told() {
        let mut tunnels = fixture::hub().tunnels;
        let vpc = tunnels[1].vpc.clone();
        tunnels[2].vpc = vpc;
        let failure = find(&tunnels, "vpc-0aaaaaaaaaaaaaaa1").unwrap_err();
        assert_eq!(failure.outcome(), Outcome::NoSuchTunnel);
        let message = failure.to_string();
        assert!(message.contains("i-0bbbbbbbbbbbbbbb1") && message.contains("i-0bbbbbbbbbbbbbbb2"));
    }

    #[test]
    fn a_name_that_is_nearly_right_gets_a_hint() {
        let tunnels = fixture::hub().tunnels;
        let message = find(&tunnels, "pay").unwrap_err().to_string();
        assert!(
            message.contains("did you mean") && message.contains("payments-2"),
            "{message}"
        );
        let message = find(&tunnels, "\x1b[31m").unwrap_err().to_string();
        assert!(!message.contains('\x1b'), "{message}");
    }

    #[test]
    fn hostile_facts_are_escaped() {
        let mut tunnel = fixture::hub().tunnels.remove(1);
        tunnel.name = "\x1b[2J\nstate: up".to_owned();
        let page = strip_str(&render(&tunnel, fixture::now())).to_string();
        assert!(
            page.starts_with("name:            \\u{1b}[2J\\nstate: up\n"),
            "{page}"
        );
    }
}
