//! The guest that an input describes: where it starts, what lies in memory, what is changed about it.

use std::sync::OnceLock;

use thimble_core::cpu::{CpuState, DescriptorTable, Segment};
use thimble_core::devices::Width;
use thimble_core::memory::GuestRam;

use super::memory::{RAM_BYTES, ROM_BYTES, Ram};
use super::{Around, BUDGET, SIGNATURE, set_msr};
use crate::Source;

/// Where things lie in RAM: code, and its stack's end.
const CODE: u64 = 0x1000;
/// Bytes for code.
const CODE_BYTES: usize = 0x3000;
/// Handlers of real mode, for exceptions and for interrupts.
const HANDLERS_16: u64 = 0x600;
/// Handlers of 32-bit and 64-bit code, 16 bytes each.
const HANDLERS_32: u64 = 0x4000;
const HANDLERS_64: u64 = 0x5000;
const HANDLER: u64 = 16;
/// Stacks grow down from here.
const STACK: u64 = 0x8000;
const GDT: u64 = 0x9000;
const IDT_32: u64 = 0xa000;
const TSS_32: u64 = 0xb000;
const TSS_64: u64 = 0xb800;
const TSS_NEXT: u64 = 0xc000;
const TSS_16: u64 = 0xc800;
const LDT: u64 = 0xd000;
const IDT_64: u64 = 0xe000;
/// Page tables: 32-bit directory and table; PAE's; those of long mode.
const DIRECTORY: u64 = 0x1_0000;
const TABLE: u64 = 0x1_1000;
const PAE_POINTERS: u64 = 0x1_2000;
const PAE_DIRECTORY: u64 = 0x1_3000;
const PAE_TABLE: u64 = 0x1_4000;
const PAE_LAST: u64 = 0x1_5000;
const LEVEL_4: u64 = 0x1_6000;
const LEVEL_3: u64 = 0x1_7000;
const LEVEL_5: u64 = 0x1_8000;
const IMAGE: usize = 0x1_9000;
/// Bytes of a TSS with its map of I/O ports.
const TSS_BYTES: u16 = 0x400;

/// Selectors of the table.
mod selector {
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE_64: u16 = 0x18;
    pub const CODE_16: u16 = 0x20;
    pub const DATA_16: u16 = 0x28;
    pub const USER_CODE: u16 = 0x33;
    pub const USER_DATA: u16 = 0x3b;
    pub const USER_CODE_64: u16 = 0x43;
    pub const TSS_32: u16 = 0x48;
    pub const TSS_NEXT: u16 = 0x50;
    pub const TSS_16: u16 = 0x58;
    pub const LDT: u16 = 0x60;
    pub const TASK_GATE: u16 = 0x68;
    pub const CALL_GATE: u16 = 0x70;
    pub const TSS_64: u16 = 0x80;
    pub const CALL_GATE_64: u16 = 0x90;
    pub const CONFORMING: u16 = 0xa0;
    pub const END: u16 = 0xa8;
}

/// A guest before it starts.
pub struct Guest {
    pub state: Box<CpuState>,
    /// There is another processor.
    pub second: bool,
    /// It runs from the beginning, in this state but for its local APIC.
    pub second_state: Option<Box<CpuState>>,
    /// Interrupt controllers and timers are programmed.
    pub devices: bool,
    /// There is a `pc-testdev`.
    pub testdev: bool,
    /// A processor that shuts down resets the machine.
    pub resets: bool,
    /// What is saved is run once more.
    pub compares: bool,
    /// Instructions before it is saved.
    pub budget: u64,
    pub rom: Box<[u8; ROM_BYTES]>,
}

fn put(image: &mut [u8], at: u64, bytes: &[u8]) {
    image[at as usize..][..bytes.len()].copy_from_slice(bytes);
}

