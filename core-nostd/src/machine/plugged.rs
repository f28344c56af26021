//! Devices beyond those of the board: what was plugged in where, under which id, with which
//! properties.
//!
//! The models live in the machine's pools and know nothing of ids and classes; this list is what
//! the object tree and `-device` see of them.

use super::board::SERIALS;
use super::{DeviceError, Irqchip, Machine};
use crate::devices::class::{DeviceClass, PROPERTIES_MAX, PropertyKind, PropertyValues, Value};
use crate::devices::{ConsoleId, serial};

/// Devices that can be plugged in at most.
pub const PLUGGED_MAX: usize = 24;

/// Bytes that a device's id has at most.
pub const ID_MAX: usize = 64;

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
    console: Option<ConsoleId>,
    /// Numbers and flags, parallel to the properties of the class.
    numbers: [i64; PROPERTIES_MAX],
    /// A bit for each of [`Plugged::numbers`] that has a value.
    set: u32,
}

const _: () = assert!(PROPERTIES_MAX <= u32::BITS as usize);

impl Plugged {
    fn new(
        values: &PropertyValues,
        place: Place<'_>,
        console: Option<ConsoleId>,
    ) -> Result<Self, DeviceError> {
        let id = match place {
            Place::Id(id) => id,
            Place::Board | Place::Anonymous => "",
        };
        let class = values.class();
        let mut plugged = Self {
            class,
            id: id.try_into().map_err(|_| DeviceError::IdLong)?,
            on_board: place == Place::Board,
            console,
            numbers: [0; PROPERTIES_MAX],
            set: 0,
        };
        let properties = class.properties.iter().zip(&mut plugged.numbers);
        for (index, (property, number)) in properties.enumerate() {
            *number = match values.get(property.name) {
                Value::Bool(on) => i64::from(*on),
                // 64 bits keep their pattern.
                Value::Uint(number) => *number as i64,
                Value::Int(number) => *number,
                Value::Unset | Value::Text(_) | Value::Word(_) => continue,
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

    /// The console that it writes to.
    pub fn console(&self) -> Option<ConsoleId> {
        self.console
    }

    /// The value of a number or a flag; texts belong to the host.
    pub fn value(&self, name: &str) -> Value {
        let index = self.class.properties.iter().position(|p| p.name == name);
        let Some(index) = index else {
            return Value::Unset;
        };
        let number = self.number(index);
        match (self.class.properties[index].kind, number) {
            (_, None) => Value::Unset,
            (PropertyKind::Bool, Some(number)) => Value::Bool(number != 0),
            (PropertyKind::Int32, Some(number)) => Value::Int(number),
            (_, Some(number)) => Value::Uint(number as u64),
        }
    }

    fn number(&self, index: usize) -> Option<i64> {
        let number = self.numbers.get(index).copied();
        number.filter(|_| self.set >> index & 1 != 0)
    }

    fn settle(&mut self, name: &str, number: u64) {
        let index = self.class.properties.iter().position(|p| p.name == name);
        if let Some(index) = index
            && self.number(index) == Some(u32::MAX.into())
        {
            self.numbers[index] = number as i64;
        }
    }
}

impl Machine<'_> {
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
        if self.plugged.is_full() {
            return Err(DeviceError::TooMany(PLUGGED_MAX));
        }
        if let Place::Id(_) = place
            && self.plugged.iter().any(|other| other.place() == place)
        {
            return Err(DeviceError::IdTaken);
        }
        let mut plugged = Plugged::new(values, place, None)?;
        plugged.console = self.add_device(values)?;
        if plugged.class.name == serial::CLASS.name
            && let Some(ConsoleId(index)) = plugged.console
            && let Some((port, irq)) = SERIALS.get(usize::from(index))
        {
            // What the user left open the board has decided.
            plugged.settle("index", index.into());
            plugged.settle("iobase", (*port).into());
            plugged.settle("irq", (*irq).into());
        }
        let console = plugged.console;
        // There is room: see above.
        let _ = self.plugged.push(plugged);
        Ok(console)
    }

    /// Devices that were plugged in, oldest first.
    pub fn plugged(&self) -> &[Plugged] {
        &self.plugged
    }

    /// Whether the board has an interval timer.
    pub fn has_pit(&self) -> bool {
        self.has_pit
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
