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
use thimble_core::cpu::{CpuState, PagingRegisters, Registers};

use super::error::KvmError;
use super::state;
use super::vcpu::Vcpus;
use super::vm::{Irqchip, Vm};
use crate::registers::Glance;

/// IA32_APIC_BASE: the local APIC is there at all.
const APIC_GLOBAL_ENABLE: u64 = 1 << 11;
/// Offset of the local APIC's register "LVT LINT1".
const LVT_LINT1: usize = 0x360;
/// Its mask bit.
const LVT_MASKED: u32 = 1 << 16;
/// Its delivery mode, bits 10 to 8, and the mode NMI there.
const LVT_DELIVERY_MODE: u32 = 7 << 8;
const LVT_NMI: u32 = 4 << 8;

impl Vcpus {
    /// What a processor is doing.
    pub fn glance(&self, index: u32) -> Result<Glance, KvmError> {
        self.visit(index, |vm, fd, halted| {
            // First of all: it lets the kernel act on a start-up IPI that waits.
            let halted = halted || idle(vm, fd)?;
            let pc = registers(fd)?.pc();
            Ok(Glance { halted, pc })
        })
    }

    /// The registers by which a processor translates linear addresses.
    pub fn paging(&self, index: u32) -> Result<PagingRegisters, KvmError> {
        self.visit(index, |_, fd, _| Ok(paging(&system_registers(fd)?)))
    }

    /// Where a processor is, and what it sees.
    pub fn registers(&self, index: u32) -> Result<Registers, KvmError> {
        self.visit(index, |_, fd, _| registers(fd))
    }

    /// Asserts the platform's NMI, which is wired to LINT1 of all processors. Each takes it if its
    /// local APIC lets it through; a processor without one, or whose is off, takes it directly
    /// (Intel SDM volume 3, chapter "APIC", "Local Vector Table" and "Enabling or Disabling the
    /// Local APIC"). Tells how many took it.
    ///
    /// # Errors
    /// Whatever the kernel says; processors before the failing one have got theirs.
    pub fn inject_nmi(&self) -> Result<u32, KvmError> {
        if self.irqchip() == Irqchip::Off {
            return Ok(self.handler().pulse_nmi());
        }
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

fn registers(fd: &VcpuFd) -> Result<Registers, KvmError> {
    let general = fd
        .get_regs()
        .map_err(KvmError::call("reading the registers"))?;
    let mut state = CpuState::default();
    state::get_regs(&general, &mut state);
    state::get_sregs(&system_registers(fd)?, &mut state);
    Ok(Registers::from(&state))
}

fn system_registers(fd: &VcpuFd) -> Result<kvm_sregs, KvmError> {
    fd.get_sregs()
        .map_err(KvmError::call("reading the system registers"))
}

fn idle(vm: &Vm, fd: &VcpuFd) -> Result<bool, KvmError> {
    if !vm.irqchip().has_apics() {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use thimble_core::memory::{Backing, GuestRam, MemoryMap, Region};

    use super::*;
    use crate::cpuid::{CpuSpec, CpuidTable, Topology};
    use crate::kvm::{ExitHandler, VcpuStop, offer, open};
    use crate::memory::Ram;

    const RAM: u64 = 1 << 20;
    /// Page tables are here, and nothing else.
    const TABLES: u64 = 0x1000;
    const TABLES_END: u64 = 0x1_0000;

    const GIB: u64 = 1 << 30;

    struct Nobody;

    impl ExitHandler for Nobody {
        fn pio_in(&self, _cpu: u32, _port: u16, _width: u8, _data: &mut [u8]) {}
        fn pio_out(&self, _cpu: u32, _port: u16, _width: u8, _data: &[u8]) {}
        fn mmio_read(&self, _cpu: u32, _gpa: u64, _data: &mut [u8]) {}
        fn mmio_write(&self, _cpu: u32, _gpa: u64, _data: &[u8]) {}
        fn stopped(&self, _cpu: u32, _stop: VcpuStop) {}
    }

    fn processor() -> Option<(Arc<Ram>, Vcpus)> {
        let kvm = match open() {
            Ok(kvm) => kvm,
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return None;
            }
        };
        let ram = Arc::new(Ram::new(&[(0, RAM)]).unwrap());
        let mut map = MemoryMap::new();
        map.push(Region {
            gpa: 0,
            length: RAM,
            read: Backing::Ram,
            write_ram: true,
        })
        .unwrap();
        let one = Topology {
            sockets: 1,
            cores: 1,
            threads: 1,
        };
        let spec = CpuSpec::parse("max").unwrap();
        let (cpuid, _) = CpuidTable::new(offer(&kvm, Irqchip::On).unwrap(), &spec, one).unwrap();
        let vm = Vm::new(kvm, Irqchip::On, ram.clone(), None, &map).unwrap();
        let vcpus = Vcpus::new(Arc::new(vm), 1, &cpuid, Arc::new(Nobody)).unwrap();
        Some((ram, vcpus))
    }

    /// Numbers that look random and are the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) % end
        }
    }

