//! Descriptions of a VPC in which every field may be missing, malformed or absurd.
//! Checked against the truth that the XML was made from:
//!
//! - a route is replaced only if it is in a table of the VPC, was made by hand, leads
//!   to the interface that was seen and to nothing else besides;
//! - a route is made only in a table of the VPC that says nothing of its destination;
//! - an Elastic IP is taken from somebody only if its association is the one expected;
//! - a sibling has the tags and is in the VPC, and its fields are those that were told;
//! - everything else is an error that names the region, and no change.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use privnet_model::vpc::{AddressHolder, RouteAction, RouteChange, RouteTarget};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::answers::{TAG, region, whole};
use super::memory::Memory;
use super::server::{Reply, Request};
use crate::{SdkContext, Vpc};

const VPC: &str = "vpc-00000001";
const TABLE: &str = "rtb-00000001";
const OWN: &str = "eni-00000001";
const SEEN: &str = "eni-00000002";
const DEFAULT: &str = "0.0.0.0/0";
const ADDRESS: &str = "eipalloc-00000001";

/// The elements of one item, by name; one without a value is not there.
type Fields = Vec<(&'static str, Option<&'static str>)>;

fn field(
    name: &'static str,
    there: f64,
    values: &'static [&'static str],
) -> impl Strategy<Value = (&'static str, Option<&'static str>)> {
    weighted(there, select(values)).prop_map(move |value| (name, value))
}

