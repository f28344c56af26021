//! Between the machine and the process: what the machine asks of its [`Host`], and what
//! processors hand in.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use thimble_core::cpu::LocalApicState;
use thimble_core::cpu::debugger::Hit;
use thimble_core::cpu::soft::{self, Attention};
use thimble_core::devices::block::{DriveId, Request};
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, ShutdownCause, Width};
use thimble_core::irq::lapic::{CpuEvent, Tsc};
use thimble_core::irq::{LocalApic, Msi};
use thimble_core::machine::{Host, Machine};
use thimble_core::memory::MemoryMap;
use thimble_core::state::StateError;
use thimble_monitor::DebugStop;

use super::block::DriveRequests;
use super::lending::Lending;
use super::{Accelerator, Guarded, Shared};
use crate::chardev::{ChardevId, Chardevs};
use crate::clock::Clock;
use crate::flash::FlashChanges;
use crate::kvm::{self, ExitHandler, SystemEvent, VcpuStop};
use crate::report;
use crate::soft::{Surroundings, TSC_HZ};

/// Consoles that a machine has at most.
pub const CONSOLES_MAX: usize = 20;

/// Kinds of [`GuestEvent`]: so many wait at most, since one that comes again before the main
/// thread has looked says nothing new.
const EVENT_KINDS: usize = 5;

/// What happened inside the guest and waits for the main thread.
#[derive(Default)]
pub struct Pending {
    /// The gravest power request since the last look.
    pub power: Option<PowerRequest>,
    /// A processor can not go on.
    pub stop: Option<VcpuStop>,
    /// The first processor that has stopped as a debugger wishes.
    pub debug: Option<DebugStop>,
    /// What the guest has told, oldest first.
    pub events: heapless::Vec<GuestEvent, EVENT_KINDS>,
}

