//! This process as an oracle: ring 3 in all three sizes of code, natively, without a hypervisor between.
//!
//! A guest's compatibility mode may be emulated by the kernel, and interrupts by number be kept from it; a Linux
//! process has both. The window is mapped at its own address, segments come from modify_ldt, a case is entered by
//! IRETQ, and the signal of its exception tells the registers, the vector and the error code. Code of 16 and 32 bits
//! can't reach this program, which lies above 4 GiB; 64-bit code could by accident.
//!
//! What the kernel changes in what it tells: a page fault at its own addresses is always one of a present page.

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::{fs, io, mem, ptr};

use crate::alarm;
use thimble_core::cpu::FpuState;

use crate::case::{CS, Case, DS, ES, End, FS, GS, Outcome, SS, Subject};
use crate::layout::{DATA, LOCALS, Local, MAPPED, READ_ONLY, WINDOW, WINDOW_BYTES};

/// Where the frame lies that a case is entered by. IRETQ to a 16-bit stack leaves the upper half of ESP as it was, so
/// these bits are known.
pub(crate) const FRAME_PAGE: usize = 0x7ace_0000;
/// Bits 31..16 of ESP in cases with a 16-bit stack.
pub(crate) const STACK_HIGH: u64 = FRAME_PAGE as u64;
/// The frame in its page.
const FRAME: usize = FRAME_PAGE + 0x800;
/// Bytes of the stack of signals: there must be room for the vector registers.
const SIGNAL_STACK: usize = 0x1_0000;

