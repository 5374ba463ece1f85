//! Figures about a whole trace: what `kpkeys trace info` prints.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use serde::Serialize;

use crate::error::TraceError;
use crate::event::{Entry, Event, FaultFlags, ForkFlags, MapFlags, PageRange, TaskTimes};
use crate::header::{Arch, Header, Kinds};
use crate::op::{SpaceId, SpaceOp};
use crate::range_set::RangeSet;
use crate::reader::TraceReader;
use crate::spaces::{Spaces, Step};

/// Figures about a trace.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Size of the trace in bytes (of the part that was read).
    pub bytes: u64,
    /// Events.
    pub events: u64,
    /// Events the recorder lost, as far as the trace tells.
    pub lost: u64,
    /// From the first to the last event, in nanoseconds.
    pub span_ns: u64,
    /// Events by kind.
    pub counts: Counts,
    /// Most address spaces alive at once.
    pub peak_spaces: u64,
    /// Most pages mapped at once, over all address spaces.
    pub peak_mapped_pages: u64,
    /// Most pages present at once as far as faults tell, over all address spaces: pages that a fault
    /// mapped besides its own are not in it.
    pub peak_touched_pages: u64,
    /// Costs, over all tasks.
    pub costs: Costs,
}

/// How many events there are of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Processes, the command's first included.
    pub processes: u64,
    /// Threads besides the first of each process.
    pub threads: u64,
    /// Forks that copied the address space.
    pub forks: u64,
    /// Forks that lent it (vfork, posix_spawn).
    pub vforks: u64,
    /// Successful execve calls.
    pub execs: u64,
    /// Tasks that exited.
    pub exits: u64,
    /// mmap calls.
    pub mmaps: u64,
    /// Mappings that execve made.
    pub exec_mappings: u64,
    /// munmap calls.
    pub munmaps: u64,
    /// mremap calls.
    pub mremaps: u64,
    /// mprotect calls.
    pub mprotects: u64,
    /// brk calls.
    pub brks: u64,
    /// madvise calls that matter.
    pub madvises: u64,
    /// Page faults, where they were recorded.
    pub faults: Option<u64>,
    /// Of these, writes, where it was recorded.
    pub write_faults: Option<u64>,
    /// Of these, on a present page (copy-on-write, mostly), where it was recorded.
    pub protection_faults: Option<u64>,
    /// Of these, by the kernel, where it was recorded.
    pub kernel_faults: Option<u64>,
}

/// Sums of [`TaskTimes`](crate::TaskTimes), each where it was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// Tasks with the kernel's accounting.
    pub accounted_tasks: Option<u64>,
    /// User time by that.
    pub user_ns: Option<u64>,
    /// System time by that, without the freeing of memory at exit.
    pub system_ns: Option<u64>,
    /// CPU time by that.
    pub cpu_ns: Option<u64>,
    /// Minor faults by that.
    pub minor_faults: Option<u64>,
    /// Major faults by that.
    pub major_faults: Option<u64>,
    /// Time in faults shorter than [`SLOW_FAULT_NS`](crate::SLOW_FAULT_NS).
    pub fault_ns: Option<u64>,
    /// Longer faults.
    pub slow_faults: Option<u64>,
    /// Time in those.
    pub slow_fault_ns: Option<u64>,
    /// Time in memory calls.
    pub call_ns: Option<u64>,
    /// Time in forks until the child existed.
    pub fork_ns: Option<u64>,
    /// Time in execve calls.
    pub exec_ns: Option<u64>,
}

impl Summary {
    /// Reads the trace to its end. How it ended, [`TraceReader::trailer`] and [`TraceReader::damage`] say.
    ///
    /// # Errors
    /// What [`TraceReader::next_entry`] returns.
    pub fn of<R: Read>(reader: &mut TraceReader<R>) -> Result<Self, TraceError> {
        let mut gauge = Gauge::new(reader.header());
        let mut summary = Self {
            counts: Counts::none_yet(reader.header()),
            costs: Costs::none_yet(reader.header()),
            ..Self::default()
        };
        let mut first_ns = None;
        while let Some(entry) = reader.next_entry()? {
            let first_ns = *first_ns.get_or_insert(entry.time_ns);
            summary.span_ns = entry.time_ns - first_ns;
            summary.events += 1;
            summary.count(&entry, &mut gauge.processes);
            gauge.follow(&entry);
        }
        summary.bytes = reader.bytes();
        summary.counts.processes = gauge.processes.len() as u64;
        summary.peak_spaces = gauge.peak_spaces;
        summary.peak_mapped_pages = gauge.peak_mapped;
        summary.peak_touched_pages = gauge.peak_touched;
        Ok(summary)
    }

