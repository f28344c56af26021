//! Between the machine and the process: what the machine asks of its [`Host`], and what
//! processors hand in.

use std::sync::Arc;

use thimble_core::cpu::LocalApicState;
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, ShutdownCause, Width};
use thimble_core::irq::Msi;
use thimble_core::irq::lapic::CpuEvent;
use thimble_core::machine::{Host, Machine};
use thimble_core::state::StateError;

use super::{Guarded, Shared};
use crate::chardev::{ChardevId, Chardevs};
use crate::kvm::{self, ExitHandler, SystemEvent, VcpuStop};
use crate::report;

/// Consoles that a machine has at most.
pub const CONSOLES_MAX: usize = 16;

/// Kinds of [`GuestEvent`]: so many wait at most, since one that comes again before the main
/// thread has looked says nothing new.
const EVENT_KINDS: usize = 4;

/// What happened inside the guest and waits for the main thread.
#[derive(Default)]
pub struct Pending {
    /// The gravest power request since the last look.
    pub power: Option<PowerRequest>,
    /// A processor can not go on.
    pub stop: Option<VcpuStop>,
    /// What the guest has told, oldest first.
    pub events: heapless::Vec<GuestEvent, EVENT_KINDS>,
}

impl Pending {
    /// Notes a request, unless a graver one waits already.
    pub fn request(&mut self, request: PowerRequest) {
        let weight = |request: &PowerRequest| match request {
            PowerRequest::Reset(_) => 0,
            PowerRequest::Shutdown(_) => 1,
            PowerRequest::Exit(_) => 2,
        };
        if self
            .power
            .as_ref()
            .is_none_or(|old| weight(old) < weight(&request))
        {
            self.power = Some(request);
        }
    }

    /// Notes what the guest tells. The newer of two events of one kind counts.
    pub fn tell(&mut self, event: GuestEvent) {
        let kind = std::mem::discriminant(&event);
        let same = |old: &&mut GuestEvent| std::mem::discriminant(*old) == kind;
        match self.events.iter_mut().find(same) {
            Some(old) => *old = event,
            // There is room for one of each kind.
            None => drop(self.events.push(event)),
        }
    }

    fn is_empty(&self) -> bool {
        self.power.is_none() && self.stop.is_none() && self.events.is_empty()
    }

    /// Whether the guest may not go on before the main thread has looked.
    pub fn holds_guest(&self) -> bool {
        let grave = |event: &GuestEvent| !matches!(event, GuestEvent::RtcChanged { .. });
        self.power.is_some() || self.stop.is_some() || self.events.iter().any(grave)
    }
}

/// What a [`Bridge`] keeps between two calls.
#[derive(Default)]
pub struct BridgeState {
    /// Which device each console of the machine is.
    pub consoles: [Option<ChardevId>; CONSOLES_MAX],
    /// What waits for the main thread.
    pub pending: Pending,
    /// Consoles, a bit each, whose lost output has been reported.
    lost: u16,
    /// What the machine's own I/O APIC sends.
    routes: kvm::Routes,
}

impl BridgeState {
    /// The device that a console of the machine is attached to.
    pub fn chardev(&self, console: ConsoleId) -> Option<ChardevId> {
        *self.consoles.get(usize::from(console.0))?
    }

    fn flush_routes(&mut self, kvm: &kvm::Vm) {
        if let Err(error) = self.routes.flush(kvm) {
            report(format_args!("routing interrupts: {error}"));
        }
    }
}

/// The machine's [`Host`], for the length of one call under the machine's lock.
pub struct Bridge<'a> {
    /// Where console bytes go.
    pub chardevs: &'a mut Chardevs,
    /// What lasts beyond the call.
    pub bridge_state: &'a mut BridgeState,
    /// Takes interrupt lines, where the kernel models the controllers.
    kvm: Option<&'a kvm::Vm>,
    /// Memory slots must follow a new map.
    remapped: bool,
}

impl Bridge<'_> {
    /// Calls the machine, and lets memory slots follow if its map has changed.
    pub fn call<R>(
        machine: &mut Machine<'static>,
        chardevs: &mut Chardevs,
        bridge_state: &mut BridgeState,
        kvm: Option<&kvm::Vm>,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>) -> R,
    ) -> R {
        let mut bridge = Bridge {
            chardevs,
            bridge_state,
            kvm,
            remapped: false,
        };
        let result = call(machine, &mut bridge);
        if bridge.remapped
            && let Some(kvm) = kvm
            && let Err(error) = kvm.apply_map(machine.memory_map())
        {
            report(format_args!("remapping memory: {error}"));
        }
        if let Some(kvm) = bridge.kvm {
            bridge.bridge_state.flush_routes(kvm);
        }
        result
    }
}

