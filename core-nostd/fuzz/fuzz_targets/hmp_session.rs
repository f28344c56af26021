//! Raw bytes at a session of the human monitor: keys, escape sequences, completion, history, commands.
//!
//! What must hold: the output is the same however the input is cut (the first byte says where), and the same once more
//! when a shared terminal is given away and taken back before it; a line is ended by `\r\n` alone, and everything ends with
//! a prompt once the line is empty.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::machine::{Board, Irqchip};
use thimble_fuzz::{Output, Sink, machine, plant};
use thimble_monitor::hmp::{HmpSession, PROMPT};
use thimble_monitor::{InMemory, QmpError, trace};

/// Bytes of input that are looked at: commands may write a lot.
const INPUT_MAX: usize = 512;

/// Bytes of output after which a run ends.
const OUT_MAX: usize = 1 << 20;

/// What a run has written, and whether the process is to end.
fn run(parts: &[&[u8]], blurred: bool) -> (Vec<u8>, bool) {
    let mut session = Box::new(HmpSession::new());
    let mut out = Output::default();
    let mut vm = InMemory::new(machine(Board::Pc, Irqchip::Machine), Sink::default());
    // Which events are traced is the process' own, and outlives a machine.
    trace::set(b"*", false);
    session.open(&mut out);
    if blurred {
        session.blur(&mut out);
        session.focus(&mut out);
        out.0.clear();
        session.open(&mut out);
    }
    for part in parts {
        let mut part = *part;
        loop {
            let taken = session.feed(part, &mut vm, &mut out);
            part = &part[taken..];
            if let Some((job, saved)) = vm.saving.take() {
                assert_eq!(session.pending(), Some(job));
                let failed = QmpError::generic(format_args!("no file"));
                let result = if saved.size % 2 == 0 {
                    Ok(())
                } else {
                    Err(failed)
                };
                session.complete(&result, &mut out);
            }
            if part.is_empty() || taken == 0 || out.0.len() > OUT_MAX {
                break;
            }
        }
    }
    assert!(!session.broken());
    (out.0, vm.done & InMemory::<Sink>::QUIT != 0)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else {
        return;
    };
    let input = &input[..input.len().min(INPUT_MAX)];
    let (first, second) = input.split_at(usize::from(cut).min(input.len()));
    let end = b"\n\n";
    let (whole, quits) = run(&[input, end], false);
    if whole.len() > OUT_MAX {
        return;
    }
    assert!((whole.clone(), quits) == run(&[first, second, end], false));
    assert!((whole.clone(), quits) == run(&[input, end], true));
    assert!(quits || whole.ends_with(PROMPT.as_bytes()));
    let mut ends = whole.windows(2).filter(|pair| pair[1] == b'\n');
    assert!(ends.all(|pair| pair[0] == b'\r'));
    // A line was recalled or completed, and did something.
    let shown = |text: &[u8]| whole.windows(text.len()).any(|part| part == text);
    plant(shown(b"1: 'info history '"));
});