/// What [`thimble_lockstep_enter`] takes: selectors and bases, then what it pops.
#[repr(C)]
struct Frame {
    ds: u64,
    es: u64,
    fs: u64,
    gs: u64,
    bases: [u64; 2],
    /// Whether bases are loaded: not in compatibility mode, where selectors tell.
    load_bases: u64,
    r15_to_r8: [u64; 8],
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// What is kept while a case runs, and what the signal told.
#[repr(C)]
struct Kept {
    rsp: u64,
    fs_base: u64,
    running: u64,
    signal: u64,
    ds: u64,
    es: u64,
    fs: u64,
    gs: u64,
    bases: [u64; 2],
    registers: [i64; 23],
    image: [u8; IMAGE],
}

/// Bytes that FXSAVE stores.
const IMAGE: usize = 512;
/// Where in memory FXRSTOR finds them.
const IMAGE_BEFORE: usize = FRAME - 0x400;

#[repr(transparent)]
struct Shared(UnsafeCell<Kept>);

// SAFETY: this program has one thread.
unsafe impl Sync for Shared {}

#[unsafe(no_mangle)]
static THIMBLE_LOCKSTEP_KEPT: Shared = Shared(UnsafeCell::new(Kept {
    rsp: 0,
    fs_base: 0,
    running: 0,
    signal: 0,
    ds: 0,
    es: 0,
    fs: 0,
    gs: 0,
    bases: [0; 2],
    registers: [0; 23],
    image: [0; IMAGE],
}));

unsafe extern "C" {
    /// Runs what a frame says, until a signal.
    fn thimble_lockstep_enter(frame: *mut Frame);
    /// The handler of all signals.
    fn thimble_lockstep_signal(signal: libc::c_int, info: *mut c_void, context: *mut c_void);
}

global_asm!(
    ".globl thimble_lockstep_enter",
    "thimble_lockstep_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "lea rdx, [rip + THIMBLE_LOCKSTEP_KEPT]",
    "mov [rdx], rsp",
    "rdfsbase rax",
    "mov [rdx + 8], rax",
    "mov qword ptr [rdx + 16], 1",
    "mov ds, word ptr [rdi]",
    "mov es, word ptr [rdi + 8]",
    "mov fs, word ptr [rdi + 16]",
    "mov gs, word ptr [rdi + 24]",
    "cmp qword ptr [rdi + 48], 0",
    "je 2f",
    "mov rax, [rdi + 32]",
    "wrfsbase rax",
    "mov rax, [rdi + 40]",
    "wrgsbase rax",
    "2:",
    "fxrstor64 [rdi - 0x400]",
    "lea rsp, [rdi + 56]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rbx",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "iretq",
    ".globl thimble_lockstep_signal",
    "thimble_lockstep_signal:",
    // AC and NT are still the case's.
    "push 0x202",
    "popfq",
    "lea rcx, [rip + THIMBLE_LOCKSTEP_KEPT]",
    "cmp qword ptr [rcx + 16], 0",
    "je 4f",
    "mov [rcx + 24], rdi",
    "xor eax, eax",
    "mov ax, ds",
    "mov [rcx + 32], rax",
    "mov ax, es",
    "mov [rcx + 40], rax",
    "mov ax, fs",
    "mov [rcx + 48], rax",
    "mov ax, gs",
    "mov [rcx + 56], rax",
    "rdfsbase rax",
    "mov [rcx + 64], rax",
    "rdgsbase rax",
    "mov [rcx + 72], rax",
    "xor eax, eax",
    "mov ds, ax",
    "mov es, ax",
    "mov fs, ax",
    "mov gs, ax",
    "mov rax, [rcx + 8]",
    "wrfsbase rax",
    "mov qword ptr [rcx + 16], 0",
    // uc_mcontext.gregs.
    "lea rsi, [rdx + 40]",
    "lea rdi, [rcx + 80]",
    "mov rsp, [rcx]",
    "mov ecx, 23",
    "rep movsq",
    // uc_mcontext.fpregs: what FXSAVE stores.
    "mov rsi, [rdx + 224]",
    "mov ecx, 64",
    "rep movsq",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // The alarm while no case runs; anything else is a bug, and is fatal when it happens again.
    "4:",
    "cmp edi, 14",
    "je 5f",
    "ud2",
    "5:",
    "ret",
);

const _: () = {
    assert!(mem::offset_of!(Frame, r15_to_r8) == 56);
    assert!(mem::offset_of!(Kept, registers) == 80);
    assert!(mem::offset_of!(Kept, image) == 80 + 23 * 8);
    assert!(
        mem::offset_of!(libc::ucontext_t, uc_mcontext) + mem::offset_of!(libc::mcontext_t, fpregs)
            == 224
    );
    assert!(mem::offset_of!(libc::ucontext_t, uc_mcontext) == 40);
    assert!(libc::SIGALRM == 14);
};

/// Signals of exceptions.
const SIGNALS: [libc::c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGALRM,
];

/// The process, made ready.
pub(crate) struct Process {
    /// The window, writable everywhere.
    alias: *mut u8,
    base: Vec<u8>,
}

fn failed(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

fn map(
    at: usize,
    bytes: usize,
    protection: libc::c_int,
    file: libc::c_int,
    offset: usize,
) -> Result<*mut u8, String> {
    let (mut flags, mut place) = (
        libc::MAP_SHARED | libc::MAP_POPULATE,
        "anywhere".to_string(),
    );
    if at != 0 {
        flags |= libc::MAP_FIXED_NOREPLACE;
        place = format!("at {at:#x}");
    }
    if file < 0 {
        flags |= libc::MAP_ANONYMOUS;
    }
    // SAFETY: nothing that exists is replaced.
    let address = unsafe {
        libc::mmap(
            at as *mut c_void,
            bytes,
            protection,
            flags,
            file,
            offset as libc::off_t,
        )
    };
    match address {
        libc::MAP_FAILED => Err(failed(&format!("mmap {place}"))),
        address => Ok(address.cast()),
    }
}

/// Linux's `struct user_desc`.
#[repr(C)]
struct UserDescriptor {
    number: u32,
    base: u32,
    limit: u32,
    flags: u32,
}

fn set_local(number: u32, local: &Local) -> Result<(), String> {
    let descriptor = UserDescriptor {
        number,
        base: local.base,
        limit: local.limit,
        flags: u32::from(local.bits_32)
            | local.contents << 1
            | u32::from(local.restricted) << 3
            | u32::from(local.pages) << 4
            | u32::from(local.absent) << 5,
    };
    // SAFETY: the structure is whole; segments are used by cases only.
    let status = unsafe {
        libc::syscall(
            libc::SYS_modify_ldt,
            0x11,
            &raw const descriptor,
            size_of::<UserDescriptor>(),
        )
    };
    match status as i32 {
        0 => Ok(()),
        // The system call returns 32 bits.
        error => Err(format!(
            "modify_ldt: {}",
            io::Error::from_raw_os_error(error.wrapping_neg())
        )),
    }
}

impl Process {
    pub(crate) fn new() -> Result<Self, String> {
        let maps = fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
        let low = maps.lines().find(|line| {
            let start = line.split('-').next().unwrap_or_default();
            u64::from_str_radix(start, 16).is_ok_and(|start| start < 1 << 32)
        });
        if let Some(line) = low {
            return Err(format!("32-bit code could reach this program: {line}"));
        }
        // SAFETY: the name is a string of C.
        let file = unsafe { libc::memfd_create(c"window".as_ptr(), 0) };
        // SAFETY: plain system calls on the new file.
        if file < 0 || unsafe { libc::ftruncate(file, WINDOW_BYTES as libc::off_t) } != 0 {
            return Err(failed("memfd_create"));
        }
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let alias = map(0, WINDOW_BYTES, write, file, 0)?;
        for (start, end) in MAPPED {
            let mut at = start;
            while at < end {
                let protection = match at {
                    READ_ONLY => libc::PROT_READ,
                    at if at < DATA => write | libc::PROT_EXEC,
                    _ => write,
                };
                map(
                    (WINDOW + at) as usize,
                    0x1000,
                    protection,
                    file,
                    at as usize,
                )?;
                at += 0x1000;
            }
        }
        map(FRAME_PAGE, 0x1000, write, -1, 0)?;
        for (number, local) in (0..).zip(&LOCALS) {
            set_local(number, local)?;
        }
        let stack = libc::stack_t {
            ss_sp: map(0, SIGNAL_STACK, write, -1, 0)?.cast(),
            ss_flags: 0,
            ss_size: SIGNAL_STACK,
        };
        // SAFETY: the new mapping is nobody else's.
        if unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } != 0 {
            return Err(failed("sigaltstack"));
        }
        for signal in SIGNALS {
            // SAFETY: `sigaction` is plain data for which zero is valid.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = thimble_lockstep_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            // SAFETY: the handler stands any signal at any time: see there.
            if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
                return Err(failed("sigaction"));
            }
        }
        Ok(Self {
            alias,
            base: vec![0; WINDOW_BYTES],
        })
    }