fn fields<const N: usize>(
    fields: [(&'static str, f64, &'static [&'static str]); N],
) -> impl Strategy<Value = Fields> {
    fields
        .map(|(name, there, values)| field(name, there, values).boxed())
        .to_vec()
}

fn route() -> impl Strategy<Value = Fields> {
    fields([
        (
            "destinationCidrBlock",
            0.9,
            &[DEFAULT, DEFAULT, DEFAULT, DEFAULT, "10.1.2.3/8", ""],
        ),
        ("destinationIpv6CidrBlock", 0.1, &["::/0", "fd00::1/64"]),
        ("destinationPrefixListId", 0.1, &["pl-00000001"]),
        ("gatewayId", 0.1, &["local", "igw-1", "vgw-1", ""]),
        ("natGatewayId", 0.05, &["nat-1", ""]),
        ("transitGatewayId", 0.05, &["tgw-1"]),
        ("carrierGatewayId", 0.05, &["cagw-1"]),
        (
            "networkInterfaceId",
            0.9,
            &[
                SEEN,
                SEEN,
                SEEN,
                SEEN,
                SEEN,
                SEEN,
                OWN,
                "eni-00000003",
                "eni-?",
                "",
            ],
        ),
        ("instanceId", 0.3, &["i-00000002", "i-?", ""]),
        (
            "state",
            0.9,
            &["active", "blackhole", "filtered", "dreaming"],
        ),
        (
            "origin",
            0.95,
            &[
                "CreateRoute",
                "CreateRoute",
                "CreateRoute",
                "CreateRoute",
                "CreateRoute",
                "CreateRoute",
                "CreateRouteTable",
                "EnableVgwRoutePropagation",
                "Advertisement",
                "",
            ],
        ),
    ])
}

#[derive(Debug, Clone)]
struct Table {
    fields: Fields,
    routes: Vec<Fields>,
}

fn table() -> impl Strategy<Value = Table> {
    let own = fields([
        ("routeTableId", 0.99, &[TABLE, TABLE, "rtb-00000002"]),
        (
            "vpcId",
            0.99,
            &[VPC, VPC, VPC, VPC, VPC, VPC, "vpc-00000002"],
        ),
    ]);
    (own, vec(route(), 0..4)).prop_map(|(fields, routes)| Table { fields, routes })
}

fn address() -> impl Strategy<Value = Fields> {
    fields([
        (
            "allocationId",
            0.99,
            &[ADDRESS, ADDRESS, "eipalloc-00000002"],
        ),
        ("publicIp", 0.99, &["198.51.100.7"]),
        (
            "associationId",
            0.8,
            &["eipassoc-00000001", "eipassoc-00000002", "eipassoc-?", ""],
        ),
        ("networkInterfaceId", 0.8, &[SEEN, OWN, "eni-?", ""]),
        ("instanceId", 0.5, &["i-00000002", ""]),
    ])
}

fn instance() -> impl Strategy<Value = (Fields, bool, Option<&'static str>)> {
    let own = fields([
        (
            "instanceId",
            0.99,
            &["i-00000001", "i-00000002", "i-00000003"],
        ),
        (
            "vpcId",
            0.95,
            &[VPC, VPC, VPC, VPC, VPC, VPC, VPC, VPC, "vpc-00000002"],
        ),
        (
            "privateIpAddress",
            0.9,
            &["10.1.0.4", "10.1.0.5", "127.0.0.1", "x"],
        ),
        ("launchTime", 0.95, &["2026-01-02T03:04:05.000Z"]),
        ("availabilityZone", 0.95, &["eu-west-1a", "EU", ""]),
        ("networkInterfaceId", 0.95, &[OWN, SEEN, "eni-?"]),
    ]);
    (own, any::<bool>(), weighted(0.9, select(&["0", "1"][..])))
}

fn elements(fields: &Fields) -> String {
    let mut xml = String::new();
    for (name, value) in fields {
        if let Some(value) = value {
            write!(xml, "<{name}>{value}</{name}>").unwrap();
        }
    }
    xml
}

fn told(fields: &Fields, name: &str) -> Option<&'static str> {
    let (_, value) = fields.iter().find(|(other, _)| *other == name)?;
    value.filter(|value| !value.is_empty())
}

fn tables_xml(tables: &[Table]) -> String {
    let mut items = String::new();
    for table in tables {
        let routes: String = table
            .routes
            .iter()
            .map(|route| format!("<item>{}</item>", elements(route)))
            .collect();
        let own = elements(&table.fields);
        write!(items, "<item>{own}<routeSet>{routes}</routeSet></item>").unwrap();
    }
    let set = format!("<routeTableSet>{items}</routeTableSet>");
    whole("DescribeRouteTables", &set, None)
}

/// Runs this with a VPC whose descriptions are as `answer` says, and returns the
/// changes that EC2 was then asked for.
fn asked<T>(
    answer: impl Fn(&Request) -> String + Send + Sync + 'static,
    run: impl AsyncFnOnce(Vpc) -> T,
) -> (T, Vec<Request>) {
    let memory = Memory::new(move |request| {
        Reply::ok(if request.is("CreateRoute") {
            whole("CreateRoute", "<return>true</return>", None)
        } else if request.is("ReplaceRoute") {
            whole("ReplaceRoute", "<return>true</return>", None)
        } else if request.is("AssociateAddress") {
            whole("AssociateAddress", "<associationId>x</associationId>", None)
        } else {
            answer(request)
        })
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(async {
        let context = SdkContext::for_test_through(memory.clone()).await;
        let id = VPC.parse().unwrap();
        let vpc = Vpc::new(&context, &region("eu-west-1"), &id, Duration::from_secs(60));
        run(vpc).await
    });
    let mut requests = memory.requests();
    requests.retain(|request| !request.body.contains("Action=Describe"));
    (result, requests)
}

fn changes(tables: &[Table], action: RouteAction) -> Result<Vec<Request>, String> {
    let xml = tables_xml(tables);
    let change = RouteChange {
        table: TABLE.parse().unwrap(),
        destination: DEFAULT.parse().unwrap(),
        action,
    };
    let (outcomes, requests) = asked(
        move |_| xml.clone(),
        async |vpc| vpc.change_routes(&[change], |_| true).await,
    );
    let [outcome] = <[_; 1]>::try_from(outcomes).unwrap();
    match outcome {
        Ok(_) => Ok(requests),
        Err(error) => {
            assert!(requests.is_empty(), "an error, and a change: {error}");
            Err(error.to_string())
        }
    }
}

fn create() -> RouteAction {
    let to = OWN.parse().unwrap();
    RouteAction::Create { to }
}

fn replace() -> RouteAction {
    RouteAction::Replace {
        seen: RouteTarget::Interface {
            interface: SEEN.parse().unwrap(),
            instance: None,
        },
        to: OWN.parse().unwrap(),
    }
}

/// What is said of the table's default route.
fn default_routes(tables: &[Table]) -> Vec<&Fields> {
    let ours = |table: &&Table| told(&table.fields, "routeTableId") == Some(TABLE);
    let routes = tables.iter().filter(ours).flat_map(|table| &table.routes);
    let default = |route: &&Fields| told(route, "destinationCidrBlock") == Some(DEFAULT);
    routes.filter(default).collect()
}

fn may_be_replaced(route: &Fields) -> bool {
    let elsewhere = [
        "gatewayId",
        "natGatewayId",
        "transitGatewayId",
        "carrierGatewayId",
    ];
    told(route, "networkInterfaceId") == Some(SEEN)
        && told(route, "origin") == Some("CreateRoute")
        && elsewhere.iter().all(|name| told(route, name).is_none())
}

fn take(address: &Fields, expected: Option<&str>) -> (bool, Vec<Request>) {
    let xml = whole(
        "DescribeAddresses",
        &format!(
            "<addressesSet><item>{}</item></addressesSet>",
            elements(address)
        ),
        None,
    );
    let from = expected.map(|association| AddressHolder {
        association: association.parse().unwrap(),
        instance: None,
        interface: None,
        private_address: None,
    });
    let (result, requests) = asked(
        move |_| xml.clone(),
        async |vpc| {
            let allocation = ADDRESS.parse().unwrap();
            let to = OWN.parse().unwrap();
            vpc.associate_address(&allocation, &to, from.as_ref()).await
        },
    );
    (result.is_ok(), requests)
}

/// The properties below say little of worlds in which nothing is ever changed.
#[test]
fn the_worlds_are_not_all_nonsense() {
    let mut runner = TestRunner::deterministic();
    let (mut created, mut replaced, mut conflicts, mut errors, mut taken) = (0, 0, 0, 0, 0);
    for _ in 0..200 {
        let tables = vec(table(), 0..3).new_tree(&mut runner).unwrap().current();
        for (action, count) in [(create(), &mut created), (replace(), &mut replaced)] {
            match changes(&tables, action) {
                Ok(requests) if requests.is_empty() => conflicts += 1,
                Ok(_) => *count += 1,
                Err(_) => errors += 1,
            }
        }
        let address = address().new_tree(&mut runner).unwrap().current();
        taken += take(&address, Some("eipassoc-00000001")).1.len();
    }
    let all = [created, replaced, conflicts, errors, taken];
    assert!(all.iter().all(|count| *count > 5), "{all:?}");
}

proptest! {
    #[test]
    fn whatever_ec2_says_no_foreign_route_is_changed(tables in vec(table(), 0..3)) {
        let defaults = default_routes(&tables);
        let known = tables.iter().any(|table| told(&table.fields, "routeTableId") == Some(TABLE));
        for (action, name) in [(create(), "CreateRoute"), (replace(), "ReplaceRoute")] {
            match changes(&tables, action) {
                Ok(requests) if requests.is_empty() => {}
                Ok(requests) => {
                    prop_assert_eq!(requests.len(), 1);
                    prop_assert!(requests[0].is(name) && known);
                    // A table that is there twice has the later description.
                    let others = tables.iter().all(|table| told(&table.fields, "vpcId") == Some(VPC));
                    prop_assert!(others, "an answer about another VPC was used");
                    let ours = tables.iter().rev().find(|table| {
                        told(&table.fields, "routeTableId") == Some(TABLE)
                    });
                    let newest = default_routes(std::slice::from_ref(ours.unwrap()));
                    if name == "CreateRoute" {
                        prop_assert!(newest.is_empty(), "{:?}", newest);
                    } else {
                        prop_assert!(newest.iter().any(|route| may_be_replaced(route)), "{:?}", defaults);
                    }
                }
                Err(error) => prop_assert!(error.contains("eu-west-1"), "{}", error),
            }
        }
    }

    #[test]
    fn whatever_ec2_says_no_address_is_stolen(
        address in address(),
        expected in weighted(0.7, select(&["eipassoc-00000001", "eipassoc-00000002"][..])),
    ) {
        let (well, requests) = take(&address, expected);
        prop_assert!(well || requests.is_empty());
        for request in requests {
            let holder = told(&address, "associationId");
            let attached = ["networkInterfaceId", "instanceId"]
                .iter()
                .any(|name| told(&address, name).is_some());
            if request.body.contains("AllowReassociation=true") {
                prop_assert!(holder.is_some() && holder == expected, "{:?}", address);
            } else {
                prop_assert!(request.body.contains("AllowReassociation=false"));
                prop_assert!(holder.is_none() && !attached, "{:?}", address);
            }
        }
    }

    #[test]
    fn whatever_ec2_says_no_sibling_is_made_up(instances in vec(instance(), 0..4)) {
        let mut items = String::new();
        for (fields, is_tagged, device) in &instances {
            let tag = is_tagged.then(|| format!(
                "<item><key>{}</key><value>{}</value></item>", TAG.0, TAG.1
            ));
            let value = |name| told(fields, name).map_or_else(String::new, |text| {
                format!("<{name}>{text}</{name}>")
            });
            let device = device.map_or_else(String::new, |index| {
                format!("<attachment><deviceIndex>{index}</deviceIndex></attachment>")
            });
            write!(
                items,
                "<item><instancesSet><item>{}{}{}{}<placement>{}</placement>\
                 <instanceState><name>running</name></instanceState>\
                 <networkInterfaceSet><item>{}{device}</item></networkInterfaceSet>\
                 <tagSet>{}</tagSet></item></instancesSet></item>",
                value("instanceId"), value("vpcId"), value("privateIpAddress"),
                value("launchTime"), value("availabilityZone"), value("networkInterfaceId"),
                tag.unwrap_or_default(),
            ).unwrap();
        }
        let set = format!("<reservationSet>{items}</reservationSet>");
        let xml = whole("DescribeInstances", &set, None);
        let (answer, _) = asked(move |_| xml.clone(), async |vpc| {
            let tags = BTreeMap::from([(TAG.0.to_owned(), TAG.1.to_owned())]);
            vpc.siblings(&tags).await
        });
        match answer {
            Ok(siblings) => {
                for (id, sibling) in &siblings.spokes {
                    let said = instances.iter().any(|(fields, is_tagged, device)| {
                        let says = |name, value: &str| told(fields, name) == Some(value);
                        *is_tagged
                            && *device == Some("0")
                            && says("instanceId", id.as_str())
                            && says("vpcId", VPC)
                            && says("privateIpAddress", &sibling.address.to_string())
                            && says("availabilityZone", sibling.zone.as_str())
                            && says("networkInterfaceId", sibling.interface.as_str())
                    });
                    prop_assert!(said, "{:?}", sibling);
                    prop_assert!(!sibling.address.is_loopback());
                    prop_assert!(!siblings.incomplete.contains_key(id));
                }
                for (fields, ..) in &instances {
                    let id = told(fields, "instanceId").unwrap_or_default();
                    let id = id.parse().map_err(|_| TestCaseError::fail("a nameless one"))?;
                    let listed = siblings.spokes.contains_key(&id)
                        || siblings.incomplete.contains_key(&id);
                    prop_assert!(listed, "{} is nowhere", id);
                }
            }
            Err(error) => prop_assert!(error.to_string().contains("eu-west-1"), "{}", error),
        }
    }
}
