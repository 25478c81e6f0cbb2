//! A WireGuard device: one TUN interface, its workers, and the handle by which
//! the control plane configures and asks it.
//!
//! Every method may be called from any thread. None waits for a worker or for the
//! network: configuration is left for the workers to take over between two
//! batches, figures are read from memory.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use ipnet::IpNet;
use privnet_model::key::{PrivateKey, PublicKey};
use privnet_model::offload::{OffloadReport, Offloads};
use privnet_model::peer::{PeerChange, PeerStatus};
use privnet_model::policy::PolicyTable;
use privnet_tunnel::DeviceCounters;
use privnet_tunnel::uapi::{self, SetDevice};
use zeroize::Zeroizing;

use crate::control::{Control, Sessions};
use crate::epoll::Epoll;
use crate::error::DeviceError;
use crate::offloads::Switches;
use crate::tun::{self, InterfaceName, Link, TunQueue};
use crate::uapi_socket::UapiSocket;
use crate::udp;
use crate::worker::{self, Command, Shared, WorkerParts};

/// Packets that may wait in the TUN: as many as the kernel's WireGuard lets wait
/// for one peer (its default for a TUN, half of that, is 10 ms of 0.5 Gbit/s in
/// full datagrams, which a worker that has to share its core may sleep).
const QUEUE_LENGTH: i32 = 1024;

/// How a device is opened.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// The interface's name.
    pub name: String,
    /// The interface's MTU, in bytes.
    pub mtu: u16,
    /// The device's key. Without one it exists but speaks to nobody.
    pub private_key: Option<PrivateKey>,
    /// The UDP port; 0 leaves the choice to the kernel.
    pub listen_port: u16,
    /// The firewall mark of the datagrams that it sends.
    pub fwmark: Option<u32>,
    /// How many threads carry packets. One per core is the most that helps.
    pub workers: NonZeroUsize,
    /// Whether packets from one peer to another are relayed directly (a hub), or
    /// all go to the kernel's routing.
    pub relay: bool,
    /// The offloads to use, where the kernel has them.
    pub offloads: Offloads,
    /// Prefixes of this host's own side: never sent to a peer, never accepted
    /// from one, whatever the peers' allowed IPs say.
    pub local: BTreeSet<IpNet>,
    /// Whether and how `/var/run/wireguard/NAME.sock` answers.
    pub uapi: Option<UapiAccess>,
}

/// What the device's WireGuard socket lets its clients (root) do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UapiAccess {
    /// Ask, but for keys that are secret.
    ReadOnly,
    /// Ask for everything and change everything.
    ReadWrite,
}

