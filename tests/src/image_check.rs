//! `ami/image/check`, which holds the images back that have something secret in them: that
//! it lets a clean tree pass, and names each thing that is planted in one. The trees are as
//! small as what it looks at; that an image as built passes is seen by `make images` and
//! `make test-image`.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// What the machine is called that builds the images, as far as the script sees.
const BUILDER: &str = "builder-4711";

/// A root file system as small as one that passes.
struct Tree {
    root: TempDir,
    /// Commands that the script runs in the place of this machine's.
    commands: TempDir,
}

impl Tree {
    fn clean() -> Self {
        let tree = Self {
            root: TempDir::new().unwrap(),
            commands: TempDir::new().unwrap(),
        };
        for directory in ["usr/bin", "etc/systemd/system", "etc/privnet/input.d"] {
            fs::create_dir_all(tree.root.path().join(directory)).unwrap();
        }
        tree.plant("etc/machine-id", "");
        tree.plant("etc/shadow", "root:*:19000:0:99999:7:::\n");
        tree.plant(
            "etc/apt/sources.list",
            "deb http://deb.debian.org/debian bookworm main\n",
        );
        let uname = tree.commands.path().join("uname");
        fs::write(&uname, format!("#!/bin/sh\necho {BUILDER}\n")).unwrap();
        fs::set_permissions(&uname, Permissions::from_mode(0o755)).unwrap();
        tree
    }

    /// Writes a file there, in the place of what was.
    fn plant(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn check(&self) -> Output {
        let path = std::env::var("PATH").unwrap();
        Command::new(script())
            .arg(self.root.path())
            .env("PATH", format!("{}:{path}", self.commands.path().display()))
            .output()
            .unwrap()
    }

    /// What it says is wrong, which is something.
    fn refused(&self) -> String {
        let output = self.check();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }
}

fn script() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ami/image/check")
}

/// The first line of a key in PEM. Put together, so that no search for keys finds this file.
fn pem(kind: &str) -> String {
    format!("{}BEGIN {kind}PRIVATE KEY{}\nMIIE\n", "-----", "-----")
}

/// The id of a key of AWS of this kind.
fn aws_key(kind: &str) -> String {
    format!("aws_access_key_id = {kind}{}\n", "IOSFODNN7EXAMPLE")
}

/// A line of `wg-quick`'s.
fn wireguard_key(name: &str) -> String {
    format!("[Interface]\n{name} = {}=\n", "A".repeat(43))
}

