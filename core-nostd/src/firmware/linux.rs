//! The Linux kernel's file format and 32-bit boot protocol ("bzImage"): Linux'
//! `Documentation/arch/x86/boot.rst` and `zero-page.rst`, protocol 2.02 to 2.15.
//!
//! Such a file is a boot sector and real-mode code, of which only the setup header in it counts
//! here, and behind them the protected-mode kernel. It is started without its real-mode part: the
//! loader puts the protected-mode kernel where the header says, writes the "zero page"
//! (`struct boot_params`: the header with the loader's fields filled in, and the memory map), and
//! enters with ESI pointing at that:
//!
//! | field of the zero page | what it tells |
//! |---|---|
//! | 070h `acpi_rsdp_addr` | where the ACPI tables begin, 0 if there are none |
//! | 0C0h, 0C4h, 0C8h | upper halves of the next three: 0, as all is below 4 GiB |
//! | 1E8h, 2D0h | count of the memory map's entries, and they themselves |
//! | 1FAh `vid_mode` | the command line's `vga=`, else 80 by 25 characters |
//! | 210h `type_of_loader` | FFh: a loader without a number |
//! | 214h `code32_start` | where the kernel was put |
//! | 218h, 21Ch `ramdisk_image`, `ramdisk_size` | the initial RAM disk |
//! | 228h `cmd_line_ptr` | the command line |
//!
//! The header is from outside: each field that is used is checked, and the others are copied.
//! Not modelled: kernels that run below 1 MiB (zImage), the protocols before 2.02 (older than
//! Linux 2.4), and the entry at 200h for loaders that are in long mode: a kernel that has it has
//! the 32-bit one too, and nothing is ever put above 4 GiB. There is no `setup_data`, and no
//! screen is described: there is none.

use core::ops::Range;

use super::loader::{Error, HIGH_START};

/// Bytes of the zero page.
pub const ZERO_PAGE: usize = 4096;
/// Where the setup header is, in the file and in the zero page alike.
pub const HEADER: usize = 0x1f1;
/// Where it ends at the latest.
const HEADER_END: usize = 0x290;
const HEADER_MAX: usize = HEADER_END - HEADER;

/// `acpi_rsdp_addr` in the zero page.
pub const ACPI_RSDP_ADDR: usize = 0x70;
/// `e820_entries` in the zero page.
pub const E820_ENTRIES: usize = 0x1e8;
/// `e820_table` in the zero page: entries of 20 bytes.
pub const E820_TABLE: usize = 0x2d0;

const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const VID_MODE: usize = 0x1fa;
const JUMP: usize = 0x201;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const EXT_LOADER: usize = 0x226;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE_KERNEL: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const SETUP_DATA: usize = 0x250;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

const SECTOR: u32 = 512;
/// Sectors of real-mode code where the header says 0.
const SETUP_SECTS_DEFAULT: u32 = 4;
/// `loadflags`: the protected-mode kernel goes to 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: the heap's end is valid.
const CAN_USE_HEAP: u8 = 1 << 7;
/// `xloadflags`: the kernel reaches all of memory.
const XLF_CAN_BE_LOADED_ABOVE_4G: u32 = 1 << 1;
/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// The protocol's own limit where the header has none.
const INITRD_ADDR_MAX_DEFAULT: u32 = 0x37ff_ffff;
/// The same for the command line, without its final zero.
const CMDLINE_SIZE_DEFAULT: u32 = 255;

/// `vid_mode`: what the machine has after reset.
const VID_NORMAL: u16 = 0xffff;
const VID_EXTENDED: u16 = 0xfffe;
const VID_ASK: u16 = 0xfffd;

/// A kernel's checked setup header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_MAX],
    length: usize,
    /// The protected-mode kernel in the file.
    pub kernel: (u32, u32),
    /// Where it goes.
    pub address: u32,
    /// Where it is entered.
    pub entry: u32,
    /// The end of what it uses before it looks at the memory map.
    pub end: u64,
    /// First address that the initial RAM disk may not reach.
    pub initrd_end: u64,
    /// Bytes of a command line at most, without the final zero.
    pub cmdline_max: u32,
}

