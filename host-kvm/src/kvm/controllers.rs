//! State of the in-kernel PICs, I/O APIC and PIT (`kernel-irqchip=on`) to and from the core's own
//! structs, so that it is saved and loaded as the state of the machine's own ones is.
//!
//! What gets lost, because the kernel's models have no place for it: on the way in, ICW1's SNGL
//! outside an initialization, a count that waits for the end of a cycle (it is loaded at once),
//! that a counter waits for its first count, and the phase of counters: the kernel starts them anew,
//! those that count once with what was left. One that has run out runs again, so that counter 0
//! interrupts once more. On the way out, pulses that are on their way.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_FLAGS_HPET_LEGACY,
    KVM_PIT_FLAGS_SPEAKER_DATA_ON, kvm_ioapic_state, kvm_irqchip, kvm_pic_state,
    kvm_pit_channel_state, kvm_pit_state2,
};
use thimble_core::devices::pit::{Counter, SavedPit, nanoseconds, ticks};
use thimble_core::irq::ioapic::{BASE, IoApicState, PINS, entry};
use thimble_core::irq::pic::{Chip, ELCR_MASKS, Expects, SavedPic};
use thimble_core::machine::Controllers;

use super::error::KvmError;
use super::vm::Vm;

/// RW bits of a control word, and how the kernel counts bytes: for pairs it goes on to 4 for the
/// high one.
const WORD: u8 = 3;
const WORD_HIGH: u8 = 4;
/// What the kernel latches of a pair whose low byte was read.
const HIGH: u8 = 2;

/// A counter that no mode was set for yet has this one in the kernel.
const NO_MODE: u8 = 0xff;

/// The input of the master that the slave drives.
const CASCADE: u8 = 1 << 2;

/// The same instant on two clocks, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Instant {
    /// On the virtual clock.
    pub now: u64,
    /// On the host's CLOCK_MONOTONIC.
    pub monotonic: u64,
}

impl Vm {
    /// Reads the state of the in-kernel controllers and timer. Processors must be paused.
    ///
    /// # Errors
    /// If the kernel has none, or refuses.
    pub fn controllers(&self, at: Instant) -> Result<Controllers, KvmError> {
        let read = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.fd()
                .get_irqchip(&mut chip)
                .map_err(KvmError::call("reading an interrupt controller"))?;
            Ok(chip.chip)
        };
        let pit = match self.lost_ticks() {
            Some(_) => Some(self.pit()?),
            None => None,
        };
        // SAFETY: the kernel has filled in the member that belongs to the chip's number.
        let (master, slave, ioapic) = unsafe {
            (
                read(KVM_IRQCHIP_PIC_MASTER)?.pic,
                read(KVM_IRQCHIP_PIC_SLAVE)?.pic,
                read(KVM_IRQCHIP_IOAPIC)?.ioapic,
            )
        };
        Ok(Controllers {
            pic: Some(SavedPic {
                master: get_pic(&master),
                slave: get_pic(&slave),
            }),
            ioapic: get_ioapic(&ioapic),
            ioapic2: None,
            pit: pit.map(|pit| get_pit(&pit, at)),
        })
    }

    /// Sets the state of the in-kernel controllers and timer. Processors must be paused, and
    /// devices must have driven their lines.
    ///
    /// # Errors
    /// If the kernel has none, or refuses.
    pub fn set_controllers(&self, state: &Controllers, at: Instant) -> Result<(), KvmError> {
        // The kernel's controllers are there all together.
        if let Some(pics) = &state.pic {
            self.set_pics(pics)?;
        }
        self.set_ioapic(&state.ioapic)?;
        match &state.pit {
            Some(state) => {
                let now = self.pit()?;
                let mut pit = pit(state, at);
                // It is for the HPET to say.
                pit.flags |= now.flags & KVM_PIT_FLAGS_HPET_LEGACY;
                self.fd()
                    .set_pit2(&pit)
                    .map_err(KvmError::call("setting the PIT"))
            }
            None => Ok(()),
        }
    }

    /// Says whether the in-kernel timer is to leave its line alone, because an HPET stands for it. Without such a timer nothing
    /// happens.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn mute_pit(&self, muted: bool) -> Result<(), KvmError> {
        if self.lost_ticks().is_none() {
            return Ok(());
        }
        let mut pit = self.pit()?;
        let flags = match muted {
            true => pit.flags | KVM_PIT_FLAGS_HPET_LEGACY,
            false => pit.flags & !KVM_PIT_FLAGS_HPET_LEGACY,
        };
        if flags == core::mem::replace(&mut pit.flags, flags) {
            // The kernel would start counter 0 anew.
            return Ok(());
        }
        self.fd()
            .set_pit2(&pit)
            .map_err(KvmError::call("setting the PIT"))
    }

    fn pit(&self) -> Result<kvm_pit_state2, KvmError> {
        self.fd()
            .get_pit2()
            .map_err(KvmError::call("reading the PIT"))
    }

    pub(super) fn set_pics(&self, state: &SavedPic) -> Result<(), KvmError> {
        let master = pic(&state.master, ELCR_MASKS[0], CASCADE);
        let slave = pic(&state.slave, ELCR_MASKS[1], 0);
        for (chip_id, pic) in [
            (KVM_IRQCHIP_PIC_MASTER, master),
            (KVM_IRQCHIP_PIC_SLAVE, slave),
        ] {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            chip.chip.pic = pic;
            self.set_chip(&chip)?;
        }
        Ok(())
    }

    pub(super) fn set_ioapic(&self, state: &IoApicState) -> Result<(), KvmError> {
        let mut chip = kvm_irqchip {
            chip_id: KVM_IRQCHIP_IOAPIC,
            ..Default::default()
        };
        chip.chip.ioapic = ioapic(state);
        self.set_chip(&chip)
    }

    fn set_chip(&self, chip: &kvm_irqchip) -> Result<(), KvmError> {
        self.fd()
            .set_irqchip(chip)
            .map_err(KvmError::call("setting an interrupt controller"))
    }
}

