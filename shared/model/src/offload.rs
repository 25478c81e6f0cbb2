//! Offloads: ways to hand the kernel many packets at once, which is most of the
//! data plane's speed. Which there are, which are wanted, how each is, and which
//! kernels are known to damage packets by one.
//!
//! The words of config, status and metrics. Which of them a kernel has is found
//! out by the data plane; nothing here asks a kernel.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One way to hand the kernel many packets at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// A TCP packet of up to 64 KB read from the TUN, segmented by us.
    TunTso,
    /// The same of UDP, which kernels before 6.2 lack; and, with [`Self::TunGro`],
    /// runs of UDP packets written to the TUN as one, which such kernels do not
    /// take either.
    TunUso,
    /// A run of one flow's packets written to the TUN as one.
    TunGro,
    /// Several datagrams to one peer in one send (`UDP_SEGMENT`).
    UdpGso,
    /// Several datagrams of one peer in one receive (`UDP_GRO`).
    UdpGro,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::TunTso,
        Self::TunUso,
        Self::TunGro,
        Self::UdpGso,
        Self::UdpGro,
    ];

    /// Its name in config, status and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TunTso => "tun_tso",
            Self::TunUso => "tun_uso",
            Self::TunGro => "tun_gro",
            Self::UdpGso => "udp_gso",
            Self::UdpGro => "udp_gro",
        }
    }

    /// Why this offload must not be used on a kernel of this release (as
    /// `uname -r` prints it), if that kernel is known to damage packets by it.
    /// A release that cannot be read has no known bug.
    ///
    /// Linux 7.0.0 to 7.1.4 cut super-packets of UDP wrongly, with wrong lengths
    /// and checksums, where the network card leaves the cutting to them: those of
    /// a UDP GSO send, and those that came from a TUN and are forwarded. Nothing
    /// that the sender can see tells. Distributions that keep the third number at
    /// 0 (`7.0.0-15-generic`) are taken at their word.
    pub fn known_bug(self, release: &str) -> Option<OffloadObstacle> {
        let damages = match self {
            Self::UdpGso | Self::TunUso => kernel_version(release)
                .is_some_and(|version| ((7, 0, 0)..(7, 1, 5)).contains(&version)),
            Self::TunTso | Self::TunGro | Self::UdpGro => false,
        };
        damages.then(|| OffloadObstacle::KnownBug {
            kernel: release.to_owned(),
        })
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `7.0.3-cloud-amd64` as `(7, 0, 3)`; numbers that are left out are 0.
fn kernel_version(release: &str) -> Option<(u32, u32, u32)> {
    let end = release
        .find(|char: char| !char.is_ascii_digit() && char != '.')
        .unwrap_or(release.len());
    let mut numbers = release.get(..end)?.split('.').map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    // `7.1.` and `7.1.x` are 7.1.
    let patch = numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((major, minor, patch))
}

/// A set of offloads: those that are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Offloads(u8);

impl Offloads {
    /// Every offload.
    pub const ALL: Self = Self((1 << Offload::ALL.len()) - 1);
    /// No offload.
    pub const NONE: Self = Self(0);

    /// Whether the offload is among them.
    pub const fn contains(self, offload: Offload) -> bool {
        self.0 & offload.bit() != 0
    }

    /// These and the offload.
    #[must_use]
    pub const fn with(self, offload: Offload) -> Self {
        Self(self.0 | offload.bit())
    }

    /// These but for the offload.
    #[must_use]
    pub const fn without(self, offload: Offload) -> Self {
        Self(self.0 & !offload.bit())
    }

    /// Each of them, in the order of [`Offload::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Offload> {
        Offload::ALL
            .into_iter()
            .filter(move |offload| self.contains(*offload))
    }
}

impl Default for Offloads {
    /// Every offload: a kernel that cannot do one says so.
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<Offload> for Offloads {
    fn from_iter<I: IntoIterator<Item = Offload>>(offloads: I) -> Self {
        offloads.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// How an offload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum OffloadState {
    /// In use.
    On,
    /// Not in use.
    Off(OffloadObstacle),
}

impl OffloadState {
    /// Whether it is in use.
    pub const fn is_on(&self) -> bool {
        matches!(self, Self::On)
    }
}

impl fmt::Display for OffloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Off(why) => write!(f, "off: {why}"),
        }
    }
}

/// Why an offload is not in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum OffloadObstacle {
    /// The config does not want it.
    Configured,
    /// This kernel lacks it.
    Unsupported,
    /// This kernel is known to damage packets by it.
    KnownBug {
        /// The kernel's release.
        kernel: String,
    },
    /// The kernel took it at the start and refused it later.
    Rejected {
        /// The error, as the kernel's headers name it: `EINVAL`.
        error: String,
    },
}

