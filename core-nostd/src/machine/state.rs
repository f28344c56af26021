//! Saving and loading the whole machine: one section a device, in the board's order.
//!
//! Guest RAM, processors with their local APICs and the virtual clock are the host's to save. A
//! machine loads only what one with the same board and the same devices has saved.

use super::drives::VirtioDisk;
use super::{Board, Host, Machine};
use crate::devices::Context;
use crate::devices::pc_testdev::{self, Page};
use crate::devices::pit::SavedPit;
use crate::irq::Lines;
use crate::irq::ioapic::IoApicState;
use crate::irq::pic::SavedPic;
use crate::state::{SavedState, StateError, load, save};
use crate::time::Timers;

/// Bytes that the saved state of a machine needs at most.
pub const STATE_MAX: usize = (96 << 10) + pc_testdev::PAGES * (4096 + 64);

/// The state of the interrupt controllers and the interval timer, whoever models them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controllers {
    /// Both PICs; `None` where the board has none.
    pub pic: Option<SavedPic>,
    /// The I/O APIC.
    pub ioapic: IoApicState,
    /// The second one, on a board that has it.
    pub ioapic2: Option<IoApicState>,
    /// The interval timer, with times on the virtual clock; `None` where the board has none.
    pub pit: Option<SavedPit>,
}

/// The context of a device that only holds the state of the host's: it drives nothing.
macro_rules! apart {
    ($machine:expr, $now:expr) => {
        &mut Context {
            now: $now,
            lines: &mut Lines::new(),
            timers: &mut Timers::new(),
            ram: $machine.ram,
            effects: &mut $machine.effects,
        }
    };
}

/// Calls `$call!(device)` for each device that the host may model instead, in the order of
/// sections.
macro_rules! each_controller {
    ($machine:expr, $call:ident) => {
        if $machine.board != Board::None {
            if $machine.has_pic {
                $call!($machine.pic);
            }
            $call!($machine.ioapic);
            if $machine.has_pit {
                $call!($machine.pit);
            }
        }
    };
}

/// Calls `$call!(device)` for each other device that the board has, in the order of sections; `$reference` says how it is borrowed.
macro_rules! each_device {
    ($machine:expr, $call:ident, $reference:ident) => {
        if $machine.board != Board::None {
            if $machine.has_rtc {
                $call!($machine.rtc);
            }
            if $machine.hpet.is_some() {
                // Behind both devices that it silences.
                $call!($machine.hpet);
            }
            $call!($machine.post);
            $call!($machine.fw_cfg);
            if $machine.board == Board::Pc {
                $call!($machine.i8042);
                $call!($machine.typing);
                $call!($machine.port92);
                $call!($machine.dma);
                $call!($machine.boot);
                $call!($machine.pci);
                $call!($machine.i440fx);
                $call!($machine.piix3);
                if $machine.has_acpi {
                    $call!($machine.piix4_pm);
                }
                $call!($machine.ide);
                $call!($machine.fdc);
                // Behind both devices that drive it.
                $call!($machine.a20);
                for unit in 0..$machine.flash.len() {
                    if $machine.flash[unit].is_some() {
                        $call!($machine.flash[unit]);
                    }
                }
            }
            if $machine.microvm.ged.is_some() {
                $call!($machine.microvm.ged);
            } else if $machine.has_acpi {
                $call!($machine.acpi_pm);
            }
            if $machine.microvm.ioapic2.is_some() {
                $call!($machine.microvm.ioapic2);
            }
            for index in 0..$machine.serials.len() {
                if $machine.serials[index].is_some() {
                    $call!($machine.serials[index]);
                }
            }
            for index in 0..$machine.parallels.len() {
                if $machine.parallels[index].is_some() {
                    $call!($machine.parallels[index]);
                }
            }
            if $machine.watchdog.is_some() {
                $call!($machine.watchdog);
            }
            for index in 0..$machine.buses.bridges.len() {
                if $machine.buses.bridges[index].is_some() {
                    $call!($machine.buses.bridges[index]);
                }
            }
            for index in 0..$machine.buses.serials.len() {
                if $machine.buses.serials[index].is_some() {
                    $call!($machine.buses.serials[index]);
                }
            }
            for index in 0..$machine.buses.testdevs.len() {
                if $machine.buses.testdevs[index].is_some() {
                    $call!($machine.buses.testdevs[index]);
                }
            }
            for index in 0..$machine.buses.watchdogs.len() {
                if $machine.buses.watchdogs[index].is_some() {
                    $call!($machine.buses.watchdogs[index]);
                }
            }
            for index in 0..$machine.buses.pvpanics.len() {
                if $machine.buses.pvpanics[index].is_some() {
                    $call!($machine.buses.pvpanics[index]);
                }
            }
            for index in 0..$machine.buses.disks.len() {
                match $machine.buses.disks[index].$reference() {
                    Some(VirtioDisk::Pci(disk)) => $call!(*disk),
                    Some(VirtioDisk::Mmio(disk)) => $call!(*disk),
                    None => {}
                }
            }
            for index in 0..$machine.debugcons.len() {
                $call!($machine.debugcons[index]);
            }
            if $machine.testdev.is_some() {
                $call!($machine.testdev);
                for index in 0..pc_testdev::PAGES {
                    $call!(Page::new($machine.testdev_memory, index));
                }
            }
        }
    };
}

