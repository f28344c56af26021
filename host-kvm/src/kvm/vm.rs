//! The virtual machine: memory slots, the in-kernel interrupt controllers and timer.
//!
//! Order of set-up, measured: memory slots before the in-kernel interrupt controllers, because
//! each later slot change has to wait for readers of the controllers' own structures (0.4 ms
//! against 8 ms for the whole); then the controllers, then the PIT, then processors.
//! One thread does it all: asking for the supported CPUID (0.34 ms) in a second one meanwhile makes
//! the whole slower, 1.8 ms against 1.3, because the kernel's waits for readers get longer.

use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X86_USER_SPACE_MSR, KVM_MAX_CPUID_ENTRIES,
    KVM_MEM_READONLY, KVM_MSR_EXIT_REASON_INVAL, KVM_PIT_SPEAKER_DUMMY, MsrList, kvm_enable_cap,
    kvm_ioeventfd, kvm_msi, kvm_pit_config, kvm_pit_state2, kvm_reinject_control,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use thimble_core::devices::Width;
use thimble_core::irq::Msi;
use thimble_core::irq::ioapic::IoApicState;
use thimble_core::irq::pic::SavedPic;
use thimble_core::memory::{Backing, GuestRam, MemoryMap, Region};

use super::error::KvmError;
use super::routes;
use super::vcpu::Pauser;
use crate::memory::{PAGE, Ram, Rom};
use thimble_core::trace::events;
use thimble_core::virtio::transport::Doorbell;

/// Where the kernel keeps three pages of its own for real mode on old processors: below the
/// firmware, above all RAM below 4 GiB, as other monitors place it.
const TSS_ADDRESS: usize = 0xfeff_d000;
/// One page behind it: the identity map for the same purpose.
const IDENTITY_MAP_ADDRESS: u64 = 0xfeff_c000;

/// No slot goes across this address: what firmware remaps is below, most RAM above, and the
/// slot that holds most RAM is never touched.
const SLOT_BORDER: u64 = 0x10_0000;

/// Who models interrupt controllers and timers: `kernel-irqchip=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// The kernel models the local APICs, the I/O APIC, both 8259s and the 8254 with port 61h.
    On,
    /// The kernel models the local APICs. The rest is the machine's: it sends messages
    /// ([`Vm::signal_msi`]) and drives the INTR line ([`Vm::set_intr`]), and processors tell it of
    /// the end of level-triggered interrupts.
    Split,
    /// All are the machine's, local APICs too: it tells by [`Vm::attention`] which processor is to
    /// look, and processors ask it ([`super::ExitHandler`]).
    Off,
    /// There are none: boards without interrupts.
    None,
}

/// What the kernel's interval timer does about ticks that the guest was too late for:
/// `-global kvm-pit.lost_tick_policy=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostTicks {
    /// They come later, one after the other.
    #[default]
    Delay,
    /// They are gone.
    Discard,
}

impl LostTicks {
    /// Reads the value of the property; `None` for a policy that the timer does not have.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "delay" => Some(Self::Delay),
            "discard" => Some(Self::Discard),
            _ => None,
        }
    }
}

/// `_IOW(KVMIO, 0x79, struct kvm_ioeventfd)`.
const KVM_IOEVENTFD: libc::Ioctl = 0x4040_ae79;

/// Flags of a [`kvm_ioeventfd`].
const IOEVENTFD_DATAMATCH: u32 = 1 << 0;
const IOEVENTFD_PIO: u32 = 1 << 1;
const IOEVENTFD_DEASSIGN: u32 = 1 << 2;

/// `_IO(KVMIO, 0x71)`; takes a [`kvm_reinject_control`].
const KVM_REINJECT_CONTROL: libc::Ioctl = 0xae71;

impl Irqchip {
    /// Reads the value of `kernel-irqchip=`.
    pub fn parse(value: &str) -> Result<Self, KvmError> {
        match value {
            "on" => Ok(Self::On),
            "split" => Ok(Self::Split),
            "off" => Ok(Self::Off),
            _ => Err(KvmError::Unsupported("this value of kernel-irqchip")),
        }
    }

