//! The text of WireGuard's cross-platform userspace API, as `wg` speaks it over a
//! Unix socket (<https://www.wireguard.com/xplatform/>): requests to values,
//! values to answers. A request is taken whole or not at all; its text is not
//! trusted. It is read line by line, so that nobody has to hold the whole of a
//! text with keys in it. Carrying it out, and the socket, are the data plane's part.

use std::fmt::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, UNIX_EPOCH};

use ipnet::IpNet;
use privnet_model::key::{PresharedKey, PrivateKey, PublicKey};
use privnet_model::peer::PeerStatus;
use zeroize::Zeroizing;

/// An error number, as the answer's last line tells it. The numbers are Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// No error.
    pub const OK: Self = Self(0);
    /// The socket allows no changes.
    pub const EPERM: Self = Self(1);
    /// The device failed.
    pub const EIO: Self = Self(5);
    /// No room for another peer.
    pub const ENOSPC: Self = Self(28);
    /// A key is unknown or a value is not what it must be.
    pub const EINVAL: Self = Self(22);
    /// Not a request of this protocol.
    pub const EPROTO: Self = Self(71);
    /// The port is taken.
    pub const EADDRINUSE: Self = Self(98);
    /// The device is closed.
    pub const ENODEV: Self = Self(19);

    /// The error as the end of an answer. It is negative, as wireguard-go has it
    /// and as `wg` reads it.
    pub fn answer(self) -> String {
        format!("errno={}\n\n", -self.0)
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Tell all.
    Get,
    /// Change this.
    Set(SetDevice),
}

/// What a request changes. What is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetDevice {
    /// A private key, or none from now on.
    pub private_key: Option<Option<PrivateKey>>,
    /// The port to listen on; 0 leaves the choice to the kernel.
    pub listen_port: Option<u16>,
    /// The firewall mark of what is sent, or none from now on.
    pub fwmark: Option<Option<u32>>,
    /// Whether peers that are not named here go.
    pub replace_peers: bool,
    /// The peers, in order.
    pub peers: Vec<SetPeer>,
}

/// What a request changes about one peer. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPeer {
    /// The peer.
    pub public_key: PublicKey,
    /// Whether it goes.
    pub remove: bool,
    /// Whether nothing happens where the peer does not exist yet.
    pub update_only: bool,
    /// A preshared key, or none from now on.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Where to send from now on.
    pub endpoint: Option<SocketAddr>,
    /// A persistent keepalive, or none from now on.
    pub keepalive: Option<Option<Duration>>,
    /// Whether earlier allowed IPs go.
    pub replace_allowed_ips: bool,
    /// Allowed IPs that come or go, in order.
    pub allowed_ips: Vec<SetAllowedIp>,
}

impl SetPeer {
    /// A request that changes nothing about the peer but makes it where it does
    /// not exist yet.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// A change of one allowed IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAllowedIp {
    /// The prefix is this peer's now, whoever had it.
    Add(IpNet),
    /// The prefix is no longer this peer's, if it was.
    Remove(IpNet),
}

/// The kernel's number of an interface by its name, in the namespace of the UDP
/// sockets: link-local endpoints are written with it, as in `[fe80::1%eth0]:51820`.
pub type InterfaceIndex<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// Takes a request line by line, each without its end, up to the empty one that
/// ends the request. It keeps values only, of which the secret ones are zeroized.
pub struct RequestParser<'a> {
    interface_index: InterfaceIndex<'a>,
    /// What the lines so far come to. The first of them says which request it is.
    request: Option<Result<Request, Errno>>,
}

impl<'a> RequestParser<'a> {
    /// A parser that has seen nothing.
    pub fn new(interface_index: InterfaceIndex<'a>) -> Self {
        Self {
            interface_index,
            request: None,
        }
    }

    /// Takes the next line. After one that is wrong, the rest means nothing.
    pub fn line(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else {
            self.request = Some(Err(Errno::EINVAL));
            return;
        };
        match &mut self.request {
            None => {
                self.request = Some(match line {
                    "get=1" => Ok(Request::Get),
                    "set=1" => Ok(Request::Set(SetDevice::default())),
                    _ => Err(Errno::EPROTO),
                });
            }
            Some(Ok(Request::Set(device))) => {
                if let Err(errno) = set(device, line, self.interface_index) {
                    self.request = Some(Err(errno));
                }
            }
            Some(Ok(Request::Get)) => self.request = Some(Err(Errno::EPROTO)),
            Some(Err(_)) => {}
        }
    }

    /// The request that the lines were.
    pub fn finish(self) -> Result<Request, Errno> {
        self.request.unwrap_or(Err(Errno::EPROTO))
    }
}

