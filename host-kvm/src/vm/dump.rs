//! Dumps of the guest: `dump-guest-memory`, as a job in the background.
//!
//! The job's thread opens the file. Then the main thread stops the VM, collects what the processors are, and hands it over;
//! from there on the thread writes memory from where it lies. The VM stays stopped until the file is complete, and neither
//! `cont` nor a reset is taken meanwhile: a dump is of one moment.
//!
//! What the formats are is in [`thimble_core::formats::dump`]. The guest's page tables may map more than any file can hold:
//! no more than [`TABLES_MAX`] and [`PIECES_MAX`] are looked at.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use thimble_core::cpu::{CpuState, Listed, Mapping, PagingMode, PagingRegisters, TABLES_MAX};
use thimble_core::firmware::vmcoreinfo::NoNote;
use thimble_core::formats::deflate::Deflate;
use thimble_core::formats::dump::elf::{self, Load};
use thimble_core::formats::dump::kdump::{self, BLOCK, GuestInfo, Page};
use thimble_core::formats::dump::notes::{self, GuestNote};
use thimble_core::machine::RunState;
use thimble_core::memory::{Backing, Block, GuestRam, MemoryMap};
use thimble_monitor::schema::results::DumpQueryResult;
use thimble_monitor::schema::{DumpStatus, EventText};
use thimble_monitor::{DumpKind, DumpTarget, Dumps, Event, JobId, QmpError};

use super::jobs::{Cancelled, Progress, Reporter, Step, lock, write_block};
use super::save::read_memory;
use super::{Shared, Vm};
use crate::{error_text, files, report};

/// Bytes that are copied under the machine's lock at a time.
const CHUNK: usize = 64 << 10;

/// Bytes that are written at a time, before the job looks whether to go on.
const WRITE_MAX: u64 = 1 << 20;

/// Pieces of linear memory that are told apart: of 16 GiB, each page on its own.
const PIECES_MAX: usize = 1 << 22;

/// Bytes of page descriptors that are written at a time.
const DESCRIPTORS: usize = 2730 * kdump::DESCRIPTOR_SIZE;

/// What the state of a dump is while there is none.
const NONE: DumpQueryResult = DumpQueryResult {
    status: DumpStatus::None,
    completed: 0,
    total: 0,
};

/// How far the VM is with a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// There is none.
    #[default]
    Idle,
    /// Its file is being opened.
    Opening,
    /// The VM is stopped, and its memory is being written.
    Writing {
        /// It ran before.
        resume: bool,
    },
}

/// The last dump, or the one that is being written.
#[derive(Default)]
pub(super) struct Dump {
    stage: Stage,
    job: Option<JobId>,
    detach: bool,
    part: Option<(u64, u64)>,
    /// How it stands; nothing while there was none.
    status: Option<DumpStatus>,
    total: u64,
    /// Bytes of memory that are written.
    done: Arc<AtomicU64>,
    /// The same of the one whose file is being opened.
    next_done: Arc<AtomicU64>,
    handover: Arc<Handover>,
}

impl Dump {
    /// Whether this job is the dump's.
    pub(super) fn is_job(&self, job: JobId) -> bool {
        self.job == Some(job)
    }

    fn result(&self) -> DumpQueryResult {
        self.status.map_or(NONE, |status| DumpQueryResult {
            status,
            completed: self.done.load(Ordering::Relaxed) as i64,
            total: self.total as i64,
        })
    }
}

/// Memory that a dump has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    gpa: u64,
    length: u64,
    /// RAM can be taken from where it lies.
    ram: bool,
}

