//! FNSTENV, FLDENV, FNSAVE, FRSTOR: the x87's environment in memory, in its four formats.
//!
//! Source: Intel SDM volume 1, 8.1.10 with figures 8-9 to 8-12; volume 2 for each instruction.
//!
//! In 64-bit mode selectors are stored as 0 and not loaded. Bits that are reserved are stored as ones.

use super::{EXCEPTIONS, Number};
use crate::cpu::decode::{Instruction, Size};
use crate::cpu::soft::access::Intent;
use crate::cpu::soft::{Bus, Cpu, Outcome};

/// Bytes of an environment, of 32 and 16 bits.
const ENVIRONMENT: [usize; 2] = [28, 14];
/// Bytes of the registers behind it.
const REGISTERS: usize = 80;
/// Bytes of environment and registers at most.
const STATE: usize = ENVIRONMENT[0] + REGISTERS;

/// Tag: valid, zero, special, empty.
fn tag(number: &Number) -> u16 {
    let exponent = u16::from_le_bytes([number[8], number[9]]) & 0x7fff;
    let significand = u64::from_le_bytes(core::array::from_fn(|i| number[i]));
    match (exponent, significand) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        _ if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

impl Cpu {
    /// Whether an environment has 32 bits.
    fn wide_environment(i: &Instruction) -> bool {
        i.operand_size() != Size::Word
    }

    /// The tag word, whole.
    fn tags(&self) -> u16 {
        let mut tags = 0;
        for (number, register) in self.fpu.st.iter().enumerate() {
            let tag = match self.fpu.ftw >> number & 1 {
                0 => 3,
                _ => tag(register),
            };
            tags |= tag << (2 * number);
        }
        tags
    }

    /// The environment as bytes, and how many there are.
    fn environment(&self, wide: bool) -> ([u8; ENVIRONMENT[0]], usize) {
        let fpu = &self.fpu;
        let (ip, dp) = (fpu.fip as u32, fpu.fdp as u32);
        let selector = |pointer: u64| match self.bits64() {
            true => 0,
            false => (pointer >> 32) as u32 & 0xffff,
        };
        let opcode = u32::from(fpu.fop & 0x7ff);
        let pointers = if self.protected() {
            [
                ip,
                selector(fpu.fip) | opcode << 16,
                dp,
                selector(fpu.fdp) | 0xffff_0000,
            ]
        } else {
            // Linear addresses, whose upper parts are above the opcode.
            let linear = |pointer: u64| {
                ((pointer >> 32) as u32 & 0xffff)
                    .wrapping_mul(16)
                    .wrapping_add(pointer as u32)
            };
            let (ip, dp) = (linear(fpu.fip), linear(fpu.fdp));
            [
                ip | 0xffff_0000,
                opcode | ip >> 16 << 12,
                dp | 0xffff_0000,
                dp >> 16 << 12,
            ]
        };
        let words = [fpu.fcw, fpu.fsw, self.tags()].map(|word| u32::from(word) | 0xffff_0000);
        let mut bytes = [0; ENVIRONMENT[0]];
        let (width, all) = if wide {
            (4, ENVIRONMENT[0])
        } else {
            (2, ENVIRONMENT[1])
        };
        let words = words.into_iter().chain(pointers);
        for (place, word) in bytes.chunks_exact_mut(width).zip(words) {
            place.copy_from_slice(&word.to_le_bytes()[..width]);
        }
        (bytes, all)
    }

    /// Takes an environment over. Which registers are empty is all that tags say.
    fn set_environment(&mut self, wide: bool, bytes: &[u8]) {
        let width = if wide { 4 } else { 2 };
        let mut words = bytes.chunks_exact(width).map(|word| {
            let byte = |at: usize| word.get(at).copied().map_or(0, u32::from);
            byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
        });
        let mut next = || words.next().unwrap_or(0);
        let (fcw, fsw, tags) = (next() as u16, next() as u16, next() as u16);
        let (ip, cs, dp, ds) = (next(), next(), next(), next());
        let fpu = &mut self.fpu;
        fpu.ftw = 0;
        for number in 0..8 {
            if tags >> (2 * number) & 3 != 3 {
                fpu.ftw |= 1 << number;
            }
        }
        self.set_float_words(fcw, fsw);
        if self.protected() {
            let pointer = |offset: u32, selector: u32| {
                let selector = if self.bits64() { 0 } else { selector & 0xffff };
                u64::from(selector) << 32 | u64::from(offset)
            };
            (self.fpu.fip, self.fpu.fdp) = (pointer(ip, cs), pointer(dp, ds));
            self.fpu.fop = (cs >> 16) as u16 & 0x7ff;
        } else {
            let pointer = |low: u32, high: u32| u64::from(low & 0xffff | high >> 12 << 16);
            (self.fpu.fip, self.fpu.fdp) = (pointer(ip, cs), pointer(dp, ds));
            self.fpu.fop = cs as u16 & 0x7ff;
        }
    }

    /// Stores an area in parts of so many bytes, all of it or nothing.
    fn store_parts(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        part: usize,
        bytes: &[u8],
    ) -> Outcome {
        let (segment, offset) = self.memory_at(i)?;
        self.check_access(bus, segment, offset, bytes.len(), Intent::Write)?;
        let mask = i.address_size().mask();
        for (at, bytes) in (0..).step_by(part).zip(bytes.chunks(part)) {
            self.store_bytes(bus, segment, offset.wrapping_add(at) & mask, bytes)?;
        }
        Ok(())
    }

    fn load_parts(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        part: usize,
        bytes: &mut [u8],
    ) -> Outcome {
        let (segment, offset) = self.memory_at(i)?;
        self.check_access(bus, segment, offset, bytes.len(), Intent::Read)?;
        let mask = i.address_size().mask();
        for (at, bytes) in (0..).step_by(part).zip(bytes.chunks_mut(part)) {
            self.load_bytes(bus, segment, offset.wrapping_add(at) & mask, bytes)?;
        }
        Ok(())
    }

    /// FNSTENV: all exceptions are masked after it.
    pub(super) fn store_environment(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (bytes, length) = self.environment(Self::wide_environment(i));
        self.store_parts(bus, i, length / 7, &bytes[..length])?;
        self.set_float_words(self.fpu.fcw | EXCEPTIONS, self.fpu.fsw);
        Ok(())
    }

    /// FNSAVE: the x87 is initialised after it.
    pub(super) fn store_float_state(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (environment, length) = self.environment(Self::wide_environment(i));
        let mut bytes = [0; STATE];
        bytes[..length].copy_from_slice(&environment[..length]);
        for (number, place) in (0..8).zip(bytes[length..].chunks_exact_mut(10)) {
            place.copy_from_slice(&self.st(number));
        }
        self.store_parts(bus, i, length / 7, &bytes[..length + REGISTERS])?;
        self.initialise_float();
        Ok(())
    }

    /// FLDENV.
    pub(super) fn load_environment(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let wide = Self::wide_environment(i);
        let mut bytes = [0; STATE];
        let length = ENVIRONMENT[usize::from(!wide)];
        self.load_parts(bus, i, length / 7, &mut bytes[..length])?;
        self.set_environment(wide, &bytes[..length]);
        Ok(())
    }

    /// FRSTOR.
    pub(super) fn load_float_state(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let wide = Self::wide_environment(i);
        let mut bytes = [0; STATE];
        let length = ENVIRONMENT[usize::from(!wide)];
        self.load_parts(bus, i, length / 7, &mut bytes[..length + REGISTERS])?;
        self.set_environment(wide, &bytes[..length]);
        for (number, register) in (0..8).zip(bytes[length..].chunks_exact(10)) {
            let place = self.physical(number);
            self.fpu.st[place] = core::array::from_fn(|at| register[at]);
        }
        Ok(())
    }
}
