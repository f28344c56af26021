//! The local APICs of a machine: messages between them, INTR, and their timers.

use super::{
    CpuEvent, DeliveryMode, Destination, Fault, LocalApic, Message, Outgoing, Tsc, X2APIC_MSRS,
};
use crate::cpu::LocalApicState;
use crate::devices::Width;
use crate::irq::Msi;
use crate::state::StateError;
use crate::trace::events as trace;

/// Local APICs that a machine has at most: their ids are 8 bits, and one of those is the broadcast.
pub const CPUS_MAX: usize = 255;

/// All local APICs of a machine, by the number of their processors.
#[derive(Debug, Default)]
pub struct LocalApics<'a> {
    apics: &'a mut [LocalApic],
    /// Processors, a bit each, that have got a reason to look.
    attention: [u64; CPUS_MAX.div_ceil(64)],
}

impl<'a> LocalApics<'a> {
    /// Over memory that the host lends: one for each processor, the first [`CPUS_MAX`] of them. None
    /// is possible: messages are lost then.
    pub fn new(apics: &'a mut [LocalApic]) -> Self {
        let count = apics.len().min(CPUS_MAX);
        Self {
            apics: &mut apics[..count],
            attention: [0; CPUS_MAX.div_ceil(64)],
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.apics.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.apics.len()
    }

    /// The local APIC of a processor.
    pub fn get(&self, cpu: usize) -> Option<&LocalApic> {
        self.apics.get(cpu)
    }

    /// All back to their state after power-on, with INTR as it is.
    pub fn reset(&mut self) {
        for apic in self.apics.iter_mut() {
            apic.reset();
        }
        self.attention = [0; CPUS_MAX.div_ceil(64)];
    }

    /// A processor that has got a reason to look, since it was last named here: an interrupt that it
    /// may take, or an event.
    pub fn take_attention(&mut self) -> Option<usize> {
        let at = self.attention.iter().position(|word| *word != 0)?;
        let word = &mut self.attention[at];
        let bit = word.trailing_zeros() as usize;
        *word &= *word - 1;
        Some(at * 64 + bit)
    }

    /// Calls the local APIC of a processor, and notes whether the processor has a reason to look.
    fn with<R>(&mut self, cpu: usize, call: impl FnOnce(&mut LocalApic) -> R) -> Option<R> {
        let apic = self.apics.get_mut(cpu)?;
        let result = call(apic);
        if apic.needs_attention() {
            self.attention[cpu / 64] |= 1 << (cpu % 64);
        }
        Some(result)
    }

    /// Sends a message of the I/O APIC or of a device.
    pub fn send_msi(&mut self, message: Msi) {
        if let Some(message) = Message::from_msi(message) {
            self.send(&message, None);
        }
    }

    /// Sends a message; `sender` is the processor that it comes from.
    pub fn send(&mut self, message: &Message, sender: Option<usize>) {
        let meant = |cpu: usize, apic: &LocalApic| {
            apic.is_on() && message.reaches(apic, sender == Some(cpu))
        };
        self.tell(message);
        if message.mode == DeliveryMode::LowestPriority
            && message.destination != Destination::Sender
        {
            let candidates = self.apics.iter().enumerate();
            let least = candidates
                .filter(|(cpu, apic)| apic.is_enabled() && meant(*cpu, apic))
                .min_by_key(|(_, apic)| apic.processor_priority());
            if let Some((cpu, _)) = least {
                self.with(cpu, |apic| apic.accept(message));
            }
            return;
        }
        let mut reached = false;
        for cpu in 0..self.apics.len() {
            if meant(cpu, &self.apics[cpu]) {
                reached = true;
                self.with(cpu, |apic| apic.accept(message));
            }
        }
        if !reached && let (Destination::Physical(id), Some(_)) = (message.destination, sender) {
            trace::guest_error_apic_destination(id);
        }
    }

    fn tell(&self, message: &Message) {
        let (dest, logical) = match message.destination {
            Destination::Physical(id) => (id, false),
            Destination::Logical(set) => (set, true),
            _ => (u32::MAX, false),
        };
        let mode = message.mode as u8;
        trace::apic_deliver_irq(dest, logical, mode, message.vector, message.level);
    }

    /// Drives INTR, which is LINT0 of all.
    pub fn set_intr(&mut self, level: bool) {
        for cpu in 0..self.apics.len() {
            self.with(cpu, |apic| apic.set_lint0(level));
        }
    }

    /// Pulses the platform's NMI, which is LINT1 of all; tells how many processors it got through to.
    pub fn pulse_nmi(&mut self) -> u32 {
        let mut taken = 0;
        for cpu in 0..self.apics.len() {
            taken += u32::from(self.with(cpu, LocalApic::pulse_lint1).unwrap_or(false));
        }
        taken
    }

    /// When a timer interrupts next, in nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.apics.iter().filter_map(LocalApic::next_deadline).min()
    }

