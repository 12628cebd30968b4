//! Who of the directors is the active one: VRRP's state machine (RFC 9568 section 6.4) for a whole
//! sync group. Events and the time come in, actions go out; it knows no clock and no packet.
//!
//! A *link* is a virtual router of the group: one address family on one interface. All links of a
//! group have one role. It becomes the master when no link hears another one, so that a link that
//! is broken between the directors does not make two; and it is none any more when any link hears a
//! better one. So no director is ever the master of one side alone.

use std::net::IpAddr;
use std::time::Duration;

use super::role::{Cause, Role};
use crate::control::config::Preempt;
use crate::wire::vrrp::{OWNER, RESIGNED, Version};

/// Advertisements that may be missed before another takes over (RFC 9568 section 6.1).
const PATIENCE: u32 = 3;

/// How a director takes part in an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The protocol.
    pub version: Version,
    /// This director's.
    pub priority: u8,
    /// How often the master says that it is there.
    pub interval: Duration,
    /// Whether this director takes over from a worse one.
    pub preempt: Preempt,
    /// Whether it learns of connections first, and does not take over from one that works before
    /// it has ([`Election::set_learnt`]).
    pub learns: bool,
    /// This director's address on each link.
    pub links: Vec<IpAddr>,
}

/// An advertisement of another director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who sent it.
    pub from: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// How often it sends.
    pub interval: Duration,
}

/// What the operator may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Give up, and leave it to another one as long as there is one.
    Release,
    /// Take over.
    TakeOver,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an advertisement.
    Advertise {
        /// On this link.
        link: usize,
        /// With this priority.
        priority: u8,
    },
    /// The role is another one now.
    Enter(Role, Cause),
    /// Tell everybody on this link again where the floating addresses are.
    Announce {
        /// The link.
        link: usize,
    },
}

/// What is known of a link.
#[derive(Clone, Copy, Debug)]
struct Link {
    own: IpAddr,
    /// How often the master sends (`Active_Adver_Interval`).
    interval: Duration,
    /// The master is gone then (`Active_Down_Timer`).
    down_at: Duration,
    /// Until then the one that was heard last is there.
    alive_until: Duration,
    /// It is a worse one that may be taken over from.
    is_preempted: bool,
    /// The last one that was heard, and when.
    heard: Option<(Heard, Duration)>,
    /// Since when a worse master has been heard.
    worse_since: Option<Duration>,
    /// When the last advertisement was sent because a worse one was heard, and because one gave up.
    asserted: [Option<Duration>; 2],
}

/// One director's part in the election. All times are since its start.
#[derive(Clone, Debug)]
pub struct Election {
    rules: Rules,
    role: Role,
    since: Duration,
    cause: Cause,
    links: Vec<Link>,
    /// The master's next advertisement.
    advertise_at: Duration,
    /// When the last one was sent.
    advertised: Duration,
    /// When the time was told last.
    told: Duration,
    /// By how much it waits longer, since it began to.
    unwatched: Duration,
    /// What the operator wants.
    order: Option<Order>,
    fault: Option<String>,
    /// What is added to the priority.
    bonus: i32,
    /// It knows the connections of the one that works.
    has_learnt: bool,
}

