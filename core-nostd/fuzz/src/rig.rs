//! A machine, its host, and the queues that it lends: what hostile drivers are let loose on.
//!
//! The order of calls is that of a process: queues that a thread has are taken back before anything reaches their disk, and are
//! lent again behind it.

use thimble_core::devices::Width;
use thimble_core::devices::block::{DRIVES_MAX, DriveId, Outcome, Segments};
use thimble_core::machine::{Host, Lent, Machine, STATE_MAX};
use thimble_core::state::crc32;

use crate::{Sink, Source};

/// Requests that a thread hands on at most before others have their turn.
const BURST: usize = 64;

/// Bytes of a section's header behind its name: version, length of the payload, checksum.
const SECTION_HEADER: usize = 10;

/// A machine with what is around it.
pub struct Rig<'m> {
    /// The machine. Accesses and calls go by way of the rig.
    machine: Machine<'m>,
    /// Its host.
    pub host: Sink,
    /// The virtual clock, in nanoseconds.
    pub now: u64,
    /// Whether queues may be lent.
    lends: bool,
    lent: Vec<Lent>,
    segments: Box<Segments>,
    state: Vec<u8>,
}

impl<'m> Rig<'m> {
    /// Around a machine, with a host that has nothing yet.
    pub fn new(machine: Machine<'m>) -> Self {
        Self {
            machine,
            host: Sink::default(),
            now: 0,
            lends: false,
            lent: Vec::new(),
            segments: Box::default(),
            state: vec![0; STATE_MAX],
        }
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &Machine<'m> {
        &self.machine
    }

    /// A call that is no access of a processor.
    pub fn call<R>(&mut self, call: impl FnOnce(&mut Machine<'m>, &mut Sink, u64) -> R) -> R {
        self.take_back();
        let result = call(&mut self.machine, &mut self.host, self.now);
        self.lend();
        result
    }

    /// An access of a processor. `reaches` says whether it is for a disk whose queues are lent.
    fn access<R>(
        &mut self,
        reaches: impl FnOnce(&Machine<'m>) -> bool,
        call: impl FnOnce(&mut Machine<'m>, &mut Sink, u64) -> R,
    ) -> R {
        if !self.lent.is_empty() && reaches(&self.machine) {
            self.take_back();
        }
        let result = call(&mut self.machine, &mut self.host, self.now);
        self.lend();
        result
    }

    /// Writes a port.
    pub fn output(&mut self, port: u16, width: Width, value: u32) {
        self.access(
            |machine| machine.port_reaches_lent(port, width, true),
            |machine, host, now| machine.pio_write(host, now, port, width, value),
        );
    }

    /// Reads a port.
    pub fn input(&mut self, port: u16, width: Width) -> u32 {
        self.access(
            |machine| machine.port_reaches_lent(port, width, false),
            |machine, host, now| machine.pio_read(host, now, port, width),
        )
    }

    /// Writes physical memory, in accesses of at most eight bytes.
    pub fn write(&mut self, gpa: u64, bytes: &[u8]) {
        for (at, part) in (0..).step_by(8).zip(bytes.chunks(8)) {
            let gpa = gpa.wrapping_add(at);
            self.access(
                |machine| machine.memory_reaches_lent(gpa, part.len(), true),
                |machine, host, now| machine.physical_write(host, now, gpa, part),
            );
        }
    }

    /// Reads physical memory: `to` has at most eight bytes.
    pub fn read(&mut self, gpa: u64, to: &mut [u8]) {
        let length = to.len();
        self.access(
            |machine| machine.memory_reaches_lent(gpa, length, false),
            |machine, host, now| machine.physical_read(host, now, gpa, to),
        );
    }

    /// Whether queues are lent from now on.
    pub fn set_lending(&mut self, lends: bool) {
        self.lends = lends;
        self.take_back();
        self.lend();
    }

    fn lend(&mut self) {
        if !self.lends {
            return;
        }
        for drive in (0..DRIVES_MAX as u8).map(DriveId) {
            if let Some(lent) = self.machine.lend_disk(drive) {
                assert_eq!(lent.drive(), drive);
                assert!(self.machine.is_lendable(drive));
                self.lent.push(lent);
            }
        }
    }

    fn take_back(&mut self) {
        for lent in self.lent.drain(..) {
            self.machine.take_back(&mut self.host, self.now, &lent);
        }
    }

    /// Who has the queues does what they ask for, and looks again by himself or waits to be notified.
    pub fn serve(&mut self, waits: bool) {
        let ram = self.machine.ram();
        let mut wants_machine = false;
        for lent in &mut self.lent {
            lent.hush(ram, true);
            if lent.poll(ram) {
                for _ in 0..BURST {
                    let Some(request) = lent.next_request(ram, &mut self.segments) else {
                        break;
                    };
                    assert_eq!(request.drive, lent.drive());
                    self.host.disks.take(request);
                }
            }
            if waits {
                lent.hush(ram, false);
            }
            wants_machine |= lent.interrupt(|message| self.host.msi(message));
        }
        if wants_machine {
            self.take_back();
            self.lend();
        }
    }

    /// One of the requests that wait ends. False if there is none.
    pub fn end(&mut self, which: usize, outcome: Outcome) -> bool {
        let Some(index) = which.checked_rem(self.host.disks.waiting.len()) else {
            return false;
        };
        let (drive, tag, read) = self.host.disks.waiting.swap_remove(index);
        let lent = self.lent.iter_mut().find(|lent| lent.drive() == drive);
        if let Some(lent) = lent {
            lent.request_done(self.machine.ram(), tag, outcome);
            if lent.interrupt(|message| self.host.msi(message)) {
                self.take_back();
                self.lend();
            }
            return true;
        }
        let data = vec![0x5a; if outcome.is_ok() { read } else { 0 }];
        self.call(|machine, host, now| machine.block_done(host, now, drive, tag, outcome, &data));
        true
    }

    /// The machine is reset.
    pub fn reset(&mut self) {
        self.call(|machine, host, now| machine.reset(host, now));
    }

    /// The machine's state is saved, spoilt in a place, and loaded.
    pub fn move_away(&mut self, source: &mut Source<'_>) {
        self.take_back();
        let length = self.machine.save(&mut self.state).expect("the state fits");
        let at = source.number(2) as usize;
        spoil(&mut self.state[..length], at, source.byte());
        let state = std::mem::take(&mut self.state);
        self.call(|machine, host, now| {
            if machine.load(host, now, &state[..length]).is_err() {
                machine.reset(host, now);
            }
            machine.resume_drives(host, now);
        });
        self.state = state;
    }
}

/// Changes a byte of saved state. In what a device has saved the checksum is made right again, so that the device sees it.
fn spoil(state: &mut [u8], at: usize, mask: u8) {
    let Some(byte) = state.get_mut(at) else {
        return;
    };
    *byte ^= mask;
    let mut section = 0;
    while let Some(&name) = state.get(section) {
        let header = section + 1 + usize::from(name);
        let payload = header + SECTION_HEADER;
        let Some(length) = state.get(header + 2..header + 6) else {
            return;
        };
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        let end = payload.saturating_add(length as usize);
        if at < payload {
            return;
        }
        if at < end {
            let Some(sum) = state.get(payload..end).map(crc32) else {
                return;
            };
            state[payload - 4..payload].copy_from_slice(&sum.to_le_bytes());
            return;
        }
        section = end;
    }
}
