//! fw_cfg: the device by which firmware and kernels read what the machine tells them.
//!
//! After the QEMU Firmware Configuration Device specification: a selector register at port 510h,
//! a data register at 511h and a DMA address register at 514h, big-endian and 64 bits wide.
//! Items are numbered; some of them are files, listed in a directory. The DMA interface is
//! always there. Items can not be written: no item is made to be, so a write has the error bit.

use serde::{Deserialize, Serialize};

use crate::devices::class::DeviceClass;
use crate::devices::{Context, PortDevice, Width};
use crate::memory::GuestRam;
use crate::state::{SavedState, StateError};

/// The class, as the object model knows it.
pub static CLASS: DeviceClass = DeviceClass {
    name: "fw_cfg_io",
    parent: "fw_cfg",
    bus: Some("System"),
    doc: "firmware configuration",
    user_creatable: false,
    properties: &[],
};

/// First port.
pub const PORT: u16 = 0x510;
/// Ports: selector and data, two that are not used, and the DMA address.
pub const PORTS: u16 = 12;

/// Numbers of items.
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Which interfaces there are.
    pub const ID: u16 = 0x01;
    /// UUID, 16 bytes.
    pub const UUID: u16 = 0x02;
    /// RAM in bytes, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// Whether there is no graphical console, 16 bits.
    pub const NOGRAPHIC: u16 = 0x04;
    /// Processors, 16 bits.
    pub const NB_CPUS: u16 = 0x05;
    /// Bytes of the kernel, 32 bits.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Bytes of the initial RAM disk, 32 bits.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// Whether to show a boot menu, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Processors that there may be, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// Bytes of the command line with its final NUL, 32 bits.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line with its final NUL.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// The directory of files.
    pub const FILE_DIR: u16 = 0x19;
    /// The first file; the others follow.
    pub const FILE_FIRST: u16 = 0x20;
    /// On the PC: the number of the processor's interrupt 0 override, 32 bits.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
    /// No item is selected.
    pub const INVALID: u16 = 0xffff;
}

/// Bit of a selector that asks for writing: it is passed over, as by QEMU since 2.4.
const WRITE_CHANNEL: u16 = 0x4000;

/// The signature's value.
const SIGNATURE: [u8; 4] = *b"QEMU";
/// The ID's value: traditional interface and DMA.
const INTERFACES: u32 = 0b11;

/// What the DMA address register reads: `QEMU CFG` in big-endian.
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;

/// DMA control: something went wrong. Set in the answer.
const DMA_ERROR: u32 = 1 << 0;
/// DMA control: copy from the item to memory.
const DMA_READ: u32 = 1 << 1;
/// DMA control: advance in the item.
const DMA_SKIP: u32 = 1 << 2;
/// DMA control: select the item in the high half first.
const DMA_SELECT: u32 = 1 << 3;
/// DMA control: copy from memory to the item.
const DMA_WRITE: u32 = 1 << 4;
/// Bytes of the DMA access structure: control, length, address.
const DMA_ACCESS: usize = 16;

/// Items that are not files, at most.
const ITEMS_MAX: usize = 20;
/// Files at most.
pub const FILES_MAX: usize = 16;
/// Bytes of an item that the device stores itself, at most.
const INLINE_MAX: usize = 64;
/// Bytes of a file's name, with its final NUL.
pub const FILE_NAME_MAX: usize = 56;
/// Bytes of a directory entry: size, select, reserved, name.
const FILE_ENTRY: usize = 8 + FILE_NAME_MAX;

/// What an item holds.
#[derive(Clone, Debug)]
enum Content<'m> {
    Inline(heapless::Vec<u8, INLINE_MAX>),
    /// Lent by the host.
    Lent(&'m [u8]),
}

impl Content<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Lent(bytes) => bytes,
        }
    }
}

#[derive(Clone, Debug)]
struct File<'m> {
    name: &'static str,
    content: Content<'m>,
}

/// An item could not be added: the table is full, or the content is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemError;

/// The guest-visible state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    selector: u16,
    offset: u32,
    dma_address: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            selector: key::SIGNATURE,
            offset: 0,
            dma_address: 0,
        }
    }
}

/// The device with its items.
#[derive(Clone, Debug)]
pub struct FwCfg<'m> {
    items: heapless::Vec<(u16, Content<'m>), ITEMS_MAX>,
    /// Sorted by name; their numbers follow from their places.
    files: heapless::Vec<File<'m>, FILES_MAX>,
    state: State,
}

