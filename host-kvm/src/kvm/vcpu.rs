//! The processors: a thread each, which runs guest code and hands exits to a handler.
//!
//! The way of one exit takes no lock and allocates nothing here: the thread owns its vCPU while
//! it is not parked, and looks at requests only when `KVM_RUN` comes back interrupted. A request
//! sets `immediate_exit` in the vCPU's shared page and sends a signal. Whichever comes first, the
//! thread's next or current `KVM_RUN` first completes the port or memory access that is under
//! way and then returns EINTR: no request is lost, and a parked vCPU's state is whole.
//!
//! One processor alone is taken out in the same way for a question ([`Vcpus::glance`] and others):
//! its thread parks while another one uses its vCPU.
//!
//! **Locks.** A handler may wait for the machine's lock. So whoever holds that lock must not
//! wait for processors: [`Vcpus::request_pause`] never waits and may be called under any lock and
//! from a handler; [`Vcpus::wait_paused`], [`Vcpus::pause`], [`Vcpus::shutdown`] and questions to
//! one processor wait, and must be called without the machine's lock and never from a handler. A
//! handler that has been told of a pause by its own machine still finishes its access.
//!
//! What is different where the machine models the local APICs (`kernel-irqchip=off`) is in
//! [`super::outside`]. A processor that is idle there waits here, parked, for attention.
//!
//! What a debugger wants is in [`super::debug`].

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;
use std::{fmt, io, mem, ptr, slice, thread};

use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO,
    KVM_EXIT_SET_TPR, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_X86_RDMSR,
    KVM_EXIT_X86_WRMSR, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
    kvm_interrupt, kvm_run,
};
use kvm_ioctls::VcpuFd;
use thimble_core::cpu::debugger::Hit;
use thimble_core::cpu::{CpuState, LocalApicState};
use thimble_core::irq::lapic::{CpuEvent, X2APIC_MSRS};
use thimble_core::state::StateError;

use super::cpuid::for_cpu;
use super::debug::GuestDebug;
use super::dump::dump;
use super::error::KvmError;
use super::outside::{self, Outside};
use super::state;
use super::vm::{Irqchip, Vm};
use crate::cpuid::CpuidTable;
use crate::signals::Blocked;
use thimble_core::trace::events;

/// `_IO(KVMIO, 0x80)`.
pub(super) const KVM_RUN: libc::Ioctl = 0xae80;

/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`.
const KVM_INTERRUPT: libc::Ioctl = 0x4004_ae86;

/// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`.
const KVM_SET_SIGNAL_MASK: libc::Ioctl = 0x4004_ae8b;

/// What takes a thread out of the guest. Its handler does nothing.
const KICK: libc::c_int = libc::SIGUSR1;

const NO_SUCH_CPU: KvmError = KvmError::Unsupported("a processor of this number");

/// What exits are handed to. Called on the vCPU's thread.
pub trait ExitHandler: Send + Sync {
    /// Reads from a port: fills `data`, which is one element of `width` bytes (1, 2 or 4), or
    /// several for string instructions, all from the same port.
    fn pio_in(&self, cpu: u32, port: u16, width: u8, data: &mut [u8]);

    /// Writes to a port; `data` as for reads.
    fn pio_out(&self, cpu: u32, port: u16, width: u8, data: &[u8]);

    /// Reads 1 to 8 bytes from where the map has nothing readable; see [`Vm::apply_map`] for
    /// when it may have after all.
    fn mmio_read(&self, cpu: u32, gpa: u64, data: &mut [u8]);

    /// Writes 1 to 8 bytes to where the map has no writable RAM slot.
    fn mmio_write(&self, cpu: u32, gpa: u64, data: &[u8]);

    /// The processor takes an interrupt: with [`Irqchip::Split`] that of INTR while it is high
    /// ([`Vm::set_intr`]), with [`Irqchip::Off`] that of its local APIC. Its vector; `None` if it
    /// has gone meanwhile.
    fn acknowledge(&self, cpu: u32) -> Option<u8> {
        let _ = cpu;
        None
    }

    /// The processor has ended a level-triggered interrupt of the machine's own I/O APIC.
    fn end_of_interrupt(&self, cpu: u32, vector: u8) {
        let _ = (cpu, vector);
    }

    /// Takes what the processor has to do other than take an interrupt, with [`Irqchip::Off`].
    fn take_event(&self, cpu: u32) -> Option<CpuEvent> {
        let _ = cpu;
        None
    }

    /// Whether [`ExitHandler::acknowledge`] has an interrupt, with [`Irqchip::Off`].
    fn interrupt_waits(&self, cpu: u32) -> bool {
        let _ = cpu;
        false
    }

    /// The processor's CR8, with [`Irqchip::Off`].
    fn task_priority(&self, cpu: u32) -> u8 {
        let _ = cpu;
        0
    }

