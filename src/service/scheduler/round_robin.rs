//! rr: each server in turn; weights matter only as zero or not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::service::table::Server;

/// `cursor` holds the place after the last choice.
pub(super) fn pick<'s, A>(servers: &'s [Server<A>], cursor: &AtomicU64) -> Option<&'s Server<A>> {
    let mut old = cursor.load(Relaxed);
    loop {
        let start = usize::try_from(old).ok().filter(|start| *start < servers.len()).unwrap_or(0);
        let (before, after) = servers.split_at_checked(start)?;
        let steps = after.iter().chain(before).position(|server| server.weight > 0)?;
        let place = (start + steps) % servers.len();
        let next = (place + 1) as u64;
        match cursor.compare_exchange_weak(old, next, Relaxed, Relaxed) {
            Ok(_) => return servers.get(place),
            Err(now) => old = now,
        }
    }
}