/// A descriptor of a segment, type and flags (bits 40 to 55) given in one.
const fn descriptor(base: u64, limit: u64, flags: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | flags << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

const fn gate(selector: u16, offset: u64, flags: u64) -> u64 {
    offset & 0xffff | (selector as u64) << 16 | flags << 40 | (offset >> 16 & 0xffff) << 48
}

/// Whether a vector has an error code.
const fn has_code(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Memory as all guests find it: tables, and handlers that skip a byte of what raised an exception, or end an interrupt.
fn image() -> &'static [u8] {
    static IMAGE_BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE_BYTES.get_or_init(make_image)
}

fn make_image() -> Vec<u8> {
    let mut image = vec![0; IMAGE];
    // push bp; mov bp, sp; inc word [bp+2]; pop bp; iret
    put(&mut image, HANDLERS_16, &[0x55, 0x89, 0xe5, 0xff, 0x46, 2, 0x5d, 0xcf]);
    // push ax; mov al, 20h; out 20h, al; pop ax; iret
    put(&mut image, HANDLERS_16 + 16, &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]);
    for vector in 0..256u64 {
        let interrupt = vector >= 0x20;
        let at = HANDLERS_16 + if interrupt { 16 } else { 0 };
        put(&mut image, 4 * vector, &(at as u32).to_le_bytes());
        // push eax; mov al, 20h; out 20h, al; mov [FEE000B0h], eax; pop eax; iret
        let code: &[u8] = match (interrupt, has_code(vector)) {
            (true, _) => &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0xa3, 0xb0, 0, 0xe0, 0xfe, 0x58, 0xcf],
            (_, true) => &[0x83, 0xc4, 4, 0xff, 0x04, 0x24, 0xcf],
            _ => &[0xff, 0x04, 0x24, 0xcf],
        };
        let handler = HANDLERS_32 + vector * HANDLER;
        put(&mut image, handler, code);
        let privilege = if matches!(vector, 3 | 4 | 0x80) { 3 << 5 } else { 0 };
        let entry = match vector {
            0x21 => gate(selector::TSS_NEXT, 0, 0x85),
            _ => gate(selector::CODE, handler, 0x8e | privilege),
        };
        put(&mut image, IDT_32 + 8 * vector, &entry.to_le_bytes());
        let code: &[u8] = match (interrupt, has_code(vector)) {
            (true, _) => &[
                0x50, 0xb0, 0x20, 0xe6, 0x20, 0x67, 0xa3, 0xb0, 0, 0xe0, 0xfe, 0x58, 0x48, 0xcf,
            ],
            (_, true) => &[0x48, 0x83, 0xc4, 8, 0x48, 0xff, 0x04, 0x24, 0x48, 0xcf],
            _ => &[0x48, 0xff, 0x04, 0x24, 0x48, 0xcf],
        };
        let handler = HANDLERS_64 + vector * HANDLER;
        put(&mut image, handler, code);
        // Double faults, NMIs and machine checks have stacks of their own.
        let stack = if matches!(vector, 2 | 8 | 18) { 1 << 32 } else { 0 };
        let entry = gate(selector::CODE_64, handler, 0x8e | privilege) | stack;
        put(&mut image, IDT_64 + 16 * vector, &entry.to_le_bytes());
    }
    let flat = |flags: u64| descriptor(0, 0xf_ffff, flags | 0x8000);
    let entries = [
        (selector::CODE, flat(0x409b)),
        (selector::DATA, flat(0x4093)),
        (selector::CODE_64, flat(0x209b)),
        (selector::CODE_16, descriptor(0, 0xffff, 0x9b)),
        (selector::DATA_16, descriptor(0, 0xffff, 0x93)),
        (selector::USER_CODE, flat(0x40fb)),
        (selector::USER_DATA, flat(0x40f3)),
        (selector::USER_CODE_64, flat(0x20fb)),
        (selector::TSS_32, descriptor(TSS_32, TSS_BYTES.into(), 0x8b)),
        (selector::TSS_NEXT, descriptor(TSS_NEXT, 0x67, 0xe9)),
        (selector::TSS_16, descriptor(TSS_16, 0x2b, 0xe1)),
        (selector::LDT, descriptor(LDT, 0xff, 0xe2)),
        (selector::TASK_GATE, gate(selector::TSS_NEXT, 0, 0xe5)),
        (selector::CALL_GATE, gate(selector::CODE, CODE + 0x800, 0xec) | 2 << 32),
        (selector::TSS_64, descriptor(TSS_64, TSS_BYTES.into(), 0x8b)),
        (selector::CALL_GATE_64, gate(selector::CODE_64, CODE + 0x800, 0xec)),
        (selector::CONFORMING, flat(0x409f)),
    ];
    for (selector, entry) in entries {
        put(&mut image, GDT + u64::from(selector & !7), &entry.to_le_bytes());
    }
    put(&mut image, LDT + 8, &flat(0x40f3).to_le_bytes());
    put(&mut image, LDT + 16, &flat(0x40fb).to_le_bytes());
    // The stacks of both tasks, and what the next one begins with.
    for tss in [TSS_32, TSS_NEXT] {
        for level in 0..3 {
            put(&mut image, tss + 4 + 8 * level, &(STACK as u32 - 0x200).to_le_bytes());
            put(&mut image, tss + 8 + 8 * level, &[selector::DATA as u8]);
        }
        put(&mut image, tss + 0x1c, &(DIRECTORY as u32).to_le_bytes());
        put(&mut image, tss + 0x20, &(CODE as u32 + 0x400).to_le_bytes());
        put(&mut image, tss + 0x24, &2u32.to_le_bytes());
        put(&mut image, tss + 0x38, &(STACK as u32 - 0x400).to_le_bytes());
        for segment in 0..6 {
            let value = if segment == 1 { selector::CODE } else { selector::DATA };
            put(&mut image, tss + 0x48 + 4 * segment, &value.to_le_bytes());
        }
        put(&mut image, tss + 0x66, &0x88u16.to_le_bytes());
    }
    for level in 0..3 {
        put(&mut image, TSS_64 + 4 + 8 * level, &(STACK - 0x200).to_le_bytes());
    }
    put(&mut image, TSS_64 + 0x24, &(STACK - 0x400).to_le_bytes());
    put(&mut image, TSS_64 + 0x66, &0x68u16.to_le_bytes());
    put(&mut image, TSS_16 + 2, &(STACK as u16 - 0x200).to_le_bytes());
    put(&mut image, TSS_16 + 14, &(CODE as u16 + 0x600).to_le_bytes());
    for (at, value) in [(36, selector::CODE_16), (38, selector::DATA_16), (4, selector::DATA_16)] {
        put(&mut image, TSS_16 + at, &value.to_le_bytes());
    }
    // Present, writable, for users; and large.
    const PAGE: u64 = 7;
    const LARGE: u64 = PAGE | 0x80;
    for page in 0..1024u64 {
        let entry = page << 12 | PAGE;
        put(&mut image, TABLE + 4 * page, &(entry as u32).to_le_bytes());
        if page < 512 {
            put(&mut image, PAE_TABLE + 8 * page, &entry.to_le_bytes());
        }
    }
    let narrow = [(0, TABLE | PAGE), (0x3fb, 0xfec0_0000 | LARGE), (0x3ff, 0xffc0_0000 | LARGE)];
    for (index, entry) in narrow {
        put(&mut image, DIRECTORY + 4 * index, &(entry as u32).to_le_bytes());
    }
    let wide = [
        (PAE_POINTERS, PAE_DIRECTORY | 1),
        (PAE_POINTERS + 24, PAE_LAST | 1),
        (PAE_DIRECTORY, PAE_TABLE | PAGE),
        (PAE_LAST + 8 * 0x1f6, 0xfec0_0000 | LARGE),
        (PAE_LAST + 8 * 0x1f7, 0xfee0_0000 | LARGE),
        (PAE_LAST + 8 * 0x1ff, 0xffe0_0000 | LARGE),
        (LEVEL_3, PAE_DIRECTORY | PAGE),
        (LEVEL_3 + 24, PAE_LAST | PAGE),
        (LEVEL_4, LEVEL_3 | PAGE),
        (LEVEL_5, LEVEL_4 | PAGE),
    ];
    for (at, entry) in wide {
        put(&mut image, at, &entry.to_le_bytes());
    }
    image
}

