//! What all translations share: ways in and out, calls of the interpreter's functions, the lookup of
//! translations by RIP.
#![allow(unsafe_code)]

use core::mem::offset_of;

use super::emit::{
    Assembler, R8, R9, R10, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Rm,
    alu, at, opcode,
};
use super::{BIAS, CodeMemory, GENERATION, MXCSR, RIP, Translations, execute, frame, register};
use crate::cpu::decode::Size;
use crate::cpu::mmu::{HOT_ENTRIES, layout};
use crate::cpu::soft::code::{self, CodeCache};

/// The register that points into [`Cpu`].
pub(super) const CPU: u8 = RBP;

/// Host registers of guest registers, by number; those above eleven have none. RAX, RDX and R11 are
/// free for each instruction.
pub(super) const PINNED: [u8; 11] = [R12, RCX, R13, RBX, R14, R15, RSI, RDI, R8, R9, R10];

/// Registers that a function keeps for its caller.
const KEPT: [u8; 6] = [RBX, RBP, R12, R13, R14, R15];

/// Offsets in the code memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Stubs {
    /// The function that translations are entered by.
    pub(super) enter: u32,
    /// Calls [`execute`] with what is in RAX.
    pub(super) call: u32,
    /// RIP in RAX becomes the host address of its translation or 0, and the frame has its page.
    pub(super) lookup: u32,
    /// Ends with what is in EAX.
    pub(super) exit: u32,
    /// Where translations begin.
    pub(super) end: u32,
}

/// Whether the host has what translations need beyond SSE2: LAHF and SAHF in 64-bit mode.
pub(super) fn supported() -> bool {
    const LAHF: u32 = 1 << 0;
    let most = core::arch::x86_64::__cpuid(0x8000_0000).eax;
    most >= 0x8000_0001 && core::arch::x86_64::__cpuid(0x8000_0001).ecx & LAHF != 0
}

fn save(asm: &mut Assembler) {
    for (guest, host) in PINNED.iter().enumerate() {
        asm.store(at(CPU, register(guest)), *host);
    }
}

fn reload(asm: &mut Assembler) {
    for (guest, host) in PINNED.iter().enumerate() {
        asm.load(*host, at(CPU, register(guest)));
    }
}

fn push(asm: &mut Assembler, register: u8, pop: bool) {
    if register >= 8 {
        asm.byte(0x41);
    }
    asm.byte(0x50 | register & 7 | u8::from(pop) << 3);
}

/// MXCSR becomes that of Rust again.
fn restore_mxcsr(asm: &mut Assembler) {
    asm.alu(Size::Byte, alu::CMP, at(CPU, frame!(floats)), 0);
    let restored = asm.jump_if(4);
    asm.op(
        Size::Dword,
        opcode::GROUP15,
        opcode::STMXCSR,
        at(CPU, MXCSR),
    );
    asm.op(
        Size::Dword,
        opcode::GROUP15,
        opcode::LDMXCSR,
        at(CPU, frame!(mxcsr)),
    );
    asm.alu(Size::Byte, alu::AND, at(CPU, frame!(floats)), 0);
    asm.bind(restored);
}