impl fmt::Debug for RequestParser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestParser")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

fn set(
    device: &mut SetDevice,
    line: &str,
    interface_index: InterfaceIndex<'_>,
) -> Result<(), Errno> {
    let (key, value) = line.split_once('=').ok_or(Errno::EPROTO)?;
    if key == "public_key" {
        let key = PublicKey::from_hex(value).map_err(|_| Errno::EINVAL)?;
        device.peers.push(SetPeer::new(key));
        return Ok(());
    }
    match device.peers.last_mut() {
        Some(peer) => set_peer(peer, key, value, interface_index),
        None => set_device(device, key, value),
    }
}

fn set_device(device: &mut SetDevice, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "private_key" => {
            let key = PrivateKey::from_hex(value).map_err(|_| Errno::EINVAL)?;
            device.private_key = Some(Some(key).filter(|key| *key.as_bytes() != [0; 32]));
        }
        "listen_port" => device.listen_port = Some(number(value)?),
        "fwmark" => device.fwmark = Some(Some(number(value)?).filter(|mark| *mark != 0)),
        "replace_peers" => device.replace_peers = only_true(value)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn set_peer(
    peer: &mut SetPeer,
    key: &str,
    value: &str,
    interface_index: InterfaceIndex<'_>,
) -> Result<(), Errno> {
    match key {
        "remove" => peer.remove = only_true(value)?,
        "update_only" => peer.update_only = only_true(value)?,
        "preshared_key" => {
            let key = PresharedKey::from_hex(value).map_err(|_| Errno::EINVAL)?;
            peer.preshared_key = Some(Some(key).filter(|key| *key.as_bytes() != [0; 32]));
        }
        "endpoint" => {
            let endpoint = endpoint(value, interface_index).ok_or(Errno::EINVAL)?;
            peer.endpoint = Some(endpoint);
        }
        "persistent_keepalive_interval" => {
            let seconds: u16 = number(value)?;
            peer.keepalive =
                Some(Some(Duration::from_secs(seconds.into())).filter(|time| !time.is_zero()));
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = only_true(value)?,
        "allowed_ip" => peer.allowed_ips.push(match value.strip_prefix('-') {
            Some(prefix) => SetAllowedIp::Remove(network(prefix)?),
            None => SetAllowedIp::Add(network(value)?),
        }),
        "protocol_version" if value == "1" => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, Errno> {
    // `from_str` of numbers also takes a sign, which the protocol does not know.
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    value.parse().map_err(|_| Errno::EINVAL)
}

fn only_true(value: &str) -> Result<bool, Errno> {
    if value == "true" {
        Ok(true)
    } else {
        Err(Errno::EINVAL)
    }
}

/// An address and a port. A link-local address may name its interface, which `wg`
/// writes as the system's resolver does: by name, or by number where it has none.
fn endpoint(value: &str, interface_index: InterfaceIndex<'_>) -> Option<SocketAddr> {
    // The standard library knows the scope as a number only.
    if let Ok(endpoint) = value.parse() {
        return Some(endpoint);
    }
    let (host, port) = value.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, interface) = host.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = interface_index(interface)?;
    Some(SocketAddrV6::new(address, number(port).ok()?, 0, scope).into())
}

fn network(value: &str) -> Result<IpNet, Errno> {
    let network: IpNet = value.parse().map_err(|_| Errno::EINVAL)?;
    Ok(network.trunc())
}

/// A device, for an answer to [`Request::Get`].
#[derive(Debug)]
pub struct DeviceView<'a> {
    /// The private key, where the asker may see it (and the preshared keys).
    pub private_key: Option<&'a PrivateKey>,
    /// Whether preshared keys are told.
    pub tell_secrets: bool,
    /// The port that the device listens on.
    pub listen_port: u16,
    /// The firewall mark.
    pub fwmark: Option<u32>,
    /// The peers.
    pub peers: &'a [PeerStatus],
}

/// The answer to [`Request::Get`].
pub fn answer(device: &DeviceView<'_>) -> Zeroizing<String> {
    // Sized ahead: a string that grows leaves copies of the keys behind.
    let prefixes: usize = device
        .peers
        .iter()
        .map(|peer| peer.config.allowed_ips.len())
        .sum();
    let mut text = Zeroizing::new(String::with_capacity(
        512 + device.peers.len() * 640 + prefixes * 64,
    ));
    write(&mut text, device).unwrap_or_default();
    text
}

fn write(text: &mut String, device: &DeviceView<'_>) -> std::fmt::Result {
    if let Some(key) = device.private_key {
        writeln!(text, "private_key={}", *key.to_hex())?;
    }
    writeln!(text, "listen_port={}", device.listen_port)?;
    if let Some(mark) = device.fwmark {
        writeln!(text, "fwmark={mark}")?;
    }
    for peer in device.peers {
        write_peer(text, peer, device.tell_secrets)?;
    }
    text.push_str(&Errno::OK.answer());
    Ok(())
}

fn write_peer(text: &mut String, peer: &PeerStatus, tell_secrets: bool) -> std::fmt::Result {
    writeln!(text, "public_key={}", peer.key.to_hex())?;
    if tell_secrets {
        match &peer.config.preshared_key {
            Some(key) => writeln!(text, "preshared_key={}", *key.to_hex())?,
            // As wireguard-go says that there is none.
            None => writeln!(text, "preshared_key={:064}", 0)?,
        }
    }
    writeln!(text, "protocol_version=1")?;
    if let Some(endpoint) = peer.config.endpoint {
        writeln!(text, "endpoint={endpoint}")?;
    }
    let handshake = peer
        .last_handshake
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    writeln!(text, "last_handshake_time_sec={}", handshake.as_secs())?;
    writeln!(
        text,
        "last_handshake_time_nsec={}",
        handshake.subsec_nanos()
    )?;
    writeln!(text, "tx_bytes={}", peer.tx_bytes)?;
    writeln!(text, "rx_bytes={}", peer.rx_bytes)?;
    writeln!(
        text,
        "persistent_keepalive_interval={}",
        peer.config.keepalive.unwrap_or_default().as_secs()
    )?;
    for prefix in &peer.config.allowed_ips {
        writeln!(text, "allowed_ip={prefix}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use std::time::SystemTime;

    use privnet_model::peer::PeerConfig;
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";

    fn parse(text: &str) -> Result<Request, Errno> {
        let interface_index = |name: &str| (name == "eth0").then_some(7);
        let mut parser = RequestParser::new(&interface_index);
        for line in text.lines() {
            parser.line(line.as_bytes());
        }
        parser.finish()
    }

    fn set(text: &str) -> Result<SetDevice, Errno> {
        match parse(text)? {
            Request::Set(device) => Ok(device),
            Request::Get => panic!("a get"),
        }
    }

    #[test]
    fn a_whole_set_request_is_understood() {
        let device = set(&format!(
            "set=1\nprivate_key={KEY}\nlisten_port=51820\nfwmark=7\nreplace_peers=true\n\
             public_key={KEY}\npreshared_key={KEY}\nendpoint=[2001:db8::1]:51820\n\
             persistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.1.2.3/16\nallowed_ip=-fd00::/8\nprotocol_version=1\n\
             public_key={KEY}\nremove=true\nupdate_only=true\n"
        ))
        .unwrap();
        assert_eq!(device.listen_port, Some(51820));
        assert_eq!(device.fwmark, Some(Some(7)));
        assert!(device.replace_peers);
        assert!(matches!(device.private_key, Some(Some(_))));
        let [first, second] = &device.peers[..] else {
            panic!("{:?}", device.peers);
        };
        assert!(matches!(first.preshared_key, Some(Some(_))));
        assert_eq!(first.endpoint.unwrap().to_string(), "[2001:db8::1]:51820");
        assert_eq!(first.keepalive, Some(Some(Duration::from_secs(25))));
        assert_eq!(
            first.allowed_ips,
            [
                SetAllowedIp::Add("10.1.0.0/16".parse().unwrap()),
                SetAllowedIp::Remove("fd00::/8".parse().unwrap()),
            ]
        );
        assert!(second.remove && second.update_only);
    }

    #[test]
    fn zero_means_none() {
        let zero = "0".repeat(64);
        let device = set(&format!(
            "set=1\nprivate_key={zero}\nfwmark=0\npublic_key={KEY}\npreshared_key={zero}\n\
             persistent_keepalive_interval=0"
        ))
        .unwrap();
        assert_eq!(device.private_key, Some(None));
        assert_eq!(device.fwmark, Some(None));
        assert_eq!(device.peers[0].preshared_key, Some(None));
        assert_eq!(device.peers[0].keepalive, Some(None));
    }

    #[test]
    fn what_is_wrong_has_the_error_number_that_wg_knows() {
        for text in [
            "set=1\nlisten_port=65536",
            "set=1\nlisten_port=+1",
            "set=1\nlisten_port=",
            "set=1\nreplace_peers=false",
            "set=1\ncolour=blue",
            "set=1\nendpoint=192.0.2.1:1",
            "set=1\npublic_key=00",
        ] {
            assert_eq!(set(text), Err(Errno::EINVAL), "{text}");
        }
        for text in [
            "",
            "get=2",
            "set=2",
            "hello",
            "get=1\nset=1",
            "set=1\nnothing",
        ] {
            assert_eq!(parse(text), Err(Errno::EPROTO), "{text}");
        }
        let with_peer = |line| format!("set=1\npublic_key={KEY}\n{line}");
        for line in [
            "endpoint=localhost:1",
            "allowed_ip=10.0.0.0/33",
            "protocol_version=2",
        ] {
            assert_eq!(set(&with_peer(line)), Err(Errno::EINVAL), "{line}");
        }
        assert_eq!(Errno::EINVAL.answer(), "errno=-22\n\n");
        assert_eq!(Errno::OK.answer(), "errno=0\n\n");
    }

    #[test]
    fn a_link_local_endpoint_names_its_interface_by_name_or_number() {
        let endpoint = |value: &str| {
            let device = set(&format!("set=1\npublic_key={KEY}\nendpoint={value}"))?;
            Ok(device.peers[0].endpoint.unwrap().to_string())
        };
        for (value, expected) in [
            ("[fe80::1%eth0]:51820", "[fe80::1%7]:51820"),
            ("[fe80::1%2]:51820", "[fe80::1%2]:51820"),
            ("[fe80::1]:51820", "[fe80::1]:51820"),
        ] {
            assert_eq!(endpoint(value).as_deref(), Ok(expected));
        }
        for value in [
            "[fe80::1%eth9]:51820",
            "[fe80::1%]:51820",
            "[fe80::1%eth0]:+1",
            "[fe80::1%eth0]:",
            "[192.0.2.1%eth0]:1",
            "fe80::1%eth0:51820",
        ] {
            assert_eq!(endpoint(value), Err(Errno::EINVAL), "{value}");
        }
    }

    #[test]
    fn what_follows_a_wrong_line_does_not_count() {
        let bytes = |lines: &[&[u8]]| {
            let mut parser = RequestParser::new(&|_| None);
            for line in lines {
                parser.line(line);
            }
            parser.finish()
        };
        let latin1: &[u8] = b"\xe4";
        for rest in ["set=1", "get=1", "listen_port=1", "nothing"] {
            let rest = rest.as_bytes();
            assert_eq!(bytes(&[b"set=1", b"fwmark=x", rest]), Err(Errno::EINVAL));
            assert_eq!(bytes(&[b"set=1", latin1, rest]), Err(Errno::EINVAL));
            assert_eq!(bytes(&[b"set=2", rest]), Err(Errno::EPROTO));
        }
    }

    #[test]
    fn an_answer_tells_secrets_only_where_allowed() {
        let key = PrivateKey::from_random([7; 32]);
        let peer = PeerStatus {
            key: key.public(),
            config: PeerConfig {
                preshared_key: Some(PresharedKey::from_bytes([9; 32])),
                endpoint: Some("192.0.2.1:7".parse().unwrap()),
                keepalive: Some(Duration::from_secs(25)),
                allowed_ips: ["10.0.0.0/8".parse().unwrap()].into(),
                ..PeerConfig::default()
            },
            last_handshake: Some(SystemTime::UNIX_EPOCH + Duration::new(12, 34)),
            rx_bytes: 5,
            tx_bytes: 6,
        };
        let peers = [
            PeerStatus {
                config: PeerConfig::default(),
                ..peer.clone()
            },
            peer,
        ];
        let mut view = DeviceView {
            private_key: Some(&key),
            tell_secrets: true,
            listen_port: 51820,
            fwmark: None,
            peers: &peers,
        };
        let text = answer(&view);
        for line in [
            "listen_port=51820\n",
            "endpoint=192.0.2.1:7\n",
            "last_handshake_time_sec=12\nlast_handshake_time_nsec=34\n",
            "tx_bytes=6\nrx_bytes=5\n",
            "persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\n",
            "preshared_key=0909",
            "preshared_key=0000000000000000000000000000000000000000000000000000000000000000\n",
            "private_key=",
        ] {
            assert!(text.contains(line), "{line} in {}", *text);
        }
        assert!(text.ends_with("errno=0\n\n"));
        view.private_key = None;
        view.tell_secrets = false;
        let text = answer(&view);
        assert!(!text.contains("private_key") && !text.contains("preshared_key"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(?s).{0,400}") {
            let _ = parse(&text);
        }

        #[test]
        fn arbitrary_values_never_panic(
            lines in prop::collection::vec(("(private_key|listen_port|fwmark|public_key|endpoint|\
                allowed_ip|preshared_key|persistent_keepalive_interval|remove)", "\\PC{0,70}"), 0..20),
        ) {
            let mut text = String::from("set=1\n");
            for (key, value) in lines {
                text.push_str(&format!("{key}={value}\n"));
            }
            let _ = parse(&text);
        }
    }
}
