//! What is in memory before a case runs: descriptor tables, page tables and handlers, and the window that cases use.
//!
//! The window lies at the same linear addresses wherever a case runs: in a KVM guest, in this process and in the
//! software CPU. What the system needs lies in the first 128 KiB of guest memory, and with paging at linear addresses
//! that 32-bit code can't name. Selectors are those that Linux uses (its arch/x86/include/asm/segment.h is an
//! interface: compatibility-mode programs name them), because code that runs natively finds Linux's table.

use thimble_core::cpu::Segment;

use crate::case::Case;

/// Bytes of guest memory.
pub(crate) const RAM: usize = 0x4_0000;
/// The window's address: linear and physical. It is the base of real mode's segment 2000h.
pub(crate) const WINDOW: u64 = 0x2_0000;
/// Bytes of the window: what 16-bit offsets reach.
pub(crate) const WINDOW_BYTES: usize = 0x1_0000;
/// What system addresses are with paging: behind this, they are physical.
pub(crate) const SYSTEM: u64 = 0xffff_8000_0000_0000;

/// Offsets in the window: two pages of code, and nothing behind them.
pub(crate) const CODE: u64 = 0;
/// Three pages of data, with nothing before them.
pub(crate) const DATA: u64 = 0x3000;
/// A page that can't be written to.
pub(crate) const READ_ONLY: u64 = 0x6000;
/// Nothing.
pub(crate) const HOLE: u64 = 0x7000;
/// Two pages of stack, and nothing behind them.
pub(crate) const STACK: u64 = 0x8000;
/// The end of the stack.
pub(crate) const STACK_END: u64 = 0xa000;

/// The mapped parts of the window: offset and end.
pub(crate) const MAPPED: [(u64, u64); 3] = [(CODE, 0x2000), (DATA, HOLE), (STACK, STACK_END)];

/// Top-level page table.
pub(crate) const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const HIGH_PDPT: u64 = 0x5000;
const HIGH_DIRECTORY: u64 = 0x6000;
/// Global descriptor table.
pub(crate) const GDT: u64 = 0x8000;
/// Its limit.
pub(crate) const GDT_LIMIT: u16 = 0x7f;
/// Interrupt descriptor table of long mode.
pub(crate) const IDT: u64 = 0x9000;
/// Task state segment.
pub(crate) const TSS: u64 = 0xa000;
/// Its limit: no I/O permission bitmap.
pub(crate) const TSS_LIMIT: u32 = 0x67;
/// HLT for each vector.
pub(crate) const HANDLERS: u64 = 0xb000;
/// Where the ring-0 stack ends.
pub(crate) const RING_0_STACK_END: u64 = 0xe000;
/// Local descriptor table.
pub(crate) const LDT: u64 = 0xe000;
/// Interrupt descriptor table of protected mode.
pub(crate) const IDT_32: u64 = 0xf000;

/// Code of ring 0, 32 bits.
pub(crate) const KERNEL_CODE_32: u16 = 0x08;
/// Code of ring 0, 64 bits.
pub(crate) const KERNEL_CODE: u16 = 0x10;
/// Data of ring 0.
pub(crate) const KERNEL_DATA: u16 = 0x18;
/// Flat code of ring 3, 32 bits.
pub(crate) const USER_CODE_32: u16 = 0x23;
/// Flat data of ring 3.
pub(crate) const USER_DATA: u16 = 0x2b;
/// Code of ring 3, 64 bits.
pub(crate) const USER_CODE: u16 = 0x33;
/// The task state segment.
pub(crate) const TASK: u16 = 0x40;
/// The local descriptor table.
pub(crate) const LOCAL: u16 = 0x50;

/// The global descriptor table.
const DESCRIPTORS: [(u16, u64); 8] = [
    (KERNEL_CODE_32, 0x00cf_9b00_0000_ffff),
    (KERNEL_CODE, 0x00af_9b00_0000_ffff),
    (KERNEL_DATA, 0x00cf_9300_0000_ffff),
    (USER_CODE_32, 0x00cf_fb00_0000_ffff),
    (USER_DATA, 0x00cf_f300_0000_ffff),
    (USER_CODE, 0x00af_fb00_0000_ffff),
    (TASK, 0x8b << 40 | TSS << 16 | TSS_LIMIT as u64),
    (
        LOCAL,
        0x82 << 40 | LDT << 16 | (LOCALS.len() * 8 - 1) as u64,
    ),
];

