//! Guest memory into files: `pmemsave`.

use std::ffi::OsStr;
use std::fs::{File, remove_file};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use thimble_monitor::QmpError;

use super::Shared;
use crate::error_text;

/// Bytes that are copied under the lock at a time.
const CHUNK: usize = 64 << 10;

/// Writes `size` bytes of guest physical memory to a file. If that fails, a regular file is
/// removed again.
pub(super) fn physical_memory(
    shared: &Shared,
    address: u64,
    size: u64,
    filename: &[u8],
) -> Result<(), QmpError> {
    let path = Path::new(OsStr::from_bytes(filename));
    let mut file = File::create(path).map_err(|error| {
        let reason = error_text(&error);
        QmpError::generic(format_args!(
            "Could not open '{}': {reason}",
            path.display()
        ))
    })?;
    copy(shared, address, size, &mut file).map_err(|error| {
        if file.metadata().is_ok_and(|data| data.is_file()) {
            let _ = remove_file(path);
        }
        let reason = error_text(&error);
        QmpError::generic(format_args!(
            "writing memory to '{}' failed: {reason}",
            path.display()
        ))
    })
}

fn copy(shared: &Shared, mut gpa: u64, mut size: u64, to: &mut File) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while size > 0 {
        let length = size.min(CHUNK as u64);
        let bytes = &mut chunk[..length as usize];
        shared.call(|machine, bridge, now| machine.physical_read(bridge, now, gpa, bytes));
        to.write_all(bytes)?;
        gpa = gpa.wrapping_add(length);
        size -= length;
    }
    Ok(())
}
