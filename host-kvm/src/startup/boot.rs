//! What firmware is told about booting, and option ROMs.

use thimble_core::devices::class::Value;
use thimble_core::devices::fdc;
use thimble_core::firmware::BootSettings;
use thimble_core::firmware::FwCfgError;
use thimble_core::firmware::boot_order::FILE_MAX;
use thimble_core::machine::{Machine, OptionRomError};

use super::read_file;
use crate::options::{OptionError, Options};

/// Bytes of a picture or an option ROM at most.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// The first serial port, whose console SeaBIOS can be.
const SERIAL: u16 = 0x3f8;

/// What the options say, with the picture read.
///
/// # Errors
/// Letters that no PC boots from, a picture that can't be read.
pub(super) fn settings(options: &Options) -> Result<BootSettings<'static>, OptionError> {
    let boot = &options.boot;
    let refused = |reason: &str| OptionError::new(&boot.origin, reason);
    let (order, once) = boot
        .letters(options.machine.kind)
        .map_err(|error| refused(&error.to_string()))?;
    let splash = match &boot.splash {
        None => None,
        Some(name) => {
            let path = options.find_firmware(name);
            if !path.exists() {
                return Err(refused(&format!("failed to find file '{name}'")));
            }
            let picture = read_file(&boot.origin, &path, FILE_SIZE_MAX)?;
            let file = picture_file(&picture).ok_or_else(|| {
                let wanted = "must be JPEG or 24 bit BMP";
                refused(&format!(
                    "splash file '{name}' format not recognized; {wanted}"
                ))
            })?;
            Some((file, &*picture.leak()))
        }
    };
    Ok(BootSettings {
        order,
        once,
        menu: boot.menu,
        splash_time: boot.splash_time,
        splash,
        reboot_timeout: boot.reboot_timeout,
        strict: boot.strict,
        floppy_signature: !boot.no_floppy_signature,
        serial_console: options.serial_console.then_some(SERIAL),
    })
}

/// The name under which firmware looks for a picture of this format.
fn picture_file(picture: &[u8]) -> Option<&'static str> {
    /// Where a BMP tells its bits a pixel.
    const DEPTH: usize = 28;
    match picture {
        _ if picture.len() < DEPTH + 2 => None,
        [0xff, 0xd8, ..] => Some("bootsplash.jpg"),
        [b'B', b'M', ..] if picture.get(DEPTH..DEPTH + 2) == Some(&[24, 0]) => {
            Some("bootsplash.bmp")
        }
        _ => None,
    }
}

/// Reads the option ROMs.
///
/// # Errors
/// A ROM that can't be read or has no place.
pub(super) fn add_option_roms(
    options: &Options,
    machine: &mut Machine<'static>,
) -> Result<(), OptionError> {
    for rom in &options.option_roms {
        let refused = |reason: &str| OptionError::new(&rom.origin, reason);
        let path = options.find_firmware(&rom.file);
        let bytes = read_file(&rom.origin, &path, FILE_SIZE_MAX)?;
        machine
            .add_option_rom(&rom.file, bytes.leak(), rom.bootindex)
            .map_err(|error| match error {
                OptionRomError::File(FwCfgError::Taken) => {
                    let name = rom.file.rsplit('/').next().unwrap_or_default();
                    refused(&format!("duplicate fw_cfg file name: genroms/{name}"))
                }
                error => refused(&error.to_string()),
            })?;
    }
    Ok(())
}

/// Adds floppy drives to the boot order, which are in it by the controller's properties, whether they are there or not.
///
/// # Errors
/// Another device has the place.
pub(super) fn add_floppies(
    options: &Options,
    machine: &mut Machine<'static>,
) -> Result<(), OptionError> {
    let values = options.defaults_of(&fdc::CLASS);
    for (name, path) in fdc::BOOT_INDICES.into_iter().zip(fdc::BOOT_PATHS) {
        let index = match values.get(name) {
            Value::Int(index) => i32::try_from(*index).unwrap_or(-1),
            _ => -1,
        };
        machine.add_boot_entry(index, path).map_err(|error| {
            let origin = format!("-global {}.{name}={index}", fdc::CLASS.name);
            OptionError::new(&origin, &error.to_string())
        })?;
    }
    Ok(())
}

/// Makes the boot order of a machine whose devices are all there.
///
/// # Errors
/// There are too many files for firmware.
pub(super) fn add_order(machine: &mut Machine<'static>) -> Result<(), OptionError> {
    let memory = Box::leak(Box::new([0; FILE_MAX]));
    machine
        .add_boot_order(memory)
        .map_err(|error| OptionError::new("bootindex", &error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_told_apart() {
        let jpeg = [0xff, 0xd8].repeat(15);
        assert_eq!(picture_file(&jpeg), Some("bootsplash.jpg"));
        assert_eq!(picture_file(&jpeg[..28]), None);
        let mut bmp = [0; 30];
        bmp[..2].copy_from_slice(b"BM");
        assert_eq!(picture_file(&bmp), None);
        bmp[28] = 24;
        assert_eq!(picture_file(&bmp), Some("bootsplash.bmp"));
        assert_eq!(picture_file(&bmp[..29]), None);
        assert_eq!(picture_file(b""), None);
    }
}
