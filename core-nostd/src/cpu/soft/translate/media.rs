//! The translation of micro-operations on XMM registers: the host's instructions of the same name.
//!
//! Within a block guest registers live in the host's of the same number, from their first use to the end of
//! the block or to the next call of a function, which gets them in [`Cpu`]. Nothing that they compute
//! touches the host's flags, but for comparisons of numbers, which leave the guest's own.
//!
//! Arithmetic on numbers runs with the guest's MXCSR, so that rounding and exception flags are right
//! without a look at them. That goes as long as the guest masks all exceptions; else each is left to its
//! function. MXCSR is loaded when it is not there at an instruction that needs it, and saved where Rust's
//! functions are called ([`stubs`](super::stubs)).

use core::mem::offset_of;

use super::block::{EQUAL, Host, NOT_EQUAL, Translator};
use super::emit::{R11, RAX, RDX, Rm, alu, at, opcode};
use super::stubs::CPU;
use super::{MXCSR, distance, frame};
use crate::cpu::decode::Size;
use crate::cpu::mmu::{Access, CR0_OFFSET, CR4_OFFSET};
use crate::cpu::soft::Cpu;
use crate::cpu::soft::fast::{Kind, Media, Source};
use crate::cpu::soft::micro::Micro;
use crate::cpu::soft::sse::{self, Lanes, Native};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};

/// XMM registers that are in the host's, a bit each.
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) loaded: u16,
    /// Those that are not the same in [`Cpu`].
    pub(super) changed: u16,
}

/// Mandatory prefixes by bits 1 to 0 of a number of [`Native`].
const PREFIXES: [u8; 4] = [NONE, PACKED, SINGLE, DOUBLE];
const NONE: u8 = 0;
const PACKED: u8 = 0x66;
const SINGLE: u8 = 0xf3;
const DOUBLE: u8 = 0xf2;

/// Opcodes behind 0Fh of ADD to SQRT, in the order of [`Native`].
const ARITHMETIC: [u8; 7] = [0x58, 0x5c, 0x59, 0x5e, 0x5d, 0x5f, 0x51];

/// How the host is told to do it.
struct Form {
    prefix: u8,
    /// Behind 0Fh.
    opcode: u8,
    /// REX.W.
    wide: bool,
    /// An immediate byte follows.
    immediate: bool,
    /// It reads or changes MXCSR.
    floats: bool,
    /// The register's old value counts.
    keeps: bool,
}

