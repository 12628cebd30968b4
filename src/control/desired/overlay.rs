//! The weights that hold, where they are not those that are stated: 0 for a server that is
//! emptied, less for one that has just come (slow start).

use std::net::SocketAddr;
use std::time::Duration;

use hashbrown::HashMap;

use super::drain::Drains;
use crate::service::{Listen, RealServer, VirtualService};

/// Time between two steps of a slow start.
pub(in crate::control) const STEP: Duration = Duration::from_millis(250);
/// What the weights of a service are multiplied with while a server of it starts slowly, as far as
/// they fit: the least share that a server can have is the reverse.
const SCALE: u32 = 100;

/// When servers that start slowly began to, since the director's start.
#[derive(Clone, Debug, Default)]
pub(super) struct Ramps(HashMap<(Listen, SocketAddr), Duration>);

impl Ramps {
    /// Begins for servers that take connections now and did not before; forgets those that have
    /// ended, or whose server takes none.
    pub(super) fn follow(
        &mut self,
        now: Duration,
        before: &[VirtualService],
        after: &[VirtualService],
    ) {
        let weight_before = |listen: &Listen, address: SocketAddr| {
            let service = before.iter().find(|service| service.listen == *listen)?;
            let server = service.servers.iter().find(|server| server.address == address)?;
            Some(server.weight)
        };
        let ramp = |service: &VirtualService, server: &RealServer| {
            let shares = service.scheduler.shares_by_weight() && server.weight > 0;
            let time = server.slow_start.filter(|_| shares)?;
            let comes = weight_before(&service.listen, server.address).unwrap_or(0) == 0;
            let began = if comes { Some(now) } else { self.began(service, server) };
            let began = began.filter(|began| now < *began + time)?;
            Some(((service.listen, server.address), began))
        };
        let of_service = |service: &VirtualService| {
            let servers = service.servers.iter();
            servers.filter_map(|server| ramp(service, server)).collect::<Vec<_>>()
        };
        self.0 = after.iter().flat_map(of_service).collect();
    }

    /// Whether a server starts slowly at the moment.
    pub(super) fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// When a server began.
    pub(super) fn began(&self, service: &VirtualService, server: &RealServer) -> Option<Duration> {
        self.0.get(&(service.listen, server.address)).copied()
    }

    /// The services with the weights that hold now. Those of a service in which a server starts
    /// slowly are all larger than stated, so that its share can be small.
    pub(super) fn over(
        &self,
        mut services: Vec<VirtualService>,
        now: Duration,
    ) -> Vec<VirtualService> {
        for service in &mut services {
            let began: Vec<_> =
                service.servers.iter().map(|server| self.began(service, server)).collect();
            if began.iter().all(Option::is_none) {
                continue;
            }
            let largest = service.servers.iter().map(|server| server.weight).max().unwrap_or(1);
            let scale = SCALE.min(RealServer::MAX_WEIGHT / largest.max(1)).max(1);
            for (server, began) in service.servers.iter_mut().zip(began) {
                let full = server.weight * scale;
                server.weight = match began.zip(server.slow_start) {
                    Some((began, time)) => ramped(full, now.saturating_sub(began), time),
                    None => full,
                };
            }
        }
        services
    }
}

/// The part of a weight that holds after some of the time; at least 1 of a server that takes
/// connections.
fn ramped(weight: u32, elapsed: Duration, time: Duration) -> u32 {
    let (elapsed, time) = (elapsed.as_millis().min(time.as_millis()), time.as_millis().max(1));
    let part = u128::from(weight) * elapsed / time;
    u32::try_from(part).unwrap_or(weight).max(1).min(weight)
}

/// The services with the weights that hold.
pub(super) fn in_force(
    services: &[VirtualService],
    drains: &Drains,
    ramps: &Ramps,
    now: Duration,
) -> Vec<VirtualService> {
    ramps.over(drains.over(services), now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::test_config::service;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn weights(ramps: &Ramps, services: &[VirtualService], now: u64) -> Vec<u32> {
        let services = ramps.over(services.to_vec(), at(now));
        services[0].servers.iter().map(|server| server.weight).collect()
    }

    #[test]
    fn a_server_that_comes_has_a_share_that_grows_linearly() {
        let old = [service("web", "tcp://192.0.2.1:80", &["10.0.0.1:80"])];
        let mut new = [service("web", "tcp://192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80"])];
        new[0].servers[1].slow_start = Some(at(10));
        let mut ramps = Ramps::default();
        ramps.follow(at(100), &old, &new);
        assert_eq!(weights(&ramps, &new, 100), [100, 1]);
        assert_eq!(weights(&ramps, &new, 105), [100, 50]);
        assert_eq!(weights(&ramps, &new, 109), [100, 90]);
        // What changes elsewhere does not begin anew.
        ramps.follow(at(105), &new, &new);
        assert_eq!(weights(&ramps, &new, 105), [100, 50]);
        ramps.follow(at(110), &new, &new);
        assert!(!ramps.is_any());
        assert_eq!(weights(&ramps, &new, 110), [1, 1]);
    }

    #[test]
    fn a_server_that_was_quiesced_starts_slowly_and_large_weights_stay_in_bounds() {
        let mut old = [service("web", "tcp://192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80"])];
        old[0].servers[0].weight = RealServer::MAX_WEIGHT;
        old[0].servers[1].weight = 0;
        let mut new = old.clone();
        new[0].servers[1].weight = 10;
        new[0].servers[1].slow_start = Some(at(10));
        let mut ramps = Ramps::default();
        ramps.follow(at(0), &old, &new);
        assert_eq!(weights(&ramps, &new, 5), [RealServer::MAX_WEIGHT, 5]);
    }
}
