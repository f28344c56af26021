//! The DSDT: processors, the PCI bus with its interrupt links, ISA and virtio devices, and the event device.
//!
//! Follows ACPI 6.4, sections 6.1 (identification), 6.2 (`_CRS`, `_PRT`, `_PXM`, `_SRS` …), 7.4 (`_S3`, `_S4`, `_S5`) and 8.4
//! (processor devices), and the PCI Firmware Specification for the root bridge. It is declarative as
//! far as it can be: the interrupt links have methods, because the guest chooses their interrupts, and the event device has
//! one, which says what an interrupt was about.

use super::aml::{Resources, Space, Term, Writer};
use super::{Facts, FloppyFacts, Hardware, IsaDevice, Link, Links, PciFacts, tables};
use crate::devices::{acpi_pm, fdc, ged, hpet};
use crate::pci::{Address, gpex, piix3};
use crate::virtio::transport::mmio;

/// The DSDT's version: integers have 64 bits.
const REVISION: u8 = 2;

/// `_STA`: there, working, but not for users' eyes.
const HIDDEN: u64 = 0x0b;
/// `_STA` of a link that is switched off: there and working.
const LINK_OFF: u64 = 0x09;
/// `_STA` of a link that is on.
const LINK_ON: u64 = 0x0b;

/// Slots of a PCI bus.
const SLOTS: u8 = 32;
/// Interrupt pins of a slot.
const PINS: u8 = 4;

/// Fields of the ISA bridge with the routes of PIRQA# to PIRQD#.
const ROUTES: [&str; piix3::PIRQS as usize] = ["PRQA", "PRQB", "PRQC", "PRQD"];
/// The links that stand for them.
const LINKS: [&str; piix3::PIRQS as usize] = ["LNKA", "LNKB", "LNKC", "LNKD"];

/// Adds the DSDT and gives where it begins.
pub(super) fn dsdt(w: &mut Writer<'_>, links: &mut Links, facts: &Facts<'_>) -> usize {
    tables::table(w, links, b"DSDT", REVISION, |w| {
        w.scope("\\_SB", |w| {
            processors(w, facts);
            match &facts.pci {
                Some(pci) => {
                    pci_bus(w, facts, pci);
                    interrupt_links(w, pci);
                }
                None => isa_devices(w, facts),
            }
            if let Some(irq) = facts.express {
                express_bus(w, irq);
            }
            if let Some((_, base)) = facts.hpet {
                w.device("HPET", |w| {
                    w.name("_HID", Term::Eisa("PNP0103"));
                    w.name("_UID", Term::Int(0));
                    w.resources("_CRS", |r| r.memory(base as u32, hpet::LENGTH as u32));
                });
            }
            if let Hardware::Reduced { irq } = facts.hardware {
                event_device(w, irq);
            }
            virtio_devices(w, facts);
        });
        let sleep = facts.sleep;
        if sleep.is_some_and(|states| states.s3) {
            sleeping_state(w, "\\_S3", acpi_pm::SUSPEND_TO_RAM);
        }
        if let Some(states) = sleep.filter(|states| states.s4) {
            sleeping_state(w, "\\_S4", states.s4_type);
        }
        sleeping_state(
            w,
            "\\_S5",
            match facts.hardware {
                Hardware::Full { .. } => acpi_pm::SOFT_OFF,
                Hardware::Reduced { .. } => ged::SOFT_OFF,
            },
        );
    })
}

/// Adds the SSDT of the guest's generation, and gives where it begins.
pub(super) fn generation(w: &mut Writer<'_>, links: &mut Links, facts: &Facts<'_>) -> usize {
    const ADDR: &str = "ADDR";
    /// From the name to the first element: the package's opcode, length and count, and the element's opcode.
    const ELEMENT: usize = ADDR.len() + 4;
    const CHANGED: u64 = 0x80;
    let start = tables::table(w, links, b"SSDT", REVISION, |w| {
        w.scope("\\_SB", |w| {
            w.device("VGEN", |w| {
                w.name("_HID", Term::Text("QEMUVGID"));
                w.name("_CID", Term::Text("VM_Gen_Counter"));
                w.name("_DDN", Term::Text("VM_Gen_Counter"));
                // Low and high half.
                w.named_package(ADDR, 2, |w| {
                    w.term(Term::Dword(0));
                    w.term(Term::Int(0));
                });
            });
        });
        if facts.hardware.gpe0().is_some() {
            w.scope("\\_GPE", |w| {
                w.method("_E05", 0, |w| w.notify("\\_SB.VGEN", CHANGED));
            });
        }
    });
    if let Some(name) = w.find(start, ADDR.as_bytes()) {
        links.add(Link::Generation { at: name + ELEMENT });
    }
    start
}

