//! Many spokes in several regions and accounts. Only the hub is real: see
//! `privnet_tests::scale`. `make scale` measures more of them.

use anyhow::{Result, ensure};
use privnet_tests::scale::{Size, measure};

/// What the hub may take for itself at its first poll, in seconds: everything but
/// waiting for moto.
const GOAL: f64 = 20.0;

pub(crate) fn a_thousand_spokes_in_ten_regions_and_three_accounts() -> Result<()> {
    let size = Size {
        spokes: 1000,
        regions: 10,
        accounts: 3,
    };
    let cost = measure(size)?;
    println!("{}", serde_json::to_string_pretty(&cost)?);
    // Three times the goal: the machine may be busy.
    let own = cost.first.own();
    ensure!(own < GOAL * 3.0, "{own:.1} s without waiting for moto");
    // One for the instances and one for their VPCs, however often it is asked.
    for poll in [&cost.first, &cost.unchanged, &cost.dry_run] {
        let count = |action: &str| poll.requests.get(action).copied().unwrap_or_default();
        let partitions = size.regions * size.accounts;
        ensure!(count("DescribeInstances") == partitions, "{poll:?}");
        ensure!(count("DescribeVpcs") == partitions, "{poll:?}");
        ensure!(poll.total() <= 2 * partitions + size.accounts, "{poll:?}");
        // At home the other accounts' roles are asked for as well.
        ensure!(poll.busiest < 2 + size.accounts, "{poll:?}");
    }
    Ok(())
}
