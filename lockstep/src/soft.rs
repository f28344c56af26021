//! The software CPU as a subject: a processor, [`layout`]'s memory, and nothing else.

use std::arch::x86_64::__cpuid_count;
use std::sync::Arc;

use thimble_core::cpu::features::{Register, WORD_INFO};
use thimble_core::cpu::mmu::{HostPage, PhysicalMemory, RamOnly};
use thimble_core::cpu::soft::cpuid::CpuidEntry;
use thimble_core::cpu::soft::{
    Attention, Bus, CodeCache, CodeMemory, Cpu, Platform, Signals, Stop,
};
use thimble_core::cpu::{CpuState, DescriptorTable};
use thimble_core::devices::Width;
use thimble_core::memory::{Exchange, GuestRam, MarkedRam};

use crate::case::{CS, Case, DS, ES, End, FS, GS, Outcome, Raw, SS, Subject, World};
use crate::control::control;
use crate::layout::{self, Images, RAM, WINDOW, WINDOW_BYTES};

/// Instructions of a case, at most.
const INSTRUCTIONS_MAX: u64 = 200_000;

struct Board {
    ram: Arc<MarkedRam<RAM>>,
    time: u64,
}

impl Board {
    /// No case runs while the host looks.
    fn bytes(&self) -> &[u8] {
        match self.ram.block(0) {
            // SAFETY: the block is all of the RAM, and nobody stores to it before `&mut self` is free again.
            Some(block) => unsafe {
                std::slice::from_raw_parts(block.pointer.as_ptr(), block.length)
            },
            None => &[],
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self.ram.block(0) {
            // SAFETY: as above, and `self` is borrowed mutably.
            Some(block) => unsafe {
                std::slice::from_raw_parts_mut(block.pointer.as_ptr(), block.length)
            },
            None => &mut [],
        }
    }
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
    fn pio_read(&mut self, _port: u16, _width: Width) -> u32 {
        u32::MAX
    }

    fn pio_write(&mut self, _port: u16, _width: Width, _value: u32) {}

    fn attend(&mut self) -> Attention {
        Attention::default()
    }

    fn acknowledge(&mut self) -> Option<u8> {
        None
    }

    fn task_priority(&mut self) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _class: u8) {}

    fn apic_base(&mut self) -> u64 {
        0xfee0_0900
    }

    fn set_apic_base(&mut self, _value: u64) -> bool {
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
        self.time = self
            .time
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.time
    }
}

/// The software CPU, made ready.
pub(crate) struct Soft {
    cpu: Box<Cpu>,
    code: Box<CodeCache>,
    ram: Arc<MarkedRam<RAM>>,
    signals: Signals,
    board: Board,
    images: Images,
    state: CpuState,
    name: &'static str,
}

/// Memory for translations, never unmapped.
fn code_memory() -> CodeMemory {
    const BYTES: usize = 4 << 20;
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, which nobody else has.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), BYTES, rights, flags, -1, 0);
        assert_ne!(memory, libc::MAP_FAILED, "no memory for translations");
        CodeMemory::new(memory.cast(), memory.cast(), BYTES)
    }
}

fn zeroed<T>() -> Box<T> {
    // SAFETY: used for types that are valid when zero, as their documentation says.
    unsafe { Box::new_zeroed().assume_init() }
}

impl Soft {
    pub(crate) fn new() -> Self {
        let mut cpu: Box<Cpu> = zeroed();
        // More leaves than there are words of features there can't be.
        let _ = cpu.set_cpuid(&leaves());
        // SAFETY: valid when zero, as its documentation says.
        let ram: Arc<MarkedRam<RAM>> = unsafe { Arc::new_zeroed().assume_init() };
        Self {
            cpu,
            code: zeroed(),
            ram: ram.clone(),
            signals: Signals::new(),
            board: Board { ram, time: 0 },
            images: Images::new(),
            state: CpuState::default(),
            name: "software CPU",
        }
    }

    /// One that translates every block before it runs.
    pub(crate) fn translating() -> Self {
        let mut soft = Self::new();
        soft.code.lend(code_memory().after(0));
        soft.name = "software CPU's translations";
        soft
    }

    fn load(&mut self, case: &Case) {
        self.images.load(case, self.board.bytes_mut());
        self.ram.marks().stored(0, RAM);
        let state = &mut self.state;
        *state = registers(case, state);
        let mut bus = Bus::new(
            &mut self.board,
            self.ram.marks(),
            &self.signals,
            &mut self.code,
        );
        self.cpu.set_state(state, &mut bus);
    }

