//! The fw_cfg device at ports 510h to 51Bh, through which firmware reads what the machine is.
//!
//! Follows QEMU's fw_cfg specification (docs/specs/fw_cfg): a 16-bit selector and an 8-bit data
//! register that share port 510h and 511h, and a DMA address register at 514h, 64 bits big-endian,
//! whose low half starts the transfer. Items are numbered (see [`super::keys`]); files are items
//! with names, listed by name in a directory.
//!
//! A few files may be written by the guest; each write to another item ends with the error bit, as the
//! specification says of read-only ones.
//!
//! Not modelled: items that are generated when selected, and the memory-mapped interface, which
//! PCs lack. Large items are lent by the host and are copied once,
//! into guest RAM.
//!
//! DMA reaches plain RAM, whatever is mapped over it.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::keys;
use crate::devices::class::{DeviceClass, Property, PropertyKind, Value};
use crate::devices::{Context, PortDevice, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events::{self as trace, Event};

/// The device with ports.
pub static CLASS: DeviceClass = DeviceClass {
    name: "fw_cfg_io",
    parent: "fw_cfg",
    bus: None,
    doc: "Firmware configuration by port I/O",
    user_creatable: false,
    properties: &[Property {
        name: "dma_enabled",
        kind: PropertyKind::Bool,
        default: Value::Bool(true),
        doc: "Whether the DMA interface is there",
    }],
};

/// First port.
pub const BASE: u16 = 0x510;

/// Ports from [`BASE`] on; those at offsets 2 and 3 answer with ones.
pub const PORTS: u16 = 12;

/// Bytes of an item that the device stores itself.
pub const INLINE_MAX: usize = 64;

/// Bytes of all files that the guest may write.
pub const WRITTEN_SIZE: usize = 24;

/// Numbered items that a machine has at most.
pub const ITEMS_MAX: usize = 32;

/// Files that a machine has at most.
pub const FILES_MAX: usize = 32;

/// Bytes of a file name at most; the directory ends it with a zero.
pub const NAME_MAX: usize = 55;

/// Offset of the selector, and of the data register for byte accesses.
const SELECTOR: u16 = 0;
/// Offset of the data register.
const DATA: u16 = 1;
/// Offset of the upper half of the DMA address.
const DMA_HIGH: u16 = 4;
/// Offset of the lower half of the DMA address; writing it starts the transfer.
const DMA_LOW: u16 = 8;

/// What the DMA register reads.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Names of keys from 0 on, as QEMU's log has them.
const KEYS: &str = "signature id uuid ram_size nographic nb_cpus machine_id kernel_addr kernel_size kernel_cmdline \
    initrd_addr initdr_size boot_device numa boot_menu max_cpus kernel_entry kernel_data initrd_data cmdline_addr \
    cmdline_size cmdline_data setup_addr setup_size setup_data file_dir";

/// DMA control: an error occurred.
const CTL_ERROR: u32 = 1 << 0;
/// DMA control: read from the item.
const CTL_READ: u32 = 1 << 1;
/// DMA control: move on without reading.
const CTL_SKIP: u32 = 1 << 2;
/// DMA control: select the item whose key is in the upper half first.
const CTL_SELECT: u32 = 1 << 3;
/// DMA control: write to the item.
const CTL_WRITE: u32 = 1 << 4;

/// Bytes of an entry of the file directory: size, key, 16 reserved bits, name.
const DIR_ENTRY: usize = 64;

/// What an item holds.
#[derive(Clone, Debug)]
pub enum Content<'m> {
    /// A few bytes, kept in the device.
    Inline {
        /// The bytes, then zeros.
        bytes: [u8; INLINE_MAX],
        /// How many of them count.
        length: u8,
    },
    /// Bytes that the host lends.
    Lent(&'m [u8]),
    /// What the guest has written last: [`FwCfg::written`].
    Written {
        /// The first byte among those of all such files.
        first: u8,
        /// How many there are.
        length: u8,
    },
}

impl Content<'_> {
    /// Content of the device's own. What is beyond [`INLINE_MAX`] bytes is left out: only for
    /// content that is bounded by its making.
    pub fn inline(from: &[u8]) -> Self {
        let length = from.len().min(INLINE_MAX);
        debug_assert!(length == from.len(), "longer than {INLINE_MAX} bytes");
        let mut bytes = [0; INLINE_MAX];
        bytes[..length].copy_from_slice(&from[..length]);
        let length = length as u8;
        Self::Inline { bytes, length }
    }

    fn bytes<'a>(&'a self, written: &'a [u8; WRITTEN_SIZE]) -> &'a [u8] {
        match self {
            Self::Inline { bytes, length } => bytes.get(..(*length).into()).unwrap_or(bytes),
            Self::Lent(bytes) => bytes,
            Self::Written { first, length } => {
                let bytes = written.get((*first).into()..).unwrap_or(&[]);
                bytes.get(..(*length).into()).unwrap_or(bytes)
            }
        }
    }
}