/// What is to be written to the PM1 control registers, of which there is one, to go to a sleeping state.
fn sleeping_state(w: &mut Writer<'_>, name: &str, kind: u8) {
    let kind = Term::Int(kind.into());
    w.named_package(name, 4, |w| {
        w.term(kind);
        w.term(kind);
        (0..2).for_each(|_| w.term(Term::Int(0)));
    });
}

/// A device for each processor that there is, with its NUMA node.
fn processors(w: &mut Writer<'_>, facts: &Facts<'_>) {
    for number in 0..facts.cpus {
        let mut name = *b"C000";
        for (index, digit) in name.iter_mut().skip(1).enumerate() {
            let value = number >> (8 - 4 * index) & 0xf;
            *digit = b"0123456789ABCDEF"[usize::from(value)];
        }
        w.device(core::str::from_utf8(&name).unwrap_or("C000"), |w| {
            w.name("_HID", Term::Text("ACPI0007"));
            w.name("_UID", Term::Int(number.into()));
            if let Some(node) = facts.numa.node_of(number.into()) {
                w.name("_PXM", Term::Int(node.into()));
            }
        });
    }
}

/// The event device and the button that it tells of.
fn event_device(w: &mut Writer<'_>, irq: u8) {
    const PRESSED: u64 = 0x80;
    w.device("GED", |w| {
        w.name("_HID", Term::Text("ACPI0013"));
        w.name("_UID", Term::Int(0));
        w.resources("_CRS", |r| r.own_irq(irq, false));
        w.region("EREG", Space::Memory, ged::EVENTS, ged::EVENTS_LENGTH);
        w.dword_register("EREG", "ESEL");
        w.serialized_method("_EVT", 1, |w| {
            // It is cleared by being read.
            w.store(Term::Name("ESEL"), Term::Local0);
            let button = Term::Int(ged::POWER_BUTTON.into());
            w.when(Term::And(&Term::Local0, &button), |w| {
                w.notify("PWRB", PRESSED);
            });
        });
    });
    w.device("PWRB", |w| {
        w.name("_HID", Term::Eisa("PNP0C0C"));
        w.name("_UID", Term::Int(0));
    });
}

/// Virtio devices that the guest can't find by itself.
fn virtio_devices(w: &mut Writer<'_>, facts: &Facts<'_>) {
    for place in facts.virtio {
        let digits = [place.number / 10 % 10, place.number % 10].map(|digit| b'0' + digit);
        let name = [b'V', b'R', digits[0], digits[1]];
        w.device(core::str::from_utf8(&name).unwrap_or("VR00"), |w| {
            w.name("_HID", Term::Text("LNRO0005"));
            w.name("_UID", Term::Int(place.number.into()));
            w.name("_CCA", Term::Int(1));
            w.resources("_CRS", |r| {
                r.registers(place.address, mmio::LENGTH as u32);
                r.own_irq(place.irq, true);
            });
        });
    }
}

fn pci_bus(w: &mut Writer<'_>, facts: &Facts<'_>, pci: &PciFacts<'_>) {
    w.device("PCI0", |w| {
        w.name("_HID", Term::Eisa("PNP0A03"));
        w.name("_UID", Term::Int(0));
        w.resources("_CRS", |r| {
            let (first, ports) = pci.config_ports;
            r.buses(0, 0xff);
            r.ports(first, ports);
            r.port_window(0, first.saturating_sub(1));
            r.port_window(first.saturating_add(ports.into()), u16::MAX);
            for (first, last, cacheable) in pci.memory {
                r.memory_window(*first, *last, *cacheable);
            }
        });
        // Nothing is plugged in later: guests need not read of empty slots.
        let taken = (0..SLOTS).filter(|slot| pci.slots >> slot & 1 != 0);
        let entries = pci.slots.count_ones() as u8 * PINS;
        w.named_package("_PRT", entries, |w| {
            for slot in taken {
                (0..PINS).for_each(|pin| route(w, facts, pci, slot, pin));
            }
        });
        w.device("ISA", |w| {
            w.name("_ADR", Term::Int(address_of(pci.isa_bridge)));
            let (first, routes) = (piix3::PIRQRCA.into(), piix3::PIRQS.into());
            w.region("PIRQ", Space::PciConfig, first, routes);
            w.byte_fields("PIRQ", &ROUTES);
            isa_devices(w, facts);
        });
        w.device("MBRD", |w| {
            w.name("_HID", Term::Eisa("PNP0C02"));
            w.resources("_CRS", |r| {
                let Hardware::Full {
                    base,
                    gpe0,
                    command,
                    ..
                } = facts.hardware
                else {
                    return;
                };
                r.ports(base, acpi_pm::PORTS as u8);
                if let Some(port) = gpe0 {
                    r.ports(port, acpi_pm::GPE0_PORTS as u8);
                }
                if let Some(port) = command {
                    r.ports(port, acpi_pm::APMC_PORTS as u8);
                }
            });
        });
    });
}

