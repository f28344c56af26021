//! From the command line to a running event loop: everything that can fail at the start fails
//! here, with one line that names the option.

mod boot;
mod cmdline;
mod drives;
mod kernel;
mod plug;
pub mod smbios;
pub mod tables;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use thimble_core::devices::class::{DeviceClass, PropertyValues};
use thimble_core::devices::{self, fdc, hpet, i8042, pc_testdev, rtc};
use thimble_core::firmware::acpi;
use thimble_core::irq::LocalApic;
use thimble_core::machine::{Board, CLASSES, Config, HIGH_RAM_BASE, Irqchip, Machine, RamLayout};
use thimble_core::pci::piix4_pm;
use thimble_core::qom::{Processor, Tree};
use thimble_core::trace::events;
use thimble_core::virtio::transport::{IOEVENTFD, mmio};
use thimble_monitor::MONITOR_OUT_MAX;
use thimble_monitor::schema::EventText;
use tz::TimeZone;

use crate::block::Graph;
use crate::block::executor::Executor;
use crate::block::turn::Turn;
use crate::chardev::{ChardevId, Chardevs};
use crate::clock::Clock;
use crate::cpuid::{self, CpuError, CpuSpec, CpuidTable, Topology};
use crate::daemonize::{self, PidFile};
use crate::descriptors;
use crate::event_loop::poller::{Poller, Waker};
use crate::event_loop::{self, EventLoop};
use crate::files::{self, OFlags, Opened};
use crate::flash::Flash;
use crate::gdb::GdbServer;
use crate::kvm::{self, KvmError, Vcpus};
use crate::log::{self, Items, Sink};
use crate::memory::{self, Ram, Rom};
use crate::messages;
use crate::monitors::Monitors;
use crate::objects::{Defaults, Mapping, MemoryBackend, Objects};
use crate::options::{
    self, Accel, BlockOption, DEFAULT_CPU, Interface, KernelIrqchip, MEMORY_MAX, MEMORY_UNIT,
    MachineKind, OptionError, Options, Parsed, RtcBase,
};
use crate::qtest::{self, QtestServer};
use crate::soft::{self, Determinism, SoftCpus, Wires};
use crate::trace;
use crate::vm::{
    self, BridgeState, ExecutorCall, Exits, Guarded, ObjectFacts, Processors, Settings, Shared, Vm,
    since_epoch,
};
use crate::{error_text, firmware_images, report};
use kernel::Kernel;
use plug::plug_devices;

/// Firmware where `-bios` names none.
const DEFAULT_FIRMWARE: &str = "boot.rom";

/// Firmware images come in these units, and are at most [`ROM_MAX`] long: they end at 4 GiB, and
/// below 4 GiB - 16 MiB lie the interrupt controllers.
const ROM_UNIT: usize = 64 << 10;
/// See [`ROM_UNIT`].
const ROM_MAX: usize = 16 << 20;

/// Bytes of console output that wait for a slow reader.
const CONSOLE_OUT_MAX: usize = 1 << 20;

