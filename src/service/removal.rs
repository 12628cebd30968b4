//! What becomes of the connections of a server that is removed.

/// What becomes of the TCP and SCTP connections of a server that is removed. (Its UDP flows end at
/// once.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Removal {
    /// They go on until they end, as with IPVS.
    #[default]
    Finish,
    /// They are reset to the client at once.
    Reset,
    /// They are forgotten; nothing is sent. What their packets meet is as if there had been none.
    Forget,
}

impl Removal {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Finish, Self::Reset, Self::Forget];

    /// The word of the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::Reset => "reset",
            Self::Forget => "forget",
        }
    }
}
