//! Stream sockets of character devices: listening, connecting, inherited descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::spec::{Address, SocketSpec};
use crate::descriptors::inherited::{self, NotInherited};
use crate::error_text;
use thimble_core::trace::events;

/// Clients that may wait while one is served.
const BACKLOG: i32 = 8;

/// A socket's file, removed when this value is dropped, if it still is the same file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Ok(now) = std::fs::symlink_metadata(&self.path)
            && now.ino() == self.inode
            && now.dev() == self.device
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A listening socket, non-blocking.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    /// The address that it is bound to.
    pub(super) address: Address,
    _file: Option<SocketFile>,
}

fn failed(what: &str, address: &Address, error: impl Into<io::Error>) -> String {
    format!("Failed to {what} {address}: {}", error_text(&error.into()))
}

fn stream(family: AddressFamily, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    net::socket_with(
        family,
        SocketType::STREAM,
        flags | SocketFlags::CLOEXEC,
        None,
    )
}

fn family(address: &SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

fn unix(address: &Address) -> Result<Option<SocketAddrUnix>, Errno> {
    match address {
        Address::Unix(path) => SocketAddrUnix::new(path.as_str()).map(Some),
        Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).map(Some),
        _ => Ok(None),
    }
}

/// Opens a listening socket.
pub(super) fn listen(spec: &SocketSpec) -> Result<Listener, String> {
    let address = &spec.address;
    let bind_failed = |error: Errno| failed("bind socket to", address, error);
    let listen_failed = |error: Errno| failed("listen on", address, error);
    match address {
        Address::Fd(number) => {
            let fd = inherit(*number)?;
            // One that listens already goes on with that.
            net::listen(&fd, BACKLOG).map_err(|error| {
                format!(
                    "Failed to listen on fd socket: {}",
                    error_text(&error.into())
                )
            })?;
            set_nonblocking(&fd).map_err(listen_failed)?;
            Ok(Listener {
                fd,
                address: address.clone(),
                _file: None,
            })
        }
        Address::Tcp {
            address: first,
            to,
            v6_only,
        } => {
            let mut last = Errno::ADDRINUSE;
            for port in first.port()..=*to {
                let mut candidate = *first;
                candidate.set_port(port);
                match listen_tcp(&candidate, *v6_only) {
                    Ok(fd) => {
                        let bound = net::getsockname(&fd)
                            .ok()
                            .and_then(|bound| SocketAddr::try_from(bound).ok())
                            .unwrap_or(candidate);
                        return Ok(Listener {
                            fd,
                            address: Address::Tcp {
                                address: bound,
                                to: bound.port(),
                                v6_only: *v6_only,
                            },
                            _file: None,
                        });
                    }
                    Err(error) => last = error,
                }
                if last != Errno::ADDRINUSE {
                    break;
                }
            }
            Err(bind_failed(last))
        }
        Address::Unix(_) | Address::Abstract(_) => {
            let Some(name) = unix(address).map_err(bind_failed)? else {
                return Err(bind_failed(Errno::INVAL));
            };
            let fd = stream(AddressFamily::UNIX, SocketFlags::NONBLOCK).map_err(bind_failed)?;
            let mut file = None;
            if let Address::Unix(path) = address {
                remove_stale(Path::new(path), &name).map_err(bind_failed)?;
                net::bind(&fd, &name).map_err(bind_failed)?;
                file = file_of(Path::new(path));
            } else {
                net::bind(&fd, &name).map_err(bind_failed)?;
            }
            events::socket_listen(BACKLOG);
            net::listen(&fd, BACKLOG).map_err(listen_failed)?;
            Ok(Listener {
                fd,
                address: address.clone(),
                _file: file,
            })
        }
    }
}

fn listen_tcp(address: &SocketAddr, v6_only: bool) -> Result<OwnedFd, Errno> {
    let fd = stream(family(address), SocketFlags::NONBLOCK)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    net::bind(&fd, address)?;
    events::socket_listen(BACKLOG);
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// The file to remove at the end. The path is made absolute, as a daemon changes its directory.
fn file_of(path: &Path) -> Option<SocketFile> {
    let path = std::path::absolute(path).ok()?;
    let made = std::fs::symlink_metadata(&path).ok()?;
    Some(SocketFile {
        path,
        device: made.dev(),
        inode: made.ino(),
    })
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale(path: &Path, name: &SocketAddrUnix) -> Result<(), Errno> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(Errno::ADDRINUSE);
    }
    let probe = stream(AddressFamily::UNIX, SocketFlags::NONBLOCK)?;
    match net::connect(&probe, name) {
        Err(Errno::CONNREFUSED) => match std::fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::ADDRINUSE)),
        },
        Err(Errno::NOENT) => Ok(()),
        // Also EAGAIN: a listener with a full backlog.
        _ => Err(Errno::ADDRINUSE),
    }
}

