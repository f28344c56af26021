//! Virtio: queues in guest memory, the transports that show a device to the guest, and the devices.
//!
//! Follows Virtual I/O Device (VIRTIO) 1.2. A device ([`Virtio`]) knows features, configuration and
//! queues; its transport knows registers and interrupts. What every device has is in [`Common`].

pub mod block;
pub mod queue;
pub mod transport;

use serde::{Deserialize, Serialize};

use crate::devices::Width;
use crate::memory::GuestRam;
use crate::state::StateError;
use crate::trace::events as trace;
use queue::{Buffer, QueueError, RING_PACKED, SavedQueue, VirtQueue};

/// Queues that a device has at most.
pub const QUEUES_MAX: usize = 16;

/// Bytes of configuration that a device has at most.
pub const CONFIG_MAX: usize = 64;

/// Stands for no interrupt vector.
pub const NO_VECTOR: u16 = 0xffff;

/// Features that are neither of a kind of device nor of queues (1.2, chapter 6).
pub mod feature {
    /// Legacy: the order of descriptors is free, as it always is since 1.0.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Legacy: a driver that takes this one does not know how to negotiate.
    pub const BAD_FEATURE: u64 = 1 << 30;
    /// The driver follows 1.0 or later.
    pub const VERSION_1: u64 = 1 << 32;
    /// A queue can be reset by itself.
    pub const RING_RESET: u64 = 1 << 40;
}

/// Device status (1.2, section 2.1).
pub mod status {
    /// The driver knows how to drive the device.
    pub const DRIVER: u8 = 1 << 1;
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u8 = 1 << 0;
    /// The driver drives the device.
    pub const DRIVER_OK: u8 = 1 << 2;
    /// The driver has said which features it takes.
    pub const FEATURES_OK: u8 = 1 << 3;
    /// The device works no more until it is reset.
    pub const NEEDS_RESET: u8 = 1 << 6;
}

/// A queue and where its interrupts go.
#[derive(Clone, Debug)]
pub struct QueueSlot {
    /// The queue.
    pub ring: VirtQueue,
    /// Number of its interrupt vector, or [`NO_VECTOR`].
    pub vector: u16,
}

/// What every device has: status, features, queues, and what it wants to tell the driver.
#[derive(Clone, Debug)]
pub struct Common {
    /// Features that it offers.
    offered: u64,
    /// Descriptors of each queue after a reset.
    queue_size: u16,
    queues: heapless::Vec<QueueSlot, QUEUES_MAX>,
    state: State,
    /// Queues whose driver is to be interrupted, a bit each; the transport takes them.
    raised: u32,
    /// Whether the driver is to be told of a change of configuration.
    config_raised: bool,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    status: u8,
    features: u64,
    isr: u8,
    config_vector: u16,
    generation: u8,
    /// The driver broke a rule.
    broken: bool,
    /// The transport keeps it from memory.
    disabled: bool,
}

const RESET: State = State {
    status: 0,
    features: 0,
    isr: 0,
    config_vector: NO_VECTOR,
    generation: 0,
    broken: false,
    disabled: false,
};

/// Saved form of [`Common`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedCommon {
    queues: heapless::Vec<(SavedQueue, u16), QUEUES_MAX>,
    state: State,
}

/// ISR status: a queue has used buffers.
const ISR_QUEUE: u8 = 1 << 0;
/// ISR status: the configuration has changed.
const ISR_CONFIG: u8 = 1 << 1;

impl Common {
    /// A device with `queues` queues, at most [`QUEUES_MAX`], of `queue_size` descriptors.
    pub fn new(offered: u64, queues: usize, queue_size: u16) -> Self {
        let mut common = Self {
            offered,
            queue_size,
            queues: heapless::Vec::new(),
            state: RESET,
            raised: 0,
            config_raised: false,
        };
        for _ in 0..queues.min(QUEUES_MAX) {
            // There is room: see above.
            let _ = common.queues.push(QueueSlot {
                ring: VirtQueue::new(queue_size),
                vector: NO_VECTOR,
            });
        }
        common
    }

