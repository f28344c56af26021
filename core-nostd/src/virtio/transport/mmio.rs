//! Virtio over memory-mapped registers, as in VIRTIO 1.2, section 4.2: modern, or legacy (section 4.2.4), never both.
//!
//! One device is 512 bytes of memory and an interrupt that is high while the interrupt status is not 0. As QEMU's `virtio-mmio` has
//! it: registers take whole doublewords, other accesses read as zeros and change nothing; the device's configuration, from 100h on,
//! takes every width. A legacy driver may change the size of a queue after it has said where the queue is: the rings move then. A place
//! without a device answers as [`vacant_read`] says.
//!
//! Not modelled: shared memory, whose length reads as ones; the reset of one queue, which has no register in QEMU's either, though
//! the feature is offered.

use serde::{Deserialize, Serialize};

use super::{Doorbell, IOEVENTFD, Layout, QUEUE_NUMBERS, SavedBehind, SavedDevice};
use crate::devices::class::{DeviceClass, Property, PropertyKind, Value};
use crate::devices::{Context, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;
use crate::virtio::block::VirtioBlock;
use crate::virtio::queue::{LEGACY_ALIGN, NOTIFY_ON_EMPTY, Rings, SIZE_MAX};
use crate::virtio::{
    Common, QUEUES_MAX, Virtio, feature, notify, read_configuration, reset, set_status, status,
};

/// Class of the place for one device.
pub static CLASS: DeviceClass = DeviceClass {
    name: "virtio-mmio",
    parent: "sys-bus-device",
    bus: Some("System"),
    doc: "virtio transport in memory",
    user_creatable: false,
    properties: &[
        Property {
            name: FORCE_LEGACY,
            kind: PropertyKind::Bool,
            default: Value::Bool(true),
            doc: "whether its registers are those before virtio 1.0",
        },
        Property {
            name: "format_transport_address",
            kind: PropertyKind::Bool,
            default: Value::Bool(true),
            doc: "whether saved state names devices by their address",
        },
        Property {
            name: IOEVENTFD,
            kind: PropertyKind::Bool,
            default: Value::Bool(true),
            doc: "whether the kernel takes notifications",
        },
    ],
};

/// The property of [`CLASS`] that chooses the registers.
pub const FORCE_LEGACY: &str = "force-legacy";

/// Bytes of a device's registers.
pub const LENGTH: u64 = 0x200;

/// Offsets of registers (section 4.2.2).
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    /// Legacy.
    pub(super) const GUEST_PAGE_SIZE: u64 = 0x028;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    /// Legacy.
    pub(super) const QUEUE_ALIGN: u64 = 0x03c;
    /// Legacy.
    pub(super) const QUEUE_PFN: u64 = 0x040;
    /// Modern, as all addresses of rings.
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_LEN_HIGH: u64 = 0x0b4;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// The text "virt".
const MAGIC: u32 = 0x7472_6976;
/// The text "QEMU", as guests know the vendor.
const VENDOR: u32 = 0x554d_4551;
/// Versions of the registers.
const LEGACY_VERSION: u32 = 1;
const MODERN_VERSION: u32 = 2;

/// Modern registers do not offer these.
const LEGACY_FEATURES: u64 = NOTIFY_ON_EMPTY | feature::ANY_LAYOUT;

/// The features that a transport adds to those of its device.
pub const fn features(legacy: bool) -> u64 {
    match legacy {
        true => NOTIFY_ON_EMPTY,
        false => LEGACY_FEATURES | feature::VERSION_1 | feature::RING_RESET,
    }
}

/// What a place without a device reads as: one that says that there is none.
pub fn vacant_read(legacy: bool, offset: u64, width: Width) -> u32 {
    match (offset, width) {
        (register::MAGIC_VALUE, Width::Dword) => MAGIC,
        (register::VERSION, Width::Dword) if legacy => LEGACY_VERSION,
        (register::VERSION, Width::Dword) => MODERN_VERSION,
        (register::VENDOR_ID, Width::Dword) => VENDOR,
        _ => 0,
    }
}

/// A virtio device in memory.
#[derive(Clone, Debug)]
pub struct VirtioMmio<D> {
    transport: Transport,
    device: D,
}

/// The transport without the device.
#[derive(Clone, Debug)]
struct Transport {
    device_type: u32,
    legacy: bool,
    line: IrqLine,
    state: State,
}

/// What changes, beside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Whether the high halves of features are selected.
    device_select: bool,
    driver_select: bool,
    driver_features: [u32; 2],
    queue_select: u16,
    /// Legacy: bits of a page, below 32.
    page_shift: u8,
    /// Legacy: what used rings are aligned to, powers of two.
    aligns: [u32; QUEUES_MAX],
    queues: [Layout; QUEUES_MAX],
}

