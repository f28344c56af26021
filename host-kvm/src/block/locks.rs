//! Locks of image files, which keep two emulators from writing one image.
//!
//! As QEMU's: open-file-description locks on single bytes. Byte 100 + n is locked, shared, by who needs the permission of bit
//! n; byte 200 + n by who does not let others have it. Whoever comes looks whether the opposite byte is locked.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::node::{Need, Permissions, Refusal};

/// Where the bytes for what is needed begin.
const USES: i64 = 100;
/// Where those for what is not shared begin.
const UNSHARED: i64 = 200;

fn request(kind: libc::c_int, at: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

fn set(fd: BorrowedFd<'_>, kind: libc::c_int, at: i64) -> bool {
    let lock = request(kind, at);
    // SAFETY: the structure is only read.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &lock) == 0 }
}

/// Whether somebody else has locked a byte.
fn is_taken(fd: BorrowedFd<'_>, at: i64) -> bool {
    let mut lock = request(libc::F_WRLCK, at);
    // SAFETY: the structure is the kernel's to fill.
    let asked = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
    asked == 0 && lock.l_type != libc::F_UNLCK as libc::c_short
}

/// Whether files can be locked here.
pub(super) fn work(fd: BorrowedFd<'_>) -> bool {
    let mut lock = request(libc::F_WRLCK, 0);
    // SAFETY: the structure is the kernel's to fill.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) == 0 }
}

/// Locks what a new need asks for; what only the old one did stays until [`give_up`].
///
/// # Errors
/// In QEMU's words, with nothing changed.
pub(super) fn take(
    fd: BorrowedFd<'_>,
    filename: &str,
    old: Need,
    new: Need,
) -> Result<(), Refusal> {
    let (_, fresh) = bytes(old, new);
    let back = || {
        for at in &fresh {
            set(fd, libc::F_UNLCK, *at);
        }
    };
    let refuse = |what: &str, permission: Permissions| {
        back();
        let name = Permissions::NAMES
            .iter()
            .find(|(bit, _)| *bit == permission);
        let name = name.map_or("", |(_, name)| name);
        Err(format!(
            "Failed to get {what}\"{name}\" lock\nIs another process using the image [{filename}]?"
        ))
    };
    for (at, permission, what) in places(new) {
        if fresh.contains(&at) && !set(fd, libc::F_RDLCK, at) {
            return refuse(what, permission);
        }
    }
    for (bit, permission) in bits() {
        if new.uses.contains(permission) && is_taken(fd, UNSHARED + bit) {
            return refuse("", permission);
        }
        if !new.shares.contains(permission) && is_taken(fd, USES + bit) {
            return refuse("shared ", permission);
        }
    }
    Ok(())
}

/// Unlocks what the new need no longer asks for.
pub(super) fn give_up(fd: BorrowedFd<'_>, old: Need, new: Need) {
    let (stale, _) = bytes(old, new);
    for at in stale {
        set(fd, libc::F_UNLCK, at);
    }
}

fn bit_of(permission: Permissions) -> i64 {
    i64::from(permission.bits().trailing_zeros())
}

fn bits() -> impl Iterator<Item = (i64, Permissions)> {
    let bit = |(permission, _): &(Permissions, &str)| (bit_of(*permission), *permission);
    Permissions::NAMES.iter().map(bit)
}

/// The bytes of a need, each with its permission and what stands before its name in an error.
fn places(need: Need) -> Vec<(i64, Permissions, &'static str)> {
    let mut places = Vec::new();
    for (bit, permission) in bits() {
        if need.uses.contains(permission) {
            places.push((USES + bit, permission, ""));
        }
        if !need.shares.contains(permission) {
            places.push((UNSHARED + bit, permission, "shared "));
        }
    }
    places
}

/// The bytes that only the old need locks, and those that only the new one does.
fn bytes(old: Need, new: Need) -> (Vec<i64>, Vec<i64>) {
    let only = |one: Need, other: Need| {
        let others: Vec<_> = places(other).iter().map(|place| place.0).collect();
        let own = places(one).into_iter().map(|place| place.0);
        own.filter(|at| !others.contains(at)).collect()
    };
    (only(old, new), only(new, old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    const WRITER: Need = Need {
        uses: Permissions::CONSISTENT_READ.union(Permissions::WRITE),
        shares: Permissions::CONSISTENT_READ.union(Permissions::WRITE_UNCHANGED),
    };

    const READER: Need = Need {
        uses: Permissions::CONSISTENT_READ,
        shares: Permissions::CONSISTENT_READ,
    };

    fn two_files() -> (std::path::PathBuf, File, File) {
        let path = std::env::temp_dir().join(format!("thimble-locks-{}", std::process::id()));
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).unwrap()
        };
        let (a, b) = (open(), open());
        (path, a, b)
    }

    #[test]
    fn one_writer_and_readers_that_do_not_mind() {
        let (path, a, b) = two_files();
        let (a, b) = (a.as_fd(), b.as_fd());
        assert!(work(a));
        take(a, "x", Need::NONE, WRITER).unwrap();
        let refused = take(b, "x", Need::NONE, WRITER).unwrap_err();
        assert_eq!(
            refused,
            "Failed to get \"write\" lock\nIs another process using the image [x]?"
        );
        let refused = take(b, "x", Need::NONE, READER).unwrap_err();
        assert!(
            refused.starts_with("Failed to get shared \"write\" lock"),
            "{refused}"
        );
        take(b, "x", Need::NONE, Need::NONE).unwrap();
        give_up(a, WRITER, Need::NONE);
        take(b, "x", Need::NONE, READER).unwrap();
        take(a, "x", Need::NONE, READER).unwrap();
        assert!(take(a, "x", READER, WRITER).is_err());
        give_up(b, READER, Need::NONE);
        take(a, "x", READER, WRITER).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
