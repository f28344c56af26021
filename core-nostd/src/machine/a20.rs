//! The A20 gate: whether bit 20 of physical addresses passes.
//!
//! The keyboard controller and system control port A each have a line to it (IBM PS/2 Hardware Interface
//! Technical Reference); the one that was written last decides. So its state follows from neither of them.

use crate::devices::{Context, Effect};
use crate::state::{SavedState, StateError};

/// The gate, as the processors were last told.
pub(super) struct A20Gate {
    pub(super) open: bool,
}

impl A20Gate {
    /// After power-on.
    pub(super) const fn new() -> Self {
        Self { open: true }
    }
}

impl SavedState for A20Gate {
    const NAME: &'static str = "a20";
    const VERSION: u16 = 1;
    type Saved = bool;

    fn save(&self) -> bool {
        self.open
    }

    fn load(&mut self, open: bool, cx: &mut Context<'_>) -> Result<(), StateError> {
        self.open = open;
        cx.effects.push(Effect::A20(open));
        Ok(())
    }
}
