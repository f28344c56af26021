//! Tests of graphs over memory: the same each time, whatever the machine is doing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use thimble_core::devices::block::{DriveId, Failure, Operation};
use thimble_core::qmp::Parser;
use thimble_monitor::Event;
use thimble_monitor::schema::arguments::BlockdevOptions;
use thimble_monitor::schema::{BlockErrorAction, read_option};

use super::backend::{Backend, Device, OnError, Place, Queued};
use super::buffer::{Buffer, Gate};
use super::executor::{Boxed, Changed, Executor, Pool};
use super::node::{Child, Description, Driver, Io, Need, Node, Permissions, Refusal, Settings};
use super::overlay::Overlay;
use super::throttle::refuse;
use super::*;

/// Storage in memory, which fails when it is told to.
struct Memory {
    bytes: RefCell<Vec<u8>>,
    /// What the next requests end with.
    faults: RefCell<VecDeque<Errno>>,
    /// Requests wait as long as this is set.
    stuck: Cell<bool>,
    changed: Changed,
    flushes: Cell<u32>,
}

impl Memory {
    fn new(length: usize) -> Rc<Self> {
        Rc::new(Self {
            bytes: RefCell::new(vec![0; length]),
            faults: RefCell::default(),
            stuck: Cell::new(false),
            changed: Changed::default(),
            flushes: Cell::new(0),
        })
    }

    async fn begin(&self) -> Result<(), Errno> {
        self.changed.until(|| !self.stuck.get()).await;
        match self.faults.borrow_mut().pop_front() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Its driver.
struct InMemory(Rc<Memory>);

impl Driver for InMemory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn length(&self) -> u64 {
        self.0.bytes.borrow().len() as u64
    }

    fn read<'a>(&'a self, at: u64, to: Buffer) -> Io<'a> {
        Box::pin(async move {
            self.0.begin().await?;
            let at = at as usize;
            to.write(&self.0.bytes.borrow()[at..at + to.len()]);
            Ok(())
        })
    }

    fn write<'a>(&'a self, at: u64, from: Buffer) -> Io<'a> {
        Box::pin(async move {
            self.0.begin().await?;
            let at = at as usize;
            from.read(&mut self.0.bytes.borrow_mut()[at..at + from.len()]);
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, _at: u64, _length: u64, _may_unmap: bool) -> Io<'a> {
        refuse(Errno::OPNOTSUPP)
    }

    fn discard<'a>(&'a self, _at: u64, _length: u64) -> Io<'a> {
        Box::pin(self.0.begin())
    }

    fn flush(&self) -> Io<'_> {
        self.0.flushes.set(self.0.flushes.get() + 1);
        Box::pin(self.0.begin())
    }

    fn resize<'a>(&'a self, length: u64) -> Boxed<'a, Result<(), Refusal>> {
        self.0.bytes.borrow_mut().resize(length as usize, 0);
        Box::pin(std::future::ready(Ok(())))
    }

    fn describe(&self) -> Description {
        Description::default()
    }

    fn allocated(&self) -> Option<u64> {
        None
    }
}

const SETTINGS: Settings = Settings {
    discard: true,
    ..Settings::PLAIN
};

fn graph() -> Rc<Graph> {
    Graph::new(Executor::new(|| {}))
}

/// A node over memory.
fn memory(graph: &Graph, name: &str, length: usize) -> (Rc<Memory>, Rc<Node>) {
    let memory = Memory::new(length);
    let driver = Box::new(InMemory(memory.clone()));
    let node = Node::new(name.to_owned(), driver, SETTINGS).unwrap();
    graph.nodes.borrow_mut().push(Rc::downgrade(&node));
    graph.owned.borrow_mut().push(node.clone());
    (memory, node)
}

const WRITER: Need = Need {
    uses: Permissions::CONSISTENT_READ.union(Permissions::WRITE),
    shares: Permissions::CONSISTENT_READ,
};

