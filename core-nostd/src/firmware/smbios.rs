//! SMBIOS structures: what management software in the guest is told of the machine it runs on.
//!
//! Follows DMTF DSP0134: version 2.8 with the 32-bit entry point, 3.0 with the 64-bit one. Which
//! structures there are, their handles and whatever a specification leaves open are as QEMU 7.2 has
//! them, names of maker and product with them: guests recognise the machine by these.
//!
//! Firmware takes entry point and structures from fw_cfg ([`ENTRY_FILE`], [`TABLES_FILE`]), puts the
//! structures where it likes and completes the entry point. Where the boot ROM starts a kernel, both
//! are part of the ROM, below its code, where kernels look for the entry point ([`in_rom`]).
//!
//! Not told of: caches, slots, and whatever else the specification requires that no guest uses.

use core::fmt::{self, Write as _};

use super::acpi::aml::Writer;
use super::acpi::set_checksum;

/// Name of the entry point's file.
pub const ENTRY_FILE: &str = "etc/smbios/smbios-anchor";
/// Name of the structures' file.
pub const TABLES_FILE: &str = "etc/smbios/smbios-tables";

/// Texts that a structure has at most, OEM strings aside.
pub const TEXTS_MAX: usize = 6;
/// OEM strings at most: their structure counts them in a byte.
pub const OEM_STRINGS_MAX: usize = 255;
/// Bytes of structures at most with the 32-bit entry point.
pub const LENGTH_MAX: usize = 0xffff;
/// Bytes of an entry point at most.
pub const ENTRY_MAX: usize = 31;

/// Bytes of a text that ends with a number, at most.
const NUMBERED_MAX: usize = 127;
/// Bytes of a memory module at most.
const MODULE_MAX: u64 = 16 << 30;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The maker of everything.
const MAKER: &str = "QEMU";
/// What the machine is called.
const PRODUCT: &str = "Standard PC (i440FX + PIIX, 1996)";
/// Its version: the board's name.
const VERSION: &str = "pc-i440fx-7.2";

/// Bytes of a structure's header: type, length, handle.
const HEADER: usize = 4;
/// Bytes of a structure without its strings at most.
const AREA_MAX: usize = 48;

/// A text of a structure.
#[derive(Debug)]
pub struct Text {
    /// Its name for `-smbios`.
    pub name: &'static str,
    /// Where its number goes, from the structure's start on.
    at: u8,
    /// What it is unless another one is given; empty for none.
    default: &'static str,
}

impl Text {
    /// Whether the structure's number goes behind it.
    fn is_numbered(&self) -> bool {
        self.name.ends_with("_pfx")
    }
}

const fn text(name: &'static str, at: u8, default: &'static str) -> Text {
    Text { name, at, default }
}

/// What is fixed in structures of a type (DSP0134, section 7).
#[derive(Debug)]
pub struct Layout {
    /// The type.
    pub number: u8,
    /// The handle of the first one.
    handle: u16,
    /// What follows the header.
    area: &'static [u8],
    /// Its texts, numbered in this order.
    pub texts: &'static [Text],
}

/// BIOS information: at E8000h, with characteristics "not supported"; a virtual machine, and content
/// distribution can be targeted.
pub static FIRMWARE: Layout = Layout {
    number: 0,
    handle: 0,
    area: &[
        0, 0, 0, 0xe8, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0xff, 0xff,
    ],
    texts: &[
        text("vendor", 4, ""),
        text("version", 5, ""),
        text("date", 8, ""),
    ],
};

/// System information, woken up by the power switch.
pub static SYSTEM: Layout = Layout {
    number: 1,
    handle: 0x100,
    area: &[
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0,
    ],
    texts: &[
        text("manufacturer", 4, MAKER),
        text("product", 5, PRODUCT),
        text("version", 6, VERSION),
        text("serial", 7, ""),
        text("sku", 25, ""),
        text("family", 26, ""),
    ],
};

