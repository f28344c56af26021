//! Memory backends: memory that is an object, and that a guest has or can be given.
//!
//! `memory-backend-ram` is the process' own, `memory-backend-file` a file's, `memory-backend-memfd` that of a file without a name. What
//! another process maps of a shared one is what the guest sees. The kernel is asked for all that can be asked of it: huge pages, NUMA
//! nodes, whether pages may be merged or are part of core dumps, and that all of it is there from the start.
//!
//! Not here: persistent memory (`pmem`), threads with a place of their own for filling memory (`prealloc-context`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use thimble_core::qom::QomValue;
use thimble_monitor::owner::objects::NewValue;
use thimble_monitor::schema::HostMemPolicy;
use thimble_monitor::schema::arguments::{
    MemoryBackendFileProperties, MemoryBackendMemfdProperties, MemoryBackendProperties,
};
use thimble_monitor::schema::results::Memdev;
use thimble_monitor::{ErrorClass, QmpError};

use super::mapping::{Mapping, Plan, page_of};
use crate::error_text;
use crate::files::{self, OFlags, Opened};
use crate::memory::PAGE;

/// NUMA nodes of a host at most, as QEMU counts them.
const NODES_MAX: u16 = u128::BITS as u16;

/// Threads that fill memory at most.
const THREADS_MAX: u32 = 64;

/// What backends are like where they are not told to be.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `-machine dump-guest-core`.
    pub dump: bool,
    /// `-machine mem-merge`.
    pub merge: bool,
    /// `-mem-prealloc`.
    pub prealloc: bool,
    /// Threads that fill memory.
    pub threads: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            dump: true,
            merge: true,
            prealloc: false,
            threads: 1,
        }
    }
}

/// What kind of memory it is.
#[derive(Debug)]
enum Kind {
    Ram,
    File {
        path: PathBuf,
        align: u64,
        discard: bool,
    },
    Memfd {
        huge: bool,
        huge_size: u64,
        seal: bool,
    },
}

/// A memory backend.
#[derive(Debug)]
pub struct MemoryBackend {
    mapping: Arc<Mapping>,
    kind: Kind,
    size: u64,
    dump: bool,
    merge: bool,
    prealloc: bool,
    threads: u32,
    share: bool,
    reserve: bool,
    policy: HostMemPolicy,
    nodes: Vec<u16>,
    canonical: bool,
}

/// The properties that backends of all kinds have.
macro_rules! common {
    ($given:expr) => {
        MemoryBackendProperties {
            dump: $given.dump,
            host_nodes: $given.host_nodes.clone(),
            merge: $given.merge,
            policy: $given.policy,
            prealloc: $given.prealloc,
            prealloc_threads: $given.prealloc_threads,
            prealloc_context: $given.prealloc_context,
            share: $given.share,
            reserve: $given.reserve,
            size: $given.size,
            x_use_canonical_path_for_ramblock_id: $given.x_use_canonical_path_for_ramblock_id,
        }
    };
}

fn refused(text: String) -> QmpError {
    QmpError::generic(format_args!("{text}"))
}

/// A sentence about what the system does not do.
fn failed(what: String) -> impl FnOnce(io::Error) -> QmpError {
    move |error| refused(format!("{what}: {}", error_text(&error)))
}

fn not_zero(type_name: &str, property: &str) -> QmpError {
    refused(format!(
        "property '{property}' of {type_name} doesn't take value '0'"
    ))
}