    /// Bytes of the trace for each event.
    pub fn bytes_per_event(&self) -> f64 {
        self.bytes as f64 / self.events.max(1) as f64
    }

    fn count(&mut self, entry: &Entry, processes: &mut HashSet<(u32, u32)>) {
        let counts = &mut self.counts;
        match &entry.event {
            Event::Start { pid } => {
                processes.insert((*pid, entry.task.0));
            }
            Event::Fork { child, pid, flags } => {
                if flags.contains(ForkFlags::THREAD) {
                    counts.threads += 1;
                } else {
                    // A process id can come again: the task number tells the two apart.
                    processes.insert((*pid, child.0));
                    let lent = flags.contains(ForkFlags::SHARES_SPACE);
                    *if lent { &mut counts.vforks } else { &mut counts.forks } += 1;
                }
            }
            Event::Exec { .. } => counts.execs += 1,
            Event::Mmap { flags, .. } => {
                let by_exec = flags.contains(MapFlags::BY_EXEC);
                *if by_exec { &mut counts.exec_mappings } else { &mut counts.mmaps } += 1;
            }
            Event::Munmap { .. } => counts.munmaps += 1,
            Event::Mremap { .. } => counts.mremaps += 1,
            Event::Mprotect { .. } => counts.mprotects += 1,
            Event::Brk { .. } => counts.brks += 1,
            Event::Madvise { .. } => counts.madvises += 1,
            Event::Fault { flags, .. } => counts.add_fault(*flags),
            Event::Times(times) => self.costs.add(times),
            Event::Exit { .. } => counts.exits += 1,
            Event::Lost { count } => self.lost = self.lost.saturating_add(*count),
            Event::Populate { .. } => {}
        }
    }
}

impl Counts {
    /// Nothing counted yet of what a trace with this header has.
    fn none_yet(header: &Header) -> Self {
        let zero_if = |kinds| header.kinds.contains(Kinds::FAULTS | kinds).then_some(0);
        // RISC-V does not tell whether the page was present.
        let tells_presence = header.arch != Arch::Riscv64;
        Self {
            faults: zero_if(Kinds::FAULTS),
            write_faults: zero_if(Kinds::FAULT_WRITES),
            protection_faults: zero_if(Kinds::FAULT_WRITES).filter(|_| tells_presence),
            kernel_faults: zero_if(Kinds::KERNEL_FAULTS),
            ..Self::default()
        }
    }

    fn add_fault(&mut self, flags: FaultFlags) {
        let has = |flag| u64::from(flags.contains(flag));
        add(&mut self.faults, 1);
        add(&mut self.write_faults, has(FaultFlags::WRITE));
        add(&mut self.protection_faults, has(FaultFlags::PROTECTION));
        add(&mut self.kernel_faults, has(FaultFlags::KERNEL));
    }
}

/// Adds to a sum that there is. Saturating: a trace need not be true, and a sum must not panic for it.
fn add(sum: &mut Option<u64>, number: u64) {
    if let Some(sum) = sum {
        *sum = sum.saturating_add(number);
    }
}

impl Costs {
    /// Nothing summed up yet of what a trace with this header has.
    fn none_yet(header: &Header) -> Self {
        let accounted = header.kinds.contains(Kinds::ACCOUNTING).then_some(0);
        let measured = header.kinds.contains(Kinds::DURATIONS).then_some(0);
        Self {
            accounted_tasks: accounted,
            user_ns: accounted,
            system_ns: accounted,
            cpu_ns: accounted,
            minor_faults: accounted,
            major_faults: accounted,
            fault_ns: measured,
            slow_faults: measured,
            slow_fault_ns: measured,
            call_ns: measured,
            fork_ns: measured,
            exec_ns: measured,
        }
    }

