//! The Terraform modules of `ami/terraform`, by Terraform itself.
//!
//! The AWS provider is in no registry that the tests need otherwise. In its place is a
//! program that has its schema and nothing else (`terraform/provider.py`). With it every
//! module is validated, and applied by its own tests (`ami/terraform/*/tests`), in which
//! Terraform makes up what a provider would answer. So no argument is unknown or
//! missing, and every expression is evaluated; what the provider itself checks, and what
//! AWS makes of it, is not known here. The module that makes the policies and config
//! files has no provider and is run in earnest.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use privnet_model::config::hub::HubConfig;
use privnet_model::config::spoke::{OWN_ZONE, SpokeConfig, TableSelection};
use privnet_model::inventory::Transport;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::iam;
use crate::process::run;
use crate::programs;

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ami/terraform")
}

/// Terraform in a module, with all that it keeps elsewhere.
fn command(module: &Path, data: &TempDir, arguments: &[&str]) -> Command {
    let mut command = programs::terraform().unwrap();
    command.arg(module).args(arguments);
    command.env("TF_DATA_DIR", data.path());
    command.env("TF_IN_AUTOMATION", "1");
    command.env("TF_CLI_CONFIG_FILE", "/dev/null");
    command.env("CHECKPOINT_DISABLE", "1");
    command
}

/// Runs Terraform in a module that has no provider, or where none is asked.
fn terraform(module: &str, data: &TempDir, arguments: &[&str]) -> String {
    run(&mut command(&modules().join(module), data, arguments)).unwrap()
}

/// What stands in for the AWS provider, as long as this lives.
struct Provider {
    process: Child,
    /// Leads Terraform to it.
    reattach: String,
    _directory: TempDir,
}

impl Provider {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/terraform/provider.py");
        let mut process = Command::new(programs::moto_python().unwrap())
            .arg(source)
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let reattach = json!({ "registry.terraform.io/hashicorp/aws": {
            "Protocol": "grpc",
            "ProtocolVersion": 5,
            "Pid": process.id(),
            "Test": true,
            "Addr": { "Network": "unix", "String": socket },
        }});
        Self {
            process,
            reattach: reattach.to_string(),
            _directory: directory,
        }
    }

    /// Runs a command of Terraform in a module, once that is initialized.
    fn terraform(&self, module: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let data = TempDir::new()?;
        let terraform = |arguments: &[&str]| {
            let mut command = command(module, &data, arguments);
            run(command.env("TF_REATTACH_PROVIDERS", &self.reattach))
        };
        terraform(&["init", "-input=false", "-no-color"])?;
        terraform(arguments)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// What the module of the documents makes of these variables.
fn documents(variables: &Value) -> (String, Value, BTreeMap<String, Value>) {
    let data = TempDir::new().unwrap();
    let file = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let (given, state) = (file("given.tfvars.json"), file("state"));
    std::fs::write(&given, variables.to_string()).unwrap();
    let (given, state) = (format!("-var-file={given}"), format!("-state={state}"));
    let terraform = |arguments: &[&str]| terraform("documents", &data, arguments);
    terraform(&["init", "-input=false", "-no-color"]);
    let apply = ["apply", "-auto-approve", "-input=false", "-no-color"];
    terraform(&[&apply[..], &[&given, &state]].concat());
    let made: Value = serde_json::from_str(&terraform(&["output", "-json", &state])).unwrap();
    let parsed = |text: &Value| serde_json::from_str(text.as_str().unwrap()).unwrap();
    let policies = made["policies"]["value"].as_object().unwrap();
    let policies = policies
        .iter()
        .map(|(name, text)| (name.clone(), parsed(text)));
    let config = made["config"]["value"].as_str().unwrap().to_owned();
    (config, parsed(&made["trust"]["value"]), policies.collect())
}

/// Variables of both roles; the names are not those of `ami/iam`, on purpose.
fn common(role: &str, more: &Value) -> Value {
    let mut variables = json!({
        "role": role,
        "account": "999988887777",
        "region": "eu-west-1",
        "privnet": "10.0.0.0/8",
        "service_tag": "nat",
        "environment_tag": "test",
        "fleet_secret_parameter": "/privnet/psk",
    });
    let more = more.as_object().unwrap().clone();
    variables.as_object_mut().unwrap().extend(more);
    variables
}

/// An error unless these are the policies, each what its file says without some
/// statements, and the account's own.
fn are(policies: &BTreeMap<String, Value>, expected: &[(&str, &str, &[&str])]) {
    let names: Vec<&str> = policies.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        expected.iter().map(|(name, ..)| *name).collect::<Vec<_>>()
    );
    for (name, file, without) in expected {
        iam::says_the_same(&policies[*name], file, without).unwrap();
        let text = policies[*name].to_string();
        assert!(
            !text.contains("111122223333") && !text.contains('@'),
            "{text}"
        );
        assert!(!text.contains("vpc-0123456789abcdef0"), "{text}");
    }
}