/// A segment register as it is after its selector was loaded from the table.
fn loaded(selector: u16) -> Segment {
    let image = image();
    let at = (GDT + u64::from(selector & !7)) as usize;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&image[at..at + 8]);
    let low = u64::from_le_bytes(bytes);
    let flags = low >> 40;
    let granular = flags & 0x8000 != 0;
    let limit = (low & 0xffff | low >> 32 & 0xf_0000) as u32;
    Segment {
        base: low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000,
        limit: if granular { limit << 12 | 0xfff } else { limit },
        selector,
        kind: flags as u8 & 0xf,
        dpl: (flags >> 5) as u8 & 3,
        code_or_data: flags & 0x10 != 0,
        present: flags & 0x80 != 0,
        available: flags & 0x1000 != 0,
        long: flags & 0x2000 != 0,
        big: flags & 0x4000 != 0,
        granular,
        unusable: false,
    }
}

/// Where a guest starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// At the reset vector, with the code in ROM.
    Reset,
    Real,
    Bits16,
    Bits32,
    Bits32User,
    Paging32,
    Paging32User,
    Pae,
    V86,
    Long,
    LongUser,
    Compatibility,
    Long5,
}

impl Start {
    const ALL: [Self; 13] = [
        Self::Reset,
        Self::Real,
        Self::Bits16,
        Self::Bits32,
        Self::Bits32User,
        Self::Paging32,
        Self::Paging32User,
        Self::Pae,
        Self::V86,
        Self::Long,
        Self::LongUser,
        Self::Compatibility,
        Self::Long5,
    ];

