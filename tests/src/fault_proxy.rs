//! A proxy in front of the AWS APIs that breaks them on demand: for one region or
//! all, for one caller or all, for one action or all, for every page or only for the ones after the
//! first, always or a number of times. Without rules it only passes on.
//!
//! [`Rules`] come by `PUT /_rules` as JSON and replace the ones before;
//! `GET /_calls` tells what passed so far ([`Call`]s, with the fault met), `GET /_now`
//! what the clock shows by which they are told.

mod answer;
mod request;
mod server;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use server::serve;

/// What the proxy does beside passing on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The first that applies to a call breaks it.
    pub faults: Vec<Fault>,
    /// The largest page that a caller gets, whatever it asks for: so a few
    /// instances make many pages.
    pub page_size: Option<u32>,
}

/// A rule: which calls break, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Only calls to this region.
    pub region: Option<String>,
    /// Only calls signed by this access key.
    #[serde(default)]
    pub access_key: Option<String>,
    /// Only calls of this action.
    pub action: Option<String>,
    /// Only calls that ask for a page after the first.
    #[serde(default)]
    pub later_pages_only: bool,
    /// Only calls whose form has this text in it, escaped as in a URL.
    #[serde(default)]
    pub containing: Option<String>,
    /// How many calls break before the rule is used up; `None` is every call.
    pub times: Option<u32>,
    /// What happens to them.
    pub kind: FaultKind,
}

impl Fault {
    /// Breaks every call of every region.
    pub const fn everywhere(kind: FaultKind) -> Self {
        Self {
            region: None,
            access_key: None,
            action: None,
            later_pages_only: false,
            containing: None,
            times: None,
            kind,
        }
    }

    /// Breaks every call to one region.
    pub fn in_region(region: &str, kind: FaultKind) -> Self {
        Self {
            region: Some(region.to_owned()),
            ..Self::everywhere(kind)
        }
    }

    /// Breaks every call by one caller.
    pub fn by_caller(access_key: &str, kind: FaultKind) -> Self {
        Self {
            access_key: Some(access_key.to_owned()),
            ..Self::everywhere(kind)
        }
    }

    /// Breaks every call of one action.
    pub fn of_action(action: &str, kind: FaultKind) -> Self {
        Self {
            action: Some(action.to_owned()),
            ..Self::everywhere(kind)
        }
    }

    /// The same, but the first pages are answered.
    #[must_use]
    pub fn after_the_first_page(self) -> Self {
        Self {
            later_pages_only: true,
            ..self
        }
    }

    /// Breaks only the questions for all instances with a spoke's tags; those by
    /// id are answered.
    pub fn of_searches(kind: FaultKind) -> Self {
        Self {
            containing: Some("=tag%3A".to_owned()),
            ..Self::of_action("DescribeInstances", kind)
        }
    }

    fn applies_to(&self, call: &Call, form: &str) -> bool {
        self.times != Some(0)
            && (call.later_page || !self.later_pages_only)
            && self
                .containing
                .as_ref()
                .is_none_or(|text| form.contains(text))
            && self
                .region
                .as_ref()
                .is_none_or(|region| *region == call.region)
            && self
                .access_key
                .as_ref()
                .is_none_or(|key| *key == call.access_key)
            && self
                .action
                .as_ref()
                .is_none_or(|action| *action == call.action)
    }
}

/// How a call breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Refused because there were too many.
    Throttled,
    /// Answered 503, as an overloaded API does.
    Unavailable,
    /// Answered 500.
    InternalError,
    /// Refused as AWS refuses a caller without the permission.
    Denied,
    /// Refused as AWS refuses credentials that are over.
    Expired,
    /// Refused as EC2 refuses one route more than a table may have.
    TableFull,
    /// Answered after this many milliseconds.
    Slow(u64),
    /// Never answered.
    Hang,
    /// Answered with the first half of the body as if that were all. The AWS SDK
    /// alone takes this for a complete answer.
    Cut,
    /// The connection breaks in the middle of the body.
    Abort,
    /// Answered with success and nothing in it.
    Empty,
    /// Answered with success, whole and well-formed: a list with nothing on it.
    NothingListed,
    /// Answered with all instances, and without a single tag of any.
    Untagged,
}

/// A call that came by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The service in its signature: `ec2`, `sts`.
    pub service: String,
    /// The region there.
    pub region: String,
    /// The access key there: who asked.
    pub access_key: String,
    /// Its action.
    pub action: String,
    /// Whether it asked for a page after the first.
    pub later_page: bool,
    /// The fault it met.
    pub fault: Option<FaultKind>,
    /// When it came, in milliseconds since the proxy started.
    pub from_millis: u64,
    /// When its answer was there; `None` while it is not.
    pub to_millis: Option<u64>,
}

/// How many milliseconds there was at least one call for the API to work on:
/// what the API itself took, however much was asked at once.
pub fn busy_millis(calls: &[Call]) -> u64 {
    let mut spans: Vec<(u64, u64)> = calls
        .iter()
        .filter_map(|call| Some((call.from_millis, call.to_millis?)))
        .collect();
    spans.sort_unstable();
    let (mut busy, mut end) = (0, 0);
    for (from, to) in spans {
        busy += to.saturating_sub(from.max(end));
        end = end.max(to);
    }
    busy
}

