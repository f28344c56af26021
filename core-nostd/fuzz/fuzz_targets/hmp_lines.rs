//! Lines of the human monitor, one after the other, on a machine whose processor has registers of the fuzzer's: paging
//! in any mode, with tables wherever CR3 leads.
//!
//! What must hold: a line ends with `\r\n` and has nothing else of the kind, text stops where its sink is full, and the
//! same line says the same again if it only looks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::machine::{Board, Irqchip};
use thimble_core::qmp::{self, SinkFull};
use thimble_fuzz::{Sink, Source, machine, plant};
use thimble_monitor::hmp::{Text, execute};
use thimble_monitor::{InMemory, Outcome};

/// Lines of an input: some look at all of memory.
const LINES_MAX: usize = 8;

/// What only looks.
const LOOKS: [&[u8]; 4] = [b"x", b"p/", b"help", b"info"];

/// Bytes of text that a line may write.
const TEXT_MAX: usize = 1 << 14;

/// Room for a line's text.
#[derive(Default)]
struct Paper(Vec<u8>);

impl qmp::Sink for Paper {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self.0.len() + bytes.len() > TEXT_MAX {
            return Err(SinkFull);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut source = Source(bytes);
    let mut vm = InMemory::new(machine(Board::Pc, Irqchip::Machine), Sink::default());
    let mode = source.byte();
    let registers = &mut vm.registers;
    registers.segments[1].big = mode & 1 != 0;
    registers.segments[1].long = mode & 2 != 0;
    registers.paging.cr0 = u64::from(mode & 4 != 0) << 31 | 1;
    // PSE, PAE and LA57.
    registers.paging.cr4 = u64::from(mode & 0x18) << 1 | u64::from(mode & 0x20) << 7;
    registers.paging.efer = u64::from(mode & 0x40 != 0) << 10;
    if mode & 4 != 0 {
        registers.paging.cr3 = source.number(3);
    }
    registers.rip = source.number(2);
    vm.cpus = 2;
    let mut cpu = 0;
    for line in source.0.split(|byte| *byte == b'\n').take(LINES_MAX) {
        let mut first = Paper::default();
        let done = execute(line, &mut vm, &mut cpu, &mut Text::new(&mut first));
        assert!(cpu < vm.cpus);
        if LOOKS.iter().any(|look| line.starts_with(look)) {
            let mut again = Paper::default();
            let repeated = execute(line, &mut vm, &mut cpu, &mut Text::new(&mut again));
            assert_eq!(done, repeated);
            assert_eq!(first.0, again.0);
        }
        vm.saving = None;
        let mut ends = first.0.windows(2).filter(|pair| pair[1] == b'\n');
        assert!(ends.all(|pair| pair[0] == b'\r'));
        match done {
            Ok(Outcome::Pending(_)) => assert!(first.0.is_empty()),
            Ok(Outcome::Done) => assert!(first.0.is_empty() || first.0.ends_with(b"\r\n")),
            Err(SinkFull) => assert!(first.0.len() > TEXT_MAX / 2),
        }
        // The firmware image is full of it, and nothing else.
        plant(first.0.windows(3).any(|word| word == b"hlt"));
    }
});
