//! Events as bytes inside an unpacked block.
//!
//! An event is a head byte, the time since the event before it in [`TICK_NS`] units, and its fields.
//! The head byte of a fault is `1sssffff`: task slot and fault flags. Of anything else it is `0ssskkkk`:
//! task slot and kind. A task slot is one of eight places that hold task numbers; kind 0 loads one. Page
//! numbers are coded as the step from the last page the same task named. All state begins afresh in each
//! block, so that every block can be read on its own.

use std::collections::HashMap;

use crate::error::Malformed;
use crate::event::{
    Accounted, Advice, Entry, Event, FaultFlags, ForkFlags, MapFlags, PageRange, Protection,
    TaskId, TaskTimes,
};
use crate::varint::{self, Cursor};

/// Nanoseconds in one unit of a trace's clock.
pub const TICK_NS: u64 = 100;

/// Task slots a head byte can name.
const SLOTS: usize = 8;

/// Longest program name.
const NAME_LIMIT: usize = 255;

const FAULT: u8 = 0x80;

mod kind {
    pub const LOAD_SLOT: u8 = 0;
    pub const MMAP: u8 = 1;
    pub const MUNMAP: u8 = 2;
    pub const MREMAP: u8 = 3;
    pub const MPROTECT: u8 = 4;
    pub const BRK: u8 = 5;
    pub const MADVISE: u8 = 6;
    pub const POPULATE: u8 = 7;
    pub const FORK: u8 = 8;
    pub const EXEC: u8 = 9;
    pub const START: u8 = 10;
    pub const TIMES: u8 = 11;
    pub const EXIT: u8 = 12;
    pub const LOST: u8 = 13;
}

/// What writer and reader both remember inside a block.
#[derive(Debug, Default)]
struct State {
    ticks: u64,
    last_page: HashMap<TaskId, u64>,
}

impl State {
    fn starting_at(ticks: u64) -> Self {
        Self { ticks, last_page: HashMap::new() }
    }

    /// The page that steps of `task` count from.
    fn last_page(&mut self, task: TaskId) -> &mut u64 {
        self.last_page.entry(task).or_default()
    }
}

/// Turns events into the bytes of one block.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    state: State,
    slots: [Option<TaskId>; SLOTS],
    oldest_first: [u8; SLOTS],
    out: Vec<u8>,
}

impl Encoder {
    /// An empty block whose time begins at `ticks`.
    pub(crate) fn new(ticks: u64) -> Self {
        let oldest_first = std::array::from_fn(|slot| slot as u8);
        Self { state: State::starting_at(ticks), oldest_first, ..Self::default() }
    }

    /// The bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// Appends an event that [`Checker`](crate::check::Checker) has admitted; `next` is the number of
    /// the next task to appear.
    pub(crate) fn push(&mut self, entry: &Entry) {
        let slot = self.slot_of(entry.task);
        let low = match &entry.event {
            Event::Fault { flags, .. } => FAULT | flags.bits(),
            event => kind_of(event),
        };
        self.out.push(low | slot << 4);
        let ticks = entry.time_ns / TICK_NS;
        varint::put(&mut self.out, ticks - self.state.ticks);
        self.state.ticks = ticks;
        self.put_fields(entry.task, &entry.event);
    }

    /// The slot that holds `task`, loaded into the one unused for longest if none does.
    fn slot_of(&mut self, task: TaskId) -> u8 {
        let found =
            self.oldest_first.iter().position(|&slot| self.slots[usize::from(slot)] == Some(task));
        let rank = found.unwrap_or(0);
        let slot = self.oldest_first[rank];
        self.oldest_first[rank..].rotate_left(1);
        if found.is_none() {
            self.slots[usize::from(slot)] = Some(task);
            self.out.push(kind::LOAD_SLOT | slot << 4);
            varint::put(&mut self.out, u64::from(task.0));
        }
        slot
    }

