//! The kinds of values that the config files hold: what each looks like, how
//! it is read, and the defaults that hub and spoke share.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::document::{Located, Section};
use super::hub::SecretSource;
use super::source::cut;
use crate::id::{AccountId, Region};
use crate::inventory::Transport;
use crate::key::PublicKey;
use crate::net::Supernet;
use crate::offload::{Offload, Offloads};

/// One kind of value.
pub(super) struct Kind<T> {
    /// What a good one looks like: the end of "expected …".
    pub(super) expected: &'static str,
    pub(super) parse: fn(&DeValue<'_>) -> Result<T, Rejection>,
}

/// Why a value is not of its kind.
pub(super) struct Rejection {
    pub(super) problem: String,
    /// What would be right; `None` is what the kind says.
    pub(super) expected: Option<String>,
}

impl From<&str> for Rejection {
    fn from(problem: &str) -> Self {
        problem.to_owned().into()
    }
}

impl From<String> for Rejection {
    fn from(problem: String) -> Self {
        let expected = None;
        Self { problem, expected }
    }
}

/// IANA has none; this is the port that every WireGuard guide uses.
pub(super) const DEFAULT_PORT: u16 = 51820;
/// The tunnel interface's name.
pub(super) const DEFAULT_INTERFACE: &str = "privnet0";
/// What fits into 1500 bytes of path over IPv4: 20 IPv4 + 8 UDP + 16 WireGuard
/// header + 16 tag, which is 60.
pub(super) const DEFAULT_MTU: u16 = 1440;
/// The log filter.
pub(super) const DEFAULT_LOG: &str = "info";
/// Below the 30 s after which the narrowest stateful firewalls, EC2's security
/// groups among them, forget a UDP flow that went one way.
pub(super) const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(25);

pub(super) const FLAG: Kind<bool> = Kind {
    expected: "true or false",
    parse: |value| value.as_bool().ok_or_else(|| "not true or false".into()),
};

pub(super) const PORT: Kind<u16> = Kind {
    expected: "a UDP port, 1 to 65535",
    parse: |value| number(value, 1, 65535),
};

/// From the least that IPv6 demands of a link (RFC 8200 section 5) to the
/// largest packet that the data plane's buffers hold.
pub(super) const MTU: Kind<u16> = Kind {
    expected: "bytes, 1280 to 34736",
    parse: |value| number(value, 1280, 34736),
};

pub(super) const WORKERS: Kind<NonZeroUsize> = Kind {
    expected: "a number of threads, 1 to 64",
    parse: |value| {
        let count: usize = number(value, 1, 64)?;
        NonZeroUsize::new(count).ok_or_else(|| "zero".into())
    },
};

pub(super) const PATH: Kind<PathBuf> = Kind {
    expected: "an absolute path",
    parse: |value| {
        let path = Path::new(text(value)?);
        if !path.is_absolute() {
            return Err("not an absolute path".into());
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err("holds a NUL byte".into());
        }
        if path.file_name().is_none() || value.as_str().is_some_and(|path| path.ends_with('/')) {
            return Err("a directory, not a file".into());
        }
        Ok(path.to_owned())
    },
};

/// The kernel's `sun_path` has 108 bytes, the last for the NUL.
pub(super) const SOCKET_PATH: Kind<PathBuf> = Kind {
    expected: "an absolute path of at most 107 bytes",
    parse: |value| {
        let path = (PATH.parse)(value)?;
        match path.as_os_str().len() {
            ..=107 => Ok(path),
            length => Err(format!("a path of {length} bytes").into()),
        }
    },
};

/// What the kernel's `dev_valid_name` takes, less the names that mean
/// something else: `%d` (a template), `lo`, and sysctl's `all` and `default`.
pub(super) const INTERFACE: Kind<String> = Kind {
    expected: "an interface name: at most 15 bytes, no `/`, `:`, `%` or white space",
    parse: |value| {
        let name = text(value)?;
        let odd = |char: char| "/:%".contains(char) || char.is_whitespace() || char.is_control();
        match name {
            "" => Err("empty".into()),
            "." | ".." | "lo" | "all" | "default" => Err("a name with another meaning".into()),
            name if name.len() > 15 => Err(format!("{} bytes long", name.len()).into()),
            name if name.contains(odd) => Err("not an interface name".into()),
            name => Ok(name.to_owned()),
        }
    },
};

/// Looked at only as far as a slip would show: `tracing` itself takes any word
/// for a target and then logs nothing else.
pub(super) const LOG: Kind<String> = Kind {
    expected: "a level (off, error, warn, info, debug, trace) or `target=level`, \
               several with commas between",
    parse: |value| {
        let filter = text(value)?;
        // A span's fields have commas of their own: leave those to `tracing`.
        let plain = !filter.contains('[');
        for directive in filter.split(',').filter(|_| plain) {
            let (target, level) = match directive.rsplit_once('=') {
                Some((target, level)) => (target.trim(), level.trim()),
                None => ("any", directive.trim()),
            };
            if target.is_empty() || !is_level(level) {
                return Err(format!("`{}` is not a log filter", cut(directive)).into());
            }
        }
        Ok(filter.to_owned())
    },
};

fn is_level(word: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .any(|level| level.eq_ignore_ascii_case(word))
}

pub(super) const CIDR: Kind<IpNet> = Kind {
    expected: "a CIDR such as 10.1.0.0/16",
    parse: cidr,
};

pub(super) const IPV4_CIDR: Kind<IpNet> = Kind {
    expected: "an IPv4 CIDR such as 10.1.0.0/16",
    parse: |value| match cidr(value)? {
        net @ IpNet::V4(_) => Ok(net),
        IpNet::V6(_) => Err("IPv6, which is never masqueraded".into()),
    },
};

const PRIVNET_CIDR: Kind<IpNet> = Kind {
    expected: "the private network's CIDR such as 10.0.0.0/8, or a list of them",
    parse: |value| match cidr(value)? {
        net if net.prefix_len() == 0 => Err("the whole internet".into()),
        net => Ok(net),
    },
};

fn cidr(value: &DeValue<'_>) -> Result<IpNet, Rejection> {
    let text = text(value)?;
    let net: IpNet = match (text.parse(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (Err(_), Ok(address)) => {
            return Err(Rejection {
                problem: "an address without a prefix length".to_owned(),
                expected: Some(format!("a CIDR such as {}", IpNet::from(address))),
            });
        }
        _ => return Err("not a CIDR".into()),
    };
    if net != net.trunc() {
        return Err(Rejection {
            problem: format!("bits are set beyond the prefix of /{}", net.prefix_len()),
            expected: Some(net.trunc().to_string()),
        });
    }
    Ok(net)
}

/// Names are not looked up: a tunnel must come up again while DNS, which may
/// lie behind it, is down.
pub(super) const ENDPOINT: Kind<SocketAddr> = Kind {
    expected: "an address and port such as 203.0.113.9:51820 or [2001:db8::9]:51820",
    parse: |value| {
        let text = text(value)?;
        let Ok(endpoint) = text.parse::<SocketAddr>() else {
            return Err(endpoint_problem(text).into());
        };
        let ip = endpoint.ip();
        if endpoint.port() == 0 {
            return Err("port 0".into());
        }
        if ip.is_unspecified() || ip.is_multicast() {
            return Err("not the address of a host".into());
        }
        Ok(endpoint)
    },
};

fn endpoint_problem(text: &str) -> &'static str {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return "IPv6 without brackets, or no port";
    }
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return "no port";
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    match host.contains(|char: char| char.is_ascii_alphabetic()) && !host.contains(':') {
        true => "a host name, where an address is needed",
        false => "not an address and port",
    }
}

