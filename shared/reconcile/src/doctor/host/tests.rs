#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
use privnet_model::doctor::Verdict;

use super::*;

fn unknown<T>() -> Known<T> {
    Err("it hangs".to_owned())
}

/// The verdict; what is not well says how it is mended, what is not checked why.
fn verdict(finding: &Finding) -> Verdict {
    match finding.verdict {
        Verdict::Ok => assert!(finding.remedy.is_empty(), "{finding:?}"),
        Verdict::NotChecked => assert!(!finding.found.is_empty(), "{finding:?}"),
        Verdict::Warning | Verdict::Wrong => assert!(!finding.remedy.is_empty(), "{finding:?}"),
    }
    finding.verdict
}

#[test]
fn a_kernel_that_damages_packets_is_named() {
    let judged = |release: &str| verdict(&kernel(&Ok(release.to_owned())));
    assert_eq!(judged("6.1.0-30-cloud-amd64"), Verdict::Ok);
    assert_eq!(judged("7.0.3"), Verdict::Warning);
    assert_eq!(verdict(&kernel(&unknown())), Verdict::NotChecked);
}

#[test]
fn what_the_kernel_lacks_is_wrong() {
    assert_eq!(verdict(&tun(&Ok(()))), Verdict::Ok);
    assert_eq!(verdict(&tun(&unknown())), Verdict::Wrong);
    assert_eq!(verdict(&nftables(&Ok(()))), Verdict::Ok);
    assert_eq!(verdict(&nftables(&unknown())), Verdict::Wrong);
}

#[test]
fn strongswan_that_does_not_run_or_lacks_a_plugin_is_wrong() {
    let there: Known<()> = Ok(());
    let judged = |asked: Known<EspStatus>, xfrm: &Known<()>| {
        let asked = asked.map(|esp| ("charon-systemd 5.9.8".to_owned(), esp));
        charon(&asked, xfrm)
    };
    for esp in [EspStatus::Kernel, EspStatus::Userspace] {
        let well = judged(Ok(esp), &there);
        assert_eq!(verdict(&well), Verdict::Ok);
        assert_eq!(well.found, format!("charon-systemd 5.9.8, {esp}"));
    }
    // Its own ESP needs none of the kernel's interfaces.
    let lacks: Known<()> = Err("this kernel has no XFRM interfaces".to_owned());
    assert_eq!(
        verdict(&judged(Ok(EspStatus::Userspace), &lacks)),
        Verdict::Ok
    );
    let lacking = judged(Ok(EspStatus::Kernel), &lacks);
    assert_eq!(verdict(&lacking), Verdict::Wrong);
    assert!(
        lacking
            .found
            .ends_with("kernel ESP: this kernel has no XFRM interfaces")
    );
    for why in [
        "connecting to /var/run/charon.vici: no such file",
        "the IKE daemon (charon) has loaded neither kernel-netlink nor kernel-libipsec",
    ] {
        let finding = judged(Err(why.to_owned()), &there);
        assert_eq!(verdict(&finding), Verdict::Wrong);
        assert_eq!(
            (finding.check.as_str(), finding.found.as_str()),
            ("strongSwan", why)
        );
        assert!(finding.remedy[0].contains("systemctl enable --now strongswan"));
        assert!(finding.remedy[0].contains("ami/IPSEC.md"), "{finding:?}");
    }
}

#[test]
fn of_the_short_cut_the_daemon_knows_best() {
    let error = "no".to_owned();
    for (daemon, probed, expected) in [
        (Some(FlowtableState::On), unknown(), Verdict::Ok),
        (Some(FlowtableState::Configured), unknown(), Verdict::Ok),
        (
            Some(FlowtableState::Unsupported { error }),
            Ok(()),
            Verdict::Warning,
        ),
        (None, Ok(()), Verdict::Ok),
        (None, unknown(), Verdict::Warning),
    ] {
        assert_eq!(verdict(&flowtable(daemon.as_ref(), &probed)), expected);
    }
}

#[test]
fn a_table_of_connections_that_fills_is_told_in_time() {
    let used = |tracked| {
        Ok(ConnectionUse {
            tracked,
            limit: 1_000,
            dropped: 3,
            insert_failed: 1,
            early_dropped: 0,
        })
    };
    for (tracked, expected) in [
        (0, Verdict::Ok),
        (749, Verdict::Ok),
        (750, Verdict::Warning),
        (900, Verdict::Wrong),
        (1_000, Verdict::Wrong),
    ] {
        let finding = connections(&used(tracked));
        assert_eq!(verdict(&finding), expected, "{finding:?}");
    }
    let finding = connections(&used(900));
    assert!(finding.remedy[0].starts_with("connections = 2000"));
    assert_eq!(verdict(&connections(&unknown())), Verdict::NotChecked);
    // A kernel that says 0 is no reason to divide by it.
    let none = ConnectionUse {
        limit: 0,
        ..used(0).unwrap()
    };
    assert_eq!(verdict(&connections(&Ok(none))), Verdict::Ok);
}

