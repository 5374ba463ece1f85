//! The only stores to page tables. Each takes a [`Window`]: without one, none of them can be called.
//!
//! Setters bear the names the field knows them by. Entries are published with release ordering.
//!
//! # Which store
//!
//! An entry is replaced by the cheapest store that loses nothing. What could be lost is a flag that a CPU's table walker sets, at any
//! moment, by an atomic update of its own: *young* in a valid leaf that is old, *dirty* in one that is writable and clean. So:
//!
//! | the entry that is replaced | store |
//! |---|---|
//! | not valid; or young, and dirty or read-only | plain: no walker changes it |
//! | any entry, on a machine whose walkers set no flags ([`Machine::WALKERS_SET_FLAGS`]) | plain |
//! | any other valid leaf | an atomic read-modify-write |
//! | a page-table pointer, or nothing, where tables have types | a compare-and-exchange: see `replace` |
//!
//! [`is_settled`] is the rule, [`Format::walker_may_flag`] the part of it that depends on the format. Flags are only ever set by walkers, never
//! cleared, so an entry that is settled when it is loaded is settled until somebody stores it, and that is this caller alone:
//!
//! - *Other software.* Between the load and the plain store no other CPU stores to the entry, since an entry is changed by one caller at a time
//!   (crate protocol, *Locks*); linking of tables, which callers on disjoint ranges share, is serialised by the root's own lock.
//!   Whoever breaks a lock has entries of data lost, or stored twice. That no table is linked twice, or freed while an entry points to it,
//!   depends on none.
//! - *Stale translations.* A CPU that still holds a writable and clean translation may mark the entry dirty although it is
//!   read-only by now (x86-64 before shadow stacks). Whoever takes write permission from a clean page therefore flushes before the entry is
//!   changed again; until then it is the only caller there.
//! - *Page-table pointers* have no flags that walkers set: x86-64's are young from the start, arm64's have none.

use core::sync::atomic::{Ordering, fence};

use kpkeys::Window;

use crate::entry::{Entry, Format};
use crate::machine::Machine;
use crate::table::{Slot, Slots};

/// Whether no CPU can change this entry by itself, so that a plain store may replace it.
#[inline(always)]
pub fn is_settled<M: Machine>(entry: Entry) -> bool {
    !M::WALKERS_SET_FLAGS || !M::Format::walker_may_flag(entry)
}

/// Stores an entry where nothing in the old one matters.
#[inline(always)]
pub fn set(_window: &Window<'_>, slot: Slot<'_>, entry: Entry) {
    slot.0.store(entry.0, Ordering::Release);
}

/// Stores the empty entry where nothing in the old one matters.
#[inline(always)]
pub fn clear(_window: &Window<'_>, slot: Slot<'_>) {
    // Publishes nothing, so it needs no order.
    slot.0.store(Entry::EMPTY.0, Ordering::Relaxed);
}

/// Replaces an entry and returns the old one with every flag hardware has set: `pmdp_establish`.
#[inline(always)]
pub fn establish<M: Machine>(window: &Window<'_>, slot: Slot<'_>, entry: Entry) -> Entry {
    let now = slot.load_relaxed();
    if is_settled::<M>(now) {
        set(window, slot, entry);
        return now;
    }
    Entry(slot.0.swap(entry.0, Ordering::AcqRel))
}

/// Empties an entry and returns what it was, with every flag hardware has set.
#[inline(always)]
pub fn get_and_clear<M: Machine>(window: &Window<'_>, slot: Slot<'_>) -> Entry {
    clear_from::<M>(window, slot, slot.load_relaxed())
}

/// [`get_and_clear`] of an entry that was just loaded.
#[inline(always)]
pub(crate) fn clear_from<M: Machine>(window: &Window<'_>, slot: Slot<'_>, now: Entry) -> Entry {
    if is_settled::<M>(now) {
        clear(window, slot);
        return now;
    }
    Entry(slot.0.swap(Entry::EMPTY.0, Ordering::AcqRel))
}

/// Takes write permission from a leaf entry and returns what it became.
#[inline(always)]
pub fn wrprotect<M: Machine>(window: &Window<'_>, slot: Slot<'_>) -> Entry {
    modify::<M>(window, slot, M::Format::write_protected)
}