impl MemoryBackend {
    /// Memory of the process.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn ram(
        id: &str,
        given: &MemoryBackendProperties<'_>,
        defaults: Defaults,
    ) -> Result<Self, QmpError> {
        let plan = Plan {
            size: given.size,
            file: None,
            share: given.share.unwrap_or(false),
            reserve: given.reserve.unwrap_or(true),
            readonly: false,
            align: 0,
        };
        Self::new(
            Kind::Ram,
            given,
            defaults,
            plan,
            format!("cannot set up guest memory '{id}'"),
        )
    }

    /// Memory of a file.
    ///
    /// # Errors
    /// In QEMU's words where it has some. A file that was made for it is gone again.
    pub fn file(
        given: &MemoryBackendFileProperties<'_>,
        defaults: Defaults,
    ) -> Result<Self, QmpError> {
        if given.pmem == Some(true) {
            return Err(refused(
                "persistent memory ('pmem') is not available".to_owned(),
            ));
        }
        let readonly = given.readonly.unwrap_or(false);
        let common = common!(given);
        let path = PathBuf::from(OsStr::from_bytes(given.mem_path));
        let align = given.align.unwrap_or(0);
        if !align.is_multiple_of(PAGE) {
            return Err(refused(format!(
                "alignment 0x{align:x} must be multiples of page size 0x{PAGE:x}"
            )));
        }
        if align != 0 && !align.is_power_of_two() {
            return Err(refused(format!(
                "alignment 0x{align:x} must be a power of two"
            )));
        }
        if given.size == 0 {
            return Err(not_zero("memory-backend-file", "size"));
        }
        let (file, created) = open(&path, readonly).map_err(failed(format!(
            "can't open backing store {} for guest RAM",
            path.display()
        )))?;
        let plan = |file: Opened| Plan {
            size: given.size,
            // Once it is mapped, a set that it comes from may go.
            file: Some(file.into_parts().0.into()),
            share: given.share.unwrap_or(false),
            reserve: given.reserve.unwrap_or(true),
            readonly,
            align,
        };
        let kind = Kind::File {
            path: path.clone(),
            align,
            discard: given.discard_data.unwrap_or(false),
        };
        let backend = enlarge(&file, given.size).and_then(|()| {
            let what = "unable to map backing store for guest RAM".to_owned();
            Self::new(kind, &common, defaults, plan(file), what)
        });
        if backend.is_err() && created {
            let _ = std::fs::remove_file(&path);
        }
        backend
    }

    /// Memory of a file without a name.
    ///
    /// # Errors
    /// In QEMU's words where it has some.
    pub fn memfd(
        given: &MemoryBackendMemfdProperties<'_>,
        defaults: Defaults,
    ) -> Result<Self, QmpError> {
        let (huge, huge_size) = (given.hugetlb.unwrap_or(false), given.hugetlbsize);
        let seal = given.seal.unwrap_or(true);
        if huge_size == Some(0) {
            return Err(refused(
                "Property 'memory-backend-memfd.hugetlbsize' doesn't take value '0'".to_owned(),
            ));
        }
        let huge_size = huge_size.unwrap_or(0);
        if huge && huge_size != 0 && !huge_size.is_power_of_two() {
            return Err(refused(format!(
                "a huge page of {huge_size} bytes: not a power of two"
            )));
        }
        if given.size == 0 {
            return Err(not_zero("memory-backend-memfd", "size"));
        }
        let common = common!(given);
        let mut flags = MemfdFlags::CLOEXEC;
        flags.set(MemfdFlags::ALLOW_SEALING, seal);
        if huge {
            // The size's logarithm is in the upper bits (memfd_create(2)); without one, the host has a default.
            let log = match huge_size {
                0 => 0,
                size => size.trailing_zeros(),
            };
            flags |= MemfdFlags::from_bits_retain(libc::MFD_HUGETLB | log << 26);
        }
        let file = rustix::fs::memfd_create("memory-backend-memfd", flags)
            .map_err(|error| failed("failed to create memfd".to_owned())(error.into()))?;
        let file = File::from(file);
        file.set_len(given.size)
            .map_err(failed(format!("failed to resize memfd to {}", given.size)))?;
        if seal {
            let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&file, seals)
                .map_err(|error| failed("failed to seal memfd".to_owned())(error.into()))?;
        }
        let plan = Plan {
            size: given.size,
            file: Some(file),
            share: given.share.unwrap_or(true),
            reserve: given.reserve.unwrap_or(true),
            readonly: false,
            align: 0,
        };
        let kind = Kind::Memfd {
            huge,
            huge_size,
            seal,
        };
        let what = "unable to map backing store for guest RAM".to_owned();
        Self::new(kind, &common, defaults, plan, what)
    }

    /// Maps what is planned; what fails then is told behind `what`.
    fn new(
        kind: Kind,
        given: &MemoryBackendProperties<'_>,
        defaults: Defaults,
        plan: Plan,
        what: String,
    ) -> Result<Self, QmpError> {
        let (share, reserve) = (plan.share, plan.reserve);
        let type_name = kind.type_name();
        if given.size == 0 {
            return Err(not_zero(type_name, "size"));
        }
        if given.prealloc_threads == Some(0) {
            return Err(not_zero(type_name, "prealloc-threads"));
        }
        if let Some(context) = given.prealloc_context {
            // Objects of its type can't be made.
            let context = String::from_utf8_lossy(context);
            return Err(QmpError::new(
                ErrorClass::DeviceNotFound,
                format_args!("Device '{context}' not found"),
            ));
        }
        let prealloc = given.prealloc.unwrap_or(defaults.prealloc);
        if prealloc && !reserve {
            return Err(incompatible());
        }
        let policy = given.policy.unwrap_or(HostMemPolicy::Default);
        let nodes = node_mask(given, policy)?;
        let mapping = Mapping::new(plan).map_err(failed(what))?;
        if let Some(mode) = mode(policy) {
            mapping
                .bind(mode, nodes)
                .map_err(failed("cannot bind memory to host NUMA nodes".to_owned()))?;
        }
        let mut backend = Self {
            mapping: Arc::new(mapping),
            kind,
            size: given.size,
            dump: true,
            merge: false,
            prealloc: false,
            threads: given.prealloc_threads.unwrap_or(defaults.threads),
            share,
            reserve,
            policy,
            nodes: (0..NODES_MAX)
                .filter(|node| nodes >> node & 1 != 0)
                .collect(),
            canonical: given.x_use_canonical_path_for_ramblock_id.unwrap_or(false),
        };
        backend.set_dump(given.dump.unwrap_or(defaults.dump));
        backend.set_merge(given.merge.unwrap_or(defaults.merge));
        backend.set_prealloc(prealloc)?;
        Ok(backend)
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        self.kind.type_name()
    }

    /// Bytes, as asked for.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The memory. Whoever has it uses the backend.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether someone uses it.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.mapping) > 1
    }

    /// Frees what is told to be of no use without the object.
    pub fn discard(&self) {
        if let Kind::File { discard: true, .. } = self.kind {
            self.mapping.discard();
        }
    }

    fn set_dump(&mut self, on: bool) {
        if on != self.dump {
            self.dump = on;
            self.mapping.advise(match on {
                true => libc::MADV_DODUMP,
                false => libc::MADV_DONTDUMP,
            });
        }
    }

    fn set_merge(&mut self, on: bool) {
        if on != self.merge {
            self.merge = on;
            self.mapping.advise(match on {
                true => libc::MADV_MERGEABLE,
                false => libc::MADV_UNMERGEABLE,
            });
        }
    }

    fn set_prealloc(&mut self, on: bool) -> Result<(), QmpError> {
        if on && !self.reserve {
            return Err(incompatible());
        }
        if on && !self.prealloc {
            // QEMU's words, of which the first is for its source.
            let what = "qemu_prealloc_mem: preallocating memory failed".to_owned();
            let threads = self.threads.min(THREADS_MAX);
            self.mapping.populate(threads).map_err(failed(what))?;
            self.prealloc = true;
        }
        Ok(())
    }

    /// Changes a property.
    ///
    /// # Errors
    /// In QEMU's words. What only a new backend can be is refused.
    pub fn set(&mut self, property: &str, value: NewValue<'_>) -> Result<(), QmpError> {
        match property {
            "dump" => self.set_dump(value.boolean(property)?),
            "merge" => self.set_merge(value.boolean(property)?),
            "prealloc" => return self.set_prealloc(value.boolean(property)?),
            "x-use-canonical-path-for-ramblock-id" => self.canonical = value.boolean(property)?,
            "discard-data" => {
                let on = value.boolean(property)?;
                if let Kind::File { discard, .. } = &mut self.kind {
                    *discard = on;
                }
            }
            "size" => {
                let name = self.type_name();
                return Err(refused(format!("cannot change property size of {name} ")));
            }
            "share" | "reserve" | "hugetlbsize" => {
                return Err(refused("cannot change property value".to_owned()));
            }
            "pmem" | "readonly" => {
                let name = self.type_name();
                return Err(refused(format!(
                    "cannot change property '{property}' of {name}."
                )));
            }
            _ => {
                let name = self.type_name();
                return Err(refused(format!(
                    "cannot change property '{property}' of {name}"
                )));
            }
        }
        Ok(())
    }

    /// Hands the value of a property to `take`.
    pub fn value(&self, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        take(match (property, &self.kind) {
            ("dump", _) => QomValue::Bool(self.dump),
            ("host-nodes", _) => QomValue::Numbers(&self.nodes),
            ("merge", _) => QomValue::Bool(self.merge),
            ("policy", _) => QomValue::Str(self.policy.name()),
            ("prealloc", _) => QomValue::Bool(self.prealloc),
            ("prealloc-threads", _) => QomValue::Uint(self.threads.into()),
            ("reserve", _) => QomValue::Bool(self.reserve),
            ("share", _) => QomValue::Bool(self.share),
            ("size", _) => QomValue::Uint(self.size),
            ("x-use-canonical-path-for-ramblock-id", _) => QomValue::Bool(self.canonical),
            ("align", Kind::File { align, .. }) => QomValue::Uint(*align),
            ("discard-data", Kind::File { discard, .. }) => QomValue::Bool(*discard),
            ("mem-path", Kind::File { path, .. }) => {
                return take(QomValue::Str(&path.to_string_lossy()));
            }
            ("pmem", Kind::File { .. }) => QomValue::Bool(false),
            ("readonly", Kind::File { .. }) => QomValue::Bool(self.mapping.is_readonly()),
            ("hugetlb", Kind::Memfd { huge, .. }) => QomValue::Bool(*huge),
            ("hugetlbsize", Kind::Memfd { huge_size, .. }) => QomValue::Uint(*huge_size),
            ("seal", Kind::Memfd { seal, .. }) => QomValue::Bool(*seal),
            _ => return,
        });
    }

    /// What `query-memdev` tells of it.
    pub fn info<'a>(&'a self, id: &'a str) -> Memdev<'a> {
        Memdev {
            id: Some(id),
            size: self.size,
            merge: self.merge,
            dump: self.dump,
            prealloc: self.prealloc,
            share: self.share,
            reserve: Some(self.reserve),
            host_nodes: &self.nodes,
            policy: self.policy,
        }
    }
}