/// All RAM and ROM, as processors see it, or the part of it from an address on; ascending.
fn ranges(map: &MemoryMap, ram: &dyn GuestRam, part: Option<(u64, u64)>) -> Vec<Range> {
    let (begin, last) = match part {
        Some((begin, length)) => (begin, begin.saturating_add(length - 1)),
        None => (0, u64::MAX),
    };
    let mut ranges: Vec<Range> = Vec::new();
    for region in map.regions() {
        let (gpa, end) = (region.gpa.max(begin), region.gpa + (region.length - 1));
        let end = end.min(last);
        if region.read == Backing::Bus || gpa > end {
            continue;
        }
        let is_ram = region.read == Backing::Ram;
        let length = end - gpa + 1;
        if let Some(before) = ranges.last_mut()
            && is_ram
            && before.ram
            && before.gpa + before.length == gpa
            && ram
                .block(before.gpa)
                .is_some_and(|block| block.length as u64 > before.length)
        {
            before.length += length;
            continue;
        }
        ranges.push(Range {
            gpa,
            length,
            ram: is_ram,
        });
    }
    ranges
}

/// The VM at the moment of the dump.
struct Plan {
    map: MemoryMap,
    ranges: Vec<Range>,
    long_mode: bool,
    paging: Vec<PagingRegisters>,
    notes: Vec<u8>,
    guest: Option<GuestInfo>,
}

/// Where the main thread leaves the plan for the job's thread.
#[derive(Default)]
struct Handover {
    plan: Mutex<Option<Result<Plan, QmpError>>>,
    left: Condvar,
}

impl Handover {
    fn leave(&self, plan: Result<Plan, QmpError>) {
        *lock(&self.plan) = Some(plan);
        self.left.notify_all();
    }

