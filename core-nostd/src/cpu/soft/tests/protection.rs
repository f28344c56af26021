//! Protection: segments, far transfers, exceptions, tasks, debug registers.
//!
//! Expectations are the manual's. Instructions are written as bytes with their assembly beside them.

use crate::cpu::gpr::{RAX, RBX, RCX, RDX, RSP};
use crate::cpu::soft::testing::Guest;
use crate::cpu::soft::{Event, Stop};
use crate::cpu::{Activity, CpuState, DescriptorTable, Segment};

/// Where things are in RAM.
const CODE: u64 = 0x1000;
const HANDLERS: u64 = 0x5000;
const GDT: u64 = 0x1_0000;
const IDT: u64 = 0x1_1000;
const TSS: u64 = 0x1_2000;
const TSS_2: u64 = 0x1_2100;
const LDT: u64 = 0x1_3000;
/// Tops of stacks.
const STACK: u64 = 0x8000;
const INNER: u64 = 0x9000;

/// Selectors of [`gdt`].
const CODE_0: u16 = 0x08;
const DATA_0: u16 = 0x10;
const CODE_3: u16 = 0x18 | 3;
const DATA_3: u16 = 0x20 | 3;
const TASK: u16 = 0x28;
const CONFORMING: u16 = 0x38;
const CALL_GATE: u16 = 0x40;
const TASK_GATE: u16 = 0x48;
const TASK_2: u16 = 0x50;
const LOCAL: u16 = 0x58;
const ABSENT: u16 = 0x60;
const READ_ONLY: u16 = 0x68;
const CODE_64: u16 = 0x70;
const TASK_16: u16 = 0x78;
const CODE_16: u16 = 0x80;
const LONG_GATE: u16 = 0x88;
const EXECUTE_ONLY: u16 = 0x98;
const CODE_64_3: u16 = 0xa0 | 3;

/// A descriptor: `access` is byte 5, `flags` the upper half of byte 6.
fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

fn gate(selector: u16, offset: u64, access: u64, parameters: u64) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | parameters << 32
        | access << 40
        | (offset >> 16 & 0xffff) << 48
}

impl Guest {
    fn put_u64(&mut self, gpa: u64, value: u64) {
        self.put(gpa, &value.to_le_bytes());
    }

    fn put_u32(&mut self, gpa: u64, value: u32) {
        self.put(gpa, &value.to_le_bytes());
    }

    fn put_u16(&mut self, gpa: u64, value: u16) {
        self.put(gpa, &value.to_le_bytes());
    }

    fn u16_at(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.get(gpa))
    }

    fn u32_at(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.get(gpa))
    }

    fn u64_at(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.get(gpa))
    }

    /// Words of the stack from its top.
    fn stack_words<const N: usize>(&mut self) -> [u32; N] {
        let top = self.state().gpr[RSP];
        core::array::from_fn(|n| self.u32_at(top + 4 * n as u64))
    }

    fn stack_quads<const N: usize>(&mut self) -> [u64; N] {
        let top = self.state().gpr[RSP];
        core::array::from_fn(|n| self.u64_at(top + 8 * n as u64))
    }

    fn set_descriptor(&mut self, selector: u16, value: u64) {
        self.put_u64(GDT + u64::from(selector & !7), value);
    }

    fn descriptor_at(&self, selector: u16) -> u64 {
        self.u64_at(GDT + u64::from(selector & !7))
    }

    /// Code of the running instruction, executed once. NOPs follow.
    fn one(&mut self, code: &[u8]) -> CpuState {
        let at = {
            let state = self.state();
            state.cs.base.wrapping_add(state.rip)
        };
        self.put(at, &[0x90; 32]);
        self.put(at, code);
        self.run(1);
        self.state()
    }

    /// The same where a fault is expected: the handler's vector, and what it has on its stack from the
    /// error code on if `code` says that there is one.
    fn fault(&mut self, code: &[u8]) -> u64 {
        let before = self.state();
        let after = self.one(code);
        assert!(after.rip >= HANDLERS, "no exception: {before:?} {after:?}");
        (after.rip - HANDLERS) / 16
    }
}

/// A guest in flat 32-bit protected mode with all tables.
fn protected() -> Guest {
    let mut guest = Guest::protected();
    tables(&mut guest);
    for vector in 0..256 {
        let access = if vector == 0x80 { 0xee } else { 0x8e };
        let offset = HANDLERS + vector * 16;
        guest.put_u64(IDT + vector * 8, gate(CODE_0, offset, access, 0));
    }
    guest
}

/// A guest in 64-bit mode with all tables.
fn long() -> Guest {
    let mut guest = Guest::long();
    tables(&mut guest);
    guest.set_descriptor(CODE_0, descriptor(0, 0xf_ffff, 0x9b, 0xa));
    for vector in 0..256 {
        let access = if vector == 0x80 { 0xee } else { 0x8e };
        let offset = HANDLERS + vector * 16;
        guest.put_u64(IDT + vector * 16, gate(CODE_0, offset, access, 0));
    }
    guest.put_u64(TSS + 4, INNER);
    guest.put_u64(TSS + 36, INNER + 0x804);
    guest
}

fn tables(guest: &mut Guest) {
    for (selector, value) in [
        (CODE_0, descriptor(0, 0xf_ffff, 0x9a, 0xc)),
        (DATA_0, descriptor(0, 0xf_ffff, 0x92, 0xc)),
        (CODE_3, descriptor(0, 0xf_ffff, 0xfa, 0xc)),
        (DATA_3, descriptor(0, 0xf_ffff, 0xf2, 0xc)),
        (TASK, descriptor(TSS, 0xff, 0x8b, 0)),
        (CONFORMING, descriptor(0, 0xf_ffff, 0x9e, 0xc)),
        (CALL_GATE, gate(CODE_0, 0x2000, 0xec, 2)),
        (TASK_GATE, gate(TASK_2, 0, 0xe5, 0)),
        (TASK_2, descriptor(TSS_2, 0x67, 0x89, 0)),
        (LOCAL, descriptor(LDT, 0xf, 0x82, 0)),
        (ABSENT, descriptor(0, 0xf_ffff, 0x12, 0xc)),
        (READ_ONLY, descriptor(0, 0xf_ffff, 0x90, 0xc)),
        (CODE_64, descriptor(0, 0, 0x9a, 0x2)),
        (TASK_16, descriptor(TSS_2, 0x2b, 0x81, 0)),
        (CODE_16, descriptor(0, 0xffff, 0x9a, 0)),
        (LONG_GATE, gate(CODE_64, 0x2000, 0xec, 0)),
        (LONG_GATE + 8, 0),
        (EXECUTE_ONLY, descriptor(0, 0xf_ffff, 0x98, 0xc)),
        (CODE_64_3, descriptor(0, 0, 0xfa, 0x2)),
    ] {
        guest.set_descriptor(selector, value);
    }
    guest.put(HANDLERS, &[0x90; 0x1010]);
    guest.put_u32(TSS + 4, INNER as u32);
    guest.put_u32(TSS + 8, DATA_0.into());
    guest.put_u64(LDT + 8, descriptor(0x2_0000, 0xff, 0xf2, 0x4));
    guest.change(|state| {
        state.gdtr = DescriptorTable {
            base: GDT,
            limit: 0xaf,
        };
        state.idtr = DescriptorTable {
            base: IDT,
            limit: 0xfff,
        };
        state.tr = Segment {
            limit: 0xff,
            code_or_data: false,
            ..Segment::real(TASK, TSS, 0xb)
        };
        state.ldtr = Segment {
            unusable: true,
            ..Segment::default()
        };
        state.gpr[RSP] = STACK;
    });
}