/// An open device. Dropping it closes it.
pub struct Device {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the handle and the WireGuard socket share.
pub(crate) struct Inner {
    name: InterfaceName,
    control: Mutex<Control>,
    pub(crate) shared: Arc<Shared>,
}

/// Has the allocator ask the kernel for whatever is large, and give it back when it is
/// freed. Else it learns from the first such piece to keep them: 10,000 peers that are
/// configured at once, or call at once, would leave 3 MB of holes.
#[cfg(target_env = "gnu")]
fn give_large_memory_back() {
    /// The allocator's own limit, as long as it has not learnt.
    const LARGE: libc::c_int = 128 << 10;
    // SAFETY: it sets a number, under the allocator's own lock.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

#[cfg(not(target_env = "gnu"))]
fn give_large_memory_back() {}

impl Device {
    /// Makes the interface, brings it up, binds the port and starts the workers.
    pub fn open(config: DeviceConfig) -> Result<Self, DeviceError> {
        give_large_memory_back();
        let name = InterfaceName::new(&config.name)?;
        let workers = config.workers.get();
        let switches = Switches::new(config.offloads);
        // The port first: it is what most likely fails, and leaves no trace.
        let (port, sockets) = udp::bind(config.listen_port, workers, config.fwmark, &switches)?;
        let queues = tun::open(&name, workers, &switches)?;
        let link = Link::new(&name)?;
        link.set_mtu(config.mtu)?;
        link.set_queue_length(QUEUE_LENGTH)?;
        link.set_up()?;
        let shared = Shared::new(workers, config.mtu.into(), switches)
            .map(Arc::new)
            .map_err(DeviceError::system("making an event descriptor"))?;
        let inner = Arc::new(Inner {
            name,
            control: Mutex::new(Control::new(workers, port, config.fwmark)),
            shared: Arc::clone(&shared),
        });
        inner.change(|control| {
            control.set_private_key(config.private_key, Sessions::End);
            control.set_local(config.local);
            Ok(())
        })?;
        let uapi = config
            .uapi
            .map(|access| UapiSocket::open(&config.name, access, &inner))
            .transpose()?;

        // From here on a drop of `device` ends whatever was started.
        let device = Self {
            inner,
            threads: Mutex::default(),
        };
        let watched = queues.first().map(TunQueue::duplicate).transpose()?;
        for (number, (tun, sockets)) in queues.into_iter().zip(sockets).enumerate() {
            let epoll = Epoll::new().map_err(DeviceError::system("making an epoll instance"))?;
            let parts = WorkerParts {
                number,
                relay: config.relay,
                tun,
                sockets,
                epoll,
                shared: Arc::clone(&shared),
            };
            parts
                .watch()
                .map_err(DeviceError::system("watching the device's descriptors"))?;
            device.spawn(format!("wg-{number}"), move || worker::run(parts))?;
        }
        if let Some(queue) = watched {
            device.spawn("wg-link".to_owned(), move || {
                worker::watch_mtu(&link, &queue, &shared);
            })?;
        }
        if let Some(socket) = uapi {
            device.spawn("wg-uapi".to_owned(), move || socket.serve())?;
        }
        Ok(device)
    }

    /// Carries the changes out, in order. When one fails, those before it hold.
    /// A new peer costs 0.1 ms, which for thousands is the caller's to put where
    /// it blocks nobody.
    pub fn apply(&self, changes: &[PeerChange]) -> Result<(), DeviceError> {
        self.inner.change(|control| {
            for change in changes {
                match change {
                    PeerChange::Set { key, config } => control.set(*key, config.clone())?,
                    PeerChange::Remove { key } => control.remove(key),
                }
            }
            Ok(())
        })
    }

    /// Every peer, by key.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.inner.control().status()
    }

    /// Changes the prefixes of this host's own side.
    pub fn set_local(&self, local: BTreeSet<IpNet>) -> Result<(), DeviceError> {
        self.inner.change(|control| {
            control.set_local(local);
            Ok(())
        })
    }

    /// Puts a policy in force: what it denies is dropped, between peers and between
    /// a peer and the host. It should be set before the peers whose prefixes it
    /// names, and be changed after those are gone.
    pub fn set_policy(&self, table: PolicyTable) -> Result<(), DeviceError> {
        self.inner.change(|control| {
            control.set_policy(table);
            Ok(())
        })
    }

    /// Packets that the policy in force has denied, by the number of the rule. Another
    /// policy begins anew.
    pub fn denied(&self) -> Vec<u64> {
        self.inner.control().denied()
    }

    /// Changes the device's key, or takes it away, which ends all sessions. After a
    /// change they go on until there are some with the new key, or their time is
    /// over (180 s at most); handshakes are made with the new key only.
    pub fn set_private_key(&self, key: Option<PrivateKey>) -> Result<(), DeviceError> {
        self.inner.change(|control| {
            control.set_private_key(key, Sessions::GoOn);
            Ok(())
        })
    }

    /// The device's public key, if it has a key.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.inner.control().public_key()
    }

    /// The UDP port that the device listens on.
    pub fn listen_port(&self) -> u16 {
        self.inner.control().listen_port
    }

    /// The interface's name when it was made.
    pub fn name(&self) -> &str {
        self.inner.name.as_str()
    }

    /// What was counted since the device was opened, over all workers.
    pub fn counters(&self) -> DeviceCounters {
        DeviceCounters::sum(
            self.inner
                .shared
                .counters
                .iter()
                .map(|counters| &**counters),
        )
    }

