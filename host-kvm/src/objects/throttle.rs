//! Groups of limits that drives and `throttle` nodes share, as objects.

use std::rc::Rc;

use thimble_core::qom::QomValue;
use thimble_monitor::QmpError;
use thimble_monitor::owner::objects::NewValue;
use thimble_monitor::schema::arguments::{ThrottleGroupProperties, ThrottleLimits};

use super::refused;
use crate::block::Graph;
use crate::block::throttle::{Group, Limit, Limits};

/// The limits' names, by their places in [`Limits::each`].
const NAMES: [&str; 6] = [
    "bps-total",
    "bps-read",
    "bps-write",
    "iops-total",
    "iops-read",
    "iops-write",
];

/// What follows these names, by the fields of [`Limit`].
const FIELDS: [&str; 3] = ["", "-max", "-max-length"];

/// The name of what counts as a request.
const SIZE: &str = "iops-size";

/// See the module.
pub struct ThrottleGroup(Rc<Group>);

fn field(limit: &mut Limit, number: usize) -> &mut u64 {
    match number {
        0 => &mut limit.average,
        1 => &mut limit.maximum,
        _ => &mut limit.length,
    }
}

/// The place of a number of that name.
fn place<'l>(limits: &'l mut Limits, name: &str) -> Option<&'l mut u64> {
    if name == SIZE {
        return Some(&mut limits.request_size);
    }
    let kind = NAMES.iter().position(|start| name.starts_with(start))?;
    let rest = &name[NAMES[kind].len()..];
    let number = FIELDS.iter().position(|end| *end == rest)?;
    Some(field(&mut limits.each[kind], number))
}

/// Sets a number.
fn put(limits: &mut Limits, name: &str, value: i64) -> Result<(), QmpError> {
    let most = u32::MAX;
    if name.ends_with("-length") && value > i64::from(most) {
        return Err(refused(format!(
            "{name} value must be in the range [0, {most}]"
        )));
    }
    if let Some(place) = place(limits, name) {
        // One below zero is out of range, as one that is too large.
        *place = value as u64;
    }
    Ok(())
}

/// All numbers that are given, by their names.
fn each(
    numbers: [[Option<i64>; 3]; 6],
    size: Option<i64>,
    put: &mut dyn FnMut(&str, i64) -> Result<(), QmpError>,
) -> Result<(), QmpError> {
    for (name, numbers) in NAMES.iter().zip(numbers) {
        for (end, number) in FIELDS.iter().zip(numbers) {
            if let Some(number) = number {
                put(&format!("{name}{end}"), number)?;
            }
        }
    }
    size.map_or(Ok(()), |size| put(SIZE, size))
}

fn check(limits: Limits) -> Result<Limits, QmpError> {
    limits.check().map(|()| limits).map_err(refused)
}

impl ThrottleGroup {
    /// A group that is new to all.
    ///
    /// # Errors
    /// If there is one of this name, or the limits make no sense; in QEMU's words.
    pub fn new(
        id: &str,
        given: &ThrottleGroupProperties,
        blocks: &Graph,
    ) -> Result<Self, QmpError> {
        let mut limits = Limits::default();
        if let Some(given) = &given.limits {
            let ThrottleLimits {
                bps_total,
                bps_total_max,
                bps_total_max_length,
                bps_read,
                bps_read_max,
                bps_read_max_length,
                bps_write,
                bps_write_max,
                bps_write_max_length,
                iops_total,
                iops_total_max,
                iops_total_max_length,
                iops_read,
                iops_read_max,
                iops_read_max_length,
                iops_write,
                iops_write_max,
                iops_write_max_length,
                iops_size,
            } = *given;
            let numbers = [
                [bps_total, bps_total_max, bps_total_max_length],
                [bps_read, bps_read_max, bps_read_max_length],
                [bps_write, bps_write_max, bps_write_max_length],
                [iops_total, iops_total_max, iops_total_max_length],
                [iops_read, iops_read_max, iops_read_max_length],
                [iops_write, iops_write_max, iops_write_max_length],
            ];
            each(numbers, iops_size, &mut |name, number| {
                put(&mut limits, name, number)
            })?;
            check(limits)?;
        }
        let old = [
            [
                given.x_bps_total,
                given.x_bps_total_max,
                given.x_bps_total_max_length,
            ],
            [
                given.x_bps_read,
                given.x_bps_read_max,
                given.x_bps_read_max_length,
            ],
            [
                given.x_bps_write,
                given.x_bps_write_max,
                given.x_bps_write_max_length,
            ],
            [
                given.x_iops_total,
                given.x_iops_total_max,
                given.x_iops_total_max_length,
            ],
            [
                given.x_iops_read,
                given.x_iops_read_max,
                given.x_iops_read_max_length,
            ],
            [
                given.x_iops_write,
                given.x_iops_write_max,
                given.x_iops_write_max_length,
            ],
        ];
        each(old, given.x_iops_size, &mut |name, number| {
            if number < 0 {
                return Err(refused("Property values cannot be negative".to_owned()));
            }
            put(&mut limits, name, number)
        })?;
        if blocks.group(id).is_some() {
            let text = "A group with this name already exists";
            return Err(refused(text.to_owned()));
        }
        let limits = check(limits)?;
        let group = blocks.group_or_new(id);
        group.set_limits(limits);
        Ok(Self(group))
    }

    /// Whether a drive or a node has these limits. The graph knows the group, too.
    pub fn is_used(&self) -> bool {
        Rc::strong_count(&self.0) > 2
    }

    /// Changes the limits: those that are named.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn set(&mut self, property: &str, value: NewValue<'_>) -> Result<(), QmpError> {
        if property != "limits" {
            let text = "Property cannot be set after initialization";
            return Err(refused(text.to_owned()));
        }
        let object = match value {
            NewValue::Json(value) if value.kind() == thimble_core::qmp::Kind::Object => value,
            _ => {
                return Err(refused(
                    "Invalid parameter type for 'limits', expected: object".to_owned(),
                ));
            }
        };
        let mut limits = self.0.limits();
        for (name, value) in object.members() {
            let name = String::from_utf8_lossy(name).into_owned();
            if place(&mut limits, &name).is_none() {
                return Err(refused(format!("Parameter 'limits.{name}' is unexpected")));
            }
            let number = value.int().ok_or_else(|| {
                refused(format!(
                    "Invalid parameter type for 'limits.{name}', expected: integer"
                ))
            })?;
            put(&mut limits, &name, number)?;
        }
        self.0.set_limits(check(limits)?);
        Ok(())
    }

    /// Hands the value of a property to `take`.
    pub fn value(&self, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        let mut limits = self.0.limits();
        if let Some(name) = property.strip_prefix("x-") {
            if let Some(number) = place(&mut limits, name) {
                take(QomValue::Int(*number as i64));
            }
            return;
        }
        let starts = NAMES.iter();
        let names = starts.flat_map(|name| FIELDS.iter().map(move |end| format!("{name}{end}")));
        let names: Vec<String> = names.chain([SIZE.to_owned()]).collect();
        let mut members = Vec::new();
        for name in &names {
            let number = place(&mut limits, name).map_or(0, |number| *number);
            members.push((name.as_str(), QomValue::Int(number as i64)));
        }
        take(QomValue::Members(&members));
    }
}
