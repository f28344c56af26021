//! What the machine asks of the process around it.

use core::sync::atomic::AtomicU8;

use crate::devices::block::{DriveId, Request};
use crate::devices::{ConsoleId, GuestEvent, PowerRequest};
use crate::irq::Msi;

/// The one way out of the machine. Methods must not block. Fuzzers and tests implement it in
/// memory.
pub trait Host {
    /// Takes bytes that the guest sent to a console and returns how many it took; the rest is
    /// offered again after `Machine::console_writable`.
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize;

    /// A byte for a console without flow control was lost, because the console did not take it.
    fn console_lost(&mut self, console: ConsoleId) {
        let _ = console;
    }

    /// Drives an input of interrupt controllers outside the machine (`kernel-irqchip=on`).
    fn set_gsi(&mut self, gsi: u8, level: bool);

    /// Drives the INTR line: the output of the machine's own PICs. Which processor takes it is for
    /// LINT0 of their local APICs to say. One that does calls `Machine::acknowledge`.
    fn set_intr(&mut self, level: bool);

    /// Sends an interrupt of the machine's own I/O APIC to the local APICs. A host that has none,
    /// such as a device test, has nobody to hear it.
    fn msi(&mut self, message: Msi) {
        let _ = message;
    }

    /// The interrupt that an input of the machine's own I/O APIC sends is another now; `None` while
    /// it is masked. Told before the first [`Host::msi`] with it, for local APICs that must know
    /// which vectors end with `Machine::end_of_interrupt`.
    fn route_changed(&mut self, pin: u8, message: Option<Msi>) {
        let _ = (pin, message);
    }

    /// A processor, by its number, has got a reason to look: `Machine::take_event` or
    /// `Machine::interrupt_waits`. Told with the machine's own local APICs only, and perhaps more
    /// than once.
    fn attention(&mut self, cpu: u16) {
        let _ = cpu;
    }

    /// Asks for a reset, a shutdown or the end of the process.
    fn power(&mut self, request: PowerRequest);

    /// Takes what the guest tells of itself; the host's settings say what is done about it.
    fn guest_event(&mut self, event: GuestEvent);

    /// Takes a request of a drive; `Machine::block_done` tells of its end, never from in here. Which
    /// drives there are is the host's doing, so one that has none gets none.
    fn block(&mut self, request: Request<'_>) {
        let _ = request;
    }

    /// The requests of a drive that are under way are wanted no more: its controller was reset.
    /// Once this returns none of them touches guest memory; what they have written stays.
    /// `Machine::block_done` need not tell of their ends.
    fn block_cancel(&mut self, drive: DriveId) {
        let _ = drive;
    }

    /// The driver says that queues have buffers which are lent to the host
    /// ([`Machine::lend_disk`](super::Machine::lend_disk)).
    fn queue_notified(&mut self, drive: DriveId) {
        let _ = drive;
    }

    /// The guest has moved the tray of a drive.
    fn tray_moved(&mut self, drive: DriveId, open: bool) {
        let _ = (drive, open);
    }

    /// The memory map has changed: `Machine::memory_map` tells the new one. The host applies it
    /// before the guest runs on.
    fn memory_remapped(&mut self);

    /// Takes the page of RAM at `gpa` out of what the guest has mapped: its next access has to look
    /// for the page again. Whoever keeps no such mappings has nothing to do; nothing else is to be
    /// seen of it.
    fn flush_page(&mut self, gpa: u64) {
        let _ = gpa;
    }

    /// Says whether an interval timer outside the machine (`kernel-irqchip=on`) is to leave its line alone, because an HPET stands
    /// for it. Told with each change, and when state is loaded.
    fn mute_pit(&mut self, muted: bool) {
        let _ = muted;
    }

    /// Bytes of a flash chip, from an offset on, are others now: whoever keeps its contents takes them. False if they can't be
    /// kept, which the guest sees.
    fn flash_changed(&mut self, unit: u8, offset: u32, bytes: &[AtomicU8]) -> bool {
        let _ = (unit, offset, bytes);
        true
    }

    /// The A20 gate was switched.
    fn set_a20(&mut self, enabled: bool);
}
