//! The attacker: stores to table memory, through the model of the MMU, with the register as it really is.
//!
//! Every attack is first shown to work with protection off.

#[macro_use]
mod support;

use aarch64_paging::descriptor::PhysicalAddress;
use aarch64_paging::paging::{PageTable, Translation, VaRange};
use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard};
use kpkeys_hosted::mmu::{Fault, Privilege, Want};
use kpkeys_pgtable::Level;
use support::{
    Aliased, Keys, MEMORY, MEMORY_PAGES, NO_CONSTRAINTS, NORMAL, Protection, System, USER,
    alias_address, linear, linear_address, pages,
};

const WORD: usize = 7;
const EVIL: u64 = 0xbad;
/// Enough tables for what is mapped here.
const POOL: usize = 64;

fn open<S: Protection>(system: &System<S>) -> Guard<'_, S::Backend, PageTables> {
    // SAFETY: the only window of this CPU; what runs in it is an attack.
    unsafe { Guard::enter(system.pool.backend()) }
}

/// What the linear map maps a page of table memory by: here pages, since blocks are shared with data.
const LEAF: Level = Level::Pte;

/// The wrapped crate as it is, in the same memory: its tables lie open.
#[test]
fn with_the_bare_crate_a_stray_store_changes_a_table() {
    struct InPlace<'s>(&'s System<Keys>, usize);
    impl Translation<support::Attributes> for InPlace<'_> {
        fn allocate_table(
            &mut self,
        ) -> (std::ptr::NonNull<PageTable<support::Attributes>>, PhysicalAddress) {
            let pa = MEMORY + self.1 * 4096;
            self.1 += 1;
            (self.physical_to_virtual(pa), pa)
        }
        unsafe fn deallocate_table(
            &mut self,
            _: std::ptr::NonNull<PageTable<support::Attributes>>,
        ) {
        }
        fn physical_to_virtual(
            &self,
            pa: PhysicalAddress,
        ) -> std::ptr::NonNull<PageTable<support::Attributes>> {
            // SAFETY: inside the arena, since these tests take few.
            unsafe { self.0.arena.data().add(pa.0 - MEMORY.0) }.cast()
        }
    }
    let system = System::<Keys>::new(POOL);
    let mut kernel = aarch64_paging::Mapping::with_asid_and_va_range(
        InPlace(&system, 0),
        0,
        0,
        aarch64_paging::paging::El1And0,
        VaRange::Upper,
    );
    kernel.map_range(&linear(0..MEMORY_PAGES), MEMORY, NORMAL, NO_CONSTRAINTS).unwrap();
    let root = kernel.root_address();
    let mmu = system.mmu(root);
    assert_eq!(mmu.store(linear_address(root, WORD as u64), EVIL), Ok(()));
    assert_eq!(system.read(root, WORD), EVIL);
}

fn no_store_reaches_table_memory_outside_windows<S: Protection>() {
    let system = System::<S>::new(POOL);
    let kernel = system.kernel();
    let root = kernel.root_address();
    // Protection off: for the CPU that has not yet loaded these tables, or whose register is open.
    let window = open(&system);
    let stored = if S::ALIASED {
        system.mmu(root).store(alias_address(root, WORD as u64), EVIL)
    } else {
        system.mmu(root).store(linear_address(root, WORD as u64), EVIL)
    };
    assert_eq!(stored, Ok(()), "what it is that protects");
    drop(window);
    assert_eq!(system.read(root, WORD), EVIL);
    system.plant(root, WORD, 0);
    drop(kernel);

    let kernel = system.protected();
    let mut user = system.user();
    user.map_range(&pages(0x1234_5000, 3), MEMORY, USER, NO_CONSTRAINTS).unwrap();
    let tables = [system.tables_of(&kernel), system.tables_of(&user)].concat();
    assert!(
        tables.len() >= 8 && tables.iter().all(|table| system.table_pages().any(|p| p == *table))
    );
    // Those that are tables, those that will be, and those that were.
    user.unmap_range(&pages(0, 1 << 27)).unwrap();
    let before = system.contents();
    for page in system.table_pages() {
        let mmu = system.mmu(kernel.root_address());
        let word = WORD as u64;
        assert_eq!(mmu.store(linear_address(page, word), EVIL), Err(S::fault(LEAF)), "{page}");
        let read = mmu.access(linear_address(page, word), Want::Read, Privilege::Kernel);
        assert!(read.is_ok(), "{page} can be read");
        let by_alias = mmu.store(alias_address(page, word), EVIL);
        let alias =
            if S::ALIASED { Fault::Permission(LEAF) } else { Fault::NotPresent(Level::Pgd) };
        assert_eq!(by_alias, Err(alias), "{page}");
        for va in [linear_address(page, word), alias_address(page, word)] {
            let fetch = mmu.access(va, Want::Execute, Privilege::Kernel);
            assert!(fetch.is_err(), "{page}: no code");
            assert!(mmu.store_as(Privilege::User, va, EVIL).is_err(), "{page}: EL0, STTR");
        }
    }
    assert_eq!(system.contents(), before);
}

