//! Which method executes which operation.

use super::{Bus, Cpu, Outcome};
use crate::cpu::decode::{Instruction, Operation};

impl Cpu {
    /// Executes an instruction at [`Cpu::rip`], with [`Cpu::next_rip`] behind it. What it changes of
    /// `next_rip` is where it goes on. On an exception nothing has changed that a restart would
    /// see.
    pub(super) fn execute(&mut self, bus: &mut Bus<'_>, i: &Instruction) -> Outcome {
        use Operation::*;
        match i.operation() {
            Add | Adc | Sub | Sbb | And | Or | Xor => self.binary(bus, i)?,
            Cmp | Test => self.compare(bus, i)?,
            Inc | Dec | Neg | Not => self.unary(bus, i)?,
            Mov => self.mov(bus, i)?,
            Movzx | Movsx | Movsxd => self.mov_extended(bus, i)?,
            Lea => self.lea(bus, i)?,
            Xchg => self.xchg(bus, i)?,
            Xadd => self.xadd(bus, i)?,
            Cmpxchg => self.cmpxchg(bus, i)?,
            Cmpxchg8b | Cmpxchg16b => self.cmpxchg_double(bus, i)?,
            Cmovcc(condition) => self.cmov(bus, i, self.flags.holds(condition))?,
            Setcc(condition) => self.write(bus, i, 0, u8::from(self.flags.holds(condition)))?,
            Mul => self.multiply(bus, i)?,
            Imul if i.operands().count() == 1 => self.multiply(bus, i)?,
            Imul => self.multiply_signed(bus, i)?,
            Div | Idiv => self.divide(bus, i)?,
            Cbw => self.sign_extend_accumulator(i),
            Cwd => self.sign_fill(i),
            Aaa | Aas | Aad | Aam | Daa | Das => self.decimal(bus, i)?,
            Lahf | Sahf => self.flags_and_ah(i),
            Bswap => self.bswap(bus, i)?,
            Movbe => self.movbe(bus, i)?,
            Movnti => self.mov(bus, i)?,
            Adcx | Adox => self.multi_precision(bus, i)?,
            Mulx => {
                self.check_vex()?;
                self.multi_precision(bus, i)?;
            }
            Shl | Shr | Sar | Rol | Ror | Rcl | Rcr => self.shift(bus, i)?,
            Shld | Shrd => self.double_shift(bus, i)?,
            Bt | Bts | Btr | Btc => self.bit_test(bus, i)?,
            Bsf | Bsr | Tzcnt | Lzcnt | Popcnt => self.count_bits(bus, i)?,
            Andn | Bextr | Blsi | Blsmsk | Blsr | Bzhi => {
                self.check_vex()?;
                self.bmi(bus, i)?;
            }
            Pdep | Pext | Rorx | Sarx | Shlx | Shrx => {
                self.check_vex()?;
                self.bmi_without_flags(bus, i)?;
            }
            Crc32 => self.crc32(bus, i)?,
            Clc => self.flags = self.flags.with_carry(false),
            Stc => self.flags = self.flags.with_carry(true),
            Cmc => self.flags = self.flags.with_carry(!self.flags.carry()),
            Salc => {
                let al = if self.flags.carry() { 0xff } else { 0u8 };
                self.set_register(crate::cpu::gpr::RAX, al);
            }
            Xlat => {
                let al = u64::from(self.register::<u8>(crate::cpu::gpr::RAX));
                let (segment, offset) = self.memory_at(i)?;
                let offset = offset.wrapping_add(al) & i.address_size().mask();
                let value: u8 = self.load(bus, segment, offset)?;
                self.set_register(crate::cpu::gpr::RAX, value);
            }
            Push => self.push_operand(bus, i)?,
            Pop => self.pop_operand(bus, i)?,
            Pusha => self.push_all(bus, i)?,
            Popa => self.pop_all(bus, i)?,
            Enter => self.enter(bus, i)?,
            Leave => self.leave(bus, i)?,
            Movs | Stos | Lods | Cmps | Scas => self.string(bus, i)?,
            Jmp => self.jump_near(bus, i)?,
            Call => self.call_near(bus, i)?,
            Ret => self.return_near(bus, i)?,
            Jcc(condition) => self.jump_if(i, self.flags.holds(condition))?,
            Loop | Loope | Loopne | Jcxz => self.count_and_jump(i)?,
            // Protection.
            MovSegment => self.mov_segment(bus, i)?,
            Lds | Les | Lfs | Lgs | Lss => self.load_far_pointer(bus, i)?,
            Lldt => self.load_local_table(bus, i)?,
            Ltr => self.load_task_register(bus, i)?,
            Sldt | Str => self.store_selector(bus, i)?,
            Sgdt | Sidt => self.store_table(bus, i)?,
            Lgdt | Lidt => self.load_table(bus, i)?,
            Lar | Lsl => self.ask_descriptor(bus, i)?,
            Verr | Verw => self.verify_segment(bus, i)?,
            Arpl => self.adjust_rpl(bus, i)?,
            JmpFar => self.jump_far(bus, i)?,
            CallFar => self.call_far(bus, i)?,
            Retf => self.return_far(bus, i)?,
            Iret => self.return_from_interrupt(bus, i)?,
            Int | Int1 | Int3 | Into => self.software_interrupt(bus, i)?,
            Bound => self.check_bounds(bus, i)?,
            Syscall => self.system_call()?,
            Sysret => self.system_return(i)?,
            Sysenter => self.system_enter()?,
            Sysexit => self.system_exit(i)?,
            MovDebug => self.mov_debug(bus, i)?,
            Nop | Endbr32 | Endbr64 => {}
            Pause => {
                self.exactly(bus)?;
                bus.platform.pause();
            }
            Prefetch | Prefetchw | Prefetchwt1 => {}
            Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 => {}
            MovControl => self.mov_control(bus, i)?,
            Clts => self.clear_task_switched(bus)?,
            Lmsw => self.load_machine_status(bus, i)?,
            Smsw => self.store_machine_status(bus, i)?,
            Invlpg => self.invalidate_page(i)?,
            Invpcid => self.invalidate_context(bus, i)?,
            Invd | Wbinvd | Wbnoinvd => self.check_privileged()?,
            Clflush | Clflushopt | Clwb => self.flush_line(bus, i)?,
            Lfence | Mfence | Sfence | Serialize => self.memory_fence(),
            Cli => self.clear_interrupts()?,
            Operation::Sti => self.set_interrupts()?,
            Cld => self.set_direction(false),
            Std => self.set_direction(true),
            Clac => self.set_alignment_check(false)?,
            Stac => self.set_alignment_check(true)?,
            Pushf => self.push_flags(bus, i)?,
            Popf => self.pop_flags(bus, i)?,
            Hlt => self.halt()?,
            Wait => self.wait()?,
            Swapgs => self.swap_gs()?,
            Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase => self.segment_base(bus, i)?,
            Rdpid => self.read_processor_id(bus, i)?,
            Rdtsc => self.read_time(bus, false)?,
            Rdtscp => self.read_time(bus, true)?,
            // There are no counters.
            Rdpmc => return self.protection(),
            Rdrand | Rdseed => self.random(bus, i)?,
            Rdpkru | Wrpkru => self.protection_keys(i)?,
            Xgetbv => self.get_extended_control()?,
            Xsetbv => self.set_extended_control()?,
            Cpuid => self.cpuid_instruction(bus)?,
            Rdmsr => self.read_msr_instruction(bus)?,
            Wrmsr => self.write_msr_instruction(bus)?,
            In => self.input(bus, i)?,
            Out => self.output(bus, i)?,
            Ins => self.input_string(bus, i)?,
            Outs => self.output_string(bus, i)?,
            Fxsave => self.save_legacy(bus, i)?,
            Fxrstor => self.restore_legacy(bus, i)?,
            Xsave | Xsaveopt | Xsavec | Xsaves => self.save_extended(bus, i)?,
            Xrstor | Xrstors => self.restore_extended(bus, i)?,
            Fpu(name) => self.float(bus, i, name)?,
            Sse(name) => self.media(bus, i, name)?,
            Packed(name) => self.packed(bus, i, name)?,
            _ => return self.undefined(),
        }
        Ok(())
    }
}