/// The same guest at privilege level 3.
fn user(mut guest: Guest) -> Guest {
    guest.change(|state| {
        let data = Segment {
            selector: DATA_3,
            dpl: 3,
            ..state.ss
        };
        (state.ss, state.ds, state.es) = (data, data, data);
        state.cs.selector = if state.cs.long { CODE_64_3 } else { CODE_3 };
        state.cs.dpl = 3;
    });
    guest
}

const GP: u64 = 13;
const SS: u64 = 12;
const NP: u64 = 11;
const TS: u64 = 10;
const UD: u64 = 6;

#[test]
fn data_segments_in_protected_mode() {
    let load_ds = [0x8e, 0xd8]; // mov ds, ax
    for (selector, vector, code) in [
        (ABSENT, NP, ABSENT),
        (EXECUTE_ONLY, GP, EXECUTE_ONLY),
        (TASK, GP, TASK),
        (0xb0, GP, 0xb0),
        (LOCAL | 4, GP, LOCAL | 4),
        (DATA_0 | 3, GP, DATA_0),
    ] {
        let mut guest = protected();
        guest.change(|state| state.gpr[RAX] = selector.into());
        assert_eq!(guest.fault(&load_ds), vector, "{selector:#x}");
        assert_eq!(guest.stack_words::<2>(), [u32::from(code), CODE as u32]);
        assert_eq!(guest.state().ds.selector, DATA_0);
    }
    for selector in [DATA_0, READ_ONLY, CODE_0, CONFORMING | 3, DATA_3] {
        let mut guest = protected();
        guest.change(|state| state.gpr[RAX] = selector.into());
        let state = guest.one(&load_ds);
        assert_eq!((state.rip, state.ds.selector), (CODE + 2, selector));
        assert_eq!(guest.descriptor_at(selector) >> 40 & 1, 1, "accessed");
    }
    // A null selector may be loaded and not used.
    let mut guest = protected();
    guest.change(|state| state.gpr[RAX] = 3);
    assert!(guest.one(&load_ds).ds.unusable);
    assert_eq!(guest.fault(&[0x8a, 0x00]), GP); // mov al, [eax]
}

#[test]
fn stack_segments_in_protected_mode() {
    let load_ss = [0x8e, 0xd0]; // mov ss, ax
    for (selector, vector, code) in [
        (0, GP, 0),
        (3, GP, 0),
        (DATA_0 | 1, GP, DATA_0),
        (DATA_3, GP, DATA_3 & !3),
        (READ_ONLY, GP, READ_ONLY),
        (CODE_0, GP, CODE_0),
        (ABSENT, SS, ABSENT),
    ] {
        let mut guest = protected();
        guest.change(|state| state.gpr[RAX] = selector.into());
        assert_eq!(guest.fault(&load_ss), vector, "{selector:#x}");
        assert_eq!(guest.stack_words::<1>(), [u32::from(code)]);
    }
    let mut guest = protected();
    guest.change(|state| state.gpr[RAX] = DATA_0.into());
    let state = guest.one(&load_ss);
    assert_eq!((state.ss.selector, state.events.shadow), (DATA_0, 1));
    assert_eq!(guest.one(&[0x90]).events.shadow, 0);
    // In 64-bit mode it may be null, but not at level 3.
    let mut guest = long();
    guest.change(|state| state.gpr[RAX] = 0);
    assert!(guest.one(&load_ss).ss.unusable);
    let mut guest = user(long());
    guest.change(|state| state.gpr[RAX] = 3);
    assert_eq!(guest.fault(&load_ss), GP);
}

#[test]
fn real_mode_keeps_limits() {
    let mut guest = Guest::new();
    guest.change(|state| {
        state.ds.limit = u32::MAX;
        state.gpr[RAX] = 0x1234;
        state.gpr[RBX] = 0x12_3456;
    });
    let state = guest.one(&[0x8e, 0xd8]);
    assert_eq!((state.ds.base, state.ds.limit), (0x1_2340, u32::MAX));
    guest.put(0x1_2340 + 0x12_3456, &[0x77]);
    // mov al, [ebx]
    assert_eq!(guest.one(&[0x67, 0x8a, 0x03]).gpr[RAX] & 0xff, 0x77);
    // jmp 0x100:0x234
    let state = guest.one(&[0xea, 0x34, 0x02, 0x00, 0x01]);
    assert_eq!(
        (state.cs.selector, state.cs.base, state.rip),
        (0x100, 0x1000, 0x234)
    );
}

#[test]
fn interrupts_in_real_mode() {
    let mut guest = Guest::new();
    guest.put_u32(0x21 * 4, 0x0200_0010);
    guest.change(|state| {
        state.idtr.limit = 0x3ff;
        state.rflags = 0x4_0302;
    });
    // int 21h
    let state = guest.one(&[0xcd, 0x21]);
    assert_eq!((state.cs.selector, state.rip), (0x200, 0x10));
    assert_eq!(state.rflags, 2);
    assert_eq!(state.gpr[RSP], STACK - 6);
    let frame = [0, 2, 4].map(|at| guest.u16_at(STACK - 6 + at));
    assert_eq!(frame, [CODE as u16 + 2, 0, 0x302]);
    // iret
    let state = guest.one(&[0xcf]);
    assert_eq!((state.cs.selector, state.rip), (0, CODE + 2));
    assert_eq!((state.rflags, state.gpr[RSP]), (0x302, STACK));
    // Beyond the table's limit: #GP, which has no error code here.
    guest.put_u32(13 * 4, 0x0300_0000);
    guest.put(0x3000, &[0x90, 0x0f, 0x0b]); // nop; ud2
    guest.change(|state| {
        state.rflags = 2;
        state.idtr.limit = 0x7f;
    });
    let state = guest.one(&[0xcd, 0x21]);
    assert_eq!((state.cs.selector, state.rip), (0x300, 1));
    assert_eq!(guest.u16_at(STACK - 6), CODE as u16 + 2);
    // Without any vector, a triple fault.
    guest.change(|state| state.idtr.limit = 0);
    assert_eq!(guest.run(5), Stop::Shutdown);
    assert_eq!(guest.run(5), Stop::Shutdown);
    assert_eq!(guest.state().rip, 1);
}

#[test]
fn interrupts_at_the_same_level() {
    let mut guest = protected();
    guest.change(|state| state.rflags = 0x4302);
    let state = guest.one(&[0xcd, 0x30]); // int 30h
    assert_eq!((state.rip, state.rflags), (HANDLERS + 0x300, 2));
    assert_eq!(
        guest.stack_words(),
        [CODE as u32 + 2, CODE_0.into(), 0x4302]
    );
    guest.change(|state| state.rflags = 0x202);
    guest.put_u32(STACK - 4, 0x302);
    let state = guest.one(&[0xcf]); // iret
    assert_eq!((state.rip, state.rflags), (CODE + 2, 0x302));
    assert_eq!(state.gpr[RSP], STACK);
    // A 16-bit gate pushes words, a trap gate leaves IF alone.
    let mut guest = protected();
    guest.put_u64(IDT + 0x30 * 8, gate(CODE_0, 0xdead_5300, 0x87, 0));
    guest.change(|state| state.rflags = 0x202);
    let state = guest.one(&[0xcd, 0x30]);
    assert_eq!((state.rip, state.rflags), (0x5300, 0x202));
    assert_eq!(state.gpr[RSP], STACK - 6);
    assert_eq!(guest.u16_at(STACK - 6), CODE as u16 + 2);
    // Faults push RF, traps do not.
    let mut guest = protected();
    assert_eq!(guest.fault(&[0x0f, 0x0b]), UD);
    assert_eq!(guest.stack_words(), [CODE as u32, CODE_0.into(), 0x1_0002]);
}

