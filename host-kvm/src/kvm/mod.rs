//! The KVM accelerator: the virtual machine, its processors and what CPUID shows them.

mod controllers;
mod cpuid;
mod debug;
mod dump;
mod error;
mod inspect;
mod outside;
mod routes;
mod state;
mod vcpu;
mod vm;

pub use controllers::Instant;
pub use cpuid::offer;
pub use debug::{NoRegister, Plan};
pub use error::KvmError;
pub use kvm_ioctls::Kvm;
pub use routes::Routes;
pub use vcpu::{ExitHandler, Pauser, SystemEvent, VcpuStop, Vcpus};
pub use vm::{Irqchip, LostTicks, Vm, open, x2apic_outside};
