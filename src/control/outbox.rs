//! The way to the workers: no command is lost when a mailbox is full, and none overtakes another.

use std::collections::VecDeque;

use crate::dataplane::mailbox::{Command, ControlMailbox, Event};
use crate::ids::WorkerId;

/// Commands that may wait for one worker before the control thread stops listening to events,
/// which are what makes commands.
const CONGESTED: usize = 8192;

/// A worker's mailbox, and what did not fit.
#[derive(Debug)]
struct Line {
    worker: WorkerId,
    mailbox: ControlMailbox,
    waiting: VecDeque<Command>,
}

impl Line {
    fn send(&mut self, command: Command) {
        self.waiting.push_back(command);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let Err(refused) = self.mailbox.send(command) {
                self.waiting.push_front(refused);
                return;
            }
        }
    }
}

/// The mailboxes of all workers.
#[derive(Debug)]
pub(super) struct Outbox(Vec<Line>);

impl Outbox {
    pub(super) fn new(mailboxes: impl IntoIterator<Item = (WorkerId, ControlMailbox)>) -> Self {
        let line = |(worker, mailbox)| Line { worker, mailbox, waiting: VecDeque::new() };
        Self(mailboxes.into_iter().map(line).collect())
    }

    /// Sends to one worker that speaks for all: the first.
    pub(super) fn send_any(&mut self, command: Command) {
        if let Some(line) = self.0.first_mut() {
            line.send(command);
        }
    }

    /// Sends to one worker, now or as soon as its mailbox has room.
    pub(super) fn send(&mut self, worker: WorkerId, command: Command) {
        if let Some(line) = self.0.iter_mut().find(|line| line.worker == worker) {
            line.send(command);
        }
    }

    /// Sends to every worker.
    pub(super) fn send_all(&mut self, command: impl Fn() -> Command) {
        for line in &mut self.0 {
            line.send(command());
        }
    }

    /// Sends what had to wait.
    pub(super) fn flush(&mut self) {
        self.0.iter_mut().for_each(Line::flush);
    }

    /// Whether commands wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.iter().any(|line| !line.waiting.is_empty())
    }

    /// The next event of each worker in turn, at most `per_worker` of each. None while a
    /// worker is far behind with its commands: the events stay in their queues.
    pub(super) fn drain(&self, per_worker: usize, mut take: impl FnMut(WorkerId, Event)) {
        if self.0.iter().any(|line| line.waiting.len() >= CONGESTED) {
            return;
        }
        for line in &self.0 {
            for event in std::iter::from_fn(|| line.mailbox.event()).take(per_worker) {
                take(line.worker, event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::mailbox::{COMMANDS, mailbox};
    use crate::ids::InterfaceId;

    fn announce(number: usize) -> Command {
        let number = u32::try_from(number).unwrap();
        Command::Announce { interface: InterfaceId(0), address: number.to_be_bytes().into() }
    }

    #[test]
    fn no_command_is_lost_or_overtaken_when_a_mailbox_is_full() {
        let (worker, control) = mailbox();
        let mut outbox = Outbox::new([(WorkerId(0), control)]);
        let sent = COMMANDS * 2 + 5;
        for number in 0..sent {
            outbox.send(WorkerId(0), announce(number));
        }
        assert!(outbox.is_waiting());
        let mut received = Vec::new();
        while received.len() < sent {
            let command = worker.command().expect("a command is lost");
            received.push(format!("{command:?}"));
            outbox.flush();
        }
        let expected: Vec<_> = (0..sent).map(|number| format!("{:?}", announce(number))).collect();
        assert_eq!(received, expected);
        assert!(!outbox.is_waiting() && worker.command().is_none());
    }

    #[test]
    fn a_worker_that_is_far_behind_holds_back_the_events() {
        let (worker, control) = mailbox();
        let mut outbox = Outbox::new([(WorkerId(0), control)]);
        worker
            .post(Event::Resolve { interface: InterfaceId(0), address: [10, 0, 0, 1].into() })
            .unwrap();
        for number in 0..COMMANDS + CONGESTED {
            outbox.send(WorkerId(0), announce(number));
        }
        let mut events = 0;
        outbox.drain(10, |_, _| events += 1);
        assert_eq!(events, 0);
        while worker.command().is_some() {}
        outbox.flush();
        outbox.drain(10, |_, _| events += 1);
        assert_eq!(events, 1);
    }
}
