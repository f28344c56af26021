//! ELF core files of a guest: program headers for notes and memory, and two section headers.
//!
//! Follows the System V ABI's chapter 4 ("Object Files") and its 64-bit form; where there are more program headers than a
//! header can count, the first section counts them (PN_XNUM, as in Linux's elf(5)).
//!
//! ```text
//! header | program headers | 2 section headers | notes | memory, range by range | names of sections
//! ```
//! As with QEMU 7.2, a PC's dump is a 64-bit file whatever its processors do: ROM ends at 4 GiB. Other than there,
//! the header tells its own size, which is 64, and program headers follow it at once: makedumpfile 1.7 looks for them there, wherever
//! the header says that they are.

use super::Fields;

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// Bytes of a section header.
pub const SECTION_SIZE: usize = 64;
/// Section headers: the null section, and the names.
pub const SECTIONS: usize = 2;
/// Bytes of a program header.
pub const SEGMENT_SIZE: usize = 56;

/// What is at the end of the file: the sections' names.
pub const NAMES: &[u8; 11] = b"\0.shstrtab\0";

const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EV_CURRENT: u8 = 1;
const ET_CORE: u16 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const SHT_STRTAB: u32 = 3;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// In the header: the first section tells how many program headers there are.
const PN_XNUM: u32 = 0xffff;

/// A piece of memory: where the guest sees it, and where it is in the file's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Its linear address.
    pub linear: u64,
    /// Its physical address.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes of memory in the file before it.
    pub offset: u64,
}