/// Baseboard: a motherboard that hosts, in the chassis.
pub static BOARD: Layout = Layout {
    number: 2,
    handle: 0x200,
    area: &[0, 0, 0, 0, 0, 1, 0, 0, 3, 10, 0],
    texts: &[
        text("manufacturer", 4, MAKER),
        text("product", 5, PRODUCT),
        text("version", 6, VERSION),
        text("serial", 7, ""),
        text("asset", 8, ""),
        text("location", 10, ""),
    ],
};

/// Chassis of type "other", all states safe, security unknown.
pub static CHASSIS: Layout = Layout {
    number: 3,
    handle: 0x300,
    area: &[0, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    texts: &[
        text("manufacturer", 4, MAKER),
        text("version", 6, VERSION),
        text("serial", 7, ""),
        text("asset", 8, ""),
        text("sku", 21, ""),
    ],
};

/// Processor: central, enabled, of an unknown family, without caches. Version 2.8 ends before the
/// last six bytes.
pub static PROCESSOR: Layout = Layout {
    number: 4,
    handle: 0x400,
    area: &[
        0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 1, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0,
    ],
    texts: &[
        text("sock_pfx", 4, "CPU"),
        text("manufacturer", 7, MAKER),
        text("version", 16, VERSION),
        text("serial", 32, ""),
        text("asset", 33, ""),
        text("part", 34, ""),
    ],
};
/// Bytes of the processor's structure before version 3.0.
const PROCESSOR_2: usize = 42;

/// Port connector. Its handles begin with the firmware's.
pub static PORT: Layout = Layout {
    number: 8,
    handle: 0,
    area: &[0; 5],
    texts: &[
        text("internal_reference", 4, ""),
        text("external_reference", 6, ""),
    ],
};

/// OEM strings.
static OEM_STRINGS: Layout = Layout {
    number: 11,
    handle: 0xe00,
    area: &[0],
    texts: &[],
};

/// All memory modules together: on the board, system memory, multi-bit ECC.
static MEMORY_ARRAY: Layout = Layout {
    number: 16,
    handle: 0x1000,
    area: &[
        1, 3, 6, 0, 0, 0, 0, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ],
    texts: &[],
};

/// Memory module: a DIMM of RAM, its width unknown.
pub static MODULE: Layout = Layout {
    number: 17,
    handle: 0x1100,
    area: &[
        0, 0x10, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 9, 0, 0, 0, 7, 2, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ],
    texts: &[
        text("loc_pfx", 16, "DIMM"),
        text("bank", 17, ""),
        text("manufacturer", 23, MAKER),
        text("serial", 24, ""),
        text("asset", 25, ""),
        text("part", 26, ""),
    ],
};

/// Where the memory array's RAM is.
static MAPPED: Layout = Layout {
    number: 19,
    handle: 0x1300,
    area: &[
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ],
    texts: &[],
};

/// System boot information: no errors.
static BOOT: Layout = Layout {
    number: 32,
    handle: 0x2000,
    area: &[0; 7],
    texts: &[],
};

/// Device on the board.
pub static ONBOARD: Layout = Layout {
    number: 41,
    handle: 0x2900,
    area: &[0; 7],
    texts: &[text("designation", 4, "")],
};

/// The end.
static END: Layout = Layout {
    number: 127,
    handle: 0x7f00,
    area: &[],
    texts: &[],
};

/// The types that fields can be given for, but for OEM strings.
pub static LAYOUTS: [&Layout; 8] = [
    &FIRMWARE, &SYSTEM, &BOARD, &CHASSIS, &PROCESSOR, &PORT, &MODULE, &ONBOARD,
];

/// Names of kinds of devices on the board, from 1 on (DSP0134, table 109).
pub static ONBOARD_KINDS: [&str; 10] = [
    "other",
    "unknown",
    "video",
    "scsi",
    "ethernet",
    "tokenring",
    "sound",
    "pata",
    "sata",
    "sas",
];

/// The texts of a structure in its layout's order, where others than the usual ones are given.
pub type Texts<'a> = [Option<&'a str>; TEXTS_MAX];

