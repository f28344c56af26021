//! What the loader of a kernel tells it: Xen's `hvm_start_info` (public header `arch-x86/hvm/start_info.h`).
//!
//! Not read: the ACPI pointer and the memory map.

use crate::io;

const MAGIC: u32 = 0x336e_c578;
const MODULE_COUNT: u64 = 12;
const MODULE_LIST: u64 = 16;
const COMMAND_LINE: u64 = 24;
/// Size within an entry of the list of modules.
const MODULE_SIZE: u64 = 8;
/// A command line is read up to here.
pub const COMMAND_LINE_MAX: usize = 256;

/// The structure, wherever the loader put it.
#[derive(Clone, Copy)]
pub struct StartInfo(u64);

impl StartInfo {
    /// # Safety
    /// The loader's word: the structure and all it points at lie below 4 GiB, and nothing has written there since.
    pub unsafe fn at(address: u64) -> Self {
        Self(address)
    }

    fn field<T: Copy>(self, at: u64) -> T {
        // SAFETY: the promise that `at` got.
        unsafe { io::read(self.0 + at) }
    }

    /// Whether the mark is there.
    pub fn is_valid(self) -> bool {
        self.field::<u32>(0) == MAGIC
    }

    /// The command line, copied into `buffer` as far as it fits; empty if there is none.
    pub fn command_line(self, buffer: &mut [u8; COMMAND_LINE_MAX]) -> &[u8] {
        let address: u64 = self.field(COMMAND_LINE);
        let mut used = 0;
        if address != 0 {
            for (byte, at) in buffer.iter_mut().zip(address..) {
                // SAFETY: the promise that `at` got; the text ends in a zero byte.
                *byte = unsafe { io::read(at) };
                if *byte == 0 {
                    break;
                }
                used += 1;
            }
        }
        buffer.get(..used).unwrap_or(&[])
    }

    /// Bytes of the first module, the initrd, and the sum of the bytes.
    pub fn initrd(self) -> Option<(u64, u32)> {
        if self.field::<u32>(MODULE_COUNT) == 0 {
            return None;
        }
        let list: u64 = self.field(MODULE_LIST);
        // SAFETY: the promise that `at` got.
        let (start, size): (u64, u64) = unsafe { (io::read(list), io::read(list + MODULE_SIZE)) };
        // SAFETY: as above.
        let sum = (start..start + size).map(|at| u32::from(unsafe { io::read::<u8>(at) }));
        Some((size, sum.fold(0, u32::wrapping_add)))
    }
}
