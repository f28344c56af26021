//! Guest RAM as devices see it: checked copies by guest physical address.
//!
//! The guest, the kernel and I/O threads write to the same bytes at any moment, so RAM is never
//! a Rust slice: every access goes through a raw pointer with relaxed byte-wise atomics.

mod code_marks;
mod map;
mod ram;

pub use code_marks::{CodeMarks, Written};
pub use map::{Backing, MapFull, MemoryMap, REGIONS_MAX, Region};
pub use ram::{ArrayRam, Block, Exchange, GuestRam, MarkedRam, RamError};