/// Which entry point there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryPoint {
    /// SMBIOS 2.8, structures below 4 GiB.
    #[default]
    Bits32,
    /// SMBIOS 3.0.
    Bits64,
}

/// What is told of firmware.
#[derive(Clone, Copy, Debug, Default)]
pub struct Firmware<'a> {
    /// See [`FIRMWARE`].
    pub texts: Texts<'a>,
    /// Major and minor release.
    pub release: (u8, u8),
    /// Whether it is a UEFI.
    pub uefi: bool,
}

/// What is told of processors.
#[derive(Clone, Copy, Debug)]
pub struct Processors<'a> {
    /// See [`PROCESSOR`]; the first one goes before the number of the socket.
    pub texts: Texts<'a>,
    /// Sockets.
    pub sockets: u16,
    /// Cores of a socket.
    pub cores: u16,
    /// Threads of a socket.
    pub threads: u16,
    /// EAX and, in the upper half, EDX of CPUID leaf 1.
    pub id: u64,
    /// The highest speed, in MHz.
    pub max_speed: u16,
    /// The speed, in MHz.
    pub current_speed: u16,
}

/// A port connector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port<'a> {
    /// See [`PORT`].
    pub texts: Texts<'a>,
    /// Type of the external connector (DSP0134, table 43).
    pub connector: u8,
    /// Type of the port (table 44).
    pub kind: u8,
}

/// A device on the board.
#[derive(Clone, Copy, Debug)]
pub struct Onboard<'a> {
    /// See [`ONBOARD`].
    pub texts: Texts<'a>,
    /// Index into [`ONBOARD_KINDS`], plus 1.
    pub kind: u8,
    /// Number among those of its kind.
    pub instance: u8,
    /// Device and function number on the root bus; 0 for none.
    pub devfn: u8,
}

/// What the structures tell.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Which entry point there is.
    pub entry_point: EntryPoint,
    /// Structures that the user made, each of [`HEADER_MIN`] bytes at least, in their order; there
    /// are no others of their types.
    pub files: &'a [&'a [u8]],
    /// Firmware, where the user tells of it.
    pub firmware: Option<Firmware<'a>>,
    /// See [`SYSTEM`].
    pub system: Texts<'a>,
    /// The machine's UUID, in the byte order of its text form.
    pub uuid: [u8; 16],
    /// See [`BOARD`]; where the user tells of it.
    pub board: Option<Texts<'a>>,
    /// See [`CHASSIS`].
    pub chassis: Texts<'a>,
    /// Processors.
    pub processors: Processors<'a>,
    /// Port connectors.
    pub ports: &'a [Port<'a>],
    /// OEM strings without zeros, [`OEM_STRINGS_MAX`] at most.
    pub oem_strings: &'a [&'a [u8]],
    /// See [`MODULE`]; the first one goes before the number of the module.
    pub module: Texts<'a>,
    /// Speed of memory, in MT/s; 0 for unknown.
    pub module_speed: u16,
    /// Devices on the board.
    pub onboard: &'a [Onboard<'a>],
    /// Bytes of RAM from 0 on, and from 4 GiB on.
    pub ram: (u64, u64),
}

/// Bytes that a structure of the user's has at least.
pub const HEADER_MIN: usize = HEADER;

/// Why there are no structures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The buffer is too small, or there are more structures than the entry point counts.
    Full,
    /// The 32-bit entry point has no room for this length.
    TooLong(usize),
    /// The boot ROM has no room for this length.
    NoRoom(usize),
    /// Files have structures of processors, but not one a socket.
    Processors {
        /// One for each socket.
        expected: u16,
        /// How many there are.
        got: u16,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("there is no room for so many SMBIOS structures"),
            Self::TooLong(length) => {
                write!(f, "SMBIOS 2.1 table length {length} exceeds {LENGTH_MAX}")
            }
            Self::NoRoom(length) => write!(
                f,
                "the boot ROM has no room for {length} bytes of SMBIOS structures"
            ),
            Self::Processors { expected, got } => write!(
                f,
                "Expected {expected} SMBIOS Type 4 tables, got {got} instead"
            ),
        }
    }
}

