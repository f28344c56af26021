//! The pair of Intel 8259A interrupt controllers of a PC, with the PIIX's ELCR registers.
//!
//! Follows Intel's 8259A datasheet (231468) and the PIIX datasheet for the edge/level registers.
//! Master and slave are one device because the cascade between them is part of every
//! acknowledge cycle.
//!
//! Ports: a decode table maps three ranges of two ports at offsets of this one device:
//! 20h at [`MASTER_OFFSET`], A0h at [`SLAVE_OFFSET`], 4D0h at [`ELCR_OFFSET`].
//!
//! An edge stays latched in IRR when its input falls before the acknowledge: lines are pulsed
//! within one register access here, which the real part would count as a spurious interrupt.
//! Not modelled: 8080/8085 call mode, buffered mode (it has no register effect), ICW1's LTIM
//! (the PIIX replaces it by ELCR) and ICW3 (the cascade is wired to input 2).

use serde::{Deserialize, Serialize};

use crate::devices::class::{DeviceClass, Property, PropertyKind, Value};
use crate::devices::{Context, PortDevice, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// Class of the device, one instance for each of the two chips.
pub static CLASS: DeviceClass = DeviceClass {
    name: "isa-i8259",
    parent: "pic-common",
    bus: Some("ISA"),
    doc: "Intel 8259A interrupt controller",
    user_creatable: false,
    properties: &[
        Property {
            name: "elcr_addr",
            kind: PropertyKind::Uint32,
            default: Value::Uint(0xffff_ffff),
            doc: "port of the edge/level register",
        },
        Property {
            name: "elcr_mask",
            kind: PropertyKind::Uint8,
            default: Value::Uint(0xff),
            doc: "inputs that can be made level-triggered",
        },
        Property {
            name: "iobase",
            kind: PropertyKind::Uint32,
            default: Value::Uint(0xffff_ffff),
            doc: "first of the two ports",
        },
        Property {
            name: "master",
            kind: PropertyKind::Bool,
            default: Value::Bool(false),
            doc: "whether this chip drives the processor",
        },
    ],
};

/// Offset of the master's two registers, ports 20h and 21h.
pub const MASTER_OFFSET: u16 = 0;
/// Offset of the slave's two registers, ports A0h and A1h.
pub const SLAVE_OFFSET: u16 = 2;
/// Offset of the two edge/level registers, ports 4D0h and 4D1h.
pub const ELCR_OFFSET: u16 = 4;

/// Inputs of the master and the slave that can be level-triggered: all but 0, 1, 2, 8 and 13.
pub const ELCR_MASKS: [u8; 2] = [0xf8, 0xde];

/// The master's input that the slave's INT output drives.
const CASCADE: u8 = 2;

/// The input that an acknowledge without a request names.
const SPURIOUS: u8 = 7;

const ICW1: u8 = 1 << 4;
const ICW1_IC4: u8 = 1 << 0;
const ICW1_SNGL: u8 = 1 << 1;
const ICW4_AEOI: u8 = 1 << 1;
const ICW4_SFNM: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_RIS: u8 = 1 << 0;
const OCW3_RR: u8 = 1 << 1;
const OCW3_P: u8 = 1 << 2;
const OCW3_SMM: u8 = 1 << 5;
const OCW3_ESMM: u8 = 1 << 6;
/// Set in a poll byte that names a request.
const POLL_INT: u8 = 1 << 7;

/// Which initialization word the chip expects at A0 = 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expects {
    /// None: it is the mask.
    #[default]
    Ocw1,
    /// The vector.
    Icw2,
    /// The cascade.
    Icw3,
    /// The mode.
    Icw4,
}

/// Registers of one chip; the default is the state after power-on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chip {
    /// Levels at the inputs. Not a register: initialization leaves them.
    pub pins: u8,
    /// Rising edges that have not been acknowledged.
    pub edges: u8,
    /// The mask.
    pub imr: u8,
    /// Inputs that are served.
    pub isr: u8,
    /// Inputs that are level-triggered.
    pub elcr: u8,
    /// ICW2: vector of input 0, a multiple of 8.
    pub base: u8,
    /// Input of highest priority, 0 to 7.
    pub top: u8,
    /// What the next write to the data port is.
    pub expects: Expects,
    /// ICW1: there will be an ICW4.
    pub icw4_follows: bool,
    /// ICW1: there is no cascade, and no ICW3.
    pub single: bool,
    /// ICW4: the acknowledge ends the interrupt.
    pub auto_eoi: bool,
    /// OCW2: and rotates priorities.
    pub rotate_on_auto_eoi: bool,
    /// ICW4: a slave's interrupts nest.
    pub special_fully_nested: bool,
    /// OCW3: masked inputs that are served hold nothing back.
    pub special_mask: bool,
    /// OCW3: the command port reads ISR, else IRR.
    pub read_isr: bool,
    /// OCW3: the next read is an acknowledge.
    pub poll: bool,
}