impl Election {
    /// A director that has just started. `fault`: what is broken.
    pub fn new(
        rules: Rules,
        fault: Option<&str>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Self {
        let link = |own: &IpAddr| Link {
            own: *own,
            interval: rules.interval,
            down_at: now,
            alive_until: now,
            is_preempted: false,
            heard: None,
            worse_since: None,
            asserted: [None; 2],
        };
        let links = rules.links.iter().map(link).collect();
        let has_learnt = !rules.learns;
        let mut election = Self {
            rules,
            role: Role::Stopped,
            since: now,
            cause: Cause::Started,
            links,
            advertise_at: now,
            advertised: now,
            told: now,
            unwatched: Duration::ZERO,
            order: None,
            fault: fault.map(str::to_owned),
            bonus: 0,
            has_learnt,
        };
        election.begin(now, Cause::Started, actions);
        election
    }

    /// What it is, since when, and why.
    pub fn state(&self) -> (Role, Duration, &Cause) {
        (self.role, self.since, &self.cause)
    }

    /// The last advertisement that a link has heard, and when.
    pub fn heard(&self, link: usize) -> Option<(Heard, Duration)> {
        self.links.get(link)?.heard
    }

    /// The priority that it sends.
    pub fn priority(&self) -> u8 {
        match self.order {
            // More than any but an owner.
            Some(Order::TakeOver) => self.rules.priority.max(OWNER - 1),
            Some(Order::Release) | None => self.usual_priority(),
        }
    }

    fn usual_priority(&self) -> u8 {
        let priority = self.rules.priority;
        let sum = i32::from(priority).saturating_add(self.bonus);
        // Neither resigned nor an owner.
        if priority == OWNER {
            priority
        } else {
            u8::try_from(sum.clamp(1, 254)).unwrap_or(priority)
        }
    }

    /// Something that it depends on has changed: this is added to the priority from now on.
    pub fn set_bonus(&mut self, bonus: i32) {
        self.bonus = bonus;
    }

    /// Whether it knows the connections of the one that works. Before that it takes over when that
    /// one is silent or gives up, or when the operator says so, and not because it is better.
    pub fn set_learnt(&mut self, has_learnt: bool) {
        // What it knew before something broke is old.
        let is_old = self.rules.learns && self.role == Role::Fault;
        self.has_learnt = has_learnt && !is_old;
    }

    /// Whether another one is heard that has the addresses.
    pub fn hears_a_master(&self, now: Duration) -> bool {
        let heard = self.links.iter().filter_map(|link| link.heard);
        let gives_up = heard.filter(|(heard, _)| heard.priority == RESIGNED);
        // It does on all links, also where that does not come.
        let given_up = gives_up.map(|(_, at)| at).max();
        (0..).zip(&self.links).any(|(place, link)| {
            link.heard.is_some_and(|(heard, at)| {
                let patience = self.patience(place).max(heard.interval * PATIENCE);
                given_up.is_none_or(|given_up| at > given_up) && now.saturating_sub(at) <= patience
            })
        })
    }

    /// How much of the silence since it began to wait does not count, because it did not look.
    pub fn unwatched(&self) -> Duration {
        self.unwatched
    }

    /// How long others wait at least after an advertisement of this one: until then it is the
    /// master, whatever happens.
    pub fn lease(&self) -> Duration {
        self.rules.interval * PATIENCE
    }

    /// How long it waits at most for an advertisement.
    pub fn longest_patience(&self) -> Duration {
        let links = 0..self.links.len();
        links.map(|link| self.patience(link)).max().unwrap_or_default()
    }

    /// What is broken; `None`: nothing.
    pub fn set_fault(&mut self, now: Duration, fault: Option<&str>, actions: &mut Vec<Action>) {
        if self.fault.as_deref() == fault || self.role == Role::Stopped {
            return;
        }
        self.fault = fault.map(str::to_owned);
        match (fault, self.role) {
            (Some(what), Role::Master | Role::Backup) => {
                self.resign(actions);
                self.enter(now, Role::Fault, Cause::Broken(what.to_owned()), actions);
                self.has_learnt &= !self.rules.learns;
            }
            (None, Role::Fault) => self.begin(now, Cause::Repaired, actions),
            (Some(what), Role::Fault) => self.cause = Cause::Broken(what.to_owned()),
            (Some(_) | None, _) => {}
        }
    }

    /// Does as the operator says.
    ///
    /// # Errors
    /// What is broken, so that it cannot take over.
    pub fn obey(
        &mut self,
        now: Duration,
        order: Order,
        actions: &mut Vec<Action>,
    ) -> Result<(), String> {
        if let (Order::TakeOver, Some(fault)) = (order, &self.fault) {
            return Err(fault.clone());
        }
        self.order = Some(order);
        match (order, self.role) {
            (Order::Release, Role::Master) => {
                self.resign(actions);
                self.wait(now);
                // Another one has all the time that it may need.
                let longer = self.lease() * 2;
                self.links.iter_mut().for_each(|link| link.down_at += longer);
                self.enter(now, Role::Backup, Cause::Operator, actions);
            }
            (Order::TakeOver, Role::Backup) => self.rule(now, Cause::Operator, actions),
            (Order::Release | Order::TakeOver, _) => {}
        }
        Ok(())
    }

    /// The director ends.
    pub fn stop(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.resign(actions);
        self.enter(now, Role::Stopped, Cause::Stops, actions);
    }

    /// An advertisement was heard.
    pub fn hear(&mut self, now: Duration, link: usize, heard: Heard, actions: &mut Vec<Action>) {
        let Some(known) = self.links.get_mut(link) else { return };
        known.heard = Some((heard, now));
        self.step_down_if_stalled(now, actions);
        match self.role {
            Role::Backup => {
                self.make_up(now);
                self.hear_as_backup(now, link, heard);
            }
            Role::Master => self.hear_as_master(now, link, heard, actions),
            Role::Fault | Role::Stopped => {}
        }
    }

    fn hear_as_backup(&mut self, now: Duration, link: usize, heard: Heard) {
        let may_preempt = self.has_learnt && self.order != Some(Order::Release);
        let is_better = self.priority() > heard.priority && may_preempt;
        let skew = self.skew(link);
        // RFC 9568 section 6.1: an owner always preempts.
        let is_owner = self.rules.priority == OWNER;
        let preempt = if is_owner { Preempt::After(Duration::ZERO) } else { self.rules.preempt };
        if heard.priority == RESIGNED {
            // It has given up all of them; another one, or who has not, is heard again.
            for known in &mut self.links {
                known.down_at = known.down_at.min(now + skew);
                (known.alive_until, known.is_preempted) = (now, false);
            }
            if let Some(known) = self.links.get_mut(link) {
                known.down_at = now + skew;
            }
            return;
        }
        let Some(known) = self.links.get_mut(link) else { return };
        if self.rules.version == Version::V3 {
            known.interval = heard.interval;
        }
        known.is_preempted = if is_better && let Preempt::After(delay) = preempt {
            let since = *known.worse_since.get_or_insert(now);
            now.saturating_sub(since) >= delay
        } else {
            known.worse_since = None;
            false
        };
        let patience = self.patience(link);
        self.unwatched = Duration::ZERO;
        if let Some(known) = self.links.get_mut(link) {
            known.alive_until = now + patience;
            if !known.is_preempted {
                known.down_at = known.alive_until;
            }
        }
    }

    fn hear_as_master(
        &mut self,
        now: Duration,
        link: usize,
        heard: Heard,
        actions: &mut Vec<Action>,
    ) {
        let priority = self.priority();
        let interval = self.rules.interval;
        let is_better = self.is_better(now, link, heard);
        let Some(known) = self.links.get_mut(link) else { return };
        let Heard { from, priority: other, interval: _ } = heard;
        if is_better {
            if self.rules.version == Version::V3 {
                known.interval = heard.interval;
            }
            // So that the better one knows that others may have been told otherwise.
            self.advertise(now, priority, actions);
            self.enter(now, Role::Backup, Cause::Better { from, priority: other }, actions);
            self.wait(now);
            return;
        }
        // One that floods us with these is not answered each time.
        let [worse, resigned] = &mut known.asserted;
        let asserted = if other == RESIGNED { resigned } else { worse };
        if asserted.is_none_or(|at| now.saturating_sub(at) >= interval / 4) {
            *asserted = Some(now);
            actions.push(Action::Advertise { link, priority });
            // Who gives up had the addresses, too: what it has announced may have come just now.
            actions.push(Action::Announce { link });
        }
    }

    /// Whether a master is to yield to another one: to a higher priority, or the same and a higher
    /// address; of two that the operator had take over, the one that was told so before.
    fn is_better(&self, now: Duration, link: usize, heard: Heard) -> bool {
        let priority = self.priority();
        let is_told = self.order == Some(Order::TakeOver) && priority < OWNER;
        if is_told && heard.priority == priority {
            return now.saturating_sub(self.since) > self.lease();
        }
        let own = self.links.get(link).map(|known| known.own);
        (heard.priority, Some(heard.from)) > (priority, own)
    }

    /// The time is `now`. `is_watching`: since it was told last, what came in was looked at.
    pub fn tick(&mut self, now: Duration, is_watching: bool, actions: &mut Vec<Action>) {
        match self.role {
            Role::Master => {
                self.step_down_if_stalled(now, actions);
                if self.role == Role::Master && now >= self.advertise_at {
                    self.advertise(now, self.priority(), actions);
                }
            }
            Role::Backup => {
                self.make_up(now);
                if !is_watching {
                    self.wait_longer(now.saturating_sub(self.told));
                }
                self.leave_to_the_living();
                if self.links.iter().all(|link| link.down_at <= now) {
                    let cause = self.why_now();
                    self.rule(now, cause, actions);
                }
            }
            Role::Fault | Role::Stopped => {}
        }
        self.told = now;
    }

    /// Who does not look cannot say that nobody was there: what has passed since the time was told
    /// last does not count, if it is long.
    fn make_up(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.told);
        if passed > self.rules.interval {
            self.wait_longer(passed);
            self.told = now;
        }
    }