/// A drive with this node, as a disk has it.
fn drive(graph: &Graph, node: &Rc<Node>) -> Rc<Backend> {
    let drive = Backend::new("d");
    graph.insert(&drive, node).unwrap();
    let device = Device {
        drive: DriveId(0),
        path: "/disk".to_owned(),
        shown: "disk".to_owned(),
        removable: false,
        has_tray: false,
        need: WRITER,
        read_only: false,
        thread: None,
    };
    graph.attach(&drive, device).unwrap();
    graph.add_drive(drive.clone());
    drive
}

fn request(tag: u32, operation: Operation, offset: u64, place: Place) -> Queued {
    let length = match &place {
        Place::Bytes(bytes) => bytes.len() as u64,
        Place::None if operation == Operation::Flush => 0,
        _ => 512,
    };
    Queued {
        drive: DriveId(0),
        tag,
        operation,
        offset,
        length,
        place,
        gate: Arc::new(Gate::default()),
    }
}

fn write(tag: u32, offset: u64, byte: u8) -> Queued {
    let operation = Operation::Write {
        force_unit_access: false,
    };
    request(tag, operation, offset, Place::Bytes(vec![byte; 512]))
}

fn read(tag: u32, offset: u64) -> Queued {
    request(tag, Operation::Read, offset, Place::Wanted)
}

/// The ends that there are now: tags, outcomes and the first byte of what was read.
fn ends(graph: &Graph) -> Vec<(u32, Outcome, Option<u8>)> {
    graph.run();
    std::iter::from_fn(|| graph.take_ended())
        .map(|end| (end.request.tag, end.outcome, end.bytes.first().copied()))
        .collect()
}

fn add(graph: &Graph, text: &str) -> Result<(), Refusal> {
    let mut parser = Box::new(Parser::new());
    let options = read_option::<BlockdevOptions<'_>>(&mut parser, text);
    graph.add(&options.map_err(|error| error.to_string())?)
}

#[test]
fn requests_move_bytes_and_are_counted() {
    let graph = graph();
    let (memory, node) = memory(&graph, "m", 4096);
    let drive = drive(&graph, &node);
    graph.submit([write(1, 512, 7)]);
    assert_eq!(ends(&graph), [(1, Ok(()), None)]);
    assert_eq!(memory.bytes.borrow()[511..513], [0, 7]);
    graph.submit([read(2, 512), request(3, Operation::Flush, 0, Place::None)]);
    assert_eq!(ends(&graph), [(2, Ok(()), Some(7)), (3, Ok(()), None)]);
    graph.submit([read(4, 4096), read(5, 1), read(6, u64::MAX - 511)]);
    let range = Err(Failure::Range);
    assert_eq!(
        ends(&graph),
        [(4, range, None), (5, range, None), (6, range, None)]
    );
    let statistics = drive.statistics.borrow();
    let [reads, writes, flushes, _] = &statistics.counts;
    assert_eq!((reads.operations, reads.bytes, reads.invalid), (1, 512, 3));
    assert_eq!((writes.operations, writes.bytes), (1, 512));
    assert_eq!((flushes.operations, memory.flushes.get()), (1, 1));
    assert_eq!(node.highest(), 1024);
}

#[test]
fn what_is_not_there_fails() {
    let graph = graph();
    let (_memory, node) = memory(&graph, "m", 4096);
    let drive = drive(&graph, &node);
    graph.submit([request(1, Operation::Read, 0, Place::Guest(Vec::new()))]);
    assert_eq!(ends(&graph), [(1, Err(Failure::Memory), None)]);
    graph.take_out(&drive);
    graph.submit([read(2, 0)]);
    assert_eq!(ends(&graph), [(2, Err(Failure::NoMedium), None)]);
    let mut other = read(3, 0);
    other.drive = DriveId(9);
    graph.submit([other]);
    assert_eq!(ends(&graph), [(3, Err(Failure::NoMedium), None)]);
}

