//! Tests with real sockets, in a directory of their own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::chardev::spec::{ShortForm, parse, parse_short};

/// Everything that happened, in order.
#[derive(Default)]
struct Log {
    events: Vec<&'static str>,
    input: Vec<u8>,
    /// How much input to take; more is left.
    appetite: Option<usize>,
    echo: bool,
    fds: usize,
    /// What each user of a shared device has got.
    shares: [Vec<u8>; USERS_MAX],
}

impl Frontends for Log {
    fn opened(&mut self, _: &mut Chardevs, _: ChardevId) {
        self.events.push("opened");
    }
    fn received(&mut self, chardevs: &mut Chardevs, id: ChardevId, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.appetite.unwrap_or(usize::MAX));
        self.input.extend_from_slice(&bytes[..taken]);
        self.shares[id.port()].extend_from_slice(&bytes[..taken]);
        if self.echo {
            assert_eq!(chardevs.write(id, &bytes[..taken]), taken);
        }
        taken
    }
    fn closed(&mut self, _: &mut Chardevs, _: ChardevId) {
        self.events.push("closed");
    }
    fn writable(&mut self, _: &mut Chardevs, _: ChardevId) {
        self.events.push("writable");
    }
    fn received_fds(&mut self, _: &mut Chardevs, _: ChardevId, fds: Vec<OwnedFd>) {
        self.fds += fds.len();
    }
    fn line_break(&mut self, _: &mut Chardevs, id: ChardevId) {
        self.shares[id.port()].extend_from_slice(b"<break>");
    }
    fn focus(&mut self, _: &mut Chardevs, id: ChardevId, on: bool) {
        let mark: &[u8] = if on { b"<on>" } else { b"<off>" };
        self.shares[id.port()].extend_from_slice(mark);
    }
    fn quit(&mut self, _: &mut Chardevs, _: ChardevId) {
        self.events.push("quit");
    }
}

struct Bench {
    dir: PathBuf,
    poller: Arc<Poller>,
    chardevs: Chardevs,
    log: Log,
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("thimble-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let poller = Arc::new(Poller::new().unwrap());
        let chardevs = Chardevs::new(poller.clone(), 5 << 32).unwrap();
        Self {
            dir,
            poller,
            chardevs,
            log: Log::default(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn open(&mut self, text: &str, max: usize) -> Result<ChardevId, String> {
        let ShortForm::New(spec) = parse_short(text, text)? else {
            panic!("{text}");
        };
        self.chardevs.open(&spec, max)?;
        self.chardevs
            .attach(text)
            .ok_or_else(|| "no place".to_owned())
    }

    /// Runs the loop until the condition holds.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Log, &mut Chardevs) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done(&mut self.log, &mut self.chardevs) {
            assert!(Instant::now() < end, "{what}: {:?}", self.log.events);
            self.turn(20_000_000);
        }
    }

    fn turn(&mut self, timeout: u64) -> usize {
        let events = self.poller.wait(Some(timeout)).unwrap();
        for event in &events {
            assert!(self.chardevs.owns(event.token));
            self.chardevs
                .ready(event.token, event.readiness, &mut self.log);
        }
        events.len()
    }

    /// Runs the loop while there is something to do; a loop that spins fails.
    fn settle(&mut self) {
        for _ in 0..1000 {
            if self.turn(0) == 0 {
                return;
            }
        }
        panic!("the loop spins");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_server_serves_one_client_after_the_other() {
    let mut bench = Bench::new("server");
    let path = bench.path("s");
    let id = bench
        .open(&format!("unix:{path},server,nowait"), 4096)
        .unwrap();
    bench.log.echo = true;
    assert!(
        bench
            .chardevs
            .describe(id)
            .starts_with("disconnected:unix:")
    );
    assert_eq!(bench.chardevs.write(id, b"nobody"), 6);
    let mut first = UnixStream::connect(&path).unwrap();
    bench.until("first", |log, _| log.events == ["opened"]);
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"second").unwrap();
    first.write_all(b"first").unwrap();
    bench.until("input", |log, _| log.input == b"first");
    let mut reply = [0; 5];
    first.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"first");
    bench.settle();
    assert_eq!(bench.log.input, b"first", "the second client has to wait");
    drop(first);
    bench.until("second", |log, _| log.input == b"firstsecond");
    assert_eq!(bench.log.events, ["opened", "closed", "opened"]);
    bench.chardevs.hang_up(id);
    bench.until("hang up", |log, _| log.events.len() == 4);
    assert!(!bench.chardevs.is_open(id));
    bench.settle();
}

#[test]
fn socket_files_stale_in_use_and_gone() {
    let mut bench = Bench::new("files");
    let path = bench.path("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(std::fs::metadata(&path).is_ok(), "a stale socket file");
    bench
        .open(&format!("unix:{path},server,nowait"), 1)
        .unwrap();
    let mut other = Bench::new("files2");
    let error = other
        .open(&format!("unix:{path},server,nowait"), 1)
        .unwrap_err();
    assert_eq!(
        error,
        format!("Failed to bind socket to unix:{path}: Address already in use")
    );
    let plain = bench.path("plain");
    std::fs::write(&plain, "x").unwrap();
    assert!(
        bench
            .open(&format!("unix:{plain},server,nowait"), 1)
            .is_err()
    );
    assert_eq!(std::fs::read(&plain).unwrap(), b"x");
    let error = other
        .open("unix:/nonexistent/s,server,nowait", 1)
        .unwrap_err();
    assert!(error.ends_with("No such file or directory"), "{error}");
    bench.chardevs = Chardevs::new(bench.poller.clone(), 6 << 32).unwrap();
    assert!(std::fs::metadata(&path).is_err(), "removed at the end");
}

#[test]
fn output_waits_for_a_slow_reader() {
    let mut bench = Bench::new("slow");
    let path = bench.path("s");
    let id = bench
        .open(&format!("unix:{path},server,nowait"), 4 << 20)
        .unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    bench.until("client", |log, _| log.events == ["opened"]);
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    loop {
        let taken = bench.chardevs.write(id, &chunk);
        sent += taken;
        if taken < chunk.len() {
            break;
        }
    }
    assert_eq!(bench.chardevs.pending(id), 4 << 20);
    assert_eq!(bench.chardevs.write(id, b"y"), 0);
    bench.settle();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; sent];
        client.read_exact(&mut bytes).unwrap();
        client
    });
    bench.until("writable", |log, chardevs| {
        log.events.contains(&"writable") && chardevs.pending(id) == 0
    });
    drop(reader.join().unwrap());
    bench.until("closed", |log, _| log.events.last() == Some(&"closed"));
    bench.settle();
}