    fn state(self) -> CpuState {
        use Start as S;
        let mut state = CpuState::power_on(0, true, SIGNATURE);
        if self == S::Reset {
            return state;
        }
        let long = matches!(self, S::Long | S::LongUser | S::Compatibility | S::Long5);
        let paging = long || matches!(self, S::Paging32 | S::Paging32User | S::Pae);
        let (code, data) = match self {
            S::Bits16 => (selector::CODE_16, selector::DATA_16),
            S::Bits32User | S::Paging32User | S::Compatibility => {
                (selector::USER_CODE, selector::USER_DATA)
            }
            S::Long | S::Long5 => (selector::CODE_64, selector::DATA),
            S::LongUser => (selector::USER_CODE_64, selector::USER_DATA),
            _ => (selector::CODE, selector::DATA),
        };
        state.rip = CODE;
        state.gpr = [CODE + 0x100; 16];
        state.gpr[1] = 3;
        state.gpr[4] = STACK - 0x800;
        state.gdtr = DescriptorTable {
            base: GDT,
            limit: selector::END - 1,
        };
        state.idtr = match (self, long) {
            (S::Real, _) => DescriptorTable {
                base: 0,
                limit: 0x3ff,
            },
            (_, true) => DescriptorTable {
                base: IDT_64,
                limit: 0xfff,
            },
            _ => DescriptorTable {
                base: IDT_32,
                limit: 0x7ff,
            },
        };
        // Everything but alignment checks, and SSE with its exceptions on.
        state.cr4 = 0x610;
        state.rflags = 0x202;
        if self == S::Real {
            state.cs = Segment::real(0, 0, 0xb);
            return state;
        }
        state.cr0 = 0x33 | u64::from(paging) << 31;
        state.ldtr = loaded(selector::LDT);
        state.tr = loaded(if long { selector::TSS_64 } else { selector::TSS_32 });
        state.cs = loaded(code);
        for segment in [&mut state.ss, &mut state.ds, &mut state.es, &mut state.fs, &mut state.gs] {
            *segment = loaded(data);
        }
        match self {
            S::V86 => {
                state.rflags |= 0x2_3000;
                state.cr4 |= 1;
                for segment in [
                    &mut state.cs,
                    &mut state.ss,
                    &mut state.ds,
                    &mut state.es,
                    &mut state.fs,
                    &mut state.gs,
                ] {
                    *segment = Segment {
                        dpl: 3,
                        ..Segment::real(0, 0, 3)
                    };
                }
            }
            S::Paging32 | S::Paging32User => state.cr3 = DIRECTORY,
            S::Pae => (state.cr3, state.cr4) = (PAE_POINTERS, state.cr4 | 0x20),
            S::Long5 => (state.cr3, state.cr4) = (LEVEL_5, state.cr4 | 0x1020),
            _ => {}
        }
        if long {
            state.efer = 0xd01;
            state.cr4 |= 0x20;
            if self != S::Long5 {
                state.cr3 = LEVEL_4;
            }
        }
        state
    }
}

/// Places that records change by number.
const PLACES: [u64; 14] = [
    GDT, IDT_32, IDT_64, TSS_32, TSS_64, TSS_NEXT, TSS_16, LDT, DIRECTORY, TABLE, PAE_POINTERS,
    PAE_DIRECTORY, PAE_TABLE, LEVEL_4,
];

