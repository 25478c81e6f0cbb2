//! Bytes from the fuzzer, read as choices. Where they end, every choice is zero.

use super::reference::{ACK, Spec, TCP, UDP};

#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// At most that many bytes.
    pub(super) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A packet in which most is as usual, with that many bytes of payload at most.
    pub(super) fn spec(&mut self, payload: u16) -> Spec {
        let shape = self.byte();
        let protocol = if shape & 2 == 0 { TCP } else { UDP };
        let length = self.word() % payload;
        let mut spec = Spec::new(shape & 1 == 0, protocol, usize::from(length));
        spec.hosts = (self.byte(), self.byte());
        // Two flows, so that their packets meet.
        spec.ports.0 = 1000 + u16::from(shape >> 7);
        if shape & 4 != 0 {
            spec.tos = self.byte();
            spec.ttl = self.byte();
        }
        if shape & 8 != 0 {
            spec.fragment = self.word();
            spec.id = self.word();
        }
        if shape & 16 != 0 {
            spec.flags = self.byte();
            spec.window = self.word();
            spec.tcp_options = vec![1; usize::from(self.byte() % 11) * 4];
        } else {
            spec.flags = ACK;
        }
        if shape & 32 != 0 {
            if spec.is_v4 {
                spec.extra = vec![1; usize::from(self.byte() % 11) * 4];
            } else {
                spec.extra_type = Some([0, 43, 60][usize::from(self.byte() % 3)]);
                spec.extra = vec![0xa5; 8];
                (spec.extra[0], spec.extra[1]) = (spec.protocol, 0);
            }
        }
        spec
    }

    /// Changes a few bytes. Returns whether it did.
    pub(super) fn patch(&mut self, bytes: &mut [u8]) -> bool {
        let mut changed = false;
        for _ in 0..self.byte() % 4 {
            let (place, value) = (usize::from(self.word()), self.byte());
            // The headers are where the decisions are.
            let place = if value & 1 == 0 { place % 64 } else { place };
            if let Some(byte) = bytes.get_mut(place)
                && *byte != value
            {
                *byte = value;
                changed = true;
            }
        }
        changed
    }
}
