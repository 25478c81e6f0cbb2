//! A place of our own: the program runs itself again inside private network,
//! mount and process namespaces, and inside a user namespace when it is not
//! root. Whatever a world makes there (namespaces, mounts, processes, files
//! under `/run`) is invisible outside and gone when the program ends, however
//! it ends.
//!
//! It changes nothing on the machine, and never needs `sudo`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::run;
use crate::programs::{SYSTEM_DIRECTORIES, require_tools};

/// Set in the environment of the program inside; holds how to enter from outside.
const MARK: &str = "PRIVNET_ISOLATED";

/// Whether this process is already inside.
pub fn inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// The command that runs this same program inside, with these arguments.
pub fn again<I: IntoIterator<Item = OsString>>(arguments: I) -> Result<Command> {
    require_tools(&["unshare", "mount", "ip", "nft"])?;
    require_tun()?;
    let root = nix::unistd::geteuid().is_root();
    let mut command = Command::new("unshare");
    if !root {
        require_user_namespaces()?;
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--propagation", "private", "--"])
        .arg(std::env::current_exe().context("cannot tell where this program is")?)
        .args(arguments)
        .env(MARK, if root { "root" } else { "user" })
        .env("PATH", path_with_system_directories());
    Ok(command)
}

/// Prepares the inside; the first thing to call there. Returns the command
/// prefix that enters from another terminal of the same user.
pub fn settle() -> Result<String> {
    // /proc still is the outer one: it names this process as the outside does.
    let outer_id = std::fs::read_link("/proc/self").context("/proc is not what it should be")?;
    for mount in [
        ["-t", "proc", "proc", "/proc"],
        ["-t", "tmpfs", "tmpfs", "/run"],
    ] {
        run(Command::new("mount").args(mount))?;
    }
    for directory in ["/run/netns", "/run/lock", "/run/privnet", "/run/wireguard"] {
        std::fs::create_dir_all(directory)?;
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let user = match std::env::var(MARK).as_deref() {
        Ok("user") => "--user --preserve-credentials ",
        _ => "",
    };
    Ok(format!(
        "nsenter --target {} {user}--mount --net --pid",
        outer_id.display()
    ))
}

/// Calls `end` with the exit code for it when a signal asks this process to end.
/// As the first process of its namespace it is sent no signal that it does not ask
/// for; when it ends, everything in the namespace ends.
pub fn on_end_signal(end: impl FnOnce(i32) + Send + 'static) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _guard = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        end(runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        }));
    });
    Ok(())
}

fn require_tun() -> Result<()> {
    let tun = Path::new("/dev/net/tun");
    if let Err(error) = std::fs::File::options().read(true).write(true).open(tun) {
        bail!(
            "cannot open {}: {error} (tunnel interfaces need it: mode 0666, as Debian's udev sets it, or root)",
            tun.display()
        );
    }
    Ok(())
}

fn require_user_namespaces() -> Result<()> {
    run(Command::new("unshare").args(["--user", "--map-root-user", "--net", "true"])).context(
        "this kernel does not let an ordinary user make namespaces: run it as root, or allow them \
         (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, or kernel.apparmor_restrict_unprivileged_userns=0)",
    )?;
    Ok(())
}

fn path_with_system_directories() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    for directory in SYSTEM_DIRECTORIES {
        path.push(":");
        path.push(directory);
    }
    path
}