/// Runs the process: the whole of the binary.
pub fn main() -> ExitCode {
    let result = run();
    log::finish();
    match result {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            report(format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<i32, OptionError> {
    // One heap for all threads: processors allocate nothing while the guest runs, and another
    // heap for each would cost address space, memory and time.
    // SAFETY: only sets a parameter of the allocator, before there are threads.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    #[cfg(feature = "sabotage")]
    sabotage();
    let options = match options::parse(std::env::args_os().skip(1), CLASSES)? {
        Parsed::Run(options) => options,
        Parsed::Print(text) => {
            print!("{text}");
            return Ok(0);
        }
    };
    if options.cpu.as_deref() == Some("help") {
        print!("{}", cpuid::cpu_help());
        return Ok(0);
    }
    messages::configure(&options);
    check_globals(&options)?;
    if let Some(name) = &options.process_name {
        let origin = format!("-name process={name}");
        let name = std::ffi::CString::new(name.as_str())
            .map_err(|_| OptionError::new(&origin, "the name has a zero byte"))?;
        rustix::thread::set_name(&name).map_err(|error| failure(&origin)(error.into()))?;
    }
    for warning in &options.warnings {
        report(format_args!("warning: {warning}"));
    }
    if !options.missing.is_empty() {
        let missing = options.missing.join(", ");
        report(format_args!(
            "default devices that are not modelled yet: {missing}"
        ));
    }
    // Before there is any thread or descriptor of the accelerator's.
    let daemon = match options.daemonize {
        true => Some(daemonize::daemonize().map_err(failure("-daemonize"))?),
        false => None,
    };
    let pid_file = match &options.pidfile {
        Some(path) => {
            let origin = format!("-pidfile {path}");
            Some(PidFile::create(Path::new(path)).map_err(failure(&origin))?)
        }
        None => None,
    };
    descriptors::inherited::add(&options.add_fds)?;
    let event_loop = build(options)?;
    if let Some(daemon) = daemon {
        daemon.ready().map_err(failure("-daemonize"))?;
    }
    memory::release_stack();
    let status = event_loop.run();
    drop(pid_file);
    Ok(status)
}

/// Refuses `-global` for what is fixed on the boards.
fn check_globals(options: &Options) -> Result<(), OptionError> {
    // These two are listed as pluggable, but every board has its own, at the usual place.
    let fixed = |class: &&&DeviceClass| {
        !class.user_creatable || [rtc::CLASS.name, i8042::CLASS.name].contains(&class.name)
    };
    for class in CLASSES.iter().filter(fixed) {
        let (given, fixed) = (options.defaults_of(class), PropertyValues::new(class));
        for property in class.all_properties() {
            // What guests are told of sleeping states is the user's choice.
            let sleep = piix4_pm::CLASS.properties;
            let is_sleep = class.name == piix4_pm::CLASS.name
                && sleep.iter().any(|own| own.name == property.name);
            let free = [
                devices::kernel::LOST_TICK_POLICY,
                hpet::MSI,
                fdc::FALLBACK,
                mmio::FORCE_LEGACY,
                IOEVENTFD,
            ];
            let is_order = fdc::BOOT_INDICES.contains(&property.name);
            if is_sleep || is_order || free.contains(&property.name) {
                continue;
            }
            if given.get(property.name) != fixed.get(property.name) {
                let origin = format!("-global {}.{}", class.name, property.name);
                return Err(OptionError::new(
                    &origin,
                    "its value is fixed on every board",
                ));
            }
        }
    }
    Ok(())
}

/// Lets the command that THIMBLE_SABOTAGE names do nothing: for `cargo xtask sabotage`.
#[cfg(feature = "sabotage")]
fn sabotage() {
    let command = std::env::var("THIMBLE_SABOTAGE").ok();
    if let Some(index) = command.and_then(|name| thimble_monitor::SCHEMA.command(name.as_bytes())) {
        thimble_monitor::SABOTAGED.store(index, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Makes an error of an option from one of the system's.
fn failure(origin: &str) -> impl Fn(std::io::Error) -> OptionError {
    move |error| OptionError::new(origin, &error_text(&error))
}

/// What runs the guest.
enum Accelerator {
    Kvm(kvm::Kvm),
    /// The software CPU.
    Soft,
    /// A device test does, over its connection.
    Qtest,
    /// The board has no processors.
    None {
        /// KVM would run them.
        kvm: bool,
    },
}

/// Everything that the options ask for, with the guest running already unless they say otherwise.
///
/// # Errors
/// What can't be had, by the option that asks for it.
pub fn build(mut options: Box<Options>) -> Result<EventLoop, OptionError> {
    trace::start(&options)?;
    let options = options.as_mut();
    let internal = failure("start-up");
    let board = match options.machine.kind {
        MachineKind::Pc => Board::Pc,
        MachineKind::Microvm => Board::Microvm,
        MachineKind::None => Board::None,
    };
    let accelerator = choose_accelerator(options, board)?;

    let kvm_enabled = matches!(
        accelerator,
        Accelerator::Kvm(_) | Accelerator::None { kvm: true }
    );

    let kernel_irqchip = match (options.machine.kernel_irqchip, &accelerator) {
        (Some(KernelIrqchip::Split), _) => kvm::Irqchip::Split,
        (Some(KernelIrqchip::Off), _) => kvm::Irqchip::Off,
        (None, Accelerator::Kvm(kvm)) => kvm::Irqchip::best(kvm),
        _ => kvm::Irqchip::On,
    };
    if let (Some(true), Accelerator::Kvm(_), kvm::Irqchip::On) =
        (options.machine.ioapic2, &accelerator, kernel_irqchip)
    {
        let reason = "the kernel's own controllers are one I/O APIC: use kernel-irqchip=split";
        return Err(OptionError::new("-machine ioapic2=on", reason));
    }
    if let (false, Accelerator::Kvm(_), kvm::Irqchip::On) =
        (options.machine.pic, &accelerator, kernel_irqchip)
    {
        let reason = "the kernel's own controllers include 8259s: use kernel-irqchip=split";
        return Err(OptionError::new("-machine pic=off", reason));
    }
    let cpuid = cpuid_table(options, &accelerator, kernel_irqchip)?;
    let waker = Arc::new(Waker::new().map_err(&internal)?);
    let call = ExecutorCall::new(waker.clone());
    let caller = call.clone();
    let blocks = Graph::new(Executor::new(move || caller.call()));
    let (made, layout, mut ram, nodes) = make_objects(options, board, blocks.clone())?;
    if matches!(accelerator, Accelerator::Soft) {
        ram.keep_code_marks().map_err(failure("-accel tcg"))?;
    }
    let ram = Arc::new(ram);
    if options.mem_lock {
        rustix::mm::mlockall(
            rustix::mm::MlockAllFlags::CURRENT | rustix::mm::MlockAllFlags::FUTURE,
        )
        .map_err(|error| failure("-overcommit mem-lock=on")(error.into()))?;
    }
    let guest_ram: &Ram = leak(&ram);
    blocks.set_ram(guest_ram);
    drives::open(options, &blocks)?;
    let (mut flash, contents) = open_flash(options, board, &blocks)?;
    let (mut firmware, flash_rom) = match flash.is_empty() {
        true => (firmware(options)?, None),
        false => {
            let rom = Rom::new(&contents).map_err(&internal)?;
            (Vec::new(), Some(Arc::new(rom)))
        }
    };
    let (chips, below) = match &flash_rom {
        Some(rom) => flash.place(leak(rom)),
        // Its content comes once all that it tells is known; until then these are zeros that cost no memory.
        None => ([None; _], &*vec![0; firmware.len()].leak()),
    };

    let user_tables = tables::of_user(options)?;
    let acpi_size = match options.machine.acpi {
        true => acpi::image_size(&user_tables),
        false => 0,
    };
    let tsc_hz = matches!(accelerator, Accelerator::Soft).then_some(soft::TSC_HZ);
    let kernel = Kernel::load(options, layout, acpi_size, tsc_hz)?;
    let has_kernel = !kernel.table.is_empty();
    let numa = tables::numa_of(options, nodes);
    let rtc_start = rtc_base(options.rtc.base);
    let virtio_mmio = options.defaults_of(&mmio::CLASS);
    let config = Config {
        board,
        irqchip: match accelerator {
            Accelerator::Kvm(_) => match kernel_irqchip {
                kvm::Irqchip::Split => Irqchip::Split,
                kvm::Irqchip::Off => Irqchip::Machine,
                _ => Irqchip::Host,
            },
            _ => Irqchip::Machine,
        },
        pit: options.machine.pit,
        pic: options.machine.pic,
        // Guests have KVM's clock, as with QEMU's board.
        rtc: board == Board::Pc || options.machine.rtc.unwrap_or(!kvm_enabled),
        acpi: options.machine.acpi,
        hpet: options.machine.hpet,
        hpet_msi: options.defaults_of(&hpet::CLASS).is_on(hpet::MSI),
        ioapic2: options.machine.ioapic2 != Some(false),
        pcie: options.machine.pcie,
        virtio_mmio_legacy: virtio_mmio.is_on(mmio::FORCE_LEGACY),
        virtio_mmio_ioeventfd: kvm_enabled && virtio_mmio.is_on(IOEVENTFD),
        floppy_fallback: fdc::fallback(&options.defaults_of(&fdc::CLASS)),
        sleep: piix4_pm::sleep_states(&options.defaults_of(&piix4_pm::CLASS)),
        ram: leak::<Ram>(&ram),
        ram_size: options.memory,
        rom: below,
        flash: chips,
        cpus: options.smp.cpus as u16,
        max_cpus: options.smp.max_cpus as u16,
        local_apics: local_apics(options, &accelerator, kernel_irqchip, cpuid.as_ref()),
        rtc_base: rtc_start,
        rtc_slews: options.rtc_slews()?,
        uuid: options.uuid.unwrap_or_default(),
        numa,
        kernel: kernel.file,
        initrd: kernel.initrd,
        cmdline: kernel.append.as_bytes(),
        graphics: options.machine.graphics && !options.nographic,
        boot_settings: boot::settings(options)?,
        boot: kernel.table,
        testdev_memory: testdev_memory(options),
    };
    let mut place = Box::new_uninit();
    Machine::new_in(&mut place, config)
        .map_err(|error| OptionError::new("start-up", &error.to_string()))?;
    // SAFETY: the machine is in its place now.
    let mut machine = unsafe { place.assume_init() };

    let poller = Arc::new(Poller::new().map_err(&internal)?);
    let mut chardevs = Chardevs::new(poller.clone(), event_loop::CHARDEVS).map_err(&internal)?;
    chardevs.set_escape_key(options.escape_key);
    open_chardevs(options, &mut chardevs)?;
    // After the sockets: a server that waits for its client can be interrupted.
    let signals = event_loop::signals().map_err(&internal)?;

    // Before the consoles, which get the input of a shared terminal first.
    let mut monitors = Monitors::default();
    for monitor in &options.monitors {
        let place = chardev(&mut chardevs, &monitor.chardev)?;
        monitors.add(place, monitor.language);
    }
    let mut bridge_state = BridgeState::default();
    bridge_state.flash = flash.changes();
    let consoles = &mut bridge_state.consoles;
    if board == Board::Pc {
        boot::add_floppies(options, &mut machine)?;
    }
    if options.machine.option_roms {
        boot::add_option_roms(options, &mut machine)?;
    }
    let disks = plug_devices(
        options,
        &mut machine,
        &mut chardevs,
        consoles,
        &blocks,
        &made,
    )?;
    kernel.tell_of_devices(options, &mut machine)?;
    boot::add_order(&mut machine)?;
    if board == Board::Pc {
        let processor = cpuid.as_ref().map(|cpuid| cpuid.registers(1, 0));
        let is_boot_rom = has_kernel && !options.has_own_firmware();
        let rom = is_boot_rom.then_some(&mut firmware[..]);
        smbios::add(options, &mut machine, layout, processor, rom)?;
    }
    let rom = match flash_rom {
        Some(rom) => rom,
        None => {
            let rom = Arc::new(Rom::new(&firmware).map_err(&internal)?);
            machine.set_rom(leak(&rom).bytes());
            rom
        }
    };
    tables::add(options, &user_tables, &mut machine)?;
    let mut gdb = GdbServer::default();
    if let Some(id) = &options.gdb {
        gdb.attach(Some(chardev(&mut chardevs, id)?));
    }
    let qtest = match &options.qtest {
        Some(id) => Some(QtestServer::new(
            chardev(&mut chardevs, id)?,
            qtest_log(options)?,
        )),
        None => None,
    };

    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )
    .map_err(|error| internal(error.into()))?;

    let soft_memory = soft::Memory {
        ram: leak(&ram),
        rom: leak(&rom),
    };
    let running = match accelerator {
        Accelerator::Kvm(kvm) => {
            let map = machine.memory_map();
            let ticks = lost_ticks(options, kernel_irqchip)?;
            let vm = kvm::Vm::with_timer(kvm, kernel_irqchip, ticks, ram, Some(rom), map);
            let vm = vm.map_err(accelerator_error)?;
            if options.cpu_pm {
                vm.leave_idle_to_guest().map_err(|error| {
                    OptionError::new("-overcommit cpu-pm=on", &error.to_string())
                })?;
            }
            vm::Accelerator::Kvm(Arc::new(vm))
        }
        Accelerator::Soft => vm::Accelerator::Soft(Arc::new(Wires::new(options.smp.cpus))),
        Accelerator::Qtest | Accelerator::None { .. } => vm::Accelerator::None,
    };
    let guarded = Guarded {
        machine,
        chardevs,
        bridge_state,
        clock: match (&running, options.icount) {
            (vm::Accelerator::Soft(_), Some(_)) => Clock::Counted {
                now: Box::leak(Box::default()),
            },
            _ => Clock::Stopped { now: 0 },
        },
        input_waits: false,
        timer_at: 0,
    };
    let shared = Shared::new(guarded, running, waker.clone(), timer);
    let turn = Turn::new(blocks.clone());
    let readiness = blocks.executor.readiness();
    shared
        .set_disks(disks, turn.clone(), readiness, call, guest_ram)
        .map_err(&internal)?;
    let exits = || Arc::new(Exits::new(&shared));
    let log = open_log(options, kvm_enabled);
    let processors = match (shared.accelerator(), &cpuid) {
        (vm::Accelerator::Kvm(kvm), Some(cpuid)) => {
            Vcpus::new(kvm.clone(), options.smp.cpus, cpuid, exits())
                .map(Processors::Kvm)
                .map_err(|error| error.to_string())
                .map(Some)
        }
        (vm::Accelerator::Soft(wires), Some(cpuid)) => {
            let determinism = Determinism {
                icount: options.icount,
                seed: options.seed,
            };
            SoftCpus::new(
                wires.clone(),
                cpuid,
                soft_memory,
                exits(),
                log.clone(),
                determinism,
            )
            .map(Processors::Soft)
            .map_err(|error| error.to_string())
            .map(Some)
        }
        _ => Ok(None),
    };
    let processors = processors
        .map_err(|error| OptionError::new(&format!("-smp {}", options.smp.cpus), &error))?;
    let shown = cpuid.as_ref().map(|cpuid| {
        let name = cpu_model(options).split(',').next().unwrap_or_default();
        Processor::from_cpuid(name, &|leaf, subleaf| cpuid.registers(leaf, subleaf))
    });
    let firmware_name = options.bios.as_deref().unwrap_or(DEFAULT_FIRMWARE);
    let objects = ObjectFacts::new(options, firmware_name, shown);
    let settings = Settings {
        actions: options.actions,
        preconfig: options.preconfig,
        autostart: !options.paused && qtest.is_none(),
        name: options.name.clone(),
        uuid: options.uuid.unwrap_or_default(),
        kvm: kvm_enabled,
        icount: options.icount.is_some(),
        features: cpuid.as_ref().map(CpuidTable::features).unwrap_or_default(),
        cpus: if board == Board::None {
            0
        } else {
            options.smp.cpus
        },
        topology: topology(options),
        numa,
        log,
        rtc_start,
        rtc_clock: options.rtc.clock,
        rtc_path: shared
            .lock()
            .objects(&objects, &made, &blocks, true, |tree| rtc_path(&tree)),
        objects,
        made,
        blocks,
        flash,
        drive_options: options.blocks.clone(),
    };
    let waits = settings.preconfig || !settings.autostart;
    let mut vm = Vm::new(shared, processors, settings);
    vm.name_drives();
    vm.tell_media();
    if !waits {
        vm.start();
    }
    Ok(EventLoop {
        turn,
        poller,
        waker,
        signals,
        vm,
        monitors,
        qtest,
        gdb,
    })
}

/// The board's flash chips, and all that is in them.
fn open_flash(
    options: &Options,
    board: Board,
    blocks: &Graph,
) -> Result<(Flash, Vec<u8>), OptionError> {
    if board != Board::Pc {
        for option in &options.blocks {
            if let BlockOption::Drive(drive) = option
                && drive.interface == Interface::Pflash
            {
                let unit = drive.unit;
                let reason = format!("machine type does not support if=pflash,bus=0,unit={unit}");
                return Err(OptionError::new(&drive.origin, &reason));
            }
        }
    }
    let opened = Flash::open(options, blocks)?;
    if let (false, Some(bios)) = (opened.0.is_empty(), &options.bios) {
        report(format_args!(
            "warning: -bios {bios}: not used, as firmware is in flash"
        ));
    }
    Ok(opened)
}

/// Makes what `-object` asks for, and guest RAM: of one of these objects, or of a new one.
fn make_objects(
    options: &mut Options,
    board: Board,
    blocks: std::rc::Rc<Graph>,
) -> Result<(Objects, RamLayout, Ram, Vec<u64>), OptionError> {
    let defaults = Defaults {
        dump: options.machine.dump_guest_core,
        merge: options.machine.mem_merge,
        prealloc: options.memory_prealloc,
        threads: options.smp.cpus,
    };
    let mut made = Objects::new(defaults, blocks);
    for object in &options.objects {
        let added = made.add_text(&object.text);
        added.map_err(|error| OptionError::new(&object.origin, &error.to_string()))?;
    }
    let ram_id = options.machine.kind.ram_id();
    let memory = format!("-m {}M", options.memory >> 20);
    let mut nodes = Vec::new();
    let backings = match &options.machine.memory_backend {
        _ if !options.numa.memory.is_empty() => node_memory(options, &made, &mut nodes)?,
        Some(id) => {
            let origin = format!("-machine memory-backend={id}");
            let refused = |text: &str| OptionError::new(&origin, text);
            let size = made.memory(id).map_or(0, MemoryBackend::size);
            let mapping = made.use_as_ram(id);
            let mapping = mapping.map_err(|error| refused(&error.to_string()))?;
            if !options.memory_given {
                options.memory = size;
            }
            if options.memory != size {
                // QEMU's words.
                return Err(refused(
                    "Machine memory size does not match the size of the memory backend",
                ));
            }
            if !size.is_multiple_of(MEMORY_UNIT) || size > MEMORY_MAX {
                return Err(refused("guest RAM comes in units of 8 KiB, up to 512 GiB"));
            }
            vec![mapping]
        }
        // QEMU's has none then.
        None if board == Board::None && !options.memory_given => Vec::new(),
        None => {
            if let Some(object) = made.find_type(ram_id) {
                // QEMU's words.
                let reason = format!(
                    "object name '{ram_id}' is reserved for the default RAM backend, it can't be used for any other purposes. Change the object's 'id' to something else"
                );
                return Err(OptionError::new(&format!("-object {object}"), &reason));
            }
            let path = options.memory_path.as_deref();
            let origin = path.map_or(memory.clone(), |path| format!("-mem-path {path}"));
            let mapping = made.add_ram(ram_id, options.memory, path);
            if options.preconfig {
                made.hide_ram();
            }
            vec![mapping.map_err(|error| OptionError::new(&origin, &error.to_string()))?]
        }
    };
    let layout = RamLayout::new(board, options.memory);
    let ranges = [(0, layout.low), (HIGH_RAM_BASE, layout.high)];
    let ram = match backings.is_empty() {
        true => Ram::new(&ranges),
        false => Ram::of(backings, &ranges),
    };
    Ok((made, layout, ram.map_err(failure(&memory))?, nodes))
}

/// The backends of all NUMA nodes, and how large each node's is. What is refused is in QEMU's words.
fn node_memory(
    options: &Options,
    made: &Objects,
    nodes: &mut Vec<u64>,
) -> Result<Vec<Arc<Mapping>>, OptionError> {
    let mut backings = Vec::new();
    for (index, id) in options.numa.memory.iter().enumerate() {
        let Some(id) = id else {
            nodes.push(0);
            continue;
        };
        let origin = format!("-numa node,memdev={id}");
        let refused = |reason: &str| OptionError::new(&origin, reason);
        if options.numa.memory[..index].contains(&Some(id.clone())) {
            let end = "can't be used multiple times.";
            return Err(OptionError::sentence(&format!("memory backend {id}"), end));
        }
        let backend = made.memory(id);
        let size = backend.ok_or_else(|| refused(&format!("memdev={id} is ambiguous")))?;
        let size = size.size();
        if !size.is_multiple_of(MEMORY_UNIT) {
            return Err(refused("guest RAM comes in units of 8 KiB"));
        }
        let mapping = made.use_as_part(id);
        backings.push(mapping.map_err(|error| refused(&error.to_string()))?);
        nodes.push(size);
    }
    let total: u64 = nodes.iter().sum();
    let size = options.memory;
    if total != size {
        let end = format!("(0x{total:x}) should equal RAM size (0x{size:x})");
        return Err(OptionError::sentence("total memory for NUMA nodes", &end));
    }
    Ok(backings)
}

/// Memory for the local APICs that are the machine's own, for the life of the process.
fn local_apics(
    options: &Options,
    accelerator: &Accelerator,
    irqchip: kvm::Irqchip,
    cpuid: Option<&CpuidTable>,
) -> &'static mut [LocalApic] {
    let own = match accelerator {
        Accelerator::Kvm(_) => irqchip == kvm::Irqchip::Off,
        Accelerator::Soft => true,
        Accelerator::Qtest | Accelerator::None { .. } => false,
    };
    let Some(cpuid) = cpuid.filter(|_| own) else {
        return &mut [];
    };
    // Those whose ids don't fit are refused with the processors.
    let apic = |index| LocalApic::new(cpuid.local_apic(index));
    (0..options.smp.cpus).map(apic).collect::<Vec<_>>().leak()
}

/// Lends what an [`Arc`] holds for the life of the process.
fn leak<T>(arc: &Arc<T>) -> &'static T {
    Box::leak(Box::new(arc.clone()))
}

/// Memory for `pc-testdev`, where it is asked for.
fn testdev_memory(options: &Options) -> &'static [AtomicU8] {
    let mut classes = options
        .devices
        .iter()
        .map(|device| device.properties.class());
    match classes.any(|class| class.name == pc_testdev::CLASS.name) {
        true => (0..pc_testdev::MEMORY)
            .map(|_| AtomicU8::new(0))
            .collect::<Vec<_>>()
            .leak(),
        false => &[],
    }
}

/// What the kernel's interval timer does about lost ticks; `None` where it is not to model one.
fn lost_ticks(
    options: &Options,
    irqchip: kvm::Irqchip,
) -> Result<Option<kvm::LostTicks>, OptionError> {
    if !options.machine.pit || irqchip != kvm::Irqchip::On {
        return Ok(None);
    }
    let policy = options.lost_tick_policy();
    let ticks = kvm::LostTicks::parse(&policy).ok_or_else(|| {
        let origin = format!("-global kvm-pit.lost_tick_policy={policy}");
        OptionError::new(&origin, "Lost tick policy not supported.")
    })?;
    Ok(Some(ticks))
}

fn accelerator_error(error: KvmError) -> OptionError {
    OptionError::new("-accel kvm", &error.to_string())
}

/// The first accelerator that can be had, of those that were asked for or else of all that run
/// guest code.
fn choose_accelerator(options: &Options, board: Board) -> Result<Accelerator, OptionError> {
    let wanted: &[Accel] = match options.machine.accels.as_slice() {
        [] if options.icount.is_some() => &[Accel::Tcg],
        [] => &[Accel::Kvm, Accel::Tcg],
        given => given,
    };
    let mut reason: Option<OptionError> = None;
    for accel in wanted {
        let chosen = match accel {
            Accel::Qtest => Accelerator::Qtest,
            // There is nothing to run.
            Accel::Tcg if board == Board::None => Accelerator::None { kvm: false },
            Accel::Tcg => Accelerator::Soft,
            Accel::Kvm => match kvm::open() {
                Ok(_) if board == Board::None => Accelerator::None { kvm: true },
                Ok(kvm) => Accelerator::Kvm(kvm),
                Err(error) => {
                    reason.get_or_insert(accelerator_error(error));
                    continue;
                }
            },
        };
        if options.icount.is_some()
            && matches!(
                chosen,
                Accelerator::Kvm(_) | Accelerator::None { kvm: true }
            )
        {
            // QEMU's sentence.
            let reason = "is not allowed with hardware virtualization";
            return Err(OptionError::sentence("-icount", reason));
        }
        if let (Some(reason), Accelerator::Soft) = (reason, &chosen) {
            report(format_args!("{reason}: using the software CPU"));
        }
        return Ok(chosen);
    }
    Err(reason.unwrap_or_else(|| OptionError::new("-accel", "no accelerator was named")))
}

fn topology(options: &Options) -> Topology {
    let smp = &options.smp;
    Topology {
        sockets: smp.sockets,
        cores: smp.cores,
        threads: smp.threads,
    }
}

fn cpu_model(options: &Options) -> &str {
    options.cpu.as_deref().unwrap_or(DEFAULT_CPU)
}

/// What processors show of themselves, where there are some.
fn cpuid_table(
    options: &Options,
    accelerator: &Accelerator,
    irqchip: kvm::Irqchip,
) -> Result<Option<CpuidTable>, OptionError> {
    let model = cpu_model(options);
    let origin = format!("-cpu {model}");
    let refused = |error: CpuError| OptionError::new(&origin, &error.to_string());
    let offer = match accelerator {
        Accelerator::Kvm(kvm) => kvm::offer(kvm, irqchip)
            .map_err(|error| refused(CpuError::Accelerator(error.to_string())))?,
        Accelerator::Soft => soft::offer(),
        Accelerator::Qtest | Accelerator::None { .. } => return Ok(None),
    };
    let spec = CpuSpec::parse(model).map_err(refused)?;
    let (table, warnings) = CpuidTable::new(offer, &spec, topology(options)).map_err(refused)?;
    // Nobody asked for the default model's features.
    for warning in warnings.iter().filter(|_| options.cpu.is_some()) {
        report(format_args!("warning: {warning}"));
    }
    Ok(Some(table))
}

/// The firmware image, at its full length.
fn firmware(options: &Options) -> Result<Vec<u8>, OptionError> {
    let name = options.bios.as_deref().unwrap_or(DEFAULT_FIRMWARE);
    let origin = format!("-bios {name}");
    let path = options.find_firmware(name);
    let image = match (path.exists(), firmware_images::find(name)) {
        (false, Some(image)) => {
            // The built-in ones are stored from their first used byte on.
            let mut whole = vec![0xff; image.len().next_multiple_of(ROM_UNIT) - image.len()];
            whole.extend_from_slice(image);
            whole
        }
        _ => read_file(&origin, &path, ROM_MAX as u64)?,
    };
    if image.is_empty() || image.len() % ROM_UNIT != 0 {
        let length = image.len();
        let reason = format!("{length} bytes long; firmware comes in units of 64 KiB");
        return Err(OptionError::new(&origin, &reason));
    }
    Ok(image)
}

fn open(path: &Path) -> std::io::Result<(Opened, fs::Metadata)> {
    // A FIFO or a device must not hold up the start.
    let file = files::open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

fn read_file(origin: &str, path: &Path, most: u64) -> Result<Vec<u8>, OptionError> {
    let (file, metadata) = open(path).map_err(failure(origin))?;
    if !metadata.is_file() {
        return Err(OptionError::new(origin, "not a regular file"));
    }
    if metadata.len() > most {
        let reason = format!("{} bytes long; at most {most} fit", metadata.len());
        return Err(OptionError::new(origin, &reason));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // Who passed it may have read from it.
    let read = (&*file)
        .rewind()
        .and_then(|()| (&*file).take(most).read_to_end(&mut bytes));
    read.map_err(failure(origin))?;
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    events::load_file(bytes.len(), name, path.as_os_str().as_encoded_bytes());
    Ok(bytes)
}

fn open_chardevs(options: &Options, chardevs: &mut Chardevs) -> Result<(), OptionError> {
    for device in &options.chardevs {
        let id = Some(device.spec.id.as_str());
        let queue = if options.qtest.as_deref() == id {
            qtest::OUT_MAX
        } else if options
            .monitors
            .iter()
            .any(|monitor| Some(monitor.chardev.as_str()) == id)
        {
            MONITOR_OUT_MAX
        } else {
            CONSOLE_OUT_MAX
        };
        let opened = chardevs.open(&device.spec, queue);
        opened.map_err(|reason| OptionError::new(&device.origin, &reason))?;
    }
    Ok(())
}

/// A character device for one more user. That there is one, with room, the options have seen to.
fn chardev(chardevs: &mut Chardevs, id: &str) -> Result<ChardevId, OptionError> {
    let missing = || OptionError::new("-chardev", &format!("there is no '{id}'"));
    chardevs.attach(id).ok_or_else(missing)
}

fn qtest_log(options: &Options) -> Result<Option<Opened>, OptionError> {
    match options.qtest_log.as_deref() {
        Some("none") => Ok(None),
        None => {
            let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 0);
            Ok(copy.ok().map(|copy| File::from(copy).into()))
        }
        Some(path) => {
            let origin = format!("-qtest-log {path}");
            let log = files::create(Path::new(path));
            log.map(Some).map_err(failure(&origin))
        }
    }
}

/// The log: `-d`.
fn open_log(options: &Options, kvm: bool) -> Arc<Sink> {
    let unseen = options.log.items & Items::SOFTWARE;
    if kvm && !unseen.is_empty() {
        let names = unseen.names();
        report(format_args!(
            "-d {names}: nothing to log, as only the software CPU sees each instruction"
        ));
    }
    Arc::new(Sink::new(options.log.items, options.log_filter.clone()))
}

fn seconds_since_epoch() -> i64 {
    since_epoch().as_secs() as i64
}

/// Path of the real-time clock in the object tree; empty on a board without one.
fn rtc_path(tree: &Tree<'_>) -> EventText {
    let mut path = EventText::new();
    // The paths of a board's devices fit.
    let _ = tree.rtc_path(&mut path);
    path
}

/// What the real-time clock shows at the start, in seconds since 1970.
fn rtc_base(base: RtcBase) -> i64 {
    let now = seconds_since_epoch();
    match base {
        RtcBase::Utc => now,
        RtcBase::At(seconds) => seconds,
        RtcBase::LocalTime => {
            // Where no zone is configured, or its file says nothing, it is UTC, as for the C library.
            let zone = match std::env::var("TZ") {
                Ok(zone) => TimeZone::from_posix_tz(&zone).ok(),
                Err(_) => TimeZone::local().ok(),
            };
            let local =
                zone.and_then(|zone| Some(zone.find_local_time_type(now).ok()?.ut_offset()));
            now + i64::from(local.unwrap_or(0))
        }
    }
}
