//! What sessions of the human monitor ask.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use thimble_monitor::Typing;

use super::Vm;

/// Entries of a directory that are looked at.
const ENTRIES_MAX: usize = 4096;

impl Typing for Vm {
    fn quits(&self) -> bool {
        self.exit_status().is_some()
    }

    fn visit_files(&self, path: &[u8], visit: &mut dyn FnMut(&[u8])) {
        let name_at = path.iter().rposition(|byte| *byte == b'/');
        let (directory, start) = path.split_at(name_at.map_or(0, |at| at + 1));
        let looked_at = match directory {
            b"" => b".",
            directory => directory,
        };
        let entries = fs::read_dir(Path::new(OsStr::from_bytes(looked_at)));
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .take(ENTRIES_MAX)
            .flatten()
            .filter_map(|entry| {
                let mut name = entry.file_name().into_vec();
                let fits = name.starts_with(start);
                if fits && fs::metadata(entry.path()).is_ok_and(|found| found.is_dir()) {
                    name.push(b'/');
                }
                fits.then_some(name)
            })
            .collect();
        names.sort_unstable();
        for name in names {
            visit(&[directory, &name].concat());
        }
    }
}