impl Kind {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Ram => "memory-backend-ram",
            Self::File { .. } => "memory-backend-file",
            Self::Memfd { .. } => "memory-backend-memfd",
        }
    }
}

fn incompatible() -> QmpError {
    refused("'prealloc=on' and 'reserve=off' are incompatible".to_owned())
}

/// The mode of mbind(2); none leaves memory to the kernel.
fn mode(policy: HostMemPolicy) -> Option<i32> {
    match policy {
        HostMemPolicy::Default => None,
        HostMemPolicy::Preferred => Some(libc::MPOL_PREFERRED),
        HostMemPolicy::Bind => Some(libc::MPOL_BIND),
        HostMemPolicy::Interleave => Some(libc::MPOL_INTERLEAVE),
    }
}

/// The nodes that are asked for, a bit each.
fn node_mask(given: &MemoryBackendProperties<'_>, policy: HostMemPolicy) -> Result<u128, QmpError> {
    let mut mask = 0;
    for node in given.host_nodes.clone().into_iter().flatten() {
        if node >= NODES_MAX {
            return Err(refused(format!("Invalid host-nodes value: {node}")));
        }
        mask |= 1_u128 << node;
    }
    match (policy, mask) {
        (HostMemPolicy::Default, 0) => Ok(0),
        (HostMemPolicy::Default, _) => Err(refused(
            "host-nodes must be empty for policy default, or you should explicitly specify a policy other than default"
                .to_owned(),
        )),
        (policy, 0) => Err(refused(format!(
            "host-nodes must be set for policy {}",
            policy.name()
        ))),
        _ => Ok(mask),
    }
}

