//! `null-co` and `null-aio`: storage of nothing. What is written is gone, what is read is whatever was there, or zeros.

use std::rc::Rc;

use rustix::io::Errno;

use super::buffer::Buffer;
use super::executor::{Boxed, Executor};
use super::node::{Description, Driver, Io, OptionValue, Refusal};

/// Bytes where nobody says how many.
pub const LENGTH: u64 = 1 << 30;

/// See the module.
pub struct Null {
    /// `null-co` or `null-aio`.
    pub name: &'static str,
    /// Bytes.
    pub length: u64,
    /// Nanoseconds that each request takes.
    pub latency: u64,
    /// Whether reads give zeros.
    pub read_zeroes: bool,
    /// Tells the time.
    pub executor: Rc<Executor>,
}

impl Null {
    fn wait(&self) -> Io<'_> {
        if self.latency == 0 {
            return Box::pin(std::future::ready(Ok(())));
        }
        let at = self.executor.now().saturating_add(self.latency);
        let sleep = self.executor.sleep_until(at);
        Box::pin(async {
            sleep.await;
            Ok(())
        })
    }
}

impl Driver for Null {
    fn name(&self) -> &'static str {
        self.name
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn read<'a>(&'a self, _at: u64, to: Buffer) -> Io<'a> {
        if self.read_zeroes {
            to.fill(0);
        }
        self.wait()
    }

    fn write<'a>(&'a self, _at: u64, _from: Buffer) -> Io<'a> {
        self.wait()
    }

    fn write_zeroes<'a>(&'a self, _at: u64, _length: u64, _may_unmap: bool) -> Io<'a> {
        super::throttle::refuse(Errno::OPNOTSUPP)
    }

    fn discard<'a>(&'a self, _at: u64, _length: u64) -> Io<'a> {
        Box::pin(std::future::ready(Ok::<(), Errno>(())))
    }

    fn flush(&self) -> Io<'_> {
        self.wait()
    }

    fn resize<'a>(&'a self, _length: u64) -> Boxed<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Err(
            "Image format driver does not support resize".to_owned(),
        )))
    }

    // Nothing is kept, but what is known counts as there.
    fn status(&self, _at: u64, length: u64) -> (bool, u64) {
        (self.read_zeroes, length)
    }

    fn describe(&self) -> Description {
        let mut options = Vec::new();
        if self.length != LENGTH {
            options.push(("size".into(), OptionValue::Number(self.length)));
        }
        if self.read_zeroes {
            options.push(("read-zeroes".into(), OptionValue::Bool(true)));
        }
        Description {
            filename: options.is_empty().then(|| format!("{}://", self.name)),
            options,
        }
    }

    fn allocated(&self) -> Option<u64> {
        Some(0)
    }
}
