//! Whole vCPU state to and from the core's [`CpuState`].
//!
//! Order of writing, and why: segment and control registers first, because EFER and APIC_BASE in
//! them decide how the rest is understood; general registers; XCR0 before the XSAVE area it
//! governs; debug registers; MSRs with the time stamp counter; the local APIC, whose timer mode
//! the TSC deadline needs, so that MSR comes after it; pending events after everything that
//! would clear them; what the processor does last. CPUID was set when the vCPU was made.
//!
//! Reading runs the other way where it matters: what the processor does first, because asking
//! for it makes the kernel act on a start-up IPI that waits.
//!
//! What the kernel lacks (XSAVE, XCRs, debug registers, a local APIC of its own) is left out by
//! capability, and MSRs that it lists but refuses are left out one by one.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SIPI_VECTOR, Msrs as KvmMsrs, kvm_debugregs,
    kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd};
use thimble_core::cpu::{
    Activity, Bytes, CpuState, DescriptorTable, Events, ExtendedState, FpuState, LocalApicState,
    Msrs, PendingException, PendingInterrupt, Segment, XSAVE_EXTENDED_BYTES, gpr, msr_index,
};

use super::error::KvmError;
use super::vm::Vm;

/// MSRs that are kept elsewhere in the state, or whose writing acts instead of setting.
const ELSEWHERE: [u32; 4] = [
    0x1b,        // IA32_APIC_BASE
    0xc000_0080, // EFER
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
];

/// MSRs in one call.
const MSRS_AT_ONCE: usize = 256;

/// Reads everything. The vCPU must not be running.
pub(crate) fn get(vm: &Vm, fd: &VcpuFd) -> Result<CpuState, KvmError> {
    let mut state = CpuState::default();
    if vm.irqchip().has_apics() {
        let mp = fd
            .get_mp_state()
            .map_err(KvmError::call("reading the activity"))?;
        state.activity = match mp.mp_state {
            KVM_MP_STATE_UNINITIALIZED => Activity::WaitForInit,
            KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
            KVM_MP_STATE_HALTED => Activity::Halted,
            KVM_MP_STATE_SIPI_RECEIVED => Activity::SipiReceived,
            _ => Activity::Running,
        };
    }
    get_regs(
        &fd.get_regs()
            .map_err(KvmError::call("reading the registers"))?,
        &mut state,
    );
    get_sregs(
        &fd.get_sregs()
            .map_err(KvmError::call("reading the system registers"))?,
        &mut state,
    );
    if vm.kvm().check_extension(Cap::Xsave) {
        let xsave = fd
            .get_xsave()
            .map_err(KvmError::call("reading the XSAVE area"))?;
        get_xsave(&xsave, &mut state);
    } else {
        let fpu = fd.get_fpu().map_err(KvmError::call("reading the FPU"))?;
        get_fpu(&fpu, &mut state.fpu);
    }
    if vm.kvm().check_extension(Cap::Xcrs) {
        let xcrs = fd.get_xcrs().map_err(KvmError::call("reading XCR0"))?;
        let all = &xcrs.xcrs[..(xcrs.nr_xcrs as usize).min(16)];
        if let Some(xcr0) = all.iter().find(|xcr| xcr.xcr == 0) {
            state.xcr0 = xcr0.value;
        }
    }
    if vm.kvm().check_extension(Cap::Debugregs) {
        let debug = fd
            .get_debug_regs()
            .map_err(KvmError::call("reading the debug registers"))?;
        (state.dr, state.dr6, state.dr7) = (debug.db, debug.dr6, debug.dr7);
    }
    get_msrs(vm, fd, &mut state.msrs)?;
    state.apic = None;
    if vm.irqchip().has_apics() {
        let lapic = fd
            .get_lapic()
            .map_err(KvmError::call("reading the local APIC"))?;
        state.apic = Some(get_lapic(&lapic));
    }
    if vm.kvm().check_extension(Cap::VcpuEvents) {
        let events = fd
            .get_vcpu_events()
            .map_err(KvmError::call("reading pending events"))?;
        state.events = get_events(&events);
    }
    Ok(state)
}

