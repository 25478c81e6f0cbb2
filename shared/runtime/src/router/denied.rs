//! What the policy denied: in the data plane, and in nftables where the kernel forwards
//! by itself.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::timeout;
use tracing::debug;

use super::Router;

/// nft takes milliseconds, and whoever asks for the status waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

impl Router {
    /// Reads what nftables denied, for [`Router::denied`]. Where that fails, what was
    /// read before stands.
    pub async fn count_denied(&mut self) {
        if !self.kernel_may_deny() {
            return;
        }
        match timeout(PATIENCE, self.host.denied()).await {
            Ok(Ok(counters)) => self.denials.read(counters),
            Ok(Err(error)) => debug!("{:#}", anyhow!(error)),
            Err(_) => debug!("nft did not say within {PATIENCE:?} what was denied"),
        }
    }

    /// Packets that the policy denied since the daemon started, by the number of the
    /// rule; each rule for as long as it says the same.
    pub fn denied(&self) -> Vec<u64> {
        self.denials.total(&self.denied_by_data_plane())
    }

    /// Under the present policy alone.
    pub(super) fn denied_by_data_plane(&self) -> Vec<u64> {
        let device = self.tunnel.as_ref().map(|tunnel| &tunnel.device);
        device.map(|device| device.denied()).unwrap_or_default()
    }

    /// Only what comes from or goes into IPsec tunnels meets the policy in nftables.
    fn kernel_may_deny(&self) -> bool {
        let has_ipsec = !self.desired.behind_ipsec.is_empty() || self.desired.ipsec.keeps_any();
        has_ipsec && !self.policy.is_empty()
    }
}
