//! Raw bytes into a QMP session with an owner in memory.
//!
//! What must hold for any input: no panic; whole lines out, of JSON that reads back; and the same
//! output however the input is cut (the first byte says where).
#![no_main]

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use thimble_core::machine::RunState;
use thimble_core::qmp::Parser;
use thimble_fuzz::{Output, plant};
use thimble_monitor::{Event, KvmInfo, Owner, QmpError, Session, ShutdownCause, Timestamp};

/// A zeroed `T` that lives to the end of the process.
fn zeroed<T>() -> Box<T> {
    // SAFETY: used for sessions and parsers only, which are valid when zero; memory that could
    // not be had is a crash of the fuzzer.
    unsafe { Box::from_raw(alloc_zeroed(Layout::new::<T>()).cast()) }
}

struct Vm {
    state: RunState,
    event: Option<Event>,
}

impl Owner for Vm {
    fn run_state(&self) -> RunState {
        self.state
    }

    fn stop(&mut self) -> Result<(), QmpError> {
        self.state = RunState::Paused;
        self.event = Some(Event::Stop);
        Ok(())
    }

    fn cont(&mut self) -> Result<(), QmpError> {
        self.state = RunState::Running;
        self.event = Some(Event::Resume);
        Ok(())
    }

    fn system_reset(&mut self) -> Result<(), QmpError> {
        self.event = Some(Event::Reset(ShutdownCause::HostQmpSystemReset));
        Ok(())
    }

    fn quit(&mut self) {
        self.state = RunState::Shutdown;
    }

    fn pmemsave(&mut self, address: u64, size: u64, filename: &[u8]) -> Result<(), QmpError> {
        // Arguments of all types have arrived.
        plant(address != size);
        let name = String::from_utf8_lossy(filename);
        Err(QmpError::generic(format_args!("Could not open '{name}'")))
    }

    fn name(&self) -> Option<&str> {
        None
    }

    fn uuid(&self) -> [u8; 16] {
        [0x5a; 16]
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: false,
            present: true,
        }
    }

    fn take_event(&mut self) -> Option<(Event, Timestamp)> {
        Some((self.event.take()?, Timestamp::default()))
    }
}

thread_local! {
    static STATE: RefCell<(Box<Session>, Box<Parser>)> = RefCell::new((zeroed(), zeroed()));
}

fn run(session: &mut Session, parts: [&[u8]; 2]) -> Vec<u8> {
    let mut out = Output::default();
    let mut vm = Vm {
        state: RunState::Prelaunch,
        event: None,
    };
    session.open(&mut out).unwrap();
    for part in [
        b"{'execute':'qmp_capabilities'}".as_slice(),
        parts[0],
        parts[1],
    ] {
        assert_eq!(session.feed(part, &mut vm, &mut out), part.len());
    }
    out.0
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else {
        return;
    };
    STATE.with_borrow_mut(|(session, parser)| {
        let whole = run(session, [input, b""]);
        let parts = input.split_at(usize::from(cut).min(input.len()));
        assert_eq!(run(session, parts.into()), whole);
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
                // An error may quote input that grows over the limit by being escaped.
                Some(Err(thimble_core::qmp::ParseError::MessageSize)) => return,
                Some(Err(error)) => panic!("{error:?}"),
                None => {}
            }
        }
        assert_eq!(objects, lines);
    });
});
