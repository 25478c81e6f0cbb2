//! Which instances are let in. The tags that make an instance a spoke are a hint:
//! whoever may write tags could write them. What is asked here, only EC2 can say.

use privnet_model::config::hub::{Glob, TrustConfig};
use privnet_model::id::VpcId;
use privnet_model::inventory::{Partition, SpokeRecord};
use privnet_model::status::Reason;

/// The first rule that does not let the spoke in.
pub fn objection(
    trust: &TrustConfig,
    partition: &Partition,
    spoke: &SpokeRecord,
) -> Option<Reason> {
    if !trust.accounts.is_empty() && !trust.accounts.contains(&partition.account) {
        return Some(Reason::NotTrusted {
            rule: "accounts".to_owned(),
            found: Some(partition.account.to_string()),
        });
    }
    let vpc = spoke.vpc.as_ref().map(VpcId::as_str);
    type Rule<'a> = (
        &'a str,
        &'a [Glob],
        fn(&Glob, &str) -> bool,
        Option<&'a str>,
    );
    let rules: [Rule<'_>; 3] = [
        (
            "instance_profiles",
            &trust.instance_profiles,
            Glob::matches_arn,
            spoke.instance_profile.as_deref(),
        ),
        ("vpcs", &trust.vpcs, Glob::matches, vpc),
        ("amis", &trust.amis, Glob::matches, spoke.image.as_deref()),
    ];
    rules
        .into_iter()
        .find(|(_, allowed, matches, found)| {
            !allowed.is_empty()
                && !found.is_some_and(|found| allowed.iter().any(|glob| matches(glob, found)))
        })
        .map(|(rule, _, _, found)| Reason::NotTrusted {
            rule: rule.to_owned(),
            found: found.map(str::to_owned),
        })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;
    use crate::fleet::fixtures::{partition, spoke};

    fn told(trust: &TrustConfig, spoke: &SpokeRecord) -> Option<String> {
        objection(trust, &partition("eu-west-1"), spoke).map(|reason| reason.to_string())
    }

    #[test]
    fn empty_lists_let_anybody_in() {
        assert_eq!(
            told(&TrustConfig::default(), &spoke(1, "10.1.0.0/16")),
            None
        );
    }

    #[test]
    fn a_pattern_for_one_part_of_an_arn_does_not_reach_into_the_next() {
        let trust = TrustConfig {
            instance_profiles: vec![Glob::new("arn:aws:iam::*:instance-profile/privnet-spoke")],
            ..TrustConfig::default()
        };
        let with = |profile: &str| {
            let mut web = spoke(1, "10.1.0.0/16");
            web.instance_profile = Some(profile.to_owned());
            told(&trust, &web).is_none()
        };
        assert!(with(
            "arn:aws:iam::111122223333:instance-profile/privnet-spoke"
        ));
        // A path that somebody chose so that the whole text would fit.
        assert!(!with(
            "arn:aws:iam::111122223333:instance-profile/x:instance-profile/privnet-spoke"
        ));
        assert!(!with("arn:aws:iam::111122223333:role/privnet-spoke"));
    }

    #[test]
    fn each_list_lets_in_only_what_it_names() {
        type Case = (fn(&mut TrustConfig), &'static str);
        let cases: [Case; 4] = [
            (
                |trust| trust.accounts = vec!["999988887777".parse().unwrap()],
                "111122223333 is not in trust.accounts",
            ),
            (
                |trust| {
                    trust.instance_profiles =
                        vec![Glob::new("arn:aws:iam::*:instance-profile/privnet-spoke")];
                },
                "arn:aws:iam::111122223333:instance-profile/web is not in trust.instance_profiles",
            ),
            (
                |trust| trust.vpcs = vec![Glob::new("vpc-other*")],
                "vpc-00000000000000001 is not in trust.vpcs",
            ),
            (
                |trust| trust.amis = vec![Glob::new("ami-*")],
                "EC2 names nothing that trust.amis could match",
            ),
        ];
        let mut web = spoke(1, "10.1.0.0/16");
        web.instance_profile = Some("arn:aws:iam::111122223333:instance-profile/web".to_owned());
        for (change, expected) in cases {
            let mut trust = TrustConfig::default();
            change(&mut trust);
            assert_eq!(told(&trust, &web).as_deref(), Some(expected));
        }
        let mut right = web;
        right.instance_profile =
            Some("arn:aws:iam::111122223333:instance-profile/privnet-spoke".to_owned());
        right.image = Some("ami-0123".to_owned());
        let trust = TrustConfig {
            accounts: vec!["111122223333".parse().unwrap()],
            instance_profiles: vec![Glob::new("arn:aws:iam::*:instance-profile/privnet-spoke")],
            vpcs: vec![Glob::new("vpc-*")],
            amis: vec![Glob::new("ami-0123")],
            ..TrustConfig::default()
        };
        assert_eq!(told(&trust, &right), None);
    }
}
