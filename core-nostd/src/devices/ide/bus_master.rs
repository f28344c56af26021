//! The bus master of one IDE channel: command, status, and the table of memory regions.
//!
//! Follows Intel 290550 (PIIX3), section 2.7.1, and the "Programming Interface for Bus Master IDE
//! Controller" 1.0 that it implements. A table ends with the region that says so, and after 4 KiB at
//! the latest.

use serde::{Deserialize, Serialize};

use crate::devices::block::{Segment, Segments};
use crate::memory::GuestRam;

/// Registers of one channel.
pub const PORTS: u64 = 8;

/// Offset of the command register.
const COMMAND: u64 = 0;
/// Offset of the status register.
const STATUS: u64 = 2;
/// Offset of the table's address, 32 bits.
const TABLE: u64 = 4;

/// Command, SSBM: start.
const START: u8 = 1 << 0;
/// Command, RWCON: the direction. It is the drive's command that decides.
const DIRECTION: u8 = 1 << 3;

/// Status: a transfer is under way.
const ACTIVE: u8 = 1 << 0;
/// Status: a transfer failed. Written ones clear it.
const ERROR: u8 = 1 << 1;
/// Status: the drive has asked for an interrupt. Written ones clear it.
const INTERRUPT: u8 = 1 << 2;
/// Status: what software notes of the drives.
const CAPABLE: u8 = 3 << 5;

/// Bytes of a table's entry: address and length.
const ENTRY: u64 = 8;
/// Bytes of a table at most.
const TABLE_MAX: u64 = 4096;
/// The length of an entry, bit 31: it is the last one.
const LAST: u32 = 1 << 31;

/// What a write to a register comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The transfer begins if the drive is ready for it.
    Started,
    /// The transfer is given up.
    Stopped,
}

/// The registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
}

impl BusMaster {
    /// Reads a register; `width` in bytes.
    pub fn read(&self, offset: u64, width: u8) -> u32 {
        match offset {
            TABLE.. => self.table >> (8 * (offset & 3)),
            _ if width != 1 => u32::MAX,
            COMMAND => self.command.into(),
            STATUS => self.status.into(),
            _ => u32::MAX,
        }
    }

    /// Writes a register; `width` in bytes.
    pub fn write(&mut self, offset: u64, width: u8, value: u32) -> Change {
        match offset {
            TABLE.. => {
                let shift = 8 * (offset & 3) as u32;
                let mask = (u32::MAX >> (32 - 8 * u32::from(width.clamp(1, 4)))) << shift;
                self.table = self.table & !mask | value << shift & mask & !3;
                Change::None
            }
            COMMAND if width == 1 => {
                let value = value as u8;
                let changed = (value ^ self.command) & START != 0;
                self.command = value & (START | DIRECTION);
                match (changed, value & START != 0) {
                    (false, _) => Change::None,
                    (true, false) => {
                        self.status &= !ACTIVE;
                        Change::Stopped
                    }
                    (true, true) if self.status & ACTIVE != 0 => Change::None,
                    (true, true) => {
                        self.status |= ACTIVE;
                        Change::Started
                    }
                }
            }
            STATUS if width == 1 => {
                let value = value as u8;
                let kept = self.status & ACTIVE | self.status & !value & (ERROR | INTERRUPT);
                self.status = value & CAPABLE | kept;
                Change::None
            }
            _ => Change::None,
        }
    }

    /// Whether the transfer was started.
    pub fn is_active(&self) -> bool {
        self.status & ACTIVE != 0
    }

    /// The transfer has ended. It stays active where the table has more room than was needed.
    pub fn end(&mut self, stays: bool) {
        self.status = self.status & !ACTIVE | u8::from(stays);
    }

    /// The drive asks for an interrupt.
    pub fn interrupt(&mut self) {
        self.status |= INTERRUPT;
    }

    /// Puts the first `bytes` that the table describes into `segments`: says how many of them it
    /// has, and how many it describes in all.
    pub fn regions(&self, ram: &dyn GuestRam, bytes: u64, segments: &mut Segments) -> (u64, u64) {
        segments.clear();
        let (mut taken, mut all) = (0, 0);
        for at in (0..TABLE_MAX).step_by(ENTRY as usize) {
            let mut entry = [0; ENTRY as usize];
            if ram.read(u64::from(self.table) + at, &mut entry).is_err() {
                // What is no memory reads as zeros: regions of 64 KiB at 0, as QEMU reads it.
                entry = [0; ENTRY as usize];
            }
            let entry = u64::from_le_bytes(entry);
            let (gpa, control) = (entry & 0xffff_ffff, (entry >> 32) as u32);
            let length = match u64::from(control & 0xfffe) {
                0 => 0x1_0000,
                length => length,
            };
            let part = length.min(bytes - taken);
            if part != 0 {
                let segment = Segment {
                    gpa,
                    length: part as u32,
                };
                if segments.push(segment).is_err() {
                    break;
                }
            }
            taken += part;
            all += length;
            if control & LAST != 0 {
                break;
            }
        }
        (taken, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ArrayRam;

    #[test]
    fn registers_are_those_of_the_interface() {
        let mut master = BusMaster::default();
        assert_eq!(master.write(0, 1, 0xff), Change::Started);
        assert_eq!(master.write(0, 1, 0xff), Change::None);
        assert_eq!((master.read(0, 1), master.read(2, 1)), (9, 1));
        master.interrupt();
        master.write(2, 1, 0xfb);
        assert_eq!(master.read(2, 1), 0x65);
        master.write(2, 1, 0x04);
        assert_eq!(master.read(2, 1), 0x01);
        assert_eq!(master.write(0, 1, 0), Change::Stopped);
        assert_eq!(master.read(2, 1), 0);
        assert_eq!(master.write(0, 2, 1), Change::None);
        master.write(4, 4, 0x1234_5679);
        master.write(6, 1, 0xab);
        assert_eq!(master.read(4, 4), 0x12ab_5678);
        assert_eq!(master.read(5, 1) as u8, 0x56);
        assert_eq!(master.read(1, 1), u32::MAX);
    }

    #[test]
    fn tables_end() {
        let (ram, mut master) = (ArrayRam::<0x4000>::new(), BusMaster::default());
        master.write(4, 4, 0x1000);
        let mut segments = Segments::new();
        let mut describe = |at: u64, gpa: u32, control: u32| {
            ram.write(at, &gpa.to_le_bytes()).unwrap();
            ram.write(at + 4, &control.to_le_bytes()).unwrap();
        };
        describe(0x1000, 0x2000, 0x200);
        describe(0x1008, 0x3000, LAST);
        assert_eq!(
            master.regions(&ram, 0x300, &mut segments),
            (0x300, 0x1_0200)
        );
        let pieces = segments.iter().map(|piece| (piece.gpa, piece.length));
        assert!(pieces.eq([(0x2000, 0x200), (0x3000, 0x100)]));
        assert_eq!(master.regions(&ram, 1 << 20, &mut segments).0, 0x1_0200);
        // Without an end, and where there is no memory.
        for table in [0x2000, 0xffff_f000] {
            master.write(4, 4, table);
            let (taken, all) = master.regions(&ram, u64::MAX, &mut segments);
            assert_eq!((taken, all, segments.len()), (512 << 16, 512 << 16, 512));
        }
    }
}
