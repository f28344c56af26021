//! The object model: what `qom-*` commands and `device-list-properties` show.
//!
//! Nothing is stored here. Types are tables over the device classes and processor models
//! ([`types()`]), and the tree of objects is computed from the machine's slots when it is asked for
//! ([`Tree`]). Names, types and paths are those of QEMU 7.2 for everything that exists here too.
//!
//! Not modelled: interfaces other than `user-creatable`, and the memory regions and interrupt pins that QEMU shows as
//! objects.
//!
//! Paths and names come from clients and may be anything. The work for one is bounded by its
//! length times the number of objects.

mod outline;
mod processor;
mod properties;
mod tree;
mod types;

use core::fmt;

use crate::devices::ConsoleId;
use crate::devices::block::DriveId;
use crate::machine::Machine;

pub use outline::BusLine;
pub use processor::{MODEL_NAME_MAX, Processor};
pub use tree::{Name, PATH_MAX, Path, Settable, VIRTIO_BACKEND};
pub use types::{
    TYPE_NAME_MAX, TypeName, cpu_type, device_properties, implements, type_properties, types,
};

/// The objects of a machine and of the process around it.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// The machine.
    pub machine: &'a Machine<'a>,
    /// What is not the machine's.
    pub outside: &'a dyn Outside,
}

/// A type of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeInfo<'a> {
    /// Its name: QMP's `name`.
    pub name: &'a str,
    /// The type it descends from; only `object` has none.
    pub parent: Option<&'a str>,
    /// Whether there are objects of descendants only: QMP's `abstract`, which is left out if false.
    pub is_abstract: bool,
}

