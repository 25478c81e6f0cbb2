//! A spoke's VPC against an EC2 that refuses, is overtaken by others, or fails: what
//! is told then, and that nothing is changed that was not to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use privnet_model::id::{AllocationId, InstanceId, InterfaceId};
use privnet_model::vpc::{
    AddressHolder, AddressOutcome, MachineState, RouteAction, RouteChange, RouteOutcome,
    RouteTarget, StopOutcome,
};

use super::answers::{refusal, region, whole};
use super::memory::Memory;
use super::server::{Reply, Request};
use crate::{Ec2Error, Mutation, Permission, Reason, SdkContext, Vpc};

const VPC: &str = "vpc-00000001";
const TABLE: &str = "rtb-00000001";
const OWN: &str = "eni-00000001";
const OTHERS: &str = "eni-00000002";
const ADDRESS: &str = "eipalloc-00000001";
const LONG: Duration = Duration::from_secs(60);

async fn vpc(memory: &Memory, timeout: Duration) -> Vpc {
    let context = SdkContext::for_test_through(memory.clone()).await;
    Vpc::new(
        &context,
        &region("eu-west-1"),
        &VPC.parse().unwrap(),
        timeout,
    )
}

fn own() -> InterfaceId {
    OWN.parse().unwrap()
}

fn other() -> InstanceId {
    "i-00000002".parse().unwrap()
}

fn allocation() -> AllocationId {
    ADDRESS.parse().unwrap()
}

fn interface(id: &str) -> RouteTarget {
    RouteTarget::Interface {
        interface: id.parse().unwrap(),
        instance: None,
    }
}

fn change(action: RouteAction) -> RouteChange {
    RouteChange {
        table: TABLE.parse().unwrap(),
        destination: "0.0.0.0/0".parse().unwrap(),
        action,
    }
}

fn create() -> RouteChange {
    change(RouteAction::Create { to: own() })
}

fn replace() -> RouteChange {
    change(RouteAction::Replace {
        seen: interface(OTHERS),
        to: own(),
    })
}

/// The table with a default route of these fields, or without one.
pub(super) fn tables(route: Option<&str>) -> Reply {
    let route = route.map_or_else(String::new, |fields| {
        format!(
            "<item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock>{fields}\
             <state>active</state></item>"
        )
    });
    Reply::ok(whole(
        "DescribeRouteTables",
        &format!(
            "<routeTableSet><item><routeTableId>{TABLE}</routeTableId><vpcId>{VPC}</vpcId>\
             <routeSet>{route}</routeSet><associationSet/><tagSet/></item></routeTableSet>"
        ),
        None,
    ))
}

/// A route to this interface that somebody made.
fn made_to(interface: &str) -> String {
    format!("<networkInterfaceId>{interface}</networkInterfaceId><origin>CreateRoute</origin>")
}

fn addresses(holder: Option<&str>) -> Reply {
    let holder = holder.map_or_else(String::new, |interface| {
        format!(
            "<associationId>eipassoc-0000000{}</associationId>\
             <networkInterfaceId>{interface}</networkInterfaceId>",
            &interface[interface.len() - 1..]
        )
    });
    Reply::ok(whole(
        "DescribeAddresses",
        &format!(
            "<addressesSet><item><allocationId>{ADDRESS}</allocationId>\
             <publicIp>198.51.100.7</publicIp>{holder}</item></addressesSet>"
        ),
        None,
    ))
}

fn interfaces(check: bool) -> Reply {
    Reply::ok(whole(
        "DescribeNetworkInterfaces",
        &format!(
            "<networkInterfaceSet><item><networkInterfaceId>{OWN}</networkInterfaceId>\
             <sourceDestCheck>{check}</sourceDestCheck></item></networkInterfaceSet>"
        ),
        None,
    ))
}

