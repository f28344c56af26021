//! What firmware boots from: the letters of CMOS, the files that tell of the rest, and option ROMs.

use super::{Board, DeviceError, Machine, PciSlot, Plugged};
use crate::devices::Context;
use crate::devices::class::{BOOT_INDEX, Value};
use crate::firmware::boot_order::{
    self, BootSettings, Entries, EntryError, FILE_MAX, Letters, LettersError, Path,
};
use crate::firmware::{Content, FwCfg, FwCfgError, fw_cfg};
use crate::pci::BusId;
use crate::state::{SavedState, StateError};

/// Where firmware finds option ROMs.
const OPTION_ROMS: &str = "genroms/";

/// Bridges between a PCI device and the host bridge that a path names at most.
const DEPTH_MAX: usize = super::PCI_BRIDGES_MAX + 1;

/// The boot order.
pub(super) struct Boot {
    order: Letters,
    /// Whether the order holds until the next reset only.
    once: bool,
    strict: bool,
    floppy_signature: bool,
    entries: Entries,
}

impl Boot {
    pub(super) fn new(settings: &BootSettings<'_>) -> Self {
        Self {
            order: settings.order,
            once: settings.once.is_some(),
            strict: settings.strict,
            floppy_signature: settings.floppy_signature,
            entries: Entries::new(),
        }
    }
}

/// Whether the first order still holds. What it is stands in CMOS.
impl SavedState for Boot {
    const NAME: &'static str = "boot-order";
    const VERSION: u16 = 1;
    type Saved = bool;

    fn save(&self) -> bool {
        self.once
    }

    fn load(&mut self, once: bool, _cx: &mut Context<'_>) -> Result<(), StateError> {
        self.once = once;
        Ok(())
    }
}

/// Why an option ROM could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionRomError {
    /// It is no file of firmware's.
    File(FwCfgError),
    /// It has no place in the boot order.
    Entry(EntryError),
}

impl core::fmt::Display for OptionRomError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Entry(error) => error.fmt(f),
        }
    }
}

/// Puts what firmware is told about booting into its files.
pub(super) fn describe<'m>(
    fw_cfg: &mut FwCfg<'m>,
    settings: &BootSettings<'m>,
) -> Result<(), FwCfgError> {
    // All ones: never.
    let wait = settings.reboot_timeout.map_or(u32::MAX, u32::from);
    fw_cfg.add_file("etc/boot-fail-wait", Content::inline(&wait.to_le_bytes()))?;
    if let Some(time) = settings.splash_time {
        fw_cfg.add_file("etc/boot-menu-wait", Content::inline(&time.to_le_bytes()))?;
    }
    if let Some(port) = settings.serial_console {
        fw_cfg.add_file("etc/sercon-port", Content::inline(&port.to_le_bytes()))?;
    }
    if let Some((name, picture)) = settings.splash {
        fw_cfg.add_file(name, Content::Lent(picture))?;
    }
    Ok(())
}

impl<'m> Machine<'m> {
    /// Tells SeaBIOS the first order.
    pub(super) fn describe_boot_order(&mut self, settings: &BootSettings<'_>) {
        self.write_boot_order(settings.once.unwrap_or(settings.order));
    }

    fn write_boot_order(&mut self, letters: Letters) {
        if self.board == Board::Pc {
            for (index, value) in letters.cmos(self.boot.floppy_signature) {
                self.rtc.set_cmos(index, value);
            }
        }
    }

    /// Ends the order that holds once.
    pub(super) fn reset_boot_order(&mut self) {
        if core::mem::take(&mut self.boot.once) {
            self.write_boot_order(self.boot.order);
        }
    }

    /// Sets the boot order by letters, for firmware that comes by them later; an order that was to hold once still ends with the
    /// next reset.
    ///
    /// # Errors
    /// See [`LettersError`].
    pub fn set_boot_order(&mut self, letters: &str) -> Result<(), LettersError> {
        if self.board != Board::Pc {
            return Err(LettersError::NoOrder);
        }
        self.write_boot_order(Letters::parse(letters)?);
        Ok(())
    }

    /// Gives firmware an option ROM that is in no device. Only before the guest runs.
    ///
    /// # Errors
    /// See [`OptionRomError`].
    pub fn add_option_rom(
        &mut self,
        name: &str,
        bytes: &'m [u8],
        boot_index: i32,
    ) -> Result<(), OptionRomError> {
        let mut file = heapless::String::<{ fw_cfg::NAME_MAX }>::new();
        let base = name.rsplit('/').next().unwrap_or_default();
        file.push_str(OPTION_ROMS)
            .and_then(|()| file.push_str(base))
            .map_err(|_| OptionRomError::File(FwCfgError::Name))?;
        self.fw_cfg
            .add_file(&file, Content::Lent(bytes))
            .map_err(OptionRomError::File)?;
        let mut path = Path::new();
        // A file's name fits.
        let _ = path.push_str("/rom@").and_then(|()| path.push_str(&file));
        self.add_boot_entry(boot_index, &path)
            .map_err(OptionRomError::Entry)
    }

