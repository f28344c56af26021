//! What the boot ROM does to start a kernel, as a table that it works through, and what the kernel
//! is told: multiboot information (Multiboot Specification 0.6.96, section 3.3),
//! `hvm_start_info` (Xen's public header `arch-x86/hvm/start_info.h`, version 1), or Linux' zero
//! page (see [`super::linux`]).
//!
//! The kernel is looked at before the guest runs; the ROM knows no file formats. The table is the
//! item [`keys::BOOT`] of fw_cfg, at most [`TABLE_MAX`] bytes:
//!
//! | offset | what |
//! |---|---|
//! | 0 | count of transfers, entry point, EAX, EBX, ESI, 1 for the segments of Linux, address of the FACS or 0, 0: 32 bits each, little-endian |
//! | 32 | transfers of 16 bytes, as fw_cfg's DMA takes them |
//! | [`INFO_OFFSET`] | what the kernel is told, which the last transfer brings to [`INFO_START`], or behind a kernel that lies there |
//!
//! Where a specification leaves a choice it is QEMU 7.2's: flags, boot device, the kernel's path in
//! front of the command line, and modules behind the kernel. PVH kernels and Linux are told of ACPI
//! tables ([`super::acpi`]), which take the end of RAM; multiboot has no word for them.

use super::acpi;
use super::keys;
use super::linux::{self, Header, Told, ZERO_PAGE};
use super::loader::{Error, Plan, Protocol};

/// Where the table has what the kernel is told.
pub const INFO_OFFSET: usize = 1024;

/// Guest physical address of what the kernel is told, unless the kernel is there.
pub const INFO_START: u64 = 0x9500;
/// The end of what it can be told there.
const INFO_END: u64 = 0x2_0000;

/// Bytes of a table at most.
pub const TABLE_MAX: usize = INFO_OFFSET + INFO_MAX;

/// Bytes that the kernel can be told.
const INFO_MAX: usize = (INFO_END - INFO_START) as usize;

/// Bytes of the table before its transfers.
const TABLE_HEAD: usize = 32;
/// Bytes of a transfer.
const TRANSFER: usize = 16;
/// Transfers that a table has room for.
const TRANSFERS_MAX: usize = (INFO_OFFSET - TABLE_HEAD) / TRANSFER;

/// Where the table's head has the address of the FACS.
const HEAD_FACS: usize = 24;

/// Whether the boot ROM brings ACPI tables into memory as it works through this table.
pub fn brings_tables(table: &[u8]) -> bool {
    let facs = table.get(HEAD_FACS..HEAD_FACS + 4);
    facs.is_some_and(|bytes| bytes != [0; 4])
}

/// fw_cfg's DMA control: read from the item, skip in it, select it first.
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
/// A key that no item has: it reads zeros.
const NOTHING: u16 = keys::BOOT + 1;

/// Base memory ends here: the last KiB is where firmware keeps variables.
const BASE_MEMORY: u64 = 0x9_fc00;
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// ACPI's, for good: the FACS is among the tables.
const ACPI_NVS: u32 = 4;

/// EAX of a multiboot kernel.
const MULTIBOOT_LOADED: u32 = 0x2bad_b002;
/// Memory sizes, boot device, command line, modules, memory map, and the loader's name are there.
const MULTIBOOT_FLAGS: u32 = 0x24f;
/// The first hard disk, no partition.
const MULTIBOOT_DEVICE: u32 = 0x8000_ffff;
const MULTIBOOT_INFO: usize = 88;
const MULTIBOOT_MODULE: usize = 16;
const LOADER: &[u8] = b"thimble";

const START_INFO_MAGIC: u32 = 0x336e_c578;
const START_INFO: usize = 56;
const START_INFO_MODULE: usize = 32;

/// A module, as part of the item [`keys::INITRD_DATA`].
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Where it begins in the item: a multiple of 4 KiB.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
    /// Its text: for multiboot the file's path and what follows it. PVH kernels get none.
    pub text: &'a [u8],
}