/// Answers every Describe call as it should be, for a world in which each change has
/// something to do, and the changes as the test says.
fn ec2(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Memory {
    Memory::new(move |request| {
        if request.is("DescribeRouteTables") {
            tables(Some(&made_to(OTHERS)))
        } else if request.is("DescribeAddresses") {
            addresses(None)
        } else if request.is("DescribeNetworkInterfaces") {
            interfaces(true)
        } else {
            answer(request)
        }
    })
}

fn refuse(code: &'static str) -> impl Fn(&Request) -> Reply + Send + Sync {
    move |_| Reply::status(400, refusal(code, "Because."))
}

async fn changed(vpc: &Vpc, change: RouteChange) -> Result<RouteOutcome, Ec2Error> {
    let outcomes = vpc.change_routes(&[change], |_| true).await;
    let [outcome] = <[_; 1]>::try_from(outcomes).unwrap();
    outcome
}

#[tokio::test]
async fn a_missing_permission_names_action_object_and_policy() {
    let refused = Memory::new(refuse("UnauthorizedOperation"));
    let nothing = vpc(&refused, LONG).await;
    let changes_refused = ec2(refuse("UnauthorizedOperation"));
    let looking = vpc(&changes_refused, LONG).await;
    let empty = Memory::new(|request| match request {
        request if request.is("DescribeRouteTables") => tables(None),
        _ => refuse("UnauthorizedOperation")(request),
    });
    let empty = vpc(&empty, LONG).await;
    let tags = BTreeMap::from([("service".to_owned(), "nat".to_owned())]);
    let ids = crate::AddressChoice::Allocations([allocation()].into());

    let routes = "routes-policy.json";
    let (check, address) = ("source-dest-check-policy.json", "address-policy.json");
    let table = format!("route table {TABLE}");
    let eni = format!("network interface {OWN}");
    let eip = format!("Elastic IP {ADDRESS}");
    for (error, action, object, policy) in [
        (
            nothing.siblings(&tags).await.unwrap_err(),
            "DescribeInstances",
            VPC,
            routes,
        ),
        (
            changed(&nothing, create()).await.unwrap_err(),
            "DescribeRouteTables",
            VPC,
            routes,
        ),
        (
            changed(&empty, create()).await.unwrap_err(),
            "CreateRoute",
            &table,
            routes,
        ),
        (
            changed(&looking, replace()).await.unwrap_err(),
            "ReplaceRoute",
            &table,
            routes,
        ),
        (
            nothing.source_dest_check(&own()).await.unwrap_err(),
            "DescribeNetworkInterfaces",
            &eni,
            check,
        ),
        (
            looking
                .switch_source_dest_check_off(&own())
                .await
                .unwrap_err(),
            "ModifyNetworkInterfaceAttribute",
            &eni,
            check,
        ),
        (
            nothing.addresses(&ids).await.unwrap_err(),
            "DescribeAddresses",
            "Elastic IPs",
            address,
        ),
        (
            looking
                .associate_address(&allocation(), &own(), None)
                .await
                .unwrap_err(),
            "AssociateAddress",
            &eip,
            address,
        ),
    ] {
        assert_eq!(
            error.to_string(),
            format!(
                "not allowed: the role needs ec2:{action} on {object} in eu-west-1, as in \
                 ami/iam/{policy} (UnauthorizedOperation, request ea966190)"
            )
        );
        assert!(!error.is_temporary());
        let file = format!("{}/../../ami/iam/{policy}", env!("CARGO_MANIFEST_DIR"));
        let allows = std::fs::read_to_string(&file).unwrap();
        assert!(allows.contains(&format!("\"ec2:{action}\"")), "{file}");
    }
    // Of the two calls behind it either may be refused first.
    let error = nothing.route_tables().await.unwrap_err().to_string();
    assert!(
        error.starts_with("not allowed: the role needs ec2:Describe"),
        "{error}"
    );
    // Nothing that is refused is asked for again.
    assert_eq!(changes_refused.count("ReplaceRoute"), 1);
    assert_eq!(changes_refused.count("AssociateAddress"), 1);
}

#[tokio::test]
async fn a_full_table_is_told_in_plain_words() {
    let memory = Memory::new(|request| match request {
        request if request.is("CreateRoute") => refuse("RouteLimitExceeded")(request),
        _ => tables(None),
    });
    let error = changed(&vpc(&memory, LONG).await, create())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "CreateRoute on route table {TABLE} in eu-west-1: the table has as many routes as it \
             may have; remove some, or have the quota \"Routes per route table\" raised \
             (RouteLimitExceeded, request ea966190)"
        )
    );
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn a_replacement_says_what_it_replaces_and_no_more() {
    let memory = ec2(|_| Reply::ok(whole("ReplaceRoute", "<return>true</return>", None)));
    let outcome = changed(&vpc(&memory, LONG).await, replace()).await;
    assert_eq!(outcome, Ok(RouteOutcome::Done));
    let requests = memory.requests();
    let bodies: Vec<_> = requests.iter().map(|request| &request.body).collect();
    let [look, change] = bodies[..] else {
        panic!("{bodies:?}");
    };
    assert!(look.contains(TABLE) && look.contains(VPC), "{look}");
    for part in [
        "Action=ReplaceRoute&",
        "RouteTableId=rtb-00000001",
        "DestinationCidrBlock=0.0.0.0%2F0",
        "NetworkInterfaceId=eni-00000001",
    ] {
        assert!(change.contains(part), "{change}");
    }
    assert!(
        !change.contains("DryRun") && !change.contains("Ipv6"),
        "{change}"
    );
}

