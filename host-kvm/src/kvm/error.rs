//! What can go wrong with /dev/kvm, as sentences for the user.

use std::fmt;

/// Why KVM is not available or refused a call.
#[derive(Debug)]
pub enum KvmError {
    /// There is no /dev/kvm.
    Missing,
    /// The user may not open /dev/kvm.
    Permission,
    /// /dev/kvm is there but can not be opened or used.
    Unusable(std::io::Error),
    /// The kernel's KVM is of another API generation.
    ApiVersion(i32),
    /// The kernel lacks a capability that is needed, named.
    Lacks(&'static str),
    /// A setting that this build does not have, named.
    Unsupported(&'static str),
    /// More processors than the kernel allows.
    TooManyCpus {
        /// How many were asked for.
        asked: u32,
        /// How many there may be.
        most: u32,
    },
    /// A memory region does not begin and end on a page, or nothing backs it.
    Region {
        /// Its guest physical address.
        gpa: u64,
    },
    /// A call failed.
    Call {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: std::io::Error,
    },
}

impl KvmError {
    /// The errno of a call that has failed.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { error, .. } => error.raw_os_error(),
            _ => None,
        }
    }

    /// Wraps the error of a call.
    pub(crate) fn call(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Call {
            what,
            error: error.into(),
        }
    }
}

impl fmt::Display for KvmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => {
                f.write_str("there is no /dev/kvm: the kernel has no KVM, or it is not loaded")
            }
            Self::Permission => {
                f.write_str("/dev/kvm may not be opened by this user (is it in group kvm?)")
            }
            Self::Unusable(error) => write!(f, "/dev/kvm can not be used: {error}"),
            Self::ApiVersion(version) => {
                write!(
                    f,
                    "the kernel's KVM has API version {version}, 12 is needed"
                )
            }
            Self::Lacks(what) => write!(f, "the kernel's KVM lacks {what}"),
            Self::Unsupported(what) => write!(f, "{what} is not supported"),
            Self::TooManyCpus { asked, most } => {
                write!(f, "{asked} processors asked for, KVM allows {most}")
            }
            Self::Region { gpa } => {
                write!(
                    f,
                    "the memory region at {gpa:#x} is not made of whole backed pages"
                )
            }
            Self::Call { what, error } => write!(f, "KVM: {what} failed: {error}"),
        }
    }
}

impl std::error::Error for KvmError {}