impl fmt::Display for OffloadObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("switched off in the config"),
            Self::Unsupported => f.write_str("this kernel lacks it"),
            Self::KnownBug { kernel } => write!(f, "kernel {kernel} damages packets by it"),
            Self::Rejected { error } => write!(f, "the kernel refused it at run time ({error})"),
        }
    }
}

/// How each offload of a device is.
pub type OffloadReport = BTreeMap<Offload, OffloadState>;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    #[test]
    fn kernels_that_damage_super_packets_of_udp_are_recognised_by_their_release() {
        for release in [
            "7.0.0",
            "7.0.3-cloud-amd64",
            "7.0.0-15-generic",
            "7.0-rc4",
            "7.0.99",
            "7.1",
            "7.1.0-rc1",
            "7.1.4+deb13-arm64",
        ] {
            let known = OffloadObstacle::KnownBug {
                kernel: release.to_owned(),
            };
            for offload in [Offload::UdpGso, Offload::TunUso] {
                let found = offload.known_bug(release);
                assert_eq!(found.as_ref(), Some(&known), "{offload} {release}");
            }
        }
    }

    #[test]
    fn other_kernels_have_no_known_bug() {
        for release in [
            "7.1.5",
            "7.1.5-rc1",
            "7.1.10-cloud-amd64",
            "7.2.0-rc1",
            "8.0.0",
            "6.1.0-30-cloud-amd64",
            "6.18.5",
            "6.19",
            "70.0.1",
        ] {
            assert_eq!(Offload::UdpGso.known_bug(release), None, "{release}");
        }
    }

    #[test]
    fn a_release_that_makes_no_sense_has_no_known_bug() {
        for release in [
            "",
            ".",
            "7",
            "7.",
            "7..3",
            "-7.0.3",
            "v7.0.3",
            "7.x.3",
            "7.99999999999.0",
            "७.०.३",
            "linux",
        ] {
            assert_eq!(Offload::UdpGso.known_bug(release), None, "{release:?}");
        }
    }

    #[test]
    fn a_kernel_that_damages_super_packets_of_udp_is_trusted_with_the_others() {
        for offload in [Offload::TunTso, Offload::TunGro, Offload::UdpGro] {
            assert_eq!(offload.known_bug("7.0.3"), None, "{offload}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        assert_eq!(Offloads::default().iter().collect::<Vec<_>>(), Offload::ALL);
        assert_eq!(Offloads::NONE.iter().count(), 0);
        for one in Offload::ALL {
            let rest = Offloads::ALL.without(one);
            assert!(!rest.contains(one) && Offloads::NONE.with(one).contains(one));
            assert_eq!(rest.iter().count(), Offload::ALL.len() - 1);
            assert_eq!(rest.with(one), Offloads::ALL);
            assert_eq!(rest.without(one), rest);
        }
        let two: Offloads = [Offload::UdpGro, Offload::TunTso, Offload::UdpGro]
            .into_iter()
            .collect();
        assert_eq!(format!("{two:?}"), "{TunTso, UdpGro}");
    }

    #[test]
    fn names_are_the_same_in_json_and_in_print() {
        for offload in Offload::ALL {
            let json = serde_json::to_value(offload).unwrap();
            assert_eq!(json, offload.to_string());
        }
    }

    #[test]
    fn a_report_survives_json_and_tells_the_reason_in_words() {
        let off = |why| OffloadState::Off(why);
        let kernel = "7.0.3".to_owned();
        let error = "EINVAL".to_owned();
        let report: OffloadReport = [
            (Offload::TunTso, OffloadState::On),
            (Offload::TunUso, off(OffloadObstacle::Unsupported)),
            (Offload::TunGro, off(OffloadObstacle::Configured)),
            (Offload::UdpGso, off(OffloadObstacle::KnownBug { kernel })),
            (Offload::UdpGro, off(OffloadObstacle::Rejected { error })),
        ]
        .into();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "tun_tso": { "state": "on" },
                "tun_uso": { "state": "off", "why": { "code": "unsupported" } },
                "tun_gro": { "state": "off", "why": { "code": "configured" } },
                "udp_gso": { "state": "off", "why": { "code": "known_bug", "kernel": "7.0.3" } },
                "udp_gro": { "state": "off", "why": { "code": "rejected", "error": "EINVAL" } },
            })
        );
        assert_eq!(
            serde_json::from_value::<OffloadReport>(json).unwrap(),
            report
        );
        let told: Vec<String> = report.values().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "on",
                "off: this kernel lacks it",
                "off: switched off in the config",
                "off: kernel 7.0.3 damages packets by it",
                "off: the kernel refused it at run time (EINVAL)",
            ]
        );
    }
}