#[tokio::test]
async fn an_ipv6_route_is_asked_for_as_one() {
    let memory = Memory::new(|request| match request {
        request if request.is("CreateRoute") => {
            Reply::ok(whole("CreateRoute", "<return>true</return>", None))
        }
        _ => tables(None),
    });
    let mut change = create();
    change.destination = "::/0".parse().unwrap();
    let outcome = changed(&vpc(&memory, LONG).await, change).await;
    assert_eq!(outcome, Ok(RouteOutcome::Done));
    let body = &memory.requests()[1].body;
    assert!(
        body.contains("DestinationIpv6CidrBlock=%3A%3A%2F0"),
        "{body}"
    );
    assert!(!body.contains("DestinationCidrBlock"), "{body}");
}

/// The table as it is before and after somebody came between our look and our change.
async fn overtaken(
    change: RouteChange,
    code: &'static str,
    before: Option<String>,
    after: Option<String>,
) -> Result<RouteOutcome, Ec2Error> {
    let looks = AtomicUsize::new(0);
    let memory = Memory::new(move |request| {
        if !request.is("DescribeRouteTables") {
            return refuse(code)(request);
        }
        match looks.fetch_add(1, Ordering::Relaxed) {
            0 => tables(before.as_deref()),
            _ => tables(after.as_deref()),
        }
    });
    changed(&vpc(&memory, LONG).await, change).await
}

#[tokio::test]
async fn who_is_overtaken_tells_where_the_route_leads_now() {
    let others = || Some(made_to(OTHERS));
    let mine = || Some(made_to(OWN));
    let conflict = |now| RouteOutcome::Conflict { now };
    let exists = "RouteAlreadyExists";
    assert_eq!(
        overtaken(create(), exists, None, others()).await,
        Ok(conflict(Some(interface(OTHERS))))
    );
    // An earlier try of ours was carried out, and its answer got lost.
    assert_eq!(
        overtaken(create(), exists, None, mine()).await,
        Ok(RouteOutcome::Done)
    );
    assert_eq!(
        overtaken(create(), exists, None, None).await,
        Ok(conflict(None))
    );
    assert_eq!(
        overtaken(replace(), "InvalidRoute.NotFound", others(), None).await,
        Ok(conflict(None))
    );
    assert_eq!(
        overtaken(replace(), "InvalidRouteTableID.NotFound", others(), None).await,
        Ok(RouteOutcome::NoTable)
    );
}

#[tokio::test]
async fn a_route_that_nobody_made_by_hand_is_left_alone() {
    let target = format!("<networkInterfaceId>{OTHERS}</networkInterfaceId>");
    for origin in [
        "",
        "<origin>CreateRouteTable</origin>",
        "<origin>EnableVgwRoutePropagation</origin>",
        "<origin>Advertisement</origin>",
        "<origin>Dream</origin>",
    ] {
        let fields = format!("{target}{origin}");
        let memory = Memory::new(move |request| {
            assert!(request.is("DescribeRouteTables"), "{}", request.body);
            tables(Some(&fields))
        });
        let outcome = changed(&vpc(&memory, LONG).await, replace()).await;
        let now = Some(interface(OTHERS));
        assert_eq!(outcome, Ok(RouteOutcome::Conflict { now }), "{origin}");
    }
}

#[tokio::test]
async fn a_black_hole_is_replaced_although_its_instance_is_gone() {
    let seen = RouteTarget::Interface {
        interface: OTHERS.parse().unwrap(),
        instance: Some("i-00000002".parse().unwrap()),
    };
    let memory = ec2(|_| Reply::ok(whole("ReplaceRoute", "<return>true</return>", None)));
    let to = own();
    let change = change(RouteAction::Replace { seen, to });
    let outcome = changed(&vpc(&memory, LONG).await, change).await;
    assert_eq!(outcome, Ok(RouteOutcome::Done));
}