#[test]
fn input_that_is_not_taken_comes_again() {
    let mut bench = Bench::new("pressure");
    let path = bench.path("s");
    let id = bench
        .open(&format!("unix:{path},server,nowait"), 16)
        .unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    bench.log.appetite = Some(2);
    client.write_all(b"abcde").unwrap();
    bench.until("input", |log, _| log.input == b"ab");
    client.write_all(b"fg").unwrap();
    bench.settle();
    assert_eq!(bench.log.input, b"ab");
    drop(client);
    bench.settle();
    bench.log.appetite = None;
    bench.chardevs.pause_input(id, false);
    bench.until("closed", |log, _| log.events.last() == Some(&"closed"));
    assert_eq!(bench.log.input, b"abcdefg");
}

#[test]
fn tcp_servers_and_clients() {
    let mut bench = Bench::new("tcp");
    let id = bench
        .open("tcp:127.0.0.1:0,server,nowait,nodelay", 64)
        .unwrap();
    let port = bench.chardevs.port(id).unwrap();
    assert!(bench.chardevs.describe(id).contains(&port.to_string()));
    let client = bench.open(&format!("tcp:localhost:{port}"), 64).unwrap();
    bench.until("both", |log, _| log.events == ["opened", "opened"]);
    bench.chardevs.write(client, b"ping");
    bench.until("ping", |log, _| log.input == b"ping");
    assert!(
        bench
            .open(&format!("tcp:127.0.0.1:{port},server,nowait"), 1)
            .is_err()
    );
    let next = format!("tcp:127.0.0.1:{port},server,nowait,to=65535");
    let other = bench.open(&next, 1).unwrap();
    assert!(bench.chardevs.port(other).unwrap() > port);
    let address = ("127.0.0.1", bench.chardevs.port(other).unwrap());
    let mut peer = TcpStream::connect(address).unwrap();
    peer.write_all(b"pong").unwrap();
    bench.until("pong", |log, _| log.input == b"pingpong");
    let error = bench.open("tcp:127.0.0.1:1", 1).unwrap_err();
    assert_eq!(
        error,
        "Failed to connect to tcp:127.0.0.1:1: Connection refused"
    );
}