impl Chip {
    /// IRR: latched edges, and the levels of level-triggered inputs.
    pub fn irr(&self) -> u8 {
        self.edges & !self.elcr | self.pins & self.elcr
    }

    fn set_pin(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        if !level {
            self.pins &= !bit;
        } else if self.pins & bit == 0 {
            self.pins |= bit;
            self.edges |= bit & !self.elcr;
        }
    }

    /// Distance of the highest-priority bit from the top; 8 where no bit is set.
    fn priority(&self, bits: u8) -> u32 {
        bits.rotate_right(self.top.into()).trailing_zeros()
    }

    /// The input whose request goes out: `cascade` are the inputs that a slave sits at.
    fn request(&self, cascade: u8) -> Option<u8> {
        let wanted = self.priority(self.irr() & !self.imr);
        let mut serving = self.isr;
        if self.special_mask {
            serving &= !self.imr;
        }
        if self.special_fully_nested {
            serving &= !cascade;
        }
        (wanted < self.priority(serving)).then(|| self.top.wrapping_add(wanted as u8) & 7)
    }

    fn acknowledge(&mut self, input: u8) {
        self.edges &= !(1 << input);
        if !self.auto_eoi {
            self.isr |= 1 << input;
        } else if self.rotate_on_auto_eoi {
            self.top = (input + 1) & 7;
        }
    }

    fn tell_request(&self, master: bool) {
        trace::pic_update_irq(master, self.imr, self.irr(), self.top);
    }

    fn initialize(&mut self, icw1: u8) {
        *self = Self {
            pins: self.pins,
            elcr: self.elcr,
            expects: Expects::Icw2,
            icw4_follows: icw1 & ICW1_IC4 != 0,
            single: icw1 & ICW1_SNGL != 0,
            ..Self::default()
        };
    }

    fn ocw2(&mut self, value: u8) {
        let named = value & 7;
        let served = self.priority(self.isr);
        let served = (served < 8).then(|| self.top.wrapping_add(served as u8) & 7);
        // R, SL and EOI select one of eight commands.
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            command @ (0b001 | 0b101) => {
                if let Some(input) = served {
                    self.isr &= !(1 << input);
                    if command == 0b101 {
                        self.top = (input + 1) & 7;
                    }
                }
            }
            0b011 => self.isr &= !(1 << named),
            0b110 => self.top = (named + 1) & 7,
            0b111 => {
                self.isr &= !(1 << named);
                self.top = (named + 1) & 7;
            }
            _ => {}
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.initialize(value);
        } else if value & OCW3 == 0 {
            self.ocw2(value);
        } else {
            if value & OCW3_P != 0 {
                self.poll = true;
            }
            if value & OCW3_RR != 0 {
                self.read_isr = value & OCW3_RIS != 0;
            }
            if value & OCW3_ESMM != 0 {
                self.special_mask = value & OCW3_SMM != 0;
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = if self.icw4_follows {
            Expects::Icw4
        } else {
            Expects::Ocw1
        };
        match self.expects {
            Expects::Ocw1 => self.imr = value,
            Expects::Icw2 => {
                self.base = value & 0xf8;
                self.expects = if self.single {
                    after_icw3
                } else {
                    Expects::Icw3
                };
            }
            Expects::Icw3 => self.expects = after_icw3,
            Expects::Icw4 => {
                self.auto_eoi = value & ICW4_AEOI != 0;
                self.special_fully_nested = value & ICW4_SFNM != 0;
                self.expects = Expects::Ocw1;
            }
        }
    }
}

/// Both controllers.
#[derive(Clone, Debug, Default)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Pic {
    /// The pair after power-on, all inputs low. It has no wiring: the machine routes lines in.
    pub const fn new() -> Self {
        const CHIP: Chip = Chip {
            pins: 0,
            edges: 0,
            imr: 0,
            isr: 0,
            elcr: 0,
            base: 0,
            top: 0,
            expects: Expects::Ocw1,
            icw4_follows: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            read_isr: false,
            poll: false,
        };
        Self {
            master: CHIP,
            slave: CHIP,
        }
    }

