//! The SMBIOS structures that the options ask for.

use std::path::Path;

use thimble_core::firmware::smbios::{
    self, Error, Facts, Firmware, Layout, OEM_STRINGS_MAX, ONBOARD_KINDS, Onboard, Port,
    Processors, Table, Texts,
};
use thimble_core::machine::{Machine, OnRoot, RamLayout};

use super::{open, read_file};
use crate::options::{OptionError, Options, SmbiosGiven, SmbiosOption, parse_release};

/// Bytes that structures are first given.
const ROOM: usize = 4 << 10;
/// Bytes of structures at most; also of a file.
const ROOM_MAX: usize = 64 << 20;
/// MHz of processors that nothing is said of.
const SPEED: u16 = 2000;

/// Builds the structures of a machine whose devices are all there, and gives them to its firmware;
/// `rom`, the boot ROM, gets them itself.
pub(super) fn add(
    options: &Options,
    machine: &mut Machine<'static>,
    layout: RamLayout,
    processor: Option<[u32; 4]>,
    rom: Option<&mut [u8]>,
) -> Result<(), OptionError> {
    let files = files(&options.smbios)?;
    let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let (table, structures) = build(options, &files, machine, layout, processor)?;
    let structures = structures.leak();
    if let Some(rom) = rom {
        smbios::in_rom(&table, structures, rom).map_err(refused)?;
    }
    let added = machine.add_smbios(&table, structures);
    added.map_err(|error| OptionError::new("-smbios", &error.to_string()))
}

fn refused(error: Error) -> OptionError {
    OptionError::new("-smbios", &error.to_string())
}

/// Builds the structures of a machine, with those of files. `processor` is CPUID's leaf 1.
///
/// # Errors
/// The option that asks for what can't be.
pub fn build(
    options: &Options,
    files: &[&[u8]],
    machine: &Machine<'_>,
    layout: RamLayout,
    processor: Option<[u32; 4]>,
) -> Result<(Table, Vec<u8>), OptionError> {
    let oem_strings = oem_strings(&options.smbios)?;
    let oem_strings: Vec<&[u8]> = oem_strings.iter().map(Vec::as_slice).collect();
    let of = |number: u8| {
        let all = options.smbios.iter();
        all.filter(move |option| option.given.is_of(number))
    };
    let ports: Vec<_> = of(smbios::PORT.number)
        .map(|option| Port {
            texts: texts(&smbios::PORT, std::iter::once(option)),
            connector: option.given.number("connector_type").unwrap_or(0) as u8,
            kind: option.given.number("port_type").unwrap_or(0) as u8,
        })
        .collect();
    let onboard = of(smbios::ONBOARD.number).map(|option| onboard(option, machine));
    let onboard = onboard.collect::<Result<Vec<_>, _>>()?;
    let all = |layout: &'static Layout| texts(layout, of(layout.number));
    let given = |number: u8, name: &str| {
        let mut values = of(number).rev();
        values.find_map(|option| option.given.number(name))
    };
    let told = |layout: &'static Layout| of(layout.number).next().is_some();
    let firmware = Firmware {
        texts: all(&smbios::FIRMWARE),
        release: of(0)
            .rev()
            .find_map(|option| option.given.text("release").and_then(parse_release))
            .unwrap_or_default(),
        uefi: of(0)
            .rev()
            .find_map(|option| option.given.flag("uefi"))
            .unwrap_or(false),
    };
    let speed = |name| given(4, name).map_or(SPEED, |speed| speed as u16);
    let [eax, _, _, edx] = processor.unwrap_or_default();
    let id = u64::from(edx) << 32 | u64::from(eax);
    let smp = &options.smp;
    let facts = Facts {
        entry_point: options.machine.smbios,
        files,
        firmware: told(&smbios::FIRMWARE).then_some(firmware),
        system: all(&smbios::SYSTEM),
        uuid: options.uuid.unwrap_or_default(),
        board: told(&smbios::BOARD).then(|| all(&smbios::BOARD)),
        chassis: all(&smbios::CHASSIS),
        processors: Processors {
            texts: all(&smbios::PROCESSOR),
            sockets: smp.sockets as u16,
            cores: smp.cores as u16,
            threads: (smp.cores * smp.threads) as u16,
            id: given(4, "processor-id").filter(|id| *id != 0).unwrap_or(id),
            max_speed: speed("max-speed"),
            current_speed: speed("current-speed"),
        },
        ports: &ports,
        oem_strings: &oem_strings,
        module: all(&smbios::MODULE),
        module_speed: given(17, "speed").unwrap_or(0) as u16,
        onboard: &onboard,
        ram: (layout.low, layout.high),
    };
    let mut room = vec![0; ROOM];
    let table = loop {
        match smbios::build(&facts, &mut room) {
            Err(Error::Full) if room.len() < ROOM_MAX => room = vec![0; 2 * room.len()],
            built => break built.map_err(refused)?,
        }
    };
    room.truncate(table.length);
    Ok((table, room))
}

