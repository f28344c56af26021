//! What travels between interrupt controllers: inter-processor interrupts, and what the I/O APIC
//! and devices send as messages.
//!
//! Follows Intel's Software Developer's Manual, volume 3A, chapter "APIC", sections "Issuing
//! Interprocessor Interrupts" and "Message Signalled Interrupts".

use super::LocalApic;
use crate::irq::Msi;

/// Fields of the low half of the interrupt command register.
pub(super) mod icr {
    pub(crate) const VECTOR: u32 = 0xff;
    /// Position of the 3 bits of the delivery mode.
    pub(crate) const DELIVERY_MODE: u32 = 8;
    pub(crate) const LOGICAL: u32 = 1 << 11;
    pub(crate) const ASSERT: u32 = 1 << 14;
    pub(crate) const LEVEL_TRIGGERED: u32 = 1 << 15;
    /// Position of the 2 bits of the destination shorthand.
    pub(crate) const SHORTHAND: u32 = 18;
    /// All of them. The delivery status between them always reads as idle.
    pub(crate) const ALL: u32 = 0x000c_cfff;
    /// Position of the destination in the high half, in xAPIC mode.
    pub(crate) const DESTINATION: u32 = 24;
}

/// Fields of a message's address that [`Msi`] does not name.
mod msi {
    /// The lowest-priority rule applies, whatever the delivery mode says.
    pub(super) const REDIRECTION_HINT: u64 = 1 << 3;
    /// Position of the 8 bits of the destination.
    pub(super) const DESTINATION: u32 = 12;
    pub(super) const LOGICAL: u64 = 1 << 2;
}

/// What an interrupt does to the processor that takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// Requests its vector.
    Fixed,
    /// As [`DeliveryMode::Fixed`], at the one of the destinations that does the least important
    /// work.
    LowestPriority,
    /// System management interrupt. There is no such mode here: it is lost.
    Smi,
    /// Reads a register of another local APIC, on the first ones with a bus of their own. Lost.
    RemoteRead,
    /// Non-maskable interrupt.
    Nmi,
    /// Puts the processor into its state after INIT.
    Init,
    /// Starts a processor that waits for it, at the page that the vector numbers.
    Startup,
    /// The vector is to be asked for at the 8259A. Only LINT0 does that here: as a message it is
    /// lost.
    ExtInt,
}

impl DeliveryMode {
    /// The mode of a field of 3 bits; higher ones are ignored.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::RemoteRead,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }
}

/// Who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this id.
    Physical(u32),
    /// Those of which the logical id matches.
    Logical(u32),
    /// The sender.
    Sender,
    /// All, with the sender.
    All,
    /// All, without the sender.
    Others,
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// To whom.
    pub destination: Destination,
    /// What it does.
    pub mode: DeliveryMode,
    /// Its vector; for [`DeliveryMode::Startup`] the number of a page.
    pub vector: u8,
    /// Level-triggered: its end is told to the I/O APIC.
    pub level: bool,
}

impl Message {
    /// What a write to the address range of the local APICs means; nothing where its delivery mode
    /// is reserved for messages.
    pub fn from_msi(message: Msi) -> Option<Self> {
        let destination = (message.address >> msi::DESTINATION) as u8;
        let logical = message.address & msi::LOGICAL != 0;
        let mode = match DeliveryMode::from_bits(message.data >> icr::DELIVERY_MODE) {
            DeliveryMode::RemoteRead | DeliveryMode::Startup => return None,
            DeliveryMode::Fixed if logical && message.address & msi::REDIRECTION_HINT != 0 => {
                DeliveryMode::LowestPriority
            }
            mode => mode,
        };
        Some(Self {
            destination: narrow(destination, logical),
            mode,
            vector: message.vector(),
            level: message.is_level(),
        })
    }