    /// The processor has written CR8, with [`Irqchip::Off`].
    fn set_task_priority(&self, cpu: u32, class: u8) {
        let _ = (cpu, class);
    }

    /// The processor has written IA32_APIC_BASE, with [`Irqchip::Off`]. The kernel has checked it.
    fn set_apic_base(&self, cpu: u32, base: u64) {
        let _ = (cpu, base);
    }

    /// The processor reads a register of [`X2APIC_MSRS`], with [`Irqchip::Off`]. `None` raises #GP.
    fn msr_read(&self, cpu: u32, index: u32) -> Option<u64> {
        let _ = (cpu, index);
        None
    }

    /// The processor writes a register of [`X2APIC_MSRS`], with [`Irqchip::Off`]. False raises #GP.
    fn msr_write(&self, cpu: u32, index: u32, value: u64) -> bool {
        let _ = (cpu, index, value);
        false
    }

    /// The registers of the processor's local APIC, with [`Irqchip::Off`].
    fn apic_state(&self, cpu: u32) -> Option<LocalApicState> {
        let _ = cpu;
        None
    }

    /// Sets them and IA32_APIC_BASE, with [`Irqchip::Off`].
    ///
    /// # Errors
    /// If the local APIC can't have them.
    fn set_apic_state(
        &self,
        cpu: u32,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        let _ = (cpu, state, base);
        Ok(())
    }

    /// Pulses the platform's NMI, with [`Irqchip::Off`]; tells how many processors took it.
    fn pulse_nmi(&self) -> u32 {
        0
    }

    /// The processor halted, and without in-kernel interrupt controllers nothing but a reset
    /// wakes it.
    fn halted(&self, cpu: u32) {
        let _ = cpu;
    }

    /// The processor can not go on. Its thread parks after this call, and stays so through
    /// [`Vcpus::resume`] until [`Vcpus::reset`] or [`Vcpus::set_state`].
    fn stopped(&self, cpu: u32, stop: VcpuStop);

    /// The processor has stopped as a debugger wishes.
    fn debugged(&self, cpu: u32, hit: Hit) {
        let _ = (cpu, hit);
    }
}

/// What a guest asked for through KVM's system events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// Power off.
    Shutdown,
    /// Reset.
    Reset,
    /// It crashed.
    Crash,
    /// Anything else, by KVM's number.
    Other(u32),
}

/// Why a processor can not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuStop {
    /// An exception met another while a double fault was delivered: hardware resets the machine.
    TripleFault,
    /// The guest asks for a reset, shutdown or tells of its crash.
    SystemEvent(SystemEvent),
    /// The kernel can not run the guest's code.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`: 1 is an instruction that the kernel can not emulate.
        suberror: u32,
        /// The registers, as text of several lines.
        dump: String,
    },
    /// The hardware refused to enter the guest.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The registers, as text of several lines.
        dump: String,
    },
    /// An exit that nothing was done to cause.
    UnexpectedExit {
        /// `KVM_EXIT_*`.
        reason: u32,
        /// The registers, as text of several lines.
        dump: String,
    },
    /// `KVM_RUN` itself failed.
    RunFailed {
        /// The errno.
        errno: i32,
        /// The registers, as text of several lines.
        dump: String,
    },
}

impl fmt::Display for VcpuStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault"),
            Self::SystemEvent(event) => write!(f, "system event {event:?}"),
            Self::InternalError { suberror, dump } => {
                write!(f, "KVM internal error. Suberror: {suberror}\n{dump}")
            }
            Self::FailEntry { reason, dump } => {
                write!(f, "KVM: entry failed, hardware error {reason:#x}\n{dump}")
            }
            Self::UnexpectedExit { reason, dump } => {
                write!(f, "KVM: unexpected exit {reason}\n{dump}")
            }
            Self::RunFailed { errno, dump } => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "KVM: running the processor failed: {error}\n{dump}")
            }
        }
    }
}

/// A vCPU and the page it shares with the kernel. Locked by its thread while it is not parked.
pub(super) struct Vcpu {
    pub(super) fd: VcpuFd,
    pub(super) run: NonNull<kvm_run>,
    /// What the kernel does not know of it.
    pub(super) outside: Outside,
    /// What a debugger wants of it.
    pub(super) debug: GuestDebug,
}

impl Vcpu {
    /// The byte by which others tell it to leave the guest.
    pub(super) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte is in the vCPU's shared page, and only reached atomically.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.run.as_ptr()).immediate_exit) }
    }
}

// SAFETY: `run` points into the mapping that `fd` owns and keeps; only the lock's holder uses it.
unsafe impl Send for Vcpu {}

/// The byte by which other threads tell a vCPU to leave the guest.
struct ImmediateExit(NonNull<AtomicU8>);

