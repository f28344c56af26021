//! QMP sessions and command handlers.
#![no_std]