#[test]
fn the_modules_are_well_formed_and_fit_together() {
    let data = TempDir::new().unwrap();
    terraform(
        ".",
        &data,
        &["fmt", "-check", "-recursive", "-diff", "-no-color"],
    );
    // Reads them all, with what each hands to the others.
    let got = terraform("example", &data, &["get", "-no-color"]);
    for module in [
        "hub.documents",
        "hub.instance",
        "hub_nat",
        "client_spokes.documents",
        "client_vpc",
    ] {
        assert!(got.contains(&format!("- {module} in ")), "{got}");
    }
}

/// The names of the modules, but for one.
fn modules_except(without: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir(modules()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let modules = paths.filter(|path| path.join("main.tf").is_file());
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = modules.map(name).collect();
    names.retain(|name| !without.contains(&name.as_str()));
    names.sort();
    names
}

#[test]
fn every_argument_of_the_modules_is_one_that_the_aws_provider_knows() {
    let provider = Provider::start();
    for module in modules_except(&[]) {
        let says = provider.terraform(&modules().join(module), &["validate", "-no-color"]);
        assert!(says.unwrap().contains("The configuration is valid."));
    }

    // And one that it does not know is found.
    let copy = TempDir::new().unwrap();
    for file in ["main.tf", "variables.tf", "outputs.tf"] {
        let text = std::fs::read_to_string(modules().join("vpc").join(file)).unwrap();
        let wrong = text.replace("enable_dns_support ", "enable_dns_suport ");
        std::fs::write(copy.path().join(file), wrong).unwrap();
    }
    let says = provider.terraform(copy.path(), &["validate", "-no-color"]);
    let says = says.unwrap_err().to_string();
    assert!(says.contains("enable_dns_suport"), "{says}");
}

#[test]
fn the_modules_own_tests_hold() {
    let provider = Provider::start();
    // That of the VPC is tested within the example.
    for module in modules_except(&["documents", "vpc"]) {
        let says = provider.terraform(&modules().join(&module), &["test", "-no-color"]);
        let says = says.unwrap();
        let held = says.contains(" passed, 0 failed.") && !says.contains("Success! 0 passed");
        assert!(held, "{module}: {says}");
    }
}

#[test]
fn a_discovery_roles_documents_say_what_ami_iam_says() {
    let given = json!({
        "regions": ["us-west-2", "eu-west-1"],
        "hub_role_arns": [
            "arn:aws:iam::123456789012:role/privnet-hub-eu-west-1-hub",
            "arn:aws:iam::123456789012:role/privnet-hub-eu-west-1-hub-2",
        ],
        "external_id": "a-long-random-text-of-ours",
    });
    let (config, trust, policies) = documents(&common("discovery", &given));
    assert_eq!(config, "");
    iam::says_the_same(&trust, iam::DISCOVERY_TRUST, &[]).unwrap();
    let trust = trust.to_string();
    for said in ["-eu-west-1-hub\"", "-eu-west-1-hub-2\"", "-text-of-ours"] {
        assert!(trust.contains(said), "{trust}");
    }
    let expected = [("discovery", iam::DISCOVERY, &["ListRegions"][..])];
    are(&policies, &expected);
}

#[test]
fn a_hubs_documents_say_what_ami_iam_says_and_its_config_is_valid() {
    let key = ("key", iam::HUB_KEY, &[][..]);
    let (doctor, secret) = (
        ("doctor", iam::DOCTOR, &[][..]),
        ("secret", iam::SECRET, &[][..]),
    );
    let regions = json!({ "regions": ["us-west-2", "eu-west-1"] });
    let (config, trust, policies) = documents(&common("hub", &regions));
    iam::says_the_same(&trust, iam::TRUST, &[]).unwrap();
    let alone = ("hub", iam::HUB, &["ListRegions", "PollOtherAccounts"][..]);
    are(&policies, &[doctor, alone, key, secret]);
    let hub = policies["hub"].to_string();
    assert!(hub.contains(r#"["us-west-2","eu-west-1"]"#), "{hub}");
    let config = HubConfig::parse("hub.toml", &config).unwrap();
    let parameter = config.private_key_parameter.as_deref();
    assert_eq!(parameter, Some("/privnet/hub/private-key"));
    assert!(config.policy.is_empty() && config.discovery.accounts.is_empty());

    let role = "arn:aws:iam::222222222222:role/privnet-discovery";
    let (config, _, policies) = documents(&common(
        "hub",
        &json!({
            "regions": ["us-west-2"],
            "site_secret_parameters": "/privnet/site/*",
            "discovery_roles": [{ "role_arn": role, "external_id": "some-thing" }],
            "more_config": "[[policy]]\naction = \"deny\"\nbetween = [\"any\"]\nand = [\"hub\"]",
        }),
    ));
    are(
        &policies,
        &[
            doctor,
            ("hub", iam::HUB, &["ListRegions"]),
            key,
            secret,
            ("site-secret", iam::SITE_SECRET, &[]),
        ],
    );
    let config = HubConfig::parse("hub.toml", &config).unwrap();
    assert_eq!(config.policy.len(), 1);
    assert_eq!(config.discovery.accounts[0].role_arn, role);
}

#[test]
fn a_spokes_documents_say_what_ami_iam_says_and_its_config_is_valid() {
    let both = [
        ("doctor", iam::DOCTOR, &[][..]),
        ("routes", iam::ROUTES, &[]),
        ("secret", iam::SECRET, &[]),
        ("source-dest-check", iam::SOURCE_DEST_CHECK, &[]),
    ];
    let table = "arn:aws:ec2:eu-west-1:999988887777:route-table/rtb-0a1b2c3d4e5f60718";
    let address = "arn:aws:ec2:eu-west-1:999988887777:elastic-ip/eipalloc-0a1b2c3d4e5f60718";
    let vpc = "vpc-0a1b2c3d4e5f60718";
    let mut given = json!({
        "vpc_id": vpc,
        "route_table_arns": [table],
        "address_arns": [address],
        "address_config": "tag = { \"privnet:pool\" = \"a\" }",
        "hub_address": "198.51.100.100",
        "hub_public_key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
        "self_test_targets": ["192.0.2.1:443", "198.51.100.1:443"],
    });
    let (config, trust, policies) = documents(&common("spoke", &given));
    iam::says_the_same(&trust, iam::TRUST, &[]).unwrap();
    let with = [
        ("address", iam::ADDRESS, &[][..]),
        both[0],
        both[1],
        both[2],
        both[3],
        ("spoke", iam::SPOKE, &[]),
    ];
    are(&policies, &with);
    for (policy, own) in [
        ("routes", table),
        ("address", address),
        ("source-dest-check", vpc),
    ] {
        let text = policies[policy].to_string();
        assert!(text.contains(own), "{text}");
    }
    let config = SpokeConfig::parse("spoke.toml", &config).unwrap();
    assert_eq!(config.hubs[0].endpoint.to_string(), "198.51.100.100:51820");
    let routes = config.routes.unwrap();
    assert!(routes.takeover.is_some() && config.address.is_some());
    let own_zone = BTreeMap::from([("privnet:az".to_owned(), OWN_ZONE.to_owned())]);
    assert_eq!(routes.tables, TableSelection::Tagged(own_zone));
    assert_eq!(config.self_test.targets.len(), 2);

    let mut changed = |more: Value| {
        let more = more.as_object().unwrap().clone();
        given.as_object_mut().unwrap().extend(more);
        given.clone()
    };
    let given = changed(json!({ "transport": "ipsec", "hub_public_key": "" }));
    let (config, _, policies) = documents(&common("spoke", &given));
    are(&policies, &with);
    let config = SpokeConfig::parse("spoke.toml", &config).unwrap();
    assert_eq!(config.transport, Transport::Ipsec);
    assert_eq!(config.ipsec_hubs[0].endpoint.to_string(), "198.51.100.100");
    assert_eq!(config.ipsec_hubs.len(), 1);
    let given = changed(json!({ "second_hub_address": "198.51.100.101" }));
    let (config, _, _) = documents(&common("spoke", &given));
    let config = SpokeConfig::parse("spoke.toml", &config).unwrap();
    assert_eq!(config.ipsec_hubs[1].endpoint.to_string(), "198.51.100.101");

    let none = json!({
        "transport": "none",
        "address_arns": [],
        "address_config": "",
    });
    let given = changed(none);
    let (config, _, policies) = documents(&common("spoke", &given));
    are(&policies, &both);
    let config = SpokeConfig::parse("spoke.toml", &config).unwrap();
    assert_eq!(config.transport, Transport::None);
    assert!(config.hubs.is_empty() && config.address.is_none());
}
