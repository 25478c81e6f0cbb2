//! The network in the picture, and the programs in it.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use privnet_model::config::spoke::NatConfig;
use privnet_model::inventory::Identity;
use privnet_model::net::Supernet;
use privnet_runtime::router::Router;

const SERVE: &str = "PRIVNET_SELF_TEST_SERVE";
/// Where the server notes that somebody connected.
pub(crate) const CALLERS: &str = "/run/callers";

/// Runs a shell script and gives what it printed; panics when it fails.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// This program again, as a server in another namespace, if its environment says so.
pub(crate) fn play_a_server() -> bool {
    let Ok(address) = env::var(SERVE) else {
        return false;
    };
    let listener = TcpListener::bind(address).unwrap();
    let mut out = std::io::stdout();
    out.write_all(b"ready\n").unwrap();
    out.flush().unwrap();
    for stream in listener.incoming() {
        let caller = stream.unwrap().peer_addr().unwrap();
        std::fs::write(CALLERS, caller.to_string()).unwrap();
    }
    true
}

/// A server, for as long as this lives.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The picture in `main.rs`.
pub(crate) fn network() -> Server {
    sh("mkdir -p /run/netns
        ip netns add internet
        ip -n internet link set lo up
        for of in all default; do echo 1 > /proc/sys/net/ipv4/conf/$of/rp_filter; done
        ip link add wan type veth peer name eth0 netns internet
        ip address add 10.1.0.10/24 dev wan
        ip link set wan up
        ip -n internet address add 10.1.0.1/24 dev eth0
        ip -n internet address add 203.0.113.80/32 dev lo
        ip -n internet address add 203.0.113.81/32 dev lo
        ip -n internet link set eth0 up
        ip -n internet route add blackhole 203.0.113.82/32
        ip -n internet route add unreachable 203.0.113.83/32
        ip netns exec internet sysctl -q net.ipv4.ip_forward=1
        ip netns exec internet nft add table inet quiet
        ip netns exec internet nft 'add chain inet quiet input { type filter hook prerouting priority 0; }'
        ip netns exec internet nft add rule inet quiet input ip daddr 203.0.113.82 drop
        ip route add default via 10.1.0.1");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "internet"]);
    command.arg(env::current_exe().unwrap());
    command.env(SERVE, "203.0.113.80:80").stdout(Stdio::piped());
    let mut server = Server(command.spawn().unwrap());
    let mut ready = String::new();
    let mut out = BufReader::new(server.0.stdout.take().unwrap());
    out.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    server
}

/// The spoke, with NAT egress.
pub(crate) async fn router() -> Router {
    let identity = Identity {
        account: "111122223333".parse().unwrap(),
        region: "eu-west-1".parse().unwrap(),
        zone: None,
        instance: "i-0123456789abcdef0".parse().unwrap(),
        vpc: "vpc-0123456789abcdef0".parse().unwrap(),
        vpc_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
        subnet_cidr: Some("10.1.0.0/24".parse().unwrap()),
        private_address: "10.1.0.10".parse().unwrap(),
        public_address: None,
        mac: "0a:00:00:00:00:01".to_owned(),
    };
    let privnet = Supernet::new(vec!["10.0.0.0/8".parse().unwrap()]).unwrap();
    let nat = NatConfig {
        egress: true,
        interface: Some("wan".to_owned()),
        ..NatConfig::default()
    };
    let mut router = Router::open(privnet, identity, Some(nat), None, "/none".as_ref())
        .await
        .unwrap();
    router.set_self_test(true);
    router
}

/// The router put right, without a failure.
pub(crate) async fn reconcile(router: &mut Router) {
    let (_, failures) = router.reconcile().await;
    assert!(failures.is_empty(), "{failures:?}");
}