    fn put_fields(&mut self, task: TaskId, event: &Event) {
        match event {
            Event::Fault { page, .. } => self.put_page(task, *page),
            Event::Mmap { range, protection, flags } => {
                self.out.extend([flags.bits(), protection.bits()]);
                self.put_range(task, *range);
            }
            Event::Munmap { range } | Event::Populate { range } => self.put_range(task, *range),
            Event::Mremap { from, to, keeps_old } => {
                self.out.push(u8::from(*keeps_old));
                self.put_range(task, *from);
                self.put_range(task, *to);
            }
            Event::Mprotect { range, protection } => {
                self.out.push(protection.bits());
                self.put_range(task, *range);
            }
            Event::Madvise { range, advice } => {
                self.out.push(*advice as u8);
                self.put_range(task, *range);
            }
            Event::Brk { address } => varint::put(&mut self.out, *address),
            Event::Fork { pid, flags, .. } => {
                self.out.push(flags.bits());
                varint::put(&mut self.out, u64::from(*pid));
            }
            Event::Exec { name } => {
                let shown = &name[..name.len().min(NAME_LIMIT)];
                varint::put_bytes(&mut self.out, shown);
            }
            Event::Start { pid } => varint::put(&mut self.out, u64::from(*pid)),
            Event::Times(times) => put_times(&mut self.out, times),
            Event::Exit { status } => {
                varint::put(&mut self.out, status.map_or(0, |status| u64::from(status) + 1));
            }
            Event::Lost { count } => varint::put(&mut self.out, *count),
        }
    }

    fn put_page(&mut self, task: TaskId, page: u64) {
        let last = std::mem::replace(self.state.last_page(task), page);
        varint::put_signed(&mut self.out, page.wrapping_sub(last) as i64);
    }

    fn put_range(&mut self, task: TaskId, range: PageRange) {
        self.put_page(task, range.first);
        varint::put(&mut self.out, range.count);
    }
}

fn kind_of(event: &Event) -> u8 {
    match event {
        Event::Fault { .. } => FAULT,
        Event::Mmap { .. } => kind::MMAP,
        Event::Munmap { .. } => kind::MUNMAP,
        Event::Mremap { .. } => kind::MREMAP,
        Event::Mprotect { .. } => kind::MPROTECT,
        Event::Brk { .. } => kind::BRK,
        Event::Madvise { .. } => kind::MADVISE,
        Event::Populate { .. } => kind::POPULATE,
        Event::Fork { .. } => kind::FORK,
        Event::Exec { .. } => kind::EXEC,
        Event::Start { .. } => kind::START,
        Event::Times(_) => kind::TIMES,
        Event::Exit { .. } => kind::EXIT,
        Event::Lost { .. } => kind::LOST,
    }
}

fn put_times(out: &mut Vec<u8>, times: &TaskTimes) {
    out.push(u8::from(times.accounted.is_some()));
    if let Some(accounted) = &times.accounted {
        for number in [
            accounted.user_ns,
            accounted.system_ns,
            accounted.cpu_ns,
            accounted.minor_faults,
            accounted.major_faults,
        ] {
            varint::put(out, number);
        }
    }
    for number in [
        times.faults,
        times.fault_ns,
        times.slow_faults,
        times.slow_fault_ns,
        times.call_ns,
        times.fork_ns,
        times.exec_ns,
    ] {
        varint::put(out, number);
    }
}

/// Turns the bytes of one unpacked block back into events.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    state: State,
    slots: [Option<TaskId>; SLOTS],
    cursor: Cursor<'a>,
}

impl<'a> Decoder<'a> {
    /// Reads `bytes`, whose time begins at `ticks`.
    pub(crate) fn new(bytes: &'a [u8], ticks: u64) -> Self {
        Self { state: State::starting_at(ticks), slots: [None; SLOTS], cursor: Cursor::new(bytes) }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.cursor.position()
    }

    /// The next event, or `None` at the end; `next_task` is the number the next task to appear has.
    pub(crate) fn next(&mut self, next_task: TaskId) -> Result<Option<Entry>, Malformed> {
        while !self.cursor.is_empty() {
            let head = self.cursor.byte()?;
            let slot = usize::from(head >> 4 & 7);
            if head & (FAULT | 0x0f) == kind::LOAD_SLOT {
                self.slots[slot] = Some(TaskId(self.cursor.number32()?));
                continue;
            }
            return self.event(head, slot, next_task).map(Some);
        }
        Ok(None)
    }

    fn event(&mut self, head: u8, slot: usize, next_task: TaskId) -> Result<Entry, Malformed> {
        let task = self.slots[slot]
            .ok_or(Malformed::Undefined { field: "an empty task slot", value: slot as u64 })?;
        let step = self.cursor.number()?;
        let ticks = self.state.ticks.checked_add(step).ok_or(Malformed::NumberTooLong)?;
        self.state.ticks = ticks;
        let time_ns = ticks.checked_mul(TICK_NS).ok_or(Malformed::NumberTooLong)?;
        let event = if head & FAULT == 0 {
            self.fields(head & 0x0f, task, next_task)?
        } else {
            let flags = FaultFlags::from_bits_retain(head & 0x0f);
            Event::Fault { page: self.page(task)?, flags }
        };
        Ok(Entry { time_ns, task, event })
    }

