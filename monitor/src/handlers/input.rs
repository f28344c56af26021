//! Keys, buttons and movements.

use thimble_core::devices::input::{InputButton, InputEvent, QKeyCode};
use thimble_core::machine::{Place, RunState, TYPED_MAX, TypedFull};
use thimble_core::qmp::Sink;

use super::Context;
use crate::Owner;
use crate::error::{ErrorClass, Fail, QmpError};
use crate::reply::ListReply;
use crate::schema::arguments::{InputEventVariant, KeyValue, KeyValueVariant};
use crate::schema::{arguments, results};

/// Milliseconds that pass after each typed key unless a command says otherwise.
const DEFAULT_PAUSE: u32 = 10;

/// What there is to be told apart by number: the keyboard and the mouse, as QEMU numbers them.
pub(crate) const KEYBOARD: (i64, &str) = (1, "QEMU PS/2 Keyboard");
pub(crate) const MOUSE: (i64, &str) = (2, "QEMU PS/2 Mouse");

/// Keys that are typed together.
pub(crate) type Keys = heapless::Vec<QKeyCode, { TYPED_MAX / 2 }>;

/// Whether what someone does arrives: at a guest that runs, or that a key wakes up.
fn is_awake<O: Owner + ?Sized>(owner: &O) -> bool {
    matches!(owner.run_state(), RunState::Running | RunState::Suspended)
}

pub(crate) fn has_keyboard<O: Owner + ?Sized>(owner: &O) -> bool {
    let mut has = false;
    owner.visit_objects(&mut |tree| has = tree.machine.has_keyboard());
    has
}

fn key_of(value: &KeyValue) -> QKeyCode {
    match &value.variant {
        KeyValueVariant::Number(number) => QKeyCode::from_number(number.data),
        KeyValueVariant::Qcode(qcode) => qcode.data,
    }
}

pub(crate) fn query_mice<O: Owner, S: Sink>(
    context: &mut Context<'_, O>,
    list: &mut ListReply<'_, S>,
) -> Result<(), Fail<'static>> {
    if has_keyboard(context.owner) {
        let (index, name) = MOUSE;
        list.push(&results::MouseInfo {
            name,
            index,
            current: true,
            absolute: false,
        });
    }
    Ok(())
}

/// Types these keys, or fails where they don't fit.
pub(crate) fn type_keys<O: Owner + ?Sized>(
    owner: &mut O,
    keys: impl Iterator<Item = QKeyCode>,
    hold_time: Option<i64>,
) -> Result<(), Fail<'static>> {
    let full = |full: TypedFull| Fail::from(QmpError::generic(format_args!("{full}")));
    let mut typed = Keys::new();
    for key in keys {
        typed.push(key).map_err(|_| full(TypedFull))?;
    }
    let pause = match hold_time.unwrap_or(0) as u32 {
        0 => DEFAULT_PAUSE,
        pause => pause,
    };
    let pause = is_awake(owner).then_some(pause);
    owner.type_keys(&typed, pause).map_err(full)
}

pub(crate) fn send_key<O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::SendKey<'_>,
) -> Result<(), Fail<'static>> {
    let keys = arguments.keys.map(|key| key_of(&key));
    type_keys(context.owner, keys, arguments.hold_time)
}

pub(crate) fn input_send_event<'m, O: Owner>(
    context: &mut Context<'_, O>,
    arguments: arguments::InputSendEvent<'m>,
) -> Result<(), Fail<'m>> {
    if let Some(device) = arguments.device {
        return Err(no_console(
            context.owner,
            device,
            arguments.head.unwrap_or(0),
        ));
    }
    if !is_awake(context.owner) {
        return Err(Fail::generic(&[b"VM not running"]));
    }
    let has_keyboard = has_keyboard(context.owner);
    for event in arguments.events.clone() {
        let missing: &[u8] = match event.variant {
            InputEventVariant::Abs(_) => b"abs",
            _ if has_keyboard => continue,
            InputEventVariant::Key(_) => b"key",
            InputEventVariant::Btn(_) => b"btn",
            InputEventVariant::Rel(_) => b"rel",
        };
        let sentence = b"Input handler not found for event type ";
        return Err(Fail::generic(&[sentence, missing]));
    }
    let mut events = arguments.events.filter_map(|event| match event.variant {
        InputEventVariant::Key(event) => Some(InputEvent::Key {
            key: key_of(&event.data.key),
            down: event.data.down,
        }),
        InputEventVariant::Btn(event) => Some(InputEvent::Button {
            button: event.data.button,
            down: event.data.down,
        }),
        InputEventVariant::Rel(event) => Some(InputEvent::Move {
            axis: event.data.axis,
            by: event.data.value as i32,
        }),
        InputEventVariant::Abs(_) => None,
    });
    context.owner.input(&mut events);
    Ok(())
}

/// Why no device is one that shows something.
fn no_console<'m, O: Owner + ?Sized>(owner: &O, device: &'m [u8], head: i64) -> Fail<'m> {
    let name = core::str::from_utf8(device).unwrap_or_default();
    let mut found = false;
    owner.visit_objects(&mut |tree| {
        let mut devices = tree.machine.plugged().iter();
        found = devices.any(|device| device.place() == Place::Id(name));
    });
    match found {
        false => Fail::class(
            ErrorClass::DeviceNotFound,
            &[b"Device '", device, b"' not found"],
        ),
        true => QmpError::generic(format_args!(
            "Device {name} (head {head}) is not bound to a QemuConsole"
        ))
        .into(),
    }
}

/// Lets someone do something, unless the VM is stopped.
pub(crate) fn do_input<O: Owner + ?Sized>(owner: &mut O, events: &[InputEvent]) {
    if is_awake(owner) {
        owner.input(&mut events.iter().copied());
    }
}

/// Presses and releases buttons, so that these are down: left, right and middle in bits 0 to 2.
pub(crate) fn hold_buttons<O: Owner + ?Sized>(owner: &mut O, buttons: u8) {
    let before = core::mem::replace(owner.held_buttons(), buttons);
    let mut events = heapless::Vec::<_, 3>::new();
    for (bit, button) in [
        (1, InputButton::Left),
        (4, InputButton::Middle),
        (2, InputButton::Right),
    ] {
        let down = buttons & bit != 0;
        if down != (before & bit != 0) {
            let _ = events.push(InputEvent::Button { button, down });
        }
    }
    do_input(owner, &events);
}
