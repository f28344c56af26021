//! The table of trace events: see [the module above](super).
//!
//! A row is a doc text, a name, arguments, and the format of what stands behind the name in a line. Each makes a function of that
//! name. Arguments are numbers, in the order of the format; behind a semicolon come texts. An event that belongs to processors
//! (`vcpu`) has the processor's index first.

/// What becomes a number of a line.
trait Number {
    fn number(self) -> u64;
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Number for $type {
            #[inline(always)]
            fn number(self) -> u64 {
                self as u64
            }
        })*
    };
}

numbers!(bool, u8, u16, u32, u64, usize, i16, i32, i64);

macro_rules! call {
    ($event:expr;) => { $event.tell_numbers(0, 0, 0, 0, 0) };
    ($event:expr; $a:ident) => { $event.tell_numbers($a.number(), 0, 0, 0, 0) };
    ($event:expr; $a:ident $b:ident) => { $event.tell_numbers($a.number(), $b.number(), 0, 0, 0) };
    ($event:expr; $a:ident $b:ident $c:ident) => {
        $event.tell_numbers($a.number(), $b.number(), $c.number(), 0, 0)
    };
    ($event:expr; $a:ident $b:ident $c:ident $d:ident) => {
        $event.tell_numbers($a.number(), $b.number(), $c.number(), $d.number(), 0)
    };
    ($event:expr; $a:ident $b:ident $c:ident $d:ident $e:ident) => {
        $event.tell_numbers($a.number(), $b.number(), $c.number(), $d.number(), $e.number())
    };
    ($event:expr; ; $text:ident) => { $event.tell_text($text, 0, 0, 0) };
    ($event:expr; $a:ident; $text:ident) => { $event.tell_text($text, $a.number(), 0, 0) };
    ($event:expr; $a:ident $b:ident; $text:ident) => {
        $event.tell_text($text, $a.number(), $b.number(), 0)
    };
    ($event:expr; $a:ident $b:ident $c:ident; $text:ident) => {
        $event.tell_text($text, $a.number(), $b.number(), $c.number())
    };
    // More of them: seldom told.
    ($event:expr; $($number:ident)*; $($text:ident)*) => {
        $event.tell(&[$($number.number()),*], &[$($text),*])
    };
}

/// Whether a row belongs to processors.
macro_rules! is_vcpu {
    () => {
        false
    };
    (vcpu) => {
        true
    };
}