/// A file: how much of everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first processor is in long mode.
    pub long_mode: bool,
    /// Pieces of memory, below 2^32 - 1.
    pub loads: u32,
    /// Bytes of notes.
    pub notes: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Layout {
    const fn segments(&self) -> u32 {
        self.loads.saturating_add(1)
    }

    const fn sections_at(&self) -> u64 {
        HEADER_SIZE as u64 + self.segments() as u64 * SEGMENT_SIZE as u64
    }

    const fn notes_at(&self) -> u64 {
        self.sections_at() + (SECTIONS * SECTION_SIZE) as u64
    }

    /// Where in the file memory begins.
    pub const fn memory_at(&self) -> u64 {
        self.notes_at() + self.notes
    }

    const fn names_at(&self) -> u64 {
        self.memory_at() + self.memory
    }

    /// What the file begins with.
    pub fn header(&self) -> [u8; HEADER_SIZE] {
        let machine = if self.long_mode { EM_X86_64 } else { EM_386 };
        let mut header = Fields::<HEADER_SIZE>::new();
        header
            .set(0, *b"\x7fELF")
            .set(4, [ELFCLASS64, ELFDATA2LSB, EV_CURRENT])
            .u16(16, ET_CORE)
            .u16(18, machine)
            .u32(20, EV_CURRENT.into())
            .u64(32, HEADER_SIZE as u64)
            .u64(40, self.sections_at())
            .u16(52, HEADER_SIZE as u16)
            .u16(54, SEGMENT_SIZE as u16)
            .u16(56, self.segments().min(PN_XNUM) as u16)
            .u16(58, SECTION_SIZE as u16)
            .u16(60, SECTIONS as u16)
            .u16(62, SECTIONS as u16 - 1);
        header.bytes
    }

    /// What follows the program headers.
    pub fn sections(&self) -> [u8; SECTIONS * SECTION_SIZE] {
        let mut sections = Fields::<{ SECTIONS * SECTION_SIZE }>::new();
        let segments = self.segments();
        if segments >= PN_XNUM {
            sections.u32(44, segments);
        }
        sections
            // Behind the first name, which is empty.
            .u32(SECTION_SIZE, 1)
            .u32(SECTION_SIZE + 4, SHT_STRTAB)
            .u64(SECTION_SIZE + 24, self.names_at())
            .u64(SECTION_SIZE + 32, NAMES.len() as u64);
        sections.bytes
    }

    /// The first program header.
    pub fn note_segment(&self) -> [u8; SEGMENT_SIZE] {
        let mut segment = Fields::<SEGMENT_SIZE>::new();
        segment
            .u32(0, PT_NOTE)
            .u64(8, self.notes_at())
            .u64(32, self.notes)
            .u64(40, self.notes);
        segment.bytes
    }

    /// The program header of a piece of memory.
    pub fn load_segment(&self, load: &Load) -> [u8; SEGMENT_SIZE] {
        let mut segment = Fields::<SEGMENT_SIZE>::new();
        segment
            .u32(0, PT_LOAD)
            .u64(8, self.memory_at().wrapping_add(load.offset))
            .u64(16, load.linear)
            .u64(24, load.physical)
            .u64(32, load.length)
            .u64(40, load.length);
        segment.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    use object::Endianness;
    use object::elf::{FileHeader64, PT_LOAD, PT_NOTE};
    use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

    fn file(layout: &Layout, loads: &[Load], notes: &[u8], memory: &[u8]) -> Vec<u8> {
        let mut file = layout.header().to_vec();
        file.extend(layout.note_segment());
        for load in loads {
            file.extend(layout.load_segment(load));
        }
        file.extend(layout.sections());
        file.extend(notes);
        assert_eq!(file.len() as u64, layout.memory_at());
        file.extend(memory);
        file.extend(NAMES);
        file
    }

    /// The file, read by another implementation.
    fn check(long_mode: bool, loads: &[Load]) {
        let (notes, memory) = ([0x4e; 20], [0x4d; 0x3000]);
        let layout = Layout {
            long_mode,
            loads: loads.len() as u32,
            notes: notes.len() as u64,
            memory: memory.len() as u64,
        };
        let file = file(&layout, loads, &notes, &memory);
        let data: &[u8] = &file;
        let header = FileHeader64::<Endianness>::parse(data).unwrap();
        let endian = header.endian().unwrap();
        assert_eq!(header.e_ehsize.get(endian), 64);
        let machine = header.e_machine(endian);
        assert_eq!(machine.0, if long_mode { 62 } else { 3 });
        let segments = header.program_headers(endian, data).unwrap();
        assert_eq!(segments.len(), loads.len() + 1);
        assert_eq!(segments[0].p_type(endian), PT_NOTE);
        assert_eq!(segments[0].data(endian, data), Ok(&notes[..]));
        for (segment, load) in segments[1..].iter().zip(loads) {
            assert_eq!(segment.p_type(endian), PT_LOAD);
            let read = Load {
                linear: segment.p_vaddr(endian),
                physical: segment.p_paddr(endian),
                length: segment.p_memsz(endian),
                offset: segment.p_offset(endian) - layout.memory_at(),
            };
            assert_eq!(read, *load);
            let found = segment.data(endian, data).unwrap();
            let start = load.offset as usize;
            assert_eq!(found, &memory[start..start + load.length as usize]);
        }
        let sections = header.sections(endian, data).unwrap();
        let (index, names) = sections.enumerate().nth(1).unwrap();
        assert_eq!(sections.section_name(endian, names), Ok(&b".shstrtab"[..]));
        assert_eq!((index.0, names.data(endian, data)), (1, Ok(&NAMES[..])));
        assert_eq!(sections.enumerate().count(), 2);
    }

    #[test]
    fn another_reader_finds_everything() {
        let load = |linear, physical, offset, length| Load {
            linear,
            physical,
            offset,
            length,
        };
        check(false, &[load(0, 0, 0, 0x3000)]);
        check(
            true,
            &[
                load(0xffff_8000_0000_0000, 0, 0, 0x1000),
                load(u64::MAX - 0xfff, 1 << 40, 0x2fff, 1),
            ],
        );
        check(true, &[]);
    }

    #[test]
    fn more_segments_than_a_header_counts() {
        for count in [0xfffd, 0xfffe, 0xffff, 0x1_0001] {
            let loads: Vec<_> = (0..count)
                .map(|i| Load {
                    linear: i << 12,
                    physical: i << 13,
                    length: 1,
                    offset: i & 0xfff,
                })
                .collect();
            check(true, &loads);
        }
    }

    /// What QEMU 7.2 wrote for a stopped PC of 16 MiB, but for the header's size and the order of the headers.
    #[test]
    fn as_observed() {
        let layout = Layout {
            long_mode: false,
            loads: 5,
            notes: 0x270,
            memory: 0x102_0000,
        };
        assert_eq!(layout.notes_at(), 0x210);
        assert_eq!(layout.memory_at(), 0x480);
        assert_eq!(layout.names_at(), 0x102_0480);
        let header = layout.header();
        let expected = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x03\0\x01\0\0\0";
        assert_eq!(header[..24], expected[..]);
        assert_eq!(header[52..], [64, 0, 56, 0, 6, 0, 64, 0, 2, 0, 1, 0]);
    }
}
