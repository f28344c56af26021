//! The bounded output queue of a character device: grows on demand up to its limit, and holds no
//! memory when it is empty.

/// Bytes that wait for a slow reader, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// How many bytes at the front of `bytes` have been sent.
    sent: usize,
    max: usize,
}

impl Queue {
    /// A queue of at most `max` bytes.
    pub(super) const fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            sent: 0,
            max,
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more bytes fit.
    pub(super) fn room(&self) -> usize {
        self.max.saturating_sub(self.len())
    }

    /// Queues as many of the bytes as fit and returns how many.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        // Moves the rest to the front when at least half of the memory is dead, so that every
        // byte is moved a bounded number of times.
        if self.sent >= self.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// The oldest bytes.
    pub(super) fn front(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Forgets the oldest `count` bytes.
    pub(super) fn pop(&mut self, count: usize) {
        self.sent += count.min(self.len());
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn clear(&mut self) {
        self.bytes = Vec::new();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_limit() {
        let mut queue = Queue::new(5);
        assert_eq!(queue.push(b"abc"), 3);
        queue.pop(2);
        assert_eq!(queue.push(b"defgh"), 4);
        assert_eq!((queue.front(), queue.room()), (&b"cdefg"[..], 0));
        assert_eq!(queue.push(b"x"), 0);
        queue.pop(99);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes.capacity(), 0);
    }
}