#[test]
fn interrupts_from_level_3() {
    // int 80h: a trap gate of DPL 3.
    let mut guest = user(protected());
    guest.change(|state| state.gpr[RSP] = 0x7f00);
    let state = guest.one(&[0xcd, 0x80]);
    assert_eq!(state.rip, HANDLERS + 0x800);
    assert_eq!((state.cs.selector, state.ss.selector), (CODE_0, DATA_0));
    assert_eq!(state.gpr[RSP], INNER - 20);
    assert_eq!(
        guest.stack_words(),
        [CODE as u32 + 2, CODE_3.into(), 2, 0x7f00, DATA_3.into()]
    );
    assert_eq!(state.ds.selector, DATA_3);
    // Back: data segments of level 0 are taken away.
    guest.change(|state| {
        state.ds = Segment {
            selector: DATA_0,
            dpl: 0,
            ..state.ds
        };
    });
    let state = guest.one(&[0xcf]);
    assert_eq!((state.rip, state.cs.selector), (CODE + 2, CODE_3));
    assert_eq!((state.ss.selector, state.gpr[RSP]), (DATA_3, 0x7f00));
    assert!(state.ds.unusable && state.ds.selector == 0);
    assert_eq!(state.es.selector, DATA_3);
    // int 30h: DPL 0.
    let mut guest = user(protected());
    assert_eq!(guest.fault(&[0xcd, 0x30]), GP);
    let words = guest.stack_words::<2>();
    assert_eq!(words, [0x30 * 8 + 2, CODE as u32]);
    // An exception does not care about DPL, and has EXT in what goes wrong with it.
    let mut guest = user(protected());
    guest.put_u64(IDT + UD * 8, gate(CODE_0, 0x5060, 0x0e, 0));
    assert_eq!(guest.fault(&[0x0f, 0x0b]), NP);
    assert_eq!(guest.stack_words::<1>(), [UD as u32 * 8 + 3]);
    // A bad inner stack is #TS; and then the handler of that has none either.
    let mut guest = user(protected());
    guest.put_u32(TSS + 8, READ_ONLY.into());
    guest.put(CODE, &[0xcd, 0x80]);
    assert_eq!(guest.run(1), Stop::Shutdown);
    assert_eq!(guest.state().rip, CODE);
    assert_eq!(guest.state().gpr[RSP], STACK);
}

#[test]
fn bad_gates_and_handlers() {
    for (entry, vector, code) in [
        (gate(CODE_0, 0x5000, 0x0e | 0x80, 0), None, 0),
        (gate(0, 0x5000, 0x8e, 0), Some(GP), 0),
        (gate(0xb0, 0x5000, 0x8e, 0), Some(GP), 0xb0),
        (gate(DATA_0, 0x5000, 0x8e, 0), Some(GP), DATA_0),
        (gate(CODE_3, 0x5000, 0x8e, 0), Some(GP), CODE_3 & !3),
        (gate(CODE_0, 0x5000, 0x8c, 0), Some(GP), 0x182),
        (gate(CODE_0, 0x5000, 0x9e, 0), Some(GP), 0x182),
        (gate(CODE_0, 0x5000, 0x0e, 0), Some(NP), 0x182),
        (gate(CODE_16, 0x1_5000, 0x8e, 0), Some(GP), 0),
    ] {
        let mut guest = protected();
        guest.put_u64(IDT + 0x30 * 8, entry);
        match vector {
            None => assert_eq!(guest.one(&[0xcd, 0x30]).rip, 0x5000),
            Some(vector) => {
                assert_eq!(guest.fault(&[0xcd, 0x30]), vector, "{entry:#x}");
                assert_eq!(guest.stack_words::<2>(), [u32::from(code), CODE as u32]);
            }
        }
    }
    let mut guest = protected();
    guest.change(|state| state.idtr.limit = 0x17f + 7);
    assert_eq!(guest.fault(&[0xcd, 0x31]), GP);
    assert_eq!(guest.stack_words::<1>(), [0x18a]);
}

#[test]
fn double_faults() {
    const DF: u64 = 8;
    let absent = |guest: &mut Guest, vector: u64| {
        guest.put_u64(IDT + vector * 8, gate(CODE_0, 0x5000, 0x0e, 0));
    };
    // #UD without a handler is #NP; that without a handler a double fault.
    let mut guest = protected();
    absent(&mut guest, UD);
    absent(&mut guest, NP);
    assert_eq!(guest.fault(&[0x0f, 0x0b]), DF);
    assert_eq!(guest.stack_words(), [0, CODE as u32, u32::from(CODE_0)]);
    assert_eq!(guest.state().gpr[RSP], STACK - 16);
    // Contributory and contributory: div by zero without a handler.
    let mut guest = protected();
    absent(&mut guest, 0);
    guest.change(|state| state.gpr[RCX] = 0);
    assert_eq!(guest.fault(&[0xf7, 0xf1]), DF); // div ecx
    // And a triple fault.
    let mut guest = protected();
    for vector in [0, DF] {
        absent(&mut guest, vector);
    }
    guest.put(CODE, &[0xf7, 0xf1]);
    assert_eq!(guest.run(10), Stop::Shutdown);
    let state = guest.state();
    assert!(state.events.triple_fault);
    assert_eq!((state.rip, state.gpr[RSP]), (CODE, STACK));
    // INIT helps.
    guest.board.events.push_back(Event::Init);
    guest.signals.raise();
    guest.run(0);
    let state = guest.state();
    assert_eq!((state.rip, state.cs.base), (0xfff0, 0xffff_0000));
    assert_eq!(state.cr0, 0x6000_0010, "caches stay as they were");
    assert_eq!(state.activity, Activity::Running);
    assert!(!state.events.triple_fault);
}

#[test]
fn page_faults_during_deliveries() {
    // The stack is not there: #PF, whose delivery fails in the same way: #DF, and the same again.
    let mut guest = long();
    guest.put(CODE, &[0xcd, 0x30]);
    guest.change(|state| state.gpr[RSP] = 0x40_0000);
    assert_eq!(guest.run(1), Stop::Shutdown);
    assert_eq!(guest.state().cr2, 0x3f_fff8);
    // With a stack of its own the double fault works.
    let mut guest = long();
    guest.put_u64(IDT + 8 * 16, gate(CODE_0, 0x5080, 0x8e, 1));
    guest.change(|state| state.gpr[RSP] = 0x40_0000);
    assert_eq!(guest.fault(&[0xcd, 0x30]), 8);
    let state = guest.state();
    assert_eq!(state.gpr[RSP], INNER + 0x800 - 48);
    let frame = guest.stack_quads::<6>();
    assert_eq!(frame[..3], [0, CODE, CODE_0.into()]);
    assert_eq!(frame[4..], [0x40_0000, DATA_0.into()]);
}

