//! ACPI tables (ACPI 6.4, chapter 5): what a guest is told of processors, interrupts, power
//! management and devices that it can't find by itself.
//!
//! The tables are built once, from [`Facts`] of the board, into memory that the host lends. They are
//! one image, the RSDP in front, with a list of links: addresses to be added and checksums to be
//! computed. Where firmware runs, it gets the image as files of fw_cfg with the links as a script
//! ([`script`]); where the boot ROM starts a kernel, [`Tables::link`] makes the image one for a fixed
//! address in guest memory ([`place`]).
//!
//! A PC has ACPI's full hardware. The other board has the reduced one ([`Hardware::Reduced`]): an event device instead of
//! fixed registers and a timer.
//!
//! Not described: hotplug of processors and PCI functions, thermal zones.

pub mod aml;
mod dsdt;
mod numa;
pub mod script;
mod tables;

use core::fmt;

use super::Numa;
use crate::devices::acpi_pm::{self, SleepStates};
use crate::devices::fdc;
use crate::devices::vmgenid::{self, GenerationId};
use crate::pci::Address;
use aml::{Term, Writer};
pub use tables::{CHECKSUM, set_checksum};

/// Bytes of the image at most, the RSDP with it, but for tables of the user's.
pub const IMAGE_MAX: usize = 32 << 10;
/// Where the tables begin in the image, behind the RSDP. They are aligned to as much.
pub const TABLES_AT: usize = 64;
/// Tables of the user's at most.
pub const USER_MAX: usize = 16;
/// Bytes that a table of the user's has at least: the header that all have.
pub const USER_MIN: usize = tables::HEADER;
/// Where the FACS is in the image: it is the first of the tables.
pub const FACS_AT: u64 = TABLES_AT as u64;
/// Links that the image has at most.
const LINKS_MAX: usize = 80;
/// Bytes of the script at most: the links, three files to load, four links of the RSDP, and an address to be told.
const SCRIPT_MAX: usize = (LINKS_MAX + 8) * script::COMMAND;
/// What tables in the image are aligned to: aligned access is all that some guests do.
const ALIGN: usize = 8;

/// Tables that RSDT and XSDT list at most.
const LISTED_MAX: usize = USER_MAX + 8;
// A pointer in each for each table, and a checksum, beside those of the other tables.
const _: () = assert!(LINKS_MAX >= 2 * LISTED_MAX + 8 + 8);

/// Bytes of the image at most with these tables of the user's: a number of pages.
pub fn image_size(user: &[&[u8]]) -> usize {
    let tables = user.iter().map(|table| table.len().saturating_add(ALIGN));
    let bytes = tables.fold(IMAGE_MAX, usize::saturating_add);
    bytes.checked_next_multiple_of(PAGE).unwrap_or(bytes)
}

/// Where an image of so many bytes has the page of the guest's generation, if it has one: tables end before it.
pub const fn generation_at(image_size: usize) -> usize {
    image_size.saturating_sub(vmgenid::PAGE)
}

/// Memory that tables and script need.
pub fn memory_size(user: &[&[u8]]) -> usize {
    image_size(user).saturating_add(SCRIPT_MAX)
}

/// Bytes of a page of the guest's.
const PAGE: usize = 4096;

/// RAM that a guest has at least to find tables at its end.
const RAM_MIN: u64 = 2 << 20;

/// Name of the file in which firmware finds the sleeping states.
pub const SLEEP_FILE: &str = "etc/system-states";

/// What it says of S0 to S5: the highest bit for a state that there is, below it its SLP_TYP.
pub fn sleep_file(states: &SleepStates) -> [u8; 6] {
    const THERE: u8 = 0x80;
    let of = |there: bool, kind: u8| if there { THERE | kind } else { kind };
    [
        THERE,
        0,
        0,
        of(states.s3, acpi_pm::SUSPEND_TO_RAM),
        of(states.s4, states.s4_type),
        THERE | acpi_pm::SOFT_OFF,
    ]
}

