//! A guest for tests: a processor, a little RAM, and ports that remember.
#![allow(unsafe_code)]

use super::cpuid::entries_of;
use super::{
    Attention, Bus, CodeCache, CodeMemory, Cpu, Delivery, Event, Exception, Platform, Signals, Stop,
};
use crate::cpu::decode::CodeSize;
use crate::cpu::mmu::{HostPage, PhysicalMemory, RamOnly};
use crate::cpu::{CpuState, FpuState, Registers, Segment};
use crate::devices::Width;
use crate::memory::{Exchange, GuestRam, MarkedRam};
use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::Vec;

/// Bytes of RAM, from address 0.
pub(super) const RAM: usize = 0x20_0000;

/// What a watched processor tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Linear address and bytes.
    Decoded(u64, Vec<u8>),
    /// Linear address.
    Entered(u64),
    /// What, and RIP.
    Delivered(Delivery, u64),
}

/// What is around the processor.
pub(super) struct Board {
    ram: Arc<MarkedRam<RAM>>,
    /// Port writes: port, width, value.
    pub(super) written: Vec<(u16, u8, u32)>,
    /// How far the processor was at each of them, where time is counted.
    pub(super) times: Vec<u64>,
    /// How far it is.
    reached: u64,
    /// Port reads: port, width.
    pub(super) read: Vec<(u16, u8)>,
    /// What port reads give.
    pub(super) port_value: u32,
    /// Interrupts that wait, by vector.
    pub(super) interrupts: VecDeque<u8>,
    /// Events that wait.
    pub(super) events: VecDeque<Event>,
    /// The processor is to leave.
    pub(super) leave: bool,
    task_priority: u8,
    pub(super) apic_base: u64,
    time: u64,
    /// What the processor has told of.
    pub(super) told: Vec<Told>,
}

// SAFETY: RAM lives as long as the board, and so do all translations.
unsafe impl PhysicalMemory for Board {
    fn page(&mut self, gpa: u64) -> HostPage {
        RamOnly(&*self.ram).page(gpa)
    }

    fn read(&mut self, gpa: u64, to: &mut [u8]) {
        RamOnly(&*self.ram).read(gpa, to);
    }

    fn write(&mut self, gpa: u64, from: &[u8]) {
        RamOnly(&*self.ram).write(gpa, from);
    }

    fn compare_exchange(&mut self, gpa: u64, exchange: Exchange) -> bool {
        RamOnly(&*self.ram).compare_exchange(gpa, exchange)
    }
}

// SAFETY: as above.
unsafe impl Platform for Board {
    fn pio_read(&mut self, port: u16, width: Width) -> u32 {
        self.read.push((port, width.bytes()));
        self.port_value
    }

    fn pio_write(&mut self, port: u16, width: Width, value: u32) {
        self.written.push((port, width.bytes(), value));
        self.times.push(self.reached);
    }

    fn reached(&mut self, time: u64) {
        self.reached = time;
    }

    fn attend(&mut self) -> Attention {
        Attention {
            leave: self.leave,
            interrupt: !self.interrupts.is_empty(),
            event: self.events.pop_front(),
        }
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.interrupts.pop_front()
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, class: u8) {
        self.task_priority = class;
    }

    fn apic_base(&mut self) -> u64 {
        self.apic_base
    }

    fn set_apic_base(&mut self, value: u64) -> bool {
        self.apic_base = value;
        true
    }

    fn apic_read_msr(&mut self, _index: u32) -> Option<u64> {
        None
    }

    fn apic_write_msr(&mut self, _index: u32, _value: u64, _tsc: u64) -> bool {
        false
    }

    fn apic_init(&mut self) {}

