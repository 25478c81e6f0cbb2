//! The messages: trees of sections, lists and values, as bytes and back.
//!
//! What is read is bounded in depth and number of elements before anything is
//! allocated for it, and whatever is wrong with it is an error that says where.
//! There is one encoding of each message: decoding and encoding gives the same
//! bytes again.

use std::fmt;

use zeroize::Zeroizing;

/// Sections inside sections. charon's own messages have five.
pub const MOST_DEPTH: usize = 16;

/// Elements in a message. The names of 10,000 connections are 10,002.
pub const MOST_ELEMENTS: usize = 65_536;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A section, or a whole message: named elements in their order. charon's order
/// means something (the first proposal is the preferred one), so it is kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Section {
    elements: Vec<(String, Element)>,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Element {
    /// A value. charon's are all text; the protocol takes any bytes.
    Value(Vec<u8>),
    /// A value that is zeroized, and that no `Debug` shows. Only ever sent: what
    /// comes from charon is none.
    Secret(Zeroizing<Vec<u8>>),
    /// Values without names.
    List(Vec<Vec<u8>>),
    /// Named elements.
    Section(Section),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A packet that claims to be longer than any may be.
    #[error(
        "a packet of {bytes} bytes, expected 1 to {}",
        super::packet::MOST_BYTES
    )]
    PacketLength {
        /// What it claims.
        bytes: u64,
    },
    /// It ends inside an element.
    #[error("it ends at byte {at}, in the middle of an element")]
    CutOff {
        /// Where.
        at: usize,
    },
    /// A number that stands for no kind of packet.
    #[error("packet type {found}, expected 0 to 7")]
    PacketType {
        /// The number.
        found: u8,
    },
    /// A kind of packet that only clients send.
    #[error("a packet of type {found}, which only clients send")]
    NotForClients {
        /// Its type.
        found: u8,
    },
    /// Bytes behind the end of a packet that has no message.
    #[error("{bytes} bytes more than a packet of type {found} has")]
    Surplus {
        /// The packet's type.
        found: u8,
        /// How many.
        bytes: usize,
    },
    /// A number that stands for no kind of element.
    #[error("element type {found} at byte {at}, expected 1 to 6")]
    ElementType {
        /// The number.
        found: u8,
        /// Where.
        at: usize,
    },
    /// An element where it may not be: an item outside a list, say.
    #[error("element type {found} at byte {at}, where it may not be")]
    Misplaced {
        /// The element's type.
        found: u8,
        /// Where.
        at: usize,
    },
    /// The end came before that of a list or section.
    #[error("it ends inside a list or section")]
    Unclosed,
    /// A name that is not text.
    #[error("the name at byte {at} is not UTF-8")]
    Name {
        /// Where.
        at: usize,
    },
    /// Deeper than [`MOST_DEPTH`].
    #[error("sections {MOST_DEPTH} deep at byte {at}, and another one")]
    TooDeep {
        /// Where.
        at: usize,
    },
    /// More than [`MOST_ELEMENTS`].
    #[error("more than {MOST_ELEMENTS} elements")]
    TooMany,
    /// A name or value that its length field cannot tell. Only what is to be sent
    /// can be so.
    #[error("{what} of {bytes} bytes, expected at most {most}")]
    TooLong {
        /// "a name" or "a value".
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
}

impl Section {
    /// An empty message.
    pub const fn new() -> Self {
        Self {
            elements: Vec::new(),
        }
    }

