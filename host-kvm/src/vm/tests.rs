//! Tests of what the VM does about events, on a machine without processors.

use std::sync::Arc;

use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use thimble_core::devices::class::{DeviceClass, PropertyValues};
use thimble_core::devices::{Width, ib700, pvpanic};
use thimble_core::firmware::Numa;
use thimble_core::machine::Config;
use thimble_core::machine::actions::ActionChanges;
use thimble_monitor::Owner as _;

use super::*;
use crate::event_loop::poller::Poller;
use crate::memory::Ram;
use crate::options::Options;

const RAM: u64 = 1 << 20;
static ROM: [u8; 0x1_0000] = [0xf4; 0x1_0000];

/// A PC with a watchdog and a panic device, which nothing runs.
fn vm(settings: Settings) -> Vm {
    let ram: &'static Ram = Box::leak(Box::new(Ram::new(&[(0, RAM)]).unwrap()));
    let config = Config {
        rom: &ROM,
        rtc_base: settings.rtc_start,
        ..Config::new(ram, RAM)
    };
    let mut machine = Box::new(Machine::new(config).unwrap());
    let classes: [&'static DeviceClass; 2] = [&ib700::CLASS, &pvpanic::CLASS];
    for class in classes {
        machine.plug(&PropertyValues::new(class)).unwrap();
    }
    let poller = Arc::new(Poller::new().unwrap());
    let guarded = Guarded {
        machine,
        chardevs: Chardevs::new(poller, 1 << 32).unwrap(),
        bridge_state: BridgeState::default(),
        clock: Clock::Stopped { now: 0 },
        input_waits: false,
        timer_at: 0,
    };
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let waker = Arc::new(Waker::new().unwrap());
    Vm::new(
        Shared::new(guarded, Accelerator::None, waker, timer),
        None,
        settings,
    )
}

fn settings() -> Settings {
    Settings {
        icount: false,
        actions: Actions::default(),
        preconfig: false,
        autostart: true,
        name: None,
        uuid: [0; 16],
        kvm: false,
        features: FeatureSet::default(),
        log: Arc::new(Sink::new(
            Items::empty(),
            crate::log::filter::Filter::default(),
        )),
        rtc_start: 0,
        rtc_clock: RtcClock::Vm,
        rtc_path: EventText::try_from("/clock").unwrap(),
        cpus: 1,
        numa: Numa::default(),
        topology: Topology {
            sockets: 1,
            cores: 1,
            threads: 1,
        },
        objects: ObjectFacts::new(&Options::default(), "", None),
        made: crate::objects::Objects::new(
            crate::objects::Defaults::default(),
            Graph::new(crate::block::executor::Executor::new(|| {})),
        ),
        blocks: Graph::new(crate::block::executor::Executor::new(|| {})),
        drive_options: Vec::new(),
        flash: crate::flash::Flash::default(),
    }
}

fn running() -> Vm {
    let mut vm = vm(settings());
    vm.start();
    events(&mut vm);
    vm
}

/// Events since the last call.
fn events(vm: &mut Vm) -> Vec<Event> {
    let (_, fresh) = vm.take_events();
    fresh.into_iter().map(|(event, _)| event).collect()
}

/// The guest writes a port.
fn out(vm: &mut Vm, port: u16, value: u32) -> Vec<Event> {
    vm.shared().call(|machine, bridge, now| {
        machine.pio_write(bridge, now, port, Width::Byte, value);
    });
    vm.settle();
    events(vm)
}

/// The guest starts its watchdog, and half a minute passes at once.
fn be_late(vm: &mut Vm) -> Vec<Event> {
    assert_eq!(out(vm, 0x443, 0), []);
    vm.shared()
        .call(|machine, bridge, now| machine.advance(bridge, now + 30 * SECOND));
    vm.settle();
    events(vm)
}

const fn shut_down(cause: ShutdownCause) -> Event {
    Event::Shutdown {
        guest: cause.by_guest(),
        reason: cause,
    }
}

const fn reset(cause: ShutdownCause) -> Event {
    Event::Reset {
        guest: cause.by_guest(),
        reason: cause,
    }
}

const fn panicked(action: GuestPanicAction) -> Event {
    Event::GuestPanicked { action }
}

fn panic_does(vm: &mut Vm, panic: PanicAction) {
    vm.set_actions(ActionChanges {
        panic: Some(panic),
        ..ActionChanges::default()
    });
}

#[test]
fn the_end_of_preconfig_starts_the_guest_unless_told_otherwise() {
    for (autostart, state, told) in [
        (true, RunState::Running, &[Event::Resume][..]),
        (false, RunState::Prelaunch, &[]),
    ] {
        let mut vm = vm(Settings {
            preconfig: true,
            autostart,
            ..settings()
        });
        assert!(vm.preconfig());
        assert!(vm.exit_preconfig().is_ok());
        assert!(!vm.preconfig());
        assert_eq!((vm.run_state, events(&mut vm).as_slice()), (state, told));
    }
}

#[test]
fn actions_can_be_changed_while_the_guest_runs() {
    let mut vm = running();
    panic_does(&mut vm, PanicAction::None);
    let told = [panicked(GuestPanicAction::Run)];
    assert_eq!(out(&mut vm, 0x505, 1), told);
    assert_eq!(vm.run_state, RunState::Running);

    panic_does(&mut vm, PanicAction::Pause);
    let told = [panicked(GuestPanicAction::Pause), Event::Stop];
    assert_eq!(out(&mut vm, 0x505, 1), told);
    assert_eq!(vm.run_state, RunState::GuestPanicked);
    assert!(!vm.run_state.needs_reset());
    assert_eq!(vm.exit_status(), None);

    vm.start();
    events(&mut vm);
    panic_does(&mut vm, PanicAction::ExitFailure);
    let told = [
        panicked(GuestPanicAction::Poweroff),
        shut_down(ShutdownCause::GuestPanic),
    ];
    assert_eq!(out(&mut vm, 0x505, 1), told);
    assert_eq!(vm.exit_status(), Some(1));
}

#[test]
fn only_a_panic_ends_with_failure() {
    let mut vm = running();
    panic_does(&mut vm, PanicAction::ExitFailure);
    vm.shut_down(ShutdownCause::GuestShutdown);
    assert_eq!(vm.exit_status(), Some(0));
}

#[test]
fn watchdog_actions() {
    use WatchdogAction::{Debug, InjectNmi, None as Nothing, Pause, Poweroff, Reset, Shutdown};
    let was_reset = reset(ShutdownCause::GuestReset);
    for (action, told, state, exit) in [
        (Reset, Some(was_reset), RunState::Running, None),
        (Shutdown, Some(Event::Powerdown), RunState::Running, None),
        (Poweroff, None, RunState::Running, Some(0)),
        (Pause, Some(Event::Stop), RunState::Watchdog, None),
        (Debug, None, RunState::Running, None),
        (Nothing, None, RunState::Running, None),
        (InjectNmi, None, RunState::Running, None),
    ] {
        let mut vm = running();
        vm.set_actions(ActionChanges {
            watchdog: Some(action),
            ..ActionChanges::default()
        });
        let expected: Vec<_> = [Event::Watchdog { action }]
            .into_iter()
            .chain(told)
            .collect();
        assert_eq!(be_late(&mut vm), expected);
        assert_eq!(
            (vm.run_state, vm.exit_status()),
            (state, exit),
            "{action:?}"
        );
    }
}

#[test]
fn a_pause_action_leaves_a_stopped_vm_alone() {
    let mut vm = vm(settings());
    vm.set_actions(ActionChanges {
        reboot: Some(RebootAction::Shutdown),
        shutdown: Some(ShutdownAction::Pause),
        ..ActionChanges::default()
    });
    vm.reset(ShutdownCause::HostQmpSystemReset);
    let told = [shut_down(ShutdownCause::HostQmpSystemReset)];
    assert_eq!(events(&mut vm), told);
    assert_eq!(
        (vm.run_state, vm.exit_status()),
        (RunState::Prelaunch, None)
    );
    // Who insists ends it all the same.
    vm.shut_down(ShutdownCause::HostQmpQuit);
    assert_eq!(vm.exit_status(), Some(0));
}

#[test]
fn a_reset_keeps_what_was_told_and_forgets_what_was_asked() {
    let mut vm = running();
    vm.shared().call(|machine, bridge, now| {
        machine.pio_write(bridge, now, 0x505, Width::Byte, 2);
        machine.pio_write(bridge, now, 0xcf9, Width::Byte, 6);
    });
    vm.reset(ShutdownCause::HostQmpSystemReset);
    vm.settle();
    let told = [
        reset(ShutdownCause::HostQmpSystemReset),
        Event::GuestCrashloaded {
            action: GuestPanicAction::Run,
        },
    ];
    assert_eq!(events(&mut vm), told);
}

#[test]
fn a_clock_that_is_set_is_told_with_its_path() {
    let mut vm = running();
    assert_eq!(out(&mut vm, 0x70, 0x02), []);
    let told = [Event::RtcChange {
        offset: 180,
        qom_path: EventText::try_from("/clock").unwrap(),
    }];
    assert_eq!(out(&mut vm, 0x71, 0x03), told);
}