const RESET: State = State {
    device_select: false,
    driver_select: false,
    driver_features: [0; 2],
    queue_select: 0,
    page_shift: 0,
    aligns: [LEGACY_ALIGN as u32; QUEUES_MAX],
    queues: [Layout {
        halves: [0; 6],
        enabled: false,
    }; QUEUES_MAX],
};

/// Saved form of [`VirtioMmio`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved<S> {
    state: State,
    behind: SavedBehind<S>,
}

impl Transport {
    /// Lets the interrupt follow the interrupt status.
    fn deliver(&self, cx: &mut Context<'_>, common: &mut Common) {
        // There are no vectors: status tells of everything.
        let _ = common.take_raised();
        let level = common.state.isr != 0;
        if cx.lines.level(self.line) != level {
            trace::virtio_mmio_setting_irq(level);
        }
        cx.lines.set(self.line, level);
    }

    /// A driver has reset the device. What it has said of pages and selected before stays: Linux says it before.
    fn forget(&mut self) {
        self.state.queue_select = 0;
        for layout in &mut self.state.queues {
            layout.enabled = false;
        }
    }

    /// The address that a page number stands for.
    fn page(&self, number: u32) -> u64 {
        u64::from(number) << self.state.page_shift
    }

    fn read(&self, device: &dyn Virtio, offset: u64, width: Width) -> u32 {
        trace::virtio_mmio_read(offset);
        if let Some(into) = offset.checked_sub(register::CONFIG) {
            return read_configuration(device, into, width);
        }
        if width != Width::Dword {
            return 0;
        }
        let common = device.common();
        let state = &self.state;
        let queue = common.queue(state.queue_select);
        match offset {
            register::DEVICE_ID => self.device_type,
            register::DEVICE_FEATURES => match (self.legacy, state.device_select) {
                (true, false) => common.offered() as u32,
                (true, true) => 0,
                (false, high) => {
                    let offered = common.offered() & !LEGACY_FEATURES;
                    (offered >> if high { 32 } else { 0 }) as u32
                }
            },
            register::QUEUE_NUM_MAX => queue.map_or(0, |_| SIZE_MAX.into()),
            register::QUEUE_PFN if self.legacy => queue.map_or(0, |queue| {
                (queue.ring.rings().descriptors >> state.page_shift) as u32
            }),
            register::QUEUE_READY if !self.legacy => {
                let layout = state.queues.get(usize::from(state.queue_select));
                layout.is_some_and(|layout| layout.enabled).into()
            }
            register::INTERRUPT_STATUS => common.state.isr.into(),
            register::STATUS => common.status().into(),
            register::SHM_LEN_LOW | register::SHM_LEN_HIGH => u32::MAX,
            register::CONFIG_GENERATION if !self.legacy => common.generation().into(),
            _ => vacant_read(self.legacy, offset, width),
        }
    }