/// What the tables tell.
pub struct Facts<'a> {
    /// Processors at power-on.
    pub cpus: u16,
    /// Processors that there may be later.
    pub max_cpus: u16,
    /// The APIC ID of a processor.
    pub apic_id: &'a dyn Fn(u16) -> u32,
    /// What the guest hears of events by.
    pub hardware: Hardware,
    /// The guest's generation.
    pub generation: Option<GenerationId>,
    /// The sleeping states; `None` where soft-off is all.
    pub sleep: Option<SleepStates>,
    /// A port, and what is written to it to reset the machine. The reduced hardware has its own.
    pub reset: Option<(u16, u8)>,
    /// Whether there are two 8259.
    pub has_pic: bool,
    /// Whether there is a real-time clock with its CMOS memory.
    pub has_rtc: bool,
    /// Whether there is a second I/O APIC behind the first.
    pub has_second_ioapic: bool,
    /// Virtio devices at fixed addresses.
    pub virtio: &'a [VirtioPlace],
    /// Whether there is a keyboard controller.
    pub has_keyboard_controller: bool,
    /// Low half of the HPET's capabilities, and where it is.
    pub hpet: Option<(u32, u64)>,
    /// The PCI bus.
    pub pci: Option<PciFacts<'a>>,
    /// Devices at fixed ports.
    pub devices: &'a [IsaDevice<'a>],
    /// The floppy disk controller: what media each of its drives takes at most.
    pub floppies: Option<[Option<FloppyFacts>; fdc::DRIVES]>,
    /// Bytes of RAM from 0 on, and from 4 GiB on.
    pub ram: (u64, u64),
    /// Nodes.
    pub numa: Numa<'a>,
    /// Tables that the user made, complete, of [`USER_MIN`] bytes at least; at most [`USER_MAX`].
    pub user: &'a [&'a [u8]],
}

/// What the guest hears of events by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// ACPI's fixed hardware, [`crate::devices::acpi_pm`].
    Full {
        /// The system control interrupt.
        sci: u8,
        /// First port of the block.
        base: u16,
        /// First port of the general-purpose events.
        gpe0: Option<u16>,
        /// The port that switches to ACPI mode; `None` where that is on always.
        command: Option<u16>,
    },
    /// An event device, [`crate::devices::ged`].
    Reduced {
        /// Its interrupt.
        irq: u8,
    },
}

impl Hardware {
    /// First port of the general-purpose events.
    pub const fn gpe0(self) -> Option<u16> {
        match self {
            Self::Full { gpe0, .. } => gpe0,
            Self::Reduced { .. } => None,
        }
    }

    /// The system control interrupt.
    pub const fn sci(self) -> Option<u8> {
        match self {
            Self::Full { sci, .. } => Some(sci),
            Self::Reduced { .. } => None,
        }
    }
}

/// Where a virtio device is, and the input of the I/O APICs that it interrupts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioPlace {
    /// The number of its transport, up to 99.
    pub number: u8,
    /// First address of its registers.
    pub address: u32,
    /// Its interrupt.
    pub irq: u8,
}

impl Facts<'_> {
    /// ISA interrupts that PCI's may be routed to.
    fn level_irqs(&self) -> &[u8] {
        self.pci.as_ref().map_or(&[], |pci| pci.link_irqs)
    }
}

/// What the tables tell of the PCI bus.
#[derive(Clone, Copy, Debug)]
pub struct PciFacts<'a> {
    /// First port of the configuration mechanism, not 0, and how many it has.
    pub config_ports: (u16, u8),
    /// Addresses that belong to the bus: first, last, whether they can be cached.
    pub memory: &'a [(u32, u32, bool)],
    /// A bit for each slot with functions, 0 to 31.
    pub slots: u32,
    /// The ISA bridge, a PIIX3 with power management of a PIIX4 beside it.
    pub isa_bridge: Address,
    /// Interrupts that its PIRQs can be routed to.
    pub link_irqs: &'a [u8],
}

/// What the tables tell of a floppy drive.
#[derive(Clone, Copy, Debug)]
pub struct FloppyFacts {
    /// Its kind, as in CMOS.
    pub kind: u8,
    /// The highest cylinder.
    pub cylinder: u8,
    /// The highest sector.
    pub sector: u8,
    /// The highest head.
    pub head: u8,
}

/// A device at fixed ports.
#[derive(Clone, Copy, Debug)]
pub struct IsaDevice<'a> {
    /// Four characters at most, unique.
    pub name: &'a str,
    /// Its `_HID`.
    pub id: Term<'a>,
    /// Its `_UID`, where there may be several.
    pub uid: Option<u8>,
    /// Base and length of its ports; lengths of 0 are none.
    pub ports: [(u16, u8); 2],
    /// Its interrupt.
    pub irq: Option<u8>,
    /// Whether users need not see it.
    pub is_hidden: bool,
}

