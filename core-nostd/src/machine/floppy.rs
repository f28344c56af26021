//! Floppy drives: how they come to the board's controller, and what firmware is told of them.

use super::board::timer;
use super::drives::Owner;
use super::{Board, DeviceError, Machine};
use crate::devices::Context;
use crate::devices::block::{BlockController as _, DRIVES_MAX, DriveId, Medium};
use crate::devices::class::PropertyValues;
use crate::devices::fdc::drive::Kind;
use crate::devices::fdc::{self, AddError, Fdc, FdcWiring};
use crate::firmware::acpi::FloppyFacts;
use crate::irq::IrqLine;

/// CMOS: the kinds of drives A and B, a nibble each.
const CMOS_DRIVES: u8 = 0x10;
/// CMOS: bits of equipment.
const CMOS_EQUIPMENT: u8 = 0x14;
/// Equipment: there are floppy drives; and, from bit 6 on, how many less one.
const HAS_DRIVES: u8 = 1 << 0;
const SECOND_DRIVE: u8 = 1 << 6;

/// The controller as boards wire it.
pub(super) fn controller(fallback: Kind) -> Fdc {
    let wiring = FdcWiring {
        irq: IrqLine::new(fdc::IRQ),
        timer: timer::FLOPPY,
    };
    Fdc::new(wiring, fallback)
}

impl Machine<'_> {
    /// The floppy disk controller, if the board has one.
    pub fn floppy_controller(&self) -> Option<&Fdc> {
        (self.board == Board::Pc).then_some(&self.fdc)
    }

    /// Plugs a floppy drive into the board's controller.
    pub(super) fn plug_floppy(
        &mut self,
        values: &PropertyValues,
        bus: Option<&str>,
    ) -> Result<DriveId, DeviceError> {
        let class = values.class();
        if self.board != Board::Pc {
            return Err(DeviceError::NoBus(class.name, "floppy-bus"));
        }
        if let Some(name) = bus.filter(|name| *name != fdc::BUS) {
            return Err(self.wrong_bus(class.name, name));
        }
        let id = self.drives.vacant();
        let id = id.ok_or(DeviceError::TooMany(DRIVES_MAX))?;
        self.fdc.add(id, values).map_err(|error| match error {
            AddError::Property(name) => DeviceError::Property(name),
            AddError::BlockSize => DeviceError::FloppyBlocks,
            AddError::NoUnit(unit) => DeviceError::NoFloppyUnit(unit),
            AddError::UnitTaken(unit) => DeviceError::FloppyTaken(unit),
        })?;
        self.drives.set_owner(id, Some(Owner::Floppy));
        self.describe_floppies();
        Ok(id)
    }

    /// Tells a floppy drive of its first medium before the guest runs, so that firmware hears of what kind it is. Of other drives
    /// nothing is told.
    pub fn first_medium(&mut self, drive: DriveId, medium: Option<Medium>) {
        if self.fdc.unit(drive).is_some() {
            self.fdc.medium_changed(context!(self, 0), drive, medium);
            self.describe_floppies();
        }
    }

    /// The unit, 0 or 1, of a floppy drive, by its position in [`Machine::plugged`].
    pub fn floppy_unit(&self, position: usize) -> Option<u8> {
        self.fdc.unit(self.plugged.get(position)?.drive()?)
    }

    /// What ACPI tells of the drives.
    pub(super) fn floppy_facts(&self) -> Option<[Option<FloppyFacts>; fdc::DRIVES]> {
        let controller = self.floppy_controller()?;
        Some([0, 1].map(|unit| {
            let kind = controller.kind(unit);
            let (cylinder, head, sector) = kind.largest()?;
            Some(FloppyFacts {
                kind: kind.code(),
                cylinder,
                sector,
                head,
            })
        }))
    }

    fn describe_floppies(&mut self) {
        let kinds = [0, 1].map(|unit| self.fdc.kind(unit).code());
        self.rtc.set_cmos(CMOS_DRIVES, kinds[0] << 4 | kinds[1]);
        let equipment = match kinds.iter().filter(|kind| **kind != 0).count() {
            0 => 0,
            1 => HAS_DRIVES,
            _ => HAS_DRIVES | SECOND_DRIVE,
        };
        let others = self.rtc.cmos(CMOS_EQUIPMENT) & !(HAS_DRIVES | SECOND_DRIVE);
        self.rtc.set_cmos(CMOS_EQUIPMENT, others | equipment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Width;
    use crate::machine::tests::Recorder;
    use crate::machine::{Config, Place, Plugging};
    use crate::memory::ArrayRam;

    fn values(set: &[(&str, &str)]) -> PropertyValues {
        let mut values = PropertyValues::new(&fdc::drive::CLASS);
        for (name, text) in set {
            values.set(name, text).unwrap();
        }
        values
    }

    fn cmos(machine: &mut Machine<'_>, index: u32) -> u32 {
        let mut host = Recorder::default();
        machine.pio_write(&mut host, 0, 0x70, Width::Byte, index);
        machine.pio_read(&mut host, 0, 0x71, Width::Byte)
    }

    #[test]
    fn firmware_hears_of_drives() {
        let ram = ArrayRam::<0x1000>::new();
        let mut machine = Machine::new(Config::new(&ram, 0x1000)).unwrap();
        let equipment = cmos(&mut machine, 0x14);
        assert_eq!((cmos(&mut machine, 0x10), equipment & 0xc1), (0, 0));
        machine.plug(&values(&[("unit", "1")])).unwrap();
        assert_eq!(cmos(&mut machine, 0x10), 0x05);
        assert_eq!(cmos(&mut machine, 0x14), equipment | 0x01);
        machine.plug(&values(&[])).unwrap();
        let drive = machine.plugged().last().and_then(|plugged| plugged.drive());
        machine.first_medium(
            drive.unwrap(),
            Some(Medium {
                bytes: 1200 << 10,
                read_only: false,
                write_cache: true,
            }),
        );
        assert_eq!(cmos(&mut machine, 0x10), 0x25);
        assert_eq!(cmos(&mut machine, 0x14), equipment | 0x41);
    }

    #[test]
    fn drives_that_do_not_fit_are_refused() {
        let ram = ArrayRam::<0x1000>::new();
        let mut machine = Machine::new(Config::new(&ram, 0x1000)).unwrap();
        let mut refusal = |set: &[(&str, &str)], bus| {
            let plugging = Plugging {
                place: Place::Anonymous,
                bus,
                rom: Default::default(),
            };
            match machine.plug_on(&values(set), plugging) {
                Ok(_) => std::string::String::new(),
                Err(error) => std::format!("{error}"),
            }
        };
        assert_eq!(refusal(&[("unit", "1")], Some("floppy-bus.0")), "");
        for (set, bus, expected) in [
            (&[("unit", "1")][..], None, "Floppy unit 1 is in use"),
            (
                &[("unit", "2")],
                None,
                "Can't create floppy unit 2, bus supports only 2 units",
            ),
            (
                &[("physical_block_size", "4096")],
                None,
                "Physical and logical block size must be 512 for floppy",
            ),
            (&[], Some("isa.0"), "Device 'floppy' can't go on ISA bus"),
            (&[], Some("ide.7"), "Bus 'ide.7' not found"),
        ] {
            assert_eq!(refusal(set, bus), expected);
        }
    }
}