#[tokio::test]
async fn an_address_is_never_taken_unless_its_holder_was_named() {
    let holder = |number: u32| AddressHolder {
        association: format!("eipassoc-0000000{number}").parse().unwrap(),
        instance: None,
        interface: Some(format!("eni-0000000{number}").parse().unwrap()),
        private_address: None,
    };
    let done = || {
        Reply::ok(whole(
            "AssociateAddress",
            "<associationId>x</associationId>",
            None,
        ))
    };
    for (is_at, from, asks, outcome) in [
        (None, None, Some("false"), AddressOutcome::Done),
        (None, Some(holder(2)), Some("false"), AddressOutcome::Done),
        (
            Some(OTHERS),
            Some(holder(2)),
            Some("true"),
            AddressOutcome::Done,
        ),
        (Some(OWN), None, None, AddressOutcome::Done),
        (
            Some(OTHERS),
            None,
            None,
            AddressOutcome::Conflict {
                now: Some(holder(2)),
            },
        ),
        (
            Some(OTHERS),
            Some(holder(3)),
            None,
            AddressOutcome::Conflict {
                now: Some(holder(2)),
            },
        ),
    ] {
        let memory = Memory::new(move |request| match request {
            request if request.is("DescribeAddresses") => addresses(is_at),
            _ => done(),
        });
        let vpc = vpc(&memory, LONG).await;
        let told = vpc
            .associate_address(&allocation(), &own(), from.as_ref())
            .await;
        assert_eq!(told, Ok(outcome), "{is_at:?} {from:?}");
        assert_eq!(
            memory.count("AssociateAddress"),
            usize::from(asks.is_some())
        );
        if let Some(asks) = asks {
            let body = &memory.requests().pop().unwrap().body;
            assert!(
                body.contains(&format!("AllowReassociation={asks}")),
                "{body}"
            );
        }
    }
}

#[tokio::test]
async fn who_is_overtaken_at_an_address_tells_who_has_it() {
    for (after, outcome) in [
        (Some(OWN), AddressOutcome::Done),
        (None, AddressOutcome::Conflict { now: None }),
    ] {
        let looks = AtomicUsize::new(0);
        let memory = Memory::new(move |request| {
            if !request.is("DescribeAddresses") {
                return refuse("Resource.AlreadyAssociated")(request);
            }
            match looks.fetch_add(1, Ordering::Relaxed) {
                0 => addresses(None),
                _ => addresses(after),
            }
        });
        let vpc = vpc(&memory, LONG).await;
        let told = vpc.associate_address(&allocation(), &own(), None).await;
        assert_eq!(told, Ok(outcome));
    }
}

