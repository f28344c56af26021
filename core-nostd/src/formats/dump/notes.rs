//! Notes of a dump: the registers of each processor, in the form that Linux's core files have and in one that holds
//! segments and control registers, too; and what the guest's own kernel tells of itself.
//!
//! Follows the System V ABI's "Note Section" and Linux's `struct elf_prstatus` for i386 and x86-64, of which the
//! processor's number stands for the process and only registers are set besides. The second form is QEMU's: named
//! `QEMU`, of type 0, a version, a size, and what [`system_note`] lists; as QEMU 7.2 writes it.
//!
//! A guest's note comes from its memory and is looked at by [`GuestNote::parse`]: nothing in it is trusted.

use super::Fields;
use crate::cpu::{CpuState, DescriptorTable, Segment, gpr};

/// Bytes of a note's header: the sizes of name and content, and the type.
const HEAD: usize = 12;
/// Type of a note with the registers of a process.
const NT_PRSTATUS: u32 = 1;
/// EFER: long mode is active.
const LMA: u64 = 1 << 10;

/// Bytes of `struct elf_prstatus` of x86-64.
const STATUS_64: usize = 336;
/// The same of i386.
const STATUS_32: usize = 144;
/// Bytes of QEMU's form.
const SYSTEM: usize = 440;

/// Bytes of a guest's note at most.
pub const GUEST_NOTE_MAX: usize = 1 << 20;

/// Whether a processor is in long mode. What the first one does decides about a dump.
pub fn long_mode(state: &CpuState) -> bool {
    state.efer & LMA != 0
}

/// A size in a note, filled up to whole words.
const fn padded(size: usize) -> usize {
    size.next_multiple_of(4)
}

fn note(name: &[u8], kind: u32, content: &[u8], put: &mut dyn FnMut(&[u8])) {
    let mut head = Fields::<HEAD>::new();
    head.u32(0, name.len() as u32)
        .u32(4, content.len() as u32)
        .u32(8, kind);
    put(&head.bytes);
    for part in [name, content] {
        put(part);
        put([0; 3].get(..padded(part.len()) - part.len()).unwrap_or(&[]));
    }
}

/// Writes the registers of a processor, of 64 bits if `long` and of 32 bits else, which is one for all.
pub fn status_note(state: &CpuState, index: u32, long: bool, put: &mut dyn FnMut(&[u8])) {
    const NAME: &[u8] = b"CORE\0";
    let selectors = [state.ds, state.es, state.fs, state.gs].map(|segment| segment.selector);
    if long {
        let mut status = Fields::<STATUS_64>::new();
        status.u32(32, index.wrapping_add(1));
        let general = [
            15,
            14,
            13,
            12,
            gpr::RBP,
            gpr::RBX,
            11,
            10,
            9,
            gpr::R8,
            gpr::RAX,
            gpr::RCX,
            gpr::RDX,
            gpr::RSI,
            gpr::RDI,
        ];
        for (place, register) in general.into_iter().enumerate() {
            status.u64(112 + 8 * place, state.gpr[register]);
        }
        // At 232: the number of a system call.
        status
            .u64(240, state.rip)
            .u64(248, state.cs.selector.into())
            .u64(256, state.rflags)
            .u64(264, state.gpr[gpr::RSP])
            .u64(272, state.ss.selector.into())
            .u64(280, state.fs.base)
            .u64(288, state.gs.base);
        for (place, selector) in selectors.into_iter().enumerate() {
            status.u64(296 + 8 * place, selector.into());
        }
        note(NAME, NT_PRSTATUS, &status.bytes, put);
    } else {
        let mut status = Fields::<STATUS_32>::new();
        status.u32(24, index.wrapping_add(1));
        let general = [
            gpr::RBX,
            gpr::RCX,
            gpr::RDX,
            gpr::RSI,
            gpr::RDI,
            gpr::RBP,
            gpr::RAX,
        ];
        for (place, register) in general.into_iter().enumerate() {
            status.u32(72 + 4 * place, state.gpr[register] as u32);
        }
        for (place, selector) in selectors.into_iter().enumerate() {
            status.u32(100 + 4 * place, selector.into());
        }
        // At 116: the number of a system call.
        status
            .u32(120, state.rip as u32)
            .u32(124, state.cs.selector.into())
            .u32(128, state.rflags as u32)
            .u32(132, state.gpr[gpr::RSP] as u32)
            .u32(136, state.ss.selector.into());
        note(NAME, NT_PRSTATUS, &status.bytes, put);
    }
}

