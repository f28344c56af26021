//! How the debugger lets processors go on: `c`, `s`, `vCont`, detaching and killing.

use thimble_core::cpu::debugger::Resume;
use thimble_core::formats::gdb;

use super::{Call, Done, Next, Thread, Wrong, stopped};
use crate::Stepping;

/// What an action of `vCont` lets a thread do; `None` if there is no such action. The signal that some have means nothing
/// here.
fn action(text: &[u8], stepping: Stepping) -> Option<(Resume, &[u8])> {
    let step = match stepping.no_interrupts {
        true => Resume::StepOverInterrupts,
        false => Resume::Step,
    };
    let (letter, rest) = text.split_first()?;
    let resume = match letter {
        b'c' | b'C' => Resume::Run,
        b's' | b'S' => step,
        _ => return None,
    };
    let rest = match letter {
        b'C' | b'S' => gdb::number(rest)?.1,
        _ => rest,
    };
    Some((resume, rest))
}

impl Call<'_> {
    /// Packets with a long name.
    pub(super) fn named(&mut self, packet: &[u8]) -> Done {
        if packet == b"vCont?" {
            return self.text(b"vCont;c;C;s;S");
        }
        if let Some(actions) = packet.strip_prefix(b"vCont;") {
            return self.resume_threads(actions);
        }
        if let Some(text) = packet.strip_prefix(b"vKill;") {
            if !matches!(gdb::number(text), Some((1, []))) {
                return Err(Wrong::Arguments);
            }
            self.owner.kill();
            return self.ok();
        }
        Err(Wrong::Unknown)
    }

    /// `c`, `s`, and the same with a signal, `C` and `S`; then an address where to go on.
    pub(super) fn resume(&mut self, letter: u8, text: &[u8]) -> Done {
        let address = match letter {
            b'c' | b's' => text,
            _ => match gdb::number(text).ok_or(Wrong::Arguments)?.1 {
                [] => &[],
                rest => rest.strip_prefix(b";").ok_or(Wrong::Arguments)?,
            },
        };
        let cpu = self.choices.control.unwrap_or(self.choices.general);
        match (address, gdb::number(address)) {
            ([], _) => {}
            (_, Some((address, []))) => {
                let set = self.owner.change_processor(cpu, &mut |state| {
                    state.rip = address;
                    true
                });
                if !set {
                    return Err(Wrong::Arguments);
                }
            }
            _ => return Err(Wrong::Arguments),
        }
        let stepping = self.stepping();
        let (resume, _) = action(&[letter, b'0'], stepping).ok_or(Wrong::Arguments)?;
        let steps = resume.steps();
        self.go(stepping, &|index| match steps && index == cpu {
            true => resume,
            false => Resume::Run,
        })
    }

    /// Actions with threads, of which the first counts that is about a thread.
    fn resume_threads(&mut self, actions: &[u8]) -> Done {
        let stepping = self.stepping();
        for text in actions.split(|byte| *byte == b';') {
            let (_, rest) = action(text, stepping).ok_or(Wrong::Arguments)?;
            if !rest.is_empty() {
                let thread = rest.strip_prefix(b":").ok_or(Wrong::Arguments)?;
                if !self.thread(thread)?.1.is_empty() {
                    return Err(Wrong::Arguments);
                }
            }
        }
        let cpus = self.owner.cpus();
        let any = self.choices.general;
        let parsed = |index: u32| {
            for text in actions.split(|byte| *byte == b';') {
                let (resume, rest) = action(text, stepping)?;
                let meant = match rest.strip_prefix(b":") {
                    None => true,
                    Some(thread) => match thread_of(thread) {
                        Thread::All => true,
                        Thread::Any => index == any,
                        Thread::One(one) => index == one,
                    },
                };
                if meant {
                    return Some(resume);
                }
            }
            None
        };
        if (0..cpus).all(|index| parsed(index).is_none()) {
            return Err(Wrong::Arguments);
        }
        self.go(stepping, &|index| parsed(index).unwrap_or(Resume::Stay))
    }

    fn go(&mut self, stepping: Stepping, resume: &dyn Fn(u32) -> Resume) -> Done {
        if self.owner.resume_processors(stepping, resume) {
            return Ok(Next::Wait);
        }
        // It stands still, and that is all there is to tell.
        stopped(self.choices, self.owner, self.answer)?;
        Ok(Next::Send)
    }

    /// The VM goes on without the debugger.
    pub(super) fn detach(&mut self, text: &[u8]) -> Done {
        if let Some(process) = text.strip_prefix(b";")
            && !matches!(gdb::number(process), Some((1, [])))
        {
            return Err(Wrong::Arguments);
        }
        self.owner.clear_breaks();
        let stepping = self.stepping();
        // Where it can't go on it stays as it is, which is none of the debugger's business any more.
        let _ = self.owner.resume_processors(stepping, &|_| Resume::Run);
        self.ok()
    }
}

/// A thread's id that was checked before.
fn thread_of(text: &[u8]) -> Thread {
    let id = match text.strip_prefix(b"p") {
        Some(text) => match text.iter().position(|byte| *byte == b'.') {
            Some(at) => &text[at + 1..],
            None => b"-1",
        },
        None => text,
    };
    match gdb::number(id) {
        None => Thread::All,
        Some((0, _)) => Thread::Any,
        // Checked against the number of processors.
        Some((number, _)) => Thread::One((number - 1) as u32),
    }
}