/// What is to be started, and on which machine.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel's path, which multiboot kernels find in front of their command line.
    pub path: &'a [u8],
    /// The command line.
    pub append: &'a [u8],
    /// Modules; at most one for PVH.
    pub modules: &'a [Module<'a>],
    /// Bytes of the item [`keys::INITRD_DATA`].
    pub modules_size: u32,
    /// Bytes of RAM from 0 on.
    pub low_ram: u64,
    /// Bytes of RAM from 4 GiB on.
    pub high_ram: u64,
    /// Bytes of ACPI tables, [`acpi::image_size`]; 0 without any.
    pub acpi: usize,
}

impl Request<'_> {
    /// Writes the table for a kernel with this plan to the front of `to` and returns its length,
    /// at most [`TABLE_MAX`].
    ///
    /// # Errors
    /// [`Error::InitrdTooLarge`], and [`Error::InfoTooLarge`] if command line and texts have no
    /// room, or `to` has none.
    pub fn prepare(&self, plan: &Plan, to: &mut [u8]) -> Result<usize, Error> {
        let most = to.len().min(TABLE_MAX);
        let table = to.get_mut(..most).unwrap_or(&mut []);
        let (head, info) = table
            .split_at_mut_checked(INFO_OFFSET)
            .ok_or(Error::InfoTooLarge)?;
        let behind = plan.meets(INFO_START, INFO_END);
        let mut info = Info {
            bytes: info,
            used: 0,
            start: if behind { plan.end() } else { INFO_START },
        };
        let tables = self.tables(plan);
        let ram_end = tables.unwrap_or(self.low_ram);
        let mut free = plan.end();
        if behind {
            // What is told of modules takes the same room wherever they are.
            self.tell(plan, &mut info, 0)?;
            free = (free + info.used as u64).next_multiple_of(PAGE);
            info.used = 0;
        }
        let modules = match self.modules_size {
            0 if free > ram_end => return Err(Error::InfoTooLarge),
            0 => free,
            size => plan.place_initrd(free, size, ram_end)?,
        };
        let registers = self.tell(plan, &mut info, modules)?;
        let start = info.start;
        let told = info.used;
        head.fill(0);
        let mut transfers = Transfers {
            bytes: head,
            count: 0,
        };
        for segment in plan.segments() {
            let (address, size) = (segment.address, segment.file_size);
            if size > 0 {
                transfers.skip_to(keys::KERNEL_DATA, segment.offset)?;
                transfers.add(READ, size, address)?;
            }
            // A segment lies below 4 GiB, and its file's part in it.
            let rest = segment.memory_size.saturating_sub(size.into()) as u32;
            if rest > 0 {
                let address = address.saturating_add(size.into());
                transfers.add(u32::from(NOTHING) << 16 | SELECT | READ, rest, address)?;
            }
        }
        if self.modules_size > 0 {
            transfers.skip_to(keys::INITRD_DATA, 0)?;
            transfers.add(READ, self.modules_size, modules)?;
        }
        if let Some(tables) = tables {
            let control = u32::from(keys::BOOT_ACPI) << 16 | SELECT | READ;
            transfers.add(control, self.acpi as u32, tables)?;
        }
        transfers.skip_to(keys::BOOT, INFO_OFFSET as u32)?;
        transfers.add(READ, told as u32, start)?;
        let count = transfers.count as u32;
        let (eax, ebx, esi) = registers;
        let segments = u32::from(plan.protocol == Protocol::Linux);
        // Below 4 GiB, as all low RAM is.
        let facs = tables.map_or(0, |tables| (tables + acpi::FACS_AT) as u32);
        let values = [count, plan.entry, eax, ebx, esi, segments, facs];
        for (field, value) in head.chunks_exact_mut(4).zip(values) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        Ok(INFO_OFFSET + told)
    }

    /// Where ACPI tables go: nowhere for a kernel that can't be told of them, or that lies there.
    fn tables(&self, plan: &Plan) -> Option<u64> {
        let place = acpi::place(self.low_ram, self.acpi).filter(|_| self.acpi > 0)?;
        let told = plan.protocol != Protocol::Multiboot;
        (told && plan.end() <= place).then_some(place)
    }

    /// Writes what the kernel is told, with modules from an address on; returns EAX, EBX and ESI.
    fn tell(
        &self,
        plan: &Plan,
        info: &mut Info<'_>,
        modules: u64,
    ) -> Result<(u32, u32, u32), Error> {
        Ok(match (plan.protocol, &plan.linux) {
            (Protocol::Linux, Some(header)) => (0, 0, self.zero_page(plan, header, info, modules)?),
            (Protocol::Multiboot, _) => (MULTIBOOT_LOADED, self.multiboot(info, modules)?, 0),
            _ => (0, self.start_info(plan, info, modules)?, 0),
        })
    }

    fn zero_page(
        &self,
        plan: &Plan,
        header: &Header,
        info: &mut Info<'_>,
        modules: u64,
    ) -> Result<u32, Error> {
        let at = info.reserve(ZERO_PAGE)?;
        let command_line = info.text(&[self.append])?;
        let told = Told {
            append: self.append,
            command_line,
            initrd: match self.modules_size {
                0 => (0, 0),
                size => (modules as u32, size),
            },
        };
        let page = info.bytes.get_mut(at..at + ZERO_PAGE);
        header.fill(page.ok_or(Error::InfoTooLarge)?, &told)?;
        let tables = self.tables(plan);
        info.put64(at + linux::ACPI_RSDP_ADDR, tables.unwrap_or(0));
        let mut entries = 0;
        for (address, length, kind) in self.memory(tables) {
            let entry = at + linux::E820_TABLE + 20 * entries;
            info.put64(entry, address);
            info.put64(entry + 8, length);
            info.put32(entry + 16, kind);
            entries += 1;
        }
        info.put(at + linux::E820_ENTRIES, &[entries as u8]);
        Ok(info.address(at))
    }

    /// The memory map: address, length, type; from `tables` on low RAM is ACPI's.
    fn memory(&self, tables: Option<u64>) -> impl Iterator<Item = (u64, u64, u32)> + use<> {
        let base = self.low_ram.min(BASE_MEMORY);
        let ram_end = tables.unwrap_or(self.low_ram);
        let ranges = [
            (0, base, RAM),
            (BASE_MEMORY, 0xa_0000 - BASE_MEMORY, RESERVED),
            (0xf_0000, 0x1_0000, RESERVED),
            (MIB, ram_end.saturating_sub(MIB), RAM),
            (ram_end, self.low_ram - ram_end, ACPI_NVS),
            (0xfffc_0000, 0x4_0000, RESERVED),
            (1 << 32, self.high_ram, RAM),
        ];
        ranges.into_iter().filter(|(_, length, _)| *length > 0)
    }

    fn multiboot(&self, info: &mut Info<'_>, modules: u64) -> Result<u32, Error> {
        let at = info.reserve(MULTIBOOT_INFO)?;
        let map = info.used;
        for (address, length, kind) in self.memory(None) {
            let entry = info.reserve(24)?;
            info.put32(entry, 20);
            info.put64(entry + 4, address);
            info.put64(entry + 12, length);
            info.put32(entry + 20, kind);
        }
        let map_length = (info.used - map) as u32;
        let list = info.used;
        for _ in self.modules {
            info.reserve(MULTIBOOT_MODULE)?;
        }
        for (index, module) in self.modules.iter().enumerate() {
            let text = info.text(&[module.text])?;
            let start = modules as u32 + module.offset;
            let entry = list + index * MULTIBOOT_MODULE;
            info.put32(entry, start);
            info.put32(entry + 4, start + module.size);
            info.put32(entry + 8, text);
        }
        // The space is there in any case, as from QEMU.
        let line = [self.path, b" ", self.append];
        let line = info.text(&line)?;
        let loader = info.text(&[LOADER])?;
        let upper = (self.low_ram.saturating_sub(MIB) >> 10) as u32;
        for (offset, value) in [
            (0, MULTIBOOT_FLAGS),
            (4, (self.low_ram.min(BASE_MEMORY) >> 10) as u32),
            (8, upper),
            (12, MULTIBOOT_DEVICE),
            (16, line),
            (20, self.modules.len() as u32),
            (24, info.address(list)),
            (44, map_length),
            (48, info.address(map)),
            (64, loader),
        ] {
            info.put32(at + offset, value);
        }
        Ok(info.address(at))
    }

    fn start_info(&self, plan: &Plan, info: &mut Info<'_>, modules: u64) -> Result<u32, Error> {
        let tables = self.tables(plan);
        let at = info.reserve(START_INFO)?;
        let list = info.used;
        for module in self.modules {
            let entry = info.reserve(START_INFO_MODULE)?;
            info.put64(entry, modules + u64::from(module.offset));
            info.put64(entry + 8, module.size.into());
        }
        let (map, mut entries) = (info.used, 0);
        for (address, length, kind) in self.memory(tables) {
            let entry = info.reserve(24)?;
            info.put64(entry, address);
            info.put64(entry + 8, length);
            info.put32(entry + 16, kind);
            entries += 1;
        }
        let line = info.text(&[self.append])?;
        info.put32(at, START_INFO_MAGIC);
        info.put32(at + 4, 1);
        info.put32(at + 12, self.modules.len() as u32);
        if !self.modules.is_empty() {
            info.put64(at + 16, info.address(list).into());
        }
        info.put64(at + 24, line.into());
        info.put64(at + 32, tables.unwrap_or(0));
        info.put64(at + 40, info.address(map).into());
        info.put32(at + 48, entries);
        Ok(info.address(at))
    }
}

