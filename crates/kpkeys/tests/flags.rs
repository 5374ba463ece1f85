//! What a flag that closes the alias has in common on both machines: PAN, which is set outside of windows, and AC, which is set in them.

#![cfg(all(feature = "pan", feature = "smap"))]

mod fake;

use fake::Done::{Barrier, Write};
use fake::Fake;
use kpkeys::flagged::{Bit, Flagged};
use kpkeys::pan::{PAN, PanBit};
use kpkeys::smap::{AC, AcBit};
use kpkeys::{Access, Backend, Guard, Pkey, context};

/// Bits of the register that are not the flag.
const OTHERS: u64 = 0x2;

fn closed_again_after_a_window<B: Bit>(open: u64, closed: u64) {
    let flag = Fake::<false>::new(closed);
    let backend = Flagged::<_, B>::new(flag.clone());
    // SAFETY: the flag is a field of this test, and there are no page tables.
    let window: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(&backend) };
    drop(window);
    assert_eq!(flag.done(), [Write(open), Write(closed)]);
}

#[test]
fn a_window_is_the_time_in_which_pan_is_clear_and_ac_is_set() {
    closed_again_after_a_window::<PanBit>(0, PAN);
    closed_again_after_a_window::<AcBit>(AC, 0);
}

fn says_whether_it_is_open<B: Bit>(open: u64, closed: u64) {
    let flag = Fake::<false>::new(0);
    let backend = Flagged::<_, B>::new(flag.clone());
    for others in [0, OTHERS] {
        flag.hardware_sets(open | others);
        assert!(backend.is_open());
        assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadWrite));
        assert!(backend.is_in::<context::PageTables>() && !backend.is_in::<context::Default>());
        flag.hardware_sets(closed | others);
        assert!(!backend.is_open());
        assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
        assert!(!backend.is_in::<context::PageTables>() && backend.is_in::<context::Default>());
    }
}

#[test]
fn the_flag_alone_says_which_context_it_is_in() {
    says_whether_it_is_open::<PanBit>(0, PAN);
    says_whether_it_is_open::<AcBit>(AC, 0);
}

#[test]
fn a_flag_that_synchronises_itself_is_cheap_and_another_gets_its_barrier() {
    let itself = Flagged::<_, AcBit>::new(Fake::<false>::new(0));
    assert!(itself.windows_are_cheap() && !itself.write_needs_barrier());
    let flag = Fake::<true>::new(AC);
    let other = Flagged::<_, AcBit>::new(flag.clone());
    assert!(!other.windows_are_cheap() && other.write_needs_barrier());
    other.reset();
    assert_eq!(flag.done(), [Write(0), Barrier]);
}