/// Metrics name every site and its networks, and whoever asks is not asked who
/// they are: they do not leave the host.
pub(super) const LOOPBACK: Kind<SocketAddr> = Kind {
    expected: "a loopback address and port such as 127.0.0.1:9587 or [::1]:9587",
    parse: |value| {
        let address = (ENDPOINT.parse)(value)?;
        match address.ip().is_loopback() {
            true => Ok(address),
            false => Err("not a loopback address".into()),
        }
    },
};

pub(super) const REGION: Kind<Region> = Kind {
    expected: Region::EXPECTED,
    parse: |value| {
        let text = text(value)?;
        Region::from_str(text).map_err(|_| "not a region".into())
    },
};

pub(super) const ACCOUNT: Kind<AccountId> = Kind {
    expected: "an account id: 12 digits in quotes",
    parse: |value| {
        let text = text(value)?;
        AccountId::from_str(text).map_err(|_| "not an account id".into())
    },
};

pub(super) const TRANSPORT: Kind<Transport> = Kind {
    expected: Transport::EXPECTED,
    parse: |value| {
        let transport = text(value)?.parse();
        transport.map_err(|()| "not a transport".into())
    },
};

pub(super) const PUBLIC_KEY: Kind<PublicKey> = Kind {
    expected: "a WireGuard public key: 44 characters of base64, as `wg pubkey` prints",
    parse: |value| {
        let key = text(value)?.parse::<PublicKey>();
        key.map_err(|error| error.to_string().into())
    },
};