/// What the kernel is told, while it is being written. Fields are within what was reserved.
struct Info<'b> {
    bytes: &'b mut [u8],
    used: usize,
    /// Where it will be.
    start: u64,
}

impl Info<'_> {
    /// Where a byte will be in guest physical memory.
    fn address(&self, offset: usize) -> u32 {
        self.start as u32 + offset as u32
    }

    /// The offset of so many bytes of zeros.
    fn reserve(&mut self, length: usize) -> Result<usize, Error> {
        let at = self.used;
        let end = at.checked_add(length).ok_or(Error::InfoTooLarge)?;
        let room = self.bytes.get_mut(at..end).ok_or(Error::InfoTooLarge)?;
        room.fill(0);
        self.used = end;
        Ok(at)
    }

    /// Adds a text of pieces, ended by a zero, and returns its address.
    fn text(&mut self, pieces: &[&[u8]]) -> Result<u32, Error> {
        let start = self.used;
        for piece in pieces {
            let at = self.reserve(piece.len())?;
            self.put(at, piece);
        }
        self.reserve(1)?;
        Ok(self.address(start))
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(field) = self.bytes.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    }
}

/// The transfers of a table, while they are being written.
struct Transfers<'b> {
    bytes: &'b mut [u8],
    count: usize,
}

