//! What firmware is told by the machine.
