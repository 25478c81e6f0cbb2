//! The firewalls of others, as far as they may swallow what is forwarded. Only looks.

use std::io;

use privnet_reconcile::doctor::firewall::{self, ForwardChain};

use crate::error::HostError;
use crate::nftables;

/// The tables of iptables of the old kind; not there without such rules.
const LEGACY: &str = "/proc/net/ip_tables_names";

/// The chains of others that drop what is forwarded unless a rule of theirs says
/// otherwise.
pub(crate) async fn forward_chains() -> Result<Vec<ForwardChain>, HostError> {
    let operation = "list the chains";
    let listing = nftables::listing(&["list", "chains"], operation).await?;
    let mut chains = Vec::new();
    for (table, chain) in firewall::dropping_chains(&listing) {
        let arguments: Vec<&str> = ["list", "chain"]
            .into_iter()
            .chain(table.split(' '))
            .chain([chain.as_str()])
            .collect();
        let rules = nftables::listing(&arguments, operation).await?;
        chains.push(ForwardChain {
            accepts: firewall::accepts(&rules),
            table,
            chain,
        });
    }
    Ok(chains)
}

/// Whether there are filter rules of the old kind.
pub(crate) async fn legacy() -> io::Result<bool> {
    match tokio::fs::read_to_string(LEGACY).await {
        Ok(tables) => Ok(tables.lines().any(|table| table == "filter")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