/// How long the API kept somebody waiting who made these calls one after the other: what
/// it took for each beyond the `usual` time of AWS's own. What falls together counts once,
/// and what it refused not at all: whoever is refused is to cope with that.
pub fn delay_millis(calls: &[Call], usual: Duration) -> u64 {
    let usual = u64::try_from(usual.as_millis()).unwrap_or(u64::MAX);
    let answered = calls.iter().filter(|call| call.fault.is_none());
    let late = answered.map(|call| Call {
        from_millis: call.from_millis.saturating_add(usual),
        ..call.clone()
    });
    busy_millis(&late.collect::<Vec<_>>())
}

/// The proxy's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    /// When it showed so many milliseconds, as in [`Call::from_millis`].
    pub fn at(self, millis: u64) -> Instant {
        self.zero + Duration::from_millis(millis)
    }
}

/// How a test speaks to the proxy.
#[derive(Debug, Clone)]
pub struct Control {
    url: String,
}

impl Control {
    /// Of the proxy at this address.
    pub fn new(proxy: SocketAddr) -> Self {
        Self {
            url: format!("http://{proxy}"),
        }
    }

    /// Breaks these calls, and no others.
    pub fn set(&self, faults: &[Fault]) -> Result<()> {
        self.set_rules(&Rules {
            faults: faults.to_vec(),
            page_size: None,
        })
    }

    /// Replaces the rules.
    pub fn set_rules(&self, rules: &Rules) -> Result<()> {
        ureq::put(format!("{}/_rules", self.url))
            .send(serde_json::to_vec(rules)?)
            .context("the fault proxy does not take rules")?;
        Ok(())
    }

    /// Removes all rules.
    pub fn clear(&self) -> Result<()> {
        self.set(&[])
    }

    /// Every call since the proxy started.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = ureq::get(format!("{}/_calls", self.url))
            .call()?
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_vec()?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The clock by which it tells of them.
    pub fn clock(&self) -> Result<Clock> {
        let text = ureq::get(format!("{}/_now", self.url))
            .call()?
            .body_mut()
            .read_to_string()?;
        let shows = Duration::from_millis(text.trim().parse()?);
        let zero = Instant::now().checked_sub(shows);
        let zero = zero.context("the proxy is older than the machine")?;
        Ok(Clock { zero })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(region: &str, later_page: bool) -> Call {
        Call {
            region: region.to_owned(),
            action: "DescribeInstances".to_owned(),
            later_page,
            ..Call::default()
        }
    }

    #[test]
    fn a_rule_for_one_region_or_action_leaves_the_others_alone() {
        let rule = Fault::in_region("eu-west-1", FaultKind::Hang);
        assert!(rule.applies_to(&call("eu-west-1", false), ""));
        assert!(!rule.applies_to(&call("us-west-2", false), ""));
        let rule = Fault::of_action("AssumeRole", FaultKind::Denied);
        assert!(!rule.applies_to(&call("eu-west-1", false), ""));
    }

    #[test]
    fn a_rule_for_one_caller_lets_the_others_pass() {
        let rule = Fault::by_caller("AKIAONE", FaultKind::Unavailable);
        let by = |access_key: &str| Call {
            access_key: access_key.to_owned(),
            ..call("eu-west-1", false)
        };
        assert!(rule.applies_to(&by("AKIAONE"), ""));
        assert!(!rule.applies_to(&by("AKIATWO"), ""));
    }

    #[test]
    fn a_rule_for_searches_lets_questions_by_id_pass() {
        let rule = Fault::of_searches(FaultKind::NothingListed);
        let call = call("eu-west-1", false);
        let search = "Action=DescribeInstances&Filter.1.Name=tag%3Aservice&Filter.1.Value.1=nat";
        let by_id = "Action=DescribeInstances&Filter.1.Name=instance-id&Filter.1.Value.1=i-1";
        assert!(rule.applies_to(&call, search));
        assert!(!rule.applies_to(&call, by_id));
    }

    #[test]
    fn a_rule_for_later_pages_lets_the_first_pass() {
        let rule = Fault::everywhere(FaultKind::Unavailable).after_the_first_page();
        assert!(!rule.applies_to(&call("eu-west-1", false), ""));
        assert!(rule.applies_to(&call("eu-west-1", true), ""));
    }

    #[test]
    fn a_rule_that_is_used_up_breaks_nothing() {
        let rule = Fault {
            times: Some(0),
            ..Fault::everywhere(FaultKind::Cut)
        };
        assert!(!rule.applies_to(&call("eu-west-1", false), ""));
    }

    #[test]
    fn time_in_which_calls_overlap_counts_once() {
        let span = |from_millis, to_millis| Call {
            from_millis,
            to_millis,
            ..Call::default()
        };
        let calls = [
            span(10, Some(20)),
            span(0, Some(15)),
            span(30, Some(31)),
            span(40, None),
        ];
        assert_eq!(busy_millis(&calls), 21);
        // Late are the second from 5 on, and the first from 15 to 20.
        assert_eq!(delay_millis(&calls, Duration::from_millis(5)), 15);
        let refused = Call {
            fault: Some(FaultKind::Throttled),
            ..span(12, Some(70))
        };
        let more = [&calls[..], &[refused]].concat();
        assert_eq!(delay_millis(&more, Duration::from_millis(5)), 15);
    }
}
