//! Which interrupts the machine's own I/O APIC sends, as the kernel must know it with
//! `kernel-irqchip=split`: a local APIC tells of the end of an interrupt (KVM_EXIT_IOAPIC_EOI) only
//! if a route of the first 48 numbers has its vector as level-triggered.
//!
//! Interrupts are sent as messages, past the routes. So only routes of level-triggered entries are
//! told: a guest without them, such as most before they have drivers, costs no call.

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry,
};
use thimble_core::irq::ioapic::{PINS, pin_of};
use thimble_core::irq::{IrqLine, Msi};

use super::error::KvmError;
use super::vm::Vm;
use thimble_core::trace::events;

/// What each input of both I/O APICs sends.
type Levels = [Option<Msi>; INPUTS];
/// Inputs that there may be.
pub(super) const INPUTS: usize = 2 * PINS;

/// What each input of the I/O APICs sends, and what the kernel knows of it.
#[derive(Debug)]
pub struct Routes {
    /// Level-triggered entries that are not masked.
    levels: Levels,
    /// The kernel knows of others.
    stale: bool,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            levels: [None; INPUTS],
            stale: false,
        }
    }
}

impl Routes {
    /// Notes what an input sends from now on; `None` while it is masked.
    pub fn set(&mut self, pin: u8, message: Option<Msi>) {
        let message = message.filter(|message| message.is_level());
        if let Some(known) = self.levels.get_mut(usize::from(pin))
            && *known != message
        {
            *known = message;
            self.stale = true;
        }
    }

    /// Tells the kernel, if there is anything new. Before the first message of an entry.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn flush(&mut self, vm: &Vm) -> Result<(), KvmError> {
        if !std::mem::take(&mut self.stale) {
            return Ok(());
        }
        let entries: Vec<_> = (0..)
            .zip(&self.levels)
            .filter_map(|(gsi, message)| Some(message_entry(gsi, (*message)?)))
            .collect();
        set(vm, &entries)
    }
}

fn set(vm: &Vm, entries: &[kvm_irq_routing_entry]) -> Result<(), KvmError> {
    events::kvm_irqchip_commit_routes(entries.len());
    let table = KvmIrqRouting::from_entries(entries)
        .map_err(|_| KvmError::Unsupported("this number of interrupt routes"))?;
    vm.fd()
        .set_gsi_routing(&table)
        .map_err(KvmError::call("setting interrupt routes"))
}

fn message_entry(gsi: u32, message: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

/// Lets lines end at the in-kernel controllers where they end at the machine's own: the kernel's
/// default has line 0 at the I/O APIC's input 0, against what firmware tells.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn set_in_kernel(vm: &Vm) -> Result<(), KvmError> {
    let chip = |gsi, irqchip, pin| {
        let mut entry = kvm_irq_routing_entry {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Default::default()
        };
        entry.u.irqchip.irqchip = irqchip;
        entry.u.irqchip.pin = pin;
        entry
    };
    let mut entries = Vec::with_capacity(16 + PINS);
    for line in 0..PINS as u8 {
        let gsi = line.into();
        match line {
            0..8 => entries.push(chip(gsi, KVM_IRQCHIP_PIC_MASTER, gsi)),
            8..16 => entries.push(chip(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8)),
            _ => {}
        }
        let pin = pin_of(IrqLine::new(line)).into();
        entries.push(chip(gsi, KVM_IRQCHIP_IOAPIC, pin));
    }
    set(vm, &entries)
}
