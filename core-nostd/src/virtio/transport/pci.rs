//! Virtio over PCI, as in VIRTIO 1.2, section 4.1: modern, legacy, and both (transitional).
//!
//! Modern registers are in base address register 4, 64-bit memory of 16 KiB: common configuration,
//! ISR status, the device's configuration and notifications, each where a capability says. Legacy
//! registers (section 4.1.4.10) are ports of base address register 0. The table of MSI-X and its
//! pending bits are in base address register 1. Ranges, capabilities and their order are those of
//! QEMU's devices.
//!
//! The capability for access by way of configuration space reaches registers as the others do, but
//! that a read of ISR status there does not clear it.

use serde::{Deserialize, Serialize};

use super::{Doorbell, Layout, SavedBehind, SavedDevice};
use crate::devices::{Context, Width};
use crate::irq::Msi;
use crate::pci::config::SavedConfig;
use crate::pci::msix::{Location, SavedMsiX};
use crate::pci::{BarKind, ConfigSpace, Identity, MsiX, PciFunction, reg};
use crate::state::{SavedState, StateError};
use crate::virtio::block::VirtioBlock;
use crate::virtio::queue::{LEGACY_ALIGN, NOTIFY_ON_EMPTY, QueueError, Rings};
use crate::virtio::{
    Common, NO_VECTOR, QUEUES_MAX, Virtio, feature, notify, read_configuration, reset, set_status,
    status,
};

/// The virtual PCI vendor.
const VENDOR: u16 = 0x1af4;
/// Device IDs of modern devices begin here; the device's type is added.
const MODERN_DEVICE: u16 = 0x1040;

/// The range of legacy registers.
const LEGACY_BAR: usize = 0;
/// The range of MSI-X.
const MSIX_BAR: usize = 1;
/// The range of modern registers, and its bytes.
const MODERN_BAR: (usize, u64) = (4, 0x4000);

/// Parts of the modern range: where they begin, each of [`PART`] bytes.
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const PART: u64 = 0x1000;

/// Bytes between the notification registers of two queues.
const NOTIFY_MULTIPLIER: u64 = 4;

/// Capability ID: vendor-specific.
const VENDOR_CAPABILITY: u8 = 0x09;
/// Where capabilities begin in configuration space.
const CAPABILITIES: u8 = 0x40;
/// Where the window into the modern range is, behind the capabilities of its parts: the capability,
/// and in it the range's register, the offset, the length and the data.
const WINDOW: u8 = 0x84;
const WINDOW_BAR: u8 = WINDOW + 4;
const WINDOW_OFFSET: u8 = WINDOW + 8;
const WINDOW_LENGTH: u8 = WINDOW + 12;
const WINDOW_DATA: u8 = WINDOW + 16;

/// Offsets in the common configuration (section 4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const DEVICE_STATUS: u64 = 0x14;
    pub(super) const CONFIG_GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    /// Descriptors, low and high half; available and used ring follow.
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_USED_END: u64 = 0x38;
    pub(super) const QUEUE_RESET: u64 = 0x3a;
}

/// Offsets of legacy registers.
mod legacy {
    pub(super) const DEVICE_FEATURES: u64 = 0x00;
    pub(super) const DRIVER_FEATURES: u64 = 0x04;
    pub(super) const QUEUE_ADDRESS: u64 = 0x08;
    pub(super) const QUEUE_SIZE: u64 = 0x0c;
    pub(super) const QUEUE_SELECT: u64 = 0x0e;
    pub(super) const QUEUE_NOTIFY: u64 = 0x10;
    pub(super) const DEVICE_STATUS: u64 = 0x12;
    pub(super) const ISR_STATUS: u64 = 0x13;
    /// With MSI-X only.
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 0x14;
    /// With MSI-X only.
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 0x16;
    /// The device's configuration begins here without and with MSI-X.
    pub(super) const CONFIG: [u64; 2] = [0x14, 0x18];
}

