//! Events of charon, in our words.

use privnet_model::ipsec::{ChildSa, IkeSa, UniqueId};
use privnet_reconcile::ipsec::diagnosis::LogLine;

use crate::association::{first_section, ike_sa, read_child, read_ike};
use crate::vici::{Events, Happening, Section, ViciError};

/// What happened to a security association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssociationEvent {
    /// An IKE SA is established. Without a child it carries nothing yet.
    IkeUp(IkeSa),
    /// An IKE SA ended, or came to nothing. Why, only the log says.
    IkeDown(IkeSa),
    /// A child is installed.
    ChildUp(IkeSa),
    /// A child ended. Children that end because the IKE SA was rekeyed do not.
    ChildDown(IkeSa),
    /// An IKE SA has a successor, which has its children now.
    IkeRekeyed {
        /// The one that ends.
        old: Box<IkeSa>,
        /// Its successor.
        new: Box<IkeSa>,
    },
    /// A child has a successor. Its counters begin at zero.
    ChildRekeyed {
        /// The IKE SA of both.
        ike: Box<IkeSa>,
        /// The one that ends.
        old: Box<ChildSa>,
        /// Its successor.
        new: Box<ChildSa>,
    },
    /// Events were lost: list the associations anew.
    Lost,
}

/// The events of security associations.
#[derive(Debug)]
pub struct AssociationEvents(pub(crate) Events);

/// Events of all four kinds, as they are told.
pub(crate) const ASSOCIATION_EVENTS: &[&str] =
    &["ike-updown", "child-updown", "ike-rekey", "child-rekey"];

impl AssociationEvents {
    /// The next one. An error that ends the connection is the last; another is
    /// about one event that cannot be read. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<AssociationEvent, ViciError> {
        match self.0.next().await? {
            Happening::Lost => Ok(AssociationEvent::Lost),
            Happening::Event { name, message } => AssociationEvent::read(&name, &message),
        }
    }
}

impl AssociationEvent {
    /// The event of one of the four names that tell of associations.
    pub fn read(name: &str, message: &Section) -> Result<Self, ViciError> {
        // A down event has no `up` at all.
        let up = message.text("up") == Some("yes");
        match name {
            "ike-updown" if up => ike_sa(message).map(Self::IkeUp),
            "ike-updown" => ike_sa(message).map(Self::IkeDown),
            "child-updown" if up => ike_sa(message).map(Self::ChildUp),
            "child-updown" => ike_sa(message).map(Self::ChildDown),
            "ike-rekey" => {
                let (connection, pair) = first_section(message)?;
                let [old, new] = old_and_new(connection, pair)?;
                Ok(Self::IkeRekeyed {
                    old: Box::new(read_ike(connection, old)?),
                    new: Box::new(read_ike(connection, new)?),
                })
            }
            _ => child_rekey(message),
        }
    }
}

fn child_rekey(message: &Section) -> Result<AssociationEvent, ViciError> {
    let (connection, ike) = first_section(message)?;
    let children = ike.section("child-sas");
    let pair = children.and_then(|children| children.sections().next());
    let nothing = Section::new();
    let pair = pair.map_or(&nothing, |(_, pair)| pair);
    let [old, new] = old_and_new(connection, pair)?;
    // The pair stands where children stand elsewhere.
    let mut alone = Section::new();
    for (name, element) in ike.iter().filter(|(name, _)| *name != "child-sas") {
        alone.push(name, element.clone());
    }
    Ok(AssociationEvent::ChildRekeyed {
        ike: Box::new(read_ike(connection, &alone)?),
        old: Box::new(read_child(connection, old)?),
        new: Box::new(read_child(connection, new)?),
    })
}

fn old_and_new<'a>(connection: &str, pair: &'a Section) -> Result<[&'a Section; 2], ViciError> {
    match (pair.section("old"), pair.section("new")) {
        (Some(old), Some(new)) => Ok([old, new]),
        _ => Err(ViciError::Unexpected {
            answer: format!("event of a rekey of {connection}"),
            key: "old, new",
            found: String::new(),
            expected: "two sections",
        }),
    }
}

/// charon's log, at level 1, for `LogReader`.
#[derive(Debug)]
pub struct Log(pub(crate) Events);

impl Log {
    /// The next line; `None` where lines were lost. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Option<LogLine>, ViciError> {
        let message = match self.0.next().await? {
            Happening::Lost => return Ok(None),
            Happening::Event { message, .. } => message,
        };
        Ok(Some(log_line(&message)))
    }
}

/// A line from the event `log`. What is missing stays empty: a reason may be lost
/// with it, nothing else.
pub fn log_line(message: &Section) -> LogLine {
    let text = |key| message.text(key).map(str::to_owned);
    let sa = message.text("ikesa-uniqueid");
    LogLine {
        group: text("group").unwrap_or_default(),
        connection: text("ikesa-name"),
        sa: sa.and_then(|id| id.parse().ok()).map(UniqueId),
        text: text("msg").unwrap_or_default(),
    }
}
