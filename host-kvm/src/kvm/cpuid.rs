//! What CPUID can show under KVM, and the leaves of a processor as the kernel takes them.
//!
//! The hypervisor leaves are KVM's own paravirtual interface.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;
use thimble_core::cpu::features::{EXT_1_ECX, KVM_EAX, LEAF_1_ECX, LEAF_1_EDX, WORDS};

use super::error::KvmError;
use super::vm::{Irqchip, Vm, x2apic_outside};
use crate::cpuid::{CpuidTable, Leaf, Offer};

/// CPUID.1:ECX: there is a hypervisor.
const HYPERVISOR_BIT: u32 = 1 << 31;
/// CPUID.1:ECX: x2APIC, and the timer's deadline mode: both come from the in-kernel local APIC; the
/// machine's own ones have the first where the kernel lets its registers through.
const X2APIC_BIT: u32 = 1 << 21;
/// See [`X2APIC_BIT`].
const TSC_DEADLINE_BIT: u32 = 1 << 24;
/// CPUID.1:EDX: there is a local APIC.
const APIC_BIT: u32 = 1 << 9;
/// CPUID.1:EDX: several logical processors share a package.
const HTT_BIT: u32 = 1 << 28;
/// Features of models that no guest gets under KVM unless it asks for them, as in QEMU: ACPI's
/// thermal control, MONITOR, and nested virtualization.
const NOT_UNDER_KVM: [(usize, u32); 3] = [
    (LEAF_1_EDX, 1 << 22),
    (LEAF_1_ECX, 1 << 3),
    (EXT_1_ECX, 1 << 2),
];
/// CPUID.40000001:EAX: what the kernel does by its own local APICs only: asynchronous page faults,
/// ends of interrupts in memory, wake-ups of halted processors, several interrupts in one call,
/// yielding to another processor, and wide destinations of messages.
const IN_KERNEL_APIC: u32 =
    1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15;
/// What the hypervisor's first leaf says.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];

/// What this kernel can show.
///
/// # Errors
/// If it does not answer.
pub fn offer(kvm: &Kvm, irqchip: Irqchip) -> Result<Offer, KvmError> {
    let supported = Vm::supported_cpuid(kvm)?;
    let leaf = |entry: &kvm_cpuid_entry2| Leaf {
        leaf: entry.function,
        subleaf: entry.index,
        has_subleaf: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    };
    let mut offer = Offer {
        name: "host",
        host_is: None,
        leaves: supported.as_slice().iter().map(leaf).collect(),
        besides: [0; WORDS],
        without: [0; WORDS],
        withheld: [0; WORDS],
        always: [0; WORDS],
        hypervisor: KVM_SIGNATURE,
    };
    // The kernel lists neither of these: the first is the monitor's to say, the others come with
    // the in-kernel local APIC.
    offer.besides[LEAF_1_ECX] = HYPERVISOR_BIT | X2APIC_BIT | TSC_DEADLINE_BIT;
    offer.besides[LEAF_1_EDX] = APIC_BIT | HTT_BIT;
    if !irqchip.has_apics() {
        offer.without[LEAF_1_ECX] = TSC_DEADLINE_BIT;
        if !x2apic_outside(kvm) {
            offer.without[LEAF_1_ECX] |= X2APIC_BIT;
        }
        offer.without[KVM_EAX] = IN_KERNEL_APIC;
    }
    for (word, bit) in NOT_UNDER_KVM {
        offer.withheld[word] |= bit;
    }
    // These belong to every guest here, whatever its model is.
    offer.always[LEAF_1_ECX] = HYPERVISOR_BIT | X2APIC_BIT;
    offer.always[LEAF_1_EDX] = APIC_BIT;
    offer.always[KVM_EAX] = u32::MAX;
    Ok(offer)
}

/// The leaves of one processor, by its index.
pub(super) fn for_cpu(table: &CpuidTable, index: u32) -> Result<CpuId, KvmError> {
    let entry = |leaf: &Leaf| kvm_cpuid_entry2 {
        function: leaf.leaf,
        index: leaf.subleaf,
        flags: if leaf.has_subleaf {
            KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        } else {
            0
        },
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
        ..Default::default()
    };
    let entries: Vec<_> = table.for_cpu(index).iter().map(entry).collect();
    CpuId::from_entries(&entries[..entries.len().min(KVM_MAX_CPUID_ENTRIES)])
        .map_err(|_| KvmError::Unsupported("this many CPUID leaves"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::{CpuSpec, Topology};

    #[test]
    fn models_mask_the_host() {
        let Ok(kvm) = super::super::vm::open() else {
            eprintln!("SKIPPED: no usable /dev/kvm");
            return;
        };
        let topology = Topology {
            sockets: 1,
            cores: 2,
            threads: 2,
        };
        let offer = || offer(&kvm, Irqchip::On).unwrap();
        let spec = CpuSpec::parse("qemu64,-sse2").unwrap();
        let (table, _) = CpuidTable::new(offer(), &spec, topology).unwrap();
        let leaves = for_cpu(&table, 3).unwrap();
        let leaf = |function, index| {
            let at = |e: &&kvm_cpuid_entry2| (e.function, e.index) == (function, index);
            *leaves.as_slice().iter().find(at).unwrap()
        };
        assert_eq!(leaf(1, 0).ebx >> 16, 0x0304);
        assert_eq!(leaf(1, 0).edx & 1 << 26, 0, "sse2 is off");
        assert_ne!(leaf(1, 0).edx & 1 << 25, 0, "sse is on");
        assert_eq!(leaf(0xb, 0).eax, 1);
        assert_eq!(leaf(0xb, 1).ebx, 4);
        assert_eq!(leaf(0xb, 1).edx, 3);
        assert_eq!(table.signature(), leaf(1, 0).eax);
        let spec = "max,vendor=GenuineIntel,phys-bits=36,host-phys-bits=off,migratable=on";
        let spec = CpuSpec::parse(spec).unwrap();
        let (table, _) = CpuidTable::new(offer(), &spec, topology).unwrap();
        let [_, ebx, ecx, edx] = table.registers(0, 0);
        assert_eq!(
            [ebx, edx, ecx].map(u32::to_le_bytes).concat(),
            b"GenuineIntel"
        );
        assert_eq!(table.registers(0x8000_0008, 0)[0] & 0xff, 36);
        assert_eq!(table.registers(0x8000_0007, 0)[3] & 1 << 8, 0, "invtsc");
        let enforce = CpuSpec::parse("qemu64,+ia64,enforce").unwrap();
        let error = CpuidTable::new(offer(), &enforce, topology)
            .unwrap_err()
            .to_string();
        assert!(error.contains("ia64"), "{error}");
    }
}