    /// Waits for the plan. Once a file is open there always is one, unless the process ends.
    fn take(&self) -> Result<Plan, QmpError> {
        let mut plan = lock(&self.plan);
        loop {
            if let Some(plan) = plan.take() {
                return plan;
            }
            plan = self.left.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Dumps for Vm {
    fn dumping(&self) -> bool {
        self.dump.stage != Stage::Idle
    }

    fn dump(
        &mut self,
        target: DumpTarget<'_>,
        kind: DumpKind,
        detach: bool,
    ) -> Result<JobId, QmpError> {
        let part = match kind {
            DumpKind::Elf { part, .. } => part,
            DumpKind::Kdump => None,
        };
        let (passed, filename) = match target {
            DumpTarget::File(name) => (None, name),
            DumpTarget::Descriptor(name) => {
                let fd = self.passed.take(name).ok_or_else(|| {
                    let name = String::from_utf8_lossy(name);
                    QmpError::generic(format_args!(
                        "File descriptor named '{name}' has not been found"
                    ))
                })?;
                (Some(fd), name)
            }
        };
        let ram = {
            let guarded = self.shared.lock();
            let ram = guarded.machine.ram();
            if ranges(guarded.machine.memory_map(), ram, part).is_empty() {
                return Err(QmpError::generic(format_args!(
                    "dump: no guest memory to dump"
                )));
            }
            ram
        };
        let handover = Arc::new(Handover::default());
        let progress = Progress::new(filename);
        let done = Arc::new(AtomicU64::new(0));
        let task = Task {
            shared: self.shared.clone(),
            ram,
            kind,
            progress: progress.clone(),
            handover: handover.clone(),
            done: done.clone(),
        };
        let work = Box::new(move |reporter: &Reporter| task.run(passed, reporter));
        let job = self.jobs.start("dump", &self.shared, progress, work)?;
        self.dump.stage = Stage::Opening;
        self.dump.job = Some(job);
        self.dump.detach = detach;
        self.dump.part = part;
        self.dump.handover = handover;
        // The old one counts until the new one begins.
        self.dump.next_done = done;
        Ok(job)
    }

    fn dump_status(&self) -> DumpQueryResult {
        self.dump.result()
    }
}

impl Vm {
    /// Refuses what would change what a dump shows.
    pub(super) fn not_while_dumping(&self) -> Result<(), QmpError> {
        match self.dump.stage {
            Stage::Writing { .. } => Err(QmpError::generic(format_args!(
                "There is a dump in process, please wait."
            ))),
            Stage::Idle | Stage::Opening => Ok(()),
        }
    }

    /// The dump's file is open: stops the VM and lets the dump be written. Who asked for one in the background is answered
    /// now.
    pub(super) fn dump_opened(&mut self) -> Option<Result<(), QmpError>> {
        let resume = self.run_state == RunState::Running;
        self.halt(RunState::SaveVm);
        let plan = self.plan();
        self.dump.stage = Stage::Writing { resume };
        self.dump.status = Some(DumpStatus::Active);
        self.dump.done = std::mem::take(&mut self.dump.next_done);
        self.dump.total = match &plan {
            Ok(plan) => plan.ranges.iter().map(|range| range.length).sum(),
            Err(_) => 0,
        };
        self.dump.handover.leave(plan);
        self.dump.detach.then_some(Ok(()))
    }

    /// The dump has ended, or never begun. Its end is told to who waits for it.
    pub(super) fn dump_ended(
        &mut self,
        result: Result<(), QmpError>,
    ) -> Option<Result<(), QmpError>> {
        self.dump.job = None;
        let Stage::Writing { resume } = std::mem::take(&mut self.dump.stage) else {
            return Some(result);
        };
        self.dump.status = Some(match result {
            Ok(()) => DumpStatus::Completed,
            Err(_) => DumpStatus::Failed,
        });
        let error = result.as_ref().err().map(|error| {
            let mut text = EventText::new();
            // What is too long is cut.
            let _ = error.desc.chars().try_for_each(|c| text.push(c));
            text
        });
        self.event(Event::DumpCompleted {
            result: self.dump.result(),
            error,
        });
        if resume && self.run_state == RunState::SaveVm {
            self.start();
        }
        (!self.dump.detach).then_some(result)
    }

    /// What the dump is to show.
    fn plan(&self) -> Result<Plan, QmpError> {
        let mut plan = Plan {
            map: MemoryMap::new(),
            ranges: Vec::new(),
            long_mode: false,
            paging: Vec::new(),
            notes: Vec::new(),
            guest: None,
        };
        let mut states = Vec::new();
        match &self.processors {
            Some(processors) => {
                for index in 0..processors.count() {
                    let state = processors.state(index);
                    states.push(state.map_err(|error| {
                        QmpError::generic(format_args!("dump: failed to get CPU status: {error}"))
                    })?);
                }
            }
            // As after a reset.
            None => {
                let state = |index| Box::new(CpuState::power_on(index as u8, index == 0, 0));
                states.extend((0..self.settings.cpus).map(state));
            }
        }
        let long_mode = states.first().is_some_and(|state| notes::long_mode(state));
        plan.long_mode = long_mode;
        let mut put = |part: &[u8]| plan.notes.extend_from_slice(part);
        for (index, state) in states.iter().enumerate() {
            notes::status_note(state, index as u32, long_mode, &mut put);
        }
        for state in &states {
            notes::system_note(state, &mut put);
        }
        plan.paging = states
            .iter()
            .map(|state| PagingRegisters::from(&**state))
            .collect();
        let guarded = self.shared.lock();
        let (machine, ram) = (&guarded.machine, guarded.machine.ram());
        plan.map = machine.memory_map().clone();
        plan.ranges = ranges(&plan.map, ram, self.dump.part);
        if let Some(info) = machine.vmcoreinfo() {
            match info.note() {
                Ok((gpa, size)) => plan.add_guest_note(ram, gpa, size),
                Err(reason) => no_note(match reason {
                    NoNote::Absent => "there is none",
                    NoNote::Format => "its format is not known",
                    NoNote::Size(_) => "its size is not possible",
                }),
            }
        }
        Ok(plan)
    }
}

/// Says why a dump lacks what the guest was to tell of itself.
fn no_note(reason: &str) {
    report(format_args!(
        "warning: dump without the guest's note: {reason}"
    ));
}

impl Plan {
    /// Adds the note that the guest has left in RAM, if it is one.
    fn add_guest_note(&mut self, ram: &dyn GuestRam, gpa: u64, size: usize) {
        let mut bytes = vec![0; size];
        if ram.read(gpa, &mut bytes).is_err() {
            return no_note("it is not in RAM");
        }
        let Some(note) = GuestNote::parse(&bytes) else {
            return no_note("it is not well formed");
        };
        if note.is_vmcoreinfo() {
            self.guest = Some(GuestInfo {
                at: (self.notes.len() + note.content_at) as u64,
                length: note.content.len() as u64,
                phys_base: note.phys_base().unwrap_or(0),
            });
        }
        self.notes.extend_from_slice(note.bytes);
    }
}

/// Why there is no dump.
enum DumpError {
    Open(io::Error),
    /// What failed, in QEMU's words, and where they tell it, why.
    Write(&'static str, Option<io::Error>),
    /// The guest's page tables are too many, or map too much.
    Tables,
    Plan(QmpError),
    Cancelled,
}

impl From<Cancelled> for DumpError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// A dump, as its thread sees it.
struct Task {
    shared: Arc<Shared>,
    ram: &'static dyn GuestRam,
    kind: DumpKind,
    progress: Arc<Progress>,
    handover: Arc<Handover>,
    done: Arc<AtomicU64>,
}

impl Task {
    fn run(&self, passed: Option<OwnedFd>, reporter: &Reporter) -> Result<(), QmpError> {
        let result = self.progress.end(self.write(passed, reporter));
        let path = self.progress.path.display();
        result.map_err(|error| match error {
            DumpError::Open(error) => {
                let error = error_text(&error);
                QmpError::generic(format_args!("Could not open '{path}': {error}"))
            }
            DumpError::Write(what, Some(error)) => {
                let error = error_text(&error);
                QmpError::generic(format_args!("dump: failed to {what}: {error}"))
            }
            DumpError::Write(what, None) => {
                QmpError::generic(format_args!("dump: failed to {what}"))
            }
            DumpError::Tables => QmpError::generic(format_args!(
                "dump: the page tables are more than {TABLES_MAX}, or map more than {PIECES_MAX} pieces of memory"
            )),
            DumpError::Plan(error) => error,
            DumpError::Cancelled => {
                QmpError::generic(format_args!("The dump to '{path}' was given up"))
            }
        })
    }

    fn write(&self, passed: Option<OwnedFd>, reporter: &Reporter) -> Result<(), DumpError> {
        let opened;
        let file = match &passed {
            Some(fd) => fd.as_fd(),
            None => {
                let file = self.progress.open(files::create_private);
                opened = file.map_err(DumpError::Open)?.ok_or(DumpError::Cancelled)?;
                opened.as_fd()
            }
        };
        reporter.tell(Step::Opened);
        let plan = self.handover.take().map_err(DumpError::Plan)?;
        let out = Out { task: self, file };
        match self.kind {
            DumpKind::Elf { paging, .. } => self.elf(&plan, paging, &out),
            DumpKind::Kdump => self.kdump(&plan, &out),
        }
    }

    fn elf(&self, plan: &Plan, paging: bool, out: &Out<'_>) -> Result<(), DumpError> {
        let loads = match plan.paging.iter().any(|cpu| cpu.mode() != PagingMode::Off) {
            true if paging => self.linear(plan)?,
            _ => whole(&plan.ranges),
        };
        let layout = elf::Layout {
            long_mode: plan.long_mode,
            loads: loads.len() as u32,
            notes: plan.notes.len() as u64,
            memory: plan.ranges.iter().map(|range| range.length).sum(),
        };
        out.put("write elf header", true, &layout.header())?;
        let mut table = layout.note_segment().to_vec();
        for load in &loads {
            table.extend(layout.load_segment(load));
        }
        out.put("write program header table", true, &table)?;
        out.put("write section headers", true, &layout.sections())?;
        out.put("write elf notes", false, &plan.notes)?;
        let mut chunk = Vec::new();
        for range in &plan.ranges {
            let mut at = 0;
            while at < range.length {
                at += self.write_piece(out, range, at, &mut chunk)?;
            }
        }
        out.put("write string table data", true, elf::NAMES)
    }

    /// Writes a piece of a range from `at` on, and tells its length.
    fn write_piece(
        &self,
        out: &Out<'_>,
        range: &Range,
        at: u64,
        chunk: &mut Vec<u8>,
    ) -> Result<u64, DumpError> {
        const WHAT: &str = "save memory";
        let (gpa, left) = (range.gpa + at, range.length - at);
        let length = match self.ram.block(gpa).filter(|_| range.ram) {
            Some(block) => {
                let length = left.min(block.length as u64).min(WRITE_MAX);
                out.block(WHAT, true, block, length as usize)?;
                length
            }
            None => {
                let length = left.min(CHUNK as u64);
                chunk.resize(length as usize, 0);
                self.shared
                    .call(|machine, bridge, now| machine.physical_read(bridge, now, gpa, chunk));
                out.put(WHAT, true, chunk)?;
                length
            }
        };
        self.done.fetch_add(length, Ordering::Relaxed);
        Ok(length)
    }

    /// The dump's memory by the linear addresses of all processors that have paging.
    fn linear(&self, plan: &Plan) -> Result<Vec<Load>, DumpError> {
        let mut seen = Vec::new();
        let mut pieces = Pieces {
            whole: whole(&plan.ranges),
            found: Vec::new(),
        };
        for cpu in &plan.paging {
            // Most share their tables. Of CR4, PSE counts in one mode only.
            let pse = cpu.cr4 & (1 << 4);
            let key = (
                cpu.mode(),
                cpu.cr3,
                pse * u64::from(cpu.mode() == PagingMode::Bits32),
            );
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let mut read = |gpa, to: &mut [u8]| {
                read_memory(&self.shared, self.ram, &plan.map, gpa, to).is_ok()
            };
            let listed = cpu.mappings(&mut read, &mut |mapping| pieces.add(mapping));
            if listed != Listed::All {
                return Err(DumpError::Tables);
            }
            self.progress.check()?;
        }
        Ok(joined(pieces.found))
    }

    fn kdump(&self, plan: &Plan, out: &Out<'_>) -> Result<(), DumpError> {
        let runs = page_runs(&plan.ranges);
        let layout = kdump::Layout {
            cpus: plan.paging.len() as u32,
            notes: plan.notes.len() as u64,
            guest: plan.guest,
            end: runs.last().map_or(0, |run| run.1),
            pages: runs.iter().map(|run| run.1 - run.0).sum(),
        };
        out.put("write start flat header", false, &kdump::start())?;
        out.record("write disk dump header", 0, &layout.header())?;
        out.record(
            "write kdump sub header",
            layout.sub_header_at(),
            &layout.sub_header(),
        )?;
        out.record("write notes", layout.notes_at(), &plan.notes)?;
        let mut bitmap = vec![0; CHUNK];
        let mut at = 0;
        while at < layout.bitmap_size() {
            let length = (layout.bitmap_size() - at).min(CHUNK as u64);
            bitmap.clear();
            bitmap.resize(length as usize, 0);
            for (start, end) in &runs {
                kdump::mark(&mut bitmap, at * 8, *start, *end);
            }
            for start in layout.bitmaps_at() {
                out.record("set dump_bitmap", start + at, &bitmap)?;
            }
            at += length;
        }
        let mut pages = Pages::new(&layout);
        pages.data.extend([0; BLOCK as usize]);
        let zeros = Page {
            at: layout.pages_at(),
            length: BLOCK as u32,
        };
        let mut deflate = Deflate::new();
        for page in runs.iter().flat_map(|(start, end)| *start..*end) {
            let mut bytes = [0; BLOCK as usize];
            self.read_page(plan, page * BLOCK, &mut bytes);
            if bytes == [0; BLOCK as usize] {
                pages.describe(&zeros);
            } else {
                pages.add(&mut deflate, &bytes);
            }
            pages.flush(out, false)?;
            self.done.fetch_add(BLOCK, Ordering::Relaxed);
        }
        pages.flush(out, true)?;
        out.put("write end flat header", false, &kdump::end())
    }

    /// Reads a page; what there is no memory for stays zero.
    fn read_page(&self, plan: &Plan, gpa: u64, page: &mut [u8; BLOCK as usize]) {
        let whole = |range: &&Range| gpa >= range.gpa && gpa - range.gpa <= range.length - BLOCK;
        let ranges = &plan.ranges;
        let mut ram = ranges
            .iter()
            .filter(|range| range.ram && range.length >= BLOCK);
        if ram.any(|range| whole(&range)) && self.ram.read(gpa, page).is_ok() {
            return;
        }
        for range in ranges {
            let start = range.gpa.max(gpa);
            let end = (range.gpa + (range.length - 1)).min(gpa + (BLOCK - 1));
            if start > end {
                continue;
            }
            let part = (start - gpa) as usize..=(end - gpa) as usize;
            let _ = read_memory(&self.shared, self.ram, &plan.map, start, &mut page[part]);
        }
    }
}

/// Every range by its physical addresses.
fn whole(ranges: &[Range]) -> Vec<Load> {
    let mut offset = 0;
    let load = |range: &Range| {
        let load = Load {
            linear: range.gpa,
            physical: range.gpa,
            length: range.length,
            offset,
        };
        offset += range.length;
        load
    };
    ranges.iter().map(load).collect()
}

/// Joins pieces that follow each other in both kinds of addresses and in the file; ascending by physical addresses.
fn joined(mut pieces: Vec<Load>) -> Vec<Load> {
    let distance = |piece: &Load| {
        (
            piece.linear.wrapping_sub(piece.physical),
            piece.linear.wrapping_sub(piece.offset),
        )
    };
    pieces.sort_unstable_by_key(|piece| (distance(piece), piece.physical));
    let mut joined: Vec<Load> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last)
                if distance(last) == distance(&piece)
                    && piece.physical - last.physical <= last.length =>
            {
                let end = piece.physical - last.physical + piece.length;
                last.length = last.length.max(end);
            }
            _ => joined.push(piece),
        }
    }
    joined.sort_unstable_by_key(|piece| (piece.physical, piece.linear));
    joined
}

/// Page numbers that ranges touch: from, and to before.
fn page_runs(ranges: &[Range]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        let run = (
            range.gpa / BLOCK,
            (range.gpa + (range.length - 1)) / BLOCK + 1,
        );
        match runs.last_mut() {
            Some(last) if run.0 <= last.1 => last.1 = last.1.max(run.1),
            _ => runs.push(run),
        }
    }
    runs
}

