//! The POST code port of a PC, 80h: firmware writes its progress there and delay loops write
//! anything.
//!
//! It follows the IBM PC AT's manufacturing port as QEMU's `pc` board shows it: writes of any
//! width are taken, reads find nothing driving the bus. Other than on boards with a POST card
//! the code has no display; it is kept, so that tools can ask how far firmware has come. The DMA
//! page registers at 81h to 8Fh belong to the DMA controller.

use serde::{Deserialize, Serialize};

use super::class::DeviceClass;
use super::{Context, PortDevice, Width};
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// The port that a board maps it at.
pub const PORT: u16 = 0x80;

/// What `-device` knows of it: QEMU has no class for its port 80h, so the name is our own.
pub static CLASS: DeviceClass = DeviceClass {
    name: "thimble-post",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "POST code port",
    user_creatable: false,
    properties: &[],
};

/// The POST code port.
#[derive(Debug, Default)]
pub struct Post {
    state: State,
}

/// What the guest has written.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    code: u8,
}

/// Saved form, version 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    code: u8,
}

impl Post {
    /// A port that nothing was written to.
    pub const fn new() -> Self {
        Self {
            state: State { code: 0 },
        }
    }

    /// Forgets the code.
    pub fn reset(&mut self, _cx: &mut Context<'_>) {
        self.state = State::default();
    }

    /// The code written last; 0 after reset.
    pub const fn code(&self) -> u8 {
        self.state.code
    }
}

impl PortDevice for Post {
    const WIDEST: Width = Width::Dword;

    fn pio_read(&mut self, _cx: &mut Context<'_>, _offset: u16, width: Width) -> u32 {
        width.ones() as u32
    }

    fn pio_write(&mut self, _cx: &mut Context<'_>, _offset: u16, _width: Width, value: u32) {
        trace::post_write(value as u8);
        self.state.code = value as u8;
    }
}

impl SavedState for Post {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 1;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State { code } = self.state;
        Saved { code }
    }

    fn load(&mut self, saved: Saved, _cx: &mut Context<'_>) -> Result<(), StateError> {
        let Saved { code } = saved;
        self.state = State { code };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;

    lifecycle_tests!(Post, Post::new(), |device, bench| bench
        .out(device, 0, 0x5a));

    #[test]
    fn keeps_the_code_and_reads_as_an_empty_bus() {
        let mut bench = Bench::new();
        let mut post = Post::new();
        bench.out(&mut post, 0, 0x12);
        assert_eq!(post.code(), 0x12);
        assert_eq!(bench.inb(&mut post, 0), 0xff);
        post.pio_write(&mut bench.context(), 0, Width::Word, 0x3456);
        assert_eq!(post.code(), 0x56);
        let wide = post.pio_read(&mut bench.context(), 0, Width::Dword);
        assert_eq!(wide, u32::MAX);
    }
}