    /// Back to the state after power-on, all inputs low. Lines that devices still hold high must
    /// be handed in again.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        *self = Self::default();
    }

    /// Sets the level at an input, 0 to 7 on the master and 8 to 15 on the slave. Input 2 is the
    /// cascade, and is ignored like numbers above 15.
    pub fn set_irq(&mut self, input: u8, level: bool) {
        match input {
            CASCADE => {}
            0..8 => {
                trace::pic_set_irq(true, input, level);
                self.master.set_pin(input, level);
            }
            8..16 => {
                trace::pic_set_irq(false, input - 8, level);
                self.slave.set_pin(input - 8, level);
            }
            _ => {}
        }
        self.cascade();
    }

    /// Level of the INTR output to the processor.
    pub fn intr(&self) -> bool {
        self.master.request(1 << CASCADE).is_some()
    }

    /// The acknowledge cycle: takes the request of highest priority and returns its vector; the
    /// vector of input 7 of the chip that answers where there is none.
    pub fn acknowledge(&mut self) -> u8 {
        let (line, vector) = self.take_request();
        trace::pic_interrupt(line, vector);
        vector
    }

    /// The request of highest priority: its line, 0 to 15, and its vector.
    fn take_request(&mut self) -> (u8, u8) {
        let Some(input) = self.master.request(1 << CASCADE) else {
            return (SPURIOUS, self.master.base | SPURIOUS);
        };
        self.master.acknowledge(input);
        if input != CASCADE {
            return (input, self.master.base | input);
        }
        let input = self.slave.request(0);
        if let Some(input) = input {
            self.slave.acknowledge(input);
        }
        self.slave_acknowledged();
        let input = input.unwrap_or(SPURIOUS);
        (8 + input, self.slave.base | input)
    }

    /// INT of a chip falls during an acknowledge: a request that remains is a new edge.
    fn slave_acknowledged(&mut self) {
        self.master.set_pin(CASCADE, false);
        self.cascade();
    }

    fn cascade(&mut self) {
        let level = self.slave.request(0).is_some();
        if level {
            self.slave.tell_request(false);
        }
        if level != (self.master.pins & 1 << CASCADE != 0) {
            trace::pic_set_irq(true, CASCADE, level);
        }
        self.master.set_pin(CASCADE, level);
        if self.intr() {
            self.master.tell_request(true);
        }
    }

    /// A chip, its cascade inputs, and whether A0 is set; `None` for the edge/level registers.
    fn select(&mut self, offset: u16) -> Option<(&mut Chip, u8, bool)> {
        let data = offset & 1 != 0;
        match offset & !1 {
            MASTER_OFFSET => Some((&mut self.master, 1 << CASCADE, data)),
            SLAVE_OFFSET => Some((&mut self.slave, 0, data)),
            _ => None,
        }
    }
}

impl PortDevice for Pic {
    fn pio_read(&mut self, _cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        let Some((chip, cascade, data)) = self.select(offset) else {
            let value = match offset.wrapping_sub(ELCR_OFFSET) {
                0 => self.master.elcr,
                1 => self.slave.elcr,
                _ => 0xff,
            };
            return value.into();
        };
        let value = if chip.poll {
            chip.poll = false;
            let request = chip.request(cascade);
            if let Some(input) = request {
                chip.acknowledge(input);
            }
            if cascade == 0 && request.is_some() {
                self.slave_acknowledged();
            }
            request.map_or(0, |input| input | POLL_INT)
        } else if data {
            chip.imr
        } else if chip.read_isr {
            chip.isr
        } else {
            chip.irr()
        };
        trace::pic_ioport_read(cascade != 0, data.into(), value);
        self.cascade();
        value.into()
    }