#[test]
fn a_client_connects_again() {
    let mut bench = Bench::new("again");
    let path = bench.path("s");
    let id = bench.open(&format!("unix:{path},reconnect=1"), 64).unwrap();
    assert!(!bench.chardevs.is_open(id));
    let listener = UnixListener::bind(&path).unwrap();
    bench.until("connected", |log, _| log.events == ["opened"]);
    drop(listener.accept().unwrap());
    bench.until("again", |log, _| {
        log.events == ["opened", "closed", "opened"]
    });
}

#[test]
fn descriptors_are_handed_over() {
    let mut bench = Bench::new("fds");
    let path = bench.path("s");
    bench
        .open(&format!("unix:{path},server,nowait"), 64)
        .unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let passed = [client.as_fd(), client.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(net::SendAncillaryMessage::ScmRights(&passed)));
    let bytes = [io::IoSlice::new(b"x")];
    net::sendmsg(&client, &bytes, &mut control, SendFlags::empty()).unwrap();
    bench.until("input", |log, _| log.input == b"x");
    assert_eq!(bench.log.fds, 2);
}

#[test]
fn inherited_descriptors() {
    let mut bench = Bench::new("inherit");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let number = ours.as_raw_fd();
    let text = format!("socket,id=a,fd={number}");
    let spec = parse(&text).unwrap();
    let error = bench.chardevs.open(&spec, 64).unwrap_err();
    assert!(error.contains("in use"), "{error}");
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
    std::mem::forget(ours);
    bench.chardevs.open(&spec, 64).unwrap();
    theirs.write_all(b"hi").unwrap();
    bench.until("input", |log, _| log.input == b"hi");
    for (text, part) in [
        (format!("socket,id=b,fd={number}"), "in use"),
        ("socket,id=b,fd=1".to_owned(), "standard"),
        (
            "socket,id=b,fd=999999".to_owned(),
            "File descriptor '999999' is not a socket",
        ),
        (
            "socket,id=b,fd=-1".to_owned(),
            "File descriptor '-1' is not a socket",
        ),
    ] {
        let error = bench.chardevs.open(&parse(&text).unwrap(), 64).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

/// A descriptor as a parent process leaves it.
fn inheritable(fd: impl Into<OwnedFd>) -> OwnedFd {
    let fd = fd.into();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
    fd
}

#[test]
fn inherited_descriptors_of_the_wrong_kind() {
    use rustix::net::{AddressFamily, SocketType, socket};
    let mut bench = Bench::new("kinds");
    let path = bench.path("l");
    let unix = |kind| inheritable(socket(AddressFamily::UNIX, kind, None).unwrap());
    let listening = inheritable(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let connected = inheritable(UnixStream::pair().unwrap().0);
    let file = inheritable(File::open("/").unwrap());
    let pipe = inheritable(rustix::pipe::pipe().unwrap().0);
    let (stream, datagram) = (unix(SocketType::STREAM), unix(SocketType::DGRAM));
    for (fd, server, part) in [
        (&file, true, "' is not a socket"),
        (&file, false, "' is not a socket"),
        (&pipe, true, "' is not a socket"),
        (
            &connected,
            true,
            "Failed to listen on fd socket: Invalid argument",
        ),
        (
            &datagram,
            true,
            "Failed to listen on fd socket: Operation not supported",
        ),
        (
            &stream,
            true,
            "Failed to listen on fd socket: Invalid argument",
        ),
        (&stream, false, "' is not connected"),
        (&datagram, false, "' is not a stream socket"),
        (
            &listening,
            false,
            "' is a listening socket: server=on is missing",
        ),
    ] {
        // What is refused is closed: it was passed for this.
        let copy = inheritable(rustix::io::dup(fd).unwrap());
        let number = std::os::fd::IntoRawFd::into_raw_fd(copy);
        let server = if server { ",server=on,wait=off" } else { "" };
        let text = format!("socket,id=b,fd={number}{server}");
        let error = bench.chardevs.open(&parse(&text).unwrap(), 64).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let number = listening.as_raw_fd();
    std::mem::forget(listening);
    let text = format!("socket,id=a,fd={number},server=on,wait=off");
    bench.chardevs.open(&parse(&text).unwrap(), 64).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hi").unwrap();
    bench.until("input", |log, _| log.input == b"hi");
}

#[test]
fn files_are_written_and_appended_to() {
    let mut bench = Bench::new("file");
    let path = bench.path("f");
    for (append, expected) in [("off", "one"), ("on", "oneone"), ("off", "one")] {
        let text = format!("file,id=f{expected}{append},path={path},append={append}");
        let spec = parse(&text).unwrap();
        let mut chardevs = Chardevs::new(bench.poller.clone(), 7 << 32).unwrap();
        let id = chardevs.open(&spec, 16).unwrap();
        assert_eq!(chardevs.write(id, b"one"), 3);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
    let full = bench.open("file:/dev/full", 16).unwrap();
    assert_eq!(
        bench.chardevs.write(full, &[0; 10_000]),
        10_000,
        "a full disk loses output"
    );
    let error = bench.open("file:/nonexistent/x", 16).unwrap_err();
    assert_eq!(
        error,
        "Could not open '/nonexistent/x': No such file or directory"
    );
}

#[test]
fn an_input_file_is_read_to_its_end() {
    let mut bench = Bench::new("input");
    let (input, output) = (bench.path("in"), bench.path("out"));
    std::fs::write(&input, vec![b'i'; 10_000]).unwrap();
    let spec = parse(&format!("file,id=f,path={output},input-path={input}")).unwrap();
    let id = bench.chardevs.open(&spec, 16).unwrap();
    bench.until("end", |log, _| log.events == ["opened", "closed"]);
    assert_eq!(bench.log.input.len(), 10_000);
    bench.settle();
    bench.chardevs.write(id, b"still");
    assert_eq!(std::fs::read(&output).unwrap(), b"still");
}

#[test]
fn the_escape_key_ends_the_emulator() {
    let mut bench = Bench::new("escape");
    let path = bench.path("s");
    bench
        .open(&format!("mon:unix:{path},server,nowait"), 4096)
        .unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"a\x01").unwrap();
    bench.until("input", |log, _| log.input == b"a");
    client.write_all(b"\x01b\x01hc\x01x").unwrap();
    bench.until("quit", |log, _| log.events == ["opened", "quit"]);
    assert_eq!(bench.log.input, b"a\x01bc");
    let mut text = [0; 1024];
    let count = client.read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..count]);
    assert!(text.contains("\r\nC-a x    end the emulator\r\n"), "{text}");
    assert!(text.ends_with("\r\nthimble: terminated\r\n"), "{text}");
}

#[test]
fn several_share_a_device_by_turns() {
    let mut bench = Bench::new("shared");
    let path = bench.path("s");
    let text = format!("mon:unix:{path},server,nowait");
    let first = bench.open(&text, 4096).unwrap();
    let second = bench.chardevs.attach(&text).unwrap();
    assert_ne!(first, second);
    assert!(bench.chardevs.has_focus(second) && !bench.chardevs.has_focus(first));
    let mut client = UnixStream::connect(&path).unwrap();
    bench.until("both", |log, _| log.events == ["opened", "opened"]);
    client.write_all(b"2\x01c1\x01b\x01c\x01t3").unwrap();
    bench.until("input", |log, _| log.input == b"213");
    assert_eq!(bench.log.shares[0], b"<on>1<break><off>");
    assert_eq!(bench.log.shares[1], b"2<off><on>3");
    // Who writes does not matter, and the times stand before lines.
    for (id, text) in [(first, &b"a\n"[..]), (second, b"bc"), (first, b"d\ne")] {
        assert_eq!(bench.chardevs.write(id, text), text.len());
    }
    let mut text = [0; 256];
    let count = client.read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..count]);
    let mut lines = text.split('\n');
    for line in ["a", "bcd", "e"] {
        let (time, rest) = lines.next().unwrap().split_once("] ").unwrap();
        assert!(time.starts_with("[00:00:0") && time.len() == "[00:00:00.000".len());
        assert_eq!(rest, line);
    }
    for _ in 2..USERS_MAX {
        assert!(
            bench
                .chardevs
                .attach(&format!("mon:unix:{path},server,nowait"))
                .is_some()
        );
    }
    assert_eq!(
        bench
            .chardevs
            .attach(&format!("mon:unix:{path},server,nowait")),
        None
    );
}

