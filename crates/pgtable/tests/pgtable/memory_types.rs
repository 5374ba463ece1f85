//! What is behind a mapping: devices are not mapped as memory, nor memory as devices, and the kernel's own data is no program's.
//!
//! Each is shown to work where nothing is checked.

use crate::support::{KERNEL, Protection, SMALL, System, USER, by, configs, pages};
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::check::Finding;
use kpkeys_pgtable::guarded::{FrameType, Use, Violation};
use kpkeys_pgtable::{Attrs, Config, Error, Level, Machine, MemoryType, Mode, PhysAddr};

/// Configurations that check.
fn checking() -> impl Iterator<Item = Config> {
    configs().filter(|config| config.mode.checks() && config.linear != Level::Pud)
}

fn lean(config: Config) -> Config {
    Config { mode: Mode::FusedLean, ..config }
}

/// The first frame behind memory, where a device may be.
fn device<F: HostedFormat, S: Protection>(system: &System<F, S>) -> PhysAddr {
    let memory = system.machine().memory();
    memory.frame(memory.pages)
}

fn as_device(attrs: Attrs) -> Attrs {
    Attrs { memory: MemoryType::Device, ..attrs }
}

/// What a mapping of a page of the kernel's half, or of a program's, is refused with.
fn refused<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    attrs: Attrs,
    frame: PhysAddr,
) -> Option<Violation> {
    let user = system.new_user_root();
    let (root, start) = if attrs.user { (&user, USER) } else { (system.paging.kernel(), KERNEL) };
    let mapped = system.map(root, pages(start, 1), attrs, frame);
    if mapped.is_ok() {
        system.unmap(root, pages(start, 1)).unwrap();
    }
    system.end_user(user, pages(USER, 1));
    match mapped {
        Ok(()) => None,
        Err(Error::Violation(violation)) => Some(violation),
        Err(other) => panic!("{other}"),
    }
}

fn a_device_is_not_mapped_as_memory<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let system = System::<F, S>::boot(config, SMALL);
        let device = device(&system);
        for attrs in [Attrs::KERNEL_DATA, Attrs::KERNEL_DATA.read_only()] {
            let violation = refused(&system, attrs, device).expect("refused");
            let Attrs { write, execute, memory, .. } = attrs;
            let wanted = Use::Leaf { user: false, write, execute, memory };
            assert_eq!((violation.is, violation.wanted), (FrameType::NotRam, wanted));
        }
        for user in [Attrs::USER_DATA, as_device(Attrs::USER_DATA)] {
            assert!(refused(&system, user, device).is_some(), "{user:?}");
        }
        let combining = Attrs { memory: MemoryType::WriteCombining, ..Attrs::DEVICE };
        for attrs in [Attrs::DEVICE, Attrs::DEVICE.read_only(), combining] {
            assert_eq!(refused(&system, attrs, device), None, "{attrs:?}");
        }
        let executable = Attrs { execute: true, ..Attrs::DEVICE.read_only() };
        assert!(refused(&system, executable, device).is_some());
        assert_eq!(
            refused(&System::<F, S>::boot(lean(config), SMALL), Attrs::KERNEL_DATA, device),
            None
        );
    }
}

fn memory_is_not_mapped_as_a_device<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let system = System::<F, S>::boot(config, SMALL);
        let data = system.data_block(0);
        let combining = Attrs { memory: MemoryType::WriteCombining, ..Attrs::KERNEL_DATA };
        for attrs in
            [Attrs::DEVICE, Attrs::DEVICE.read_only(), combining, as_device(Attrs::USER_DATA)]
        {
            let violation = refused(&system, attrs, data).expect("refused");
            assert!(violation.is.is_data(), "{violation}");
            let said = violation.to_string();
            let kind =
                if attrs == combining { "write-combining for the kernel" } else { "as a device" };
            assert!(said.contains(kind), "{said}");
        }
        let system = System::<F, S>::boot(lean(config), SMALL);
        let data = system.data_block(0);
        assert_eq!(refused(&system, Attrs::DEVICE, data), None);
    }
}

/// Not by a change of what is mapped either, and the checker says so of an entry that was stored past this library.
fn no_mapping_changes_between_the_two<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let system = System::<F, S>::boot(config, SMALL);
        let (kernel, data, range) =
            (system.paging.kernel(), system.data_block(0), pages(KERNEL, 1));
        system.map(kernel, range, Attrs::KERNEL_DATA, data).unwrap();
        let wrong = F::leaf(Level::Pte, data, Attrs::DEVICE).unwrap();
        let section = system.paging.section(kernel);
        let changed = system.paging.protect(&section, kernel, range, by(|_| wrong));
        drop(section);
        assert!(matches!(changed, Err(Error::Violation(_))), "{changed:?}");
        let place = system.place(kernel, KERNEL);
        system.plant(place.table, place.index, wrong);
        let expected =
            Finding::ForbiddenLeaf { frame: data, is: FrameType::Mapped, address: KERNEL };
        assert_eq!(system.findings(&[]), [expected]);
        system.plant(place.table, place.index, place.entry);
        system.assert_clean(&[]);
    }
}

fn the_kernels_own_data_is_no_programs<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let boot = |config| {
            let system = System::<F, S>::build(config, SMALL);
            let own = system.data_block(if config.pool { 9 } else { 0 });
            system.paging.type_frames(own, 1, FrameType::KernelData).unwrap();
            system.enable_protection().unwrap();
            (system, own)
        };
        let (system, own) = boot(config);
        let violation = refused(&system, Attrs::USER_DATA, own).expect("refused");
        assert_eq!(violation.is, FrameType::KernelData);
        assert!(refused(&system, Attrs::USER_DATA.read_only(), own).is_some(), "to be read");
        assert_eq!(refused(&system, Attrs::KERNEL_DATA, own), None);
        let executable = Attrs { execute: true, ..Attrs::KERNEL_DATA.read_only() };
        assert!(refused(&system, executable, own).is_some());
        // Nor does it become a table, whatever the frame allocator says.
        system.paging.frames().forge(own);
        let section = system.paging.section(system.paging.kernel());
        let refused_block = loop {
            match system.paging.new_user_root(&section) {
                Ok(_) => assert!(system.paging.frames().is_forging(), "{config:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused_block, Error::Violation(_)), "{refused_block}");
        drop(section);
        let (system, own) = boot(lean(config));
        assert_eq!(refused(&system, Attrs::USER_DATA, own), None);
    }
}

for_both_formats_and_schemes!(
    a_device_is_not_mapped_as_memory,
    memory_is_not_mapped_as_a_device,
    no_mapping_changes_between_the_two,
    the_kernels_own_data_is_no_programs,
);