    fn write(&mut self, device: &mut dyn Virtio, offset: u64, width: Width, value: u32) {
        trace::virtio_mmio_write_offset(offset, value);
        if let Some(into) = offset.checked_sub(register::CONFIG) {
            return device.configure(into, width, value);
        }
        if width != Width::Dword {
            return;
        }
        let legacy = self.legacy;
        let index = self.state.queue_select;
        match offset {
            register::DEVICE_FEATURES_SEL => self.state.device_select = value != 0,
            register::DRIVER_FEATURES_SEL => self.state.driver_select = value != 0,
            register::DRIVER_FEATURES if legacy && !self.state.driver_select => {
                device.common_mut().take_features(value.into());
            }
            register::DRIVER_FEATURES if !legacy => {
                let half = usize::from(self.state.driver_select);
                self.state.driver_features[half] = value;
            }
            register::GUEST_PAGE_SIZE if legacy => {
                let shift = value.trailing_zeros();
                self.state.page_shift = if shift < u32::BITS { shift as u8 } else { 0 };
                trace::virtio_mmio_guest_page(value, self.state.page_shift);
            }
            register::QUEUE_SEL if value < u32::from(QUEUE_NUMBERS) => {
                self.state.queue_select = value as u16;
            }
            register::QUEUE_NUM => {
                trace::virtio_mmio_queue_write(value, SIZE_MAX);
                if let Ok(size) = u16::try_from(value)
                    && let Some(queue) = device.common_mut().queue_mut(index)
                {
                    queue.ring.set_size(size);
                    let base = queue.ring.rings().descriptors;
                    if legacy && base != 0 {
                        self.place(device, base);
                    }
                }
            }
            register::QUEUE_ALIGN if legacy && value.is_power_of_two() => {
                if let Some(align) = self.state.aligns.get_mut(usize::from(index)) {
                    *align = value;
                }
                let queue = device.common().queue(index);
                let base = queue.map_or(0, |queue| queue.ring.rings().descriptors);
                if base != 0 {
                    self.place(device, base);
                }
            }
            register::QUEUE_PFN if legacy => {
                trace::virtio_mmio_queue_write(value, SIZE_MAX);
                match value {
                    0 => {
                        reset(device);
                        self.forget();
                    }
                    number => self.place(device, self.page(number)),
                }
            }
            register::QUEUE_READY if !legacy => self.enable(device, value != 0),
            register::QUEUE_NOTIFY => {
                if let Ok(queue) = u16::try_from(value) {
                    notify(device, queue);
                }
            }
            register::INTERRUPT_ACK => device.common_mut().state.isr &= !(value as u8),
            register::STATUS => {
                if !legacy && value as u8 & status::FEATURES_OK != 0 {
                    let [low, high] = self.state.driver_features.map(u64::from);
                    device.common_mut().take_features(high << 32 | low);
                }
                set_status(device, value as u8);
                if value as u8 == 0 {
                    self.forget();
                }
            }
            _ if !legacy => self.set_address(offset, value),
            _ => {}
        }
    }

    /// Puts the selected queue of a legacy driver somewhere.
    fn place(&self, device: &mut dyn Virtio, base: u64) {
        let index = self.state.queue_select;
        let align = self.state.aligns.get(usize::from(index)).copied();
        if let Some(queue) = device.common_mut().queue_mut(index) {
            let align = align.map_or(LEGACY_ALIGN, u64::from);
            let size = queue.ring.size();
            queue.ring.set_rings(Rings::legacy(base, size, align));
        }
    }

    fn enable(&mut self, device: &mut dyn Virtio, enabled: bool) {
        let index = self.state.queue_select;
        let queue = device.common_mut().queue_mut(index);
        let layout = self.state.queues.get_mut(usize::from(index));
        let (Some(queue), Some(layout)) = (queue, layout) else {
            return;
        };
        layout.enabled = enabled;
        if enabled {
            queue.ring.set_rings(layout.rings());
        }
    }

    /// Writes half of an address of the selected queue's.
    fn set_address(&mut self, offset: u64, value: u32) {
        const HALVES: [u64; 6] = [
            register::QUEUE_DESC_LOW,
            register::QUEUE_DESC_HIGH,
            register::QUEUE_DRIVER_LOW,
            register::QUEUE_DRIVER_HIGH,
            register::QUEUE_DEVICE_LOW,
            register::QUEUE_DEVICE_HIGH,
        ];
        let index = usize::from(self.state.queue_select);
        let half = HALVES.iter().position(|half| *half == offset);
        if let (Some(half), Some(layout)) = (half, self.state.queues.get_mut(index)) {
            layout.halves[half] = value;
        }
    }
}

