//! The director before this one, whose connections go on here: a running one, or what one has left
//! in a file.

use std::sync::Arc;

use super::DirectorError;
use super::workers::secret;
use crate::control::config::Config;
use crate::control::handover::codec::Head;
use crate::control::handover::file::{Claim, StateFile};
use crate::control::handover::receiver::Receiver;
use crate::control::handover::{Import, Successor, Taken};
use crate::control::{Listeners, StartError};
use crate::dataplane::handover::{Expectations, Handover, Phase};
use crate::dpdk::tsc;
use crate::wire::flow_key::HashSecret;

/// The director before this one.
pub(super) enum Predecessor {
    /// None, or it has left nothing.
    Nobody,
    /// It has left a file.
    File(Box<StateFile>),
    /// It runs.
    Director(Box<Successor>),
}

impl Predecessor {
    /// `running`: the one that has started this one. With a file comes the claim to it, which ends
    /// once this director has started.
    pub(super) fn of(config: &Config, running: Option<Successor>) -> (Self, Option<Claim>) {
        if let Some(running) = running {
            return (Self::Director(Box::new(running)), None);
        }
        let claim = config.director.state_file.as_deref().and_then(Claim::of);
        let file = claim.as_ref().and_then(StateFile::open);
        (file.map_or(Self::Nobody, |file| Self::File(Box::new(file))), claim)
    }

    fn head(&self) -> Option<&Head> {
        match self {
            Self::Nobody => None,
            Self::File(file) => Some(file.head()),
            Self::Director(running) => Some(running.head()),
        }
    }

    /// The listeners of this director.
    pub(super) fn listeners(&mut self, config: &Config) -> Result<Listeners, StartError> {
        match self {
            Self::Nobody | Self::File(_) => Listeners::bind(config),
            Self::Director(running) => Listeners::inherit(config, running.listeners()),
        }
    }

    /// What decides the worker of a flow: the same as before, so that ports of the director's own
    /// lead to their workers.
    pub(super) fn secret(&self) -> Result<HashSecret, DirectorError> {
        self.head().map_or_else(secret, |head| Ok(head.secret))
    }

    /// What workers take connections by.
    pub(super) fn handover(
        &self,
        workers: usize,
        expectations: &Arc<Expectations>,
    ) -> Option<Arc<Handover>> {
        let phase = match self {
            Self::Nobody => return None,
            Self::File(_) => Phase::Hold,
            Self::Director(_) => Phase::Mute,
        };
        Some(Arc::new(Handover::new(workers, phase, Arc::clone(expectations))))
    }

    /// Gives the workers everything, and has them forward.
    pub(super) fn take_over(self, import: Import<'_>) -> Result<Option<Taken>, DirectorError> {
        let handover = Arc::clone(import.handover);
        match self {
            Self::Nobody => Ok(None),
            Self::File(file) => {
                let receiver = Receiver::new(import, file.head());
                let taken = file.take_over(receiver);
                handover.set_phase(Phase::Open);
                Ok(Some(taken))
            }
            Self::Director(mut running) => {
                let receiver = Receiver::new(import, running.head());
                match running.take_over(receiver, &handover, (tsc::now, tsc::hz())) {
                    Ok(taken) => Ok(Some(taken)),
                    Err(why) => {
                        running.fail(&why.to_string());
                        Err(why.into())
                    }
                }
            }
        }
    }

    /// Tells the director before that this one does not start.
    pub(super) fn fail(self, why: &DirectorError) {
        if let Self::Director(running) = self {
            running.fail(&why.to_string());
        }
    }
}
