//! A director in memory, as strict as IPVS.

use std::net::SocketAddr;

use pointsman::cli::ipvsadm::{
    ConnectionRow, ConnectionSink, Counters, Director, Failure, Refusal, ServerRow, ServerSpec,
    ServiceKey, ServiceRow, ServiceSpec, Timeouts,
};

const SCHEDULERS: &[&str] = &[
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos",
];

pub(crate) struct Fake {
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) connections: Vec<ConnectionRow>,
    pub(crate) timeouts: Timeouts,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
        Self { services: Vec::new(), connections: Vec::new(), timeouts }
    }

    fn service(&mut self, key: &ServiceKey) -> Result<&mut ServiceRow, Refusal> {
        self.services.iter_mut().find(|row| row.key == *key).ok_or(Refusal::NoService)
    }
}

fn known_scheduler(spec: &ServiceSpec) -> Result<(), Refusal> {
    let known = SCHEDULERS.contains(&spec.scheduler.as_str());
    if known { Ok(()) } else { Err(Refusal::NoScheduler) }
}

fn service_row(spec: &ServiceSpec) -> ServiceRow {
    ServiceRow {
        key: spec.key,
        is_range: false,
        scheduler: spec.scheduler.clone(),
        flags: spec.flags,
        persistence: spec.persistence,
        one_packet: spec.one_packet,
        totals: Counters::default(),
        rates: Counters::default(),
        servers: Vec::new(),
    }
}

impl Director for Fake {
    fn capacity(&mut self) -> Result<u64, Refusal> {
        Ok(4096)
    }

    fn services(&mut self) -> Result<Vec<ServiceRow>, Refusal> {
        Ok(self.services.clone())
    }

    fn connections(&mut self, sink: &mut ConnectionSink<'_>) -> Result<(), Failure> {
        self.connections.iter().try_for_each(sink).map_err(Failure::from)
    }

    fn timeouts(&mut self) -> Result<Timeouts, Refusal> {
        Ok(self.timeouts)
    }

    fn add_service(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        if self.service(&spec.key).is_ok() {
            return Err(Refusal::Exists);
        }
        known_scheduler(spec)?;
        self.services.push(service_row(spec));
        Ok(())
    }

    fn edit_service(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let service = self.service(&spec.key)?;
        known_scheduler(spec)?;
        let servers = std::mem::take(&mut service.servers);
        *service = ServiceRow { servers, ..service_row(spec) };
        Ok(())
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Refusal> {
        self.service(key)?;
        self.services.retain(|row| row.key != *key);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Refusal> {
        self.services.clear();
        Ok(())
    }

    fn add_server(&mut self, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        let service = self.service(key)?;
        if service.servers.iter().any(|server| server.address == spec.address) {
            return Err(Refusal::Exists);
        }
        let server = ServerRow {
            address: spec.address,
            weight: spec.weight,
            weight_in_force: spec.weight,
            upper: spec.upper,
            lower: spec.lower,
            active: 0,
            inactive: 0,
            persistent: 0,
            totals: Counters::default(),
            rates: Counters::default(),
        };
        service.servers.insert(0, server);
        Ok(())
    }

    fn edit_server(&mut self, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        let mut servers = self.service(key)?.servers.iter_mut();
        let server =
            servers.find(|server| server.address == spec.address).ok_or(Refusal::NoServer)?;
        (server.weight, server.weight_in_force) = (spec.weight, spec.weight);
        (server.upper, server.lower) = (spec.upper, spec.lower);
        Ok(())
    }

    fn delete_server(&mut self, key: &ServiceKey, server: SocketAddr) -> Result<(), Refusal> {
        let servers = &mut self.service(key)?.servers;
        let place = servers.iter().position(|row| row.address == server);
        servers.remove(place.ok_or(Refusal::NoServer)?);
        Ok(())
    }

    fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Refusal> {
        if let Some(key) = key {
            self.service(key)?;
        }
        let chosen = |row: &&mut ServiceRow| key.is_none_or(|key| row.key == *key);
        for service in self.services.iter_mut().filter(chosen) {
            service.totals = Counters::default();
            service.servers.iter_mut().for_each(|server| server.totals = Counters::default());
        }
        Ok(())
    }

    fn set_timeouts(&mut self, set: Timeouts) -> Result<(), Refusal> {
        let pairs = [
            (&mut self.timeouts.tcp, set.tcp),
            (&mut self.timeouts.tcp_fin, set.tcp_fin),
            (&mut self.timeouts.udp, set.udp),
        ];
        for (timeout, set) in pairs.into_iter().filter(|(_, set)| *set != 0) {
            *timeout = set;
        }
        Ok(())
    }
}