fn a_window_opens_one_way_to_them<S: Protection>() {
    let system = System::<S>::new(POOL);
    let kernel = system.protected();
    let root = kernel.root_address();
    let window = open(&system);
    let mmu = system.mmu(root);
    let linear = mmu.store(linear_address(root, WORD as u64), EVIL);
    assert_eq!(linear.is_ok(), !S::ALIASED, "{linear:?}");
    assert_eq!(mmu.store(alias_address(root, WORD as u64), EVIL).is_ok(), S::ALIASED);
    assert_eq!(system.read(root, WORD), EVIL);
    drop(window);
    system.plant(root, WORD, 0);
    assert!(system.mmu(root).store(linear_address(root, WORD as u64), EVIL).is_err());
    assert!(system.mmu(root).store(alias_address(root, WORD as u64), EVIL).is_err());
}

fn data_in_the_same_block_stays_writable<S: Protection>() {
    let system = System::<S>::new(POOL);
    let kernel = system.protected();
    let first = system.pool.layout().start.0;
    for data in [MEMORY.0, first - 4096, first + POOL * 4096] {
        let data = PhysicalAddress(data);
        let stored = system.mmu(kernel.root_address()).store(linear_address(data, 1), 0x1234);
        assert_eq!(stored, Ok(()), "{data}");
        assert_eq!(system.read(data, 1), 0x1234);
    }
}

/// As the documentation says: what EL0 may access, PAN keeps the kernel from, and E0PD keeps EL0 out of the half.
#[test]
fn the_alias_is_open_to_el0_without_e0pd() {
    let system = System::<Aliased>::new(POOL);
    let kernel = system.protected();
    let root = kernel.root_address();
    let mut mmu = system.mmu(root);
    let attack = alias_address(root, WORD as u64);
    assert_eq!(mmu.store_as(Privilege::User, attack, EVIL), Err(Fault::NotPresent(Level::Pgd)));
    mmu.cpu.e0pd = false;
    assert_eq!(mmu.store_as(Privilege::User, attack, EVIL), Ok(()), "why Pan::init demands it");
    let fetch = mmu.access(attack, Want::Execute, Privilege::User);
    assert_eq!(fetch, Err(Fault::Permission(LEAF)), "and even then nothing there is code");
}

#[test]
fn an_exception_closes_the_window_it_interrupts() {
    let system = System::<Aliased>::new(POOL);
    let mut kernel = system.protected();
    let root = kernel.root_address();
    // SAFETY: the only window of this CPU.
    let mut batch = unsafe { kernel.batch() };
    batch.map_range(&pages(0xffff_d000_0000_0000, 1), MEMORY, NORMAL, NO_CONSTRAINTS).unwrap();
    assert!(system.pool.backend().is_in::<PageTables>());
    let interrupted = system.register.inner().take_exception();
    let attack = system.mmu(root).store(alias_address(root, WORD as u64), EVIL);
    assert_eq!(attack, Err(Fault::Permission(LEAF)));
    // SAFETY: it is what the exception left, which is returned from.
    unsafe { system.register.inner().exception_return(interrupted) };
    batch.map_range(&pages(0xffff_d000_0000_1000, 1), MEMORY, NORMAL, NO_CONSTRAINTS).unwrap();
}

for_both!(
    no_store_reaches_table_memory_outside_windows,
    a_window_opens_one_way_to_them,
    data_in_the_same_block_stays_writable,
);
