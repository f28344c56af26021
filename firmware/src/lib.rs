//! What images share.
#![no_std]