    /// All features that it offers.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Offers other features: what follows from a medium.
    pub fn offer(&mut self, features: u64) {
        self.offered = features;
    }

    /// The features that the driver has taken.
    pub fn features(&self) -> u64 {
        self.state.features
    }

    /// The driver takes features. Nothing happens once it has said that it is done with that.
    pub fn take_features(&mut self, features: u64) {
        if self.state.status & status::FEATURES_OK == 0 {
            self.state.features = features & self.offered;
            let is_packed = self.is_packed();
            for queue in &mut self.queues {
                queue.ring.set_packed(is_packed);
            }
        }
    }

    /// Device status.
    pub fn status(&self) -> u8 {
        self.state.status
    }

    /// How often the configuration has changed, modulo 256.
    pub fn generation(&self) -> u8 {
        self.state.generation
    }

    /// The vector of changes of configuration.
    pub fn config_vector(&self) -> u16 {
        self.state.config_vector
    }

    /// Sets the vector of changes of configuration.
    pub fn set_config_vector(&mut self, vector: u16) {
        self.state.config_vector = vector;
    }

    /// The queues.
    pub fn queues(&self) -> &[QueueSlot] {
        &self.queues
    }

    /// The numbers of queues that a driver has set up.
    pub fn ready_queues(&self) -> impl Iterator<Item = u16> {
        let queues = (0..).zip(&self.queues);
        queues.filter_map(|(index, queue)| queue.ring.is_ready().then_some(index))
    }

    /// A queue, if there is one of this number.
    pub fn queue(&self, index: u16) -> Option<&QueueSlot> {
        self.queues.get(usize::from(index))
    }

    /// The same, to change it.
    pub fn queue_mut(&mut self, index: u16) -> Option<&mut QueueSlot> {
        self.queues.get_mut(usize::from(index))
    }

    fn is_packed(&self) -> bool {
        self.state.features & RING_PACKED != 0
    }

    /// Resets one queue.
    pub fn reset_queue(&mut self, index: u16) {
        let mut ring = VirtQueue::new(self.queue_size);
        ring.set_packed(self.is_packed());
        if let Some(queue) = self.queue_mut(index) {
            *queue = QueueSlot {
                ring,
                vector: NO_VECTOR,
            };
        }
    }

    /// Whether the device may touch guest memory.
    pub fn works(&self) -> bool {
        !self.state.broken && !self.state.disabled
    }

    /// The transport keeps the device from memory, or lets it there again.
    pub fn set_disabled(&mut self, disabled: bool) {
        self.state.disabled = disabled;
    }

    /// The driver broke a rule: the device works no more until it is reset, and says so if the
    /// driver follows 1.0.
    pub fn fail(&mut self, error: QueueError) {
        trace::guest_error_virtio(error as u8);
        self.state.broken = true;
        if self.state.features & feature::VERSION_1 != 0 {
            self.state.status |= status::NEEDS_RESET;
            self.config_changed();
        }
    }

    /// The configuration has changed: the driver, if there is one, is to be told.
    pub fn config_changed(&mut self) {
        if self.state.status & status::DRIVER_OK != 0 {
            self.state.generation = self.state.generation.wrapping_add(1);
            self.config_raised = true;
        }
    }

    /// A buffer goes back to the driver of a queue, who is interrupted if it wants to be.
    pub fn give_back(&mut self, ram: &dyn GuestRam, index: u16, buffer: Buffer, written: u32) {
        let features = self.state.features;
        let Some(queue) = self.queue_mut(index) else {
            return;
        };
        trace::virtqueue_flush(index, buffer.id, written);
        let ring = &mut queue.ring;
        let given = ring.give_back(ram, buffer, written);
        match given.and_then(|()| ring.wants_interrupt(ram, features)) {
            Ok(true) => self.raised |= 1 << index,
            Ok(false) => {}
            Err(error) => self.fail(error),
        }
    }

