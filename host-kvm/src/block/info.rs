//! What clients are told of nodes and drives.

use std::rc::Rc;

use thimble_monitor::schema::BlockdevDriver;
use thimble_monitor::schema::results::{
    BlockDeviceInfo, BlockDeviceStats, BlockInfo, BlockLatencyHistogramInfo, BlockStats,
    BlockStatsSpecific, BlockStatsSpecificFile, BlockStatsSpecificVariant, BlockdevCacheInfo,
    ImageInfo,
};

use super::backend::{Backend, Count, FLUSH, READ, Statistics, UNMAP, WRITE};
use super::node::{Child, Node};
use super::throttle::{BPS, BPS_READ, BPS_WRITE, IOPS, IOPS_READ, IOPS_WRITE, Limit, Limits};

/// What is told of a node.
pub struct NodeInfo {
    node: Rc<Node>,
    filename: String,
    /// The image below, in what is shown of this one; or what a filter is on.
    backing: Option<Box<NodeInfo>>,
    /// It is a filter, and has no image below.
    is_filter: bool,
    limits: Limits,
    group: Option<String>,
    write_back: bool,
}

impl NodeInfo {
    /// Of a node by itself.
    pub fn new(node: &Rc<Node>) -> Self {
        let backing = node.below();
        Self {
            node: node.clone(),
            filename: node.filename(),
            backing: backing.map(|child| Box::new(Self::new(&child.node()))),
            is_filter: node.driver().is_filter(),
            limits: Limits::default(),
            group: None,
            write_back: true,
        }
    }

    /// Of the node in a drive.
    fn of_drive(drive: &Backend, node: &Rc<Node>) -> Self {
        let group = drive.group.borrow();
        Self {
            limits: group
                .as_ref()
                .map(|group| group.limits())
                .unwrap_or_default(),
            group: group.as_ref().map(|group| group.name().to_owned()),
            write_back: drive.write_cache.get(),
            ..Self::new(node)
        }
    }

    fn image(&self, nested: bool, take: &mut dyn FnMut(&ImageInfo<'_>)) {
        let driver = self.node.driver();
        let mut show = |backing: Option<&ImageInfo<'_>>| {
            take(&ImageInfo {
                filename: &self.filename,
                format: driver.name(),
                dirty_flag: driver.has_dirty_flag().then_some(false),
                actual_size: driver.allocated().map(|size| size as i64),
                virtual_size: self.node.length() as i64,
                cluster_size: driver.cluster_size().map(|size| size as i64),
                encrypted: None,
                compressed: None,
                backing_filename: None,
                full_backing_filename: None,
                backing_filename_format: None,
                backing_image: backing,
            });
        };
        match self.backing.as_ref().filter(|_| nested) {
            None => show(None),
            Some(backing) => backing.image(true, &mut |backing| show(Some(backing))),
        }
    }