impl Guest {
    /// Takes the description from an input, and fills RAM.
    pub fn new(source: &mut Source<'_>, ram: &Ram) -> Self {
        ram.write(0, image()).expect("there is RAM");
        let start = Start::ALL[usize::from(source.byte()) % Start::ALL.len()];
        let options = source.byte();
        let mut state = Box::new(start.state());
        let mut second_state = None;
        let mut rom = Box::new([0xf4; ROM_BYTES]);
        let mut budget = BUDGET;
        for _ in 0..source.byte() % 32 {
            let kind = source.byte();
            match kind % 15 {
                0 | 1 => {
                    let at = source.number(3) % RAM_BYTES as u64;
                    for offset in 0..u64::from(source.byte()) {
                        // What is past the end of RAM is nowhere.
                        let _ = ram.write(at + offset, &[source.byte()]);
                    }
                }
                2 => {
                    let at = source.number(2) as usize;
                    for offset in 0..usize::from(source.byte()) {
                        rom[(at + offset) % ROM_BYTES] = source.byte();
                    }
                }
                3 => {
                    let index = usize::from(source.byte() % 17);
                    let value = source.number(8);
                    match state.gpr.get_mut(index) {
                        Some(register) => *register = value,
                        None => state.rip = value,
                    }
                }
                4 => state.cr0 ^= source.number(4),
                5 => state.cr4 ^= source.number(4),
                6 => state.efer ^= source.number(2),
                7 => state.rflags ^= source.number(3),
                8 => {
                    let which = source.byte();
                    let segment = Segment {
                        base: source.number(8),
                        limit: source.number(4) as u32,
                        selector: source.number(2) as u16,
                        kind: source.byte() & 0xf,
                        dpl: which >> 4 & 3,
                        code_or_data: which & 0x80 == 0,
                        ..Segment::default()
                    };
                    let flags = source.byte();
                    let segment = Segment {
                        present: flags & 1 == 0,
                        available: flags & 2 != 0,
                        long: flags & 4 != 0,
                        big: flags & 8 != 0,
                        granular: flags & 16 != 0,
                        unusable: flags & 32 != 0,
                        ..segment
                    };
                    let place = match which & 7 {
                        0 => &mut state.es,
                        1 => &mut state.cs,
                        2 => &mut state.ss,
                        3 => &mut state.ds,
                        4 => &mut state.fs,
                        5 => &mut state.gs,
                        6 => &mut state.ldtr,
                        _ => &mut state.tr,
                    };
                    *place = segment;
                }
                9 => {
                    let index = usize::from(source.byte() % 9);
                    let value = source.number(8);
                    match index {
                        0..=3 => state.dr[index] = value,
                        4 => state.dr7 = value & 0xffff_ffff,
                        5 => state.dr6 = value & 0xffff_ffff,
                        6 => state.cr3 = value,
                        7 => {
                            state.gdtr.base = value;
                            state.gdtr.limit = source.number(2) as u16;
                        }
                        _ => {
                            state.idtr.base = value;
                            state.idtr.limit = source.number(2) as u16;
                        }
                    }
                }
                10 | 11 => {
                    let place = PLACES[usize::from(source.byte()) % PLACES.len()];
                    let at = place + source.number(2) % 0x1000;
                    let value = source.number(8).to_le_bytes();
                    let length = if kind < 128 { 8 } else { 4 };
                    ram.write(at, &value[..length]).expect("there is RAM");
                }
                12 => {
                    let which = source.byte();
                    let value = source.number(8);
                    set_msr(&mut state, which, value);
                }
                13 => {
                    let bits = source.byte();
                    state.events.nmi_pending = bits & 1 != 0;
                    state.events.nmi_masked = bits & 2 != 0;
                    state.events.shadow = bits >> 2 & 3;
                    state.events.interrupt.injected = bits & 16 != 0;
                    state.events.exception.injected = bits & 32 != 0;
                    state.events.interrupt.vector = source.byte();
                    state.events.exception.vector = source.byte() & 31;
                    state.events.interrupt.soft = bits & 64 != 0;
                    state.events.exception.error_code = (bits & 128 != 0).then_some(0);
                }
                _ => {
                    let mut second = Start::ALL[usize::from(source.byte()) % Start::ALL.len()].state();
                    second.rip = second.rip.wrapping_add(source.number(2));
                    second_state = Some(Box::new(second));
                    budget = source.number(2) % BUDGET;
                }
            }
        }
        let code = source.0;
        if start == Start::Reset {
            // The last byte of the code is that of ROM.
            let code = &code[..code.len().min(ROM_BYTES)];
            rom[ROM_BYTES - code.len()..].copy_from_slice(code);
        } else {
            let code = &code[..code.len().min(CODE_BYTES)];
            ram.write(CODE, code).expect("there is RAM");
        }
        Self {
            state,
            second: options & 1 != 0,
            second_state,
            devices: options & 2 != 0,
            testdev: options & 0x60 == 0x60,
            resets: options & 4 == 0,
            compares: options & 0x18 == 0x18,
            budget,
            rom,
        }
    }
}

/// Lets the interval timer and both interrupt controllers work, and the first local APIC's timer.
pub fn program_devices(around: &mut Around<'_>) {
    let (machine, wires, now) = (&mut around.machine, &mut around.wires, around.now);
    let ports = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xb8),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 2),
        (0xa1, 1),
        (0x43, 0x34),
        (0x40, 200),
        (0x40, 0),
    ];
    for (port, value) in ports {
        machine.pio_write(wires, now, port, Width::Byte, value);
    }
    // On, with a periodic timer at vector 40h.
    let registers = [(0xf0, 0x1ffu32), (0x320, 0x2_0040), (0x3e0, 3), (0x380, 10_000)];
    for (register, value) in registers {
        let gpa = 0xfee0_0000 + register;
        machine.processor_write(wires, now, 0, gpa, &value.to_le_bytes());
    }
}