/// How the host is told to do it, unless a function is to.
fn form(media: Media) -> Option<Form> {
    use Kind as K;
    use Source as S;
    let Media {
        kind,
        source,
        number,
        ..
    } = media;
    let is = |native: Native| number == native as u8;
    let either = |one: Native, other: Native| is(one) || is(other);
    let (prefix, opcode) = match (kind, source) {
        (K::Load, S::Xmm) => (PACKED, 0x6f),
        (K::Load, S::Four | S::General | S::GeneralWide) => (PACKED, 0x6e),
        (K::Load, S::Eight) => (SINGLE, 0x7e),
        (K::Load, S::Sixteen | S::Aligned) => (SINGLE, 0x6f),
        (K::Store, S::Four) | (K::General | K::GeneralWide, S::Xmm) => (PACKED, 0x7e),
        (K::Store, S::Eight) => (PACKED, 0xd6),
        (K::Store, S::Sixteen | S::Aligned) => (SINGLE, 0x7f),
        (K::StoreHigh, S::Eight) => (NONE, 0x17),
        (K::Lowest, S::Xmm) => (SINGLE, 0x10),
        (K::Low, S::Xmm) => (DOUBLE, 0x10),
        (K::Low, S::Eight) | (K::HighToLow, S::Xmm) => (NONE, 0x12),
        (K::High, S::Xmm | S::Eight) => (NONE, 0x16),
        (K::Signs, S::Xmm) => (PACKED, 0xd7),
        (K::Lanes, S::Xmm | S::Aligned) => (PACKED, Lanes::from_number(number)?.opcode()),
        // The group of shifts by a constant: its opcode ends as those of shifts by a register.
        (K::Lanes, S::Constant) => (PACKED, 0x70 | Lanes::from_number(number)?.opcode() & 0xf),
        (K::Shuffle, S::Xmm | S::Aligned) => (PACKED, 0x70),
        (K::ShiftLeft | K::ShiftRight, S::Constant) => (PACKED, 0x73),
        (K::Arithmetic, S::Xmm | S::Four | S::Eight | S::Aligned) => (
            PREFIXES[usize::from(number & 3)],
            *ARITHMETIC.get(usize::from(number >> 2))?,
        ),
        (K::Compare, S::Xmm | S::Four | S::Eight) => (
            if either(Native::UcomiSs, Native::ComiSs) {
                NONE
            } else {
                PACKED
            },
            if either(Native::UcomiSs, Native::UcomiSd) {
                0x2e
            } else {
                0x2f
            },
        ),
        (K::Convert, S::Xmm | S::Four | S::Eight) if is(Native::Ss2Sd) => (SINGLE, 0x5a),
        (K::Convert, S::Xmm | S::Four | S::Eight) if is(Native::Sd2Ss) => (DOUBLE, 0x5a),
        (K::Convert, S::General | S::GeneralWide | S::Four | S::Eight) => (
            if either(Native::Si2Ss, Native::Si2Ss64) {
                SINGLE
            } else {
                DOUBLE
            },
            0x2a,
        ),
        (K::Integer, S::Xmm | S::Four | S::Eight) => (
            if either(Native::TruncateSs2Si, Native::TruncateSs2Si64) {
                SINGLE
            } else {
                DOUBLE
            },
            0x2c,
        ),
        _ => return None,
    };
    let floats = matches!(kind, K::Arithmetic | K::Compare | K::Convert | K::Integer);
    Some(Form {
        prefix,
        opcode,
        wide: match kind {
            K::Load => source == S::GeneralWide,
            K::GeneralWide => true,
            K::Convert => either(Native::Si2Ss64, Native::Si2Sd64),
            K::Integer => either(Native::TruncateSs2Si64, Native::TruncateSd2Si64),
            _ => false,
        },
        immediate: source == S::Constant || kind == K::Shuffle,
        floats,
        keeps: !matches!(kind, K::Load | K::Shuffle),
    })
}

/// Where a register of the guest is.
fn place(number: u8) -> Rm {
    at(
        CPU,
        distance(offset_of!(Cpu, fpu.xmm) + 16 * usize::from(number)),
    )
}

