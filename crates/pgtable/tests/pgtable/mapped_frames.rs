//! What an entry maps does not become a page table, whatever the frame allocator says; what no entry maps any more does.
//!
//! Each attack is shown to work where nothing is checked.

use crate::support::{KERNEL, Protection, SMALL, System, USER, by, configs, pages};
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::mmu::{Privilege, Want};
use kpkeys_pgtable::check::Finding;
use kpkeys_pgtable::guarded::{FrameType, Use, Violation};
use kpkeys_pgtable::{Attrs, Config, Error, Flush, Frames, Level, Mode, PhysAddr, Root, VirtAddr};

/// Where the mapped page lies in the block that is given away.
const PAGE: u64 = 3;

/// Configurations that check.
fn checking() -> impl Iterator<Item = Config> {
    configs().filter(|config| config.mode.checks() && config.linear != Level::Pud)
}

/// A system that maps one page of a block, and the order of the blocks that it makes tables of.
fn mapping<F: HostedFormat, S: Protection>(
    config: Config,
    attrs: Attrs,
) -> (System<F, S>, Root, PhysAddr) {
    let system = System::<F, S>::boot(config, SMALL);
    let user = system.new_user_root();
    let block = system.data_block(9);
    let root = if attrs.user { &user } else { system.paging.kernel() };
    system.map(root, pages(start(attrs), 1), attrs, page::<F>(config, block)).unwrap();
    (system, user, block)
}

fn start(attrs: Attrs) -> VirtAddr {
    if attrs.user { USER } else { KERNEL }
}

/// The page of a block that is mapped: where pages become tables one by one it is the block itself.
fn page<F: HostedFormat>(config: Config, block: PhysAddr) -> PhysAddr {
    if config.pool { block.offset(PAGE * F::PAGE_SIZE) } else { block }
}

/// Makes roots until one is refused, or `block` was asked for and taken.
fn roots_of<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    block: PhysAddr,
) -> (Vec<Root>, Result<(), Error>) {
    let mut roots = Vec::new();
    system.paging.frames().forge(block);
    let section = system.paging.section(system.paging.kernel());
    while system.paging.frames().is_forging() {
        match system.paging.new_user_root(&section) {
            Ok(root) => roots.push(root),
            Err(error) => return (roots, Err(error)),
        }
    }
    (roots, Ok(()))
}

/// What the checker finds in address spaces.
fn findings<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    user: &Root,
    roots: &[Root],
) -> Vec<Finding> {
    let users: Vec<&Root> = roots.iter().chain([user]).collect();
    system.findings(&users)
}

fn a_mapped_frame_does_not_become_a_table<F: HostedFormat, S: Protection>() {
    for config in checking() {
        for attrs in [Attrs::USER_DATA, Attrs::KERNEL_DATA] {
            let (system, user, block) = mapping::<F, S>(config, attrs);
            let before = system.paging.types().unwrap().sweeps();
            let (roots, refused) = roots_of(&system, block);
            let Err(Error::Violation(Violation { frame, is, wanted, .. })) = refused else {
                panic!("{refused:?}");
            };
            let expected = Use::Change { from: FrameType::Data, to: FrameType::Spare };
            assert_eq!(
                (frame, is, wanted),
                (page::<F>(config, block), FrameType::Mapped, expected)
            );
            assert_eq!(system.paging.types().unwrap().sweeps(), before + 1, "it was looked for");
            assert_eq!(findings(&system, &user, &roots), []);

            // What is checked nowhere becomes a table that is mapped writable.
            let lean = Config { mode: Mode::FusedLean, ..config };
            let (system, user, block) = mapping::<F, S>(lean, attrs);
            let (roots, taken) = roots_of(&system, block);
            assert_eq!(taken, Ok(()));
            assert_ne!(findings(&system, &user, &roots), [], "the attack works");
        }
    }
}

fn what_is_not_mapped_any_more_becomes_a_table<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, block) = mapping::<F, S>(config, Attrs::USER_DATA);
        let types = system.paging.types().unwrap();
        assert_eq!(types.of(page::<F>(config, block)), FrameType::Mapped);
        system.unmap(&user, pages(USER, 1)).unwrap();
        system.paging.flush(Flush::AddressSpace(user.frame()));
        assert_eq!(types.of(page::<F>(config, block)), FrameType::Mapped, "nobody has looked yet");
        let (roots, taken) = roots_of(&system, block);
        assert_eq!((taken, types.sweeps()), (Ok(()), 1));
        assert!(types.of(page::<F>(config, block)).to_string().contains("table"));
        assert_eq!(findings(&system, &user, &roots), []);
    }
}

