//! What sessions of the human monitor ask: there are two files.

use thimble_core::machine::Host;

use super::InMemory;
use crate::owner::Typing;

/// The files, in order.
static FILES: [&str; 2] = ["/disk", "/dump/"];

impl<H: Host> Typing for InMemory<'_, H> {
    fn quits(&self) -> bool {
        self.done & Self::QUIT != 0
    }

    fn visit_files(&self, path: &[u8], visit: &mut dyn FnMut(&[u8])) {
        let files = FILES.iter().map(|name| name.as_bytes());
        files.filter(|name| name.starts_with(path)).for_each(visit);
    }
}