#[test]
fn each_setting_that_differs_is_named_with_the_command_that_sets_it() {
    let key = |name: &str| SysctlKey::new(name).unwrap();
    let settings = |values: &[(&str, &str)]| -> BTreeMap<SysctlKey, String> {
        let values = values.iter();
        values
            .map(|(name, value)| (key(name), (*value).to_owned()))
            .collect()
    };
    let wanted = settings(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ]);
    // Without IPv6 there is no such setting, and nothing to set.
    let is = settings(&[
        ("net/ipv4/ip_forward", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
    ]);
    let findings = sysctls(&wanted, &Ok(is), Role::Spoke);
    assert_eq!(findings.len(), 1);
    assert_eq!(verdict(&findings[0]), Verdict::Wrong);
    assert_eq!(findings[0].remedy[0], "sysctl -w net/ipv4/ip_forward=1");
    let findings = sysctls(&wanted, &Ok(wanted.clone()), Role::Spoke);
    assert_eq!(verdict(&findings[0]), Verdict::Ok);
    let findings = sysctls(&wanted, &unknown(), Role::Spoke);
    assert_eq!(verdict(&findings[0]), Verdict::NotChecked);
}

#[test]
fn rules_are_known_by_their_seal() {
    let plain = Ruleset {
        tunnels: vec![crate::ruleset::TunnelClamp {
            interface: crate::interface::InterfaceName::new("privnet0")
                .unwrap()
                .into(),
            mtu: 1440,
        }],
        ..Ruleset::default()
    };
    let other = Ruleset {
        tunnels: vec![crate::ruleset::TunnelClamp {
            mtu: 1400,
            ..plain.tunnels[0].clone()
        }],
        ..Ruleset::default()
    };
    let intact = |rules: &Ruleset| Ok(Some(LoadedRuleset::Intact(rules.fingerprint())));
    let wanted = [plain.clone(), other.clone()];
    let judged =
        |wanted: &[Ruleset], loaded| verdict(&ruleset(wanted, &loaded, Role::Spoke, false));
    assert_eq!(judged(&wanted, intact(&plain)), Verdict::Ok);
    assert_eq!(judged(&wanted, intact(&other)), Verdict::Ok);
    assert_eq!(judged(&wanted[..1], intact(&other)), Verdict::Warning);
    let altered = Ok(Some(LoadedRuleset::Altered));
    assert_eq!(judged(&wanted, altered), Verdict::Warning);
    assert_eq!(judged(&wanted, Ok(None)), Verdict::Wrong);
    assert_eq!(judged(&[Ruleset::default()], Ok(None)), Verdict::Ok);
    assert_eq!(judged(&wanted, unknown()), Verdict::NotChecked);
}

#[test]
fn a_daemon_without_its_capability_is_wrong_and_a_user_without_it_is_told() {
    let has = Ok(NET_ADMIN);
    let lacks = Ok(1);
    for (daemon, own, expected) in [
        (Some(&has), &has, Verdict::Ok),
        (None, &has, Verdict::Ok),
        (Some(&lacks), &has, Verdict::Wrong),
        (Some(&has), &lacks, Verdict::NotChecked),
        (None, &lacks, Verdict::NotChecked),
        (Some(&unknown()), &has, Verdict::NotChecked),
        (None, &unknown(), Verdict::NotChecked),
    ] {
        assert_eq!(verdict(&capabilities(daemon, own)), expected);
    }
}

#[test]
fn a_secret_is_its_owners_alone() {
    let path = Path::new("/var/lib/privnet/spoke.key");
    let file = |mode| {
        Ok(Some(SecretFile {
            mode,
            is_file: true,
        }))
    };
    let judged = |found, made| secret_file("private key", path, &found, made);
    assert_eq!(verdict(&judged(file(0o600), true)), Verdict::Ok);
    assert_eq!(verdict(&judged(file(0o400), true)), Verdict::Ok);
    let open = judged(file(0o644), true);
    assert_eq!(verdict(&open), Verdict::Wrong);
    assert!(open.found.contains("mode 0644"), "{open:?}");
    assert_eq!(open.remedy, ["chmod 0600 /var/lib/privnet/spoke.key"]);
    assert_eq!(verdict(&judged(Ok(None), true)), Verdict::Ok);
    assert_eq!(verdict(&judged(Ok(None), false)), Verdict::Wrong);
    let directory = SecretFile {
        mode: 0o700,
        is_file: false,
    };
    assert_eq!(verdict(&judged(Ok(Some(directory)), true)), Verdict::Wrong);
    assert_eq!(verdict(&judged(unknown(), true)), Verdict::NotChecked);
}

#[test]
fn a_full_disk_is_told_before_it_is_full() {
    let path = Path::new("/var/lib/privnet/hub.state.json");
    for (free, expected) in [
        (Ok(1 << 30), Verdict::Ok),
        (Ok(32 << 20), Verdict::Warning),
        (Ok(0), Verdict::Wrong),
        (unknown(), Verdict::NotChecked),
    ] {
        assert_eq!(verdict(&disk(path, &free)), expected);
    }
}

#[test]
fn a_name_without_address_is_wrong() {
    let name = "ec2.eu-west-1.amazonaws.com";
    let address = "203.0.113.1".parse().unwrap();
    assert_eq!(verdict(&dns(name, &Ok(vec![address]))), Verdict::Ok);
    assert_eq!(verdict(&dns(name, &Ok(vec![]))), Verdict::Wrong);
    assert_eq!(verdict(&dns(name, &unknown())), Verdict::Wrong);
}
