//! The other spokes of the VPC, as the daemon hears them.

use privnet_model::doctor::{Area, Finding};
use privnet_model::health::DEFAULT_HEALTH_PORT;
use privnet_model::status::{Refusal, RoutesStatus, SiblingStatus};

use crate::takeover::SiblingState;

const AREA: Area = Area::Peers;

/// How each of them is.
pub fn siblings(routes: &RoutesStatus) -> Vec<Finding> {
    routes.siblings.iter().map(sibling).collect()
}

fn sibling(sibling: &SiblingStatus) -> Finding {
    let SiblingStatus {
        instance,
        state,
        tunnel_down,
        only_others_hear,
        refused,
    } = sibling;
    let check = "sibling";
    let found = format!("{instance} is {state}");
    let is = |known: SiblingState| *state == known.to_string();
    let doctor = "privnet-spoke doctor   # on that spoke";
    if let Some(why) = refused {
        let found = format!("{found}, and what comes from it does not count: {why}");
        let finding = Finding::wrong(AREA, check, found);
        return match why {
            Refusal::Signature => finding
                .mend("preshared_key   # of both config files: the same secret")
                .mend("systemctl reload privnet-spoke   # on both, once it is"),
            // It learns from EC2 who has which address.
            Refusal::NotForMe => finding
                .mend(format!("{doctor}: may it ask EC2 for its siblings?"))
                .mend("systemctl restart privnet-spoke   # on that spoke, if it goes on"),
            Refusal::Unreadable { .. } => finding
                .mend("privnet-spoke --version   # on both: the same, or one is to be upgraded")
                .mend(format!(
                    "tcpdump -c 5 -nn -X udp port {DEFAULT_HEALTH_PORT}   # or is that another \
                     program? (the port is routes.health_port)"
                )),
        };
    }
    if *only_others_hear {
        let found = format!("{found}, as another spoke hears; it does not answer this one");
        return Finding::warning(AREA, check, found)
            .mend(format!(
                "aws ec2 describe-network-acls --region $REGION   # of both subnets: UDP \
                 {DEFAULT_HEALTH_PORT} must pass both ways (the port is routes.health_port)"
            ))
            .mend(doctor);
    }
    if *tunnel_down {
        let found = format!("{found}, but its tunnel to the hub is down");
        return Finding::warning(AREA, check, found).mend(doctor);
    }
    if is(SiblingState::Well) || is(SiblingState::Leaving) {
        return Finding::ok(AREA, check, found);
    }
    if is(SiblingState::Lost) {
        let found = format!("{found}: it answers nothing on its health port");
        return Finding::wrong(AREA, check, found)
            .mend(format!(
                "aws ec2 describe-instance-status --region $REGION --instance-ids {instance}"
            ))
            .mend(format!("{doctor}: does it run, is its health port open?"));
    }
    // It knows best what ails it.
    Finding::warning(AREA, check, found).mend(doctor)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use privnet_model::doctor::Verdict;
    use privnet_model::health::HealthError;

    use super::*;

    fn judged(state: &SiblingState, refused: Option<Refusal>) -> Finding {
        let routes = RoutesStatus {
            siblings: vec![SiblingStatus {
                instance: "i-00000002".parse().unwrap(),
                state: state.to_string(),
                tunnel_down: false,
                only_others_hear: false,
                refused,
            }],
            ..RoutesStatus::default()
        };
        let findings = siblings(&routes);
        let [finding] = &findings[..] else {
            panic!("one sibling, one finding");
        };
        finding.clone()
    }

    #[test]
    fn each_sibling_is_told_and_of_one_that_is_not_well_what_to_look_at() {
        let why = || "no egress".to_owned();
        for (state, verdict, mend) in [
            (SiblingState::Well, Verdict::Ok, None),
            (SiblingState::Leaving, Verdict::Ok, None),
            (
                SiblingState::Lost,
                Verdict::Wrong,
                Some("describe-instance-status --region $REGION --instance-ids i-00000002"),
            ),
            (
                SiblingState::Unheard,
                Verdict::Warning,
                Some("privnet-spoke doctor"),
            ),
            (
                SiblingState::Sick { why: why() },
                Verdict::Warning,
                Some("privnet-spoke doctor"),
            ),
            (
                SiblingState::Starting { why: why() },
                Verdict::Warning,
                Some("privnet-spoke doctor"),
            ),
        ] {
            let finding = judged(&state, None);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(&state.to_string()), "{finding:?}");
            let remedy = finding.remedy.first().map(String::as_str);
            match mend {
                None => assert_eq!(remedy, None),
                Some(mend) => assert!(remedy.unwrap().contains(mend), "{finding:?}"),
            }
        }
    }

    #[test]
    fn one_that_is_well_but_for_its_tunnel_is_to_be_looked_at() {
        let finding = sibling(&SiblingStatus {
            instance: "i-00000002".parse().unwrap(),
            state: SiblingState::Well.to_string(),
            tunnel_down: true,
            only_others_hear: false,
            refused: None,
        });
        assert_eq!(finding.verdict, Verdict::Warning);
        let found = "i-00000002 is well, but its tunnel to the hub is down";
        assert_eq!(finding.found, found);
        assert_eq!(finding.remedy.len(), 1);
    }

    #[test]
    fn of_one_that_only_others_hear_the_way_is_to_be_looked_at() {
        let finding = sibling(&SiblingStatus {
            instance: "i-00000002".parse().unwrap(),
            state: SiblingState::Well.to_string(),
            tunnel_down: false,
            only_others_hear: true,
            refused: None,
        });
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.found.contains("does not answer this one"));
        assert!(finding.remedy[0].contains("UDP 51822"), "{finding:?}");
    }

    #[test]
    fn why_the_answers_of_one_do_not_count_decides_what_mends_it() {
        let told = |error: HealthError| {
            let refused = judged(&SiblingState::Lost, Some(error.into()));
            assert_eq!(refused.verdict, Verdict::Wrong);
            assert!(refused.found.contains("lost"), "{refused:?}");
            assert!(refused.found.contains(&error.to_string()), "{refused:?}");
            refused.remedy.join("; ")
        };
        let secret = told(HealthError::Signature);
        assert!(secret.contains("preshared_key"), "{secret}");
        for (error, mended) in [
            (HealthError::NotForMe, "EC2"),
            (HealthError::Malformed("too short"), "--version"),
            (HealthError::Foreign, "--version"),
        ] {
            let remedy = told(error);
            assert!(remedy.contains(mended), "{remedy}");
            assert!(!remedy.contains("preshared_key"), "{remedy}");
        }
    }
}