    fn step(&mut self, instructions: u64) -> Stop {
        let mut bus = Bus::new(
            &mut self.board,
            self.ram.marks(),
            &self.signals,
            &mut self.code,
        );
        self.cpu.run(&mut bus, instructions)
    }

    fn raw(&mut self) -> Raw {
        let mut bus = Bus::new(
            &mut self.board,
            self.ram.marks(),
            &self.signals,
            &mut self.code,
        );
        let state = &mut self.state;
        self.cpu.state(state, &mut bus);
        Raw {
            gpr: state.gpr,
            rip: state.rip,
            rflags: state.rflags,
            selectors: [
                state.es.selector,
                state.cs.selector,
                state.ss.selector,
                state.ds.selector,
                state.fs.selector,
                state.gs.selector,
            ],
            bases: [state.fs.base, state.gs.base],
            cr2: state.cr2,
        }
    }
}

/// CPUID with the features of the processor below, which all oracles have. The software CPU heeds those of
/// instructions that it knows.
fn leaves() -> Vec<CpuidEntry> {
    let mut leaves: Vec<CpuidEntry> = Vec::new();
    for info in &WORD_INFO {
        let host = __cpuid_count(info.leaf, info.subleaf);
        let word = match info.register {
            Register::Eax => host.eax,
            Register::Ebx => host.ebx,
            Register::Ecx => host.ecx,
            Register::Edx => host.edx,
        };
        let is_this = |leaf: &CpuidEntry| (leaf.leaf, leaf.subleaf) == (info.leaf, info.subleaf);
        let place = leaves.iter().position(is_this).unwrap_or_else(|| {
            leaves.push(CpuidEntry {
                leaf: info.leaf,
                subleaf: info.subleaf,
                has_subleaf: matches!(info.leaf, 7 | 0xd),
                ..Default::default()
            });
            leaves.len() - 1
        });
        let leaf = &mut leaves[place];
        *match info.register {
            Register::Eax => &mut leaf.eax,
            Register::Ebx => &mut leaf.ebx,
            Register::Ecx => &mut leaf.ecx,
            Register::Edx => &mut leaf.edx,
        } = word;
    }
    // Linear and physical bits of an address.
    if let Some(leaf) = leaves.iter_mut().find(|leaf| leaf.leaf == 0x8000_0008) {
        leaf.eax = 48 << 8 | 40;
    }
    leaves
}

impl Subject for Soft {
    fn name(&self) -> &'static str {
        self.name
    }

    fn set_base(&mut self, base: &[u8]) {
        self.images.set_base(base);
    }

    fn run(&mut self, case: &Case) -> Outcome {
        self.load(case);
        let stop = self.step(INSTRUCTIONS_MAX);
        let raw = self.raw();
        let mut outcome = match stop {
            Stop::Idle => raw.halted(case.world, self.board.bytes()),
            Stop::Shutdown => raw.ended(End::Shutdown),
            Stop::Budget | Stop::Leave | Stop::Debug => raw.ended(End::Timeout),
        };
        if case.vectors.is_some() {
            outcome.vectors = Some(Box::new(self.state.fpu));
        }
        outcome
    }

    fn window(&self) -> &[u8] {
        &self.board.bytes()[WINDOW as usize..][..WINDOW_BYTES]
    }
}

/// The state before a case.
fn registers(case: &Case, template: &CpuState) -> CpuState {
    let world = case.world;
    let system = if world.long() { layout::SYSTEM } else { 0 };
    let table = |base: u64, limit| DescriptorTable {
        base: system + base,
        limit,
    };
    let control = control(world);
    let mut state = CpuState {
        gpr: case.gpr,
        rip: case.rip,
        rflags: case.rflags,
        es: case.segment(ES),
        cs: case.segment(CS),
        ss: case.segment(SS),
        ds: case.segment(DS),
        fs: case.segment(FS),
        gs: case.segment(GS),
        ldtr: layout::segment(layout::LOCAL),
        tr: layout::segment(layout::TASK),
        gdtr: table(layout::GDT, layout::GDT_LIMIT),
        idtr: match world {
            World::Real16 => table(0, 0x3ff),
            World::Kernel32 => table(layout::IDT_32, 0x7ff),
            _ => table(layout::IDT, 0xfff),
        },
        cr0: control.cr0,
        cr2: 0,
        cr3: control.cr3,
        cr4: control.cr4,
        efer: control.efer,
        activity: Default::default(),
        events: Default::default(),
        ..template.clone()
    };
    state.fpu = case.vectors.as_deref().copied().unwrap_or_default();
    state.ldtr.base += system;
    state.tr.base += system;
    state
}
