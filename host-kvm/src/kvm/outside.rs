//! Processors whose local APICs are the machine's: `kernel-irqchip=off`.
//!
//! The kernel knows of no interrupt controller at all then. What it leaves to us:
//!
//! - An interrupt is handed over when the processor can take it ([`prepare`]); while it can't, the
//!   kernel tells when it can.
//! - CR8 and IA32_APIC_BASE are in the shared page: what the guest has written is seen when the
//!   processor comes out ([`observe`]), and CR8 is given back before it goes in.
//! - HLT comes out. The processor is idle then, and its thread waits, until its local APIC has an
//!   interrupt that it takes, or an event. So is one that waits for its start: INIT and the start-up
//!   interrupt set its state here.
//!
//! Whoever changes a local APIC tells by [`Vm::attention`] that its processor is to look.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use thimble_core::cpu::{Activity, CpuState};
use thimble_core::irq::lapic::CpuEvent;

use super::error::KvmError;
use super::state;
use super::vcpu::{ExitHandler, KVM_RUN, Vcpu, inject};
use super::vm::Vm;

/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Events that a processor takes before it looks whether it is to pause: one of each kind. Others
/// that keep sending it more can't hold it here.
const EVENTS_AT_ONCE: usize = 3;

/// Exits that completing one access takes at most: an access is split at pages and every 8 bytes.
const PARTS_MAX: usize = 64;

/// What the kernel does not know of a processor.
#[derive(Debug)]
pub(super) struct Outside {
    /// EAX of CPUID leaf 1, which INIT puts into EDX.
    signature: u32,
    /// What the processor does.
    activity: Activity,
    /// While it is halted: whether interrupts wake it.
    interruptible: bool,
    /// While it is halted: the kernel was asked whether one can be handed over.
    asked: bool,
    /// Its local APIC was used, or may have been, since it was last looked at.
    touched: bool,
    /// Its local APIC has an interrupt for it.
    waits: bool,
    /// CR8 and IA32_APIC_BASE, as they are known on both sides.
    cr8: u8,
    apic_base: u64,
}

impl Outside {
    /// After power-on.
    pub(super) fn new(bootstrap: bool, signature: u32) -> Self {
        let state = CpuState::power_on(0, bootstrap, signature);
        Self {
            signature,
            activity: state.activity,
            interruptible: false,
            asked: false,
            touched: true,
            waits: false,
            cr8: 0,
            apic_base: state.apic_base,
        }
    }

    /// Whether the processor executes nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.activity != Activity::Running
    }

    /// The processor has used something that may be its local APIC.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }
}

/// The processor has executed HLT.
pub(super) fn halt(vcpu: &mut Vcpu) {
    // An NMI that the kernel holds back may be free to come by now: it ends a HLT.
    let held = vcpu.fd.get_vcpu_events().is_ok_and(|events| {
        events.nmi.pending | events.nmi.injected | events.interrupt.injected != 0
    });
    if held {
        return;
    }
    // SAFETY: as in `prepare`.
    let interruptible = unsafe { vcpu.run.as_ref() }.if_flag != 0;
    let outside = &mut vcpu.outside;
    outside.activity = Activity::Halted;
    outside.interruptible = interruptible;
    outside.asked = false;
    outside.touched = true;
}

/// Gets a processor ready for the guest: events, CR8, and the interrupt that it can take. False if
/// it has nothing to do there.
pub(super) fn prepare<H: ExitHandler + ?Sized>(
    vm: &Vm,
    vcpu: &mut Vcpu,
    cpu: u32,
    attention: &AtomicBool,
    handler: &H,
) -> Result<bool, KvmError> {
    if attention.swap(false, Ordering::SeqCst) || vcpu.outside.touched {
        attend(vm, vcpu, cpu, handler)?;
    }
    // SAFETY: the vCPU's shared page, which only its lock's holder uses between two runs.
    let run = unsafe { vcpu.run.as_mut() };
    let outside = &mut vcpu.outside;
    match outside.activity {
        Activity::Running => {}
        Activity::Halted if outside.waits && outside.interruptible => {
            if run.ready_for_interrupt_injection == 0 && !outside.asked {
                // The kernel says so when it comes out; until then no guest code may run.
                outside.asked = true;
                vcpu.immediate_exit().store(1, Ordering::Release);
                return Ok(true);
            }
            outside.activity = Activity::Running;
        }
        _ => return Ok(false),
    }
    if outside.waits && run.ready_for_interrupt_injection != 0 {
        if let Some(vector) = handler.acknowledge(cpu) {
            inject(&vcpu.fd, vector).map_err(|error| KvmError::Call {
                what: "handing an interrupt over",
                error,
            })?;
            // It takes one at a time.
            run.ready_for_interrupt_injection = 0;
        }
        outside.waits = handler.interrupt_waits(cpu);
    }
    run.request_interrupt_window = outside.waits.into();
    Ok(true)
}