#[test]
fn errors_are_reported_ignored_or_stop_the_machine() {
    let graph = graph();
    let (memory, node) = memory(&graph, "m", 4096);
    let drive = drive(&graph, &node);
    let fault = |error| memory.faults.borrow_mut().push_back(error);
    let action = |graph: &Graph| match graph.take_event() {
        Some(Event::BlockIoError {
            action, nospace, ..
        }) => (action, nospace),
        other => panic!("{other:?}"),
    };
    fault(Errno::IO);
    graph.submit([read(1, 0)]);
    assert_eq!(ends(&graph), [(1, Err(Failure::Io), None)]);
    assert_eq!(action(&graph), (BlockErrorAction::Report, Some(false)));
    drive.on_read_error.set(OnError::Ignore);
    fault(Errno::IO);
    graph.submit([read(2, 0)]);
    assert_eq!(ends(&graph), [(2, Ok(()), Some(0))]);
    assert_eq!(action(&graph), (BlockErrorAction::Ignore, Some(false)));
    assert!(!graph.take_stop());
    // No space stops the machine unless it is told otherwise.
    fault(Errno::NOSPC);
    graph.submit([write(3, 0, 5)]);
    assert_eq!(ends(&graph), []);
    assert_eq!(action(&graph), (BlockErrorAction::Stop, Some(true)));
    assert!(graph.take_stop());
    assert_eq!(drive.status.get(), BlockDeviceIoStatus::Nospace);
    fault(Errno::NOSPC);
    graph.resume();
    assert_eq!(ends(&graph), []);
    assert_eq!(action(&graph), (BlockErrorAction::Stop, Some(true)));
    graph.resume();
    assert_eq!(ends(&graph), [(3, Ok(()), None)]);
    assert_eq!(drive.status.get(), BlockDeviceIoStatus::Ok);
    assert_eq!(memory.bytes.borrow()[0], 5);
}

#[test]
fn what_a_reset_has_taken_back_never_ends() {
    let graph = graph();
    let (memory, node) = memory(&graph, "m", 4096);
    let drive = drive(&graph, &node);
    memory.stuck.set(true);
    let pending = read(1, 0);
    let gate = pending.gate.clone();
    graph.submit([pending]);
    assert_eq!(ends(&graph), []);
    assert_eq!(drive.busy.get(), 1);
    gate.close();
    drive.on_read_error.set(OnError::Stop);
    memory.faults.borrow_mut().push_back(Errno::IO);
    memory.stuck.set(false);
    memory.changed.tell();
    assert_eq!(ends(&graph), []);
    assert!(graph.take_event().is_none() && !graph.take_stop());
    assert_eq!(drive.busy.get(), 0);
}

#[test]
fn a_drain_waits_for_what_is_under_way_and_holds_the_rest() {
    let graph = graph();
    let (memory, node) = memory(&graph, "m", 4096);
    let drive = drive(&graph, &node);
    memory.stuck.set(true);
    graph.submit([write(1, 0, 1)]);
    assert_eq!(ends(&graph), []);
    drive.held.set(1);
    graph.submit([write(2, 0, 2)]);
    memory.stuck.set(false);
    memory.changed.tell();
    graph.hold(&drive);
    assert_eq!(ends(&graph), [(1, Ok(()), None)]);
    graph.release(&drive);
    graph.release(&drive);
    assert_eq!(ends(&graph), [(2, Ok(()), None)]);
    assert_eq!(memory.bytes.borrow()[0], 2);
}

#[test]
fn parents_that_do_not_agree_are_refused() {
    let graph = graph();
    let (_memory, node) = memory(&graph, "m", 4096);
    let first = Child::new(&node, "node 'a'".to_owned(), "file", WRITER).unwrap();
    let second = Child::new(&node, "node 'b'".to_owned(), "file", WRITER);
    assert_eq!(
        second.err().unwrap(),
        "Permission conflict on node 'm': permissions 'write' are both required by node 'a' (uses node 'm' as 'file' \
         child) and unshared by node 'b' (uses node 'm' as 'file' child)."
    );
    let reader = Need {
        uses: Permissions::CONSISTENT_READ,
        shares: Permissions::all(),
    };
    let second = Child::new(&node, "node 'b'".to_owned(), "file", reader).unwrap();
    assert!(second.set_need(WRITER).is_err());
    assert_eq!(second.need(), reader);
    drop(first);
    second.set_need(WRITER).unwrap();
    let mut settings = node.settings();
    settings.read_only = true;
    let old = node.replace_settings(settings);
    let refused = node.refresh().unwrap_err();
    node.replace_settings(old);
    assert_eq!(
        refused,
        "Read-only block node 'm' cannot support read-write users"
    );
    assert!(!node.settings().read_only);
    drop(second);
    node.replace_settings(settings);
    node.refresh().unwrap();
}

