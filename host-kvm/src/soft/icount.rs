//! Time by instructions: `-icount`. And random numbers that are the same each time: `-seed`.
//!
//! With each instruction the virtual clock advances by 2^shift nanoseconds, whatever the host does
//! meanwhile, and timers expire between two instructions. So two runs with the same input execute the
//! same instructions at the same times. What comes from outside (console input, commands that stop the
//! guest) comes between any two instructions.
//!
//! Where no processor has anything to do the clock jumps to the next timer (`sleep=off`), or the thread
//! waits as long as that is away first (`sleep=on`); the clock then reads what the timer says, not what
//! the host's has come to.

use std::sync::atomic::{AtomicU64, Ordering};

use thimble_core::time::SECOND;

/// What `-icount` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icount {
    /// An instruction takes 2^shift nanoseconds; `None`: what keeps the clock with the host's.
    pub shift: Option<u32>,
    /// An idle guest waits for the host's time to pass.
    pub sleep: bool,
}

/// The largest shift.
pub const SHIFT_MAX: u32 = 10;
/// What an instruction takes at first where nobody says: 2^3 nanoseconds.
const SHIFT_FIRST: u32 = 3;
/// How often the shift is looked at, in nanoseconds of the host's clock.
const TUNING: u64 = SECOND / 10;
/// How far the clock may be off the host's before it is let stay so.
const LAG_MAX: u64 = SECOND;

/// How the shift follows the host's clock.
#[derive(Clone, Copy, Debug)]
struct Tuner {
    /// What the host's clock read when the virtual one read 0.
    zero: u64,
    /// When the shift was looked at last, on the host's clock.
    last: u64,
    /// What the virtual clock read then, less the jumps since.
    from: u64,
}

/// The clock of the processors' thread.
#[derive(Debug)]
pub(super) struct Counter {
    /// What all others read.
    clock: &'static AtomicU64,
    shift: u32,
    sleep: bool,
    tuner: Option<Tuner>,
    /// The clock read this much…
    now: u64,
    /// … when the processor that runs had come so far.
    since: u64,
}

impl Counter {
    /// A clock that shows what the other end does.
    pub(super) fn new(icount: Icount, clock: &'static AtomicU64) -> Self {
        let tuner = Tuner {
            zero: 0,
            last: 0,
            from: 0,
        };
        Self {
            clock,
            shift: icount.shift.unwrap_or(SHIFT_FIRST),
            sleep: icount.sleep,
            tuner: icount.shift.is_none().then_some(tuner),
            now: clock.load(Ordering::Relaxed),
            since: 0,
        }
    }

