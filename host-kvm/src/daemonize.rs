//! Going to the background (`-daemonize`) and the pid file (`-pidfile`).
//!
//! The caller's process waits on a pipe until the daemon says that its sockets and its pid file
//! stand, and ends with status 0; if the daemon ends first it ends with status 1. The daemon keeps
//! the caller's standard error until that moment, so that a start-up error reaches the caller.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

/// What the daemon writes into the pipe when it is ready.
const READY: u8 = 0;

/// In the daemon: the promise to tell the caller.
#[derive(Debug)]
pub struct Daemon {
    ready: OwnedFd,
}

/// Forks; returns in the daemon only. The caller's process stays in here until the daemon is
/// [ready](Daemon::ready) or gone, and exits.
///
/// To be called before any thread, descriptor for KVM or lock exists, as none survives a fork.
///
/// # Errors
/// Whatever pipe2(2) or fork(2) says.
pub fn daemonize() -> io::Result<Daemon> {
    let (wait, ready) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the process has one thread by contract, so the child may go on with everything.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => drop(wait),
        _ => {
            drop(ready);
            leave(i32::from(!is_ready(&wait)));
        }
    }
    rustix::process::setsid()?;
    // The second fork gives up the session's leadership: no terminal opened later can become
    // the controlling one.
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        _ => leave(0),
    }
    for signal in [libc::SIGTSTP, libc::SIGTTOU, libc::SIGTTIN] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    rustix::process::umask(Mode::from_raw_mode(0o027));
    Ok(Daemon { ready })
}

impl Daemon {
    /// Goes to `/`, gives up the caller's standard input, output and error, and lets the caller's
    /// process end with status 0. Relative paths must have been opened before.
    ///
    /// # Errors
    /// If `/` or `/dev/null` can't be opened, or if the caller's process is gone.
    pub fn ready(self) -> io::Result<()> {
        rustix::process::chdir("/")?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // SIGPIPE is ignored by std's start-up code.
        rustix::io::write(&self.ready, &[READY])?;
        Ok(())
    }
}

fn is_ready(pipe: impl AsFd) -> bool {
    let mut byte = [!READY];
    loop {
        match rustix::io::read(&pipe, &mut byte) {
            Err(Errno::INTR) => {}
            Ok(1) => return byte[0] == READY,
            _ => return false,
        }
    }
}

/// Ends a process of which the daemon is a copy: without destructors and exit handlers.
fn leave(status: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

/// A locked file with the process id in it, removed when this value is dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Creates (or takes over) the file, locks it and writes the process id and a line feed.
    /// Locks don't survive a fork: call it in the daemon.
    ///
    /// # Errors
    /// EAGAIN or EACCES if a living process holds the lock; else what open(2) or write(2) says.
    pub fn create(path: &Path) -> io::Result<Self> {
        // A relative path has to be found again at exit, from another directory.
        let path = std::path::absolute(path)?;
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            lock(&file)?;
            // The holder of the lock may have removed the file between our open and our lock.
            let ours = file.metadata()?;
            match std::fs::metadata(&path) {
                Ok(now) if now.ino() == ours.ino() && now.dev() == ours.dev() => {}
                _ => continue,
            }
            file.set_len(0)?;
            let text = std::process::id().to_string() + "\n";
            file.write_all(text.as_bytes())?;
            return Ok(Self { path, file });
        }
    }
}

/// Locks a whole file. An open-file-description lock (fcntl(2)): it conflicts with the record locks
/// that QEMU uses, and is not lost when some other part of the process closes the same file.
fn lock(file: &File) -> io::Result<()> {
    // SAFETY: `flock` is valid when zero, and lives through the call.
    unsafe {
        let mut whole: libc::flock = std::mem::zeroed();
        whole.l_type = libc::F_WRLCK as libc::c_short;
        whole.l_whence = libc::SEEK_SET as libc::c_short;
        if libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Only if the path still is our file.
        if let (Ok(ours), Ok(now)) = (self.file.metadata(), std::fs::metadata(&self.path))
            && ours.ino() == now.ino()
            && ours.dev() == now.dev()
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// Runs `start` as the start-up of a daemon in a forked process and returns the status that
    /// the caller sees, and what the caller's standard error got until then.
    fn call(start: fn(Daemon)) -> (c_int, String) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        // SAFETY: the child does not return from here.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(reader);
            let _ = rustix::stdio::dup2_stderr(&writer);
            drop(writer);
            if let Ok(daemon) = daemonize() {
                start(daemon);
            }
            leave(77);
        }
        drop(writer);
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        (status, text)
    }

    #[test]
    fn the_caller_ends_well_when_the_daemon_is_ready() {
        let (status, text) = call(|daemon| daemon.ready().unwrap_or_else(|_| leave(1)));
        assert_eq!((status, text.as_str()), (0, ""));
    }

    #[test]
    fn the_caller_ends_with_one_when_start_up_fails() {
        let (status, text) = call(|_| {
            let _ = rustix::io::write(rustix::stdio::stderr(), b"thimble: no\n");
            leave(1);
        });
        assert_eq!((status, text.as_str()), (1 << 8, "thimble: no\n"));
    }

    #[test]
    fn a_pid_file_is_locked_and_removed() {
        let path = std::env::temp_dir().join(format!("thimble-pid-{}", std::process::id()));
        let file = PidFile::create(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        let other = path.clone();
        // Record locks are a process's, so another one has to try.
        // SAFETY: the child ends in this block.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            leave(i32::from(PidFile::create(&other).is_err()));
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 1 << 8);
        drop(file);
        assert!(!path.exists());
        let error = PidFile::create(Path::new("/nonexistent/pid")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