impl Host for Bridge<'_> {
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize {
        // Bytes for a console that nothing is attached to are gone, as on a port without a cable.
        let chardev = self.bridge_state.chardev(console);
        chardev.map_or(bytes.len(), |chardev| self.chardevs.write(chardev, bytes))
    }

    fn console_lost(&mut self, console: ConsoleId) {
        let bit = 1 << (usize::from(console.0) % CONSOLES_MAX);
        if self.bridge_state.lost & bit == 0 {
            self.bridge_state.lost |= bit;
            let chardev = self.bridge_state.chardev(console);
            let name = chardev.map_or("", |chardev| self.chardevs.label(chardev));
            report(format_args!(
                "chardev {name}: output is lost: its reader is too slow"
            ));
        }
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        if let Some(kvm) = self.kvm.filter(|kvm| kvm.irqchip() == kvm::Irqchip::On) {
            // The kernel refuses only numbers that its controllers lack.
            let _ = kvm.set_gsi(gsi.into(), level);
        }
    }

    fn set_intr(&mut self, level: bool) {
        if let Some(kvm) = self.kvm {
            kvm.set_intr(level);
        }
    }

    fn msi(&mut self, message: Msi) {
        if let Some(kvm) = self.kvm {
            self.bridge_state.flush_routes(kvm);
            // A message that no local APIC takes is lost, as on the bus.
            let _ = kvm.signal_msi(message);
        }
    }

    fn route_changed(&mut self, pin: u8, message: Option<Msi>) {
        self.bridge_state.routes.set(pin, message);
    }

    fn attention(&mut self, cpu: u16) {
        if let Some(kvm) = self.kvm {
            kvm.attention(cpu.into());
        }
    }

    fn power(&mut self, request: PowerRequest) {
        self.bridge_state.pending.request(request);
    }

    fn guest_event(&mut self, event: GuestEvent) {
        self.bridge_state.pending.tell(event);
    }

    fn memory_remapped(&mut self) {
        self.remapped = true;
    }

    fn flush_page(&mut self, gpa: u64) {
        if let Some(kvm) = self.kvm {
            kvm.flush_page(gpa);
        }
    }

    // The accelerators leave A20 open: no guest that they run needs addresses to wrap.
    fn set_a20(&mut self, _enabled: bool) {}
}

/// Takes the exits of the KVM processors.
pub struct Exits(Arc<Shared>);

impl Exits {
    /// For the processors of this VM.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self(shared.clone())
    }

    /// Runs `access` under the machine's lock, and settles what it has caused before the guest
    /// goes on.
    fn with<R>(&self, access: impl FnOnce(&mut Guarded, Option<&kvm::Vm>) -> R) -> R {
        let shared = &*self.0;
        let mut guarded = shared.lock();
        let before = guarded.machine.next_deadline();
        let result = access(&mut guarded, shared.kvm());
        let pending = &guarded.bridge_state.pending;
        if !pending.is_empty() {
            if pending.holds_guest() {
                // It stops at the very access that asked for it.
                shared.request_pause();
            }
            shared.wake();
        }
        if guarded.machine.next_deadline() != before {
            shared.arm_timer(&mut guarded);
        }
        result
    }

    /// Calls the machine in the same way.
    fn call<R>(&self, call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>, u64) -> R) -> R {
        self.with(|guarded, kvm| {
            let now = guarded.clock.now();
            guarded.machine_call(kvm, |machine, bridge| call(machine, bridge, now))
        })
    }

    fn note(&self, stop: VcpuStop) {
        self.with(|guarded, _| match stop {
            VcpuStop::TripleFault | VcpuStop::SystemEvent(SystemEvent::Reset) => {
                let cause = ShutdownCause::GuestReset;
                guarded
                    .bridge_state
                    .pending
                    .request(PowerRequest::Reset(cause));
            }
            VcpuStop::SystemEvent(SystemEvent::Shutdown) => {
                let cause = ShutdownCause::GuestShutdown;
                guarded
                    .bridge_state
                    .pending
                    .request(PowerRequest::Shutdown(cause));
            }
            VcpuStop::SystemEvent(SystemEvent::Crash) => {
                // Whatever is done about it, this processor has said its last word.
                guarded.bridge_state.pending.tell(GuestEvent::Panicked);
            }
            other => guarded.bridge_state.pending.stop = Some(other),
        });
    }
}

fn widths(width: u8) -> Width {
    Width::from_bytes(width.into()).unwrap_or(Width::Byte)
}

impl ExitHandler for Exits {
    fn pio_in(&self, _cpu: u32, port: u16, width: u8, data: &mut [u8]) {
        let width = widths(width);
        self.with(|guarded, kvm| {
            let now = guarded.clock.now();
            guarded.machine_call(kvm, |machine, bridge| {
                for element in data.chunks_exact_mut(width as usize) {
                    let value = machine.pio_read(bridge, now, port, width).to_le_bytes();
                    element.copy_from_slice(&value[..width as usize]);
                }
            })
        });
    }

    fn pio_out(&self, _cpu: u32, port: u16, width: u8, data: &[u8]) {
        let width = widths(width);
        self.with(|guarded, kvm| {
            let now = guarded.clock.now();
            guarded.machine_call(kvm, |machine, bridge| {
                for element in data.chunks_exact(width as usize) {
                    let mut value = [0; 4];
                    value[..element.len()].copy_from_slice(element);
                    let value = u32::from_le_bytes(value);
                    machine.pio_write(bridge, now, port, width, value);
                }
            })
        });
    }