fn get_pic(from: &kvm_pic_state) -> Chip {
    Chip {
        pins: from.last_irr,
        edges: from.irr & !from.elcr,
        imr: from.imr,
        isr: from.isr,
        elcr: from.elcr,
        base: from.irq_base & 0xf8,
        top: from.priority_add & 7,
        expects: match from.init_state {
            1 => Expects::Icw2,
            2 => Expects::Icw3,
            3 => Expects::Icw4,
            _ => Expects::Ocw1,
        },
        icw4_follows: from.init4 != 0,
        single: false,
        auto_eoi: from.auto_eoi != 0,
        rotate_on_auto_eoi: from.rotate_on_auto_eoi != 0,
        special_fully_nested: from.special_fully_nested_mode != 0,
        special_mask: from.special_mask != 0,
        read_isr: from.read_reg_select != 0,
        poll: from.poll != 0,
    }
}

/// `cascade` are the inputs that the kernel only ever pulses.
fn pic(from: &Chip, elcr_mask: u8, cascade: u8) -> kvm_pic_state {
    kvm_pic_state {
        last_irr: from.pins & !cascade,
        irr: from.irr(),
        imr: from.imr,
        isr: from.isr,
        priority_add: from.top,
        irq_base: from.base,
        read_reg_select: from.read_isr.into(),
        poll: from.poll.into(),
        special_mask: from.special_mask.into(),
        init_state: match from.expects {
            Expects::Ocw1 => 0,
            Expects::Icw2 => 1,
            Expects::Icw3 => 2,
            Expects::Icw4 => 3,
        },
        auto_eoi: from.auto_eoi.into(),
        rotate_on_auto_eoi: from.rotate_on_auto_eoi.into(),
        special_fully_nested_mode: from.special_fully_nested.into(),
        init4: from.icw4_follows.into(),
        elcr: from.elcr,
        elcr_mask,
    }
}

fn get_ioapic(from: &kvm_ioapic_state) -> IoApicState {
    let all = (1 << PINS) - 1;
    let mut state = IoApicState {
        select: from.ioregsel as u8,
        id: from.id as u8 & 0xf,
        pins: from.irr & all,
        ..IoApicState::default()
    };
    for (pin, (to, from)) in state.redirection.iter_mut().zip(&from.redirtbl).enumerate() {
        // SAFETY: both members of the union are plain bits.
        *to = unsafe { from.bits } & !entry::DELIVERY_STATUS;
        if *to & entry::LEVEL == 0 {
            *to &= !entry::REMOTE_IRR;
            if *to & entry::MASKED == 0 {
                // The kernel leaves out those that it has sent.
                state.edges |= state.pins & 1 << pin;
            }
        }
    }
    state
}

