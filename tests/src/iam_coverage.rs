//! What the policies of `ami/iam` allow against what our code asks AWS for: no action
//! less, and none more. The actions are read from the source of `shared/ec2`, because
//! no run of the programs asks for all of them, and `deny.toml` lets no other crate
//! speak to AWS (a spoke's `sts:GetCallerIdentity`, in `enrol`, which the hub sends for it,
//! needs no permission: AWS answers it whatever policies say). What the programs do ask for in the namespace tests is held against
//! the same policies by [`crate::world::World::check`].

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::iam;

/// Each policy, and the files that ask for what it allows.
const ASKED_BY: [(&str, &str, &[&str]); 12] = [
    (
        "hub-policy.json",
        iam::HUB,
        &["asking.rs", "question.rs", "account.rs", "role.rs"],
    ),
    (
        "discovery-policy.json",
        iam::DISCOVERY,
        &["asking.rs", "question.rs", "account.rs"],
    ),
    ("spoke-policy.json", iam::SPOKE, &["tags.rs"]),
    (
        "routes-policy.json",
        iam::ROUTES,
        &["asking.rs", "vpc.rs", "vpc/route.rs"],
    ),
    (
        "source-dest-check-policy.json",
        iam::SOURCE_DEST_CHECK,
        &["vpc/interface.rs"],
    ),
    ("address-policy.json", iam::ADDRESS, &["vpc/address.rs"]),
    (
        "remedy-policy.json",
        iam::REMEDY,
        &["vpc/machine.rs", "auto_scaling.rs"],
    ),
    (
        "doctor-policy.json",
        iam::DOCTOR,
        &["asking.rs", "vpc.rs", "vpc/surroundings.rs"],
    ),
    ("secret-policy.json", iam::SECRET, &["secret.rs"]),
    ("hub-key-policy.json", iam::HUB_KEY, &["secret.rs"]),
    ("site-secret-policy.json", iam::SITE_SECRET, &["secret.rs"]),
    ("config-policy.json", iam::CONFIG, &["secret.rs"]),
];

/// Files that ask in dry runs for what others ask for in earnest.
const DRY_RUNS: [&str; 2] = ["examination.rs", "vpc/permission.rs"];

/// With what the names of EC2's actions begin (its API reference, "Actions").
#[rustfmt::skip]
const VERBS: [&str; 54] = [
    "accept", "advertise", "allocate", "apply", "assign", "associate", "attach", "authorize",
    "bundle", "cancel", "confirm", "copy", "create", "delete", "deprovision", "deregister",
    "describe", "detach", "disable", "disassociate", "enable", "export", "get", "import", "list",
    "modify", "monitor", "move", "provision", "purchase", "reboot", "register", "reject",
    "release", "replace", "request", "reset", "restore", "revoke", "run", "search", "send",
    "start", "stop", "terminate", "unassign", "unlock", "unmonitor", "update", "validate", "withdraw",
    "batch", "lock", "report",
];

/// What looks like one: the id that AWS gave an answer.
const NO_ACTION: &str = "request_id";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/ec2/src")
}