    fn wait_longer(&mut self, passed: Duration) {
        self.unwatched += passed;
        for link in &mut self.links {
            link.down_at += passed;
            link.alive_until += passed;
        }
    }

    /// Who was to be taken over from, and is not any more since the operator said so, or because of
    /// what is tracked or was forgotten, is there as long as any other.
    fn leave_to_the_living(&mut self) {
        let may_preempt = self.has_learnt && self.order != Some(Order::Release);
        let priority = self.priority();
        for link in &mut self.links {
            let is_better = link.heard.is_some_and(|(heard, _)| priority > heard.priority);
            if !(link.is_preempted && is_better && may_preempt) {
                link.down_at = link.down_at.max(link.alive_until);
            }
        }
    }

    /// A master that was silent for longer than others wait is none any more.
    fn step_down_if_stalled(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let silent = now.saturating_sub(self.advertised);
        if silent > self.lease() {
            self.step_down(now, silent, actions);
        }
    }

    /// What a master has said has not left for so long.
    pub fn step_down(&mut self, now: Duration, silent: Duration, actions: &mut Vec<Action>) {
        if self.role == Role::Master {
            self.enter(now, Role::Backup, Cause::Stalled { silent }, actions);
            self.wait(now);
        }
    }

    /// Why nobody else is the master.
    fn why_now(&self) -> Cause {
        let heard = self.links.iter().rev().filter_map(|link| link.heard);
        let last = heard.max_by_key(|(_, at)| *at);
        match last {
            Some((Heard { from, priority: RESIGNED, .. }, _)) => Cause::Resigned { from },
            Some((Heard { from, priority, .. }, at))
                if self.told.saturating_sub(at) < self.lease() =>
            {
                Cause::Preempts { from, priority }
            }
            Some(_) | None => Cause::Silence,
        }
    }