#[test]
fn permissions_reach_through_filters() {
    let graph = graph();
    let (_memory, base) = memory(&graph, "base", 4096);
    add(&graph, "raw,node-name=a,file=base").unwrap();
    add(&graph, "raw,node-name=b,file=base").unwrap();
    let (a, b) = (graph.node("a").unwrap(), graph.node("b").unwrap());
    let _writer = Child::new(&a, "x".to_owned(), "root", WRITER).unwrap();
    let refused = Child::new(&b, "y".to_owned(), "root", WRITER)
        .err()
        .unwrap();
    assert!(
        refused.starts_with("Permission conflict on node 'base'"),
        "{refused}"
    );
    assert_eq!(
        graph.remove("base").unwrap_err(),
        "Block device base is in use"
    );
    assert_eq!(graph.remove("a").unwrap_err(), "Node a is in use");
    drop(b);
    graph.remove("b").unwrap();
    assert_eq!(
        graph.remove("b").unwrap_err(),
        "Failed to find node with node-name='b'"
    );
    assert!(base.is_used());
}

#[test]
fn a_part_of_a_file_is_a_disk() {
    let graph = graph();
    let (memory, _base) = memory(&graph, "base", 8192);
    add(&graph, "raw,node-name=part,file=base,offset=4096,size=1024").unwrap();
    let node = graph.node("part").unwrap();
    assert_eq!(node.length(), 1024);
    graph.wait(node.write(512, Buffer::of(&[9; 512]))).unwrap();
    assert_eq!(memory.bytes.borrow()[4607..4609], [0, 9]);
    assert_eq!(
        graph.wait(node.write(1024, Buffer::of(&[9; 512]))),
        Err(Errno::NOSPC)
    );
    let fixed = graph.wait(node.resize(2048));
    assert_eq!(fixed.unwrap_err(), "Cannot resize fixed-size raw disks");
    for (text, reason) in [
        (
            "raw,node-name=x,file=base,offset=8193",
            "Offset (8193) cannot be greater than size of the containing file (8192)",
        ),
        (
            "raw,node-name=x,file=base,offset=4096,size=4097",
            "The sum of offset (4096) and size (4097) has to be smaller or equal to the  actual size of the containing \
             file (8192)",
        ),
        (
            "raw,node-name=x,file=nix",
            "Cannot find device='nix' nor node-name='nix'",
        ),
        (
            "raw,node-name=part,file=base",
            "Duplicate nodes with node-name='part'",
        ),
        ("raw,node-name=1,file=base", "Invalid node-name: '1'"),
        (
            "raw,file=base",
            "'node-name' must be specified for the root node",
        ),
    ] {
        assert_eq!(add(&graph, text).unwrap_err(), reason);
    }
}

#[test]
fn rules_fail_requests() {
    let graph = graph();
    let (_memory, _base) = memory(&graph, "base", 8192);
    let rules = "blkdebug,node-name=bd,image=base,inject-error.0.event=read_aio,inject-error.0.sector=2,\
                 inject-error.0.once=on,inject-error.1.event=write_aio,inject-error.1.state=2,\
                 inject-error.1.errno=28,set-state.0.event=flush_to_disk,set-state.0.new_state=2";
    add(&graph, rules).unwrap();
    add(&graph, "raw,node-name=r,file=bd").unwrap();
    let node = graph.node("r").unwrap();
    let read = |at| graph.wait(node.read(at, Buffer::new(512)));
    let write = |at| graph.wait(node.write(at, Buffer::of(&[1; 512])));
    assert_eq!(read(512), Ok(()));
    assert_eq!(read(1024), Err(Errno::IO));
    assert_eq!(read(1024), Ok(()));
    assert_eq!(write(0), Ok(()));
    graph.wait(node.flush()).unwrap();
    assert_eq!(write(0), Err(Errno::NOSPC));
    assert_eq!(write(0), Err(Errno::NOSPC));
    // A rule is active until one of another event is.
    assert_eq!(read(0), Err(Errno::NOSPC));
}

