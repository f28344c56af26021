//! One running emulator: process group, temporary directory, captured output.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{QmpClient, QtestClient};

/// How long an emulator may live unless the test says otherwise. A peer that hangs is killed then.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// How long a socket may take to appear, or an answer to come, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulator {
    /// Debian's `qemu-system-x86_64`.
    Qemu,
    /// This project's binary: see [`thimble_binary`].
    Thimble,
}

/// Thimble's binary: `THIMBLE` in the environment, else what `cargo build --release` makes.
///
/// # Panics
///
/// If there is no such file: a test run without the binary under test is a failure and not a skip.
pub fn thimble_binary() -> PathBuf {
    let path = match std::env::var_os("THIMBLE") {
        Some(path) => PathBuf::from(path),
        None => crate::workspace_dir().join("target/release/thimble"),
    };
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release` first, or name the binary in THIMBLE",
        path.display()
    );
    path
}

impl Emulator {
    /// Both, QEMU first: the order in which comparisons ask.
    pub const BOTH: [Self; 2] = [Self::Qemu, Self::Thimble];

    /// Starts to describe a run of this emulator. No option is added to what the test gives.
    ///
    /// # Panics
    ///
    /// If the emulator's binary is missing. Tests ask [`crate::packages::qemu`] first.
    pub fn launcher(self) -> Launcher {
        let program = match self {
            Self::Qemu => crate::packages::qemu().expect("qemu-system-x86_64 is installed"),
            Self::Thimble => thimble_binary(),
        };
        let directory = TempDir::new();
        Launcher {
            emulator: self,
            command: Command::new(program),
            shown: Vec::new(),
            directory,
            lifetime: DEFAULT_LIFETIME,
            input: Stdio::null(),
            inherited: Vec::new(),
        }
    }

    /// Options under which no guest code runs, and devices are driven over qtest or not at all.
    pub fn passive_args(self) -> &'static [&'static str] {
        match self {
            // Debian's build has no qtest accelerator; with -S nothing runs either.
            Self::Qemu => &["-accel", "tcg", "-S", "-nodefaults", "-display", "none"],
            Self::Thimble => &["-accel", "qtest", "-S", "-nodefaults", "-display", "none"],
        }
    }
}

/// A run being described.
pub struct Launcher {
    emulator: Emulator,
    command: Command,
    shown: Vec<OsString>,
    directory: TempDir,
    lifetime: Duration,
    input: Stdio,
    inherited: Vec<OwnedFd>,
}

impl Launcher {
    /// Adds options. `{dir}` in one of them becomes the run's own temporary directory.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        for arg in args {
            let directory = self.directory.0.to_str().expect("a plain path");
            let arg = arg.as_ref().replace("{dir}", directory);
            self.command.arg(&arg);
            self.shown.push(arg.into());
        }
        self
    }

    /// Adds a QMP server socket, which [`Instance::qmp`] connects to.
    #[must_use]
    pub fn with_qmp(self) -> Self {
        self.args(["-qmp", "unix:{dir}/qmp.sock,server=on,wait=off"])
    }

    /// Adds a qtest socket, which [`Instance::qtest`] connects to.
    ///
    /// The emulators wait for a client of this socket before they go on.
    #[must_use]
    pub fn with_qtest(self) -> Self {
        self.args([
            "-qtest",
            "unix:{dir}/qtest.sock,server=on,wait=off",
            "-qtest-log",
            "none",
        ])
    }

    /// Sets an environment variable of the emulator.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Leaves a descriptor to the emulator, by the same number.
    #[must_use]
    pub fn inherit(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.inherited.push(fd.into());
        self
    }

    /// Kills the emulator's process group after `lifetime`, counted from the start.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Gives the emulator another standard input than `/dev/null`.
    #[must_use]
    pub fn input(mut self, input: Stdio) -> Self {
        self.input = input;
        self
    }

    /// The run's own temporary directory, for files that the options name.
    pub fn dir(&self) -> &Path {
        &self.directory.0
    }

    /// Starts the emulator.
    ///
    /// # Panics
    ///
    /// If the operating system refuses.
    pub fn start(mut self) -> Instance {
        self.command
            .stdin(self.input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // A test run that is interrupted takes its emulators along.
        let inherited = self.inherited;
        // SAFETY: between fork and exec only these system calls are made.
        unsafe {
            self.command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                for fd in &inherited {
                    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
                }
                Ok(())
            });
        }
        let mut child = self.command.spawn().expect("the emulator starts");
        let stdout = Capture::of(child.stdout.take().expect("piped"));
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        let pid = Pid::from_child(&child);
        let state = Arc::new(Mutex::new(ProcessState {
            child,
            status: None,
            overdue: false,
        }));
        let (cancel, cancelled) = mpsc::channel::<()>();
        let watched = Arc::clone(&state);
        let lifetime = self.lifetime;
        let watchdog = std::thread::spawn(move || {
            if cancelled.recv_timeout(lifetime) == Err(RecvTimeoutError::Timeout) {
                let mut state = lock(&watched);
                if state.poll().is_none() {
                    state.overdue = true;
                    kill_group(pid);
                }
            }
        });
        Instance {
            emulator: self.emulator,
            args: self.shown,
            pid,
            state,
            stdout,
            stderr,
            cancel: Some(cancel),
            watchdog: Some(watchdog),
            directory: self.directory,
        }
    }
}

/// A running emulator. Dropping it kills its process group and removes its directory.
pub struct Instance {
    emulator: Emulator,
    args: Vec<OsString>,
    pid: Pid,
    state: Arc<Mutex<ProcessState>>,
    stdout: Capture,
    stderr: Capture,
    cancel: Option<mpsc::Sender<()>>,
    watchdog: Option<JoinHandle<()>>,
    directory: TempDir,
}

impl Instance {
    /// Which emulator runs.
    pub fn emulator(&self) -> Emulator {
        self.emulator
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The run's own temporary directory.
    pub fn dir(&self) -> &Path {
        &self.directory.0
    }

    /// Connects to the socket of [`Launcher::with_qmp`]. The greeting is read, nothing is negotiated.
    ///
    /// # Panics
    ///
    /// If the socket or the greeting doesn't come in time; shows what the emulator wrote.
    pub fn qmp(&self) -> QmpClient {
        QmpClient::connect(&self.dir().join("qmp.sock"), PATIENCE)
            .unwrap_or_else(|error| panic!("no QMP connection: {error}\n{}", self.report()))
    }

    /// Connects to the socket of [`Launcher::with_qtest`].
    ///
    /// # Panics
    ///
    /// If the socket doesn't come in time; shows what the emulator wrote.
    pub fn qtest(&self) -> QtestClient {
        QtestClient::connect(&self.dir().join("qtest.sock"), PATIENCE)
            .unwrap_or_else(|error| panic!("no qtest connection: {error}\n{}", self.report()))
    }

    /// Everything that the emulator has written on standard output.
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.bytes()
    }

    /// Everything that the emulator has written on standard error, as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes()).into_owned()
    }

    /// Waits until standard output contains `text`; false at the timeout or at the output's end without it.
    pub fn wait_stdout(&self, text: &str, timeout: Duration) -> bool {
        self.stdout.wait_for(text.as_bytes(), timeout)
    }

    /// Sends a signal to the process itself.
    ///
    /// # Panics
    ///
    /// If the process has ended.
    pub fn signal(&self, signal: Signal) {
        let mut state = lock(&self.state);
        assert!(state.poll().is_none(), "the emulator has ended");
        kill_process(self.pid, signal).expect("the process exists");
    }

    /// The exit status if the process has ended.
    pub fn try_wait(&self) -> Option<ExitStatus> {
        lock(&self.state).poll()
    }

    /// Waits for the process to end; all its output has been captured then.
    ///
    /// # Panics
    ///
    /// At the timeout, or if the process was killed at its deadline; shows what it wrote.
    pub fn wait(&self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            let (status, overdue) = {
                let mut state = lock(&self.state);
                (state.poll(), state.overdue)
            };
            match status {
                Some(status) => {
                    assert!(!overdue, "killed at its deadline\n{}", self.report());
                    self.stdout.wait_end(Duration::from_secs(2));
                    self.stderr.wait_end(Duration::from_secs(2));
                    return status;
                }
                None if Instant::now() >= deadline => {
                    panic!("still running after {timeout:?}\n{}", self.report())
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The command line and the output so far, for the message of a failed test.
    pub fn report(&self) -> String {
        let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        format!(
            "{:?} {}\nstdout: {}\nstderr: {}",
            self.emulator,
            args.join(" "),
            String::from_utf8_lossy(&self.stdout()),
            self.stderr()
        )
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.cancel.take());
        if let Some(watchdog) = self.watchdog.take() {
            // A watchdog that panicked has nothing left to do.
            drop(watchdog.join());
        }
        // What a daemonized or forked child would leave behind goes too; the group outlives its leader.
        kill_group(self.pid);
        let mut state = lock(&self.state);
        if state.status.is_none() {
            state.status = state.child.wait().ok();
        }
    }
}

struct ProcessState {
    child: Child,
    status: Option<ExitStatus>,
    overdue: bool,
}

impl ProcessState {
    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }
}

/// Kills a process group; it is no error if nobody of it is left.
fn kill_group(pid: Pid) {
    let _ = kill_process_group(pid, Signal::KILL);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream that a thread reads to its end.
struct Capture(Arc<(Mutex<Captured>, Condvar)>);

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Captured::default()), Condvar::new()));
        let writer = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                let mut captured = lock(&writer.0);
                captured.bytes.extend_from_slice(&buffer[..count]);
                captured.ended = count == 0;
                writer.1.notify_all();
                if captured.ended {
                    return;
                }
            }
        });
        Self(shared)
    }

    fn bytes(&self) -> Vec<u8> {
        lock(&self.0.0).bytes.clone()
    }

    fn wait_for(&self, text: &[u8], timeout: Duration) -> bool {
        let contains = |bytes: &[u8]| bytes.windows(text.len().max(1)).any(|part| part == text);
        self.wait_until(timeout, |captured| contains(&captured.bytes));
        contains(&self.bytes())
    }

    fn wait_end(&self, timeout: Duration) {
        self.wait_until(timeout, |_| false);
    }

    fn wait_until(&self, timeout: Duration, done: impl Fn(&Captured) -> bool) {
        let captured = lock(&self.0.0);
        drop(
            self.0
                .1
                .wait_timeout_while(captured, timeout, |captured| {
                    !captured.ended && !done(captured)
                })
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

/// A directory that goes with its value. Its path is short: a socket's path has at most 107 bytes.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("thimble-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, lifetime: Duration) -> Instance {
        Launcher {
            emulator: Emulator::Qemu,
            command: Command::new("/bin/sh"),
            shown: Vec::new(),
            directory: TempDir::new(),
            lifetime,
            input: Stdio::null(),
            inherited: Vec::new(),
        }
        .args(["-c", script])
        .start()
    }

    #[test]
    fn output_and_status_are_captured() {
        let shell = shell("echo {dir}; echo oops >&2; exit 7", Duration::from_secs(10));
        assert_eq!(shell.wait(Duration::from_secs(5)).code(), Some(7));
        let directory = format!("{}\n", shell.dir().display());
        assert_eq!(shell.stdout(), directory.as_bytes());
        assert_eq!(shell.stderr(), "oops\n");
        assert!(shell.wait_stdout("thimble-test", Duration::from_secs(1)));
        assert!(!shell.wait_stdout("nothing", Duration::from_secs(1)));
    }

    #[test]
    fn the_whole_group_dies_at_the_deadline() {
        let shell = shell("sleep 60 & echo $!; wait", Duration::from_millis(300));
        assert!(shell.wait_stdout("\n", Duration::from_secs(5)));
        let text = String::from_utf8(shell.stdout()).expect("digits");
        let process = PathBuf::from(format!("/proc/{}", text.trim()));
        let deadline = Instant::now() + Duration::from_secs(5);
        // Gone, or a zombie that an orphan's new parent has yet to collect.
        let alive = || {
            std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z"))
        };
        while alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!alive());
        assert!(shell.try_wait().is_some());
    }

    #[test]
    fn dropping_removes_process_and_directory() {
        let shell = shell("sleep 60", Duration::from_secs(60));
        let (directory, pid) = (shell.dir().to_path_buf(), shell.pid());
        drop(shell);
        assert!(!directory.exists());
        assert!(kill_process(pid, Signal::CONT).is_err());
    }
}
