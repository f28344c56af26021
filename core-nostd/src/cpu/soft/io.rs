//! IN, OUT, INS, OUTS, and who may use which port.
//!
//! Source: Intel SDM volume 1, chapter "Input/Output" (19.5 for protection), volume 3, 8.2.1 and
//! 8.7 (the bitmap in task-state segments of 32 and 64 bits), volume 2 for the instructions.

use super::access::{Intent, Word, sized};
use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::{Instruction, SegmentRegister, Size};
use crate::cpu::gpr::{RAX, RDI, RDX, RSI};
use crate::cpu::mmu::Access;
use crate::devices::Width;

/// Offset of the last byte of the smallest task-state segment that has a bitmap.
const TSS_LIMIT_MIN: u32 = 103;
/// Offset of the bitmap's own offset.
const IO_MAP_BASE: u64 = 102;

const fn width(size: Size) -> Width {
    match size {
        Size::Byte => Width::Byte,
        Size::Word => Width::Word,
        Size::Dword | Size::Qword => Width::Dword,
    }
}

impl Cpu {
    /// Raises #GP(0) unless the current task may use all ports from the first.
    fn check_ports(&mut self, bus: &mut Bus<'_>, port: u16, size: Size) -> Outcome {
        if self.real_mode() || !self.v86() && self.cpl <= self.iopl() {
            return Ok(());
        }
        // Available and busy task-state segments of 32 and 64 bits; those of 16 have no bitmap.
        let wide = matches!(self.tr.kind, 0b1001 | 0b1011) && !self.tr.code_or_data;
        let (base, limit) = (self.tr.base, self.tr.limit);
        if !wide || self.tr.unusable || limit < TSS_LIMIT_MIN {
            return self.protection();
        }
        let map: u16 = self.load_system(bus, base.wrapping_add(IO_MAP_BASE))?;
        // Two bytes are read whatever the size is, and both must be there.
        let first = u32::from(map) + u32::from(port) / 8;
        if first + 1 > limit {
            return self.protection();
        }
        let bits: u16 = self.load_system(bus, base.wrapping_add(first.into()))?;
        let mask = (1u16 << size.bytes()) - 1;
        if bits >> (port % 8) & mask != 0 {
            return self.protection();
        }
        Ok(())
    }

    /// IN.
    pub(super) fn input(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let port = self.read::<u16>(bus, i, 1)?;
        let size = i.operand_size();
        self.check_ports(bus, port, size)?;
        let value = bus.platform.pio_read(port, width(size));
        match size {
            Size::Byte => self.set_register(RAX, value as u8),
            Size::Word => self.set_register(RAX, value as u16),
            Size::Dword | Size::Qword => self.set_register(RAX, value),
        }
        self.watch_port(port, size.bytes());
        Ok(())
    }

    /// OUT.
    pub(super) fn output(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let port = self.read::<u16>(bus, i, 0)?;
        let size = i.operand_size();
        self.check_ports(bus, port, size)?;
        let value = self.register::<u32>(RAX) & size.mask() as u32;
        bus.platform.pio_write(port, width(size), value);
        self.watch_port(port, size.bytes());
        Ok(())
    }

    /// INS. That the element can be stored is known before the port is read, whose value would be
    /// lost.
    pub(super) fn input_string(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => self.input_string_of::<W>(bus, i))
    }

    fn input_string_of<W: Word>(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (size, address_size) = (i.operand_size(), i.address_size());
        let step = self.string_step(size);
        self.repeat(bus, i, |cpu, bus| {
            let port = cpu.register::<u16>(RDX);
            cpu.check_ports(bus, port, size)?;
            let to = cpu.pointer(RDI, address_size);
            cpu.check_store(bus, SegmentRegister::Es, to, W::SIZE)?;
            let value = bus.platform.pio_read(port, width(size));
            let value = <W as crate::cpu::alu::Word>::truncate(value.into());
            cpu.store(bus, SegmentRegister::Es, to, value)?;
            cpu.advance(RDI, address_size, step);
            cpu.watch_port(port, size.bytes());
            Ok(true)
        })
    }

    /// OUTS.
    pub(super) fn output_string(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        sized!(i.operand_size(), W => self.output_string_of::<W>(bus, i))
    }

    fn output_string_of<W: Word>(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        let (size, address_size) = (i.operand_size(), i.address_size());
        let step = self.string_step(size);
        self.repeat(bus, i, |cpu, bus| {
            let port = cpu.register::<u16>(RDX);
            cpu.check_ports(bus, port, size)?;
            let from = cpu.pointer(RSI, address_size);
            let value: W = cpu.load(bus, i.segment(), from)?;
            bus.platform
                .pio_write(port, width(size), value.zero_extend() as u32);
            cpu.advance(RSI, address_size, step);
            cpu.watch_port(port, size.bytes());
            Ok(true)
        })
    }

    /// Raises what a store of so many bytes, a page at most, would raise, and stores nothing.
    pub(super) fn check_store(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
        length: usize,
    ) -> Outcome {
        self.check_access(bus, segment, offset, length, Intent::Write)
    }

    /// The same for loads and stores.
    pub(super) fn check_access(
        &mut self,
        bus: &mut Bus<'_>,
        segment: SegmentRegister,
        offset: u64,
        length: usize,
        intent: Intent,
    ) -> Outcome {
        let linear = self.linear(segment, offset, length, intent)?;
        let access = match intent {
            Intent::Read => Access::Read,
            Intent::Write => Access::Write,
        };
        let last = linear.wrapping_add(length as u64 - 1);
        let last = if self.bits64() {
            last
        } else {
            last & 0xffff_ffff
        };
        // The second page is named by its first byte.
        let second = (last ^ linear) >> 12 != 0;
        for at in [Some(linear), second.then_some(last & !0xfff)] {
            if let Some(at) = at
                && let Err(fault) = self.mmu.translate(bus, at, self.mode, access)
            {
                return Err(self.access_fault(fault, segment));
            }
        }
        Ok(())
    }
}
