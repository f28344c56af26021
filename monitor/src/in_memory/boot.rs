//! Booting of the machine in memory.

use thimble_core::firmware::boot_order::LettersError;
use thimble_core::machine::Host;

use super::InMemory;
use crate::owner::Booting;

impl<H: Host> Booting for InMemory<'_, H> {
    fn set_boot_order(&mut self, letters: &str) -> Result<(), LettersError> {
        self.machine.set_boot_order(letters)
    }
}