#[test]
fn interrupts_in_long_mode() {
    let mut guest = long();
    guest.change(|state| state.gpr[RSP] = STACK - 4);
    let state = guest.one(&[0xcd, 0x30]);
    assert_eq!((state.rip, state.gpr[RSP]), (0x5300, STACK - 16 - 40));
    let frame = [CODE + 2, CODE_0.into(), 2, STACK - 4, DATA_0.into()];
    assert_eq!(guest.stack_quads(), frame);
    let state = guest.one(&[0x48, 0xcf]); // iretq
    assert_eq!((state.rip, state.gpr[RSP]), (CODE + 2, STACK - 4));
    // From level 3, SS becomes null with the new privilege level.
    let mut guest = user(long());
    let state = guest.one(&[0xcd, 0x80]);
    assert_eq!((state.rip, state.gpr[RSP]), (0x5800, INNER - 40));
    assert!(state.ss.unusable && state.ss.selector == 0 && state.ss.dpl == 0);
    let frame = [CODE + 2, CODE_64_3.into(), 2, STACK, DATA_3.into()];
    assert_eq!(guest.stack_quads(), frame);
    let state = guest.one(&[0x48, 0xcf]);
    assert_eq!((state.ss.selector, state.ss.dpl), (DATA_3, 3));
    assert_eq!(state.gpr[RSP], STACK);
    // iretq to a null SS is for levels below 3 only.
    let mut guest = long();
    guest.change(|state| state.gpr[RSP] = STACK - 40);
    for (n, value) in [CODE, CODE_0.into(), 2, STACK, 0].into_iter().enumerate() {
        guest.put_u64(STACK - 40 + 8 * n as u64, value);
    }
    assert!(guest.one(&[0x48, 0xcf]).ss.unusable);
    guest.change(|state| state.gpr[RSP] = STACK - 40);
    guest.put_u64(STACK - 32, CODE_64_3.into());
    guest.put_u64(STACK - 8, 3);
    assert_eq!(guest.fault(&[0x48, 0xcf]), GP);
    // Not canonical.
    let mut guest = long();
    guest.change(|state| state.gpr[RSP] = 0x8000_0000_1000);
    guest.put_u64(IDT + 12 * 16, gate(CODE_0, 0x50c0, 0x8e, 1));
    assert_eq!(guest.fault(&[0xcd, 0x30]), SS);
    assert_eq!(guest.stack_quads::<2>(), [0, CODE]);
}

#[test]
fn virtual_8086_mode() {
    let mut guest = protected();
    guest.put_u64(IDT + 0x80 * 8, gate(CODE_0, HANDLERS + 0x800, 0xee, 0));
    let frame = [
        0x20u32, 0x300, 0x2_3002, 0x1000, 0x700, 0x11, 0x22, 0x33, 0x44,
    ];
    let top = STACK - 4 * frame.len() as u64;
    for (n, value) in frame.into_iter().enumerate() {
        guest.put_u32(top + 4 * n as u64, value);
    }
    guest.change(|state| state.gpr[RSP] = top);
    let state = guest.one(&[0xcf]);
    assert_eq!((state.cs.base, state.rip), (0x3000, 0x20));
    assert_eq!((state.ss.base, state.gpr[RSP]), (0x7000, 0x1000));
    let selectors = [state.es, state.ds, state.fs, state.gs].map(|s| s.selector);
    assert_eq!(selectors, [0x11, 0x22, 0x33, 0x44]);
    assert_eq!((state.cs.dpl, state.ss.limit), (3, 0xffff));
    // With IOPL 3, INT n goes to level 0.
    let state = guest.one(&[0xcd, 0x80]);
    assert_eq!(state.rip, HANDLERS + 0x800);
    assert_eq!(state.gpr[RSP], INNER - 36);
    assert_eq!(
        guest.stack_words(),
        [0x22, 0x300, 0x2_3002, 0x1000, 0x700, 0x11, 0x22, 0x33, 0x44]
    );
    assert!(state.ds.unusable && state.gs.unusable);
    assert_eq!(state.ss.selector, DATA_0);
    // And back, with IOPL 0: #GP(0).
    guest.put_u32(INNER - 28, 0x2_0002);
    guest.one(&[0xcf]);
    assert_eq!(guest.fault(&[0xcd, 0x80]), GP);
    assert_eq!(guest.stack_words::<2>(), [0, 0x22]);
    // IRET in that mode, with IOPL 3: not VM, not IOPL.
    guest.put_u32(INNER - 28, 0x2_3002);
    guest.change(|state| state.gpr[RSP] += 4);
    guest.one(&[0xcf]);
    guest.put_u16(0x7ffa, 0x40);
    guest.put_u16(0x7ffc, 0x310);
    guest.put_u16(0x7ffe, 0x0203);
    guest.change(|state| state.gpr[RSP] = 0xffa);
    let state = guest.one(&[0xcf]);
    assert_eq!((state.cs.base, state.rip), (0x3100, 0x40));
    assert_eq!((state.rflags, state.gpr[RSP]), (0x2_3203, 0x1000));
    // A handler that is not of level 0 is refused.
    guest.put_u64(IDT + 0x80 * 8, gate(CONFORMING, HANDLERS, 0xee, 0));
    assert_eq!(guest.fault(&[0xcd, 0x80]), GP);
    assert_eq!(guest.stack_words::<1>(), [u32::from(CONFORMING)]);
}

#[test]
fn redirected_interrupts() {
    let mut guest = protected();
    guest.put_u16(TSS + 0x66, 0x88);
    guest.put(TSS + 0x68, &[0; 32]);
    guest.put(TSS + 0x68 + 0x31 / 8, &[1 << (0x31 % 8)]);
    guest.put_u32(0x30 * 4, 0x0400_0010);
    guest.change(|state| {
        state.cr4 |= 1;
        let segment = |selector| Segment {
            dpl: 3,
            ..Segment::real(selector, u64::from(selector) << 4, 3)
        };
        state.rflags = 0x0a_0102;
        (state.cs, state.ss) = (segment(0x300), segment(0x700));
        (state.ds, state.es) = (segment(0), segment(0));
        state.rip = 0;
        state.gpr[RSP] = 0x1000;
    });
    // VIF stands for IF in the image, and is cleared; so is TF.
    let state = guest.one(&[0xcd, 0x30]);
    assert_eq!((state.cs.selector, state.rip), (0x400, 0x10));
    assert_eq!(state.rflags, 0x02_0002);
    assert_eq!(guest.u16_at(0x7ffe), 0x3302);
    assert_eq!(guest.u16_at(0x7ffa), 2);
    // IRET gives VIF back. With TF in the image it is a fault.
    guest.put_u16(0x7ffe, 0x3202);
    let state = guest.one(&[0xcf]);
    assert_eq!((state.rflags, state.gpr[RSP]), (0x0a_0002, 0x1000));
    // One that is not redirected is #GP(0) with IOPL 0.
    assert_eq!(guest.fault(&[0xcd, 0x31]), GP);
}

#[test]
fn far_jumps() {
    let jump = |selector: u16, offset: u32| {
        let mut code = [0xea, 0, 0, 0, 0, 0, 0];
        code[1..5].copy_from_slice(&offset.to_le_bytes());
        code[5..].copy_from_slice(&selector.to_le_bytes());
        code
    };
    for (selector, offset, vector, code) in [
        (0, 0, GP, 0),
        (DATA_0, 0, GP, DATA_0),
        (CODE_3, 0, GP, CODE_3 & !3),
        (CODE_0 | 1, 0, GP, CODE_0),
        (CODE_16, 0x1_0000, GP, 0),
        (LOCAL, 0, GP, LOCAL),
        (TASK, 0, GP, TASK),
        (0xb0, 0, GP, 0xb0),
    ] {
        let mut guest = protected();
        assert_eq!(
            guest.fault(&jump(selector, offset)),
            vector,
            "{selector:#x}"
        );
        assert_eq!(guest.stack_words::<2>(), [u32::from(code), CODE as u32]);
    }
    let mut guest = protected();
    let state = guest.one(&jump(CODE_16, 0x2000));
    assert_eq!(
        (state.cs.selector, state.rip, state.cs.big),
        (CODE_16, 0x2000, false)
    );
    // A conforming segment runs at the caller's level.
    let mut guest = user(protected());
    let state = guest.one(&jump(CONFORMING, 0x2000));
    assert_eq!((state.cs.selector, state.ss.dpl), (CONFORMING | 3, 3));
    // Through a gate there is no change of privilege.
    let mut guest = user(protected());
    assert_eq!(guest.fault(&jump(CALL_GATE, 0)), GP);
    assert_eq!(guest.stack_words::<1>(), [u32::from(CODE_0)]);
    // From compatibility mode to 64-bit mode.
    let mut guest = long();
    guest.change(|state| (state.cs.long, state.cs.big) = (false, true));
    let state = guest.one(&jump(CODE_64, 0x2000));
    assert_eq!((state.cs.selector, state.cs.long), (CODE_64, true));
    // jmp far [rip]: back, and with REX.W far away.
    let code = [
        0xff,
        0x2d,
        0,
        0,
        0,
        0,
        0x78,
        0x56,
        0x34,
        0x12,
        CODE_64 as u8,
        0,
    ];
    assert_eq!(guest.one(&code).rip, 0x1234_5678);
    let mut guest = long();
    let mut code = [
        0x48,
        0xff,
        0x2d,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0x80,
        0,
        0,
        CODE_64 as u8,
        0,
    ];
    assert_eq!(guest.fault(&code), GP);
    code[11] = 0xff;
    code[12] = 0x7f;
    let mut guest = long();
    assert_eq!(guest.one(&code).rip, 0x7fff_0000_0000);
}