/// Mappings of the guest's tables on their way to [`Load`]s.
struct Pieces {
    /// The memory that the dump has.
    whole: Vec<Load>,
    found: Vec<Load>,
}

impl Pieces {
    /// Adds what the dump has of a page, until there are more than [`PIECES_MAX`].
    fn add(&mut self, page: &Mapping) -> ControlFlow<()> {
        let last = page.gpa + ((1 << page.bits) - 1);
        for range in &self.whole {
            let start = page.gpa.max(range.physical);
            let end = last.min(range.physical + (range.length - 1));
            if start > end {
                continue;
            }
            let piece = Load {
                linear: page.linear + (start - page.gpa),
                physical: start,
                length: end - start + 1,
                offset: range.offset + (start - range.physical),
            };
            let full = self.found.len() == PIECES_MAX;
            match self.found.last_mut() {
                Some(before) if follows(before, &piece) => before.length += piece.length,
                _ if full => return ControlFlow::Break(()),
                _ => self.found.push(piece),
            }
        }
        ControlFlow::Continue(())
    }
}

/// Whether a piece begins where another one ends, in both kinds of addresses and in the file.
fn follows(before: &Load, piece: &Load) -> bool {
    before.linear.wrapping_add(before.length) == piece.linear
        && before.physical + before.length == piece.physical
        && before.offset + before.length == piece.offset
}

