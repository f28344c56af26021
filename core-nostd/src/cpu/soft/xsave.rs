//! FXSAVE, XSAVE and their kin: the state of the x87, SSE and protection keys in memory.
//!
//! Source: Intel SDM volume 1, 10.5 (FXSAVE's format), chapter 13 (XSAVE's: 13.4 to 13.8); volume 2
//! for each instruction.
//!
//! There are no components of supervisors: IA32_XSS is zero, and XSAVES saves what XSAVEC does. What
//! is in its initial state XSAVEOPT, XSAVEC and XSAVES leave out; what has not been modified since it
//! was loaded they write all the same, which they may.

use super::access::Intent;
use super::cpuid::Feature;
use super::media::MXCSR_MASK;
use super::x87::FCW_INIT;
use super::{Bus, Cpu, Exception, ExtendedState, Outcome};
use crate::cpu::decode::{Instruction, Operation, SegmentRegister, Size};
use crate::cpu::gpr::{RAX, RDX};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;
use x86_64::registers::mxcsr::MxCsr;
use x86_64::registers::xcontrol::XCr0Flags;

/// Bytes that FXSAVE writes and FXRSTOR reads; the area goes on to 512.
const FXSAVE_BYTES: usize = 416;
/// Bytes of FXSAVE's area.
const LEGACY_BYTES: usize = 512;
/// Bytes of XSAVE's area with its header.
const XSAVE_BYTES: u32 = 576;
/// Offsets in FXSAVE's area.
const MXCSR_AT: usize = 24;
const ST_AT: usize = 32;
const XMM_AT: usize = 160;
/// Offsets in XSAVE's area.
const XSTATE_BV_AT: u64 = 512;
const XCOMP_BV_AT: u64 = 520;
/// XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;

const X87: u64 = XCr0Flags::X87.bits();
const XMM: u64 = XCr0Flags::SSE.bits();
const AVX: u64 = XCr0Flags::AVX.bits();
const PKRU: u64 = XCr0Flags::MPK.bits();
/// Where it is in an area of XSAVE's standard format on most processors.
const PKRU_AT: u64 = 2688;
/// PKRU's number among the components.
const PKRU_COMPONENT: u32 = 9;

/// The legacy area of FXSAVE and XSAVE.
struct Legacy([u8; LEGACY_BYTES]);

impl Legacy {
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        core::array::from_fn(|i| self.0[at + i])
    }
}
impl Cpu {
    /// XMM registers that instructions in this mode can name.
    fn xmm_count(&self) -> usize {
        if self.bits64() { 16 } else { 8 }
    }

    /// Whether FXSAVE and FXRSTOR leave XMM registers out, and whether MXCSR, too.
    fn fxsave_leaves_out(&self) -> (bool, bool) {
        let without = !self.cr4().contains(Cr4Flags::OSFXSR);
        let fast = self.efer().contains(EferFlags::FAST_FXSAVE_FXRSTOR);
        (without || fast && self.cpl == 0 && self.bits64(), without)
    }

    /// The memory operand, if it is aligned to so many bytes.
    pub(super) fn aligned_area(
        &mut self,
        i: &Instruction,
        bytes: u64,
    ) -> Outcome<(SegmentRegister, u64)> {
        let (segment, offset) = self.memory_at(i)?;
        let based = !self.bits64() || matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
        let base = if based { self.segment(segment).base } else { 0 };
        if !base.wrapping_add(offset).is_multiple_of(bytes) {
            return self.protection();
        }
        Ok((segment, offset))
    }

    /// An offset in the area of a memory operand.
    fn within(i: &Instruction, offset: u64, by: u64) -> u64 {
        offset.wrapping_add(by) & i.address_size().mask()
    }

    /// Stores a part of the area, a multiple of 8 bytes.
    fn store_area(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        (segment, offset): (SegmentRegister, u64),
        at: u64,
        bytes: &[u8],
    ) -> Outcome {
        for (place, part) in (at..).step_by(8).zip(bytes.chunks(8)) {
            self.store_bytes(bus, segment, Self::within(i, offset, place), part)?;
        }
        Ok(())
    }