#[test]
fn calls_through_gates() {
    // call far CALL_GATE:0 with two parameters on the stack.
    let call = [0x9a, 0, 0, 0, 0, CALL_GATE as u8 | 3, 0];
    let mut guest = user(protected());
    guest.change(|state| state.gpr[RSP] = STACK - 8);
    guest.put_u32(STACK - 8, 0x1111);
    guest.put_u32(STACK - 4, 0x2222);
    let state = guest.one(&call);
    assert_eq!((state.cs.selector, state.rip), (CODE_0, 0x2000));
    assert_eq!(
        guest.stack_words(),
        [
            CODE as u32 + 7,
            CODE_3.into(),
            0x1111,
            0x2222,
            STACK as u32 - 8,
            DATA_3.into()
        ]
    );
    // retf 8 releases them on both stacks.
    let state = guest.one(&[0xca, 8, 0]);
    assert_eq!((state.rip, state.cs.selector), (CODE + 7, CODE_3));
    assert_eq!((state.gpr[RSP], state.ss.selector), (STACK, DATA_3));
    // At the same level no parameters are copied.
    let mut guest = protected();
    guest.one(
        &call[..5]
            .iter()
            .chain(&[CALL_GATE as u8, 0])
            .copied()
            .collect::<std::vec::Vec<_>>(),
    );
    assert_eq!(guest.stack_words(), [CODE as u32 + 7, u32::from(CODE_0)]);
    // The gate's own privilege.
    let mut guest = user(protected());
    guest.set_descriptor(CALL_GATE, gate(CODE_0, 0x2000, 0xcc, 0));
    assert_eq!(guest.fault(&call), GP);
    assert_eq!(guest.stack_words::<1>(), [u32::from(CALL_GATE)]);
    // Of long mode: no parameters, eight bytes each, a null SS.
    let mut guest = user(long());
    guest.change(|state| (state.cs.long, state.cs.big) = (false, true));
    let call = [0x9a, 0, 0, 0, 0, LONG_GATE as u8 | 3, 0];
    let state = guest.one(&call);
    assert_eq!((state.cs.selector, state.rip), (CODE_64, 0x2000));
    assert!(state.ss.unusable && state.cs.long);
    let frame = [CODE + 7, CODE_64_3.into(), STACK, DATA_3.into()];
    assert_eq!(guest.stack_quads(), frame);
    // A plain far call and return.
    let mut guest = protected();
    guest.put(0x2000, &[0xcb]);
    let call = [0x9a, 0, 0x20, 0, 0, CODE_0 as u8, 0];
    guest.one(&call);
    let state = guest.state();
    assert_eq!((state.rip, state.gpr[RSP]), (0x2000, STACK - 8));
    assert_eq!(guest.one(&[0xcb]).rip, CODE + 7);
    // A return to a more privileged level is none.
    let mut guest = user(protected());
    guest.put_u32(STACK - 8, CODE as u32);
    guest.put_u32(STACK - 4, CODE_0.into());
    guest.change(|state| state.gpr[RSP] = STACK - 8);
    assert_eq!(guest.fault(&[0xcb]), GP);
    assert_eq!(guest.stack_words::<1>(), [u32::from(CODE_0)]);
}

#[test]
fn fast_system_calls() {
    let prepare = |guest: &mut Guest| {
        guest.change(|state| {
            state.efer |= 1;
            state.msrs.star = 0x0020_0008 << 32 | 0x2000;
            state.msrs.lstar = 0xffff_8000_0000_1000;
            state.msrs.cstar = 0x3000;
            state.msrs.sfmask = 0x300;
            state.rflags = 0x203;
            (state.msrs.sysenter_cs, state.msrs.sysenter_eip) = (8, 0x1_0000_4000);
            state.msrs.sysenter_esp = 0x1_0000_9000;
        });
    };
    let mut guest = user(long());
    assert_eq!(guest.fault(&[0x0f, 0x05]), UD);
    let mut guest = user(long());
    prepare(&mut guest);
    let state = guest.one(&[0x0f, 0x05]); // syscall
    assert_eq!(state.rip, 0xffff_8000_0000_1000);
    assert_eq!((state.gpr[RCX], state.gpr[11]), (CODE + 2, 0x203));
    assert_eq!(
        (state.rflags, state.cs.selector, state.ss.selector),
        (3, 8, 0x10)
    );
    assert_eq!((state.cs.long, state.cs.dpl, state.ss.dpl), (true, 0, 0));
    // sysretq
    let mut guest = long();
    prepare(&mut guest);
    guest.change(|state| {
        state.gpr[RCX] = 0x4000;
        state.gpr[11] = 0x3_3203;
    });
    let state = guest.one(&[0x48, 0x0f, 0x07]);
    assert_eq!((state.rip, state.rflags), (0x4000, 0x3203));
    assert_eq!((state.cs.selector, state.ss.selector), (0x33, 0x2b));
    assert_eq!((state.cs.long, state.cs.dpl, state.ss.dpl), (true, 3, 3));
    // sysretl goes to compatibility mode; a target that is not canonical faults at level 0.
    let mut guest = long();
    prepare(&mut guest);
    guest.change(|state| state.gpr[RCX] = 0x8000_0000_4000);
    assert_eq!(guest.fault(&[0x48, 0x0f, 0x07]), GP);
    let mut guest = long();
    prepare(&mut guest);
    guest.change(|state| state.gpr[RCX] = 0x8000_0000_4000);
    let state = guest.one(&[0x0f, 0x07]);
    assert_eq!(
        (state.rip, state.cs.selector, state.cs.big),
        (0x4000, 0x23, true)
    );
    // sysenter, in long mode and outside.
    let mut guest = user(long());
    prepare(&mut guest);
    let state = guest.one(&[0x0f, 0x34]);
    assert_eq!((state.rip, state.gpr[RSP]), (0x1_0000_4000, 0x1_0000_9000));
    assert_eq!((state.cs.long, state.rflags & 0x200), (true, 0));
    let mut guest = user(protected());
    prepare(&mut guest);
    let state = guest.one(&[0x0f, 0x34]);
    assert_eq!((state.rip, state.gpr[RSP]), (0x4000, 0x9000));
    assert_eq!(
        (state.cs.selector, state.ss.selector, state.cs.big),
        (8, 0x10, true)
    );
    // sysexit
    guest.change(|state| {
        state.rflags = 2;
        (state.gpr[RCX], state.gpr[RDX]) = (0x6000, 0x2000);
        state.rip = CODE;
    });
    let state = guest.one(&[0x0f, 0x35]);
    assert_eq!((state.rip, state.gpr[RSP]), (0x2000, 0x6000));
    assert_eq!(
        (state.cs.selector, state.ss.selector, state.ss.dpl),
        (0x1b, 0x23, 3)
    );
    let mut guest = protected();
    assert_eq!(guest.fault(&[0x0f, 0x34]), GP);
}