/// The files below a directory, without the tests.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files = Vec::new();
    for path in entries {
        if path.file_stem().unwrap() == "tests" {
        } else if path.is_dir() {
            files.extend(sources(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The actions that a source file asks for.
fn asked(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut actions = BTreeSet::new();
    // An action of EC2 is a method of the SDK's client without arguments.
    for after in code.split('.').skip(1) {
        let Some((method, _)) = after.split_once("()") else {
            continue;
        };
        let verb = method.split_once('_').map(|(verb, _)| verb);
        let known = |verb: &str| VERBS.contains(&verb);
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if verb.is_some_and(known) && method.bytes().all(word) && method != NO_ACTION {
            actions.insert(format!("ec2:{}", camel_case(method)));
        }
    }
    // The SDK's own credentials of another role.
    if code.contains("AssumeRoleProvider::builder") {
        actions.insert("sts:AssumeRole".to_owned());
    }
    for after in code.split("\"AmazonSSM.").skip(1) {
        let action = after.split('"').next().unwrap();
        actions.insert(format!("ssm:{action}"));
    }
    // The one service beside it that is asked by a form written here.
    for after in code.split("\"Action=").skip(1) {
        let action = after.split('&').next().unwrap();
        actions.insert(format!("autoscaling:{action}"));
    }
    // SSM decrypts as the caller.
    if code.contains("\"WithDecryption\": true") {
        actions.insert("kms:Decrypt".to_owned());
    }
    actions
}

fn camel_case(method: &str) -> String {
    let words = method.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    words.collect()
}

fn by_file() -> BTreeMap<String, BTreeSet<String>> {
    let directory = directory();
    let files = sources(&directory).into_iter().map(|path| {
        let name = path.strip_prefix(&directory).unwrap().to_str().unwrap();
        (name.to_owned(), asked(&fs::read_to_string(&path).unwrap()))
    });
    files.filter(|(_, actions)| !actions.is_empty()).collect()
}

#[test]
fn each_policy_allows_what_the_code_asks_for_and_nothing_else() {
    let mut by_file = by_file();
    for (name, policy, files) in ASKED_BY {
        let asked = files.iter().flat_map(|file| {
            let actions = by_file.get(*file);
            actions.unwrap_or_else(|| panic!("{file} asks AWS for nothing"))
        });
        let asked: BTreeSet<String> = asked.cloned().collect();
        assert_eq!(asked, iam::actions(policy).unwrap(), "{name}");
    }
    let allowed = iam::all_actions().unwrap();
    for file in DRY_RUNS {
        let actions = by_file.remove(file).unwrap();
        let further: Vec<_> = actions.difference(&allowed).collect();
        assert!(further.is_empty(), "{file} asks for {further:?}");
    }
    // Whoever asks from another file says here which policy allows it.
    for (file, actions) in by_file {
        let known = ASKED_BY
            .iter()
            .any(|(_, _, files)| files.contains(&file.as_str()));
        assert!(known, "{file} asks for {actions:?}");
    }
}

/// `ami/image/register` is a script: its commands are named as EC2's actions are.
#[test]
fn the_policy_for_registering_allows_what_the_script_does_and_nothing_else() {
    let script = include_str!("../../ami/image/register");
    let code = script.lines().map(str::trim_start);
    let code: Vec<&str> = code.filter(|line| !line.starts_with('#')).collect();
    let words: Vec<&str> = code
        .iter()
        .flat_map(|line| line.split(|c: char| c.is_whitespace() || "$()".contains(c)))
        .collect();
    let is_command = |word: &&str| {
        word.contains('-')
            && !word.starts_with('-')
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    let commands = words.windows(2).filter_map(|pair| match pair {
        ["ask" | "change" | "ec2", command] => Some(*command).filter(is_command),
        _ => None,
    });
    let camel = |command: &str| -> String {
        let parts = command.split('-').map(|part| {
            let (first, rest) = part.split_at(1);
            first.to_ascii_uppercase() + rest
        });
        parts.collect()
    };
    let mut asked: BTreeSet<String> = commands.map(|it| format!("ec2:{}", camel(it))).collect();
    for known in [
        "ec2:DescribeImages",
        "ec2:RegisterImage",
        "ec2:DeleteSnapshot",
    ] {
        assert!(asked.contains(known), "the script is not read: {asked:?}");
    }
    // What its commands do besides.
    let text = code.join("\n");
    for (words, actions) in [
        ("--tag-specifications", &["ec2:CreateTags"][..]),
        (
            "coldsnap --region",
            &[
                "ebs:StartSnapshot",
                "ebs:PutSnapshotBlock",
                "ebs:CompleteSnapshot",
                "ec2:DescribeSnapshots",
            ],
        ),
    ] {
        assert!(text.contains(words), "{words}");
        asked.extend(actions.iter().map(|action| (*action).to_owned()));
    }
    let policy = include_str!("../../ami/image/register-policy.json");
    assert_eq!(asked, iam::actions(policy).unwrap());
}

#[test]
fn an_action_is_seen_wherever_it_stands() {
    let source = "
        // client.delete_route() is never asked for
        let a = client.describe_instances().send();
        let b = client
            .modify_network_interface_attribute()
            .set(x);
        let c = text.get_ref().value().request(); map.get_or_init(load)
        header(\"x-amz-target\", \"AmazonSSM.PutParameter\")
        #[cfg(test)]\nmod tests { fn x() { client.create_vpc() } }";
    let source = source.replace("        #[cfg(test)]", "#[cfg(test)]");
    let expected = [
        "ec2:DescribeInstances",
        "ec2:GetRef",
        "ec2:ModifyNetworkInterfaceAttribute",
        "ssm:PutParameter",
    ];
    // One that is none is a failure that a person reads; one that is missed would be none.
    assert_eq!(asked(&source), expected.map(str::to_owned).into());
}

#[test]
fn only_the_crate_that_is_read_here_can_ask() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let manifest = read("Cargo.toml");
    let sdks: BTreeSet<&str> = manifest
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim())
        .filter(|name| name.starts_with("aws-sdk-"))
        .collect();
    assert_eq!(sdks, BTreeSet::from(["aws-sdk-ec2", "aws-sdk-sts"]));
    let deny = read("deny.toml");
    for name in sdks {
        let line = deny
            .lines()
            .find(|line| line.contains(&format!("\"{name}\"")));
        assert!(
            line.unwrap().contains("wrappers = [\"privnet-ec2\""),
            "{name}"
        );
    }
    // Of STS only the SDK's own credential provider is used.
    for path in sources(&directory()) {
        let source = fs::read_to_string(&path).unwrap();
        assert!(
            !source.contains("aws_sdk_sts::Client"),
            "{}",
            path.display()
        );
    }
}
