//! Everything that Privnet asks AWS: which spokes run where, who this instance
//! is, which tags it carries, and what secret the fleet shares.
//!
//! This is the only crate that depends on the AWS SDK, whose compile time is
//! thereby paid in one place; no SDK type leaves it. It decides nothing: it
//! turns EC2's answers into the records of `privnet-model`, and an answer that
//! is not complete into an error, so that nothing is ever removed because of a
//! page that got lost.
//!
//! | for | use |
//! |---|---|
//! | who and where am I | [`Imds::identity`] |
//! | is this instance about to go | [`DepartureWatch`] |
//! | which spokes run, and what became of others | [`Discovery::poll`] |
//! | publish key, port and transport | [`TagPublisher::publish`] |
//! | prove which instance this is | [`ProofSigner::sign`] |
//! | ask STS whether a proof holds | [`ProofCourier::ask`] |
//! | a spoke's own VPC: siblings, routes, addresses | [`Vpc`] |
//! | stop and start another instance of the VPC, or report it | [`Vpc::machines`], [`AutoScaling`] |
//! | what surrounds an instance, and what its role may, for `doctor` | [`Vpc::instance`], [`Vpc::permission`], [`Discovery::examine`], [`Imds::without_token`], [`AwsClock`] |
//! | the fleet's secret in the Parameter Store | [`ParameterStore::fleet_secret`] |
//! | an instance's configuration there | [`parameter_text`] |

#![forbid(unsafe_code)]

mod account;
mod asking;
mod auto_scaling;
mod budget;
mod clock;
mod completeness;
mod context;
mod departure;
mod discovery;
pub mod doctor;
mod error;
mod examination;
mod filter;
mod imds;
mod pages;
mod proof;
mod question;
mod record;
mod role;
mod secret;
mod signed;
mod tags;
mod tokenless;
mod vpc;

pub use account::Known;
pub use auto_scaling::{AutoScaling, AutoScalingError, AutoScalingReason};
pub use clock::{AwsClock, ToldTime};
pub use context::SdkContext;
pub use departure::{Departure, DepartureWatch, LifecycleState, SpotAction};
pub use discovery::{Discovery, Scope};
pub use error::{Ec2Error, Operation, Reason, Subject};
pub use examination::PartitionExamination;
pub use imds::{Imds, ImdsError};
pub use proof::{ProofCourier, ProofSigner, StsAnswer};
pub use secret::{
    ParameterStore, SecretFetchError, SecretFetchReason, SecretRead, TextError, parameter_text,
};
pub use signed::CallError;
pub use tags::{Published, TagPublisher};
pub use tokenless::Tokenless;
pub use vpc::{AddressChoice, MachineChoice, Mutation, Permission, SourceDestCheck, Vpc};

#[cfg(test)]
mod tests;
