//! The boards, address decoding and power states.

mod host;
mod run_state;

pub use host::Host;
pub use run_state::RunState;
