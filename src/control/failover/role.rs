//! What a director of a pair is, and why.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// What a director of a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It waits until no other one is heard.
    Backup,
    /// It has the floating addresses.
    Master,
    /// Something that it needs is broken: it takes no part.
    Fault,
    /// It has ended.
    Stopped,
}

impl Role {
    /// Its name, as it is logged and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a role was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The director has started.
    Started,
    /// It owns the addresses.
    Owner,
    /// No other one was heard in time.
    Silence,
    /// The master has given up.
    Resigned {
        /// Who that was.
        from: IpAddr,
    },
    /// The master is a worse one, and this one preempts.
    Preempts {
        /// The worse one.
        from: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// A better one was heard.
    Better {
        /// The better one.
        from: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// Something that is needed is broken.
    Broken(String),
    /// What was broken works again.
    Repaired,
    /// The operator said so.
    Operator,
    /// Nothing was said for longer than others wait.
    Stalled {
        /// For so long.
        silent: Duration,
    },
    /// The director ends.
    Stops,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("the director has started"),
            Self::Owner => f.write_str("the addresses are its own"),
            Self::Silence => f.write_str("no other director was heard in time"),
            Self::Resigned { from } => write!(f, "{from} has given up"),
            Self::Preempts { from, priority } => {
                write!(f, "it is better than {from} with priority {priority}")
            }
            Self::Better { from, priority } => {
                write!(f, "{from} is there with priority {priority}")
            }
            Self::Broken(what) => f.write_str(what),
            Self::Repaired => f.write_str("what was broken works again"),
            Self::Operator => f.write_str("the operator said so"),
            Self::Stalled { silent } => {
                write!(f, "it stood still for {} ms", silent.as_millis())
            }
            Self::Stops => f.write_str("the director ends"),
        }
    }
}
