//! Saving and loading the whole machine: one section a device, in the board's order.
//!
//! Guest RAM, processors and the virtual clock are the host's to save. A machine loads only what
//! one with the same board and the same devices has saved.

use super::{Board, Host, Machine};
use crate::devices::Context;
use crate::state::{StateError, load, save};

/// Bytes that the saved state of a machine needs at most.
pub const STATE_MAX: usize = 16 << 10;

/// Calls `$call!(device)` for each device that the board has, in the order of sections.
macro_rules! each_device {
    ($machine:expr, $call:ident) => {
        if $machine.board != Board::None {
            if $machine.irqchip.in_machine() {
                $call!($machine.pic);
                $call!($machine.ioapic);
                $call!($machine.pit);
            }
            $call!($machine.rtc);
            $call!($machine.post);
            $call!($machine.fw_cfg);
            if $machine.board == Board::Pc {
                $call!($machine.i8042);
                $call!($machine.port92);
                $call!($machine.pci);
                $call!($machine.i440fx);
                $call!($machine.piix3);
            }
            for index in 0..$machine.serials.len() {
                if $machine.serials[index].is_some() {
                    $call!($machine.serials[index]);
                }
            }
            if $machine.watchdog.is_some() {
                $call!($machine.watchdog);
            }
            for index in 0..$machine.debugcons.len() {
                $call!($machine.debugcons[index]);
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
        each_device!(self, save_one);
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
        each_device!(self, load_one);
        self.remap();
        host.memory_remapped();
        self.drain(host, now, None);
        if bytes.is_empty() {
            Ok(())
        } else {
            Err(StateError::Malformed)
        }
    }
}
