//! The 82371SB (PIIX3), function 0: PCI-to-ISA bridge with PIRQ routing and reset control.
//!
//! Follows Intel 290550 (82371FB and 82371SB). The edge/level registers (ELCR, section 2.5.5) are
//! in the interrupt controller's model. The bridge's other registers (I/O recovery, chip selects,
//! DMA types, SMI, serial IRQ …) hold what is written and do nothing, and 40h to FFh are writable
//! throughout, as in QEMU's bridge. Its header type says that more functions follow: IDE, USB and
//! power management are models of their own.

use serde::{Deserialize, Serialize};

use super::config::{ConfigSpace, Identity, PciFunction, SavedConfig, reg};
use super::mechanism::Address;
use crate::devices::class::DeviceClass;
use crate::devices::{Context, Effect, PortDevice, PowerRequest, ShutdownCause, Width};
use crate::state::{SavedState, StateError};

/// The ISA bridge. QEMU's properties of this class are those of any PCI device and do nothing for
/// a fixed one, so that none is offered.
pub static CLASS: DeviceClass = DeviceClass {
    name: "PIIX3",
    parent: "pci-piix3",
    bus: Some("PCI"),
    doc: "ISA bridge 82371SB",
    user_creatable: false,
    properties: &[],
};

/// Where the ISA bridge stands on the PC board.
pub const ADDRESS: Address = Address::new(0, 1, 0);

/// The port of the reset control register (290550, section 2.5.6).
pub const RCR: u16 = 0xcf9;

/// RCR, SRST: a reset by RCPU is a hard one. Readable; both kinds reset the whole machine here.
const RCR_SRST: u8 = 1 << 1;
/// RCR, RCPU: reset now.
const RCR_RCPU: u8 = 1 << 2;

/// What resets the machine when it is written to [`RCR`].
pub(crate) const RCR_RESET: u8 = RCR_SRST | RCR_RCPU;

/// PIRQ route control A; B, C and D follow (290550, section 2.2.5).
pub(crate) const PIRQRCA: u8 = 0x60;

/// Interrupt inputs of the bridge: PIRQA# to PIRQD#.
pub const PIRQS: u8 = 4;

/// Status, DEVSEL# timing: medium.
const STATUS_DEVSEL_MEDIUM: u16 = 1 << 9;

/// What registers from 40h on hold after a reset, where that is not 0 (290550, section 2.2).
const DEFAULTS: [(u8, u8); 13] = [
    (0x4c, 0x4d), // ISA I/O recovery timer
    (0x4e, 0x03), // X-bus chip select
    (PIRQRCA, 0x80),
    (PIRQRCA + 1, 0x80),
    (PIRQRCA + 2, 0x80),
    (PIRQRCA + 3, 0x80),
    (0x69, 0x02), // top of memory
    (0x70, 0x80), // motherboard IRQ route control
    (0x76, 0x0c), // motherboard DMA control
    (0x77, 0x0c),
    (0x78, 0x02), // programmable chip select
    (0xa0, 0x08), // SMI control
    (0xa8, 0x0f), // fast-off timer
];

/// The ISA bridge.
#[derive(Clone, Debug)]
pub struct Piix3 {
    config: ConfigSpace,
    /// RCR: SRST only.
    rcr: u8,
}

/// Saved form of [`Piix3`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedPiix3 {
    config: SavedConfig,
    rcr: u8,
}

impl Default for Piix3 {
    fn default() -> Self {
        Self::new()
    }
}

impl Piix3 {
    /// The bridge as after power-on.
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7000,
            revision: 0,
            class: 0x06_0100,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            multifunction: true,
            interrupt_pin: 0,
        });
        config.preset(reg::STATUS, &STATUS_DEVSEL_MEDIUM.to_le_bytes());
        config.allow_from(0x40);
        for (offset, value) in DEFAULTS {
            config.preset(offset, &[value]);
        }
        Self { config, rcr: 0 }
    }

    /// The ISA interrupt, 0 to 15, that PIRQ `pin`, 0 to 3, is routed to; `None` if it is routed
    /// nowhere. A value with a reserved bit set routes nowhere, as in QEMU's bridge.
    pub fn pirq_route(&self, pin: u8) -> Option<u8> {
        if pin >= PIRQS {
            return None;
        }
        let route = self.config.byte(PIRQRCA + pin);
        (route < 16).then_some(route)
    }

    /// Routes of all four. The board compares them before and after an access: a line that is high
    /// moves with its route.
    pub fn pirq_routes(&self) -> [Option<u8>; PIRQS as usize] {
        core::array::from_fn(|pin| self.pirq_route(pin as u8))
    }
}

/// Which PIRQ, 0 to 3, interrupt pin `pin` of a PCI slot, 0 for INTA# to 3 for INTD#, is wired to
/// on the PC board: slot 1's INTA# ends in PIRQA#, and each further slot begins one further.
pub const fn pirq_of(address: Address, pin: u8) -> u8 {
    address.device().wrapping_add(3).wrapping_add(pin) % PIRQS
}

