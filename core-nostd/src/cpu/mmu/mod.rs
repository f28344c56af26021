//! The memory management unit of the software CPU.

mod tables;

pub(in crate::cpu) use tables::{Entry, Format};
#[cfg(test)]
pub(in crate::cpu) use tables::{PAGE_SIZE, PRESENT};
pub use tables::{PagingMode, PagingRegisters};