/// A property of an object or of a type's objects: QMP's ObjectPropertyInfo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PropertyInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type of its value: `uint32`, `link<bus>`, `child<isa-serial>`. QMP's `type`.
    pub kind: &'a str,
    /// What it means; only where types are listed.
    pub description: Option<&'a str>,
    /// Its default; only from [`device_properties`]. QMP's `default-value`.
    pub default: Option<QomValue<'a>>,
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QomValue<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A number with a sign.
    Int(i64),
    /// A number without one.
    Uint(u64),
    /// Text, and the path of a linked object; empty for a link to nothing.
    Str(&'a str),
    /// A list of numbers.
    Numbers(&'a [u16]),
    /// An object of these members, in order.
    Members(&'a [(&'a str, QomValue<'a>)]),
}

/// Why there is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QomError<'a> {
    /// No object has this path.
    NoObject(&'a str),
    /// Several objects have this partial path.
    Ambiguous(&'a str),
    /// There is no such type.
    NoClass(&'a str),
    /// There is no such type where a device's is wanted.
    NoDevice(&'a str),
    /// The type is abstract or not a device's.
    NotDevice,
    /// The type is an interface, which has no objects.
    Interface,
    /// The object, of the type named first, has no such property.
    NoProperty(TypeName, &'a str),
    /// This property of the object, of the type named first, can only be read.
    ReadOnly(TypeName, &'a str),
    /// The path is made of more names than are followed, or the result of more than [`PATH_MAX`]
    /// bytes.
    LongPath,
}

impl QomError<'_> {
    /// Whether QMP's error class is DeviceNotFound; else it is GenericError.
    pub const fn is_device_not_found(&self) -> bool {
        matches!(
            self,
            Self::NoObject(_) | Self::NoClass(_) | Self::NoDevice(_)
        )
    }

    /// The sentence, in pieces to be joined: they quote input of any length.
    pub fn pieces(&self) -> [&str; 5] {
        match self {
            Self::NoObject(name) | Self::NoDevice(name) => {
                ["Device '", name, "' not found", "", ""]
            }
            Self::Ambiguous(path) => ["Path '", path, "' is ambiguous", "", ""],
            Self::NoClass(name) => ["Class '", name, "' not found", "", ""],
            Self::NotDevice => [
                "Parameter 'typename' expects a non-abstract device type",
                "",
                "",
                "",
                "",
            ],
            Self::Interface => ["Parameter 'typename' expects a QOM type", "", "", "", ""],
            Self::NoProperty(name, property) => ["Property '", name, ".", property, "' not found"],
            Self::ReadOnly(name, property) => {
                ["Property '", name, ".", property, "' is not writable"]
            }
            Self::LongPath => [
                "The path is longer than 64 names or 1024 bytes",
                "",
                "",
                "",
                "",
            ],
        }
    }
}

impl fmt::Display for QomError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces()
            .iter()
            .try_for_each(|piece| f.write_str(piece))
    }
}

/// The part of the tree that the host knows about. Everything is asked for anew each time.
pub trait Outside {
    /// Whether the machine counts as built: not before `x-exit-preconfig`.
    fn built(&self) -> bool {
        true
    }

    /// What the virtual clock reads.
    fn now(&self) -> u64 {
        0
    }

    /// What the command line said of the machine.
    fn settings(&self) -> Settings<'_>;

    /// What CPUID shows of each processor; of no use on a board without processors.
    fn processor(&self) -> &Processor;

    /// Visits the character devices, always in the same order.
    fn chardevs(&self, visit: &mut dyn FnMut(Chardev<'_>));

    /// The id of the character device behind a console.
    fn console(&self, console: ConsoleId) -> Option<&str>;

    /// The server of device tests, if there is one: the id of its character device, and the file
    /// it logs to, empty for none.
    fn qtest(&self) -> Option<(&str, &str)>;

    /// Visits the objects that users have made, always in the same order.
    fn objects(&self, _visit: &mut dyn FnMut(UserObject<'_>)) {}

    /// Hands the value of a property of the object at a position in that order to `take`: one of those that its type has
    /// beside `type`.
    fn object_value(&self, _position: usize, _property: &str, _take: &mut dyn FnMut(QomValue<'_>)) {
    }

    /// Hands what there is behind the device of a drive to `take`.
    fn drive(&self, _drive: DriveId, _take: &mut dyn FnMut(BehindDrive<'_>)) {}

    /// The position of the object that guest RAM is made of.
    fn memory_backend(&self) -> Option<usize> {
        None
    }
}

/// What is behind a device with a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BehindDrive<'a> {
    /// The drive's name, or that of the node in one without; empty for neither.
    pub name: &'a str,
    /// The position, among the objects that users have made, of the thread that serves it.
    pub thread: Option<usize>,
}

/// An object that a user has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserObject<'a> {
    /// Its id: its name below `/objects`.
    pub id: &'a str,
    /// Its type, one that `qom-list-types` tells.
    pub type_name: &'static str,
}

/// What the command line said of the machine. Names of files are as given, empty for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings<'a> {
    /// `-append`.
    pub append: &'a str,
    /// `-bios`, or the default image.
    pub firmware: &'a str,
    /// `-initrd`.
    pub initrd: &'a str,
    /// `-kernel`.
    pub kernel: &'a str,
    /// `-machine dump-guest-core`.
    pub dump_guest_core: bool,
    /// `-machine graphics`.
    pub graphics: bool,
    /// `-machine isa-serial`.
    pub isa_serial: bool,
    /// Whether microvm loads option ROMs.
    pub option_roms: bool,
    /// `-machine auto-kernel-cmdline`.
    pub auto_kernel_cmdline: bool,
    /// `-machine mem-merge`.
    pub mem_merge: bool,
    /// Whether SMBIOS structures have the 64-bit entry point.
    pub smbios_64: bool,
    /// `-global kvm-pit.lost_tick_policy`.
    pub lost_tick_policy: &'a str,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Processors at the start.
    pub cpus: u32,
    /// The most there can be.
    pub max_cpus: u32,
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// A character device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chardev<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it is.
    pub kind: ChardevKind,
}

/// What a character device is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChardevKind {
    /// A file.
    File,
    /// Several users of another one.
    Mux,
    /// Nothing.
    Null,
    /// A pseudo-terminal.
    Pty,
    /// A serial port of the host.
    Serial,
    /// A socket, and whether there is a peer.
    Socket {
        /// Whether there is a peer.
        connected: bool,
    },
    /// Standard input and output.
    Stdio,
}

impl ChardevKind {
    /// The type of its object.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::File => "chardev-file",
            Self::Mux => "chardev-mux",
            Self::Null => "chardev-null",
            Self::Pty => "chardev-pty",
            Self::Serial => "chardev-serial",
            Self::Socket { .. } => "chardev-socket",
            Self::Stdio => "chardev-stdio",
        }
    }
}

#[cfg(test)]
mod tests;