/// The texts that options give for a layout, the last one of each name.
fn texts<'o>(layout: &Layout, given: impl Iterator<Item = &'o SmbiosOption>) -> Texts<'o> {
    let mut texts = Texts::default();
    for option in given {
        for (text, place) in layout.texts.iter().zip(&mut texts) {
            *place = option.given.text(text.name).or(*place);
        }
    }
    texts
}

/// The files of structures, read. Nobody may tell of a type by a file and by fields.
fn files(given: &[SmbiosOption]) -> Result<Vec<Vec<u8>>, OptionError> {
    let mut files: Vec<Vec<u8>> = Vec::new();
    for (index, option) in given.iter().enumerate() {
        // All of these are QEMU's words.
        let refused = |reason: &str| OptionError::new(&option.origin, reason);
        match &option.given {
            SmbiosGiven::Fields { number, .. } => {
                if files.iter().any(|file| file.first() == Some(number)) {
                    return Err(refused("can't add fields, binary file already loaded!"));
                }
            }
            SmbiosGiven::File(path) => {
                let bytes = structure(&option.origin, path)?;
                let number = bytes.first().copied().unwrap_or_default();
                if given[..index].iter().any(|other| other.given.is_of(number)) {
                    return Err(refused(&format!(
                        "can't load type {number} struct, fields already specified!"
                    )));
                }
                files.push(bytes);
            }
        }
    }
    Ok(files)
}

/// A file of structures.
fn structure(origin: &str, path: &str) -> Result<Vec<u8>, OptionError> {
    let unreadable = || OptionError::new(origin, &format!("Cannot read SMBIOS file {path}"));
    let is_file = open(Path::new(path)).is_ok_and(|(_, metadata)| metadata.is_file());
    if !is_file {
        return Err(unreadable());
    }
    let bytes = read_file(origin, Path::new(path), ROOM_MAX as u64)?;
    match bytes.len() < smbios::HEADER_MIN {
        true => Err(unreadable()),
        false => Ok(bytes),
    }
}

/// OEM strings: those on the command line, and whole files.
fn oem_strings(given: &[SmbiosOption]) -> Result<Vec<Vec<u8>>, OptionError> {
    let mut strings = Vec::new();
    for option in given {
        let SmbiosGiven::Fields { number: 11, values } = &option.given else {
            continue;
        };
        for (name, value) in values {
            let refused = |reason: &str| OptionError::new(&option.origin, reason);
            if *name == "value" {
                strings.push(value.clone().into_bytes());
                continue;
            }
            if let Err(error) = open(Path::new(value)) {
                let error = crate::error_text(&error);
                return Err(refused(&format!("Could not open '{value}': {error}")));
            }
            let bytes = read_file(&option.origin, Path::new(value), ROOM_MAX as u64)?;
            if bytes.contains(&0) {
                return Err(refused(&format!("NUL in OEM strings value in {value}")));
            }
            strings.push(bytes);
        }
        if strings.len() > OEM_STRINGS_MAX {
            let reason = format!("there can be {OEM_STRINGS_MAX} OEM strings at most");
            return Err(OptionError::new(&option.origin, &reason));
        }
    }
    Ok(strings)
}

fn onboard<'o>(
    option: &'o SmbiosOption,
    machine: &Machine<'_>,
) -> Result<Onboard<'o>, OptionError> {
    let given = &option.given;
    let kind = given.text("kind").unwrap_or(ONBOARD_KINDS[0]);
    let kind = ONBOARD_KINDS.iter().position(|name| *name == kind);
    let texts = texts(&smbios::ONBOARD, std::iter::once(option));
    let mut devfn = 0;
    if let Some(id) = given.text("pcidev") {
        // QEMU's words.
        devfn = match machine.find_on_root(id) {
            OnRoot::Devfn(devfn) => devfn,
            OnRoot::Behind => {
                let start = format!("Cannot create type 41 entry for PCI device {id}:");
                return Err(OptionError::sentence(
                    &start,
                    "not attached to the root bus",
                ));
            }
            OnRoot::Missing => {
                let entry = format!("for SMBIOS type 41 entry {}", texts[0].unwrap_or("(null)"));
                return Err(OptionError::sentence(
                    &format!("No PCI device {id}"),
                    &entry,
                ));
            }
        };
    }
    Ok(Onboard {
        texts,
        kind: kind.unwrap_or(0) as u8 + 1,
        instance: given.number("instance").unwrap_or(1) as u8,
        devfn,
    })
}
