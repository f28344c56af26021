//! A processor's registers as text, for the terminal when a guest can not go on.

use kvm_ioctls::VcpuFd;
use thimble_core::cpu::CpuState;

use super::state::{get_regs, get_sregs};
use super::vm::Vm;
use crate::registers;

/// The text. What can not be read is left out: the rest of the state is not even asked for, since
/// the processor may be in one that nothing is known of.
pub(super) fn dump(vm: &Vm, fd: &VcpuFd) -> String {
    let (Ok(general), Ok(system)) = (fd.get_regs(), fd.get_sregs()) else {
        return "the registers can not be read\n".to_owned();
    };
    let mut state = CpuState::default();
    get_regs(&general, &mut state);
    get_sregs(&system, &mut state);
    registers::dump(&state, |linear| {
        let found = fd.translate_gva(linear).ok()?;
        let mut byte = [0];
        let known = found.valid != 0 && vm.read_memory(found.physical_address, &mut byte) == 1;
        known.then_some(byte[0])
    })
}
