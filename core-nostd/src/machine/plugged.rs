//! Devices beyond those of the board: what was plugged in where, under which id, with which
//! properties.
//!
//! The models live in the machine's pools and know nothing of ids and classes; this list is what
//! the object tree and `-device` see of them.

use super::board::SERIALS;
use super::pci::{Consoles, ExpansionRom};
use super::{Board, DeviceError, Irqchip, Machine};
use crate::devices::block::DriveId;
use crate::devices::class::{
    DeviceClass, PCI_ADDR, PROPERTIES_MAX, Property, PropertyKind, PropertyValues, Value,
};
use crate::devices::{ConsoleId, fdc, parallel, serial};
use crate::pci::BusId;

/// Devices that can be plugged in at most.
pub const PLUGGED_MAX: usize = 24;

/// Bytes that a device's id has at most.
pub const ID_MAX: usize = 64;

/// The name of the ISA bus.
const ISA_BUS: &str = "isa.0";

/// Where a device is found in the object tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// It came with the board: `-serial`.
    Board,
    /// The user added it without an id.
    Anonymous,
    /// The user added it under this id.
    Id(&'a str),
}

/// A device that was plugged in.
#[derive(Clone, Debug)]
pub struct Plugged {
    class: &'static DeviceClass,
    /// Empty without an id.
    id: heapless::String<ID_MAX>,
    on_board: bool,
    /// Its consoles, by the properties that say what is behind them.
    consoles: Consoles,
    /// The index of its PCI function.
    function: Option<u8>,
    /// Numbers, flags and places of words, parallel to the properties of the class.
    numbers: [i64; PROPERTIES_MAX],
    /// A bit for each of [`Plugged::numbers`] that has a value.
    set: u64,
    /// What the host knows its drive by.
    drive: Option<DriveId>,
}

const _: () = assert!(PROPERTIES_MAX <= u64::BITS as usize);

impl Plugged {
    fn new(values: &PropertyValues, place: Place<'_>) -> Result<Self, DeviceError> {
        let id = match place {
            Place::Id(id) => id,
            Place::Board | Place::Anonymous => "",
        };
        let class = values.class();
        let mut plugged = Self {
            class,
            id: id.try_into().map_err(|_| DeviceError::IdLong)?,
            on_board: place == Place::Board,
            consoles: Consoles::new(),
            function: None,
            numbers: [0; PROPERTIES_MAX],
            set: 0,
            drive: None,
        };
        let properties = class.all_properties().zip(&mut plugged.numbers);
        for (index, (property, number)) in properties.enumerate() {
            *number = match values.get(property.name) {
                Value::Bool(on) => i64::from(*on),
                // 64 bits keep their pattern.
                Value::Uint(number) => *number as i64,
                Value::Int(number) => *number,
                Value::Word(word) => match property.kind.words().iter().position(|w| w == word) {
                    Some(place) => place as i64,
                    None => continue,
                },
                Value::Unset | Value::Text(_) => continue,
            };
            plugged.set |= 1 << index;
        }
        Ok(plugged)
    }

