//! Events on their way to the file, in order, where some places are kept for an event whose fate is not
//! known yet: a munmap stands where it began, but only once it has returned is it known to have happened.

use std::collections::VecDeque;

use crate::event::{Entry, Event, TaskId};

/// A place kept in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

#[derive(Debug)]
enum Slot {
    Ready(Entry),
    Kept { time_ns: u64, task: TaskId },
    Dropped,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    slots: VecDeque<Slot>,
    /// Rank of the first slot since the beginning.
    first: u64,
}

impl Queue {
    /// Appends an event.
    pub(super) fn push(&mut self, time_ns: u64, task: TaskId, event: Event) {
        self.slots.push_back(Slot::Ready(Entry { time_ns, task, event }));
    }

    /// Keeps a place at the end.
    pub(super) fn keep(&mut self, time_ns: u64, task: TaskId) -> Place {
        self.slots.push_back(Slot::Kept { time_ns, task });
        Place(self.first + self.slots.len() as u64 - 1)
    }

    /// Puts an event into a kept place, or gives the place up.
    pub(super) fn resolve(&mut self, place: Place, event: Option<Event>) {
        let Some(index) = place.0.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        if let Slot::Kept { time_ns, task } = *slot {
            *slot = match event {
                Some(event) => Slot::Ready(Entry { time_ns, task, event }),
                None => Slot::Dropped,
            };
        }
    }

    /// The next event, unless an undecided place comes first.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        while !matches!(self.slots.front()?, Slot::Kept { .. }) {
            self.first += 1;
            if let Some(Slot::Ready(entry)) = self.slots.pop_front() {
                return Some(entry);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PageRange;

    fn munmap() -> Event {
        Event::Munmap { range: PageRange { first: 1, count: 1 } }
    }

    #[test]
    fn nothing_overtakes_a_kept_place() {
        let mut queue = Queue::default();
        let place = queue.keep(5, TaskId(0));
        queue.push(7, TaskId(1), munmap());
        assert_eq!(queue.pop(), None);
        queue.resolve(place, Some(munmap()));
        assert_eq!(queue.pop().map(|entry| entry.time_ns), Some(5));
        assert_eq!(queue.pop().map(|entry| entry.time_ns), Some(7));
    }

    #[test]
    fn a_place_given_up_disappears() {
        let mut queue = Queue::default();
        let place = queue.keep(5, TaskId(0));
        queue.push(7, TaskId(1), munmap());
        queue.resolve(place, None);
        assert_eq!(queue.pop().map(|entry| entry.time_ns), Some(7));
        queue.resolve(place, Some(munmap()));
        assert_eq!(queue.pop(), None);
    }
}
