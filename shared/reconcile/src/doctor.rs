//! The judgement of `doctor`: from what was found to what is wrong with it, and the
//! command or the config line that mends it.
//!
//! Each function takes facts and returns findings; who gathered the facts, how long
//! that may take and how it is printed is none of its business. A fact that could not
//! be had is a reason, and becomes a finding that says so: no check is left out in
//! silence.

pub mod clock;
pub mod daemon;
pub mod elastic_ip;
pub mod firewall;
pub mod host;
pub mod hub_route;
pub mod instance;
pub mod metadata;
pub mod network_acl;
pub mod peer;
pub mod permission;
pub mod route_table;
pub mod security_group;
pub mod sibling;

use std::collections::BTreeMap;

use privnet_model::doctor::Finding;
use privnet_model::inventory::Identity;
use privnet_model::status::Role;

/// A fact, or why it could not be had.
pub type Known<T> = Result<T, String>;

/// What the remedies leave open: each `$NAME` in them becomes its value. One of which the
/// value is not known stays, as a variable of the shell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// `$REGION`, `$INSTANCE` and `$VPC`.
    pub fn of(identity: &Identity) -> Self {
        let names = [
            ("$REGION", identity.region.to_string()),
            ("$INSTANCE", identity.instance.to_string()),
            ("$VPC", identity.vpc.to_string()),
        ];
        Self(names.into())
    }

    /// The same with `$ROLE`.
    #[must_use]
    pub fn with_role(mut self, role: String) -> Self {
        self.0.insert("$ROLE", role);
        self
    }

    /// Writes the values into the remedies.
    pub fn fill(&self, findings: &mut [Finding]) {
        for remedy in findings.iter_mut().flat_map(|finding| &mut finding.remedy) {
            for (name, value) in &self.0 {
                *remedy = remedy.replace(name, value);
            }
        }
    }
}

/// The systemd service of a daemon, for the commands that mend something.
fn service(role: Role) -> &'static str {
    role.program()
}

#[cfg(test)]
mod tests {
    use privnet_model::doctor::Area;

    use super::*;

    #[test]
    fn what_is_known_is_written_into_the_remedies_and_the_rest_stays() {
        let mut findings = [Finding::wrong(Area::Aws, "x", "y").mend("a $ROLE in $REGION")];
        Names::default()
            .with_role("privnet-spoke".to_owned())
            .fill(&mut findings);
        assert_eq!(findings[0].remedy, ["a privnet-spoke in $REGION"]);
    }
}
