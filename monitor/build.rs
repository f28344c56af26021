//! Compiles the schema: tables and types for `src/schema/mod.rs`, and the reference page.

use std::path::{Path, PathBuf};

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let schema = compile(Path::new("schema/qmp.json"));
    write(
        &out.join("schema.rs"),
        &schema.rust().unwrap_or_else(|e| panic!("{e}")),
    );
    write(&out.join("reference.md"), &schema.page());
    // For tests of the argument check.
    let checks = compile(Path::new("tests/checks.json"));
    write(&out.join("checks.rs"), &checks.tables());
}

fn compile(path: &Path) -> thimble_qapi::Schema {
    let schema = thimble_qapi::Schema::read(path).unwrap_or_else(|error| panic!("{error}"));
    for file in &schema.files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    schema
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
