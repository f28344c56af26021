//! A debugger's packets on a machine in memory: a line each, of which most are framed here so that sums are right. A line
//! that begins with byte 0 is sent as it is; one that begins with byte 1 says why the machine has stopped.
//!
//! What must hold: no panic; all that is sent are packets and acknowledgments; and the same is sent however the input is
//! cut (the first byte says where).
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::cpu::debugger::{Breakpoint, Hit, WatchKind};
use thimble_core::formats::gdb::{Decoder, Direction, Item, PACKET_MAX, encode};
use thimble_core::machine::{Board, Irqchip, RunState};
use thimble_core::qmp;
use thimble_fuzz::{Output, Sink, Source, machine, plant};
use thimble_monitor::gdb::Session;
use thimble_monitor::{DebugStop, Debugger, InMemory};

/// What the debugger sends, and what happens in between.
enum Event {
    Bytes(Vec<u8>),
    Stop(DebugStop),
}

fn event(line: &[u8]) -> Event {
    match line.split_first() {
        Some((0, raw)) => Event::Bytes(raw.to_vec()),
        Some((1, rest)) => {
            let mut source = Source(rest);
            let (kind, cpu) = (source.byte(), u32::from(source.byte() % 3));
            let address = source.number(8);
            let hit = match kind {
                0 => Hit::Step,
                1 | 2 => Hit::Breakpoint(Breakpoint {
                    address,
                    hardware: kind == 2,
                }),
                3 => Hit::Watchpoint(WatchKind::Write, address),
                4 => Hit::Watchpoint(WatchKind::Read, address),
                _ => Hit::Watchpoint(WatchKind::Access, address),
            };
            Event::Stop(DebugStop { cpu, hit })
        }
        _ => {
            let mut bytes = vec![b'$'];
            bytes.extend_from_slice(line);
            let sum = line.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            bytes.extend(format!("#{sum:02x}").bytes());
            Event::Bytes(bytes)
        }
    }
}

/// What a run has sent.
fn run(events: &[Event], cut: usize) -> Vec<u8> {
    let mut vm = InMemory::new(machine(Board::Pc, Irqchip::Machine), Sink::default());
    vm.cpus = 3;
    let mut session = Box::<Session>::default();
    let mut out = Output::default();
    session.open(&mut vm);
    for event in events {
        match event {
            Event::Bytes(bytes) => {
                for part in bytes.chunks(cut) {
                    session
                        .feed(part, &mut vm, &mut out)
                        .expect("memory does not fill up");
                }
            }
            Event::Stop(stop) if vm.run_state == RunState::Running => {
                vm.run_state = RunState::Debug;
                vm.debugged.stop = Some(*stop);
                let settled = session.settle(&mut vm, &mut out);
                settled.expect("memory does not fill up");
            }
            Event::Stop(_) => {}
        }
        // Commands in the background end at once.
        if let Some((job, _)) = vm.saving.take()
            && session.pending() == Some(job)
        {
            let done = session.complete(&Ok(()), &mut out);
            done.expect("memory does not fill up");
        }
    }
    let watchpoints = vm.debugged.breaks.watchpoints();
    plant(watchpoints.iter().any(|watch| watch.length > 0x100));
    session.close(&mut vm);
    vm.clear_breaks();
    out.0
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else {
        return;
    };
    let events: Vec<Event> = input.split(|byte| *byte == b'\n').map(event).collect();
    let whole = run(&events, usize::MAX);
    assert_eq!(run(&events, usize::from(cut).max(1)), whole);
    let mut decoder = Decoder::new(Direction::Answers);
    let mut rest = false;
    for byte in &whole {
        match decoder.push(*byte) {
            Some(Item::Packet) => {
                assert!(decoder.packet().len() <= PACKET_MAX);
                // It is what its payload is encoded to.
                let mut again = Output::default();
                encode(decoder.packet(), &mut again as &mut dyn qmp::Sink)
                    .expect("memory does not fill up");
                assert!(whole.windows(again.0.len()).any(|window| window == again.0));
                rest = false;
            }
            Some(Item::Ack | Item::Nak) => assert!(!rest),
            Some(other) => panic!("{other:?}"),
            None => rest = true,
        }
    }
    assert!(!rest);
});