    fn load_area(
        &mut self,
        bus: &mut Bus<'_>,
        i: &Instruction,
        (segment, offset): (SegmentRegister, u64),
        at: u64,
        bytes: &mut [u8],
    ) -> Outcome {
        for (place, part) in (at..).step_by(8).zip(bytes.chunks_mut(8)) {
            self.load_bytes(bus, segment, Self::within(i, offset, place), part)?;
        }
        Ok(())
    }

    /// What FXSAVE keeps of a pointer: all of it with REX.W, a selector and 32 bits outside of 64-bit
    /// mode.
    fn pointer_mask(&self, wide: bool) -> u64 {
        match (wide, self.bits64()) {
            (true, _) => u64::MAX,
            (false, true) => 0xffff_ffff,
            (false, false) => 0xffff_ffff_ffff,
        }
    }

    /// The legacy area of the state as it is.
    fn legacy(&self, wide: bool) -> Legacy {
        let fpu = self.float_state();
        let mut area = Legacy([0; LEGACY_BYTES]);
        area.put(0, fpu.fcw.to_le_bytes());
        area.put(2, fpu.fsw.to_le_bytes());
        area.put(4, [fpu.ftw]);
        area.put(6, fpu.fop.to_le_bytes());
        let mask = self.pointer_mask(wide);
        let pointer = |pointer| pointer & mask;
        area.put(8, u64::to_le_bytes(pointer(fpu.fip)));
        area.put(16, u64::to_le_bytes(pointer(fpu.fdp)));
        area.put(MXCSR_AT, fpu.mxcsr.to_le_bytes());
        area.put(MXCSR_AT + 4, MXCSR_MASK.to_le_bytes());
        for (number, register) in fpu.st.iter().enumerate() {
            area.put(ST_AT + 16 * number, *register);
        }
        for (number, register) in fpu.xmm.iter().enumerate() {
            area.put(XMM_AT + 16 * number, register.to_le_bytes());
        }
        area
    }

    /// Takes the x87's part of a legacy area over.
    fn load_legacy_float(&mut self, area: &Legacy, wide: bool) {
        self.fpu.ftw = area.0[4];
        self.fpu.fop = u16::from_le_bytes(area.get(6)) & 0x7ff;
        let mask = self.pointer_mask(wide);
        let pointer = |at| u64::from_le_bytes(area.get(at)) & mask;
        (self.fpu.fip, self.fpu.fdp) = (pointer(8), pointer(16));
        self.set_float_words(
            u16::from_le_bytes(area.get(0)),
            u16::from_le_bytes(area.get(2)),
        );
        let mut state = self.fpu;
        state.st = core::array::from_fn(|number| area.get(ST_AT + 16 * number));
        self.set_float_state(&state);
    }

    fn load_legacy_xmm(&mut self, area: &Legacy) {
        let count = self.xmm_count();
        for (number, register) in self.fpu.xmm[..count].iter_mut().enumerate() {
            *register = u128::from_le_bytes(area.get(XMM_AT + 16 * number));
        }
    }

    /// FXSAVE.
    pub(super) fn save_legacy(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_float()?;
        let area = self.aligned_area(i, 16)?;
        self.check_access(bus, area.0, area.1, LEGACY_BYTES, Intent::Write)?;
        let saved = self.legacy(i.operand_size() == Size::Qword);
        let (without_xmm, without_mxcsr) = self.fxsave_leaves_out();
        let end = match (without_xmm, self.bits64()) {
            (true, _) => XMM_AT,
            (false, true) => FXSAVE_BYTES,
            (false, false) => XMM_AT + 8 * 16,
        };
        if without_mxcsr {
            self.store_area(bus, i, area, 0, &saved.0[..MXCSR_AT])?;
            return self.store_area(bus, i, area, ST_AT as u64, &saved.0[ST_AT..end]);
        }
        self.store_area(bus, i, area, 0, &saved.0[..end])
    }