/// Bits of a queue's address in a legacy register.
const LEGACY_PAGE: u32 = 12;

/// Legacy registers have no features beyond these, and modern ones none of the others.
const LEGACY_FEATURES: u64 = NOTIFY_ON_EMPTY | feature::ANY_LAYOUT | feature::BAD_FEATURE;

/// Which kinds of registers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Those before 1.0.
    pub legacy: bool,
    /// Those of 1.0.
    pub modern: bool,
}

impl Interfaces {
    /// The features that a transport adds to those of its device.
    pub const fn features(self) -> u64 {
        // A device of 1.0 has the other's freedom by itself.
        let layout = match self.modern {
            true => feature::ANY_LAYOUT | feature::VERSION_1 | feature::RING_RESET,
            false => 0,
        };
        layout | NOTIFY_ON_EMPTY | feature::BAD_FEATURE
    }
}

/// What a function is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Virtio's number of the type of device.
    pub device_type: u16,
    /// The device ID where there are legacy registers.
    pub transitional_device: u16,
    /// Class code, as in [`Identity`].
    pub class: u32,
    /// Which registers it has.
    pub interfaces: Interfaces,
    /// MSI-X vectors; 0 for none.
    pub vectors: u16,
}

/// A virtio device as a PCI function.
#[derive(Clone, Debug)]
pub struct VirtioPci<D> {
    transport: Transport,
    device: D,
}

/// The function without the device.
#[derive(Clone, Debug)]
struct Transport {
    config: ConfigSpace,
    msix: Option<MsiX>,
    interfaces: Interfaces,
    state: State,
}

/// What changes, beside configuration space and MSI-X.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    device_select: u32,
    driver_select: u32,
    driver_features: [u32; 2],
    queue_select: u16,
    queues: [Layout; QUEUES_MAX],
}

/// Saved form of [`VirtioPci`], version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved<S> {
    config: SavedConfig,
    msix: Option<SavedMsiX>,
    device_select: u32,
    driver_select: u32,
    driver_features: [u32; 2],
    queue_select: u16,
    queues: [Layout; QUEUES_MAX],
    behind: SavedBehind<S>,
}

