//! The Linux host: routes and addresses by netlink, rules by nftables, settings
//! by `/proc/sys`. Fetches what is and carries out what a plan says.
//!
//! It decides nothing: which changes are right is `privnet_reconcile::host`'s
//! part. It reads and changes only what carries our mark: routes of our protocol
//! number in the main table, the table `inet privnet`, addresses of the tunnel
//! interface it is given, sysctls it is asked for. It flushes nothing.
//!
//! ```no_run
//! use privnet_host::{Host, Scope};
//! use privnet_reconcile::host::{DesiredHost, HostPlan};
//!
//! # async fn reconcile(desired: DesiredHost) -> Result<(), privnet_host::HostError> {
//! let host = Host::new();
//! let actual = host.fetch(&Scope::of(&desired)).await?;
//! let plan = HostPlan::new(&desired, &actual);
//! for (change, result) in host.apply(&plan).await {
//!     match result {
//!         Ok(()) => tracing::info!(%change, "host changed"),
//!         Err(error) => {
//!             // As an error and not by Display, which leaves out the cause.
//!             let error: &(dyn std::error::Error + 'static) = &error;
//!             tracing::error!(%change, error, "host not changed");
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod abilities;
mod address;
mod conntrack;
mod counters;
mod error;
mod firewall;
mod host;
mod kernel;
mod link;
mod netlink;
mod nftables;
mod path;
mod route;
mod storage;
mod sysctl;
mod xfrm;

pub use conntrack::connections::{ConnectionEvents, Entered, Timeouts};
pub use error::HostError;
pub use host::{Host, Scope};
pub use link::{Interface, InvalidMacAddress, MacAddress};
