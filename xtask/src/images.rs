//! Firmware images: each binary of `firmware/` becomes a flat ROM of 64 KiB.

use std::path::{Path, PathBuf};

use crate::build;

/// Where a ROM is linked: just below 1 MiB, where every pc shows it.
const ROM_BASE: u64 = 0xf_0000;
const ROM_SIZE: usize = 0x1_0000;

/// Builds all images into `target/firmware`, and returns their paths.
pub(crate) fn build_all() -> Result<Vec<PathBuf>, String> {
    let folder = build::target().join("firmware");
    let show = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&folder).map_err(|error| show(&folder, error))?;
    let sources = build::root().join("firmware/src/bin");
    let mut roms = Vec::new();
    for entry in std::fs::read_dir(&sources).map_err(|error| show(&sources, error))? {
        let path = entry.map_err(|error| show(&sources, error))?.path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // Flags after `--` reach the image alone, so that no second target folder is needed.
        build::cargo(&[
            "rustc",
            "-q",
            "-p",
            "thimble-firmware",
            "--bin",
            &name,
            "--profile",
            "firmware",
            "--",
            "-C",
            "relocation-model=static",
            "-C",
            "no-redzone=yes",
        ])?;
        let elf = folder.join(&*name);
        let bytes = std::fs::read(&elf).map_err(|error| show(&elf, error))?;
        let flat = flatten(&bytes).ok_or_else(|| format!("{name}: not an image of this ROM"))?;
        let rom = folder.join(format!("{name}.rom"));
        std::fs::write(&rom, flat).map_err(|error| show(&rom, error))?;
        roms.push(rom);
    }
    roms.sort();
    Ok(roms)
}

/// Copies the loadable segments of an ELF64 file to where their physical addresses lie in the ROM.
fn flatten(elf: &[u8]) -> Option<Vec<u8>> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(elf.get(at..at.checked_add(size)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let headers = usize::try_from(number(0x20, 8)?).ok()?;
    let size = usize::try_from(number(0x36, 2)?).ok()?;
    let count = usize::try_from(number(0x38, 2)?).ok()?;
    let mut rom = vec![0xff; ROM_SIZE];
    for index in 0..count {
        let header = headers.checked_add(index * size)?;
        // Bounds the offsets within the header, too.
        elf.get(header..header.checked_add(0x38)?)?;
        let in_file = usize::try_from(number(header + 0x20, 8)?).ok()?;
        if number(header, 4)? != 1 || in_file == 0 {
            continue;
        }
        let from = usize::try_from(number(header + 8, 8)?).ok()?;
        let to = usize::try_from(number(header + 0x18, 8)?.checked_sub(ROM_BASE)?).ok()?;
        let bytes = elf.get(from..from.checked_add(in_file)?)?;
        rom.get_mut(to..to.checked_add(in_file)?)?
            .copy_from_slice(bytes);
    }
    Some(rom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert_eq!(flatten(b""), None);
        assert_eq!(flatten(&[0xff; 256]), None);
        let mut wild = vec![0xff; 256];
        wild[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(flatten(&wild), None);
    }
}