pub(super) const KEEPALIVE: Kind<Option<Duration>> = Kind {
    expected: "whole seconds such as \"25s\", 1s to 65535s, or \"off\"",
    parse: |value| {
        if text(value)? == "off" {
            return Ok(None);
        }
        // WireGuard's own unit is the second, in 16 bits.
        let time = duration(value, Duration::from_secs(1), Duration::from_secs(65535))?;
        match time.subsec_nanos() {
            0 => Ok(Some(time)),
            _ => Err("not whole seconds".into()),
        }
    },
};

/// The private network.
pub(super) fn privnet(top: &mut Section<'_>) -> Option<Supernet> {
    let nets = top.required_one_or_more("privnet", &PRIVNET_CIDR)?;
    Supernet::new(nets.into_iter().map(|net| net.value))
}

/// The offloads that are wanted: all but those that `[offload]` switches off.
pub(super) fn offloads(top: &mut Section<'_>) -> Offloads {
    let read = |section: &mut Section<'_>| {
        let wanted = Offload::ALL
            .into_iter()
            .filter(|offload| section.with_default(offload.as_str(), &FLAG, true));
        Some(wanted.collect())
    };
    top.table("offload", "an [offload] section", read)
        .unwrap_or_default()
}

/// The file of a key, which is never in the config itself.
pub(super) fn key_file(section: &mut Section<'_>, key: &'static str) -> Option<Located<PathBuf>> {
    let expected = "{ file = \"/an/absolute/path\" }; the key itself has no place in this file";
    section.secret_table(key, expected, |table| table.required("file", &PATH))
}

/// Where the host's own key is: in a file, which it makes itself, or first in SSM's
/// Parameter Store, from where it comes into that file.
pub(super) fn key_source(
    section: &mut Section<'_>,
    key: &'static str,
) -> Option<(Option<Located<PathBuf>>, Option<String>)> {
    let expected = "{ file = \"/an/absolute/path\" } or { ssm = \"/a/parameter\" }; the key itself \
                    has no place in this file";
    section.secret_table(key, expected, |table| {
        let file = table.optional("file", &PATH);
        let name = table.optional("ssm", &SSM_NAME);
        if !table.has("file") && !table.has("ssm") {
            table.missing("file", "an absolute path, or `ssm` with a parameter's name");
        }
        Some((file, name.map(|name| name.value)))
    })
}

