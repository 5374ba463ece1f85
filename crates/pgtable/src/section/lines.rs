//! Emptying and copying runs of PTEs in a gate, eight at a time.
//!
//! What a gate stores it computes from the tables, whatever was gathered before it opened, so that it passes over entries that were loaded before. Eight
//! neighbours mostly differ in nothing but the frame. Then what the first is all are - valid, writable, settled -, and is asked once.

use core::panic::Location;
use core::sync::atomic::{AtomicU64, Ordering};

use kpkeys::Window;

use super::each::from_first_valid;
use super::{Marks, Section};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::guarded::Types;
use crate::machine::{Event, Machine};
use crate::store;
use crate::table::{Slot, Slots};

/// A cache line of entries.
const LINE: usize = 8;

/// Entries as they were loaded, which differ in nothing but the frame, and which no walker changes.
struct Alike<'t> {
    slots: &'t [AtomicU64; LINE],
    entries: [u64; LINE],
}

impl<'t> Alike<'t> {
    /// These, if they are alike and [settled](store::is_settled).
    #[inline(always)]
    fn of<M: Machine>(slots: &'t [AtomicU64; LINE]) -> Option<Self> {
        let entries = slots.each_ref().map(|slot| slot.load(Ordering::Relaxed));
        let differ = entries.iter().fold(0, |differ, entry| differ | (entry ^ entries[0]));
        let line = Alike { slots, entries };
        (differ & !M::Format::FRAME == 0 && store::is_settled::<M>(line.first())).then_some(line)
    }

    fn first(&self) -> Entry {
        Entry(self.entries[0])
    }

    /// Stores to each of `to` what the entry of this at its place becomes, as the first becomes `first`: which changes no frame.
    #[inline(always)]
    fn store_as(&self, window: &Window<'_>, to: &[AtomicU64; LINE], first: Entry) {
        let change = self.first().0 ^ first.0;
        for (slot, entry) in to.iter().zip(self.entries) {
            store::set_published(window, Slot(slot), Entry(entry ^ change));
        }
    }
}

impl<M: Machine> Section<'_, M> {
    /// Empties each valid PTE of a run. No gate is opened if there is none.
    #[inline]
    #[track_caller]
    pub(super) fn clear_valid(&self, slots: Slots<'_>) {
        let Some((_, run)) = from_first_valid::<M>(slots) else { return };
        let by = Location::caller();
        self.in_window(|window| {
            // As a run of none, what follows is the same code for both.
            let run = if self.check_source(run, by).is_ok() { run } else { run.sub(0, 0) };
            let (lines, rest) = self.writable_slots(run).0.as_chunks::<LINE>();
            let mut stores = clear_each::<M>(window, Slots(rest));
            for slots in lines {
                stores += match Alike::of::<M>(slots) {
                    Some(line) if M::Format::is_present(line.first()) => {
                        line.slots.iter().for_each(|slot| store::clear(window, Slot(slot)));
                        LINE as u64
                    }
                    Some(_) => 0,
                    None => clear_each::<M>(window, Slots(slots)),
                };
            }
            self.count(Event::EntryStore, stores);
        });
        self.report_noted();
    }

    /// Copies each valid PTE of a run to the same place of another, where nothing is: write-protected in both, and old in the copy. All
    /// of it is computed from the entries as they are now.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if what is copied, or what it is copied to, is in no table in use. Nothing is stored then.
    #[track_caller]
    pub(crate) fn copy_valid(&self, from: Slots<'_>, to: Slots<'_>) -> Result<(), Error> {
        self.in_moving_window(from, to, Location::caller(), |window, marks, marking| {
            let (from, from_rest) = self.writable_slots(from).0.as_chunks::<LINE>();
            let (to, to_rest) = self.writable_slots(to).0.as_chunks::<LINE>();
            let mut stores =
                self.copy_each(window, marks, marking, Slots(from_rest), Slots(to_rest));
            store::publish(window);
            for (from, to) in from.iter().zip(to) {
                stores += match Alike::of::<M>(from) {
                    Some(line) if marking.is_none() => copy_line::<M>(window, &line, to),
                    _ => self.copy_each(window, marks, marking, Slots(from), Slots(to)),
                };
            }
            stores
        })
    }

    /// The same one by one. Returns how many stores that were.
    #[inline]
    fn copy_each(
        &self,
        window: &Window<'_>,
        marks: Marks<'_>,
        marking: Option<&Types<M::Format>>,
        from: Slots<'_>,
        to: Slots<'_>,
    ) -> u64 {
        let mut stores = 0;
        for (from, to) in from.iter().zip(to.iter()) {
            let entry = from.load_relaxed();
            if M::Format::is_present(entry) && self.mark_moved(marks, marking, entry) {
                if M::Format::is_writable(entry) {
                    store::modify_from::<M>(window, from, entry, M::Format::write_protected);
                    stores += 1;
                }
                store::set(window, to, M::Format::old(M::Format::write_protected(entry)));
                stores += 1;
            }
        }
        stores
    }
}

/// The same of entries that are alike.
#[inline(always)]
fn copy_line<M: Machine>(window: &Window<'_>, from: &Alike<'_>, to: &[AtomicU64; LINE]) -> u64 {
    let first = from.first();
    if !M::Format::is_present(first) {
        return 0;
    }
    let protected = M::Format::write_protected(first);
    from.store_as(window, to, M::Format::old(protected));
    if !M::Format::is_writable(first) {
        return LINE as u64;
    }
    from.store_as(window, from.slots, protected);
    2 * LINE as u64
}

/// Empties valid PTEs one by one. Returns how many those were.
#[inline]
fn clear_each<M: Machine>(window: &Window<'_>, slots: Slots<'_>) -> u64 {
    let mut stores = 0;
    for slot in slots.iter() {
        let entry = slot.load_relaxed();
        if M::Format::is_present(entry) {
            store::clear_from::<M>(window, slot, entry);
            stores += 1;
        }
    }
    stores
}