/// Writes everything. The vCPU must not be running.
pub(crate) fn set(vm: &Vm, fd: &VcpuFd, state: &CpuState) -> Result<(), KvmError> {
    fd.set_sregs(&sregs(state))
        .map_err(KvmError::call("setting the system registers"))?;
    fd.set_regs(&regs(state))
        .map_err(KvmError::call("setting the registers"))?;
    if vm.kvm().check_extension(Cap::Xcrs) {
        let mut xcrs = kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = state.xcr0;
        fd.set_xcrs(&xcrs).map_err(KvmError::call("setting XCR0"))?;
    }
    if vm.kvm().check_extension(Cap::Xsave) {
        // SAFETY: no feature was enabled whose state needs more than the struct's 4096 bytes.
        unsafe { fd.set_xsave(&xsave(state)) }.map_err(KvmError::call("setting the XSAVE area"))?;
    } else {
        fd.set_fpu(&fpu(&state.fpu))
            .map_err(KvmError::call("setting the FPU"))?;
    }
    if vm.kvm().check_extension(Cap::Debugregs) {
        let debug = kvm_debugregs {
            db: state.dr,
            dr6: state.dr6,
            dr7: state.dr7,
            ..Default::default()
        };
        fd.set_debug_regs(&debug)
            .map_err(KvmError::call("setting the debug registers"))?;
    }
    set_msrs(vm, fd, &state.msrs, |index| {
        index != msr_index::IA32_TSC_DEADLINE
    })?;
    if let (true, Some(apic)) = (vm.irqchip().has_apics(), &state.apic) {
        fd.set_lapic(&lapic(apic))
            .map_err(KvmError::call("setting the local APIC"))?;
    }
    set_msrs(vm, fd, &state.msrs, |index| {
        index == msr_index::IA32_TSC_DEADLINE
    })?;
    if vm.kvm().check_extension(Cap::VcpuEvents) {
        fd.set_vcpu_events(&events(&state.events))
            .map_err(KvmError::call("setting pending events"))?;
    }
    if vm.irqchip().has_apics() {
        let mp_state = match state.activity {
            Activity::Running => KVM_MP_STATE_RUNNABLE,
            Activity::WaitForInit => KVM_MP_STATE_UNINITIALIZED,
            Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
            Activity::Halted => KVM_MP_STATE_HALTED,
            Activity::SipiReceived => KVM_MP_STATE_SIPI_RECEIVED,
        };
        fd.set_mp_state(kvm_mp_state { mp_state })
            .map_err(KvmError::call("setting the activity"))?;
    }
    Ok(())
}

pub(super) fn get_regs(from: &kvm_regs, state: &mut CpuState) {
    state.gpr = [
        from.rax, from.rcx, from.rdx, from.rbx, from.rsp, from.rbp, from.rsi, from.rdi, from.r8,
        from.r9, from.r10, from.r11, from.r12, from.r13, from.r14, from.r15,
    ];
    state.rip = from.rip;
    state.rflags = from.rflags;
}

fn regs(state: &CpuState) -> kvm_regs {
    let g = &state.gpr;
    kvm_regs {
        rax: g[gpr::RAX],
        rcx: g[gpr::RCX],
        rdx: g[gpr::RDX],
        rbx: g[gpr::RBX],
        rsp: g[gpr::RSP],
        rbp: g[gpr::RBP],
        rsi: g[gpr::RSI],
        rdi: g[gpr::RDI],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: state.rip,
        rflags: state.rflags,
    }
}

