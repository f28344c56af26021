//! A debugger's breakpoints, watchpoints and steps by KVM_SET_GUEST_DEBUG.
//!
//! Source: the kernel's documentation of KVM_SET_GUEST_DEBUG; Intel SDM volume 3, 17.2 (debug registers). While a debugger
//! uses the four debug registers the kernel keeps the guest's own away from the processor. Places in code are either
//! instructions INT3 that the VM has put there, or take a register; watchpoints take one each, are 1, 2, 4 or 8 bytes long
//! and aligned, and can't be for loads alone.
//!
//! An exception that is not the debugger's goes to the guest.

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_debug_exit_arch,
    kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;
use thimble_core::cpu::debugger::{Breakpoint, Breaks, Hit, Resume, WatchKind};

use super::error::KvmError;
use super::vcpu::Vcpus;

/// Debug registers for addresses.
const REGISTERS: usize = 4;

/// KVM_CAP_SET_GUEST_DEBUG2: which flags there are.
const CAP_SET_GUEST_DEBUG2: libc::c_ulong = 195;

/// #DB.
const DEBUG: u32 = 1;
/// #BP.
const BREAKPOINT: u32 = 3;
/// DR6: BS, a single step.
const DR6_BS: u64 = 1 << 14;
/// DR7: LE, GE and the bit that is always one.
const DR7_EXACT: u64 = 0x700;
/// DR7, R/W: stores, and loads or stores.
const RW_WRITE: u64 = 1;
/// See [`RW_WRITE`].
const RW_ACCESS: u64 = 3;

/// A debug register in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Register {
    address: u64,
    /// R/W and LEN of DR7, four bits.
    control: u64,
    hit: Hit,
}

/// What registers and instructions a debugger's wishes take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    registers: heapless::Vec<Register, REGISTERS>,
    /// Addresses where the VM puts INT3, sorted.
    instructions: Vec<u64>,
}

/// The debug registers do not suffice, or can't do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRegister;

impl Plan {
    /// Plans for all that is set; `patched` says where INT3 can be put.
    ///
    /// # Errors
    /// If the debug registers do not suffice, or can't do it.
    pub fn new(breaks: &Breaks, patched: impl Fn(u64) -> bool) -> Result<Self, NoRegister> {
        let mut plan = Self::default();
        for at in breaks.breakpoints() {
            if !at.hardware && patched(at.address) {
                plan.instructions.push(at.address);
                continue;
            }
            let register = Register {
                address: at.address,
                control: 0,
                hit: Hit::Breakpoint(*at),
            };
            plan.registers.push(register).map_err(|_| NoRegister)?;
        }
        for watchpoint in breaks.watchpoints() {
            let length = match watchpoint.length {
                1 => 0,
                2 => 1,
                4 => 3,
                8 => 2,
                _ => return Err(NoRegister),
            };
            let access = match watchpoint.kind {
                WatchKind::Write => RW_WRITE,
                WatchKind::Access => RW_ACCESS,
                WatchKind::Read => return Err(NoRegister),
            };
            if !watchpoint.address.is_multiple_of(watchpoint.length) {
                return Err(NoRegister);
            }
            let register = Register {
                address: watchpoint.address,
                control: access | length << 2,
                hit: Hit::Watchpoint(watchpoint.kind, watchpoint.address),
            };
            plan.registers.push(register).map_err(|_| NoRegister)?;
        }
        Ok(plan)
    }

    /// What the kernel is told.
    fn control(&self, resume: Resume, blocks_interrupts: bool) -> kvm_guest_debug {
        let mut debug = kvm_guest_debug::default();
        if resume.steps() {
            debug.control |= KVM_GUESTDBG_SINGLESTEP;
            if resume == Resume::StepOverInterrupts && blocks_interrupts {
                debug.control |= KVM_GUESTDBG_BLOCKIRQ;
            }
        }
        if !self.instructions.is_empty() {
            debug.control |= KVM_GUESTDBG_USE_SW_BP;
        }
        if !self.registers.is_empty() {
            debug.control |= KVM_GUESTDBG_USE_HW_BP;
            debug.arch.debugreg[7] = DR7_EXACT;
            for (number, register) in self.registers.iter().enumerate() {
                debug.arch.debugreg[number] = register.address;
                debug.arch.debugreg[7] |= 2 << (2 * number) | register.control << (16 + 4 * number);
            }
        }
        if debug.control != 0 {
            debug.control |= KVM_GUESTDBG_ENABLE;
        }
        debug
    }
}

/// What a debugger wants of one processor.
#[derive(Default)]
pub(super) struct GuestDebug {
    plan: Plan,
    steps: bool,
    set: kvm_guest_debug,
}

impl GuestDebug {
    /// What an exit says, if it is the debugger's; else the guest gets its exception.
    pub(super) fn hit(&self, fd: &VcpuFd, exit: &kvm_debug_exit_arch) -> Result<Option<Hit>, i32> {
        if let Some(hit) = self.recognise(exit) {
            return Ok(Some(hit));
        }
        let inject = match exit.exception {
            BREAKPOINT => KVM_GUESTDBG_INJECT_BP,
            _ => KVM_GUESTDBG_INJECT_DB,
        };
        let mut debug = self.set;
        debug.control |= inject | KVM_GUESTDBG_ENABLE;
        fd.set_guest_debug(&debug)
            .map(|()| None)
            .map_err(|error| error.errno())
    }

