//! The only stores to page tables. Each takes a [`Window`]: without one, none of them can be called.
//!
//! Setters bear the names the field knows them by. Entries are published with release ordering. Where hardware may set the
//! young or dirty flag of a live entry at any moment, the update is an atomic read-modify-write, so that no flag is lost.

use core::sync::atomic::Ordering;

use kpkeys::Window;

use crate::entry::{Entry, Format};
use crate::table::{Slot, Slots};

/// Stores an entry.
#[inline(always)]
pub fn set(_window: &Window<'_>, slot: Slot<'_>, entry: Entry) {
    slot.0.store(entry.0, Ordering::Release);
}

/// Stores the empty entry, where nothing in the old one matters.
#[inline(always)]
pub fn clear(_window: &Window<'_>, slot: Slot<'_>) {
    slot.0.store(Entry::EMPTY.0, Ordering::Release);
}

/// Replaces an entry and returns the old one with every flag hardware has set: `pmdp_establish`.
#[inline(always)]
pub fn establish(_window: &Window<'_>, slot: Slot<'_>, entry: Entry) -> Entry {
    Entry(slot.0.swap(entry.0, Ordering::AcqRel))
}

/// Empties an entry and returns what it was, with every flag hardware has set.
#[inline(always)]
pub fn get_and_clear(window: &Window<'_>, slot: Slot<'_>) -> Entry {
    establish(window, slot, Entry::EMPTY)
}

/// Takes write permission from a leaf entry and returns what it became.
#[inline(always)]
pub fn wrprotect<F: Format>(window: &Window<'_>, slot: Slot<'_>) -> Entry {
    modify(window, slot, F::write_protected)
}

/// Clears the young flag of a leaf entry and returns whether it was set.
#[inline(always)]
pub fn test_and_clear_young<F: Format>(window: &Window<'_>, slot: Slot<'_>) -> bool {
    let was = Entry(slot.0.load(Ordering::Relaxed));
    if !F::is_present(was) || !F::is_young(was) {
        return false;
    }
    modify(window, slot, F::old);
    true
}

/// Changes a leaf entry from `old` to `new`, which allows more or has more flags set, and returns whether it still was
/// `old`. If not, hardware or another CPU was faster: look again.
#[inline(always)]
pub fn set_access_flags(_window: &Window<'_>, slot: Slot<'_>, old: Entry, new: Entry) -> bool {
    slot.0.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
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

/// Stores `entry(i)` to each entry of a run.
#[inline(always)]
pub fn set_range(_window: &Window<'_>, slots: Slots<'_>, mut entry: impl FnMut(usize) -> Entry) {
    for (i, slot) in slots.0.iter().enumerate() {
        slot.store(entry(i).0, Ordering::Release);
    }
}

/// Changes a live entry, keeping the flags that hardware sets meanwhile; returns what it became.
#[inline(always)]
pub fn modify(_window: &Window<'_>, slot: Slot<'_>, change: impl Fn(Entry) -> Entry) -> Entry {
    let mut old = slot.0.load(Ordering::Relaxed);
    loop {
        let new = change(Entry(old)).0;
        match slot.0.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Entry(new),
            Err(now) => old = now,
        }
    }
}