/// Structures, as their entry point tells of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    entry_point: EntryPoint,
    /// Bytes of all structures.
    pub length: usize,
    count: u16,
    largest: u16,
}

/// Writes the structures to the front of `to`.
///
/// # Errors
/// See [`Error`].
pub fn build(facts: &Facts<'_>, to: &mut [u8]) -> Result<Table, Error> {
    let mut out = Out {
        w: Writer::new(to),
        files: facts.files,
        count: 0,
        largest: 0,
    };
    let mut processors = 0;
    for file in facts.files {
        let start = out.w.used();
        out.w.raw(file);
        out.end(start);
        processors += u16::from(file.first() == Some(&PROCESSOR.number));
    }
    let sockets = facts.processors.sockets;
    if processors > 0 && processors != sockets {
        return Err(Error::Processors {
            expected: sockets,
            got: processors,
        });
    }
    out.machine(facts);
    for number in 0..sockets {
        out.processor(facts, number);
    }
    for (number, port) in (0..).zip(facts.ports) {
        out.add(&PORT, number, &port.texts, &mut |area| {
            put(area, 7, &[port.connector, port.kind]);
        });
    }
    out.oem_strings(facts.oem_strings);
    out.memory(facts);
    out.add(&BOOT, 0, &[None; TEXTS_MAX], &mut |_| {});
    for (number, device) in (0..).zip(facts.onboard) {
        out.add(&ONBOARD, number, &device.texts, &mut |area| {
            const ENABLED: u8 = 0x80;
            put(area, 5, &[device.kind | ENABLED, device.instance]);
            put(area, 10, &[device.devfn]);
        });
    }
    out.add(&END, 0, &[None; TEXTS_MAX], &mut |_| {});
    let (count, largest) = (out.count, out.largest);
    let length = out.w.finish().map_err(|_| Error::Full)?;
    if facts.entry_point == EntryPoint::Bits32 && length > LENGTH_MAX {
        return Err(Error::TooLong(length));
    }
    Ok(Table {
        entry_point: facts.entry_point,
        length,
        count: u16::try_from(count).map_err(|_| Error::Full)?,
        largest: largest.min(LENGTH_MAX) as u16,
    })
}

impl Table {
    /// The entry point, for structures at an address; `None` leaves address and checksums to the
    /// firmware.
    pub fn entry(&self, address: Option<u32>) -> heapless::Vec<u8, ENTRY_MAX> {
        let mut bytes = heapless::Vec::new();
        let address_bytes = address.unwrap_or(0).to_le_bytes();
        let [length, count, largest] =
            [self.length as u16, self.count, self.largest].map(u16::to_le_bytes);
        let whole = (self.length as u32).to_le_bytes();
        // Each has the room.
        let parts: &[&[u8]] = match self.entry_point {
            EntryPoint::Bits32 => &[
                b"_SM_\0\x1f\x02\x08",
                &largest,
                &[0; 6],
                b"_DMI_\0",
                &length,
                &address_bytes,
                &count,
                b"\x28",
            ],
            EntryPoint::Bits64 => &[
                b"_SM3_\0\x18\x03\0\0\x01\0",
                &whole,
                &address_bytes,
                &[0; 4],
            ],
        };
        for part in parts {
            let _ = bytes.extend_from_slice(part);
        }
        if address.is_some() {
            // The inner part's first, as the outer one covers it.
            let sums: &[(usize, usize)] = match self.entry_point {
                EntryPoint::Bits32 => &[(16, 5), (0, 4)],
                EntryPoint::Bits64 => &[(0, 5)],
            };
            for (start, at) in sums {
                if let Some(part) = bytes.get_mut(*start..) {
                    set_checksum(part, *at);
                }
            }
        }
        bytes
    }
}

