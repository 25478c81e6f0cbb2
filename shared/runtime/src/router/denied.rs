//! What the policy denied: in the data plane, and in nftables where the kernel forwards
//! by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use privnet_host::HostError;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use super::Router;

/// The kernel takes less than a millisecond, and rules that are to be loaded wait for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What nftables denied, by the number of the rule, as it is being read.
pub(super) type Reading = JoinHandle<Result<BTreeMap<u16, u64>, HostError>>;

impl Router {
    /// Takes what was read of what nftables denied, for [`Router::denied`], and has it read
    /// anew; waits for nothing. Where that fails, what was read before stands.
    pub async fn count_denied(&mut self) {
        if !self.kernel_may_deny() {
            self.reading = None;
            self.uncounted = None;
            return;
        }
        if let Some(reading) = self.reading.take_if(|reading| reading.is_finished()) {
            match reading.await {
                Ok(read) => self.note_denied(read.map_err(|error| format!("{:#}", anyhow!(error)))),
                Err(error) => self.note_denied(Err(error.to_string())),
            }
        }
        if self.reading.is_none() {
            let host = self.host;
            self.reading = Some(tokio::spawn(async move { host.denied().await }));
        }
    }

    /// The same now, for rules that are loaded anew count from nothing. What is being read
    /// would come too late.
    pub(super) async fn count_denied_now(&mut self) {
        self.reading = None;
        if !self.kernel_may_deny() {
            return;
        }
        let read = match timeout(PATIENCE, self.host.denied()).await {
            Ok(read) => read.map_err(|error| format!("{:#}", anyhow!(error))),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        self.note_denied(read);
    }

    fn note_denied(&mut self, read: Result<BTreeMap<u16, u64>, String>) {
        self.uncounted = match read {
            Ok(counters) => {
                self.denials.read(counters);
                None
            }
            Err(error) => {
                let problem = format!("what nftables denied is not counted: {error}");
                if self.uncounted.as_ref() != Some(&problem) {
                    warn!("{problem}");
                }
                Some(problem)
            }
        };
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
