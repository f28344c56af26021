//! ACPI tables: the board's, and those that the options make; NUMA nodes, which both tell of.

use std::path::Path;

use thimble_core::firmware::acpi::{self, USER_MAX, USER_MIN};
use thimble_core::firmware::{Numa, numa};
use thimble_core::machine::Machine;

use super::{open, read_file, topology};
use crate::error_text;
use crate::options::{AcpiTable, OptionError, Options};

/// Bytes of a table of the user's at most: its length has 16 bits for some firmware.
const TABLE_MAX: usize = 0xffff;
/// Bytes of a file that is read.
const FILE_MAX: u64 = 1 << 20;
/// The header of a table whose files have none.
const HEADER: [u8; USER_MIN] = *b"QEMU\0\0\0\0\x01\0QEMUQEQEMUQEMU\x01\0\0\0QEMU\x01\0\0\0";

/// Reads the tables of `-acpitable` and completes them.
pub(super) fn of_user(options: &Options) -> Result<Vec<&'static [u8]>, OptionError> {
    let mut tables: Vec<&'static [u8]> = Vec::new();
    for table in &options.acpi_tables {
        if tables.len() == USER_MAX {
            let reason = format!("there can be {USER_MAX} of them at most");
            return Err(OptionError::new(&table.origin, &reason));
        }
        tables.push(complete(table, contents(table)?)?.leak());
    }
    Ok(tables)
}

fn too_big(table: &AcpiTable, length: &dyn std::fmt::Display) -> OptionError {
    let reason = format!("ACPI table too big, requested: {length}, max: {TABLE_MAX}");
    OptionError::new(&table.origin, &reason)
}

/// What the table's files hold, one behind the other.
fn contents(table: &AcpiTable) -> Result<Vec<u8>, OptionError> {
    // All of these are QEMU's words.
    let refused = |reason: &str| OptionError::new(&table.origin, reason);
    let mut bytes = Vec::new();
    for path in &table.files {
        let (_, metadata) = open(Path::new(path))
            .map_err(|error| refused(&format!("can't open file {path}: {}", error_text(&error))))?;
        if metadata.is_dir() {
            return Err(refused(&format!("can't read file {path}: Is a directory")));
        }
        if metadata.len() > FILE_MAX {
            return Err(too_big(table, &metadata.len()));
        }
        bytes.extend(read_file(&table.origin, Path::new(path), FILE_MAX)?);
    }
    Ok(bytes)
}

/// Makes a table of what its files hold: with a header, the fields that the option names, its length and its sum.
///
/// # Errors
/// If it is too short for a header, or too long.
pub fn complete(table: &AcpiTable, contents: Vec<u8>) -> Result<Vec<u8>, OptionError> {
    let mut bytes = match table.has_header {
        true => contents,
        false => [&HEADER[..], &contents].concat(),
    };
    if bytes.len() < USER_MIN {
        let length = bytes.len();
        let reason = format!(
            "ACPI table claiming to have header is too short, available: {length}, expected: {USER_MIN}"
        );
        return Err(OptionError::new(&table.origin, &reason));
    }
    if bytes.len() > TABLE_MAX {
        return Err(too_big(table, &bytes.len()));
    }
    for (at, field) in &table.fields {
        bytes[*at..*at + field.len()].copy_from_slice(field);
    }
    let length = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    acpi::set_checksum(&mut bytes, acpi::CHECKSUM);
    Ok(bytes)
}

/// Gives the firmware the tables of a machine whose devices are all there.
pub(super) fn add(
    options: &Options,
    user: &[&'static [u8]],
    machine: &mut Machine<'static>,
) -> Result<(), OptionError> {
    let refused =
        |origin: &str, error: &dyn std::fmt::Display| OptionError::new(origin, &error.to_string());
    if let Some(first) = options.acpi_tables.first() {
        let mut old = (user.len() as u16).to_le_bytes().to_vec();
        for table in user {
            old.extend((table.len() as u16).to_le_bytes());
            old.extend_from_slice(table);
        }
        let added = machine.add_user_tables(old.leak());
        added.map_err(|error| refused(&first.origin, &error))?;
    }
    if !machine.has_acpi() {
        return Ok(());
    }
    let topology = topology(options);
    // Zeros that nobody touches cost no memory.
    let memory = vec![0; acpi::memory_size(user)].leak();
    machine
        .add_acpi_tables(&|index| topology.apic_id(index.into()), user, memory)
        .map_err(|error| refused("-machine acpi=on", &error))
}

/// The NUMA nodes that the options ask for, with memory of these sizes.
pub(super) fn numa_of(options: &Options, sizes: Vec<u64>) -> Numa<'static> {
    let topology = topology(options);
    let mut told = Numa {
        memory: sizes.leak(),
        cpus: options.numa.cpus.clone().leak(),
        distances: options.numa.distances.clone().leak(),
        item: &[],
    };
    let apic_id = |index: u16| topology.apic_id(index.into());
    if !told.memory.is_empty() {
        let mut item = vec![0; numa::write_item(&told, &apic_id, &mut [])];
        numa::write_item(&told, &apic_id, &mut item);
        told.item = item.leak();
    }
    told
}
