//! Waiting for descriptors.

pub mod poller;