#[test]
fn the_escape_key_is_heard_behind_input_that_nobody_takes() {
    let mut bench = Bench::new("deaf");
    let path = bench.path("s");
    let id = bench
        .open(&format!("mon:unix:{path},server,nowait"), 4096)
        .unwrap();
    bench.log.appetite = Some(1);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"abc").unwrap();
    bench.until("input", |log, _| log.input == b"a");
    for _ in 0..3 {
        client.write_all(b"def").unwrap();
        bench.settle();
    }
    client.write_all(b"\x01x").unwrap();
    bench.until("quit", |log, _| log.events.ends_with(&["quit"]));
    assert_eq!(bench.log.input, b"a");
    bench.log.appetite = None;
    bench.chardevs.pause_input(id, false);
    bench.until("the rest", |log, _| log.input == b"abcdefdefdef");
    // It does not wait for ever: what would not fit is not read.
    bench.log.appetite = Some(0);
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(count) = client.write(&[b'x'; 4096]) {
        sent += count;
        bench.settle();
    }
    assert!(sent > 2 * READ_MAX);
    let waiting = bench.chardevs.slots[0].ports[0].rest.len();
    assert!(waiting < mux::INPUT_MAX + READ_MAX, "{waiting}");
}

#[test]
fn telnet_is_spoken() {
    let mut bench = Bench::new("telnet");
    let id = bench
        .open("telnet:127.0.0.1:0,server,nowait", 4096)
        .unwrap();
    let port = bench.chardevs.port(id).unwrap();
    assert!(
        bench
            .chardevs
            .describe(id)
            .ends_with(&format!("telnet:127.0.0.1:{port},server=on"))
    );
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut offer = [0; 12];
    bench.until("opened", |log, _| log.events == ["opened"]);
    client.read_exact(&mut offer).unwrap();
    assert_eq!(offer, telnet::OFFER);
    client
        .write_all(b"a\xff\xff\xff\xf3\xff\xfd\x18b\r\0c")
        .unwrap();
    bench.until("input", |log, _| log.input == b"a\xffb\rc");
    assert_eq!(bench.log.shares[0], b"a\xff<break>b\rc");
    assert_eq!(bench.chardevs.write(id, b"x\xffy"), 3);
    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\xff\xfc\x18x\xff\xffy");
    // Nothing is doubled twice when the reader is slow.
    let bytes = vec![0xff; 1 << 20];
    let mut taken = 0;
    while taken < bytes.len() {
        match bench.chardevs.write(id, &bytes[taken..]) {
            0 => break,
            count => taken += count,
        }
    }
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 2 * taken];
        client.read_exact(&mut all).unwrap();
        (client, all)
    });
    bench.until("writable", |_, chardevs| chardevs.pending(id) == 0);
    let (client, all) = reader.join().unwrap();
    assert!(all.iter().all(|byte| *byte == 0xff));
    // The next connection begins anew.
    drop(client);
    bench.until("closed", |log, _| log.events.contains(&"closed"));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    bench.until("again", |log, _| log.events.ends_with(&["opened"]));
    client.read_exact(&mut offer).unwrap();
    assert_eq!(offer, telnet::OFFER);
}

