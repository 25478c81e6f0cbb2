//! Explicit congestion notification across the tunnel, by RFC 6040: the outer
//! header starts with the inner one's mark, and congestion that the outer one
//! met on its way is told to the inner one. The rest of the outer traffic class
//! stays 0, so the path learns nothing of what is inside.

/// The two ECN bits of an IP header (RFC 3168, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ecn(u8);

impl Ecn {
    /// The sender does not understand ECN.
    pub const NOT_ECT: Self = Self(0);
    /// The sender does, codepoint 1.
    pub const ECT1: Self = Self(1);
    /// The sender does, codepoint 0.
    pub const ECT0: Self = Self(2);
    /// Congestion experienced.
    pub const CE: Self = Self(3);

    /// The bits in a TOS or traffic class byte.
    pub const fn from_traffic_class(byte: u8) -> Self {
        Self(byte & 3)
    }

    /// The bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What the inner header says when the packet leaves the tunnel, or nothing
    /// when the packet must be dropped: its sender would not hear of the
    /// congestion otherwise (RFC 6040, figure 4).
    pub(crate) fn leaving(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NOT_ECT, Self::CE) => None,
            (Self::ECT0 | Self::ECT1, Self::CE) => Some(Self::CE),
            (Self::ECT0, Self::ECT1) => Some(Self::ECT1),
            (inner, _) => Some(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_header_hears_of_congestion_as_rfc_6040_says() {
        let all = [Ecn::NOT_ECT, Ecn::ECT0, Ecn::ECT1, Ecn::CE];
        // Rows: inner, columns: outer; figure 4 of the RFC.
        let expected = [
            [
                Some(Ecn::NOT_ECT),
                Some(Ecn::NOT_ECT),
                Some(Ecn::NOT_ECT),
                None,
            ],
            [
                Some(Ecn::ECT0),
                Some(Ecn::ECT0),
                Some(Ecn::ECT1),
                Some(Ecn::CE),
            ],
            [
                Some(Ecn::ECT1),
                Some(Ecn::ECT1),
                Some(Ecn::ECT1),
                Some(Ecn::CE),
            ],
            [Some(Ecn::CE); 4],
        ];
        for (inner, row) in all.iter().zip(expected) {
            for (outer, left) in all.iter().zip(row) {
                assert_eq!(inner.leaving(*outer), left, "{inner:?} in {outer:?}");
            }
        }
    }
}
