//! A hostile guest on the software CPU: arbitrary code, descriptor tables and page tables in every mode, with the whole
//! `pc` machine behind one or two processors. No panic, no run beyond its budget, no access outside guest RAM; states can
//! be loaded again, and what was saved goes on as what was not.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::soft_cpu::run(bytes));