// SAFETY: the byte is only reached atomically, and lies in the mapping of a vCPU that is stored
// beside it.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn set(&self, value: u8) {
        // SAFETY: see the type's.
        unsafe { self.0.as_ref() }.store(value, Ordering::Release);
    }
}

struct Cpu {
    immediate_exit: ImmediateExit,
    /// Its local APIC outside of the kernel has something new.
    attention: AtomicBool,
    vcpu: Mutex<Vcpu>,
}

impl Cpu {
    /// Takes the thread out of the guest, if it is there. `thread` is from under the lock.
    fn kick(&self, thread: &ThreadControl) {
        if thread.parked {
            return;
        }
        self.immediate_exit.set(1);
        if let Some(id) = thread.id {
            // SAFETY: a thread takes its id out under the lock before it ends.
            unsafe { libc::pthread_kill(id, KICK) };
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    Exit,
}

/// What is known of one thread.
struct ThreadControl {
    /// For the kick; `None` before the thread has started and after it has ended.
    id: Option<libc::pthread_t>,
    /// The kernel's number of it; `None` before it has started.
    tid: Option<rustix::thread::Pid>,
    /// Out of the guest, out of handlers, and its vCPU is unlocked.
    parked: bool,
    /// Can not go on before a reset.
    stopped: bool,
    /// Stopped by a HLT that nothing ends.
    halted: bool,
    /// Has nothing to do before it gets attention.
    idle: bool,
    /// It parks, whatever is wanted of all, while someone uses its vCPU.
    visited: bool,
    /// A debugger holds it back.
    held: bool,
}

struct Control {
    wanted: Wanted,
    threads: Vec<ThreadControl>,
}

struct Shared {
    vm: Arc<Vm>,
    cpus: Vec<Cpu>,
    control: Mutex<Control>,
    /// `wanted` has changed.
    changed: Condvar,
    /// A thread has parked.
    parked: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// All processors of a machine. Made paused, in power-on state.
pub struct Vcpus {
    shared: Arc<Shared>,
    joins: Vec<JoinHandle<()>>,
    signature: u32,
    apic_ids: Vec<u8>,
    handler: Arc<dyn ExitHandler>,
}

impl Vcpus {
    /// Makes `count` processors and their threads.
    pub fn new<H: ExitHandler + 'static>(
        vm: Arc<Vm>,
        count: u32,
        cpuid: &CpuidTable,
        handler: Arc<H>,
    ) -> Result<Self, KvmError> {
        let most = match vm.irqchip() {
            Irqchip::On | Irqchip::Split | Irqchip::Off => vm.kvm().get_max_vcpus() as u32,
            // Nothing could start the others.
            Irqchip::None => 1,
        };
        if count == 0 || count > most {
            return Err(KvmError::TooManyCpus { asked: count, most });
        }
        // FFh is the broadcast.
        let apic_ids: Vec<u32> = (0..count).map(|index| cpuid.apic_id(index)).collect();
        if apic_ids.iter().any(|id| *id >= 0xff) {
            return Err(KvmError::TooManyCpus {
                asked: count,
                most: apic_ids.iter().take_while(|id| **id < 0xff).count() as u32,
            });
        }
        install_kick_handler()?;
        let mut cpus = Vec::with_capacity(count as usize);
        for index in 0..count {
            let mut fd = vm
                .fd()
                .create_vcpu(cpuid.apic_id(index).into())
                .map_err(KvmError::call("creating a processor"))?;
            events::kvm_init_vcpu(index, cpuid.apic_id(index));
            events::guest_cpu_enter(index);
            fd.set_cpuid2(&for_cpu(cpuid, index)?)
                .map_err(KvmError::call("setting CPUID"))?;
            let run = NonNull::from(fd.get_kvm_run());
            // SAFETY: the pointer stays inside the shared page.
            let byte = unsafe { &raw mut (*run.as_ptr()).immediate_exit };
            let Some(byte) = NonNull::new(byte.cast::<AtomicU8>()) else {
                return Err(KvmError::Lacks("immediate_exit"));
            };
            cpus.push(Cpu {
                immediate_exit: ImmediateExit(byte),
                attention: AtomicBool::new(false),
                vcpu: Mutex::new(Vcpu {
                    fd,
                    run,
                    outside: Outside::new(index == 0, cpuid.signature()),
                    debug: GuestDebug::default(),
                }),
            });
        }
        if let (true, [_, .., last]) = (vm.irqchip().has_apics(), cpus.as_slice()) {
            // The kernel made its map of local APICs while the last processor was not on its list
            // yet: without this, interrupts by number do not reach that one.
            let fd = &lock(&last.vcpu).fd;
            fd.get_lapic()
                .and_then(|lapic| fd.set_lapic(&lapic))
                .map_err(KvmError::call("setting the local APIC"))?;
        }
        let threads = (0..count).map(|_| ThreadControl {
            id: None,
            tid: None,
            parked: true,
            stopped: false,
            halted: false,
            idle: false,
            visited: false,
            held: false,
        });
        let shared = Arc::new(Shared {
            vm,
            cpus,
            control: Mutex::new(Control {
                wanted: Wanted::Pause,
                threads: threads.collect(),
            }),
            changed: Condvar::new(),
            parked: Condvar::new(),
        });
        shared.vm.set_kicker(Pauser(Arc::downgrade(&shared)));
        let mut vcpus = Self {
            shared,
            joins: Vec::with_capacity(count as usize),
            signature: cpuid.signature(),
            apic_ids: apic_ids.into_iter().map(|id| id as u8).collect(),
            handler: Arc::clone(&handler) as Arc<dyn ExitHandler>,
        };
        if vcpus.irqchip() == Irqchip::Off {
            // What the kernel thinks of IA32_APIC_BASE depends on its version.
            vcpus.reset()?;
        }
        let _mask = Blocked::all_but(&[KICK]);
        for index in 0..count {
            let shared = Arc::clone(&vcpus.shared);
            let handler = Arc::clone(&handler);
            let join = thread::Builder::new()
                .name(format!("CPU {index}/KVM"))
                .stack_size(256 << 10)
                .spawn(move || run_thread(&shared, index, &*handler))
                .map_err(|error| KvmError::Call {
                    what: "starting a processor's thread",
                    error,
                })?;
            vcpus.joins.push(join);
        }
        Ok(vcpus)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.shared.cpus.len() as u32
    }

    /// Lets all processors run that can.
    pub fn resume(&self) {
        lock(&self.shared.control).wanted = Wanted::Run;
        self.shared.changed.notify_all();
    }

    /// Asks all processors to leave the guest and park. Does not wait: may be called under the
    /// machine's lock and from handlers.
    pub fn request_pause(&self) {
        self.shared.request(Wanted::Pause);
    }

    /// A handle by which handlers ask for a pause.
    pub fn pauser(&self) -> Pauser {
        Pauser(Arc::downgrade(&self.shared))
    }

    /// Waits until all processors are parked after [`Vcpus::request_pause`], or until someone
    /// resumes them. Not under a lock that a handler takes, and not from a handler.
    pub fn wait_paused(&self) {
        let mut control = lock(&self.shared.control);
        while control.wanted == Wanted::Pause && !control.threads.iter().all(|t| t.parked) {
            control = wait(&self.shared.parked, control);
        }
    }

    /// Both: on return no processor runs guest code or a handler, and all state is whole. Not
    /// under a lock that a handler takes, and not from a handler.
    pub fn pause(&self) {
        self.request_pause();
        self.wait_paused();
    }

    /// Whether all processors are parked.
    pub fn is_paused(&self) -> bool {
        let control = lock(&self.shared.control);
        control.wanted == Wanted::Pause && control.threads.iter().all(|t| t.parked)
    }

    /// Puts all processors into their power-on state: the first at the reset vector, the others
    /// waiting to be started. They must be paused. The in-kernel controllers are reset by
    /// [`Vm::reset_irqchip`].
    pub fn reset(&self) -> Result<(), KvmError> {
        for (index, apic_id) in (0..).zip(&self.apic_ids) {
            let state = CpuState::power_on(*apic_id, index == 0, self.signature);
            self.set_state(index, &state)?;
        }
        Ok(())
    }

    /// Who models interrupt controllers.
    pub(super) fn irqchip(&self) -> Irqchip {
        self.shared.vm.irqchip()
    }

    /// The kernel's interface.
    pub(super) fn kvm(&self) -> &kvm_ioctls::Kvm {
        self.shared.vm.kvm()
    }

    /// What exits are handed to.
    pub(super) fn handler(&self) -> &dyn ExitHandler {
        &*self.handler
    }

    /// The whole state of a processor. All must be paused. Not under a lock that a handler takes.
    pub fn state(&self, index: u32) -> Result<CpuState, KvmError> {
        let mut vcpu = self.parked(index)?;
        match self.irqchip() {
            Irqchip::Off => outside::get(&self.shared.vm, &mut vcpu, index, self.handler()),
            _ => state::get(&self.shared.vm, &vcpu.fd),
        }
    }

    /// Sets the whole state of a processor, which can go on from it even if it had stopped. All
    /// must be paused. Not under a lock that a handler takes.
    pub fn set_state(&self, index: u32, state: &CpuState) -> Result<(), KvmError> {
        let mut vcpu = self.parked(index)?;
        match self.irqchip() {
            Irqchip::Off => {
                outside::set(&self.shared.vm, &mut vcpu, index, state, self.handler())?;
            }
            _ => state::set(&self.shared.vm, &vcpu.fd, state)?,
        }
        // SAFETY: as in `run_guest`: the lock's holder is the only one to use the shared page.
        unsafe { vcpu.run.as_mut() }.ready_for_interrupt_injection = 0;
        drop(vcpu);
        if let Some(thread) = lock(&self.shared.control).threads.get_mut(index as usize) {
            thread.stopped = false;
            thread.halted = false;
            thread.idle = false;
        }
        Ok(())
    }

    /// Holds a processor back, or no longer. All must be paused.
    pub(super) fn hold(&self, index: u32, held: bool) {
        if let Some(thread) = lock(&self.shared.control).threads.get_mut(index as usize) {
            thread.held = held;
        }
    }

    /// The registers of a processor as text. All must be paused.
    pub fn dump(&self, index: u32) -> Result<String, KvmError> {
        let vcpu = self.parked(index)?;
        Ok(dump(&self.shared.vm, &vcpu.fd))
    }

    pub(super) fn parked(&self, index: u32) -> Result<MutexGuard<'_, Vcpu>, KvmError> {
        let cpu = self.shared.cpus.get(index as usize).ok_or(NO_SUCH_CPU)?;
        match cpu.vcpu.try_lock() {
            Ok(vcpu) => Ok(vcpu),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => {
                Err(KvmError::Unsupported("touching a processor that runs"))
            }
        }
    }

    /// The kernel's number of the thread that runs a processor, as gettid(2) gives it. Waits for
    /// the thread to start, if it has not yet.
    pub fn thread_id(&self, index: u32) -> Result<u32, KvmError> {
        let mut control = lock(&self.shared.control);
        loop {
            let thread = control.threads.get(index as usize).ok_or(NO_SUCH_CPU)?;
            if let Some(tid) = thread.tid {
                return Ok(tid.as_raw_nonzero().get() as u32);
            }
            control = wait(&self.shared.parked, control);
        }
    }

    /// Uses one processor's vCPU, which leaves the guest for that long; the others run on. Tells
    /// `visit` whether the processor is in a HLT that nothing ends, or that the kernel does not know
    /// of.
    ///
    /// Waits: not under a lock that a handler takes, and not from a handler.
    pub(super) fn visit<R>(
        &self,
        index: u32,
        visit: impl FnOnce(&Vm, &VcpuFd, bool) -> Result<R, KvmError>,
    ) -> Result<R, KvmError> {
        let (shared, at) = (&*self.shared, index as usize);
        let cpu = shared.cpus.get(at).ok_or(NO_SUCH_CPU)?;
        let mut control = lock(&shared.control);
        while control.threads[at].visited {
            control = wait(&shared.changed, control);
        }
        control.threads[at].visited = true;
        cpu.kick(&control.threads[at]);
        while !control.threads[at].parked {
            control = wait(&shared.parked, control);
        }
        let halted = control.threads[at].halted;
        drop(control);
        let result = {
            let vcpu = lock(&cpu.vcpu);
            let idle = self.irqchip() == Irqchip::Off && vcpu.outside.is_idle();
            visit(&shared.vm, &vcpu.fd, halted || idle)
        };
        lock(&shared.control).threads[at].visited = false;
        shared.changed.notify_all();
        result
    }

    /// Ends all threads and waits for them. Not under a lock that a handler takes, and not from
    /// a handler.
    pub fn shutdown(&mut self) {
        self.shared.request(Wanted::Exit);
        for join in self.joins.drain(..) {
            let _ = join.join();
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Asks for a pause, or for attention to INTR, from where the [`Vcpus`] are not at hand.
#[derive(Clone)]
pub struct Pauser(std::sync::Weak<Shared>);

impl Pauser {
    /// As [`Vcpus::request_pause`].
    pub fn request_pause(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.request(Wanted::Pause);
        }
    }

    /// Lets processors look at the INTR line. Never waits.
    pub(super) fn interrupt(&self) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let control = lock(&shared.control);
        // SAFETY: always allowed.
        let this = unsafe { libc::pthread_self() };
        for (thread, cpu) in control.threads.iter().zip(&shared.cpus) {
            // One that raises it itself looks before it goes on, and so does a parked one.
            if thread.id != Some(this) {
                cpu.kick(thread);
            }
        }
    }
}

impl Pauser {
    /// Lets a processor look at its local APIC outside of the kernel. Never waits.
    pub(super) fn attention(&self, cpu: u32) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let at = cpu as usize;
        let Some(cpu) = shared.cpus.get(at) else {
            return;
        };
        if cpu.attention.swap(true, Ordering::SeqCst) {
            // Whoever was first sees to it.
            return;
        }
        let control = lock(&shared.control);
        let thread = &control.threads[at];
        // SAFETY: always allowed.
        let this = unsafe { libc::pthread_self() };
        if thread.parked {
            shared.changed.notify_all();
        } else if thread.id != Some(this) {
            cpu.kick(thread);
        }
    }
}

impl fmt::Debug for Pauser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pauser")
    }
}