/// Saved form, version 1. Items are made anew from the configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    selector: u16,
    offset: u32,
    dma_address: u64,
}

impl<'m> FwCfg<'m> {
    /// The device with the items that it always has.
    pub fn new() -> Self {
        let mut fw_cfg = Self {
            items: heapless::Vec::new(),
            files: heapless::Vec::new(),
            state: State::default(),
        };
        // There is room in a new table.
        let _ = fw_cfg.add(key::SIGNATURE, &SIGNATURE);
        let _ = fw_cfg.add(key::ID, &INTERFACES.to_le_bytes());
        fw_cfg
    }

    /// Forgets selection and DMA address.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.state = State::default();
    }

    /// Adds an item with a copy of `bytes`, at most 64; integers are little-endian.
    pub fn add(&mut self, key: u16, bytes: &[u8]) -> Result<(), ItemError> {
        let content = Content::Inline(bytes.try_into().map_err(|_| ItemError)?);
        self.items.push((key, content)).map_err(|_| ItemError)
    }

    /// Adds an item whose content the host lends.
    pub fn lend(&mut self, key: u16, bytes: &'m [u8]) -> Result<(), ItemError> {
        u32::try_from(bytes.len()).map_err(|_| ItemError)?;
        self.items
            .push((key, Content::Lent(bytes)))
            .map_err(|_| ItemError)
    }

    /// Adds a file with a copy of `bytes`, at most 64. All are added before the guest runs.
    pub fn add_file(&mut self, name: &'static str, bytes: &[u8]) -> Result<(), ItemError> {
        if name.len() >= FILE_NAME_MAX {
            return Err(ItemError);
        }
        let content = Content::Inline(bytes.try_into().map_err(|_| ItemError)?);
        let at = self.files.partition_point(|file| file.name < name);
        self.files
            .insert(at, File { name, content })
            .map_err(|_| ItemError)
    }

    /// Copies from the selected item, zeros behind its end, and advances.
    pub fn read_data(&mut self, to: &mut [u8]) {
        let offset = self.state.offset;
        let mut chunk = Chunk { offset, to };
        match self.state.selector {
            key::FILE_DIR => self.read_directory(&mut chunk),
            selector => chunk.fill(self.content(selector)),
        }
        self.state.offset = offset.saturating_add(to.len() as u32);
    }

    fn content(&self, selector: u16) -> &[u8] {
        let file = selector.checked_sub(key::FILE_FIRST).map(usize::from);
        if let Some(file) = file.and_then(|index| self.files.get(index)) {
            return file.content.bytes();
        }
        let item = self.items.iter().find(|(key, _)| *key == selector);
        item.map_or(&[], |(_, content)| content.bytes())
    }

    fn read_directory(&self, chunk: &mut Chunk<'_>) {
        let count = (self.files.len() as u32).to_be_bytes();
        chunk.to.fill(0);
        chunk.put(0, &count);
        for (index, file) in self.files.iter().enumerate() {
            let mut entry = [0; FILE_ENTRY];
            let size = file.content.bytes().len() as u32;
            entry[..4].copy_from_slice(&size.to_be_bytes());
            let key = key::FILE_FIRST + index as u16;
            entry[4..6].copy_from_slice(&key.to_be_bytes());
            entry[8..8 + file.name.len()].copy_from_slice(file.name.as_bytes());
            chunk.put(count.len() + index * FILE_ENTRY, &entry);
        }
    }

    fn select(&mut self, selector: u16) {
        self.state.selector = selector & !WRITE_CHANNEL;
        self.state.offset = 0;
    }

    /// Carries out the access whose structure lies at the DMA address, and writes the outcome
    /// back to its control field. The structure and what it points to are the guest's.
    fn dma(&mut self, cx: &mut Context<'_>) {
        let at = core::mem::take(&mut self.state.dma_address);
        let mut access = [0; DMA_ACCESS];
        if cx.ram.read(at, &mut access).is_err() {
            let _ = cx.ram.write(at, &DMA_ERROR.to_be_bytes());
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = access;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let address = u64::from_be_bytes(address);
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let failed = if control & DMA_READ != 0 {
            self.dma_read(cx.ram, address, length).is_err()
        } else if control & DMA_WRITE != 0 {
            true
        } else {
            if control & DMA_SKIP != 0 {
                self.state.offset = self.state.offset.saturating_add(length);
            }
            false
        };
        let outcome = if failed { DMA_ERROR } else { 0 };
        let _ = cx.ram.write(at, &outcome.to_be_bytes());
    }

    fn dma_read(
        &mut self,
        ram: &dyn GuestRam,
        mut gpa: u64,
        mut length: u32,
    ) -> Result<(), crate::memory::RamError> {
        let mut chunk = [0; 512];
        while length > 0 {
            // The content itself goes straight to the guest; what is made up goes by chunks.
            let from = self.state.offset as usize;
            let content = self.content(self.state.selector);
            let part = match content.get(from..) {
                Some(rest @ [_, ..]) => &rest[..rest.len().min(length as usize)],
                _ => {
                    let part = chunk.len().min(length as usize);
                    let offset = self.state.offset;
                    self.read_data(&mut chunk[..part]);
                    self.state.offset = offset;
                    &chunk[..part]
                }
            };
            ram.write(gpa, part)?;
            let done = part.len() as u32;
            self.state.offset = self.state.offset.saturating_add(done);
            gpa = gpa.wrapping_add(done.into());
            length -= done;
        }
        Ok(())
    }
}

