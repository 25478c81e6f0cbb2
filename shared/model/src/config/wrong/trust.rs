//! `[trust]`: what is read, and what is said of it.

use super::*;
use crate::config::hub::{ProofMode, SecretSource};

fn trust(keys: &str) -> TrustConfig {
    let text = format!(
        "privnet = '10.0.0.0/8'\n[discovery]\nregions = ['eu-west-1']\ntags.service = 'nat'\n\
         [trust]\n{keys}"
    );
    HubConfig::parse("hub.toml", &text).unwrap().trust
}

#[test]
fn every_rule_is_read() {
    let trust = trust(
        "accounts = ['111122223333', '000000000001']\n\
         instance_profiles = ['arn:aws:iam::*:instance-profile/privnet-spoke', '*']\n\
         vpcs = ['vpc-*', 'v??-12345678']\namis = ['ami-0a1b2c3d4e5f60718']\n\
         preshared_key = { file = '/etc/privnet/fleet.secret' }\nproof = 'ask'\nproof_roles = ['privnet-spoke*']",
    );
    assert_eq!(trust.accounts[1].as_str(), "000000000001");
    assert!(trust.instance_profiles[0].matches("arn:aws:iam::1:instance-profile/privnet-spoke"));
    assert!(!trust.instance_profiles[0].matches("arn:aws:iam::1:instance-profile/privnet-spoke2"));
    assert_eq!((trust.vpcs.len(), trust.amis.len()), (2, 1));
    let file = SecretSource::File("/etc/privnet/fleet.secret".into());
    assert_eq!(trust.preshared_key, Some(file));
    assert_eq!(trust.proof, ProofMode::Ask);
    assert!(trust.proof_roles[0].matches("privnet-spoke-eu"));
}

#[test]
fn a_secret_is_in_a_file_or_in_the_parameter_store() {
    for name in [
        "/privnet/psk",
        "psk",
        "arn:aws:ssm:eu-west-1:111122223333:parameter/privnet/psk",
    ] {
        let trust = trust(&format!("preshared_key = {{ ssm = '{name}' }}"));
        let named = SecretSource::Ssm(name.to_owned());
        assert_eq!(trust.preshared_key, Some(named));
    }
    let said = |value: &str| hub_with("", &format!("[trust]\npreshared_key = {value}"));
    assert_eq!(
        said("{ file = '/a', ssm = '/a' }"),
        ["hub.toml:7: trust.preshared_key: both `file` and `ssm`; expected one of the two"]
    );
    assert_eq!(
        said("{}"),
        [
            "hub.toml:7: trust.preshared_key.file: missing; expected an absolute path, or `ssm` with a parameter's name"
        ]
    );
    assert_eq!(
        said("'/privnet/psk'"),
        [
            "hub.toml:7: trust.preshared_key: not a table; expected { file = \"/an/absolute/path\" } or { ssm = \"/a/parameter\" }; the secret itself has no place in this file"
        ]
    );
    for (name, problem) in [
        ("privnet/psk", "a path that does not start with `/`"),
        ("/privnet/", "not the name of a parameter"),
        ("", "not the name of a parameter"),
        ("a b", "not the name of a parameter"),
    ] {
        assert_eq!(
            said(&format!("{{ ssm = '{name}' }}")),
            [format!(
                "hub.toml:7: trust.preshared_key.ssm: {problem}; expected the name of an SSM parameter such as /privnet/psk"
            )]
        );
    }
}

#[test]
fn a_rule_that_would_let_in_nobody_is_refused() {
    let section = "[trust]\naccounts = [111122223333, '1111']\n\
        instance_profiles = ['arn:aws:iam::*:role/privnet-spoke', 'arn:aws:iam::1:user/x', 'privnet-*']\n\
        vpcs = ['10.0.0.0/8', 'vpc-', 'prod-*']\namis = []\nproof = 'yes'\nami = ['*']";
    let ami = "an image id, `*` and `?` allowed, such as ami-0a1b2c3d4e5f60718";
    let vpc = "a VPC id, `*` and `?` allowed, such as vpc-0a1b2c3d4e5f60718";
    let profile = "an instance profile's ARN, `*` and `?` allowed, such as \
                   arn:aws:iam::*:instance-profile/privnet-spoke";
    let account = "an account id: 12 digits in quotes";
    assert_eq!(
        hub_with("", section),
        [
            format!(
                "hub.toml:7: trust.accounts[0] = 111122223333: a number, not text in quotes; expected {account}"
            ),
            format!(
                "hub.toml:7: trust.accounts[1] = '1111': not an account id; expected {account}"
            ),
            format!(
                "hub.toml:8: trust.instance_profiles[0] = 'arn:aws:iam::*:role/privnet-spoke': the ARN of a role, not of an instance profile; expected {profile}"
            ),
            format!(
                "hub.toml:8: trust.instance_profiles[1] = 'arn:aws:iam::1:user/x': not the ARN of an instance profile; expected {profile}"
            ),
            format!(
                "hub.toml:8: trust.instance_profiles[2] = 'privnet-*': not the ARN of an instance profile; expected {profile}"
            ),
            format!("hub.toml:9: trust.vpcs[0] = '10.0.0.0/8': not a VPC id; expected {vpc}"),
            format!("hub.toml:9: trust.vpcs[1] = 'vpc-': not a VPC id; expected {vpc}"),
            format!("hub.toml:9: trust.vpcs[2] = 'prod-*': not a VPC id; expected {vpc}"),
            format!(
                "hub.toml:10: trust.amis = []: empty; expected a list of at least one, each {ami}"
            ),
            "hub.toml:11: trust.proof = 'yes': no such choice; expected \"off\", \"ask\" or \"require\""
                .to_owned(),
            "hub.toml:12: trust.ami: unknown key; expected perhaps `amis`".to_owned(),
        ]
    );
}