impl Shared {
    fn request(&self, wanted: Wanted) {
        let mut control = lock(&self.control);
        if control.wanted != Wanted::Exit {
            control.wanted = wanted;
        }
        for (thread, cpu) in control.threads.iter().zip(&self.cpus) {
            cpu.kick(thread);
        }
        // Parked threads that are to end.
        self.changed.notify_all();
    }
}

/// A thread's way out of the guest.
enum Left {
    Interrupted,
    Halted,
    /// Nothing to do before there is attention.
    Idle,
    /// As a debugger wishes.
    Debugged(Hit),
    Stopped(VcpuStop),
}

fn run_thread<H: ExitHandler>(shared: &Shared, index: u32, handler: &H) {
    let at = index as usize;
    let cpu = &shared.cpus[at];
    let split = shared.vm.irqchip() == Irqchip::Split;
    let mut has_run = false;
    loop {
        let mut paused = false;
        {
            let mut control = lock(&shared.control);
            // SAFETY: always allowed.
            control.threads[at].id = Some(unsafe { libc::pthread_self() });
            if control.threads[at].tid.is_none() {
                // Not by libc: the standard library knows its gettid as a weak symbol, and a static
                // program has none of it then.
                control.threads[at].tid = Some(rustix::thread::gettid());
                shared.parked.notify_all();
            }
            loop {
                let wanted = control.wanted;
                let thread = &mut control.threads[at];
                match wanted {
                    Wanted::Exit => {
                        thread.id = None;
                        thread.parked = true;
                        shared.parked.notify_all();
                        return;
                    }
                    Wanted::Run
                        if !thread.stopped
                            && !thread.visited
                            && !thread.held
                            && (!thread.idle || cpu.attention.load(Ordering::SeqCst)) =>
                    {
                        break;
                    }
                    Wanted::Run | Wanted::Pause => {
                        thread.parked = true;
                        shared.parked.notify_all();
                        paused |= wanted == Wanted::Pause;
                        control = wait(&shared.changed, control);
                    }
                }
            }
            control.threads[at].parked = false;
            control.threads[at].idle = false;
            // A state that was set meanwhile may be one of HLT, and the kernel would wait there for
            // an interrupt without looking whether one could be taken: ask first.
            let ask = split && shared.vm.intr() && (paused || !has_run);
            // Under the lock: a request after this sets it again, none before it is lost.
            cpu.immediate_exit.set(ask.into());
        }
        let left = {
            let mut vcpu = lock(&cpu.vcpu);
            if paused && has_run {
                // Tells a guest that uses the paravirtual clock not to mistake the pause for a
                // lock-up; fails harmlessly for others.
                let _ = vcpu.fd.kvmclock_ctrl();
            }
            has_run = true;
            run_guest(&shared.vm, &mut vcpu, index, &cpu.attention, handler)
        };
        match left {
            Left::Interrupted => continue,
            Left::Idle => {
                lock(&shared.control).threads[at].idle = true;
                continue;
            }
            Left::Debugged(hit) => {
                handler.debugged(index, hit);
                continue;
            }
            Left::Halted | Left::Stopped(_) => {}
        }
        {
            let thread = &mut lock(&shared.control).threads[at];
            thread.stopped = true;
            thread.halted = matches!(left, Left::Halted);
        }
        match left {
            Left::Stopped(stop) => handler.stopped(index, stop),
            _ => handler.halted(index),
        }
    }
}

