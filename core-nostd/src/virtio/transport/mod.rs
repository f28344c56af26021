//! How a guest sees a virtio device.

pub mod mmio;
pub mod pci;

use serde::{Deserialize, Serialize};

use super::queue::{QueueError, Rings};

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
}
