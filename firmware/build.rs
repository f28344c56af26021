//! Links every image with our own scripts, without a C library or start files.

/// Images that are no ROMs at the end of memory, and their scripts: `builder.rs` says the same.
const OTHERS: &[(&str, &str)] = &[
    ("core_proof", "kernel.ld"),
    ("option_rom", "option.ld"),
    ("testdev", "plain.ld"),
    ("told_multiboot", "plain.ld"),
    ("told_pvh", "plain.ld"),
];

/// Images of assembly alone, which `ram.ld` puts into RAM.
const BARE: &[&str] = &[
    "cpu_apic",
    "cpu_long",
    "cpu_paging",
    "cpu_strict",
    "cpu_protected",
    "cpu_real",
    "debugged",
    "idle",
    "idle_ticks",
    "speed32",
    "speed64",
    "spin",
    "spin_ports",
];

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=rom.ld");
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=option.ld");
    println!("cargo:rerun-if-changed=plain.ld");
    println!("cargo:rerun-if-changed=ram.ld");
    println!("cargo:rerun-if-changed=src/bin");
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=4096",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,--gc-sections",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    let images = std::fs::read_dir(format!("{root}/src/bin")).expect("the folder of images");
    for image in images {
        let path = image.expect("an entry").path();
        let name = path.file_stem().expect("a file").to_string_lossy();
        let other = OTHERS.iter().find(|other| other.0 == name);
        let script = match other {
            Some(other) => other.1,
            None if BARE.contains(&&*name) => "ram.ld",
            None => "rom.ld",
        };
        println!("cargo:rustc-link-arg-bin={name}=-Wl,-T,{root}/{script}");
    }
}