/// Why an item could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FwCfgError {
    /// The machine has [`ITEMS_MAX`] numbered items.
    ItemsFull,
    /// The machine has [`FILES_MAX`] files.
    FilesFull,
    /// The key or the name is taken, or the key belongs to the device itself or to a file.
    Taken,
    /// The file's name is empty, has a zero in it, or is longer than [`NAME_MAX`] bytes.
    Name,
    /// The item has 4 GiB or more.
    Size,
}

impl fmt::Display for FwCfgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ItemsFull => write!(f, "more than {ITEMS_MAX} fw_cfg items"),
            Self::FilesFull => write!(f, "more than {FILES_MAX} fw_cfg files"),
            Self::Taken => f.write_str("this fw_cfg item exists already"),
            Self::Name => write!(f, "a fw_cfg file name has 1 to {NAME_MAX} bytes"),
            Self::Size => f.write_str("a fw_cfg item must be smaller than 4 GiB"),
        }
    }
}

#[derive(Clone, Debug)]
struct Item<'m> {
    key: u16,
    content: Content<'m>,
}

#[derive(Clone, Debug)]
struct File<'m> {
    name: heapless::String<NAME_MAX>,
    content: Content<'m>,
}

/// The device and what the machine has put into it.
#[derive(Clone, Debug)]
pub struct FwCfg<'m> {
    dma_enabled: bool,
    items: heapless::Vec<Item<'m>, ITEMS_MAX>,
    /// Ascending by name; the key of a file is [`keys::FILE_FIRST`] plus its index.
    files: heapless::Vec<File<'m>, FILES_MAX>,
    /// What [`Content::Written`] holds after a reset.
    initial: [u8; WRITTEN_SIZE],
    registers: Registers,
}

/// What the guest changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Registers {
    /// The selected key, without the write-channel bit.
    key: u16,
    /// The next byte of the selected item, at most its length.
    offset: u32,
    /// The upper half of the DMA address.
    dma_high: u32,
    /// What [`Content::Written`] holds.
    written: [u8; WRITTEN_SIZE],
}

/// Saved form of [`FwCfg`]: its registers. Items come from the machine's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedFwCfg {
    key: u16,
    offset: u32,
    dma_high: u32,
    written: [u8; WRITTEN_SIZE],
}

/// The selected item's bytes.
enum Selected<'a> {
    Bytes(&'a [u8]),
    Directory,
}

impl<'m> FwCfg<'m> {
    /// A device with its own items alone: signature, id and the empty file directory.
    pub fn new(dma_enabled: bool) -> Self {
        let features = keys::ID_TRADITIONAL | if dma_enabled { keys::ID_DMA } else { 0 };
        let own = [
            (keys::SIGNATURE, Content::inline(b"QEMU")),
            (keys::ID, Content::inline(&features.to_le_bytes())),
        ];
        Self {
            dma_enabled,
            items: own
                .map(|(key, content)| Item { key, content })
                .into_iter()
                .collect(),
            files: heapless::Vec::new(),
            initial: [0; WRITTEN_SIZE],
            registers: Registers::default(),
        }
    }

