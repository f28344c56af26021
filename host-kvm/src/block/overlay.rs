//! What a `snapshot=on` drive writes: an overlay in a temporary file without a name, which is gone with the process.
//!
//! A bit for each cluster says whether it is in the file, at the offset that it has in the image. What the file does
//! not have is read from the image below, and a write of a part of a cluster brings the rest of it along first; with
//! copy-on-read, so does a read.
//!
//! QEMU makes such an overlay of qcow2, in a file that has a node of its own. This one's format is nobody else's business: it
//! is called `overlay` where clients are told of a node's driver, and its file, which has no name, is not shown.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use rustix::io::Errno;

use super::buffer::Buffer;
use super::executor::{Boxed, Changed, Pool};
use super::node::{Child, Description, Driver, Io, Need, Permissions, Refusal};

/// Bytes of a cluster.
const CLUSTER: u64 = 64 << 10;

/// See the module.
pub struct Overlay {
    backing: Child,
    file: Arc<File>,
    length: Cell<u64>,
    /// What is read is brought along, too.
    copy_on_read: bool,
    /// A bit for each cluster.
    present: RefCell<Vec<u64>>,
    /// The clusters that a write is at, who has them alone.
    busy: RefCell<Vec<(u64, u64)>>,
    changed: Changed,
    pool: Pool,
}