#[test]
fn a_tree_with_nothing_secret_passes() {
    let output = Tree::clean().check();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn each_secret_and_identity_is_named() {
    let ssh = pem("OPENSSH ");
    for (path, text, expected) in [
        ("etc/ssl/own.pem", pem(""), "private keys: etc/ssl/own.pem"),
        ("usr/lib/x/key", pem("RSA "), "private keys: usr/lib/x/key"),
        ("opt/key", pem("EC "), "private keys: opt/key"),
        ("srv/key", pem("ENCRYPTED "), "private keys: srv/key"),
        (
            "var/backups/key",
            ssh.clone(),
            "private keys: var/backups/key",
        ),
        (
            "etc/ssh/ssh_host_ed25519_key",
            ssh,
            "/etc/ssh/ssh_host_ed25519_key is each instance's own",
        ),
        (
            "etc/ssh/ssh_host_rsa_key.pub",
            "ssh-rsa AAAA\n".to_owned(),
            "/etc/ssh/ssh_host_rsa_key.pub is each instance's own",
        ),
        (
            "home/admin/.aws/credentials",
            aws_key("AKIA"),
            "AWS access keys: home/admin/.aws/credentials",
        ),
        (
            "etc/environment",
            aws_key("ASIA"),
            "AWS access keys: etc/environment",
        ),
        (
            "root/wg0.conf",
            wireguard_key("PrivateKey"),
            "WireGuard keys: root/wg0.conf",
        ),
        (
            "opt/wg0.conf",
            wireguard_key("PresharedKey"),
            "WireGuard keys: opt/wg0.conf",
        ),
    ] {
        let tree = Tree::clean();
        tree.plant(path, &text);
        let said = tree.refused();
        assert!(said.contains(expected), "{path}: {said}");
    }
    // Whatever is in them.
    for path in [
        "etc/hostname",
        "etc/privnet/hub.toml",
        "etc/privnet/fleet.secret",
        "etc/ssh/authorized_keys.d/admin",
        "etc/ssl/private/own.der",
        "etc/swanctl/private/own.der",
        "etc/wireguard/wg0.conf",
        "home/admin/.bash_history",
        "home/admin/.ssh/authorized_keys",
        "root/.ssh/authorized_keys",
        "var/lib/dbus/machine-id",
        "var/lib/privnet/hub.key",
        "var/lib/privnet/hub.state.json",
        "var/lib/systemd/random-seed",
    ] {
        let tree = Tree::clean();
        tree.plant(path, "something\n");
        let said = tree.refused();
        assert!(said.contains("is each instance's own"), "{path}: {said}");
    }
}

#[test]
fn a_machine_id_is_each_instances_own_and_its_file_has_to_be_there() {
    let tree = Tree::clean();
    tree.plant("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    let said = tree.refused();
    assert!(said.contains("/etc/machine-id has to be there"), "{said}");
    fs::remove_file(tree.root.path().join("etc/machine-id")).unwrap();
    let said = tree.refused();
    assert!(said.contains("/etc/machine-id has to be there"), "{said}");
}

#[test]
fn passwords_tools_and_what_names_the_builder_are_found() {
    for (path, text, expected) in [
        (
            "etc/shadow",
            "admin:$6$salt$hash:19000:::::\n",
            "password, or none asked for: admin",
        ),
        (
            "etc/shadow",
            "admin::19000:::::\n",
            "password, or none asked for: admin",
        ),
        ("usr/bin/gcc", "", "/usr/bin/gcc: no compilers"),
        ("usr/bin/tcpdump", "", "/usr/bin/tcpdump: no compilers"),
        (
            "etc/hosts",
            "127.0.1.1 builder-4711\n",
            "the builder's name, builder-4711: etc/hosts",
        ),
        (
            "etc/apt/sources.list",
            "deb http://mirror.internal/debian bookworm main\n",
            "apt would ask http://mirror.internal/debian",
        ),
        (
            "etc/apt/sources.list.d/more.list",
            "deb http://deb.debian.org/debian sid main\n",
            "/etc/apt/sources.list.d is not empty",
        ),
    ] {
        let tree = Tree::clean();
        tree.plant(path, text);
        let said = tree.refused();
        assert!(said.contains(expected), "{path}: {said}");
    }
    let tree = Tree::clean();
    tree.plant("usr/bin/helper", "");
    let helper = tree.root.path().join("usr/bin/helper");
    fs::set_permissions(helper, Permissions::from_mode(0o4755)).unwrap();
    let wants = tree
        .root
        .path()
        .join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir(&wants).unwrap();
    symlink("/lib/systemd/system/ssh.service", wants.join("ssh.service")).unwrap();
    let said = tree.refused();
    for expected in [
        "programs that run as somebody else: usr/bin/helper",
        "ssh.service would start by itself",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn it_says_all_that_it_finds_at_once() {
    let tree = Tree::clean();
    tree.plant("etc/key", &pem("OPENSSH "));
    tree.plant("home/credentials", &aws_key("AKIA"));
    tree.plant("var/lib/privnet/spoke.key", "something\n");
    let said = tree.refused();
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn what_is_no_root_file_system_is_told_from_a_clean_one() {
    let empty = TempDir::new().unwrap();
    for arguments in [vec![empty.path()], vec![], vec![empty.path(), empty.path()]] {
        let output = Command::new(script()).args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
