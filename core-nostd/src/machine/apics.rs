//! What processors ask of the machine's own local APICs ([`Irqchip::Machine`](super::Irqchip)): the
//! software CPU's, and those of `kernel-irqchip=off`.
//!
//! Processors are named by their number, from 0 on. One without a local APIC reads zeros, has
//! no interrupts and no events.

use super::board::timer;
use super::ports::piece;
use super::{Host, Machine};
use crate::cpu::LocalApicState;
use crate::devices::Width;
use crate::irq::lapic::{self, CpuEvent, Fault, Tsc};
use crate::irq::{LocalApic, MSI_BASE, MSI_END, Msi};
use crate::state::StateError;
use crate::trace::events as trace;

impl Machine<'_> {
    /// The local APIC of a processor.
    pub fn local_apic(&self, cpu: u16) -> Option<&LocalApic> {
        self.apics.get(cpu.into())
    }

    /// How many local APICs there are.
    pub fn local_apics(&self) -> usize {
        self.apics.len()
    }

    /// A processor reads physical memory: [`Machine::physical_read`], but for its own local APIC.
    pub fn processor_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        gpa: u64,
        to: &mut [u8],
    ) {
        if self.in_hole(cpu, gpa, to.len()) {
            return to.fill(0xff);
        }
        let Some((before, length)) = self.own_page(cpu, gpa, to.len()) else {
            return self.physical_read(host, now, gpa, to);
        };
        let (front, rest) = to.split_at_mut(before);
        let (page, behind) = rest.split_at_mut(length);
        if !front.is_empty() {
            self.physical_read(host, now, gpa, front);
        }
        let start = gpa.wrapping_add(before as u64);
        let mut done = 0;
        while done < page.len() {
            let offset = start.wrapping_add(done as u64) % lapic::LENGTH;
            let width = piece(offset, page.len() - done, Width::Dword);
            let value = self.apic_read(host, now, cpu, offset, width).to_le_bytes();
            let next = done + width as usize;
            page[done..next].copy_from_slice(&value[..width as usize]);
            done = next;
        }
        if !behind.is_empty() {
            self.physical_read(host, now, start.wrapping_add(length as u64), behind);
        }
    }

    /// A processor writes physical memory: [`Machine::physical_write`], but for its own local APIC.
    pub fn processor_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        gpa: u64,
        from: &[u8],
    ) {
        if self.in_hole(cpu, gpa, from.len()) {
            return;
        }
        let Some((before, length)) = self.own_page(cpu, gpa, from.len()) else {
            return self.physical_write(host, now, gpa, from);
        };
        let (front, rest) = from.split_at(before);
        let (page, behind) = rest.split_at(length);
        if !front.is_empty() {
            self.physical_write(host, now, gpa, front);
        }
        let start = gpa.wrapping_add(before as u64);
        let mut done = 0;
        while done < page.len() {
            let offset = start.wrapping_add(done as u64) % lapic::LENGTH;
            let width = piece(offset, page.len() - done, Width::Dword);
            let next = done + width as usize;
            let mut bytes = [0; 4];
            bytes[..width as usize].copy_from_slice(&page[done..next]);
            let value = u32::from_le_bytes(bytes);
            self.apic_write(host, now, cpu, offset, width, value);
            done = next;
        }
        if !behind.is_empty() {
            self.physical_write(host, now, start.wrapping_add(length as u64), behind);
        }
    }

    /// Whether an access is to the page that a local APIC left when it was switched off or became an
    /// x2APIC, and nothing else is there. It reads as ones and takes no messages.
    fn in_hole(&self, cpu: u16, gpa: u64, length: usize) -> bool {
        let Some(apic) = self.local_apic(cpu).filter(|apic| apic.page().is_none()) else {
            return false;
        };
        let offset = gpa.wrapping_sub(apic.base() & !(lapic::LENGTH - 1));
        offset < lapic::LENGTH
            && length as u64 <= lapic::LENGTH - offset
            && self.map.find(gpa).is_none()
            && self.ioapic_at(gpa, length).is_none()
    }

    /// Which part of an access is to the processor's own page: the bytes before it, and the bytes in
    /// it.
    fn own_page(&self, cpu: u16, gpa: u64, length: usize) -> Option<(usize, usize)> {
        let page = self.local_apic(cpu)?.page()?;
        let before = match page.checked_sub(gpa) {
            Some(before) => usize::try_from(before).ok().filter(|n| *n < length)?,
            None if gpa - page < lapic::LENGTH => 0,
            None => return None,
        };
        let left = lapic::LENGTH - gpa.saturating_sub(page);
        Some((before, (length - before).min(left as usize)))
    }

    /// A processor reads its local APIC's page, at an offset below [`lapic::LENGTH`].
    pub fn apic_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        offset: u64,
        width: Width,
    ) -> u32 {
        let value = self.with_apic(host, now, cpu, |machine| {
            machine.apics.mmio_read(now, cpu.into(), offset, width)
        });
        trace::apic_mem_readl(offset, value);
        value
    }

    /// A processor writes its local APIC's page, at an offset below [`lapic::LENGTH`].
    pub fn apic_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        offset: u64,
        width: Width,
        value: u32,
    ) {
        trace::apic_mem_writel(offset, value);
        self.with_apic(host, now, cpu, |machine| {
            let apics = &mut machine.apics;
            let ended = apics.mmio_write(now, cpu.into(), offset, width, value);
            machine.ended(ended);
        });
    }

    /// A processor reads a model-specific register of [`lapic::X2APIC_MSRS`].
    ///
    /// # Errors
    /// [`Fault`], as the processor raises it.
    pub fn apic_msr_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        index: u32,
    ) -> Result<u64, Fault> {
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.msr_read(now, cpu.into(), index)
        })
    }

    /// A processor writes a model-specific register of [`lapic::X2APIC_MSRS`].
    ///
    /// # Errors
    /// [`Fault`], as the processor raises it.
    pub fn apic_msr_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        index: u32,
        value: u64,
    ) -> Result<(), Fault> {
        self.with_apic(host, now, cpu, |machine| {
            let ended = machine.apics.msr_write(now, cpu.into(), index, value)?;
            machine.ended(ended);
            Ok(())
        })
    }

    /// IA32_APIC_BASE of a processor; 0 for one without a local APIC.
    pub fn apic_base(&self, cpu: u16) -> u64 {
        let base = self.local_apic(cpu).map_or(0, LocalApic::base);
        trace::cpu_get_apic_base(base);
        base
    }

    /// A processor writes IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`Fault`], as the processor raises it.
    pub fn set_apic_base<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        value: u64,
    ) -> Result<(), Fault> {
        trace::cpu_set_apic_base(value);
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.set_base(cpu.into(), value)
        })
    }

    /// CR8 of a processor: 0 to 15.
    pub fn task_priority(&self, cpu: u16) -> u8 {
        self.local_apic(cpu).map_or(0, LocalApic::task_priority)
    }

    /// A processor writes CR8; only the low four bits count.
    pub fn set_task_priority<H: Host>(&mut self, host: &mut H, now: u64, cpu: u16, class: u8) {
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.set_task_priority(cpu.into(), class);
        });
    }

    /// A processor reads IA32_TSC_DEADLINE: 0 while it is not armed.
    pub fn tsc_deadline<H: Host>(&mut self, host: &mut H, now: u64, cpu: u16) -> u64 {
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.tsc_deadline(now, cpu.into())
        })
    }

    /// A processor writes IA32_TSC_DEADLINE; also called with that register's value when a
    /// processor writes its time stamp counter.
    pub fn set_tsc_deadline<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        value: u64,
        tsc: Tsc,
    ) {
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.set_tsc_deadline(now, cpu.into(), value, tsc);
        });
    }

    /// Whether [`Machine::take_interrupt`] has something for a processor.
    pub fn interrupt_waits(&self, cpu: u16) -> bool {
        self.local_apic(cpu)
            .is_some_and(|apic| apic.interrupt().is_some() || apic.external_interrupt())
    }

    /// A processor takes its interrupt: that of its local APIC, or else the 8259A's through LINT0.
    pub fn take_interrupt<H: Host>(&mut self, host: &mut H, now: u64, cpu: u16) -> Option<u8> {
        if let Some(vector) = self.apics.acknowledge(cpu.into()) {
            self.drain(host, now, None);
            return Some(vector);
        }
        let waits = self.local_apic(cpu)?.external_interrupt();
        waits.then(|| self.acknowledge(host, now))
    }

    /// A processor takes what it has to do next other than an interrupt. Its local APIC is in the
    /// state after INIT already when INIT is returned.
    pub fn take_event<H: Host>(&mut self, host: &mut H, now: u64, cpu: u16) -> Option<CpuEvent> {
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.take_event(cpu.into())
        })
    }

    /// Pulses the platform's NMI, which is LINT1 of all processors; tells how many it got through
    /// to.
    pub fn pulse_nmi<H: Host>(&mut self, host: &mut H, now: u64) -> u32 {
        let taken = self.apics.pulse_nmi();
        self.drain(host, now, None);
        taken
    }

    /// The registers of a processor's local APIC. IA32_APIC_BASE, IA32_TSC_DEADLINE and events
    /// that wait are asked for apart.
    pub fn local_apic_state(&self, now: u64, cpu: u16) -> Option<LocalApicState> {
        Some(self.local_apic(cpu)?.state(now))
    }

    /// Sets the registers of a processor's local APIC and its IA32_APIC_BASE, whatever they are
    /// now, and drops events that wait. IA32_TSC_DEADLINE is to be set behind it.
    ///
    /// # Errors
    /// If there is no such local APIC, or it can't have them; nothing changes then.
    pub fn set_local_apic_state<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        self.with_apic(host, now, cpu, |machine| {
            machine.apics.set_state(now, cpu.into(), state, base)
        })
    }

    /// Calls for a processor, lets the timer follow and passes on what that has caused.
    fn with_apic<H: Host, R>(
        &mut self,
        host: &mut H,
        now: u64,
        cpu: u16,
        call: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let deadline = |machine: &Self| machine.local_apic(cpu)?.next_deadline();
        let before = deadline(self);
        let result = call(self);
        if deadline(self) != before {
            self.arm_apics();
        }
        self.drain(host, now, None);
        result
    }

    /// Tells the I/O APIC of the end of a level-triggered interrupt.
    fn ended(&mut self, vector: Option<u8>) {
        if let Some(vector) = vector {
            self.end_in_ioapics(vector);
        }
    }

    /// Lets the board's timer follow those of the local APICs.
    pub(super) fn arm_apics(&mut self) {
        match self.apics.next_deadline() {
            Some(deadline) => self.timers.arm(timer::LOCAL_APICS, deadline),
            None => self.timers.disarm(timer::LOCAL_APICS),
        }
    }

    /// Takes a write as a message to the local APICs, if it is one.
    pub(super) fn write_message<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        gpa: u64,
        from: &[u8],
    ) -> bool {
        let message = (MSI_BASE..MSI_END).contains(&gpa) && gpa.is_multiple_of(4);
        let (true, false, Ok(data)) = (message, self.apics.is_empty(), from.try_into()) else {
            return false;
        };
        self.apics.send_msi(Msi {
            address: gpa,
            data: u32::from_le_bytes(data),
        });
        self.drain(host, now, None);
        true
    }
}

#[cfg(test)]
mod tests;