impl Translator<'_> {
    /// An instruction on XMM registers; whether it is done.
    pub(super) fn media(&mut self, m: Micro) -> bool {
        let media = Media::of(m);
        let in_memory = matches!(
            media.source,
            Source::Four | Source::Eight | Source::Sixteen | Source::Aligned
        );
        let Some(form) = form(media).filter(|_| !in_memory || self.reaches(m, media.place)) else {
            return false;
        };
        let compares = media.kind == Kind::Compare;
        let stores = matches!(media.kind, Kind::Store | Kind::StoreHigh);
        let flags = compares && self.live_after();
        self.store_flags();
        self.check_usable(flags);
        if form.floats {
            self.check_mxcsr(flags);
        }
        if in_memory {
            let access = if stores { Access::Write } else { Access::Read };
            let bytes = media.source.bytes() as i32;
            self.memory_of(m, media.place, bytes, access, flags);
            if media.source == Source::Aligned {
                // TEST AL, 15: the page's host address has the same low bits.
                self.asm.bytes(&[0xa8, 15]);
                self.unless(NOT_EQUAL, flags);
            }
        }
        let source = match media.source {
            Source::Xmm => Rm::Register(self.xmm_read(m.b)),
            Source::General | Source::GeneralWide => Rm::Register(self.read(m.b, RDX)),
            // Shifts have the operation where others have a register.
            Source::Constant => Rm::Register(self.xmm_read(m.a)),
            _ => at(RAX, 0),
        };
        let register = match media.kind {
            Kind::General | Kind::GeneralWide => {
                let size = if form.wide { Size::Qword } else { Size::Dword };
                let to = self.target(m.a, R11, size);
                let from = self.xmm_read(m.b);
                self.sse(&form, from, Rm::Register(to));
                self.written(m.a, R11);
                return true;
            }
            Kind::Signs | Kind::Integer => {
                let to = self.target(m.a, R11, Size::Qword);
                self.sse(&form, to, source);
                self.written(m.a, R11);
                return true;
            }
            Kind::ShiftLeft => 7,
            Kind::ShiftRight => 3,
            // D, E and F of the opcode's upper half: 2, 4 and 6.
            Kind::Lanes if media.source == Source::Constant => {
                let opcode = Lanes::from_number(media.number).map_or(0, Lanes::opcode);
                (opcode >> 4).wrapping_sub(0xc) * 2
            }
            _ if form.keeps => self.xmm_read(m.a),
            _ => m.a % 16,
        };
        self.sse(&form, register, source);
        if form.immediate {
            self.asm.byte(media.constant);
        }
        if compares {
            self.flags_set(Host::Exact);
        } else if !stores {
            let bit = 1 << (m.a % 16);
            self.xmm.loaded |= bit;
            self.xmm.changed |= bit;
        }
        true
    }

    fn sse(&mut self, form: &Form, register: u8, rm: Rm) {
        if form.prefix != NONE {
            self.asm.byte(form.prefix);
        }
        let size = if form.wide { Size::Qword } else { Size::Dword };
        self.asm
            .op(size, 0x0f00 | u16::from(form.opcode), register, rm);
    }

    /// As `media_usable` of the interpreter's function, once until a function may have changed it.
    fn check_usable(&mut self, flags: bool) {
        if self.xmm_usable {
            return;
        }
        let unusable = Cr0Flags::EMULATE_COPROCESSOR.union(Cr0Flags::TASK_SWITCHED);
        let offset = offset_of!(Cpu, mmu);
        for (register, bits, condition) in [
            (CR0_OFFSET, unusable.bits(), NOT_EQUAL),
            (CR4_OFFSET, Cr4Flags::OSFXSR.bits(), EQUAL),
        ] {
            let register = at(CPU, distance(offset + register));
            self.asm.sized(Size::Dword, opcode::GROUP3, 0, register);
            self.asm.dword(bits as u32);
            self.unless(condition, flags);
        }
        self.xmm_usable = true;
    }

    /// The guest's MXCSR is the host's, or the instruction is its function's.
    fn check_mxcsr(&mut self, flags: bool) {
        self.asm
            .alu(Size::Byte, alu::CMP, at(CPU, frame!(floats)), 0);
        let site = self.asm.jump_if(EQUAL);
        let resume = self.asm.position;
        self.execute_aside(site, flags, Some(resume));
    }

    /// Goes on after loading it, if all exceptions are masked and no reserved bit is set.
    pub(super) fn load_mxcsr(&mut self, resume: u32) {
        // All exceptions masked, which no control bit changes.
        let masks = sse::DEFAULT;
        let asm = &mut self.asm;
        asm.op(Size::Dword, opcode::LOAD, RAX, at(CPU, MXCSR));
        asm.alu(Size::Dword, alu::XOR, Rm::Register(RAX), masks as i32);
        asm.sized(Size::Dword, opcode::GROUP3, 0, Rm::Register(RAX));
        asm.dword(masks | 0xffff_0000);
        let unmasked = asm.jump_if(NOT_EQUAL);
        asm.op(
            Size::Dword,
            opcode::GROUP15,
            opcode::LDMXCSR,
            at(CPU, MXCSR),
        );
        asm.alu(Size::Byte, alu::OR, at(CPU, frame!(floats)), 1);
        asm.jump_to(resume);
        asm.bind(unmasked);
    }

    /// A guest register in the host's.
    fn xmm_read(&mut self, number: u8) -> u8 {
        let number = number % 16;
        if self.xmm.loaded & 1 << number == 0 {
            self.load_xmm(1 << number);
            self.xmm.loaded |= 1 << number;
        }
        number
    }

    /// The host's get what is in [`Cpu`]: MOVUPS.
    pub(super) fn load_xmm(&mut self, which: u16) {
        self.move_xmm(which, 0x0f10);
    }

    /// The other way round.
    pub(super) fn store_xmm(&mut self, which: u16) {
        self.move_xmm(which, 0x0f11);
    }

    fn move_xmm(&mut self, which: u16, opcode: u16) {
        for number in (0..16).filter(|number| which & 1 << number != 0) {
            self.asm.op(Size::Dword, opcode, number, place(number));
        }
    }

    /// [`Cpu`] gets all of them back, and nothing is known of what may be executed.
    pub(super) fn release_xmm(&mut self) {
        self.store_xmm(self.xmm.changed);
        self.xmm = Held::default();
        self.xmm_usable = false;
    }
}
