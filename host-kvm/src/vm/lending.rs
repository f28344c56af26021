//! Queues of virtio disks in the hands of threads for input and output.
//!
//! While processors run, the machine lends the queues of each disk that a driver drives to a thread: that of `iothread=`, or one
//! that all other disks share. The thread looks for buffers, lets the block layer do what they ask for, gives them back and
//! interrupts the driver, all without the machine's lock. Under KVM the kernel takes notifications itself (ioeventfd) and
//! wakes the thread; the processor goes on at once. While the thread looks by itself, the driver is asked not to notify.
//!
//! Whoever is about to reach a disk in the machine takes its queues back first ([`Guarded::machine_call`]); accesses of
//! processors do so only where they concern a disk. It waits for nobody but for the thread to put down what it is
//! just copying out of a ring. Queues are taken back for good when processors stop: a machine that stands still is whole.
//!
//! Interrupts are sent as messages with KVM_SIGNAL_MSI. An irqfd comes to the same, needs a route for each vector, and is
//! slower where the one who interrupts is of this process: measured in turn, 0.53 us a write to it against 0.42 us a message.
//! Interrupts by pins, those of disks in memory among them, and those that the machine's own controllers take, go by way of
//! the machine.
//!
//! **Locks.** The turn (see [`crate::block::turn`]), then the machine's lock, then that of a disk's queues.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use thimble_core::devices::block::{DriveId, Segments};
use thimble_core::machine::Lent;
use thimble_core::memory::GuestRam;
use thimble_core::virtio::transport::Doorbell;

use super::block::queued;
use super::{Accelerator, Bridge, Guarded, Shared};
use crate::block::Graph;
use crate::block::buffer::Gate;
use crate::block::executor::Readiness;
use crate::block::turn::{Caller, Turn};
use crate::clock::Clock;
use crate::event_loop::poller::Waker;
use crate::memory::Ram;
use crate::objects::{Handler, IoThread};
use crate::report;

/// Requests that are handed on before others have their turn.
const BURST: usize = 64;

/// What a disk's properties say of its queues.
pub struct DiskSettings {
    /// Which disk.
    pub drive: DriveId,
    /// `iothread=`: who serves it.
    pub thread: Option<Arc<IoThread>>,
    /// `ioeventfd=`: whether the kernel takes notifications.
    pub ioeventfd: bool,
}

/// A disk's queues while they are lent.
struct Held {
    lent: Lent,
    gate: Arc<Gate>,
}

/// A disk whose queues can be lent.
struct Slot {
    drive: DriveId,
    held: Mutex<Option<Held>>,
    /// An eventfd that wakes its thread.
    doorbell: OwnedFd,
    thread: Option<Arc<IoThread>>,
    ioeventfd: bool,
}

impl Slot {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller for Slot {
    fn call(&self) {
        let _ = rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes());
    }
}

/// What runs the block layer when a task of it is ready: the thread that serves a disk once there is one, else the main thread.
pub struct ExecutorCall {
    waker: Arc<Waker>,
    slot: OnceLock<Arc<Slot>>,
}

impl ExecutorCall {
    /// The main thread's.
    pub fn new(waker: Arc<Waker>) -> Arc<Self> {
        let slot = OnceLock::new();
        Arc::new(Self { waker, slot })
    }

    /// Sees to it that somebody looks.
    pub fn call(&self) {
        match self.slot.get() {
            Some(slot) => slot.call(),
            None => self.waker.wake(),
        }
    }
}

/// What is the same as long as the process lives.
pub(super) struct Disks {
    slots: Vec<Arc<Slot>>,
    turn: Arc<Turn>,
    readiness: Readiness,
    call: Arc<ExecutorCall>,
    ram: &'static Ram,
}

/// A disk, as the machine's lock guards it.
struct Place {
    slot: Arc<Slot>,
    /// Where the kernel takes notifications.
    doorbells: Vec<Doorbell>,
    /// Its thread knows of it.
    is_served: bool,
}

/// Who has queues of disks.
#[derive(Default)]
pub struct Lending {
    places: Vec<Place>,
    /// Of these, how many are lent.
    lent: usize,
    /// Processors run.
    is_allowed: bool,
    /// Who serves disks without a thread of their own.
    thread: Option<Arc<IoThread>>,
    shared: Option<std::sync::Weak<Shared>>,
}

impl Lending {
    /// Whether queues of any disk are lent.
    pub fn has_lent(&self) -> bool {
        self.lent > 0
    }

    /// Lets the thread look that has the queues of a drive.
    pub fn ring(&self, drive: DriveId) {
        let place = self.places.iter().find(|place| place.slot.drive == drive);
        if let Some(place) = place {
            place.slot.call();
        }
    }