impl Pending {
    /// Notes a request, unless a graver one waits already.
    pub fn request(&mut self, request: PowerRequest) {
        let weight = |request: &PowerRequest| match request {
            PowerRequest::Suspend => 0,
            PowerRequest::Reset(_) => 1,
            PowerRequest::Shutdown(_) => 2,
            PowerRequest::Exit(_) => 3,
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
        self.power.is_none()
            && self.stop.is_none()
            && self.debug.is_none()
            && self.events.is_empty()
    }

    /// Whether the guest may not go on before the main thread has looked.
    pub fn holds_guest(&self) -> bool {
        let grave = |event: &GuestEvent| !matches!(event, GuestEvent::RtcChanged { .. });
        self.power.is_some()
            || self.stop.is_some()
            || self.debug.is_some()
            || self.events.iter().any(grave)
    }
}

/// What a [`Bridge`] keeps between two calls.
#[derive(Default)]
pub struct BridgeState {
    /// Which device each console of the machine is.
    pub consoles: [Option<ChardevId>; CONSOLES_MAX],
    /// What has changed of flash.
    pub flash: FlashChanges,
    /// What waits for the main thread.
    pub pending: Pending,
    /// What drives are to do.
    pub drives: DriveRequests,
    /// Who has queues of disks.
    pub lending: Lending,
    /// Consoles, a bit each, whose lost output has been reported.
    lost: u32,
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
    /// Takes interrupts, where the accelerator models their controllers.
    accelerator: &'a Accelerator,
    /// Memory slots must follow a new map.
    remapped: bool,
}

impl Bridge<'_> {
    /// Calls the machine, and lets memory slots follow if its map has changed.
    pub fn call<R>(
        machine: &mut Machine<'static>,
        chardevs: &mut Chardevs,
        bridge_state: &mut BridgeState,
        accelerator: &Accelerator,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>) -> R,
    ) -> R {
        let mut bridge = Bridge {
            chardevs,
            bridge_state,
            accelerator,
            remapped: false,
        };
        let result = call(machine, &mut bridge);
        match accelerator {
            Accelerator::Kvm(kvm) => {
                if bridge.remapped
                    && let Err(error) = kvm.apply_map(machine.memory_map())
                {
                    report(format_args!("remapping memory: {error}"));
                }
                bridge.bridge_state.flush_routes(kvm);
            }
            Accelerator::Soft(wires) if bridge.remapped => wires.memory_remapped(),
            Accelerator::Soft(_) | Accelerator::None => {}
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
        if let Some(kvm) = self
            .accelerator
            .kvm()
            .filter(|kvm| kvm.irqchip() == kvm::Irqchip::On)
        {
            // The kernel refuses only numbers that its controllers lack.
            let _ = kvm.set_gsi(gsi.into(), level);
        }
    }

    fn set_intr(&mut self, level: bool) {
        if let Some(kvm) = self.accelerator.kvm() {
            kvm.set_intr(level);
        }
    }

    fn msi(&mut self, message: Msi) {
        if let Some(kvm) = self.accelerator.kvm() {
            self.bridge_state.flush_routes(kvm);
            // A message that no local APIC takes is lost, as on the bus.
            let _ = kvm.signal_msi(message);
        }
    }

    fn route_changed(&mut self, pin: u8, message: Option<Msi>) {
        self.bridge_state.routes.set(pin, message);
    }

    fn attention(&mut self, cpu: u16) {
        match self.accelerator {
            Accelerator::Kvm(kvm) => kvm.attention(cpu.into()),
            Accelerator::Soft(wires) => wires.attention(cpu),
            Accelerator::None => {}
        }
    }

    fn power(&mut self, request: PowerRequest) {
        self.bridge_state.pending.request(request);
    }

    fn guest_event(&mut self, event: GuestEvent) {
        self.bridge_state.pending.tell(event);
    }

    fn block(&mut self, request: Request<'_>) {
        self.bridge_state.drives.push(&request);
    }

    fn block_cancel(&mut self, drive: DriveId) {
        self.bridge_state.drives.cancel(drive);
    }

    fn queue_notified(&mut self, drive: DriveId) {
        self.bridge_state.lending.ring(drive);
    }

    fn tray_moved(&mut self, drive: DriveId, open: bool) {
        self.bridge_state.drives.tray_moved(drive, open);
    }

    fn memory_remapped(&mut self) {
        self.remapped = true;
    }

    fn flush_page(&mut self, gpa: u64) {
        match self.accelerator {
            Accelerator::Kvm(kvm) => kvm.flush_page(gpa),
            // Its processors forget all pages together.
            Accelerator::Soft(wires) => wires.memory_remapped(),
            Accelerator::None => {}
        }
    }

    fn mute_pit(&mut self, muted: bool) {
        if let Some(kvm) = self.accelerator.kvm()
            && let Err(error) = kvm.mute_pit(muted)
        {
            report(format_args!("{error}"));
        }
    }

    fn flash_changed(&mut self, unit: u8, offset: u32, bytes: &[AtomicU8]) -> bool {
        self.bridge_state.flash.note(unit, offset, bytes.len())
    }

    // KVM leaves A20 open: no guest that it runs needs addresses to wrap.
    fn set_a20(&mut self, enabled: bool) {
        if let Accelerator::Soft(wires) = self.accelerator {
            wires.set_a20(enabled);
        }
    }
}

/// Takes the exits of processors.
pub struct Exits(Arc<Shared>);