/// Sees what the guest has written to CR8 and IA32_APIC_BASE.
pub(super) fn observe<H: ExitHandler + ?Sized>(vcpu: &mut Vcpu, cpu: u32, handler: &H) {
    // SAFETY: as in `prepare`.
    let run = unsafe { vcpu.run.as_ref() };
    let outside = &mut vcpu.outside;
    if run.apic_base != outside.apic_base {
        outside.apic_base = run.apic_base;
        handler.set_apic_base(cpu, run.apic_base);
        outside.touched = true;
    }
    let cr8 = run.cr8 as u8;
    if cr8 != outside.cr8 {
        outside.cr8 = cr8;
        handler.set_task_priority(cpu, cr8);
        outside.touched = true;
    }
}

/// Looks at the local APIC, and lets the processor do what it has to.
fn attend<H: ExitHandler + ?Sized>(
    vm: &Vm,
    vcpu: &mut Vcpu,
    cpu: u32,
    handler: &H,
) -> Result<(), KvmError> {
    vcpu.outside.touched = false;
    for _ in 0..EVENTS_AT_ONCE {
        let Some(event) = handler.take_event(cpu) else {
            break;
        };
        match event {
            CpuEvent::Nmi => {
                vcpu.fd.nmi().map_err(KvmError::call("injecting an NMI"))?;
                if vcpu.outside.activity == Activity::Halted {
                    vcpu.outside.activity = Activity::Running;
                }
            }
            CpuEvent::Init => {
                let signature = vcpu.outside.signature;
                change(vm, vcpu, |state| state.init(signature))?;
            }
            CpuEvent::Startup(page) => {
                // One that runs already is not interested.
                if vcpu.outside.activity == Activity::WaitForSipi {
                    change(vm, vcpu, |state| state.start_up(page))?;
                }
            }
        }
    }
    vcpu.outside.waits = handler.interrupt_waits(cpu);
    vcpu.outside.cr8 = handler.task_priority(cpu);
    // SAFETY: as in `prepare`.
    unsafe { vcpu.run.as_mut() }.cr8 = vcpu.outside.cr8.into();
    Ok(())
}

/// Changes the state of a processor between two runs.
fn change(vm: &Vm, vcpu: &mut Vcpu, change: impl FnOnce(&mut CpuState)) -> Result<(), KvmError> {
    // An access that is under way would be completed on top of the new state. What its further
    // parts would do is lost with it.
    vcpu.immediate_exit().store(1, Ordering::Release);
    for _ in 0..PARTS_MAX {
        // SAFETY: the descriptor is a vCPU's, and the call takes no argument.
        if unsafe { libc::ioctl(vcpu.fd.as_raw_fd(), KVM_RUN, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINTR) {
                break;
            }
            return Err(KvmError::Call {
                what: "completing an access",
                error,
            });
        }
    }
    let mut state = state::get(vm, &vcpu.fd)?;
    state.activity = vcpu.outside.activity;
    change(&mut state);
    state::set(vm, &vcpu.fd, &state)?;
    vcpu.outside.activity = state.activity;
    // SAFETY: as in `prepare`.
    unsafe { vcpu.run.as_mut() }.ready_for_interrupt_injection = 0;
    Ok(())
}

/// The whole state of a processor. What waits in its local APIC for it to look is part of it, as far
/// as it is no interrupt.
pub(super) fn get<H: ExitHandler + ?Sized>(
    vm: &Vm,
    vcpu: &mut Vcpu,
    cpu: u32,
    handler: &H,
) -> Result<CpuState, KvmError> {
    attend(vm, vcpu, cpu, handler)?;
    let mut state = state::get(vm, &vcpu.fd)?;
    state.apic = handler.apic_state(cpu);
    state.activity = vcpu.outside.activity;
    state.cr8 = vcpu.outside.cr8.into();
    Ok(state)
}

/// Sets the whole state of a processor and of its local APIC.
pub(super) fn set<H: ExitHandler + ?Sized>(
    vm: &Vm,
    vcpu: &mut Vcpu,
    cpu: u32,
    state: &CpuState,
    handler: &H,
) -> Result<(), KvmError> {
    let mut state = state.clone();
    if state.activity == Activity::SipiReceived {
        state.start_up(state.events.sipi_vector);
    }
    if let Some(apic) = &state.apic {
        handler
            .set_apic_state(cpu, apic, state.apic_base)
            .map_err(|_| KvmError::Unsupported("this state of a local APIC"))?;
    }
    state::set(vm, &vcpu.fd, &state)?;
    vcpu.outside = Outside {
        activity: state.activity,
        interruptible: state.rflags & INTERRUPT_FLAG != 0,
        apic_base: state.apic_base,
        ..Outside::new(false, vcpu.outside.signature)
    };
    Ok(())
}