/// Where a machine without firmware has them: puts entry point and structures to the front of a
/// ROM's last 64 KiB, which lie at F0000h, too.
///
/// # Errors
/// [`Error::NoRoom`] where the ROM has something there.
pub fn in_rom(table: &Table, structures: &[u8], rom: &mut [u8]) -> Result<(), Error> {
    /// Structures are aligned behind the entry point.
    const BEHIND: usize = 32;
    const SEGMENT: u32 = 0xf_0000;
    let full = Error::NoRoom(structures.len());
    let start = rom.len().checked_sub(0x1_0000).ok_or(full)?;
    let room = rom.get_mut(start..start + BEHIND + structures.len());
    let room = room.filter(|room| room.iter().all(|byte| *byte == 0xff));
    let (entry, tables) = room.ok_or(full)?.split_at_mut(BEHIND);
    let bytes = table.entry(Some(SEGMENT + BEHIND as u32));
    put(entry, 0, &bytes);
    tables.copy_from_slice(structures);
    Ok(())
}

/// Structures while they are being written.
struct Out<'a, 'b> {
    w: Writer<'b>,
    files: &'a [&'a [u8]],
    count: u32,
    largest: usize,
}

impl Out<'_, '_> {
    /// Counts a structure that begins at `start`.
    fn end(&mut self, start: usize) {
        self.count = self.count.saturating_add(1);
        self.largest = self.largest.max(self.w.used() - start);
    }

    /// Adds the structure with this number of a layout, whose numbers `edit` sets. One whose type is
    /// in a file is left out.
    fn add(
        &mut self,
        layout: &Layout,
        number: u16,
        texts: &Texts<'_>,
        edit: &mut dyn FnMut(&mut [u8]),
    ) {
        let mut files = self.files.iter();
        if files.any(|file| file.first() == Some(&layout.number)) {
            return;
        }
        let mut area = [0; AREA_MAX];
        let length = HEADER + layout.area.len();
        let handle = layout.handle.wrapping_add(number).to_le_bytes();
        put(&mut area, 0, &[layout.number, length as u8]);
        put(&mut area, 2, &handle);
        put(&mut area, HEADER, layout.area);
        edit(&mut area);
        let length = usize::from(area[1]);
        let start = self.w.used();
        self.w.raw(area.get(..length).unwrap_or(&area));
        let mut used = 0;
        for (text, given) in layout.texts.iter().zip(texts) {
            let value = given.unwrap_or(text.default).as_bytes();
            if value.is_empty() && !text.is_numbered() {
                continue;
            }
            used += 1;
            self.w.set(start + usize::from(text.at), &[used]);
            match text.is_numbered() {
                true => self.numbered(layout, value, number),
                false => self.w.raw(value),
            }
            self.w.raw(&[0]);
        }
        // Without any text there are two zeros all the same.
        self.w.raw(if used > 0 { &[0] } else { &[0, 0] });
        self.end(start);
    }

    /// Writes a text with a number behind it, which for sockets is hexadecimal.
    fn numbered(&mut self, layout: &Layout, value: &[u8], number: u16) {
        let mut digits = heapless::String::<8>::new();
        // There is room for all numbers.
        let _ = match layout.number == PROCESSOR.number {
            true => write!(digits, "{number:2x}"),
            false => write!(digits, " {number}"),
        };
        let mut room = NUMBERED_MAX;
        for part in [value, digits.as_bytes()] {
            let part = part.get(..room).unwrap_or(part);
            self.w.raw(part);
            room -= part.len();
        }
    }

    fn machine(&mut self, facts: &Facts<'_>) {
        if let Some(firmware) = &facts.firmware {
            self.add(&FIRMWARE, 0, &firmware.texts, &mut |area| {
                const UEFI: u8 = 1 << 3;
                if firmware.uefi {
                    area[19] |= UEFI;
                }
                put(area, 20, &[firmware.release.0, firmware.release.1]);
            });
        }
        self.add(&SYSTEM, 0, &facts.system, &mut |area| {
            // The first three fields are little-endian numbers.
            let mut uuid = facts.uuid;
            uuid[..4].reverse();
            uuid[4..6].reverse();
            uuid[6..8].reverse();
            put(area, 8, &uuid);
        });
        if let Some(board) = &facts.board {
            self.add(&BOARD, 0, board, &mut |_| {});
        }
        self.add(&CHASSIS, 0, &facts.chassis, &mut |_| {});
    }

