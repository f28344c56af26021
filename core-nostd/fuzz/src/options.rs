//! The process' command line, and what files of the user's become for the firmware.

use std::ffi::OsString;

use thimble_core::firmware::{acpi, smbios};
use thimble_core::machine::{Board, CLASSES, Irqchip, RamLayout};
use thimble_host::options::{self, OptionError, Options, Parsed};
use thimble_host::startup::{smbios as structures, tables as user_tables};

use crate::{Source, local_apics, machine_without_memories, plant};

/// Arguments as a shell would give them, parsed; what is refused is refused in words.
fn parse(arguments: impl IntoIterator<Item = String>) -> Option<Box<Options>> {
    let arguments = arguments.into_iter().map(OsString::from);
    match options::parse(arguments, CLASSES) {
        Ok(Parsed::Run(options)) => Some(options),
        Ok(Parsed::Print(text)) => {
            assert!(!text.is_empty());
            None
        }
        Err(error) => {
            assert_words(&error);
            None
        }
    }
}

fn assert_words(error: &OptionError) {
    assert!(!error.to_string().is_empty());
}

/// Options of drives that a line's first byte stands for; what follows is the argument.
const DRIVE_OPTIONS: [&str; 12] = [
    "-drive",
    "-blockdev",
    "-device",
    "-hda",
    "-hdd",
    "-cdrom",
    "-fda",
    "-pflash",
    "-object",
    "-global",
    "-boot",
    "-snapshot",
];

/// Parses lines, each of them an option and its argument.
pub fn drives(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut arguments = Vec::new();
    for line in text.lines() {
        let mut rest = line.chars();
        let Some(first) = rest.next() else {
            continue;
        };
        let option = DRIVE_OPTIONS[first as usize % DRIVE_OPTIONS.len()];
        arguments.push(option.to_string());
        if option != "-snapshot" {
            arguments.push(rest.as_str().to_string());
        }
    }
    let options = parse(arguments);
    plant(options.is_some_and(|options| options.blocks.len() > 1));
}

/// RAM that structures tell of.
const LAYOUT: RamLayout = RamLayout {
    low: 2 << 20,
    high: 0,
};

/// A line of an option's argument, up to the next zero byte.
fn line(source: &mut Source<'_>) -> String {
    let end = source.0.iter().position(|byte| *byte == 0);
    let (line, rest) = source.0.split_at(end.unwrap_or(source.0.len()));
    source.0 = rest.get(1..).unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

/// Fields in options, then files: of ACPI tables and of SMBIOS structures.
pub fn tables(bytes: &[u8]) {
    let mut source = Source(bytes);
    let counts = source.number(2);
    let mut arguments = Vec::new();
    for (option, count) in [("-acpitable", counts & 3), ("-smbios", counts >> 2 & 3)] {
        for _ in 0..count {
            arguments.push(option.to_string());
            arguments.push(line(&mut source));
        }
    }
    let Some(options) = parse(arguments) else {
        return;
    };
    let mut file = || {
        let length = usize::from(source.byte()) * usize::from(1 + source.byte() % 32);
        let (file, rest) = source.0.split_at(length.min(source.0.len()));
        source.0 = rest;
        file.to_vec()
    };
    let mut user = Vec::new();
    for table in &options.acpi_tables {
        match user_tables::complete(table, file()) {
            Ok(table) => {
                let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                assert_eq!(sum, 0);
                let told = u32::from_le_bytes([table[4], table[5], table[6], table[7]]);
                assert_eq!(told as usize, table.len());
                user.push(table);
            }
            Err(error) => assert_words(&error),
        }
    }
    let files: Vec<Vec<u8>> = (0..counts >> 4 & 3).map(|_| file()).collect();
    let files = files.iter().filter(|file| file.len() >= smbios::HEADER_MIN);
    let files: Vec<&[u8]> = files.map(Vec::as_slice).collect();
    let user: Vec<&[u8]> = user.iter().map(Vec::as_slice).collect();
    let mut memory = vec![0; acpi::memory_size(&user)];
    let mut apics = local_apics();
    let mut machine = machine_without_memories(Board::Pc, Irqchip::Machine, &mut apics);
    let built = structures::build(&options, &files, &machine, LAYOUT, None);
    let mut rom = vec![0; 0x1_0000];
    if let Ok((table, structures)) = &built {
        assert_eq!(table.length, structures.len());
        // There may be no room.
        let _ = smbios::in_rom(table, structures, &mut rom);
        plant(files.len() > 1 && structures.len() > 600);
    }
    // As many as are too many are refused.
    let _ = machine.add_acpi_tables(&|index| u32::from(index), &user, &mut memory);
}
