//! A trace as steps on address spaces, the form in which it can be replayed.
//!
//! [`Spaces`] follows which tasks share an address space and where each heap ends, and turns every
//! [`Entry`] into [`Step`]s: create, copy, map, fault, destroy. Whoever replays a trace implements
//! [`Replay`] and is given the steps by [`replay`], in the order in which they were recorded.

use std::collections::HashMap;
use std::io::Read;

use crate::error::TraceError;
use crate::event::{Advice, Entry, Event, ForkFlags, MapFlags, PageRange, Protection, TaskId};
use crate::header::Header;
use crate::op::{CopyPolicy, SpaceId, SpaceOp};
use crate::reader::TraceReader;

/// One thing that happens to an address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// The task that causes it.
    pub task: TaskId,
    /// The address space.
    pub space: SpaceId,
    /// What happens.
    pub op: SpaceOp,
}

/// Somebody who carries out the steps of a trace.
pub trait Replay {
    /// Why a step could not be carried out.
    type Error;

    /// Told once, before the first step.
    ///
    /// # Errors
    /// The trace cannot be replayed here.
    fn begin(&mut self, header: &Header) -> Result<(), Self::Error>;

    /// Carries out one step.
    ///
    /// # Errors
    /// It could not be carried out; the replay ends.
    fn step(&mut self, step: &Step) -> Result<(), Self::Error>;
}

/// Why a replay ended early.
#[derive(Debug)]
pub enum ReplayError<E> {
    /// The trace could not be read on.
    Trace(TraceError),
    /// The replayer refused a step.
    Step(E),
}

/// Reads the trace to its end and hands every step to `to`. Afterwards
/// [`TraceReader::trailer`] and [`TraceReader::damage`] say how it ended.
///
/// # Errors
/// [`ReplayError`].
pub fn replay<R: Read, P: Replay>(
    reader: &mut TraceReader<R>,
    to: &mut P,
) -> Result<(), ReplayError<P::Error>> {
    to.begin(reader.header()).map_err(ReplayError::Step)?;
    let mut spaces = Spaces::new(reader.header());
    let mut steps = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(ReplayError::Trace)? {
        spaces.follow(&entry, &mut steps);
        for step in steps.drain(..) {
            to.step(&step).map_err(ReplayError::Step)?;
        }
    }
    Ok(())
}

/// What is known of a live address space.
#[derive(Debug, Clone, Copy, Default)]
struct Space {
    tasks: u32,
    /// The program break, once a brk has told it.
    brk: Option<u64>,
}

/// Follows tasks and address spaces through a trace.
#[derive(Debug)]
pub struct Spaces {
    page_shift: u8,
    of_task: HashMap<TaskId, SpaceId>,
    live: HashMap<SpaceId, Space>,
    next: u32,
}

impl Spaces {
    /// Begins a trace.
    pub fn new(header: &Header) -> Self {
        Self {
            page_shift: header.page_shift,
            of_task: HashMap::new(),
            live: HashMap::new(),
            next: 0,
        }
    }

    /// The address space `task` runs in now, if it is alive.
    pub fn of_task(&self, task: TaskId) -> Option<SpaceId> {
        self.of_task.get(&task).copied()
    }

    /// Address spaces alive now.
    pub fn alive(&self) -> usize {
        self.live.len()
    }