#[test]
fn only_what_was_changed_is_flushed() {
    let graph = graph();
    let (memory, base) = memory(&graph, "base", 8192);
    add(&graph, "raw,node-name=r,file=base,discard=unmap").unwrap();
    let node = graph.node("r").unwrap();
    let flushes = |node: &Node| {
        let before = memory.flushes.get();
        let result = graph.wait(node.flush());
        (memory.flushes.get() - before, result)
    };
    let flushes_once = || {
        assert_eq!(flushes(&node), (1, Ok(())));
        assert_eq!(flushes(&node), (0, Ok(())));
        assert_eq!(flushes(&base), (0, Ok(())));
    };
    let write = |node: &Node| graph.wait(node.write(0, Buffer::of(&[1; 512])));
    assert_eq!(flushes(&node), (0, Ok(())));
    write(&node).unwrap();
    flushes_once();
    graph.wait(node.write_zeroes(0, 512, true)).unwrap();
    flushes_once();
    graph.wait(node.discard(0, 512)).unwrap();
    flushes_once();
    graph.wait(node.resize(4096)).unwrap();
    flushes_once();
    // Whoever else has changed it.
    write(&base).unwrap();
    flushes_once();
    graph.wait(node.read(0, Buffer::new(512))).unwrap();
    assert_eq!(flushes(&node), (0, Ok(())));
    // A write that has failed may have written something, and a flush that has failed may have flushed nothing.
    memory.faults.borrow_mut().extend([Errno::IO; 2]);
    assert_eq!(write(&node), Err(Errno::IO));
    assert_eq!(flushes(&node), (1, Err(Errno::IO)));
    flushes_once();
    // What was not to be flushed is, once it is to be.
    let settings = base.settings();
    base.replace_settings(Settings {
        no_flush: true,
        ..settings
    });
    write(&node).unwrap();
    assert_eq!(flushes(&node), (0, Ok(())));
    base.replace_settings(settings);
    flushes_once();
}

/// A task's result, once it has ended.
type Later = Rc<Cell<Option<Result<(), Errno>>>>;

/// Lets a request of a node be a task, which runs until it has to wait.
fn begin(graph: &Graph, node: &Rc<Node>, request: impl Fn(&Node) -> Io<'_> + 'static) -> Later {
    let (ended, node) = (Later::default(), node.clone());
    let tell = ended.clone();
    let task = async move { tell.set(Some(request(&node).await)) };
    graph.executor.spawn(task);
    graph.executor.run(0);
    ended
}

#[test]
fn a_write_that_ends_during_a_flush_is_for_the_next() {
    let graph = graph();
    let (memory, node) = memory(&graph, "base", 8192);
    let bytes = Buffer::of(&[1; 512]);
    graph.wait(node.write(0, bytes.clone())).unwrap();
    memory.stuck.set(true);
    let late = begin(&graph, &node, move |node| node.write(0, bytes.clone()));
    let first = begin(&graph, &node, Node::flush);
    assert_eq!((memory.flushes.get(), first.get()), (1, None));
    memory.stuck.set(false);
    memory.changed.tell();
    graph.executor.run(0);
    assert_eq!((late.get(), first.get()), (Some(Ok(())), Some(Ok(()))));
    for _ in 0..2 {
        assert_eq!(graph.wait(node.flush()), Ok(()));
        assert_eq!(memory.flushes.get(), 2);
    }
}

#[test]
fn flushes_come_one_after_the_other() {
    let graph = graph();
    let (memory, node) = memory(&graph, "base", 8192);
    graph.wait(node.write(0, Buffer::of(&[1; 512]))).unwrap();
    memory.stuck.set(true);
    let ended = [0; 3].map(|_| begin(&graph, &node, Node::flush));
    assert_eq!(memory.flushes.get(), 1);
    // The kernel tells of a failure once: who has waited asks it again.
    memory.faults.borrow_mut().push_back(Errno::IO);
    memory.stuck.set(false);
    memory.changed.tell();
    graph.executor.run(0);
    let results = ended.map(|ended| ended.get());
    assert_eq!(results, [Some(Err(Errno::IO)), Some(Ok(())), Some(Ok(()))]);
    assert_eq!(memory.flushes.get(), 2);
    // One that nobody waits for any more is in nobody's way.
    graph.wait(node.write(0, Buffer::of(&[1; 512]))).unwrap();
    memory.stuck.set(true);
    let mut given_up = node.flush();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(given_up.as_mut().poll(&mut context).is_pending());
    drop(given_up);
    memory.stuck.set(false);
    assert_eq!(graph.wait(node.flush()), Ok(()));
    assert_eq!(memory.flushes.get(), 4);
}