/// Runs guest code until something other than an access to a port or to memory happens.
fn run_guest<H: ExitHandler>(
    vm: &Vm,
    vcpu: &mut Vcpu,
    cpu: u32,
    attention: &AtomicBool,
    handler: &H,
) -> Left {
    let fd = vcpu.fd.as_raw_fd();
    let run = vcpu.run.as_ptr();
    let split = vm.irqchip() == Irqchip::Split;
    let off = vm.irqchip() == Irqchip::Off;
    if off {
        // Whatever has happened to it meanwhile.
        attention.store(true, Ordering::SeqCst);
    }
    loop {
        if off {
            match outside::prepare(vm, vcpu, cpu, attention, handler) {
                Ok(true) => {}
                Ok(false) => return Left::Idle,
                Err(error) => {
                    return Left::Stopped(VcpuStop::RunFailed {
                        errno: error.errno().unwrap_or(libc::EINVAL),
                        dump: dump(vm, &vcpu.fd),
                    });
                }
            }
        }
        let mut handed = false;
        if split {
            match offer_interrupt(vm, vcpu, cpu, handler) {
                Ok(done) => handed = done,
                Err(errno) => {
                    return Left::Stopped(VcpuStop::RunFailed {
                        errno,
                        dump: dump(vm, &vcpu.fd),
                    });
                }
            }
        }
        // SAFETY: the descriptor is a vCPU's, and the call takes no argument.
        let failed = unsafe { libc::ioctl(fd, KVM_RUN, 0) } < 0;
        let error = io::Error::last_os_error();
        if off {
            outside::observe(vcpu, cpu, handler);
        }
        if failed {
            match error.raw_os_error() {
                Some(libc::EINTR) => {
                    if handed {
                        settle_interrupt(vcpu);
                    }
                    return Left::Interrupted;
                }
                // A processor that waits for its start was woken for nothing.
                Some(libc::EAGAIN) => continue,
                errno => {
                    return Left::Stopped(VcpuStop::RunFailed {
                        errno: errno.unwrap_or(0),
                        dump: dump(vm, &vcpu.fd),
                    });
                }
            }
        }
        // SAFETY: the vCPU's shared page, as below.
        events::kvm_run_exit(cpu, unsafe { (*run).exit_reason });
        // SAFETY: `run` is the vCPU's shared page, which only this thread uses between two
        // calls; `exit_reason` tells which member of the union is valid, and the kernel gives
        // the place and length of the data inside the mapping.
        unsafe {
            match (*run).exit_reason {
                KVM_EXIT_IO => {
                    let io = (*run).__bindgen_anon_1.io;
                    let length = usize::from(io.size) * io.count as usize;
                    let data = run.cast::<u8>().add(io.data_offset as usize);
                    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
                        let data = slice::from_raw_parts(data, length);
                        handler.pio_out(cpu, io.port, io.size, data);
                    } else {
                        let data = slice::from_raw_parts_mut(data, length);
                        handler.pio_in(cpu, io.port, io.size, data);
                    }
                }
                KVM_EXIT_MMIO => {
                    let mmio = &mut (*run).__bindgen_anon_1.mmio;
                    let data = &mut mmio.data[..(mmio.len as usize).min(8)];
                    if mmio.is_write != 0 {
                        handler.mmio_write(cpu, mmio.phys_addr, data);
                    } else {
                        handler.mmio_read(cpu, mmio.phys_addr, data);
                    }
                    vcpu.outside.touch();
                }
                KVM_EXIT_X86_RDMSR => {
                    let msr = &mut (*run).__bindgen_anon_1.msr;
                    let own = X2APIC_MSRS.contains(&msr.index);
                    let value = own.then(|| handler.msr_read(cpu, msr.index)).flatten();
                    msr.error = value.is_none().into();
                    msr.data = value.unwrap_or(0);
                }
                KVM_EXIT_X86_WRMSR => {
                    let msr = &mut (*run).__bindgen_anon_1.msr;
                    let own = X2APIC_MSRS.contains(&msr.index);
                    let done = own && handler.msr_write(cpu, msr.index, msr.data);
                    msr.error = (!done).into();
                    vcpu.outside.touch();
                }
                KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => {}
                KVM_EXIT_IOAPIC_EOI => {
                    handler.end_of_interrupt(cpu, (*run).__bindgen_anon_1.eoi.vector);
                }
                KVM_EXIT_INTR => return Left::Interrupted,
                KVM_EXIT_DEBUG => {
                    let arch = (*run).__bindgen_anon_1.debug.arch;
                    match vcpu.debug.hit(&vcpu.fd, &arch) {
                        Ok(Some(hit)) => return Left::Debugged(hit),
                        // It was the guest's own.
                        Ok(None) => {}
                        Err(errno) => {
                            return Left::Stopped(VcpuStop::RunFailed {
                                errno,
                                dump: dump(vm, &vcpu.fd),
                            });
                        }
                    }
                }
                KVM_EXIT_HLT if off => outside::halt(vcpu),
                KVM_EXIT_HLT => return Left::Halted,
                KVM_EXIT_SHUTDOWN => return Left::Stopped(VcpuStop::TripleFault),
                KVM_EXIT_SYSTEM_EVENT => {
                    let event = match (*run).__bindgen_anon_1.system_event.type_ {
                        KVM_SYSTEM_EVENT_SHUTDOWN => SystemEvent::Shutdown,
                        KVM_SYSTEM_EVENT_RESET => SystemEvent::Reset,
                        KVM_SYSTEM_EVENT_CRASH => SystemEvent::Crash,
                        other => SystemEvent::Other(other),
                    };
                    return Left::Stopped(VcpuStop::SystemEvent(event));
                }
                KVM_EXIT_INTERNAL_ERROR => {
                    return Left::Stopped(VcpuStop::InternalError {
                        suberror: (*run).__bindgen_anon_1.internal.suberror,
                        dump: dump(vm, &vcpu.fd),
                    });
                }
                KVM_EXIT_FAIL_ENTRY => {
                    let entry = (*run).__bindgen_anon_1.fail_entry;
                    return Left::Stopped(VcpuStop::FailEntry {
                        reason: entry.hardware_entry_failure_reason,
                        dump: dump(vm, &vcpu.fd),
                    });
                }
                reason => {
                    return Left::Stopped(VcpuStop::UnexpectedExit {
                        reason,
                        dump: dump(vm, &vcpu.fd),
                    });
                }
            }
        }
    }
}

