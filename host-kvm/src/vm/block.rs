//! Drives of the machine: their requests on the way to the block layer and back, and what commands do about their media.

use std::fmt;
use std::sync::Arc;

use thimble_core::devices::block::{Data, DriveId, Request};
use thimble_core::machine::RunState;
use thimble_monitor::owner::block::{Blocks, DriveName, NewMedium, Unheard};
use thimble_monitor::schema::arguments::{
    BlockIOThrottle, BlockLatencyHistogramSet, BlockdevOptions,
};
use thimble_monitor::schema::results::{BlockDeviceInfo, BlockInfo, BlockStats};
use thimble_monitor::schema::{BlockdevChangeReadOnlyMode, BlockdevDetectZeroesOptions, EventText};
use thimble_monitor::{ErrorClass, Event, QmpError};

use super::{Vm, lending};
use crate::block::backend::{Backend, FLUSH, Place, Queued, READ, WRITE};
use crate::block::buffer::Gate;
use crate::block::node::{Child, Need, Node, Permissions};
use crate::block::throttle::{
    BPS, BPS_READ, BPS_WRITE, IOPS, IOPS_READ, IOPS_WRITE, Limit, Limits,
};
use crate::block::{DriveInfo, DriveOptions, NodeInfo, StatsInfo};
use crate::clock::monotonic;

/// Rounds of requests and ends that are settled before others have their turn.
const ROUNDS: usize = 16;

/// Rounds after which a machine that has stopped is taken to have no more requests: more than its queues have descriptors.
const DRAIN_MAX: usize = 1 << 15;

/// What the machine asks of drives between two looks of the main thread.
#[derive(Default)]
pub struct DriveRequests {
    /// Requests, the oldest first.
    queued: Vec<Queued>,
    /// Trays that the guest has moved.
    trays: Vec<(DriveId, bool)>,
    /// Each drive's memory is lent by its own gate.
    gates: Vec<Arc<Gate>>,
}

impl DriveRequests {
    /// Takes a request.
    pub fn push(&mut self, request: &Request<'_>) {
        let gate = self.gate(request.drive);
        self.queued.push(queued(request, gate));
    }

    /// By what a drive's memory is lent.
    pub fn gate(&mut self, drive: DriveId) -> Arc<Gate> {
        let index = usize::from(drive.0);
        if self.gates.len() <= index {
            self.gates.resize_with(index + 1, Arc::default);
        }
        self.gates[index].clone()
    }

    /// Forgets the requests of a drive. Once this returns none of them touches guest memory.
    pub fn cancel(&mut self, drive: DriveId) {
        self.queued.retain(|queued| queued.drive != drive);
        self.gate(drive).close();
        self.gates[usize::from(drive.0)] = Arc::default();
    }

    /// Notes that the guest has moved a tray.
    pub fn tray_moved(&mut self, drive: DriveId, open: bool) {
        self.trays.push((drive, open));
    }

    /// Whether the main thread has to look.
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.trays.is_empty()
    }
}

/// A request, on its own.
pub(super) fn queued(request: &Request<'_>, gate: Arc<Gate>) -> Queued {
    Queued {
        drive: request.drive,
        tag: request.tag,
        operation: request.operation,
        offset: request.offset,
        length: request.length,
        place: match request.data {
            Data::None => Place::None,
            Data::Guest(segments) => Place::Guest(segments.to_vec()),
            Data::Write(bytes) => Place::Bytes(bytes.to_vec()),
            Data::Read => Place::Wanted,
        },
        gate,
    }
}