    fn tsc(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    fn random(&mut self) -> u64 {
        self.time = self.time.wrapping_mul(6364136223846793005).wrapping_add(1);
        self.time
    }

    fn decoded(&mut self, linear: u64, bytes: &[u8], _code: CodeSize) {
        self.told.push(Told::Decoded(linear, bytes.to_vec()));
    }

    fn entered(&mut self, linear: u64, registers: &Registers) {
        assert_eq!(registers.pc(), linear);
        self.told.push(Told::Entered(linear));
    }

    fn delivered(&mut self, delivery: &Delivery, registers: &Registers) {
        self.told.push(Told::Delivered(*delivery, registers.rip));
    }
}

impl Board {
    /// Says whether the processor is the bootstrap processor.
    pub(super) fn set_bootstrap(&mut self, bootstrap: bool) {
        self.apic_base = 0xfee0_0800 | u64::from(bootstrap) << 8;
    }
}

/// The guest.
pub(super) struct Guest {
    pub(super) cpu: Box<Cpu>,
    code: Box<CodeCache>,
    ram: Arc<MarkedRam<RAM>>,
    pub(super) signals: Signals,
    pub(super) board: Board,
}

fn zeroed<T>() -> Box<T> {
    // SAFETY: used for types that are valid when zero.
    unsafe { Box::new_zeroed().assume_init() }
}

impl Guest {
    /// In real mode after a reset, about to run what is at 0000:1000h, with the stack at 0000:8000h.
    pub(super) fn new() -> Self {
        // SAFETY: valid when zero.
        let ram: Arc<MarkedRam<RAM>> = unsafe { Arc::new_zeroed().assume_init() };
        let mut guest = Self {
            cpu: zeroed(),
            code: zeroed(),
            ram: ram.clone(),
            signals: Signals::new(),
            board: Board {
                ram,
                written: Vec::new(),
                times: Vec::new(),
                reached: 0,
                read: Vec::new(),
                port_value: 0,
                interrupts: VecDeque::new(),
                events: VecDeque::new(),
                leave: false,
                task_priority: 0,
                apic_base: 0xfee0_0900,
                told: Vec::new(),
                time: 0,
            },
        };
        guest
            .cpu
            .set_cpuid(&entries_of(&[u32::MAX; crate::cpu::features::WORDS]))
            .unwrap();
        guest.change(|state| {
            state.cs = Segment::real(0, 0, 0xb);
            state.rip = 0x1000;
            state.gpr[crate::cpu::gpr::RSP] = 0x8000;
        });
        guest
    }

    /// In flat 32-bit protected mode, without paging, about to run what is at 1000h.
    pub(super) fn protected() -> Self {
        let mut guest = Self::new();
        guest.change(|state| {
            state.cr0 |= 1;
            let data = Segment {
                limit: u32::MAX,
                big: true,
                granular: true,
                ..Segment::real(0x10, 0, 3)
            };
            for segment in [
                &mut state.ss,
                &mut state.ds,
                &mut state.es,
                &mut state.fs,
                &mut state.gs,
            ] {
                *segment = data;
            }
            state.cs = Segment {
                selector: 8,
                kind: 0xb,
                ..data
            };
        });
        guest
    }

    /// In 64-bit mode with the first 2 MiB mapped one to one by tables at 1F_0000h, writable for
    /// all, about to run what is at 1000h.
    pub(super) fn long() -> Self {
        let mut guest = Self::protected();
        guest.put(0x1f_0000, &0x1f_1007u64.to_le_bytes());
        guest.put(0x1f_1000, &0x1f_2007u64.to_le_bytes());
        guest.put(0x1f_2000, &0x87u64.to_le_bytes());
        guest.change(|state| {
            state.cr0 |= 1 << 31;
            state.cr3 = 0x1f_0000;
            state.cr4 |= 1 << 5;
            state.efer = 1 << 8 | 1 << 10;
            (state.cs.long, state.cs.big) = (true, false);
        });
        guest
    }

    /// Lets blocks be translated.
    pub(super) fn lend(&mut self, memory: CodeMemory) {
        self.code.lend(memory);
    }

    /// Stores bytes to RAM, as a device does.
    pub(super) fn put(&mut self, gpa: u64, bytes: &[u8]) {
        self.board.ram.write(gpa, bytes).unwrap();
    }

    /// Bytes of RAM.
    pub(super) fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.board.ram.read(gpa, &mut bytes).unwrap();
        bytes
    }

    /// The processor's state.
    pub(super) fn state(&mut self) -> CpuState {
        let mut state = CpuState::default();
        let Self {
            cpu,
            code,
            ram,
            signals,
            board,
        } = self;
        cpu.state(&mut state, &mut Bus::new(board, ram.marks(), signals, code));
        state
    }