    /// Its class.
    pub fn class(&self) -> &'static DeviceClass {
        self.class
    }

    /// Where it is in the object tree.
    pub fn place(&self) -> Place<'_> {
        match self.id.as_str() {
            "" if self.on_board => Place::Board,
            "" => Place::Anonymous,
            id => Place::Id(id),
        }
    }

    /// The console that it writes to, or the first of them.
    pub fn console(&self) -> Option<ConsoleId> {
        self.consoles.first().map(|(_, console)| *console)
    }

    /// All of its consoles, each with the name of the property that says what is behind it.
    pub fn consoles(&self) -> &[(&'static str, ConsoleId)] {
        &self.consoles
    }

    /// The index of its PCI function, if it is one.
    pub fn function(&self) -> Option<usize> {
        self.function.map(usize::from)
    }

    /// What its drive is known by between the machine and the host, if it is a disk or a drive.
    pub fn drive(&self) -> Option<DriveId> {
        self.drive
    }

    /// The value of a number, a flag or a word; texts belong to the host.
    pub fn value(&self, name: &str) -> Value {
        let mut all = self.class.all_properties().enumerate();
        let Some((index, property)) = all.find(|(_, property)| property.name == name) else {
            return Value::Unset;
        };
        let number = self.number(index);
        match (property.kind, number) {
            (_, None) => Value::Unset,
            (PropertyKind::Bool, Some(number)) => Value::Bool(number != 0),
            (PropertyKind::Int32 | PropertyKind::PciAddress, Some(number)) => Value::Int(number),
            (PropertyKind::Word { words, .. }, Some(place)) => {
                let word = words.get(place as usize);
                word.map_or(Value::Unset, |word| Value::Word(word))
            }
            (_, Some(number)) => Value::Uint(number as u64),
        }
    }

    fn number(&self, index: usize) -> Option<i64> {
        let number = self.numbers.get(index).copied();
        number.filter(|_| self.set >> index & 1 != 0)
    }

    fn settle(&mut self, name: &str, number: u64) {
        let mut all = self.class.all_properties();
        if let Some(index) = all.position(|property| property.name == name)
            && matches!(self.number(index), Some(number) if number == i64::from(u32::MAX) || number < 0)
        {
            self.numbers[index] = number as i64;
        }
    }
}

/// Where and with what a device is plugged in, beside its properties.
#[derive(Clone, Copy, Debug)]
pub struct Plugging<'a, 'm> {
    /// Where it is found in the object tree.
    pub place: Place<'a>,
    /// The name of the bus; the board's own of the right type by default.
    pub bus: Option<&'a str>,
    /// A PCI device's expansion ROM.
    pub rom: ExpansionRom<'m>,
}

