//! The binary `thimble`: everything is in the library, so that tests and fuzzers link it too.

// A debug build is linked with the standard library as it comes, which brings the real ones.
#[cfg(not(debug_assertions))]
mod stand_ins;

fn main() -> std::process::ExitCode {
    thimble_host::main()
}
