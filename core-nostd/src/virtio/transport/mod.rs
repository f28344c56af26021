//! How a guest sees a virtio device.

pub mod pci;

use super::queue::QueueError;

/// Queues that there are numbers for.
const QUEUE_NUMBERS: u16 = 1024;