#[test]
fn another_node_takes_the_place_of_a_medium() {
    let graph = graph();
    let (first, base) = memory(&graph, "base", 8192);
    let (second, other) = memory(&graph, "other", 4096);
    let disk = drive(&graph, &base);
    let write = |disk: &Rc<Backend>| {
        let request = request(
            1,
            Operation::Write {
                force_unit_access: false,
            },
            0,
            Place::None,
        );
        let bytes = Buffer::of(&[7; 512]);
        graph.wait(disk.perform(&request, Some(bytes))).map(drop)
    };
    write(&disk).unwrap();
    graph.replace(&disk, &other).unwrap();
    // What the first one had to flush is flushed.
    assert_eq!((first.flushes.get(), second.flushes.get()), (1, 0));
    write(&disk).unwrap();
    assert_eq!(second.bytes.borrow()[0], 7);
    assert_eq!(disk.medium().map(|medium| medium.bytes), Some(4096));
    assert!(!base.is_used() && other.is_used());
    // Both may be on the same file.
    add(&graph, "raw,node-name=part,file=other,offset=512").unwrap();
    let part = graph.node("part").unwrap();
    graph.replace(&disk, &part).unwrap();
    graph.replace(&disk, &other).unwrap();
    // What is refused changes nothing.
    let user = Child::new(&base, "another".to_owned(), "root", WRITER).unwrap();
    let refused = graph.replace(&disk, &base).unwrap_err();
    assert!(refused.starts_with("Permission conflict"), "{refused}");
    assert!(Rc::ptr_eq(
        &other,
        &disk.root.borrow().as_ref().unwrap().node()
    ));
    let second_writer = Child::new(&other, "third".to_owned(), "root", WRITER);
    assert!(second_writer.is_err());
    drop(user);
    graph.replace(&disk, &base).unwrap();
    // A drive whose medium took no writes does not write to the next one either.
    graph.remove_drive(&disk);
    let settings = base.settings();
    base.replace_settings(Settings {
        read_only: true,
        ..settings
    });
    let reader = drive(&graph, &base);
    graph.replace(&reader, &other).unwrap();
    assert!(reader.medium().is_some_and(|medium| medium.read_only));
}

#[test]
fn images_are_compared() {
    let graph = graph();
    let (a, _a) = memory(&graph, "a", 4096);
    let (_b, _b_node) = memory(&graph, "b", 4096);
    add(&graph, "blkverify,node-name=v,test=a,raw=b").unwrap();
    let node = graph.node("v").unwrap();
    graph.wait(node.write(0, Buffer::of(&[3; 1024]))).unwrap();
    assert_eq!(graph.wait(node.read(0, Buffer::new(1024))), Ok(()));
    a.bytes.borrow_mut()[600] = 4;
    assert_eq!(graph.wait(node.read(0, Buffer::new(512))), Ok(()));
    assert_eq!(graph.wait(node.read(0, Buffer::new(1024))), Err(Errno::IO));
}