/// A segment's attributes where the upper half of a descriptor has them.
fn attributes(segment: &Segment) -> u32 {
    if segment.unusable {
        return 0;
    }
    u32::from(segment.kind & 0xf) << 8
        | u32::from(segment.code_or_data) << 12
        | u32::from(segment.dpl & 3) << 13
        | u32::from(segment.present) << 15
        | u32::from(segment.available) << 20
        | u32::from(segment.long) << 21
        | u32::from(segment.big) << 22
        | u32::from(segment.granular) << 23
}

/// Writes what the system knows of a processor: a version and a size; RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP and R8 to
/// R15; RIP and RFLAGS; CS, DS, ES, FS, GS, SS, LDTR, TR, GDTR and IDTR, each with selector, limit, attributes and base;
/// CR0 to CR4; and the base of GS that SWAPGS brings.
pub fn system_note(state: &CpuState, put: &mut dyn FnMut(&[u8])) {
    let mut system = Fields::<SYSTEM>::new();
    system.u32(0, 1).u32(4, SYSTEM as u32);
    let first = [
        gpr::RAX,
        gpr::RBX,
        gpr::RCX,
        gpr::RDX,
        gpr::RSI,
        gpr::RDI,
        gpr::RSP,
        gpr::RBP,
    ];
    for (place, register) in first.into_iter().chain(gpr::R8..16).enumerate() {
        system.u64(8 + 8 * place, state.gpr[register]);
    }
    system.u64(136, state.rip).u64(144, state.rflags);
    let table = |table: &DescriptorTable| Segment {
        base: table.base,
        limit: table.limit.into(),
        ..Segment::default()
    };
    let segments = [
        state.cs,
        state.ds,
        state.es,
        state.fs,
        state.gs,
        state.ss,
        state.ldtr,
        state.tr,
        table(&state.gdtr),
        table(&state.idtr),
    ];
    for (place, segment) in segments.iter().enumerate() {
        let at = 152 + 24 * place;
        system
            .u32(at, segment.selector.into())
            .u32(at + 4, segment.limit)
            .u32(at + 8, attributes(segment))
            .u64(at + 16, segment.base);
    }
    let controls = [
        state.cr0,
        0,
        state.cr2,
        state.cr3,
        state.cr4,
        state.msrs.kernel_gs_base,
    ];
    for (place, value) in controls.into_iter().enumerate() {
        system.u64(392 + 8 * place, value);
    }
    note(b"QEMU\0", 0, &system.bytes, put);
}

/// The note that a guest's kernel has left for whoever looks at its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestNote<'n> {
    /// The note as a whole.
    pub bytes: &'n [u8],
    /// Where its content begins.
    pub content_at: usize,
    /// What it says: for Linux, lines of text.
    pub content: &'n [u8],
}

impl<'n> GuestNote<'n> {
    /// Finds the note at the front of what a guest has given. `None` where it does not fit.
    pub fn parse(bytes: &'n [u8]) -> Option<Self> {
        let size = |at| {
            let size = bytes.get(at..)?.first_chunk()?;
            // So that nothing overflows; there are no more bytes anyway.
            let size = u32::from_le_bytes(*size) as usize;
            (size <= GUEST_NOTE_MAX).then_some(size)
        };
        let content_at = HEAD + padded(size(0)?);
        let content = bytes.get(content_at..)?.get(..size(4)?)?;
        Some(Self {
            bytes: bytes.get(..content_at + padded(content.len()))?,
            content_at,
            content,
        })
    }