    /// Shows it; with the images below it, if they are wanted.
    pub fn show(&self, nested: bool, take: &mut dyn FnMut(&BlockDeviceInfo<'_>)) {
        let settings = self.node.settings();
        let limit = |kind: usize| &self.limits.each[kind];
        let average = |kind: usize| limit(kind).average as i64;
        let burst = |limit: &Limit| Some(limit.maximum as i64).filter(|maximum| *maximum > 0);
        let length = |limit: &Limit| burst(limit).map(|_| limit.length as i64);
        let backing_file = self
            .backing
            .as_ref()
            .filter(|_| !self.is_filter)
            .map(|backing| backing.filename.as_str());
        let mut depth = 0;
        let mut below = self.backing.as_ref();
        while let Some(image) = below {
            depth += 1;
            below = image.backing.as_ref();
        }
        self.image(nested, &mut |image| {
            take(&BlockDeviceInfo {
                file: &self.filename,
                node_name: Some(self.node.name()),
                ro: settings.read_only,
                drv: self.node.driver().name(),
                backing_file,
                // A node by itself tells of none, as with QEMU.
                backing_file_depth: if nested { depth } else { 0 },
                encrypted: false,
                detect_zeroes: settings.detect_zeroes,
                bps: average(BPS),
                bps_rd: average(BPS_READ),
                bps_wr: average(BPS_WRITE),
                iops: average(IOPS),
                iops_rd: average(IOPS_READ),
                iops_wr: average(IOPS_WRITE),
                image,
                bps_max: burst(limit(BPS)),
                bps_rd_max: burst(limit(BPS_READ)),
                bps_wr_max: burst(limit(BPS_WRITE)),
                iops_max: burst(limit(IOPS)),
                iops_rd_max: burst(limit(IOPS_READ)),
                iops_wr_max: burst(limit(IOPS_WRITE)),
                bps_max_length: length(limit(BPS)),
                bps_rd_max_length: length(limit(BPS_READ)),
                bps_wr_max_length: length(limit(BPS_WRITE)),
                iops_max_length: length(limit(IOPS)),
                iops_rd_max_length: length(limit(IOPS_READ)),
                iops_wr_max_length: length(limit(IOPS_WRITE)),
                iops_size: Some(self.limits.request_size as i64).filter(|size| *size > 0),
                group: self.group.as_deref(),
                cache: BlockdevCacheInfo {
                    writeback: self.write_back,
                    direct: settings.direct,
                    no_flush: settings.no_flush,
                },
                write_threshold: self.node.threshold() as i64,
            });
        });
    }
}

/// What is told of a drive.
pub struct DriveInfo<'d> {
    drive: &'d Backend,
    medium: Option<NodeInfo>,
    tray: Option<(bool, bool)>,
}

impl<'d> DriveInfo<'d> {
    /// Of a drive, whose tray, if it has one, is open and locked as told.
    pub fn new(drive: &'d Backend, tray: Option<(bool, bool)>) -> Self {
        let root = drive.root.borrow();
        let medium = root.as_ref();
        Self {
            drive,
            medium: medium.map(|root| NodeInfo::of_drive(drive, &root.node())),
            tray,
        }
    }

    /// Shows it.
    pub fn show(&self, take: &mut dyn FnMut(&BlockInfo<'_>)) {
        let device = self.drive.device.borrow();
        let device = device.as_ref();
        let mut show = |inserted: Option<BlockDeviceInfo<'_>>| {
            take(&BlockInfo {
                device: self.drive.name(),
                qdev: device.map(|device| device.shown.as_str()),
                r#type: "unknown",
                // What no device has can be taken out.
                removable: device.is_none_or(|device| device.removable),
                locked: self.tray.is_some_and(|(_, locked)| locked),
                inserted,
                tray_open: self.tray.map(|(open, _)| open),
                io_status: Some(self.drive.status.get()).filter(|_| self.drive.has_status()),
            });
        };
        match &self.medium {
            None => show(None),
            Some(medium) => medium.show(true, &mut |info| show(Some(info.clone()))),
        }
    }
}

/// What is told of how much a drive or a node has done.
pub struct StatsInfo {
    drive: Option<Rc<Backend>>,
    node: Option<Rc<Node>>,
    /// What is below is told of, too, which lists of nodes don't, who have it anyway.
    deep: bool,
}

impl StatsInfo {
    /// Of a drive.
    pub fn of_drive(drive: &Rc<Backend>) -> Self {
        let root = drive.root.borrow();
        Self {
            drive: Some(drive.clone()),
            node: root.as_ref().map(|root| root.node()),
            deep: true,
        }
    }

    /// Of a node.
    pub fn of_node(node: &Rc<Node>) -> Self {
        Self {
            drive: None,
            node: Some(node.clone()),
            deep: false,
        }
    }

    fn of_child(&self, child: &Child) -> Self {
        Self {
            deep: self.deep,
            ..Self::of_node(&child.node())
        }
    }