#[test]
fn task_switches() {
    let task = |guest: &mut Guest| {
        for (offset, value) in [
            (0x20, 0x2000),
            (0x24, 0x2),
            (0x28, 0xaaaa_aaaa),
            (0x38, 0x7000),
            (0x48, DATA_0.into()),
            (0x4c, CODE_0.into()),
            (0x50, DATA_0.into()),
            (0x54, DATA_0.into()),
            (0x58, 0),
            (0x5c, 0),
            (0x60, LOCAL.into()),
        ] {
            guest.put_u32(TSS_2 + offset, value);
        }
    };
    // call TASK_2
    let call = [0x9a, 0, 0, 0, 0, TASK_2 as u8, 0];
    let mut guest = protected();
    task(&mut guest);
    guest.change(|state| state.gpr[RAX] = 0x5555);
    let state = guest.one(&call);
    assert_eq!((state.rip, state.rflags), (0x2000, 0x4002));
    assert_eq!((state.gpr[RAX], state.gpr[RSP]), (0xaaaa_aaaa, 0x7000));
    assert_eq!((state.tr.selector, state.tr.kind), (TASK_2, 0xb));
    assert_eq!((state.ldtr.selector, state.ldtr.base), (LOCAL, LDT));
    assert_eq!(state.cr0 & 8, 8);
    assert_eq!(guest.u16_at(TSS_2), TASK);
    assert_eq!(guest.u32_at(TSS + 0x20), CODE as u32 + 7);
    assert_eq!(guest.u32_at(TSS + 0x28), 0x5555);
    assert_eq!(guest.u16_at(TSS + 0x4c), CODE_0);
    assert_eq!(guest.descriptor_at(TASK_2) >> 40 & 0xff, 0x8b);
    assert_eq!(guest.descriptor_at(TASK) >> 40 & 0xff, 0x8b);
    // A task that is busy is not called.
    assert_eq!(guest.fault(&call), GP);
    // iret goes back.
    guest.change(|state| {
        state.gpr[RSP] = 0x7000;
        state.rflags = 0x4002;
        state.rip = 0x2000;
    });
    let state = guest.one(&[0xcf]);
    assert_eq!(
        (state.rip, state.rflags, state.gpr[RAX]),
        (CODE + 7, 2, 0x5555)
    );
    assert_eq!((state.tr.selector, state.ldtr.unusable), (TASK, true));
    assert_eq!(guest.descriptor_at(TASK_2) >> 40 & 0xff, 0x89);
    assert_eq!(guest.u32_at(TSS_2 + 0x24), 2);
    // jmp through a task gate from level 3, with T set in the new task.
    let mut guest = user(protected());
    task(&mut guest);
    guest.put_u16(TSS_2 + 0x64, 1);
    guest.put(0x2000, &[0x90; 4]);
    guest.one(&[0xea, 0, 0, 0, 0, TASK_GATE as u8, 0]);
    assert_eq!(guest.descriptor_at(TASK) >> 40 & 0xff, 0x89);
    guest.run(1);
    let state = guest.state();
    assert_eq!((state.rip, state.dr6), (HANDLERS + 17, 0xffff_8ff0));
    assert_eq!(guest.stack_words::<1>(), [0x2000]);
    // What is wrong with the new task is its own fault.
    let mut guest = protected();
    task(&mut guest);
    guest.put_u32(TSS_2 + 0x54, 0xb0);
    assert_eq!(guest.fault(&call), TS);
    let state = guest.state();
    assert_eq!(state.tr.selector, TASK_2);
    assert_eq!(guest.stack_words::<3>(), [0xb0, 0x2000, CODE_0.into()]);
    // A task-state segment that is too short is the old one's.
    let mut guest = protected();
    guest.set_descriptor(TASK_2, descriptor(TSS_2, 0x66, 0x89, 0));
    assert_eq!(guest.fault(&call), TS);
    assert_eq!(guest.stack_words::<2>(), [TASK_2.into(), CODE as u32]);
    // An exception by a task gate has its error code on the new stack.
    let mut guest = protected();
    task(&mut guest);
    guest.put_u64(IDT + GP * 8, gate(TASK_2, 0, 0x85, 0));
    guest.change(|state| state.gpr[RAX] = 0xb0);
    guest.put(0x2000, &[0x90; 4]);
    let state = guest.one(&[0x8e, 0xd8]);
    assert_eq!((state.rip, state.gpr[RSP]), (0x2001, 0x6ffc));
    assert_eq!(guest.stack_words::<1>(), [0xb0]);
    assert_eq!(guest.u32_at(TSS + 0x20), CODE as u32);
    assert_eq!(guest.u32_at(TSS + 0x24), 0x1_0002);
    // A 16-bit task.
    let mut guest = protected();
    for (offset, value) in [
        (0x0e, 0x2000),
        (0x10, 2),
        (0x12, 0xaaaa),
        (0x1a, 0x7000),
        (0x22, DATA_0),
        (0x24, CODE_0),
        (0x26, DATA_0),
        (0x28, DATA_0),
        (0x2a, 0),
    ] {
        guest.put_u16(TSS_2 + offset, value);
    }
    guest.change(|state| state.gpr[RAX] = 0x1234_5678);
    let state = guest.one(&[0xea, 0, 0, 0, 0, TASK_16 as u8, 0]);
    assert_eq!((state.rip, state.gpr[RAX]), (0x2000, 0x1234_aaaa));
    assert_eq!((state.tr.kind, state.rflags), (3, 2));
    assert!(state.fs.unusable);
}

#[test]
fn descriptor_tables_and_questions() {
    // lgdt [0x3000], with a 16-bit operand size; sgdt stores all.
    let mut guest = protected();
    guest.put(0x3000, &[0x34, 0x12, 0x78, 0x56, 0x34, 0x12]);
    let state = guest.one(&[0x66, 0x0f, 0x01, 0x15, 0, 0x30, 0, 0]);
    assert_eq!((state.gdtr.base, state.gdtr.limit), (0x34_5678, 0x1234));
    let mut guest = protected();
    guest.one(&[0x0f, 0x01, 0x0d, 0, 0x30, 0, 0]); // sidt [0x3000]
    assert_eq!(guest.u16_at(0x3000), 0xfff);
    assert_eq!(guest.u32_at(0x3002), IDT as u32);
    assert_eq!(guest.u16_at(0x3006), 0);
    let mut guest = user(protected());
    assert_eq!(guest.fault(&[0x0f, 0x01, 0x15, 0, 0x30, 0, 0]), GP);
    // UMIP.
    let mut guest = user(protected());
    guest.one(&[0x0f, 0x01, 0x05, 0, 0x30, 0, 0]); // sgdt [0x3000]
    assert_eq!(guest.u32_at(0x3002), GDT as u32);
    guest.change(|state| state.cr4 |= 1 << 11);
    assert_eq!(guest.fault(&[0x0f, 0x01, 0x05, 0, 0x30, 0, 0]), GP);
    // lldt ax, and a segment of the local table.
    let mut guest = protected();
    guest.change(|state| state.gpr[RAX] = LOCAL.into());
    let state = guest.one(&[0x0f, 0x00, 0xd0]);
    assert_eq!((state.ldtr.base, state.ldtr.limit), (LDT, 0xf));
    guest.change(|state| state.gpr[RAX] = 0xc);
    assert_eq!(guest.one(&[0x8e, 0xd8]).ds.base, 0x2_0000);
    // ltr ax: busy is refused.
    let mut guest = protected();
    guest.change(|state| state.gpr[RAX] = TASK_2.into());
    assert_eq!(guest.one(&[0x0f, 0x00, 0xd8]).tr.kind, 0xb);
    assert_eq!(guest.descriptor_at(TASK_2) >> 40 & 0xf, 0xb);
    assert_eq!(guest.fault(&[0x0f, 0x00, 0xd8]), GP);
    // lar ecx, ax; lsl ecx, ax; verr ax; verw ax.
    let (lar, lsl) = ([0x0f, 0x02, 0xc8], [0x0f, 0x03, 0xc8]);
    let (verr, verw) = ([0x0f, 0x00, 0xe0], [0x0f, 0x00, 0xe8]);
    let ask = |code: &[u8], selector: u16, level_3: bool| {
        let mut guest = if level_3 {
            user(protected())
        } else {
            protected()
        };
        guest.change(|state| {
            state.gpr[RAX] = selector.into();
            state.gpr[RCX] = 0x77;
        });
        let state = guest.one(code);
        (state.rflags & 0x40 != 0, state.gpr[RCX])
    };
    assert_eq!(ask(&lar, DATA_0, false), (true, 0xcf_9200));
    assert_eq!(ask(&lar, DATA_0, true), (false, 0x77));
    assert_eq!(ask(&lar, CALL_GATE, true), (true, 0xec00));
    assert_eq!(ask(&lsl, CALL_GATE, true), (false, 0x77));
    assert_eq!(ask(&lsl, DATA_0, false), (true, 0xffff_ffff));
    assert_eq!(ask(&lsl, TASK, false), (true, 0xff));
    assert!(ask(&lar, CONFORMING, true).0);
    assert!(!ask(&lar, 0, false).0);
    assert!(!ask(&lar, 0xb0, false).0);
    assert!(!ask(&verr, EXECUTE_ONLY, false).0);
    assert!(ask(&verr, CODE_0, false).0);
    assert!(!ask(&verw, READ_ONLY, false).0);
    assert!(ask(&verw, DATA_0, false).0);
    assert!(!ask(&verw, DATA_0 | 3, false).0);
    // arpl cx, ax
    let mut guest = protected();
    guest.change(|state| (state.gpr[RAX], state.gpr[RCX]) = (3, 0x1_0009));
    let state = guest.one(&[0x63, 0xc1]);
    assert_eq!((state.gpr[RCX], state.rflags & 0x40), (0x1_000b, 0x40));
    let mut guest = Guest::new();
    guest.put_u32(UD * 4, 0x0500_0000);
    guest.put(0x5000, &[0x90]);
    assert_eq!(guest.one(&lar).cs.selector, 0x500);
}