    fn add(&mut self, times: &TaskTimes) {
        if let Some(accounted) = &times.accounted {
            add(&mut self.accounted_tasks, 1);
            add(&mut self.user_ns, accounted.user_ns);
            add(&mut self.system_ns, accounted.system_ns);
            add(&mut self.cpu_ns, accounted.cpu_ns);
            add(&mut self.minor_faults, accounted.minor_faults);
            add(&mut self.major_faults, accounted.major_faults);
        }
        add(&mut self.fault_ns, times.fault_ns);
        add(&mut self.slow_faults, times.slow_faults);
        add(&mut self.slow_fault_ns, times.slow_fault_ns);
        add(&mut self.call_ns, times.call_ns);
        add(&mut self.fork_ns, times.fork_ns);
        add(&mut self.exec_ns, times.exec_ns);
    }
}

/// Mapped and touched pages of one address space.
#[derive(Debug, Clone, Default)]
struct Extent {
    mapped: RangeSet,
    touched: RangeSet,
}

/// Keeps the running sizes whose peaks are wanted.
#[derive(Debug)]
struct Gauge {
    spaces: Spaces,
    extents: HashMap<SpaceId, Extent>,
    steps: Vec<Step>,
    processes: HashSet<(u32, u32)>,
    mapped: u64,
    touched: u64,
    peak_spaces: u64,
    peak_mapped: u64,
    peak_touched: u64,
}

impl Gauge {
    fn new(header: &Header) -> Self {
        Self {
            spaces: Spaces::new(header),
            extents: HashMap::new(),
            steps: Vec::new(),
            processes: HashSet::new(),
            mapped: 0,
            touched: 0,
            peak_spaces: 0,
            peak_mapped: 0,
            peak_touched: 0,
        }
    }

    fn follow(&mut self, entry: &Entry) {
        let mut steps = std::mem::take(&mut self.steps);
        self.spaces.follow(entry, &mut steps);
        for step in steps.drain(..) {
            self.step(&step);
        }
        self.steps = steps;
        self.peak_spaces = self.peak_spaces.max(self.spaces.alive() as u64);
        self.peak_mapped = self.peak_mapped.max(self.mapped);
        self.peak_touched = self.peak_touched.max(self.touched);
    }

    fn step(&mut self, step: &Step) {
        let origin = match step.op {
            SpaceOp::CopyOf(from) => self.extents.get(&from).cloned(),
            _ => None,
        };
        let extent = self.extents.entry(step.space).or_default();
        let (mapped, touched) = (extent.mapped.pages(), extent.touched.pages());
        match origin {
            Some(origin) => *extent = origin,
            None => extent.apply(&step.op),
        }
        // Unsigned sums: add before subtracting.
        self.mapped = self.mapped + extent.mapped.pages() - mapped;
        self.touched = self.touched + extent.touched.pages() - touched;
        if step.op == SpaceOp::Destroy {
            self.extents.remove(&step.space);
        }
    }
}

impl Extent {
    fn apply(&mut self, op: &SpaceOp) {
        match *op {
            SpaceOp::Map { range, flags, .. } => {
                self.mapped.insert(range);
                self.touched.remove(range);
                if flags.contains(MapFlags::POPULATE) {
                    self.touched.insert(range);
                }
            }
            SpaceOp::Unmap(range) => {
                self.mapped.remove(range);
                self.touched.remove(range);
            }
            SpaceOp::Move { from, to, keeps_old } => self.relocate(from, to, keeps_old),
            SpaceOp::Discard(range) => {
                self.touched.remove(range);
            }
            SpaceOp::Populate(range) => self.touched.insert(range),
            SpaceOp::Fault { page, .. } => self.touched.insert(PageRange { first: page, count: 1 }),
            SpaceOp::Destroy => *self = Self::default(),
            _ => {}
        }
    }

    fn relocate(&mut self, from: PageRange, to: PageRange, keeps_old: bool) {
        let pages = self.touched.remove(from);
        if !keeps_old {
            self.mapped.remove(from);
        }
        self.mapped.insert(to);
        self.touched.remove(to);
        for range in pages {
            let offset = range.first - from.first;
            let count = range.count.min(to.count.saturating_sub(offset));
            self.touched.insert(PageRange { first: to.first.saturating_add(offset), count });
        }
    }
}