impl Transport {
    fn new(kind: Kind, configuration: usize) -> Self {
        let Interfaces { legacy, modern } = kind.interfaces;
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: match legacy {
                true => kind.transitional_device,
                false => MODERN_DEVICE + kind.device_type,
            },
            revision: u8::from(!legacy),
            class: kind.class,
            subsystem_vendor: VENDOR,
            subsystem: match legacy {
                true => kind.device_type,
                false => 0x1100,
            },
            multifunction: false,
            interrupt_pin: 1,
        });
        config.allow_from(0x40);
        let mut fits = true;
        let mut next = CAPABILITIES;
        if modern {
            let prefetchable = true;
            let kind = BarKind::Memory64 { prefetchable };
            fits &= config.set_bar(MODERN_BAR.0, kind, MODERN_BAR.1);
            for (part, at) in [(1, COMMON), (3, ISR), (4, DEVICE)] {
                config.add_capability(next, VENDOR_CAPABILITY, &capability(16, part, at));
                next += 16;
            }
            let mut content = [0; 18];
            content[..14].copy_from_slice(&capability(20, 2, NOTIFY));
            content[14..].copy_from_slice(&(NOTIFY_MULTIPLIER as u32).to_le_bytes());
            config.add_capability(next, VENDOR_CAPABILITY, &content);
            // The data of the window stands behind its capability.
            let mut content = [0; 18];
            content[0] = 20;
            content[1] = 5;
            config.add_capability(WINDOW, VENDOR_CAPABILITY, &content);
            config.allow(WINDOW_BAR, &[0xff]);
            config.allow(WINDOW_OFFSET, &[0xff; 12]);
            next = WINDOW + 20;
        }
        let vectors = usize::from(kind.vectors);
        let msix = (vectors != 0).then(|| {
            let bar = MSIX_BAR as u8;
            let place = |offset| Location { bar, offset };
            let prefetchable = false;
            let bar = BarKind::Memory32 { prefetchable };
            fits &= config.set_bar(MSIX_BAR, bar, 0x1000);
            MsiX::add(&mut config, next, vectors, place(0), place(0x800))
        });
        if legacy {
            let registers = legacy::CONFIG[usize::from(msix.is_some())] as usize;
            let size = (registers + configuration).next_power_of_two();
            fits &= config.set_bar(LEGACY_BAR, BarKind::Io, size as u64);
        }
        debug_assert!(fits, "ranges of fixed sizes");
        Self {
            config,
            msix,
            interfaces: kind.interfaces,
            state: State::default(),
        }
    }

    /// A vector that the driver may choose.
    fn vector(&self, vector: u32, vectors: usize) -> u16 {
        match self.msix {
            Some(_) if (vector as usize) < vectors => vector as u16,
            _ => NO_VECTOR,
        }
    }

    fn vectors(&self) -> usize {
        self.msix.as_ref().map_or(0, MsiX::vectors)
    }

    fn is_msix_enabled(&self) -> bool {
        let msix = self.msix.as_ref();
        msix.is_some_and(|msix| msix.is_enabled(&self.config))
    }

    /// Causes the interrupts that the device asks for, and lets the pin follow ISR status.
    fn deliver(&mut self, cx: &mut Context<'_>, common: &mut Common) {
        let vectors = common.take_raised();
        let is_enabled = self.is_msix_enabled();
        if let (true, Some(msix)) = (is_enabled, &mut self.msix) {
            for vector in vectors {
                msix.notify(&self.config, cx, vector.into());
            }
        }
        self.config
            .set_intx(!is_enabled && common.state.isr & 1 != 0);
    }

    /// The selected queue's layout.
    fn layout(&mut self) -> Option<&mut Layout> {
        let index = usize::from(self.state.queue_select);
        self.state.queues.get_mut(index)
    }

    /// A status of 0 was written, or a legacy queue's address of 0, or the bus was reset.
    fn forget(&mut self) {
        self.state.queues = Default::default();
        self.state.queue_select = 0;
        if let Some(msix) = &mut self.msix {
            msix.reset_pending();
        }
    }

    fn set_status(&mut self, device: &mut dyn Virtio, value: u8) {
        set_status(device, value);
        if value == 0 {
            self.forget();
        }
    }

    fn common_read(&self, common: &Common, offset: u64) -> u32 {
        let state = &self.state;
        let index = state.queue_select;
        let queue = common.queue(index);
        let layout = state.queues.get(usize::from(index));
        let layout = layout.filter(|_| queue.is_some());
        match offset {
            common::DEVICE_FEATURE_SELECT => state.device_select,
            common::DEVICE_FEATURE => {
                let offered = common.offered() & !LEGACY_FEATURES;
                match state.device_select {
                    0 => offered as u32,
                    1 => (offered >> 32) as u32,
                    _ => 0,
                }
            }
            common::DRIVER_FEATURE_SELECT => state.driver_select,
            common::DRIVER_FEATURE => {
                let features = state.driver_features.get(state.driver_select as usize);
                features.copied().unwrap_or(0)
            }
            common::CONFIG_MSIX_VECTOR => common.config_vector().into(),
            common::NUM_QUEUES => common.queues().len() as u32,
            common::DEVICE_STATUS => common.status().into(),
            common::CONFIG_GENERATION => common.generation().into(),
            common::QUEUE_SELECT => index.into(),
            common::QUEUE_SIZE => queue.map_or(0, |queue| queue.ring.size().into()),
            common::QUEUE_MSIX_VECTOR => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            common::QUEUE_ENABLE => layout.is_some_and(|layout| layout.enabled).into(),
            // Each queue has a register of its own.
            common::QUEUE_NOTIFY_OFF => index.into(),
            common::QUEUE_DESC..common::QUEUE_USED_END if offset & 3 == 0 => {
                let half = ((offset - common::QUEUE_DESC) / 4) as usize;
                layout.map_or(0, |layout| layout.halves[half])
            }
            _ => 0,
        }
    }

    fn common_write(&mut self, device: &mut dyn Virtio, offset: u64, value: u32) {
        let vector = self.vector(value, self.vectors());
        let index = self.state.queue_select;
        match offset {
            common::DEVICE_FEATURE_SELECT => self.state.device_select = value,
            common::DRIVER_FEATURE_SELECT => self.state.driver_select = value,
            common::DRIVER_FEATURE => {
                let at = self.state.driver_select as usize;
                if let Some(features) = self.state.driver_features.get_mut(at) {
                    *features = value;
                    let [low, high] = self.state.driver_features.map(u64::from);
                    device.common_mut().take_features(high << 32 | low);
                }
            }
            common::CONFIG_MSIX_VECTOR => device.common_mut().set_config_vector(vector),
            common::DEVICE_STATUS => self.set_status(device, value as u8),
            common::QUEUE_SELECT if value < u32::from(super::QUEUE_NUMBERS) => {
                self.state.queue_select = value as u16;
            }
            common::QUEUE_SIZE => {
                if let Some(queue) = device.common_mut().queue_mut(index) {
                    queue.ring.set_size(value as u16);
                }
            }
            common::QUEUE_MSIX_VECTOR => {
                if let Some(queue) = device.common_mut().queue_mut(index) {
                    queue.vector = vector;
                }
            }
            common::QUEUE_ENABLE => self.enable(device, value),
            common::QUEUE_RESET if value == 1 => {
                device.drop_requests(Some(index));
                device.common_mut().reset_queue(index);
                if let Some(layout) = self.layout() {
                    layout.enabled = false;
                }
            }
            common::QUEUE_DESC..common::QUEUE_USED_END if offset & 3 == 0 => {
                let half = ((offset - common::QUEUE_DESC) / 4) as usize;
                if let Some(layout) = self.layout() {
                    layout.halves[half] = value;
                }
            }
            _ => {}
        }
    }

    fn enable(&mut self, device: &mut dyn Virtio, value: u32) {
        let index = self.state.queue_select;
        if value != 1 {
            // No driver does that.
            return device.common_mut().fail(QueueError::Index);
        }
        let queue = device.common_mut().queue_mut(index);
        if let (Some(queue), Some(layout)) = (queue, self.layout()) {
            layout.enabled = true;
            queue.ring.set_rings(layout.rings());
        }
    }

    /// Reads modern registers without a consequence.
    fn modern_peek(&self, device: &dyn Virtio, offset: u64, width: Width) -> u32 {
        let into = offset % PART;
        let value = match offset - into {
            COMMON => self.common_read(device.common(), into),
            ISR if into == 0 => device.common().state.isr.into(),
            DEVICE => read_configuration(device, into, width),
            _ => 0,
        };
        value & width.ones() as u32
    }

    fn modern_read(&mut self, device: &mut dyn Virtio, offset: u64, width: Width) -> u32 {
        let value = self.modern_peek(device, offset, width);
        if offset - offset % PART == ISR {
            device.common_mut().state.isr = 0;
        }
        value
    }

    fn modern_write(&mut self, device: &mut dyn Virtio, offset: u64, width: Width, value: u32) {
        let into = offset % PART;
        match offset - into {
            COMMON => self.common_write(device, into, value),
            DEVICE => device.configure(into, width, value),
            NOTIFY => notify(device, (into / NOTIFY_MULTIPLIER) as u16),
            _ => {}
        }
    }

    fn legacy_config(&self) -> u64 {
        legacy::CONFIG[usize::from(self.is_msix_enabled())]
    }

    fn legacy_read(&self, device: &mut dyn Virtio, offset: u64, width: Width) -> u32 {
        if let Some(into) = offset.checked_sub(self.legacy_config()) {
            return read_configuration(device, into, width);
        }
        let common = device.common_mut();
        let queue = common.queue(self.state.queue_select);
        match offset {
            legacy::DEVICE_FEATURES => common.offered() as u32,
            legacy::DRIVER_FEATURES => common.features() as u32,
            legacy::QUEUE_ADDRESS => {
                let at = queue.map_or(0, |queue| queue.ring.rings().descriptors);
                (at >> LEGACY_PAGE) as u32
            }
            legacy::QUEUE_SIZE => queue.map_or(0, |queue| queue.ring.size().into()),
            legacy::QUEUE_SELECT => self.state.queue_select.into(),
            legacy::DEVICE_STATUS => common.status().into(),
            legacy::ISR_STATUS => core::mem::take(&mut common.state.isr).into(),
            legacy::CONFIG_MSIX_VECTOR => common.config_vector().into(),
            legacy::QUEUE_MSIX_VECTOR => queue.map_or(NO_VECTOR, |queue| queue.vector).into(),
            _ => u32::MAX,
        }
    }

    fn legacy_write(&mut self, device: &mut dyn Virtio, offset: u64, width: Width, value: u32) {
        if let Some(into) = offset.checked_sub(self.legacy_config()) {
            return device.configure(into, width, value);
        }
        let vector = self.vector(value, self.vectors());
        let index = self.state.queue_select;
        match offset {
            legacy::DRIVER_FEATURES => {
                let knows = u64::from(value) & feature::BAD_FEATURE == 0;
                let features = if knows { value } else { 0 };
                device.common_mut().take_features(features.into());
            }
            legacy::QUEUE_ADDRESS if value == 0 => {
                reset(device);
                self.forget();
            }
            legacy::QUEUE_ADDRESS => {
                if let Some(queue) = device.common_mut().queue_mut(index) {
                    let base = u64::from(value) << LEGACY_PAGE;
                    let size = queue.ring.size();
                    queue
                        .ring
                        .set_rings(Rings::legacy(base, size, LEGACY_ALIGN));
                }
            }
            legacy::QUEUE_SELECT if value < u32::from(super::QUEUE_NUMBERS) => {
                self.state.queue_select = value as u16;
            }
            legacy::QUEUE_NOTIFY => notify(device, value as u16),
            legacy::DEVICE_STATUS => {
                self.set_status(device, value as u8);
                if value as u8 == status::ACKNOWLEDGE | status::DRIVER {
                    // Drivers of Linux before 2.6.34 forget that the function masters the bus.
                    let command = self.config.command() | COMMAND_MASTER;
                    self.config.write(reg::COMMAND, Width::Word, command.into());
                    device.common_mut().set_disabled(false);
                }
            }
            legacy::CONFIG_MSIX_VECTOR => device.common_mut().set_config_vector(vector),
            legacy::QUEUE_MSIX_VECTOR => {
                if let Some(queue) = device.common_mut().queue_mut(index) {
                    queue.vector = vector;
                }
            }
            _ => {}
        }
    }

    /// What the window into the modern range shows: offset and width, if it shows anything.
    fn window(&self) -> Option<(u64, Width)> {
        let length = self.config.read(WINDOW_LENGTH, Width::Dword);
        let width = Width::from_bytes(length as usize).filter(|width| *width != Width::Qword)?;
        let offset = u64::from(self.config.read(WINDOW_OFFSET, Width::Dword));
        let offset = offset & !(u64::from(length) - 1);
        (self.interfaces.modern && offset < MODERN_BAR.1).then_some((offset, width))
    }

    fn config_write(&mut self, device: &mut dyn Virtio, offset: u8, width: Width, value: u32) {
        self.config.write(offset, width, value);
        let end = u16::from(offset) + u16::from(width.bytes());
        let covers = |from: u8, to: u8| offset < to && end > u16::from(from);
        if covers(reg::COMMAND, reg::COMMAND + 1) {
            let is_master = self.config.is_bus_master();
            device.common_mut().set_disabled(!is_master);
            if !is_master {
                let status = device.common().status() & !status::DRIVER_OK;
                set_status(device, status);
            }
        }
        if covers(WINDOW_DATA, WINDOW_DATA + 4)
            && let Some((offset, width)) = self.window()
        {
            let value = self.config.read(WINDOW_DATA, Width::Dword) & width.ones() as u32;
            self.modern_write(device, offset, width, value);
        }
    }

    fn config_read(&self, device: &dyn Virtio, offset: u8, width: Width) -> u32 {
        let mut value = self.config.read(offset, width);
        let end = u16::from(offset) + u16::from(width.bytes());
        if end > u16::from(WINDOW_DATA)
            && offset < WINDOW_DATA + 4
            && let Some((at, part)) = self.window()
        {
            let seen = self.modern_peek(device, at, part).to_le_bytes();
            let mut bytes = value.to_le_bytes();
            for (index, byte) in bytes.iter_mut().enumerate().take(width as usize) {
                let into = (usize::from(offset) + index).checked_sub(WINDOW_DATA.into());
                if let Some(into) = into.filter(|into| *into < part as usize) {
                    *byte = seen[into];
                }
            }
            value = u32::from_le_bytes(bytes);
        }
        value
    }
}

