//! Intel 82371SB (PIIX3), function 0: the PCI-to-ISA bridge, with its reset control register.
//!
//! After the datasheet, Intel order number 290550. What counts here is PIRQ routing (section
//! 2.2.8) and the reset control register at port CF9h (2.5.5); the rest keeps what is written.
//! ELCR belongs to the interrupt controllers, the IDE and USB functions are not here.

use serde::{Deserialize, Serialize};

use super::{ConfigSpace, Identity, PciFunction, SavedSpace};
use crate::devices::class::DeviceClass;
use crate::devices::{Context, Effect, PowerRequest, ShutdownCause, Width};
use crate::state::{SavedState, StateError};

/// The class, as the object model knows it.
pub static CLASS: DeviceClass = DeviceClass {
    name: "PIIX3",
    parent: "pci-piix3",
    bus: Some("PCI"),
    doc: "ISA bridge",
    user_creatable: false,
    properties: &[],
};

/// Multi-function, because IDE sits beside it.
const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x7000,
    revision: 0x00,
    class: 0x06_0100,
    header: 0x80,
};

/// Status after reset: DEVSEL# timing medium.
const STATUS: u16 = 0x0200;

/// PIRQRC[A:D]: which interrupt each PCI interrupt pin is routed to.
const PIRQRC: u8 = 0x60;
/// PIRQRC: not routed.
const PIRQ_DISABLED: u8 = 0x80;
/// PIRQRC: the interrupt.
const PIRQ_MASK: u8 = 0x0f;

/// Registers with other values than 0 after reset, as QEMU's PIIX3 shows them.
const RESET_VALUES: [(u8, u8); 13] = [
    (0x4c, 0x4d),
    (0x4e, 0x03),
    (PIRQRC, PIRQ_DISABLED),
    (PIRQRC + 1, PIRQ_DISABLED),
    (PIRQRC + 2, PIRQ_DISABLED),
    (PIRQRC + 3, PIRQ_DISABLED),
    (0x69, 0x02),
    (0x70, 0x80),
    (0x76, 0x0c),
    (0x77, 0x0c),
    (0x78, 0x02),
    (0xa0, 0x08),
    (0xa8, 0x0f),
];

/// Reset control: the next reset is a hard one.
const RCR_HARD: u8 = 1 << 1;
/// Reset control: a 0 to 1 transition resets the processor.
const RCR_RESET: u8 = 1 << 2;

/// The ISA bridge.
#[derive(Clone, Debug)]
pub struct Piix3 {
    space: ConfigSpace,
    reset_control: u8,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    space: SavedSpace,
    reset_control: u8,
}

impl Piix3 {
    /// The bridge after power-on.
    pub fn new() -> Self {
        let mut space = ConfigSpace::new(IDENTITY);
        space.put(super::register::STATUS, &STATUS.to_le_bytes());
        for (at, value) in RESET_VALUES {
            space.put(at.into(), &[value]);
        }
        Self {
            space,
            reset_control: 0,
        }
    }

    /// Puts all registers back.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        *self = Self::new();
    }

    /// Which interrupt a PCI interrupt pin (0 for INTA# at device 0, and so on) is routed to.
    pub fn pirq_route(&self, pin: u8) -> Option<u8> {
        let route = self.space.byte(PIRQRC + pin % 4);
        (route & PIRQ_DISABLED == 0).then_some(route & PIRQ_MASK)
    }

    /// The guest reads the reset control register, port CF9h.
    pub fn reset_control(&self) -> u8 {
        self.reset_control
    }

    /// The guest writes the reset control register. A soft reset resets the machine, too: there
    /// is no state that would survive it and not a hard one.
    pub fn set_reset_control(&mut self, cx: &mut Context<'_>, value: u8) {
        self.reset_control = value & RCR_HARD;
        if value & RCR_RESET != 0 {
            cx.effects.push(Effect::Power(PowerRequest::Reset(
                ShutdownCause::GuestReset,
            )));
        }
    }
}

impl Default for Piix3 {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for Piix3 {
    fn config_read(&self, at: u8, width: Width) -> u32 {
        self.space.read(at, width)
    }

    fn config_write(&mut self, _cx: &mut Context<'_>, at: u8, width: Width, value: u32) {
        self.space.write(at, width, value);
    }
}

impl SavedState for Piix3 {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let Self {
            space,
            reset_control,
        } = self;
        Saved {
            space: SavedSpace::new(space),
            reset_control: *reset_control,
        }
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            space,
            reset_control,
        } = saved;
        if !self.space.can_become(space.bytes()) {
            return Err(StateError::Invalid("space"));
        }
        if reset_control & !RCR_HARD != 0 {
            return Err(StateError::Invalid("reset_control"));
        }
        self.space.put(0, space.bytes());
        self.reset_control = reset_control;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;

    crate::state::lifecycle_tests!(Piix3, Piix3::new(), |device, bench| {
        device.config_write(&mut bench.context(), PIRQRC, Width::Byte, 0x0b);
        device.set_reset_control(&mut bench.context(), RCR_HARD);
    });

    #[test]
    fn routes() {
        let mut bench = Bench::new();
        let mut bridge = Piix3::new();
        assert_eq!(bridge.pirq_route(0), None);
        bridge.config_write(&mut bench.context(), PIRQRC, Width::Dword, 0x0a0a_0b0b);
        assert_eq!(bridge.pirq_route(1), Some(11));
        assert_eq!(bridge.pirq_route(6), Some(10));
    }

    #[test]
    fn reset_control_register() {
        let mut bench = Bench::new();
        let mut bridge = Piix3::new();
        bridge.set_reset_control(&mut bench.context(), 0x02);
        assert_eq!((bridge.reset_control(), bench.effects.take()), (2, None));
        bridge.set_reset_control(&mut bench.context(), 0x06);
        let reset = Effect::Power(PowerRequest::Reset(ShutdownCause::GuestReset));
        assert_eq!(bench.effects.take(), Some(reset));
        assert_eq!(bridge.reset_control(), 2);
    }

    #[test]
    fn identity() {
        let bridge = Piix3::new();
        assert_eq!(bridge.config_read(0, Width::Dword), 0x7000_8086);
        assert_eq!(bridge.config_read(4, Width::Dword), 0x0200_0000);
        assert_eq!(bridge.config_read(0x0c, Width::Dword), 0x0080_0000);
        assert_eq!(bridge.config_read(0x74, Width::Dword), 0x0c0c_0000);
    }
}
