//! rr: each server in turn; weights matter only as zero or not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Candidates;
use super::rotation::{Rotation, Stand};
use crate::service::table::Server;

pub(super) fn pick<'s, A>(
    from: &Candidates<'s, '_, A>,
    rotation: &Rotation,
    cursor: &AtomicU64,
) -> Option<&'s Server<A>> {
    let servers = from.servers;
    let mut old = cursor.load(Relaxed);
    loop {
        let stand = Stand::unpack(old);
        let start = rotation.start(servers, stand);
        let (before, after) = servers.split_at_checked(start)?;
        let steps = after.iter().chain(before).position(|server| from.is_open(server))?;
        let place = (start + steps) % servers.len();
        let next = Stand::at(servers, place, stand.threshold).pack();
        match cursor.compare_exchange_weak(old, next, Relaxed, Relaxed) {
            Ok(_) => return servers.get(place),
            Err(now) => old = now,
        }
    }
}
