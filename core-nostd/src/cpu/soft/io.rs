//! IN, OUT, INS, OUTS, and who may use which port.
//!
//! INS and OUTS that repeat no times raise #GP(0) all the same where the port is not allowed: the
//! manual doesn't say, processors do.
//!
//! Source: Intel SDM volume 1, chapter "Input/Output" (19.5 for protection), volume 3, 8.2.1 and
//! 8.7 (the bitmap in task-state segments of 32 and 64 bits), volume 2 for the instructions.

use super::access::{Intent, Word, sized};
use super::{Bus, Cpu, Exception, Outcome};
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
        self.exactly(bus)?;
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
        self.exactly(bus)?;
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
        let port = self.register::<u16>(RDX);
        // Also where there is nothing to transfer.
        self.check_ports(bus, port, size)?;
        self.exactly(bus)?;
        self.repeat(bus, i, |cpu, bus| {
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
        let port = self.register::<u16>(RDX);
        // Also where there is nothing to transfer.
        self.check_ports(bus, port, size)?;
        self.exactly(bus)?;
        self.repeat(bus, i, |cpu, bus| {
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
            Intent::Read | Intent::Flush => Access::Read,
            Intent::Write => Access::Write,
        };
        let last = linear.wrapping_add(length as u64 - 1);
        let last = if self.bits64() {
            last
        } else {
            last & 0xffff_ffff
        };
        // What ends where no address is canonical has no first page to fault on.
        if self.bits64() && !(self.canonical(linear) && self.canonical(last)) {
            return Err(self.raise(match segment {
                SegmentRegister::Ss => Exception::SS0,
                _ => Exception::GP0,
            }));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr::{RCX, RSP};
    use crate::cpu::soft::Exception;
    use crate::cpu::soft::testing::Guest;

    const GP: Result<(), Exception> = Err(Exception::GP0);

    #[test]
    fn sizes_and_ports() {
        let mut guest = Guest::long();
        guest.board.port_value = 0x1122_3344;
        guest.change(|state| {
            state.gpr[RAX] = u64::MAX;
            state.gpr[RDX] = 0xffff_0000_1234;
        });
        // in al, 92h; in ax, dx; in eax, dx; out 80h, al; out dx, ax; out dx, eax
        assert_eq!(guest.attempt(&[0xe4, 0x92]), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 0xffff_ffff_ffff_ff44);
        assert_eq!(guest.attempt(&[0x66, 0xed]), Ok(()));
        assert_eq!(guest.state().gpr[RAX], 0xffff_ffff_ffff_3344);
        assert_eq!(guest.attempt(&[0x48, 0xed]), Ok(()), "REX.W does nothing");
        assert_eq!(guest.state().gpr[RAX], 0x1122_3344);
        for code in [&[0xe6, 0x80][..], &[0x66, 0xef], &[0xef]] {
            assert_eq!(guest.attempt(code), Ok(()));
        }
        assert_eq!(guest.board.read, [(0x92, 1), (0x1234, 2), (0x1234, 4)]);
        let written = [
            (0x80, 1, 0x44),
            (0x1234, 2, 0x3344),
            (0x1234, 4, 0x1122_3344),
        ];
        assert_eq!(guest.board.written, written);
    }

    /// A task-state segment at 5000h with a bitmap at 68h; ports 40h to 47h are allowed.
    fn with_tss(mut guest: Guest) -> Guest {
        guest.put(0x5000 + IO_MAP_BASE, &[0x68, 0]);
        guest.put(0x5068, &[0xff; 0x100]);
        guest.put(0x5068 + 8, &[0]);
        guest.change(|state| {
            state.tr.base = 0x5000;
            state.tr.limit = 0x68 + 0xff;
            state.gpr[RSP] = 0x8000;
        });
        guest
    }

    #[test]
    fn bitmap() {
        for guest in [
            Guest::protected().user(),
            Guest::long().user(),
            Guest::v86(),
        ] {
            let mut guest = with_tss(guest);
            for (code, port, result) in [
                (0xec, 0x40, Ok(())),
                (0xec, 0x47, Ok(())),
                (0xec, 0x48, GP),
                (0xec, 0x3f, GP),
                // Four ports, of which the last is another's.
                (0xed, 0x44, Ok(())),
                (0xed, 0x46, GP),
                (0xee, 0x40, Ok(())),
                (0xee, 0x60, GP),
            ] {
                let code = match (code, guest.cpu.v86()) {
                    (0xed, true) => &[0x66, 0xed][..],
                    (0xed, false) => &[0xed],
                    (0xec, _) => &[0xec],
                    _ => &[0xee],
                };
                assert_eq!(
                    guest.attempt_with(&[(RDX, port)], code),
                    result,
                    "{port:#x}"
                );
            }
            // IOPL lets all in, but not in virtual-8086 mode.
            let result = if guest.cpu.v86() { GP } else { Ok(()) };
            guest.change(|state| state.rflags |= 3 << 12);
            assert_eq!(guest.attempt_with(&[(RDX, 0x60)], &[0xec]), result);
        }
    }

    #[test]
    fn bitmaps_that_end_early() {
        let mut guest = with_tss(Guest::protected().user());
        let try_it = |guest: &mut Guest, limit: u32, kind: u8| {
            guest.change(|state| (state.tr.limit, state.tr.kind) = (limit, kind));
            guest.attempt_with(&[(RDX, 0x40)], &[0xec])
        };
        // The byte behind is read, too.
        assert_eq!(try_it(&mut guest, 0x71, 0xb), Ok(()));
        assert_eq!(try_it(&mut guest, 0x70, 0xb), GP);
        assert_eq!(try_it(&mut guest, 0x66, 0xb), GP);
        assert_eq!(try_it(&mut guest, 0xff, 0x3), GP);
        assert_eq!(try_it(&mut guest, 0xff, 0x9), Ok(()));
        guest.put(0x5000 + IO_MAP_BASE, &[0xff, 0xff]);
        assert_eq!(try_it(&mut guest, 0xffff, 0xb), GP, "there is none");
        guest.change(|state| state.tr.unusable = true);
        assert_eq!(try_it(&mut guest, 0xff, 0xb), GP);
    }

    #[test]
    fn strings() {
        let mut guest = Guest::protected();
        guest.board.port_value = 0x4433_2211;
        guest.change(|state| {
            state.gpr[RCX] = 3;
            state.gpr[RDX] = 0x1f0;
            state.gpr[RDI] = 0x3000;
            state.gpr[RSI] = 0x3001;
        });
        // rep insw; then outsd
        assert_eq!(guest.attempt(&[0xf3, 0x66, 0x6d]), Ok(()));
        assert_eq!(
            guest.get::<7>(0x3000),
            [0x11, 0x22, 0x11, 0x22, 0x11, 0x22, 0]
        );
        let state = guest.state();
        assert_eq!((state.gpr[RCX], state.gpr[RDI]), (0, 0x3006));
        assert_eq!(guest.board.read.len(), 3);
        assert_eq!(guest.attempt(&[0x6f]), Ok(()));
        assert_eq!(guest.board.written, [(0x1f0, 4, 0x1122_1122)]);
        // With std, and one by one.
        guest.change(|state| {
            state.gpr[RCX] = 2;
            state.rflags |= 1 << 10;
        });
        assert_eq!(guest.attempt(&[0xf3, 0x6e]), Ok(()));
        assert_eq!(
            guest.board.written[1..],
            [(0x1f0, 1, 0x22), (0x1f0, 1, 0x11)]
        );
        assert_eq!(guest.state().gpr[RSI], 0x3003);
    }

    #[test]
    fn nothing_is_read_that_has_no_place() {
        // Behind the first 2 MiB nothing is mapped: an element half there, and one beyond.
        for (at, cr2) in [(0x1f_fffe, 0x20_0000), (0x20_0000, 0x20_0000)] {
            let mut guest = Guest::long();
            guest.change(|state| state.gpr[RDI] = at);
            assert_eq!(guest.attempt(&[0x6d]), Err(Exception::PageFault(2)));
            assert_eq!(guest.state().cr2, cr2);
            assert!(guest.board.read.is_empty());
        }
        let mut guest = Guest::protected();
        guest.change(|state| state.es.limit = 0x3001);
        assert_eq!(guest.attempt_with(&[(RDI, 0x2fff)], &[0x6d]), GP);
        assert!(guest.board.read.is_empty());
        // Rights come first, even with nothing to transfer.
        let mut guest = with_tss(Guest::protected().user());
        let registers = [(RDX, 0x60), (RDI, 0x3000), (RCX, 0)];
        for code in [&[0xf3, 0x6c][..], &[0xf3, 0x6e], &[0x6c]] {
            assert_eq!(guest.attempt_with(&registers, code), GP);
        }
    }
}