    fn fields(&mut self, kind: u8, task: TaskId, next_task: TaskId) -> Result<Event, Malformed> {
        Ok(match kind {
            kind::MMAP => {
                let flags = self.cursor.byte()?;
                let flags = MapFlags::from_bits(flags)
                    .ok_or(Malformed::Undefined { field: "the mmap flags", value: flags.into() })?;
                let protection = self.protection()?;
                Event::Mmap { range: self.range(task)?, protection, flags }
            }
            kind::MUNMAP => Event::Munmap { range: self.range(task)? },
            kind::MREMAP => {
                let keeps_old = self.flag("the mremap flags")?;
                Event::Mremap { from: self.range(task)?, to: self.range(task)?, keeps_old }
            }
            kind::MPROTECT => {
                let protection = self.protection()?;
                Event::Mprotect { range: self.range(task)?, protection }
            }
            kind::BRK => Event::Brk { address: self.cursor.number()? },
            kind::MADVISE => {
                let advice = self.advice()?;
                Event::Madvise { range: self.range(task)?, advice }
            }
            kind::POPULATE => Event::Populate { range: self.range(task)? },
            kind::FORK => {
                let flags = self.fork_flags()?;
                Event::Fork { child: next_task, pid: self.cursor.number32()?, flags }
            }
            kind::EXEC => Event::Exec { name: self.cursor.bytes(NAME_LIMIT)?.to_vec() },
            kind::START => Event::Start { pid: self.cursor.number32()? },
            kind::TIMES => Event::Times(Box::new(self.times()?)),
            kind::EXIT => {
                let coded = self.cursor.number()?;
                let status = coded.checked_sub(1).map(u32::try_from).transpose();
                Event::Exit { status: status.map_err(|_| Malformed::NumberTooLong)? }
            }
            kind::LOST => Event::Lost { count: self.cursor.number()? },
            _ => {
                return Err(Malformed::Undefined {
                    field: "the kind of event",
                    value: u64::from(kind),
                });
            }
        })
    }

    fn page(&mut self, task: TaskId) -> Result<u64, Malformed> {
        let step = self.cursor.signed()?;
        let last = self.state.last_page(task);
        *last = last.wrapping_add(step as u64);
        Ok(*last)
    }

    fn range(&mut self, task: TaskId) -> Result<PageRange, Malformed> {
        Ok(PageRange { first: self.page(task)?, count: self.cursor.number()? })
    }

    fn protection(&mut self) -> Result<Protection, Malformed> {
        let bits = self.cursor.byte()?;
        Protection::from_bits(bits)
            .ok_or(Malformed::Undefined { field: "the protection", value: bits.into() })
    }

    fn fork_flags(&mut self) -> Result<ForkFlags, Malformed> {
        let bits = self.cursor.byte()?;
        ForkFlags::from_bits(bits)
            .ok_or(Malformed::Undefined { field: "the fork flags", value: bits.into() })
    }

    fn advice(&mut self) -> Result<Advice, Malformed> {
        let code = u64::from(self.cursor.byte()?);
        Advice::from_linux(code).ok_or(Malformed::Undefined { field: "the advice", value: code })
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.cursor.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Malformed::Undefined { field, value: value.into() }),
        }
    }

    fn times(&mut self) -> Result<TaskTimes, Malformed> {
        let accounted = if self.flag("the mark of accounted times")? {
            Some(Accounted {
                user_ns: self.cursor.number()?,
                system_ns: self.cursor.number()?,
                cpu_ns: self.cursor.number()?,
                minor_faults: self.cursor.number()?,
                major_faults: self.cursor.number()?,
            })
        } else {
            None
        };
        Ok(TaskTimes {
            accounted,
            faults: self.cursor.number()?,
            fault_ns: self.cursor.number()?,
            slow_faults: self.cursor.number()?,
            slow_fault_ns: self.cursor.number()?,
            call_ns: self.cursor.number()?,
            fork_ns: self.cursor.number()?,
            exec_ns: self.cursor.number()?,
        })
    }
}