/// A PCI Express bus, whose interrupts are wired. What an operating system may take over of such a bus (`_OSC`) is left open: there are
/// no ports that it could do anything with.
fn express_bus(w: &mut Writer<'_>, irq: u8) {
    const LINKS: [&str; gpex::PINS as usize] = ["GSI0", "GSI1", "GSI2", "GSI3"];
    w.device("PCI0", |w| {
        w.name("_HID", Term::Eisa("PNP0A08"));
        w.name("_CID", Term::Eisa("PNP0A03"));
        w.name("_SEG", Term::Int(0));
        w.name("_BBN", Term::Int(0));
        w.name("_UID", Term::Int(0));
        w.name("_CCA", Term::Int(1));
        w.method("_CBA", 0, |w| w.give(Term::Int(gpex::ECAM)));
        w.resources("_CRS", |r| {
            r.buses(0, 0xff);
            let [(first, last), (high, highest)] = gpex::WINDOWS;
            r.memory_window(first as u32, last as u32, false);
            r.wide_memory_window(high, highest);
        });
        w.named_package("_PRT", SLOTS * PINS, |w| {
            for slot in 0..SLOTS {
                for pin in 0..PINS {
                    let link = LINKS[usize::from(gpex::interrupt_of(slot, pin))];
                    wire(w, slot, pin, Term::Name(link), 0);
                }
            }
        });
        for (number, link) in (0..).zip(LINKS) {
            w.device(link, |w| {
                w.name("_HID", Term::Eisa("PNP0C0F"));
                w.name("_UID", Term::Int(number.into()));
                for name in ["_PRS", "_CRS"] {
                    w.resources(name, |r| r.own_irq(irq + number, true));
                }
                // It is where it is.
                w.method("_SRS", 1, |_| {});
                w.method("_DIS", 0, |_| {});
            });
        }
    });
    // Guests make sure that nobody else is to have the addresses of configuration space.
    w.device("MRES", |w| {
        w.name("_HID", Term::Eisa("PNP0C02"));
        w.resources("_CRS", |r| {
            r.registers(gpex::ECAM as u32, gpex::ECAM_LENGTH as u32);
        });
    });
}

/// The `_ADR` of a function.
fn address_of(function: Address) -> u64 {
    u64::from(function.device()) << 16 | u64::from(function.function())
}

/// An element of `_PRT`: where an interrupt pin of a slot goes. That of the power-management
/// function is the system control interrupt.
fn route(w: &mut Writer<'_>, facts: &Facts<'_>, pci: &PciFacts<'_>, slot: u8, pin: u8) {
    if let Some(sci) = facts.hardware.sci()
        && slot == pci.isa_bridge.device()
        && pin == 0
    {
        return wire(w, slot, pin, Term::Int(0), sci.into());
    }
    let pirq = piix3::pirq_of(Address::new(0, slot, 0), pin);
    wire(
        w,
        slot,
        pin,
        Term::Name(LINKS[usize::from(pirq % piix3::PIRQS)]),
        0,
    );
}

/// Writes an element of `_PRT`: a pin of all functions of a slot ends in an interrupt of this source.
fn wire(w: &mut Writer<'_>, slot: u8, pin: u8, source: Term<'_>, interrupt: u64) {
    w.package(4, |w| {
        w.term(Term::Int(u64::from(slot) << 16 | 0xffff));
        w.term(Term::Int(pin.into()));
        w.term(source);
        w.term(Term::Int(interrupt));
    });
}

