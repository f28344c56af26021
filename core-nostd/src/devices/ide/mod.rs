//! The IDE controller of the PIIX3: two channels of two drives each, and their bus master.
//!
//! Follows Intel 290550 (82371FB and 82371SB), section 2.7, for function 1, and ATA/ATAPI-7 for what
//! is behind it. Both channels answer at the ports that they have on every PC, whatever the timing
//! registers say, as in QEMU's controller; registers from 40h on hold what is written and do nothing.
//! Times of transfers are those of the host's storage.

pub mod atapi;
pub mod bus_master;
pub mod channel;
pub mod drive;
pub mod identify;

use serde::{Deserialize, Serialize};

use super::block::{BlockController, DriveId, Medium, Outcome, Request, Segments, Tray};
use super::class::DeviceClass;
use super::{Context, Width};
use crate::irq::IrqLine;
use crate::pci::config::SavedConfig;
use crate::pci::{Address, BarKind, ConfigSpace, Identity, PciFunction, reg};
use crate::state::{SavedState, StateError};
use channel::Channel;
use drive::Drive;

/// The controller.
pub static CLASS: DeviceClass = DeviceClass {
    name: "piix3-ide",
    parent: "pci-ide",
    bus: Some("PCI"),
    doc: "IDE controller of the 82371SB",
    user_creatable: false,
    properties: &[],
};

/// Where the controller stands on the PC board.
pub const ADDRESS: Address = Address::new(0, 1, 1);

/// Channels.
pub const CHANNELS: usize = 2;

/// Names of the channels' buses.
pub const BUSES: [&str; CHANNELS] = ["ide.0", "ide.1"];

/// First ports of the command blocks.
pub const COMMAND: [u16; CHANNELS] = [0x1f0, 0x170];
/// Ports of a command block.
pub const COMMAND_PORTS: u16 = 8;
/// Ports of alternate status and device control.
pub const CONTROL: [u16; CHANNELS] = [0x3f6, 0x376];
/// Interrupts.
pub const IRQS: [u8; CHANNELS] = [14, 15];

/// The range of the bus masters' registers.
const MASTER_BAR: usize = 4;

/// Timing registers of the channels (290550, 2.7.9).
const IDETIM: [u8; CHANNELS] = [0x40, 0x42];
/// IDETIM: the channel's ports are decoded.
const IDETIM_DECODE: u16 = 1 << 15;

/// Status: fast back-to-back transfers, and DEVSEL# timing medium.
const STATUS: u16 = 1 << 9 | 1 << 7;

/// The controller.
#[derive(Clone, Debug)]
pub struct Ide {
    config: ConfigSpace,
    channels: [Channel; CHANNELS],
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    config: SavedConfig,
    channels: [channel::Saved; CHANNELS],
}

impl Default for Ide {
    fn default() -> Self {
        Self::new()
    }
}

impl Ide {
    /// The controller without drives.
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            class: 0x01_0180,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: false,
            interrupt_pin: 0,
        });
        config.preset(reg::STATUS, &STATUS.to_le_bytes());
        config.allow_from(0x40);
        let fits = config.set_bar(MASTER_BAR, BarKind::Io, 16);
        debug_assert!(fits, "16 ports");
        Self {
            config,
            channels: IRQS.map(|irq| Channel::new(IrqLine::new(irq))),
        }
    }

    /// Sets the timing registers up from the start, as firmware does, for guests that no firmware has run before: their drivers
    /// take a channel whose ports are not decoded for one that is not there.
    pub fn enable_channels(&mut self) {
        for register in IDETIM {
            self.config.preset(register, &IDETIM_DECODE.to_le_bytes());
        }
    }

    /// A channel, of number 0 or 1.
    pub fn channel(&mut self, number: u8) -> &mut Channel {
        &mut self.channels[usize::from(number & 1)]
    }

    /// The drive of this number, 0 to 3: first and second of the first channel, then of the second.
    pub fn drive(&self, number: u8) -> Option<&Drive> {
        self.channels[usize::from(number >> 1 & 1)].drive(number & 1 != 0)
    }

    /// Adds the drive of this number.
    pub fn add(&mut self, number: u8, drive: Drive) {
        self.channel(number >> 1).add(number & 1 != 0, drive);
    }

    fn channel_of(&mut self, drive: DriveId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.has(drive))
    }

    /// The channel and the register of the bus masters at an offset.
    fn master(offset: u64) -> (u8, u64) {
        let ports = bus_master::PORTS;
        ((offset / ports) as u8, offset % ports)
    }
}

