//! Connections that wait to be told of. A newer state takes the place of an older one; what has
//! just begun may be kept back for a while, and is never told of if it is over by then.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;

use crate::dataplane::sync::{End, SyncConnection};

/// Connections that may wait.
const ROOM: usize = 1 << 20;

/// What a connection is told apart by.
type Flow = (u8, u32, End, End);

const fn flow(connection: &SyncConnection) -> Flow {
    (connection.protocol, connection.mark, connection.client, connection.vip)
}

/// Messages that IPVS understands, and those that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Plain,
    Own,
}

impl Queue {
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Own];

    const fn of(connection: &SyncConnection) -> Self {
        if connection.more.is_some() { Self::Own } else { Self::Plain }
    }
}

/// How many there are, by queue.
pub(super) type ByQueue = [usize; Queue::ALL.len()];

/// What waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// How long a new one is kept back.
    after: Duration,
    all: HashMap<Flow, SyncConnection>,
    /// Kept back, until then.
    young: VecDeque<(Flow, Duration)>,
    /// To be sent as soon as there is room, by queue.
    ready: [VecDeque<Flow>; 2],
}

impl Waiting {
    pub(super) fn new(after: Duration) -> Self {
        Self { after, all: HashMap::new(), young: VecDeque::new(), ready: <_>::default() }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many could be sent.
    pub(super) fn ready(&self) -> ByQueue {
        self.ready.each_ref().map(VecDeque::len)
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.young.clear();
        self.ready.iter_mut().for_each(VecDeque::clear);
    }

    /// Keeps a connection until it is sent; `false`: too many wait.
    pub(super) fn keep(&mut self, connection: SyncConnection, now: Duration) -> bool {
        let flow = flow(&connection);
        if let Some(known) = self.all.get_mut(&flow) {
            *known = connection;
            return true;
        }
        if self.all.len() >= ROOM {
            return false;
        }
        self.all.insert(flow, connection);
        let begins = connection.is_news && connection.state.is_active();
        if begins && !self.after.is_zero() {
            self.young.push_back((flow, now + self.after));
        } else {
            self.queue(Queue::of(&connection)).push_back(flow);
        }
        true
    }

    /// What has lasted long enough can be sent; what is over is forgotten.
    pub(super) fn ripen(&mut self, now: Duration) {
        while let Some((flow, _)) = self.young.front().copied().filter(|(_, due)| *due <= now) {
            self.young.pop_front();
            let Some(connection) = self.all.get(&flow).copied() else { continue };
            if connection.state.is_active() {
                self.queue(Queue::of(&connection)).push_back(flow);
            } else {
                self.all.remove(&flow);
            }
        }
    }

    /// The connections that can be sent, the first one first.
    pub(super) fn ready_of(&self, queue: Queue) -> impl Iterator<Item = &SyncConnection> {
        let ready = self.ready.get(queue as usize).into_iter().flatten();
        ready.filter_map(|flow| self.all.get(flow))
    }

    /// The first ones were sent.
    pub(super) fn remove(&mut self, queue: Queue, count: usize) {
        let Some(ready) = self.ready.get_mut(queue as usize) else { return };
        for flow in ready.drain(..count.min(ready.len())) {
            self.all.remove(&flow);
        }
    }

    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Flow> {
        let [plain, own] = &mut self.ready;
        match queue {
            Queue::Plain => plain,
            Queue::Own => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::conn::tcp_state::ConnectionState;
    use crate::dataplane::sync::SyncKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn connection(port: u16, state: ConnectionState, is_news: bool) -> SyncConnection {
        SyncConnection {
            kind: SyncKind::Connection,
            is_news,
            protocol: 6,
            state,
            timeout_ms: 1000,
            idle_ms: 0,
            client: ([198, 18, 0, 1].into(), port),
            vip: ([192, 0, 2, 100].into(), 80),
            server: ([10, 0, 0, 11].into(), 80),
            mark: 0,
            more: None,
        }
    }

    fn ready(waiting: &Waiting) -> Vec<(u16, ConnectionState)> {
        let ready = waiting.ready_of(Queue::Plain);
        ready.map(|connection| (connection.client.1, connection.state)).collect()
    }

    #[test]
    fn a_newer_state_takes_the_place_of_an_older_one() {
        use ConnectionState::{CloseWait, Established, FinWait};
        let mut waiting = Waiting::new(Duration::ZERO);
        let _ = waiting.keep(connection(1, Established, true), SECOND);
        let _ = waiting.keep(connection(2, Established, true), SECOND);
        let _ = waiting.keep(connection(1, FinWait, true), SECOND);
        assert_eq!(ready(&waiting), [(1, FinWait), (2, Established)]);
        waiting.remove(Queue::Plain, 1);
        let _ = waiting.keep(connection(2, CloseWait, true), SECOND);
        assert_eq!(ready(&waiting), [(2, CloseWait)]);
        assert_eq!((waiting.len(), waiting.ready()), (1, [1, 0]));
    }

    #[test]
    fn what_is_over_before_its_time_is_never_told_of() {
        use ConnectionState::{Established, FinWait, TimeWait};
        let mut waiting = Waiting::new(SECOND);
        let _ = waiting.keep(connection(1, Established, true), SECOND);
        let _ = waiting.keep(connection(2, Established, true), SECOND);
        // Known long since: others have been told of them.
        let _ = waiting.keep(connection(3, Established, false), SECOND);
        let _ = waiting.keep(connection(4, FinWait, true), SECOND);
        let _ = waiting.keep(connection(1, TimeWait, true), SECOND);
        waiting.ripen(SECOND);
        assert_eq!(ready(&waiting), [(3, Established), (4, FinWait)]);
        waiting.ripen(SECOND * 2);
        assert_eq!(ready(&waiting), [(3, Established), (4, FinWait), (2, Established)]);
        assert_eq!(waiting.len(), 3);
    }
}
