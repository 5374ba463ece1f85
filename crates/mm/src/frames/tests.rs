//! Frames without page tables: what is handed out, what comes back, what is refused, and at what cost.

use std::collections::BTreeSet;
use std::vec::Vec;

use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Frames, Memory, PhysAddr, VirtAddr};

use super::word::Kind;
use super::{FrameTable, HUGE_ORDER, MAX_ORDER};

type Buddy = super::Buddy<X86_64>;

const MEMORY: Memory<X86_64> =
    Memory::new(PhysAddr(1 << 32), 16 << 10, VirtAddr(0xffff_8880_0000_0000));
const CPUS: usize = 128;

std::thread_local! {
    static CPU: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

fn buddy() -> Buddy {
    let buddy = Buddy::new(MEMORY, FrameTable::on_heap(MEMORY.pages), true, CPUS, || CPU.get());
    // SAFETY: all of this memory is free, and nobody else has it.
    unsafe { buddy.add(0..MEMORY.pages) };
    buddy
}

/// Everything there is to know, to see that nothing changed.
fn state(buddy: &Buddy) -> Vec<(Kind, (u32, u32))> {
    (0..MEMORY.pages as u32)
        .map(|i| (buddy.meta(i).word.kind(), buddy.meta(i).word.counts()))
        .collect()
}

#[test]
fn every_frame_is_handed_out_once_and_all_come_back_whole() {
    let buddy = buddy();
    let mut taken = BTreeSet::new();
    for cpu in (0..CPUS).cycle() {
        CPU.set(cpu);
        let Some(frame) = buddy.take(0) else { break };
        assert!(taken.insert(frame));
    }
    assert_eq!((taken.len(), buddy.free_frames()), (MEMORY.pages, 0));
    taken.into_iter().for_each(|frame| buddy.put(frame, 0));
    let blocks = core::iter::from_fn(|| buddy.take(MAX_ORDER)).count();
    assert_eq!(blocks, MEMORY.pages >> MAX_ORDER);
    assert_eq!(buddy.refused(), 0);
}

/// A frame is taken from the other zone before those that other CPUs keep are taken from them.
#[test]
fn a_zone_borrows_before_it_drains() {
    let buddy = buddy();
    let boundary = MEMORY.pages as u32 / 4 * 3;
    // Another CPU keeps a batch of the kernel's zone; then that is used up.
    CPU.set(1);
    let others = buddy.take(0).expect("memory");
    assert!(others >= boundary);
    buddy.put(others, 0);
    CPU.set(0);
    let mut borrowed = None;
    while borrowed.is_none() {
        borrowed = buddy.take(0).filter(|&frame| frame < boundary);
    }
    assert_eq!(buddy.meta(others).word.kind(), Kind::Listed, "the other CPU keeps what it has");
    // When both zones are empty, it has to give.
    while let Some(frame) = buddy.take(0) {
        if frame == others {
            return;
        }
    }
    panic!("the frame that another CPU kept was never handed out");
}

#[test]
fn what_is_not_out_is_refused_and_changes_nothing() {
    let (buddy, other) = (buddy(), buddy());
    let (single, block) = (buddy.take(0).unwrap(), buddy.take(4).unwrap());
    let folio = buddy.take_movable(HUGE_ORDER).unwrap();
    buddy.meta(folio).word.become_kind(Kind::Folio(HUGE_ORDER));
    let freed = buddy.take(0).unwrap();
    buddy.put(freed, 0);
    let before = state(&buddy);
    let free = buddy.free_frames();
    let wrong = [
        (freed, 0, "freed twice"),
        (single, 1, "a single frame as two"),
        (block, 3, "half a block"),
        (block, 0, "one frame of a block"),
        (block + 1, 0, "a frame inside a block"),
        (folio + 1, 0, "a frame inside a folio"),
        (folio, 0, "a folio as a frame"),
        (0, MAX_ORDER, "a block that was never taken"),
        (MEMORY.pages as u32, 0, "behind memory"),
        (u32::MAX, 0, "no frame"),
    ];
    for (i, &(frame, order, what)) in wrong.iter().enumerate() {
        buddy.put(frame, order);
        assert_eq!(buddy.refused(), i + 1, "{what}");
    }
    let foreign = [PhysAddr(0), PhysAddr(MEMORY.start.0 + 1), PhysAddr(!0xfff), PhysAddr(1 << 50)];
    for (i, &pa) in foreign.iter().enumerate() {
        // SAFETY: what is refused is not touched, which is what is tested.
        unsafe { buddy.release(pa, 0) };
        assert_eq!(buddy.refused(), wrong.len() + i + 1, "{pa:?}");
    }
    buddy.free_frame(other.new_frame().unwrap());
    assert_eq!(buddy.refused(), wrong.len() + foreign.len() + 1, "a frame of another memory");
    assert!(state(&buddy) == before && buddy.free_frames() == free, "nothing changed");
}

/// A block freed inside a larger free one is known to be free.
#[test]
fn a_block_that_was_merged_cannot_be_freed_again() {
    let buddy = buddy();
    let blocks: Vec<_> = (0..8).map(|_| buddy.take(2).unwrap()).collect();
    blocks.iter().for_each(|&block| buddy.put(block, 2));
    let free = buddy.free_frames();
    blocks.iter().for_each(|&block| buddy.put(block, 2));
    assert_eq!((buddy.refused(), buddy.free_frames()), (8, free));
}

/// Whoever gives a frame back by its address that programs have mapped leaves them with mappings that nobody counts.
#[test]
fn a_mapping_that_is_not_counted_is_refused_and_changes_nothing() {
    let buddy = buddy();
    let frame = buddy.new_frame().unwrap().address();
    assert_eq!(buddy.share(frame, 1), Ok(1));
    // SAFETY: nothing is at the address but in this test's mind.
    unsafe { buddy.release(frame, 0) };
    let inside = buddy.address(buddy.take(4).unwrap() + 3);
    let (before, free) = (state(&buddy), buddy.free_frames());
    buddy.release_run(buddy.unmapped(frame, 1));
    buddy.release_run(buddy.unmapped(inside, 1));
    assert_eq!(buddy.refused(), 2);
    assert!(state(&buddy) == before && buddy.free_frames() == free, "nothing changed");
}

#[test]
fn a_frame_given_back_by_its_owner_is_free_when_nobody_holds_it() {
    let buddy = buddy();
    let frame = buddy.new_frame().unwrap();
    let (pa, free) = (frame.address(), buddy.free_frames());
    assert!(buddy.hold(pa));
    buddy.free_frame(frame);
    assert_eq!(buddy.free_frames(), free);
    buddy.let_go(pa);
    assert_eq!(buddy.free_frames(), free + 1);
    assert!(!buddy.hold(pa), "nobody owns it");
    buddy.let_go(pa);
    assert_eq!((buddy.refused(), buddy.free_frames()), (1, free + 1));
}

#[test]
fn references_stop_at_their_limit_and_the_page_of_zeroes_has_none() {
    let buddy = buddy();
    let folio = buddy.take_movable(0).unwrap();
    let word = &buddy.meta(folio).word;
    word.become_kind(Kind::Folio(0));
    word.map((1 << 26) - 1);
    let pa = buddy.address(folio);
    assert_eq!(buddy.share(pa, 1), Ok(1));
    let before = buddy.folio_counts(pa);
    assert_eq!(buddy.share(pa, 1), Err(crate::Error::TooManyReferences));
    assert_eq!(buddy.share_own(buddy.part_from(pa), 1), Err(crate::Error::TooManyReferences));
    assert_eq!(buddy.folio_counts(pa), before);
    word.become_kind(Kind::Kept);
    assert_eq!(buddy.share(pa, 1), Ok(1));
    buddy.release_run(buddy.unmapped(pa, 1));
    assert_eq!((buddy.folio_counts(pa), word.kind()), ((0, 0), Kind::Kept));
}
