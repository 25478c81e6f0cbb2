//! Security associations from charon's messages.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use privnet_model::ipsec::{ChildSa, ChildState, IkeSa, IkeState, Nat, Traffic, UniqueId};

use crate::vici::{Section, ViciError};

/// The IKE SA that a message is about: its first section, named as the connection.
pub(crate) fn ike_sa(message: &Section) -> Result<IkeSa, ViciError> {
    let (connection, section) = first_section(message)?;
    read_ike(connection, section)
}

pub(crate) fn first_section(message: &Section) -> Result<(&str, &Section), ViciError> {
    message
        .sections()
        .next()
        .ok_or_else(|| ViciError::Unexpected {
            answer: "security association".to_owned(),
            key: "connection",
            found: String::new(),
            expected: "a section named as the connection",
        })
}

pub(crate) fn read_ike(connection: &str, section: &Section) -> Result<IkeSa, ViciError> {
    let from = Fields {
        section,
        of: connection,
    };
    let children = section.section("child-sas").into_iter();
    let children = children.flat_map(Section::sections);
    let children = children.map(|(_, child)| read_child(connection, child));
    Ok(IkeSa {
        connection: connection.to_owned(),
        id: UniqueId(from.required("uniqueid", "a number")?),
        state: IkeState::from_word(from.required_text("state", "the name of a state")?),
        initiated: from.is("initiator"),
        local: from.endpoint("local-host", "local-port")?,
        remote: from.endpoint("remote-host", "remote-port")?,
        local_id: from.identity("local-id"),
        remote_id: from.identity("remote-id"),
        nat: Nat {
            local: from.is("nat-local"),
            remote: from.is("nat-remote"),
            pretended: from.is("nat-fake"),
        },
        proposal: from.proposal(),
        established: from.seconds("established")?,
        rekey_in: from.seconds("rekey-time")?,
        tasks: ["tasks-queued", "tasks-active", "tasks-passive"]
            .iter()
            .flat_map(|list| section.list(list))
            .map(str::to_owned)
            .collect(),
        children: children.collect::<Result<_, _>>()?,
    })
}

pub(crate) fn read_child(connection: &str, section: &Section) -> Result<ChildSa, ViciError> {
    let from = Fields {
        section,
        of: connection,
    };
    let traffic = |bytes, packets, idle| -> Result<Traffic, ViciError> {
        Ok(Traffic {
            bytes: from.number(bytes)?.unwrap_or(0),
            packets: from.number(packets)?.unwrap_or(0),
            idle: from.seconds(idle)?,
        })
    };
    Ok(ChildSa {
        name: from.required_text("name", "a name")?.to_owned(),
        id: UniqueId(from.required("uniqueid", "a number")?),
        state: ChildState::from_word(from.required_text("state", "the name of a state")?),
        encapsulated: from.is("encap"),
        spi_in: from.hex("spi-in")?,
        spi_out: from.hex("spi-out")?,
        if_id_in: from.hex("if-id-in")?,
        if_id_out: from.hex("if-id-out")?,
        proposal: from.proposal(),
        received: traffic("bytes-in", "packets-in", "use-in")?,
        sent: traffic("bytes-out", "packets-out", "use-out")?,
        rekey_in: from.seconds("rekey-time")?,
        ends_in: from.seconds("life-time")?,
        installed: from.seconds("install-time")?,
        local_selectors: section.list("local-ts").map(str::to_owned).collect(),
        remote_selectors: section.list("remote-ts").map(str::to_owned).collect(),
    })
}

/// The values of a section, with whose they are for errors.
struct Fields<'a> {
    section: &'a Section,
    of: &'a str,
}

impl<'a> Fields<'a> {
    fn unexpected(&self, key: &'static str, found: &str, expected: &'static str) -> ViciError {
        ViciError::Unexpected {
            answer: format!("security association of {}", self.of),
            key,
            found: found.to_owned(),
            expected,
        }
    }

    fn required_text(
        &self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<&'a str, ViciError> {
        let missing = || self.unexpected(key, "", expected);
        self.section.text(key).ok_or_else(missing)
    }

