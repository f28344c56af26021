//! The device test protocol on a character device: `-qtest` and `-qtest-log`.

use std::io::Write as _;

use thimble_core::devices::PowerRequest;
use thimble_core::formats::qtest::LINE_MAX;
use thimble_core::machine::Machine;
use thimble_core::machine::qtest::Qtest;

use crate::chardev::{ChardevId, Chardevs};
use crate::clock::{Clock, monotonic};
use crate::files::Opened;
use crate::vm::Bridge;

/// Bytes that one answer may have: two digits for each byte of the longest read, and some.
pub const OUT_MAX: usize = 4 << 20;

/// A device test's connection.
pub struct QtestServer {
    chardev: ChardevId,
    qtest: Qtest<'static>,
    /// Answers that the device did not take yet.
    out: String,
    log: Option<Opened>,
    /// Nanoseconds of the monotonic clock when the client connected.
    since: u64,
}

impl QtestServer {
    /// Serves device tests on this device, and writes what goes over it to `log`.
    pub fn new(chardev: ChardevId, log: Option<Opened>) -> Self {
        // One for the life of the process; untouched pages cost nothing.
        let buffer = Box::leak(vec![0; LINE_MAX].into_boxed_slice());
        Self {
            chardev,
            qtest: Qtest::new(buffer),
            out: String::new(),
            log,
            since: monotonic(),
        }
    }

    /// The device.
    pub fn chardev(&self) -> ChardevId {
        self.chardev
    }

    /// A client has connected.
    pub fn opened(&mut self) {
        self.qtest.reset();
        self.out.clear();
        self.since = monotonic();
        self.note('I', "OPENED");
    }

    /// The client has left.
    pub fn closed(&mut self) {
        self.note('I', "CLOSED");
    }

    /// Carries out requests until the device takes no more answers, and returns how many bytes
    /// of `bytes` were used.
    pub fn received(
        &mut self,
        machine: &mut Machine<'static>,
        bridge: &mut Bridge<'_>,
        clock: &mut Clock,
        bytes: &[u8],
    ) -> usize {
        let mut now = clock.now();
        let mut used = 0;
        while used < bytes.len() && self.out.is_empty() {
            let input = &bytes[used..];
            let taken = self
                .qtest
                .feed(machine, bridge, &mut now, input, &mut self.out);
            if matches!(
                bridge.bridge_state.pending.power,
                Some(PowerRequest::Exit(_))
            ) {
                // The process ends in the middle of this request, and nobody gets an answer.
                self.out.clear();
                return bytes.len();
            }
            if self.log.is_some() {
                self.note('R', String::from_utf8_lossy(&input[..taken]).trim_end());
                for line in std::mem::take(&mut self.out).lines() {
                    self.note('S', line);
                    self.out.push_str(line);
                    self.out.push('\n');
                }
            }
            used += taken;
            self.send(bridge.chardevs);
        }
        clock.set(now);
        used
    }

    /// The device takes answers again.
    pub fn writable(&mut self, chardevs: &mut Chardevs) {
        self.send(chardevs);
        if self.out.is_empty() {
            chardevs.pause_input(self.chardev, false);
        }
    }

    fn send(&mut self, chardevs: &mut Chardevs) {
        let taken = chardevs.write(self.chardev, self.out.as_bytes());
        self.out.drain(..taken);
    }

    fn note(&mut self, kind: char, text: &str) {
        if let Some(log) = &mut self.log {
            let micros = monotonic().saturating_sub(self.since) / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            // A log that can't be written must not end the test.
            let _ = writeln!(log, "[{kind} +{seconds}.{micros:06}] {text}");
        }
    }
}
