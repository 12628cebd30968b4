//! Small numbers that are given out and come back.

use std::collections::VecDeque;

/// Numbers from 0 on. One that came back rests as long as there are others that rest longer.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Numbers from here on were never given out.
    fresh: u16,
    free: VecDeque<u16>,
}

impl Numbers {
    /// A number below `limit` that nobody has. The largest, which stands for none, is never given
    /// out.
    pub(super) fn take(&mut self, limit: usize) -> Option<u16> {
        if usize::from(self.fresh) < limit && self.fresh < u16::MAX {
            self.fresh += 1;
            return Some(self.fresh - 1);
        }
        self.free.pop_front()
    }

    /// Nobody has this number any more.
    pub(super) fn give_back(&mut self, number: u16) {
        self.free.push_back(number);
    }
}