/// A refusal without the hint that may stand behind its first line.
pub(super) fn refused(text: String) -> QmpError {
    let text = text.lines().next().unwrap_or_default();
    QmpError::generic(format_args!("{text}"))
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn no_device(name: &str) -> QmpError {
    let class = ErrorClass::DeviceNotFound;
    QmpError::new(class, format_args!("Device '{name}' not found"))
}

/// A drive that a command has named, and the name.
pub(super) struct Named {
    pub(super) drive: std::rc::Rc<Backend>,
    name: String,
}

impl Vm {
    /// Hands on what controllers want done, and tells them what has been.
    pub(super) fn settle_blocks(&mut self) {
        for _ in 0..ROUNDS {
            if !self.settle_blocks_once() {
                return;
            }
        }
        // The rest comes after whatever else there is to do.
        self.shared.wake();
    }

    /// Whether there was anything.
    fn settle_blocks_once(&mut self) -> bool {
        let blocks = self.settings.blocks.clone();
        let (queued, trays, sectors) = {
            let state = &mut self.shared.lock().bridge_state;
            (
                std::mem::take(&mut state.drives.queued),
                std::mem::take(&mut state.drives.trays),
                state.flash.take(),
            )
        };
        if !sectors.is_empty() {
            let mut failed = self.shared.lock().bridge_state.flash.failed;
            self.settings.flash.write(&blocks, &sectors, &mut failed);
            self.shared.lock().bridge_state.flash.failed = failed;
        }
        let mut any = !queued.is_empty() || !trays.is_empty();
        for (id, open) in trays {
            self.tell_tray(id, open);
        }
        blocks.submit(queued);
        blocks.run();
        while let Some(event) = blocks.take_event() {
            any = true;
            self.event(event);
        }
        if blocks.take_stop() {
            self.halt(RunState::IoError);
        }
        any | lending::finish(&self.shared, &blocks)
    }

    /// Waits for all requests, and tells their controllers: the machine has stopped.
    pub(super) fn drain_blocks(&mut self) {
        let blocks = self.settings.blocks.clone();
        if blocks.drives().is_empty() && blocks.nodes().is_empty() {
            return;
        }
        // What drivers have asked for before processors stopped is handed on only now, as there is room.
        for _ in 0..DRAIN_MAX {
            self.settle_blocks();
            blocks.settle();
            if !self.settle_blocks_once() {
                break;
            }
        }
        blocks.drain();
        self.settle_blocks();
    }

    /// Tries failed requests again: the machine goes on.
    pub(super) fn resume_blocks(&mut self) {
        let blocks = self.settings.blocks.clone();
        if blocks.drives().is_empty() {
            return;
        }
        blocks.resume();
        self.shared
            .call(|machine, bridge, now| machine.resume_drives(bridge, now));
        self.shared.wake();
    }

    /// When requests have something to do next, on the monotonic clock.
    pub fn blocks_deadline(&self) -> Option<u64> {
        self.settings.blocks.executor.next_deadline()
    }

    fn tell_tray(&mut self, id: DriveId, open: bool) {
        let Some(drive) = self.settings.blocks.drive_by_id(id) else {
            return;
        };
        let name = |text: &str| EventText::try_from(text).unwrap_or_default();
        let device = drive.device.borrow();
        let event = Event::DeviceTrayMoved {
            device: name(drive.name()),
            id: name(device.as_ref().map_or("", |device| &device.shown)),
            tray_open: open,
        };
        drop(device);
        self.event(event);
    }

    /// A drive's tray: whether it is open, and locked.
    fn tray(&self, drive: &Backend) -> Option<(bool, bool)> {
        let device = drive.device.borrow();
        let device = device.as_ref().filter(|device| device.has_tray)?;
        let tray = self.shared.lock().machine.tray(device.drive)?;
        Some((tray.open, tray.locked))
    }

    /// Moves a tray, and tells of it if it was not so.
    fn move_tray(&mut self, drive: &Backend, open: bool) {
        let id = drive.device.borrow().as_ref().map(|device| device.drive);
        let (Some(id), Some((was_open, _))) = (id, self.tray(drive)) else {
            return;
        };
        self.shared
            .call(|machine, bridge, now| machine.move_tray(bridge, now, id, open));
        if was_open != open {
            self.tell_tray(id, open);
        }
    }

    /// Tells the controller what medium it has.
    pub(super) fn tell_medium(&mut self, drive: &Backend) {
        let id = drive.device.borrow().as_ref().map(|device| device.drive);
        let Some(id) = id else { return };
        let medium = drive.medium();
        self.shared
            .call(|machine, bridge, now| machine.medium_changed(bridge, now, id, medium));
    }

    /// Names drives by where their devices are in the object tree.
    pub fn name_drives(&self) {
        let guarded = self.shared.lock();
        let settings = &self.settings;
        let (objects, made, blocks) = (&settings.objects, &settings.made, &settings.blocks);
        guarded.objects(objects, made, blocks, true, |tree| {
            for (index, plugged) in guarded.machine.plugged().iter().enumerate() {
                let drive = plugged
                    .drive()
                    .and_then(|id| self.settings.blocks.drive_by_id(id));
                let Some(drive) = drive else { continue };
                let mut path = String::new();
                if tree.plugged_path(index, &mut path).is_ok() {
                    let device = &mut *drive.device.borrow_mut();
                    if let Some(device) = device {
                        device.set_path(&path);
                    }
                }
            }
        });
    }

    /// Tells all controllers of the media that they have.
    pub fn tell_media(&mut self) {
        for drive in self.settings.blocks.drives() {
            self.tell_medium(&drive);
        }
    }

    pub(super) fn find(&self, name: DriveName<'_>) -> Result<Named, QmpError> {
        let blocks = &self.settings.blocks;
        let (found, name) = match name {
            DriveName::Drive(name) => {
                let name = text(name);
                (blocks.drive(&name), name)
            }
            DriveName::Device(id) => {
                let name = text(id);
                let found = blocks.drive_of(&name);
                let there = || {
                    let guarded = self.shared.lock();
                    let place = thimble_core::machine::Place::Id(&name);
                    let plugged = guarded.machine.plugged();
                    plugged.iter().any(|device| device.place() == place)
                };
                if found.is_none() && there() {
                    return Err(QmpError::generic(format_args!(
                        "Device does not have a block device backend"
                    )));
                }
                (found, name)
            }
        };
        let drive = found.ok_or_else(|| no_device(&name))?;
        Ok(Named { drive, name })
    }

    fn check_removable(&self, named: &Named) -> Result<(), QmpError> {
        let device = named.drive.device.borrow();
        match device.as_ref().is_none_or(|device| device.removable) {
            true => Ok(()),
            false => Err(refused(format!("Device '{}' is not removable", named.name))),
        }
    }

    /// Opens a tray; whether it is open now. Where there is none it counts as open.
    fn open_tray_of(&mut self, named: &Named, force: bool) -> Result<bool, QmpError> {
        self.check_removable(named)?;
        let Some((open, locked)) = self.tray(&named.drive) else {
            return Ok(true);
        };
        if open {
            return Ok(true);
        }
        if locked && !force {
            let id = named
                .drive
                .device
                .borrow()
                .as_ref()
                .map(|device| device.drive);
            if let Some(id) = id {
                self.shared
                    .call(|machine, bridge, now| machine.eject_requested(bridge, now, id));
            }
            return Ok(false);
        }
        self.move_tray(&named.drive, true);
        Ok(true)
    }

    /// The same, where it has to be open.
    fn need_open_tray(&mut self, named: &Named, force: bool) -> Result<(), QmpError> {
        match self.open_tray_of(named, force)? {
            true => Ok(()),
            false => Err(refused(format!(
                "Device '{}' is locked and force was not specified, wait for tray to open and try again",
                named.name
            ))),
        }
    }

    fn take_medium(&mut self, named: &Named) -> Result<(), QmpError> {
        self.check_removable(named)?;
        if self.tray(&named.drive).is_some_and(|(open, _)| !open) {
            return Err(refused(format!(
                "Tray of device '{}' is not open",
                named.name
            )));
        }
        if named.drive.root.borrow().is_none() {
            return Ok(());
        }
        self.settings.blocks.take_out(&named.drive);
        self.settle_blocks();
        self.tell_medium(&named.drive);
        Ok(())
    }

    fn put_medium(&mut self, named: &Named, node: &std::rc::Rc<Node>) -> Result<(), QmpError> {
        let drive = &named.drive;
        if drive
            .device
            .borrow()
            .as_ref()
            .is_some_and(|device| !device.removable)
        {
            return Err(refused("Device is not removable".to_owned()));
        }
        if self.tray(drive).is_some_and(|(open, _)| !open) {
            return Err(refused("Tray of the device is not open".to_owned()));
        }
        if drive.root.borrow().is_some() {
            return Err(refused(
                "There already is a medium in the device".to_owned(),
            ));
        }
        self.settings.blocks.insert(drive, node).map_err(refused)?;
        self.tell_medium(drive);
        Ok(())
    }

    /// Puts a node in place of the medium that a device has.
    pub(super) fn replace_medium(&mut self, id: DriveId, node: &[u8]) -> Result<(), QmpError> {
        let blocks = self.settings.blocks.clone();
        let node = blocks.known_node(&text(node)).map_err(refused)?;
        let drive = blocks.drive_by_id(id);
        let drive = drive.ok_or_else(|| refused("Device has no medium".to_owned()))?;
        blocks.replace(&drive, &node).map_err(refused)?;
        self.settle_blocks();
        // As with QEMU no other disk tells its guest of another length.
        let looks = {
            let guarded = self.shared.lock();
            let mut plugged = guarded.machine.plugged().iter();
            let found = plugged.find(|plugged| plugged.drive() == Some(id));
            found.is_some_and(|plugged| plugged.class().name.starts_with("virtio-blk"))
        };
        if looks {
            self.tell_medium(&drive);
        }
        Ok(())
    }

    fn node(&self, name: &str) -> Option<std::rc::Rc<Node>> {
        self.settings.blocks.node(name)
    }
}

impl Blocks for Vm {
    fn blockdev_add(&mut self, options: &BlockdevOptions<'_>) -> Result<(), QmpError> {
        self.settings.blocks.add(options).map_err(refused)
    }

    fn blockdev_del(&mut self, node: &[u8]) -> Result<(), QmpError> {
        self.settings.blocks.remove(&text(node)).map_err(refused)
    }

    fn blockdev_reopen<'m>(
        &mut self,
        options: &mut dyn Iterator<Item = BlockdevOptions<'m>>,
    ) -> Result<(), QmpError> {
        self.settings.blocks.reopen(options).map_err(refused)?;
        self.settle_blocks();
        self.tell_media();
        Ok(())
    }

    fn visit_block_nodes(&self, flat: bool, visit: &mut dyn FnMut(&BlockDeviceInfo<'_>)) {
        for node in self.settings.blocks.nodes().iter().rev() {
            NodeInfo::new(node).show(!flat, visit);
        }
    }

    fn visit_drives(&self, visit: &mut dyn FnMut(&BlockInfo<'_>)) {
        for drive in self.settings.blocks.drives() {
            DriveInfo::new(&drive, self.tray(&drive)).show(visit);
        }
    }

    fn visit_block_stats(&self, nodes: bool, visit: &mut dyn FnMut(&BlockStats<'_>)) {
        let now = monotonic();
        if nodes {
            for node in self.settings.blocks.nodes() {
                StatsInfo::of_node(&node).show(now, visit);
            }
            return;
        }
        for drive in self.settings.blocks.drives() {
            StatsInfo::of_drive(&drive).show(now, visit);
        }
    }

    fn set_write_threshold(&mut self, node: &[u8], threshold: u64) -> Result<(), QmpError> {
        let name = text(node);
        let node = self.node(&name);
        let node = node.ok_or_else(|| refused(format!("Device '{name}' not found")))?;
        node.set_threshold(threshold);
        Ok(())
    }

    fn eject(&mut self, drive: DriveName<'_>, force: bool) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        self.need_open_tray(&named, force)?;
        self.take_medium(&named)
    }

    fn open_tray(&mut self, drive: DriveName<'_>, force: bool) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        self.open_tray_of(&named, force).map(drop)
    }

    fn close_tray(&mut self, drive: DriveName<'_>) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        self.check_removable(&named)?;
        self.move_tray(&named.drive, false);
        Ok(())
    }

    fn remove_medium(&mut self, drive: DriveName<'_>) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        self.take_medium(&named)
    }

    fn insert_medium(&mut self, drive: DriveName<'_>, node: &[u8]) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        let name = text(node);
        let node = self.node(&name);
        let node = node.ok_or_else(|| refused(format!("Node '{name}' not found")))?;
        if node.users().iter().any(|(_, role)| *role == "root") {
            return Err(refused(format!("Node '{name}' is already in use")));
        }
        self.put_medium(&named, &node)
    }

    fn change_medium(
        &mut self,
        drive: DriveName<'_>,
        medium: NewMedium<'_>,
    ) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        let old = named.drive.settings();
        let options = DriveOptions {
            filename: Some(text(medium.filename)),
            format: medium.format.map(text),
            read_only: match medium.read_only {
                BlockdevChangeReadOnlyMode::Retain => old.read_only,
                BlockdevChangeReadOnlyMode::ReadOnly => true,
                BlockdevChangeReadOnlyMode::ReadWrite => false,
            },
            direct: Some(old.direct),
            no_flush: Some(old.no_flush),
            discard: Some(old.discard),
            // As with QEMU, which kept only whether it was on.
            detect_zeroes: match old.detect_zeroes {
                BlockdevDetectZeroesOptions::Off => BlockdevDetectZeroesOptions::Off,
                _ => BlockdevDetectZeroesOptions::On,
            },
            copy_on_read: old.copy_on_read,
            aio: old.aio,
            ..DriveOptions::default()
        };
        if options.filename.as_deref() == Some("") {
            let text = "The 'file' block driver requires a file name";
            return Err(refused(text.to_owned()));
        }
        let node = self
            .settings
            .blocks
            .open_medium(&options)
            .map_err(refused)?;
        self.need_open_tray(&named, medium.force)?;
        self.take_medium(&named)?;
        if let Some(node) = node {
            self.put_medium(&named, &node)?;
        }
        self.move_tray(&named.drive, false);
        Ok(())
    }

    fn block_resize(
        &mut self,
        drive: Option<&[u8]>,
        node: Option<&[u8]>,
        size: i64,
    ) -> Result<(), QmpError> {
        let blocks = self.settings.blocks.clone();
        let (drive, name) = (
            text(drive.unwrap_or_default()),
            text(node.unwrap_or_default()),
        );
        let of_drive = match blocks.drive(&drive) {
            Some(found) => {
                let root = found.root.borrow();
                let node = root.as_ref().map(|root| root.node());
                Some(node.ok_or_else(|| refused(format!("Device '{drive}' has no medium")))?)
            }
            None => None,
        };
        let node = of_drive.or_else(|| self.node(&name)).ok_or_else(|| {
            refused(format!(
                "Cannot find device='{drive}' nor node-name='{name}'"
            ))
        })?;
        let size = u64::try_from(size)
            .map_err(|_| refused("Parameter 'size' expects a >0 size".to_owned()))?;
        let need = Need {
            uses: Permissions::RESIZE,
            ..Need::NONE
        };
        let whose = "an unnamed block device".to_owned();
        let user = Child::new(&node, whose, "root", need).map_err(refused)?;
        let resized = blocks.drained(|| blocks.wait(node.resize(size)));
        drop(user);
        resized.map_err(refused)?;
        self.settle_blocks();
        self.tell_media();
        Ok(())
    }

    fn set_drive_throttle(
        &mut self,
        drive: DriveName<'_>,
        limits: &BlockIOThrottle<'_>,
    ) -> Result<(), QmpError> {
        let named = self.find(drive)?;
        if named.drive.root.borrow().is_none() {
            return Err(refused("Device has no medium".to_owned()));
        }
        // A number below zero is out of range, as one that is too large.
        let number = |value: i64| value as u64;
        let limit = |average: i64, maximum: Option<i64>, length: Option<i64>| Limit {
            average: number(average),
            maximum: number(maximum.unwrap_or(0)),
            length: number(length.unwrap_or(1)),
        };
        let mut wanted = Limits {
            request_size: number(limits.iops_size.unwrap_or(0)),
            ..Limits::default()
        };
        let given = limits;
        wanted.each[BPS] = limit(given.bps, given.bps_max, given.bps_max_length);
        wanted.each[BPS_READ] = limit(given.bps_rd, given.bps_rd_max, given.bps_rd_max_length);
        wanted.each[BPS_WRITE] = limit(given.bps_wr, given.bps_wr_max, given.bps_wr_max_length);
        wanted.each[IOPS] = limit(given.iops, given.iops_max, given.iops_max_length);
        wanted.each[IOPS_READ] = limit(given.iops_rd, given.iops_rd_max, given.iops_rd_max_length);
        wanted.each[IOPS_WRITE] = limit(given.iops_wr, given.iops_wr_max, given.iops_wr_max_length);
        wanted.check().map_err(refused)?;
        if !wanted.any() {
            named.drive.group.replace(None);
            return Ok(());
        }
        let old = named.drive.group.borrow().clone();
        let group = match (given.group, old) {
            (None, Some(old)) => old,
            (group, _) => {
                let group = group.map_or_else(|| named.name.clone(), text);
                self.settings.blocks.group_or_new(&group)
            }
        };
        group.set_limits(wanted);
        named.drive.group.replace(Some(group));
        Ok(())
    }

    fn set_latency_histogram(
        &mut self,
        arguments: &BlockLatencyHistogramSet<'_>,
    ) -> Result<(), QmpError> {
        let named = self.find(DriveName::Device(arguments.id))?;
        let all = arguments
            .boundaries
            .clone()
            .map(Iterator::collect::<Vec<u64>>);
        let own = [
            (READ, &arguments.boundaries_read),
            (WRITE, &arguments.boundaries_write),
            (FLUSH, &arguments.boundaries_flush),
        ];
        let own = own.map(|(kind, given)| (kind, given.clone().map(Iterator::collect::<Vec<u64>>)));
        let mut statistics = named.drive.statistics.borrow_mut();
        if all.is_none() && own.iter().all(|(_, given)| given.is_none()) {
            for count in &mut statistics.counts {
                count.histogram = None;
            }
            return Ok(());
        }
        for (kind, given) in own {
            let Some(borders) = given.or_else(|| all.clone()) else {
                continue;
            };
            let ascending = borders.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || borders.first() == Some(&0) {
                let what = ["read", "write", "flush"][kind];
                return Err(refused(format!(
                    "Device '{}' set {what} boundaries fail",
                    named.name
                )));
            }
            let bins = vec![0; borders.len() + 1];
            statistics.counts[kind].histogram = Some((borders, bins));
        }
        Ok(())
    }

    fn drive_add(&mut self, options: &[u8]) -> Result<(), QmpError> {
        self.add_drive(&text(options))
    }

    fn node_add(&mut self, options: &[u8]) -> Result<(), QmpError> {
        self.add_node(&text(options))
    }

    fn drive_del(&mut self, name: &[u8]) -> Result<(), QmpError> {
        self.delete_drive(&text(name))
    }

    fn storage_command(
        &mut self,
        drive: DriveName<'_>,
        words: &[u8],
        say: &mut dyn fmt::Write,
    ) -> Result<(), Unheard> {
        self.command_storage(drive, &text(words), say)
    }
}