    fn alias(&mut self) -> &mut [u8] {
        // SAFETY: mapped for good, and cases run under `&mut self` only.
        unsafe { std::slice::from_raw_parts_mut(self.alias, WINDOW_BYTES) }
    }

    fn load(&mut self, case: &Case) {
        // SAFETY: as in `alias`; borrowed apart from `base`.
        let window = unsafe { std::slice::from_raw_parts_mut(self.alias, WINDOW_BYTES) };
        for (start, end) in MAPPED {
            let part = start as usize..end as usize;
            window[part.clone()].copy_from_slice(&self.base[part]);
        }
        case.apply(window);
        let g = &case.gpr;
        let selector = |number: usize| u64::from(case.selectors[number]);
        let frame = Frame {
            ds: selector(DS),
            es: selector(ES),
            fs: selector(FS),
            gs: selector(GS),
            bases: case.bases,
            load_bases: (case.world.code_size() == thimble_core::cpu::decode::CodeSize::Bits64)
                .into(),
            r15_to_r8: [g[15], g[14], g[13], g[12], g[11], g[10], g[9], g[8]],
            rdi: g[7],
            rsi: g[6],
            rbp: g[5],
            rbx: g[3],
            rdx: g[2],
            rcx: g[1],
            rax: g[0],
            rip: case.rip,
            cs: selector(CS),
            rflags: case.rflags,
            rsp: g[4],
            ss: selector(SS),
        };
        let image = case.vectors.as_deref().map_or(DEFAULT_IMAGE, image);
        // SAFETY: the page is mapped, and only this and the entry use it.
        unsafe {
            (FRAME as *mut Frame).write(frame);
            (IMAGE_BEFORE as *mut [u8; IMAGE]).write(image);
        }
    }
}