/// Command: the function may become bus master.
const COMMAND_MASTER: u16 = 1 << 2;

/// What follows the link of a part's capability.
fn capability(length: u8, part: u8, at: u64) -> [u8; 14] {
    let mut content = [0; 14];
    content[..3].copy_from_slice(&[length, part, MODERN_BAR.0 as u8]);
    content[6..10].copy_from_slice(&(at as u32).to_le_bytes());
    content[10..].copy_from_slice(&(PART as u32).to_le_bytes());
    content
}

impl<D: Virtio> VirtioPci<D> {
    /// A function for a device.
    pub fn new(kind: Kind, device: D) -> Self {
        let configuration = device.configuration().len();
        Self {
            transport: Transport::new(kind, configuration),
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

    /// The message by which a queue's interrupts go now, if they go by one.
    pub fn message(&self, queue: u16) -> Option<Msi> {
        let Transport { config, msix, .. } = &self.transport;
        let vector = self.device.common().queue(queue)?.vector;
        msix.as_ref()?.message(config, vector.into())
    }

    /// Whether this offset in a range is where the driver notifies.
    pub fn is_doorbell(&self, bar: usize, offset: u64) -> bool {
        match bar {
            LEGACY_BAR => offset & !1 == legacy::QUEUE_NOTIFY,
            _ => bar == MODERN_BAR.0 && offset & !(PART - 1) == NOTIFY,
        }
    }

    /// Shows where the driver notifies the device, as its base address registers are now.
    pub fn visit_doorbells(&self, visit: &mut dyn FnMut(Doorbell)) {
        let config = &self.transport.config;
        for queue in self.device.common().ready_queues() {
            if let Some((base, _)) = config.bar(LEGACY_BAR) {
                visit(Doorbell::Port {
                    port: (base + legacy::QUEUE_NOTIFY) as u16,
                    queue,
                });
            }
            if let Some((base, _)) = config.bar(MODERN_BAR.0) {
                let offset = NOTIFY + NOTIFY_MULTIPLIER * u64::from(queue);
                visit(Doorbell::Memory(base + offset));
            }
        }
    }

    /// Does something with the device; interrupts that it asks for are caused.
    pub fn with_device<R>(
        &mut self,
        cx: &mut Context<'_>,
        call: impl FnOnce(&mut D, &mut Context<'_>) -> R,
    ) -> R {
        let result = call(&mut self.device, cx);
        self.transport.deliver(cx, self.device.common_mut());
        result
    }
}

impl VirtioPci<VirtioBlock> {
    /// Hands the queues out: see [`VirtioBlock::lend`].
    pub fn lend(&mut self) -> Option<VirtioBlock> {
        self.device.lend()
    }
}

impl<D: Virtio> PciFunction for VirtioPci<D> {
    fn config(&self) -> &ConfigSpace {
        &self.transport.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.transport.config
    }

    fn config_read(&self, offset: u8, width: Width) -> u32 {
        self.transport.config_read(&self.device, offset, width)
    }

    fn config_write(&mut self, cx: &mut Context<'_>, offset: u8, width: Width, value: u32) {
        let Self { transport, device } = self;
        transport.config_write(device, offset, width, value);
        transport.deliver(cx, device.common_mut());
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        let Self { transport, device } = self;
        transport.config.reset();
        reset(device);
        device.common_mut().state.generation = 0;
        transport.forget();
        transport.state = State::default();
        if let Some(msix) = &mut transport.msix {
            msix.reset();
        }
        transport.deliver(cx, device.common_mut());
    }

    fn bar_read(&mut self, cx: &mut Context<'_>, bar: usize, offset: u64, width: Width) -> u64 {
        let Self { transport, device } = self;
        let value = match bar {
            LEGACY_BAR => transport.legacy_read(device, offset, width),
            MSIX_BAR => {
                let msix = transport.msix.as_ref();
                let word = msix.map_or(0, |msix| msix.read(MSIX_BAR, offset));
                word >> (8 * (offset & 3))
            }
            _ => transport.modern_read(device, offset, width),
        };
        transport.deliver(cx, device.common_mut());
        u64::from(value) & width.ones()
    }

    fn bar_write(
        &mut self,
        cx: &mut Context<'_>,
        bar: usize,
        offset: u64,
        width: Width,
        value: u64,
    ) {
        let Self { transport, device } = self;
        let value = value as u32;
        match bar {
            LEGACY_BAR => transport.legacy_write(device, offset, width, value),
            MSIX_BAR => {
                if let (Some(msix), Width::Dword) = (&mut transport.msix, width) {
                    msix.write(MSIX_BAR, offset, value);
                }
            }
            _ => transport.modern_write(device, offset, width, value),
        }
        transport.deliver(cx, device.common_mut());
    }

    fn send_pending(&mut self, cx: &mut Context<'_>) -> bool {
        let Transport { config, msix, .. } = &mut self.transport;
        let msix = msix.as_mut();
        msix.is_some_and(|msix| msix.send_pending(config, cx))
    }
}

impl<D: SavedDevice + Clone> SavedState for VirtioPci<D> {
    const NAME: &'static str = D::NAME;
    const VERSION: u16 = D::VERSION;
    type Saved = Saved<D::Saved>;

    fn save(&self) -> Self::Saved {
        let Self {
            transport:
                Transport {
                    config,
                    msix,
                    interfaces: _,
                    state:
                        State {
                            device_select,
                            driver_select,
                            driver_features,
                            queue_select,
                            queues,
                        },
                },
            device,
        } = self;
        Saved {
            config: config.save(),
            msix: msix.as_ref().map(MsiX::save),
            device_select: *device_select,
            driver_select: *driver_select,
            driver_features: *driver_features,
            queue_select: *queue_select,
            queues: *queues,
            behind: SavedBehind::of(device),
        }
    }

    fn load(&mut self, saved: Self::Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved {
            config,
            msix,
            device_select,
            driver_select,
            driver_features,
            queue_select,
            queues,
            behind,
        } = saved;
        if queue_select >= super::QUEUE_NUMBERS {
            return Err(StateError::Invalid("queue_select"));
        }
        // Nothing of this changes before all of it is known to be right.
        let mut new = self.clone();
        new.transport.config.load(config)?;
        match (&mut new.transport.msix, msix) {
            (Some(msix), Some(saved)) => msix.load(saved)?,
            (None, None) => {}
            _ => return Err(StateError::Invalid("msix")),
        }
        behind.load(&mut new.device)?;
        new.transport.state = State {
            device_select,
            driver_select,
            driver_features,
            queue_select,
            queues,
        };
        *self = new;
        self.transport.deliver(cx, self.device.common_mut());
        Ok(())
    }
}
