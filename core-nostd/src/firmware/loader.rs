//! What a kernel file wants: a Linux bzImage, an ELF file with a PVH note, or a multiboot-1 header.
//! Pure functions over the file's bytes.
//!
//! Sources: System V ABI (ELF), Xen's `elfnote.h` (XEN_ELFNOTE_PHYS32_ENTRY is note 18 of owner
//! "Xen"), the Multiboot Specification 0.6.96; for Linux see [`super::linux`]. Where they leave a
//! choice it is the one that QEMU 7.2 shows: Linux' mark counts before a multiboot header, that
//! before a PVH note, 64-bit programs with a multiboot header are refused, and both classes of ELF
//! go with both machine types.
//! Not modelled: multiboot video modes (a kernel that wants one is told of none), multiboot 2.

use core::fmt;

use super::linux::{self, Header};

/// A file may be loaded below this address: behind it is what the boot ROM needs, up to the end of
/// base memory.
pub const LOW_END: u64 = 0x9_f000;
/// From here RAM is free up to its end.
pub const HIGH_START: u64 = 0x10_0000;
/// Segments a kernel may have.
pub const SEGMENTS_MAX: usize = 16;
/// Program headers looked at.
const HEADERS_MAX: u16 = 64;
/// A multiboot header lies within the first bytes of the file.
const MULTIBOOT_WINDOW: usize = 8192;
const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;
const MULTIBOOT_VIDEO: u32 = 1 << 2;
const MULTIBOOT_ADDRESSES: u32 = 1 << 16;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PF_X: u32 = 1;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Bytes of a note segment that are searched.
const NOTES_MAX: u64 = 64 << 10;

/// Why a file can't be started. `Display` is a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The file ends inside of a header or a segment.
    Truncated,
    /// Not a Linux, ELF or multiboot file.
    Unknown,
    /// A Linux kernel of a boot protocol before 2.02.
    LinuxProtocol(u16),
    /// A Linux kernel that is to be loaded below 1 MiB.
    LinuxLow,
    /// A Linux kernel with an alignment that is no power of two, or larger than memory.
    LinuxAlignment(u32),
    /// A command line longer than the Linux kernel takes.
    LinuxCommandLine(u32),
    /// `vga=` on a Linux kernel's command line is no mode.
    LinuxVideo,
    /// An ELF file of another kind than expected.
    BadElf,
    /// ELF without a PVH entry and without a multiboot header.
    NoEntry,
    /// A 64-bit program with a multiboot header.
    Multiboot64,
    /// The multiboot header wants what we lack.
    MultibootFlags(u32),
    /// The multiboot header's addresses contradict each other.
    MultibootAddresses,
    /// More than [`SEGMENTS_MAX`] segments, or more than 64 headers.
    TooManySegments,
    /// A segment has more bytes in the file than in memory, or wraps.
    BadSegment,
    /// A segment that is not within usable RAM.
    OutsideRam(u64, u64),
    /// Two segments overlap in memory.
    Overlap(u64),
    /// The entry point is in no segment.
    BadEntry(u64),
    /// Initrd or modules do not fit behind the kernel.
    InitrdTooLarge,
    /// The command line and the modules' texts have no room.
    InfoTooLarge,
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Truncated => "the kernel file is truncated",
            Self::Unknown => {
                "the kernel file is neither a Linux bzImage nor ELF with a PVH note nor multiboot"
            }
            Self::LinuxLow => "the Linux kernel is a zImage, of which only bzImages are started",
            // QEMU's words.
            Self::LinuxVideo => "invalid 'vga=' kernel parameter.",
            Self::LinuxProtocol(version) => {
                let (major, minor) = (version >> 8, version & 0xff);
                return write!(
                    to,
                    "the Linux kernel's boot protocol is {major}.{minor:02}, but 2.02 is the oldest that is spoken"
                );
            }
            Self::LinuxAlignment(alignment) => {
                return write!(
                    to,
                    "the Linux kernel's header wants an impossible alignment of {alignment:#x}"
                );
            }
            Self::LinuxCommandLine(most) => {
                return write!(
                    to,
                    "the command line is longer than the {most} bytes that the Linux kernel takes"
                );
            }
            Self::BadElf => "the kernel's ELF header is not that of an x86 program",
            Self::NoEntry => "the kernel is ELF, but has neither a PVH note nor a multiboot header",
            // QEMU's words.
            Self::Multiboot64 => "Cannot load x86-64 image, give a 32bit one.",
            Self::MultibootAddresses => {
                "the addresses in the multiboot header contradict each other"
            }
            Self::TooManySegments => "the kernel has too many segments",
            Self::BadSegment => "a kernel segment has an impossible size",
            Self::InfoTooLarge => "the command line and the texts of modules are too long",
            Self::InitrdTooLarge => "the initrd does not fit into RAM behind the kernel",
            Self::MultibootFlags(flags) => {
                return write!(
                    to,
                    "the multiboot header wants flags {flags:#x}, which are not offered"
                );
            }
            Self::OutsideRam(start, end) => {
                return write!(
                    to,
                    "kernel segment {start:#x}-{end:#x} is outside usable RAM"
                );
            }
            Self::Overlap(start) => return write!(to, "kernel segments overlap at {start:#x}"),
            Self::BadEntry(entry) => {
                return write!(
                    to,
                    "the kernel's entry point {entry:#x} is in none of its segments"
                );
            }
        })
    }
}

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// ebx points at a `hvm_start_info`.
    Pvh,
    /// eax is 2BADB002h, ebx points at the multiboot information.
    Multiboot,
    /// esi points at Linux' zero page.
    Linux,
}