impl PciFunction for Ide {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        self.config.reset();
        for channel in &mut self.channels {
            channel.reset(cx);
        }
    }

    fn bar_read(&mut self, _cx: &mut Context<'_>, _bar: usize, offset: u64, width: Width) -> u64 {
        let (channel, register) = Self::master(offset);
        let value = self.channel(channel).master_read(register, width);
        u64::from(value) & width.ones()
    }

    fn bar_write(
        &mut self,
        _cx: &mut Context<'_>,
        _bar: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        let (channel, register) = Self::master(offset);
        self.channel(channel)
            .master_write(register, width, value as u32);
    }
}

impl BlockController for Ide {
    fn next_request<'a>(
        &'a mut self,
        cx: &mut Context<'_>,
        segments: &'a mut Segments,
    ) -> Option<Request<'a>> {
        let mut found = None;
        for (number, channel) in self.channels.iter_mut().enumerate() {
            if found.is_none() {
                found = channel.plan(cx, segments).map(|planned| (number, planned));
            }
        }
        let (number, planned) = found?;
        Some(self.channels[number].issue(planned, segments))
    }

    fn take_cancelled(&mut self) -> Option<DriveId> {
        let mut channels = self.channels.iter_mut();
        channels.find_map(Channel::take_cancelled)
    }

    fn request_done(
        &mut self,
        cx: &mut Context<'_>,
        drive: DriveId,
        tag: u32,
        outcome: Outcome,
        bytes: &[u8],
    ) {
        if let Some(channel) = self.channel_of(drive) {
            channel.done(cx, drive, tag, outcome, bytes);
        }
    }

    /// A tray that is moved says so by itself: see [`Ide::move_tray`].
    fn medium_changed(&mut self, _cx: &mut Context<'_>, drive: DriveId, medium: Option<Medium>) {
        let channel = self.channel_of(drive);
        if let Some(drive) = channel.and_then(|channel| channel.drive_mut(drive)) {
            drive.set_medium(medium);
        }
    }

    fn tray(&self, drive: DriveId) -> Option<Tray> {
        let mut drives = (0..2 * CHANNELS as u8).filter_map(|number| self.drive(number));
        let drive = drives.find(|other| other.id() == drive && other.is_cdrom())?;
        let (open, locked) = drive.state.packet.tray();
        Some(Tray { open, locked })
    }

    fn eject_requested(&mut self, cx: &mut Context<'_>, drive: DriveId) {
        self.with_cdrom(cx, drive, atapi::eject_requested);
    }

    fn move_tray(&mut self, cx: &mut Context<'_>, drive: DriveId, open: bool) {
        self.with_cdrom(cx, drive, |drive| atapi::move_tray(drive, open));
    }
}

impl Ide {
    fn with_cdrom(&mut self, cx: &mut Context<'_>, drive: DriveId, call: impl FnOnce(&mut Drive)) {
        let Some(channel) = self.channel_of(drive) else {
            return;
        };
        if let Some(drive) = channel.drive_mut(drive).filter(|drive| drive.is_cdrom()) {
            call(drive);
            channel.interrupt(cx);
        }
    }
}

impl SavedState for Ide {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self { config, channels } = self;
        Saved {
            config: config.save(),
            channels: channels.each_ref().map(Channel::save),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { config, channels } = saved;
        for (channel, saved) in self.channels.iter().zip(&channels) {
            channel.check(saved)?;
        }
        self.config.load(config)?;
        for (channel, saved) in self.channels.iter_mut().zip(channels) {
            channel.load(saved, cx);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
