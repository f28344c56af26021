//! The HPET's place on the board: its registers in memory, and the interval timer and the real-time clock that it silences.

use super::ports::piece;
use super::{Context, Host, Machine};
use crate::devices::Width;
use crate::devices::hpet;
use crate::trace::events as trace;

/// The device's name in trace events.
const NAME: &[u8] = b"hpet";

/// The part of `length` bytes from `gpa` on that lies in the registers: its offset in them, and the first and last byte's positions in
/// the access.
fn part(gpa: u64, length: usize) -> Option<(u64, usize, usize)> {
    let end = gpa
        .saturating_add(length as u64)
        .min(hpet::BASE + hpet::LENGTH);
    let first = gpa.max(hpet::BASE);
    (first < end).then(|| {
        (
            first - hpet::BASE,
            (first - gpa) as usize,
            (end - gpa) as usize,
        )
    })
}

impl Machine<'_> {
    /// Whether there is an HPET.
    pub fn has_hpet(&self) -> bool {
        self.hpet.is_some()
    }

    /// Whether the HPET's comparators offer messages.
    pub fn has_hpet_msi(&self) -> bool {
        self.hpet.as_ref().is_some_and(hpet::Hpet::has_msi)
    }

    /// Reads where no memory answers, if the HPET does.
    pub(super) fn hpet_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        gpa: u64,
        to: &mut [u8],
    ) -> bool {
        let Some((mut offset, mut done, end)) = part(gpa, to.len()) else {
            return false;
        };
        while done < end {
            let Some(hpet) = &mut self.hpet else {
                return false;
            };
            let width = piece(offset, end - done, Width::Dword);
            let value = hpet.mmio_read(context!(self, now), offset, width);
            trace::memory_region_ops_read(hpet::BASE + offset, value, width.bytes(), NAME);
            let next = done + width as usize;
            to[done..next].copy_from_slice(&value.to_le_bytes()[..width as usize]);
            offset += width as u64;
            done = next;
        }
        self.drain(host, now, None);
        true
    }

    /// Writes where no memory answers, if the HPET does.
    pub(super) fn hpet_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        gpa: u64,
        from: &[u8],
    ) -> bool {
        let Some((mut offset, mut done, end)) = part(gpa, from.len()) else {
            return false;
        };
        while done < end {
            let Some(hpet) = &mut self.hpet else {
                return false;
            };
            let width = piece(offset, end - done, Width::Dword);
            let next = done + width as usize;
            let mut bytes = [0; 8];
            bytes[..width as usize].copy_from_slice(&from[done..next]);
            let value = u64::from_le_bytes(bytes);
            trace::memory_region_ops_write(hpet::BASE + offset, value, width.bytes(), NAME);
            let was_legacy = hpet.is_legacy();
            hpet.mmio_write(context!(self, now), offset, width, value);
            if hpet.is_legacy() != was_legacy {
                self.settle_hpet(host, now);
            }
            self.drain(host, now, None);
            offset += width as u64;
            done = next;
        }
        true
    }

    /// Lets the interval timer and the real-time clock drive their lines, unless the HPET does.
    pub(super) fn settle_hpet<H: Host>(&mut self, host: &mut H, now: u64) {
        let Some(hpet) = &self.hpet else { return };
        let legacy = hpet.is_legacy();
        if self.irqchip.in_machine() && self.has_pit {
            self.pit.set_muted(context!(self, now), legacy);
        }
        self.rtc.set_muted(context!(self, now), legacy);
        if !self.irqchip.in_machine() {
            host.mute_pit(legacy);
        }
    }

    /// The same once state was loaded.
    pub(super) fn load_hpet<H: Host>(&mut self, host: &mut H, now: u64) {
        if let Some(hpet) = &self.hpet {
            let legacy = hpet.is_legacy();
            if self.irqchip.in_machine() && self.has_pit {
                self.pit.load_muted(context!(self, now), legacy);
            }
            self.settle_hpet(host, now);
        }
    }

    /// Before state is loaded: who drives the lines is known at its end.
    pub(super) fn hush_for_hpet(&mut self, now: u64) {
        if self.hpet.is_some() {
            if self.irqchip.in_machine() {
                self.pit.set_muted(context!(self, now), true);
            }
            self.rtc.set_muted(context!(self, now), true);
        }
    }

    /// Resets the HPET, before the devices that it has silenced.
    pub(super) fn reset_hpet(&mut self, now: u64) {
        if let Some(hpet) = &mut self.hpet {
            hpet.reset(context!(self, now));
            self.pit.set_muted(context!(self, now), false);
            self.rtc.set_muted(context!(self, now), false);
        }
    }
}
