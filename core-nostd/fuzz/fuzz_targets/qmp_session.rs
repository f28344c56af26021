//! Raw bytes into a QMP session over a machine in memory.
//!
//! What must hold for any input: no panic; whole lines out, of JSON that reads back; and the same
//! output however the input is cut (the first byte says where). With out-of-band commands, which overtake a command
//! that goes on in the background, the output depends on when that ends: such runs are not compared.
#![no_main]

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use thimble_core::machine::{Board, Irqchip};
use thimble_core::qmp::{ParseError, Parser};
use thimble_fuzz::{Output, Sink, machine, plant};
use thimble_monitor::{InMemory, QmpError, Session};

/// A zeroed `T` that lives to the end of the process.
fn zeroed<T>() -> Box<T> {
    // SAFETY: used for sessions and parsers only, which are valid when zero; memory that could
    // not be had is a crash of the fuzzer.
    unsafe { Box::from_raw(alloc_zeroed(Layout::new::<T>()).cast()) }
}

thread_local! {
    static STATE: RefCell<(Box<Session>, Box<Parser>)> = RefCell::new((zeroed(), zeroed()));
}

/// What a run has written, and whether a command has gone on in the background.
fn run(session: &mut Session, parts: [&[u8]; 2]) -> (Vec<u8>, bool) {
    let mut out = Output::default();
    let mut vm = InMemory::new(machine(Board::Pc, Irqchip::Host), Sink::default());
    let mut waited = false;
    session.open(&mut out).expect("memory does not fill up");
    for mut part in [
        b"{'execute':'qmp_capabilities'}".as_slice(),
        parts[0],
        parts[1],
    ] {
        loop {
            let taken = session.feed(part, &mut vm, &mut out);
            part = &part[taken..];
            let Some(job) = session.pending() else {
                assert!(part.is_empty());
                break;
            };
            waited = true;
            let (saving, saved) = vm.saving.take().expect("memory is being saved");
            assert_eq!(saving, job);
            // Arguments of all types have arrived.
            plant(saved.address != saved.size);
            let name = String::from_utf8_lossy(&saved.filename);
            let result = match saved.size % 2 {
                0 => Ok(()),
                _ => Err(QmpError::generic(format_args!("Could not open '{name}'"))),
            };
            session.complete(result, &mut vm, &mut out);
        }
    }
    (out.0, waited)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else {
        return;
    };
    STATE.with_borrow_mut(|(session, parser)| {
        let (whole, waited) = run(session, [input, b""]);
        let parts = input.split_at(usize::from(cut).min(input.len()));
        let (cut, _) = run(session, parts.into());
        // The capability may be written with escapes.
        let oob = |word: &[u8]| word == b"oob" || word.starts_with(b"\\u");
        let overtaking = waited && input.windows(3).any(oob);
        assert!(overtaking || cut == whole);
        assert!(whole.is_ascii() && whole.ends_with(b"\r\n"));
        // Our own output is plain JSON, an object a line.
        parser.reset();
        let lines = whole.iter().filter(|&&b| b == b'\n').count();
        let (mut at, mut objects) = (0, 0);
        while at < whole.len() {
            let progress = parser.push(&whole[at..]);
            at += progress.consumed;
            match progress.message {
                Some(Ok(())) => objects += 1,
                // An error may quote input that grows over the limit by being escaped, and the schema is large.
                Some(Err(ParseError::MessageSize | ParseError::TokenCount)) => return,
                Some(Err(error)) => panic!("{error:?}"),
                None => {}
            }
        }
        assert_eq!(objects, lines);
    });
});
