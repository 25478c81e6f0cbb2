//! A site with two gateways on its way through a hub.
//!
//! ```text
//!   gateway 0, 10.1.0.10  ┐ vpc-1: 10.1.0.0/16 by gateway 0,
//!   gateway 1, 10.1.0.20  ┘ of it 10.1.128.0/17 by gateway 1
//!   spoke 2                 10.2.0.0/16
//!   hub 3
//! ```

use super::*;

fn site_of_two() -> World {
    let nodes = [1, 2, 3].map(|seed| Node::new(seed, 1, false));
    let mut world = World::new(nodes.into_iter().chain([Node::new(9, 2, true)]).collect());
    let behind: [&[&str]; 3] = [
        &["10.1.0.0/16", "10.1.0.10/32"],
        &["10.1.128.0/17", "10.1.0.20/32"],
        &["10.2.0.0/16"],
    ];
    for (spoke, own) in behind.into_iter().enumerate() {
        let behind_hub = Knows {
            allowed_ips: &["10.0.0.0/8"],
            endpoint: true,
            keepalive: Some(Duration::from_secs(25)),
            ..Knows::default()
        };
        world.introduce(spoke, 3, behind_hub);
        let behind_spoke = Knows {
            allowed_ips: own,
            ..Knows::default()
        };
        world.introduce(3, spoke, behind_spoke);
    }
    let hub = &mut world.nodes[3];
    hub.sites = vec![
        (hub.peers[0].1, ["vpc-1", "i-0"]),
        (hub.peers[1].1, ["vpc-1", "i-1"]),
        (hub.peers[2].1, ["vpc-2", "i-2"]),
    ];
    hub.publish();
    world.settle();
    world
}

#[test]
fn a_site_may_send_by_each_of_its_gateways_whoever_has_the_way_back() {
    let mut world = site_of_two();
    for source in ["10.1.0.1", "10.1.200.1"] {
        for gateway in [0, 1] {
            world.send(gateway, &packet(source, "10.2.0.1", 64, 10));
            assert_eq!(world.tun(2).len(), 1, "{source} by {gateway}");
        }
    }
    world.send(2, &packet("10.2.0.1", "10.1.200.1", 64, 10));
    assert_eq!((world.tun(0).len(), world.tun(1).len()), (0, 1));
    assert_eq!(world.nodes[3].count(Counter::SourceMismatch), 0);
}

#[test]
fn no_gateway_speaks_with_the_address_of_another() {
    let mut world = site_of_two();
    for (gateway, stolen) in [(0, "10.1.0.20"), (1, "10.1.0.10"), (2, "10.1.0.1")] {
        world.send(gateway, &packet(stolen, "10.9.0.1", 64, 10));
        world.send(gateway, &packet(stolen, "10.2.0.1", 64, 10));
    }
    assert!(world.tun(3).is_empty() && world.tun(2).is_empty());
    assert_eq!(world.nodes[3].count(Counter::SourceMismatch), 6);
    world.send(0, &packet("10.1.0.10", "10.2.0.1", 64, 10));
    world.send(1, &packet("10.1.0.20", "10.2.0.1", 64, 10));
    assert_eq!(world.tun(2).len(), 2);
}

#[test]
fn nothing_of_a_site_goes_back_into_it_by_another_gateway() {
    let mut world = site_of_two();
    world.send(0, &packet("10.1.0.1", "10.1.200.1", 64, 10));
    world.send(1, &packet("10.1.200.1", "10.1.0.1", 64, 10));
    world.send(1, &packet("10.1.200.1", "10.1.0.10", 64, 10));
    assert!(world.tun(0).is_empty() && world.tun(1).is_empty());
    assert_eq!(world.nodes[3].count(Counter::Hairpin), 3);
}

#[test]
fn a_gateway_that_leaves_its_site_takes_only_its_own_along() {
    let mut world = site_of_two();
    let hub = &mut world.nodes[3];
    hub.sites.remove(1);
    hub.publish();
    world.send(1, &packet("10.1.0.1", "10.2.0.1", 64, 10));
    assert!(world.tun(2).is_empty());
    world.send(1, &packet("10.1.200.1", "10.2.0.1", 64, 10));
    assert_eq!(world.tun(2).len(), 1);
}