#[test]
fn a_telnet_client_waits_for_offers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bench = Bench::new("telnet-client");
    let id = bench
        .open(&format!("telnet:{}", listener.local_addr().unwrap()), 64)
        .unwrap();
    let (mut server, _) = listener.accept().unwrap();
    bench.until("opened", |log, _| log.events == ["opened"]);
    bench.chardevs.write(id, b"x");
    server.write_all(&telnet::OFFER).unwrap();
    server.write_all(b"y").unwrap();
    bench.until("input", |log, _| log.input == b"y");
    let mut answer = [0; 13];
    server.read_exact(&mut answer).unwrap();
    assert_eq!(
        &answer,
        b"x\xff\xfd\x01\xff\xfd\x03\xff\xfd\x00\xff\xfb\x00"
    );
}

#[test]
fn a_pseudo_terminal_is_opened_by_others() {
    let mut bench = Bench::new("pty");
    let id = bench.open("pty", 4096).unwrap();
    let name = bench.chardevs.describe(id);
    let name = name.strip_prefix("pty:").unwrap();
    let open = || {
        let mut options = File::options();
        options.read(true).write(true);
        options.custom_flags(libc::O_NOCTTY).open(name).unwrap()
    };
    bench.settle();
    assert!(!bench.chardevs.is_open(id));
    assert_eq!(bench.chardevs.write(id, b"to nobody"), 9);
    for turn in 0..2 {
        let mut terminal = open();
        // Output looks at once whether somebody is there.
        if turn == 0 {
            bench.chardevs.write(id, b"hi\n");
        } else {
            bench.until("open", |_, chardevs| chardevs.is_open(id));
            bench.chardevs.write(id, b"hi\n");
        }
        bench.until("opened", |log, _| log.events.ends_with(&["opened"]));
        let mut text = [0; 3];
        terminal.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hi\n");
        bench.log.input.clear();
        terminal.write_all(b"\x03\r").unwrap();
        bench.until("input", |log, _| log.input == b"\x03\r");
        drop(terminal);
        bench.until("closed", |log, _| log.events.ends_with(&["closed"]));
        bench.settle();
    }
}