    /// Appends to `steps` what `entry`, which a reader has checked, does.
    pub fn follow(&mut self, entry: &Entry, steps: &mut Vec<Step>) {
        let Entry { time_ns, task, event } = entry;
        let mut step = |space, op| steps.push(Step { time_ns: *time_ns, task: *task, space, op });
        if let Event::Start { .. } = event {
            return step(self.enter_new(*task), SpaceOp::Create);
        }
        let Some(space) = self.of_task(*task) else { return };
        match event {
            Event::Fork { child, flags, .. } => {
                if flags.contains(ForkFlags::SHARES_SPACE) {
                    self.enter(*child, space);
                } else {
                    let copy = self.enter_new(*child);
                    let brk = self.live.get(&space).and_then(|space| space.brk);
                    self.live.entry(copy).or_default().brk = brk;
                    step(copy, SpaceOp::CopyOf(space));
                }
            }
            Event::Exec { .. } => {
                if self.leave(*task) {
                    step(space, SpaceOp::Destroy);
                }
                step(self.enter_new(*task), SpaceOp::Create);
            }
            Event::Exit { .. } => {
                if self.leave(*task) {
                    step(space, SpaceOp::Destroy);
                }
            }
            Event::Brk { address } => {
                if let Some(op) = self.brk(space, *address) {
                    step(space, op);
                }
            }
            event => {
                if let Some(op) = plain_op(event) {
                    step(space, op);
                }
            }
        }
    }

    fn enter_new(&mut self, task: TaskId) -> SpaceId {
        let space = SpaceId(self.next);
        self.next += 1;
        self.enter(task, space);
        space
    }

    fn enter(&mut self, task: TaskId, space: SpaceId) {
        self.of_task.insert(task, space);
        self.live.entry(space).or_default().tasks += 1;
    }

    /// True when `task` was the last one in its space.
    fn leave(&mut self, task: TaskId) -> bool {
        let Some(space) = self.of_task.remove(&task) else { return false };
        let Some(state) = self.live.get_mut(&space) else { return false };
        state.tasks -= 1;
        if state.tasks == 0 {
            self.live.remove(&space);
            return true;
        }
        false
    }

    /// The heap is mapped from the page above the break it had to the page above the one it has.
    fn brk(&mut self, space: SpaceId, address: u64) -> Option<SpaceOp> {
        let state = self.live.get_mut(&space)?;
        let before = state.brk.replace(address)?;
        let page_above = |address: u64| address.div_ceil(1 << self.page_shift);
        let (old, new) = (page_above(before), page_above(address));
        if new > old {
            Some(SpaceOp::Map {
                range: PageRange::between(old, new),
                protection: Protection::READ | Protection::WRITE,
                flags: MapFlags::ANONYMOUS,
            })
        } else {
            (new < old).then(|| SpaceOp::Unmap(PageRange::between(new, old)))
        }
    }
}

/// Events that are one step in the task's own space.
fn plain_op(event: &Event) -> Option<SpaceOp> {
    Some(match event {
        Event::Mmap { range, protection, flags } => {
            SpaceOp::Map { range: *range, protection: *protection, flags: *flags }
        }
        Event::Munmap { range } => SpaceOp::Unmap(*range),
        Event::Mremap { from, to, keeps_old } => {
            SpaceOp::Move { from: *from, to: *to, keeps_old: *keeps_old }
        }
        Event::Mprotect { range, protection } => {
            SpaceOp::Protect { range: *range, protection: *protection }
        }
        Event::Madvise { range, advice } => advised(*range, *advice)?,
        Event::Populate { range } => SpaceOp::Populate(*range),
        Event::Fault { page, flags } => SpaceOp::Fault { page: *page, flags: *flags },
        Event::Times(times) => SpaceOp::TaskEnded(times.clone()),
        _ => return None,
    })
}

fn advised(range: PageRange, advice: Advice) -> Option<SpaceOp> {
    let on_copy = |policy| Some(SpaceOp::OnCopy { range, policy });
    match advice {
        Advice::DontFork => on_copy(CopyPolicy::Skip),
        Advice::WipeOnFork => on_copy(CopyPolicy::Wipe),
        Advice::DoFork | Advice::KeepOnFork => on_copy(CopyPolicy::Copy),
        // The kernel takes these back under memory pressure alone.
        Advice::Free => Some(SpaceOp::MarkUnused(range)),
        advice if advice.drops_pages() => Some(SpaceOp::Discard(range)),
        advice if advice.populates() => Some(SpaceOp::Populate(range)),
        // Huge pages and guards change nothing that is mapped now.
        _ => None,
    }
}