impl Exits {
    /// For the processors of this VM.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self(shared.clone())
    }

    /// Runs `access` under the machine's lock, and settles what it has caused before the guest
    /// goes on.
    fn with<R>(&self, access: impl FnOnce(&mut Guarded, &Accelerator) -> R) -> R {
        let shared = &*self.0;
        let mut guarded = shared.lock_for_processor();
        let before = guarded.machine.next_deadline();
        let result = access(&mut guarded, shared.accelerator());
        let pending = &guarded.bridge_state.pending;
        if !pending.is_empty() {
            if pending.holds_guest() {
                // It stops at the very access that asked for it.
                shared.request_pause();
            }
            shared.wake();
        } else if !guarded.bridge_state.drives.is_empty() || guarded.bridge_state.flash.any() {
            shared.wake();
        }
        if guarded.machine.next_deadline() != before {
            shared.arm_timer(&mut guarded);
        }
        result
    }

    /// Calls the machine in the same way, for what does not reach disks.
    fn call<R>(&self, call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>, u64) -> R) -> R {
        self.with(|guarded, accelerator| {
            let now = guarded.clock.now();
            guarded.machine_call_apart(accelerator, |machine, bridge| call(machine, bridge, now))
        })
    }

    /// The same for an access. `reaches` says whether it is for a disk whose queues are lent.
    fn access<R>(
        &self,
        reaches: impl FnOnce(&Machine<'static>) -> bool,
        call: impl FnOnce(&mut Machine<'static>, &mut Bridge<'_>, u64) -> R,
    ) -> R {
        self.with(|guarded, accelerator| {
            let now = guarded.clock.now();
            if guarded.bridge_state.lending.has_lent() && reaches(&guarded.machine) {
                guarded.take_queues_back(accelerator);
            }
            let result = guarded
                .machine_call_apart(accelerator, |machine, bridge| call(machine, bridge, now));
            guarded.lend_queues(accelerator);
            result
        })
    }

    fn note_hit(&self, cpu: u32, hit: Hit) {
        self.with(|guarded, _| {
            let pending = &mut guarded.bridge_state.pending;
            pending.debug.get_or_insert(DebugStop { cpu, hit });
        });
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
        self.access(
            |machine| machine.port_reaches_lent(port, width, false),
            |machine, bridge, now| {
                for element in data.chunks_exact_mut(width as usize) {
                    let value = machine.pio_read(bridge, now, port, width).to_le_bytes();
                    element.copy_from_slice(&value[..width as usize]);
                }
            },
        );
    }

    fn pio_out(&self, _cpu: u32, port: u16, width: u8, data: &[u8]) {
        let width = widths(width);
        self.access(
            |machine| machine.port_reaches_lent(port, width, true),
            |machine, bridge, now| {
                for element in data.chunks_exact(width as usize) {
                    let mut value = [0; 4];
                    value[..element.len()].copy_from_slice(element);
                    let value = u32::from_le_bytes(value);
                    machine.pio_write(bridge, now, port, width, value);
                }
            },
        );
    }

    fn mmio_read(&self, cpu: u32, gpa: u64, data: &mut [u8]) {
        let length = data.len();
        self.access(
            |machine| machine.memory_reaches_lent(gpa, length, false),
            |machine, bridge, now| machine.processor_read(bridge, now, cpu as u16, gpa, data),
        );
    }

    fn mmio_write(&self, cpu: u32, gpa: u64, data: &[u8]) {
        self.access(
            |machine| machine.memory_reaches_lent(gpa, data.len(), true),
            |machine, bridge, now| machine.processor_write(bridge, now, cpu as u16, gpa, data),
        );
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
        self.with(|guarded, accelerator| {
            let now = guarded.clock.now();
            guarded.machine_call_apart(accelerator, |machine, bridge| {
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

    fn debugged(&self, cpu: u32, hit: Hit) {
        self.note_hit(cpu, hit);
    }
}

impl Surroundings for Exits {
    fn pio_read(&self, _cpu: u16, port: u16, width: Width) -> u32 {
        self.access(
            |machine| machine.port_reaches_lent(port, width, false),
            |machine, bridge, now| machine.pio_read(bridge, now, port, width),
        )
    }

    fn pio_write(&self, _cpu: u16, port: u16, width: Width, value: u32) {
        self.access(
            |machine| machine.port_reaches_lent(port, width, true),
            |machine, bridge, now| machine.pio_write(bridge, now, port, width, value),
        );
    }

    fn memory_read(&self, cpu: u16, gpa: u64, to: &mut [u8]) {
        let length = to.len();
        self.access(
            |machine| machine.memory_reaches_lent(gpa, length, false),
            |machine, bridge, now| machine.processor_read(bridge, now, cpu, gpa, to),
        );
    }

    fn memory_write(&self, cpu: u16, gpa: u64, from: &[u8]) {
        self.access(
            |machine| machine.memory_reaches_lent(gpa, from.len(), true),
            |machine, bridge, now| machine.processor_write(bridge, now, cpu, gpa, from),
        );
    }

    fn attend(&self, cpu: u16) -> Attention {
        self.call(|machine, bridge, now| {
            // To take none would raise the processor's attention again while an interrupt waits.
            let apic = machine.local_apic(cpu);
            let has_event = apic.is_some_and(LocalApic::has_event);
            let event = has_event.then(|| machine.take_event(bridge, now, cpu));
            Attention {
                leave: false,
                interrupt: machine.interrupt_waits(cpu),
                event: event.flatten().map(|event| match event {
                    CpuEvent::Nmi => soft::Event::Nmi,
                    CpuEvent::Init => soft::Event::Init,
                    CpuEvent::Startup(page) => soft::Event::Startup(page),
                }),
            }
        })
    }

    fn acknowledge(&self, cpu: u16) -> Option<u8> {
        self.call(|machine, bridge, now| machine.take_interrupt(bridge, now, cpu))
    }

    fn task_priority(&self, cpu: u16) -> u8 {
        self.0.lock_for_processor().machine.task_priority(cpu)
    }

    fn set_task_priority(&self, cpu: u16, class: u8) {
        self.call(|machine, bridge, now| machine.set_task_priority(bridge, now, cpu, class));
    }

    fn apic_base(&self, cpu: u16) -> u64 {
        self.0.lock_for_processor().machine.apic_base(cpu)
    }

    fn apic_page(&self, cpu: u16) -> Option<u64> {
        let guarded = self.0.lock_for_processor();
        guarded.machine.local_apic(cpu)?.page()
    }

    fn set_apic_base(&self, cpu: u16, value: u64) -> bool {
        self.call(|machine, bridge, now| machine.set_apic_base(bridge, now, cpu, value))
            .is_ok()
    }

    fn apic_read_msr(&self, cpu: u16, index: u32) -> Option<u64> {
        self.call(|machine, bridge, now| machine.apic_msr_read(bridge, now, cpu, index))
            .ok()
    }

    fn apic_write_msr(&self, cpu: u16, index: u32, value: u64) -> bool {
        self.call(|machine, bridge, now| machine.apic_msr_write(bridge, now, cpu, index, value))
            .is_ok()
    }

    fn tsc_deadline(&self, cpu: u16) -> Option<u64> {
        self.call(|machine, bridge, now| {
            let has = machine.local_apic(cpu)?.wiring().tsc_deadline;
            has.then(|| machine.tsc_deadline(bridge, now, cpu))
        })
    }

    fn set_tsc_deadline(&self, cpu: u16, value: u64, tsc: u64) -> bool {
        let tsc = Tsc {
            value: tsc,
            hz: TSC_HZ,
        };
        self.call(|machine, bridge, now| {
            let apic = machine.local_apic(cpu);
            let has = apic.is_some_and(|apic| apic.wiring().tsc_deadline);
            if has {
                machine.set_tsc_deadline(bridge, now, cpu, value, tsc);
            }
            has
        })
    }

    fn apic_state(&self, cpu: u16) -> Option<LocalApicState> {
        ExitHandler::apic_state(self, cpu.into())
    }

    fn set_apic_state(
        &self,
        cpu: u16,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        ExitHandler::set_apic_state(self, cpu.into(), state, base)
    }

    fn pulse_nmi(&self) -> u32 {
        ExitHandler::pulse_nmi(self)
    }

    fn advance(&self) {
        self.call(|machine, bridge, now| machine.advance(bridge, now));
    }

    fn clock(&self) -> Clock {
        self.0.lock().clock
    }

    fn memory_map(&self) -> MemoryMap {
        self.0.lock().machine.memory_map().clone()
    }

    fn triple_fault(&self, _cpu: u16) {
        self.note(VcpuStop::TripleFault);
    }

    fn debugged(&self, cpu: u16, hit: Hit) {
        self.note_hit(cpu.into(), hit);
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