fn get_segment(from: &kvm_segment) -> Segment {
    Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        kind: from.type_,
        dpl: from.dpl,
        code_or_data: from.s != 0,
        present: from.present != 0,
        available: from.avl != 0,
        long: from.l != 0,
        big: from.db != 0,
        granular: from.g != 0,
        unusable: from.unusable != 0,
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

pub(super) fn get_sregs(from: &kvm_sregs, state: &mut CpuState) {
    state.es = get_segment(&from.es);
    state.cs = get_segment(&from.cs);
    state.ss = get_segment(&from.ss);
    state.ds = get_segment(&from.ds);
    state.fs = get_segment(&from.fs);
    state.gs = get_segment(&from.gs);
    state.ldtr = get_segment(&from.ldt);
    state.tr = get_segment(&from.tr);
    let table = |from: &kvm_dtable| DescriptorTable {
        base: from.base,
        limit: from.limit,
    };
    state.gdtr = table(&from.gdt);
    state.idtr = table(&from.idt);
    state.cr0 = from.cr0;
    state.cr2 = from.cr2;
    state.cr3 = from.cr3;
    state.cr4 = from.cr4;
    state.cr8 = from.cr8;
    state.efer = from.efer;
    state.apic_base = from.apic_base;
}

fn sregs(state: &CpuState) -> kvm_sregs {
    let table = |from: &DescriptorTable| kvm_dtable {
        base: from.base,
        limit: from.limit,
        padding: [0; 3],
    };
    kvm_sregs {
        cs: segment(&state.cs),
        ds: segment(&state.ds),
        es: segment(&state.es),
        fs: segment(&state.fs),
        gs: segment(&state.gs),
        ss: segment(&state.ss),
        tr: segment(&state.tr),
        ldt: segment(&state.ldtr),
        gdt: table(&state.gdtr),
        idt: table(&state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: state.apic_base,
        // An interrupt under way is part of the events.
        interrupt_bitmap: [0; 4],
    }
}

fn get_fpu(from: &kvm_fpu, fpu: &mut FpuState) {
    fpu.fcw = from.fcw;
    fpu.fsw = from.fsw;
    fpu.ftw = from.ftwx;
    fpu.fop = from.last_opcode & 0x7ff;
    fpu.fip = from.last_ip;
    fpu.fdp = from.last_dp;
    fpu.mxcsr = from.mxcsr;
    for (st, from) in fpu.st.iter_mut().zip(&from.fpr) {
        st.copy_from_slice(&from[..10]);
    }
    for (xmm, from) in fpu.xmm.iter_mut().zip(&from.xmm) {
        *xmm = u128::from_le_bytes(*from);
    }
}

fn fpu(from: &FpuState) -> kvm_fpu {
    let mut fpu = kvm_fpu {
        fcw: from.fcw,
        fsw: from.fsw,
        ftwx: from.ftw,
        last_opcode: from.fop,
        last_ip: from.fip,
        last_dp: from.fdp,
        mxcsr: from.mxcsr,
        ..Default::default()
    };
    for (to, st) in fpu.fpr.iter_mut().zip(&from.st) {
        to[..10].copy_from_slice(st);
    }
    for (to, xmm) in fpu.xmm.iter_mut().zip(&from.xmm) {
        *to = xmm.to_le_bytes();
    }
    fpu
}

/// Byte offsets in the XSAVE area: Intel SDM volume 1, table "Format of an FXSAVE area".
mod xsave_area {
    pub(super) const MXCSR: usize = 24;
    pub(super) const MXCSR_MASK: usize = 28;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
    pub(super) const XSTATE_BV: usize = 512;
    pub(super) const EXTENDED: usize = 576;
}

fn get_xsave(from: &kvm_xsave, state: &mut CpuState) {
    let mut bytes = [0u8; 4096];
    for (to, word) in bytes.chunks_exact_mut(4).zip(&from.region) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let u64_at = |at: usize| {
        bytes[at..at + 8]
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u64::from(*b))
    };
    let bv = u64_at(xsave_area::XSTATE_BV);
    let mut fpu = FpuState::default();
    // A component whose bit is clear is in its initial state, whatever the bytes say.
    if bv & 1 != 0 {
        fpu.fcw = u16_at(0);
        fpu.fsw = u16_at(2);
        fpu.ftw = bytes[4];
        fpu.fop = u16_at(6) & 0x7ff;
        fpu.fip = u64_at(8);
        fpu.fdp = u64_at(16);
        for (i, st) in fpu.st.iter_mut().enumerate() {
            let at = xsave_area::ST + 16 * i;
            st.copy_from_slice(&bytes[at..at + 10]);
        }
    }
    if bv & 2 != 0 {
        for (i, xmm) in fpu.xmm.iter_mut().enumerate() {
            let at = xsave_area::XMM + 16 * i;
            *xmm = u128::from(u64_at(at)) | u128::from(u64_at(at + 8)) << 64;
        }
    }
    // MXCSR belongs to both SSE and AVX.
    if bv & 6 != 0 {
        fpu.mxcsr = u64_at(xsave_area::MXCSR) as u32;
    }
    state.fpu = fpu;
    let mut area = Bytes([0; XSAVE_EXTENDED_BYTES]);
    area.0.copy_from_slice(&bytes[xsave_area::EXTENDED..]);
    state.extended = ExtendedState {
        xstate_bv: bv & !3,
        area,
    };
}

fn xsave(state: &CpuState) -> kvm_xsave {
    let mut bytes = [0u8; 4096];
    let fpu = &state.fpu;
    bytes[0..2].copy_from_slice(&fpu.fcw.to_le_bytes());
    bytes[2..4].copy_from_slice(&fpu.fsw.to_le_bytes());
    bytes[4] = fpu.ftw;
    bytes[6..8].copy_from_slice(&fpu.fop.to_le_bytes());
    bytes[8..16].copy_from_slice(&fpu.fip.to_le_bytes());
    bytes[16..24].copy_from_slice(&fpu.fdp.to_le_bytes());
    bytes[xsave_area::MXCSR..][..4].copy_from_slice(&fpu.mxcsr.to_le_bytes());
    bytes[xsave_area::MXCSR_MASK..][..4].copy_from_slice(&0xffffu32.to_le_bytes());
    for (i, st) in fpu.st.iter().enumerate() {
        bytes[xsave_area::ST + 16 * i..][..10].copy_from_slice(st);
    }
    for (i, xmm) in fpu.xmm.iter().enumerate() {
        bytes[xsave_area::XMM + 16 * i..][..16].copy_from_slice(&xmm.to_le_bytes());
    }
    let bv = state.extended.xstate_bv | 3;
    bytes[xsave_area::XSTATE_BV..][..8].copy_from_slice(&bv.to_le_bytes());
    bytes[xsave_area::EXTENDED..].copy_from_slice(&state.extended.area.0);
    let mut xsave = kvm_xsave::default();
    for (word, from) in xsave.region.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*from);
    }
    xsave
}

