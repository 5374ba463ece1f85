//! What does not fit the types of frames is reported, with the window closed; enforced or audited, as the machine says.

use crate::support::{KERNEL, Protection, SMALL, System, USER, by, configs, pages};
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::guarded::{FrameType, Use, Violation};
use kpkeys_pgtable::{Attrs, Config, Error, Level, Machine, MemoryType, PhysAddr, Root, VirtAddr};

/// Configurations that check.
fn checking() -> impl Iterator<Item = Config> {
    configs().filter(|config| config.mode.checks() && config.linear != Level::Pud)
}

/// The frame that a device is at, behind memory.
fn device<F: HostedFormat, S: Protection>(system: &System<F, S>) -> PhysAddr {
    let memory = system.machine().memory();
    memory.frame(memory.pages)
}

fn violation<T: std::fmt::Debug>(result: Result<T, Error>) -> Violation {
    match result {
        Err(Error::Violation(violation)) => violation,
        other => panic!("{other:?} is no violation"),
    }
}

/// What the kernel's tables map an address to.
fn frame_at<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    at: VirtAddr,
) -> Option<PhysAddr> {
    let place = system.place(system.paging.kernel(), at);
    F::is_leaf(place.level, place.entry).then(|| F::frame(place.level, place.entry))
}

/// Makes a page of a mapping writable.
fn make_writable<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    root: &Root,
    at: VirtAddr,
) -> Result<(), Error> {
    let section = system.paging.section(root);
    system.paging.protect(
        &section,
        root,
        pages(at, 1),
        by(|leaf| {
            let attrs = Attrs { write: true, ..F::attrs(leaf) };
            F::leaf(Level::Pte, F::frame(Level::Pte, leaf), attrs).expect("a page can be mapped so")
        }),
    )
}

fn what_is_refused_is_reported<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let system = System::<F, S>::boot(config, SMALL);
        let (kernel, user) = (system.paging.kernel(), system.new_user_root());
        system.map(&user, pages(USER, 1), Attrs::USER_DATA, system.data_block(0)).unwrap();
        system.map(kernel, pages(KERNEL, 1), Attrs::KERNEL_DATA.read_only(), user.frame()).unwrap();
        assert_eq!(system.machine().take_reported(), [], "nothing was refused");

        let (second, of_device) = (KERNEL.offset(F::PAGE_SIZE), device(&system));
        let as_memory = system.map(kernel, pages(second, 1), Attrs::KERNEL_DATA, of_device);
        let as_memory = violation(as_memory);
        let of_table = violation(make_writable(&system, kernel, KERNEL));
        assert_eq!((of_table.frame, as_memory.frame), (user.frame(), of_device));
        assert!(!of_table.stored && !as_memory.stored);
        assert_eq!(system.machine().take_reported(), [as_memory, of_table], "{config:?}");
        assert_eq!(frame_at(&system, second), None);
    }
}

fn what_is_audited_is_stored_and_reported<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let system = System::<F, S>::boot_auditing(config, SMALL);
        let (kernel, user, device) =
            (system.paging.kernel(), system.new_user_root(), device(&system));
        assert_eq!(system.machine().take_reported(), []);
        system.map(kernel, pages(KERNEL, 1), Attrs::KERNEL_DATA, device).unwrap();
        assert_eq!(frame_at(&system, KERNEL), Some(device), "it is stored");
        let wanted =
            Use::Leaf { user: false, write: true, execute: false, memory: MemoryType::Normal };
        let reported = system.machine().take_reported();
        let [Violation { frame, is: FrameType::NotRam, wanted: was, by, stored: true, .. }] =
            reported[..]
        else {
            panic!("{reported:?}");
        };
        assert_eq!((frame, was), (device, wanted));
        assert!(by.file().ends_with("support/mod.rs"), "{}", reported[0]);
        assert!(reported[0].to_string().ends_with("stored, as violations are audited"));

        let second = KERNEL.offset(F::PAGE_SIZE);
        let table = user.frame();
        system.map(kernel, pages(second, 1), Attrs::KERNEL_DATA.read_only(), table).unwrap();
        assert_eq!(system.machine().take_reported(), [], "what may be read is no violation");
        make_writable(&system, kernel, second).unwrap();
        let reported = system.machine().take_reported();
        assert!(matches!(reported[..], [Violation { stored: true, .. }]), "{reported:?}");
        assert!(!system.findings(&[&user]).is_empty(), "the checker sees what it led to");
    }
}

/// What would make the types wrong is refused by whom audits, too; and so is another frame in the place of one.
fn a_type_is_never_audited<F: HostedFormat, S: Protection>() {
    for config in checking().filter(|config| config.pool) {
        let system = System::<F, S>::boot_auditing(config, SMALL);
        let (in_use, kernel) = (system.new_user_root(), system.paging.kernel());
        let (count, at) = system.paging.spares_of_this_cpu().expect("there is a pool");
        let at = std::ptr::with_exposed_provenance_mut::<usize>(at.0 as usize);
        // SAFETY: the word is a count in memory that lives as long as the machine, which this thread alone uses.
        unsafe { at.write_volatile(count + 1) };
        let twice = system.paging.new_user_root(&system.paging.section(kernel));
        let twice = violation(twice.map(|root| root.frame()));
        assert_eq!((twice.frame, twice.stored), (in_use.frame(), false));
        assert_eq!(system.machine().take_reported(), [twice]);

        let [data, other] = [0, 0].map(|order| system.data_block(order));
        system.map(kernel, pages(KERNEL, 1), Attrs::KERNEL_DATA, data).unwrap();
        let section = system.paging.section(kernel);
        let moved = system.paging.protect(
            &section,
            kernel,
            pages(KERNEL, 1),
            by(|_| F::leaf(Level::Pte, other, Attrs::KERNEL_DATA).expect("a page can be mapped")),
        );
        let moved = violation(moved);
        drop(section);
        assert_eq!(system.machine().take_reported(), [moved]);
        assert_eq!(frame_at(&system, KERNEL), Some(data));
    }
}

for_both_formats_and_schemes! {
    what_is_refused_is_reported,
    what_is_audited_is_stored_and_reported,
    a_type_is_never_audited,
}
