//! The state of a whole VM, in memory: taken from one accelerator and loaded into either.
//!
//! Processors and devices have one form of state, whoever runs them; what a kernel keeps of them is
//! converted. Guest RAM is not part of it: whoever moves a guest brings that first, because processors
//! look at page tables in it when they get their state.
//!
//! A guest goes where its processors' features are. More of them do no harm, since it has found out
//! already what there is.

use std::fmt;

use thimble_core::cpu::CpuState;
use thimble_core::cpu::features::FeatureSet;
use thimble_core::machine::{RunState, STATE_MAX};
use thimble_core::state::StateError;

use super::{Accelerator, ProcessorError, Processors, Vm};
use crate::clock::monotonic;
use crate::cpuid::first_missing;
use crate::kvm::{Instant, Irqchip, KvmError};
use crate::soft::Turns;

/// The state of a VM, but for RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What the processors show of themselves.
    features: FeatureSet,
    /// What the virtual clock reads.
    now: u64,
    /// The devices' sections.
    machine: Vec<u8>,
    /// The processors.
    processors: Vec<Box<CpuState>>,
    /// What the software CPU's have in common.
    turns: Option<Turns>,
}

/// Why state could not be taken or loaded.
#[derive(Debug)]
pub enum MoveError {
    /// The guest runs.
    Running,
    /// There is another number of processors.
    Processors {
        /// In the state.
        saved: usize,
        /// Here.
        here: usize,
    },
    /// The processors here lack a feature.
    Feature(String),
    /// A processor can't be read or set.
    Processor(ProcessorError),
    /// The state does not fit the machine.
    State(StateError),
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("the guest runs"),
            Self::Processors { saved, here } => {
                write!(f, "the state has {saved} processors, the machine {here}")
            }
            Self::Feature(name) => {
                write!(
                    f,
                    "the processors lack a feature that the guest has: {name}"
                )
            }
            Self::Processor(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MoveError {}

impl From<ProcessorError> for MoveError {
    fn from(error: ProcessorError) -> Self {
        Self::Processor(error)
    }
}

impl From<KvmError> for MoveError {
    fn from(error: KvmError) -> Self {
        Self::Processor(error.into())
    }
}

impl From<StateError> for MoveError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl Snapshot {
    /// The processors.
    pub fn processors(&self) -> impl Iterator<Item = &CpuState> {
        self.processors.iter().map(|state| &**state)
    }
}

impl Vm {
    /// The state of a VM whose guest does not run, but for RAM.
    ///
    /// # Errors
    /// If the guest runs, or the accelerator can't tell.
    pub fn snapshot(&self) -> Result<Snapshot, MoveError> {
        if self.run_state == RunState::Running {
            return Err(MoveError::Running);
        }
        let count = self.processors.as_ref().map_or(0, Processors::count);
        let mut processors = Vec::with_capacity(count as usize);
        for index in 0..count {
            processors.extend(
                self.processors
                    .as_ref()
                    .map(|p| p.state(index))
                    .transpose()?,
            );
        }
        let mut machine = vec![0; STATE_MAX];
        let now = self.shared.lock().clock.now();
        if let Accelerator::Kvm(kvm) = self.shared.accelerator()
            && kvm.irqchip() == Irqchip::On
        {
            let state = kvm.controllers(at(now))?;
            self.shared
                .call(|machine, bridge, now| machine.set_controllers(bridge, now, state))?;
        }
        let length = self.shared.lock().machine.save(&mut machine)?;
        machine.truncate(length);
        Ok(Snapshot {
            features: self.settings.features,
            now,
            machine,
            processors,
            turns: match &self.processors {
                Some(processors) => processors.turns()?,
                None => None,
            },
        })
    }

    /// Takes over the state of a VM with the same devices, RAM excepted, which must be in place. The
    /// guest stays stopped.
    ///
    /// # Errors
    /// If the guest runs; if the processors here are others, of which nothing has changed then; or if
    /// some state is impossible, after which the VM must be reset.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), MoveError> {
        if self.run_state == RunState::Running {
            return Err(MoveError::Running);
        }
        let (saved, here) = (
            snapshot.processors.len(),
            self.processors.as_ref().map_or(0, Processors::count) as usize,
        );
        if saved != here {
            return Err(MoveError::Processors { saved, here });
        }
        if let Some(name) = first_missing(&snapshot.features, &self.settings.features) {
            return Err(MoveError::Feature(name));
        }
        self.shared.lock().clock.set(snapshot.now);
        let (accelerator, bytes) = (self.shared.accelerator(), &snapshot.machine);
        self.shared
            .call(|machine, bridge, now| machine.load(bridge, now, bytes))?;
        if let Accelerator::Kvm(kvm) = accelerator
            && kvm.irqchip() == Irqchip::On
        {
            let state = self.shared.lock().machine.controllers();
            kvm.set_controllers(&state, at(snapshot.now))?;
        }
        for (index, state) in (0..).zip(&snapshot.processors) {
            if let Some(processors) = &self.processors {
                processors.set_state(index, state)?;
            }
        }
        if let Some(processors) = &self.processors {
            processors.set_turns(snapshot.turns.as_ref())?;
        }
        Ok(())
    }
}

/// This instant, at which the virtual clock stands.
pub(super) fn at(now: u64) -> Instant {
    Instant {
        now,
        monotonic: monotonic(),
    }
}
