//! Which tunnels are listed, and in which order.

use privnet_model::inventory::Transport;
use privnet_model::status::{Tunnel, TunnelState};

use crate::arguments::ListOptions;

/// The tunnels that every filter given lets through (several of one kind: any
/// of them), by region and name; those of no region last.
pub(crate) fn select(mut tunnels: Vec<Tunnel>, options: &ListOptions) -> Vec<Tunnel> {
    tunnels.retain(|tunnel| {
        any(&options.region, tunnel.region.as_ref())
            && any(&options.vpc, tunnel.vpc.as_ref())
            && any(&options.state, Some(&tunnel.state))
    });
    tunnels.sort_by(|a, b| {
        let key = |tunnel: &Tunnel| (tunnel.region.is_none(), tunnel.region.clone());
        key(a)
            .cmp(&key(b))
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.instance.cmp(&b.instance))
    });
    tunnels
}

/// Whether the tunnel is as it should be: up, or no tunnel by intent.
pub(crate) fn is_well(tunnel: &Tunnel) -> bool {
    tunnel.state == TunnelState::Up || tunnel.transport == Transport::None
}

fn any<T: PartialEq>(wanted: &[T], value: Option<&T>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.contains(value))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::fixture;

    fn names(options: &ListOptions) -> Vec<String> {
        select(fixture::hub().tunnels, options)
            .into_iter()
            .map(|tunnel| tunnel.name)
            .collect()
    }

    #[test]
    fn without_a_filter_all_are_listed_by_region_and_name() {
        assert_eq!(
            names(&ListOptions::default()),
            [
                "analytics",
                "payments",
                "payments-2",
                "nat-hub",
                "prod-web",
                "staging",
                "dc-east"
            ]
        );
    }

    #[test]
    fn filters_of_one_kind_add_up_and_of_several_kinds_narrow() {
        let mut options = ListOptions {
            region: vec!["eu-west-1".parse().unwrap()],
            ..Default::default()
        };
        assert_eq!(names(&options), ["analytics", "payments", "payments-2"]);
        options.region.push("us-west-2".parse().unwrap());
        assert_eq!(names(&options).len(), 6);
        options.state = vec![TunnelState::Pending, TunnelState::Down];
        assert_eq!(names(&options), ["payments-2", "staging"]);
    }

    #[test]
    fn a_static_site_has_no_vpc_to_be_found_by() {
        let options = ListOptions {
            vpc: vec!["vpc-0aaaaaaaaaaaaaaa1".parse().unwrap()],
            ..Default::default()
        };
        assert_eq!(names(&options), ["prod-web"]);
    }
}