    /// Changes the processor's state.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut CpuState)) {
        let mut state = if self.cpu.rflags() == 0 {
            CpuState::default()
        } else {
            self.state()
        };
        change(&mut state);
        let Self {
            cpu,
            code,
            ram,
            signals,
            board,
        } = self;
        cpu.set_state(&state, &mut Bus::new(board, ram.marks(), signals, code));
    }

    /// Runs so many instructions at most.
    pub(super) fn run(&mut self, instructions: u64) -> Stop {
        let Self {
            cpu,
            code,
            ram,
            signals,
            board,
        } = self;
        cpu.run(
            &mut Bus::new(board, ram.marks(), signals, code),
            instructions,
        )
    }

    /// The same with counted time.
    pub(super) fn run_counted(&mut self, instructions: u64) -> Stop {
        let Self {
            cpu,
            code,
            ram,
            signals,
            board,
        } = self;
        let bus = Bus::new(board, ram.marks(), signals, code);
        cpu.run(&mut bus.count_time(), instructions)
    }

    /// Puts code where the processor is, and runs so many instructions.
    pub(super) fn execute(&mut self, code: &[u8], instructions: u64) -> Stop {
        let rip = self.state().rip;
        self.put(rip, code);
        self.run(instructions)
    }

    /// Executes one instruction at 1000h in CS: what it raises, which is not delivered.
    pub(super) fn attempt(&mut self, code: &[u8]) -> Result<(), Exception> {
        self.change(|state| state.rip = 0x1000);
        let base = self.state().cs.base;
        self.put(base + 0x1000, code);
        let Self {
            cpu,
            code,
            ram,
            signals,
            board,
        } = self;
        let stepped = cpu.step(&mut Bus::new(board, ram.marks(), signals, code));
        stepped.map_err(|_| cpu.raised.unwrap())
    }

    /// The same with general registers set before.
    pub(super) fn attempt_with(
        &mut self,
        registers: &[(usize, u64)],
        code: &[u8],
    ) -> Result<(), Exception> {
        self.change(|state| {
            for (number, value) in registers {
                state.gpr[*number] = *value;
            }
        });
        self.attempt(code)
    }

    /// In CPL 3, with the segments that there are.
    pub(super) fn user(mut self) -> Self {
        self.change(|state| {
            (state.ss.dpl, state.cs.dpl) = (3, 3);
        });
        self
    }

    /// In virtual-8086 mode.
    pub(super) fn v86() -> Self {
        let mut guest = Self::protected();
        guest.change(|state| {
            state.rflags |= 1 << 17;
            let segment = Segment {
                dpl: 3,
                ..Segment::real(0, 0, 3)
            };
            for register in [
                &mut state.cs,
                &mut state.ss,
                &mut state.ds,
                &mut state.es,
                &mut state.fs,
                &mut state.gs,
            ] {
                *register = segment;
            }
        });
        guest
    }
}

/// In 64-bit mode with RBX = 3000h, CR4.OSFXSR and CR4.OSXSAVE.
pub(super) fn media_guest() -> Guest {
    let mut guest = Guest::long();
    guest.change(|state| {
        state.cr4 |= 1 << 9 | 1 << 18;
        state.gpr[crate::cpu::gpr::RBX] = 0x3000;
        state.xcr0 = 0x203;
    });
    guest
}

/// Registers of the x87 and XMM registers, each with something of its own.
pub(super) fn filled() -> FpuState {
    let mut fpu = FpuState {
        fcw: 0x27f,
        fsw: 5 << 11,
        ftw: 0x81,
        fop: 0x123,
        fip: 0xffff_8000_1111_2222,
        fdp: 0x7fff_3333_4444,
        mxcsr: 0x1fa0,
        ..FpuState::default()
    };
    for number in 0..16u8 {
        fpu.xmm[usize::from(number)] = u128::MAX / 255 * u128::from(number + 1);
        fpu.st[usize::from(number % 8)] = [number | 0x40; 10];
    }
    fpu
}
