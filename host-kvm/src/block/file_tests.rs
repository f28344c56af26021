//! Tests of files in each of the ways in which they are read and written.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use thimble_core::qmp::Parser;
use thimble_monitor::schema::arguments::BlockdevOptions;
use thimble_monitor::schema::read_option;

use super::buffer::{Buffer, Gate};
use super::executor::Executor;
use super::node::{Io, Node, Refusal};
use super::*;

/// The ways, as options name them; one does what is best.
const WAYS: [&str; 4] = ["", ",aio=threads", ",aio=native", ",aio=io_uring"];

/// A file that goes with it.
struct TestFile(PathBuf);

impl TestFile {
    fn new(folder: &str, bytes: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("thimble-file-{}-{number}", std::process::id());
        let path = Path::new(folder).join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    /// A pipe, which has nothing to read until somebody writes to it.
    fn pipe() -> Self {
        let file = Self::new("/tmp", &[]);
        fs::remove_file(&file.0).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file.0,
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        file
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn graph() -> Rc<Graph> {
    Graph::new(Executor::new(|| {}))
}

fn add(graph: &Graph, text: &str) -> Result<Rc<Node>, Refusal> {
    let mut parser = Box::new(Parser::new());
    let options = read_option::<BlockdevOptions<'_>>(&mut parser, text);
    graph.add(&options.map_err(|error| error.to_string())?)?;
    graph.node("f").ok_or_else(|| "no node".to_owned())
}

/// A node of a file; nothing if the file system has no direct requests.
fn open(graph: &Graph, path: &Path, more: &str) -> Option<Rc<Node>> {
    let text = format!("file,node-name=f,filename={}{more}", path.display());
    match add(graph, &text) {
        Ok(node) => Some(node),
        Err(reason) => {
            assert!(reason.contains("O_DIRECT"), "{text}: {reason}");
            None
        }
    }
}

/// What requests come to that are under way together.
fn together(graph: &Graph, mut requests: Vec<Io<'_>>) -> Vec<Result<(), Errno>> {
    let mut ends = vec![None; requests.len()];
    graph.wait(std::future::poll_fn(|context| {
        for (end, request) in ends.iter_mut().zip(&mut requests) {
            if end.is_none()
                && let Poll::Ready(result) = request.as_mut().poll(context)
            {
                *end = Some(result);
            }
        }
        match ends.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }));
    ends.into_iter().flatten().collect()
}

/// Each way with the files of two file systems, with and without the page cache.
fn everywhere(test: impl Fn(&Graph, &Node, &Path, &str)) {
    for folder in ["/dev/shm", "/var/tmp"] {
        for cache in ["", ",cache.direct=on"] {
            for way in WAYS {
                if way == ",aio=native" && cache.is_empty() {
                    continue;
                }
                let file = TestFile::new(folder, &[]);
                let graph = graph();
                let more = format!("{cache}{way}");
                if let Some(node) = open(&graph, &file.0, &more) {
                    test(&graph, &node, &file.0, &format!("{folder} {more}"));
                }
            }
        }
    }
}

#[test]
fn more_requests_than_the_kernel_takes_move_the_right_bytes() {
    const COUNT: usize = 700;
    const BLOCK: usize = 4096;
    everywhere(|graph, node, path, what| {
        let bytes: Vec<u8> = (0..COUNT * BLOCK).map(|at| (at / 999) as u8).collect();
        let memory = Buffer::of(&bytes);
        let place = |index: usize| (index * 37 % COUNT) * BLOCK;
        let writes = (0..COUNT).map(|index| {
            let at = place(index);
            node.driver().write(at as u64, memory.slice(at, BLOCK))
        });
        assert!(together(graph, writes.collect()).iter().all(Result::is_ok));
        assert_eq!(node.length(), bytes.len() as u64);
        graph.wait(node.flush()).unwrap();
        assert!(fs::read(path).unwrap() == bytes, "{what}");
        // The page cache is to have as little of it as can be.
        let file = fs::File::open(path).unwrap();
        let advice = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&file, 0, None, advice).unwrap();
        let back = Buffer::new(bytes.len());
        let reads = (0..COUNT).map(|index| {
            let at = place(index);
            node.driver().read(at as u64, back.slice(at, BLOCK))
        });
        assert!(together(graph, reads.collect()).iter().all(Result::is_ok));
        assert!(back.to_vec() == bytes, "{what}");
    });
}

#[test]
fn requests_of_many_pieces_and_any_place_move_the_right_bytes() {
    everywhere(|graph, node, path, what| {
        let mut model = vec![7; 1 << 20];
        graph.wait(node.write(0, Buffer::of(&model))).unwrap();
        // More pieces than the kernel takes at once, the last of them first.
        let memory = Buffer::of(
            &(0..1_500 * 512)
                .map(|at| (at / 512) as u8)
                .collect::<Vec<_>>(),
        );
        let pieces = (0..1_500).rev().map(|piece| memory.slice(piece * 512, 512));
        let cut = Buffer::joined(pieces);
        let bytes = cut.to_vec();
        graph.wait(node.write(4096, cut)).unwrap();
        model[4096..4096 + bytes.len()].copy_from_slice(&bytes);
        // Parts of blocks, beside whole ones.
        let parts = [(100, 700), (8000, 100), (8192, 4096), (600_001, 12_345)];
        let writes = parts.iter().map(|(at, length)| {
            let from = Buffer::of(&vec![9; length + 1]).slice(1, *length);
            node.driver().write(*at as u64, from)
        });
        let writes: Vec<_> = writes.collect();
        for (at, length) in parts {
            model[at..at + length].fill(9);
        }
        assert!(together(graph, writes).iter().all(Result::is_ok), "{what}");
        let back = Buffer::new(model.len() + 5000);
        graph.wait(node.read(0, back.slice(0, 600_000))).unwrap();
        let rest = back.slice(600_000, back.len());
        rest.fill(1);
        graph.wait(node.driver().read(600_000, rest)).unwrap();
        model.resize(back.len(), 0);
        assert!(back.to_vec() == model, "{what}");
        assert_eq!(fs::metadata(path).unwrap().len(), 1 << 20);
        // Somebody else has shortened it.
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(5000).unwrap();
        let back = Buffer::of(&[1; 8192]);
        graph.wait(node.read(4096, back.clone())).unwrap();
        model.truncate(5000);
        model.resize(12288, 0);
        assert!(back.to_vec() == model[4096..], "{what}");
    });
}

#[test]
fn what_the_kernel_refuses_is_told() {
    for way in WAYS {
        let more = match way {
            ",aio=native" => ",aio=native,cache.direct=on",
            way => way,
        };
        let graph = graph();
        let text = format!("host_device,node-name=f,filename=/dev/full{way}");
        if way != ",aio=native" {
            let node = add(&graph, &text).unwrap();
            let write = node.driver().write(0, Buffer::new(4096));
            assert_eq!(graph.wait(write), Err(Errno::NOSPC), "{text}");
            graph.remove("f").unwrap();
        }
        let file = TestFile::new("/var/tmp", &[1; 8192]);
        let Some(node) = open(&graph, &file.0, &format!("{more},read-only=on")) else {
            continue;
        };
        let write = node.driver().write(0, Buffer::new(4096));
        assert_eq!(graph.wait(write), Err(Errno::BADF), "{more}");
        let read = node.driver().read(1 << 63, Buffer::new(4096));
        assert_eq!(graph.wait(read), Err(Errno::FBIG), "{more}");
        let empty = node.driver().read(0, Buffer::new(0));
        assert_eq!(graph.wait(empty), Ok(()), "{more}");
    }
}

#[test]
fn native_requests_are_direct() {
    let file = TestFile::new("/var/tmp", &[5; 8192]);
    let graph = graph();
    let text = format!("file,node-name=f,filename={},aio=native", file.0.display());
    assert_eq!(
        add(&graph, &text).err().unwrap(),
        "aio=native was specified, but it requires cache.direct=on, which was not specified."
    );
    let Some(node) = open(&graph, &file.0, ",aio=native,cache.direct=on") else {
        return;
    };
    // It may be opened otherwise later.
    for direct in [false, true] {
        let mut settings = node.settings();
        settings.direct = direct;
        node.replace_settings(settings);
        node.refresh().unwrap();
        let back = Buffer::new(4096);
        graph.wait(node.read(4096, back.clone())).unwrap();
        assert_eq!(back.to_vec(), [5; 4096]);
    }
}

/// Memory that is taken back while the kernel has it.
#[test]
fn a_gate_waits_for_the_kernel() {
    use std::io::Write as _;
    if super::uring::check().is_err() {
        return;
    }
    let pipe = TestFile::pipe();
    let graph = graph();
    let node = open(&graph, &pipe.0, ",aio=io_uring").unwrap();
    let mut writer = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe.0)
        .unwrap();
    for forgotten in [false, true] {
        let gate = Arc::new(Gate::default());
        let memory = Buffer::new(4);
        let mut read = node.driver().read(0, memory.clone().gated(&gate));
        let mut other = node.driver().read(0, memory.clone().gated(&gate));
        assert!(once(&mut read).is_pending() && once(&mut other).is_pending());
        if forgotten {
            drop((read, other));
            (read, other) = (throttle::refuse(Errno::IO), throttle::refuse(Errno::IO));
        }
        std::thread::sleep(Duration::from_millis(50));
        let closer = gate.clone();
        let closing = std::thread::spawn(move || closer.close());
        while !gate.is_closed() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(!closing.is_finished());
        // The one gets all; what the other has not got is not asked for any more.
        writer.write_all(b"abcd").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        writer.write_all(b"ef").unwrap();
        closing.join().unwrap();
        assert_eq!(memory.to_vec(), b"efcd");
        let ends = [graph.wait(read), graph.wait(other)];
        match forgotten {
            false => assert!(ends.contains(&Ok(())) && ends.contains(&Err(Errno::CANCELED))),
            true => assert_eq!(ends, [Err(Errno::IO); 2]),
        }
    }
}

fn once(request: &mut Io<'_>) -> Poll<Result<(), Errno>> {
    let waker = std::task::Waker::noop();
    request
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker))
}