#[test]
fn bound_and_into() {
    let code = [0x62, 0x0d, 0, 0x30, 0, 0]; // bound ecx, [0x3000]
    for (index, inside) in [(-2i32, true), (5, true), (6, false), (-3, false)] {
        let mut guest = protected();
        guest.put_u32(0x3000, -2i32 as u32);
        guest.put_u32(0x3004, 5);
        guest.change(|state| state.gpr[RCX] = u64::from(index as u32));
        if inside {
            assert_eq!(guest.one(&code).rip, CODE + 6);
        } else {
            assert_eq!(guest.fault(&code), 5);
        }
    }
    let mut guest = protected();
    assert_eq!(guest.one(&[0xce]).rip, CODE + 1);
    guest.change(|state| state.rflags |= 0x800);
    assert_eq!(guest.one(&[0xce]).rip, HANDLERS + 0x40);
    // INTO and INT3 are subject to the gate's privilege, INT1 is not.
    for (code, vector) in [(0xcc, GP), (0xf1, 1)] {
        let mut guest = user(protected());
        guest.change(|state| state.rflags |= 0x800);
        let state = guest.one(&[code]);
        assert_eq!((state.rip - HANDLERS) / 16, vector);
        assert_eq!(state.cs.selector, CODE_0);
    }
}

#[test]
fn hardware_interrupts_and_nmis() {
    let mut guest = protected();
    guest.put(CODE, &[0x90; 8]);
    guest.board.interrupts.extend([0x40, 0x41]);
    guest.signals.raise();
    guest.run(1);
    assert_eq!(guest.state().rip, CODE + 1, "interrupts are off");
    guest.change(|state| state.rflags |= 0x200);
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0x401);
    assert_eq!(
        guest.stack_words(),
        [CODE as u32 + 1, u32::from(CODE_0), 0x202]
    );
    // The second one comes after IRET.
    guest.one(&[0xcf]);
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0x411);
    assert_eq!(guest.stack_words::<1>(), [CODE as u32 + 1]);
    // MOV SS holds them back for one instruction.
    let mut guest = protected();
    guest.change(|state| {
        state.gpr[RAX] = DATA_0.into();
        state.rflags |= 0x200;
    });
    guest.put(CODE, &[0x8e, 0xd0, 0x90, 0x90]);
    guest.run(1);
    guest.board.interrupts.push_back(0x40);
    guest.signals.raise();
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0x400);
    assert_eq!(guest.stack_words::<1>(), [CODE as u32 + 3]);
    // An NMI is not masked, and masks others until IRET.
    let mut guest = protected();
    guest.put(CODE, &[0x90; 8]);
    guest.put(HANDLERS + 0x20, &[0x90, 0x90, 0xcf]);
    guest.board.events.extend([Event::Nmi]);
    guest.signals.raise();
    guest.run(1);
    let state = guest.state();
    let nmi = (state.rip, state.events.nmi_masked);
    assert_eq!(nmi, (HANDLERS + 0x21, true));
    guest.board.events.push_back(Event::Nmi);
    guest.signals.raise();
    guest.run(1);
    let state = guest.state();
    assert_eq!(
        (state.rip, state.events.nmi_pending),
        (HANDLERS + 0x22, true)
    );
    guest.run(2);
    assert_eq!(guest.state().rip, HANDLERS + 0x21);
    assert_eq!(guest.stack_words::<1>(), [CODE as u32]);
    // Interrupts are benign, also those with the vectors of exceptions: one whose delivery fails is
    // followed by that failure's exception.
    let mut guest = protected();
    guest.put_u64(IDT + 8 * 8, gate(CODE_0, 0x5000, 0x0e, 0));
    guest.put(CODE, &[0x90; 8]);
    guest.change(|state| state.rflags |= 0x200);
    guest.board.interrupts.push_back(8);
    guest.signals.raise();
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0xb1);
    assert_eq!(guest.stack_words::<2>(), [0x43, CODE as u32]);
    // HLT waits for one.
    let mut guest = protected();
    guest.change(|state| state.activity = Activity::Halted);
    assert_eq!(guest.run(1), Stop::Idle);
    guest.board.interrupts.push_back(0x40);
    guest.signals.raise();
    assert_eq!(guest.run(1), Stop::Idle);
    guest.change(|state| state.rflags |= 0x200);
    assert_eq!(guest.run(1), Stop::Budget);
    assert_eq!(guest.state().rip, HANDLERS + 0x401);
    // A delivery that had begun when the state was saved goes on.
    let mut guest = protected();
    guest.change(|state| {
        state.events.exception.injected = true;
        state.events.exception.vector = 13;
        state.events.exception.error_code = Some(0x55);
    });
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0xd1);
    assert_eq!(guest.stack_words::<2>(), [0x55, CODE as u32]);
}

#[test]
fn starting_an_application_processor() {
    let mut guest = protected();
    guest.board.set_bootstrap(false);
    guest.change(|state| state.activity = Activity::WaitForInit);
    guest
        .board
        .events
        .extend([Event::Startup(0x20), Event::Init, Event::Startup(0x12)]);
    guest.put(0x1_2000, &[0x90; 4]);
    guest.signals.raise();
    assert_eq!(guest.run(2), Stop::Budget);
    let state = guest.state();
    assert_eq!(
        (state.cs.selector, state.cs.base, state.rip),
        (0x1200, 0x1_2000, 2)
    );
    assert_eq!(state.activity, Activity::Running);
    // One that was received before the state was saved.
    let mut other = protected();
    other.put(0x1_2000, &[0x90; 4]);
    other.change(|state| {
        state.activity = Activity::SipiReceived;
        state.events.sipi_vector = 0x12;
        state.cs = Segment::real(0xf000, 0xffff_0000, 0xb);
        state.cr0 = 0x10;
    });
    other.run(1);
    assert_eq!((other.state().cs.base, other.state().rip), (0x1_2000, 1));
    // A second one changes nothing.
    guest.board.events.push_back(Event::Startup(0x30));
    guest.signals.raise();
    guest.run(1);
    assert_eq!(guest.state().rip, 3);
}