/// Where a secret is, which is never in the config itself.
pub(super) fn secret_source(section: &mut Section<'_>, key: &'static str) -> Option<SecretSource> {
    let expected = "{ file = \"/an/absolute/path\" } or { ssm = \"/a/parameter\" }; the secret \
                    itself has no place in this file";
    section.secret_table(key, expected, |table| {
        let file = table.optional("file", &PATH);
        let name = table.optional("ssm", &SSM_NAME);
        match (table.has("file"), table.has("ssm")) {
            (false, false) => {
                table.missing("file", "an absolute path, or `ssm` with a parameter's name");
            }
            (true, true) => {
                let expected = "one of the two".to_owned();
                table.reject(table.place(), "both `file` and `ssm`", Some(expected));
            }
            (true, false) | (false, true) => {}
        }
        let file = file.map(|path| SecretSource::File(path.value));
        file.or(name.map(|name| SecretSource::Ssm(name.value)))
    })
}

const SSM_NAME: Kind<String> = Kind {
    expected: "the name of an SSM parameter such as /privnet/psk",
    parse: |value| {
        let name = text(value)?;
        match parameter_name(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(problem) => Err(problem.into()),
        }
    },
};

/// Whether SSM takes this for a parameter's name, which is its path, or its ARN when
/// another account shares it (PutParameter, `Name`).
///
/// # Errors
/// Why not.
pub fn parameter_name(name: &str) -> Result<(), &'static str> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/:".contains(&byte);
    let is_arn = name.starts_with("arn:");
    if !(1..=1011).contains(&name.len()) || !name.bytes().all(known) || name.ends_with('/') {
        return Err("not the name of a parameter");
    }
    match name.contains('/') && !name.starts_with('/') && !is_arn {
        true => Err("a path that does not start with `/`"),
        false => Ok(()),
    }
}

/// EC2's limit is 256 characters.
const TAG_VALUE: Kind<String> = Kind {
    expected: "the tag's value in quotes, at most 256 characters",
    parse: |value| {
        let text = text(value)?;
        match text.chars().count() {
            ..=256 => Ok(text.to_owned()),
            length => Err(format!("{length} characters long").into()),
        }
    },
};

/// The tags of something in EC2: at least one, and `none` says what would be if there
/// were none.
pub(super) fn tags(section: &mut Section<'_>, none: &str) -> Option<BTreeMap<String, String>> {
    let entries = section.entries(&TAG_VALUE);
    if section.is_empty() {
        let expected = format!("at least one tag: {none}");
        section.reject(section.place(), "empty", Some(expected));
    }
    for (key, value) in &entries {
        if !(1..=128).contains(&key.chars().count()) {
            let expected = "a tag key of 1 to 128 characters".to_owned();
            section.reject(&value.place, "not a tag key", Some(expected));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            let problem = "a tag key of AWS's own";
            let expected = "a tag that you set: none starts with `aws:`".to_owned();
            section.reject(&value.place, problem, Some(expected));
        }
    }
    let tags = entries.into_iter().map(|(key, value)| (key, value.value));
    Some(tags.collect())
}

/// The text of a value.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Rejection> {
    value.as_str().ok_or_else(|| {
        let found = match value {
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            DeValue::String(_) => "text",
        };
        format!("{found}, not text in quotes").into()
    })
}

/// A time such as `1h` or `90s`, within bounds.
pub(super) fn duration(
    value: &DeValue<'_>,
    least: Duration,
    most: Duration,
) -> Result<Duration, Rejection> {
    let time = humantime::parse_duration(text(value)?);
    let time = time.map_err(|_| Rejection::from("not a time with its unit"))?;
    if time < least {
        return Err(format!("less than {}", humantime::format_duration(least)).into());
    }
    if time > most {
        return Err(format!("more than {}", humantime::format_duration(most)).into());
    }
    Ok(time)
}

/// A whole number within bounds.
pub(super) fn number<T: TryFrom<i64>>(
    value: &DeValue<'_>,
    least: i64,
    most: i64,
) -> Result<T, Rejection> {
    let Some(integer) = value.as_integer() else {
        return Err(match value {
            DeValue::String(_) => "text, not a number; leave the quotes out".into(),
            _ => "not a whole number".into(),
        });
    };
    // More digits than an i64 has are out of any range of ours as well.
    i64::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .filter(|number| (least..=most).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| "out of range".into())
}