/// Whether an instruction is the last of its block: it always jumps, or what comes after it may mean
/// something else then.
pub(super) const fn ends_block(operation: Operation) -> bool {
    use Operation::*;
    // All that is not known to be harmless.
    !matches!(
        operation,
        Add | Adc
            | Sub
            | Sbb
            | And
            | Or
            | Xor
            | Cmp
            | Test
            | Inc
            | Dec
            | Neg
            | Not
            | Mov
            | Movzx
            | Movsx
            | Movsxd
            | Lea
            | Xchg
            | Xadd
            | Cmpxchg
            | Cmpxchg8b
            | Cmpxchg16b
            | Cmovcc(_)
            | Setcc(_)
            | Mul
            | Imul
            | Div
            | Idiv
            | Cbw
            | Cwd
            | Aaa
            | Aas
            | Aad
            | Aam
            | Daa
            | Das
            | Lahf
            | Sahf
            | Bswap
            | Movbe
            | Movnti
            | Adcx
            | Adox
            | Mulx
            | Shl
            | Shr
            | Sar
            | Rol
            | Ror
            | Rcl
            | Rcr
            | Shld
            | Shrd
            | Bt
            | Bts
            | Btr
            | Btc
            | Bsf
            | Bsr
            | Tzcnt
            | Lzcnt
            | Popcnt
            | Andn
            | Bextr
            | Blsi
            | Blsmsk
            | Blsr
            | Bzhi
            | Pdep
            | Pext
            | Rorx
            | Sarx
            | Shlx
            | Shrx
            | Crc32
            | Clc
            | Stc
            | Cmc
            | Salc
            | Xlat
            | Push
            | Pop
            | Pusha
            | Popa
            | Enter
            | Leave
            | Nop
            | Cld
            | Std
            | Pushf
            | Lfence
            | Mfence
            | Sfence
            | Prefetch
            | Prefetchw
            | Prefetchwt1
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Endbr32
            | Endbr64
            | Fpu(_)
            | Sse(_)
            | Packed(_)
    )
}
