//! The file `etc/table-loader`: what firmware does to bring tables from fw_cfg into memory.
//!
//! Follows the format that SeaBIOS and OVMF take: commands of 128 bytes, little-endian, each with a
//! number and its operands, where a file is named in 56 bytes and ends with zeros.

use super::aml::{Full, Writer};
use super::{Link, Links, tables};
use crate::devices::vmgenid;

/// The RSDP's file.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// The file of all other tables.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// The file of commands.
pub const SCRIPT_FILE: &str = "etc/table-loader";

/// Bytes of a command.
pub(super) const COMMAND: usize = 128;
/// Bytes of a file's name.
const NAME: usize = 56;

/// Loads a file into fresh memory: its name, alignment (32 bits), zone (8 bits).
const ALLOCATE: u32 = 1;
/// Adds the address of a file to a pointer in another: the pointer's file, the file that it points
/// into, offset of the pointer (32 bits), its bytes (8 bits).
const ADD_POINTER: u32 = 2;
/// Computes a checksum: the file, where the sum goes, where its range begins, how long that is, 32
/// bits each.
const ADD_CHECKSUM: u32 = 3;
/// Writes the address of a place in a file into another file, which the host reads: that file, the file of the place, offset of the
/// pointer, offset of the place (32 bits each), the pointer's bytes (8 bits).
const WRITE_POINTER: u32 = 4;
/// Zone: anywhere below 4 GiB.
const ZONE_HIGH: u8 = 1;
/// Zone: F0000h to FFFFFh, where guests look for the RSDP.
const ZONE_FSEG: u8 = 2;

/// Writes the commands for tables with such links, and gives their length.
pub(super) fn write(links: &Links, to: &mut [u8]) -> Result<usize, Full> {
    let mut w = Writer::new(to);
    allocate(&mut w, TABLES_FILE, tables::FACS_ALIGN as u32, ZONE_HIGH);
    allocate(&mut w, RSDP_FILE, 16, ZONE_FSEG);
    if links.has_generation() {
        allocate(&mut w, vmgenid::PAGE_FILE, vmgenid::PAGE as u32, ZONE_HIGH);
    }
    for link in &links.list {
        match *link {
            Link::Generation { at } => {
                add_pointer(&mut w, TABLES_FILE, vmgenid::PAGE_FILE, at, 4);
                write_pointer(&mut w);
            }
            Link::Pointer { at, size, .. } => pointer(&mut w, TABLES_FILE, at, size),
            Link::Checksum { start, length } => {
                let at = start + tables::CHECKSUM;
                checksum(&mut w, TABLES_FILE, at, start, length);
            }
        }
    }
    pointer(&mut w, RSDP_FILE, tables::RSDP_RSDT, 4);
    pointer(&mut w, RSDP_FILE, tables::RSDP_XSDT, 8);
    for (at, length) in tables::RSDP_SUMS {
        checksum(&mut w, RSDP_FILE, at, 0, length);
    }
    w.finish()
}

fn allocate(w: &mut Writer<'_>, file: &str, align: u32, zone: u8) {
    w.raw(&ALLOCATE.to_le_bytes());
    name(w, file);
    w.raw(&align.to_le_bytes());
    w.raw(&[zone]);
    w.align(COMMAND);
}

/// A pointer into the tables' file.
fn pointer(w: &mut Writer<'_>, file: &str, at: usize, size: u8) {
    add_pointer(w, file, TABLES_FILE, at, size);
}

/// A pointer in one file into another.
fn add_pointer(w: &mut Writer<'_>, file: &str, into: &str, at: usize, size: u8) {
    w.raw(&ADD_POINTER.to_le_bytes());
    name(w, file);
    name(w, into);
    w.raw(&(at as u32).to_le_bytes());
    w.raw(&[size]);
    w.align(COMMAND);
}

/// The address of the guest's generation is to be told.
fn write_pointer(w: &mut Writer<'_>) {
    w.raw(&WRITE_POINTER.to_le_bytes());
    name(w, vmgenid::ADDRESS_FILE);
    name(w, vmgenid::PAGE_FILE);
    w.raw(&0u32.to_le_bytes());
    w.raw(&(vmgenid::GUID_AT as u32).to_le_bytes());
    w.raw(&[vmgenid::ADDRESS as u8]);
    w.align(COMMAND);
}

fn checksum(w: &mut Writer<'_>, file: &str, at: usize, start: usize, length: usize) {
    w.raw(&ADD_CHECKSUM.to_le_bytes());
    name(w, file);
    for number in [at, start, length] {
        w.raw(&(number as u32).to_le_bytes());
    }
    w.align(COMMAND);
}

fn name(w: &mut Writer<'_>, file: &str) {
    let mut bytes = [0; NAME];
    for (byte, character) in bytes.iter_mut().zip(file.bytes()) {
        *byte = character;
    }
    w.raw(&bytes);
}
