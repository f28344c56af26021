//! The binary `thimble`: everything is in the library, so that tests and fuzzers link it too.

fn main() -> std::process::ExitCode {
    thimble_host::main()
}
