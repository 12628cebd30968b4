//! The schedulers by name, and their flags.

use std::fmt;
use std::str::FromStr;

/// How a service chooses the real server of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum SchedulerKind {
    /// Round robin.
    RoundRobin,
    /// Weighted round robin.
    WeightedRoundRobin,
    /// Least connections.
    LeastConnections,
    /// Weighted least connections, the default of IPVS and of pointsman.
    #[default]
    WeightedLeastConnections,
    /// Locality-based least connections.
    LocalityLeastConnections,
    /// Locality-based least connections with replication.
    LocalityLeastConnectionsReplicated,
    /// By a hash of the destination.
    DestinationHashing,
    /// By a hash of the source.
    SourceHashing,
    /// Shortest expected delay.
    ShortestExpectedDelay,
    /// Never queue.
    NeverQueue,
    /// Weighted failover.
    WeightedFailover,
    /// Weighted overflow.
    WeightedOverflow,
    /// Maglev hashing as IPVS does it.
    MaglevHashing,
    /// The better of two that are drawn.
    PowerOfTwoChoices,
    /// Maglev hashing with a larger table.
    Maglev,
}

/// A word that changes how a scheduler works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchedulerFlag {
    /// Where the server of a client cannot take it, another one is found by hash.
    Fallback,
    /// The client's port counts, too.
    Port,
}

impl SchedulerKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 15] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::WeightedLeastConnections,
        Self::LocalityLeastConnections,
        Self::LocalityLeastConnectionsReplicated,
        Self::DestinationHashing,
        Self::SourceHashing,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
        Self::WeightedFailover,
        Self::WeightedOverflow,
        Self::MaglevHashing,
        Self::PowerOfTwoChoices,
        Self::Maglev,
    ];

    /// Whether a server's weight is its share of the new connections, also while it changes.
    pub const fn shares_by_weight(self) -> bool {
        match self {
            Self::WeightedRoundRobin
            | Self::WeightedLeastConnections
            | Self::LocalityLeastConnections
            | Self::LocalityLeastConnectionsReplicated
            | Self::ShortestExpectedDelay
            | Self::NeverQueue
            | Self::PowerOfTwoChoices => true,
            Self::RoundRobin
            | Self::LeastConnections
            | Self::DestinationHashing
            | Self::SourceHashing
            | Self::WeightedFailover
            | Self::WeightedOverflow
            | Self::MaglevHashing
            | Self::Maglev => false,
        }
    }

    /// The name that IPVS uses; `maglev`, which IPVS has not.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::LeastConnections => "lc",
            Self::WeightedLeastConnections => "wlc",
            Self::LocalityLeastConnections => "lblc",
            Self::LocalityLeastConnectionsReplicated => "lblcr",
            Self::DestinationHashing => "dh",
            Self::SourceHashing => "sh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
            Self::WeightedFailover => "fo",
            Self::WeightedOverflow => "ovf",
            Self::MaglevHashing => "mh",
            Self::PowerOfTwoChoices => "twos",
            Self::Maglev => "maglev",
        }
    }

    /// The flags that fit this scheduler, by the names that ipvsadm gives them (`-b`), in the
    /// order in which it prints them.
    pub const fn flags(self) -> &'static [(&'static str, SchedulerFlag)] {
        match self {
            Self::SourceHashing => {
                &[("sh-fallback", SchedulerFlag::Fallback), ("sh-port", SchedulerFlag::Port)]
            }
            Self::MaglevHashing => {
                &[("mh-fallback", SchedulerFlag::Fallback), ("mh-port", SchedulerFlag::Port)]
            }
            // It always falls back.
            Self::Maglev => &[("maglev-port", SchedulerFlag::Port)],
            Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::LeastConnections
            | Self::WeightedLeastConnections
            | Self::LocalityLeastConnections
            | Self::LocalityLeastConnectionsReplicated
            | Self::DestinationHashing
            | Self::ShortestExpectedDelay
            | Self::NeverQueue
            | Self::WeightedFailover
            | Self::WeightedOverflow
            | Self::PowerOfTwoChoices => &[],
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("unknown scheduler {text:?}; known: {}", known.join(", "))
        })
    }
}

/// The flags of a service's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct SchedulerFlags {
    /// Where the server of a client cannot take it, another one is found by hash.
    pub fallback: bool,
    /// The client's port counts, too.
    pub port: bool,
}

impl SchedulerFlags {
    /// With one more.
    #[must_use]
    pub const fn with(self, flag: SchedulerFlag) -> Self {
        match flag {
            SchedulerFlag::Fallback => Self { fallback: true, ..self },
            SchedulerFlag::Port => Self { port: true, ..self },
        }
    }

    /// Whether a flag is set.
    pub const fn has(self, flag: SchedulerFlag) -> bool {
        match flag {
            SchedulerFlag::Fallback => self.fallback,
            SchedulerFlag::Port => self.port,
        }
    }

    /// The names of those that are set and fit the scheduler.
    pub fn names(self, kind: SchedulerKind) -> impl Iterator<Item = &'static str> {
        kind.flags().iter().filter(move |(_, flag)| self.has(*flag)).map(|(name, _)| *name)
    }

    /// The flag of this name, of whichever scheduler.
    ///
    /// # Errors
    /// No scheduler has it; says which there are.
    pub fn find(name: &str) -> Result<(SchedulerKind, SchedulerFlag), String> {
        let all = || {
            let with_flags = SchedulerKind::ALL.into_iter();
            with_flags.flat_map(|kind| kind.flags().iter().map(move |flag| (kind, flag)))
        };
        let found = all().find(|(_, (known, _))| *known == name);
        found.map(|(kind, (_, flag))| (kind, *flag)).ok_or_else(|| {
            let known: Vec<_> = all().map(|(_, (name, _))| *name).collect();
            format!("unknown scheduler flag {name:?}; known: {}", known.join(", "))
        })
    }
}
