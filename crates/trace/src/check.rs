//! The rules every event of a valid trace keeps, enforced when it is written and when it is read: time
//! does not run backwards, tasks are alive and numbered in order of appearance, pages lie in the user
//! half of the address space.

use crate::error::Malformed;
use crate::event::{Entry, Event, PageRange, TaskId};
use crate::header::Header;

/// Which tasks are alive, and where addresses end.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    address_bits: u8,
    page_shift: u8,
    alive: Vec<bool>,
    time_ns: u64,
}

impl Checker {
    pub(crate) fn new(header: &Header) -> Self {
        Self {
            address_bits: header.address_bits,
            page_shift: header.page_shift,
            alive: Vec::new(),
            time_ns: 0,
        }
    }

    /// Number of the task that appears next.
    pub(crate) fn next_task(&self) -> TaskId {
        TaskId(self.alive.len() as u32)
    }

    /// Checks `entry` against everything before it, and takes note of it.
    pub(crate) fn admit(&mut self, entry: &Entry) -> Result<(), Malformed> {
        if entry.time_ns < self.time_ns {
            return Err(Malformed::TimeBackwards);
        }
        self.check_pages(&entry.event)?;
        self.check_task(entry)?;
        self.time_ns = entry.time_ns;
        Ok(())
    }

    fn check_task(&mut self, entry: &Entry) -> Result<(), Malformed> {
        match &entry.event {
            Event::Lost { .. } => return Ok(()),
            Event::Start { .. } => return self.appear(entry.task),
            _ => {}
        }
        let alive = self.alive.get_mut(entry.task.0 as usize).filter(|alive| **alive);
        let alive = alive.ok_or(Malformed::NoSuchTask(entry.task.0))?;
        match entry.event {
            Event::Exit { .. } => *alive = false,
            Event::Fork { child, .. } => self.appear(child)?,
            _ => {}
        }
        Ok(())
    }

    fn appear(&mut self, task: TaskId) -> Result<(), Malformed> {
        if task != self.next_task() {
            return Err(Malformed::TaskTwice(task.0));
        }
        self.alive.push(true);
        Ok(())
    }

    fn check_pages(&self, event: &Event) -> Result<(), Malformed> {
        match *event {
            Event::Mmap { range, .. }
            | Event::Munmap { range }
            | Event::Mprotect { range, .. }
            | Event::Madvise { range, .. }
            | Event::Populate { range } => self.check_range(range),
            Event::Mremap { from, to, .. } => {
                self.check_range(from)?;
                self.check_range(to)
            }
            Event::Fault { page, .. } => self.check_range(PageRange { first: page, count: 1 }),
            Event::Brk { address } => {
                self.check_range(PageRange { first: address >> self.page_shift, count: 1 })
            }
            _ => Ok(()),
        }
    }

    fn check_range(&self, range: PageRange) -> Result<(), Malformed> {
        let pages = 1u64 << (self.address_bits - self.page_shift);
        let bits = self.address_bits;
        if range.count == 0 {
            return Err(Malformed::EmptyRange);
        }
        if range.first >= pages {
            return Err(Malformed::NonCanonical { page: range.first, bits });
        }
        if range.count > pages - range.first {
            return Err(Malformed::NonCanonical { page: pages, bits });
        }
        Ok(())
    }
}