    /// What a write to the interrupt command register sends; nothing for the release of a
    /// level-triggered INIT, which only old processors knew.
    pub(super) fn from_icr(low: u32, high: u32, x2apic: bool) -> Option<Self> {
        let mode = DeliveryMode::from_bits(low >> icr::DELIVERY_MODE);
        let level = low & icr::LEVEL_TRIGGERED != 0;
        if mode == DeliveryMode::Init && level && low & icr::ASSERT == 0 {
            return None;
        }
        let logical = low & icr::LOGICAL != 0;
        let destination = match low >> icr::SHORTHAND & 3 {
            0 if x2apic => wide(high, logical),
            0 => narrow((high >> icr::DESTINATION) as u8, logical),
            1 => Destination::Sender,
            2 => Destination::All,
            _ => Destination::Others,
        };
        Some(Self {
            destination,
            mode,
            vector: (low & icr::VECTOR) as u8,
            // Such interrupts are edges on every processor with a front-side bus.
            level: false,
        })
    }

    /// Whether a local APIC is among the destinations.
    pub fn reaches(&self, apic: &LocalApic, is_sender: bool) -> bool {
        match self.destination {
            Destination::Physical(id) => apic.id() == id,
            Destination::Logical(set) => apic.matches_logical(set),
            Destination::Sender => is_sender,
            Destination::All => true,
            Destination::Others => !is_sender,
        }
    }
}

/// A destination of 8 bits.
fn narrow(destination: u8, logical: bool) -> Destination {
    match destination {
        u8::MAX => Destination::All,
        set if logical => Destination::Logical(set.into()),
        id => Destination::Physical(id.into()),
    }
}

/// A destination of 32 bits.
fn wide(destination: u32, logical: bool) -> Destination {
    match destination {
        u32::MAX => Destination::All,
        set if logical => Destination::Logical(set),
        id => Destination::Physical(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_devices() {
        let sent = |message| Message::from_msi(message).unwrap();
        let fixed = sent(Msi::new(3, false, 0, 0x41, true));
        assert_eq!(fixed.destination, Destination::Physical(3));
        assert_eq!((fixed.mode, fixed.vector), (DeliveryMode::Fixed, 0x41));
        assert!(fixed.level);
        let all = sent(Msi::new(0xff, true, 1, 0x41, false));
        assert_eq!(all.destination, Destination::All);
        let mut hinted = Msi::new(0x0f, true, 0, 0x41, false);
        hinted.address |= 1 << 3;
        assert_eq!(sent(hinted).mode, DeliveryMode::LowestPriority);
        assert_eq!(sent(hinted).destination, Destination::Logical(0x0f));
        for reserved in [3, 6] {
            assert_eq!(
                Message::from_msi(Msi::new(0, false, reserved, 0x41, false)),
                None
            );
        }
    }

    #[test]
    fn commands_of_processors() {
        let sent = |low, high, x2apic| Message::from_icr(low, high, x2apic);
        let to = |low, high, x2apic| sent(low, high, x2apic).unwrap().destination;
        assert_eq!(to(0x41, 0x0500_0000, false), Destination::Physical(5));
        assert_eq!(to(0x41, 0x0500_0000, true), Destination::Physical(5 << 24));
        assert_eq!(to(0x841, 0x0500_0000, false), Destination::Logical(5));
        assert_eq!(to(0x41, 0xff00_0000, false), Destination::All);
        assert_eq!(
            to(0x41, 0xff00_0000, true),
            Destination::Physical(0xff00_0000)
        );
        assert_eq!(to(0x41, u32::MAX, true), Destination::All);
        assert_eq!(to(0x4_0041, 0, false), Destination::Sender);
        assert_eq!(to(0x8_0041, 0, false), Destination::All);
        assert_eq!(to(0xc_0041, 0, false), Destination::Others);
        assert_eq!(sent(0x8500, 0, false), None, "INIT released");
        for init in [0x4500, 0xc500, 0x0500] {
            let message = sent(init, 0, false).unwrap();
            assert_eq!((message.mode, message.level), (DeliveryMode::Init, false));
        }
    }
}