/// A piece of the file and where it goes.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub address: u64,
    /// Offset in the file.
    pub offset: u32,
    /// Bytes from the file.
    pub file_size: u32,
    /// Bytes in memory; what the file lacks is zero.
    pub memory_size: u64,
}

impl Segment {
    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}

/// A checked plan to load a kernel: every segment is in RAM and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How to enter.
    pub protocol: Protocol,
    /// Where to enter.
    pub entry: u32,
    /// Whether the kernel asks for a video mode, which it will not get.
    pub wants_video: bool,
    /// What a Linux kernel's header says.
    pub linux: Option<Header>,
    segments: [Segment; SEGMENTS_MAX],
    used: usize,
}

impl Plan {
    /// The segments.
    pub fn segments(&self) -> &[Segment] {
        self.segments.get(..self.used).unwrap_or(&[])
    }

    /// The first page behind all segments and 1 MiB.
    pub fn end(&self) -> u64 {
        let end = self
            .segments()
            .iter()
            .map(Segment::end)
            .chain(self.linux.map(|header| header.end))
            .fold(HIGH_START, u64::max);
        (end + 0xfff) & !0xfff
    }

    /// Whether a segment reaches into a range of addresses, or what a Linux kernel needs behind its
    /// file's bytes.
    pub fn meets(&self, start: u64, end: u64) -> bool {
        let segments = self.segments().iter();
        let linux = self.linux.map(|linux| (linux.address.into(), linux.end));
        segments
            .map(|segment| (segment.address, segment.end()))
            .chain(linux)
            .any(|taken| taken.0 < end && start < taken.1)
    }