#[tokio::test]
async fn a_dry_run_tells_permitted_from_denied_from_what_was_not_to_be_learned() {
    let mutations = [
        Mutation::Route(create()),
        Mutation::Route(replace()),
        Mutation::SourceDestCheckOff { interface: own() },
        Mutation::AssociateAddress {
            allocation: allocation(),
            to: own(),
        },
        Mutation::StopInstance { instance: other() },
        Mutation::StartInstance { instance: other() },
    ];
    let actions = [
        "CreateRoute",
        "ReplaceRoute",
        "ModifyNetworkInterfaceAttribute",
        "AssociateAddress",
        "StopInstances",
        "StartInstances",
    ];
    for (mutation, action) in mutations.iter().zip(actions) {
        for code in [
            "DryRunOperation",
            "UnauthorizedOperation",
            "InvalidParameterValue",
        ] {
            let memory = Memory::new(refuse(code));
            let permission = vpc(&memory, LONG).await.permission(mutation).await;
            let requests = memory.requests();
            assert_eq!(requests.len(), 1, "nothing but the dry run");
            assert!(requests[0].is(action) && requests[0].body.contains("DryRun=true"));
            match (code, permission) {
                ("DryRunOperation", Permission::Permitted) => {}
                ("UnauthorizedOperation", Permission::Denied(error)) => {
                    let text = error.to_string();
                    assert!(
                        text.contains(&format!("the role needs ec2:{action} on ")),
                        "{text}"
                    );
                }
                ("InvalidParameterValue", Permission::Unclear(error)) => {
                    assert!(matches!(error.reason, Reason::Refused { .. }), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_instance_that_is_told_to_stop_is_told_once_and_says_what_it_did_before() {
    for (before, outcome) in [
        ("running", StopOutcome::Done),
        ("stopping", StopOutcome::WasNot(MachineState::Stopping)),
        ("stopped", StopOutcome::WasNot(MachineState::Stopped)),
        ("dancing", StopOutcome::WasNot(MachineState::Unclear)),
    ] {
        let memory = ec2(move |_| {
            let change = format!(
                "<instancesSet><item><instanceId>i-00000002</instanceId>\
                 <currentState><code>64</code><name>stopping</name></currentState>\
                 <previousState><code>16</code><name>{before}</name></previousState>\
                 </item></instancesSet>"
            );
            Reply::ok(whole("StopInstances", &change, None))
        });
        let told = vpc(&memory, LONG).await.stop_instance(&other()).await;
        assert_eq!(told, Ok(outcome));
    }
    // A second try would find it stopping because of the first.
    let memory = ec2(|_| Reply::status(503, refusal("Unavailable", "Later.")));
    let told = vpc(&memory, LONG).await.stop_instance(&other()).await;
    assert!(told.is_err_and(|error| error.may_be_done()));
    assert_eq!(memory.count("StopInstances"), 1);
}

#[tokio::test]
async fn a_throttled_change_is_tried_again_soon_and_told_in_time() {
    let tries = AtomicUsize::new(0);
    let memory = ec2(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Reply::status(503, refusal("RequestLimitExceeded", "Slow down.")),
        _ => Reply::ok(whole("ReplaceRoute", "<return>true</return>", None)),
    });
    let started = Instant::now();
    let outcome = changed(&vpc(&memory, LONG).await, replace()).await;
    assert_eq!(outcome, Ok(RouteOutcome::Done));
    assert_eq!(memory.count("ReplaceRoute"), 3);
    assert!(started.elapsed() < Duration::from_secs(3));

    let always = ec2(|_| Reply::status(503, refusal("RequestLimitExceeded", "Slow down.")));
    let started = Instant::now();
    let error = changed(&vpc(&always, LONG).await, replace())
        .await
        .unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(
        error.to_string(),
        format!(
            "EC2 throttles ReplaceRoute on route table {TABLE} in eu-west-1 \
             (RequestLimitExceeded, request ea966190)"
        )
    );
    assert!(error.is_temporary());
    assert_eq!(always.count("ReplaceRoute"), 3);
}

#[tokio::test]
async fn an_ec2_that_is_silent_is_given_up_at_the_deadline() {
    let memory = ec2(|_| Reply::Silence);
    let vpc = vpc(&memory, Duration::from_millis(300)).await;
    let started = Instant::now();
    for error in [
        changed(&vpc, replace()).await.unwrap_err(),
        vpc.associate_address(&allocation(), &own(), None)
            .await
            .unwrap_err(),
        vpc.switch_source_dest_check_off(&own()).await.unwrap_err(),
    ] {
        assert!(error.is_temporary(), "{error}");
        assert!(
            matches!(error.reason, Reason::Deadline { .. } | Reason::NoAnswer),
            "{error}"
        );
    }
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn when_the_look_fails_no_change_is_made() {
    let memory = Memory::new(|request| {
        assert!(request.is("DescribeRouteTables"), "{}", request.body);
        Reply::status(500, refusal("InternalError", "Oh."))
    });
    let outcomes = vpc(&memory, LONG)
        .await
        .change_routes(&[create(), replace()], |_| true)
        .await;
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(
            matches!(error.reason, Reason::ServerFault { .. }),
            "{error}"
        );
    }
}

/// The spoke becomes sick while EC2 describes the table.
#[tokio::test]
async fn a_change_that_is_not_wanted_any_more_is_not_asked_for() {
    let well = Arc::new(AtomicBool::new(true));
    let still_well = Arc::clone(&well);
    let memory = Memory::new(move |request| {
        assert!(request.is("DescribeRouteTables"), "{}", request.body);
        still_well.store(false, Ordering::Relaxed);
        tables(Some(&made_to(OTHERS)))
    });
    let vpc = vpc(&memory, LONG).await;
    let wanted = |_: &RouteChange| well.load(Ordering::Relaxed);
    let [outcome] = <[_; 1]>::try_from(vpc.change_routes(&[replace()], wanted).await).unwrap();
    assert_eq!(outcome.unwrap(), RouteOutcome::Withdrawn);
    assert!(!well.load(Ordering::Relaxed), "it looked");
}

/// A whole answer from which the end was cut: half a table looks like one that lacks
/// routes.
#[tokio::test]
async fn half_an_answer_is_none() {
    let memory = Memory::new(|request| {
        assert!(request.is("DescribeRouteTables"), "{}", request.body);
        let Reply::Answer { body, .. } = tables(Some(&made_to(OTHERS))) else {
            panic!();
        };
        Reply::ok(&body[..body.len() / 2])
    });
    let error = changed(&vpc(&memory, LONG).await, create())
        .await
        .unwrap_err();
    assert!(matches!(error.reason, Reason::CutShort { .. }), "{error}");
}