#[test]
fn a_serial_port_is_a_line_for_bytes() {
    let mut bench = Bench::new("line");
    let mut other = Bench::new("line-other");
    // A pseudo-terminal stands in for a port of the host.
    let terminal = other.open("pty", 4096).unwrap();
    let name = other.chardevs.describe(terminal);
    let id = bench
        .open(name.strip_prefix("pty:").unwrap(), 4096)
        .unwrap();
    assert_eq!(bench.chardevs.describe(id), "serial");
    assert_eq!(bench.chardevs.write(id, b"\x03\n\xff"), 3);
    other.until("output", |log, _| log.input == b"\x03\n\xff");
    other.chardevs.write(terminal, b"\r\n\x04");
    bench.until("input", |log, _| log.input == b"\r\n\x04");
    drop(other);
    bench.until("end", |log, _| log.events == ["opened", "closed"]);
    assert_eq!(bench.chardevs.write(id, b"gone"), 4);
    bench.settle();
    assert!(
        bench
            .open("/dev/nothing", 1)
            .unwrap_err()
            .contains("/dev/nothing")
    );
}

#[test]
fn a_waiting_server_waits() {
    let mut bench = Bench::new("wait");
    let path = bench.path("s");
    let name = path.clone();
    let client = std::thread::spawn(move || {
        loop {
            if let Ok(client) = UnixStream::connect(&name) {
                return client;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let id = bench.open(&format!("unix:{path},server"), 64).unwrap();
    assert!(bench.chardevs.is_open(id));
    bench.until("opened", |log, _| log.events == ["opened"]);
    let mut client = client.join().unwrap();
    bench.chardevs.write(id, b"x");
    client.read_exact(&mut [0]).unwrap();
}

/// Standard input and output of a forked process: a shell's pipe must stay blocking, and a full
/// one must not block us.
#[test]
fn stdio_over_pipes() {
    let (input, mut to) = io::pipe().unwrap();
    let (mut from, output) = io::pipe().unwrap();
    // SAFETY: the child leaves through `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(from);
        drop(to);
        let child = || -> Option<()> {
            rustix::stdio::dup2_stdin(&input).ok()?;
            rustix::stdio::dup2_stdout(&output).ok()?;
            drop((input, output));
            let mut bench = Bench::new("stdio");
            bench.log.echo = true;
            let id = bench.open("mon:stdio", 1 << 20).ok()?;
            bench.until("end", |log, _| log.events.last() == Some(&"closed"));
            bench.chardevs.write(id, &vec![b'x'; 200_000]);
            let waiting = bench.chardevs.pending(id);
            bench.chardevs.flush(5_000_000_000);
            let shared = rustix::fs::fcntl_getfl(rustix::stdio::stdout()).ok()?;
            let blocking = !shared.contains(rustix::fs::OFlags::NONBLOCK);
            (waiting > 0 && blocking && bench.chardevs.pending(id) == 0).then_some(())
        };
        let status = i32::from(child().is_none());
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) };
    }
    drop((input, output));
    to.write_all(b"hello").unwrap();
    drop(to);
    std::thread::sleep(Duration::from_millis(50));
    let mut text = Vec::new();
    from.read_to_end(&mut text).unwrap();
    assert_eq!(&text[..5], b"hello");
    assert_eq!(text.len(), 200_005);
    let mut status = 0;
    // SAFETY: waits for the child made above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
}

#[test]
fn tokens_of_others_are_ignored() {
    fn movable<T: Send>(_: &T) {}
    let mut bench = Bench::new("tokens");
    movable(&bench.chardevs);
    let null = bench.open("null", 1).unwrap();
    bench.until("opened", |log, _| log.events == ["opened"]);
    assert_eq!(bench.chardevs.write(null, b"gone"), 4);
    let all = Readiness {
        read: true,
        write: true,
        hangup: true,
    };
    for token in [
        0,
        4 << 32,
        5 << 32,
        (5 << 32) + 1,
        (5 << 32) + 999,
        u64::MAX,
    ] {
        bench.chardevs.ready(token, all, &mut bench.log);
    }
}
