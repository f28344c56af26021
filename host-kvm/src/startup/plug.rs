//! The devices of the command line.

use thimble_core::devices::block::DriveId;
use thimble_core::devices::class::{DeviceClass, PCI_ROMSIZE, PropertyKind, PropertyValues, Value};
use thimble_core::devices::vmgenid::{self, GenerationId};
use thimble_core::devices::{debugcon, parallel, serial};
use thimble_core::machine::{ExpansionRom, Machine, Place, Plugged, Plugging, SERIAL_MAX};
use thimble_core::pci::config;
use thimble_core::virtio::transport::IOEVENTFD;

use super::{chardev, drives, open, read_file};
use crate::block::Graph;
use crate::chardev::{ChardevId, Chardevs};
use crate::objects::Objects;
use crate::options::{DeviceOption, MachineKind, OptionError, Options};
use crate::report;
use crate::vm::{CONSOLES_MAX, DiskSettings};

/// Plugs in the devices of the command line, the default ones first. Gives the disks whose queues can be lent.
pub(super) fn plug_devices(
    options: &Options,
    machine: &mut Machine<'static>,
    chardevs: &mut Chardevs,
    consoles: &mut [Option<ChardevId>; CONSOLES_MAX],
    blocks: &Graph,
    made: &Objects,
) -> Result<Vec<DiskSettings>, OptionError> {
    let mut disks = Vec::new();
    let mut plug = |origin: &str,
                    properties: &PropertyValues,
                    plugging: Plugging<'_, 'static>,
                    behind: &dyn Fn(&str) -> Option<String>| {
        let mut lines = Vec::new();
        for property in properties.class().all_properties() {
            if property.kind == PropertyKind::Chardev
                && let Some(id) = behind(property.name)
            {
                lines.push((property.name, chardev(chardevs, &id)?));
            }
        }
        let refused = |reason: &str| drives::refused(origin, reason);
        let has_drive = properties
            .class()
            .all_properties()
            .any(|property| property.kind == PropertyKind::Drive);
        let thread = match properties.text("iothread") {
            Some(id) => Some(made.link_iothread(id).map_err(|reason| refused(&reason))?),
            None => None,
        };
        let drive = match has_drive {
            true => drives::find(properties, blocks).map_err(|reason| refused(&reason))?,
            false => None,
        };
        let plugged = machine.plug_on(properties, plugging);
        let plugged = plugged.map_err(|error| refused(&error.to_string()))?;
        if let (Some(drive), Some((last, others))) = (drive, machine.plugged().split_last()) {
            let anonymous = others
                .iter()
                .filter(|other| other.place() == Place::Anonymous);
            let attached = drives::attach(&drive, properties, last, anonymous.count(), blocks);
            attached.map_err(|reason| refused(&reason))?;
            let lendable = last.drive().filter(|drive| machine.is_lendable(*drive));
            if let Some(drive) = lendable {
                disks.push(DiskSettings {
                    drive,
                    thread: thread.clone(),
                    // In memory it is the place that says so.
                    ioeventfd: match properties.get(IOEVENTFD) {
                        Value::Bool(on) => *on,
                        _ => machine.has_virtio_ioeventfd(),
                    },
                });
            }
            if let Some(number) = last_drive(machine) {
                machine.first_medium(number, drive.medium());
            }
        }
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
    let has_ports = options.machine.isa_serial || options.machine.kind != MachineKind::Microvm;
    for (index, id) in options.serials.iter().enumerate().take(SERIAL_MAX) {
        let Some(id) = id else { continue };
        if !has_ports {
            // QEMU's board leaves the character device without a word.
            report(format_args!(
                "warning: -serial chardev:{id}: not used, as there is no port with isa-serial=off"
            ));
            continue;
        }
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
    // Disks of the board's own controllers come with the board; others behind the user's devices.
    let drives = drives::devices(options)?;
    let (others, boards): (Vec<_>, Vec<_>) = drives
        .iter()
        .partition(|device| is_virtio(device.properties.class()));
    let boards = boards.into_iter().map(|device| (device, true));
    let later = options.devices.iter().chain(others);
    for (device, on_board) in boards.chain(later.map(|device| (device, false))) {
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
            place: match device.id.as_deref() {
                Some(id) => Place::Id(id),
                None if on_board => Place::Board,
                None => Place::Anonymous,
            },
            bus: device.bus.as_deref(),
            rom: match &device.romfile {
                Some(name) => expansion_rom(options, device, name)?,
                None => ExpansionRom::default(),
            },
        };
        let line = |name: &str| device.properties.text(name).map(str::to_owned);
        let mut properties = device.properties.clone();
        let guid = properties.text(vmgenid::GUID).unwrap_or(vmgenid::AUTO);
        if properties.class().name == vmgenid::CLASS.name && guid == vmgenid::AUTO {
            let random = GenerationId(random_uuid()).to_string();
            // The class has this property, and takes UUIDs.
            let _ = properties.set(vmgenid::GUID, &random);
        }
        plug(&device.origin, &properties, plugging, &line)?;
    }
    Ok(disks)
}

/// What the drive of the device that was plugged in last is known by.
fn last_drive(machine: &Machine<'_>) -> Option<DriveId> {
    machine.plugged().last().and_then(Plugged::drive)
}

/// A UUID by chance (RFC 9562, version 4).
fn random_uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: the pointer and the length are those of the array.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

fn is_virtio(class: &DeviceClass) -> bool {
    class.name.starts_with("virtio-")
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