#[test]
fn an_overlay_keeps_what_is_written_away_from_the_image() {
    let graph = graph();
    let length = 300 << 10;
    let (base, node) = memory(&graph, "base", length);
    for (at, byte) in base.bytes.borrow_mut().iter_mut().enumerate() {
        *byte = (at >> 9) as u8;
    }
    let before = base.bytes.borrow().clone();
    let backing = Child::new(&node, "node 'o'".to_owned(), "backing", Need::NONE).unwrap();
    let overlay = Overlay::new(backing, length as u64, false, Pool::default()).unwrap();
    let overlay = Node::new("o".to_owned(), Box::new(overlay), SETTINGS).unwrap();
    let mut model = before.clone();
    for (at, length, byte) in [
        (512, 512, 1),
        (65024, 1024, 2),
        (100_352, 131_072, 3),
        (0, 512, 4),
    ] {
        let bytes = vec![byte; length];
        graph
            .wait(overlay.write(at as u64, Buffer::of(&bytes)))
            .unwrap();
        model[at..at + length].copy_from_slice(&bytes);
    }
    let whole = Buffer::new(length);
    graph.wait(overlay.read(0, whole.clone())).unwrap();
    assert!(whole.to_vec() == model);
    assert!(*base.bytes.borrow() == before);
    graph
        .wait(overlay.write_zeroes(0, 70_000 / 512 * 512, true))
        .unwrap();
    model[..70_000 / 512 * 512].fill(0);
    graph.wait(overlay.read(0, whole.clone())).unwrap();
    assert!(whole.to_vec() == model);
}

#[test]
fn files_are_read_written_and_locked() {
    let path = std::env::temp_dir().join(format!("thimble-file-{}", std::process::id()));
    std::fs::write(&path, vec![5; 3000]).unwrap();
    let name = path.to_str().unwrap().to_owned();
    let graph = graph();
    add(
        &graph,
        &format!("file,node-name=f,filename={name},discard=unmap"),
    )
    .unwrap();
    let node = graph.node("f").unwrap();
    assert_eq!(node.length(), 3072);
    let tail = Buffer::new(1024);
    graph.wait(node.read(2048, tail.clone())).unwrap();
    // What is behind the end reads as zeros.
    assert_eq!(tail.to_vec()[950..954], [5, 5, 0, 0]);
    graph
        .wait(node.write(4096, Buffer::of(&[6; 4096])))
        .unwrap();
    graph.wait(node.write_zeroes(4096, 512, true)).unwrap();
    graph.wait(node.write_zeroes(16384, 512, false)).unwrap();
    graph.wait(node.discard(4608, 512)).unwrap();
    graph.wait(node.flush()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 16896);
    assert!(bytes[4096..5120].iter().all(|byte| *byte == 0) && bytes[5120] == 6);
    assert_eq!(node.length(), 16896);
    graph.wait(node.resize(1024)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1024);
    // As another process would, by an open file of its own.
    let writer = Child::new(&node, "w".to_owned(), "root", WRITER).unwrap();
    add(&graph, &format!("file,node-name=g,filename={name}")).unwrap();
    let other = graph.node("g").unwrap();
    let refused = Child::new(&other, "x".to_owned(), "root", WRITER)
        .err()
        .unwrap();
    assert!(
        refused.starts_with("Failed to get \"write\" lock"),
        "{refused}"
    );
    drop(writer);
    Child::new(&other, "x".to_owned(), "root", WRITER).unwrap();
    std::fs::remove_file(&path).unwrap();
    let missing = add(&graph, &format!("file,node-name=h,filename={name}"));
    assert_eq!(
        missing.unwrap_err(),
        format!("Could not open '{name}': No such file or directory")
    );
}

#[test]
fn direct_requests_may_have_any_place() {
    let directory = std::path::Path::new("/var/tmp");
    let path = directory.join(format!("thimble-direct-{}", std::process::id()));
    std::fs::write(&path, vec![1; 16384]).unwrap();
    let name = path.to_str().unwrap().to_owned();
    let graph = graph();
    let added = add(
        &graph,
        &format!("file,node-name=f,filename={name},cache.direct=on"),
    );
    if let Err(reason) = added {
        // Not every file system can.
        assert!(reason.contains("O_DIRECT"), "{reason}");
        return;
    }
    let node = graph.node("f").unwrap();
    let memory = Buffer::of(&[2; 8192]);
    graph.wait(node.write(1000, memory.slice(3, 5000))).unwrap();
    let back = Buffer::new(16384);
    graph.wait(node.read(0, back.clone())).unwrap();
    let mut model = vec![1; 16384];
    model[1000..6000].fill(2);
    assert!(back.to_vec() == model);
    let odd = Buffer::new(8192).slice(1, 700);
    graph.wait(node.read(5900, odd.clone())).unwrap();
    assert_eq!(odd.to_vec(), model[5900..6600]);
    std::fs::remove_file(&path).unwrap();
}