    /// Takes part from the beginning, if it can.
    fn begin(&mut self, now: Duration, cause: Cause, actions: &mut Vec<Action>) {
        if let Some(what) = self.fault.clone() {
            return self.enter(now, Role::Fault, Cause::Broken(what), actions);
        }
        if self.rules.priority == OWNER && self.has_learnt && self.order != Some(Order::Release) {
            return self.rule(now, Cause::Owner, actions);
        }
        self.wait(now);
        self.enter(now, Role::Backup, cause, actions);
    }

    /// Waits for a master as long as one may be silent.
    fn wait(&mut self, now: Duration) {
        (self.told, self.unwatched) = (now, Duration::ZERO);
        for link in 0..self.links.len() {
            let patience = self.patience(link);
            if let Some(known) = self.links.get_mut(link) {
                known.down_at = now + patience;
                (known.worse_since, known.is_preempted) = (None, false);
            }
        }
    }

    /// Becomes the master.
    fn rule(&mut self, now: Duration, cause: Cause, actions: &mut Vec<Action>) {
        if self.order == Some(Order::Release) {
            // Nobody else is there: what the operator wanted is no use any more.
            self.order = None;
        }
        for link in &mut self.links {
            link.interval = self.rules.interval;
            link.asserted = [None; 2];
        }
        self.enter(now, Role::Master, cause, actions);
        self.advertise_at = now;
        self.advertise(now, self.priority(), actions);
    }

    fn enter(&mut self, now: Duration, role: Role, cause: Cause, actions: &mut Vec<Action>) {
        if role != Role::Master && self.order == Some(Order::TakeOver) {
            self.order = None;
        }
        (self.role, self.since, self.cause) = (role, now, cause.clone());
        actions.push(Action::Enter(role, cause));
    }

    fn advertise(&mut self, now: Duration, priority: u8, actions: &mut Vec<Action>) {
        let links = 0..self.links.len();
        actions.extend(links.map(|link| Action::Advertise { link, priority }));
        self.advertised = now;
        // At the same pace, unless some are missed.
        let next = self.advertise_at + self.rules.interval;
        self.advertise_at = if next > now { next } else { now + self.rules.interval };
    }

    /// The master says that it gives up.
    fn resign(&self, actions: &mut Vec<Action>) {
        if self.role == Role::Master {
            let links = 0..self.links.len();
            actions.extend(links.map(|link| Action::Advertise { link, priority: RESIGNED }));
        }
    }

    /// By how much later worse ones take over (`Skew_Time`).
    fn skew(&self, link: usize) -> Duration {
        let unit = match self.rules.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.links.get(link).map_or(self.rules.interval, |link| link.interval),
        };
        unit * (256 - u32::from(self.priority())) / 256
    }

    /// How long a master may be silent (`Active_Down_Interval`).
    fn patience(&self, link: usize) -> Duration {
        let interval = self.links.get(link).map_or(self.rules.interval, |link| link.interval);
        interval * PATIENCE + self.skew(link)
    }
}
