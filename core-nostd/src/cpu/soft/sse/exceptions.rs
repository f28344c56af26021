//! Exceptions of SSE's arithmetic: what the guest's masks make of flags.
//!
//! Source: Intel SDM volume 1, 11.5 and tables 4-9 and 11-1; volume 3, 6.15 "Interrupt 19".
//!
//! The host computes with all exceptions masked, which is not all that there is to know:
//!
//! - masked underflow is a result that is tiny and inexact, unmasked underflow one that is tiny. With
//!   FTZ set and underflow masked all tiny results are flushed, so a second run tells of them;
//! - a result that overflows or is tiny, where that is unmasked, is inexact if it were so with any
//!   exponent. Operands' exponents are changed then, so that nothing else is lost.

use super::super::packed::element;
use super::super::{Cpu, Exception, Outcome};
use super::compose::{DOUBLE, Format, SINGLE};
use super::mxcsr;
use super::native::{Computed, Native};
use x86_64::registers::control::Cr4Flags;

/// Numbers that an operation computes, if its results may overflow or be tiny: of which format and
/// how many, and the operation on one.
fn numbers(native: Native) -> Option<(Format, u32, Native)> {
    match native {
        Native::Pd2Ps | Native::Sd2Ss => {
            let count = if native == Native::Pd2Ps { 2 } else { 1 };
            Some((DOUBLE, count, Native::Sd2Ss))
        }
        _ if (native as u8) < Native::MinPs as u8 => Some(match native as u8 & 3 {
            0 => (SINGLE, 4, native.plus(2)),
            1 => (DOUBLE, 2, native.plus(2)),
            2 => (SINGLE, 1, native),
            _ => (DOUBLE, 1, native),
        }),
        _ => None,
    }
}

/// Computes, with flags as unmasked exceptions of `control` see them; but for inexact results that
/// overflow or are tiny.
fn with_tiny(native: Native, a: u128, b: u128, general: u64, control: u32) -> Computed {
    if control & mxcsr::UNDERFLOW << mxcsr::MASKS != 0 {
        return native.compute(a, b, general, control);
    }
    // Where underflow is unmasked FTZ is not heeded.
    let mut computed = native.compute(a, b, general, control & !mxcsr::FTZ);
    let flushed = native.compute(a, b, general, control | mxcsr::FTZ);
    computed.flags |= flushed.flags & mxcsr::UNDERFLOW;
    computed
}

/// Whether the result of two numbers, which overflows or is tiny, is inexact with any exponent.
fn inexact(native: Native, format: Format, a: u64, b: u64, control: u32) -> u32 {
    let control = control & !(mxcsr::FTZ | mxcsr::DAZ);
    let (a, b) = if matches!(
        native,
        Native::AddSs | Native::AddSd | Native::SubSs | Native::SubSd
    ) {
        // Only large ones overflow, and tiny sums are exact.
        match (format.smaller(a), format.smaller(b)) {
            (Some(a), Some(b)) => (a, b),
            _ => return mxcsr::PRECISION,
        }
    } else {
        (format.significand(a), format.significand(b))
    };
    native.compute(a.into(), b.into(), 0, control).flags & mxcsr::PRECISION
}

impl Cpu {
    /// Computes with the guest's MXCSR, which is not changed yet.
    pub(in crate::cpu::soft) fn native(
        &self,
        native: Native,
        a: u128,
        b: u128,
        general: u64,
    ) -> Computed {
        let control = self.fpu.mxcsr;
        let mut computed = with_tiny(native, a, b, general, control);
        let unmasked = (mxcsr::OVERFLOW | mxcsr::UNDERFLOW) & !(control >> mxcsr::MASKS);
        if computed.flags & unmasked == 0 || computed.flags & mxcsr::PRECISION == 0 {
            return computed;
        }
        let Some((format, count, scalar)) = numbers(native) else {
            return computed;
        };
        computed.flags &= !mxcsr::PRECISION;
        for number in 0..count {
            let (a, b) = (
                element(format.bits, a, number),
                element(format.bits, b, number),
            );
            let one = with_tiny(scalar, a.into(), b.into(), 0, control);
            computed.flags |= if one.flags & unmasked == 0 {
                one.flags & mxcsr::PRECISION
            } else {
                inexact(scalar, format, a, b, control)
            };
        }
        computed
    }

    /// Takes over flags that an instruction has set, and raises what they say if it is not masked.
    pub(in crate::cpu::soft) fn settle(&mut self, flags: u32) -> Outcome {
        let unmasked = flags & !(self.fpu.mxcsr >> mxcsr::MASKS);
        if unmasked == 0 {
            self.fpu.mxcsr |= flags;
            return Ok(());
        }
        // What is found before a computation keeps it from being done.
        self.fpu.mxcsr |= if unmasked & mxcsr::BEFORE != 0 {
            flags & mxcsr::BEFORE
        } else {
            flags
        };
        if self.cr4().contains(Cr4Flags::OSXMMEXCPT_ENABLE) {
            Err(self.raise(Exception::SimdFloatingPoint))
        } else {
            self.undefined()
        }
    }

    /// An instruction that is one of the host's.
    pub(in crate::cpu::soft) fn one(&mut self, native: Native, a: u128, b: u128) -> Outcome<u128> {
        let computed = self.native(native, a, b, 0);
        self.settle(computed.flags)?;
        Ok(computed.xmm)
    }
}