/// The devices by which the guest says which interrupts PIRQA# to PIRQD# are routed to. A route's
/// highest bit switches it off.
fn interrupt_links(w: &mut Writer<'_>, pci: &PciFacts<'_>) {
    const OFF: Term<'_> = Term::Int(0x80);
    w.method("LSTA", 1, |w| {
        w.when(Term::And(&Term::Arg(0), &OFF), |w| {
            w.give(Term::Int(LINK_OFF));
        });
        w.give(Term::Int(LINK_ON));
    });
    for (number, (link, route)) in LINKS.iter().zip(ROUTES).enumerate() {
        let mut path = *b"\\_SB.PCI0.ISA.PRQA";
        let end = path.len() - route.len();
        path[end..].copy_from_slice(route.as_bytes());
        let route = Term::Name(core::str::from_utf8(&path).unwrap_or(route));
        w.device(link, |w| {
            w.name("_HID", Term::Eisa("PNP0C0F"));
            w.name("_UID", Term::Int(number as u64));
            w.resources("_PRS", |r| r.level_irqs(pci.link_irqs));
            // What `_CRS` gives, with the interrupt yet to be filled in.
            w.resources("CURR", |r| r.level_irqs(&[0]));
            w.dword_field(Term::Name("CURR"), Resources::LEVEL_IRQ_AT, "CIRQ");
            w.method("_STA", 0, |w| w.give(Term::Call("LSTA", &route)));
            w.method("_DIS", 0, |w| w.or(route, OFF, route));
            w.method("_CRS", 0, |w| {
                w.store(Term::And(&route, &Term::Int(0x0f)), Term::Name("CIRQ"));
                w.give(Term::Name("CURR"));
            });
            w.method("_SRS", 1, |w| {
                w.dword_field(Term::Arg(0), Resources::LEVEL_IRQ_AT, "SIRQ");
                w.store(Term::Name("SIRQ"), route);
            });
        });
    }
}

/// The floppy disk controller with its drives (ACPI 6.4, section 9.9): what BIOS calls told of them once.
fn floppies(w: &mut Writer<'_>, drives: &[Option<FloppyFacts>]) {
    const NAMES: [&str; fdc::DRIVES] = ["FLPA", "FLPB"];
    /// As the BIOS's parameter table has it: step rate and head times, the motor's delay, sectors of 512 bytes, 18 of them, the gap, no
    /// length, the gap and the filler of formatting, the head's and the motor's times.
    const PARAMETERS: [u8; 11] = [
        0xaf, 0x02, 0x25, 0x02, 0x12, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08,
    ];
    /// There never is a tape drive.
    const NO_TAPE: u8 = 2;
    w.device("FDC0", |w| {
        w.name("_HID", Term::Eisa("PNP0700"));
        w.resources("_CRS", |r| {
            r.ports(fdc::BASE + 2, 4);
            r.ports(fdc::BASE + 7, 1);
            r.irq(fdc::IRQ);
            r.dma(fdc::CHANNEL as u8);
        });
        let mut presence = [0; 20];
        presence[16] = NO_TAPE;
        for (number, drive) in drives.iter().enumerate() {
            let (Some(drive), Some(name)) = (drive, NAMES.get(number)) else {
                continue;
            };
            presence[4 * number] = 1;
            let number = number as u8;
            let limits = [number, drive.kind, drive.cylinder, drive.sector, drive.head];
            w.device(name, |w| {
                w.name("_ADR", Term::Int(number.into()));
                w.named_package("_FDI", 16, |w| {
                    for value in limits.iter().chain(&PARAMETERS) {
                        w.term(Term::Int((*value).into()));
                    }
                });
            });
        }
        w.named_buffer("_FDE", &presence);
    });
}

fn isa_devices(w: &mut Writer<'_>, facts: &Facts<'_>) {
    if let Some(drives) = &facts.floppies {
        floppies(w, drives);
    }
    for device in facts.devices {
        let IsaDevice {
            name,
            id,
            uid,
            ports,
            irq,
            is_hidden,
        } = *device;
        w.device(name, |w| {
            w.name("_HID", id);
            if let Some(uid) = uid {
                w.name("_UID", Term::Int(uid.into()));
            }
            if is_hidden {
                w.name("_STA", Term::Int(HIDDEN));
            }
            w.resources("_CRS", |r| {
                for (base, ports) in ports {
                    if ports > 0 {
                        r.ports(base, ports);
                    }
                }
                if let Some(irq) = irq {
                    r.irq(irq);
                }
            });
        });
    }
}
