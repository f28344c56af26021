//! `copy-on-read` and `blkverify`: what stands between a node and those who use it.

use rustix::io::Errno;

use super::buffer::Buffer;
use super::executor::Boxed;
use super::node::{Child, Description, Driver, Io, Need, Permissions, Refusal, of_node};

/// Writes what it reads from a lower image, so that it is in the upper one. No driver has images below it yet, so what is
/// read is always where it is to be; what is left is what it needs of its child.
pub struct CopyOnRead {
    /// What is below.
    pub file: Child,
}

impl Driver for CopyOnRead {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }

    fn length(&self) -> u64 {
        self.file.node().length()
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        of_node!(self.file, read(at, to))
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        of_node!(self.file, write(at, from))
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        of_node!(self.file, write_zeroes(at, length, may_unmap))
    }

    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a> {
        of_node!(self.file, discard(at, length))
    }

    fn resize<'a>(&'a self, _length: u64) -> Boxed<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Err(
            "Image format driver does not support resize".to_owned(),
        )))
    }

    fn status(&self, at: u64, length: u64) -> (bool, u64) {
        self.file.node().driver().status(at, length)
    }

    fn children(&self) -> Vec<&Child> {
        vec![&self.file]
    }

    fn child_need(&self, _role: &str, need: Need) -> Need {
        Need {
            uses: need.uses | Permissions::WRITE_UNCHANGED,
            shares: need.shares | Permissions::WRITE_UNCHANGED,
        }
    }

    fn describe(&self) -> Description {
        Description::default()
    }

    fn allocated(&self) -> Option<u64> {
        self.file.node().driver().allocated()
    }

    fn has_dirty_flag(&self) -> bool {
        self.file.node().driver().has_dirty_flag()
    }

    fn is_filter(&self) -> bool {
        true
    }
}

/// Does everything with two images, and fails a read where they differ.
pub struct Verify {
    /// The image to look at.
    pub test: Child,
    /// The one that is right.
    pub raw: Child,
}

impl Verify {
    async fn both(&self, what: &str, test: Io<'_>, raw: Io<'_>) -> Result<(), Errno> {
        let (test, raw) = (test.await, raw.await);
        if test.is_ok() != raw.is_ok() {
            crate::report(format_args!(
                "blkverify: {what} ends differently: {test:?} {raw:?}"
            ));
            return Err(Errno::IO);
        }
        raw
    }
}

impl Driver for Verify {
    fn name(&self) -> &'static str {
        "blkverify"
    }

    fn length(&self) -> u64 {
        self.test.node().length()
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        Box::pin(async move {
            let right = Buffer::new(to.len());
            let (test, raw) = (self.test.node(), self.raw.node());
            let test = test.read(at, to.clone());
            let raw = raw.read(at, right.clone());
            self.both("read", test, raw).await?;
            let (found, right) = (to.to_vec(), right.to_vec());
            let differs = found.iter().zip(&right).position(|(a, b)| a != b);
            match differs {
                None => Ok(()),
                Some(byte) => {
                    let place = at + byte as u64;
                    crate::report(format_args!("blkverify: contents differ at offset {place}"));
                    Err(Errno::IO)
                }
            }
        })
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        Box::pin(async move {
            let (test, raw) = (self.test.node(), self.raw.node());
            let test = test.write(at, from.clone());
            let raw = raw.write(at, from);
            self.both("write", test, raw).await
        })
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        Box::pin(async move {
            let (test, raw) = (self.test.node(), self.raw.node());
            let test = test.write_zeroes(at, length, may_unmap);
            let raw = raw.write_zeroes(at, length, may_unmap);
            self.both("write of zeros", test, raw).await
        })
    }

    // What is given up may read as anything, so that nothing could be compared.
    fn discard<'a>(&'a self, _at: u64, _length: u64) -> Io<'a> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn resize<'a>(&'a self, _length: u64) -> Boxed<'a, Result<(), Refusal>> {
        Box::pin(std::future::ready(Err(
            "Image format driver does not support resize".to_owned(),
        )))
    }

    fn children(&self) -> Vec<&Child> {
        vec![&self.test, &self.raw]
    }

    // What the other one has is not looked at when all is over.
    fn flushed(&self) -> Vec<&Child> {
        vec![&self.test]
    }

    fn describe(&self) -> Description {
        let raw = self.raw.node().driver().describe().filename;
        let test = self.test.node().driver().describe().filename;
        Description {
            filename: raw
                .zip(test)
                .map(|(raw, test)| format!("blkverify:{raw}:{test}")),
            options: Vec::new(),
        }
    }

    fn allocated(&self) -> Option<u64> {
        None
    }

    fn has_dirty_flag(&self) -> bool {
        self.raw.node().driver().has_dirty_flag()
    }

    fn is_filter(&self) -> bool {
        true
    }
}