    /// Selects the signature, as after power-on. Items stay.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.registers = Registers {
            written: self.initial,
            ..Registers::default()
        };
    }

    /// Adds a numbered item. Only before the guest runs.
    pub fn add(&mut self, key: u16, content: Content<'m>) -> Result<(), FwCfgError> {
        let own = key == keys::FILE_DIR || key & keys::WRITE_CHANNEL != 0;
        let file = (keys::FILE_FIRST..keys::FILE_FIRST + FILES_MAX as u16).contains(&key);
        if own || file || self.items.iter().any(|item| item.key == key) {
            return Err(FwCfgError::Taken);
        }
        check_size(&content)?;
        let item = Item { key, content };
        self.items.push(item).map_err(|_| FwCfgError::ItemsFull)
    }

    /// Gives a numbered item another content, or adds it. Only before the guest runs.
    pub fn set(&mut self, key: u16, content: Content<'m>) -> Result<(), FwCfgError> {
        match self.items.iter_mut().find(|item| item.key == key) {
            Some(item) => {
                check_size(&content)?;
                item.content = content;
                Ok(())
            }
            None => self.add(key, content),
        }
    }

    /// Adds a numbered item of 16 bits.
    pub fn add_u16(&mut self, key: u16, value: u16) -> Result<(), FwCfgError> {
        self.add(key, Content::inline(&value.to_le_bytes()))
    }

    /// Adds a numbered item of 32 bits.
    pub fn add_u32(&mut self, key: u16, value: u32) -> Result<(), FwCfgError> {
        self.add(key, Content::inline(&value.to_le_bytes()))
    }

    /// Adds a numbered item of 64 bits.
    pub fn add_u64(&mut self, key: u16, value: u64) -> Result<(), FwCfgError> {
        self.add(key, Content::inline(&value.to_le_bytes()))
    }

    /// Adds a numbered item that the host lends: a kernel, a command line.
    pub fn add_bytes(&mut self, key: u16, bytes: &'m [u8]) -> Result<(), FwCfgError> {
        self.add(key, Content::Lent(bytes))
    }

    /// Adds a file, in its place by name: keys of later files move up. Only before the guest runs.
    pub fn add_file(&mut self, name: &str, content: Content<'m>) -> Result<(), FwCfgError> {
        if name.is_empty() || name.contains('\0') {
            return Err(FwCfgError::Name);
        }
        check_size(&content)?;
        let index = match self
            .files
            .binary_search_by(|file| file.name.as_str().cmp(name))
        {
            Ok(_) => return Err(FwCfgError::Taken),
            Err(index) => index,
        };
        let length = content.bytes(&self.registers.written).len();
        trace::fw_cfg_add_file(index, length, name.as_bytes());
        let name = name.try_into().map_err(|_| FwCfgError::Name)?;
        let file = File { name, content };
        self.files
            .insert(index, file)
            .map_err(|_| FwCfgError::FilesFull)
    }

    /// Adds a file that the guest may write, with what it holds at first and after each reset. All of them have [`WRITTEN_SIZE`] bytes at
    /// most.
    pub fn add_written(&mut self, name: &str, initial: &[u8]) -> Result<(), FwCfgError> {
        let first = self.written_length();
        let end = first + initial.len();
        if end > WRITTEN_SIZE {
            return Err(FwCfgError::FilesFull);
        }
        let content = Content::Written {
            first: first as u8,
            length: initial.len() as u8,
        };
        self.add_file(name, content)?;
        for all in [&mut self.initial, &mut self.registers.written] {
            if let Some(own) = all.get_mut(first..end) {
                own.copy_from_slice(initial);
            }
        }
        Ok(())
    }

    /// Bytes of all files that the guest may write.
    fn written_length(&self) -> usize {
        let lengths = self.files.iter().map(|file| match file.content {
            Content::Written { length, .. } => usize::from(length),
            _ => 0,
        });
        lengths.sum()
    }

    /// What the guest has written into a file, if it is there and may be written.
    pub fn written(&self, name: &str) -> Option<&[u8]> {
        let file = self.files.iter().find(|file| file.name == name)?;
        let writable = matches!(file.content, Content::Written { .. });
        writable.then(|| file.content.bytes(&self.registers.written))
    }

    /// The key of a file, once all are there.
    pub fn file_key(&self, name: &str) -> Option<u16> {
        let index = self.files.iter().position(|file| file.name == name)?;
        Some(keys::FILE_FIRST + index as u16)
    }

    /// Visits the names and sizes of all files, ascending by name.
    pub fn visit_files(&self, visit: &mut dyn FnMut(&str, usize)) {
        for file in &self.files {
            let content = file.content.bytes(&self.registers.written);
            visit(&file.name, content.len());
        }
    }

    /// Reads on in the selected item: what as many byte reads of the data register would give. The
    /// way for string input.
    pub fn read_data(&mut self, buffer: &mut [u8]) {
        let left = self.left();
        let length = buffer.len().min(left as usize);
        let (data, rest) = buffer.split_at_mut(length);
        let offset = self.registers.offset as usize;
        match self.selected(self.registers.key) {
            Some(Selected::Bytes(bytes)) => {
                data.copy_from_slice(bytes.get(offset..offset + length).unwrap_or(&[]));
            }
            Some(Selected::Directory) => {
                for (i, byte) in data.iter_mut().enumerate() {
                    *byte = self.directory_byte(offset + i);
                }
            }
            None => {}
        }
        rest.fill(0);
        self.registers.offset += length as u32;
    }

    fn selected(&self, key: u16) -> Option<Selected<'_>> {
        if key == keys::FILE_DIR {
            return Some(Selected::Directory);
        }
        let content = self.content(key)?;
        Some(Selected::Bytes(content.bytes(&self.registers.written)))
    }

    fn content(&self, key: u16) -> Option<&Content<'m>> {
        let file = key.checked_sub(keys::FILE_FIRST);
        let file = file.and_then(|index| self.files.get(usize::from(index)));
        Some(match file {
            Some(file) => &file.content,
            None => &self.items.iter().find(|item| item.key == key)?.content,
        })
    }

    /// Bytes of an item; 0 where there is none.
    fn length(&self, key: u16) -> u32 {
        match self.selected(key) {
            Some(Selected::Bytes(bytes)) => bytes.len() as u32,
            Some(Selected::Directory) => (4 + DIR_ENTRY * self.files.len()) as u32,
            None => 0,
        }
    }

    /// Bytes of the selected item that have not been read yet.
    fn left(&self) -> u32 {
        let Registers { key, offset, .. } = self.registers;
        self.length(key).saturating_sub(offset)
    }

    /// The directory: a count, then size, key, 16 reserved bits and name of each file.
    fn directory_byte(&self, offset: usize) -> u8 {
        let Some(at) = offset.checked_sub(4) else {
            return (self.files.len() as u32).to_be_bytes()[offset];
        };
        let (index, at) = (at / DIR_ENTRY, at % DIR_ENTRY);
        let Some(file) = self.files.get(index) else {
            return 0;
        };
        let size = file.content.bytes(&self.registers.written).len() as u32;
        let key = keys::FILE_FIRST + index as u16;
        match at {
            0..4 => size.to_be_bytes()[at],
            4..6 => key.to_be_bytes()[at - 4],
            6..8 => 0,
            _ => file.name.as_bytes().get(at - 8).copied().unwrap_or(0),
        }
    }

    fn select(&mut self, key: u16) {
        self.registers.key = key & !keys::WRITE_CHANNEL;
        self.registers.offset = 0;
        if Event::fw_cfg_select.is_on() {
            self.tell_selected(key);
        }
    }

    #[cold]
    fn tell_selected(&self, key: u16) {
        let file = key.checked_sub(keys::FILE_FIRST);
        let file = file.and_then(|index| self.files.get(usize::from(index)));
        let name = match (file, key) {
            (Some(file), _) => file.name.as_str(),
            (None, 0x8000) => "acpi_tables",
            (None, 0x8001) => "smbios_entries",
            (None, 0x8002) => "irq0_override",
            (None, 0x8004) => "hpet",
            (None, _) => KEYS.split(' ').nth(key.into()).unwrap_or("unknown"),
        };
        let index = key & !(keys::WRITE_CHANNEL | keys::ARCH_LOCAL);
        let valid = usize::from(index) < usize::from(keys::FILE_FIRST) + FILES_MAX;
        trace::fw_cfg_select(key, valid, name.as_bytes());
    }

    /// Runs the transfer whose description is at `gpa`: control, length (32 bits each) and address
    /// (64 bits), big-endian. Control is written back as 0, or as the error bit alone.
    fn transfer(&mut self, cx: &mut Context<'_>, gpa: u64) {
        let mut request = [0; 16];
        if cx.ram.read(gpa, &mut request).is_err() {
            trace::guest_error_fw_cfg_dma(gpa);
            // Best effort: there is no other way to tell.
            let _ = cx.ram.write(gpa, &CTL_ERROR.to_be_bytes());
            return;
        }
        let request = u128::from_be_bytes(request);
        let (control, length, address) = (
            (request >> 96) as u32,
            (request >> 64) as u32,
            request as u64,
        );
        if control & CTL_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let failed = if control & CTL_READ != 0 {
            self.transfer_in(cx, address, length)
        } else if control & CTL_WRITE != 0 {
            self.transfer_out(cx, address, length)
        } else {
            if control & CTL_SKIP != 0 {
                self.registers.offset += length.min(self.left());
            }
            false
        };
        let answer = if failed { CTL_ERROR } else { 0 };
        trace::fw_cfg_read(0);
        trace::fw_cfg_dma(gpa, control, length, answer);
        // The request was in RAM a moment ago; should it be gone, nobody waits for the answer.
        let _ = cx.ram.write(gpa, &answer.to_be_bytes());
    }

    /// Copies `length` bytes of the selected item to `gpa`, zeros after its end. Returns whether
    /// that met an address without RAM.
    fn transfer_in(&mut self, cx: &mut Context<'_>, gpa: u64, length: u32) -> bool {
        let Registers { key, offset, .. } = self.registers;
        let now = length.min(self.left());
        if let Some(Selected::Bytes(bytes)) = self.selected(key) {
            let from = offset as usize;
            let bytes = bytes.get(from..from + now as usize).unwrap_or(&[]);
            let failed = cx.ram.write(gpa, bytes).is_err();
            self.registers.offset += now;
            return failed || zeros(cx, gpa.wrapping_add(now.into()), length - now);
        }
        let mut gpa = gpa;
        let mut left = now;
        while left > 0 {
            let mut entry = [0; DIR_ENTRY];
            let part = left.min(DIR_ENTRY as u32);
            let entry = &mut entry[..part as usize];
            self.read_data(entry);
            if cx.ram.write(gpa, entry).is_err() {
                return true;
            }
            gpa = gpa.wrapping_add(part.into());
            left -= part;
        }
        zeros(cx, gpa, length - now)
    }

    /// Copies `length` bytes at `gpa` into the selected item. Returns whether that failed: of what
    /// does not fit, or may not be written, nothing is taken. What there is no RAM for counts as
    /// zeros, as with QEMU.
    fn transfer_out(&mut self, cx: &mut Context<'_>, gpa: u64, length: u32) -> bool {
        let Registers { key, offset, .. } = self.registers;
        let left = self.left();
        self.registers.offset += length.min(left);
        let place = match self.content(key) {
            Some(Content::Written { first, .. }) if length <= left => {
                Some(usize::from(*first) + offset as usize)
            }
            _ => None,
        };
        let to = place.and_then(|from| self.registers.written.get_mut(from..));
        match to.and_then(|to| to.get_mut(..length as usize)) {
            Some(to) => {
                to.fill(0);
                cx.ram.read(gpa, to).is_err()
            }
            _ => length != 0,
        }
    }

    /// One byte of an access that is not a whole register.
    fn byte(&mut self, offset: u16) -> u8 {
        match offset {
            SELECTOR | DATA => {
                let mut byte = [0];
                self.read_data(&mut byte);
                trace::fw_cfg_read(byte[0]);
                byte[0]
            }
            DMA_HIGH..PORTS if self.dma_enabled => DMA_SIGNATURE[usize::from(offset - DMA_HIGH)],
            _ => 0xff,
        }
    }
}

