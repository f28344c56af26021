//! The tree as a monitor prints it: objects by what they are parts of, and devices by the buses they are on.

use super::tree::{BEHIND_BUS, Bus, Node, PATH_MAX, Path, virtio_bus};
use super::{QomError, QomValue, Tree};
use crate::devices::class::{BOOT_INDEX, IO_THREAD, PropertyKind};
use crate::devices::{fdc, ide};
use crate::machine::{BUS_TYPE, Place};

/// Levels of objects below one that are visited at most.
const DEPTH_MAX: usize = 8;

/// Devices that are found on a bus at most.
const DEVICES_MAX: usize = 64;

/// A line about buses and devices. What belongs to a bus or a device follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BusLine<'a> {
    /// A bus: its name and its type.
    Bus(&'a str, &'a str),
    /// A device: its type, and its id, empty for none.
    Device(&'a str, &'a str),
    /// A property of the device: its name and its value.
    Property(&'a str, QomValue<'a>),
    /// A property that is a number of bytes: its name and its value.
    Size(&'a str, u64),
}

impl Tree<'_> {
    /// Visits an object and all that it is made of: how deep below it, the name and the type. Parts of the same object come by
    /// their names. A name of more than [`PATH_MAX`] bytes is passed over.
    ///
    /// # Errors
    /// [`QomError::NoObject`], [`QomError::Ambiguous`].
    pub fn outline<'p>(
        &self,
        path: &'p str,
        visit: &mut dyn FnMut(usize, &str, &str),
    ) -> Result<(), QomError<'p>> {
        let node = self.find(path)?;
        let path = self.path(node)?;
        let name = path.rsplit_once('/').map_or("", |(_, name)| name);
        visit(0, name, &self.type_name(node));
        self.outline_below(node, 1, visit);
        Ok(())
    }

    fn outline_below(&self, node: Node, depth: usize, visit: &mut dyn FnMut(usize, &str, &str)) {
        if depth > DEPTH_MAX {
            return;
        }
        let mut last = Path::new();
        loop {
            let mut next: Option<(Path, Node)> = None;
            self.children(node, &mut |name, child| {
                let earliest = next.as_ref().is_none_or(|(next, _)| name < next.as_str());
                if name > last.as_str()
                    && earliest
                    && name.len() <= PATH_MAX
                    && let Ok(name) = Path::try_from(name)
                {
                    next = Some((name, child));
                }
            });
            let Some((name, child)) = next else { break };
            visit(depth, &name, &self.type_name(child));
            self.outline_below(child, depth + 1, visit);
            last = name;
        }
    }

    /// Visits all buses and what is on them, from the system's on: how deep, and a line. What came last to a bus is first.
    pub fn buses(&self, visit: &mut dyn FnMut(usize, BusLine<'_>)) {
        self.bus(Bus::System, "main-system-bus", "System", 0, visit);
    }

    fn bus(
        &self,
        bus: Bus,
        name: &str,
        kind: &str,
        depth: usize,
        visit: &mut dyn FnMut(usize, BusLine<'_>),
    ) {
        visit(depth, BusLine::Bus(name, kind));
        let mut devices: heapless::Vec<Node, DEVICES_MAX> = heapless::Vec::new();
        self.on_bus(bus, &mut |_, device| {
            // Boards have less than half as many.
            let _ = devices.push(device);
        });
        for node in devices.into_iter().rev() {
            let id = match node {
                Node::Plugged(index) => self.machine.plugged().get(usize::from(index)),
                _ => None,
            };
            let id = match id.map(|plugged| plugged.place()) {
                Some(Place::Id(id)) => id,
                _ => "",
            };
            visit(depth + 1, BusLine::Device(&self.type_name(node), id));
            self.class_values(node, &mut |name, kind, value| {
                // Places in the boot order, and links, are the object's, not the device's.
                let is_own = !name.starts_with(BOOT_INDEX) && name != IO_THREAD;
                if is_own && self.owner(node, name) == node {
                    let line = match value {
                        QomValue::Uint(bytes) if kind == PropertyKind::Size.name() => {
                            BusLine::Size(name, bytes)
                        }
                        value => BusLine::Property(name, value),
                    };
                    visit(depth + 2, line);
                }
            });
            match node {
                Node::PciHost => {
                    let kind = self.type_name(Node::PciBus);
                    self.bus(Bus::Pci, self.machine.root_bus(), &kind, depth + 2, visit);
                }
                Node::Transport(place) => {
                    let name = virtio_bus(place);
                    self.bus(Bus::Virtio(place), &name, BUS_TYPE, depth + 2, visit);
                }
                Node::Plugged(index) if self.is_virtio_function(index) => {
                    let (name, kind) = BEHIND_BUS;
                    self.bus(Bus::Behind(index), name, kind, depth + 2, visit);
                }
                Node::IsaBridge => self.bus(Bus::Isa, "isa.0", "ISA", depth + 2, visit),
                Node::Ide => {
                    for (channel, name) in ide::BUSES.into_iter().enumerate().rev() {
                        self.bus(Bus::Ide(channel as u8), name, "IDE", depth + 2, visit);
                    }
                }
                Node::Fdc => self.bus(Bus::Floppy, fdc::BUS, "floppy-bus", depth + 2, visit),
                Node::Plugged(index) if self.machine.is_bridge(index.into()) => {
                    let name = self.machine.bus_name(index.into());
                    self.bus(Bus::Below(index), &name, "PCI", depth + 2, visit);
                }
                _ => {}
            }
        }
    }
}