/// Hands an external interrupt over if INTR is high and the processor can take it; else, while
/// INTR is high, lets the kernel tell when it can.
///
/// Whether the local APIC lets INTR through at all, by LINT0, is part of the kernel's answer.
/// Returns whether one was handed over.
fn offer_interrupt<H: ExitHandler>(
    vm: &Vm,
    vcpu: &mut Vcpu,
    cpu: u32,
    handler: &H,
) -> Result<bool, i32> {
    let mut handed = false;
    // SAFETY: the vCPU's shared page, which only the lock's holder uses between two runs.
    let run = unsafe { vcpu.run.as_mut() };
    if vm.intr()
        && run.ready_for_interrupt_injection != 0
        && let Some(vector) = handler.acknowledge(cpu)
    {
        inject(&vcpu.fd, vector).map_err(|error| error.raw_os_error().unwrap_or(0))?;
        // It takes one at a time.
        run.ready_for_interrupt_injection = 0;
        handed = true;
    }
    run.request_interrupt_window = vm.intr().into();
    Ok(handed)
}

/// Hands the kernel the vector of an interrupt that the processor takes.
pub(super) fn inject(fd: &VcpuFd, vector: u8) -> io::Result<()> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: the descriptor is a vCPU's, and the kernel only reads the structure.
    if unsafe { libc::ioctl(fd.as_raw_fd(), KVM_INTERRUPT, &interrupt) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes an interrupt that was handed over part of the processor's state, as an injected one.
///
/// A kick may come between the hand-over and `KVM_RUN`, which then does nothing at all. The kernel
/// keeps the vector where no call reads or clears it: a saved state would lack it, and a reset
/// processor would get it. So the processor is run once more with a signal that waits for it:
/// that keeps it from guest code, but it takes what was handed over. Twice, as the first ends a
/// HLT.
fn settle_interrupt(vcpu: &mut Vcpu) {
    let fd = vcpu.fd.as_raw_fd();
    // SAFETY: the byte is in the vCPU's shared page.
    let immediate_exit = unsafe {
        let byte = &raw mut (*vcpu.run.as_ptr()).immediate_exit;
        AtomicU8::from_ptr(byte)
    };
    // SAFETY: the sets are initialised by the calls before they are used; the kernel reads the
    // mask's length and eight bytes of a set that is longer.
    unsafe {
        let (mut kick, mut before): (libc::sigset_t, libc::sigset_t) =
            (mem::zeroed(), mem::zeroed());
        libc::sigemptyset(&mut kick);
        libc::sigaddset(&mut kick, KICK);
        libc::pthread_sigmask(libc::SIG_BLOCK, &kick, &mut before);
        libc::pthread_kill(libc::pthread_self(), KICK);
        let mut mask = SignalMask {
            length: 8,
            set: [0; 8],
        };
        ptr::copy_nonoverlapping((&raw const before).cast(), mask.set.as_mut_ptr(), 8);
        libc::ioctl(fd, KVM_SET_SIGNAL_MASK, &mask);
        let mut runs = 0;
        while runs < 2 {
            immediate_exit.store(0, Ordering::Release);
            // A kick in between is no loss: the thread looks for requests after this.
            libc::ioctl(fd, KVM_RUN, 0);
            if immediate_exit.load(Ordering::Acquire) == 0 {
                runs += 1;
            }
        }
        libc::ioctl(fd, KVM_SET_SIGNAL_MASK, ptr::null::<SignalMask>());
        let zero: libc::timespec = mem::zeroed();
        libc::sigtimedwait(&kick, ptr::null_mut(), &zero);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
    }
}

/// `struct kvm_signal_mask` with the kernel's set of 64 signals.
#[repr(C)]
struct SignalMask {
    length: u32,
    set: [u8; 8],
}

extern "C" fn kicked(_signal: libc::c_int) {}

/// Installs the empty handler, once, and without SA_RESTART: calls must come back.
fn install_kick_handler() -> Result<(), KvmError> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid, and the handler does nothing at all.
        let failed = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = kicked as *const () as libc::sighandler_t;
            libc::sigaction(KICK, &action, ptr::null_mut()) != 0
        };
        if failed {
            result = Err(KvmError::Call {
                what: "installing the signal handler for processors",
                error: io::Error::last_os_error(),
            });
        }
    });
    result
}