    fn processor(&mut self, facts: &Facts<'_>, number: u16) {
        let told = &facts.processors;
        self.add(&PROCESSOR, number, &told.texts, &mut |area| {
            put(area, 8, &told.id.to_le_bytes());
            put(area, 20, &told.max_speed.to_le_bytes());
            put(area, 22, &told.current_speed.to_le_bytes());
            let counts = [told.cores, told.cores, told.threads];
            for (index, count) in counts.into_iter().enumerate() {
                put(area, 35 + index, &[count.min(0xff) as u8]);
                put(area, 42 + 2 * index, &count.to_le_bytes());
            }
            if facts.entry_point == EntryPoint::Bits32 {
                area[1] = PROCESSOR_2 as u8;
            }
        });
    }

    fn oem_strings(&mut self, strings: &[&[u8]]) {
        if strings.is_empty() {
            return;
        }
        let (before, start) = (self.count, self.w.used());
        self.add(&OEM_STRINGS, 0, &[None; TEXTS_MAX], &mut |area| {
            area[4] = strings.len().min(OEM_STRINGS_MAX) as u8;
        });
        if self.count == before {
            return;
        }
        // Over the two zeros at the end.
        self.w.cut(2);
        for string in strings.iter().take(OEM_STRINGS_MAX) {
            self.w.raw(string);
            self.w.raw(&[0]);
        }
        self.w.raw(&[0]);
        self.largest = self.largest.max(self.w.used() - start);
    }

    fn memory(&mut self, facts: &Facts<'_>) {
        let none = [None; TEXTS_MAX];
        let (low, high) = facts.ram;
        let size = low.saturating_add(high);
        let modules = size.div_ceil(MODULE_MAX);
        self.add(&MEMORY_ARRAY, 0, &none, &mut |area| {
            // In KiB up to 2 TiB, else beside it in bytes.
            let kib = u32::try_from(size / KIB).ok().filter(|kib| kib >> 31 == 0);
            put(area, 7, &kib.unwrap_or(1 << 31).to_le_bytes());
            put(area, 13, &(modules as u16).to_le_bytes());
            if kib.is_none() {
                put(area, 15, &size.to_le_bytes());
            }
        });
        for number in 0..modules {
            let bytes = (size - number * MODULE_MAX).min(MODULE_MAX);
            self.add(&MODULE, number as u16, &facts.module, &mut |area| {
                put(area, 12, &(bytes.div_ceil(MIB) as u16).to_le_bytes());
                for at in [21, 32] {
                    put(area, at, &facts.module_speed.to_le_bytes());
                }
            });
        }
        let ranges = [(0, low), (1 << 32, high)];
        let ranges = ranges.into_iter().filter(|(_, length)| *length > 0);
        for (number, (first, length)) in (0..).zip(ranges) {
            let last = (first + length - 1) / KIB;
            self.add(&MAPPED, number, &none, &mut |area| {
                put(area, 4, &((first / KIB) as u32).to_le_bytes());
                put(area, 8, &(last as u32).to_le_bytes());
            });
        }
    }
}