/// Pages and their descriptors on their way to the file.
struct Pages {
    descriptors: Vec<u8>,
    descriptors_at: u64,
    data: Vec<u8>,
    data_at: u64,
}

impl Pages {
    fn new(layout: &kdump::Layout) -> Self {
        Self {
            descriptors: Vec::with_capacity(DESCRIPTORS),
            descriptors_at: layout.descriptors_at(),
            data: Vec::with_capacity((WRITE_MAX + BLOCK) as usize),
            data_at: layout.pages_at(),
        }
    }

    fn describe(&mut self, page: &Page) {
        self.descriptors.extend(page.descriptor());
    }

    /// Adds a page, smaller if that is possible.
    fn add(&mut self, deflate: &mut Deflate, page: &[u8; BLOCK as usize]) {
        // A byte less, so that it is smaller.
        let mut smaller = [0; BLOCK as usize - 1];
        let stored = match deflate.compress(page, &mut smaller) {
            Some(length) => smaller.get(..length).unwrap_or(page),
            None => page,
        };
        let place = Page {
            at: self.data_at + self.data.len() as u64,
            length: stored.len() as u32,
        };
        self.data.extend_from_slice(stored);
        self.describe(&place);
    }

    /// Writes what has gathered, if it is enough or the last.
    fn flush(&mut self, out: &Out<'_>, last: bool) -> Result<(), DumpError> {
        if last || self.descriptors.len() >= DESCRIPTORS {
            out.record("write page desc", self.descriptors_at, &self.descriptors)?;
            self.descriptors_at += self.descriptors.len() as u64;
            self.descriptors.clear();
        }
        if last || self.data.len() as u64 >= WRITE_MAX {
            out.record("write page data", self.data_at, &self.data)?;
            self.data_at += self.data.len() as u64;
            self.data.clear();
        }
        Ok(())
    }
}