fn get_msrs(vm: &Vm, fd: &VcpuFd, msrs: &mut Msrs) -> Result<(), KvmError> {
    let mut left: &[u32] = vm.msr_indices()?;
    while !left.is_empty() {
        let entries: Vec<kvm_msr_entry> = left
            .iter()
            .take(MSRS_AT_ONCE)
            .map(|index| kvm_msr_entry {
                index: *index,
                ..Default::default()
            })
            .collect();
        let mut list = KvmMsrs::from_entries(&entries)
            .map_err(|_| KvmError::Unsupported("this number of MSRs"))?;
        let read = fd
            .get_msrs(&mut list)
            .map_err(KvmError::call("reading MSRs"))?;
        for entry in list.as_slice().iter().take(read) {
            if !ELSEWHERE.contains(&entry.index) && !msrs.set(entry.index, entry.data) {
                return Err(KvmError::Unsupported("this number of MSRs"));
            }
        }
        // The kernel stops at the first one it refuses: that one is passed over.
        let done = read + usize::from(read < entries.len());
        left = &left[done..];
    }
    Ok(())
}

fn set_msrs(
    vm: &Vm,
    fd: &VcpuFd,
    msrs: &Msrs,
    chosen: impl Fn(u32) -> bool,
) -> Result<(), KvmError> {
    let mut msrs = msrs.clone();
    let entries: Vec<kvm_msr_entry> = vm
        .msr_indices()?
        .iter()
        .filter(|index| chosen(**index) && !ELSEWHERE.contains(index))
        .filter_map(|&index| {
            Some(kvm_msr_entry {
                index,
                data: msrs.get(index)?,
                ..Default::default()
            })
        })
        .collect();
    let mut left = &entries[..];
    while !left.is_empty() {
        let now = &left[..left.len().min(MSRS_AT_ONCE)];
        let list =
            KvmMsrs::from_entries(now).map_err(|_| KvmError::Unsupported("this number of MSRs"))?;
        let written = fd.set_msrs(&list).map_err(KvmError::call("setting MSRs"))?;
        let done = written + usize::from(written < now.len());
        left = &left[done..];
    }
    Ok(())
}