impl<D: Virtio> VirtioMmio<D> {
    /// A device of this type of virtio's, behind legacy registers or modern ones, with the line that it interrupts by.
    pub fn new(device_type: u16, legacy: bool, line: IrqLine, device: D) -> Self {
        Self {
            transport: Transport {
                device_type: device_type.into(),
                legacy,
                line,
                state: RESET,
            },
            device,
        }
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device, for what has no consequence outside it.
    pub(in crate::virtio) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Whether this offset is where the driver notifies.
    pub fn is_doorbell(&self, offset: u64) -> bool {
        offset & !3 == register::QUEUE_NOTIFY
    }

    /// Shows where the driver notifies the device whose first address is `base`.
    pub fn visit_doorbells(&self, base: u64, visit: &mut dyn FnMut(Doorbell)) {
        let gpa = base + register::QUEUE_NOTIFY;
        for queue in self.device.common().ready_queues() {
            visit(Doorbell::Register { gpa, queue });
        }
    }

    /// Does something with the device; the interrupt follows.
    pub fn with_device<R>(
        &mut self,
        cx: &mut Context<'_>,
        call: impl FnOnce(&mut D, &mut Context<'_>) -> R,
    ) -> R {
        let result = call(&mut self.device, cx);
        self.transport.deliver(cx, self.device.common_mut());
        result
    }

    /// State after power-on.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        let Self { transport, device } = self;
        reset(device);
        device.common_mut().state.generation = 0;
        transport.state = RESET;
        transport.deliver(cx, device.common_mut());
    }

    /// Reads at `offset` from the device's first address, at most four bytes.
    pub fn mmio_read(&mut self, offset: u64, width: Width) -> u32 {
        self.transport.read(&self.device, offset, width) & width.ones() as u32
    }

    /// Writes at `offset` from the device's first address, at most four bytes.
    pub fn mmio_write(&mut self, cx: &mut Context<'_>, offset: u64, width: Width, value: u32) {
        let Self { transport, device } = self;
        transport.write(device, offset, width, value);
        transport.deliver(cx, device.common_mut());
    }
}

impl VirtioMmio<VirtioBlock> {
    /// Hands the queues out: see [`VirtioBlock::lend`].
    pub fn lend(&mut self) -> Option<VirtioBlock> {
        self.device.lend()
    }
}

impl<D: SavedDevice + Clone> SavedState for VirtioMmio<D> {
    const NAME: &'static str = D::MMIO_NAME;
    const VERSION: u16 = D::VERSION;
    type Saved = Saved<D::Saved>;

    fn save(&self) -> Self::Saved {
        let Self {
            transport:
                Transport {
                    device_type: _,
                    legacy: _,
                    line: _,
                    state,
                },
            device,
        } = self;
        Saved {
            state: *state,
            behind: SavedBehind::of(device),
        }
    }

    fn load(&mut self, saved: Self::Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { state, behind } = saved;
        let State {
            queue_select,
            page_shift,
            aligns,
            ..
        } = state;
        if queue_select >= QUEUE_NUMBERS {
            return Err(StateError::Invalid("queue_select"));
        }
        if u32::from(page_shift) >= u32::BITS {
            return Err(StateError::Invalid("page_shift"));
        }
        if !aligns.iter().all(|align| align.is_power_of_two()) {
            return Err(StateError::Invalid("aligns"));
        }
        // Nothing of this changes before all of it is known to be right.
        let mut new = self.clone();
        behind.load(&mut new.device)?;
        new.transport.state = state;
        *self = new;
        self.transport.deliver(cx, self.device.common_mut());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::block::DriveId;
    use crate::devices::class::PropertyValues;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;
    use crate::virtio::block::{self, MMIO_CLASS, VirtioBlkMmio};

    fn disk(legacy: bool) -> VirtioBlkMmio {
        let values = PropertyValues::new(&MMIO_CLASS);
        block::mmio(&values, 1, DriveId(3), legacy, IrqLine::new(30)).unwrap()
    }

    fn write(disk: &mut VirtioBlkMmio, bench: &mut Bench, offset: u64, value: u32) {
        disk.mmio_write(&mut bench.context(), offset, Width::Dword, value);
    }

    lifecycle_tests!(VirtioBlkMmio, disk(true), |disk, bench| {
        write(disk, bench, register::GUEST_PAGE_SIZE, 4096);
        write(disk, bench, register::QUEUE_PFN, 0x10);
    });

    #[test]
    fn a_page_is_as_large_as_the_driver_says_before_it_resets() {
        let mut bench = Bench::new();
        let mut disk = disk(true);
        write(&mut disk, &mut bench, register::GUEST_PAGE_SIZE, 4096);
        write(&mut disk, &mut bench, register::STATUS, 0);
        write(&mut disk, &mut bench, register::QUEUE_PFN, 0x10);
        let ring = &disk.device().common().queue(0).unwrap().ring;
        assert_eq!(ring.rings().descriptors, 0x1_0000);
        assert_eq!(disk.mmio_read(register::QUEUE_PFN, Width::Dword), 0x10);
        // Only whole doublewords are registers.
        assert_eq!(disk.mmio_read(register::QUEUE_PFN, Width::Word), 0);
    }

    #[test]
    fn impossible_states_are_refused() {
        let mut bench = Bench::new();
        for broken in 0..3 {
            let mut disk = disk(false);
            let mut saved = disk.save();
            match broken {
                0 => saved.state.queue_select = QUEUE_NUMBERS,
                1 => saved.state.page_shift = 32,
                _ => saved.state.aligns[3] = 3,
            }
            assert!(disk.load(saved, &mut bench.context()).is_err());
        }
    }
}