    fn required<T: FromStr>(
        &self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<T, ViciError> {
        let text = self.required_text(key, expected)?;
        let wrong = |_| self.unexpected(key, text, expected);
        text.parse().map_err(wrong)
    }

    fn number(&self, key: &'static str) -> Result<Option<u64>, ViciError> {
        match self.section.text(key) {
            Some(_) => self.required(key, "a number").map(Some),
            None => Ok(None),
        }
    }

    fn hex(&self, key: &'static str) -> Result<Option<u32>, ViciError> {
        let Some(text) = self.section.text(key) else {
            return Ok(None);
        };
        let number = u32::from_str_radix(text, 16);
        let wrong = |_| self.unexpected(key, text, "a hexadecimal number");
        number.map(Some).map_err(wrong)
    }

    fn seconds(&self, key: &'static str) -> Result<Option<Duration>, ViciError> {
        let Some(text) = self.section.text(key) else {
            return Ok(None);
        };
        // What is overdue is told as a negative time, which charon writes as it
        // has it: sometimes as a number near 2^64.
        let wrong = |_| self.unexpected(key, text, "a number of seconds");
        let seconds: i128 = text.parse().map_err(wrong)?;
        let seconds = u32::try_from(seconds).unwrap_or(0);
        Ok(Some(Duration::from_secs(u64::from(seconds))))
    }

    fn is(&self, key: &str) -> bool {
        self.section.text(key) == Some("yes")
    }

    fn identity(&self, key: &str) -> Option<String> {
        let said = self.section.text(key).filter(|id| *id != "%any");
        said.map(str::to_owned)
    }

    fn endpoint(
        &self,
        host: &'static str,
        port: &'static str,
    ) -> Result<Option<SocketAddr>, ViciError> {
        let Some(text) = self.section.text(host) else {
            return Ok(None);
        };
        if text.starts_with('%') {
            return Ok(None);
        }
        let wrong = |_| self.unexpected(host, text, "an address");
        let address: IpAddr = text.parse().map_err(wrong)?;
        let port: u16 = match self.section.text(port) {
            Some(_) => self.required(port, "a port")?,
            None => 0,
        };
        Ok(Some(SocketAddr::new(address, port)))
    }

    /// The ciphers in one word, as strongSwan's own `swanctl --list-sas` shows them.
    fn proposal(&self) -> String {
        let text = |key| self.section.text(key);
        let sized = |algorithm, size| {
            let name = text(algorithm)?;
            Some(match text(size) {
                Some(bits) => format!("{name}-{bits}"),
                None => name.to_owned(),
            })
        };
        let parts = [
            sized("encr-alg", "encr-keysize"),
            sized("integ-alg", "integ-keysize"),
            text("prf-alg").map(str::to_owned),
            text("dh-group").map(str::to_owned),
            text("esn")
                .filter(|esn| *esn == "1")
                .map(|_| "ESN".to_owned()),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn child() -> Section {
        Section::new()
            .with("name", "lan")
            .with("uniqueid", "14")
            .with("state", "INSTALLED")
            .with("spi-in", "dab2b04e")
            .with("if-id-in", "0000002a")
            .with("bytes-in", "18446744073709551615")
            .with("use-in", "2")
    }

    fn ike(change: impl Fn(Section) -> Section) -> Section {
        let ike = Section::new()
            .with("uniqueid", "18")
            .with("state", "ESTABLISHED")
            .with("local-host", "%any")
            .with("remote-host", "2001:db8::2")
            .with("remote-port", "4500")
            .with("remote-id", "%any");
        Section::new().with_section("privnet-dc", change(ike))
    }

    #[test]
    fn what_charon_leaves_out_is_unknown_and_no_error() {
        let with_child = |ike: Section| {
            ike.with_section("child-sas", Section::new().with_section("lan-14", child()))
        };
        let sa = ike_sa(&ike(with_child)).unwrap();
        assert_eq!(
            (sa.connection.as_str(), sa.id),
            ("privnet-dc", UniqueId(18))
        );
        assert_eq!((sa.local, sa.remote_id, sa.initiated), (None, None, false));
        assert_eq!(sa.remote.unwrap().to_string(), "[2001:db8::2]:4500");
        assert_eq!((sa.proposal.as_str(), sa.rekey_in), ("", None));
        let child = &sa.children[0];
        assert_eq!(child.spi_in, Some(0xdab2_b04e));
        assert_eq!((child.if_id_in, child.if_id_out), (Some(42), None));
        assert_eq!(child.received.bytes, u64::MAX);
        assert_eq!(child.received.idle, Some(Duration::from_secs(2)));
        assert_eq!(child.sent, Traffic::default());
    }

    #[test]
    fn a_time_that_is_over_is_now() {
        for overdue in ["-3", "18446744073709551613"] {
            let sa = ike_sa(&ike(|ike| ike.with("rekey-time", overdue))).unwrap();
            assert_eq!(sa.rekey_in, Some(Duration::ZERO), "{overdue}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_key_and_value() {
        let cases: [(&str, &str, &str); 4] = [
            ("uniqueid", "x", r#"has uniqueid = "x", expected a number"#),
            (
                "local-host",
                "here",
                r#"has local-host = "here", expected an address"#,
            ),
            (
                "remote-port",
                "99999",
                r#"has remote-port = "99999", expected a port"#,
            ),
            (
                "rekey-time",
                "soon",
                r#"has rekey-time = "soon", expected a number of seconds"#,
            ),
        ];
        for (key, value, words) in cases {
            let wrong = ike(|ike| {
                let mut changed = Section::new();
                for (name, element) in ike.iter().filter(|(name, _)| *name != key) {
                    changed.push(name, element.clone());
                }
                changed.with(key, value)
            });
            let error = ike_sa(&wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(
                error.contains("security association of privnet-dc"),
                "{error}"
            );
        }
        assert!(ike_sa(&Section::new()).is_err());
    }
}