impl PciFunction for Piix3 {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// All registers go to their defaults.
    fn reset(&mut self, _cx: &mut Context<'_>) {
        self.config.reset();
        self.rcr = 0;
    }
}

/// The reset control register, one byte at [`RCR`].
impl PortDevice for Piix3 {
    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width) -> u32 {
        self.rcr.into()
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, _offset: u16, _width: Width, value: u32) {
        let value = value as u8;
        if value & RCR_RCPU != 0 {
            let reset = PowerRequest::Reset(ShutdownCause::GuestReset);
            cx.effects.push(Effect::Power(reset));
        } else {
            self.rcr = value & RCR_SRST;
        }
    }
}

impl SavedState for Piix3 {
    const NAME: &'static str = "PIIX3";
    const VERSION: u16 = 1;
    type Saved = SavedPiix3;

    fn save(&self) -> SavedPiix3 {
        let Self { config, rcr } = self;
        SavedPiix3 {
            config: config.save(),
            rcr: *rcr,
        }
    }

    fn load(&mut self, saved: SavedPiix3, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedPiix3 { config, rcr } = saved;
        if rcr & !RCR_SRST != 0 {
            return Err(StateError::Invalid("rcr"));
        }
        self.config.load(config)?;
        self.rcr = rcr;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::pci::config::assert_registers;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(Piix3, Piix3::new(), |device, bench| {
        device.config_write(&mut bench.context(), PIRQRCA, Width::Dword, 0x0b0b_0a0a);
        bench.out(device, 0, 2);
    });

    /// Observed with QEMU 7.2: `-M pc`.
    #[test]
    fn registers_after_power_on() {
        let device = Piix3::new();
        let set = [
            (0x00, 0x7000_8086),
            (0x04, 0x0200_0000),
            (0x08, 0x0601_0000),
            (0x0c, 0x0080_0000),
            (0x2c, 0x1100_1af4),
            (0x4c, 0x0003_004d),
            (0x60, 0x8080_8080),
            (0x68, 0x0000_0200),
            (0x70, 0x0000_0080),
            (0x74, 0x0c0c_0000),
            (0x78, 0x0000_0002),
            (0xa0, 0x0000_0008),
            (0xa8, 0x0000_000f),
        ];
        assert_registers(&device, &set);
    }

    /// Observed with QEMU 7.2: all ones written to all registers.
    #[test]
    fn registers_after_all_ones() {
        let (mut device, mut bench) = (Piix3::new(), Bench::new());
        for offset in (0..=252).step_by(4) {
            device.config_write(&mut bench.context(), offset, Width::Dword, u32::MAX);
            let expected = match offset {
                0x00 => 0x7000_8086,
                0x04 => 0x0200_0507,
                0x08 => 0x0601_0000,
                0x0c => 0x0080_00ff,
                0x2c => 0x1100_1af4,
                0x3c => 0xff,
                0x40.. => u32::MAX,
                _ => 0,
            };
            let value = device.config_read(offset, Width::Dword);
            assert_eq!(value, expected, "{offset:#x}");
        }
    }

    #[test]
    fn routes_pirqs() {
        let (mut device, mut bench) = (Piix3::new(), Bench::new());
        assert_eq!(device.pirq_routes(), [None; 4]);
        device.config_write(&mut bench.context(), PIRQRCA, Width::Dword, 0x8b1b_0a0b);
        assert_eq!(device.pirq_routes(), [Some(11), Some(10), None, None]);
        assert_eq!(device.pirq_route(4), None);
        assert_eq!(device.pirq_route(255), None);
    }

    #[test]
    fn slots_take_turns() {
        assert_eq!(pirq_of(Address::new(0, 1, 3), 3), 3);
        assert_eq!(pirq_of(Address::new(0, 3, 0), 0), 2);
        assert_eq!(pirq_of(Address::new(0, 4, 0), 1), 0);
        assert_eq!(pirq_of(Address::new(0, 0, 0), 0), 3);
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn reset_control() {
        let (mut device, mut bench) = (Piix3::new(), Bench::new());
        for (written, read) in [(1, 0), (2, 2), (8, 0), (0xf9, 0), (0xfb, 2), (0, 0)] {
            bench.out(&mut device, 0, written);
            assert_eq!(bench.inb(&mut device, 0), read, "{written:#x}");
        }
        assert_eq!(bench.effects.take(), None);
        bench.out(&mut device, 0, 6);
        let reset = PowerRequest::Reset(ShutdownCause::GuestReset);
        assert_eq!(bench.effects.take(), Some(Effect::Power(reset)));
    }

    #[test]
    fn refuses_impossible_state() {
        let (mut device, mut bench) = (Piix3::new(), Bench::new());
        let mut saved = device.save();
        saved.rcr = 4;
        let result = device.load(saved, &mut bench.context());
        assert_eq!(result, Err(StateError::Invalid("rcr")));
    }
}