fn check_size(content: &Content<'_>) -> Result<(), FwCfgError> {
    match u32::try_from(content.bytes(&[0; WRITTEN_SIZE]).len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(FwCfgError::Size),
    }
}

/// Writes zeros to RAM, up to the first address without. Returns whether there was one.
fn zeros(cx: &mut Context<'_>, mut gpa: u64, mut length: u32) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    while length > 0 {
        let part = length.min(ZEROS.len() as u32);
        if cx.ram.write(gpa, &ZEROS[..part as usize]).is_err() {
            return true;
        }
        gpa = gpa.wrapping_add(part.into());
        length -= part;
    }
    false
}

impl PortDevice for FwCfg<'_> {
    const WIDEST: Width = Width::Dword;

    /// The selector can not be read: a wide access there gives 0, and bytes read the data register.
    fn pio_read(&mut self, _cx: &mut Context<'_>, offset: u16, width: Width) -> u32 {
        if offset == SELECTOR && width != Width::Byte {
            return 0;
        }
        (0..u16::from(width.bytes().min(4))).fold(0, |value, i| {
            value | u32::from(self.byte(offset.saturating_add(i))) << (8 * i)
        })
    }

    /// Counts are a word to the selector and a double word to either half of the DMA address; all
    /// else is dropped.
    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, width: Width, value: u32) {
        match (offset, width) {
            (SELECTOR, Width::Word) => self.select(value as u16),
            (DMA_HIGH, Width::Dword) if self.dma_enabled => {
                self.registers.dma_high = value.swap_bytes();
            }
            (DMA_LOW, Width::Dword) if self.dma_enabled => {
                let high = core::mem::take(&mut self.registers.dma_high);
                let gpa = u64::from(high) << 32 | u64::from(value.swap_bytes());
                self.transfer(cx, gpa);
            }
            _ => {}
        }
    }
}

