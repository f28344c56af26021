//! What is asked of processors while they run: where they are, how they translate addresses, and
//! the NMI that someone injects.
//!
//! Each question takes the one processor out of the guest for the time of the calls that it
//! needs, because KVM serves no other thread while a vCPU runs. The other processors run on. All
//! of this waits, so it is not for handlers, nor under a lock that a handler takes.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_lapic_state,
    kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use thimble_core::cpu::{PagingMode, PagingRegisters};

use super::error::KvmError;
use super::vcpu::Vcpus;
use super::vm::{Irqchip, Vm};

/// IA32_APIC_BASE: the local APIC is there at all.
const APIC_GLOBAL_ENABLE: u64 = 1 << 11;
/// Offset of the local APIC's register "LVT LINT1".
const LVT_LINT1: usize = 0x360;
/// Its mask bit.
const LVT_MASKED: u32 = 1 << 16;
/// Its delivery mode, bits 10 to 8, and the mode NMI there.
const LVT_DELIVERY_MODE: u32 = 7 << 8;
const LVT_NMI: u32 = 4 << 8;

/// What a processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// It executes nothing: it is in a HLT, or waits to be started by another processor.
    pub halted: bool,
    /// The linear address of the instruction that it is at.
    pub pc: u64,
}

impl Vcpus {
    /// What a processor is doing.
    pub fn glance(&self, index: u32) -> Result<Glance, KvmError> {
        self.visit(index, |vm, fd, halted| {
            Ok(Glance {
                // First of all: it lets the kernel act on a start-up IPI that waits.
                halted: halted || idle(vm, fd)?,
                pc: pc(&system_registers(fd)?, registers(fd)?.rip),
            })
        })
    }

    /// The registers by which a processor translates linear addresses.
    pub fn paging(&self, index: u32) -> Result<PagingRegisters, KvmError> {
        self.visit(index, |_, fd, _| Ok(paging(&system_registers(fd)?)))
    }

    /// Asserts the platform's NMI, which is wired to LINT1 of all processors. Each takes it if its
    /// local APIC lets it through; a processor without one, or whose is off, takes it directly
    /// (Intel SDM volume 3, chapter "APIC", "Local Vector Table" and "Enabling or Disabling the
    /// Local APIC"). Tells how many took it.
    ///
    /// # Errors
    /// Whatever the kernel says; processors before the failing one have got theirs.
    pub fn inject_nmi(&self) -> Result<u32, KvmError> {
        let mut taken = 0;
        for index in 0..self.count() {
            taken += self.visit(index, |vm, fd, _| {
                if !takes_nmi(vm, fd)? {
                    return Ok(0);
                }
                fd.nmi().map_err(KvmError::call("injecting an NMI"))?;
                Ok(1)
            })?;
        }
        Ok(taken)
    }
}

fn registers(fd: &VcpuFd) -> Result<kvm_bindings::kvm_regs, KvmError> {
    fd.get_regs()
        .map_err(KvmError::call("reading the registers"))
}

fn system_registers(fd: &VcpuFd) -> Result<kvm_sregs, KvmError> {
    fd.get_sregs()
        .map_err(KvmError::call("reading the system registers"))
}

fn idle(vm: &Vm, fd: &VcpuFd) -> Result<bool, KvmError> {
    if vm.irqchip() == Irqchip::None {
        // The kernel keeps no account of it: a HLT is an exit.
        return Ok(false);
    }
    let state = fd
        .get_mp_state()
        .map_err(KvmError::call("reading the activity"))?;
    Ok(matches!(
        state.mp_state,
        KVM_MP_STATE_HALTED | KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED
    ))
}

fn paging(sregs: &kvm_sregs) -> PagingRegisters {
    PagingRegisters {
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
    }
}

/// The linear address of `rip`: without CS in 64-bit code, and of 32 bits in any other.
fn pc(sregs: &kvm_sregs, rip: u64) -> u64 {
    match paging(sregs).mode() {
        PagingMode::Level4 | PagingMode::Level5 if sregs.cs.l != 0 => rip,
        _ => sregs.cs.base.wrapping_add(rip) & u64::from(u32::MAX),
    }
}

fn takes_nmi(vm: &Vm, fd: &VcpuFd) -> Result<bool, KvmError> {
    if vm.irqchip() == Irqchip::None {
        return Ok(true);
    }
    if system_registers(fd)?.apic_base & APIC_GLOBAL_ENABLE == 0 {
        return Ok(true);
    }
    let apic = fd
        .get_lapic()
        .map_err(KvmError::call("reading the local APIC"))?;
    let entry = lvt_lint1(&apic);
    Ok(entry & LVT_MASKED == 0 && entry & LVT_DELIVERY_MODE == LVT_NMI)
}

fn lvt_lint1(apic: &kvm_lapic_state) -> u32 {
    let bytes = apic.regs[LVT_LINT1..].iter().take(4);
    bytes
        .rev()
        .fold(0, |v, byte| v << 8 | u32::from(*byte as u8))
}