    /// Where initrd or modules of `size` bytes in all go: as high as they can, on a page boundary,
    /// for PVH and Linux; for multiboot at `start`, which is such a boundary behind the kernel.
    ///
    /// # Errors
    /// [`Error::InitrdTooLarge`].
    pub fn place_initrd(&self, start: u64, size: u32, ram_end: u64) -> Result<u64, Error> {
        let most = self.linux.map_or(1 << 32, |header| header.initrd_end);
        let highest = ram_end.min(most).checked_sub(u64::from(size));
        let highest = highest.ok_or(Error::InitrdTooLarge)? & !0xfff;
        if highest < start {
            return Err(Error::InitrdTooLarge);
        }
        Ok(match self.protocol {
            Protocol::Pvh | Protocol::Linux => highest,
            Protocol::Multiboot => start,
        })
    }

    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            entry: 0,
            wants_video: false,
            linux: None,
            segments: [Segment::default(); SEGMENTS_MAX],
            used: 0,
        }
    }

    fn add(&mut self, segment: Segment, file_size: u32, ram_end: u64) -> Result<(), Error> {
        if segment.memory_size == 0 {
            return Ok(());
        }
        if u64::from(segment.file_size) > segment.memory_size {
            return Err(Error::BadSegment);
        }
        if segment
            .offset
            .checked_add(segment.file_size)
            .is_none_or(|end| end > file_size)
        {
            return Err(Error::Truncated);
        }
        let end = segment
            .address
            .checked_add(segment.memory_size)
            .ok_or(Error::BadSegment)?;
        let low = end <= LOW_END.min(ram_end);
        let high = segment.address >= HIGH_START && end <= ram_end;
        if !low && !high {
            return Err(Error::OutsideRam(segment.address, end));
        }
        if self.meets(segment.address, end) {
            return Err(Error::Overlap(segment.address));
        }
        *self
            .segments
            .get_mut(self.used)
            .ok_or(Error::TooManySegments)? = segment;
        self.used += 1;
        Ok(())
    }

    fn enter_at(mut self, entry: u64) -> Result<Self, Error> {
        if !self
            .segments()
            .iter()
            .any(|segment| segment.address <= entry && entry < segment.end())
        {
            return Err(Error::BadEntry(entry));
        }
        self.entry = u32::try_from(entry).map_err(|_| Error::BadEntry(entry))?;
        Ok(self)
    }
}

/// Looks at a kernel file. `ram_end` is the first address behind the RAM above 1 MiB.
///
/// # Errors
/// Any of [`Error`]'s but [`Error::InitrdTooLarge`].
pub fn plan(file: &[u8], ram_end: u64) -> Result<Plan, Error> {
    if linux::is_kernel(file) {
        return plan_linux(file, ram_end);
    }
    let mark: [u8; 4] = bytes(file, 0)?;
    let elf = &mark == b"\x7fELF";
    if let Some((offset, flags)) = find_multiboot(file) {
        // Bits 0 and 1 ask for page alignment and memory information, which are always given.
        let refused = flags & 0xffff & !(3 | MULTIBOOT_VIDEO);
        if refused != 0 {
            return Err(Error::MultibootFlags(refused));
        }
        let with_video = |plan| Plan {
            wants_video: flags & MULTIBOOT_VIDEO != 0,
            ..plan
        };
        if flags & MULTIBOOT_ADDRESSES != 0 {
            return plan_addresses(file, offset, ram_end).map(with_video);
        }
        if elf {
            let machine: [u8; 2] = bytes(file, 18)?;
            if u16::from_le_bytes(machine) == EM_X86_64 {
                return Err(Error::Multiboot64);
            }
            return plan_elf(file, ram_end, Protocol::Multiboot).map(with_video);
        }
        return Err(Error::MultibootAddresses);
    }
    if elf {
        return plan_elf(file, ram_end, Protocol::Pvh);
    }
    Err(Error::Unknown)
}

fn plan_linux(file: &[u8], ram_end: u64) -> Result<Plan, Error> {
    let header = Header::read(file, ram_end)?;
    let mut plan = Plan::new(Protocol::Linux);
    let (offset, size) = header.kernel;
    // What the kernel needs beyond its file it clears itself.
    let segment = Segment {
        address: header.address.into(),
        offset,
        file_size: size,
        memory_size: size.into(),
    };
    plan.add(segment, size_of(file), ram_end)?;
    plan.linux = Some(header);
    plan.enter_at(header.entry.into())
}