/// An entry of the local descriptor table, in the words of Linux's modify_ldt.
#[derive(Clone, Copy)]
pub(crate) struct Local {
    pub(crate) base: u32,
    pub(crate) limit: u32,
    /// 0 data, 1 data that expands down, 2 code, 3 conforming code.
    pub(crate) contents: u32,
    /// Code that can't be read, data that can't be written.
    pub(crate) restricted: bool,
    pub(crate) bits_32: bool,
    pub(crate) pages: bool,
    pub(crate) absent: bool,
}

const fn local(base: u64, limit: u32, contents: u32, flags: &[u8]) -> Local {
    let (mut restricted, mut bits_32, mut pages, mut absent) = (false, false, false, false);
    let mut at = 0;
    while at < flags.len() {
        match flags[at] {
            b'r' => restricted = true,
            b'd' => bits_32 = true,
            b'g' => pages = true,
            _ => absent = true,
        }
        at += 1;
    }
    Local {
        base: base as u32,
        limit,
        contents,
        restricted,
        bits_32,
        pages,
        absent,
    }
}

/// The local descriptor table. Letters: r restricted, d 32 bits, g limit in pages, a absent.
pub(crate) const LOCALS: [Local; 13] = [
    local(0, 0xf_ffff, 2, b"dg"),
    local(WINDOW, 0xffff, 2, b""),
    local(WINDOW, 0xffff, 0, b""),
    local(WINDOW, 0xffff, 0, b"d"),
    local(WINDOW, 0x3fff, 1, b""),
    local(WINDOW, 0xffff, 0, b"r"),
    local(WINDOW, 0xffff, 2, b"dr"),
    local(WINDOW, 0x4fff, 0, b"d"),
    local(WINDOW, 0xffff, 0, b"a"),
    local(WINDOW, 0xffff, 2, b"r"),
    local(0, 0x2_ffff, 1, b"d"),
    local(WINDOW, 0x1fff, 2, b"d"),
    // Linux refuses conforming code that is there.
    local(WINDOW, 0xffff, 3, b"a"),
];

/// Selectors of [`LOCALS`] by their place.
pub(crate) const fn local_selector(place: u16) -> u16 {
    place << 3 | 7
}

impl Local {
    /// As in a descriptor table.
    pub(crate) const fn descriptor(&self) -> u64 {
        // Accessed; writable or readable; expand-down or conforming; code.
        let kind = 1 | (!self.restricted as u64) << 1 | (self.contents as u64) << 2;
        let access = kind | 0x70 | (!self.absent as u64) << 7;
        // AVL as Linux sets it where the caller asks for it: not.
        let flags = (self.bits_32 as u64) << 2 | (self.pages as u64) << 3;
        (self.limit as u64 & 0xffff)
            | (self.base as u64 & 0xff_ffff) << 16
            | access << 40
            | (self.limit as u64 >> 16 & 15) << 48
            | flags << 52
            | (self.base as u64 >> 24) << 56
    }
}

/// What a selector leads to; `None` where it's null or there is nothing.
pub(crate) fn descriptor(selector: u16) -> Option<u64> {
    let index = selector & !7;
    if selector & 4 != 0 {
        return LOCALS
            .get(usize::from(index >> 3))
            .map(|local| local.descriptor());
    }
    let found = DESCRIPTORS.iter().find(|(known, _)| known & !7 == index);
    found.map(|(_, descriptor)| *descriptor)
}

/// The segment register after a load of a selector.
pub(crate) fn segment(selector: u16) -> Segment {
    let Some(d) = descriptor(selector) else {
        return Segment {
            selector,
            unusable: true,
            ..Segment::default()
        };
    };
    let granular = d >> 55 & 1 != 0;
    let limit = (d & 0xffff | d >> 32 & 0xf_0000) as u32;
    Segment {
        base: d >> 16 & 0xff_ffff | d >> 32 & 0xff00_0000,
        limit: match granular {
            true => limit << 12 | 0xfff,
            false => limit,
        },
        selector,
        kind: (d >> 40 & 15) as u8,
        dpl: (d >> 45 & 3) as u8,
        code_or_data: d >> 44 & 1 != 0,
        present: d >> 47 & 1 != 0,
        available: d >> 52 & 1 != 0,
        long: d >> 53 & 1 != 0,
        big: d >> 54 & 1 != 0,
        granular,
        unusable: false,
    }
}

/// Page table entries: present.
const P: u64 = 1 << 0;
/// Writable.
const W: u64 = 1 << 1;
/// For ring 3, too.
const U: u64 = 1 << 2;
/// Accessed and dirty, so that nobody has to set them.
const AD: u64 = 1 << 5 | 1 << 6;
/// No code.
const NX: u64 = 1 << 63;

