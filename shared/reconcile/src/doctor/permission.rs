//! What the role may do: the answers to dry runs, and why a question to EC2 failed.

use privnet_model::doctor::{Area, Finding};

const AREA: Area = Area::Aws;

/// What EC2 said to a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The role may do it.
    Permitted,
    /// It may not, in words.
    Denied(String),
    /// That was not to be learned, and why not.
    Unclear(String),
}

/// A question to EC2 that has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whether it was the role that lacks the permission: then EC2 can be asked for
    /// other things.
    pub not_allowed: bool,
    /// What happened, in words.
    pub text: String,
}

/// An answer of EC2, or why there is none.
pub type Asked<T> = Result<T, Refusal>;

/// Something that the config needs the role to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need<'a> {
    /// The action with its service: `ec2:CreateTags`.
    pub action: &'a str,
    /// On what; empty where it has no object.
    pub object: &'a str,
    /// The file in `ami/iam` that allows it.
    pub policy: &'a str,
    /// The role that asks; `None` is the instance's own.
    pub role: Option<&'a str>,
}

/// Whether the role may.
pub fn permission(need: Need<'_>, answer: &Answer) -> Finding {
    let Need {
        action,
        object,
        policy,
        role,
    } = need;
    let check = "permission";
    let what = match object {
        "" => action.to_owned(),
        object => format!("{action} on {object}"),
    };
    match answer {
        Answer::Permitted => Finding::ok(AREA, check, what),
        Answer::Denied(text) => {
            Finding::wrong(AREA, check, text.clone()).mend(allow(role, policy, &what))
        }
        Answer::Unclear(text) => Finding::not_checked(AREA, check, format!("{what}: {text}")),
    }
}

/// An action of Auto Scaling that the config needs: that service knows no dry run.
pub fn untried(action: &str) -> Finding {
    let why = format!("{action}: Auto Scaling knows no dry run");
    Finding::not_checked(AREA, "permission", why).mend(format!(
        "aws iam simulate-principal-policy --action-names {action} --policy-source-arn ROLE_ARN   \
         # with that of $ROLE; ami/iam/remedy-policy.json allows it"
    ))
}

/// A fact that the config itself needs: whoever may not ask for it cannot work.
pub fn needed<T>(check: &str, need: Need<'_>, asked: &Asked<T>) -> Option<Finding> {
    let refusal = asked.as_ref().err()?;
    let finding = Finding::wrong(AREA, check, refusal.text.clone());
    Some(if refusal.not_allowed {
        finding.mend(allow(need.role, need.policy, need.action))
    } else {
        finding.mend(UNREACHABLE)
    })
}

/// A fact that only `doctor` asks for.
pub fn extra<T>(check: &str, action: &str, asked: &Asked<T>) -> Option<Finding> {
    let refusal = asked.as_ref().err()?;
    let finding = Finding::not_checked(AREA, check, refusal.text.clone());
    Some(if refusal.not_allowed {
        finding.mend(allow(None, "doctor-policy.json", action))
    } else {
        finding
    })
}

const UNREACHABLE: &str = "curl -sI https://ec2.$REGION.amazonaws.com   # a public address, or a \
                           VPC endpoint for EC2, is the way there";

/// No command: the files hold placeholders, and `put-role-policy` would replace a policy
/// that works for the rest by them.
pub fn allow(role: Option<&str>, policy: &str, what: &str) -> String {
    let role = role.unwrap_or("$ROLE");
    format!("allow {what} to the role {role}: see ami/iam/{policy}, fill in its placeholders")
}

#[cfg(test)]
mod tests {
    use privnet_model::doctor::Verdict;

    use super::*;

    const NEED: Need<'_> = Need {
        action: "ec2:CreateTags",
        object: "i-0123456789abcdef0",
        policy: "spoke-policy.json",
        role: None,
    };

    fn refused(not_allowed: bool) -> Asked<()> {
        Err(Refusal {
            not_allowed,
            text: "because".to_owned(),
        })
    }

    #[test]
    fn a_denied_action_comes_with_the_policy_that_allows_it() {
        assert_eq!(permission(NEED, &Answer::Permitted).verdict, Verdict::Ok);
        let denied = permission(NEED, &Answer::Denied("not allowed".to_owned()));
        assert_eq!(denied.verdict, Verdict::Wrong);
        assert_eq!(
            denied.remedy,
            [
                "allow ec2:CreateTags on i-0123456789abcdef0 to the role $ROLE: see \
                 ami/iam/spoke-policy.json, fill in its placeholders"
            ]
        );
        let role = Some("arn:aws:iam::444455556666:role/privnet-discovery");
        let elsewhere = permission(
            Need { role, ..NEED },
            &Answer::Denied("not allowed".to_owned()),
        );
        let named = "to the role arn:aws:iam::444455556666:role/privnet-discovery:";
        assert!(elsewhere.remedy[0].contains(named), "{elsewhere:?}");
        let unclear = permission(NEED, &Answer::Unclear("it hangs".to_owned()));
        assert_eq!(unclear.verdict, Verdict::NotChecked);
        assert!(unclear.found.contains("ec2:CreateTags") && unclear.found.contains("hangs"));
    }

    #[test]
    fn what_cannot_be_tried_is_not_checked_and_comes_with_who_knows() {
        let finding = untried("autoscaling:SetInstanceHealth");
        assert_eq!(finding.verdict, Verdict::NotChecked);
        assert!(finding.found.starts_with("autoscaling:SetInstanceHealth: "));
        let remedy = finding.remedy.join("\n");
        assert!(remedy.contains("simulate-principal-policy"), "{remedy}");
        assert!(remedy.contains("ROLE_ARN   # with"), "{remedy}");
    }

    #[test]
    fn what_only_doctor_asks_for_is_never_wrong() {
        assert_eq!(extra("x", "ec2:DescribeSecurityGroups", &Ok(())), None);
        assert_eq!(needed("x", NEED, &Ok(())), None);
        let verdict = |finding: Option<Finding>| finding.map(|finding| finding.verdict);
        for not_allowed in [false, true] {
            let refused = refused(not_allowed);
            let extra = extra("x", "ec2:DescribeSecurityGroups", &refused);
            let mended = extra.as_ref().map(|finding| !finding.remedy.is_empty());
            assert_eq!(mended, Some(not_allowed));
            assert_eq!(verdict(extra), Some(Verdict::NotChecked));
            assert_eq!(verdict(needed("x", NEED, &refused)), Some(Verdict::Wrong));
        }
    }
}