/// The file, and the job that writes it.
struct Out<'t> {
    task: &'t Task,
    file: BorrowedFd<'t>,
}

impl Out<'_> {
    /// Writes the first `length` bytes of a block; if that fails, `what` did, and `why` where that is told.
    fn block(
        &self,
        what: &'static str,
        why: bool,
        block: Block,
        length: usize,
    ) -> Result<(), DumpError> {
        self.task.progress.check()?;
        write_block(self.file, block, length)
            .map_err(|error| DumpError::Write(what, why.then_some(error)))
    }

    fn put(&self, what: &'static str, why: bool, bytes: &[u8]) -> Result<(), DumpError> {
        let block = Block {
            pointer: NonNull::from(bytes).cast(),
            length: bytes.len(),
        };
        self.block(what, why, block, bytes.len())
    }

    /// Writes a record of the flattened format.
    fn record(&self, what: &'static str, offset: u64, bytes: &[u8]) -> Result<(), DumpError> {
        let head = kdump::record(offset, bytes.len() as u64);
        self.put(what, false, &head)?;
        self.put(what, false, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use thimble_core::memory::Region;

    fn map(regions: &[(u64, u64, Backing)]) -> MemoryMap {
        let mut map = MemoryMap::new();
        for (gpa, length, read) in regions {
            map.push(Region {
                gpa: *gpa,
                length: *length,
                read: *read,
                // So that no two are joined.
                write_ram: map.regions().len().is_multiple_of(2),
            })
            .unwrap();
        }
        map
    }

    const ROM: Backing = Backing::Rom { offset: 0 };

    fn seen(ram: &Ram, map: &MemoryMap, part: Option<(u64, u64)>) -> Vec<(u64, u64, bool)> {
        let ranges = ranges(map, ram, part);
        let seen = ranges.iter().map(|r| (r.gpa, r.length, r.ram));
        seen.collect()
    }

    #[test]
    fn ranges_are_ram_and_rom_and_parts_of_them() {
        let ram = Ram::new(&[(0, 0x1_0000), (0x1_0000, 0x1000), (1 << 32, 0x1000)]).unwrap();
        let map = map(&[
            (0, 0x4000, Backing::Ram),
            (0x4000, 0x4000, Backing::Ram),
            (0x8000, 0x1000, Backing::Bus),
            (0x9000, 0x1000, ROM),
            (0xa000, 0x6000, Backing::Ram),
            // Follows in the guest's addresses, but not in the host's.
            (0x1_0000, 0x1000, Backing::Ram),
            (1 << 32, 0x1000, Backing::Ram),
        ]);
        let all = [
            (0, 0x8000, true),
            (0x9000, 0x1000, false),
            (0xa000, 0x6000, true),
            (0x1_0000, 0x1000, true),
            (1 << 32, 0x1000, true),
        ];
        assert_eq!(seen(&ram, &map, None), all);
        assert_eq!(seen(&ram, &map, Some((0, u64::MAX))), all);
        let part = |begin, length| seen(&ram, &map, Some((begin, length)));
        assert_eq!(part(0x3fff, 3), [(0x3fff, 3, true)]);
        assert_eq!(
            part(0x7fff, 0x1002),
            [(0x7fff, 1, true), (0x9000, 1, false)]
        );
        assert_eq!(part(0x8000, 0x1000), []);
        assert_eq!(
            part((1 << 32) + 0xfff, u64::MAX),
            [((1 << 32) + 0xfff, 1, true)]
        );
        assert_eq!(part(u64::MAX, 1), []);
    }

    #[test]
    fn pages_are_counted_once() {
        let range = |gpa, length| Range {
            gpa,
            length,
            ram: true,
        };
        let ranges = [
            range(0x1001, 1),
            range(0x1fff, 2),
            range(0x3000, 0x1000),
            range(0x5fff, 0x1001),
        ];
        assert_eq!(page_runs(&ranges), [(1, 4), (5, 7)]);
    }

    #[test]
    fn pieces_join_where_addresses_and_the_file_do() {
        let load = |linear, physical, length, offset| Load {
            linear,
            physical,
            length,
            offset,
        };
        let pieces = vec![
            load(0x9000, 0x2000, 0x1000, 0x2000),
            load(0x8000, 0x1000, 0x1000, 0x1000),
            // The same page once more, and at another address.
            load(0x8000, 0x1000, 0x1000, 0x1000),
            load(0x4000, 0x1000, 0x1000, 0x1000),
            // Behind a gap in the file.
            load(0xa000, 0x3000, 0x1000, 0x9000),
            load(0xffff_ffff_ffff_f000, 0, 0x1000, 0),
        ];
        assert_eq!(
            joined(pieces),
            [
                load(0xffff_ffff_ffff_f000, 0, 0x1000, 0),
                load(0x4000, 0x1000, 0x1000, 0x1000),
                load(0x8000, 0x1000, 0x2000, 0x1000),
                load(0xa000, 0x3000, 0x1000, 0x9000),
            ]
        );
    }

    #[test]
    fn mappings_become_pieces_of_what_there_is() {
        let range = |gpa, length| Range {
            gpa,
            length,
            ram: true,
        };
        let mut pieces = Pieces {
            whole: whole(&[
                range(0x1000, 0x2000),
                range(0x3000, 0x1000),
                range(0x5000, 0x800),
            ]),
            found: Vec::new(),
        };
        let page = |linear, gpa, bits| Mapping {
            linear,
            gpa,
            bits,
            entry: 0,
            common: 0,
        };
        // A page of 2 MiB over everything; then one where nothing is, and the last linear one of all.
        for page in [
            page(0x20_0000, 0, 21),
            page(0x40_0000, 0x4000, 12),
            page(u64::MAX - 0xfff, 0x5000, 12),
        ] {
            assert_eq!(pieces.add(&page), ControlFlow::Continue(()));
        }
        let load = |linear, physical, length, offset| Load {
            linear,
            physical,
            length,
            offset,
        };
        assert_eq!(
            pieces.found,
            [
                load(0x20_1000, 0x1000, 0x3000, 0),
                load(0x20_5000, 0x5000, 0x800, 0x3000),
                load(u64::MAX - 0xfff, 0x5000, 0x800, 0x3000),
            ]
        );
    }
}
