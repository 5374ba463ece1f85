//! The linear map and the alias are this library's: no operation on ranges reaches them, in any mode, and none mixes what is not of one another.

use crate::support::{Protection, SMALL, System, USER, configs, pages};
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::guarded::{FrameType, Kind};
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{Attrs, Error, Level, Machine, PageRange, Root, VirtAddr};

const KERNEL: VirtAddr = VirtAddr(0xffff_c900_0000_0000);

/// What every operation says of a range.
fn said_of<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    (of_section, root): (&Root, &Root),
    range: PageRange<F>,
) -> Vec<Result<(), Error>> {
    let paging = &system.paging;
    let section = paging.section(of_section);
    let data = system.machine().memory().start;
    let (floor, ceiling) = (VirtAddr(0), VirtAddr(0));
    vec![
        paging.map(&section, root, range, Attrs::KERNEL_DATA, |_| data),
        paging.map_contiguous(&section, root, range, Attrs::KERNEL_DATA, data),
        paging.protect(&section, root, range, WriteProtect),
        paging.unmap(&section, root, range, |_, _, _| ()),
        paging.move_pages(&section, root, range, KERNEL),
        paging.move_pages(&section, root, pages(KERNEL, range.pages()), range.start()),
        // SAFETY: nobody else works on these tables.
        unsafe { paging.free_tables(&section, root, range, floor, ceiling, |_| ()) },
    ]
}

fn no_operation_reaches_the_linear_map_or_the_alias<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.linear != Level::Pud) {
        let system = System::<F, S>::boot(config, SMALL);
        let kernel = system.paging.kernel();
        let before = system.entries(kernel);
        let memory = system.machine().memory();
        let mut own = vec![
            pages(memory.linear, 1),
            pages(memory.linear_address(memory.frame(memory.pages - 1)), 2),
        ];
        // A range that begins before it.
        own.push(pages(VirtAddr(memory.linear.0 - F::PAGE_SIZE), 2));
        let alias = system.paging.alias_of(kernel.frame());
        own.extend(alias.filter(|alias| alias.is_kernel()).map(|alias| pages(alias, 1)));
        for range in own {
            for said in said_of(&system, (kernel, kernel), range) {
                let is_refused = matches!(said, Err(Error::OwnMap(_)));
                assert!(is_refused, "{config:?} {range:?}: {said:?}");
            }
        }
        assert_eq!(system.entries(kernel), before, "{config:?}");
        system.assert_clean(&[]);
    }
}

fn what_is_not_of_one_another_is_refused<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.linear != Level::Pud) {
        let system = System::<F, S>::boot(config, SMALL);
        let (kernel, user) = (system.paging.kernel(), system.new_user_root());
        for (section, root, start) in [(kernel, &user, USER), (&user, kernel, KERNEL)] {
            let said = said_of(&system, (section, root), pages(start, 1));
            let is_foreign = |said: &Result<(), Error>| matches!(said, Err(Error::Foreign(_)));
            assert!(said.iter().all(is_foreign), "{said:?}");
        }
        for (root, start) in [(&user, KERNEL), (kernel, USER)] {
            let said = said_of(&system, (root, root), pages(start, 1));
            assert!(
                said.iter().take(4).all(|said| *said == Err(Error::WrongHalf(start))),
                "{said:?}"
            );
        }
        // A section of another machine.
        let other = System::<F, S>::boot(config, SMALL);
        let section = other.paging.section(other.paging.kernel());
        let said = system.paging.unmap(&section, kernel, pages(KERNEL, 1), |_, _, _| ());
        assert_eq!(said, Err(Error::Foreign(KERNEL)));
        let section = system.paging.section(kernel);
        let said = other.paging.new_user_root(&section).map(|root| root.frame());
        assert_eq!(said, Err(Error::Foreign(VirtAddr(0))));
        // The root of another, which may have the same number here: it is left alone.
        let (mine, its) = (system.new_user_root(), other.new_user_root());
        let said =
            other.paging.unmap(&other.paging.section(&mine), &mine, pages(USER, 1), |_, _, _| ());
        assert_eq!(said, Err(Error::Foreign(USER)));
        other.paging.release_user_root(mine);
        other
            .map(&its, pages(USER, 1), Attrs::USER_DATA, other.data_block(0))
            .expect("it is in use still");
        other.assert_clean(&[&its]);
    }
}

/// Code and constants, which fill blocks: these stay blocks, and none is cut.
fn what_is_made_read_only_keeps_its_leaves<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.linear != Level::Pud) {
        let system = System::<F, S>::build(config, SMALL);
        let (paging, first) = (&system.paging, system.machine().memory().frame(512));
        let before = system.linear_place(first);
        if before.level != Level::Pte {
            let cut = Error::MappedByBlock(system.linear(first));
            assert_eq!(paging.make_read_only(first, 511), Err(cut), "{config:?}");
            assert_eq!(system.linear_place(first).entry, before.entry);
        }
        paging.make_read_only(first, 512).expect("it fills what maps it");
        for page in [512, 1023] {
            let place = system.linear_place(system.machine().memory().frame(page));
            assert_eq!((place.level, F::is_writable(place.entry)), (before.level, false));
        }
        let next = system.linear_place(system.machine().memory().frame(1024));
        assert!(F::is_writable(next.entry), "{config:?}");
        system.enable_protection().expect("no table is there");
        let late = if config.mode.protects() { Err(Error::TooLate(first)) } else { Ok(()) };
        assert_eq!(paging.make_read_only(first, 512), late, "{config:?}");
    }
}

/// Nobody but the library says that a frame is a table, or becomes one.
fn a_table_is_not_said_to_be_one<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.mode.checks() && config.linear != Level::Pud) {
        let system = System::<F, S>::build(config, SMALL);
        let data = system.data_block(if config.pool { 9 } else { 0 });
        let root = FrameType::Table { level: F::ROOT, kind: Kind::User, linked: true };
        for is in [root, FrameType::Spare, FrameType::Early, FrameType::Guarded, FrameType::Data] {
            let said = system.paging.type_frames(data, 1, is);
            assert_eq!(said, Err(Error::NotSaid(is)), "{config:?}");
        }
        let types = system.paging.types().expect("it checks");
        assert!(!types.is_root(data, Kind::User));
    }
}

/// A record that comes too late changes nothing, and protection that is on is not turned on again.
fn what_comes_too_late_changes_nothing<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.mode.protects() && config.linear != Level::Pud) {
        let system = System::<F, S>::boot(config, SMALL);
        let data = system.data_block(if config.pool { 9 } else { 0 });
        assert_eq!(system.paging.record_early_ptps(data, 1), Err(Error::TooLate(data)));
        let linear = system.machine().memory().start;
        assert_eq!(system.paging.leave_out(linear, 1), Err(Error::TooLate(linear)));
        let before = system.entries(system.paging.kernel());
        system.paging.enable_protection().expect("it is on already");
        assert_eq!(system.entries(system.paging.kernel()), before);
        system.assert_clean(&[]);
    }
}

for_both_formats_and_schemes!(
    no_operation_reaches_the_linear_map_or_the_alias,
    what_is_not_of_one_another_is_refused,
    what_is_made_read_only_keeps_its_leaves,
    a_table_is_not_said_to_be_one,
    what_comes_too_late_changes_nothing,
);