    /// FXRSTOR.
    pub(super) fn restore_legacy(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        self.check_float()?;
        let place = self.aligned_area(i, 16)?;
        self.check_access(bus, place.0, place.1, LEGACY_BYTES, Intent::Read)?;
        let mut area = Legacy([0; LEGACY_BYTES]);
        self.load_area(bus, i, place, 0, &mut area.0[..FXSAVE_BYTES])?;
        let (without_xmm, without_mxcsr) = self.fxsave_leaves_out();
        let mxcsr = u32::from_le_bytes(area.get(MXCSR_AT));
        if !without_mxcsr {
            if mxcsr & !MXCSR_MASK != 0 {
                return self.protection();
            }
            self.fpu.mxcsr = mxcsr;
        }
        self.load_legacy_float(&area, i.operand_size() == Size::Qword);
        if !without_xmm {
            self.load_legacy_xmm(&area);
        }
        Ok(())
    }

    /// XINUSE: components of XSAVE that are not in their initial state.
    pub(super) fn components_in_use(&self) -> u64 {
        let fpu = &self.fpu;
        let initial = (fpu.fcw, fpu.fsw, fpu.ftw, fpu.fop, fpu.fip, fpu.fdp)
            == (FCW_INIT, 0, 0, 0, 0, 0)
            && fpu.st.iter().all(|register| *register == [0; 10]);
        let mut used = if initial { 0 } else { X87 };
        if fpu.mxcsr != MxCsr::default().bits() || fpu.xmm.iter().any(|register| *register != 0) {
            used |= XMM;
        }
        if self.mmu.registers().pkru != 0 {
            used |= PKRU;
        }
        used
    }

    /// Where PKRU is in the area, by what CPUID says; `None` if it says nothing that can be.
    pub(super) fn pkru_offset(&self, compacted: bool) -> Option<u64> {
        let entry = self.cpuid.find(0xd, PKRU_COMPONENT)?;
        if compacted {
            // It is the only component of its kind.
            return Some(XSAVE_BYTES.into());
        }
        (entry.eax >= 8 && entry.ebx >= XSAVE_BYTES && entry.ebx <= 4096 - 8)
            .then_some(entry.ebx.into())
    }

    /// Where PKRU is in the saved state.
    fn kept_pkru_at(&self) -> usize {
        let offset = self.pkru_offset(false).unwrap_or(PKRU_AT);
        offset as usize - XSAVE_BYTES as usize
    }

    /// PKRU as the saved state has it: in XSAVE's standard format.
    pub(super) fn kept_pkru(&self) -> u32 {
        let area = &self.extended.area.0;
        let at = self.kept_pkru_at();
        match area.get(at..at + 4) {
            Some(bytes) if self.extended.xstate_bv & PKRU != 0 => {
                u32::from_le_bytes(core::array::from_fn(|i| bytes[i]))
            }
            _ => 0,
        }
    }

    /// Puts PKRU where the saved state has it.
    pub(super) fn keep_pkru(&self, extended: &mut ExtendedState) {
        let at = self.kept_pkru_at();
        let pkru = self.mmu.registers().pkru;
        if let Some(bytes) = extended.area.0.get_mut(at..at + 4) {
            bytes.copy_from_slice(&pkru.to_le_bytes());
        }
        extended.xstate_bv &= !PKRU;
        if pkru != 0 {
            extended.xstate_bv |= PKRU;
        }
    }

    /// Bytes of the area that these components need.
    pub(super) fn xsave_bytes(&self, components: u64, compacted: bool) -> u32 {
        match self.pkru_offset(compacted) {
            Some(offset) if components & PKRU != 0 => offset as u32 + 8,
            _ => XSAVE_BYTES,
        }
    }

    /// What XSAVE and its kin raise, then their area and the components that they are about.
    fn xsave_operands(&mut self, i: &Instruction) -> Outcome<((SegmentRegister, u64), u64)> {
        if !self.cr4().contains(Cr4Flags::OSXSAVE) {
            return self.undefined();
        }
        if self.cr0().contains(Cr0Flags::TASK_SWITCHED) {
            return Err(self.raise(Exception::DeviceNotAvailable));
        }
        let privileged = matches!(i.operation(), Operation::Xsaves | Operation::Xrstors);
        if privileged {
            self.check_privileged()?;
        }
        let area = self.aligned_area(i, 64)?;
        let asked =
            u64::from(self.register::<u32>(RDX)) << 32 | u64::from(self.register::<u32>(RAX));
        // IA32_XSS, of which XSAVES saves components, too, is always zero.
        Ok((area, asked & self.xcr0))
    }