/// Clusters that one write has alone.
struct Alone<'a>(&'a Overlay, (u64, u64));

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.busy.borrow_mut().retain(|range| *range != self.1);
        self.0.changed.tell();
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Overlay {
    /// An overlay in which nothing is written yet.
    ///
    /// # Errors
    /// If there is no place for a temporary file.
    pub fn new(
        backing: Child,
        length: u64,
        copy_on_read: bool,
        pool: Pool,
    ) -> Result<Self, Refusal> {
        let directory = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::CLOEXEC;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let file = rustix::fs::open(directory.as_os_str(), flags, mode).map_err(|error| {
            format!(
                "Could not create temporary overlay: {}",
                super::file::errno_text(error)
            )
        })?;
        let words = length.div_ceil(CLUSTER).div_ceil(64);
        Ok(Self {
            backing,
            file: Arc::new(File::from(file)),
            length: Cell::new(length),
            copy_on_read,
            present: RefCell::new(vec![0; words as usize]),
            busy: RefCell::default(),
            changed: Changed::default(),
            pool,
        })
    }

    fn has(&self, cluster: u64) -> bool {
        let present = self.present.borrow();
        let word = present.get((cluster / 64) as usize);
        word.is_some_and(|word| word >> (cluster % 64) & 1 != 0)
    }

    fn mark(&self, first: u64, end: u64) {
        let mut present = self.present.borrow_mut();
        let words = (end.div_ceil(64)) as usize;
        if present.len() < words {
            present.resize(words, 0);
        }
        for cluster in first..end {
            present[(cluster / 64) as usize] |= 1 << (cluster % 64);
        }
    }

    async fn alone(&self, at: u64, length: u64) -> Alone<'_> {
        let range = (at / CLUSTER, (at + length).div_ceil(CLUSTER));
        let free = || {
            let busy = self.busy.borrow();
            !busy
                .iter()
                .any(|(from, to)| *from < range.1 && range.0 < *to)
        };
        self.changed.until(free).await;
        self.busy.borrow_mut().push(range);
        Alone(self, range)
    }

    async fn store(&self, at: u64, from: Buffer) -> Result<(), Errno> {
        let file = self.file.clone();
        let bytes = from.to_vec();
        let written = self.pool.run(move || file.write_all_at(&bytes, at));
        written.await.map_err(|error| errno(&error))
    }

    async fn load(&self, at: u64, to: &Buffer) -> Result<(), Errno> {
        let (file, length) = (self.file.clone(), to.len());
        let read = self.pool.run(move || {
            let mut bytes = vec![0; length];
            let mut done = 0;
            while done < length {
                match file.read_at(&mut bytes[done..], at + done as u64)? {
                    0 => break,
                    count => done += count,
                }
            }
            Ok(bytes)
        });
        to.write(&read.await.map_err(|error: std::io::Error| errno(&error))?);
        Ok(())
    }

    /// Brings the clusters at both ends of a range along, where they are not covered and not there.
    async fn complete(&self, at: u64, length: u64) -> Result<(), Errno> {
        let end = at + length;
        let (first, last) = (at / CLUSTER, (end - 1) / CLUSTER);
        for cluster in [first, last] {
            let start = cluster * CLUSTER;
            let covered = at <= start && start + CLUSTER <= end;
            if !covered {
                self.fetch(cluster).await?;
            }
        }
        Ok(())
    }

    /// Brings a cluster along if it is not there.
    async fn fetch(&self, cluster: u64) -> Result<(), Errno> {
        if self.has(cluster) {
            return Ok(());
        }
        let start = cluster * CLUSTER;
        let buffer = Buffer::new(CLUSTER as usize);
        self.below(start, &buffer).await?;
        self.store(start, buffer).await?;
        self.mark(cluster, cluster + 1);
        Ok(())
    }

    /// Reads from the image below; what lies behind its end reads as zeros.
    async fn below(&self, at: u64, to: &Buffer) -> Result<(), Errno> {
        let whole = self.backing.node().length();
        let there = whole.saturating_sub(at).min(to.len() as u64) as usize;
        to.slice(there, to.len()).fill(0);
        match there {
            0 => Ok(()),
            there => self.backing.node().read(at, to.slice(0, there)).await,
        }
    }
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn length(&self) -> u64 {
        self.length.get()
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        Box::pin(async move {
            if self.copy_on_read && !to.is_empty() {
                let length = to.len() as u64;
                let _alone = self.alone(at, length).await;
                for cluster in at / CLUSTER..(at + length).div_ceil(CLUSTER) {
                    self.fetch(cluster).await?;
                }
            }
            let mut done = 0;
            while done < to.len() {
                let here = at + done as u64;
                let there = self.has(here / CLUSTER);
                let mut end = (here / CLUSTER + 1) * CLUSTER;
                while end < at + to.len() as u64 && self.has(end / CLUSTER) == there {
                    end += CLUSTER;
                }
                let part = to.slice(done, (end - here) as usize);
                match there {
                    true => self.load(here, &part).await?,
                    false => self.below(here, &part).await?,
                }
                done += part.len();
            }
            Ok(())
        })
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        Box::pin(async move {
            let length = from.len() as u64;
            if length == 0 {
                return Ok(());
            }
            let _alone = self.alone(at, length).await;
            self.complete(at, length).await?;
            self.store(at, from).await?;
            self.mark(at / CLUSTER, (at + length).div_ceil(CLUSTER));
            self.length.set(self.length.get().max(at + length));
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, _at: u64, _length: u64, _may_unmap: bool) -> Io<'a> {
        super::throttle::refuse(Errno::OPNOTSUPP)
    }

    // The image below may not change, and what it has would show.
    fn discard<'a>(&'a self, _at: u64, _length: u64) -> Io<'a> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn resize<'a>(&'a self, length: u64) -> Boxed<'a, Result<(), Refusal>> {
        let old = self.length.get();
        if length < old {
            return Box::pin(std::future::ready(Err(
                "a temporary overlay can't become shorter".to_owned(),
            )));
        }
        self.length.set(length);
        Box::pin(std::future::ready(Ok(())))
    }

    fn children(&self) -> Vec<&Child> {
        vec![&self.backing]
    }

    fn child_need(&self, _role: &str, need: Need) -> Need {
        let changes = Permissions::WRITE | Permissions::RESIZE;
        let mut shares = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED;
        if need.shares.contains(Permissions::WRITE) {
            // Who can live with changes of this one can with those of what is below.
            shares |= changes;
        }
        Need {
            uses: need.uses & Permissions::CONSISTENT_READ,
            shares,
        }
    }

    fn status(&self, at: u64, length: u64) -> (bool, u64) {
        (self.has(at / CLUSTER), length.min(CLUSTER - at % CLUSTER))
    }

    fn describe(&self) -> Description {
        Description::default()
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(CLUSTER)
    }

    fn has_dirty_flag(&self) -> bool {
        true
    }

    fn allocated(&self) -> Option<u64> {
        Some(self.file.metadata().ok()?.blocks() * 512)
    }
}
