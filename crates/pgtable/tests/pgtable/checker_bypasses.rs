//! What an attacker gets who has the page-table code deceived, planted past all checks: the checker reports each.
//!
//! `check` is the last line: if a check at a store were missing, this is what it would have let through.

use crate::support::victim::Victim;
use crate::support::{KERNEL, Place, Protection, USER, configs, pages};
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::check::{Finding, check_root};
use kpkeys_pgtable::guarded::FrameType;
use kpkeys_pgtable::section::Space;
use kpkeys_pgtable::{Attrs, Config, Entry, Level, Machine, MemoryType, PhysAddr, VirtAddr};

/// Configurations that check.
fn checking() -> impl Iterator<Item = Config> {
    configs().filter(|config| config.mode.checks() && config.linear != Level::Pud)
}

/// What the checker says once an entry is planted, which is taken back.
fn findings_with<F: HostedFormat, S: Protection>(
    victim: &Victim<F, S>,
    place: Place,
    entry: Entry,
) -> Vec<Finding> {
    victim.system.plant(place.table, place.index, entry);
    let findings = victim.findings();
    victim.system.plant(place.table, place.index, place.entry);
    assert_eq!(victim.findings(), [], "clean after");
    findings
}

/// A leaf in the place of a program's first page, or of the kernel's.
fn mapped<F: HostedFormat, S: Protection>(
    victim: &Victim<F, S>,
    attrs: Attrs,
    frame: PhysAddr,
) -> (VirtAddr, Vec<Finding>) {
    let (root, at) =
        if attrs.user { (&victim.user, USER) } else { (victim.system.paging.kernel(), KERNEL) };
    let leaf = F::leaf(Level::Pte, frame, attrs).expect("mappable");
    (at, findings_with(victim, victim.system.place(root, at), leaf))
}

/// A file's cached frame, or a free list's link, is a live table: a program maps it, or the kernel does.
fn a_table_that_is_mapped_is_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let types = victim.system.paging.types().unwrap();
        for frame in [victim.user_table(Level::Pte), victim.system.paging.kernel().frame()] {
            for attrs in [Attrs::USER_DATA, Attrs::KERNEL_DATA] {
                let (address, findings) = mapped(&victim, attrs, frame);
                let forbidden = Finding::ForbiddenLeaf { frame, is: types.of(frame), address };
                assert!(findings.contains(&forbidden), "{config:?} {findings:?}");
                let alias = Finding::WritableAlias { frame, address };
                assert!(findings.contains(&alias), "{config:?} {findings:?}");
            }
        }
    }
}

/// A frame that is mapped is said to be mapped by none: the pool would take it.
fn a_mapping_without_its_mark_is_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let frame = victim.system.data_block(0);
        for attrs in [Attrs::USER_DATA, Attrs::KERNEL_DATA] {
            let (address, findings) = mapped(&victim, attrs, frame);
            assert_eq!(findings, [Finding::UnmarkedLeaf { frame, address }], "{config:?}");
        }
    }
}

/// A frame that was mapped before the last sweep, and is again without the page-table code.
fn a_mapping_with_an_old_mark_is_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let system = &victim.system;
        let other = system.place(&victim.user, USER.offset_pages::<F>(9));
        let frame = system.data_block(0);
        let range = pages(USER.offset_pages::<F>(9), 1);
        system.map(&victim.user, range, Attrs::USER_DATA, frame).unwrap();
        let leaf = system.place(&victim.user, USER.offset_pages::<F>(9)).entry;
        system.unmap(&victim.user, range).unwrap();
        assert_eq!(findings_with(&victim, Place { entry: Entry::EMPTY, ..other }, leaf), []);
        system.paging.sweep().unwrap();
        let findings = findings_with(&victim, Place { entry: Entry::EMPTY, ..other }, leaf);
        let address = USER.offset_pages::<F>(9);
        assert_eq!(findings, [Finding::UnmarkedLeaf { frame, address }]);
    }
}