/// Lets a call of this thread, and of those that it starts, fail from now on.
fn deny(call: libc::c_long, error: Errno) {
    const fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        }
    }
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let error = libc::SECCOMP_RET_ERRNO | error.raw_os_error() as u32;
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(code, call as u32, 0, 1),
        instruction(libc::BPF_RET | libc::BPF_K, error, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program is read by the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program),
            0
        );
    }
}

fn denied(call: libc::c_long, error: Errno, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        deny(call, error);
        test();
    });
    thread.join().unwrap();
}

fn works(graph: &Graph, node: &Node) {
    for byte in [3, 4] {
        let writes = (0..9).map(|at| node.driver().write(at * 4096, Buffer::of(&[byte; 4096])));
        assert!(together(graph, writes.collect()).iter().all(Result::is_ok));
        graph.wait(node.flush()).unwrap();
        let back = Buffer::new(9 * 4096);
        graph.wait(node.read(0, back.clone())).unwrap();
        assert_eq!(back.to_vec(), vec![byte; 9 * 4096]);
    }
}

#[test]
fn what_the_kernel_has_not_got_threads_do() {
    for (call, error, text) in [
        (
            libc::SYS_io_uring_setup,
            Errno::PERM,
            "Operation not permitted",
        ),
        (
            libc::SYS_io_uring_setup,
            Errno::NOSYS,
            "Function not implemented",
        ),
        (
            libc::SYS_io_uring_setup,
            Errno::NOMEM,
            "Cannot allocate memory",
        ),
    ] {
        denied(call, error, move || {
            let file = TestFile::new("/var/tmp", &[]);
            let graph = graph();
            let node = open(&graph, &file.0, "").unwrap();
            works(&graph, &node);
            let text =
                format!("Unable to use io_uring: failed to init linux io_uring ring: {text}");
            let options = format!(
                "file,node-name=g,filename={},aio=io_uring",
                file.0.display()
            );
            assert_eq!(add(&graph, &options).err(), Some(text));
        });
    }
    denied(libc::SYS_io_setup, Errno::AGAIN, || {
        let file = TestFile::new("/var/tmp", &[]);
        let options = format!(
            "file,node-name=g,filename={},aio=native,cache.direct=on",
            file.0.display()
        );
        let reason = add(&graph(), &options).err().unwrap();
        let expected = "Unable to use native AIO: failed to create linux AIO context: Resource temporarily unavailable";
        assert!(
            reason == expected || reason.contains("O_DIRECT"),
            "{reason}"
        );
    });
    // The kernel has it when the file is opened, and not any more when it is read; or only half of it.
    for (call, way) in [
        (libc::SYS_io_setup, "native"),
        (libc::SYS_io_submit, "native"),
        (libc::SYS_io_uring_setup, "io_uring"),
        (libc::SYS_io_uring_register, "io_uring"),
        (libc::SYS_io_uring_enter, "io_uring"),
    ] {
        let thread = std::thread::spawn(move || {
            let file = TestFile::new("/var/tmp", &[]);
            let graph = graph();
            if let Some(node) = open(&graph, &file.0, &format!(",cache.direct=on,aio={way}")) {
                deny(call, Errno::PERM);
                works(&graph, &node);
            }
        });
        thread.join().unwrap();
    }
}
