//! Images and drives of the command line, and the devices that have them.

use std::rc::Rc;

use thimble_core::devices::class::{PropertyValues, Value};
use thimble_core::machine::{CLASSES, Place, Plugged};
use thimble_core::qmp::Parser;
use thimble_core::qom::VIRTIO_BACKEND;
use thimble_monitor::schema::arguments::BlockdevOptions;
use thimble_monitor::schema::read_option;

use crate::block::Graph;
use crate::block::backend::{Backend, Device, OnError};
use crate::block::node::{Need, Permissions, Settings};
use crate::options::{BlockOption, DeviceOption, Interface, OptionError, Options, set_property};

/// What is refused, with the hint that may stand on a line of its own.
pub(super) fn refused(origin: &str, reason: &str) -> OptionError {
    OptionError::new(origin, &reason.replace('\n', ". "))
}

/// Opens the images, those of `-blockdev` first, as they may be what a `-drive` names.
pub(super) fn open(options: &Options, blocks: &Graph) -> Result<(), OptionError> {
    for option in &options.blocks {
        if let BlockOption::Node { text, origin } = option {
            let refused = |reason: &str| refused(origin, reason);
            let mut parser = Box::new(Parser::new());
            let node = read_option::<BlockdevOptions<'_>>(&mut parser, text);
            let node = node.map_err(|error| refused(&error.to_string()))?;
            blocks.add(&node).map_err(|reason| refused(&reason))?;
        }
    }
    for option in &options.blocks {
        if let BlockOption::Drive(drive) = option {
            let opened = blocks.open_drive(&drive.id, &drive.image);
            opened.map_err(|reason| refused(&drive.origin, &reason))?;
        }
    }
    Ok(())
}

/// Devices that drives of the command line come with: disks, where the interface says what they are behind.
pub(super) fn devices(options: &Options) -> Result<Vec<DeviceOption>, OptionError> {
    let mut devices = Vec::new();
    for option in &options.blocks {
        let BlockOption::Drive(drive) = option else {
            continue;
        };
        let (class, bus) = match (drive.interface, drive.cdrom) {
            (Interface::None | Interface::Pflash, _) => continue,
            (Interface::Virtio, _) => ("virtio-blk-pci", None),
            (Interface::Ide, false) => ("ide-hd", Some(format!("ide.{}", drive.bus))),
            (Interface::Ide, true) => ("ide-cd", Some(format!("ide.{}", drive.bus))),
            (Interface::Floppy, _) => ("floppy", None),
        };
        let refused = |reason: String| OptionError::new(&drive.origin, &reason);
        let known = CLASSES.iter().find(|known| known.name == class);
        let known = known.ok_or_else(|| {
            let name = drive.interface.name();
            refused(format!("if={name} is not available"))
        })?;
        let mut properties = options.defaults_of(known);
        let mut values = vec![("drive", drive.id.clone())];
        if drive.interface != Interface::Virtio {
            values.push(("unit", drive.unit.to_string()));
        }
        for (name, value) in values {
            set_property(&mut properties, name, &value).map_err(&refused)?;
        }
        devices.push(DeviceOption {
            id: None,
            bus,
            romfile: None,
            properties,
            origin: drive.origin.clone(),
        });
    }
    // The board has floppy drives in the order of their units, whatever the options' order was.
    devices.sort_by_key(|device| match device.properties.class().name {
        "floppy" => 1 + device.properties.uint("unit").unwrap_or(0),
        _ => 0,
    });
    Ok(devices)
}

/// The drive that a device is to have. One that is named by its node gets made.
pub(super) fn find(
    properties: &PropertyValues,
    blocks: &Graph,
) -> Result<Option<Rc<Backend>>, String> {
    let class = properties.class().name;
    if properties.get("drive") == &Value::Unset && !class.starts_with("virtio-blk") {
        let without = match class {
            "ide-cd" | "floppy" => Ok(Some(None)),
            "ide-hd" => Err("No drive specified".to_owned()),
            _ => Ok(None),
        };
        return Ok(without?.map(|_: Option<()>| {
            let drive = Backend::new("");
            drive.last.set(Settings {
                read_only: true,
                ..Settings::PLAIN
            });
            blocks.add_drive(drive.clone());
            drive
        }));
    }
    let Some(name) = properties.text("drive") else {
        return Err("drive property not set".to_owned());
    };
    let drive = match (blocks.drive(name), blocks.node(name)) {
        (Some(drive), _) => {
            if drive.device.borrow().is_some() {
                return Err(format!(
                    "Drive '{name}' is already in use by another device"
                ));
            }
            drive
        }
        (None, Some(node)) => {
            let drive = Backend::new("");
            blocks.insert(&drive, &node)?;
            blocks.add_drive(drive.clone());
            drive
        }
        (None, None) => {
            let class = match class.strip_suffix("-pci") {
                Some(start) => format!("{start}-device"),
                None => class.to_owned(),
            };
            return Err(format!(
                "Property '{class}.drive' can't find value '{name}'"
            ));
        }
    };
    let has_media = matches!(class, "ide-cd" | "floppy");
    if !has_media && drive.root.borrow().is_none() {
        return Err("Device needs media, but drive is empty".to_owned());
    }
    Ok(Some(drive))
}

/// Gives a drive to the device that has just been plugged in.
pub(super) fn attach(
    drive: &Backend,
    properties: &PropertyValues,
    plugged: &Plugged,
    anonymous: usize,
    blocks: &Graph,
) -> Result<(), String> {
    let class = properties.class().name;
    let Some(number) = plugged.drive() else {
        return Err(format!("'{class}' has no drive"));
    };
    // The device with the drive is one below the function.
    let virtio = class == "virtio-blk-pci";
    let removable = matches!(class, "ide-cd" | "floppy");
    let path = match plugged.place() {
        Place::Id(id) => format!("/machine/peripheral/{id}"),
        Place::Anonymous => format!("/machine/peripheral-anon/device[{anonymous}]"),
        // Its number is known when the board stands.
        Place::Board => "/machine/unattached".to_owned(),
    };
    let path = match virtio {
        true => format!("{path}/{VIRTIO_BACKEND}"),
        false => path,
    };
    let shown = match plugged.place() {
        Place::Id(id) if !virtio => id.to_owned(),
        _ => path.clone(),
    };
    let mut shares = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED;
    if !removable {
        shares |= Permissions::RESIZE;
    }
    if properties.is_on("share-rw") {
        shares |= Permissions::WRITE;
    }
    let mut uses = Permissions::CONSISTENT_READ;
    if class != "ide-cd" {
        uses |= Permissions::WRITE;
    }
    let policy = |name: &str| {
        let known = properties.text(name).and_then(OnError::from_name);
        known.filter(|known| *known != OnError::Auto)
    };
    if let Some(action) = policy("rerror") {
        drive.on_read_error.set(action);
    }
    if let Some(action) = policy("werror") {
        drive.on_write_error.set(action);
    }
    match properties.text("write-cache") {
        Some("on") => drive.write_cache.set(true),
        Some("off") => drive.write_cache.set(false),
        _ => {}
    }
    let device = Device {
        drive: number,
        path,
        shown,
        removable,
        has_tray: class == "ide-cd",
        need: Need { uses, shares },
        read_only: class == "ide-cd",
        thread: properties.text("iothread").map(str::to_owned),
    };
    if class == "ide-hd" && drive.medium().is_some_and(|medium| medium.read_only) {
        return Err("Block node is read-only".to_owned());
    }
    blocks.attach(drive, device)?;
    if class == "floppy" {
        // Its requests never stop the machine.
        drive.has_status.set(false);
    }
    Ok(())
}