/// Sets bytes of a structure.
fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = area.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;
    use std::vec::Vec;

    const FACTS: Facts<'_> = Facts {
        entry_point: EntryPoint::Bits32,
        files: &[],
        firmware: None,
        system: [None; TEXTS_MAX],
        uuid: *b"0123456789abcdef",
        board: None,
        chassis: [None; TEXTS_MAX],
        processors: Processors {
            texts: [None; TEXTS_MAX],
            sockets: 1,
            cores: 2,
            threads: 4,
            id: 0x078b_fbfd_000f_0fb1,
            max_speed: 2000,
            current_speed: 2000,
        },
        ports: &[],
        oem_strings: &[],
        module: [None; TEXTS_MAX],
        module_speed: 0,
        onboard: &[],
        ram: (128 << 20, 0),
    };

    fn built(facts: &Facts<'_>) -> (Table, Vec<u8>) {
        let mut room = vec![0xee; 4 * LENGTH_MAX];
        let table = build(facts, &mut room).unwrap();
        room.truncate(table.length);
        (table, room)
    }

    /// Type, handle, bytes behind the header, and texts.
    type Structure = (u8, u16, Vec<u8>, Vec<Vec<u8>>);

    /// Structures as guests take them apart.
    fn taken_apart(mut bytes: &[u8]) -> Vec<Structure> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = usize::from(bytes[1]);
            let handle = u16::from_le_bytes([bytes[2], bytes[3]]);
            let area = bytes[HEADER..length].to_vec();
            let mut rest = &bytes[length..];
            let mut texts = Vec::new();
            while rest[0] != 0 {
                let end = rest.iter().position(|byte| *byte == 0).unwrap();
                texts.push(rest[..end].to_vec());
                rest = &rest[end + 1..];
            }
            rest = &rest[if texts.is_empty() { 2 } else { 1 }..];
            all.push((bytes[0], handle, area, texts));
            bytes = rest;
        }
        all
    }

    fn numbers(bytes: &[u8]) -> Vec<u8> {
        let all = taken_apart(bytes);
        all.iter().map(|structure| structure.0).collect()
    }

    /// Observed with QEMU 7.2: `-M pc -smp 4,cores=2,threads=2`.
    #[test]
    fn a_pc_is_told_of() {
        let (table, bytes) = built(&FACTS);
        assert_eq!(numbers(&bytes), [1, 3, 4, 16, 17, 19, 32, 127]);
        let entry = [
            0x5f, 0x53, 0x4d, 0x5f, 0, 0x1f, 2, 8, 81, 0, 0, 0, 0, 0, 0, 0, 0x5f, 0x44, 0x4d, 0x49,
            0x5f, 0, 0x41, 1, 0, 0, 0, 0, 8, 0, 0x28,
        ];
        assert_eq!(table.entry(None)[..], entry);
        let all = taken_apart(&bytes);
        assert_eq!(all[0].2[4..20], *b"32105476\x38\x39abcdef");
        let texts = [MAKER, PRODUCT, VERSION].map(|text| text.as_bytes().to_vec());
        assert_eq!(all[0].3, texts);
        assert_eq!(all[2].3[0], b"CPU 0");
        assert_eq!(all[2].2[31..], [2, 2, 4, 2, 0, 1, 0]);
        assert_eq!((all[2].1, all[2].2.len()), (0x400, 38));
        assert_eq!(all[4].3[0], b"DIMM 0");
        assert_eq!(all[5].2[..8], [0, 0, 0, 0, 0xff, 0xff, 1, 0]);
    }

    #[test]
    fn wide_entry_points_come_with_longer_processors() {
        let facts = Facts {
            entry_point: EntryPoint::Bits64,
            ram: (3 << 30, 37 << 30),
            ..FACTS
        };
        let (table, bytes) = built(&facts);
        let all = taken_apart(&bytes);
        assert_eq!(all[2].2[34..], [2, 0, 1, 0, 2, 0, 2, 0, 4, 0]);
        assert_eq!(numbers(&bytes), [1, 3, 4, 16, 17, 17, 17, 19, 19, 32, 127]);
        assert_eq!(all[8].2[..8], [0, 0, 0x40, 0, 0xff, 0xff, 0x8f, 2]);
        let entry = table.entry(Some(0xf_0020));
        assert_eq!(entry.len(), 24);
        assert_eq!(entry[..5], *b"_SM3_");
        assert_eq!(entry[12..16], (bytes.len() as u32).to_le_bytes());
        assert_eq!(entry[16..], [0x20, 0, 0xf, 0, 0, 0, 0, 0]);
        assert_eq!(entry.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
    }

    #[test]
    fn files_stand_for_what_they_are() {
        let facts = Facts {
            files: &[&[4, 42, 0, 1], &[1, 4, 0, 1, 0, 0], &[127, 4, 0, 1, 0, 0]],
            ..FACTS
        };
        let (table, bytes) = built(&facts);
        assert_eq!(bytes[..4], [4, 42, 0, 1]);
        assert_eq!(numbers(&bytes[4..]), [1, 127, 3, 16, 17, 19, 32]);
        assert_eq!(table.count, 8);
        let mut two = FACTS;
        two.files = facts.files;
        two.processors.sockets = 2;
        let error = build(&two, &mut [0; 4096]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Expected 2 SMBIOS Type 4 tables, got 1 instead"
        );
    }

    #[test]
    fn limits_are_errors() {
        let large = vec![200; LENGTH_MAX];
        let facts = Facts {
            files: &[&large],
            ..FACTS
        };
        let mut room = vec![0; 2 * LENGTH_MAX];
        let error = build(&facts, &mut room).unwrap_err();
        assert_eq!(error, Error::TooLong(LENGTH_MAX + 321));
        let wide = Facts {
            entry_point: EntryPoint::Bits64,
            ..facts
        };
        assert!(build(&wide, &mut room).is_ok());
        assert_eq!(build(&wide, &mut room[..400]), Err(Error::Full));
        // Texts with a number are cut, as QEMU's.
        let long = "x".repeat(300);
        let mut facts = FACTS;
        facts.processors.texts[0] = Some(&long);
        let (_, bytes) = built(&facts);
        assert_eq!(taken_apart(&bytes)[2].3[0], vec![b'x'; 127]);
    }

    #[test]
    fn a_rom_has_them_where_nothing_else_is() {
        let (table, bytes) = built(&FACTS);
        let mut rom = vec![0xff; 0x2_0000];
        in_rom(&table, &bytes, &mut rom).unwrap();
        let segment = &rom[0x1_0000..];
        assert_eq!(segment[..4], *b"_SM_");
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&segment[..31]), sum(&segment[16..31])), (0, 0));
        assert_eq!(segment[24..28], 0xf_0020u32.to_le_bytes());
        assert_eq!(segment[32..32 + bytes.len()], bytes);
        assert_eq!(rom[0xffff], 0xff);
        for mut rom in [rom.clone(), vec![0xff; 0x1000], vec![]] {
            let error = in_rom(&table, &bytes, &mut rom);
            assert_eq!(error, Err(Error::NoRoom(bytes.len())));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_told_can_be_taken_apart(
            texts in proptest::collection::vec(proptest::option::of("[ -~]{0,40}"), TEXTS_MAX),
            strings in proptest::collection::vec(proptest::collection::vec(1u8.., 1..20), 0..300),
            sockets in 1u16..300,
            ports in 0usize..4,
            high in 0u64..1 << 40,
            wide: bool,
            room in 0usize..0x4_0000,
        ) {
            let mut given: Texts<'_> = [None; TEXTS_MAX];
            for (to, text) in given.iter_mut().zip(&texts) {
                *to = text.as_deref();
            }
            let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
            let ports = vec![Port { texts: given, connector: 1, kind: 2 }; ports];
            let mut facts = Facts {
                entry_point: if wide { EntryPoint::Bits64 } else { EntryPoint::Bits32 },
                firmware: Some(Firmware { texts: given, ..Firmware::default() }),
                board: Some(given),
                ports: &ports,
                oem_strings: &strings,
                module: given,
                ram: (3 << 30, high),
                ..FACTS
            };
            facts.processors.sockets = sockets;
            let mut memory = vec![0xee; room];
            match build(&facts, &mut memory) {
                Ok(table) => {
                    let all = taken_apart(&memory[..table.length]);
                    prop_assert_eq!(all.len(), usize::from(table.count));
                    let told = all.iter().find(|structure| structure.0 == 11);
                    let expected = strings.len().min(OEM_STRINGS_MAX);
                    prop_assert_eq!(told.map_or(0, |told| told.3.len()), expected);
                    let processors = all.iter().filter(|structure| structure.0 == 4);
                    prop_assert_eq!(processors.count(), usize::from(sockets));
                }
                Err(error) => prop_assert!(room < 0x1_0000 || !wide, "{}", error),
            }
        }
    }
}
