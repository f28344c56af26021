//! Device models: one file each. A model reads top to bottom: what it is and which datasheet it
//! follows, registers, state, reset, read, write, what the host tells it, tests.
//!
//! A model never calls the machine or the host. Its methods get a [`Context`] to drive interrupt
//! lines, arm timers, reach guest RAM and queue [`Effect`]s; the machine drains the queue after
//! each access.

pub mod acpi_pm;
pub mod block;
pub mod class;
pub mod debug_exit;
pub mod debugcon;
pub mod dma;
pub mod fdc;
pub mod ged;
pub mod hpet;
pub mod i6300esb;
pub mod i8042;
pub mod ib700;
pub mod ide;
pub mod input;
pub mod kernel;
pub mod parallel;
pub mod pc_testdev;
pub mod pci_serial;
pub mod pci_testdev;
pub mod pflash;
pub mod pit;
pub mod port92;
pub mod post;
mod ps2;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
pub mod vmgenid;

use crate::irq::{Lines, Msi};
use crate::memory::GuestRam;
use crate::time::Timers;

/// Effects that one register access may queue before the machine drains them.
pub const EFFECTS_MAX: usize = 32;

/// What a device may touch outside itself during one call.
pub struct Context<'a> {
    /// Nanoseconds of the virtual clock.
    pub now: u64,
    /// Interrupt lines of the board.
    pub lines: &'a mut Lines,
    /// Timers of the board.
    pub timers: &'a mut Timers,
    /// Plain guest RAM.
    pub ram: &'a dyn GuestRam,
    /// What the device asks of the machine and the host.
    pub effects: &'a mut Effects,
}

/// Width of one access to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits, MMIO only.
    Qword = 8,
}

impl Width {
    /// Bytes of the access: 1, 2, 4 or 8.
    pub const fn bytes(self) -> u8 {
        self as u8
    }

    /// The value of an access that nothing answers: all bits of this width set.
    pub const fn ones(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// The width of `bytes` bytes.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            8 => Some(Self::Qword),
            _ => None,
        }
    }
}

/// A device with registers in port-I/O space.
///
/// The bus owns bus facts: it splits an access that is wider than [`PortDevice::WIDEST`] into
/// consecutive ones, and a device never sees an offset outside the range it was mapped at.
pub trait PortDevice {
    /// The widest access that the device takes whole.
    const WIDEST: Width = Width::Byte;

    /// Reads the register at `offset` from the device's base port.
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, width: Width) -> u32;

    /// Writes the register at `offset` from the device's base port.
    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, width: Width, value: u32);
}

/// A consumer of console bytes outside the machine: a serial line, a debug port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConsoleId(pub u8);

/// Why the guest or the host asked for a reset or a shutdown: QMP's ShutdownCause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// SIGTERM, SIGINT or SIGHUP.
    HostSignal,
    /// The guest powered off, or left through the debug exit port.
    GuestShutdown,
    /// The guest asked for a reset.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
}

impl ShutdownCause {
    /// All causes.
    pub const ALL: &[Self] = &[
        Self::HostQmpQuit,
        Self::HostQmpSystemReset,
        Self::HostSignal,
        Self::GuestShutdown,
        Self::GuestReset,
        Self::GuestPanic,
    ];

    /// QMP's name for the cause.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostQmpSystemReset => "host-qmp-system-reset",
            Self::HostSignal => "host-signal",
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
        }
    }

    /// Whether the guest asked for it: the `guest` member of SHUTDOWN and RESET events.
    pub const fn by_guest(self) -> bool {
        matches!(
            self,
            Self::GuestShutdown | Self::GuestReset | Self::GuestPanic
        )
    }
}

/// A request that ends what the guest runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Suspend it to RAM: nothing runs until it is woken up.
    Suspend,
    /// Reset the machine.
    Reset(ShutdownCause),
    /// Power it off.
    Shutdown(ShutdownCause),
    /// End the process at once with this exit status.
    Exit(i32),
}

/// What a guest tells the host by a device, for the host's settings to decide about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// Its kernel has panicked.
    Panicked,
    /// Its kernel has panicked, and a crash kernel takes over.
    CrashLoaded,
    /// It has suspended itself to disk, and powers off.
    SuspendedToDisk,
    /// It left its watchdog alone for too long.
    WatchdogExpired,
    /// It set its clock.
    RtcChanged {
        /// What the clock is now ahead of the one that it was started with, in seconds.
        offset: i64,
    },
}

/// What a device asks for outside of lines and timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A byte for a console without flow control.
    Console(ConsoleId, u8),
    /// Reset, shutdown or exit.
    Power(PowerRequest),
    /// What the guest tells.
    Guest(GuestEvent),
    /// The A20 gate: whether address bit 20 passes.
    A20(bool),
    /// Which memory is mapped where has changed.
    RemapMemory,
    /// The host is to take the page at this guest physical address out of the guest's mappings.
    FlushPage(u32),
    /// A PCI function sends an interrupt message.
    Message(Msi),
    /// Contents of a flash chip have changed, and are to be kept.
    FlashChanged {
        /// The chip's number.
        unit: u8,
        /// The first byte.
        offset: u32,
        /// How many.
        length: u16,
    },
    /// The guest has opened or closed a drive's tray.
    Tray {
        /// Which drive's.
        drive: block::DriveId,
        /// Whether it is open now.
        open: bool,
    },
}

/// The effects of one access, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Effects(heapless::Deque<Effect, EFFECTS_MAX>);

impl Effects {
    /// An empty queue.
    pub const fn new() -> Self {
        Self(heapless::Deque::new())
    }

    /// Queues an effect. An access to one register queues at most four, and interrupt messages
    /// that were pending come by eight; the machine drains after
    /// each, so there is room always: should a model break that rule the newest is dropped.
    pub fn push(&mut self, effect: Effect) {
        let full = self.0.push_back(effect).is_err();
        debug_assert!(!full, "one access queued more than {EFFECTS_MAX} effects");
    }

    /// The oldest effect that has not been taken yet.
    pub fn take(&mut self) -> Option<Effect> {
        self.0.pop_front()
    }
}

/// What unit tests of device models share: a context over owned parts.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::memory::ArrayRam;

    /// Everything a [`Context`] borrows.
    pub(crate) struct Bench {
        pub(crate) now: u64,
        pub(crate) lines: Lines,
        pub(crate) timers: Timers,
        pub(crate) ram: ArrayRam<0x10000>,
        pub(crate) effects: Effects,
    }

    impl Bench {
        pub(crate) fn new() -> Self {
            Self {
                now: 0,
                lines: Lines::new(),
                timers: Timers::new(),
                ram: ArrayRam::new(),
                effects: Effects::new(),
            }
        }

        pub(crate) fn context(&mut self) -> Context<'_> {
            Context {
                now: self.now,
                lines: &mut self.lines,
                timers: &mut self.timers,
                ram: &self.ram,
                effects: &mut self.effects,
            }
        }

        /// Byte write to a port device.
        pub(crate) fn out<D: PortDevice>(&mut self, device: &mut D, offset: u16, value: u8) {
            device.pio_write(&mut self.context(), offset, Width::Byte, value.into());
        }

        /// Byte read from a port device.
        pub(crate) fn inb<D: PortDevice>(&mut self, device: &mut D, offset: u16) -> u8 {
            device.pio_read(&mut self.context(), offset, Width::Byte) as u8
        }
    }
}