    /// What `kernel-irqchip=` is by default: [`Irqchip::Split`] where the kernel has it. Measured in
    /// turn with [`Irqchip::On`], with one and with four processors: the first guest instruction
    /// comes in half to nine tenths of the time, the process ends in a seventh to a twentieth (0.8
    /// against 5.8 ms, 1.0 against 20), and SeaBIOS gets through in 3.7 seconds against 5.2.
    pub fn best(kvm: &Kvm) -> Self {
        if kvm.check_extension(Cap::SplitIrqchip) {
            Self::Split
        } else {
            Self::On
        }
    }

    /// Whether the kernel models local APICs.
    pub(crate) fn has_apics(self) -> bool {
        matches!(self, Self::On | Self::Split)
    }
}

/// Whether x2APIC mode is possible with [`Irqchip::Off`]: its registers are model-specific ones,
/// and accesses to them must come here.
pub fn x2apic_outside(kvm: &Kvm) -> bool {
    kvm.check_extension_raw(KVM_CAP_X86_USER_SPACE_MSR.into()) > 0
}

/// Opens /dev/kvm and checks that it is the KVM we know.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Unusable(error.into()),
    })?;
    let version = kvm.get_api_version();
    if version < 0 {
        return Err(KvmError::Unusable(std::io::Error::last_os_error()));
    }
    if version != KVM_API_VERSION as i32 {
        return Err(KvmError::ApiVersion(version));
    }
    for (cap, name) in [
        (Cap::UserMemory, "user memory slots"),
        (Cap::ReadonlyMem, "read-only memory slots"),
        (Cap::ImmediateExit, "immediate_exit"),
        (Cap::ExtCpuid, "CPUID tables"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Lacks(name));
        }
    }
    Ok(kvm)
}

/// One memory slot of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    gpa: u64,
    length: u64,
    host: u64,
    read_only: bool,
}

/// A virtual machine. Shared by the vCPU threads and whoever owns the machine.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    irqchip: Irqchip,
    lost_ticks: Option<LostTicks>,
    /// Level of the INTR line.
    intr: AtomicBool,
    /// Takes processors out of the guest when INTR rises.
    kicker: OnceLock<Pauser>,
    /// By the slot's number; `None` is a free number.
    slots: Mutex<Vec<Option<Slot>>>,
    msrs: OnceLock<Vec<u32>>,
    // The kernel maps these into the guest: they must outlive `fd`, so they come after it.
    ram: Arc<Ram>,
    rom: Option<Arc<Rom>>,
}

impl Vm {
    /// Creates a virtual machine with its memory and interrupt controllers, and the interval timer
    /// where the kernel is to model it.
    pub fn new(
        kvm: Kvm,
        irqchip: Irqchip,
        ram: Arc<Ram>,
        rom: Option<Arc<Rom>>,
        map: &MemoryMap,
    ) -> Result<Self, KvmError> {
        Self::with_timer(kvm, irqchip, Some(LostTicks::default()), ram, rom, map)
    }