/// An attacker's page is linked as a table, as from a pool whose list was changed.
fn data_that_is_linked_is_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let table = victim.user_table(Level::Pmd);
        let (index, frame) = (USER.index::<F>(Level::Pmd), victim.system.data_block(0));
        let entry = victim.system.read(table, index);
        let place = Place { table, index, level: Level::Pmd, entry };
        let findings = findings_with(&victim, place, F::table(frame, true));
        let wrong = |found: &Finding| matches!(found, Finding::WrongType { frame: of, says: FrameType::Data, .. } if *of == frame);
        assert!(findings.iter().any(wrong), "{config:?} {findings:?}");
        let open = |found: &Finding| match found {
            Finding::UnprotectedPtp { frame: of, .. } | Finding::WritablePtp { frame: of, .. } => {
                *of == frame
            }
            _ => false,
        };
        assert!(findings.iter().any(open), "{config:?} {findings:?}");
    }
}

/// A table loses its protection, as when a count of free pages has a block given back.
fn a_table_without_protection_is_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let frame = victim.user_table(Level::Pmd);
        let place = victim.system.linear_place(frame);
        let data = F::leaf(place.level, F::frame(place.level, place.entry), Attrs::KERNEL_DATA);
        let findings = findings_with(&victim, place, data.expect("mappable"));
        let open = |found: &Finding| match found {
            Finding::UnprotectedPtp { frame: of, .. } | Finding::WritablePtp { frame: of, .. } => {
                *of == frame
            }
            _ => false,
        };
        assert!(findings.iter().any(open), "{config:?} {findings:?}");
    }
}

/// Rules of permissions and of memory types.
fn leaves_against_the_rules_are_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let (data, memory) = (victim.data, victim.system.machine().memory());
        let device = memory.frame(memory.pages);
        let kernel = Attrs::KERNEL_DATA;
        let as_device = |attrs| Attrs { memory: MemoryType::Device, ..attrs };
        for (attrs, frame) in [
            (Attrs { execute: true, ..kernel }, data),
            (Attrs { execute: true, ..kernel.read_only() }, data),
            (as_device(kernel), data),
            (as_device(Attrs::USER_DATA), data),
            (kernel, device),
            (Attrs::USER_DATA, device),
            (as_device(Attrs::USER_DATA), device),
        ] {
            let is = victim.system.paging.types().unwrap().of(frame);
            let (address, findings) = mapped(&victim, attrs, frame);
            assert_eq!(findings, [Finding::ForbiddenLeaf { frame, is, address }], "{attrs:?}");
        }
    }
}

/// A thread's root, or a root register, is a copy, another table, the kernel's own, or the root of nothing any more.
fn roots_that_are_none_are_found<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let victim = Victim::<F, S>::new(config);
        let paging = &victim.system.paging;
        let (kernel, user) = (paging.kernel().frame(), victim.user.frame());
        let found = |root, space| check_root(paging, root, space);
        assert_eq!((found(user, Space::User), found(kernel, Space::Kernel)), (None, None));
        let is_shared = F::USER_ROOT_HAS_KERNEL_HALF;
        assert_eq!(found(kernel, Space::User).is_none(), is_shared);
        assert!(found(user, Space::Kernel).is_some());
        let ended = victim.system.new_user_root();
        let gone = ended.frame();
        assert_eq!(found(gone, Space::User), None);
        paging.release_user_root(ended);
        for root in [victim.data, victim.user_table(Level::Pmd), gone, user.offset(8)] {
            let is = Some(paging.types().unwrap().of(root));
            for space in [Space::User, Space::Kernel] {
                assert_eq!(found(root, space), Some(Finding::ForeignRoot { root, is }));
            }
        }
    }
}

for_both_formats_and_schemes!(
    a_table_that_is_mapped_is_found,
    a_mapping_without_its_mark_is_found,
    a_mapping_with_an_old_mark_is_found,
    data_that_is_linked_is_found,
    a_table_without_protection_is_found,
    leaves_against_the_rules_are_found,
    roots_that_are_none_are_found,
);