/// Guest memory before a case: everything but the window. `user` makes the window ring 3's.
pub(crate) fn system(user: bool) -> Vec<u8> {
    let mut ram = vec![0; RAM];
    let mut put = |at: u64, word: u64| {
        ram[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
    };
    let all = P | W | AD;
    put(PML4, PDPT | all | U);
    put(PDPT, DIRECTORY | all | U);
    put(DIRECTORY, TABLE | all | U);
    for page in 0..WINDOW_BYTES as u64 / 0x1000 {
        let offset = page * 0x1000;
        let mapped = MAPPED
            .iter()
            .any(|(start, end)| (*start..*end).contains(&offset));
        if mapped {
            let mut entry = (WINDOW + offset) | P | AD;
            if user {
                entry |= U;
            }
            if offset != READ_ONLY {
                entry |= W;
            }
            if offset >= DATA {
                entry |= NX;
            }
            put(TABLE + (WINDOW + offset) / 0x1000 * 8, entry);
        }
    }
    put(PML4 + (SYSTEM >> 39 & 511) * 8, HIGH_PDPT | all);
    put(HIGH_PDPT, HIGH_DIRECTORY | all);
    // 2 MiB in one page.
    put(HIGH_DIRECTORY, all | 1 << 7);
    for (selector, descriptor) in DESCRIPTORS {
        put(GDT + u64::from(selector & !7), descriptor);
    }
    // The upper halves of 64-bit system descriptors.
    put(GDT + u64::from(TASK) + 8, SYSTEM >> 32);
    put(GDT + u64::from(LOCAL) + 8, SYSTEM >> 32);
    for (local, at) in LOCALS.iter().zip((LDT..).step_by(8)) {
        put(at, local.descriptor());
    }
    for vector in 0..256 {
        // Linux lets programs raise these by INT n.
        let gate = match vector {
            3 | 4 | 0x80 => 0xee,
            _ => 0x8e,
        };
        let handler = HANDLERS + vector;
        let low = handler & 0xffff | gate << 40;
        put(IDT + vector * 16, low | u64::from(KERNEL_CODE) << 16);
        put(IDT + vector * 16 + 8, SYSTEM >> 32);
        put(IDT_32 + vector * 8, low | u64::from(KERNEL_CODE_32) << 16);
    }
    // RSP0, and where the I/O bitmap would be.
    put(TSS + 4, SYSTEM + RING_0_STACK_END);
    put(TSS + 0x60, 0xffff << 48);
    for vector in 0..256 {
        let at = HANDLERS + vector;
        ram[at as usize] = 0xf4;
        // Real mode's vector: offset, and segment 0.
        let at = vector as usize * 4;
        ram[at..][..2].copy_from_slice(&((HANDLERS + vector) as u16).to_le_bytes());
    }
    ram
}

/// What guest memory is made of before each case.
pub(crate) struct Images {
    /// For cases of ring 0 and of ring 3.
    images: [Vec<u8>; 2],
    /// Which of them the memory was last made of.
    last: Option<bool>,
}

impl Images {
    /// With an empty window.
    pub(crate) fn new() -> Self {
        Self {
            images: [system(false), system(true)],
            last: None,
        }
    }

    /// Sets what the window holds before a case changes it.
    pub(crate) fn set_base(&mut self, base: &[u8]) {
        for image in &mut self.images {
            image[WINDOW as usize..][..WINDOW_BYTES].copy_from_slice(base);
        }
        self.last = None;
    }

    /// Makes guest memory ready for a case: always the same memory, to which nobody stores but the guest.
    pub(crate) fn load(&mut self, case: &Case, ram: &mut [u8]) {
        let user = case.world.user();
        let image = &self.images[usize::from(user)];
        if user && self.last == Some(true) {
            // Ring 3 reaches nothing else, and the ring-0 stack is written before it is read.
            for (start, end) in MAPPED {
                let part = (WINDOW + start) as usize..(WINDOW + end) as usize;
                ram[part.clone()].copy_from_slice(&image[part]);
            }
        } else {
            ram.copy_from_slice(image);
        }
        self.last = Some(user);
        case.apply(&mut ram[WINDOW as usize..][..WINDOW_BYTES]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_say_what_segments_are() {
        let flat = segment(USER_DATA);
        assert_eq!((flat.base, flat.limit, flat.dpl), (0, u32::MAX, 3));
        assert!(flat.big && flat.present && flat.code_or_data && !flat.unusable);
        let code = segment(local_selector(1));
        assert_eq!((code.base, code.limit, code.kind), (WINDOW, 0xffff, 0xb));
        assert!(!code.big && !code.long);
        assert!(segment(0).unusable);
        assert!(!segment(local_selector(8)).present);
    }
}
