//! Images of `firmware/` that measure themselves in phases: each prints a line with a name and a count, a mark when it begins
//! and one when it is through. The time between the marks is taken where they arrive.

use super::emulator::{Emulator, Running};
use super::median;

/// One phase of an image: its name and what it counts, a second.
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) speed: f64,
}

/// The line and the two marks of the next phase, or none at the end of the output.
pub(super) fn phase(running: &mut Running) -> Result<Option<Phase>, String> {
    let mut line = Vec::new();
    loop {
        match running.next_byte_if_any()? {
            None if line.is_empty() => return Ok(None),
            None => return Err("the guest ended in the middle of a line".to_string()),
            Some((b'\n', _)) => break,
            Some((byte, _)) => line.push(byte),
        }
    }
    let (name, count) = parse(&String::from_utf8_lossy(&line))?;
    let mut mark = |expected: u8| match running.next_byte_if_any()? {
        Some((byte, at)) if byte == expected => Ok(at),
        other => Err(format!("{name}: {expected:#x} expected, not {other:?}")),
    };
    let (begun, ended) = (mark(b'<')?, mark(b'>')?);
    Ok(Some(Phase {
        speed: count / (ended - begun).as_secs_f64(),
        name,
    }))
}

/// Name and count of a phase's line.
fn parse(line: &str) -> Result<(String, f64), String> {
    line.split_once(' ')
        .and_then(|(name, count)| Some((name.to_string(), u64::from_str_radix(count, 16).ok()?)))
        .map(|(name, count)| (name, count as f64))
        .ok_or_else(|| format!("'{line}' is no name with a number"))
}

/// All phases of a run.
pub(super) fn phases(emulator: &Emulator, options: &[&str]) -> Result<Vec<Phase>, String> {
    let mut running = emulator.spawn(options)?;
    let mut phases = Vec::new();
    while let Some(phase) = phase(&mut running)? {
        phases.push(phase);
    }
    Ok(phases)
}

/// The speed of a phase, as the median of all runs.
pub(super) fn middle(runs: &[Vec<Phase>], index: usize) -> f64 {
    let of = |phases: &Vec<Phase>| phases.get(index).map(|phase| phase.speed);
    median(&mut runs.iter().filter_map(of).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_phases_are_understood() {
        let (name, count) = parse("integer 2625a00").expect("a phase");
        assert_eq!((&*name, count), ("integer", 40e6));
        assert!(parse("integer").is_err());
        assert!(parse("integer forty").is_err());
    }
}
