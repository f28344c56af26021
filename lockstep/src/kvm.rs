//! A KVM guest that runs cases: one processor, [`layout`]'s memory, everything set from outside.
//!
//! A run ends at a HLT: ring 3 by the #GP that it is there, at whose handler there is another.

use std::ptr::{self, NonNull};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region, kvm_vcpu_events,
};
use kvm_ioctls::{Kvm, SyncReg, VcpuExit, VcpuFd, VmFd};
use thimble_core::cpu::Segment;

use crate::alarm;
use crate::case::{CS, Case, DS, ES, End, FS, GS, Outcome, Raw, SS, Subject, World};
use crate::control::control;
use crate::layout::{self, Images, RAM, WINDOW, WINDOW_BYTES};

/// Answers to ports and MMIO, after which a run is given up.
const EXITS_MAX: u32 = 1000;

/// The guest.
pub(crate) struct Guest {
    vcpu: VcpuFd,
    // Keeps the memory's mapping in the guest.
    _vm: VmFd,
    ram: Mapping,
    images: Images,
    sregs: kvm_sregs,
    /// No exception on its way.
    events: kvm_vcpu_events,
}

/// Memory that a guest sees.
struct Mapping(NonNull<u8>);

impl Mapping {
    fn new() -> Result<Self, String> {
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                RAM,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(pointer) if address != libc::MAP_FAILED => Ok(Self(pointer)),
            _ => Err(format!("mmap: {}", std::io::Error::last_os_error())),
        }
    }

    /// Nothing runs in the guest while the host looks.
    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped with this length until the drop; the guest's only processor is run by `&mut Guest`.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), RAM) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), RAM) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and nobody has a pointer to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), RAM) };
    }
}

fn message(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> String {
    move |error| format!("{what}: {error}")
}

impl Guest {
    pub(crate) fn new() -> Result<Self, String> {
        let kvm = Kvm::new().map_err(message("/dev/kvm"))?;
        let vm = kvm.create_vm().map_err(message("KVM_CREATE_VM"))?;
        let ram = Mapping::new()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: RAM as u64,
            userspace_addr: ram.0.as_ptr() as u64,
        };
        // SAFETY: the mapping lives as long as the guest does: fields are dropped in their order.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(message("KVM_SET_USER_MEMORY_REGION"))?;
        // Real mode's need on some processors; nothing else is there.
        vm.set_tss_address(0xfffb_d000)
            .map_err(message("KVM_SET_TSS_ADDR"))?;
        let mut vcpu = vm.create_vcpu(0).map_err(message("KVM_CREATE_VCPU"))?;
        let cpuid: CpuId = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(message("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(message("KVM_SET_CPUID2"))?;
        let sregs = vcpu.get_sregs().map_err(message("KVM_GET_SREGS"))?;
        let events = vcpu
            .get_vcpu_events()
            .map_err(message("KVM_GET_VCPU_EVENTS"))?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
        Ok(Self {
            vcpu,
            _vm: vm,
            ram,
            images: Images::new(),
            sregs,
            events,
        })
    }

    fn load(&mut self, case: &Case) {
        self.images.load(case, self.ram.bytes_mut());
        let sync = self.vcpu.sync_regs_mut();
        sync.regs = regs(case);
        sync.sregs = sregs(case, &self.sregs);
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
    }

    fn raw(&self) -> Raw {
        let sync = self.vcpu.sync_regs();
        let (r, s) = (&sync.regs, &sync.sregs);
        Raw {
            gpr: [
                r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
                r.r12, r.r13, r.r14, r.r15,
            ],
            rip: r.rip,
            rflags: r.rflags,
            selectors: [
                s.es.selector,
                s.cs.selector,
                s.ss.selector,
                s.ds.selector,
                s.fs.selector,
                s.gs.selector,
            ],
            bases: [s.fs.base, s.gs.base],
            cr2: s.cr2,
        }
    }
}

impl Subject for Guest {
    fn name(&self) -> &'static str {
        "KVM"
    }

    fn set_base(&mut self, base: &[u8]) {
        self.images.set_base(base);
    }

    fn run(&mut self, case: &Case) -> Outcome {
        // What an alarm interrupts is begun anew.
        'attempts: for _ in 0..alarm::ATTEMPTS {
            self.load(case);
            for _ in 0..EXITS_MAX {
                let end = match self.vcpu.run() {
                    Ok(VcpuExit::Hlt) => {
                        return self.raw().halted(case.world, self.ram.bytes());
                    }
                    Ok(VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data)) => {
                        data.fill(0xff);
                        continue;
                    }
                    Ok(VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..)) => continue,
                    Ok(VcpuExit::Shutdown) => End::Shutdown,
                    Err(error) if error.errno() == libc::EINTR => {
                        // An exception may be half delivered. If this fails the case does.
                        let _ = self.vcpu.set_vcpu_events(&self.events);
                        continue 'attempts;
                    }
                    // KVM_EXIT_INTERNAL_ERROR, mostly; the processor is fit for the next case.
                    Ok(_) | Err(_) => End::Refused,
                };
                return self.raw().ended(end);
            }
            break;
        }
        self.raw().ended(End::Timeout)
    }

    fn window(&self) -> &[u8] {
        &self.ram.bytes()[WINDOW as usize..][..WINDOW_BYTES]
    }
}

fn regs(case: &Case) -> kvm_regs {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = case.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: case.rip,
        rflags: case.rflags,
    }
}

fn segment(from: &Segment) -> kvm_segment {
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.kind,
        present: from.present.into(),
        dpl: from.dpl,
        db: from.big.into(),
        s: from.code_or_data.into(),
        l: from.long.into(),
        g: from.granular.into(),
        avl: from.available.into(),
        unusable: from.unusable.into(),
        padding: 0,
    }
}

/// Control and segment registers.
fn sregs(case: &Case, template: &kvm_sregs) -> kvm_sregs {
    let world = case.world;
    let paging = world.long();
    let system = if paging { layout::SYSTEM } else { 0 };
    let table = |base, limit| kvm_dtable {
        base: system + base,
        limit,
        padding: [0; 3],
    };
    let null = Segment {
        unusable: true,
        ..Segment::default()
    };
    let (mut ldt, mut tr) = (null, layout::segment(layout::TASK));
    tr.base += system;
    // Native code finds Linux's empty table.
    if world != World::User64 {
        ldt = layout::segment(layout::LOCAL);
        ldt.base += system;
    }
    let registers = control(world);
    kvm_sregs {
        cs: segment(&case.segment(CS)),
        ds: segment(&case.segment(DS)),
        es: segment(&case.segment(ES)),
        fs: segment(&case.segment(FS)),
        gs: segment(&case.segment(GS)),
        ss: segment(&case.segment(SS)),
        tr: segment(&tr),
        ldt: segment(&ldt),
        gdt: table(layout::GDT, layout::GDT_LIMIT),
        idt: match world {
            World::Real16 => table(0, 0x3ff),
            World::Kernel32 => table(layout::IDT_32, 0x7ff),
            _ => table(layout::IDT, 0xfff),
        },
        cr0: registers.cr0,
        cr2: 0,
        cr3: registers.cr3,
        cr4: registers.cr4,
        efer: registers.efer,
        ..*template
    }
}