/// Writes them at the beginning of the memory.
pub(super) fn write(asm: &mut Assembler) -> Stubs {
    asm.align();
    let exit = asm.position;
    save(asm);
    restore_mxcsr(asm);
    let leave = asm.position;
    asm.alu(Size::Qword, alu::ADD, Rm::Register(RSP), 8);
    for register in KEPT.iter().rev() {
        push(asm, *register, true);
    }
    asm.byte(0xc3);

    asm.align();
    let lookup = asm.position;
    write_lookup(asm);

    asm.align();
    let call = asm.position;
    save(asm);
    restore_mxcsr(asm);
    asm.alu(Size::Qword, alu::SUB, Rm::Register(RSP), 8);
    asm.lea(RDI, at(CPU, -(BIAS as i32)));
    asm.op(Size::Qword, opcode::STORE, RAX, Rm::Register(RSI));
    asm.set_wide(RAX, (execute as *const ()).expose_provenance() as u64);
    asm.op(Size::Dword, opcode::GROUP5, 2, Rm::Register(RAX));
    asm.alu(Size::Qword, alu::ADD, Rm::Register(RSP), 8);
    reload(asm);
    asm.op(Size::Dword, opcode::TEST, RAX, Rm::Register(RAX));
    let elsewhere = asm.jump_if(5);
    asm.byte(0xc3);
    asm.bind(elsewhere);
    // The return address is not needed.
    asm.alu(Size::Qword, alu::ADD, Rm::Register(RSP), 8);
    asm.alu(Size::Dword, alu::CMP, Rm::Register(RAX), 1);
    let out = asm.jump_if(5);
    asm.load(RAX, at(CPU, RIP));
    asm.call(lookup);
    asm.op(Size::Qword, opcode::TEST, RAX, Rm::Register(RAX));
    let unknown = asm.jump_if(4);
    asm.load(RDX, at(CPU, frame!(next_page)));
    asm.store(at(CPU, frame!(page)), RDX);
    asm.op(Size::Dword, opcode::GROUP5, 4, Rm::Register(RAX));
    asm.bind(out);
    asm.bind(unknown);
    asm.set(RAX, 0);
    asm.jump_to(leave);

    asm.align();
    let enter = asm.position;
    for register in KEPT {
        push(asm, register, false);
    }
    asm.alu(Size::Qword, alu::SUB, Rm::Register(RSP), 8);
    asm.lea(CPU, at(RDI, BIAS as i32));
    asm.op(Size::Qword, opcode::STORE, RSI, Rm::Register(RAX));
    reload(asm);
    asm.op(Size::Dword, opcode::GROUP5, 4, Rm::Register(RAX));

    asm.align();
    Stubs {
        enter,
        call,
        lookup,
        exit,
        end: asm.position,
    }
}

/// The hot table says the guest physical address of RIP, the table of blocks what is there.
fn write_lookup(asm: &mut Assembler) {
    let mut misses = [None; 5];
    asm.op(Size::Qword, opcode::STORE, RAX, Rm::Register(R11));
    asm.alu(Size::Qword, alu::AND, Rm::Register(R11), -0x1000);
    asm.store(at(CPU, frame!(next_page)), R11);
    asm.op(Size::Dword, opcode::STORE, RAX, Rm::Register(RDX));
    hot_index(asm, RDX);
    asm.alu(Size::Qword, alu::OR, Rm::Register(R11), 0xfff);
    asm.op(Size::Qword, alu::load(alu::SUB), R11, at(CPU, GENERATION));
    asm.op(Size::Qword, alu::load(alu::ADD), RDX, at(CPU, frame!(hot)));
    let execute = layout::TAGS as i32 + 8 * crate::cpu::mmu::Access::Execute as i32;
    asm.op(Size::Qword, alu::load(alu::CMP), R11, at(RDX, execute));
    misses[0] = Some(asm.jump_if(5));
    // The index of frames is the same.
    asm.op(Size::Qword, alu::load(alu::SUB), RDX, at(CPU, frame!(hot)));
    const RATIO: u32 = (layout::ENTRY / 8).trailing_zeros();
    asm.op(Size::Qword, opcode::SHIFT_IMMEDIATE, 5, Rm::Register(RDX));
    asm.byte(RATIO as u8);
    asm.op(
        Size::Qword,
        alu::load(alu::ADD),
        RDX,
        at(CPU, frame!(frames)),
    );
    asm.alu(Size::Dword, alu::AND, Rm::Register(RAX), 0xfff);
    asm.op(Size::Qword, alu::load(alu::OR), RAX, at(RDX, 0));
    // The block's set: see `code::set`.
    asm.op(Size::Qword, opcode::STORE, RAX, Rm::Register(R11));
    asm.op(Size::Qword, opcode::SHIFT_IMMEDIATE, 5, Rm::Register(R11));
    asm.byte(12);
    asm.op(Size::Dword, opcode::STORE, RAX, Rm::Register(RDX));
    asm.op(Size::Dword, alu::load(alu::XOR), RDX, Rm::Register(R11));
    asm.op(Size::Dword, alu::load(alu::XOR), RDX, at(CPU, frame!(size)));
    asm.alu(
        Size::Dword,
        alu::AND,
        Rm::Register(RDX),
        (code::BLOCKS - code::WAYS) as i32,
    );
    asm.alu(
        Size::Dword,
        alu::AND,
        Rm::Register(R11),
        code::GENERATIONS as i32 - 1,
    );
    const _: () = assert!(size_of::<code::Block>() == 24 && offset_of!(CodeCache, blocks) == 0);
    asm.lea(RDX, Rm::Memory(Some(RDX), Some((RDX, 1)), 0));
    asm.lea(RDX, Rm::Memory(None, Some((RDX, 3)), 0));
    asm.op(
        Size::Qword,
        alu::load(alu::ADD),
        RDX,
        at(CPU, frame!(cache)),
    );
    // Its key: see `code::key`.
    asm.lea(RAX, Rm::Memory(None, Some((RAX, 2)), 0));
    asm.op(Size::Qword, alu::load(alu::OR), RAX, at(CPU, frame!(size)));
    let mut hits = [None; code::WAYS - 1];
    for way in 0..code::WAYS {
        if way > 0 {
            asm.alu(
                Size::Qword,
                alu::ADD,
                Rm::Register(RDX),
                size_of::<code::Block>() as i32,
            );
        }
        let key = at(RDX, offset_of!(code::Block, key) as i32);
        asm.op(Size::Qword, alu::load(alu::CMP), RAX, key);
        match hits.get_mut(way) {
            Some(hit) => *hit = Some(asm.jump_if(4)),
            None => misses[1] = Some(asm.jump_if(5)),
        }
    }
    for hit in hits.into_iter().flatten() {
        asm.bind(hit);
    }
    asm.load(RAX, at(CPU, frame!(cache)));
    let generations = offset_of!(CodeCache, generations) as i32;
    asm.op(
        Size::Dword,
        opcode::LOAD,
        RAX,
        Rm::Memory(Some(RAX), Some((R11, 2)), generations),
    );
    let generation = offset_of!(code::Block, generation) as i32;
    asm.op(Size::Dword, alu::load(alu::CMP), RAX, at(RDX, generation));
    misses[2] = Some(asm.jump_if(5));
    asm.op(
        Size::Dword,
        opcode::LOAD,
        RAX,
        at(RDX, offset_of!(code::Block, host) as i32),
    );
    asm.sized(
        Size::Byte,
        alu::load(alu::CMP),
        RAX,
        at(CPU, frame!(context)),
    );
    misses[3] = Some(asm.jump_if(5));
    asm.op(Size::Dword, opcode::SHIFT_IMMEDIATE, 5, Rm::Register(RAX));
    asm.byte(8);
    misses[4] = Some(asm.jump_if(4));
    asm.op(Size::Dword, opcode::SHIFT_IMMEDIATE, 4, Rm::Register(RAX));
    asm.byte(super::ALIGNMENT.trailing_zeros() as u8);
    asm.op(
        Size::Qword,
        alu::load(alu::ADD),
        RAX,
        at(CPU, frame!(execute)),
    );
    asm.byte(0xc3);
    for miss in misses.into_iter().flatten() {
        asm.bind(miss);
    }
    asm.set(RAX, 0);
    asm.byte(0xc3);
}