fn get_lapic(from: &kvm_lapic_state) -> LocalApicState {
    let at = |register: usize| {
        let bytes = &from.regs[register * 16..register * 16 + 4];
        bytes
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u32::from(*b as u8))
    };
    let eight = |first: usize| std::array::from_fn(|i| at(first + i));
    LocalApicState {
        id: at(0x02),
        version: at(0x03),
        tpr: at(0x08),
        apr: at(0x09),
        ppr: at(0x0a),
        ldr: at(0x0d),
        dfr: at(0x0e),
        svr: at(0x0f),
        isr: eight(0x10),
        tmr: eight(0x18),
        irr: eight(0x20),
        esr: at(0x28),
        lvt_cmci: at(0x2f),
        icr: [at(0x30), at(0x31)],
        lvt_timer: at(0x32),
        lvt_thermal: at(0x33),
        lvt_pmc: at(0x34),
        lvt_lint0: at(0x35),
        lvt_lint1: at(0x36),
        lvt_error: at(0x37),
        timer_initial: at(0x38),
        timer_current: at(0x39),
        timer_divide: at(0x3e),
    }
}

fn lapic(from: &LocalApicState) -> kvm_lapic_state {
    let mut lapic = kvm_lapic_state::default();
    let mut put = |register: usize, value: u32| {
        for (to, byte) in lapic.regs[register * 16..]
            .iter_mut()
            .zip(value.to_le_bytes())
        {
            *to = byte as _;
        }
    };
    put(0x02, from.id);
    put(0x03, from.version);
    put(0x08, from.tpr);
    put(0x09, from.apr);
    put(0x0a, from.ppr);
    put(0x0d, from.ldr);
    put(0x0e, from.dfr);
    put(0x0f, from.svr);
    for i in 0..8 {
        put(0x10 + i, from.isr[i]);
        put(0x18 + i, from.tmr[i]);
        put(0x20 + i, from.irr[i]);
    }
    put(0x28, from.esr);
    put(0x2f, from.lvt_cmci);
    put(0x30, from.icr[0]);
    put(0x31, from.icr[1]);
    put(0x32, from.lvt_timer);
    put(0x33, from.lvt_thermal);
    put(0x34, from.lvt_pmc);
    put(0x35, from.lvt_lint0);
    put(0x36, from.lvt_lint1);
    put(0x37, from.lvt_error);
    put(0x38, from.timer_initial);
    put(0x39, from.timer_current);
    put(0x3e, from.timer_divide);
    lapic
}

fn get_events(from: &kvm_vcpu_events) -> Events {
    Events {
        exception: PendingException {
            injected: from.exception.injected != 0,
            pending: from.exception.pending != 0 && from.exception.injected == 0,
            vector: from.exception.nr & 31,
            error_code: (from.exception.has_error_code != 0).then_some(from.exception.error_code),
            // Exception payloads are not asked for: the kernel delivers them itself.
            payload: None,
        },
        interrupt: PendingInterrupt {
            injected: from.interrupt.injected != 0,
            vector: from.interrupt.nr,
            soft: from.interrupt.soft != 0,
        },
        nmi_injected: from.nmi.injected != 0,
        nmi_pending: from.nmi.pending != 0,
        nmi_masked: from.nmi.masked != 0,
        shadow: from.interrupt.shadow & 3,
        sipi_vector: from.sipi_vector as u8,
        triple_fault: from.triple_fault.pending != 0,
    }
}

fn events(from: &Events) -> kvm_vcpu_events {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | KVM_VCPUEVENT_VALID_SHADOW,
        sipi_vector: from.sipi_vector.into(),
        ..Default::default()
    };
    let exception = &from.exception;
    events.exception.injected = (exception.injected || exception.pending).into();
    events.exception.nr = exception.vector;
    events.exception.has_error_code = exception.error_code.is_some().into();
    events.exception.error_code = exception.error_code.unwrap_or(0);
    events.interrupt.injected = from.interrupt.injected.into();
    events.interrupt.nr = from.interrupt.vector;
    events.interrupt.soft = from.interrupt.soft.into();
    events.interrupt.shadow = from.shadow;
    events.nmi.injected = from.nmi_injected.into();
    events.nmi.pending = from.nmi_pending.into();
    events.nmi.masked = from.nmi_masked.into();
    events
}
