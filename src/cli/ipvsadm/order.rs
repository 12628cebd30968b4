//! The order of listings.
//!
//! ipvsadm compares marks and addresses by their difference as a signed number, so that from
//! 10.0.0.0 to 192.0.0.0 is further than half around the circle, and 192.0.0.0 comes first. That
//! is no order; what comes out is a matter of the sort as well, which is glibc's merge sort.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use super::command::ServiceKey;
use super::rows::{ServerRow, ServiceRow};

/// Sorts services, and the servers of each.
pub(super) fn sort(services: &mut Vec<ServiceRow>) {
    merge_sort(services, &|a, b| compare_services(&a.key, &b.key));
    for service in services {
        merge_sort(&mut service.servers, &|a: &ServerRow, b: &ServerRow| {
            compare_endpoints(a.address, b.address)
        });
    }
}

fn compare_services(a: &ServiceKey, b: &ServiceKey) -> Ordering {
    let mark = |key: &ServiceKey| match key {
        ServiceKey::Endpoint { .. } => 0,
        ServiceKey::Mark { mark, .. } => *mark,
    };
    let by_mark = difference(mark(a), mark(b)).then(a.is_ipv6().cmp(&b.is_ipv6()));
    match (a, b) {
        (
            ServiceKey::Endpoint { protocol, address },
            ServiceKey::Endpoint { protocol: other_protocol, address: other },
        ) => by_mark
            .then((*protocol as u8).cmp(&(*other_protocol as u8)))
            .then_with(|| compare_endpoints(*address, *other)),
        _ => by_mark,
    }
}

fn compare_endpoints(a: SocketAddr, b: SocketAddr) -> Ordering {
    let addresses = match (a.ip(), b.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => difference(a.to_bits(), b.to_bits()),
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let words = |ip: std::net::Ipv6Addr| {
                let octets = ip.octets();
                let (words, _) = octets.as_chunks::<4>();
                [0, 1, 2, 3].map(|n| words.get(n).map_or(0, |word| u32::from_be_bytes(*word)))
            };
            let pairs = words(a).into_iter().zip(words(b));
            pairs.map(|(a, b)| difference(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        }
        (a, b) => a.is_ipv6().cmp(&b.is_ipv6()),
    };
    addresses.then(a.port().cmp(&b.port()))
}

/// As the sign of the difference says, in 32 bits.
fn difference(a: u32, b: u32) -> Ordering {
    a.wrapping_sub(b).cast_signed().cmp(&0)
}

/// The merge sort of glibc. The one of the standard library may panic without a total order.
fn merge_sort<T: Clone>(items: &mut Vec<T>, compare: &impl Fn(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let mut second = items.split_off(items.len() / 2);
    merge_sort(items, compare);
    merge_sort(&mut second, compare);
    let mut merged = Vec::with_capacity(items.len() + second.len());
    let (mut first, mut second) = (items.iter().peekable(), second.iter().peekable());
    loop {
        let next = match (first.peek(), second.peek()) {
            (Some(a), Some(b)) if compare(a, b).is_le() => first.next(),
            (Some(_), None) => first.next(),
            (_, Some(_)) => second.next(),
            (None, None) => break,
        };
        merged.extend(next.cloned());
    }
    *items = merged;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(addresses: &[&str]) -> Vec<String> {
        let mut addresses: Vec<SocketAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        merge_sort(&mut addresses, &|a, b| compare_endpoints(*a, *b));
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_in_the_order_of_ipvsadm() {
        // Recorded from ipvsadm 1.31. There is no order, so the sort must be the same one.
        let services =
            ["192.0.2.1:80", "10.0.2.1:80", "100.0.2.1:80", "203.0.2.1:80", "203.0.2.1:60000"];
        let services = services.map(|address| ServiceKey::Endpoint {
            protocol: crate::service::Protocol::Tcp,
            address: address.parse().unwrap(),
        });
        let last = services[4];
        let marks =
            [0x8000_0000, 0x7fff_ffff, 3].map(|mark| ServiceKey::Mark { mark, ipv6: false });
        let mut keys = [&services[..], &marks].concat();
        let ServiceKey::Endpoint { protocol, address } = last else { panic!("{last:?}") };
        let other = SocketAddr::new(address.ip(), 60);
        keys.insert(5, ServiceKey::Endpoint { protocol, address: other });
        merge_sort(&mut keys, &compare_services);
        let names: Vec<_> = keys.iter().map(ServiceKey::service_name).collect();
        assert_eq!(
            names,
            [
                "tcp-100.0.2.1-80",
                "tcp-192.0.2.1-80",
                "tcp-203.0.2.1-60",
                "tcp-203.0.2.1-80",
                "tcp-203.0.2.1-60000",
                "tcp-10.0.2.1-80",
                "fwm-3",
                "fwm-2147483647",
                "fwm-2147483648",
            ]
        );
        let servers =
            ["200.1.0.9:80", "10.1.0.9:80", "100.1.0.9:80", "100.1.0.9:40000", "100.1.0.9:79"];
        assert_eq!(
            sorted(&servers),
            ["100.1.0.9:79", "100.1.0.9:80", "100.1.0.9:40000", "200.1.0.9:80", "10.1.0.9:80"]
        );
    }

    #[test]
    fn addresses_of_one_network_are_in_their_order() {
        let sorted = sorted(&["[fd00::12]:80", "[fd00::11]:443", "[fd00::11]:80"]);
        assert_eq!(sorted, ["[fd00::11]:80", "[fd00::11]:443", "[fd00::12]:80"]);
    }
}
