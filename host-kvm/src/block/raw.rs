//! `raw`: the image is its file, or a part of it.

use std::cell::Cell;

use rustix::io::Errno;
use thimble_monitor::schema::BlkdebugEvent;

use super::buffer::Buffer;
use super::executor::Boxed;
use super::node::{Change, Child, Description, Driver, Io, OptionValue, Refusal, of_node};

/// See the module.
pub struct Raw {
    file: Child,
    part: Cell<(u64, Option<u64>)>,
    /// Nobody has said that it is raw: what a guest writes at its beginning must not make it look like another format.
    probed: bool,
}

impl Raw {
    /// The part of a file.
    ///
    /// # Errors
    /// If the file is too short, in QEMU's words.
    pub fn new(file: Child, offset: u64, size: Option<u64>, probed: bool) -> Result<Self, Refusal> {
        let raw = Self {
            file,
            part: Cell::new((0, None)),
            probed,
        };
        raw.choose(offset, size)?;
        Ok(raw)
    }

    /// Is another part of the file from now on.
    fn choose(&self, offset: u64, size: Option<u64>) -> Result<(), Refusal> {
        let whole = self.file.node().length();
        if offset > whole {
            return Err(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({whole})"
            ));
        }
        if let Some(size) = size.filter(|size| *size > whole - offset) {
            // Two spaces, as QEMU writes it.
            return Err(format!(
                "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the \
                 containing file ({whole})"
            ));
        }
        self.part.set((offset, size));
        Ok(())
    }

    fn place(&self, at: u64, length: u64, write: bool) -> Result<u64, Errno> {
        let (offset, size) = self.part.get();
        let fits = |size: u64| at.checked_add(length).is_some_and(|end| end <= size);
        if let Some(size) = size
            && !fits(size)
        {
            return Err(if write { Errno::NOSPC } else { Errno::INVAL });
        }
        at.checked_add(offset).ok_or(Errno::INVAL)
    }
}

/// What the formats that probing knows begin with.
pub const MAGICS: [(&[u8], &str); 9] = [
    (b"QFI\xfb\0\0\0\x01", "qcow"),
    (b"QFI\xfb", "qcow2"),
    (b"QED\0", "qed"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"conectix", "vpc"),
    (b"vhdxfile", "vhdx"),
    (b"LUKS\xba\xbe", "luks"),
    (b"WithoutFreeSpace", "parallels"),
];

/// The format that an image's beginning tells of; `raw` if none.
pub fn probe(beginning: &[u8]) -> &'static str {
    let found = MAGICS
        .iter()
        .find(|(magic, _)| beginning.starts_with(magic));
    if beginning.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]) {
        return "vdi";
    }
    found.map_or("raw", |(_, name)| name)
}

impl Driver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn length(&self) -> u64 {
        let (offset, size) = self.part.get();
        let rest = self.file.node().length().saturating_sub(offset);
        size.map_or(rest, |size| size.min(rest))
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        Box::pin(async move {
            let file = self.file.node();
            if let Some(stop) = file.driver().event(BlkdebugEvent::ReadAio) {
                stop.await;
            }
            let at = self.place(at, to.len() as u64, false)?;
            file.read(at, to).await
        })
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        Box::pin(async move {
            if self.probed && at < 512 {
                let mut beginning = [0; 512];
                from.read(&mut beginning);
                if at > 0 || probe(&beginning) != "raw" {
                    return Err(Errno::PERM);
                }
            }
            let file = self.file.node();
            if let Some(stop) = file.driver().event(BlkdebugEvent::WriteAio) {
                stop.await;
            }
            let at = self.place(at, from.len() as u64, true)?;
            file.write(at, from).await
        })
    }

    fn write_zeroes<'a>(&'a self, at: u64, length: u64, may_unmap: bool) -> Io<'a> {
        match self.place(at, length, true) {
            Ok(at) => of_node!(self.file, write_zeroes(at, length, may_unmap)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn discard<'a>(&'a self, at: u64, length: u64) -> Io<'a> {
        match self.place(at, length, true) {
            Ok(at) => of_node!(self.file, discard(at, length)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn resize<'a>(&'a self, length: u64) -> Boxed<'a, Result<(), Refusal>> {
        let (offset, size) = self.part.get();
        if size.is_some() {
            return Box::pin(std::future::ready(Err(
                "Cannot resize fixed-size raw disks".to_owned(),
            )));
        }
        let Some(length) = length.checked_add(offset) else {
            return Box::pin(std::future::ready(Err(
                "Disk size too large for the chosen offset".to_owned(),
            )));
        };
        of_node!(self.file, resize(length))
    }

    fn change(&self, change: Change) -> Result<Change, Refusal> {
        let (offset, size) = self.part.get();
        if let Change::Part { offset, size } = change {
            self.choose(offset, size)?;
        }
        Ok(Change::Part { offset, size })
    }

    fn status(&self, at: u64, length: u64) -> (bool, u64) {
        let (offset, _) = self.part.get();
        let file = self.file.node();
        file.driver().status(at.saturating_add(offset), length)
    }

    fn children(&self) -> Vec<&Child> {
        vec![&self.file]
    }

    fn describe(&self) -> Description {
        let mut options = Vec::new();
        let (offset, size) = self.part.get();
        if offset != 0 {
            options.push(("offset".into(), OptionValue::Number(offset)));
        }
        if let Some(size) = size {
            options.push(("size".into(), OptionValue::Number(size)));
        }
        let below = self.file.node().driver().describe().filename;
        Description {
            filename: below.filter(|_| options.is_empty()),
            options,
        }
    }

    fn allocated(&self) -> Option<u64> {
        self.file.node().driver().allocated()
    }

    fn has_dirty_flag(&self) -> bool {
        self.file.node().driver().has_dirty_flag()
    }
}