    /// Whether it is named as Linux names what it tells of itself.
    pub fn is_vmcoreinfo(&self) -> bool {
        self.bytes
            .get(HEAD..)
            .is_some_and(|name| name.starts_with(b"VMCOREINFO\0"))
    }

    /// Where the kernel's image begins, from where it was linked to begin: what Linux tells by a line
    /// `NUMBER(phys_base)=`.
    pub fn phys_base(&self) -> Option<u64> {
        let key = b"NUMBER(phys_base)=";
        let line = self
            .content
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(key))?;
        let number: i64 = core::str::from_utf8(line).ok()?.parse().ok()?;
        Some(number as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn state() -> CpuState {
        let mut state = CpuState::power_on(0, true, 0x6_0fb1);
        for (index, register) in state.gpr.iter_mut().enumerate() {
            *register = 0x1111_1111_1111_1111 * index as u64;
        }
        state.rip = 0xfedc_ba98_7654_3210;
        state.rflags = 0x246;
        let segments = [
            &mut state.es,
            &mut state.cs,
            &mut state.ss,
            &mut state.ds,
            &mut state.fs,
            &mut state.gs,
        ];
        for (index, segment) in segments.into_iter().enumerate() {
            *segment = Segment {
                base: 0x10_0000 * index as u64,
                limit: u32::MAX,
                selector: 8 * (index as u16 + 1),
                kind: 0xb,
                dpl: 3,
                code_or_data: true,
                present: true,
                available: false,
                long: true,
                big: false,
                granular: true,
                unusable: false,
            };
        }
        (state.cr0, state.cr2, state.cr3, state.cr4) = (1, 2, 3, 4);
        state.gdtr.base = 0x1_2345_6789;
        state.gdtr.limit = 0x37;
        state.msrs.kernel_gs_base = 5;
        state
    }

    fn written(write: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut |part| bytes.extend_from_slice(part));
        bytes
    }