/// Why there are no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// They would be larger than [`image_size`], the memory is smaller than [`memory_size`], or there
    /// are too many: for so many processors.
    Full(u16),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Full(cpus) = self;
        let room = IMAGE_MAX >> 10;
        write!(
            f,
            "the ACPI tables of {cpus} processors need more than {room} KiB"
        )
    }
}

/// What is left to do once the image's address is known. Offsets count from the first table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// `size` bytes at `at` are to be the address of what is at `target`.
    Pointer { at: usize, size: u8, target: usize },
    /// The 32 bits at `at` are to be the address of the guest's generation.
    Generation { at: usize },
    /// The table of `length` bytes at `start` needs its checksum.
    Checksum { start: usize, length: usize },
}

/// All links, in an order in which checksums come after what they are over.
#[derive(Debug, Default)]
struct Links {
    list: heapless::Vec<Link, LINKS_MAX>,
    full: bool,
}

impl Links {
    fn add(&mut self, link: Link) {
        self.full |= self.list.push(link).is_err();
    }

    fn has_generation(&self) -> bool {
        let mut links = self.list.iter();
        links.any(|link| matches!(link, Link::Generation { .. }))
    }

    /// Moves checksums behind pointers.
    fn sort(&mut self) {
        self.list
            .sort_unstable_by_key(|link| matches!(link, Link::Checksum { .. }));
    }
}

/// Where the image of [`Tables::link`] lies in guest memory with `low_ram` bytes of RAM from 0 on: in
/// the last `size` bytes, which are [`image_size`], from a page on. The RSDP is its first byte. `None`
/// with too little RAM to give some of it away.
pub const fn place(low_ram: u64, size: usize) -> Option<u64> {
    let room = match low_ram.checked_sub(size as u64) {
        Some(rest) => rest,
        None => return None,
    };
    if low_ram < RAM_MIN || room < RAM_MIN / 2 {
        return None;
    }
    Some(room & !(PAGE as u64 - 1))
}

/// The image, and what is to be done to use it.
#[derive(Debug)]
pub struct Tables<'m> {
    image: &'m mut [u8],
    script: &'m mut [u8],
    used: usize,
    links: Links,
    rsdt: usize,
    xsdt: usize,
}

/// The image as firmware takes it.
#[derive(Clone, Copy, Debug)]
pub struct Files<'m> {
    /// For [`script::RSDP_FILE`].
    pub rsdp: &'m [u8],
    /// For [`script::TABLES_FILE`].
    pub tables: &'m [u8],
    /// For [`script::SCRIPT_FILE`].
    pub script: &'m [u8],
    /// For [`vmgenid::PAGE_FILE`], where there is a generation.
    pub generation: Option<&'m [u8]>,
}

