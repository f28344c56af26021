//! CPU state, as both accelerators share it.
