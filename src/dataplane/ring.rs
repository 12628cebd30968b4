//! A bounded queue from one thread to another, neither of which ever waits for the other.
//!
//! [`ArrayQueue`] alone waits, spinning, for whoever was interrupted halfway through a push or a
//! pop. A thread with real-time priority that waits so for one of ordinary priority on the same
//! CPU does not let it go on, and waits until the kernel gives ordinary threads their share of a
//! second. So what is halfway in counts as not there yet here, and what is halfway out as still
//! there.

use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use crossbeam::queue::ArrayQueue;

use crate::ids::WorkerId;

/// The queue. One thread pushes and one pops; with more of them nothing is lost, but they may wait.
#[derive(Debug)]
pub(super) struct Ring<T> {
    queue: ArrayQueue<T>,
    /// How many are in or were, modulo the word.
    pushed: AtomicUsize,
    /// How many were taken out.
    popped: AtomicUsize,
}

impl<T> Ring<T> {
    /// For so many.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            queue: ArrayQueue::new(capacity),
            pushed: AtomicUsize::new(0),
            popped: AtomicUsize::new(0),
        }
    }

    /// Puts one in; gives it back when too many wait.
    #[allow(clippy::result_large_err, reason = "the caller keeps what was not taken")]
    pub(super) fn push(&self, value: T) -> Result<(), T> {
        if self.len() >= self.queue.capacity() {
            return Err(value);
        }
        self.queue.push(value)?;
        self.pushed.fetch_add(1, Release);
        Ok(())
    }

    /// Takes the oldest one out.
    pub(super) fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let value = self.queue.pop();
        self.popped.fetch_add(usize::from(value.is_some()), Release);
        value
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        // In this order: of the thread that pops nothing grows in between.
        let popped = self.popped.load(Acquire);
        self.pushed.load(Acquire).wrapping_sub(popped)
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A queue from each worker to one thread, which takes from them in turns: what floods one of them
/// keeps nothing of the others from being taken.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    by_worker: Vec<Ring<T>>,
    /// The worker whose turn it is.
    next: AtomicUsize,
}

impl<T> Inbox<T> {
    /// For so many workers, and so many of each.
    pub(super) fn new(workers: usize, capacity: usize) -> Self {
        Self {
            by_worker: (0..workers).map(|_| Ring::new(capacity)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Puts one in; `false`: too many of this worker wait.
    pub(super) fn push(&self, worker: WorkerId, value: T) -> bool {
        self.by_worker.get(worker.index()).is_some_and(|ring| ring.push(value).is_ok())
    }

    /// Takes the oldest one of the worker whose turn it is, or of one after it.
    pub(super) fn pop(&self) -> Option<T> {
        let first = self.next.fetch_add(1, Relaxed) % self.by_worker.len().max(1);
        let mut turns = self.by_worker.iter().cycle().skip(first).take(self.by_worker.len());
        turns.find_map(Ring::pop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_and_no_more_than_fits() {
        let ring = Ring::new(3);
        for round in 0..10 {
            assert!(ring.is_empty() && ring.pop().is_none());
            assert_eq!((0..4).map(|n| ring.push(round + n)).filter(Result::is_err).count(), 1);
            assert_eq!(ring.len(), 3);
            let out: Vec<_> = std::iter::from_fn(|| ring.pop()).collect();
            assert_eq!(out, [round, round + 1, round + 2]);
        }
    }

    #[test]
    fn what_is_halfway_in_is_not_waited_for() {
        let ring = Ring::new(2);
        // The push of another thread that was interrupted before it told of it.
        ring.queue.push(1).unwrap();
        assert!(ring.pop().is_none());
        ring.pushed.fetch_add(1, Release);
        assert_eq!(ring.pop(), Some(1));
    }

    #[test]
    fn what_is_halfway_out_still_takes_room() {
        let ring = Ring::new(1);
        ring.push(1).unwrap();
        assert_eq!(ring.queue.pop(), Some(1));
        assert_eq!(ring.push(2), Err(2));
        ring.popped.fetch_add(1, Release);
        assert_eq!(ring.push(2), Ok(()));
    }

    fn push(ring: &Ring<u32>, number: u32) {
        while ring.push(number).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn nothing_is_lost_between_two_threads() {
        const COUNT: u32 = if cfg!(miri) { 100 } else { 100_000 };
        let ring = Ring::new(7);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..COUNT).for_each(|number| push(&ring, number)));
            for number in 0..COUNT {
                let next = std::iter::repeat_with(|| ring.pop()).flatten().next();
                assert_eq!(next, Some(number));
            }
        });
    }
}