impl Machine<'_> {
    /// Writes the state of all devices to the front of `buffer` and returns its length.
    pub fn save(&self, buffer: &mut [u8]) -> Result<usize, StateError> {
        let mut used = 0;
        macro_rules! save_one {
            ($device:expr) => {
                used += save(&$device, buffer.get_mut(used..).ok_or(StateError::Full)?)?
            };
        }
        each_controller!(self, save_one);
        each_device!(self, save_one, as_ref);
        Ok(used)
    }

    /// Takes over the state of all devices, drives lines and timers to match and tells the host.
    /// On error the devices before the bad section are changed: the machine must be reset.
    pub fn load<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        mut bytes: &[u8],
    ) -> Result<(), StateError> {
        macro_rules! load_one {
            ($device:expr) => {
                bytes = load(&mut $device, bytes, context!(self, now))?
            };
        }
        macro_rules! load_apart {
            ($device:expr) => {
                bytes = load(&mut $device, bytes, apart!(self, now))?
            };
        }
        self.hush_for_hpet(now);
        if self.irqchip.in_machine() {
            each_controller!(self, load_one);
        } else {
            each_controller!(self, load_apart);
        }
        each_device!(self, load_one, as_mut);
        self.load_hpet(host, now);
        self.settle_pci(host);
        self.remap();
        host.memory_remapped();
        self.drain(host, now, None);
        if bytes.is_empty() {
            self.announce_generation(host, now);
            Ok(())
        } else {
            Err(StateError::Malformed)
        }
    }

    /// The state of the interrupt controllers and the interval timer: what the machine's own have,
    /// or else what was set or loaded last, for the host to hand to its own.
    pub fn controllers(&self) -> Controllers {
        Controllers {
            pic: self.has_pic.then(|| self.pic.save()),
            ioapic: *self.ioapic.state(),
            ioapic2: self.microvm.ioapic2.as_ref().map(|chip| *chip.state()),
            pit: self.has_pit.then(|| self.pit.save()),
        }
    }

    /// Sets that state. A host that models them does so before it saves the machine.
    ///
    /// # Errors
    /// If they can't have it. Those before the bad one are changed then.
    pub fn set_controllers<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        controllers: Controllers,
    ) -> Result<(), StateError> {
        let Controllers {
            pic,
            ioapic,
            ioapic2,
            pit,
        } = controllers;
        if pit.is_some() != self.has_pit {
            return Err(StateError::Invalid("pit"));
        }
        if pic.is_some() != self.has_pic {
            return Err(StateError::Invalid("pic"));
        }
        match (&mut self.microvm.ioapic2, &ioapic2) {
            (Some(chip), Some(state)) => chip.set_state(state)?,
            (None, None) => {}
            _ => return Err(StateError::Invalid("ioapic2")),
        }
        self.ioapic.set_state(&ioapic)?;
        if self.irqchip.in_machine() {
            if let Some(pic) = pic {
                self.pic.load(pic, context!(self, now))?;
            }
            if let Some(pit) = pit {
                self.pit.load(pit, context!(self, now))?;
            }
        } else {
            if let Some(pic) = pic {
                self.pic.load(pic, apart!(self, now))?;
            }
            if let Some(pit) = pit {
                self.pit.load(pit, apart!(self, now))?;
            }
        }
        self.drain(host, now, None);
        Ok(())
    }
}
