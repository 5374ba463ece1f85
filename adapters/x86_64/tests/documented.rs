//! What the wrapped crate's documentation shows, on hardened tables: `Mapper::map_to`, `map_to_with_table_flags` and
//! `CleanUp::clean_up_addr_range`, each as its example has it but for the flush, which is no instruction for a process.

mod support;

use kpkeys::Pkey;
use kpkeys_hosted::mmu::Fault;
use support::{System, device, page, tables};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{CleanUp, Mapper, TranslateResult};
use x86_64::structures::paging::{Page, PageTableFlags, Size4KiB, Translate};

#[test]
fn the_crates_own_examples_run() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    let before = tables(&system.arena, system.root()).len();
    let [first, second] = [0x1000_0000, 0x7f00_0000_0000].map(page::<Size4KiB>);
    let flags =
        PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::USER_ACCESSIBLE;
    // SAFETY: a model's tables, here and below.
    unsafe { mapper.map_to(first, device(0), flags, &mut *frames) }.unwrap().ignore();
    let uncached = flags | PageTableFlags::NO_EXECUTE | PageTableFlags::NO_CACHE;
    // SAFETY: as above.
    unsafe {
        mapper.map_to_with_table_flags(
            second,
            device(1),
            uncached,
            PageTableFlags::USER_ACCESSIBLE,
            &mut *frames,
        )
    }
    .unwrap()
    .ignore();
    for (page, expected) in [(first, flags), (second, uncached)] {
        let found = mapper.translate(page.start_address());
        assert!(matches!(found, TranslateResult::Mapped { flags, .. } if flags == expected));
    }
    let made = tables(&system.arena, system.root());
    assert_eq!(made.len(), before + 6);
    let blocked = Err(Fault::Key(Pkey::PAGE_TABLES));
    assert!(made.iter().all(|table| system.attack(table.1, 3) == blocked));

    mapper.unmap(first).unwrap().1.ignore();
    mapper.unmap(second).unwrap().1.ignore();
    let lower_half = Page::range_inclusive(
        Page::containing_address(VirtAddr::new(0)),
        Page::containing_address(VirtAddr::new(0x0000_7fff_ffff_ffff)),
    );
    // SAFETY: as above; nobody else has these tables.
    unsafe { mapper.clean_up_addr_range(lower_half, &mut *frames) };
    assert_eq!(tables(&system.arena, system.root()).len(), before);
}