    /// As [`Vm::new`]; `lost_ticks` says what the kernel's interval timer does about ticks that
    /// come too late, `None` that there is no such timer.
    pub fn with_timer(
        kvm: Kvm,
        irqchip: Irqchip,
        lost_ticks: Option<LostTicks>,
        ram: Arc<Ram>,
        rom: Option<Arc<Rom>>,
        map: &MemoryMap,
    ) -> Result<Self, KvmError> {
        let fd = loop {
            match kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                other => break other.map_err(KvmError::call("creating a virtual machine"))?,
            }
        };
        let vm = Self {
            kvm,
            fd,
            irqchip,
            lost_ticks,
            intr: AtomicBool::new(false),
            kicker: OnceLock::new(),
            slots: Mutex::new(Vec::new()),
            msrs: OnceLock::new(),
            ram,
            rom,
        };
        if vm.kvm.check_extension(Cap::SetTssAddr) {
            vm.fd
                .set_tss_address(TSS_ADDRESS)
                .map_err(KvmError::call("setting the TSS address"))?;
        }
        if vm.kvm.check_extension(Cap::SetIdentityMapAddr) {
            vm.fd
                .set_identity_map_address(IDENTITY_MAP_ADDRESS)
                .map_err(KvmError::call("setting the identity map address"))?;
        }
        vm.apply_map(map)?;
        if irqchip == Irqchip::On {
            vm.fd
                .create_irq_chip()
                .map_err(KvmError::call("creating the interrupt controllers"))?;
            if let Some(lost_ticks) = lost_ticks {
                vm.create_pit(lost_ticks)?;
            }
            routes::set_in_kernel(&vm)?;
        }
        if irqchip == Irqchip::Split {
            if !vm.kvm.check_extension(Cap::SplitIrqchip) {
                return Err(KvmError::Lacks("kernel-irqchip=split"));
            }
            let mut cap = kvm_enable_cap {
                cap: KVM_CAP_SPLIT_IRQCHIP,
                ..Default::default()
            };
            cap.args[0] = routes::INPUTS as u64;
            vm.fd
                .enable_cap(&cap)
                .map_err(KvmError::call("creating the local APICs"))?;
        }
        if irqchip == Irqchip::Off && x2apic_outside(&vm.kvm) {
            // The kernel knows none of x2APIC's registers without a local APIC of its own.
            let mut cap = kvm_enable_cap {
                cap: KVM_CAP_X86_USER_SPACE_MSR,
                ..Default::default()
            };
            cap.args[0] = KVM_MSR_EXIT_REASON_INVAL.into();
            vm.fd
                .enable_cap(&cap)
                .map_err(KvmError::call("asking for accesses to MSRs"))?;
        }
        Ok(vm)
    }

    /// The system's descriptor, for capabilities.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The machine's descriptor.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Who models interrupt controllers.
    pub fn irqchip(&self) -> Irqchip {
        self.irqchip
    }

    /// Brings the kernel's memory slots in line with the map, touching only what differs.
    ///
    /// Processors may run meanwhile. One that reaches a page in the instant between its old and
    /// its new slot exits for MMIO: the MMIO handler must look such an address up in the map,
    /// under the machine's lock, and serve it from RAM or ROM. Instructions can not be fetched
    /// in that instant, so a change of code that other processors run needs them paused.
    ///
    /// On error the slots may be half changed; the machine can not go on.
    pub fn apply_map(&self, map: &MemoryMap) -> Result<(), KvmError> {
        let mut wanted = Vec::with_capacity(map.regions().len() + 4);
        for region in map.regions() {
            self.slots_of(region, &mut wanted)?;
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, entry) in slots.iter_mut().enumerate() {
            let Some(slot) = entry else { continue };
            if let Some(at) = wanted.iter().position(|other| other == slot) {
                wanted.swap_remove(at);
            } else {
                self.set_slot(number, &Slot { length: 0, ..*slot })?;
                *entry = None;
            }
        }
        for slot in wanted {
            let number = match slots.iter().position(Option::is_none) {
                Some(number) => number,
                None => {
                    slots.push(None);
                    slots.len() - 1
                }
            };
            self.set_slot(number, &slot)?;
            slots[number] = Some(slot);
        }
        Ok(())
    }

    fn slots_of(&self, region: &Region, wanted: &mut Vec<Slot>) -> Result<(), KvmError> {
        let bad = KvmError::Region { gpa: region.gpa };
        let (mut gpa, mut left) = (region.gpa, region.length);
        if region.read == Backing::Bus {
            return Ok(());
        }
        let end = gpa.checked_add(left);
        if gpa % PAGE != 0 || left % PAGE != 0 || end.is_none() {
            return Err(bad);
        }
        while left != 0 {
            let block = match region.read {
                Backing::Rom { offset } => offset
                    .checked_add(gpa - region.gpa)
                    .filter(|offset| offset % PAGE == 0)
                    .and_then(|offset| self.rom.as_ref()?.block(offset)),
                _ => self.ram.block(gpa),
            };
            let Some(block) = block else { return Err(bad) };
            let mut length = left.min(block.length as u64);
            if gpa < SLOT_BORDER {
                length = length.min(SLOT_BORDER - gpa);
            }
            wanted.push(Slot {
                gpa,
                length,
                host: block.pointer.as_ptr() as u64,
                read_only: region.read != Backing::Ram || !region.write_ram,
            });
            gpa += length;
            left -= length;
        }
        Ok(())
    }

    fn set_slot(&self, number: usize, slot: &Slot) -> Result<(), KvmError> {
        let region = kvm_userspace_memory_region {
            slot: number as u32,
            flags: if slot.read_only { KVM_MEM_READONLY } else { 0 },
            guest_phys_addr: slot.gpa,
            memory_size: slot.length,
            userspace_addr: slot.host,
        };
        events::kvm_set_user_memory(region.slot, region.flags, slot.gpa, slot.length);
        // SAFETY: the host memory belongs to `ram` or `rom`, which live as long as the machine,
        // and is only reached through raw pointers.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(KvmError::call("setting a memory slot"))
    }

    /// Copies guest memory as a processor would read it, as far as it is RAM or ROM; tells how
    /// many bytes that were.
    pub fn read_memory(&self, gpa: u64, to: &mut [u8]) -> usize {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, byte) in to.iter_mut().enumerate() {
            let at = gpa.wrapping_add(i as u64);
            let slot = slots.iter().flatten().find(|slot| {
                at.checked_sub(slot.gpa)
                    .is_some_and(|offset| offset < slot.length)
            });
            let Some(slot) = slot else { return i };
            // SAFETY: the address is inside a slot, and slots lie in `ram` or `rom`.
            *byte = unsafe { ((slot.host + (at - slot.gpa)) as *const u8).read_volatile() };
        }
        to.len()
    }

    /// Drives the processors' INTR line, with [`Irqchip::Split`]: one that takes the interrupt asks
    /// for it by [`super::ExitHandler::acknowledge`]. Never waits. With others nothing happens.
    pub fn set_intr(&self, level: bool) {
        if self.irqchip != Irqchip::Split {
            return;
        }
        self.intr.store(level, Ordering::SeqCst);
        if level && let Some(kicker) = self.kicker.get() {
            kicker.interrupt();
        }
    }

    /// Lets a processor look at its local APIC, with [`Irqchip::Off`]. Never waits.
    pub fn attention(&self, cpu: u32) {
        if let Some(kicker) = self.kicker.get() {
            kicker.attention(cpu);
        }
    }

    /// Level of the INTR line.
    pub(super) fn intr(&self) -> bool {
        self.intr.load(Ordering::SeqCst)
    }

    pub(super) fn set_kicker(&self, kicker: Pauser) {
        // A machine gets its processors once.
        let _ = self.kicker.set(kicker);
    }

    /// Sends an interrupt to the local APICs.
    pub fn signal_msi(&self, message: Msi) -> Result<(), KvmError> {
        events::kvm_send_msi(message.address, message.data);
        let message = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..Default::default()
        };
        self.fd
            .signal_msi(message)
            .map(drop)
            .map_err(KvmError::call("sending an interrupt"))
    }

    /// Lets the kernel take notifications of a virtio device at `doorbell`, or no longer: they count up an
    /// eventfd, and the processor goes on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_ioeventfd(
        &self,
        eventfd: BorrowedFd<'_>,
        doorbell: Doorbell,
        on: bool,
    ) -> Result<(), KvmError> {
        let mut wanted = kvm_ioeventfd {
            len: Width::Word as u32,
            fd: eventfd.as_raw_fd(),
            ..Default::default()
        };
        match doorbell {
            Doorbell::Port { port, queue } => {
                wanted.addr = port.into();
                wanted.datamatch = queue.into();
                wanted.flags = IOEVENTFD_DATAMATCH | IOEVENTFD_PIO;
            }
            Doorbell::Memory(gpa) => wanted.addr = gpa,
            Doorbell::Register { gpa, queue } => {
                wanted.addr = gpa;
                wanted.len = Width::Dword as u32;
                wanted.datamatch = queue.into();
                wanted.flags = IOEVENTFD_DATAMATCH;
            }
        }
        if !on {
            wanted.flags |= IOEVENTFD_DEASSIGN;
        }
        // SAFETY: the descriptor is a VM's, and the call reads the structure that belongs to it.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_IOEVENTFD, &wanted) } < 0 {
            let error = std::io::Error::last_os_error();
            let errno = kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EIO));
            return Err(KvmError::call("letting the kernel take notifications")(
                errno,
            ));
        }
        Ok(())
    }

    /// Drives an input of the in-kernel controllers. Without them nothing happens.
    pub fn set_gsi(&self, gsi: u32, level: bool) -> Result<(), KvmError> {
        if self.irqchip != Irqchip::On {
            return Ok(());
        }
        events::kvm_set_irq(gsi, level);
        self.fd
            .set_irq_line(gsi, level)
            .map_err(KvmError::call("driving an interrupt line"))
    }

    /// Puts the in-kernel 8259s, I/O APIC and PIT into their power-on state. Call it while the
    /// processors are paused, before the devices are reset: they drive their lines afterwards.
    pub fn reset_irqchip(&self) -> Result<(), KvmError> {
        if self.irqchip != Irqchip::On {
            return Ok(());
        }
        self.set_pics(&SavedPic::default())?;
        self.set_ioapic(&IoApicState::default())?;
        if self.lost_ticks.is_none() {
            return Ok(());
        }
        let mut pit = kvm_pit_state2::default();
        for (i, channel) in pit.channels.iter_mut().enumerate() {
            // As after the kernel's own creation: no mode yet, full count, channel 2's gate low.
            channel.mode = 0xff;
            channel.gate = u8::from(i != 2);
            channel.count = 0x1_0000;
        }
        self.fd
            .set_pit2(&pit)
            .map_err(KvmError::call("resetting the PIT"))
    }

    fn create_pit(&self, lost_ticks: LostTicks) -> Result<(), KvmError> {
        let config = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd
            .create_pit2(config)
            .map_err(KvmError::call("creating the PIT"))?;
        if lost_ticks == LostTicks::Delay {
            // What the kernel does of itself.
            return Ok(());
        }
        if !self.kvm.check_extension(Cap::ReinjectControl) {
            return Err(KvmError::Lacks("lost_tick_policy=discard"));
        }
        let control = kvm_reinject_control::default();
        // SAFETY: the descriptor is a VM's, and the call reads the structure that belongs to it.
        if unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_REINJECT_CONTROL, &control) } < 0 {
            let error = std::io::Error::last_os_error();
            let errno = kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EIO));
            return Err(KvmError::call("setting the PIT's lost_tick_policy")(errno));
        }
        Ok(())
    }

    /// What the kernel's interval timer does about lost ticks; `None` without a timer.
    pub(crate) fn lost_ticks(&self) -> Option<LostTicks> {
        self.lost_ticks
    }

    /// Takes the page at `gpa` out of the guest's page tables in the kernel.
    pub fn flush_page(&self, gpa: u64) {
        self.ram.flush_page(gpa);
    }

    /// Nanoseconds of the guest's paravirtual clock. Read it when the machine stops and set it
    /// when it goes on, so that the clock stands still between.
    pub fn clock(&self) -> Result<u64, KvmError> {
        let clock = self.fd.get_clock();
        Ok(clock.map_err(KvmError::call("reading the clock"))?.clock)
    }

    /// Sets the guest's paravirtual clock.
    pub fn set_clock(&self, nanoseconds: u64) -> Result<(), KvmError> {
        let clock = kvm_bindings::kvm_clock_data {
            clock: nanoseconds,
            ..Default::default()
        };
        self.fd
            .set_clock(&clock)
            .map_err(KvmError::call("setting the clock"))
    }

    /// Lets guests idle on the processor itself, by HLT, MWAIT and PAUSE, instead of leaving the
    /// guest for it (`-overcommit cpu-pm=on`). Only before processors are made.
    ///
    /// # Errors
    /// If the kernel can't do it.
    pub fn leave_idle_to_guest(&self) -> Result<(), KvmError> {
        let possible = self
            .kvm
            .check_extension_raw(kvm_bindings::KVM_CAP_X86_DISABLE_EXITS.into());
        if possible <= 0 {
            return Err(KvmError::Lacks("leaving idle processors in the guest"));
        }
        let mut cap = kvm_enable_cap {
            cap: kvm_bindings::KVM_CAP_X86_DISABLE_EXITS,
            ..Default::default()
        };
        cap.args[0] = possible as u64;
        self.fd
            .enable_cap(&cap)
            .map_err(KvmError::call("leaving idle processors in the guest"))
    }

    /// Numbers of the model-specific registers that a saved state holds, asked for once.
    pub(crate) fn msr_indices(&self) -> Result<&[u32], KvmError> {
        if let Some(list) = self.msrs.get() {
            return Ok(list);
        }
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(KvmError::call("reading the list of MSRs"))?;
        let list: &MsrList = &list;
        Ok(self.msrs.get_or_init(|| list.as_slice().to_vec()))
    }

    /// What CPUID can show.
    pub(crate) fn supported_cpuid(kvm: &Kvm) -> Result<kvm_bindings::CpuId, KvmError> {
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("reading the supported CPUID"))
    }
}
