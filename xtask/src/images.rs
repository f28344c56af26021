//! Firmware images, as `firmware/builder.rs` describes them.

// xtask does not look at every property of an image.
#[allow(dead_code)]
#[path = "../../firmware/builder.rs"]
mod builder;

use std::fs;
use std::path::PathBuf;

use crate::build;

/// Where cargo builds images; tests look there, too.
fn cargo_folder() -> PathBuf {
    build::target().join("images")
}

/// Builds all images into `target/firmware`, and returns the paths of the ROMs. What tests load as kernels is built as well.
///
/// Test images become `NAME.rom` there, with their options in `NAME.args` and what they need of the processor in
/// `NAME.needs`; the others, which say nothing to compare, become `other/NAME.rom`.
pub(crate) fn build_all() -> Result<Vec<PathBuf>, String> {
    let folder = build::target().join("firmware");
    let other = folder.join("other");
    let show = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&other).map_err(show)?;
    // An image that no longer exists must not be run.
    for folder in [&folder, &other] {
        for entry in fs::read_dir(folder).map_err(show)? {
            let path = entry.map_err(show)?.path();
            let end = path.extension().and_then(|end| end.to_str());
            if matches!(end, Some("rom" | "args" | "needs")) {
                fs::remove_file(&path).map_err(show)?;
            }
        }
    }
    let mut roms = Vec::new();
    for image in builder::IMAGES {
        let used = builder::build(image.name, build::root(), &cargo_folder())?;
        let place = if image.test { &folder } else { &other };
        let rom = place.join(format!("{}.rom", image.name));
        fs::write(&rom, builder::pad(&used)).map_err(show)?;
        if !image.options.is_empty() {
            fs::write(rom.with_extension("args"), image.options.join(" ")).map_err(show)?;
        }
        if image.ring0 {
            fs::write(rom.with_extension("needs"), "ring0").map_err(show)?;
        }
        roms.push(rom);
    }
    let option_rom = builder::build_option_rom(build::root(), &cargo_folder())?;
    let rom = other.join("option_rom.rom");
    fs::write(&rom, option_rom).map_err(show)?;
    roms.push(rom);
    for kernel in builder::KERNELS {
        builder::build_kernel(kernel, build::root(), &cargo_folder())?;
    }
    Ok(roms)
}

/// Builds one image and returns the path of its ROM, in `target/firmware/other`.
pub(crate) fn rom(name: &str) -> Result<String, String> {
    let place = build::target().join("firmware/other");
    let used = builder::build(name, build::root(), &cargo_folder())?;
    let rom = place.join(format!("{name}.rom"));
    fs::create_dir_all(&place)
        .and_then(|()| fs::write(&rom, builder::pad(&used)))
        .map_err(|error| format!("{}: {error}", rom.display()))?;
    Ok(rom.to_string_lossy().into_owned())
}

/// The images that the binary carries: their names and the bytes that are stored.
pub(crate) fn embedded() -> Result<Vec<(String, Vec<u8>)>, String> {
    let images = builder::IMAGES.iter().filter(|image| image.embedded);
    images
        .map(|image| {
            let used = builder::build(image.name, build::root(), &cargo_folder())?;
            Ok((image.name.to_string(), used))
        })
        .collect()
}
