//! What commands ask about booting.

use thimble_core::firmware::boot_order::LettersError;

/// What the machine's owner does about booting.
pub trait Booting {
    /// Sets the order of kinds of devices that firmware boots from, for the next time it looks.
    ///
    /// # Errors
    /// See [`LettersError`].
    fn set_boot_order(&mut self, letters: &str) -> Result<(), LettersError>;
}