fn ioapic(from: &IoApicState) -> kvm_ioapic_state {
    let mut state = kvm_ioapic_state {
        base_address: BASE,
        ioregsel: from.select.into(),
        id: from.id.into(),
        irr: from.edges,
        ..Default::default()
    };
    for (pin, (to, from_entry)) in state.redirtbl.iter_mut().zip(&from.redirection).enumerate() {
        to.bits = *from_entry;
        // The kernel sends what is in there anew: no edges that are over.
        if from_entry & (entry::LEVEL | entry::MASKED) != 0 {
            state.irr |= from.pins & 1 << pin;
        }
    }
    state
}

fn get_pit(from: &kvm_pit_state2, at: Instant) -> SavedPit {
    let gates = [true, true, from.channels[2].gate != 0];
    SavedPit {
        counters: std::array::from_fn(|i| get_counter(&from.channels[i], gates[i], at)),
        speaker: from.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0,
        refresh: false,
        driven: ticks(at.now),
    }
}

fn get_counter(from: &kvm_pit_channel_state, gate: bool, at: Instant) -> Counter {
    let tick = ticks(at.now);
    let mut counter = Counter::new(gate, tick);
    if from.mode == NO_MODE {
        return counter;
    }
    counter.mode = from.mode.min(5);
    counter.bcd = from.bcd != 0;
    counter.access = from.rw_mode.clamp(1, WORD);
    counter.reload = from.count as u16;
    counter.count = counter.reload_ticks();
    let loaded = u64::try_from(from.count_load_time).unwrap_or(0);
    let mut elapsed = ticks(at.monotonic.saturating_sub(loaded));
    if counter.periodic() {
        // The virtual clock may not be as old.
        elapsed %= u64::from(counter.count);
    }
    counter.start = Some(tick.saturating_sub(elapsed));
    let stops = !gate && !matches!(counter.mode, 1 | 5);
    counter.paused = stops.then_some(elapsed);
    counter.write_high = from.write_state == WORD_HIGH;
    counter.low_byte = from.write_latch;
    if from.count_latched == 0 {
        counter.read_high = from.read_state == WORD_HIGH;
    } else {
        counter.latched_count = Some(from.latched_count);
        counter.read_high = counter.access == WORD && from.count_latched == HIGH;
    }
    counter.latched_status = (from.status_latched != 0).then_some(from.status);
    counter
}

fn pit(from: &SavedPit, at: Instant) -> kvm_pit_state2 {
    let flags = if from.speaker {
        KVM_PIT_FLAGS_SPEAKER_DATA_ON
    } else {
        0
    };
    kvm_pit_state2 {
        channels: std::array::from_fn(|i| channel(&from.counters[i], at)),
        flags,
        ..Default::default()
    }
}

fn channel(from: &Counter, at: Instant) -> kvm_pit_channel_state {
    let elapsed = from.elapsed(ticks(at.now)).unwrap_or(0);
    let mut count = if from.null_count {
        from.reload_ticks()
    } else {
        from.count
    };
    if !from.periodic() && elapsed < u64::from(count) {
        count -= elapsed as u32;
    }
    let pair = |high| match from.access {
        WORD if high => WORD_HIGH,
        access => access,
    };
    let latched = match from.access {
        _ if from.latched_count.is_none() => 0,
        WORD if from.read_high => HIGH,
        access => access,
    };
    let loaded = at.monotonic.saturating_sub(nanoseconds(elapsed));
    kvm_pit_channel_state {
        count,
        latched_count: from.latched_count.unwrap_or(0),
        count_latched: latched,
        status_latched: from.latched_status.is_some().into(),
        status: from.latched_status.unwrap_or(0),
        read_state: pair(from.read_high && from.latched_count.is_none()),
        write_state: pair(from.write_high),
        write_latch: from.low_byte,
        rw_mode: from.access,
        mode: from.mode,
        bcd: from.bcd.into(),
        gate: from.gate.into(),
        count_load_time: i64::try_from(loaded).unwrap_or(i64::MAX),
    }
}
