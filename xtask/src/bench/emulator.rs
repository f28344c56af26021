//! Starting the two emulators with equal command lines, and talking to them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::measures;

/// Nothing that is measured here takes longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Pause between two tries to connect. The kernel's timers add some 50 µs.
const RETRY: Duration = Duration::from_micros(10);

/// How long the machine is left alone after a run: the kernel takes a while to tear a virtual machine down, and
/// the next start would pay for it.
const SETTLE: Duration = Duration::from_millis(50);

/// What a failure is told with.
type Result<T> = std::result::Result<T, String>;

/// Options that every run has.
const COMMON: [&str; 7] = [
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-M",
    "pc",
    "-m",
];
/// What runs the guest if the options name nothing else.
const ACCEL: [&str; 2] = ["-accel", "kvm"];
/// MiB of guest RAM.
pub(super) const RAM_MIB: u64 = 64;

/// One of the two.
pub(super) struct Emulator {
    /// What the table calls it.
    pub(super) name: &'static str,
    /// Its binary.
    pub(super) program: PathBuf,
}

impl Emulator {
    /// The whole command line of a run with these options.
    pub(super) fn command_line(&self, options: &[&str]) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        let ram = RAM_MIB.to_string();
        let common = COMMON.iter().map(|option| option.to_string());
        let named = options.contains(&"-accel");
        let accel = ACCEL.iter().filter(|_| !named);
        let accel = accel.map(|option| option.to_string());
        let rest = options.iter().map(|option| option.to_string());
        [program]
            .into_iter()
            .chain(common)
            .chain([ram])
            .chain(accel)
            .chain(rest)
            .collect()
    }

    /// Starts it. The clock of [`Running::spawned`] starts before the fork.
    pub(super) fn spawn(&self, options: &[&str]) -> Result<Running> {
        self.spawn_under(&[], options)
    }

    /// Nanoseconds from the start of the process to a text at the end of what has come of a line.
    pub(super) fn time_to(&self, text: &[u8], options: &[&str]) -> Result<f64> {
        let mut running = self.spawn(options)?;
        let mut line = Vec::new();
        loop {
            match running.next_byte_if_any()? {
                None => {
                    let text = String::from_utf8_lossy(text);
                    return Err(format!("it ended before \"{text}\""));
                }
                Some((b'\n', _)) => line.clear(),
                Some((byte, at)) => {
                    line.push(byte);
                    if line.ends_with(text) {
                        return Ok(measures::ns(at - running.spawned));
                    }
                }
            }
        }
    }

    /// As [`Emulator::spawn`], by a program like strace, given with its arguments.
    pub(super) fn spawn_under(&self, prefix: &[&str], options: &[&str]) -> Result<Running> {
        let line = self.command_line(options);
        let mut words = prefix
            .iter()
            .copied()
            .chain(line.iter().map(String::as_str));
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        let (out, theirs) = UnixStream::pair().map_err(text)?;
        out.set_read_timeout(Some(DEADLINE)).map_err(text)?;
        command
            .stdin(Stdio::from(OwnedFd::from(
                theirs.try_clone().map_err(text)?,
            )))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::inherit());
        let spawned = Instant::now();
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        Ok(Running {
            child,
            out,
            spawned,
        })
    }
}

/// A running emulator; it is killed when dropped.
pub(super) struct Running {
    child: Child,
    out: UnixStream,
    /// When it was started.
    pub(super) spawned: Instant,
}

impl Running {
    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A number in its `/proc/PID/status`, by the name at the line's start with its colon.
    pub(super) fn status(&self, key: &str) -> Result<f64> {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("{path}: no {key}"))
    }

    /// Waits for the next byte on its standard output.
    pub(super) fn next_byte(&mut self) -> Result<Instant> {
        match self.next_byte_if_any()? {
            Some((_, at)) => Ok(at),
            None => Err("no output of the guest: it has ended".to_string()),
        }
    }

    /// As [`Running::next_byte`], with the byte; none if the process has ended.
    pub(super) fn next_byte_if_any(&mut self) -> Result<Option<(u8, Instant)>> {
        let mut byte = [0];
        match self.out.read(&mut byte) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((byte[0], Instant::now()))),
            // Standard input was not read to its end by the one that has gone.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(format!("no output of the guest for {DEADLINE:?}"))
            }
            Err(error) => Err(format!("no output of the guest: {error}")),
        }
    }

    /// Connects to its QMP socket as soon as there is one, and negotiates.
    ///
    /// A socket stands long before its owner serves it, so that the interval of the tries does not show: the
    /// connection waits there. Tries without any pause would: they keep a processor busy that the start needs.
    pub(super) fn qmp(&mut self, socket: &Path) -> Result<Qmp> {
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    let ended = self.child.try_wait().map_err(text)?;
                    if ended.is_some() || self.spawned.elapsed() > DEADLINE {
                        return Err(format!("{}: {error}", socket.display()));
                    }
                    std::thread::sleep(RETRY);
                }
            }
        };
        stream.set_read_timeout(Some(DEADLINE)).map_err(text)?;
        let mut qmp = Qmp {
            stream: BufReader::new(stream),
            line: String::new(),
        };
        qmp.read_line()?;
        if !qmp.line.contains("\"QMP\"") {
            return Err(format!("not a QMP greeting: {}", qmp.line));
        }
        qmp.command("{\"execute\":\"qmp_capabilities\"}")?;
        Ok(qmp)
    }

    /// Waits until it ends by itself.
    pub(super) fn wait(&mut self) -> Result<Instant> {
        self.child.wait().map_err(text)?;
        Ok(Instant::now())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either fails for one that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::thread::sleep(SETTLE);
    }
}

/// A QMP connection.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
    line: String,
}

impl Qmp {
    /// Sends one command and waits for its reply, passing events over.
    pub(super) fn command(&mut self, command: &str) -> Result<&str> {
        self.send(command)?;
        loop {
            self.read_line()?;
            if self.line.starts_with("{\"return\"") || self.line.starts_with("{\"error\"") {
                return Ok(&self.line);
            }
        }
    }

    /// Sends one command.
    pub(super) fn send(&mut self, command: &str) -> Result<()> {
        self.stream
            .get_mut()
            .write_all(command.as_bytes())
            .map_err(text)
    }

    /// The socket, for who talks on it without [`Qmp::command`].
    pub(super) fn stream(&mut self) -> &mut BufReader<UnixStream> {
        &mut self.stream
    }

    fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        match self.stream.read_line(&mut self.line) {
            Ok(0) => Err("the QMP connection was closed".to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("QMP: {error}")),
        }
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