/// Whether a file is to be taken for a Linux kernel.
pub fn is_kernel(file: &[u8]) -> bool {
    file.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

impl Header {
    /// Reads the header of a file that [`is_kernel`], and finds the kernel's place in RAM that ends
    /// at `ram_end`.
    ///
    /// # Errors
    /// What is wrong with the header, or with its wishes.
    pub fn read(file: &[u8], ram_end: u64) -> Result<Self, Error> {
        let number = |at, count| number(file, at, count).ok_or(Error::Truncated);
        let protocol = number(VERSION, 2)?;
        if protocol < 0x202 {
            return Err(Error::LinuxProtocol(protocol as u16));
        }
        // What the header is too short for, or the protocol too old, has its default.
        let end = MAGIC + usize::from(file.get(JUMP).copied().unwrap_or(0) & 0x7f);
        let header_end = end.min(HEADER_END);
        let since = |version: u32, at: usize, count: usize, default: u32| {
            if protocol < version || at + count > header_end {
                return Ok(default);
            }
            number(at, count)
        };
        if number(LOADFLAGS, 1)? as u8 & LOADED_HIGH == 0 {
            return Err(Error::LinuxLow);
        }
        let source = HEADER..header_end;
        let length = source.len();
        let mut bytes = [0; HEADER_MAX];
        let header = file.get(source).ok_or(Error::Truncated)?;
        bytes
            .get_mut(..length)
            .ok_or(Error::Truncated)?
            .copy_from_slice(header);

        let sectors = match number(SETUP_SECTS, 1)? {
            0 => SETUP_SECTS_DEFAULT,
            sectors => sectors,
        };
        let offset = (sectors + 1) * SECTOR;
        let file_size = u32::try_from(file.len()).unwrap_or(u32::MAX);
        let size = file_size.checked_sub(offset).ok_or(Error::Truncated)?;
        // Units of 16 bytes; the field is longer since protocol 2.04, and the last unit need not
        // be whole.
        let wide = if protocol < 0x204 { 2 } else { 4 };
        if size == 0 || size.div_ceil(16) < number(SYSSIZE, wide)? {
            return Err(Error::Truncated);
        }

        let relocatable = since(0x205, RELOCATABLE_KERNEL, 1, 0)? != 0;
        let init_size = since(0x20a, INIT_SIZE, 4, 0)?.max(size);
        let fits = |address: u64| {
            let end = address.checked_add(init_size.into())?;
            (address >= HIGH_START && end <= ram_end).then_some(end)
        };
        let low = u32::try_from(HIGH_START).unwrap_or(u32::MAX);
        let address = if relocatable {
            let alignment = since(0x205, KERNEL_ALIGNMENT, 4, 1)?;
            if !alignment.is_power_of_two() {
                return Err(Error::LinuxAlignment(alignment));
            }
            let lower = since(0x20a, PREF_ADDRESS, 4, low)?;
            let upper = since(0x20a, PREF_ADDRESS + 4, 4, 0)?;
            match upper == 0 && lower % alignment == 0 && fits(lower.into()).is_some() {
                true => lower,
                // Where the others go, as far as it may.
                false => low
                    .checked_next_multiple_of(alignment)
                    .ok_or(Error::LinuxAlignment(alignment))?,
            }
        } else {
            low
        };
        let start = u64::from(address);
        let end = fits(start).ok_or(Error::OutsideRam(
            start,
            start.saturating_add(init_size.into()),
        ))?;
        let entry = if relocatable {
            address
        } else {
            number(CODE32_START, 4)?
        };
        let code = start..start + u64::from(size);
        if !code.contains(&entry.into()) {
            return Err(Error::BadEntry(entry.into()));
        }

        let anywhere = since(0x20c, XLOADFLAGS, 2, 0)? & XLF_CAN_BE_LOADED_ABOVE_4G != 0;
        let initrd_last = match anywhere {
            true => u32::MAX,
            false => since(0x203, INITRD_ADDR_MAX, 4, INITRD_ADDR_MAX_DEFAULT)?,
        };
        Ok(Self {
            bytes,
            length,
            kernel: (offset, size),
            address,
            entry,
            end,
            initrd_end: u64::from(initrd_last) + 1,
            cmdline_max: since(0x206, CMDLINE_SIZE, 4, CMDLINE_SIZE_DEFAULT)?,
        })
    }

    /// Whether the header is long enough for a field.
    fn has(&self, field: Range<usize>) -> bool {
        field.end <= HEADER + self.length
    }

    /// Fills in the zero page but for the memory map and the ACPI tables: the kernel's header, and
    /// what the loader adds. All else in `page` is to be zero.
    ///
    /// # Errors
    /// [`Error::InfoTooLarge`] for a page that is too short, [`Error::LinuxCommandLine`] and
    /// [`Error::LinuxVideo`].
    pub fn fill(&self, page: &mut [u8], told: &Told<'_>) -> Result<(), Error> {
        if told.append.len() > self.cmdline_max as usize {
            return Err(Error::LinuxCommandLine(self.cmdline_max));
        }
        let page = page.get_mut(..ZERO_PAGE).ok_or(Error::InfoTooLarge)?;
        let header = self.bytes.get(..self.length).unwrap_or(&[]);
        if let Some(room) = page.get_mut(HEADER..HEADER + header.len()) {
            room.copy_from_slice(header);
        }
        let flags = number(page, LOADFLAGS, 1).unwrap_or(0) as u8 & !CAN_USE_HEAP;
        let mut put = |at: usize, value: &[u8]| {
            let field = at..at + value.len();
            if self.has(field.clone())
                && let Some(room) = page.get_mut(field)
            {
                room.copy_from_slice(value);
            }
        };
        put(VID_MODE, &video_mode(told.append)?.to_le_bytes());
        put(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
        put(LOADFLAGS, &[flags]);
        put(CODE32_START, &self.address.to_le_bytes());
        put(RAMDISK_IMAGE, &told.initrd.0.to_le_bytes());
        put(RAMDISK_SIZE, &told.initrd.1.to_le_bytes());
        put(HEAP_END_PTR, &[0; 2]);
        put(EXT_LOADER, &[0; 2]);
        put(CMD_LINE_PTR, &told.command_line.to_le_bytes());
        // A file has no business here.
        put(SETUP_DATA, &[0; 8]);
        Ok(())
    }
}

/// What the loader tells a kernel, beside memory and tables.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The command line.
    pub append: &'a [u8],
    /// Where it is, ended by a zero.
    pub command_line: u32,
    /// Address and size of the initial RAM disk; zeros if there is none.
    pub initrd: (u32, u32),
}

/// What the command line says of the video mode: the first `vga=` counts.
///
/// # Errors
/// [`Error::LinuxVideo`].
fn video_mode(append: &[u8]) -> Result<u16, Error> {
    let mut words = append.split(|byte| byte.is_ascii_whitespace());
    let Some(mode) = words.find_map(|word| word.strip_prefix(b"vga=")) else {
        return Ok(VID_NORMAL);
    };
    match mode {
        b"normal" => return Ok(VID_NORMAL),
        b"ext" => return Ok(VID_EXTENDED),
        b"ask" => return Ok(VID_ASK),
        _ => {}
    }
    let (digits, radix) = match mode {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        [b'0', _, ..] => (mode, 8),
        // A sign is none of the digits' business.
        [b'+' | b'-', ..] => return Err(Error::LinuxVideo),
        _ => (mode, 10),
    };
    let digits = core::str::from_utf8(digits).map_err(|_| Error::LinuxVideo)?;
    u16::from_str_radix(digits, radix).map_err(|_| Error::LinuxVideo)
}

/// A little-endian number of up to 4 bytes.
fn number(bytes: &[u8], at: usize, count: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(count)?)?;
    let value = field.iter().rev();
    Some(value.fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::firmware::loader::{self, Protocol};
    use std::vec;
    use std::vec::Vec;

    const RAM_END: u64 = 64 << 20;
    const MIB: u32 = 1 << 20;

    fn put(file: &mut [u8], at: usize, value: u64, count: usize) {
        file[at..at + count].copy_from_slice(&value.to_le_bytes()[..count]);
    }

    /// Protocol 2.15, relocatable, to be at 16 MiB and to have 4 MiB there; 2 sectors of real-mode
    /// code behind the boot sector, and 1000 bytes of kernel.
    pub(crate) fn kernel() -> Vec<u8> {
        let mut file = vec![0; 3 * 512];
        let fields = [
            (SETUP_SECTS, 2, 1),
            (SYSSIZE, 63, 4),
            (VID_MODE, 0x1234, 2),
            (JUMP - 1, 0x6aeb, 2),
            (MAGIC, 0x5372_6448, 4),
            (VERSION, 0x20f, 2),
            (TYPE_OF_LOADER, 0x77, 1),
            (LOADFLAGS, 0x81, 1),
            (CODE32_START, 0x10_0000, 4),
            (RAMDISK_IMAGE, 0x1111, 4),
            (RAMDISK_SIZE, 0x2222, 4),
            (INITRD_ADDR_MAX, 0x7fff_ffff, 4),
            (KERNEL_ALIGNMENT, 0x20_0000, 4),
            (RELOCATABLE_KERNEL, 1, 1),
            (XLOADFLAGS, 1, 2),
            (CMDLINE_SIZE, 2047, 4),
            (SETUP_DATA, 0x3333, 8),
            (PREF_ADDRESS, 16 << 20, 8),
            (INIT_SIZE, 4 << 20, 4),
        ];
        for (at, value, count) in fields {
            put(&mut file, at, value, count);
        }
        file.extend((0..1000).map(|index| index as u8));
        file
    }

    /// A kernel with another value in one field.
    fn with(at: usize, value: u64, count: usize) -> Vec<u8> {
        let mut file = kernel();
        put(&mut file, at, value, count);
        file
    }

    fn read(file: &[u8]) -> Result<Header, Error> {
        assert!(is_kernel(file));
        Header::read(file, RAM_END)
    }

    #[test]
    fn a_header_is_understood() {
        let header = read(&kernel()).unwrap();
        assert_eq!(header.kernel, (3 * 512, 1000));
        assert_eq!((header.address, header.entry), (16 * MIB, 16 * MIB));
        assert_eq!(header.end, 20 << 20);
        assert_eq!(header.initrd_end, 1 << 31);
        assert_eq!(header.cmdline_max, 2047);
        let plan = loader::plan(&kernel(), RAM_END).unwrap();
        assert_eq!((plan.protocol, plan.entry), (Protocol::Linux, 16 * MIB));
        assert_eq!(plan.segments().len(), 1);
        assert_eq!(plan.end(), 20 << 20);
    }

    #[test]
    fn kernels_go_where_they_like_if_they_can() {
        let address = |file: &[u8], ram_end| {
            Header::read(file, ram_end).map(|header| (header.address, header.entry))
        };
        // The second place is as low as its alignment lets it.
        assert_eq!(address(&kernel(), 20 << 20), Ok((16 * MIB, 16 * MIB)));
        assert_eq!(address(&kernel(), (20 << 20) - 1), Ok((2 * MIB, 2 * MIB)));
        let too_large = Error::OutsideRam(2 << 20, 6 << 20);
        assert_eq!(address(&kernel(), (6 << 20) - 1), Err(too_large));
        for preferred in [0, 0xf_0000, 0x100_0001, 1 << 32, u64::MAX] {
            let file = with(PREF_ADDRESS, preferred, 8);
            assert_eq!(address(&file, RAM_END), Ok((2 * MIB, 2 * MIB)));
        }
        // One that stays where it is put is put at 1 MiB, and enters where it says.
        let mut fixed = with(RELOCATABLE_KERNEL, 0, 1);
        assert_eq!(address(&fixed, RAM_END), Ok((MIB, MIB)));
        put(&mut fixed, CODE32_START, 0x10_0010, 4);
        assert_eq!(address(&fixed, RAM_END), Ok((MIB, 0x10_0010)));
        for bad in [0u32, 0xf_ffff, MIB + 1000, u32::MAX] {
            put(&mut fixed, CODE32_START, bad.into(), 4);
            let error = Error::BadEntry(bad.into());
            assert_eq!(address(&fixed, RAM_END), Err(error));
        }
    }

    #[test]
    fn older_protocols_have_less() {
        let old = |version| read(&with(VERSION, version, 2));
        // No preference.
        assert_eq!(old(0x209).unwrap().address, 2 * MIB);
        assert_eq!(old(0x209).unwrap().end, (2 << 20) + 1000);
        // No limit of the command line; not relocatable; no limit of the initrd.
        assert_eq!(old(0x206).unwrap().cmdline_max, 2047);
        assert_eq!(old(0x205).unwrap().cmdline_max, 255);
        assert_eq!(old(0x204).unwrap().address, MIB);
        assert_eq!(old(0x203).unwrap().initrd_end, 1 << 31);
        assert_eq!(old(0x202).unwrap().initrd_end, 0x3800_0000);
        assert_eq!(old(0x201), Err(Error::LinuxProtocol(0x201)));
        // A header that ends before a field doesn't have it, whatever the version says.
        assert_eq!(read(&with(JUMP, 0x30, 1)).unwrap().address, MIB);
        // Nor is there one that is longer than the page has room for.
        assert_eq!(read(&with(JUMP, 0xff, 1)).unwrap().length, 0x90);
        let anywhere = read(&with(XLOADFLAGS, 3, 2)).unwrap();
        assert_eq!(anywhere.initrd_end, 1 << 32);
    }

    #[test]
    fn impossible_headers_are_refused() {
        let cases = [
            (with(LOADFLAGS, 0, 1), Error::LinuxLow),
            (with(KERNEL_ALIGNMENT, 0, 4), Error::LinuxAlignment(0)),
            (with(KERNEL_ALIGNMENT, 3, 4), Error::LinuxAlignment(3)),
            (
                with(KERNEL_ALIGNMENT, 1 << 31, 4),
                Error::OutsideRam(1 << 31, (1 << 31) + (4 << 20)),
            ),
            (with(SYSSIZE, 64, 4), Error::Truncated),
            (with(SETUP_SECTS, 3, 1), Error::Truncated),
            (with(SETUP_SECTS, 255, 1), Error::Truncated),
            // 0 stands for 4.
            (with(SETUP_SECTS, 0, 1), Error::Truncated),
            (
                with(INIT_SIZE, u32::MAX.into(), 4),
                Error::OutsideRam(2 << 20, (2 << 20) + u64::from(u32::MAX)),
            ),
        ];
        for (file, error) in cases {
            assert_eq!(read(&file), Err(error));
        }
        let file = kernel();
        for length in MAGIC + 4..file.len() - 8 {
            assert_eq!(read(&file[..length]), Err(Error::Truncated), "{length}");
        }
    }

    #[test]
    fn the_page_has_the_header_and_what_the_loader_adds() {
        let header = read(&kernel()).unwrap();
        let told = Told {
            append: b"quiet vga=0x317",
            command_line: 0xa500,
            initrd: (0x300_0000, 0x1234),
        };
        let mut page = vec![0; ZERO_PAGE];
        header.fill(&mut page, &told).unwrap();
        let field = |at, count| number(&page, at, count).unwrap();
        let expected = [
            (SETUP_SECTS, 1, 2),
            (VID_MODE, 2, 0x317),
            (MAGIC, 4, 0x5372_6448),
            (TYPE_OF_LOADER, 1, 0xff),
            (LOADFLAGS, 1, 1),
            (CODE32_START, 4, 16 * MIB),
            (RAMDISK_IMAGE, 4, 0x300_0000),
            (RAMDISK_SIZE, 4, 0x1234),
            (CMD_LINE_PTR, 4, 0xa500),
            (SETUP_DATA, 4, 0),
            (INIT_SIZE, 4, 4 * MIB),
        ];
        for (at, count, value) in expected {
            assert_eq!(field(at, count), value, "{at:#x}");
        }
        let behind = HEADER + header.length;
        assert_eq!(behind, 0x202 + 0x6a);
        assert!(
            page[..HEADER]
                .iter()
                .chain(&page[behind..])
                .all(|byte| *byte == 0)
        );
        let error = header.fill(&mut page[1..], &told);
        assert_eq!(error, Err(Error::InfoTooLarge));
    }

    #[test]
    fn command_lines_have_a_limit() {
        let header = read(&with(CMDLINE_SIZE, 5, 4)).unwrap();
        let fill = |append| {
            let told = Told {
                append,
                command_line: 0,
                initrd: (0, 0),
            };
            header.fill(&mut [0; ZERO_PAGE], &told)
        };
        assert_eq!(fill(b"quiet"), Ok(()));
        assert_eq!(fill(b"quiet "), Err(Error::LinuxCommandLine(5)));
    }

    /// As QEMU 7.2 reads them, but that they are whole words, and numbers have no sign and fit.
    #[test]
    fn video_modes() {
        let modes: [(&[u8], u16); 10] = [
            (b"", 0xffff),
            (b"xvga=3", 0xffff),
            (b"quiet vga=normal", 0xffff),
            (b"vga=ext quiet", 0xfffe),
            (b"vga=ask", 0xfffd),
            (b"vga=791", 791),
            (b"vga=0X317\tquiet", 0x317),
            (b"vga=0", 0),
            (b"vga=017", 15),
            (b"vga=1 vga=x", 1),
        ];
        for (line, mode) in modes {
            assert_eq!(video_mode(line), Ok(mode));
        }
        let bad: [&[u8]; 6] = [
            b"vga=",
            b"vga=x",
            b"vga=65536",
            b"vga=-1",
            b"vga=0x",
            b"vga=\xff",
        ];
        for line in bad {
            assert_eq!(video_mode(line), Err(Error::LinuxVideo));
        }
    }

    #[test]
    fn every_changed_byte_ends_with_a_kernel_in_ram_or_an_error() {
        for at in HEADER..0x270 {
            for value in [0, 1, 2, 0x0f, 0x10, 0x7f, 0x80, 0xff] {
                let mut file = kernel();
                file[at] = value;
                let Ok(plan) = loader::plan(&file, RAM_END) else {
                    continue;
                };
                assert!(plan.end() <= RAM_END, "{at:#x} {value:#x}");
                let inside = |segment: &loader::Segment| {
                    segment.address >= HIGH_START && segment.end() <= plan.end()
                };
                assert!(plan.segments().iter().all(inside), "{at:#x} {value:#x}");
            }
        }
    }
}