impl Transfers<'_> {
    /// Selects an item and moves on to an offset in it.
    fn skip_to(&mut self, key: u16, offset: u32) -> Result<(), Error> {
        self.add(u32::from(key) << 16 | SELECT | SKIP, offset, 0)
    }

    fn add(&mut self, control: u32, length: u32, address: u64) -> Result<(), Error> {
        self.count += 1;
        let at = TABLE_HEAD + (self.count - 1) * TRANSFER;
        let room = self.bytes.get_mut(at..at + TRANSFER);
        let room = room.filter(|_| self.count <= TRANSFERS_MAX);
        let value = u128::from(control) << 96 | u128::from(length) << 64 | u128::from(address);
        room.ok_or(Error::TooManySegments)?
            .copy_from_slice(&value.to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::devices::{PortDevice as _, Width};
    use crate::firmware::loader::{self, SEGMENTS_MAX};
    use crate::firmware::{Content, FwCfg};
    use crate::memory::{ArrayRam, GuestRam as _};
    use std::vec;
    use std::vec::Vec;

    /// Bytes of the tests' RAM.
    const SIZE: usize = 2 << 20;

    /// ELF32 with `count` segments of 4 bytes in the file and 8 in memory, every 64 KiB from 1 MiB
    /// on, with a PVH note or a multiboot header.
    fn kernel(count: usize, multiboot: bool) -> Vec<u8> {
        let mut file = vec![0xcc; 0x1000];
        let mut put = |at: usize, values: &[u32]| {
            for (field, value) in file[at..].chunks_exact_mut(4).zip(values) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        };
        put(0, &[0x464c_457f, 0x10101, 0, 0, 0x3_0002, 1, 0x10_0000, 52]);
        put(32, &[0, 0, 0x20_0034, 1 + count as u32, 0]);
        put(52, &[4, 0xf00, 0, 0, 20, 20, 0, 4]);
        for index in 0..count {
            let (offset, address) = (
                0xe00 + index as u32 * 4,
                0x10_0000 + (index as u32) * 0x1_0000,
            );
            put(84 + 32 * index, &[1, offset, address, address, 4, 8, 5, 4]);
            put(
                offset as usize,
                &[0x1111_1111u32.wrapping_mul(index as u32 + 1)],
            );
        }
        put(0xf00, &[4, 4, 18, 0x006e_6558, 0x10_0002]);
        if multiboot {
            put(0xf80, &[0x1bad_b002, 0, 0u32.wrapping_sub(0x1bad_b002)]);
        }
        file
    }

    /// An initial RAM disk of these bytes: `initrd`.
    const INITRD: Module<'static> = Module {
        offset: 0,
        size: 6,
        text: b"",
    };

    fn request<'a>(modules: &'a [Module<'a>]) -> Request<'a> {
        Request {
            path: b"/boot/kernel",
            append: b"a=b c",
            modules,
            modules_size: modules.last().map_or(0, |last| last.offset + last.size),
            low_ram: SIZE as u64,
            high_ram: 1 << 30,
            acpi: 0,
        }
    }

    /// What the boot ROM does: works through a table. Returns entry, EAX and EBX.
    fn boot(table: &[u8], kernel: &[u8], initrd: &[u8], ram: &ArrayRam<SIZE>) -> [u32; 3] {
        let mut device = FwCfg::new(true);
        device.add(keys::BOOT, Content::Lent(table)).unwrap();
        device
            .add(keys::KERNEL_DATA, Content::Lent(kernel))
            .unwrap();
        device
            .add(keys::INITRD_DATA, Content::Lent(initrd))
            .unwrap();
        device
            .add(keys::BOOT_ACPI, Content::Lent(b"RSD PTR "))
            .unwrap();
        let mut bench = Bench::new();
        let mut out = |offset, value: u32| {
            let mut cx = bench.context();
            cx.ram = ram;
            device.pio_write(&mut cx, offset, Width::Dword, value.swap_bytes());
        };
        let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        for transfer in table[TABLE_HEAD..].chunks_exact(16).take(word(0) as usize) {
            ram.write(0x7000, transfer).unwrap();
            out(4, 0);
            out(8, 0x7000);
            let mut answer = [0xff; 4];
            ram.read(0x7000, &mut answer).unwrap();
            assert_eq!(answer, [0; 4]);
        }
        [word(4), word(8), word(12)]
    }

    /// Starts a kernel in RAM that was full of something else.
    fn load(ram: &ArrayRam<SIZE>, kernel: &[u8], request: &Request<'_>, initrd: &[u8]) -> [u32; 3] {
        for gpa in (0..SIZE as u64).step_by(0x1000) {
            ram.write(gpa, &[0xdd; 0x1000]).unwrap();
        }
        let plan = loader::plan(kernel, request.low_ram).unwrap();
        let mut table = vec![0xee; TABLE_MAX];
        let length = request.prepare(&plan, &mut table).unwrap();
        boot(&table[..length], kernel, initrd, ram)
    }

    fn word(ram: &ArrayRam<SIZE>, gpa: u32) -> u32 {
        let mut bytes = [0; 4];
        ram.read(gpa.into(), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn word_of(text: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*text)
    }

    fn holds(ram: &ArrayRam<SIZE>, gpa: u32, bytes: &[u8]) -> bool {
        let mut found = vec![0; bytes.len()];
        ram.read(gpa.into(), &mut found).unwrap();
        found == bytes
    }

    fn text(ram: &ArrayRam<SIZE>, gpa: u32) -> Vec<u8> {
        let bytes = (gpa..).map(|gpa| word(ram, gpa) as u8);
        bytes.take_while(|byte| *byte != 0).collect()
    }

    #[test]
    fn multiboot_kernels_are_told_modules_and_memory() {
        static RAM: ArrayRam<SIZE> = ArrayRam::new();
        let mut initrd = vec![0; 0x1003];
        initrd[..5].copy_from_slice(b"first");
        initrd[0x1000..].copy_from_slice(b"2nd");
        let module = |offset, size, text| Module { offset, size, text };
        let modules = [module(0, 5, &b"a arg"[..]), module(0x1000, 3, &b"b"[..])];
        let registers = load(&RAM, &kernel(2, true), &request(&modules), &initrd);
        assert_eq!(registers, [0x10_0000, MULTIBOOT_LOADED, INFO_START as u32]);
        let at = |gpa| word(&RAM, gpa);
        // The segments, what follows them in memory, and what is behind.
        assert_eq!((at(0x10_0000), at(0x11_0000)), (0x1111_1111, 0x2222_2222));
        assert_eq!((at(0x10_0004), at(0x11_0004)), (0, 0));
        assert_eq!((at(0x10_0008), at(0x11_0008)), (0xdddd_dddd, 0xdddd_dddd));
        let info = |offset| at(registers[2] + offset);
        assert_eq!(
            (info(0), info(4), info(8)),
            (0x24f, 639, (SIZE as u32 >> 10) - 1024)
        );
        assert_eq!(text(&RAM, info(16)), b"/boot/kernel a=b c");
        assert_eq!(text(&RAM, info(64)), b"thimble");
        assert_eq!(info(20), 2);
        let list = info(24);
        let first = [list, list + 4, list + 8, list + 12].map(at);
        assert_eq!((first[0], first[1], first[3]), (0x11_1000, 0x11_1005, 0));
        assert_eq!(text(&RAM, first[2]), b"a arg");
        assert_eq!((at(list + 16), at(list + 20)), (0x11_2000, 0x11_2003));
        assert_eq!(text(&RAM, at(list + 24)), b"b");
        assert!(holds(&RAM, 0x11_2000, b"2nd"));
        let (length, map) = (info(44), info(48));
        let entries: Vec<(u32, u32, u32)> = (map..map + length)
            .step_by(24)
            .map(|entry| {
                assert_eq!(at(entry), 20);
                (at(entry + 4), at(entry + 12), at(entry + 20))
            })
            .collect();
        assert_eq!(entries[0], (0, 0x9_fc00, 1));
        assert_eq!(entries[3], (0x10_0000, SIZE as u32 - 0x10_0000, 1));
        assert_eq!(entries.last(), Some(&(0, 1 << 30, 1)));
    }

    #[test]
    fn pvh_kernels_are_told_one_module() {
        static RAM: ArrayRam<SIZE> = ArrayRam::new();
        let modules = [INITRD];
        let registers = load(&RAM, &kernel(1, false), &request(&modules), b"initrd");
        assert_eq!(registers, [0x10_0002, 0, INFO_START as u32]);
        let at = |offset| word(&RAM, INFO_START as u32 + offset);
        assert_eq!((at(0), at(4), at(12)), (START_INFO_MAGIC, 1, 1));
        assert_eq!(text(&RAM, at(24)), b"a=b c");
        assert_eq!((at(32), at(36)), (0, 0), "no ACPI tables");
        assert_eq!(word(&RAM, at(16)), SIZE as u32 - 0x1000);
        assert_eq!(word(&RAM, at(16) + 8), 6);
        assert_eq!(at(48), 6);
        assert_eq!(word(&RAM, at(40) + 3 * 24), 0x10_0000);
        assert_eq!(word(&RAM, at(40) + 3 * 24 + 16), 1);
        assert!(holds(&RAM, SIZE as u32 - 0x1000, b"initrd"));
    }

    #[test]
    fn linux_is_told_by_the_zero_page() {
        static RAM: ArrayRam<SIZE> = ArrayRam::new();
        // Fixed at 1 MiB, as there is no more here.
        let mut file = crate::firmware::linux::tests::kernel();
        file[0x234] = 0;
        file[0x260..0x264].copy_from_slice(&0x8_0000u32.to_le_bytes());
        let modules = [INITRD];
        let mut request = request(&modules);
        let registers = load(&RAM, &file, &request, b"initrd");
        assert_eq!(registers, [0x10_0000, 0, 0]);
        let page = INFO_START as u32;
        let at = |offset| word(&RAM, page + offset);
        assert_eq!(at(0x202), 0x5372_6448);
        assert_eq!(text(&RAM, at(0x228)), b"a=b c");
        assert_eq!((at(0x218), at(0x21c)), (SIZE as u32 - 0x1000, 6));
        assert!(holds(&RAM, at(0x218), b"initrd"));
        assert!(holds(&RAM, 0x10_0000, &file[3 * 512..]));
        assert!(holds(&RAM, 0x10_0000 + 1000, &[0xdd]), "not cleared for it");
        assert_eq!(at(0x1e8) as u8, 6);
        assert_eq!((at(0x2d0), at(0x2d8), at(0x2e0)), (0, 0x9_fc00, 1));
        let last = 0x2d0 + 5 * 20;
        assert_eq!((at(last), at(last + 4), at(last + 8)), (0, 1, 1 << 30));
        assert_eq!(at(last + 20), 0, "the end of the map");
        // Kernel and initrd do not overlap, also where the kernel's file ends long before that.
        request.modules_size = SIZE as u32 - 0x18_0000;
        let plan = loader::plan(&file, SIZE as u64).unwrap();
        let mut table = vec![0; TABLE_MAX];
        assert!(request.prepare(&plan, &mut table).is_ok());
        let field = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        assert_eq!((field(16), field(20)), (page, 1));
        request.modules_size += 1;
        let error = request.prepare(&plan, &mut table);
        assert_eq!(error, Err(Error::InitrdTooLarge));
        // Nor are there tables where the kernel unpacks itself.
        request.acpi = acpi::IMAGE_MAX;
        let tables = acpi::place(SIZE as u64, request.acpi).unwrap();
        assert_eq!(request.tables(&plan), Some(tables));
        for (size, expected) in [(tables - MIB, Some(tables)), (tables - MIB + 1, None)] {
            file[0x260..0x264].copy_from_slice(&(size as u32).to_le_bytes());
            let plan = loader::plan(&file, SIZE as u64).unwrap();
            assert_eq!(request.tables(&plan), expected);
        }
    }

    #[test]
    fn tables_take_the_end_of_ram() {
        static RAM: ArrayRam<SIZE> = ArrayRam::new();
        let modules = [INITRD];
        let mut request = request(&modules);
        request.acpi = acpi::IMAGE_MAX;
        let tables = SIZE as u32 - acpi::IMAGE_MAX as u32;
        load(&RAM, &kernel(1, false), &request, b"initrd");
        let at = |offset| word(&RAM, INFO_START as u32 + offset);
        assert_eq!((at(32), at(36)), (tables, 0));
        assert_eq!(word(&RAM, tables), word_of(b"RSD "));
        assert_eq!(word(&RAM, tables + 8), 0, "behind the item is nothing");
        assert_eq!(word(&RAM, at(16)), tables - 0x1000, "modules lie below");
        // RAM ends before them.
        let entry = |index: u32, field: u32| word(&RAM, at(40) + 24 * index + field);
        assert_eq!(at(48), 7);
        assert_eq!((entry(3, 0), entry(3, 8)), (0x10_0000, tables - 0x10_0000));
        assert_eq!((entry(4, 0), entry(4, 16)), (tables, ACPI_NVS));
        assert_eq!(entry(4, 8), acpi::IMAGE_MAX as u32);
        // Multiboot has no word for them.
        load(&RAM, &kernel(1, true), &request, b"initrd");
        assert_eq!(word(&RAM, tables), 0xdddd_dddd);
        let upper = INFO_START as u32 + 8;
        assert_eq!(word(&RAM, upper), (SIZE as u32 >> 10) - 1024);
        // Nor do they go where the kernel is.
        let mut large = kernel(1, false);
        large[84 + 20..84 + 24].copy_from_slice(&(SIZE as u32 - 0x10_2000).to_le_bytes());
        request.modules = &[];
        request.modules_size = 0;
        load(&RAM, &large, &request, b"");
        assert_eq!((at(32), at(48)), (0, 6));
    }

    #[test]
    fn without_modules_there_is_no_list() {
        static RAM: ArrayRam<SIZE> = ArrayRam::new();
        let mut request = request(&[]);
        request.append = b"";
        load(&RAM, &kernel(1, false), &request, b"");
        let at = |offset| word(&RAM, INFO_START as u32 + offset);
        assert_eq!((at(12), at(16)), (0, 0));
        assert_eq!(text(&RAM, at(24)), b"");
        load(&RAM, &kernel(1, true), &request, b"");
        assert_eq!((at(0), at(20)), (0x24f, 0));
        assert_eq!(text(&RAM, at(16)), b"/boot/kernel ");
    }

    #[test]
    fn a_kernel_where_the_information_goes_moves_it() {
        static RAM: ArrayRam<SIZE> = ArrayRam::new();
        let mut file = kernel(1, true);
        for at in [24, 84 + 8, 84 + 12] {
            file[at..at + 4].copy_from_slice(&0xa000u32.to_le_bytes());
        }
        let module = Module {
            offset: 0,
            size: 3,
            text: b"m",
        };
        let modules = [module];
        let registers = load(&RAM, &file, &request(&modules), b"abc");
        assert_eq!(registers, [0xa000, MULTIBOOT_LOADED, 0x10_0000]);
        let at = |gpa| word(&RAM, gpa);
        assert_eq!((at(0xa000), at(0xa004)), (0x1111_1111, 0));
        assert_eq!(at(0x9500), 0xdddd_dddd);
        assert_eq!(text(&RAM, at(0x10_0010)), b"/boot/kernel a=b c");
        assert_eq!(at(at(0x10_0018)), 0x10_1000);
        assert!(holds(&RAM, 0x10_1000, b"abc"));
    }

    #[test]
    fn transfers_stay_in_ram_whatever_the_file_says() {
        let module = Module {
            offset: 0,
            size: 0x1001,
            text: b"m",
        };
        let modules = [module];
        let request = request(&modules);
        let mut table = vec![0; TABLE_MAX];
        let mut tables = 0;
        for multiboot in [true, false] {
            let good = kernel(2, multiboot);
            for at in (0..160).chain(0xf00..0xf14).chain(0xf80..0xf8c) {
                for value in [0, 1, 0x0f, 0x10, 0x1f, 0x7f, 0x80, 0xff] {
                    let mut file = good.clone();
                    file[at] = value;
                    let Ok(plan) = loader::plan(&file, SIZE as u64) else {
                        continue;
                    };
                    let Ok(length) = request.prepare(&plan, &mut table) else {
                        continue;
                    };
                    tables += 1;
                    let field = |at: usize, bytes: usize| {
                        let field = table[at..at + bytes].iter();
                        field.fold(0, |value, byte| value << 8 | u64::from(*byte))
                    };
                    assert!(length <= TABLE_MAX);
                    let count = usize::from(table[0]);
                    for transfer in (0..count).map(|index| TABLE_HEAD + index * TRANSFER) {
                        let end = field(transfer + 8, 8) + field(transfer + 4, 4);
                        let reads = field(transfer, 4) as u32 & READ != 0;
                        assert!(!reads || end <= SIZE as u64, "{at:#x} {value:#x}");
                    }
                }
            }
        }
        assert!(tables > 100, "{tables}");
    }

    #[test]
    fn limits_are_errors() {
        let plan = |count| loader::plan(&kernel(count, true), SIZE as u64).unwrap();
        let mut table = vec![0; TABLE_MAX];
        let mut long = request(&[]);
        let text = vec![b'x'; INFO_MAX];
        long.append = &text;
        let error = long.prepare(&plan(1), &mut table);
        assert_eq!(error, Err(Error::InfoTooLarge));
        let mut large = request(&[]);
        large.modules_size = SIZE as u32;
        let error = large.prepare(&plan(1), &mut table);
        assert_eq!(error, Err(Error::InitrdTooLarge));
        let small = request(&[]);
        assert!(small.prepare(&plan(SEGMENTS_MAX), &mut table).is_ok());
        for length in [0, INFO_OFFSET, INFO_OFFSET + 100] {
            let error = small.prepare(&plan(1), &mut table[..length]);
            assert_eq!(error, Err(Error::InfoTooLarge), "{length}");
        }
    }
}