#[test]
fn single_steps() {
    let mut guest = protected();
    guest.change(|state| {
        state.rflags |= 0x100;
        state.gpr[RAX] = DATA_0.into();
    });
    // nop
    guest.one(&[0x90]);
    guest.run(1);
    let state = guest.state();
    assert_eq!((state.rip, state.dr6), (HANDLERS + 0x11, 0xffff_4ff0));
    assert_eq!(
        guest.stack_words(),
        [CODE as u32 + 1, u32::from(CODE_0), 0x102]
    );
    // MOV SS and what follows are one step.
    let mut guest = protected();
    guest.change(|state| {
        state.rflags |= 0x100;
        state.gpr[RAX] = DATA_0.into();
    });
    guest.put(CODE, &[0x8e, 0xd0, 0x90, 0x90]);
    guest.run(2);
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0x11);
    assert_eq!(guest.stack_words::<1>(), [CODE as u32 + 3]);
    // INT n is not followed by one.
    let mut guest = protected();
    guest.change(|state| state.rflags |= 0x100);
    guest.one(&[0xcd, 0x30]);
    guest.run(1);
    assert_eq!(guest.state().rip, HANDLERS + 0x301);
    // A repeated instruction is stepped by elements, with RF in the image.
    let mut guest = protected();
    guest.change(|state| {
        state.rflags |= 0x100;
        state.gpr[RCX] = 3;
    });
    guest.one(&[0xf3, 0xac]); // rep lodsb
    guest.run(1);
    assert_eq!(guest.state().gpr[RCX], 2);
    assert_eq!(
        guest.stack_words(),
        [CODE as u32, u32::from(CODE_0), 0x1_0102]
    );
}

#[test]
fn breakpoints() {
    // Of instructions: a fault, and RF steps over it.
    let mut guest = protected();
    guest.change(|state| {
        state.dr[2] = CODE + 1;
        state.dr7 = 0x420;
    });
    guest.put(CODE, &[0x90; 8]);
    guest.run(2);
    let state = guest.state();
    assert_eq!((state.rip, state.dr6), (HANDLERS + 0x11, 0xffff_0ff4));
    assert_eq!(guest.stack_words(), [CODE as u32 + 1, u32::from(CODE_0), 2]);
    guest.put_u32(STACK - 4, 0x1_0002);
    guest.one(&[0xcf]);
    guest.run(1);
    let state = guest.state();
    assert_eq!((state.rip, state.rflags), (CODE + 2, 2));
    // Of data: a trap after the instruction.
    for (lengths_and_kinds, code, hits) in [
        (0xd, &[0x88, 0x05, 3, 0x30, 0, 0][..], true),
        (0xd, &[0x88, 0x05, 4, 0x30, 0, 0][..], false),
        (0xd, &[0xa0, 0, 0x30, 0, 0][..], false),
        (0xf, &[0xa0, 0, 0x30, 0, 0][..], true),
        (0x1, &[0xa3, 0xfd, 0x2f, 0, 0][..], true),
        (0x1, &[0xa3, 0xfc, 0x2f, 0, 0][..], false),
    ] {
        let mut guest = protected();
        guest.change(|state| {
            state.dr[0] = 0x3000;
            state.dr7 = 0x401 | lengths_and_kinds << 16;
        });
        guest.put(CODE, &[0x90; 32]);
        guest.put(CODE, code);
        guest.run(2);
        let state = guest.state();
        assert_eq!(state.rip == HANDLERS + 0x11, hits, "{code:x?}");
        if hits {
            assert_eq!(state.dr6, 0xffff_0ff1);
            let next = CODE as u32 + code.len() as u32;
            assert_eq!(guest.stack_words::<1>(), [next]);
        }
    }
}

#[test]
fn debug_registers() {
    let mut guest = protected();
    guest.change(|state| state.gpr[RAX] = 0xffff_ffff & !0x2000);
    assert_eq!(guest.one(&[0x0f, 0x23, 0xf8]).dr7, 0xffff_07ff); // mov dr7, eax
    assert_eq!(guest.one(&[0x0f, 0x23, 0xf0]).dr6, 0xffff_cfff); // mov dr6, eax
    assert_eq!(guest.one(&[0x0f, 0x21, 0xe1]).gpr[RCX], 0xffff_cfff); // mov ecx, dr4
    guest.change(|state| {
        state.cr4 |= 8;
        state.dr7 = 0x400;
    });
    assert_eq!(guest.fault(&[0x0f, 0x21, 0xe1]), UD);
    // GD: a fault, which clears it.
    let mut guest = protected();
    guest.change(|state| state.dr7 = 0x2400);
    assert_eq!(guest.fault(&[0x0f, 0x21, 0xc1]), 1);
    let state = guest.state();
    assert_eq!((state.dr6, state.dr7), (0xffff_2ff0, 0x400));
    assert_eq!(
        guest.stack_words(),
        [CODE as u32, u32::from(CODE_0), 0x1_0002]
    );
    let mut guest = user(protected());
    assert_eq!(guest.fault(&[0x0f, 0x21, 0xc1]), GP);
    let mut guest = long();
    guest.change(|state| state.gpr[RAX] = 1 << 32);
    assert_eq!(guest.fault(&[0x0f, 0x23, 0xf8]), GP);
    let mut guest = long();
    guest.change(|state| state.gpr[RAX] = 1 << 40);
    assert_eq!(guest.one(&[0x0f, 0x23, 0xc0]).dr[0], 1 << 40);
}

#[test]
fn misaligned_stacks_of_applications() {
    // retf with CR0.AM and EFLAGS.AC.
    let mut guest = user(protected());
    guest.change(|state| {
        state.cr0 |= 1 << 18;
        state.rflags |= 1 << 18;
        state.gpr[RSP] = STACK - 9;
    });
    assert_eq!(guest.fault(&[0xcb]), 17);
    assert_eq!(guest.stack_words::<2>(), [0, CODE as u32]);
}

#[test]
fn breakpoints_of_ports_and_fetches_of_far_pointers() {
    // out 0x80, al: with CR4.DE, a trap.
    for (extended, hits) in [(true, true), (false, false)] {
        let mut guest = protected();
        guest.change(|state| {
            state.dr[3] = 0x80;
            state.dr7 = 0x480 | 2 << 28;
            state.cr4 |= u64::from(extended) << 3;
        });
        guest.put(CODE, &[0xe6, 0x80, 0x90, 0x90]);
        guest.run(2);
        let state = guest.state();
        assert_eq!(state.rip == HANDLERS + 0x11, hits);
        assert_eq!(state.dr6, if hits { 0xffff_0ff8 } else { 0xffff_0ff0 });
    }
    // les ecx, [0x3000]
    let mut guest = protected();
    guest.put(0x3000, &[0x78, 0x56, 0x34, 0x12, DATA_3 as u8, 0]);
    let state = guest.one(&[0xc4, 0x0d, 0, 0x30, 0, 0]);
    assert_eq!((state.es.selector, state.gpr[RCX]), (DATA_3, 0x1234_5678));
    // One that can't be loaded leaves the register.
    guest.put_u16(0x3004, ABSENT);
    assert_eq!(guest.fault(&[0xc4, 0x15, 0, 0x30, 0, 0]), NP);
    assert_eq!(guest.state().gpr[RDX], 0);
}