/// Takes over a socket that the parent process left for us.
fn inherit(number: i32) -> Result<OwnedFd, String> {
    let failed = |what: &str| format!("File descriptor '{number}' is {what}");
    let fd = inherited::borrow(number).map_err(|error| {
        failed(match error {
            NotInherited::Stdio => "standard input, output or error",
            // QEMU's words, whatever it is.
            NotInherited::Closed => "not a socket",
            NotInherited::InUse => "in use already",
        })
    })?;
    sockopt::socket_type(fd).map_err(|_| failed("not a socket"))?;
    inherited::take(number).map_err(|_| failed("not a socket"))
}

/// A client's socket: connected, or on its way.
pub(super) enum Connecting {
    /// Ready to use.
    Done(OwnedFd),
    /// Will be writable when it is decided.
    Pending(OwnedFd),
}

/// Connects, waiting until it is decided.
pub(super) fn connect(spec: &SocketSpec) -> Result<OwnedFd, String> {
    let address = &spec.address;
    let connect_failed = |error: Errno| failed("connect to", address, error);
    let fd = match address {
        Address::Fd(number) => {
            let fd = inherit(*number)?;
            if sockopt::socket_type(&fd) != Ok(SocketType::STREAM) {
                return Err(format!("File descriptor '{number}' is not a stream socket"));
            }
            if sockopt::socket_acceptconn(&fd).unwrap_or(false) {
                return Err(format!(
                    "File descriptor '{number}' is a listening socket: server=on is missing"
                ));
            }
            if net::getpeername(&fd).is_err() {
                return Err(format!("File descriptor '{number}' is not connected"));
            }
            fd
        }
        _ => {
            start(address, SocketFlags::empty())
                .map_err(connect_failed)?
                .0
        }
    };
    set_nonblocking(&fd).map_err(connect_failed)?;
    prepare(&fd, spec);
    Ok(fd)
}

/// Starts to connect without waiting.
pub(super) fn connect_later(spec: &SocketSpec) -> Result<Connecting, Errno> {
    let (fd, done) = start(&spec.address, SocketFlags::NONBLOCK)?;
    prepare(&fd, spec);
    Ok(if done {
        Connecting::Done(fd)
    } else {
        Connecting::Pending(fd)
    })
}

fn start(address: &Address, flags: SocketFlags) -> Result<(OwnedFd, bool), Errno> {
    let (fd, result) = if let Some(name) = unix(address)? {
        let fd = stream(AddressFamily::UNIX, flags)?;
        let result = net::connect(&fd, &name);
        (fd, result)
    } else if let Address::Tcp { address, .. } = address {
        let fd = stream(family(address), flags)?;
        let result = net::connect(&fd, address);
        (fd, result)
    } else {
        return Err(Errno::INVAL);
    };
    match result {
        Ok(()) => Ok((fd, true)),
        Err(Errno::INPROGRESS) => Ok((fd, false)),
        Err(error) => Err(error),
    }
}

/// Sets what a fresh connection needs.
pub(super) fn prepare(fd: &OwnedFd, spec: &SocketSpec) {
    if spec.nodelay {
        // Fails for Unix sockets, where there is no such thing.
        let _ = sockopt::set_tcp_nodelay(fd, true);
    }
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)
}

/// A timer that makes its descriptor readable once, after some seconds.
pub(super) fn timer(seconds: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain calls; the structure lives through the second one.
    unsafe {
        let fd = libc::timerfd_create(
            libc::CLOCK_MONOTONIC,
            libc::TFD_CLOEXEC | libc::TFD_NONBLOCK,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut when: libc::itimerspec = std::mem::zeroed();
        when.it_value.tv_sec = i64::from(seconds);
        let number = fd.as_fd().as_raw_fd();
        if libc::timerfd_settime(number, 0, &raw const when, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}
