//! Pages of connections that workers owe to those who list them.

use tokio::sync::oneshot;

use crate::dataplane::mailbox::ConnectionPage;
use crate::ids::WorkerId;

/// Pages that one worker may owe.
const MOST: usize = 16;

/// What the workers owe, oldest first.
#[derive(Debug, Default)]
pub(super) struct PagesOwed(Vec<Owed>);

#[derive(Debug)]
struct Owed {
    worker: WorkerId,
    /// The page's buffer, which tells it from others: an event may be lost.
    buffer: usize,
    reply: oneshot::Sender<ConnectionPage>,
}

impl PagesOwed {
    /// A worker is about to be asked for a page; `false`: it owes too many.
    pub(super) fn owe(
        &mut self,
        worker: WorkerId,
        page: &ConnectionPage,
        reply: oneshot::Sender<ConnectionPage>,
    ) -> bool {
        // A lost page is owed until who asked has given up.
        self.0.retain(|owed| !owed.reply.is_closed());
        let may = self.0.iter().filter(|owed| owed.worker == worker).count() < MOST;
        if may {
            self.0.push(Owed { worker, buffer: page.rows.as_ptr().addr(), reply });
        }
        may
    }

    /// Gives a page to who asked for it. The youngest match: an older one was lost, and its memory
    /// used again.
    pub(super) fn deliver(&mut self, worker: WorkerId, page: ConnectionPage) {
        let buffer = page.rows.as_ptr().addr();
        let is_it = |owed: &Owed| owed.worker == worker && owed.buffer == buffer;
        if let Some(place) = self.0.iter().rposition(is_it) {
            // Who asked may have given up.
            self.0.remove(place).reply.send(page).ok();
        }
    }
}
