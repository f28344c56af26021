//! The devices of the command line.

use thimble_core::devices::class::{PCI_ROMSIZE, PropertyKind, PropertyValues};
use thimble_core::devices::{debugcon, parallel, serial};
use thimble_core::machine::{ExpansionRom, Machine, Place, Plugging, SERIAL_MAX};
use thimble_core::pci::config;

use super::{chardev, open, read_file};
use crate::chardev::{ChardevId, Chardevs};
use crate::options::{DeviceOption, OptionError, Options};
use crate::vm::CONSOLES_MAX;

/// Plugs in the devices of the command line, the default ones first.
pub(super) fn plug_devices(
    options: &Options,
    machine: &mut Machine<'static>,
    chardevs: &mut Chardevs,
    consoles: &mut [Option<ChardevId>; CONSOLES_MAX],
) -> Result<(), OptionError> {
    let mut plug = |origin: &str,
                    properties: &PropertyValues,
                    plugging: Plugging<'_, 'static>,
                    behind: &dyn Fn(&str) -> Option<String>| {
        let mut lines = Vec::new();
        for property in properties.class().properties {
            if property.kind == PropertyKind::Chardev
                && let Some(id) = behind(property.name)
            {
                lines.push((property.name, chardev(chardevs, &id)?));
            }
        }
        let plugged = machine.plug_on(properties, plugging);
        let plugged = plugged.map_err(|error| OptionError::new(origin, &error.to_string()))?;
        for (name, console) in plugged {
            let line = lines.iter().find(|(of, _)| *of == name);
            consoles[usize::from(console.0)] = line.map(|(_, id)| *id);
        }
        Ok(())
    };
    let board = |place| Plugging {
        place,
        bus: None,
        rom: ExpansionRom::default(),
    };
    for (index, id) in options.serials.iter().enumerate().take(SERIAL_MAX) {
        let Some(id) = id else { continue };
        let mut properties = options.defaults_of(&serial::CLASS);
        // The class has this property, and a port's number is in its range.
        let _ = properties.set("index", &index.to_string());
        let origin = format!("-serial chardev:{id}");
        let place = board(Place::Board);
        plug(&origin, &properties, place, &|_| Some(id.clone()))?;
    }
    for (index, id) in options.parallels.iter().enumerate() {
        let Some(id) = id else { continue };
        let mut properties = options.defaults_of(&parallel::CLASS);
        // The class has this property, and a port's number is in its range.
        let _ = properties.set("index", &index.to_string());
        let origin = format!("-parallel chardev:{id}");
        let place = board(Place::Board);
        plug(&origin, &properties, place, &|_| Some(id.clone()))?;
    }
    for (index, id) in options.debugcons.iter().flatten().enumerate() {
        let properties = options.defaults_of(&debugcon::CLASS);
        let origin = format!("-debugcon chardev:{id}");
        // As QEMU, which takes this option once.
        let place = match index {
            0 => Place::Id("debugcon"),
            _ => Place::Anonymous,
        };
        plug(&origin, &properties, board(place), &|_| Some(id.clone()))?;
    }
    for device in &options.devices {
        let what = match device.properties.class().name {
            name if name == debugcon::CLASS.name => "debugcon",
            name if name == parallel::CLASS.name => "parallel",
            _ => "",
        };
        if !what.is_empty() && device.properties.text("chardev").is_none() {
            // As QEMU: a console into nothing is a mistake. A serial port without a line is not.
            let reason = format!("Can't create {what} device, empty char device");
            return Err(OptionError::new(&device.origin, &reason));
        }
        let plugging = Plugging {
            place: device.id.as_deref().map_or(Place::Anonymous, Place::Id),
            bus: device.bus.as_deref(),
            rom: match &device.romfile {
                Some(name) => expansion_rom(options, device, name)?,
                None => ExpansionRom::default(),
            },
        };
        let line = |name: &str| device.properties.text(name).map(str::to_owned);
        plug(&device.origin, &device.properties, plugging, &line)?;
    }
    Ok(())
}

/// Reads a PCI device's expansion ROM. What is wrong with it is said in QEMU's words.
fn expansion_rom(
    options: &Options,
    device: &DeviceOption,
    name: &str,
) -> Result<ExpansionRom<'static>, OptionError> {
    let refused = |reason: &str| OptionError::new(&device.origin, reason);
    let path = options.find_firmware(name);
    let Ok((_, metadata)) = open(&path) else {
        return Err(refused(&format!("failed to find romfile \"{name}\"")));
    };
    let most = u64::from(config::ROM_MAX);
    if metadata.is_file() && metadata.len() > most {
        let most = most >> 20;
        let reason = format!("romfile \"{name}\" too large (size cannot exceed {most} MiB)");
        return Err(refused(&reason));
    }
    if metadata.len() == 0 {
        return Err(refused(&format!("romfile \"{name}\" is empty")));
    }
    let bytes = read_file(&device.origin, &path, most)?;
    let size = device.properties.uint(PCI_ROMSIZE);
    if let Some(size) = size.filter(|size| size.is_power_of_two() && (bytes.len() as u64) > *size) {
        let length = bytes.len();
        let reason =
            format!("romfile \"{name}\" ({length} bytes) is too large for ROM size {size}");
        return Err(refused(&reason));
    }
    Ok(ExpansionRom {
        name: String::leak(name.to_owned()),
        bytes: bytes.leak(),
    })
}