/// The offset of the multiboot header, and its flags.
fn find_multiboot(file: &[u8]) -> Option<(u32, u32)> {
    let window = file.get(..MULTIBOOT_WINDOW).unwrap_or(file);
    let word = |at: usize| Some(u32::from_le_bytes(*window.get(at..)?.first_chunk()?));
    (0..window.len()).step_by(4).find_map(|at| {
        let (magic, flags, checksum) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == MULTIBOOT_MAGIC && sum == 0).then_some((at as u32, flags))
    })
}

/// The header itself says what goes where (the "a.out kludge").
fn plan_addresses(file: &[u8], offset: u32, ram_end: u64) -> Result<Plan, Error> {
    let field = |at: u32| u32_at(file, offset + at);
    let (header, load, load_end, bss_end, entry) =
        (field(12)?, field(16)?, field(20)?, field(24)?, field(28)?);
    let before = header.checked_sub(load).ok_or(Error::MultibootAddresses)?;
    let start = offset
        .checked_sub(before)
        .ok_or(Error::MultibootAddresses)?;
    let file_size = match load_end {
        0 => size_of(file) - start,
        _ => load_end
            .checked_sub(load)
            .ok_or(Error::MultibootAddresses)?,
    };
    let memory_size = match bss_end {
        0 => file_size,
        _ => bss_end
            .checked_sub(load)
            .filter(|size| *size >= file_size)
            .ok_or(Error::MultibootAddresses)?,
    };
    let mut plan = Plan::new(Protocol::Multiboot);
    let segment = Segment {
        address: load.into(),
        offset: start,
        file_size,
        memory_size: memory_size.into(),
    };
    plan.add(segment, size_of(file), ram_end)?;
    plan.enter_at(entry.into())
}

fn plan_elf(file: &[u8], ram_end: u64, protocol: Protocol) -> Result<Plan, Error> {
    let identification: [u8; 20] = bytes(file, 0)?;
    let machine = u16::from_le_bytes([identification[18], identification[19]]);
    // Either class with either machine; little-endian; executable or shared object.
    if !matches!(identification[4], 1 | 2)
        || !matches!(machine, EM_386 | EM_X86_64)
        || identification[5] != 1
        || !matches!(identification[16], 2 | 3)
    {
        return Err(Error::BadElf);
    }
    let wide = identification[4] == 2;
    let mut header = [0; 64];
    let length = if wide { 64 } else { 52 };
    read(file, 0, header.get_mut(..length).ok_or(Error::BadElf)?)?;
    let (entry, table, size_at) = if wide {
        (number(&header, 24, 8), number(&header, 32, 8), 54)
    } else {
        (number(&header, 24, 4), number(&header, 28, 4), 42)
    };
    let (entry_size, count) = (
        number(&header, size_at, 2),
        number(&header, size_at + 2, 2) as u16,
    );
    if entry_size != if wide { 56 } else { 32 } {
        return Err(Error::BadElf);
    }
    if count > HEADERS_MAX {
        return Err(Error::TooManySegments);
    }
    let mut plan = Plan::new(protocol);
    let mut pvh = None;
    let mut translated = None;
    for index in 0..u64::from(count) {
        let at = index
            .checked_mul(entry_size)
            .and_then(|at| at.checked_add(table))
            .ok_or(Error::Truncated)?;
        let at = u32::try_from(at).map_err(|_| Error::Truncated)?;
        let mut raw = [0; 56];
        read(
            file,
            at,
            raw.get_mut(..entry_size as usize).ok_or(Error::BadElf)?,
        )?;
        let field = |wide_at, narrow_at| {
            if wide {
                number(&raw, wide_at, 8)
            } else {
                number(&raw, narrow_at, 4)
            }
        };
        let (offset, virt, address) = (field(8, 4), field(16, 8), field(24, 12));
        let (in_file, in_memory) = (field(32, 16), field(40, 20));
        match number(&raw, 0, 4) as u32 {
            PT_LOAD => {
                let offset = u32::try_from(offset).map_err(|_| Error::Truncated)?;
                let file_size = u32::try_from(in_file).map_err(|_| Error::Truncated)?;
                plan.add(
                    Segment {
                        address,
                        offset,
                        file_size,
                        memory_size: in_memory,
                    },
                    size_of(file),
                    ram_end,
                )?;
                let flags = if wide { 4 } else { 24 };
                let into = entry.checked_sub(virt).filter(|into| *into < in_file);
                if let Some(into) = into
                    && virt != address
                    && number(&raw, flags, 4) as u32 & PF_X != 0
                {
                    translated = Some(address.wrapping_add(into));
                }
            }
            PT_NOTE if pvh.is_none() => pvh = find_note(file, offset, in_file.min(NOTES_MAX))?,
            _ => {}
        }
    }
    match (protocol, pvh) {
        (Protocol::Pvh, Some(entry)) => plan.enter_at(entry),
        (Protocol::Pvh, None) => Err(Error::NoEntry),
        // The entry of a multiboot ELF is physical, unless it lies in code that is linked to run
        // elsewhere than it is loaded.
        (_, _) => plan.enter_at(translated.unwrap_or(entry)),
    }
}

