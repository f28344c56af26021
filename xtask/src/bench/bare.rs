//! The yardstick for exits: the least that a user of KVM can do, `KVM_RUN` in a loop that looks at the port and
//! goes on.

use std::time::Instant;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit};

use super::roms::{MARK_PORT, SIZE};

/// A ROM as the kernel wants it: in whole pages.
#[repr(align(4096))]
struct Pages([u8; SIZE]);

/// Runs a ROM of [`SIZE`] bytes until it has written to [`MARK_PORT`] so many times; tells when it did.
pub(super) fn run(rom: &[u8], marks: usize) -> Result<Vec<Instant>, String> {
    let mut pages = Box::new(Pages([0; SIZE]));
    pages.0.copy_from_slice(rom);
    let call = |error: kvm_ioctls::Error| format!("the bare KVM_RUN loop: {error}");
    let kvm = Kvm::new().map_err(call)?;
    let vm = kvm.create_vm().map_err(call)?;
    // What thimble and QEMU have in the kernel, too: exits pass by it.
    vm.set_tss_address(0xfeff_d000).map_err(call)?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: 0x1_0000_0000 - SIZE as u64,
        memory_size: SIZE as u64,
        userspace_addr: pages.0.as_ptr() as u64,
    };
    // SAFETY: the guest only reads these pages, and they outlive the machine: `pages` is dropped after `vm`.
    unsafe { vm.set_user_memory_region(slot) }.map_err(call)?;
    vm.create_irq_chip().map_err(call)?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(call)?;
    let mut vcpu = vm.create_vcpu(0).map_err(call)?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(call)?;
    vcpu.set_cpuid2(&cpuid).map_err(call)?;
    let mut times = Vec::with_capacity(marks);
    while times.len() < marks {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(MARK_PORT, _)) => times.push(Instant::now()),
            Ok(VcpuExit::IoOut(..)) => {}
            Ok(other) => return Err(format!("the bare KVM_RUN loop: unexpected {other:?}")),
            Err(error) if error.errno() == 4 => {} // EINTR
            Err(error) => return Err(call(error)),
        }
    }
    Ok(times)
}
