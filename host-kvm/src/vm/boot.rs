//! Booting of the VM.

use thimble_core::firmware::boot_order::LettersError;
use thimble_monitor::Booting;

use super::Vm;

impl Booting for Vm {
    fn set_boot_order(&mut self, letters: &str) -> Result<(), LettersError> {
        self.shared.lock().machine.set_boot_order(letters)
    }
}
