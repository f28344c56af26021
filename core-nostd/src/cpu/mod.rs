//! The processor: its state, its models and their features.

pub mod alu;
pub mod debugger;
pub mod decode;
pub mod features;
mod mappings;
pub mod mmu;
pub mod models;
mod msr;
mod paging;
mod registers;
pub mod soft;
mod state;

pub use mappings::{Listed, Mapping, ReadPhysical, TABLES_MAX};
pub use mmu::{PagingMode, PagingRegisters};
pub use msr::{MTRR_VARIABLE, MsrValue, Msrs, OTHER_MSRS_MAX, index as msr_index};
pub use paging::{TranslateError, Translation};
pub use registers::Registers;
pub use state::{
    Activity, Bytes, CpuState, DescriptorTable, Events, ExtendedState, FpuState, LocalApicState,
    PendingException, PendingInterrupt, Segment, XSAVE_EXTENDED_BYTES, gpr,
};
