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

/// What the command line says of the video mode: the last `vga=` counts.
///
/// # Errors
/// [`Error::LinuxVideo`].
fn video_mode(append: &[u8]) -> Result<u16, Error> {
    let words = append.rsplit(|byte| byte.is_ascii_whitespace());
    let mode = words.filter_map(|word| word.strip_prefix(b"vga=")).next();
    let Some(mode) = mode else {
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
