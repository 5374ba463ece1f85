//! Tables that cannot be adopted, each with its reason, and left as they were.

mod support;

use kpkeys_x86_64::{AdoptError, LinearMap};
use support::{
    Bare, DATA, Huge, OFFSET, contents, device, frame, frame_of, page, read, tables, write,
};
use x86_64::VirtAddr;
use x86_64::structures::paging::{FrameAllocator, PageTableFlags, PhysFrame, Size4KiB};

/// Where the leaf is that maps the first frame in the linear map: its table and index.
fn first_leaf(bare: &Bare, level: u8) -> (PhysFrame, usize) {
    let address = OFFSET + frame(0).start_address().as_u64();
    let mut table = bare.root;
    for above in (level + 1..=4).rev() {
        table = frame_of(read(&bare.arena, table, (address >> (3 + 9 * above)) as usize & 511));
    }
    (table, (address >> (3 + 9 * level)) as usize & 511)
}

/// Refused, with nothing of the tables changed. An attack still works, for comparison.
fn refused(bare: Bare) -> AdoptError {
    let words = |bare: &Bare| -> Vec<u64> {
        let all = tables(&bare.arena, bare.root).into_iter();
        all.flat_map(|table| (0..512).map(move |index| (table.1, index)))
            .map(|(table, index)| read(&bare.arena, table, index))
            .collect()
    };
    let (before, said) = (words(&bare), contents(&bare.arena, bare.root));
    let (error, bare) = bare.adopt().err().expect("these tables cannot be adopted");
    assert_eq!(contents(&bare.arena, bare.root), said, "{error}");
    assert_eq!(words(&bare), before, "{error}: no key is left behind");
    assert!(error.to_string().len() > 20);
    error
}

#[test]
fn recursive_tables_are_refused() {
    let bare = Bare::new::<Size4KiB>();
    write(&bare.arena, bare.root, 510, bare.root.start_address().as_u64() | 3);
    let (table, root, arena) = (bare.root, bare.root, bare.arena.clone());
    // Not by `refused`, which walks all tables.
    let (error, _) = bare.adopt().err().expect("refused");
    assert_eq!(error, AdoptError::Recursive { table, index: 510 });
    let leaf = read(&arena, root, 510);
    assert_eq!(leaf, root.start_address().as_u64() | 3);
}

#[test]
fn a_table_outside_of_the_linear_map_is_refused() {
    let bare = Bare::new::<Size4KiB>();
    let outside: PhysFrame = device(5);
    write(&bare.arena, bare.root, 200, outside.start_address().as_u64() | 3);
    let (error, _) = bare.adopt().err().expect("refused");
    assert_eq!(error, AdoptError::OutsideLinearMap { table: outside });
}

#[test]
fn a_table_that_the_linear_map_lacks_or_has_elsewhere_is_refused() {
    for planted in [0, frame(77).start_address().as_u64() | 3] {
        let bare = Bare::new::<Size4KiB>();
        let (table, index) = first_leaf(&bare, 1);
        write(&bare.arena, table, index, planted);
        let address = VirtAddr::new(OFFSET + frame(0).start_address().as_u64());
        assert_eq!(refused(bare), AdoptError::NotMapped { table: frame(0), address });
    }
}

#[test]
fn a_block_that_cannot_be_split_is_refused() {
    let bare = Bare::new::<Huge>();
    let (table, index) = first_leaf(&bare, 2);
    let leaf = read(&bare.arena, table, index);
    write(&bare.arena, table, index, leaf | 1 << 12);
    let address = VirtAddr::new(OFFSET + frame(0).start_address().as_u64());
    assert_eq!(refused(bare), AdoptError::Unaligned { address });
}

#[test]
fn a_linear_map_with_keys_of_its_own_or_for_programs_is_refused() {
    let bare = Bare::new::<Size4KiB>();
    let (table, index) = first_leaf(&bare, 1);
    write(&bare.arena, table, index, read(&bare.arena, table, index) | 5 << 59);
    assert_eq!(refused(bare), AdoptError::OtherKey { table: frame(0) });
    let bare = Bare::with_linear_map::<Size4KiB>(DATA | PageTableFlags::USER_ACCESSIBLE);
    assert_eq!(refused(bare), AdoptError::UserAccessible { table: frame(0) });
}

/// The one-to-one map that a boot loader leaves, typically.
#[test]
fn a_table_that_another_mapping_can_write_is_refused_until_that_is_gone() {
    let mut bare = Bare::new::<Size4KiB>();
    let memory = frame(0).start_address().as_u64();
    let block = PhysFrame::containing_address(frame(0).start_address());
    bare.map(page::<Huge>(memory), block, DATA).unwrap();
    let address = VirtAddr::new(memory);
    assert_eq!(refused(bare), AdoptError::WritableElsewhere { table: frame(0), address });

    let mut bare = Bare::new::<Size4KiB>();
    let read_only = DATA - PageTableFlags::WRITABLE;
    bare.map(page::<Huge>(memory), block, read_only).unwrap();
    assert!(bare.adopt().is_ok(), "one that cannot write does no harm");
}

#[test]
fn no_frame_to_split_a_block_with_is_a_refusal_that_loses_nothing() {
    let mut bare = Bare::new::<Huge>();
    bare.frames.left = 0;
    assert_eq!(refused(bare), AdoptError::OutOfFrames);
    let mut bare = Bare::new::<Huge>();
    bare.frames.left = 0;
    let (_, mut bare) = bare.adopt().err().expect("refused");
    bare.frames.left = 10;
    assert!(bare.frames.allocate_frame().is_some());
    assert!(bare.adopt().is_ok(), "and with frames it is adopted after all");
}

#[test]
fn a_linear_map_that_is_no_range_of_addresses_is_none() {
    let memory = PhysFrame::range(frame(0), frame(9));
    assert!(LinearMap::new(memory, VirtAddr::new(OFFSET)).is_some());
    assert!(LinearMap::new(memory, VirtAddr::new(OFFSET + 1)).is_none(), "not aligned");
    assert!(LinearMap::new(memory, VirtAddr::new(0x7fff_ffff_f000)).is_none(), "not canonical");
    assert!(LinearMap::new(memory, VirtAddr::new(0xffff_ffff_ffff_f000)).is_none(), "wraps");
    assert!(LinearMap::new(PhysFrame::range(frame(9), frame(9)), VirtAddr::new(OFFSET)).is_none());
}