    /// Lets timers interrupt whose deadline is at or before `now`.
    pub fn advance(&mut self, now: u64) {
        for cpu in 0..self.apics.len() {
            let due = self.apics[cpu].next_deadline();
            if due.is_some_and(|due| due <= now) {
                self.with(cpu, |apic| apic.advance(now));
            }
        }
    }

    /// Carries out what an access has sent, but for the end of an interrupt: that is returned, for
    /// the I/O APIC.
    fn pass_on(&mut self, cpu: usize, outgoing: Option<Outgoing>) -> Option<u8> {
        match outgoing? {
            Outgoing::EndOfInterrupt(vector) => Some(vector),
            Outgoing::Message(message) => {
                self.send(&message, Some(cpu));
                None
            }
        }
    }

    /// A processor reads its own page; zero if it has none.
    pub fn mmio_read(&mut self, now: u64, cpu: usize, offset: u64, width: Width) -> u32 {
        self.with(cpu, |apic| apic.mmio_read(now, offset, width))
            .unwrap_or(0)
    }

    /// A processor writes its own page. Returns the vector of a level-triggered interrupt that has
    /// ended.
    pub fn mmio_write(
        &mut self,
        now: u64,
        cpu: usize,
        offset: u64,
        width: Width,
        value: u32,
    ) -> Option<u8> {
        let outgoing = self.with(cpu, |apic| apic.mmio_write(now, offset, width, value));
        self.pass_on(cpu, outgoing.flatten())
    }

    /// A processor reads a register of [`X2APIC_MSRS`].
    ///
    /// # Errors
    /// [`Fault`], as the processor raises it.
    pub fn msr_read(&mut self, now: u64, cpu: usize, index: u32) -> Result<u64, Fault> {
        debug_assert!(X2APIC_MSRS.contains(&index));
        self.with(cpu, |apic| apic.msr_read(now, index))
            .unwrap_or(Err(Fault))
    }

    /// A processor writes a register of [`X2APIC_MSRS`]. Returns the vector of a level-triggered
    /// interrupt that has ended.
    ///
    /// # Errors
    /// [`Fault`], as the processor raises it.
    pub fn msr_write(
        &mut self,
        now: u64,
        cpu: usize,
        index: u32,
        value: u64,
    ) -> Result<Option<u8>, Fault> {
        let outgoing = self.with(cpu, |apic| apic.msr_write(now, index, value));
        Ok(self.pass_on(cpu, outgoing.unwrap_or(Err(Fault))?))
    }

    /// A processor writes IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`Fault`], as the processor raises it.
    pub fn set_base(&mut self, cpu: usize, value: u64) -> Result<(), Fault> {
        self.with(cpu, |apic| apic.set_base(value))
            .unwrap_or(Err(Fault))
    }

    /// A processor writes CR8.
    pub fn set_task_priority(&mut self, cpu: usize, class: u8) {
        self.with(cpu, |apic| apic.set_task_priority(class));
    }

    /// A processor reads IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&mut self, now: u64, cpu: usize) -> u64 {
        self.with(cpu, |apic| apic.tsc_deadline(now)).unwrap_or(0)
    }

    /// A processor writes IA32_TSC_DEADLINE, or its time stamp counter while that is set.
    pub fn set_tsc_deadline(&mut self, now: u64, cpu: usize, value: u64, tsc: Tsc) {
        self.with(cpu, |apic| apic.set_tsc_deadline(now, value, tsc));
    }

    /// A processor takes the interrupt of its local APIC.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        let vector = self.with(cpu, LocalApic::acknowledge).flatten()?;
        trace::apic_acknowledge(cpu, vector);
        Some(vector)
    }

    /// A processor takes an event.
    pub fn take_event(&mut self, cpu: usize) -> Option<CpuEvent> {
        self.with(cpu, LocalApic::take_event).flatten()
    }

    /// Sets the registers of a local APIC; see [`LocalApic::set_state`].
    ///
    /// # Errors
    /// If it can't have them, or there is none.
    pub fn set_state(
        &mut self,
        now: u64,
        cpu: usize,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        self.with(cpu, |apic| apic.set_state(now, state, base))
            .unwrap_or(Err(StateError::Invalid("presence")))
    }
}
