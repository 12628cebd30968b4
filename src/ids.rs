//! Small numbers that name things, one type each, so that they cannot be mixed up.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The number as an index into the table of its kind.
            #[inline]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A DPDK port as EAL numbers it.
    PortId(u16)
);
id!(
    /// A receive or transmit queue of one port.
    QueueId(u16)
);
id!(
    /// A configured interface, in the order of the configuration file.
    InterfaceId(u8)
);
id!(
    /// A VLAN (IEEE 802.1Q), 1 to 4094; 0: frames without a tag.
    VlanId(u16)
);
id!(
    /// A worker: 0 to workers - 1.
    WorkerId(u16)
);
id!(
    /// A virtual service's slot in the counters; kept for its whole life, across snapshots.
    ServiceId(u16)
);
id!(
    /// A real server's slot within the counters (one slot for each server of each service).
    ServerSlot(u16)
);

impl VlanId {
    /// Frames without a tag, or with one that only states a priority.
    pub const UNTAGGED: Self = Self(0);
    /// The largest; 4095 is reserved.
    pub const MAX: Self = Self(4094);
}

/// The version of a service table; it grows with every snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableVersion(pub u64);

impl fmt::Display for TableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

id!(
    /// A CPU as the operating system numbers it.
    CpuId(u16)
);

/// Which workers a connection is of: that of its client's packets, and that of its server's.
pub type OwnersOf<C> = Box<dyn Fn(&C) -> [WorkerId; 2] + Send>;