    /// The content of a note of this name and type.
    fn content<'n>(bytes: &'n [u8], name: &[u8], kind: u8) -> &'n [u8] {
        let note = GuestNote::parse(bytes).unwrap();
        assert_eq!(note.bytes, bytes);
        assert_eq!(bytes[8..12], [kind, 0, 0, 0]);
        assert_eq!(&bytes[12..12 + name.len()], name);
        note.content
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// Places observed with QEMU 7.2, of guests with known registers.
    #[test]
    fn registers_of_64_bits() {
        let state = state();
        let bytes = written(|put| status_note(&state, 1, true, put));
        assert_eq!(bytes.len(), 356);
        let status = content(&bytes, b"CORE\0", 1);
        assert_eq!(u32_at(status, 32), 2);
        for (at, register) in [
            (112, 15),
            (136, 12),
            (144, gpr::RBP),
            (152, gpr::RBX),
            (160, 11),
            (184, 8),
            (192, gpr::RAX),
            (200, gpr::RCX),
            (208, gpr::RDX),
            (216, gpr::RSI),
            (224, gpr::RDI),
            (264, gpr::RSP),
        ] {
            assert_eq!(u64_at(status, at), state.gpr[register], "{at}");
        }
        for (at, value) in [
            (232, 0),
            (240, state.rip),
            (248, 16),
            (256, 0x246),
            (272, 24),
            (280, 0x40_0000),
            (288, 0x50_0000),
            (296, 32),
            (304, 8),
            (312, 40),
            (320, 48),
        ] {
            assert_eq!(u64_at(status, at), value, "{at}");
        }
        assert!(!long_mode(&state));
        let long = CpuState {
            efer: 0xd01,
            ..state
        };
        assert!(long_mode(&long));
    }

    #[test]
    fn registers_of_32_bits() {
        let state = state();
        let bytes = written(|put| status_note(&state, 0, false, put));
        assert_eq!(bytes.len(), 164);
        let status = content(&bytes, b"CORE\0", 1);
        for (at, value) in [
            (24, 1),
            (72, 0x3333_3333),
            (76, 0x1111_1111),
            (80, 0x2222_2222),
            (84, 0x6666_6666),
            (88, 0x7777_7777),
            (92, 0x5555_5555),
            (96, 0),
            (100, 32),
            (104, 8),
            (108, 40),
            (112, 48),
            (116, 0),
            (120, 0x7654_3210),
            (124, 16),
            (128, 0x246),
            (132, 0x4444_4444),
            (136, 24),
        ] {
            assert_eq!(u32_at(status, at), value, "{at}");
        }
    }

    #[test]
    fn the_system_s_view() {
        let mut state = state();
        state.ds.unusable = true;
        let bytes = written(|put| system_note(&state, put));
        let system = content(&bytes, b"QEMU\0", 0);
        assert_eq!((u32_at(system, 0), u32_at(system, 4)), (1, 440));
        for (at, value) in [
            (8, 0),
            (16, 0x3333_3333_3333_3333),
            (24, 0x1111_1111_1111_1111),
            (40, 0x6666_6666_6666_6666),
            (56, 0x4444_4444_4444_4444),
            (64, 0x5555_5555_5555_5555),
            (72, 0x8888_8888_8888_8888),
            (128, u64::MAX),
            (136, state.rip),
            (144, 0x246),
            (152, 0xffff_ffff_0000_0010),
            (160, 0xa0_fb00),
            (168, 0x10_0000),
            (184, 0),
            (264, 0x50_0000),
            (272, 0xffff_ffff_0000_0018),
            (344, 0x37_0000_0000),
            (360, 0x1_2345_6789),
            (392, 1),
            (408, 2),
            (416, 3),
            (424, 4),
            (432, 5),
        ] {
            assert_eq!(u64_at(system, at), value, "{at}");
        }
    }

    #[test]
    fn a_guest_s_note() {
        let text = b"OSRELEASE=6.1\nNUMBER(phys_base)=-4096\nSIZE(page)=64";
        let mut bytes = written(|put| note(b"VMCOREINFO\0", 0, text, put));
        bytes.extend([7; 9]);
        let found = GuestNote::parse(&bytes).unwrap();
        assert_eq!(found.content, text);
        assert!(found.is_vmcoreinfo());
        assert_eq!(found.content_at, 24);
        assert_eq!(found.bytes.len(), bytes.len() - 9);
        assert_eq!(found.phys_base(), Some(4096_u64.wrapping_neg()));
        for base in ["", "x", "1x", "99999999999999999999"] {
            let text = std::format!("NUMBER(phys_base)={base}");
            let bytes = written(|put| note(b"V", 0, text.as_bytes(), put));
            assert_eq!(GuestNote::parse(&bytes).unwrap().phys_base(), None);
        }
        // Sizes that lie.
        for at in [0, 4] {
            for size in [80, 1 << 20, 1 << 31, u32::MAX] {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
                assert_eq!(GuestNote::parse(&bytes), None, "{at} {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_note_or_none(mut bytes: Vec<u8>, name in 0..9_u8, size in 0..40_u8) {
            if let Some(found) = GuestNote::parse(&bytes) {
                prop_assert!(found.bytes.len() <= bytes.len());
                let _ = found.phys_base();
            }
            if let Some(head) = bytes.first_chunk_mut() {
                *head = [name, 0, 0, 0, size, 0, 0, 0];
                if let Some(found) = GuestNote::parse(&bytes) {
                    prop_assert_eq!(found.content.len(), usize::from(size));
                    prop_assert!(found.content_at + found.content.len() <= found.bytes.len());
                }
            }
        }
    }
}