    /// Adds a path to those that firmware tries first, lowest index first. One with a negative index is not told. Only
    /// before [`Machine::add_boot_order`].
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn add_boot_entry(&mut self, boot_index: i32, path: &str) -> Result<(), EntryError> {
        self.boot.entries.add(boot_index, path)
    }

    /// The index of a path among those that firmware tries first.
    pub fn boot_index_of(&self, path: &str) -> Option<i32> {
        self.boot.entries.index_of(path)
    }

    /// The path of what is below a PCI function, by the function's index: `/pci@i0cf8/ide@1,1`, with `below` behind it
    /// (`/drive@0/disk@0`). `None` where there is no such function, or the path is too long.
    pub fn pci_boot_path(&self, function: usize, below: &str) -> Option<Path> {
        let mut line: heapless::Vec<usize, DEPTH_MAX> = heapless::Vec::new();
        let mut next = Some(function);
        while let Some(index) = next {
            line.push(index).ok()?;
            next = match self.buses.functions.get(index)?.bus {
                BusId::Root => None,
                BusId::Below(bridge) => {
                    let mut all = self.buses.functions.iter();
                    let above = PciSlot::Bridge(bridge);
                    Some(all.find(|(_, placed)| placed.function == above)?.0)
                }
            };
        }
        let mut path = Path::new();
        // Configuration space in memory has no address of its own for QEMU, whose paths these are.
        path.push_str(match self.has_express() {
            true => "/pci@ffffffffffffffff",
            false => "/pci@i0cf8",
        })
        .ok()?;
        for index in line.into_iter().rev() {
            let placed = self.buses.functions.get(index)?;
            let config = self.pci_function(placed.function)?.config();
            let word = |at: u8| u16::from_le_bytes([config.byte(at), config.byte(at + 1)]);
            let (device, function) = (placed.device(), placed.devfn & 7);
            let mut write = |text: core::fmt::Arguments<'_>| core::fmt::write(&mut path, text).ok();
            // Class and subclass.
            match class_name(word(0x0a)) {
                Some(name) => write(format_args!("/{name}"))?,
                None => write(format_args!("/pci{:x},{:x}", word(0), word(2)))?,
            }
            write(format_args!("@{device:x}"))?;
            if function != 0 {
                write(format_args!(",{function:x}"))?;
            }
        }
        path.push_str(below).ok()?;
        Some(path)
    }

    /// Whether a device that is to be plugged in could have its place in the boot order.
    pub(super) fn check_boot_index(&self, plugged: &Plugged) -> Result<(), DeviceError> {
        match boot_index(plugged) {
            Some(index) => self.boot.entries.check(index).map_err(DeviceError::Boot),
            None => Ok(()),
        }
    }

    /// Adds the device that was plugged in last to what firmware tries first, if it has a place there.
    pub(super) fn add_last_to_boot_order(&mut self) -> Result<(), DeviceError> {
        let last = self.plugged.last();
        let Some((plugged, index)) = last.and_then(|last| Some((last, boot_index(last)?))) else {
            return Ok(());
        };
        let path = self.boot_path(plugged).ok_or(EntryError::Long);
        path.and_then(|path| self.boot.entries.add(index, &path))
            .map_err(DeviceError::Boot)
    }

    /// The path of a device with a place in the boot order.
    fn boot_path(&self, plugged: &Plugged) -> Option<Path> {
        if let Some(place) = plugged
            .drive()
            .and_then(|drive| self.virtio_place_of(drive))
        {
            let mut path = Path::new();
            let address = self.virtio_place(place).address;
            let text = format_args!("/virtio-mmio@{address:016x}/disk@0,0");
            return core::fmt::write(&mut path, text).ok().map(|()| path);
        }
        let Some(function) = plugged.function() else {
            let number = self.ide_number(plugged.drive()?)?;
            let mut all = self.buses.functions.iter();
            let (function, _) = all.find(|(_, placed)| placed.function == PciSlot::Ide)?;
            let below = DRIVES.get(usize::from(number))?;
            return self.pci_boot_path(function, below);
        };
        // A virtio disk is one on a bus with one place.
        self.pci_boot_path(function, "/disk@0,0")
    }

    /// Takes a device out of the boot order again.
    pub(super) fn forget_boot_entry(&mut self, position: usize) {
        let plugged = self.plugged.get(position);
        let plugged = plugged.filter(|plugged| boot_index(plugged).is_some());
        if let Some(path) = plugged.and_then(|plugged| self.boot_path(plugged)) {
            self.boot.entries.remove(&path);
        }
    }