/// A linear address becomes the offset of its entry in the hot table.
pub(super) fn hot_index(asm: &mut Assembler, register: u8) {
    const ENTRY: u32 = layout::ENTRY.trailing_zeros();
    const _: () = assert!(layout::ENTRY.is_power_of_two() && HOT_ENTRIES.is_power_of_two());
    asm.op(
        Size::Dword,
        opcode::SHIFT_IMMEDIATE,
        5,
        Rm::Register(register),
    );
    asm.byte(12 - ENTRY as u8);
    let mask = (HOT_ENTRIES - 1) * layout::ENTRY;
    asm.alu(Size::Dword, alu::AND, Rm::Register(register), mask as i32);
}

impl Translations {
    /// Room for a block, behind the stubs, which are written if they are not there. `None` if the
    /// memory is full.
    pub(super) fn room(&mut self, bytes: u32) -> Option<Assembler> {
        let CodeMemory {
            write: to, length, ..
        } = self.memory;
        // SAFETY: `CodeMemory::new` was promised that, and there is one assembler at a time.
        let mut asm = unsafe { Assembler::new(to, self.used, length as u32) };
        if self.used == 0 {
            self.stubs = write(&mut asm);
            self.used = asm.position;
        }
        let fits = !asm.full && length as u32 - self.used >= bytes;
        fits.then_some(asm)
    }

    /// Lets a jump go to a translation.
    pub(super) fn aim(&mut self, site: u32, entry: u32) {
        if let Some(mut asm) = self.room(0) {
            asm.aim(super::emit::Site(site), entry);
        }
    }
}
