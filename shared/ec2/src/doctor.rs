//! What `doctor` asks AWS on hub and spoke alike, made into facts and findings: the
//! metadata service, the clock, the secrets in SSM, and what keeps EC2 from answering.

use std::time::{Duration, SystemTime};

use privnet_model::config::hub::{SiteConfig, SiteLink};
use privnet_model::doctor::{Area, Finding};
use privnet_model::id::Region;
use privnet_model::inventory::Identity;
use privnet_model::key::PublicKey;
use privnet_reconcile::doctor::clock::{self, Keeper, Offset};
use privnet_reconcile::doctor::permission::{self, Answer, Asked, Refusal};
use privnet_reconcile::doctor::{Known, Names, metadata};
use tokio::time::timeout;

use crate::clock::{AwsClock, ToldTime};
use crate::context::SdkContext;
use crate::error::Ec2Error;
use crate::imds::{Imds, ImdsError};
use crate::secret::{ParameterStore, SecretFetchError};
use crate::tokenless::Tokenless;
use crate::vpc::Permission;

/// What the metadata service says.
#[derive(Debug, Clone)]
pub struct Nearby {
    /// Who this is.
    pub identity: Known<Identity>,
    /// Its role.
    pub role: Known<Option<String>>,
    /// What it says without a token.
    pub tokenless: Known<Tokenless>,
}

impl Nearby {
    /// Asks, and waits so long.
    pub async fn ask(patience: Duration) -> Self {
        let imds = match Imds::from_env() {
            Ok(imds) => imds,
            Err(error) => {
                let why = error.to_string();
                return Self {
                    identity: Err(why.clone()),
                    role: Err(why.clone()),
                    tokenless: Err(why),
                };
            }
        };
        let (identity, role, tokenless) = tokio::join!(
            within(patience, imds.identity()),
            within(patience, imds.role()),
            within(patience, imds.without_token()),
        );
        Self {
            identity,
            role,
            tokenless,
        }
    }

    /// What to make of it; `policy` is the file in `ami/iam` for the role, if the config
    /// needs one.
    pub fn findings(&self, policy: Option<&str>) -> Vec<Finding> {
        let open = self.tokenless.as_ref().map(|found| found.answered);
        vec![
            metadata::identity(&self.identity),
            metadata::tokens(&open.map_err(Clone::clone)),
            metadata::role(&self.role, policy.is_some(), policy.unwrap_or_default()),
        ]
    }

    /// What the commands that mend something need to know of this instance.
    pub fn names(&self) -> Names {
        let names = self.identity.as_ref().map(Names::of).unwrap_or_default();
        match &self.role {
            Ok(Some(role)) => names.with_role(role.clone()),
            Ok(None) | Err(_) => names,
        }
    }

    /// The clock, against EC2's or, where EC2 did not answer, the metadata service's.
    pub fn clock(&self, aws: &AwsClock, keeper: &Keeper) -> Finding {
        let nearby = self.tokenless.as_ref().ok().and_then(|found| found.time);
        let time = aws.last().or(nearby);
        let offset = time
            .map(offset)
            .ok_or_else(|| "neither EC2 nor the metadata service answered".to_owned());
        clock::clock(&offset, keeper)
    }
}

async fn within<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, ImdsError>>,
) -> Known<T> {
    match timeout(patience, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "the instance metadata service did not answer within {} s",
            patience.as_secs_f32()
        )),
    }
}

fn offset(time: ToldTime) -> Offset {
    let ToldTime { told, heard } = time;
    match SystemTime::duration_since(&heard, told) {
        Ok(by) => Offset { by, ahead: true },
        Err(error) => Offset {
            by: error.duration(),
            ahead: false,
        },
    }
}

/// An answer of EC2 as a fact, if it comes within this time.
pub async fn asked<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, Ec2Error>>,
) -> Asked<T> {
    match timeout(patience, answer).await {
        Ok(answer) => answer.map_err(|error| Refusal {
            not_allowed: error.is_not_allowed(),
            text: error.to_string(),
        }),
        Err(_) => Err(Refusal {
            not_allowed: false,
            text: format!("EC2 did not answer within {} s", patience.as_secs_f32()),
        }),
    }
}

/// What EC2 said to a dry run.
pub fn permitted(permission: &Permission) -> Answer {
    match permission {
        Permission::Permitted => Answer::Permitted,
        Permission::Denied(error) => Answer::Denied(error.to_string()),
        Permission::Unclear(error) => Answer::Unclear(error.to_string()),
    }
}

/// Whether the fleet's secret can be had from the Parameter Store. There is no dry run of
/// that: it is read, and forgotten.
pub async fn fleet_secret(
    context: &SdkContext,
    region: &Region,
    name: &str,
    patience: Duration,
) -> Finding {
    let store = ParameterStore::new(context, region);
    let read = async { store.fleet_secret(name).await.map(drop) };
    let finding = parameter("fleet secret", "secret-policy.json", name, read, patience);
    finding.await
}

/// Whether the hub's private key can be had from there, as the next instance will want
/// it, and is the one `in_use`.
pub async fn hub_key(
    context: &SdkContext,
    region: &Region,
    name: &str,
    in_use: Option<PublicKey>,
    patience: Duration,
) -> Finding {
    let check = "private key";
    let store = ParameterStore::new(context, region);
    let mut found = None;
    let read = async {
        let key = store.private_key(name).await?;
        found = Some(key.public());
        Ok(())
    };
    let finding = parameter(check, "hub-key-policy.json", name, read, patience).await;
    match (found, in_use) {
        (Some(found), Some(in_use)) if found != in_use => {
            let found = format!(
                "SSM parameter {name} holds another key than this hub has: to an instance in its \
                 place no spoke would answer"
            );
            let mend = format!("put the key whose public half is {in_use} into {name}");
            Finding::wrong(Area::Aws, check, found).mend(mend)
        }
        _ => finding,
    }
}

/// Whether a static site's preshared key can be had from there, for a site that has it in
/// this parameter. It is read, and forgotten.
pub async fn site_key(
    context: &SdkContext,
    region: &Region,
    site: &SiteConfig,
    name: &str,
    patience: Duration,
) -> Finding {
    let store = ParameterStore::new(context, region);
    let read = async {
        match &site.link {
            SiteLink::Wireguard(_) => store.preshared_key(name).await.map(drop),
            SiteLink::Ipsec(_) => store.ike_secret(name).await.map(drop),
        }
    };
    let check = format!("preshared key of {}", site.name);
    parameter(&check, "site-secret-policy.json", name, read, patience).await
}

async fn parameter(
    check: &str,
    policy: &str,
    name: &str,
    read: impl Future<Output = Result<(), SecretFetchError>>,
    patience: Duration,
) -> Finding {
    let what = format!("ssm:GetParameter on {name}");
    let mend = permission::allow(None, policy, &what);
    match timeout(patience, read).await {
        Ok(Ok(())) => Finding::ok(
            Area::Aws,
            check,
            format!("SSM parameter {name} can be read"),
        ),
        Ok(Err(error)) => Finding::wrong(Area::Aws, check, error.to_string()).mend(mend),
        Err(_) => {
            let seconds = patience.as_secs_f32();
            let found = format!("SSM did not answer within {seconds} s");
            Finding::not_checked(Area::Aws, check, found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_or_behind() {
        let told = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let judged = |seconds| {
            let heard = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let Offset { by, ahead } = offset(ToldTime { told, heard });
            (by.as_secs(), ahead)
        };
        assert_eq!(judged(1_400), (400, true));
        assert_eq!(judged(600), (400, false));
        assert_eq!(judged(1_000), (0, true));
    }
}