fn find_note(file: &[u8], offset: u64, size: u64) -> Result<Option<u64>, Error> {
    let mut at = u32::try_from(offset).map_err(|_| Error::Truncated)?;
    let end = u32::try_from(offset.saturating_add(size)).map_err(|_| Error::Truncated)?;
    while end.saturating_sub(at) >= 12 {
        let head: [u8; 12] = bytes(file, at)?;
        let (owner, length) = (number(&head, 0, 4), number(&head, 4, 4));
        let value = u64::from(at) + 12 + owner.next_multiple_of(4);
        let next = value + length.next_multiple_of(4);
        if next > u64::from(end) {
            return Err(Error::Truncated);
        }
        if number(&head, 8, 4) as u32 == XEN_ELFNOTE_PHYS32_ENTRY
            && owner == 4
            && &bytes::<4>(file, at + 12)? == b"Xen\0"
        {
            return match length {
                4 => Ok(Some(number(&bytes::<4>(file, value as u32)?, 0, 4))),
                8 => Ok(Some(number(&bytes::<8>(file, value as u32)?, 0, 8))),
                _ => Err(Error::BadElf),
            };
        }
        at = next as u32;
    }
    Ok(None)
}

fn number(bytes: &[u8], at: usize, count: usize) -> u64 {
    let field = bytes.get(at..at + count).unwrap_or(&[]);
    field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn u32_at(file: &[u8], at: u32) -> Result<u32, Error> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn bytes<const N: usize>(file: &[u8], at: u32) -> Result<[u8; N], Error> {
    let mut raw = [0; N];
    read(file, at, &mut raw)?;
    Ok(raw)
}

fn read(file: &[u8], at: u32, into: &mut [u8]) -> Result<(), Error> {
    let from = at as usize;
    let end = from.checked_add(into.len()).ok_or(Error::Truncated)?;
    into.copy_from_slice(file.get(from..end).ok_or(Error::Truncated)?);
    Ok(())
}

/// The file's size; what is beyond 4 GiB is not seen.
fn size_of(file: &[u8]) -> u32 {
    u32::try_from(file.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    const RAM_END: u64 = 64 << 20;

    fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// ELF64 with one segment at 1 MiB, 16 bytes of 64 from the file, and a PVH note that enters at 1 MiB + 4.
    fn pvh() -> Vec<u8> {
        let mut file = vec![0; 0x200];
        put(&mut file, 0, b"\x7fELF\x02\x01\x01");
        put(&mut file, 16, &[2, 0, 62, 0]);
        put(&mut file, 24, &0x10_0000u64.to_le_bytes());
        put(&mut file, 32, &64u64.to_le_bytes());
        put(&mut file, 54, &[56, 0, 2, 0]);
        put(&mut file, 64, &1u32.to_le_bytes());
        for (at, value) in [
            (72, 0x100u64),
            (80, 0x10_0000),
            (88, 0x10_0000),
            (96, 16),
            (104, 64),
        ] {
            put(&mut file, at, &value.to_le_bytes());
        }
        put(&mut file, 120, &4u32.to_le_bytes());
        put(&mut file, 128, &0x140u64.to_le_bytes());
        put(&mut file, 152, &20u64.to_le_bytes());
        put(&mut file, 160, &20u64.to_le_bytes());
        for (at, value) in [(0x140, 4u32), (0x144, 4), (0x148, 18), (0x150, 0x10_0004)] {
            put(&mut file, at, &value.to_le_bytes());
        }
        put(&mut file, 0x14c, b"Xen\0");
        file
    }

    /// A flat multiboot file at 1 MiB with its header at 32 and the given fields behind the checksum.
    fn multiboot(flags: u32, fields: [u32; 5]) -> Vec<u8> {
        let mut file = vec![0; 256];
        let checksum = 0u32.wrapping_sub(MULTIBOOT_MAGIC.wrapping_add(flags));
        for (index, value) in [MULTIBOOT_MAGIC, flags, checksum]
            .into_iter()
            .chain(fields)
            .enumerate()
        {
            put(&mut file, 32 + index * 4, &value.to_le_bytes());
        }
        file
    }

    #[test]
    fn pvh_entry_comes_from_the_note() {
        let plan = plan(&pvh(), RAM_END).unwrap();
        assert_eq!((plan.protocol, plan.entry), (Protocol::Pvh, 0x10_0004));
        let segment = Segment {
            address: 0x10_0000,
            offset: 0x100,
            file_size: 16,
            memory_size: 64,
        };
        assert_eq!(plan.segments(), [segment]);
        assert_eq!(plan.end(), 0x10_1000);
    }

    /// The same with a multiboot header, for a 32-bit processor, still in ELF64.
    fn multiboot_elf() -> Vec<u8> {
        let mut file = pvh();
        put(&mut file, 18, &EM_386.to_le_bytes());
        put(&mut file, 0x180, &MULTIBOOT_MAGIC.to_le_bytes());
        put(
            &mut file,
            0x188,
            &0u32.wrapping_sub(MULTIBOOT_MAGIC).to_le_bytes(),
        );
        file
    }

    #[test]
    fn elf_with_multiboot_header_enters_at_the_elf_entry() {
        let mut file = multiboot_elf();
        let expected = |entry| Ok((Protocol::Multiboot, entry));
        let found = |file: &[u8]| plan(file, RAM_END).map(|plan| (plan.protocol, plan.entry));
        assert_eq!(found(&file), expected(0x10_0000));
        // Linked elsewhere: the entry goes with the code, and with nothing that is not code.
        put(&mut file, 24, &0x8000_0008u64.to_le_bytes());
        put(&mut file, 80, &0x8000_0000u64.to_le_bytes());
        assert_eq!(found(&file), Err(Error::BadEntry(0x8000_0008)));
        put(&mut file, 68, &PF_X.to_le_bytes());
        assert_eq!(found(&file), expected(0x10_0008));
        put(&mut file, 18, &EM_X86_64.to_le_bytes());
        assert_eq!(found(&file), Err(Error::Multiboot64));
    }

    #[test]
    fn addresses_of_a_flat_multiboot_file() {
        let file = multiboot(0x1_0003, [0x10_0020, 0x10_0000, 0, 0x10_0200, 0x10_0040]);
        let plan = plan(&file, RAM_END).unwrap();
        assert_eq!(plan.entry, 0x10_0040);
        let segment = Segment {
            address: 0x10_0000,
            offset: 0,
            file_size: 256,
            memory_size: 0x200,
        };
        assert_eq!(plan.segments(), [segment]);
    }

    #[test]
    fn contradictions_are_refused() {
        let cases = [
            (
                [0x10_0020, 0x10_0021, 0, 0, 0x10_0040],
                Error::MultibootAddresses,
            ),
            (
                [0x10_0040, 0x10_0000, 0, 0, 0x10_0040],
                Error::MultibootAddresses,
            ),
            (
                [0x10_0020, 0x10_0000, 0x10_1000, 0, 0x10_0040],
                Error::Truncated,
            ),
            (
                [0x10_0020, 0x10_0000, 0x10_0080, 0x10_0040, 0x10_0040],
                Error::MultibootAddresses,
            ),
            (
                [0x10_0020, 0x10_0000, 0, 0, 0x20_0000],
                Error::BadEntry(0x20_0000),
            ),
            (
                [0x9_ef40, 0x9_ef20, 0, 0, 0x9_ef60],
                Error::OutsideRam(0x9_ef20, 0x9_f020),
            ),
        ];
        for (fields, error) in cases {
            assert_eq!(
                plan(&multiboot(0x1_0000, fields), RAM_END),
                Err(error),
                "{fields:x?}"
            );
        }
        assert_eq!(
            plan(&multiboot(0x14, [0; 5]), RAM_END),
            Err(Error::MultibootFlags(0x10))
        );
        let fields = [0x10_0020, 0x10_0000, 0, 0, 0x10_0040];
        for (flags, video) in [(0x1_0004, true), (0x1_0003, false)] {
            let plan = plan(&multiboot(flags, fields), RAM_END).unwrap();
            assert_eq!(plan.wants_video, video);
        }
    }

    #[test]
    fn impossible_segments_are_refused() {
        let cases: [(usize, u64, Error); 6] = [
            (
                88,
                RAM_END - 63,
                Error::OutsideRam(RAM_END - 63, RAM_END + 1),
            ),
            (88, u64::MAX - 8, Error::BadSegment),
            (96, 65, Error::BadSegment),
            (72, u64::MAX, Error::Truncated),
            (72, 0x1f8, Error::Truncated),
            (32, u64::MAX - 8, Error::Truncated),
        ];
        for (at, value, error) in cases {
            let mut file = pvh();
            put(&mut file, at, &value.to_le_bytes());
            assert_eq!(plan(&file, RAM_END), Err(error), "{at} {value:#x}");
        }
        let mut file = pvh();
        file.copy_within(64..120, 120);
        assert_eq!(plan(&file, RAM_END), Err(Error::Overlap(0x10_0000)));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let file = pvh();
        for length in 0..0x154 {
            assert!(plan(&file[..length], RAM_END).is_err(), "{length}");
        }
    }

    #[test]
    fn every_changed_byte_ends_without_panic() {
        for at in 0..0x160 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut file = pvh();
                file[at] = value;
                if let Ok(plan) = plan(&file, RAM_END) {
                    assert!(
                        plan.segments()
                            .iter()
                            .all(|segment| segment.end() <= RAM_END)
                    );
                }
            }
        }
    }

    #[test]
    fn other_files_are_named() {
        let mut file = vec![0; 0x400];
        assert_eq!(plan(&file, RAM_END), Err(Error::Unknown));
        put(&mut file, 0x202, b"HdrS");
        assert_eq!(plan(&file, RAM_END), Err(Error::LinuxProtocol(0)));
        let mut file = pvh();
        file[0x148] = 17;
        assert_eq!(plan(&file, RAM_END), Err(Error::NoEntry));
    }

    #[test]
    fn initrds_go_to_the_end_modules_behind_the_kernel() {
        let plan = plan(&pvh(), RAM_END).unwrap();
        let place = |size| plan.place_initrd(plan.end(), size, RAM_END);
        assert_eq!(place(5000), Ok(RAM_END - 8192));
        let modules = super::plan(&multiboot_elf(), RAM_END).unwrap();
        let start = modules.end();
        assert_eq!(modules.place_initrd(start, 5000, RAM_END), Ok(0x10_1000));
        assert_eq!(place(RAM_END as u32 - 0x10_1000), Ok(0x10_1000));
        let error = Err(Error::InitrdTooLarge);
        assert_eq!(place(RAM_END as u32 - 0x10_0fff), error);
        assert_eq!(place(u32::MAX), error);
    }
}