    /// XSAVE, XSAVEOPT, XSAVEC, XSAVES.
    pub(super) fn save_extended(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (area, asked) = self.xsave_operands(i)?;
        let compacted = matches!(i.operation(), Operation::Xsavec | Operation::Xsaves);
        let length = self.xsave_bytes(asked, compacted);
        self.check_access(bus, area.0, area.1, length as usize, Intent::Write)?;
        let used = self.components_in_use();
        // XSAVE writes also what is in its initial state.
        let written = match i.operation() {
            Operation::Xsave => asked,
            _ => asked & used,
        };
        let legacy = self.legacy(i.operand_size() == Size::Qword);
        if written & X87 != 0 {
            self.store_area(bus, i, area, 0, &legacy.0[..MXCSR_AT])?;
            self.store_area(bus, i, area, ST_AT as u64, &legacy.0[ST_AT..XMM_AT])?;
        }
        let mxcsr = if compacted {
            written & XMM
        } else {
            asked & (XMM | AVX)
        };
        if mxcsr != 0 {
            self.store_area(bus, i, area, MXCSR_AT as u64, &legacy.0[MXCSR_AT..ST_AT])?;
        }
        if written & XMM != 0 {
            let end = XMM_AT + 16 * self.xmm_count();
            self.store_area(bus, i, area, XMM_AT as u64, &legacy.0[XMM_AT..end])?;
        }
        if let Some(offset) = self.pkru_offset(compacted)
            && written & PKRU != 0
        {
            let pkru = u64::from(self.mmu.registers().pkru).to_le_bytes();
            self.store_area(bus, i, area, offset, &pkru)?;
        }
        let mut header = [0; 8];
        if !compacted {
            self.load_area(bus, i, area, XSTATE_BV_AT, &mut header)?;
        }
        let kept = u64::from_le_bytes(header) & !asked;
        let xstate_bv = (kept | used & asked).to_le_bytes();
        self.store_area(bus, i, area, XSTATE_BV_AT, &xstate_bv)?;
        if compacted {
            let xcomp_bv = (COMPACTED | asked).to_le_bytes();
            self.store_area(bus, i, area, XCOMP_BV_AT, &xcomp_bv)?;
        }
        Ok(())
    }