    /// A new state: where the kernel takes notifications of this disk.
    fn listen(&mut self, index: usize, accelerator: &Accelerator, doorbells: Vec<Doorbell>) {
        let (Some(place), Some(kvm)) = (self.places.get_mut(index), accelerator.kvm()) else {
            return;
        };
        let fd = place.slot.doorbell.as_fd();
        place.doorbells.retain(|old| {
            let stays = doorbells.contains(old);
            if !stays && let Err(error) = kvm.set_ioeventfd(fd, *old, false) {
                report(format_args!("{error}"));
            }
            stays
        });
        for new in doorbells {
            // What the kernel does not take comes as an access of the processor, and rings the same bell.
            if !place.doorbells.contains(&new) && kvm.set_ioeventfd(fd, new, true).is_ok() {
                place.doorbells.push(new);
            }
        }
    }

    /// Lets a thread know of a disk. False if there is none for it.
    fn serve(&mut self, index: usize) -> bool {
        let Some(place) = self.places.get_mut(index) else {
            return false;
        };
        if place.is_served {
            return true;
        }
        let shared = self.shared.as_ref().and_then(std::sync::Weak::upgrade);
        let Some(shared) = shared else { return false };
        let thread = match (&place.slot.thread, &self.thread) {
            (Some(thread), _) | (None, Some(thread)) => thread.clone(),
            (None, None) => match IoThread::new("disks", IoThread::DEFAULTS) {
                Ok(thread) => self.thread.insert(Arc::new(thread)).clone(),
                // The main thread serves it.
                Err(_) => return false,
            },
        };
        let Ok(doorbell) = place.slot.doorbell.try_clone() else {
            return false;
        };
        if let Some(disks) = shared.disks.get()
            && disks.call.slot.set(place.slot.clone()).is_ok()
        {
            // The guest is past its first steps.
            disks.ram.use_huge_pages();
        }
        let server = Server {
            slot: place.slot.clone(),
            shared,
            segments: Box::default(),
            is_blocked: false,
        };
        thread.lend(doorbell, Box::new(server));
        place.is_served = true;
        true
    }
}

impl Guarded {
    /// Takes the queues of all disks back.
    pub(super) fn take_queues_back(&mut self, accelerator: &Accelerator) {
        if !self.bridge_state.lending.has_lent() {
            return;
        }
        self.bridge_state.lending.lent = 0;
        let now = self.clock.now();
        for index in 0..self.bridge_state.lending.places.len() {
            let held = self.bridge_state.lending.places[index].slot.held().take();
            let Some(held) = held else { continue };
            let (machine, chardevs) = (&mut *self.machine, &mut self.chardevs);
            let state = &mut self.bridge_state;
            Bridge::call(machine, chardevs, state, accelerator, |machine, bridge| {
                machine.take_back(bridge, now, &held.lent);
            });
        }
    }

    /// Lends the queues of all disks that have any to lend, while processors run.
    pub(super) fn lend_queues(&mut self, accelerator: &Accelerator) {
        let Lending {
            places,
            lent,
            is_allowed,
            ..
        } = &self.bridge_state.lending;
        if !is_allowed || *lent == places.len() {
            return;
        }
        for index in 0..places.len() {
            let slot = self.bridge_state.lending.places[index].slot.clone();
            if slot.held().is_none() {
                self.lend(index, &slot, accelerator);
            }
        }
    }

    fn lend(&mut self, index: usize, slot: &Arc<Slot>, accelerator: &Accelerator) {
        let lent = self.machine.lend_disk(slot.drive);
        let mut doorbells = Vec::new();
        if slot.ioeventfd && lent.is_some() {
            let mut note = |doorbell| doorbells.push(doorbell);
            self.machine.visit_doorbells(slot.drive, &mut note);
        }
        let lending = &mut self.bridge_state.lending;
        if lending.places[index].doorbells != doorbells {
            lending.listen(index, accelerator, doorbells);
        }
        let Some(lent) = lent else { return };
        if !lending.serve(index) {
            // The main thread does, for ever.
            lending.is_allowed = false;
            let now = self.clock.now();
            return self.machine_call_apart(accelerator, |machine, bridge| {
                machine.take_back(bridge, now, &lent);
                machine.resume_drives(bridge, now);
            });
        }
        lending.lent += 1;
        let gate = self.bridge_state.drives.gate(slot.drive);
        *slot.held() = Some(Held { lent, gate });
        slot.call();
    }
}

impl Shared {
    /// Says which disks there are whose queues can be lent.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn set_disks(
        self: &Arc<Self>,
        settings: Vec<DiskSettings>,
        turn: Arc<Turn>,
        readiness: Readiness,
        call: Arc<ExecutorCall>,
        ram: &'static Ram,
    ) -> std::io::Result<()> {
        let mut slots = Vec::with_capacity(settings.len());
        for DiskSettings {
            drive,
            thread,
            ioeventfd,
        } in settings
        {
            slots.push(Arc::new(Slot {
                drive,
                held: Mutex::default(),
                doorbell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                thread,
                ioeventfd,
            }));
        }
        let mut guarded = self.lock();
        let lending = &mut guarded.bridge_state.lending;
        lending.shared = Some(Arc::downgrade(self));
        let places = slots.iter().map(|slot| Place {
            slot: slot.clone(),
            doorbells: Vec::new(),
            is_served: false,
        });
        lending.places = places.collect();
        drop(guarded);
        let _ = self.disks.set(Disks {
            slots,
            turn,
            readiness,
            call,
            ram,
        });
        Ok(())
    }

    /// Processors are about to run: queues are lent from now on. Where a run is to be repeatable none are.
    pub(super) fn allow_lending(&self, guarded: &mut Guarded) {
        guarded.bridge_state.lending.is_allowed = !matches!(guarded.clock, Clock::Counted { .. })
            && !matches!(self.accelerator, Accelerator::None);
        guarded.lend_queues(&self.accelerator);
    }

    /// Processors have stopped: all queues are the machine's.
    pub(super) fn end_lending(&self, guarded: &mut Guarded) {
        guarded.bridge_state.lending.is_allowed = false;
        guarded.take_queues_back(&self.accelerator);
    }
}

