//! `-device` and `-global`, checked against the device classes.

use std::fmt::Write as _;

use thimble_core::devices::class::{DeviceClass, PCI_ROMFILE, PropertyValues, Value};

use super::opts::{self, Reason};

/// The device classes there are.
pub(super) type Classes<'a> = &'a [&'static DeviceClass];

/// A device to create.
#[derive(Clone, Debug)]
pub struct DeviceOption {
    /// Its id, if it was given one.
    pub id: Option<String>,
    /// The name of the bus that it goes on, if it was given.
    pub bus: Option<String>,
    /// The file with its expansion ROM, if it was given one.
    pub romfile: Option<String>,
    /// Its class and properties; [`super::Options::globals`] are applied already.
    pub properties: PropertyValues,
    /// The option as given, for messages: `-device isa-serial,chardev=c`.
    pub origin: String,
}

/// One `-global`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Name of the class.
    pub driver: String,
    /// Name of the property.
    pub property: String,
    /// The value, as text.
    pub value: String,
}

/// The text of `-device help`.
pub(super) fn list(classes: Classes<'_>) -> String {
    let mut text = String::new();
    for class in classes.iter().filter(|class| class.user_creatable) {
        let bus = class.bus.unwrap_or("none");
        let _ = writeln!(
            text,
            "name \"{}\", bus {bus}, desc \"{}\"",
            class.name, class.doc
        );
    }
    text
}

/// The text of `-device X,help`.
pub(super) fn describe(class: &DeviceClass) -> String {
    let mut properties: Vec<_> = class.all_properties().collect();
    if properties.is_empty() {
        return format!("There are no options for {}.\n", class.name);
    }
    properties.sort_by_key(|property| property.name);
    let mut text = format!("{} options:\n", class.name);
    for property in properties {
        let left = format!("{}=<{}>", property.name, property.kind.name());
        let _ = write!(text, "  {left:<22} - {}", property.doc);
        match &property.default {
            Value::Unset => {}
            Value::Bool(on) => {
                let _ = write!(text, " (default: {on})");
            }
            Value::Uint(number) => {
                let _ = write!(text, " (default: {number})");
            }
            Value::Int(number) => {
                let _ = write!(text, " (default: {number})");
            }
            Value::Word(word) => {
                let _ = write!(text, " (default: \"{word}\")");
            }
            Value::Text(value) => {
                let _ = write!(text, " (default: \"{value}\")");
            }
        }
        text.push('\n');
    }
    text
}

/// The class of this name, if `-device` may create it.
pub(super) fn find(classes: Classes<'_>, name: &str) -> Result<&'static DeviceClass, Reason> {
    match classes.iter().find(|class| class.name == name) {
        Some(class) if class.user_creatable => Ok(class),
        Some(_) => Err(format!("'{name}' is part of the board, not pluggable")),
        None => Err(format!("'{name}' is not a valid device model name")),
    }
}

/// A `-device` argument taken apart: the driver, and its properties in order.
pub(super) struct DeviceText {
    pub(super) driver: String,
    pub(super) values: Vec<(String, String)>,
}

pub(super) fn take_apart(text: &str) -> Result<DeviceText, Reason> {
    if text.starts_with('{') {
        return Err("the JSON form is not available: use key=value".to_owned());
    }
    let mut driver = None;
    let mut values = Vec::new();
    for (index, (key, value)) in opts::split(text).into_iter().enumerate() {
        match value {
            None if index == 0 => driver = Some(key),
            Some(value) if key == "driver" => driver = Some(value),
            Some(value) => values.push((key, value)),
            None => values.push((key, "on".to_owned())),
        }
    }
    let driver = driver
        .filter(|driver| !driver.is_empty())
        .ok_or("Parameter 'driver' is missing")?;
    Ok(DeviceText { driver, values })
}

/// Checks a device against its class, with the globals applied first.
pub(super) fn build(
    device: DeviceText,
    classes: Classes<'_>,
    globals: &[Global],
    origin: String,
) -> Result<DeviceOption, Reason> {
    let class = find(classes, &device.driver)?;
    let mut properties = PropertyValues::new(class);
    apply(globals, &mut properties);
    let (mut id, mut bus, mut romfile) = (None, None, None);
    let has_rom = class
        .all_properties()
        .any(|known| known.name == PCI_ROMFILE);
    for (key, value) in device.values {
        match key.as_str() {
            "id" => id = Some(opts::id(&value)?.to_owned()),
            // Which buses there are the machine knows.
            "bus" => bus = Some(value),
            // Paths may be longer than texts of devices.
            PCI_ROMFILE if has_rom => romfile = Some(value).filter(|path| !path.is_empty()),
            _ => set(&mut properties, &key, &value)?,
        }
    }
    Ok(DeviceOption {
        id,
        bus,
        romfile,
        properties,
        origin,
    })
}

/// Sets a property from its text.
///
/// # Errors
/// What is wrong with it.
pub fn set(properties: &mut PropertyValues, key: &str, value: &str) -> Result<(), Reason> {
    let class = properties.class().name;
    properties.set(key, value).map_err(|error| {
        let mut reason = Reason::new();
        // Writing to a string does not fail.
        let _ = error.describe(class, key, value, &mut reason);
        reason
    })
}

/// The argument of `-global`, in either form.
pub(super) fn parse_global(text: &str) -> Result<Global, Reason> {
    if let Some((path, value)) = text.split_once('=')
        && let Some((driver, property)) = path.split_once('.')
        && !driver.is_empty()
        && !property.is_empty()
        && !driver.contains(',')
    {
        return Ok(Global {
            driver: driver.to_owned(),
            property: property.to_owned(),
            value: value.to_owned(),
        });
    }
    let (mut driver, mut property, mut value) = (None, None, None);
    for (key, given) in opts::split(text) {
        match (key.as_str(), given) {
            ("driver", Some(text)) => driver = Some(text),
            ("property", Some(text)) => property = Some(text),
            ("value", Some(text)) => value = Some(text),
            (key, _) => return Err(format!("Invalid parameter '{key}'")),
        }
    }
    match (driver, property, value) {
        (Some(driver), Some(property), Some(value)) => Ok(Global {
            driver,
            property,
            value,
        }),
        _ => {
            Err("driver.property=value, or 'driver', 'property' and 'value' are needed".to_owned())
        }
    }
}

/// Checks a global: an error for a wrong property, a warning for a class that does not exist.
pub(super) fn check_global(
    global: &Global,
    classes: Classes<'_>,
) -> Result<Option<String>, Reason> {
    let Some(class) = classes.iter().find(|class| class.name == global.driver) else {
        return Ok(Some(format!(
            "global {}.{} has invalid class name",
            global.driver, global.property
        )));
    };
    set(
        &mut PropertyValues::new(class),
        &global.property,
        &global.value,
    )?;
    Ok(None)
}

/// Sets the globals of a class on an instance that is being created. The values were checked
/// when the command line was parsed.
pub(super) fn apply(globals: &[Global], properties: &mut PropertyValues) {
    let class = properties.class().name;
    for global in globals.iter().filter(|global| global.driver == class) {
        let _ = properties.set(&global.property, &global.value);
    }
}