    /// Makes the file of all paths, in `memory`, once all of them are known. Without any there is none.
    ///
    /// # Errors
    /// [`FwCfgError::Taken`] the second time, [`FwCfgError::FilesFull`].
    pub fn add_boot_order(&mut self, memory: &'m mut [u8; FILE_MAX]) -> Result<(), FwCfgError> {
        if self.boot.entries.is_empty() {
            return Ok(());
        }
        let length = self.boot.entries.write(self.boot.strict, memory);
        let file = memory.get(..length).unwrap_or_default();
        self.fw_cfg.add_file(boot_order::FILE, Content::Lent(file))
    }
}

/// IDE drives below their controller, by number.
const DRIVES: [&str; 4] = [
    "/drive@0/disk@0",
    "/drive@0/disk@1",
    "/drive@1/disk@0",
    "/drive@1/disk@1",
];

/// The place that a device is to have in the boot order.
fn boot_index(plugged: &Plugged) -> Option<i32> {
    match plugged.value(BOOT_INDEX) {
        Value::Int(index) => i32::try_from(index).ok().filter(|index| *index >= 0),
        _ => None,
    }
}

/// Open Firmware's name for PCI functions of a class and subclass (PCI Bus Binding to IEEE 1275, 2.5).
fn class_name(class: u16) -> Option<&'static str> {
    Some(match class {
        0x0100 => "scsi",
        0x0101 => "ide",
        0x0102 => "fdc",
        0x0104 => "raid",
        0x0200 => "ethernet",
        0x0300 => "VGA",
        0x0600 => "host",
        0x0601 => "isa",
        0x0604 => "pci-bridge",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::Width;
    use crate::devices::class::{DeviceClass, PropertyValues};
    use crate::devices::pci_testdev;
    use crate::machine::Config;
    use crate::machine::tests::Recorder;
    use crate::machine::{ExpansionRom, Place, Plugging};
    use crate::memory::ArrayRam;
    use crate::pci::bridge;

    fn cmos(machine: &mut Machine<'_>, index: u8) -> u8 {
        let mut host = Recorder::default();
        machine.pio_write(&mut host, 0, 0x70, Width::Byte, index.into());
        machine.pio_read(&mut host, 0, 0x71, Width::Byte) as u8
    }

    fn machine<'m>(ram: &'m ArrayRam<0x1000>, boot: BootSettings<'m>) -> Machine<'m> {
        let config = Config {
            boot_settings: boot,
            ..Config::new(ram, 0x1000)
        };
        Machine::new(config).unwrap()
    }

    #[test]
    fn an_order_for_once_ends_with_the_next_reset() {
        let ram = ArrayRam::new();
        let boot = BootSettings {
            once: Letters::parse("dc").ok(),
            order: Letters::parse("n").unwrap(),
            floppy_signature: false,
            ..BootSettings::DEFAULT
        };
        let mut first = machine(&ram, boot);
        assert_eq!([cmos(&mut first, 0x38), cmos(&mut first, 0x3d)], [1, 0x23]);
        first.set_boot_order("a").unwrap();
        assert_eq!(cmos(&mut first, 0x3d), 1);
        // Saved and loaded before the reset, it ends there, too.
        let mut state = std::vec![0; super::super::STATE_MAX];
        let length = first.save(&mut state).unwrap();
        let mut host = Recorder::default();
        let mut second = machine(&ram, boot);
        second.reset(&mut host, 0);
        second.load(&mut host, 0, &state[..length]).unwrap();
        assert_eq!(cmos(&mut second, 0x3d), 1);
        second.reset(&mut host, 0);
        assert_eq!(cmos(&mut second, 0x3d), 4);
        second.set_boot_order("").unwrap();
        second.reset(&mut host, 0);
        assert_eq!(cmos(&mut second, 0x3d), 0);
        assert_eq!(second.set_boot_order("q"), Err(LettersError::Invalid('q')));
    }

    #[test]
    fn files_tell_what_was_asked_for() {
        let ram = ArrayRam::new();
        let mut memory = [0; FILE_MAX];
        let mut machine = machine(
            &ram,
            BootSettings {
                splash_time: Some(3000),
                splash: Some(("bootsplash.jpg", b"picture")),
                reboot_timeout: Some(5000),
                serial_console: Some(0x3f8),
                strict: true,
                ..BootSettings::DEFAULT
            },
        );
        machine
            .add_option_rom("/some/where.rom", b"rom", 3)
            .unwrap();
        let again = machine.add_option_rom("where.rom", b"rom", 4);
        assert_eq!(again, Err(OptionRomError::File(FwCfgError::Taken)));
        let taken = machine.add_option_rom("else.rom", b"rom", 3);
        assert_eq!(taken, Err(OptionRomError::Entry(EntryError::Taken(3))));
        let long = "x".repeat(fw_cfg::NAME_MAX);
        let long = machine.add_option_rom(&long, b"rom", 5);
        assert_eq!(long, Err(OptionRomError::File(FwCfgError::Name)));
        machine.add_boot_order(&mut memory).unwrap();
        let mut files = std::vec::Vec::new();
        machine.visit_files(&mut |name, size| files.push((std::string::String::from(name), size)));
        for (name, size) in [
            ("bootorder", "/rom@genroms/where.rom\nHALT\0".len()),
            ("bootsplash.jpg", 7),
            ("etc/boot-fail-wait", 4),
            ("etc/boot-menu-wait", 2),
            ("etc/sercon-port", 2),
            ("genroms/where.rom", 3),
        ] {
            assert!(files.contains(&(name.into(), size)), "{name}: {files:?}");
        }
    }

    /// Observed with QEMU 7.2.
    #[test]
    fn drives_have_their_places() {
        let ram = ArrayRam::new();
        let mut memory = [0; FILE_MAX];
        let mut machine = machine(&ram, BootSettings::DEFAULT);
        let plug = |machine: &mut Machine<'_>, class, id, index, bus| {
            let mut values = PropertyValues::new(class);
            values.set(BOOT_INDEX, index).unwrap();
            let plugging = Plugging {
                place: Place::Id(id),
                bus,
                rom: ExpansionRom::default(),
            };
            machine.plug_on(&values, plugging).map(drop)
        };
        use crate::devices::ide::drive::{CD_CLASS, HD_CLASS};
        use crate::virtio::block::PCI_CLASS;
        plug(&mut machine, &HD_CLASS, "a", "3", Some("ide.0")).unwrap();
        plug(&mut machine, &CD_CLASS, "b", "1", Some("ide.1")).unwrap();
        plug(&mut machine, &HD_CLASS, "c", "-1", Some("ide.0")).unwrap();
        plug(&mut machine, &PCI_CLASS, "d", "2", None).unwrap();
        let refused = plug(&mut machine, &PCI_CLASS, "e", "1", None);
        assert_eq!(refused, Err(DeviceError::Boot(EntryError::Taken(1))));
        let refused = plug(&mut machine, &CD_CLASS, "e", "2", None);
        assert_eq!(refused, Err(DeviceError::Boot(EntryError::Taken(2))));
        // A device that is taken out leaves its place.
        machine.unplug(&mut Recorder::default(), 0, "d").unwrap();
        plug(&mut machine, &PCI_CLASS, "e", "0", None).unwrap();
        plug(&mut machine, &PCI_CLASS, "d", "2", None).unwrap();
        let length = machine.boot.entries.write(false, &mut memory);
        let text = core::str::from_utf8(&memory[..length]).unwrap();
        let expected = "/pci@i0cf8/scsi@2/disk@0,0\n\
            /pci@i0cf8/ide@1,1/drive@1/disk@0\n\
            /pci@i0cf8/scsi@3/disk@0,0\n\
            /pci@i0cf8/ide@1,1/drive@0/disk@0\0";
        assert_eq!(text, expected);
    }

    /// Observed with QEMU 7.2, with other devices of the same classes.
    #[test]
    fn paths_lead_through_bridges() {
        let ram = ArrayRam::new();
        let mut machine = machine(&ram, BootSettings::DEFAULT);
        let mut plug = |class: &'static DeviceClass, id, bus, addr| {
            let mut values = PropertyValues::new(class);
            values.set("addr", addr).unwrap();
            // A test device has no chassis.
            let _ = values.set("chassis_nr", "1");
            let _ = values.set("shpc", "off");
            let plugging = Plugging {
                place: Place::Id(id),
                bus: Some(bus),
                rom: ExpansionRom::default(),
            };
            machine.plug_on(&values, plugging).unwrap();
        };
        plug(&bridge::CLASS, "one", "pci.0", "5");
        plug(&bridge::CLASS, "two", "one", "4.1");
        plug(&pci_testdev::CLASS, "deep", "two", "1f");
        let function = |id: &str| {
            let plugged = machine.plugged().iter();
            let mut plugged = plugged.filter(|plugged| plugged.place() == Place::Id(id));
            plugged.next().unwrap().function().unwrap()
        };
        let path = |index, below| machine.pci_boot_path(index, below);
        assert_eq!(
            path(function("two"), "").as_deref(),
            Some("/pci@i0cf8/pci-bridge@5/pci-bridge@4,1")
        );
        assert_eq!(
            path(function("deep"), "/disk@0,0").as_deref(),
            Some("/pci@i0cf8/pci-bridge@5/pci-bridge@4,1/pci1b36,5@1f/disk@0,0")
        );
        assert_eq!(path(99, ""), None);
        assert_eq!(path(0, &"x".repeat(boot_order::PATH_MAX)), None);
    }
}