/// A part of an item that is being read: `to` holds its bytes from `offset` on.
struct Chunk<'a> {
    offset: u32,
    to: &'a mut [u8],
}

impl Chunk<'_> {
    /// Fills the part from the whole item.
    fn fill(&mut self, item: &[u8]) {
        let rest = item.get(self.offset as usize..).unwrap_or(&[]);
        let length = rest.len().min(self.to.len());
        self.to[..length].copy_from_slice(&rest[..length]);
        self.to[length..].fill(0);
    }

    /// Puts what falls into the part of `bytes`, which stand at `at` in the item.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let offset = self.offset as usize;
        for (i, byte) in bytes.iter().enumerate() {
            let place = (at + i).checked_sub(offset);
            if let Some(room) = place.and_then(|place| self.to.get_mut(place)) {
                *room = *byte;
            }
        }
    }
}

impl Default for FwCfg<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl PortDevice for FwCfg<'_> {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, _cx: &mut Context<'_>, offset: u16, width: Width) -> u32 {
        match (offset, width) {
            // The selector can not be read back: a byte read there is one of the data register, as on QEMU.
            (0 | 1, Width::Byte) => {
                let mut byte = [0];
                self.read_data(&mut byte);
                byte[0].into()
            }
            (4..12, _) => {
                // Big-endian: the first port has the highest byte.
                let bytes = DMA_SIGNATURE.to_be_bytes();
                let from = usize::from(offset) - 4;
                let bytes = &bytes[from..(from + width as usize).min(8)];
                bytes
                    .iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u32::from(*byte))
            }
            // Nobody's ports between the two halves.
            (2..4, _) => u32::MAX,
            _ => 0,
        }
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, width: Width, value: u32) {
        match (offset, width) {
            (0, Width::Word) => self.select(value as u16),
            (4, Width::Dword) => {
                self.state.dma_address = u64::from(value.swap_bytes()) << 32;
            }
            // Writing the low half starts the access.
            (8, Width::Dword) => {
                self.state.dma_address |= u64::from(value.swap_bytes());
                self.dma(cx);
            }
            // The data register takes nothing since there is the DMA interface.
            _ => {}
        }
    }
}