macro_rules! events {
    ($(
        $(#[doc = $doc:literal])+
        $(($vcpu:ident))? $name:ident($($number:ident: $type:ty),* $(; $($text:ident),+)?) $format:literal
    )*) => {
        /// A trace event.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Event {
            $($(#[doc = $doc])+ $name,)*
        }

        const ALL: &[Event] = &[$(Event::$name),*];

        /// How many there are.
        pub const COUNT: usize = ALL.len();

        /// A line for each: its name, a space, its format.
        pub(super) const TABLE: &str = concat!($(stringify!($name), " ", $format, "\n"),*);

        const VCPU_FLAGS: [bool; COUNT] = [$(is_vcpu!($($vcpu)?)),*];

        impl Event {
            /// The event with this number, below [`COUNT`].
            pub fn from_index(index: usize) -> Option<Self> {
                ALL.get(index).copied()
            }
        }

        $(
            $(#[doc = $doc])+
            #[inline(always)]
            pub fn $name($($number: $type,)* $($($text: &[u8]),+)?) {
                const {
                    let (numbers, texts) = places($format.as_bytes());
                    assert!(numbers == count(&[$(stringify!($number)),*]));
                    assert!(texts == count(&[$($(stringify!($text)),+)?]));
                }
                if Event::$name.is_on() {
                    call!(Event::$name; $($number)* $(; $($text)+)?);
                }
            }
        )*
    };
}

const fn count(names: &[&str]) -> usize {
    names.len()
}

/// How many numbers and texts a format takes.
const fn places(format: &[u8]) -> (usize, usize) {
    let (mut numbers, mut texts, mut at) = (0, 0, 0);
    while at < format.len() {
        if format[at] == b'{' {
            if format[at + 1] == b's' {
                texts += 1;
            } else {
                numbers += 1;
            }
        }
        at += 1;
    }
    (numbers, texts)
}

const VCPU_COUNT: usize = {
    let (mut count, mut index) = (0, 0);
    while index < COUNT {
        count += VCPU_FLAGS[index] as usize;
        index += 1;
    }
    count
};

/// Those that belong to processors.
pub(super) const VCPU: [Event; VCPU_COUNT] = {
    let (mut found, mut count, mut index) = ([ALL[0]; VCPU_COUNT], 0, 0);
    while index < COUNT {
        if VCPU_FLAGS[index] {
            found[count] = ALL[index];
            count += 1;
        }
        index += 1;
    }
    found
};

events! {
    // ---- The bus ------------------------------------------------------------------------------

    /// A processor or a test reads a port. `size` is `b`, `w` or `l`.
    cpu_in(addr: u16, size: u8, value: u32) "addr 0x{x}({c}) value {}"
    /// A processor or a test writes a port.
    cpu_out(addr: u16, size: u8, value: u32) "addr 0x{x}({c}) value {}"
    /// A device answers a read of its registers, by ports or memory. QEMU tells the processor and an address of its own, too.
    memory_region_ops_read(addr: u64, value: u64, size: u8; device) "addr 0x{x} value 0x{x} size {} name '{s}'"
    /// A device takes a write to its registers.
    memory_region_ops_write(addr: u64, value: u64, size: u8; device) "addr 0x{x} value 0x{x} size {} name '{s}'"
    /// Which memory answers where has changed.
    memory_region_transaction_commit(regions: usize) "regions {}"
    /// A port is read that no device has. `-d guest_errors` switches these on.
    guest_error_port_read(addr: u16, size: u8) "addr 0x{x} size {}"
    /// A port is written that no device has.
    guest_error_port_write(addr: u16, size: u8, value: u32) "addr 0x{x} size {} value 0x{x}"
    /// Memory is read where nothing is.
    guest_error_memory_read(addr: u64, size: usize) "addr 0x{x} size {}"
    /// Memory is written where nothing is.
    guest_error_memory_write(addr: u64, size: usize) "addr 0x{x} size {}"

    // ---- Interrupts ---------------------------------------------------------------------------

    /// A line of the board rises or falls.
    x86_gsi_interrupt(gsi: u8, level: bool) "GSI interrupt #{} level:{}"
    /// The output of the 8259As rises or falls.
    x86_pic_interrupt(irq: u8, level: bool) "PIC interrupt #{} level:{}"
    /// An input of an 8259A is driven.
    pic_set_irq(master: bool, irq: u8, level: bool) "master {} irq {} level {}"
    /// An 8259A has a request for who is behind it.
    pic_update_irq(master: bool, imr: u8, irr: u8, padd: u8) "master {} imr {} irr {} padd {}"
    /// A processor acknowledges an interrupt of the 8259As.
    pic_interrupt(irq: u8, intno: u8) "irq {} intno {}"
    /// A register of an 8259A is written.
    pic_ioport_write(master: bool, addr: u16, value: u8) "master {} addr 0x{x} val 0x{x}"
    /// A register of an 8259A is read.
    pic_ioport_read(master: bool, addr: u16, value: u8) "master {} addr 0x{x} val 0x{x}"
    /// An edge/level control register is written.
    elcr_ioport_write(master: bool, value: u8) "master {} val 0x{x}"
    /// An input of the I/O APIC is driven.
    ioapic_set_irq(vector: u8, level: bool) "vector: {} level: {}"
    /// The I/O APIC is read.
    ioapic_mem_read(addr: u8, regsel: u8, size: u8, value: u64) "ioapic mem read addr 0x{x} regsel: 0x{x} size 0x{x} retval 0x{x}"
    /// The I/O APIC is written.
    ioapic_mem_write(addr: u8, regsel: u8, size: u8, value: u64) "ioapic mem write addr 0x{x} regsel: 0x{x} size 0x{x} val 0x{x}"
    /// A level-triggered interrupt of the I/O APIC is under way.
    ioapic_set_remote_irr(pin: u32) "set remote irr for pin {}"
    /// A level-triggered interrupt of the I/O APIC has ended.
    ioapic_clear_remote_irr(pin: usize, vector: u8) "clear remote irr for pin {} vector {}"
    /// A processor tells the I/O APIC of the end of a vector.
    ioapic_eoi_broadcast(vector: u8) "EOI broadcast for vector {}"
    /// A local APIC is read. QEMU does not tell whose.
    apic_mem_readl(addr: u64, value: u32) "0x{x} = 0x{8x}"
    /// A local APIC is written.
    apic_mem_writel(addr: u64, value: u32) "0x{x} = 0x{8x}"
    /// A processor reads IA32_APIC_BASE.
    cpu_get_apic_base(value: u64) "0x{16x}"
    /// A processor writes IA32_APIC_BASE.
    cpu_set_apic_base(value: u64) "0x{16x}"
    /// A message goes to local APICs.
    apic_deliver_irq(dest: u32, dest_mode: bool, delivery_mode: u8, vector: u8, trigger_mode: bool) "dest {} dest_mode {} delivery_mode {} vector {} trigger_mode {}"
    /// An entry of a local APIC's own vector table is due.
    apic_local_deliver(vector: usize, lvt: u32) "vector {} delivery mode {}"
    /// A processor takes an interrupt from its local APIC.
    apic_acknowledge(cpu: usize, vector: u8) "cpu {} vector {}"
    /// A processor has sent a message whose destination no local APIC has.
    guest_error_apic_destination(dest: u32) "dest {}"

    // ---- Devices ------------------------------------------------------------------------------

    /// A register of a serial port is read.
    serial_read(addr: u16, value: u8) "read addr 0x{2x} val 0x{2x}"
    /// A register of a serial port is written.
    serial_write(addr: u16, value: u8) "write addr 0x{2x} val 0x{2x}"
    /// A serial port's line is set up.
    serial_update_parameters(baudrate: u32, parity: u8, data_bits: u8, stop_bits: u8) "baudrate={} parity='{c}' data={} stop={}"
    /// Bytes arrive at a serial port, so many of which are taken.
    serial_receive(offered: usize, taken: usize) "bytes {} taken {}"
    /// A serial port's interrupt is looked after: what its IIR would read.
    serial_update_irq(iir: u8) "iir 0x{2x}"
    /// A register of the interval timer is read; 4 is port 61h.
    pit_ioport_read(addr: u16, value: u8) "addr 0x{x} val 0x{x}"
    /// A register of the interval timer is written.
    pit_ioport_write(addr: u16, value: u8) "addr 0x{x} val 0x{x}"
    /// A counter of the interval timer begins a count, at a tick of its clock.
    pit_load(count: u32, mode: u8, tick: u64) "count {} mode {} tick {}"
    /// Data of the real-time clock is read: its index.
    rtc_read(index: usize, value: u8) "index 0x{2x} val 0x{2x}"
    /// Data of the real-time clock is written.
    rtc_write(index: usize, value: u8) "index 0x{2x} val 0x{2x}"
    /// The guest sets its clock: seconds ahead of the one it was started with.
    rtc_set_time(offset: i64) "offset {d}"
    /// Flags of the real-time clock's register C, after a timer.
    rtc_timer(flags: u8) "flags 0x{2x}"
    /// The keyboard controller's data are read.
    pckbd_kbd_read_data(value: u8) "0x{2x}"
    /// The keyboard controller's status is read.
    pckbd_kbd_read_status(value: u8) "0x{2x}"
    /// The keyboard controller's output port is written.
    pckbd_outport_write(value: u8) "0x{2x}"
    /// The keyboard controller gets a command.
    pckbd_kbd_write_command(value: u8) "0x{2x}"
    /// The keyboard controller gets data.
    pckbd_kbd_write_data(value: u8) "0x{2x}"
    /// The keyboard controller gets a command that it does not have. `-d unimp` switches these on.
    unimp_pckbd_command(value: u8) "0x{2x}"
    /// A key goes down or up: its place among QMP's key codes.
    ps2_keyboard_event(qcode: u8, down: bool, modifiers: u8, set: u8, xlate: bool) "qcode {} down {} modifiers 0x{x} set {} xlate {}"
    /// The keyboard sends a byte of a key, which the keyboard controller may translate.
    ps2_put_keycode(keycode: u8) "keycode 0x{2x}"
    /// The mouse moves.
    ps2_mouse_event(dx: i32, dy: i32, dz: i32, buttons: u8) "dx {d} dy {d} dz {d} buttons 0x{x}"
    /// The guest takes a byte of the keyboard or the mouse.
    ps2_read_data() ""
    /// The keyboard gets a byte.
    ps2_write_keyboard(value: u8) "val {}"
    /// The mouse gets a byte.
    ps2_write_mouse(value: u8) "val {}"
    /// The keyboard's LEDs are set.
    ps2_set_ledstate(state: u8) "ledstate {}"
    /// The keyboard gets its defaults by a command.
    ps2_reset_keyboard() ""
    /// The keyboard is reset with the machine.
    ps2_kbd_reset() ""
    /// The mouse is reset with the machine.
    ps2_mouse_reset() ""
    /// The keyboard controller translates scan codes from now on, or does not.
    ps2_keyboard_set_translation(mode: bool) "mode {}"
    /// A command for the keyboard that it does not have.
    unimp_ps2_keyboard_command(value: u8) "0x{2x}"
    /// A command for the mouse that it does not have.
    unimp_ps2_mouse_command(value: u8) "0x{2x}"
    /// Port 92h is read.
    port92_read(value: u8) "port92: read 0x{2x}"
    /// Port 92h is written.
    port92_write(value: u8) "port92: write 0x{2x}"
    /// Address bit 20 passes from now on, or does not.
    a20_set(open: bool) "open {}"
    /// Firmware tells how far it has come.
    post_write(code: u8) "code 0x{2x}"
    /// A flash chip is reset.
    pflash_reset(; name) "{s}: reset"
    /// A flash chip is read.
    pflash_io_read(offset: u32, size: u8, value: u32; name) "{s}: offset:0x{4x} size:{} value:0x{4x}"
    /// A flash chip is written.
    pflash_io_write(offset: u32, size: u8, value: u32; name) "{s}: offset:0x{4x} size:{} value:0x{4x}"
    /// A flash chip gives its contents again.
    pflash_mode_read_array(; name) "{s}: read array mode"
    /// A sector is erased.
    pflash_write_block_erase(offset: u32, bytes: usize; name) "{s}: block erase offset:0x{x} bytes:0x{x}"
    /// The write buffer is programmed.
    pflash_write_block_flush(; name) "{s}: block write flush"
    /// A flash chip has no such command.
    pflash_write_unknown(offset: u32, cmd: u8; name) "{s}: unknown command offset:0x{4x} cmd:0x{2x}"
    /// A channel of the DMA controllers is to run that no device is on.
    i8257_unregistered_dma(nchan: usize, dma_pos: u32, dma_len: u32) "unregistered DMA channel used nchan={} dma_pos={} dma_len={}"
    /// A register of a parallel port is read.
    parallel_ioport_read(addr: u16, value: u8; desc) "read [{s}] addr 0x{2x} val 0x{2x}"
    /// A register of a parallel port is written.
    parallel_ioport_write(addr: u16, value: u8; desc) "write [{s}] addr 0x{2x} val 0x{2x}"
    /// A byte for a debug console.
    debugcon_write(console: u8, value: u8) "console {} val 0x{2x}"
    /// The guest ends the process.
    debug_exit_write(value: u32) "val 0x{x}"
    /// The guest tells of a panic.
    pvpanic_write(value: u32) "val 0x{x}"
    /// The watchdog is set, or stopped by a time of 0: nanoseconds of the virtual clock.
    ib700_arm(deadline: u64) "deadline {}"
    /// The guest is late.
    ib700_expired() ""
    /// The test device's registers are read.
    testdev_read(offset: u16, value: u32) "offset 0x{x} val 0x{x}"
    /// The test device's registers are written.
    testdev_write(offset: u16, value: u32) "offset 0x{x} val 0x{x}"
    /// ACPI's fixed hardware is read.
    acpi_pm_read(offset: u16, width: u8, value: u32) "addr: 0x{x} width: {} ==> 0x{x}"
    /// ACPI's fixed hardware is written.
    acpi_pm_write(offset: u16, width: u8, value: u32) "addr: 0x{x} width: {} <== 0x{x}"
    /// ACPI's interrupt rises or falls.
    acpi_sci(level: bool) "level {}"
    /// General-purpose events are read.
    piix4_gpe_readb(addr: u16, width: u8, value: u32) "addr: 0x{x} width: {} ==> 0x{x}"
    /// General-purpose events are written.
    piix4_gpe_writeb(addr: u16, width: u8, value: u32) "addr: 0x{x} width: {} <== 0x{x}"
    /// The power management's command port is read.
    apm_io_read(addr: u16, value: u32) "read addr=0x{x} val=0x{2x}"
    /// The power management's command port is written.
    apm_io_write(addr: u16, value: u32) "write addr=0x{x} val=0x{2x}"
    /// Firmware's configuration: an item is selected, if there could be one of this key.
    fw_cfg_select(key: u16, valid: bool; name) "key 0x{4x} '{s}', ret: {}"
    /// Firmware's configuration: a byte is read; and a transfer, as 0.
    fw_cfg_read(value: u8) "= 0x{x}"
    /// Firmware's configuration: a transfer to memory, with its control word as it was asked for and as it is answered.
    fw_cfg_dma(gpa: u64, control: u32, length: u32, answer: u32) "gpa 0x{x} control 0x{x} length {} answer 0x{x}"
    /// Firmware's configuration gets a file.
    fw_cfg_add_file(index: usize, length: usize; name) "#{}: {s} ({} bytes)"
    /// A transfer of firmware's configuration to where no memory is.
    guest_error_fw_cfg_dma(gpa: u64) "gpa 0x{x}"

    // ---- PCI ----------------------------------------------------------------------------------

    /// A register of a PCI function is read.
    pci_cfg_read(bus: u8, device: u8, function: u8, offset: u16, value: u32; name) "{s} {2x}:{2x}.{} @0x{x} -> 0x{x}"
    /// A register of a PCI function is written.
    pci_cfg_write(bus: u8, device: u8, function: u8, offset: u16, value: u32; name) "{s} {2x}:{2x}.{} @0x{x} <- 0x{x}"
    /// Configuration space is read or written where no function is.
    guest_error_pci_cfg(bus: u8, device: u8, function: u8) "{2x}:{2x}.{}"

    // ---- Drives -------------------------------------------------------------------------------

    /// A controller wants something of a drive: its number for it, the first byte, and how many.
    block_request(drive: u8, tag: u32, offset: u64, bytes: u64) "drive {} tag 0x{x} offset {} bytes {}"
    /// Something of a drive has ended.
    block_done(drive: u8, tag: u32, ok: bool) "drive {} tag 0x{x} ok {}"

    // ---- IDE ----------------------------------------------------------------------------------

    /// A register of an IDE channel is read.
    ide_ioport_read(offset: u16, val: u8) "IDE PIO rd @ 0x{x}; val 0x{2x}"
    /// A register of an IDE channel is written.
    ide_ioport_write(offset: u16, val: u8) "IDE PIO wr @ 0x{x}; val 0x{2x}"
    /// An IDE channel's alternate status is read.
    ide_status_read(val: u8) "IDE PIO rd @ Alt Status; val 0x{2x}"
    /// An IDE channel's device control is written.
    ide_ctrl_write(val: u8) "IDE PIO wr @ Device Control; val 0x{2x}"
    /// An IDE drive, 0 or 1 of its channel, gets a command.
    ide_exec_cmd(unit: u8, cmd: u8) "IDE exec cmd: unit {}; cmd 0x{2x}"
    /// An IDE drive for CDs gets a packet.
    ide_atapi_cmd(cmd: u8) "IDE: packet cmd 0x{2x}"
    /// An IDE bus master is started, or stopped.
    bmdma_cmd_write(val: u8) "val: 0x{8x}"

    // ---- Floppy disks -------------------------------------------------------------------------

    /// A register of the floppy disk controller is read.
    fdc_ioport_read(reg: u16, value: u8) "read reg 0x{2x} val 0x{2x}"
    /// A register of the floppy disk controller is written.
    fdc_ioport_write(reg: u16, value: u8) "write reg 0x{2x} val 0x{2x}"

    // ---- Virtio -------------------------------------------------------------------------------

    /// A virtio device in memory is read.
    virtio_mmio_read(offset: u64) "virtio_mmio_read offset 0x{x}"
    /// A virtio device in memory is written.
    virtio_mmio_write_offset(offset: u64, value: u32) "virtio_mmio_write offset 0x{x} value 0x{x}"
    /// A legacy driver of a virtio device in memory says how large pages are.
    virtio_mmio_guest_page(size: u32, shift: u8) "guest page size 0x{x} shift {}"
    /// A driver of a virtio device in memory sets up a queue.
    virtio_mmio_queue_write(value: u32, max_size: u16) "mmio_queue write 0x{x} max {}"
    /// The interrupt of a virtio device in memory changes.
    virtio_mmio_setting_irq(level: bool) "virtio_mmio setting IRQ {}"
    /// A driver says that a queue has buffers.
    virtio_queue_notify(n: u16) "n {}"
    /// A driver sets the device status.
    virtio_set_status(val: u8) "val {}"
    /// A buffer goes back to the driver.
    virtqueue_flush(queue: u16, head: u16, written: u32) "queue {} head {} written {}"
    /// A driver breaks a rule of queues, by our number of it: the device stops.
    guest_error_virtio(error: u8) "error {}"
    /// A disk is read or written.
    virtio_blk_handle(write: bool, sector: u64, nsectors: u64) "write {} sector {} nsectors {}"
    /// A request of a disk has ended.
    virtio_blk_req_complete(queue: u16, head: u16, status: u8) "queue {} req {} status {}"

    // ---- The machine --------------------------------------------------------------------------

    /// The machine is reset.
    machine_reset(now: u64) "now {}"
    /// A timer of the machine's expires.
    timer_expired(slot: u8, now: u64) "slot {} now {}"
    /// The guest or the host asks for a reset.
    qemu_system_reset_request(; cause) "reason={s}"
    /// The guest or the host asks for the end.
    qemu_system_shutdown_request(; cause) "reason={s}"
    /// The power button is pressed.
    qemu_system_powerdown_request() ""
    /// Something wakes a machine up that sleeps: 1 is its clock, 3 is somebody at it.
    system_wakeup_request(reason: u32) "reason={}"
    /// What the VM is doing changes.
    runstate_set(old: u32, new: u32; old_name, new_name) "current_run_state {} ({s}) new_state {} ({s})"
    /// The VM has begun to run, or has stopped.
    vm_state_notify(running: bool, reason: u32; name) "running {} reason {} ({s})"
    /// A section of saved state is written.
    vmstate_save(version: u16, length: usize; name) "{s}, version {}, {} bytes"
    /// A section of saved state is taken over.
    vmstate_load(version: u16; name) "{s}, version {}"

    // ---- Processors ---------------------------------------------------------------------------

    /// A processor has been made.
    (vcpu) guest_cpu_enter(cpu: u32) "cpu={}"
    /// A processor is reset.
    (vcpu) guest_cpu_reset(cpu: u32) "cpu={}"
    /// The software CPU decodes a block, by its guest physical address.
    translate_block(gpa: u64, length: usize) "gpa:0x{x}, bytes:{}"
    /// The software CPU forgets the code of a page that was written.
    tb_invalidate_page(gpa: u64) "gpa:0x{x}"
    /// The software CPU's guest reads a model-specific register, and that faults: it is not there, say.
    guest_error_rdmsr(index: u32) "index 0x{x}"
    /// The software CPU's guest writes a model-specific register, and that faults.
    guest_error_wrmsr(index: u32, value: u64) "index 0x{x} value 0x{x}"

    // ---- KVM ----------------------------------------------------------------------------------

    /// KVM comes back from the guest, with KVM_EXIT's number.
    kvm_run_exit(cpu_index: u32, reason: u32) "cpu_index {}, reason {}"
    /// A memory slot of KVM is set.
    kvm_set_user_memory(slot: u32, flags: u32, gpa: u64, size: u64) "Slot#{} flags=0x{x} gpa=0x{x} size=0x{x}"
    /// KVM's interrupt routes are handed over.
    kvm_irqchip_commit_routes(routes: usize) "routes {}"
    /// A processor of KVM's is made.
    kvm_init_vcpu(cpu_index: u32, arch_cpu_id: u32) "index: {} id: {}"
    /// KVM is handed a message-signalled interrupt.
    kvm_send_msi(address: u64, data: u32) "address 0x{x} data 0x{x}"
    /// KVM is told an interrupt line's level.
    kvm_set_irq(irq: u32, level: bool) "irq {} level {}"

    // ---- Monitors -----------------------------------------------------------------------------

    /// A command has come: its message, without what might be secret in it.
    handle_qmp_command(monitor: usize; request) "mon 0x{x} req: {s}"
    /// A command waits behind another one.
    monitor_qmp_in_band_enqueue(monitor: usize, waiting: usize) "mon 0x{x} len {}"
    /// A command waits no longer.
    monitor_qmp_in_band_dequeue(monitor: usize, waiting: usize) "mon 0x{x} len {}"
    /// A command is executed in its turn: its id.
    monitor_qmp_cmd_in_band(; id) "{s}"
    /// A command is executed out of its turn: its id.
    monitor_qmp_cmd_out_of_band(; id) "{s}"
    /// A message can't be understood.
    monitor_qmp_err_in_band(; reason) "{s}"
    /// An answer or an event goes to a client.
    monitor_qmp_respond(monitor: usize; reply) "mon 0x{x} resp: {s}"
    /// A command goes on in the background, or has ended.
    monitor_suspend(monitor: usize, change: i32) "mon 0x{x}: {d}"
    /// An event has happened.
    monitor_protocol_event_queue(event: usize, rate: u64; name) "event={} {s} rate={}"
    /// An event is told.
    monitor_protocol_event_emit(event: usize; name) "event={} {s}"
    /// The human monitor gets a line.
    handle_hmp_command(; line) "cmdline: {s}"

    // ---- The process --------------------------------------------------------------------------

    /// A file of the command line is read.
    load_file(size: usize; name, location) "name {s} location {s} size {}"
    /// Aligned memory is taken from the system: where it is in the process.
    qemu_memalign(alignment: u64, size: usize, ptr: usize) "alignment {} size {} ptr 0x{x}"
    /// Memory for the guest is taken from the system.
    qemu_anon_ram_alloc(size: usize, ptr: usize) "size {} ptr 0x{x}"
    /// A test's command.
    qtest_command(; line) "{s}"
    /// The event loop waits, for milliseconds; -1 is for ever.
    event_loop_wait(timeout: i64) "timeout {d}"
    /// The event loop has found descriptors that are ready.
    event_loop_ready(events: usize) "events {}"
    /// A character device's other side is there.
    chardev_open(; id) "id {s}"
    /// A character device's other side has gone.
    chardev_close(; id) "id {s}"
    /// Bytes have come from a character device.
    chardev_read(bytes: usize; id) "id {s} bytes {}"
    /// Bytes go to a character device, so many of which it takes now.
    chardev_write(bytes: usize, taken: usize; id) "id {s} bytes {} taken {}"
    /// A server socket waits for clients.
    socket_listen(backlog: i32) "backlog: {d}"
    /// The process got a signal.
    signal(number: u32) "number {}"
}
