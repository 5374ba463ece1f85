//! The time inside an execve, when the kernel builds the new address space: mappings come and move, and
//! pages are written before the program has run. Only what is there in the end goes into the trace.

use super::calls::{Pages, map_flags, protection};
use super::raw::RawMapping;
use crate::event::{Event, FaultFlags, MapFlags, PageRange};

/// An execve under way.
#[derive(Debug, Default)]
pub(super) struct Exec {
    pub name: Vec<u8>,
    mappings: Vec<RawMapping>,
    faults: Vec<(u64, FaultFlags)>,
    populated: Vec<PageRange>,
}

impl Exec {
    pub(super) fn new(name: Vec<u8>) -> Self {
        Self { name, ..Self::default() }
    }

    /// The kernel mapped something, over what may have been there.
    pub(super) fn mapped(&mut self, mapping: RawMapping) {
        let grows_down = |mapping: &RawMapping| mapping.stack;
        if grows_down(&mapping) {
            // The stack is made at the top of the address space, moved to its place and then grown: each
            // time the kernel reports it anew.
            self.mappings.retain(|old| !grows_down(old));
        }
        let (start, end) = (mapping.start, mapping.start.saturating_add(mapping.length));
        let old = std::mem::take(&mut self.mappings);
        self.mappings = old.into_iter().flat_map(|old| without(old, start, end)).collect();
        self.mappings.push(mapping);
    }

    /// The kernel itself faulted on a page of the new space.
    pub(super) fn faulted(&mut self, page: u64, flags: FaultFlags) {
        self.faults.push((page, flags));
    }

    /// Pages are there without a fault.
    pub(super) fn populated(&mut self, range: PageRange) {
        self.populated.push(range);
    }

    /// The events of the finished execve. `stack` is where the program's stack pointer begins: from there
    /// to the stack's end lie arguments and environment, which the kernel wrote.
    pub(super) fn finish(mut self, stack: Option<u64>, pages: Pages) -> Vec<Event> {
        self.mappings.sort_by_key(|mapping| mapping.start);
        let holds = |mapping: &RawMapping, address: u64| {
            (mapping.start..mapping.start.saturating_add(mapping.length)).contains(&address)
        };
        if let Some(address) = stack {
            for mapping in self.mappings.iter_mut().filter(|mapping| holds(mapping, address)) {
                mapping.stack = true;
                let end = mapping.start + mapping.length;
                self.populated.push(pages.range(address, end - address));
            }
        }
        let name = Event::Exec { name: self.name };
        let mappings = self.mappings.iter().map(|mapping| event(mapping, pages));
        let faults = self.faults.into_iter().map(|(page, flags)| Event::Fault { page, flags });
        let populated = self.populated.into_iter().map(|range| Event::Populate { range });
        std::iter::once(name).chain(mappings).chain(faults).chain(populated).collect()
    }
}

fn event(mapping: &RawMapping, pages: Pages) -> Event {
    let mut flags = map_flags(mapping.flags.into()) | MapFlags::BY_EXEC;
    flags.remove(MapFlags::POPULATE | MapFlags::FIXED);
    flags.set(MapFlags::ANONYMOUS, mapping.anonymous);
    flags.set(MapFlags::GROWS_DOWN, mapping.stack);
    Event::Mmap {
        range: pages.range(mapping.start, mapping.length),
        protection: protection(mapping.protection.into()),
        flags,
    }
}

/// What is left of `old` when `start..end` is mapped anew.
fn without(old: RawMapping, start: u64, end: u64) -> impl Iterator<Item = RawMapping> {
    let old_end = old.start.saturating_add(old.length);
    let below = (old.start < start)
        .then(|| RawMapping { length: old_end.min(start) - old.start, ..old.clone() });
    let above = (old_end > end).then(|| {
        let first = old.start.max(end);
        RawMapping { start: first, length: old_end - first, ..old.clone() }
    });
    below.into_iter().chain(above)
}