    fn mmio_read(&self, cpu: u32, gpa: u64, data: &mut [u8]) {
        self.with(|guarded, kvm| {
            let now = guarded.clock.now();
            guarded.machine_call(kvm, |machine, bridge| {
                machine.processor_read(bridge, now, cpu as u16, gpa, data);
            })
        });
    }

    fn mmio_write(&self, cpu: u32, gpa: u64, data: &[u8]) {
        self.with(|guarded, kvm| {
            let now = guarded.clock.now();
            guarded.machine_call(kvm, |machine, bridge| {
                machine.processor_write(bridge, now, cpu as u16, gpa, data);
            })
        });
    }

    fn acknowledge(&self, cpu: u32) -> Option<u8> {
        self.call(|machine, bridge, now| {
            if machine.local_apics() > 0 {
                machine.take_interrupt(bridge, now, cpu as u16)
            } else {
                machine.intr().then(|| machine.acknowledge(bridge, now))
            }
        })
    }

    fn end_of_interrupt(&self, _cpu: u32, vector: u8) {
        self.with(|guarded, kvm| {
            let now = guarded.clock.now();
            guarded.machine_call(kvm, |machine, bridge| {
                machine.end_of_interrupt(bridge, now, vector);
            })
        });
    }

    fn take_event(&self, cpu: u32) -> Option<CpuEvent> {
        self.call(|machine, bridge, now| machine.take_event(bridge, now, cpu as u16))
    }

    fn interrupt_waits(&self, cpu: u32) -> bool {
        self.0.lock().machine.interrupt_waits(cpu as u16)
    }

    fn task_priority(&self, cpu: u32) -> u8 {
        self.0.lock().machine.task_priority(cpu as u16)
    }

    fn set_task_priority(&self, cpu: u32, class: u8) {
        self.call(|machine, bridge, now| {
            machine.set_task_priority(bridge, now, cpu as u16, class);
        });
    }

    fn set_apic_base(&self, cpu: u32, base: u64) {
        self.call(|machine, bridge, now| {
            // The kernel's rules are the same.
            let _ = machine.set_apic_base(bridge, now, cpu as u16, base);
        });
    }

    fn msr_read(&self, cpu: u32, index: u32) -> Option<u64> {
        self.call(|machine, bridge, now| {
            let value = machine.apic_msr_read(bridge, now, cpu as u16, index);
            value.ok()
        })
    }

    fn msr_write(&self, cpu: u32, index: u32, value: u64) -> bool {
        self.call(|machine, bridge, now| {
            let written = machine.apic_msr_write(bridge, now, cpu as u16, index, value);
            written.is_ok()
        })
    }

    fn apic_state(&self, cpu: u32) -> Option<LocalApicState> {
        let guarded = self.0.lock();
        let now = guarded.clock.now();
        guarded.machine.local_apic_state(now, cpu as u16)
    }

    fn set_apic_state(
        &self,
        cpu: u32,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        self.call(|machine, bridge, now| {
            machine.set_local_apic_state(bridge, now, cpu as u16, state, base)
        })
    }

    fn pulse_nmi(&self) -> u32 {
        self.call(|machine, bridge, now| machine.pulse_nmi(bridge, now))
    }

    fn stopped(&self, _cpu: u32, stop: VcpuStop) {
        self.note(stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_request_waits() {
        let mut pending = Pending::default();
        let reset = PowerRequest::Reset(ShutdownCause::GuestReset);
        let shutdown = PowerRequest::Shutdown(ShutdownCause::GuestShutdown);
        pending.request(shutdown);
        pending.request(reset);
        assert_eq!(pending.power, Some(shutdown));
        pending.request(PowerRequest::Exit(3));
        assert_eq!(pending.power, Some(PowerRequest::Exit(3)));
    }

    #[test]
    fn events_wait_in_order_and_once_a_kind() {
        let mut pending = Pending::default();
        let clock = |offset| GuestEvent::RtcChanged { offset };
        for event in [
            clock(1),
            GuestEvent::CrashLoaded,
            clock(2),
            GuestEvent::Panicked,
            GuestEvent::CrashLoaded,
            GuestEvent::WatchdogExpired,
            GuestEvent::Panicked,
        ] {
            pending.tell(event);
        }
        assert_eq!(
            pending.events,
            [
                clock(2),
                GuestEvent::CrashLoaded,
                GuestEvent::Panicked,
                GuestEvent::WatchdogExpired
            ]
        );
    }

    #[test]
    fn only_the_clock_does_not_hold_the_guest() {
        let mut pending = Pending::default();
        assert!(pending.is_empty());
        pending.tell(GuestEvent::RtcChanged { offset: 1 });
        assert!(!pending.is_empty() && !pending.holds_guest());
        pending.tell(GuestEvent::CrashLoaded);
        assert!(pending.holds_guest());
    }
}