    /// XRSTOR, and XRSTORS, for which only the compacted format is one.
    pub(super) fn restore_extended(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (place, asked) = self.xsave_operands(i)?;
        self.check_access(bus, place.0, place.1, XSAVE_BYTES as usize, Intent::Read)?;
        let mut header = [0; 64];
        self.load_area(bus, i, place, XSTATE_BV_AT, &mut header)?;
        let mut words = header
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(core::array::from_fn(|i| word[i])));
        let (present, format) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        let compacted = format & COMPACTED != 0;
        let supervisor = i.operation() == Operation::Xrstors;
        let reserved = if compacted {
            let components = format & !COMPACTED;
            !supervisor && !self.has(Feature::XSAVEC)
                || (components & !self.xcr0) | (present & !components) != 0
                || words.any(|word| word != 0)
        } else {
            supervisor || present & !self.xcr0 != 0 || format != 0 || words.next().unwrap_or(0) != 0
        };
        if reserved {
            return self.protection();
        }
        let mut area = Legacy([0; LEGACY_BYTES]);
        self.load_area(bus, i, place, 0, &mut area.0[..FXSAVE_BYTES])?;
        let wide = i.operand_size() == Size::Qword;
        let pkru = match self.pkru_offset(compacted) {
            Some(offset) if asked & present & PKRU != 0 => {
                let mut pkru = [0; 8];
                self.load_area(bus, i, place, offset, &mut pkru)?;
                u64::from_le_bytes(pkru) as u32
            }
            _ => 0,
        };
        let load_mxcsr = if compacted {
            asked & present & XMM != 0
        } else {
            asked & (XMM | AVX) != 0
        };
        let mxcsr = u32::from_le_bytes(area.get(MXCSR_AT));
        if load_mxcsr && mxcsr & !MXCSR_MASK != 0 {
            return self.protection();
        }
        // Nothing fails from here on.
        if load_mxcsr {
            self.fpu.mxcsr = mxcsr;
        } else if asked & XMM != 0 {
            self.fpu.mxcsr = MxCsr::default().bits();
        }
        if asked & present & X87 != 0 {
            self.load_legacy_float(&area, wide);
        } else if asked & X87 != 0 {
            self.initialise_float();
            self.fpu.st = [[0; 10]; 8];
        }
        if asked & XMM != 0 {
            if present & XMM == 0 {
                area.0[XMM_AT..FXSAVE_BYTES].fill(0);
            }
            self.load_legacy_xmm(&area);
        }
        if asked & PKRU != 0 {
            self.mmu.write_pkru(pkru);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::FpuState;
    use crate::cpu::gpr::{RBX, RCX};
    use crate::cpu::soft::testing::{Guest, filled, media_guest as guest};

    const GP: Result<(), Exception> = Err(Exception::GP0);
    const UD: Result<(), Exception> = Err(Exception::UD);
    const NM: Result<(), Exception> = Err(Exception::DeviceNotAvailable);

    #[test]
    fn fxsave_and_fxrstor() {
        let mut guest = guest();
        guest.put(0x3000, &[0xaa; 512]);
        guest.change(|state| state.fpu = filled());
        // fxsave64 [rbx]
        assert_eq!(guest.attempt(&[0x48, 0x0f, 0xae, 0x03]), Ok(()));
        let area = guest.get::<512>(0x3000);
        assert_eq!(area[..8], [0x7f, 2, 0, 0x28, 0x81, 0, 0x23, 1]);
        assert_eq!(area[8..16], 0xffff_8000_1111_2222u64.to_le_bytes());
        assert_eq!(area[24..32], [0xa0, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
        assert_eq!(area[32..48], [[0x48; 10].as_slice(), &[0; 6]].concat());
        assert_eq!(area[400..], [[16; 16].as_slice(), &[0xaa; 96]].concat());
        guest.change(|state| state.fpu = FpuState::default());
        assert_eq!(guest.attempt(&[0x48, 0x0f, 0xae, 0x0b]), Ok(()));
        assert_eq!(guest.state().fpu, filled());
        // Without REX.W pointers have 32 bits.
        assert_eq!(guest.attempt(&[0x0f, 0xae, 0x0b]), Ok(()));
        assert_eq!(guest.state().fpu.fip, 0x1111_2222);
        // A reserved bit of MXCSR changes nothing.
        guest.put(0x3000 + 26, &[1]);
        guest.put(0x3000, &[0]);
        assert_eq!(guest.attempt(&[0x0f, 0xae, 0x0b]), GP);
        assert_eq!(guest.state().fpu.fcw, 0x27f);
        // Alignment, and a second page that is not there.
        assert_eq!(
            guest.attempt_with(&[(RBX, 0x3008)], &[0x0f, 0xae, 0x03]),
            GP
        );
        guest.put(0x1f_fff0, &[0x55; 16]);
        let fault = Err(Exception::PageFault(2));
        assert_eq!(
            guest.attempt_with(&[(RBX, 0x1f_fff0)], &[0x0f, 0xae, 0x03]),
            fault
        );
        assert_eq!(guest.get::<16>(0x1f_fff0), [0x55; 16]);
        assert_eq!(guest.state().cr2, 0x20_0000);
    }

    #[test]
    fn fxsave_leaves_out_what_it_may() {
        // Outside of 64-bit mode there are eight XMM registers.
        let mut legacy = Guest::protected();
        legacy.put(0x3000, &[0xaa; 512]);
        legacy.change(|state| {
            state.cr4 |= 1 << 9;
            state.gpr[RBX] = 0x3000;
            state.fpu = filled();
        });
        assert_eq!(legacy.attempt(&[0x0f, 0xae, 0x03]), Ok(()));
        assert_eq!(
            legacy.get::<32>(0x3000 + 272),
            [[8; 16], [0xaa; 16]].concat()[..]
        );
        // Fast: no XMM registers, in CPL 0 only.
        for (fast, expected) in [(guest(), 0xaa), (guest().user(), 16)] {
            let mut fast = fast;
            fast.put(0x3000, &[0xaa; 512]);
            fast.change(|state| {
                state.efer |= 1 << 14;
                state.fpu = filled();
            });
            assert_eq!(fast.attempt(&[0x0f, 0xae, 0x03]), Ok(()));
            assert_eq!(fast.get::<1>(0x3000 + 400), [expected]);
        }
    }

    #[test]
    fn xsave_keeps_what_it_is_not_asked_for() {
        let mut guest = guest();
        guest.put(0x3000, &[0xaa; 4096]);
        guest.put(0x3000 + 512, &(1u64 << 62 | 2).to_le_bytes());
        guest.change(|state| {
            state.fpu = filled();
            state.fpu.xmm = [0; 16];
            state.fpu.mxcsr = 0x1f80;
            state.gpr[RDX] = 0;
        });
        // xsave64 [rbx] with x87 and SSE, of which SSE is in its initial state
        let registers = [(RAX, 3), (RDX, 0)];
        assert_eq!(
            guest.attempt_with(&registers, &[0x48, 0x0f, 0xae, 0x23]),
            Ok(())
        );
        assert_eq!(guest.get::<8>(0x3000 + 512), (1u64 << 62 | 1).to_le_bytes());
        assert_eq!(
            guest.get::<8>(0x3000 + 520),
            [0xaa; 8],
            "not XSAVE's to write"
        );
        assert_eq!(guest.get::<1>(0x3000 + 160), [0]);
        // xsaveopt leaves out what is in its initial state.
        guest.put(0x3000 + 160, &[0xaa]);
        assert_eq!(guest.attempt_with(&registers, &[0x0f, 0xae, 0x33]), Ok(()));
        assert_eq!(guest.get::<1>(0x3000 + 160), [0xaa]);
        assert_eq!(
            guest.attempt_with(&[(RBX, 0x3010)], &[0x0f, 0xae, 0x23]),
            GP
        );
        guest.change(|state| state.cr0 |= 8);
        assert_eq!(
            guest.attempt_with(&[(RBX, 0x3000)], &[0x0f, 0xae, 0x23]),
            NM
        );
        guest.change(|state| state.cr4 &= !(1 << 18));
        assert_eq!(guest.attempt(&[0x0f, 0xae, 0x23]), UD);
    }

    #[test]
    fn xsave_and_xrstor_round_trip() {
        // xsave64 and xsavec64
        for code in [[0x48, 0x0f, 0xae, 0x23], [0x48, 0x0f, 0xc7, 0x23]] {
            let mut guest = guest();
            guest.put(0x3000, &[0; 4096]);
            let pkru = |guest: &mut Guest, value: u64| {
                guest.change(|state| state.cr4 |= 1 << 22);
                let registers = [(RAX, value), (RCX, 0), (RDX, 0)];
                guest.attempt_with(&registers, &[0x0f, 0x01, 0xef]).unwrap();
            };
            pkru(&mut guest, 0x5554);
            guest.change(|state| state.fpu = filled());
            let all = [(RAX, u64::MAX), (RDX, u64::MAX)];
            assert_eq!(guest.attempt_with(&all, &code), Ok(()));
            let format = u64::from_le_bytes(guest.get(0x3000 + 520));
            let compacted = code[2] == 0xc7;
            assert_eq!(format, if compacted { 1 << 63 | 0x203 } else { 0 });
            let at = if compacted { 576 } else { 2688 };
            assert_eq!(guest.get::<4>(0x3000 + at), [0x54, 0x55, 0, 0]);
            pkru(&mut guest, 0);
            guest.change(|state| state.fpu = FpuState::default());
            let xrstor = [0x48, 0x0f, 0xae, 0x2b];
            assert_eq!(guest.attempt_with(&all, &xrstor), Ok(()));
            let state = guest.state();
            assert_eq!(state.fpu, filled());
            assert_eq!(guest.cpu.mmu.registers().pkru, 0x5554);
            // Only what is asked for, and what is not present becomes initial.
            guest.put(0x3000 + 512, &0x201u64.to_le_bytes());
            assert_eq!(guest.attempt_with(&[(RAX, 2), (RDX, 0)], &xrstor), Ok(()));
            let fpu = guest.state().fpu;
            assert_eq!(fpu.xmm, [0; 16]);
            assert_eq!(fpu.fcw, 0x27f);
            let mxcsr = if compacted { 0x1f80 } else { 0x1fa0 };
            assert_eq!(fpu.mxcsr, mxcsr);
        }
    }

    #[test]
    fn xrstor_checks_the_header() {
        let mut guest = guest();
        let xrstor = [0x0f, 0xae, 0x2b];
        for (at, value, result) in [
            (512, 7u64, GP),
            (512, 3, Ok(())),
            (520, 1, GP),
            (528, 1, GP),
            // Standard form ignores the rest, the compacted one does not.
            (536, 1, Ok(())),
            (520, 1 << 63 | 3, GP),
        ] {
            guest.put(0x3000, &[0; 640]);
            guest.put(0x3000 + 24, &0x1f80u32.to_le_bytes());
            guest.put(0x3000 + at, &value.to_le_bytes());
            if value >> 63 != 0 {
                guest.put(0x3000 + 568, &[1]);
            }
            assert_eq!(
                guest.attempt_with(&[(RAX, 3)], &xrstor),
                result,
                "{at} {value:#x}"
            );
        }
        guest.put(0x3000 + 568, &[0]);
        assert_eq!(guest.attempt(&xrstor), Ok(()));
        guest.put(0x3000 + 520, &(1u64 << 63 | 1).to_le_bytes());
        guest.put(0x3000 + 512, &2u64.to_le_bytes());
        assert_eq!(guest.attempt(&xrstor), GP);
    }

    #[test]
    fn xsaves_and_xrstors() {
        let mut guest = guest();
        guest.put(0x3000, &[0; 4096]);
        guest.change(|state| state.fpu = filled());
        let all = [(RAX, u64::MAX), (RDX, u64::MAX)];
        let (xsaves, xrstors) = ([0x48, 0x0f, 0xc7, 0x2b], [0x48, 0x0f, 0xc7, 0x1b]);
        assert_eq!(guest.attempt_with(&all, &xsaves), Ok(()));
        // PKRU is in its initial state.
        assert_eq!(guest.get::<8>(0x3000 + 512), 3u64.to_le_bytes());
        assert_eq!(
            guest.get::<8>(0x3000 + 520),
            (1u64 << 63 | 0x203).to_le_bytes()
        );
        guest.change(|state| state.fpu = FpuState::default());
        assert_eq!(guest.attempt(&xrstors), Ok(()));
        assert_eq!(guest.state().fpu, filled());
        // What is not in the area becomes initial, and the registers with it.
        guest.put(0x3000 + 512, &[2]);
        assert_eq!(guest.attempt(&xrstors), Ok(()));
        let fpu = guest.state().fpu;
        assert_eq!((fpu.fcw, fpu.st), (0x37f, [[0; 10]; 8]));
        assert_eq!(fpu.xmm, filled().xmm);
        // The standard format is none of theirs, and neither are other rings.
        guest.put(0x3000 + 520, &[0; 8]);
        assert_eq!(guest.attempt(&xrstors), GP);
        assert_eq!(guest.attempt(&[0x0f, 0xae, 0x2b]), Ok(()));
        let mut user = guest.user();
        assert_eq!(user.attempt(&xsaves), GP);
        assert_eq!(user.attempt(&[0x48, 0x0f, 0xc7, 0x23]), Ok(()));
        user.change(|state| state.cr4 &= !(1 << 18));
        assert_eq!(user.attempt(&xsaves), UD);
    }
}