    /// Takes over what the clock was set to, as the guest goes on at `host` of the host's clock.
    pub(super) fn resume(&mut self, host: u64) {
        self.now = self.clock.load(Ordering::Relaxed);
        if let Some(tuner) = &mut self.tuner {
            *tuner = Tuner {
                zero: host.wrapping_sub(self.now),
                last: host,
                from: self.now,
            };
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Sets the clock forward; no processor runs.
    pub(super) fn set(&mut self, now: u64) {
        if let Some(tuner) = &mut self.tuner {
            tuner.from = tuner.from.wrapping_add(now.wrapping_sub(self.now));
        }
        self.now = now;
        self.clock.store(now, Ordering::Relaxed);
    }

    /// A processor that has come so far begins to run.
    pub(super) fn begin(&mut self, time: u64) {
        self.since = time;
    }

    /// It has come so far.
    pub(super) fn reached(&mut self, time: u64) {
        let passed = time.wrapping_sub(self.since) << self.shift;
        self.since = time;
        self.now = self.now.wrapping_add(passed);
        self.clock.store(self.now, Ordering::Relaxed);
    }

    /// Instructions until the clock reads `deadline` or more, at least one.
    pub(super) fn instructions_until(&self, deadline: u64) -> u64 {
        let left = deadline.saturating_sub(self.now);
        left.div_ceil(1 << self.shift).max(1)
    }

    /// How long an idle guest that sleeps waits, from `host` on, before the clock reads `deadline`.
    pub(super) fn wait(&self, deadline: u64, host: u64) -> u64 {
        match &self.tuner {
            Some(tuner) => deadline.wrapping_add(tuner.zero).saturating_sub(host),
            None => deadline.saturating_sub(self.now),
        }
    }

    /// It has waited so long.
    pub(super) fn slept(&mut self, time: u64) {
        if let Some(tuner) = &mut self.tuner {
            tuner.last += time;
        }
    }

    /// Whether an idle guest waits.
    pub(super) fn sleeps(&self) -> bool {
        self.sleep
    }

    /// Brings the shift in line with the host's clock, if it is to be.
    pub(super) fn tune(&mut self, host: impl FnOnce() -> u64) {
        let Some(tuner) = &mut self.tuner else {
            return;
        };
        let host = host();
        let real = host.saturating_sub(tuner.last);
        if real < TUNING {
            return;
        }
        let instructions = self.now.saturating_sub(tuner.from) >> self.shift;
        let due = host.wrapping_sub(tuner.zero);
        if due.abs_diff(self.now) > LAG_MAX {
            tuner.zero = host.wrapping_sub(self.now);
        }
        // Half of what it is off is caught up until the next look.
        let due = host.wrapping_sub(tuner.zero);
        let off = (due.wrapping_sub(self.now) as i64 / 2).clamp(-(real as i64) / 2, real as i64);
        let wanted = real.saturating_add_signed(off);
        if let Some(each) = wanted.checked_div(instructions) {
            self.shift = each.max(1).ilog2().min(SHIFT_MAX);
        }
        (tuner.last, tuner.from) = (host, self.now);
    }

    pub(super) fn shift(&self) -> u32 {
        self.shift
    }

    /// Goes on with the shift of a saved guest, unless it is fixed here.
    pub(super) fn set_shift(&mut self, shift: u32) {
        if self.tuner.is_some() {
            self.shift = shift.min(SHIFT_MAX);
        }
    }
}

/// Random numbers by a seed: Steele, Lea, Flood, "Fast splittable pseudorandom number generators"
/// (SplitMix64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generator(pub(super) u64);

impl Generator {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(shift: Option<u32>, sleep: bool) -> Counter {
        let clock = Box::leak(Box::new(AtomicU64::new(1000)));
        Counter::new(Icount { shift, sleep }, clock)
    }

    #[test]
    fn instructions_are_time() {
        let mut counter = counter(Some(4), true);
        counter.begin(7);
        counter.reached(10);
        assert_eq!(
            (counter.now(), counter.clock.load(Ordering::Relaxed)),
            (1048, 1048)
        );
        assert_eq!(counter.instructions_until(1049), 1);
        assert_eq!(counter.instructions_until(1064), 1);
        assert_eq!(counter.instructions_until(1065), 2);
        assert_eq!(counter.instructions_until(0), 1);
        assert_eq!(counter.wait(1050, 99), 2);
        counter.begin(0);
        counter.reached(1);
        counter.set(2000);
        assert_eq!(counter.now(), 2000);
        counter.set_shift(9);
        assert_eq!(counter.shift(), 4);
    }

    /// A host that executes an instruction in so many nanoseconds, for a second.
    fn tuned(each: u64) -> (u32, i64) {
        let mut counter = counter(None, true);
        let (mut host, mut time) = (5 * SECOND, 0);
        counter.resume(host);
        counter.begin(time);
        for _ in 0..3000 {
            time += 1_000_000 / each;
            host += 1_000_000;
            counter.reached(time);
            counter.tune(|| host);
        }
        let off = counter.now() as i64 - (host - 5 * SECOND) as i64;
        (counter.shift(), off)
    }

    #[test]
    fn the_shift_follows_the_host() {
        for each in [2, 5, 12, 100, 700] {
            let (shift, off) = tuned(each);
            let nearest = each.ilog2();
            assert!(shift.abs_diff(nearest) <= 1, "{each}: {shift}");
            assert!(off.unsigned_abs() < SECOND / 2, "{each}: {off}");
        }
    }

    #[test]
    fn seeds_tell_numbers_apart() {
        // The generator's published first number for 0.
        assert_eq!(Generator(0).next(), 0xe220_a839_7b1d_cdaf);
        let mut again = Generator(5);
        assert_eq!(again.next(), Generator(5).next());
        assert_ne!(again.next(), Generator(5).next());
        assert_ne!(Generator(5).next(), Generator(6).next());
    }
}