    /// How each offload is at this moment.
    pub fn offloads(&self) -> OffloadReport {
        self.inner.shared.switches.report()
    }

    /// The keys that sent a valid initiation and are no peer, since the last call:
    /// each once, the latest few hundred at most.
    pub fn take_unknown_keys(&self) -> BTreeSet<PublicKey> {
        std::iter::from_fn(|| self.inner.shared.knocks.pop()).collect()
    }

    /// Whether the device is closed, by [`Self::close`] or because its interface
    /// was deleted or a worker failed.
    pub fn is_closed(&self) -> bool {
        self.inner.shared.is_closed()
    }

    /// Waits until the device is closed. It blocks the thread.
    pub fn wait_closed(&self) {
        self.inner.shared.wait_closed();
    }

    /// Ends the workers and takes the interface and the WireGuard socket away.
    /// Returns when that is done; can be called again.
    pub fn close(&self) {
        self.inner.shared.close();
        // Held meanwhile, so that a second caller returns no sooner than the first.
        for thread in lock(&self.threads).drain(..) {
            // A worker that panicked has said so in the log.
            drop(thread.join());
        }
    }

    fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), DeviceError> {
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(DeviceError::system("starting a thread"))?;
        lock(&self.threads).push(thread);
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name())
            .field("listen_port", &self.listen_port())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Changes the configuration and posts what follows from it, even when the
    /// change stopped halfway: what was recorded must be what the workers have.
    fn change(
        &self,
        change: impl FnOnce(&mut Control) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if self.shared.is_closed() {
            return Err(DeviceError::Closed);
        }
        let mut control = self.control();
        let result = change(&mut control);
        let commands = control.take_commands();
        self.shared.post(commands, Some(&control.directory()));
        result
    }

    /// New sockets, for another port or another mark.
    fn rebind(&self, port: Option<u16>, mark: Option<Option<u32>>) -> Result<(), DeviceError> {
        if self.shared.is_closed() {
            return Err(DeviceError::Closed);
        }
        let mut control = self.control();
        let mark = mark.unwrap_or(control.fwmark);
        let unchanged = port.is_none_or(|port| port == control.listen_port);
        if unchanged && mark == control.fwmark {
            return Ok(());
        }
        if unchanged {
            control.fwmark = mark;
            let commands = (0..self.shared.workers())
                .map(|_| vec![Command::Mark(mark)])
                .collect();
            self.shared.post(commands, None);
            return Ok(());
        }
        let port = port.unwrap_or(control.listen_port);
        let (port, sockets) = udp::bind(port, self.shared.workers(), mark, &self.shared.switches)?;
        control.listen_port = port;
        control.fwmark = mark;
        let commands = sockets
            .into_iter()
            .map(|sockets| vec![Command::Sockets(sockets)])
            .collect();
        self.shared.post(commands, None);
        Ok(())
    }

    /// Carries out a userspace API request.
    pub(crate) fn set(&self, request: SetDevice) -> Result<(), DeviceError> {
        // What can fail for reasons outside goes first.
        if request.listen_port.is_some() || request.fwmark.is_some() {
            self.rebind(request.listen_port, request.fwmark)?;
        }
        if request.replace_peers {
            // Told to the workers at once: they free the key material of all these
            // (11 kB each) while that of their successors is made.
            self.change(|control| {
                control.remove_all();
                Ok(())
            })?;
        }
        self.change(|control| {
            if let Some(key) = request.private_key {
                control.set_private_key(key, Sessions::End);
            }
            for peer in request.peers {
                control.set_by_request(peer)?;
            }
            Ok(())
        })
    }

    /// The answer to a userspace API question.
    pub(crate) fn describe(&self, tell_secrets: bool) -> Zeroizing<String> {
        let control = self.control();
        let peers = control.status();
        uapi::answer(&uapi::DeviceView {
            private_key: control.private_key.as_ref().filter(|_| tell_secrets),
            tell_secrets,
            listen_port: control.listen_port,
            fwmark: control.fwmark,
            peers: &peers,
        })
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
