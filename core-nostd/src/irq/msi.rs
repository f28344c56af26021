//! Message-signalled interrupts: a write to the address range of the local APICs.
//!
//! Follows Intel's Software Developer's Manual, volume 3A, section "Message Signalled Interrupts".

/// First address of the range that local APICs take messages at.
pub const MSI_BASE: u64 = 0xfee0_0000;
/// The address behind it.
pub const MSI_END: u64 = 0xfef0_0000;

/// One message: a doubleword written to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    /// Where to: the destination, from [`MSI_BASE`] on.
    pub address: u64,
    /// Vector, delivery mode and trigger mode.
    pub data: u32,
}

impl Msi {
    /// Bits of the vector in [`Msi::data`].
    const VECTOR: u32 = 0xff;
    /// Position of the 3 bits of the delivery mode in [`Msi::data`].
    const DELIVERY_MODE: u32 = 8;
    /// In [`Msi::data`]: a level-triggered interrupt rises.
    const ASSERT: u32 = 1 << 14;
    /// In [`Msi::data`]: level-triggered.
    const LEVEL: u32 = 1 << 15;
    /// Position of the 8 bits of the destination in [`Msi::address`].
    const DESTINATION: u32 = 12;
    /// In [`Msi::address`]: the destination is a set of logical ids.
    const LOGICAL: u64 = 1 << 2;

    /// The message that carries an interrupt to the local APICs. `delivery_mode` is 0 to 7, as in
    /// a local vector table.
    pub const fn new(
        destination: u8,
        logical: bool,
        delivery_mode: u8,
        vector: u8,
        level: bool,
    ) -> Self {
        let mode = if logical { Self::LOGICAL } else { 0 };
        let trigger = if level { Self::LEVEL | Self::ASSERT } else { 0 };
        Self {
            address: MSI_BASE | (destination as u64) << Self::DESTINATION | mode,
            data: trigger | (delivery_mode as u32 & 7) << Self::DELIVERY_MODE | vector as u32,
        }
    }

    /// The vector.
    pub const fn vector(self) -> u8 {
        (self.data & Self::VECTOR) as u8
    }

    /// Whether its end is to be told to the I/O APIC.
    pub const fn is_level(self) -> bool {
        self.data & Self::LEVEL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_manual_says() {
        let message = Msi::new(0xa5, true, 1, 0x31, true);
        assert_eq!(message.address, 0xfeea_5004);
        assert_eq!(message.data, 0xc131);
        assert!(message.is_level());
        assert_eq!(message.vector(), 0x31);
        let message = Msi::new(1, false, 0, 0xfe, false);
        assert_eq!((message.address, message.data), (0xfee0_1000, 0xfe));
        assert!(!message.is_level());
    }
}
