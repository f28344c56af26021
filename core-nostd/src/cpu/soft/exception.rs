//! Exceptions and interrupts on their way into the processor.
//!
//! Source: Intel SDM volume 3, chapter "Interrupt and Exception Handling".

use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::SegmentRegister;
use crate::cpu::mmu::{Fault, FaultKind};

/// An exception, as its instruction raises it (SDM volume 3, table 6-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the SDM's names")]
pub enum Exception {
    DivideError,
    /// A fault or trap; the bits go to DR6.
    Debug(u64),
    Breakpoint,
    Overflow,
    BoundRange,
    InvalidOpcode,
    DeviceNotAvailable,
    DoubleFault,
    InvalidTss(u16),
    SegmentNotPresent(u16),
    StackFault(u16),
    GeneralProtection(u16),
    /// With its error code; the address is in CR2 by the time it is raised.
    PageFault(u32),
    FloatingPoint,
    AlignmentCheck,
    SimdFloatingPoint,
}

impl Exception {
    /// #GP(0).
    pub const GP0: Self = Self::GeneralProtection(0);
    /// #SS(0).
    pub const SS0: Self = Self::StackFault(0);
    /// #UD.
    pub const UD: Self = Self::InvalidOpcode;
}

/// An exception was raised; [`Cpu::raise`] has noted which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised;

impl Cpu {
    /// Notes an exception, for `Err(self.raise(...))`.
    #[cold]
    pub(super) fn raise(&mut self, exception: Exception) -> Raised {
        self.raised = Some(exception);
        Raised
    }

    /// #UD.
    pub(super) fn undefined<T>(&mut self) -> Outcome<T> {
        Err(self.raise(Exception::UD))
    }

    /// #GP(0).
    pub(super) fn protection<T>(&mut self) -> Outcome<T> {
        Err(self.raise(Exception::GP0))
    }

    /// Raises what an access by a segment raises.
    #[cold]
    pub(super) fn access_fault(&mut self, fault: Fault, segment: SegmentRegister) -> Raised {
        let exception = match fault.kind {
            FaultKind::Page => {
                self.cr2 = fault.linear;
                Exception::PageFault(fault.error_code)
            }
            FaultKind::NotCanonical if segment == SegmentRegister::Ss => Exception::SS0,
            FaultKind::NotCanonical => Exception::GP0,
        };
        self.raise(exception)
    }

    /// Delivers what was raised. An error is a triple fault.
    pub(super) fn deliver_raised(&mut self, bus: &mut Bus<'_>) -> Outcome {
        let _ = bus;
        self.events.triple_fault = true;
        Err(Raised)
    }

    /// Takes an NMI, or an interrupt if they are enabled. An error is a triple fault.
    pub(super) fn take_interrupts(&mut self, bus: &mut Bus<'_>) -> Outcome {
        let _ = bus;
        Ok(())
    }

    /// An NMI, INIT or start-up IPI has come.
    pub(super) fn event(&mut self, bus: &mut Bus<'_>, event: super::Event) {
        let _ = (bus, event);
    }
}
