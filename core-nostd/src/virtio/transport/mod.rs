//! How a guest sees a virtio device.

pub mod mmio;
pub mod pci;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::queue::Rings;
use super::{SavedCommon, Virtio};
use crate::state::StateError;

/// The property that lets the kernel take notifications, where the accelerator is the kernel's.
pub const IOEVENTFD: &str = "ioeventfd";

/// Queues that there are numbers for.
const QUEUE_NUMBERS: u16 = 1024;

/// Where a driver that follows 1.0 is about to put a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    /// Halves of addresses: descriptors, available and used ring, low ones first.
    halves: [u32; 6],
    enabled: bool,
}

impl Layout {
    fn rings(&self) -> Rings {
        let address = |ring: usize| {
            let [low, high] = [0, 1].map(|half| u64::from(self.halves[2 * ring + half]));
            high << 32 | low
        };
        Rings {
            descriptors: address(0),
            available: address(1),
            used: address(2),
        }
    }
}

/// A device behind a transport: what of it is saved beside [`super::Common`].
pub trait SavedDevice: Virtio {
    /// The section's name on PCI.
    const NAME: &'static str;
    /// The section's name in memory.
    const MMIO_NAME: &'static str;
    /// The section's version.
    const VERSION: u16;
    /// The saved form.
    type Saved: Serialize + DeserializeOwned;

    /// The saved form.
    fn save_device(&self) -> Self::Saved;

    /// Takes over a saved form. On error the device is unchanged.
    ///
    /// # Errors
    /// If it is none of this device.
    fn load_device(&mut self, saved: Self::Saved) -> Result<(), StateError>;
}

/// Saved form of what is behind a transport, the same for all of them.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBehind<S> {
    common: SavedCommon,
    device: S,
}

impl<S> SavedBehind<S> {
    fn of<D: SavedDevice<Saved = S>>(device: &D) -> Self {
        Self {
            common: device.common().save(),
            device: device.save_device(),
        }
    }

    /// Takes it over. After an error the device may be half of the one and half of the other.
    fn load<D: SavedDevice<Saved = S>>(self, device: &mut D) -> Result<(), StateError> {
        let Self {
            common,
            device: saved,
        } = self;
        device.common_mut().load(&common)?;
        device.load_device(saved)
    }
}

/// Where a driver says that a queue has buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// A word with the queue's number goes to this port.
    Port {
        /// The port.
        port: u16,
        /// The queue.
        queue: u16,
    },
    /// A word goes to this address.
    Memory(u64),
    /// A doubleword with the queue's number goes to this address.
    Register {
        /// The address.
        gpa: u64,
        /// The queue.
        queue: u16,
    },
}
