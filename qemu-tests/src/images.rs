//! The firmware images that run in both emulators.
//!
//! `cargo xtask test` builds them and names their folder in `THIMBLE_IMAGES`; by default it is `target/firmware`.
//! An image is a file `NAME.rom`. A file `NAME.args` beside it holds more options for both emulators. An image whose
//! `NAME.needs` says `ring0` runs guest code that some kernels' instruction emulators can't run.

use std::path::{Path, PathBuf};

/// One image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The ROM file.
    pub path: PathBuf,
}

impl Image {
    /// The file's name without its ending.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// What the list of differences calls this image's test.
    pub fn test_name(&self) -> String {
        format!("firmware/{}", self.name())
    }

    /// More options that the image needs.
    pub fn args(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path.with_extension("args")).unwrap_or_default();
        text.split_whitespace().map(String::from).collect()
    }

    /// What the image needs from the processor, if that isn't everywhere.
    pub fn needs(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.path.with_extension("needs")).ok()?;
        Some(text.trim().to_string())
    }
}

/// The folder of images.
pub fn directory() -> PathBuf {
    match std::env::var_os("THIMBLE_IMAGES") {
        Some(path) => PathBuf::from(path),
        None => crate::workspace_dir().join("target/firmware"),
    }
}

/// All images that have been built, by name.
pub fn all() -> Vec<Image> {
    let mut images: Vec<_> = std::fs::read_dir(directory())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_rom(path))
        .map(|path| Image { path })
        .collect();
    images.sort_by(|a, b| a.path.cmp(&b.path));
    images
}

fn is_rom(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "rom")
}
