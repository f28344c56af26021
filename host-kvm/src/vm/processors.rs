//! Both accelerators with one face.

use std::fmt;
use std::sync::Arc;

use thimble_core::cpu::debugger::{Breaks, Resume};
use thimble_core::cpu::{CpuState, PagingRegisters, Registers};

use crate::kvm::{self, KvmError, Plan, Vcpus};
use crate::registers::Glance;
use crate::soft::{SoftCpus, SoftError, Turns, Wires};

/// What the machine's calls to its host reach of the accelerator.
#[derive(Clone)]
pub enum Accelerator {
    /// The kernel's virtual machine.
    Kvm(Arc<kvm::Vm>),
    /// The software CPU's processors.
    Soft(Arc<Wires>),
    /// Nothing runs guest code.
    None,
}

impl Accelerator {
    /// The kernel's virtual machine, if there is one.
    pub fn kvm(&self) -> Option<&kvm::Vm> {
        match self {
            Self::Kvm(kvm) => Some(kvm),
            Self::Soft(_) | Self::None => None,
        }
    }
}

/// What went wrong with a processor.
#[derive(Debug)]
pub enum ProcessorError {
    /// Under KVM.
    Kvm(KvmError),
    /// In the software CPU.
    Soft(SoftError),
}

impl fmt::Display for ProcessorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm(error) => error.fmt(f),
            Self::Soft(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ProcessorError {}

impl From<KvmError> for ProcessorError {
    fn from(error: KvmError) -> Self {
        Self::Kvm(error)
    }
}

impl From<SoftError> for ProcessorError {
    fn from(error: SoftError) -> Self {
        Self::Soft(error)
    }
}

/// All processors of the machine. What waits for them must not be called under the machine's lock:
/// all but [`Processors::count`] and [`Processors::resume`] may.
pub enum Processors {
    /// On KVM.
    Kvm(Vcpus),
    /// On the software CPU.
    Soft(SoftCpus),
}

impl Processors {
    /// How many there are.
    pub fn count(&self) -> u32 {
        match self {
            Self::Kvm(cpus) => cpus.count(),
            Self::Soft(cpus) => cpus.count(),
        }
    }

    /// Lets all run that can.
    pub fn resume(&self) {
        match self {
            Self::Kvm(cpus) => cpus.resume(),
            Self::Soft(cpus) => cpus.resume(),
        }
    }

    /// Makes all leave guest code: on return none runs, and all state is whole.
    pub fn pause(&self) {
        match self {
            Self::Kvm(cpus) => cpus.pause(),
            Self::Soft(cpus) => cpus.pause(),
        }
    }

    /// Puts all into their power-on state. They must be paused.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn reset(&self) -> Result<(), ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.reset()?),
            Self::Soft(cpus) => Ok(cpus.reset()?),
        }
    }

    /// The whole state of one. All must be paused.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn state(&self, index: u32) -> Result<Box<CpuState>, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(Box::new(cpus.state(index)?)),
            Self::Soft(cpus) => Ok(cpus.state(index)?),
        }
    }

    /// Sets the whole state of one. All must be paused.
    ///
    /// # Errors
    /// If no processor can be in that state, or whatever the accelerator says.
    pub fn set_state(&self, index: u32, state: &CpuState) -> Result<(), ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.set_state(index, state)?),
            Self::Soft(cpus) => Ok(cpus.set_state(index, state)?),
        }
    }

    /// What the software CPU's processors have in common; nothing on KVM. All must be paused.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn turns(&self) -> Result<Option<Turns>, ProcessorError> {
        match self {
            Self::Kvm(_) => Ok(None),
            Self::Soft(cpus) => Ok(Some(cpus.turns()?)),
        }
    }

    /// Sets it, if it is known. All must be paused.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn set_turns(&self, turns: Option<&Turns>) -> Result<(), ProcessorError> {
        match (self, turns) {
            (Self::Soft(cpus), Some(turns)) => Ok(cpus.set_turns(turns)?),
            (Self::Soft(_), None) | (Self::Kvm(_), _) => Ok(()),
        }
    }

    /// Sets what a debugger wants from now on, and how each goes on; `plan` is what it takes of KVM. All must be paused.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn set_debugger(
        &self,
        breaks: &Breaks,
        plan: &Plan,
        resume: &dyn Fn(u32) -> Resume,
    ) -> Result<(), ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.set_debugger(plan, resume)?),
            Self::Soft(cpus) => Ok(cpus.set_debugger(breaks, resume)?),
        }
    }

    /// The registers of one as text. All must be paused.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn dump(&self, index: u32) -> Result<String, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.dump(index)?),
            Self::Soft(cpus) => Ok(cpus.dump(index)?),
        }
    }

    /// The kernel's number of the thread that runs one.
    ///
    /// # Errors
    /// If there is no such processor.
    pub fn thread_id(&self, index: u32) -> Result<u32, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.thread_id(index)?),
            Self::Soft(cpus) => Ok(cpus.thread_id(index)?),
        }
    }

    /// What one is doing, while it runs or not.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn glance(&self, index: u32) -> Result<Glance, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.glance(index)?),
            Self::Soft(cpus) => Ok(cpus.glance(index)?),
        }
    }

    /// The registers by which one translates linear addresses, while it runs or not.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn paging(&self, index: u32) -> Result<PagingRegisters, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.paging(index)?),
            Self::Soft(cpus) => Ok(cpus.paging(index)?),
        }
    }

    /// Where one is, and what it sees, while it runs or not.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn registers(&self, index: u32) -> Result<Registers, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.registers(index)?),
            Self::Soft(cpus) => Ok(cpus.registers(index)?),
        }
    }

    /// Sends all an NMI, as far as their local APICs let it through; tells how many took it.
    ///
    /// # Errors
    /// Whatever the accelerator says.
    pub fn inject_nmi(&self) -> Result<u32, ProcessorError> {
        match self {
            Self::Kvm(cpus) => Ok(cpus.inject_nmi()?),
            Self::Soft(cpus) => Ok(cpus.inject_nmi()),
        }
    }

    /// Ends their threads.
    pub fn shutdown(&mut self) {
        match self {
            Self::Kvm(cpus) => cpus.shutdown(),
            Self::Soft(cpus) => cpus.shutdown(),
        }
    }
}