/// What FXRSTOR takes for vectors (SDM volume 1, table 10-2).
fn image(vectors: &FpuState) -> [u8; IMAGE] {
    let mut image = DEFAULT_IMAGE;
    image[..2].copy_from_slice(&vectors.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&vectors.fsw.to_le_bytes());
    image[4] = vectors.ftw;
    image[6..8].copy_from_slice(&vectors.fop.to_le_bytes());
    image[8..16].copy_from_slice(&vectors.fip.to_le_bytes());
    image[16..24].copy_from_slice(&vectors.fdp.to_le_bytes());
    image[24..28].copy_from_slice(&vectors.mxcsr.to_le_bytes());
    for (place, register) in image[32..160].chunks_exact_mut(16).zip(&vectors.st) {
        place[..10].copy_from_slice(register);
    }
    for (place, register) in image[160..416].chunks_exact_mut(16).zip(&vectors.xmm) {
        place.copy_from_slice(&register.to_le_bytes());
    }
    image
}

/// That of [`FpuState::default`].
const DEFAULT_IMAGE: [u8; IMAGE] = {
    let mut image = [0; IMAGE];
    [image[0], image[1]] = 0x37fu16.to_le_bytes();
    [image[24], image[25]] = 0x1f80u16.to_le_bytes();
    image
};

/// The same the other way.
fn vectors(image: &[u8; IMAGE]) -> FpuState {
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let quad = |at: usize| {
        (0..4)
            .rev()
            .fold(0, |all, part| all << 16 | u64::from(word(at + 2 * part)))
    };
    let mut vectors = FpuState {
        fcw: word(0),
        fsw: word(2),
        ftw: image[4],
        fop: word(6),
        fip: quad(8),
        fdp: quad(16),
        mxcsr: u32::from(word(26)) << 16 | u32::from(word(24)),
        ..FpuState::default()
    };
    for (place, register) in image[32..160].chunks_exact(16).zip(&mut vectors.st) {
        register.copy_from_slice(&place[..10]);
    }
    for (place, register) in image[160..416].chunks_exact(16).zip(&mut vectors.xmm) {
        *register = place
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u128::from(*byte));
    }
    vectors
}

fn outcome() -> (u64, Outcome) {
    // SAFETY: no case runs: the handler has written this, and doesn't any more.
    let kept = unsafe { &*THIMBLE_LOCKSTEP_KEPT.0.get() };
    let r = kept.registers.map(|register| register as u64);
    let vector = r[20] as u8;
    let error = matches!(vector, 8 | 10..=14 | 17 | 21).then_some(r[19] as u32);
    let segments = r[18];
    let outcome = Outcome {
        end: End::Exception { vector, error },
        gpr: [
            r[13], r[14], r[12], r[11], r[15], r[10], r[9], r[8], r[0], r[1], r[2], r[3], r[4],
            r[5], r[6], r[7],
        ],
        rip: r[16],
        rflags: r[17],
        selectors: [
            kept.es as u16,
            segments as u16,
            (segments >> 48) as u16,
            kept.ds as u16,
            kept.fs as u16,
            kept.gs as u16,
        ],
        bases: kept.bases,
        cr2: if vector == 14 { r[22] } else { 0 },
        vectors: Some(Box::new(vectors(&kept.image))),
    };
    (kept.signal, outcome)
}

impl Subject for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn set_base(&mut self, base: &[u8]) {
        // A guest that ran on this thread may have left its own table in the processor; this loads the process's. The
        // same call has succeeded before.
        let _ = set_local(0, &LOCALS[0]);
        self.base.copy_from_slice(base);
        self.alias().copy_from_slice(base);
    }

    fn run(&mut self, case: &Case) -> Outcome {
        for _ in 0..alarm::ATTEMPTS {
            self.load(case);
            // SAFETY: the frame is whole; whatever the case does to its window, the handler brings this thread back.
            unsafe { thimble_lockstep_enter(FRAME as *mut Frame) };
            let (signal, outcome) = outcome();
            if signal != libc::SIGALRM as u64 {
                return outcome;
            }
        }
        let (_, mut outcome) = outcome();
        outcome.end = End::Timeout;
        outcome
    }

    fn window(&self) -> &[u8] {
        // SAFETY: as in `alias`.
        unsafe { std::slice::from_raw_parts(self.alias, WINDOW_BYTES) }
    }
}
