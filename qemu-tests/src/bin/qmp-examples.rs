//! Prints the facts that references of QMP commands hold: see `reference`. `qmp/examples.list` was made by it.
//!
//! The arguments are pairs of the QEMU version and the file, such as `0.15=qmp-commands.hx`.

use qemu_tests::reference;

fn main() {
    println!(
        "# What references of QMP commands say of arguments and replies, and the shapes of their examples."
    );
    println!(
        "# Made by `cargo run -p qemu-tests --bin qmp-examples VERSION=FILE...`; the format: src/reference.rs."
    );
    for argument in std::env::args().skip(1) {
        let (version, path) = argument.split_once('=').expect("VERSION=FILE");
        let text = std::fs::read_to_string(path).expect("a text");
        let commands = reference::parse(&text, version);
        let examples: usize = commands.iter().map(|command| command.examples.len()).sum();
        eprintln!("{path}: {} commands, {examples} examples", commands.len());
        print!("{}", reference::write(&commands));
    }
}