    fn pio_write(&mut self, _cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        let value = value as u8;
        if offset < ELCR_OFFSET {
            let master = offset & !1 == MASTER_OFFSET;
            trace::pic_ioport_write(master, offset & 1, value);
        } else {
            trace::elcr_ioport_write(offset == ELCR_OFFSET, value);
        }
        match (self.select(offset), offset.wrapping_sub(ELCR_OFFSET)) {
            (Some((chip, _, true)), _) => chip.write_data(value),
            (Some((chip, _, false)), _) => chip.write_command(value),
            (None, 0) => self.master.elcr = value & ELCR_MASKS[0],
            (None, 1) => self.slave.elcr = value & ELCR_MASKS[1],
            (None, _) => {}
        }
        self.cascade();
    }
}

/// Saved form of [`Pic`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPic {
    /// The one that drives the processor.
    pub master: Chip,
    /// The one at its input 2.
    pub slave: Chip,
}

impl SavedState for Pic {
    const NAME: &'static str = "isa-i8259";
    const VERSION: u16 = 1;
    type Saved = SavedPic;

    fn save(&self) -> SavedPic {
        let Self { master, slave } = self;
        SavedPic {
            master: master.clone(),
            slave: slave.clone(),
        }
    }

    fn load(&mut self, saved: SavedPic, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let SavedPic { master, slave } = saved;
        for (chip, mask) in [&master, &slave].into_iter().zip(ELCR_MASKS) {
            if chip.top > 7 {
                return Err(StateError::Invalid("top"));
            }
            if chip.base & 7 != 0 {
                return Err(StateError::Invalid("base"));
            }
            if chip.elcr & !mask != 0 {
                return Err(StateError::Invalid("elcr"));
            }
        }
        *self = Self { master, slave };
        // For a state from elsewhere, whose cascade may be pulsed. Nothing changes for one of ours.
        self.cascade();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use proptest::prelude::*;

    lifecycle_tests!(Pic, Pic::new(), |pic, bench| {
        setup(pic, bench, 0x01);
        pic.set_irq(12, true);
        bench.out(pic, 4, 0x20);
    });

    /// Initializes as a PC's firmware does: vectors 08h and 70h, all inputs enabled.
    fn setup(pic: &mut Pic, bench: &mut Bench, icw4: u8) {
        for (base, vector, icw3) in [(0, 0x08, 4), (2, 0x70, 2)] {
            bench.out(pic, base, 0x11);
            bench.out(pic, base + 1, vector);
            bench.out(pic, base + 1, icw3);
            bench.out(pic, base + 1, icw4);
            bench.out(pic, base + 1, 0);
        }
    }

    fn ready(icw4: u8) -> (Pic, Bench) {
        let (mut pic, mut bench) = (Pic::new(), Bench::new());
        setup(&mut pic, &mut bench, icw4);
        (pic, bench)
    }

    #[test]
    fn nests_by_priority() {
        let (mut pic, mut bench) = ready(1);
        pic.set_irq(4, true);
        assert!(pic.intr());
        assert_eq!(pic.acknowledge(), 0x0c);
        pic.set_irq(5, true);
        assert!(!pic.intr());
        pic.set_irq(1, true);
        assert_eq!(pic.acknowledge(), 0x09);
        bench.out(&mut pic, 0, 0x0b);
        assert_eq!(bench.inb(&mut pic, 0), 0x12);
        bench.out(&mut pic, 0, 0x20);
        assert_eq!(bench.inb(&mut pic, 0), 0x10);
        bench.out(&mut pic, 0, 0x20);
        assert_eq!(pic.acknowledge(), 0x0d);
    }

    #[test]
    fn edges_latch_and_levels_follow() {
        let (mut pic, mut bench) = ready(1);
        pic.set_irq(5, true);
        pic.set_irq(5, false);
        assert_eq!(bench.inb(&mut pic, 0), 0x20);
        assert_eq!(pic.acknowledge(), 0x0d);
        bench.out(&mut pic, 0, 0x20);
        assert!(!pic.intr());
        bench.out(&mut pic, 4, 0xff);
        bench.out(&mut pic, 5, 0xff);
        assert_eq!(bench.inb(&mut pic, 4), 0xf8);
        assert_eq!(bench.inb(&mut pic, 5), 0xde);
        pic.set_irq(5, true);
        assert_eq!(pic.acknowledge(), 0x0d);
        bench.out(&mut pic, 0, 0x20);
        assert_eq!(pic.acknowledge(), 0x0d, "a level asks again after EOI");
        bench.out(&mut pic, 0, 0x20);
        pic.set_irq(5, false);
        assert!(!pic.intr());
    }

    #[test]
    fn cascade_and_spurious() {
        let (mut pic, mut bench) = ready(1);
        assert_eq!(pic.acknowledge(), 0x0f);
        pic.set_irq(8, true);
        assert_eq!(bench.inb(&mut pic, 0), 0x04);
        assert_eq!(pic.acknowledge(), 0x70);
        bench.out(&mut pic, 2, 0x20);
        bench.out(&mut pic, 0, 0x20);
        assert!(!pic.intr());
        pic.set_irq(8, false);
        pic.set_irq(8, true);
        bench.out(&mut pic, 3, 0xff);
        assert_eq!(pic.acknowledge(), 0x77, "the slave's request went away");
        bench.out(&mut pic, 2, 0x0b);
        assert_eq!(
            bench.inb(&mut pic, 2),
            0,
            "a spurious request is not in service"
        );
    }

    #[test]
    fn auto_eoi_delivers_all_slave_requests() {
        let (mut pic, _bench) = ready(3);
        pic.set_irq(12, true);
        pic.set_irq(9, true);
        assert_eq!(pic.acknowledge(), 0x71);
        assert_eq!(pic.acknowledge(), 0x74);
        assert!(!pic.intr());
    }

    #[test]
    fn rotation_poll_and_special_mask() {
        let (mut pic, mut bench) = ready(1);
        bench.out(&mut pic, 0, 0xc3);
        pic.set_irq(3, true);
        pic.set_irq(4, true);
        bench.out(&mut pic, 0, 0x0c);
        assert_eq!(bench.inb(&mut pic, 0), 0x84);
        assert_eq!(bench.inb(&mut pic, 0), 0x08, "poll is for one read");
        bench.out(&mut pic, 0, 0x0c);
        assert_eq!(bench.inb(&mut pic, 0), 0, "input 3 is of lower priority");
        bench.out(&mut pic, 1, 0x10);
        bench.out(&mut pic, 0, 0x68);
        bench.out(&mut pic, 0, 0x0c);
        assert_eq!(bench.inb(&mut pic, 0), 0x83);
        bench.out(&mut pic, 0, 0xe4);
        bench.out(&mut pic, 0, 0x0b);
        assert_eq!(bench.inb(&mut pic, 0), 0x08);
    }

    #[test]
    fn initialization_forgets_edges() {
        let (mut pic, mut bench) = ready(1);
        pic.set_irq(3, true);
        bench.out(&mut pic, 0, 0x13);
        assert_eq!(bench.inb(&mut pic, 0), 0);
        bench.out(&mut pic, 1, 0x47);
        bench.out(&mut pic, 1, 0x01);
        bench.out(&mut pic, 1, 0xaa);
        assert_eq!(bench.inb(&mut pic, 1), 0xaa, "single mode has no ICW3");
        assert_eq!(pic.acknowledge(), 0x47);
    }

    #[test]
    fn special_fully_nested_lets_the_slave_nest() {
        for (icw4, nests) in [(0x01, false), (0x11, true)] {
            let (mut pic, _bench) = ready(icw4);
            pic.set_irq(12, true);
            assert_eq!(pic.acknowledge(), 0x74);
            pic.set_irq(8, true);
            assert_eq!(pic.intr(), nests);
        }
    }

    proptest! {
        /// Whatever the guest writes, acknowledging all requests with EOI ends, and vectors
        /// come from the two programmed blocks.
        #[test]
        fn requests_drain(writes in proptest::collection::vec((0u16..6, any::<u8>(), 0u8..16), 0..60)) {
            let (mut pic, mut bench) = (Pic::new(), Bench::new());
            for (offset, value, input) in writes {
                bench.out(&mut pic, offset, value);
                pic.set_irq(input, value & 1 != 0);
                bench.inb(&mut pic, offset);
            }
            for input in 0..16 {
                pic.set_irq(input, false);
            }
            setup(&mut pic, &mut bench, 1);
            pic.set_irq(1, true);
            pic.set_irq(14, true);
            prop_assert_eq!(pic.acknowledge(), 0x09);
            bench.out(&mut pic, 0, 0x20);
            prop_assert_eq!(pic.acknowledge(), 0x76);
            pic.set_irq(1, false);
            pic.set_irq(14, false);
            bench.out(&mut pic, 2, 0x20);
            bench.out(&mut pic, 0, 0x20);
            prop_assert!(!pic.intr());
        }
    }
}
