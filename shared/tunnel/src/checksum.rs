//! The internet checksum (RFC 1071): sums over bytes, over the pseudo-headers of
//! both families, and the correction of a checksum whose data changed (RFC 1624).
//! It works on numbers and slices and knows no packet.
//!
//! Every payload byte of a segmented or merged flow passes through [`Sum::of`],
//! so that one is written to become vector code without `unsafe`.

use std::ops::Add;

/// A ones' complement sum of 16-bit words in network order, always folded. It is
/// zero only if all words were, so two ways to the same sum give the same bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u16);

/// How many 32-bit words are summed side by side: two registers of SSE2 or NEON.
const LANES: usize = 8;

/// No sum over this many bytes overflows a lane, and it is even.
const BLOCK: usize = 1 << 16;

impl Sum {
    /// The sum over bytes, as if a zero followed an odd number of them.
    pub fn of(bytes: &[u8]) -> Self {
        // The ones' complement sum does not depend on the byte order in which it
        // is computed (RFC 1071, section 2 (B)): one swap at the end is enough.
        Self(u16::from_be(native(bytes)))
    }

    /// The sum over a pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1):
    /// both addresses as they stand in the IP header, and the protocol and length
    /// of what follows.
    pub fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> Self {
        Self::of(addresses) + Self::from(u16::from(protocol)) + Self::of_length(length)
    }

    /// A length as a pseudo-header holds it: 32 bits.
    pub(crate) fn of_length(length: usize) -> Self {
        Self::from(length as u16) + Self::from((length >> 16) as u16)
    }

    /// The sum without words that were part of it.
    #[must_use]
    pub fn without(self, words: Self) -> Self {
        self + Self(!words.0)
    }

    /// The sum itself: the unfinished checksum that asks somebody else to
    /// complete it.
    pub fn folded(self) -> u16 {
        self.0
    }

    /// The checksum: the complement of the sum.
    pub fn checksum(self) -> u16 {
        !self.0
    }

    /// Whether data that contains its own checksum is intact.
    pub fn is_intact(self) -> bool {
        self.0 == u16::MAX
    }
}

impl From<u16> for Sum {
    fn from(word: u16) -> Self {
        Self(word)
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        Self(sum + u16::from(carry))
    }
}

/// Corrects a checksum after one word of its data changed. A wrong checksum stays
/// wrong, for the receiver to see.
pub fn corrected(checksum: u16, before: u16, after: u16) -> u16 {
    // RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    (Sum(!checksum) + Sum(!before) + Sum(after)).checksum()
}

/// The sum of the 16-bit words in the machine's byte order.
fn native(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    for block in bytes.chunks(BLOCK) {
        let (chunks, rest) = block.as_chunks();
        // Headers have none.
        if !chunks.is_empty() {
            total += lanes(chunks);
        }
        let (quads, tail) = rest.as_chunks();
        for quad in quads {
            total += u64::from(u32::from_ne_bytes(*quad));
        }
        let last = match *tail {
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c] => [a, b, c, 0],
            _ => [0; 4],
        };
        total += u64::from(u32::from_ne_bytes(last));
    }
    // 2^16 is one more than the modulus, so upper parts count like lower ones.
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

/// The same over at most a [`BLOCK`], not folded.
fn lanes(chunks: &[[u8; 4 * LANES]]) -> u64 {
    // Each lane sums 32-bit words modulo 2^32, and their upper halves apart. The
    // sum of the lower halves, which fits, is then the difference. That is one
    // instruction less than to split each word, and SSE2 has all three.
    let mut words = [0u32; LANES];
    let mut uppers = [0u32; LANES];
    for chunk in chunks {
        let (quads, _) = chunk.as_chunks();
        for ((word, upper), quad) in words.iter_mut().zip(&mut uppers).zip(quads) {
            let value = u32::from_ne_bytes(*quad);
            *word = word.wrapping_add(value);
            *upper = upper.wrapping_add(value >> 16);
        }
    }
    let lanes = words.into_iter().zip(uppers);
    lanes
        .map(|(word, upper)| u64::from(word.wrapping_sub(upper << 16)) + u64::from(upper))
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn no_lane_overflows_however_long_the_data() {
        for length in [BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7] {
            let bytes = vec![0xff; length];
            assert_eq!(Sum::of(&bytes).folded(), naive(&bytes), "{length}");
        }
    }

    #[test]
    fn only_zeros_sum_to_zero() {
        assert_eq!(Sum::of(&[0; 99]).folded(), 0);
        assert_eq!(Sum::of(&[0xff, 0xff]).folded(), 0xffff);
        assert_eq!(Sum::of(&[0xff, 0xfe, 0, 1]).folded(), 0xffff);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_words_at_any_length_and_offset(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            offset in 0usize..40,
        ) {
            let bytes = bytes.get(offset..).unwrap_or_default();
            prop_assert_eq!(Sum::of(bytes).folded(), naive(bytes));
        }

        #[test]
        fn a_pseudo_header_is_summed_as_its_bytes(
            addresses in prop::collection::vec(any::<u8>(), 32),
            protocol: u8,
            length: u32,
        ) {
            let mut bytes = addresses.clone();
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
            let sum = Sum::pseudo_header(&addresses, protocol, length as usize);
            prop_assert_eq!(sum.folded(), naive(&bytes));
        }

        #[test]
        fn a_corrected_checksum_is_the_computed_one(
            words in prop::collection::vec(1u16.., 2..20),
            after in 1u16..,
        ) {
            let sum = |words: &[u16]| words.iter().fold(Sum::default(), |sum, word| sum + (*word).into());
            let before = sum(&words).checksum();
            let mut changed = words.clone();
            changed[0] = after;
            prop_assert_eq!(corrected(before, words[0], after), sum(&changed).checksum());
            prop_assert_eq!(
                sum(&words).without(words[0].into()) + after.into(),
                sum(&changed)
            );
        }
    }
}