impl<'m> Tables<'m> {
    /// Builds the tables in `memory`, of which there must be [`memory_size`] bytes.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn build(facts: &Facts<'_>, memory: &'m mut [u8]) -> Result<Self, Error> {
        let full = Error::Full(facts.max_cpus.max(facts.cpus));
        let (image, script) = memory
            .split_at_mut_checked(image_size(facts.user))
            .ok_or(full)?;
        let end = match facts.generation {
            Some(_) => generation_at(image.len()),
            None => image.len(),
        };
        let (tables, page) = image.split_at_mut_checked(end).ok_or(full)?;
        let (front, room) = tables.split_at_mut_checked(TABLES_AT).ok_or(full)?;
        front.fill(0);
        if let Some(id) = facts.generation {
            page.fill(0);
            if let Some(at) = page
                .get_mut(vmgenid::GUID_AT..)
                .and_then(|page| page.first_chunk_mut())
            {
                *at = id.in_memory();
            }
        }
        let mut links = Links::default();
        let mut w = Writer::new(room);
        let facs = tables::facs(&mut w);
        let dsdt = dsdt::dsdt(&mut w, &mut links, facts);
        let mut add = |w: &mut Writer<'_>, table: &dyn Fn(&mut Writer<'_>, &mut Links) -> usize| {
            w.align(ALIGN);
            table(w, &mut links)
        };
        let mut listed: heapless::Vec<usize, LISTED_MAX> = heapless::Vec::new();
        let mut list = |table| listed.push(table).map_err(|_| full);
        list(add(&mut w, &|w, links| {
            tables::fadt(w, links, facts, dsdt, facs)
        }))?;
        list(add(&mut w, &|w, links| tables::madt(w, links, facts)))?;
        if let Some((id, base)) = facts.hpet {
            list(add(&mut w, &|w, links| tables::hpet(w, links, id, base)))?;
        }
        if !facts.numa.memory.is_empty() {
            list(add(&mut w, &|w, links| numa::srat(w, links, facts)))?;
        }
        if !facts.numa.distances.is_empty() {
            list(add(&mut w, &|w, links| numa::slit(w, links, facts)))?;
        }
        if let Hardware::Full { .. } = facts.hardware {
            list(add(&mut w, &tables::waet))?;
        }
        if facts.generation.is_some() {
            list(add(&mut w, &|w, links| dsdt::generation(w, links, facts)))?;
        }
        for table in facts.user {
            list(add(&mut w, &|w, _| {
                let start = w.used();
                w.raw(table);
                start
            }))?;
        }
        let rsdt = add(&mut w, &|w, links| {
            tables::root(w, links, b"RSDT", 4, &listed)
        });
        let xsdt = add(&mut w, &|w, links| {
            tables::root(w, links, b"XSDT", 8, &listed)
        });
        let used = TABLES_AT + w.finish().map_err(|_| full)?;
        if links.full {
            return Err(full);
        }
        links.sort();
        let mut new = Self {
            image,
            script,
            used,
            links,
            rsdt,
            xsdt,
        };
        new.point(0, 0);
        Ok(new)
    }

    /// Sets all pointers, as of tables at `base`, and of the generation's page at `page`; 0 gives offsets.
    fn point(&mut self, base: u64, page: u64) {
        for link in &self.links.list {
            match *link {
                Link::Pointer { at, size, target } => {
                    put(self.image, TABLES_AT + at, size, base + target as u64);
                }
                Link::Generation { at } => {
                    let address = page + vmgenid::GUID_AT as u64;
                    put(self.image, TABLES_AT + at, 4, address);
                }
                Link::Checksum { .. } => {}
            }
        }
        let rsdp = tables::rsdp();
        if let Some(room) = self.image.first_chunk_mut() {
            *room = rsdp;
        }
        put(self.image, tables::RSDP_RSDT, 4, base + self.rsdt as u64);
        put(self.image, tables::RSDP_XSDT, 8, base + self.xsdt as u64);
    }

    /// Makes the image one for the guest physical address `base`, below 4 GiB by the image's size at least, and
    /// gives it. The RSDP is its first byte.
    pub fn link(mut self, base: u64) -> &'m [u8] {
        let page = generation_at(self.image.len()) as u64;
        self.point(base + TABLES_AT as u64, base + page);
        for link in &self.links.list {
            if let Link::Checksum { start, length } = *link {
                let start = TABLES_AT + start;
                if let Some(table) = self.image.get_mut(start..start + length) {
                    tables::set_checksum(table, tables::CHECKSUM);
                }
            }
        }
        for (at, length) in tables::RSDP_SUMS {
            if let Some(part) = self.image.get_mut(..length) {
                tables::set_checksum(part, at);
            }
        }
        let used = match self.links.has_generation() {
            true => self.image.len(),
            false => self.used,
        };
        let image: &'m [u8] = self.image;
        image.get(..used).unwrap_or(image)
    }

    /// The image as files of fw_cfg, for firmware to link.
    ///
    /// # Errors
    /// [`Error::Full`], which the sizes of this module rule out.
    pub fn files(self) -> Result<Files<'m>, Error> {
        let has_generation = self.links.has_generation();
        let length = script::write(&self.links, self.script).map_err(|_| Error::Full(0))?;
        let (image, commands): (&'m [u8], &'m [u8]) = (self.image, self.script);
        Ok(Files {
            rsdp: image.get(..tables::RSDP).unwrap_or(&[]),
            tables: image.get(TABLES_AT..self.used).unwrap_or(&[]),
            script: commands.get(..length).unwrap_or(&[]),
            generation: image
                .get(generation_at(image.len())..)
                .filter(|_| has_generation),
        })
    }
}

/// Writes the lowest `size` bytes of an address.
fn put(image: &mut [u8], at: usize, size: u8, address: u64) {
    let size = usize::from(size).min(8);
    if let Some(field) = image.get_mut(at..at + size) {
        field.copy_from_slice(&address.to_le_bytes()[..size]);
    }
}

#[cfg(test)]
mod tests;