    /// With a value at the end.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.push(name, Element::Value(value.as_ref().to_vec()));
        self
    }

    /// With a value at the end that is a secret.
    #[must_use]
    pub fn with_secret(mut self, name: &str, value: &[u8]) -> Self {
        self.push(name, Element::Secret(Zeroizing::new(value.to_vec())));
        self
    }

    /// With a list at the end.
    #[must_use]
    pub fn with_list<T: AsRef<[u8]>>(
        mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
    ) -> Self {
        let items = items.into_iter().map(|item| item.as_ref().to_vec());
        self.push(name, Element::List(items.collect()));
        self
    }

    /// With a section at the end.
    #[must_use]
    pub fn with_section(mut self, name: &str, section: Section) -> Self {
        self.push(name, Element::Section(section));
        self
    }

    /// Adds an element at the end.
    pub fn push(&mut self, name: &str, element: Element) {
        self.elements.push((name.to_owned(), element));
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Element)> {
        self.elements.iter().map(|(name, it)| (name.as_str(), it))
    }

    /// The elements that are sections, in order.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.iter().filter_map(|(name, element)| match element {
            Element::Section(section) => Some((name, section)),
            Element::Value(_) | Element::Secret(_) | Element::List(_) => None,
        })
    }

    /// The value of that name, if there is one and it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(is, element)| match element {
            Element::Value(value) if is == name => std::str::from_utf8(value).ok(),
            _ => None,
        })
    }

    /// The items of the list of that name that are text; none where there is no
    /// such list.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        let items = self.iter().find_map(|(is, element)| match element {
            Element::List(items) if is == name => Some(items.as_slice()),
            _ => None,
        });
        let items = items.unwrap_or_default().iter();
        items.filter_map(|item| std::str::from_utf8(item).ok())
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections()
            .find_map(|(is, it)| (is == name).then_some(it))
    }

    /// The message as bytes. They are zeroized, for there may be a secret among
    /// them, and allocated at once, for growing would leave copies behind.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.encoded_len()));
        self.encode_into(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn encoded_len(&self) -> usize {
        let elements = self.elements.iter().map(|(name, element)| {
            2 + name.len()
                + match element {
                    Element::Value(value) => 2 + value.len(),
                    Element::Secret(value) => 2 + value.len(),
                    Element::List(items) => {
                        1 + items.iter().map(|item| 3 + item.len()).sum::<usize>()
                    }
                    Element::Section(section) => 1 + section.encoded_len(),
                }
        });
        elements.sum()
    }

    pub(super) fn encode_into(&self, bytes: &mut Vec<u8>) -> Result<(), Malformed> {
        for (name, element) in &self.elements {
            let kind = match element {
                Element::Value(_) | Element::Secret(_) => KEY_VALUE,
                Element::List(_) => LIST_START,
                Element::Section(_) => SECTION_START,
            };
            bytes.push(kind);
            push_name(bytes, name)?;
            match element {
                Element::Value(value) => push_value(bytes, value)?,
                Element::Secret(value) => push_value(bytes, value)?,
                Element::List(items) => {
                    for item in items {
                        bytes.push(LIST_ITEM);
                        push_value(bytes, item)?;
                    }
                    bytes.push(LIST_END);
                }
                Element::Section(section) => {
                    section.encode_into(bytes)?;
                    bytes.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    /// The message that these bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, at: 0 };
        // The sections that are open, with their names; the first is the message.
        let mut open = vec![(String::new(), Self::new())];
        let mut list: Option<(String, Vec<Vec<u8>>)> = None;
        let mut elements = 0;
        while let Some((at, kind)) = reader.kind() {
            elements += 1;
            if elements > MOST_ELEMENTS {
                return Err(Malformed::TooMany);
            }
            let misplaced = Malformed::Misplaced { found: kind, at };
            let in_list = list.is_some();
            match kind {
                LIST_ITEM => match &mut list {
                    Some((_, items)) => items.push(reader.value()?.to_vec()),
                    None => return Err(misplaced),
                },
                LIST_END => {
                    let (name, items) = list.take().ok_or(misplaced)?;
                    innermost(&mut open, misplaced)?.push(&name, Element::List(items));
                }
                SECTION_START | SECTION_END | KEY_VALUE | LIST_START if in_list => {
                    return Err(misplaced);
                }
                SECTION_START => {
                    if open.len() > MOST_DEPTH {
                        return Err(Malformed::TooDeep { at });
                    }
                    open.push((reader.name()?.to_owned(), Self::new()));
                }
                SECTION_END => {
                    let (name, section) = open.pop().ok_or(misplaced)?;
                    // The message itself is not closed, it ends.
                    innermost(&mut open, misplaced)?.push(&name, Element::Section(section));
                }
                KEY_VALUE => {
                    let name = reader.name()?;
                    let value = Element::Value(reader.value()?.to_vec());
                    innermost(&mut open, misplaced)?.push(name, value);
                }
                LIST_START => list = Some((reader.name()?.to_owned(), Vec::new())),
                found => return Err(Malformed::ElementType { found, at }),
            }
        }
        match (open.pop(), open.is_empty(), list) {
            (Some((_, message)), true, None) => Ok(message),
            _ => Err(Malformed::Unclosed),
        }
    }
}

fn innermost(
    open: &mut [(String, Section)],
    otherwise: Malformed,
) -> Result<&mut Section, Malformed> {
    open.last_mut().map(|(_, section)| section).ok_or(otherwise)
}

pub(super) fn push_name(bytes: &mut Vec<u8>, name: &str) -> Result<(), Malformed> {
    let length = u8::try_from(name.len()).map_err(|_| Malformed::TooLong {
        what: "a name",
        bytes: name.len(),
        most: usize::from(u8::MAX),
    })?;
    bytes.push(length);
    bytes.extend_from_slice(name.as_bytes());
    Ok(())
}

fn push_value(bytes: &mut Vec<u8>, value: &[u8]) -> Result<(), Malformed> {
    let length = u16::try_from(value.len()).map_err(|_| Malformed::TooLong {
        what: "a value",
        bytes: value.len(),
        most: usize::from(u16::MAX),
    })?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
    Ok(())
}

/// A place in bytes.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    /// The next element's type and where it is; `None` at the end.
    pub(super) fn kind(&mut self) -> Option<(usize, u8)> {
        let at = self.at;
        let kind = *self.bytes.get(at)?;
        self.at += 1;
        Some((at, kind))
    }

    pub(super) fn name(&mut self) -> Result<&'a str, Malformed> {
        let at = self.at;
        let length = usize::from(self.take(1)?[0]);
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::Name { at })
    }

    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.take(2)?;
        let length = u16::from_be_bytes([length[0], length[1]]);
        self.take(usize::from(length))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(Malformed::CutOff {
            at: self.bytes.len(),
        })?;
        self.at += length;
        Ok(taken)
    }
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => fmt::Debug::fmt(&String::from_utf8_lossy(value), f),
            Self::Secret(_) => f.write_str("(secret)"),
            Self::List(items) => {
                let items = items.iter().map(|item| String::from_utf8_lossy(item));
                f.debug_list().entries(items).finish()
            }
            Self::Section(section) => fmt::Debug::fmt(section, f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use proptest::prelude::*;

    /// The example in strongSwan's description of the protocol.
    const EXAMPLE: &[u8] = b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\
        \x03\x04key2\x00\x06value2\x02\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";

    fn example() -> Section {
        Section::new().with("key1", "value1").with_section(
            "section1",
            Section::new()
                .with_section("sub-section", Section::new().with("key2", "value2"))
                .with_list("list1", ["item1", "item2"]),
        )
    }

    #[test]
    fn the_example_of_the_protocols_description_is_read_and_written() {
        assert_eq!(Section::decode(EXAMPLE).unwrap(), example());
        assert_eq!(*example().encode().unwrap(), EXAMPLE);
        let section = example();
        let section = section.section("section1").unwrap();
        assert_eq!(
            section.list("list1").collect::<Vec<_>>(),
            ["item1", "item2"]
        );
        let inner = section.section("sub-section").unwrap();
        assert_eq!(inner.text("key2"), Some("value2"));
        assert_eq!(inner.text("key1"), None);
    }

    #[test]
    fn a_message_cut_off_anywhere_is_an_error() {
        for length in 1..EXAMPLE.len() {
            let decoded = Section::decode(&EXAMPLE[..length]);
            // Only behind the first value everything that was begun is also ended.
            assert_eq!(decoded.is_ok(), length == 14, "{length}: {decoded:?}");
        }
    }

    #[test]
    fn elements_where_they_may_not_be_are_errors() {
        use Malformed as M;
        let cases: [(&[u8], Malformed); 9] = [
            (b"\x02", M::Misplaced { found: 2, at: 0 }),
            (b"\x05\x00\x00", M::Misplaced { found: 5, at: 0 }),
            (b"\x06", M::Misplaced { found: 6, at: 0 }),
            (b"\x04\x00\x04\x00", M::Misplaced { found: 4, at: 2 }),
            (b"\x04\x00\x02", M::Misplaced { found: 2, at: 2 }),
            (b"\x01\x00", M::Unclosed),
            (b"\x04\x00", M::Unclosed),
            (b"\x07", M::ElementType { found: 7, at: 0 }),
            (b"\x01\x01\xff\x02", M::Name { at: 1 }),
        ];
        for (bytes, error) in cases {
            assert_eq!(Section::decode(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let nested = |depth| [b"\x01\x00".repeat(depth), b"\x02".repeat(depth)].concat();
        assert!(Section::decode(&nested(MOST_DEPTH)).is_ok());
        let error = Section::decode(&nested(MOST_DEPTH + 1));
        assert_eq!(error, Err(Malformed::TooDeep { at: 2 * MOST_DEPTH }));
        let many = |number| b"\x03\x00\x00\x00".repeat(number);
        assert!(Section::decode(&many(MOST_ELEMENTS)).is_ok());
        assert_eq!(
            Section::decode(&many(MOST_ELEMENTS + 1)),
            Err(Malformed::TooMany)
        );
    }

    #[test]
    fn what_no_length_field_can_tell_is_not_sent() {
        let long = Section::new().with(&"n".repeat(256), "");
        assert!(matches!(
            long.encode(),
            Err(Malformed::TooLong { bytes: 256, .. })
        ));
        let long = Section::new().with_list("n", [vec![0; 65_536]]);
        assert!(matches!(
            long.encode(),
            Err(Malformed::TooLong { bytes: 65_536, .. })
        ));
    }

    #[test]
    fn a_secret_is_sent_but_never_shown() {
        let message = Section::new().with_secret("data", b"hunter2");
        assert_eq!(format!("{message:?}"), r#"{"data": (secret)}"#);
        assert_eq!(*message.encode().unwrap(), b"\x03\x04data\x00\x07hunter2");
    }

    fn sections() -> impl Strategy<Value = Section> {
        let value = prop::collection::vec(any::<u8>(), 0..9);
        let leaf = prop_oneof![
            value.clone().prop_map(Element::Value),
            prop::collection::vec(value, 0..4).prop_map(Element::List),
        ];
        let element = leaf.prop_recursive(MOST_DEPTH as u32 - 1, 64, 5, |inner| {
            prop::collection::vec(("[a-z-]{0,4}", inner), 0..5)
                .prop_map(|elements| Element::Section(Section { elements }))
        });
        prop::collection::vec(("[a-z-]{0,4}", element), 0..6)
            .prop_map(|elements| Section { elements })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_to_the_same(message in sections()) {
            let bytes = message.encode().unwrap();
            prop_assert_eq!(bytes.len(), message.encoded_len());
            prop_assert_eq!(Section::decode(&bytes), Ok(message));
        }

        #[test]
        fn what_is_decoded_is_encoded_to_the_same(
            message in sections(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..9), 0..4),
        ) {
            let mut bytes = message.encode().unwrap().to_vec();
            for (place, value) in changes {
                if !bytes.is_empty() {
                    let place = place.index(bytes.len());
                    bytes[place] = value;
                }
            }
            if let Ok(decoded) = Section::decode(&bytes) {
                prop_assert_eq!(decoded.encode().unwrap().to_vec(), bytes);
            }
        }
    }
}