    /// Interrupts that the transport is to cause now: vectors of queues and of the configuration.
    /// The ISR status shows them from now on.
    fn take_raised(&mut self) -> heapless::Vec<u16, { QUEUES_MAX + 1 }> {
        let mut vectors = heapless::Vec::new();
        let raised = core::mem::take(&mut self.raised);
        for (index, queue) in self.queues.iter().enumerate() {
            if raised >> index & 1 != 0 {
                self.state.isr |= ISR_QUEUE;
                // There is room for all queues, and one more.
                let _ = vectors.push(queue.vector);
            }
        }
        if core::mem::take(&mut self.config_raised) {
            self.state.isr |= ISR_QUEUE | ISR_CONFIG;
            let _ = vectors.push(self.state.config_vector);
        }
        vectors
    }

    fn reset(&mut self) {
        self.state = State {
            // How often the configuration has changed goes on.
            generation: self.state.generation,
            ..RESET
        };
        for index in 0..self.queues.len() {
            self.reset_queue(index as u16);
        }
        (self.raised, self.config_raised) = (0, false);
    }

    /// The saved form. What is to be told was told before.
    pub fn save(&self) -> SavedCommon {
        let queues = self.queues.iter();
        SavedCommon {
            queues: queues
                .map(|queue| (queue.ring.save(), queue.vector))
                .collect(),
            state: self.state,
        }
    }

    /// Takes over a saved form.
    ///
    /// # Errors
    /// If it is of another device.
    pub fn load(&mut self, saved: &SavedCommon) -> Result<(), StateError> {
        let SavedCommon { queues, state } = saved;
        if queues.len() != self.queues.len() {
            return Err(StateError::Invalid("queues"));
        }
        // What a medium decides may have changed meanwhile; a driver keeps what it has taken.
        let mut loaded = self.queues.clone();
        for (queue, (ring, vector)) in loaded.iter_mut().zip(queues) {
            queue.ring.load(ring)?;
            queue.vector = *vector;
        }
        self.queues = loaded;
        self.state = *state;
        (self.raised, self.config_raised) = (0, false);
        Ok(())
    }
}

/// A device behind a transport.
pub trait Virtio {
    /// What every device has.
    fn common(&self) -> &Common;

    /// The same, to change it.
    fn common_mut(&mut self) -> &mut Common;

    /// The configuration as it is now; as many bytes as the device has.
    fn configuration(&self) -> heapless::Vec<u8, CONFIG_MAX>;

    /// The driver writes configuration.
    fn configure(&mut self, offset: u64, width: Width, value: u32);

    /// The driver has said something new of itself; [`Common::status`] is what it said.
    fn status_changed(&mut self) {}

    /// The driver says that a queue has buffers.
    fn notified(&mut self, queue: u16);

    /// Drops what it has under way of one queue, or of all.
    fn drop_requests(&mut self, queue: Option<u16>);

    /// State after power-on, but for what every device has.
    fn reset_device(&mut self);
}

/// Reads configuration: ones where it has no such bytes.
fn read_configuration(device: &dyn Virtio, offset: u64, width: Width) -> u32 {
    let all = device.configuration();
    let bytes = usize::try_from(offset).ok();
    let bytes = bytes.and_then(|from| all.get(from..)?.get(..width as usize));
    bytes.map_or(u32::MAX, |bytes| {
        let folded = bytes.iter().rev();
        folded.fold(0, |value, byte| value << 8 | u32::from(*byte))
    })
}

/// The driver writes the device status. 0 resets the device.
fn set_status(device: &mut dyn Virtio, value: u8) {
    trace::virtio_set_status(value);
    device.common_mut().state.status = value;
    device.status_changed();
    if value == 0 {
        reset(device);
    }
}

/// The device as after power-on.
fn reset(device: &mut dyn Virtio) {
    device.drop_requests(None);
    device.common_mut().reset();
    device.reset_device();
}

/// The driver says that a queue has buffers. Nobody hears it while the device is kept from memory.
fn notify(device: &mut dyn Virtio, queue: u16) {
    trace::virtio_queue_notify(queue);
    let common = device.common();
    let is_ready = common
        .queue(queue)
        .is_some_and(|queue| queue.ring.is_ready());
    if is_ready && common.works() {
        device.notified(queue);
    }
}