/// A frame that is copied, moved or given permission is mapped as before.
fn marks_follow_the_mapping<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, block) = mapping::<F, S>(config, Attrs::USER_DATA);
        let types = system.paging.types().unwrap();
        let to = USER.offset(1 << 30);
        system.paging.sweep().unwrap();
        let section = system.paging.section(&user);
        system.paging.move_pages(&section, &user, pages(USER, 1), to).unwrap();
        drop(section);
        assert_eq!(types.of(page::<F>(config, block)), FrameType::Mapped);
        system.paging.sweep().unwrap();
        assert_eq!(types.of(page::<F>(config, block)), FrameType::Mapped);
        assert!(roots_of(&system, block).1.is_err());
        system.unmap(&user, pages(to, 1)).unwrap();
        system.paging.sweep().unwrap();
        assert_eq!(types.of(page::<F>(config, block)), FrameType::Data);
    }
}

/// `protect` changes what a mapping allows, and not what it maps.
fn protecting_maps_no_other_frame<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, block) = mapping::<F, S>(config, Attrs::USER_DATA);
        let other = block.offset(9 * F::PAGE_SIZE);
        let entry = F::leaf(Level::Pte, other, Attrs::USER_DATA).unwrap();
        let before = system.entries(&user);
        let section = system.paging.section(&user);
        let changed = system.paging.protect(&section, &user, pages(USER, 1), by(|_| entry));
        drop(section);
        assert!(matches!(changed, Err(Error::Violation(_))), "{changed:?}");
        assert_eq!(system.entries(&user), before);
    }
}

/// Where memory is used again and again, tables are looked at once for an eighth more of the pool, and not for each block.
fn sweeps_are_few<F: HostedFormat, S: Protection>() {
    let config = Config { mode: Mode::Fused, linear: Level::Pte, pool: true };
    let system = System::<F, S>::boot(config, SMALL);
    let user = system.new_user_root();
    // Nearly all of memory was mapped once.
    let mut blocks = Vec::new();
    while let Some(block) = system.paging.frames().allocate(6) {
        system.map(&user, pages(USER, 64), Attrs::USER_DATA, block).unwrap();
        system.unmap(&user, pages(USER, 64)).unwrap();
        blocks.push(block);
    }
    system.paging.flush(Flush::All);
    let churned = 768;
    for block in blocks.into_iter().take(churned / 64) {
        // SAFETY: allocated above with this order, unmapped and flushed.
        unsafe { system.paging.frames().release(block, 6) };
    }
    system.paging.frames().set_largest_order(2);
    let section = system.paging.section(system.paging.kernel());
    let mut roots = Vec::new();
    while let Ok(root) = system.paging.new_user_root(&section) {
        roots.push(root);
    }
    let sweeps = system.paging.types().unwrap().sweeps();
    assert!(roots.len() > churned / 2, "{} of {churned} pages became tables", roots.len());
    // Nothing is mapped meanwhile: one look is enough for all.
    assert_eq!(sweeps, 1);
}

/// The model of the MMU agrees that the page is where the attack needs it.
fn the_attack_reaches_the_table<F: HostedFormat, S: Protection>() {
    let config = Config { mode: Mode::FusedLean, linear: Level::Pte, pool: false };
    let (system, user, block) = mapping::<F, S>(config, Attrs::USER_DATA);
    assert_eq!(roots_of(&system, block).1, Ok(()));
    let mmu = system.mmu(Some(&user));
    assert_eq!(mmu.access(USER, Want::Write, Privilege::User).ok(), Some(block));
    assert!(system.protects(block), "which is a root that its key does not save");
}

for_both_formats_and_schemes!(
    a_mapped_frame_does_not_become_a_table,
    what_is_not_mapped_any_more_becomes_a_table,
    marks_follow_the_mapping,
    protecting_maps_no_other_frame,
    sweeps_are_few,
    the_attack_reaches_the_table,
);