    fn recognise(&self, exit: &kvm_debug_exit_arch) -> Option<Hit> {
        match exit.exception {
            BREAKPOINT => {
                let known = self.plan.instructions.binary_search(&exit.pc);
                known.ok().map(|_| {
                    Hit::Breakpoint(Breakpoint {
                        address: exit.pc,
                        hardware: false,
                    })
                })
            }
            DEBUG => {
                let mut registers = self.plan.registers.iter().enumerate();
                let touched = registers.find(|(number, _)| exit.dr6 >> number & 1 != 0);
                match touched {
                    Some((_, register)) => Some(register.hit),
                    None => (self.steps && exit.dr6 & DR6_BS != 0).then_some(Hit::Step),
                }
            }
            _ => None,
        }
    }
}

impl Vcpus {
    /// Sets what a debugger wants of processors from now on, and how each goes on. All must be paused.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn set_debugger(
        &self,
        plan: &Plan,
        resume: &dyn Fn(u32) -> Resume,
    ) -> Result<(), KvmError> {
        for index in 0..self.count() {
            let resume = resume(index);
            self.hold(index, resume == Resume::Stay);
            let mut vcpu = self.parked(index)?;
            let set = plan.control(resume, self.blocks_interrupts());
            vcpu.debug = GuestDebug {
                plan: plan.clone(),
                steps: resume.steps(),
                set,
            };
            vcpu.fd
                .set_guest_debug(&set)
                .map_err(KvmError::call("setting what the debugger wants"))?;
        }
        Ok(())
    }

    /// Whether the kernel holds interrupts back while a processor makes a step.
    pub fn blocks_interrupts(&self) -> bool {
        let flags = self.kvm().check_extension_raw(CAP_SET_GUEST_DEBUG2);
        flags as u32 & KVM_GUESTDBG_BLOCKIRQ != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thimble_core::cpu::debugger::{Break, Watchpoint};

    fn breaks(all: &[Break]) -> Breaks {
        let mut breaks = Breaks::new();
        for what in all {
            breaks.insert(*what).unwrap();
        }
        breaks
    }

    fn code(address: u64, hardware: bool) -> Break {
        Break::Code(Breakpoint { address, hardware })
    }

    fn data(kind: WatchKind, address: u64, length: u64) -> Break {
        Break::Data(Watchpoint {
            kind,
            address,
            length,
        })
    }

    #[test]
    fn registers_are_those_of_the_manual() {
        let set = breaks(&[
            code(0x1000, true),
            data(WatchKind::Write, 0x2000, 4),
            data(WatchKind::Access, 0x3000, 8),
        ]);
        let plan = Plan::new(&set, |_| false).unwrap();
        let debug = plan.control(Resume::Run, true);
        assert_eq!(debug.arch.debugreg[..4], [0x1000, 0x2000, 0x3000, 0]);
        // G0 to G2; register 1: stores, four bytes; register 2: both, eight bytes.
        assert_eq!(debug.arch.debugreg[7], 0x0bd0_072a);
        assert_eq!(debug.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        let steps = plan.control(Resume::StepOverInterrupts, true).control;
        assert_ne!(steps & KVM_GUESTDBG_BLOCKIRQ, 0);
        assert_eq!(Plan::default().control(Resume::Run, true).control, 0);
    }

    #[test]
    fn what_registers_can_not_do_is_refused() {
        let refused = |all: &[Break]| Plan::new(&breaks(all), |_| false).is_err();
        assert!(refused(&[data(WatchKind::Read, 0x1000, 4)]));
        assert!(refused(&[data(WatchKind::Write, 0x1001, 4)]));
        assert!(refused(&[data(WatchKind::Write, 0x1000, 3)]));
        let five: Vec<_> = (0..5).map(|address| code(address, false)).collect();
        assert!(!refused(&five[..4]));
        assert!(refused(&five));
        // Where memory can be changed none is needed.
        let plan = Plan::new(&breaks(&five), |_| true).unwrap();
        assert_eq!(plan.instructions.len(), 5);
    }

    #[test]
    fn exits_are_told_apart() {
        let set = breaks(&[code(0x1000, true), code(0x1800, false)]);
        let plan = Plan::new(&set, |_| true).unwrap();
        let debug = GuestDebug {
            set: plan.control(Resume::Step, false),
            plan,
            steps: true,
        };
        let exit = |exception, pc, dr6| kvm_debug_exit_arch {
            exception,
            pc,
            dr6,
            ..Default::default()
        };
        let at = |address, hardware| Some(Hit::Breakpoint(Breakpoint { address, hardware }));
        let seen = |exit| debug.recognise(&exit);
        assert_eq!(seen(exit(DEBUG, 0x1000, 1)), at(0x1000, true));
        assert_eq!(seen(exit(DEBUG, 0x1004, 1 << 14)), Some(Hit::Step));
        assert_eq!(seen(exit(DEBUG, 0x1004, 2)), None);
        assert_eq!(seen(exit(BREAKPOINT, 0x1800, 0)), at(0x1800, false));
        // The guest's own.
        assert_eq!(seen(exit(BREAKPOINT, 0x1801, 0)), None);
    }
}
