//! Processors: which one is meant, their registers and their local APICs.

use core::fmt::Write as _;

use super::table::{Command, Kind, command, flag, optional, required};
use super::{Call, Done, apic, registers};
use crate::handlers::Outcome;

/// IA32_APIC_BASE: x2APIC mode.
const X2APIC: u64 = 1 << 10;

pub(super) static COMMANDS: &[Command] = &[command(
    "cpu",
    "index",
    &[required(Kind::Int32)],
    "choose the processor that other commands are about",
    cpu,
)];

pub(super) static INFO: &[Command] = &[
    command(
        "cpus",
        "",
        &[],
        "show the processors, and which of them is chosen",
        cpus,
    ),
    command(
        "lapic",
        "[apic-id]",
        &[optional(Kind::Int32)],
        "show the local APIC of this id, or of the chosen processor",
        lapic,
    ),
    command(
        "registers",
        "[-a|vcpu]",
        &[flag(b'a'), optional(Kind::Int32)],
        "show the registers of all processors (-a), of one, or of the chosen one",
        registers,
    ),
];

fn cpu<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    match number(call, 0) {
        Some(index) => call.context.session.cpu = index,
        None => writeln!(call.text, "invalid CPU index")?,
    }
    Ok(Outcome::Done)
}

/// The processor of this number, if there is one.
fn number(call: &Call<'_, '_>, place: usize) -> Option<u32> {
    let index = u32::try_from(call.arguments.int(place)).ok();
    index.filter(|index| *index < call.context.owner.cpus())
}

fn cpus<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    for index in 0..call.context.owner.cpus() {
        let mark = if index == call.cpu() { '*' } else { ' ' };
        let thread = call.context.owner.cpu_state(index)?.thread_id;
        writeln!(call.text, "{mark} CPU #{index}: thread_id={thread}")?;
    }
    Ok(Outcome::Done)
}

fn registers<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let (first, end) = match (call.arguments.flag(0), call.arguments.optional_int(1)) {
        (true, _) => (0, call.context.owner.cpus()),
        (false, None) => (call.cpu(), call.cpu().saturating_add(1)),
        (false, Some(asked)) => match number(call, 1) {
            Some(index) => (index, index.saturating_add(1)),
            None => {
                writeln!(call.text, "CPU#{asked} not available")?;
                return Ok(Outcome::Done);
            }
        },
    };
    for index in first..end {
        let mut a20 = true;
        let owner = &mut *call.context.owner;
        owner.look_at_machine(&mut |machine| a20 = machine.a20());
        let text = &mut call.text;
        let mut shown = Ok(());
        owner.look_at_processor(index, &mut |state| {
            shown =
                writeln!(text, "\nCPU#{index}").and_then(|()| registers::show(state, a20, text));
        })?;
        shown?;
    }
    Ok(Outcome::Done)
}

fn lapic<'l>(call: &mut Call<'_, 'l>) -> Done<'l> {
    let asked = call.arguments.optional_int(0);
    let (first, end) = match asked {
        None => (call.cpu(), call.cpu().saturating_add(1)),
        Some(_) => (0, call.context.owner.cpus()),
    };
    let text = &mut call.text;
    let (mut found, mut shown) = (false, Ok(()));
    for index in first..end {
        call.context.owner.look_at_processor(index, &mut |state| {
            let apic = state.apic.as_ref();
            // As x2APIC mode shows it, or the upper byte.
            let id = apic.map(|apic| match state.apic_base & X2APIC {
                0 => apic.id >> 24,
                _ => apic.id,
            });
            let Some(apic) = apic else { return };
            if found || asked.is_some_and(|asked| id.map(i64::from) != Some(asked)) {
                return;
            }
            found = true;
            shown = apic::local(index, apic, text);
        })?;
    }
    shown?;
    if !found {
        writeln!(call.text, "No CPU available")?;
    }
    Ok(Outcome::Done)
}