    /// An entry that has no reserved bit of any mode, and mostly names a table.
    fn entry(numbers: &mut Numbers, wide: bool) -> u64 {
        let present = u64::from(numbers.below(8) != 0);
        let flags = present | numbers.below(32) << 1;
        if numbers.below(4) != 0 {
            let table = TABLES + numbers.below((TABLES_END - TABLES) >> 12) * 0x1000;
            return table | flags;
        }
        // A large page, of 1 GiB where that exists; bits 16 to 13 count with PSE-36 only.
        let most = if wide { 1 << 36 } else { 1 << 32 };
        let high = if wide { 0 } else { numbers.below(16) << 13 };
        numbers.below(most) & !0x3fff_ffff | high | 1 << 7 | flags
    }

    #[test]
    fn translates_as_the_kernel_does() {
        const PG_PE: u64 = 1 << 31 | 1;
        const PSE: u64 = 1 << 4;
        const PAE: u64 = 1 << 5;
        const LONG: u64 = 1 << 8 | 1 << 10;
        let Some((ram, vcpus)) = processor() else {
            return;
        };
        let mut numbers = Numbers(0x7468_696d_626c_6521);
        for (name, cr4, efer, bits) in [
            ("32 bits", 0, 0, 32),
            ("PSE", PSE, 0, 32),
            ("PAE", PAE, 0, 32),
            ("long", PAE, LONG, 48),
        ] {
            let wide = cr4 & PAE != 0;
            for at in (TABLES..TABLES_END).step_by(if wide { 8 } else { 4 }) {
                let bytes = entry(&mut numbers, wide).to_le_bytes();
                let size = if wide { 8 } else { 4 };
                ram.write(at, &bytes[..size]).unwrap();
            }
            // The flags of PAE's pointers and the page sizes of long mode's top are reserved.
            if name == "PAE" {
                for pointer in 0..4 {
                    let table = (TABLES + 0x1000 * (1 + pointer)) | 1;
                    ram.write(TABLES + 8 * pointer, &table.to_le_bytes())
                        .unwrap();
                }
            }
            let mut state = vcpus.state(0).unwrap();
            state.cr0 = PG_PE | 0x30;
            state.cr3 = TABLES;
            state.cr4 = cr4;
            state.efer = efer;
            state.cs.long = false;
            vcpus.set_state(0, &state).unwrap();
            let paging = vcpus.paging(0).unwrap();
            if paging != PagingRegisters::from(&state) {
                eprintln!("SKIPPED: {name}: this kernel has no such paging: {paging:x?}");
                continue;
            }
            let (mut mapped, mut not) = (0, 0);
            for _ in 0..4000 {
                let linear = numbers.below(1 << bits);
                let linear = ((linear << (64 - bits)) as i64 >> (64 - bits)) as u64;
                let linear = if bits == 32 {
                    linear & 0xffff_ffff
                } else {
                    linear
                };
                let ours = paging.translate(linear, |gpa, to| ram.read(gpa, to));
                let kernels = vcpus
                    .visit(0, |_, fd, _| {
                        Ok(fd
                            .translate_gva(linear)
                            .ok()
                            .filter(|found| found.valid != 0)
                            .map(|found| found.physical_address))
                    })
                    .unwrap();
                let start = paging.translate(linear & !(GIB - 1), |gpa, to| ram.read(gpa, to));
                if kernels.is_none() && start.is_ok_and(|found| found.length == GIB) {
                    // Not every processor has pages of that size.
                    continue;
                }
                assert_eq!(
                    ours.ok().map(|found| found.gpa),
                    kernels,
                    "{name}: {linear:#x}: {ours:x?}"
                );
                match kernels {
                    Some(_) => mapped += 1,
                    None => not += 1,
                }
            }
            assert!(mapped > 100 && not > 100, "{name}: {mapped} and {not}");
        }
    }
}