/// Tells controllers of requests that have ended, for whoever has the turn. Tells whether there were any.
pub(super) fn finish(shared: &Shared, graph: &Graph) -> bool {
    let slots = shared.disks.get().map_or(&[][..], |disks| &disks.slots);
    let mut any = false;
    let mut touched = 0_u32;
    while let Some(ended) = graph.take_ended() {
        any = true;
        let (drive, tag) = (ended.request.drive, ended.request.tag);
        let index = slots.iter().position(|slot| slot.drive == drive);
        if let Some(index) = index
            && let Some(held) = slots[index].held().as_mut()
            && let Some(disks) = shared.disks.get()
        {
            held.lent.request_done(disks.ram, tag, ended.outcome);
            touched |= 1 << index;
            continue;
        }
        shared.call(|machine, bridge, now| {
            // Under the machine's lock nobody closes it.
            if !ended.request.gate.is_closed() {
                machine.block_done(bridge, now, drive, tag, ended.outcome, &ended.bytes);
            }
        });
    }
    for (index, slot) in slots.iter().enumerate() {
        if touched >> index & 1 != 0 {
            interrupt(shared, slot);
        }
    }
    any
}

/// Interrupts the driver of a disk, if it is to be.
fn interrupt(shared: &Shared, slot: &Slot) {
    let mut held = slot.held();
    let Some(lent) = held.as_mut() else { return };
    let kvm = shared.accelerator().kvm();
    let others = lent.lent.interrupt(|message| {
        if let Some(kvm) = kvm {
            // A message that no local APIC takes is lost, as on the bus.
            let _ = kvm.signal_msi(message);
        }
    });
    drop(held);
    if others {
        // To give the queues back is all that it takes.
        shared.call(|_, _, _| {});
    }
}

/// Serves the queues of a disk on its thread.
struct Server {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    segments: Box<Segments>,
    /// Somebody else has the turn, and calls.
    is_blocked: bool,
}

impl Server {
    /// Hands on what drivers ask for, and tells whether there was anything.
    fn submit(&mut self, graph: &Rc<Graph>, ram: &dyn GuestRam, most: usize) -> bool {
        let mut requests = Vec::new();
        let mut held = self.slot.held();
        let Some(Held { lent, gate }) = held.as_mut() else {
            return false;
        };
        lent.hush(ram, true);
        if lent.poll(ram) {
            while requests.len() < most
                && let Some(request) = lent.next_request(ram, &mut self.segments)
            {
                requests.push(queued(&request, gate.clone()));
            }
        }
        drop(held);
        // Some are answered without a request.
        interrupt(&self.shared, &self.slot);
        let any = !requests.is_empty();
        graph.submit(requests);
        any
    }
}

impl Handler for Server {
    fn work(&mut self, most: usize) -> bool {
        let shared = self.shared.clone();
        let Some(disks) = shared.disks.get() else {
            return false;
        };
        let ram = disks.ram;
        let has_buffers = {
            let mut held = self.slot.held();
            held.as_mut().is_some_and(|held| held.lent.poll(ram))
        };
        if !has_buffers && !disks.readiness.is_any() {
            return false;
        }
        let turn = disks.turn.try_take(&self.slot);
        self.is_blocked = turn.is_none();
        let Some(turn) = turn else {
            return false;
        };
        let graph = turn.graph();
        let deadline = graph.executor.next_deadline();
        let mut any = self.submit(graph, ram, most.min(BURST));
        graph.run();
        any |= finish(&self.shared, graph);
        let new = graph.executor.next_deadline();
        let is_earlier = new.is_some_and(|new| deadline.is_none_or(|old| new < old));
        if graph.has_news() || is_earlier {
            // It waits no longer than until then, and does what is to be done about errors.
            disks.call.waker.wake();
        }
        any
    }

    fn rest(&mut self) -> bool {
        let Some(disks) = self.shared.disks.get() else {
            return false;
        };
        let mut held = self.slot.held();
        let Some(held) = held.as_mut() else {
            return false;
        };
        held.lent.hush(disks.ram, false);
        // Who waits for the turn is called.
        held.lent.poll(disks.ram) && !self.is_blocked
    }
}