impl SavedState for FwCfg<'_> {
    const NAME: &'static str = "fw_cfg_io";
    const VERSION: u16 = 3;
    type Saved = SavedFwCfg;

    fn save(&self) -> SavedFwCfg {
        let Registers {
            key,
            offset,
            dma_high,
            written,
        } = self.registers;
        SavedFwCfg {
            key,
            offset,
            dma_high,
            written,
        }
    }

    fn load(&mut self, saved: SavedFwCfg, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedFwCfg {
            key,
            offset,
            dma_high,
            written,
        } = saved;
        if key & keys::WRITE_CHANNEL != 0 {
            return Err(StateError::Invalid("key"));
        }
        if offset > self.length(key) {
            return Err(StateError::Invalid("offset"));
        }
        let used = self.written_length();
        if written.get(used..) != self.initial.get(used..) {
            return Err(StateError::Invalid("written"));
        }
        self.registers = Registers {
            key,
            offset,
            dma_high,
            written,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::memory::GuestRam;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(FwCfg<'static>, FwCfg::new(true), |device, bench| {
        select(device, bench, keys::ID);
        assert_eq!(bench.inb(device, DATA), 3);
        device.pio_write(&mut bench.context(), DMA_HIGH, Width::Dword, 0x0100_0000);
    });

    fn select(device: &mut FwCfg<'_>, bench: &mut Bench, key: u16) {
        device.pio_write(&mut bench.context(), SELECTOR, Width::Word, key.into());
    }

    fn item<const N: usize>(device: &mut FwCfg<'_>, bench: &mut Bench, key: u16) -> [u8; N] {
        select(device, bench, key);
        core::array::from_fn(|_| bench.inb(device, DATA))
    }

    /// Where the tests put the description of a transfer, and the transfer itself.
    const REQUEST: u64 = 0x1000;
    const BUFFER: u64 = 0x2000;

    /// Runs one transfer and returns control as it is afterwards.
    fn dma(device: &mut FwCfg<'_>, bench: &mut Bench, control: u32, length: u32, to: u64) -> u32 {
        let request = u128::from(control) << 96 | u128::from(length) << 64 | u128::from(to);
        bench.ram.write(REQUEST, &request.to_be_bytes()).unwrap();
        let low = (REQUEST as u32).swap_bytes();
        device.pio_write(&mut bench.context(), DMA_LOW, Width::Dword, low);
        let mut control = [0; 4];
        bench.ram.read(REQUEST, &mut control).unwrap();
        u32::from_be_bytes(control)
    }

    fn buffer(bench: &Bench) -> [u8; 8] {
        let mut bytes = [0; 8];
        bench.ram.read(BUFFER, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn signature_and_id() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let (d, b) = (&mut device, &mut bench);
        assert_eq!(b.inb(d, DATA), b'Q', "selected after power-on");
        assert_eq!(item(d, b, keys::SIGNATURE), *b"QEMU\0\0");
        assert_eq!(item(d, b, keys::SIGNATURE | keys::WRITE_CHANNEL), *b"QEMU");
        assert_eq!(item(d, b, keys::ID), [3, 0, 0, 0, 0]);
        assert_eq!(item(d, b, keys::ARCH_LOCAL), [0; 4], "no alias of key 0");
        let mut plain = FwCfg::new(false);
        assert_eq!(item(&mut plain, b, keys::ID), [1, 0, 0, 0]);
        assert_eq!(
            plain.pio_read(&mut b.context(), DMA_HIGH, Width::Dword),
            u32::MAX
        );
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn widths() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let (d, cx) = (&mut device, &mut bench.context());
        for (offset, width, expected) in [
            (SELECTOR, Width::Byte, 0x51),
            (SELECTOR, Width::Word, 0),
            (SELECTOR, Width::Dword, 0),
            (DATA, Width::Word, 0xff45),
            (DATA, Width::Dword, 0x51ff_ff4d),
            (2, Width::Byte, 0xff),
            (3, Width::Byte, 0xff),
            (DMA_HIGH, Width::Dword, 0x554d_4551),
            (DMA_LOW, Width::Dword, 0x4746_4320),
            (DMA_HIGH, Width::Byte, 0x51),
            (DMA_HIGH + 2, Width::Word, 0x554d),
        ] {
            let value = d.pio_read(cx, offset, width);
            assert_eq!(value, expected, "{offset} {width:?}");
        }
        d.pio_write(cx, SELECTOR, Width::Word, keys::ID.into());
        d.pio_write(cx, SELECTOR, Width::Byte, 0);
        d.pio_write(cx, SELECTOR, Width::Dword, 0);
        d.pio_write(cx, DATA, Width::Byte, 0xff);
        d.pio_write(cx, DATA, Width::Word, 0);
        assert_eq!(d.pio_read(cx, DATA, Width::Byte), 3);
    }

    #[test]
    fn directory_is_sorted() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let d = &mut device;
        d.add_file("etc/b", Content::Lent(b"bb")).unwrap();
        d.add_file("bootorder", Content::Lent(&[])).unwrap();
        d.add_file("etc/a", Content::inline(b"a")).unwrap();
        assert_eq!(d.file_key("etc/a"), Some(0x21));
        assert_eq!(d.file_key("etc/c"), None);
        let bytes: [u8; 4 + 4 * 64] = item(d, &mut bench, keys::FILE_DIR);
        let mut expected = [0; 4 + 4 * 64];
        expected[3] = 3;
        for (i, (size, name)) in [(0, "bootorder"), (1, "etc/a"), (2, "etc/b")]
            .into_iter()
            .enumerate()
        {
            let entry = &mut expected[4 + 64 * i..];
            entry[3] = size;
            entry[5] = 0x20 + i as u8;
            entry[8..8 + name.len()].copy_from_slice(name.as_bytes());
        }
        assert_eq!(bytes, expected);
        assert_eq!(item(d, &mut bench, 0x22), *b"bb\0");
        // The same through DMA.
        let control = u32::from(keys::FILE_DIR) << 16 | CTL_SELECT | CTL_READ;
        assert_eq!(dma(d, &mut bench, control, 260, BUFFER), 0);
        let mut copy = [0xff; 260];
        bench.ram.read(BUFFER, &mut copy).unwrap();
        assert_eq!(copy, expected);
    }

    #[test]
    fn items_are_added_once_and_up_to_the_limit() {
        let mut device = FwCfg::new(true);
        let d = &mut device;
        d.add_u16(keys::NB_CPUS, 4).unwrap();
        d.add_u32(keys::IRQ0_OVERRIDE, 1).unwrap();
        d.add_u64(keys::RAM_SIZE, 5 << 30).unwrap();
        d.add_bytes(keys::KERNEL_DATA, b"kernel").unwrap();
        for key in [
            keys::NB_CPUS,
            keys::SIGNATURE,
            keys::FILE_DIR,
            keys::FILE_FIRST,
            0x3f,
            0x4005,
        ] {
            assert_eq!(d.add_u16(key, 1), Err(FwCfgError::Taken), "{key:#x}");
        }
        let mut bench = Bench::new();
        assert_eq!(item(d, &mut bench, keys::NB_CPUS), [4, 0, 0]);
        assert_eq!(
            item(d, &mut bench, keys::RAM_SIZE),
            [0, 0, 0, 0x40, 1, 0, 0, 0]
        );
        assert_eq!(item(d, &mut bench, keys::IRQ0_OVERRIDE), [1, 0, 0, 0]);
        assert_eq!(item(d, &mut bench, keys::KERNEL_DATA), *b"kernel\0");
        while d.items.len() < ITEMS_MAX {
            d.add_u16(0x100 + d.items.len() as u16, 0).unwrap();
        }
        assert_eq!(d.add_u16(0x200, 0), Err(FwCfgError::ItemsFull));
        let text = Content::Lent(b"x");
        for name in ["", "a\0b", &"n".repeat(56)] {
            assert_eq!(d.add_file(name, text.clone()), Err(FwCfgError::Name));
        }
        d.add_file(&"n".repeat(55), text.clone()).unwrap();
        let again = d.add_file(&"n".repeat(55), text.clone());
        assert_eq!(again, Err(FwCfgError::Taken));
        for i in 1..FILES_MAX {
            d.add_file(&std::format!("opt/{i}"), text.clone()).unwrap();
        }
        assert_eq!(d.add_file("opt/z", text), Err(FwCfgError::FilesFull));
    }

    #[test]
    fn string_input_goes_on_where_bytes_stopped() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        device.add_bytes(keys::KERNEL_DATA, b"thimble").unwrap();
        assert_eq!(item(&mut device, &mut bench, keys::KERNEL_DATA), *b"th");
        let mut bytes = [0xff; 3];
        device.read_data(&mut bytes);
        assert_eq!(&bytes, b"imb");
        let mut bytes = [0xff; 4];
        device.read_data(&mut bytes);
        assert_eq!(&bytes, b"le\0\0");
        select(&mut device, &mut bench, 0x7fff);
        device.read_data(&mut bytes);
        assert_eq!(bytes, [0; 4]);
    }

    /// Observed with QEMU 7.2, transfer by transfer.
    #[test]
    fn transfers() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let (d, b) = (&mut device, &mut bench);
        assert_eq!(dma(d, b, CTL_SELECT | CTL_READ, 4, BUFFER), 0);
        assert_eq!(buffer(b), *b"QEMU\0\0\0\0");
        b.ram.write(BUFFER, &[0xaa; 8]).unwrap();
        assert_eq!(dma(d, b, CTL_READ, 8, BUFFER), 0, "zeros past the end");
        assert_eq!(buffer(b), [0; 8]);
        assert_eq!(dma(d, b, CTL_SELECT | CTL_SKIP, 2, BUFFER), 0);
        assert_eq!(b.inb(d, DATA), b'M');
        assert_eq!(dma(d, b, CTL_SELECT | CTL_WRITE, 4, BUFFER), CTL_ERROR);
        assert_eq!(dma(d, b, CTL_SELECT | CTL_WRITE, 0, BUFFER), 0);
        for also in [CTL_WRITE, CTL_SKIP] {
            b.ram.write(BUFFER, &[0xaa; 8]).unwrap();
            assert_eq!(dma(d, b, CTL_SELECT | CTL_READ | also, 6, BUFFER), 0);
            assert_eq!(buffer(b), *b"QEMU\0\0\xaa\xaa", "reading goes first");
        }
        assert_eq!(dma(d, b, 0, 4, BUFFER), 0);
        assert_eq!(dma(d, b, CTL_ERROR, 4, BUFFER), 0);
        // No such item: zeros, skipping is nothing, writing an error.
        let none = 0x30 << 16 | CTL_SELECT;
        assert_eq!(dma(d, b, none | CTL_READ, 4, BUFFER), 0);
        assert_eq!(buffer(b), *b"\0\0\0\0\0\0\xaa\xaa");
        assert_eq!(dma(d, b, none | CTL_SKIP, 4, BUFFER), 0);
        assert_eq!(dma(d, b, none | CTL_WRITE, 4, BUFFER), CTL_ERROR);
    }

    /// Observed with QEMU 7.2; the RAM here ends at 10000h.
    #[test]
    fn transfers_to_bad_addresses() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let (d, b) = (&mut device, &mut bench);
        let read = CTL_SELECT | CTL_READ;
        assert_eq!(dma(d, b, read, 4, 0xfff0_0000_0000_0000), CTL_ERROR);
        assert_eq!(dma(d, b, read, 4, u64::MAX), CTL_ERROR);
        assert_eq!(dma(d, b, read, 4, 0xfffe), CTL_ERROR);
        let mut end = [0; 2];
        b.ram.read(0xfffe, &mut end).unwrap();
        assert_eq!(&end, b"QE");
        assert_eq!(b.inb(d, DATA), 0, "the item counts as read");
        assert_eq!(dma(d, b, read, u32::MAX, 0xf000), CTL_ERROR);
        let files = u32::from(keys::FILE_DIR) << 16;
        assert_eq!(dma(d, b, files | read, 4, 0x1_0000), CTL_ERROR);
        assert_eq!(dma(d, b, files | read, u32::MAX, 0xf000), CTL_ERROR);
        // A description that is not in RAM, wholly or in part.
        for low in [0x2_0000u32, 0xfff8] {
            d.pio_write(&mut b.context(), DMA_LOW, Width::Dword, low.swap_bytes());
        }
        let mut control = [0; 4];
        b.ram.read(0xfff8, &mut control).unwrap();
        assert_eq!(control, CTL_ERROR.to_be_bytes());
    }

    /// Observed with QEMU 7.2, transfer by transfer.
    #[test]
    fn a_file_that_the_guest_writes() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let (d, b) = (&mut device, &mut bench);
        assert_eq!(d.written("etc/own"), None);
        d.add_file("etc/a", Content::inline(b"a")).unwrap();
        d.add_written("etc/own", &[9; 16]).unwrap();
        assert_eq!(
            d.add_written("etc/other", &[0; 9]),
            Err(FwCfgError::FilesFull)
        );
        d.add_written("etc/address", &[7; 8]).unwrap();
        let key = d.file_key("etc/own").unwrap();
        assert_eq!(item::<18>(d, b, key)[15..], [9, 0, 0]);
        let write = u32::from(key) << 16 | CTL_SELECT | CTL_WRITE;
        b.ram.write(BUFFER, b"0123456789abcdef").unwrap();
        assert_eq!(dma(d, b, write, 16, BUFFER), 0);
        assert_eq!(d.written("etc/own"), Some(&b"0123456789abcdef"[..]));
        assert_eq!(dma(d, b, write, 17, BUFFER), CTL_ERROR);
        assert_eq!(dma(d, b, write, u32::MAX, BUFFER), CTL_ERROR);
        assert_eq!(dma(d, b, write, 4, BUFFER + 8), 0);
        assert_eq!(dma(d, b, CTL_WRITE, 4, BUFFER + 12), 0, "goes on");
        assert_eq!(d.written("etc/own"), Some(&b"89abcdef89abcdef"[..]));
        let skip = u32::from(key) << 16 | CTL_SELECT | CTL_SKIP;
        assert_eq!(dma(d, b, skip, 14, 0), 0);
        assert_eq!(dma(d, b, CTL_WRITE, 4, BUFFER), CTL_ERROR);
        assert_eq!(dma(d, b, skip, 16, 0), 0);
        assert_eq!(dma(d, b, CTL_WRITE, 0, BUFFER), 0);
        assert_eq!(dma(d, b, CTL_WRITE, 1, BUFFER), CTL_ERROR);
        d.pio_write(&mut b.context(), DATA, Width::Byte, 0x55);
        assert_eq!(item(d, b, key), *b"89abcdef89abcdef\0");
        // Where there is no RAM, zeros are.
        assert_eq!(dma(d, b, write, 8, 0xfff0_0000_0000), CTL_ERROR);
        assert_eq!(
            d.written("etc/own"),
            Some(&b"\0\0\0\0\0\0\0\x0089abcdef"[..])
        );
        d.reset(&mut b.context());
        assert_eq!(d.written("etc/own"), Some(&[9; 16][..]));
        assert_eq!(d.written("etc/address"), Some(&[7; 8][..]));
        // Another file stays as it is.
        let other = u32::from(d.file_key("etc/a").unwrap()) << 16;
        let write = other | CTL_SELECT | CTL_WRITE;
        assert_eq!(dma(d, b, write, 1, BUFFER), CTL_ERROR);
        // What was written is saved; a machine without the file can't have it.
        assert_eq!(
            dma(d, b, u32::from(key) << 16 | write & 0xffff, 8, BUFFER),
            0
        );
        let saved = d.save();
        assert_eq!(
            saved.written,
            *b"01234567\t\t\t\t\t\t\t\t\x07\x07\x07\x07\x07\x07\x07\x07"
        );
        d.reset(&mut b.context());
        d.load(saved.clone(), &mut b.context()).unwrap();
        assert_eq!(d.written("etc/own"), Some(&saved.written[..16]));
        let mut without = FwCfg::new(true);
        let small = SavedFwCfg {
            key: 0,
            offset: 0,
            ..saved
        };
        let refused = without.load(small, &mut b.context());
        assert_eq!(refused, Err(StateError::Invalid("written")));
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn dma_register() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let request = 10u128 << 96 | 4 << 64 | u128::from(BUFFER);
        bench.ram.write(REQUEST, &request.to_be_bytes()).unwrap();
        let done = |bench: &Bench| buffer(bench) != [0; 8];
        let write = |device: &mut FwCfg<'_>, bench: &mut Bench, offset, width, value| {
            device.pio_write(&mut bench.context(), offset, width, value);
        };
        write(&mut device, &mut bench, DMA_LOW + 2, Width::Word, 0x10);
        write(&mut device, &mut bench, DMA_LOW + 2, Width::Byte, 0x10);
        write(&mut device, &mut bench, DMA_HIGH, Width::Dword, 0x0100_0000);
        write(&mut device, &mut bench, DMA_LOW, Width::Dword, 0x0010_0000);
        assert!(!done(&bench), "narrow, or above RAM");
        // The upper half lasts for one transfer.
        write(&mut device, &mut bench, DMA_LOW, Width::Dword, 0x0010_0000);
        assert!(done(&bench));
    }

    #[test]
    fn refuses_impossible_state() {
        let (mut device, mut bench) = (FwCfg::new(true), Bench::new());
        let saved = |key, offset| SavedFwCfg {
            key,
            offset,
            dma_high: 0,
            written: [0; WRITTEN_SIZE],
        };
        for (key, offset, field) in [(0, 5, "offset"), (0x7, 1, "offset"), (0x4000, 0, "key")] {
            let result = device.load(saved(key, offset), &mut bench.context());
            assert_eq!(result, Err(StateError::Invalid(field)));
        }
        device.load(saved(0, 4), &mut bench.context()).unwrap();
        assert_eq!(bench.inb(&mut device, DATA), 0);
    }
}