impl SavedState for FwCfg<'_> {
    const NAME: &'static str = "fw_cfg";
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State {
            selector,
            offset,
            dma_address,
        } = self.state;
        Saved {
            selector,
            offset,
            dma_address,
        }
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            selector,
            offset,
            dma_address,
        } = saved;
        if selector & WRITE_CHANNEL != 0 && selector != key::INVALID {
            return Err(StateError::Invalid("selector"));
        }
        self.state = State {
            selector,
            offset,
            dma_address,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;

    crate::state::lifecycle_tests!(FwCfg<'static>, FwCfg::new(), |device, bench| {
        device.pio_write(&mut bench.context(), 0, Width::Word, key::ID.into());
        bench.inb(device, 1);
    });

    fn select(bench: &mut Bench, device: &mut FwCfg<'_>, key: u16) {
        device.pio_write(&mut bench.context(), 0, Width::Word, key.into());
    }

    fn dma(bench: &mut Bench, device: &mut FwCfg<'_>, control: u32, length: u32, gpa: u64) -> u32 {
        bench.ram.write(0x100, &control.to_be_bytes()).unwrap();
        bench.ram.write(0x104, &length.to_be_bytes()).unwrap();
        bench.ram.write(0x108, &gpa.to_be_bytes()).unwrap();
        device.pio_write(&mut bench.context(), 4, Width::Dword, 0);
        device.pio_write(&mut bench.context(), 8, Width::Dword, 0x100u32.swap_bytes());
        let mut outcome = [0; 4];
        bench.ram.read(0x100, &mut outcome).unwrap();
        u32::from_be_bytes(outcome)
    }

    #[test]
    fn signature_and_what_lies_behind() {
        let (mut bench, mut device) = (Bench::new(), FwCfg::new());
        assert_eq!(bench.inb(&mut device, 1), b'Q', "selected from the start");
        select(&mut bench, &mut device, key::SIGNATURE);
        let read: [u8; 6] = core::array::from_fn(|_| bench.inb(&mut device, 1));
        assert_eq!(&read, b"QEMU\0\0");
        let high = device.pio_read(&mut bench.context(), 4, Width::Dword);
        assert_eq!(high.to_le_bytes(), *b"QEMU");
        let low = device.pio_read(&mut bench.context(), 8, Width::Dword);
        assert_eq!(low.to_le_bytes(), *b" CFG");
    }

    #[test]
    fn directory_is_sorted() {
        let (mut bench, mut device) = (Bench::new(), FwCfg::new());
        device.add_file("etc/two", &[1, 2]).unwrap();
        device.add_file("etc/one", &[3]).unwrap();
        select(&mut bench, &mut device, key::FILE_DIR);
        let mut directory = [0; 4 + 3 * FILE_ENTRY];
        device.read_data(&mut directory);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 1, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..20], b"etc/one\0");
        assert_eq!(directory[68..76], [0, 0, 0, 2, 0, 0x21, 0, 0]);
        assert!(
            directory[4 + 2 * FILE_ENTRY..]
                .iter()
                .all(|byte| *byte == 0)
        );
        select(&mut bench, &mut device, 0x21);
        assert_eq!(bench.inb(&mut device, 1), 1);
        assert_eq!(bench.inb(&mut device, 1), 2);
    }

    #[test]
    fn dma_reads_skips_and_selects() {
        static KERNEL: [u8; 2000] = [7; 2000];
        let (mut bench, mut device) = (Bench::new(), FwCfg::new());
        device.lend(key::KERNEL_DATA, &KERNEL).unwrap();
        let select = DMA_SELECT | u32::from(key::KERNEL_DATA) << 16;
        assert_eq!(dma(&mut bench, &mut device, select | DMA_SKIP, 1990, 0), 0);
        bench.ram.write(0x200, &[0xee; 20]).unwrap();
        assert_eq!(dma(&mut bench, &mut device, DMA_READ, 16, 0x200), 0);
        let mut read = [0; 20];
        bench.ram.read(0x200, &mut read).unwrap();
        assert_eq!(read[..10], [7; 10]);
        assert_eq!(read[10..16], [0; 6]);
        assert_eq!(read[16..], [0xee; 4]);
    }

    #[test]
    fn dma_errors() {
        let (mut bench, mut device) = (Bench::new(), FwCfg::new());
        let select = DMA_SELECT | u32::from(key::ID) << 16;
        assert_eq!(
            dma(&mut bench, &mut device, select | DMA_WRITE, 4, 0x200),
            DMA_ERROR
        );
        assert_eq!(
            dma(&mut bench, &mut device, select | DMA_READ, 4, u64::MAX - 1),
            DMA_ERROR
        );
        assert_eq!(
            dma(&mut bench, &mut device, select | DMA_READ, u32::MAX, 0x200),
            DMA_ERROR
        );
        // A structure that is not in RAM.
        device.pio_write(&mut bench.context(), 8, Width::Dword, 0xffff_ffff);
    }

    #[test]
    fn limits() {
        let mut device = FwCfg::new();
        assert_eq!(device.add(1000, &[0; 65]), Err(ItemError));
        for i in 0..FILES_MAX {
            assert_eq!(device.add_file("f", &[i as u8]), Ok(()));
        }
        assert_eq!(device.add_file("g", &[]), Err(ItemError));
    }
}
