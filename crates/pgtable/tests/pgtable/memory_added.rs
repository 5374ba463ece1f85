//! Memory that comes once the kernel runs: what was a hole in the linear map becomes data like any other, and nothing becomes so by mistake.

use crate::support::{LARGE, Protection, SMALL, System, configs, pages};
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_pgtable::guarded::FrameType;
use kpkeys_pgtable::{Attrs, Config, Error, Flush, Level, PhysAddr, VirtAddr};

const DEVICES: VirtAddr = VirtAddr(0xffff_c900_0000_0000);

fn page<F: HostedFormat>(number: usize) -> PhysAddr {
    MEMORY_START.offset(number as u64 * F::PAGE_SIZE)
}

/// The first page of what is no RAM at first, and how many there are: as large as the map's blocks.
fn late_of<F: HostedFormat>(config: Config) -> (usize, usize) {
    match config.linear {
        Level::Pud => (0, Level::Pud.entry_pages::<F>()),
        _ => (512, 512),
    }
}

/// A system whose linear map has left these pages out.
fn without<F: HostedFormat, S: Protection>(config: Config) -> System<F, S> {
    let memory = if config.linear == Level::Pud { LARGE } else { SMALL };
    let system = System::<F, S>::build(config, memory);
    let (first, count) = late_of::<F>(config);
    system.paging.leave_out(page::<F>(first), count).expect("no block is cut");
    system.paging.type_frames(page::<F>(first), count, FrameType::NotRam).expect("they are data");
    system
}

fn add<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    first: usize,
    count: usize,
) -> Result<(), Error> {
    // SAFETY: the arena has these pages, and the test gives them to nobody else.
    unsafe { system.paging.add_memory(page::<F>(first), count) }
}

fn what_was_a_hole_is_memory_once_it_is_added<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = without::<F, S>(config);
        system.enable_protection().expect("no table is in the hole");
        let (first, count) = late_of::<F>(config);
        let (start, last) = (page::<F>(first), page::<F>(first + count - 1));
        assert_eq!(system.paging.translate(system.paging.kernel(), system.linear(last)), None);
        add(&system, first, count).expect("it was a hole");
        system.assert_clean(&[]);
        for frame in [start, last] {
            let found = system.paging.translate(system.paging.kernel(), system.linear(frame));
            assert_eq!(found, Some(frame), "{config:?}");
        }
        let place = system.linear_place(start);
        let expected = if count > 512 { Level::Pud } else { config.linear };
        assert_eq!(place.level, expected, "{config:?}: not by the largest leaf");
        // It is data, which a program may have.
        let user = system.new_user_root();
        let range = pages(VirtAddr(0x40_0000), 1);
        system.map(&user, range, Attrs::USER_DATA, last).expect("a program may have it");
        assert_eq!(system.paging.translate(&user, range.start()), Some(last), "{config:?}");
        assert_eq!(system.unmap(&user, range), Ok(1));
        system.paging.flush(Flush::User(user.frame(), range));
        system.end_user(user, range);
        system.assert_clean(&[]);
    }
}

fn only_what_is_no_ram_is_added<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = without::<F, S>(config);
        system.enable_protection().expect("no table is in the hole");
        let (first, count) = late_of::<F>(config);
        let before = system.entries(system.paging.kernel());
        let far = 1 << 30;
        let outside = Error::OutsideLinearMap(page::<F>(far), 1);
        assert_eq!(add(&system, far, 1), Err(outside), "{config:?}");
        let behind = add(&system, first + count - 1, 2);
        let is_mapped = |error: &Error| matches!(error, Error::AlreadyMapped(_));
        assert!(behind.as_ref().is_err_and(is_mapped), "{config:?} {behind:?}");
        assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
        add(&system, first, count).expect("it was a hole");
        let again = add(&system, first, count);
        assert!(again.as_ref().is_err_and(is_mapped), "{config:?} {again:?}");
        system.assert_clean(&[]);
    }
}

/// A hole that is not said to be no RAM may be anything: in modes that check it stays what it is, all of it.
fn a_hole_of_data_is_refused_where_types_are_checked<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.mode.checks()) {
        let system = without::<F, S>(config);
        let (first, count) = late_of::<F>(config);
        let second = if first == 0 { count } else { 2 * first };
        if config.linear != Level::Pud {
            system.paging.leave_out(page::<F>(second), 512).expect("no block is cut");
        }
        system.enable_protection().expect("no table is in the holes");
        if config.linear != Level::Pud {
            let before = system.entries(system.paging.kernel());
            let both = add(&system, first, count + 512);
            assert!(matches!(both, Err(Error::Violation(_))), "{config:?} {both:?}");
            assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
            let types = system.paging.types().expect("it checks");
            assert_eq!(types.of(page::<F>(first)), FrameType::NotRam, "{config:?}");
        }
        add(&system, first, count).expect("this is no RAM");
    }
}

/// As long as it was no RAM it could be mapped as a device's registers, to be written: such a page is no table before that is gone.
fn a_page_that_is_still_mapped_as_a_device_is_marked<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.mode.checks()) {
        let system = without::<F, S>(config);
        system.enable_protection().expect("no table is in the hole");
        let (first, count) = late_of::<F>(config);
        let (kernel, device) = (system.paging.kernel(), page::<F>(first + 3));
        system.map(kernel, pages(DEVICES, 1), Attrs::DEVICE, device).expect("it is no RAM");
        add(&system, first, count).expect("it was a hole");
        let is = |frame| system.paging.types().expect("it checks").of(frame);
        system.paging.sweep().expect("it can wait for gates");
        assert_eq!((is(device), is(page::<F>(first))), (FrameType::Mapped, FrameType::Data));
        system.unmap(kernel, pages(DEVICES, 1)).expect("a page");
        system.paging.flush(Flush::Kernel(pages(DEVICES, 1)));
        system.paging.sweep().expect("it can wait for gates");
        assert_eq!(is(device), FrameType::Data);
    }
}

for_both_formats_and_schemes!(
    what_was_a_hole_is_memory_once_it_is_added,
    only_what_is_no_ram_is_added,
    a_hole_of_data_is_refused_where_types_are_checked,
    a_page_that_is_still_mapped_as_a_device_is_marked,
);