/// Opens a backend's file, or makes it, or one without a name in a directory; and tells whether a file of that name is new.
fn open(path: &Path, readonly: bool) -> io::Result<(Opened, bool)> {
    let access = match readonly {
        true => OFlags::RDONLY,
        false => OFlags::RDWR,
    };
    // A FIFO must not hold up anything.
    let access = access | OFlags::NONBLOCK;
    let new = OFlags::CREATE | OFlags::EXCL;
    if path.is_dir() && !readonly {
        // Not every file system has O_TMPFILE: huge pages' has not.
        for number in 0_u32.. {
            let name = format!("thimble-memory-{}-{number}", std::process::id());
            let path = path.join(name);
            match files::open(&path, access | new) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {}
                opened => {
                    let file = opened?;
                    std::fs::remove_file(&path)?;
                    return Ok((file, false));
                }
            }
        }
    }
    match files::open(path, access) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !readonly => {
            Ok((files::open(path, access | new)?, true))
        }
        opened => Ok((opened?, false)),
    }
}

/// Makes an empty file as long as it has to be; one with content has to be already.
fn enlarge(file: &Opened, size: u64) -> Result<(), QmpError> {
    let about = || {
        file.metadata()
            .map_err(failed("the backing store".to_owned()))
    };
    let mut found = about()?;
    if found.is_file() && found.len() == 0 {
        let whole = size.checked_next_multiple_of(page_of(file));
        let whole = whole.unwrap_or(u64::MAX);
        let enlarged = file.set_len(whole);
        // One that can only be read is what it is.
        if let Err(error) = enlarged
            && error.raw_os_error() != Some(libc::EINVAL)
        {
            let what = "can't enlarge the backing store for guest RAM";
            return Err(failed(what.to_owned())(error));
        }
        found = about()?;
    }
    // Whoever touches a file's memory behind its end is killed.
    if found.is_file() && found.len() < size {
        return Err(refused(format!(
            "backing store size 0x{:x} does not match 'size' option 0x{size:x}",
            found.len()
        )));
    }
    Ok(())
}
