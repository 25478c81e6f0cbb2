//! What of a changed config file waits for a restart.

use privnet_model::config::hub::HubConfig;

/// The keys whose change the running hub cannot take.
pub(crate) fn needs_restart(old: &HubConfig, new: &HubConfig) -> Vec<&'static str> {
    [
        ("listen_port", old.listen_port != new.listen_port),
        (
            "private_key",
            old.private_key != new.private_key
                || old.private_key_parameter != new.private_key_parameter,
        ),
        ("interface", old.interface != new.interface),
        ("mtu", old.mtu != new.mtu),
        ("workers", old.workers != new.workers),
        ("offload", old.offloads != new.offloads),
        ("state", old.state != new.state),
        ("admin_socket", old.admin_socket != new.admin_socket),
        ("metrics", old.metrics != new.metrics),
        ("log", old.log != new.log),
        ("ipsec.socket", old.ipsec.socket != new.ipsec.socket),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn what_only_a_restart_can_take_is_named() {
        let config = |top: &str, rest: &str| {
            let text = format!(
                "{top}\nprivnet = '10.0.0.0/8'\n[discovery]\nregions = ['eu-west-1']\n\
                 tags.service = 'nat'\n{rest}"
            );
            HubConfig::parse("hub.toml", &text).unwrap()
        };
        let old = config("", "");
        let changed = |top, rest| needs_restart(&old, &config(top, rest));
        assert_eq!(changed("", "interval = '2h'"), [""; 0]);
        let trusted = "[trust]\nproof = 'require'\n[[policy]]\naction = 'deny'\n\
                       between = ['any']\nand = ['any']";
        assert_eq!(changed("", trusted), [""; 0]);
        assert_eq!(changed("", "[offload]\nudp_gso = false"), ["offload"]);
        assert_eq!(changed("metrics = '127.0.0.1:9587'", ""), ["metrics"]);
        assert_eq!(changed("workers = 2\nmtu = 1420", ""), ["mtu", "workers"]);
    }
}