impl<'m> Machine<'m> {
    /// Plugs a device into the board, before the guest runs, without an id. Devices that write to
    /// a console give its id.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn plug(&mut self, values: &PropertyValues) -> Result<Option<ConsoleId>, DeviceError> {
        self.plug_at(values, Place::Anonymous)
    }

    /// Plugs a device into the board, before the guest runs. Devices that write to a console give
    /// its id.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn plug_at(
        &mut self,
        values: &PropertyValues,
        place: Place<'_>,
    ) -> Result<Option<ConsoleId>, DeviceError> {
        let plugging = Plugging {
            place,
            bus: None,
            rom: ExpansionRom::default(),
        };
        let consoles = self.plug_on(values, plugging)?;
        Ok(consoles.first().map(|(_, console)| *console))
    }

    /// Plugs a device into a bus: before the guest runs, but for PCI devices. Gives the consoles that
    /// it writes to.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn plug_on(
        &mut self,
        values: &PropertyValues,
        plugging: Plugging<'_, 'm>,
    ) -> Result<Consoles, DeviceError> {
        let Plugging { place, bus, rom } = plugging;
        let class = values.class();
        if self.plugged.is_full() {
            return Err(DeviceError::TooMany(PLUGGED_MAX));
        }
        if let Place::Id(_) = place
            && self.plugged.iter().any(|other| other.place() == place)
        {
            return Err(DeviceError::IdTaken);
        }
        let mut plugged = Plugged::new(values, place)?;
        self.check_boot_index(&plugged)?;
        if class.bus == Some("IDE") && class.user_creatable {
            plugged.drive = Some(self.plug_ide(values, bus)?);
            // There is room: see above.
            let _ = self.plugged.push(plugged);
            return self.add_last_to_boot_order().map(|()| Consoles::new());
        }
        if class.bus == Some(super::microvm::DEVICE_BUS) {
            plugged.drive = Some(self.plug_virtio_mmio(values, bus)?);
            // There is room: see above.
            let _ = self.plugged.push(plugged);
            return self.add_last_to_boot_order().map(|()| Consoles::new());
        }
        if class.name == fdc::drive::CLASS.name {
            let drive = self.plug_floppy(values, bus)?;
            plugged.drive = Some(drive);
            plugged.settle("unit", self.fdc.unit(drive).unwrap_or(0).into());
            // There is room: see above.
            let _ = self.plugged.push(plugged);
            return Ok(Consoles::new());
        }
        let bus = self.find_bus(class, bus)?;
        if let Some(bus) = bus {
            let (function, consoles) = self.add_pci_device(values, bus, rom)?;
            plugged.function = Some(function as u8);
            plugged.consoles = consoles;
            plugged.drive = self.drive_of(function);
            if let Some(placed) = self.buses.functions.get(function) {
                plugged.settle(PCI_ADDR, placed.devfn.into());
            }
        } else if let Some(console) = self.add_device(values)? {
            let is_console = |property: &&Property| property.kind == PropertyKind::Chardev;
            let name = class.properties.iter().find(is_console);
            // There is room for one.
            let _ = plugged
                .consoles
                .push((name.map_or("", |p| p.name), console));
        }
        if plugged.class.name == serial::CLASS.name
            && let Some(ConsoleId(index)) = plugged.console()
            && let Some((port, irq)) = SERIALS.get(usize::from(index))
        {
            // What the user left open the board has decided.
            plugged.settle("index", index.into());
            plugged.settle("iobase", (*port).into());
            plugged.settle("irq", (*irq).into());
        }
        if plugged.class.name == parallel::CLASS.name
            && let Some((index, port)) = plugged.console().and_then(Self::parallel_base)
        {
            plugged.settle("index", index.into());
            plugged.settle("iobase", port.into());
        }
        let consoles = plugged.consoles.clone();
        // There is room: see above.
        let _ = self.plugged.push(plugged);
        self.decode_pci();
        self.add_last_to_boot_order()?;
        Ok(consoles)
    }

    /// The PCI bus for a device of this class; `None` for one that goes elsewhere.
    fn find_bus(
        &self,
        class: &'static DeviceClass,
        name: Option<&str>,
    ) -> Result<Option<BusId>, DeviceError> {
        let is_pci = class.bus == Some("PCI");
        let Some(name) = name else {
            return match (is_pci, self.board) {
                (true, Board::Pc) if class.user_creatable => Ok(Some(BusId::Root)),
                (true, Board::Microvm | Board::None) => Err(DeviceError::NoBus(class.name, "PCI")),
                _ => Ok(None),
            };
        };
        if let Some(bus) = self.find_pci_bus(name) {
            return match is_pci {
                true => Ok(Some(bus)),
                false => Err(DeviceError::WrongBus(class.name, "PCI")),
            };
        }
        if let Some(error) = self.no_virtio_device(class, name) {
            return Err(error);
        }
        if name != ISA_BUS || self.board == Board::None {
            let length = name.floor_char_boundary(ID_MAX);
            let name = name.get(..length).unwrap_or_default();
            return Err(DeviceError::BusNotFound(
                name.try_into().unwrap_or_default(),
            ));
        }
        match class.bus {
            Some("ISA") => Ok(None),
            _ => Err(DeviceError::WrongBus(class.name, "ISA")),
        }
    }

    /// Devices that were plugged in, oldest first.
    pub fn plugged(&self) -> &[Plugged] {
        &self.plugged
    }

    /// Whether the board has an interval timer.
    pub fn has_pit(&self) -> bool {
        self.has_pit
    }

    /// Whether the board has both 8259 interrupt controllers, whoever models them.
    pub fn has_pic(&self) -> bool {
        self.has_pic && self.board != Board::None
    }

    /// Whether the board has a real-time clock.
    pub fn has_rtc(&self) -> bool {
        self.has_rtc
    }

    /// Whether the board has ACPI's hardware.
    pub fn has_acpi(&self) -> bool {
        self.has_acpi
    }

    /// Who models the interrupt controllers.
    pub fn irqchip(&self) -> Irqchip {
        self.irqchip
    }
}
