//! How a guest sees a virtio device.

pub mod pci;

use super::queue::QueueError;

/// Queues that there are numbers for.
const QUEUE_NUMBERS: u16 = 1024;

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
