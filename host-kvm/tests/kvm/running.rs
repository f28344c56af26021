//! Pauses, stops and the ends of processors' threads.

use super::*;

fn pause_and_resume_a_thousand_times(irqchip: Irqchip) {
    for code in [&[0xeb, 0xfe][..], &[0xfa, 0xf4], &COUNT_LOOP] {
        let Some(guest) = guest(code, &[], 2, irqchip) else {
            return;
        };
        let mut longest = Duration::ZERO;
        for turn in 0..1000u32 {
            guest.vcpus.resume();
            // Different instants: before the thread wakes, on its way in, and inside.
            for _ in 0..turn % 50 * 20 {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            guest.vcpus.pause();
            longest = longest.max(start.elapsed());
            assert!(guest.vcpus.is_paused());
            let count = guest.notes.count.load(Ordering::SeqCst);
            if turn % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
                assert_eq!(count, guest.notes.count.load(Ordering::SeqCst));
                assert_eq!(
                    guest.vcpus.state(1).unwrap().activity,
                    Activity::WaitForInit
                );
            }
        }
        assert!(longest < Duration::from_secs(2), "{longest:?}");
    }
}

fn pause_from_many_threads(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 1, irqchip) else {
        return;
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    guest.vcpus.pause();
                    guest.vcpus.resume();
                }
            });
        }
    });
    let count = guest.notes.count.load(Ordering::SeqCst);
    guest.wait_count(count + 100);
}

fn request_under_the_machines_lock(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    guest.wait_count(10);
    let machine = guest.notes.machine.lock().unwrap();
    guest.notes.waiting.store(false, Ordering::SeqCst);
    // The processor now waits for the lock inside its handler, or soon will.
    let count = guest.notes.count.load(Ordering::SeqCst);
    guest.vcpus.request_pause();
    assert_eq!(guest.notes.count.load(Ordering::SeqCst), count);
    drop(machine);
    guest.vcpus.wait_paused();
    assert!(guest.vcpus.is_paused());
    // The access under way was finished: RIP is at the jump or back at the OUT, never half.
    let state = guest.vcpus.state(0).unwrap();
    assert!(state.rip == 0 || state.rip == 2, "{:#x}", state.rip);
}

fn an_access_is_complete_before_parking(irqchip: Irqchip) {
    // in al, 71h; out 10h, al; jmp: AL must hold what was read wherever RIP is past the IN.
    let code = [0xb0, 0, 0xe4, 0x71, 0xe6, 0x10, 0xeb, 0xf8];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    for _ in 0..300 {
        guest.vcpus.resume();
        std::thread::yield_now();
        guest.vcpus.pause();
        let state = guest.vcpus.state(0).unwrap();
        let al = state.gpr[gpr::RAX] & 0xff;
        match (state.cs.selector, state.rip) {
            (0xf000, 4 | 6) => assert_eq!(al, 0x71),
            (0xf000, 2) => assert_eq!(al, 0),
            _ => {}
        }
    }
}

fn triple_fault_stops_and_reset_runs_again(irqchip: Irqchip) {
    // In protected mode, because a kernel that emulates real mode refuses UD2 and INT there.
    let code = [
        0xe6, 0x80, // out 80h, al
        0xeb, 6, 0, 0, 0, 0, 0, 0, // over an empty table at 4
        0x2e, 0x0f, 0x01, 0x1e, 4, 0, // lidt cs:[4]
        0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, // cr0 |= PE
        0xb8, 0xf8, 0xff, 0x8e, 0xd8, // ds = fff8h: beyond the GDT
        0xe6, 0x81, 0xf4,
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    for _ in 0..20 {
        guest.expect_out(0x80, &[0]);
        assert_eq!(guest.next(), Event::Stopped(0, VcpuStop::TripleFault));
        guest.vcpus.pause();
        guest.vcpus.resume();
        // It stays where it is until it is reset.
        assert!(guest.events.recv_timeout(Duration::from_millis(2)).is_err());
        guest.vcpus.pause();
        guest.vm.reset_irqchip().unwrap();
        guest.vcpus.reset().unwrap();
        guest.vcpus.resume();
    }
}

fn what_the_kernel_can_not_run_is_dumped(irqchip: Irqchip) {
    // A jump to where nothing is mapped: code can not be fetched through the bus.
    let code = [0xb8, 0x34, 0x12, 0xea, 0, 0, 0, 0xb0];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    match guest.next() {
        Event::Stopped(0, VcpuStop::InternalError { suberror, dump }) => {
            assert_eq!(suberror, 1, "{dump}");
            for part in ["RAX=0000000000001234", "CS =b000", "CR0=", "Code="] {
                assert!(dump.contains(part), "no {part} in\n{dump}");
            }
        }
        other => panic!("{other:?}"),
    }
    guest.vcpus.pause();
    guest.vcpus.reset().unwrap();
    guest.vcpus.resume();
    assert!(matches!(guest.next(), Event::Stopped(0, _)));
}

fn threads_end_from_every_state(irqchip: Irqchip) {
    for code in [&[0xeb, 0xfe][..], &[0xfa, 0xf4], &COUNT_LOOP, &[0x0f, 0x0b]] {
        for run in [false, true] {
            let Some(mut guest) = guest(code, &[], 3, irqchip) else {
                return;
            };
            if run {
                guest.vcpus.resume();
            }
            let start = Instant::now();
            guest.vcpus.shutdown();
            assert!(start.elapsed() < Duration::from_secs(2));
        }
    }
}

fn threads_have_the_kernels_numbers(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 3, irqchip) else {
        return;
    };
    for cpu in 0..3 {
        let id = guest.vcpus.thread_id(cpu).unwrap();
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap();
        assert_eq!(name, format!("CPU {cpu}/KVM\n"));
    }
    assert!(guest.vcpus.thread_id(3).is_err());
}

for_all! {
    pause_and_resume_a_thousand_times
    pause_from_many_threads
    request_under_the_machines_lock
    an_access_is_complete_before_parking
    triple_fault_stops_and_reset_runs_again
    what_the_kernel_can_not_run_is_dumped
    threads_end_from_every_state
    threads_have_the_kernels_numbers
}