    /// Shows it. `now` is on the clock of the requests' times.
    pub fn show(&self, now: u64, take: &mut dyn FnMut(&BlockStats<'_>)) {
        let node = self.node.as_ref();
        let children = node
            .map(|node| node.driver().children())
            .unwrap_or_default();
        let of = |role: &[&str]| {
            let found = children.iter().find(|child| role.contains(&child.role()));
            found.map(|child| self.of_child(child))
        };
        // Where its data are, and the image below.
        let parent = of(&["file", "image", "raw"]);
        let backing = node.filter(|_| self.deep).and_then(|node| node.below());
        let backing = backing.map(|child| self.of_child(child));
        let device = self.drive.as_ref().map(|drive| drive.device.borrow());
        let device = device.as_ref().and_then(|device| device.as_ref());
        let statistics = self
            .drive
            .as_ref()
            .map(|drive| drive.statistics.borrow().clone());
        let highest = node.map_or(0, |node| node.highest());
        let mut show = |parent: Option<&BlockStats<'_>>, backing: Option<&BlockStats<'_>>| {
            with_stats(statistics.as_ref(), highest, now, &mut |stats| {
                take(&BlockStats {
                    device: self.drive.as_ref().map(|drive| drive.name()),
                    qdev: device.map(|device| device.shown.as_str()),
                    node_name: node.map(|node| node.name()),
                    stats,
                    driver_specific: node.and_then(|node| specific(node)),
                    parent,
                    backing,
                });
            });
        };
        match (parent, backing) {
            (None, None) => show(None, None),
            (Some(parent), None) => parent.show(now, &mut |parent| show(Some(parent), None)),
            (None, Some(backing)) => backing.show(now, &mut |backing| show(None, Some(backing))),
            (Some(parent), Some(backing)) => parent.show(now, &mut |parent| {
                backing.show(now, &mut |backing| show(Some(parent), Some(backing)));
            }),
        }
    }
}

fn specific(node: &Node) -> Option<BlockStatsSpecific> {
    let discards = node.driver().discards()?;
    let file = BlockStatsSpecificFile {
        discard_nb_ok: discards.done,
        discard_nb_failed: discards.failed,
        discard_bytes_ok: discards.bytes,
    };
    let is_device = node.driver().name() == BlockdevDriver::HostDevice.name();
    Some(BlockStatsSpecific {
        variant: match is_device {
            true => BlockStatsSpecificVariant::HostDevice(file),
            false => BlockStatsSpecificVariant::File(file),
        },
    })
}

fn with_stats(
    statistics: Option<&Statistics>,
    highest: u64,
    now: u64,
    take: &mut dyn FnMut(BlockDeviceStats<'_>),
) {
    let nothing = Count::default();
    let count = |kind: usize| statistics.map_or(&nothing, |all| &all.counts[kind]);
    let (rd, wr, flush, unmap) = (count(READ), count(WRITE), count(FLUSH), count(UNMAP));
    let histogram = |count: &Count| count.histogram.clone();
    let histograms = [histogram(rd), histogram(wr), histogram(flush)];
    let shown = |at: usize| {
        histograms[at]
            .as_ref()
            .map(|(boundaries, bins)| BlockLatencyHistogramInfo { boundaries, bins })
    };
    let last = statistics.and_then(|all| all.last);
    let number = |value: u64| value as i64;
    take(BlockDeviceStats {
        rd_bytes: number(rd.bytes),
        wr_bytes: number(wr.bytes),
        unmap_bytes: number(unmap.bytes),
        rd_operations: number(rd.operations),
        wr_operations: number(wr.operations),
        flush_operations: number(flush.operations),
        unmap_operations: number(unmap.operations),
        rd_total_time_ns: number(rd.time),
        wr_total_time_ns: number(wr.time),
        flush_total_time_ns: number(flush.time),
        unmap_total_time_ns: number(unmap.time),
        wr_highest_offset: number(highest),
        // Requests are never made one with others.
        rd_merged: 0,
        wr_merged: 0,
        unmap_merged: 0,
        idle_time_ns: last.map(|last| number(now.saturating_sub(last))),
        failed_rd_operations: number(rd.failed),
        failed_wr_operations: number(wr.failed),
        failed_flush_operations: number(flush.failed),
        failed_unmap_operations: number(unmap.failed),
        invalid_rd_operations: number(rd.invalid),
        invalid_wr_operations: number(wr.invalid),
        invalid_flush_operations: number(flush.invalid),
        invalid_unmap_operations: number(unmap.invalid),
        account_invalid: statistics.is_some(),
        account_failed: statistics.is_some(),
        timed_stats: &[],
        rd_latency_histogram: shown(0),
        wr_latency_histogram: shown(1),
        flush_latency_histogram: shown(2),
    });
}
