//! Builds the images that the binary carries, so that `cargo build` alone gives a working program.

#[allow(dead_code, unreachable_pub)]
#[path = "../firmware/builder.rs"]
mod builder;

use std::path::PathBuf;

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let workspace = root.join("..");
    println!("cargo:rerun-if-changed=../firmware");
    for image in builder::IMAGES.iter().filter(|image| image.embedded) {
        let rom =
            builder::build(image.name, &workspace, &out.join("firmware")).unwrap_or_else(|error| {
                eprintln!("{error}");
                std::process::exit(1)
            });
        std::fs::write(out.join(format!("{}.rom", image.name)), rom).expect("OUT_DIR is writable");
    }
}