/// Clears the young flag of a leaf entry and returns whether it was set.
#[inline(always)]
pub fn test_and_clear_young<M: Machine>(window: &Window<'_>, slot: Slot<'_>) -> bool {
    let was = slot.load_relaxed();
    if !M::Format::is_present(was) || !M::Format::is_young(was) {
        return false;
    }
    modify_from::<M>(window, slot, was, M::Format::old);
    true
}

/// Changes a leaf entry from `old` to `new`, which allows more or has more flags set, and returns whether it still was
/// `old`. If not, it was changed meanwhile: look again.
#[inline(always)]
pub fn set_access_flags<M: Machine>(
    window: &Window<'_>,
    slot: Slot<'_>,
    old: Entry,
    new: Entry,
) -> bool {
    if is_settled::<M>(old) {
        let still = slot.load_relaxed() == old;
        if still {
            set(window, slot, new);
        }
        return still;
    }
    slot.0.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Replaces an entry if it still is `was`, and returns whether. For pointers to tables, where no lock decides whether a table is linked.
#[inline(always)]
pub(crate) fn replace(_window: &Window<'_>, slot: Slot<'_>, was: Entry, entry: Entry) -> bool {
    slot.0.compare_exchange(was.0, entry.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Empties every entry of a run.
///
/// # Safety
///
/// Nobody else may reach the table they are in: it is not linked yet, or not any more and flushed. (Its entries are not stored one by one, so
/// a concurrent walker could see half of one.)
#[inline(always)]
pub unsafe fn zero(_window: &Window<'_>, slots: Slots<'_>) {
    let entries = slots.0;
    // SAFETY: the range is entries of one table, writable while the window is open; atomics allow writes through a shared reference, and
    // nobody else reads or writes it now (caller's promise).
    unsafe { entries.as_ptr().cast::<u64>().cast_mut().write_bytes(0, entries.len()) };
}

/// Publishes what lies behind entries that [`set_published`] stores next. (A release store for each is an instruction that arm64 cores order one by one.)
#[inline(always)]
pub(crate) fn publish(_window: &Window<'_>) {
    fence(Ordering::Release);
}

/// [`set`] of an entry of a run that was [published](publish).
#[inline(always)]
pub(crate) fn set_published(_window: &Window<'_>, slot: Slot<'_>, entry: Entry) {
    slot.0.store(entry.0, Ordering::Relaxed);
}

/// Stores `entry(i)` to each entry of a run where nothing in the old ones matters. What `entry` itself stores is not published.
#[inline(always)]
pub fn set_range(window: &Window<'_>, slots: Slots<'_>, mut entry: impl FnMut(usize) -> Entry) {
    let _ = set_range_until(window, slots, |i| Ok::<_, core::convert::Infallible>(entry(i)));
}

/// [`set_range`] that ends where `entry` refuses, with what it says and which entry that was for.
#[inline(always)]
pub(crate) fn set_range_until<E>(
    window: &Window<'_>,
    slots: Slots<'_>,
    mut entry: impl FnMut(usize) -> Result<Entry, E>,
) -> Result<(), (usize, E)> {
    publish(window);
    for (i, slot) in slots.iter().enumerate() {
        set_published(window, slot, entry(i).map_err(|refused| (i, refused))?);
    }
    Ok(())
}

/// Changes a live entry, keeping the flags that hardware sets meanwhile; returns what it became.
#[inline(always)]
pub fn modify<M: Machine>(
    window: &Window<'_>,
    slot: Slot<'_>,
    change: impl Fn(Entry) -> Entry,
) -> Entry {
    modify_from::<M>(window, slot, slot.load_relaxed(), change)
}

/// [`modify`] for an entry that was just loaded.
#[inline(always)]
pub(crate) fn modify_from<M: Machine>(
    window: &Window<'_>,
    slot: Slot<'_>,
    mut now: Entry,
    change: impl Fn(Entry) -> Entry,
) -> Entry {
    loop {
        let new = change(now);
        if is_settled::<M>(now) {
            set(window, slot, new);
            return new;
        }
        match slot.0.compare_exchange_weak(now.0, new.0, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return new,
            Err(changed) => now = Entry(changed),
        }
    }
}
