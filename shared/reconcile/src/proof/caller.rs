//! What STS answers to "who signed this?", and whether that is the instance.

use privnet_model::config::hub::Glob;
use privnet_model::id::{AccountId, InstanceId};
use roxmltree::{Document, Node, ParsingOptions};

use super::{Claim, ProofError};

/// The namespace of STS's answers, which names the version of its API.
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
/// An answer has nine elements and the white space between them.
const MOST_NODES: u32 = 100;

/// Judges STS's answer to a proof that passed [`check`](super::check); `partition`
/// is the one that was asked, when it is known. One of the `roles` must have signed it,
/// if any are named.
///
/// # Errors
/// It is not the instance, or STS did not say.
pub fn judge(
    status: u16,
    body: &[u8],
    claim: Claim<'_>,
    partition: Option<&str>,
    roles: &[Glob],
) -> Result<(), ProofError> {
    let document = parse(body);
    if status != 200 {
        let code = document.as_ref().ok().and_then(error_code);
        let code = code.unwrap_or_else(|| format!("HTTP status {status}"));
        let refused = (400..500).contains(&status) && status != 429 && !code.contains("Throttl");
        return Err(match refused {
            true => ProofError::Refused(code),
            false => ProofError::NoAnswer(code),
        });
    }
    let document = document?;
    let root = document.root_element();
    if !is(&root, "GetCallerIdentityResponse") {
        return Err(ProofError::Unreadable("it answers another question"));
    }
    let result = only(&root, "GetCallerIdentityResult")?;
    let text = |name: &str| only(&result, name).and_then(|node| text(&node));
    let (arn, user, account) = (text("Arn")?, text("UserId")?, text("Account")?);

    let not_an_instance = || ProofError::NotAnInstance(shown(arn));
    let assumed = AssumedRole::parse(arn).ok_or_else(not_an_instance)?;
    if partition.is_some_and(|partition| partition != assumed.partition) {
        return Err(not_an_instance());
    }
    // One answer, told three times.
    if account != assumed.account.as_str()
        || user.split_once(':').map(|it| it.1) != Some(assumed.session)
    {
        return Err(ProofError::Unreadable("it contradicts itself"));
    }
    let instance: InstanceId = assumed.session.parse().map_err(|_| not_an_instance())?;
    if assumed.account != *claim.account {
        return Err(ProofError::OtherAccount {
            found: assumed.account.to_string(),
            expected: claim.account.clone(),
        });
    }
    if instance != *claim.instance {
        return Err(ProofError::OtherInstance {
            found: instance,
            expected: claim.instance.clone(),
        });
    }
    let fits = |glob: &Glob| glob.matches(assumed.role);
    if !roles.is_empty() && !roles.iter().any(fits) {
        return Err(ProofError::OtherRole(shown(assumed.role)));
    }
    Ok(())
}

/// `arn:aws:sts::111122223333:assumed-role/ROLE/SESSION`.
struct AssumedRole<'a> {
    partition: &'a str,
    account: AccountId,
    role: &'a str,
    /// Of an instance's credentials its id, which EC2 sets and nobody chooses.
    session: &'a str,
}

impl<'a> AssumedRole<'a> {
    fn parse(arn: &'a str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, "sts", "", account, resource] = parts[..] else {
            return None;
        };
        let parts: Vec<&str> = resource.split('/').collect();
        let ["assumed-role", role, session] = parts[..] else {
            return None;
        };
        (!role.is_empty()).then_some(())?;
        Some(Self {
            partition,
            account: account.parse().ok()?,
            role,
            session,
        })
    }
}

/// Without a DTD, so without entities that grow.
fn parse(body: &[u8]) -> Result<Document<'_>, ProofError> {
    let text = std::str::from_utf8(body).map_err(|_| ProofError::Unreadable("it is not UTF-8"))?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MOST_NODES,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options)
        .map_err(|_| ProofError::Unreadable("it is no XML, or far too much"))
}

fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.has_tag_name((NAMESPACE, name))
}

/// The one child of this name.
fn only<'d, 'i>(parent: &Node<'d, 'i>, name: &str) -> Result<Node<'d, 'i>, ProofError> {
    let mut found = parent.children().filter(|node| is(node, name));
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node),
        (None, _) => Err(ProofError::Unreadable("a part is missing")),
        (Some(_), Some(_)) => Err(ProofError::Unreadable("a part is there twice")),
    }
}

/// The text of an element that has nothing else.
fn text<'d>(node: &Node<'d, '_>) -> Result<&'d str, ProofError> {
    let mut children = node.children();
    match (children.next(), children.next()) {
        (Some(child), None) if child.is_text() => child.text(),
        _ => None,
    }
    .map(str::trim)
    .ok_or(ProofError::Unreadable("a part is no text"))
}

/// The code of a refusal: `ErrorResponse/Error/Code`.
fn error_code(document: &Document<'_>) -> Option<String> {
    let mut nodes = document.descendants();
    let code = nodes.find(|node| node.tag_name().name() == "Code")?;
    code.text().map(shown)
}

/// As it may go into a log.
fn shown(text: &str) -> String {
    let plain = text.chars().filter(|char| char.is_ascii_graphic());
    plain.take(128).collect()
}
