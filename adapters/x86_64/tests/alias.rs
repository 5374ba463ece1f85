//! Tables behind an alias, as on CPUs without supervisor keys: read-only in the linear map, stored through a second mapping that SMAP closes
//! outside of windows. In this process a store by another way than the alias, or outside of a window, is SIGSEGV.

mod support;

use std::cell::RefCell;
use std::sync::Arc;

use kpkeys::keyed::Register;
use kpkeys::smap::{AC, Smap};
use kpkeys::{Backend, context};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::{ALIAS_START, MEMORY_START};
use kpkeys_hosted::mmu::{Fault, Mmu, Privilege};
use kpkeys_hosted::register::{ArenaRegister, Opens};
use kpkeys_pgtable::Level;
use kpkeys_x86_64::{AdoptError, HardenedPageTable, LinearMap, Machine, Protection};
use support::{
    Bare, DATA, Frames, Huge, Model, OFFSET, PAGES, device, frame, page, read, tables, write,
};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{CleanUp, Mapper};
use x86_64::structures::paging::page::PageRangeInclusive;
use x86_64::structures::paging::{
    FrameAllocator, Page, PageTableFlags, PhysFrame, Size2MiB, Size4KiB,
};

/// Address minus physical address, in the tables' alias.
const ALIAS: u64 = ALIAS_START.0 - MEMORY_START.0;
const ALIAS_FLAGS: PageTableFlags = DATA.union(PageTableFlags::USER_ACCESSIBLE);
const ADDRESS: u64 = 0xffff_c900_0000_0000;

/// EFLAGS.AC, as a register of an arena.
#[derive(Clone, Copy)]
struct AcFlag;

impl Opens for AcFlag {
    fn opens(value: u64) -> bool {
        value & AC != 0
    }
}

struct AliasMachine(Smap<ArenaRegister<AcFlag>>);

// SAFETY: there are no TLBs, and no interrupts.
unsafe impl Machine for AliasMachine {
    type Backend = Smap<ArenaRegister<AcFlag>>;

    fn backend(&self) -> &Self::Backend {
        &self.0
    }

    fn flush_all(&self) {
        assert!(self.0.is_in::<context::Default>(), "a flush inside a window");
    }

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

type Tables = Protection<AliasMachine, LinearMap>;

/// Memory with tables of the bare crate in it, and an alias with these flags.
fn bare(alias: PageTableFlags) -> Bare {
    let arena = Arc::new(Arena::aliased(PAGES as usize).expect("the host has memory"));
    let mut bare = Bare::on::<Size4KiB>(arena, DATA);
    map_alias(&mut bare, alias);
    bare
}

fn map_alias(bare: &mut Bare, flags: PageTableFlags) {
    for number in (0..PAGES).step_by(512) {
        let to = frame(number).start_address();
        let at = page::<Size2MiB>(ALIAS + to.as_u64());
        let block = PhysFrame::<Size2MiB>::from_start_address(to).expect("memory is aligned");
        bare.map(at, block, flags | PageTableFlags::HUGE_PAGE).expect("an empty place");
    }
}

/// The kernel's map of memory, with the alias where this process has it.
fn map(arena: &Arena) -> LinearMap {
    let pointers = (arena.alias().as_ptr() as usize).wrapping_sub(MEMORY_START.0 as usize);
    let map = support::linear_map(arena);
    map.with_alias_seen_at(VirtAddr::new(ALIAS), pointers).expect("they lie apart")
}

fn machine(arena: &Arc<Arena>) -> (AliasMachine, ArenaRegister<AcFlag>) {
    let register = ArenaRegister::new(arena.clone());
    let machine = AliasMachine(Smap::new(register.clone()));
    machine.0.reset();
    (machine, register)
}

fn adopt(bare: Bare) -> Result<System, AdoptError> {
    let Bare { arena, root, mut frames } = bare;
    let (machine, register) = machine(&arena);
    // SAFETY: the root of tables that nobody else uses, with their maps.
    let protection = unsafe { Protection::adopt(machine, map(&arena), root, &mut frames)? };
    arena.seal();
    let model = support::model(&arena);
    Ok(System { arena, protection, frames: RefCell::new(frames), register, model })
}

struct System {
    arena: Arc<Arena>,
    protection: Tables,
    frames: RefCell<Frames>,
    register: ArenaRegister<AcFlag>,
    model: Model,
}

impl System {
    fn new() -> System {
        adopt(bare(ALIAS_FLAGS)).expect("plain tables are adopted")
    }

    fn mapper(&self) -> HardenedPageTable<'_, AliasMachine, LinearMap> {
        // SAFETY: the adopted root, and tests use one mapper at a time.
        unsafe { self.protection.tables(self.protection.root()) }
    }

    fn store(
        &self,
        root: PhysFrame,
        who: Privilege,
        offset: u64,
        table: PhysFrame,
    ) -> Result<(), Fault> {
        store(&self.model, &self.arena, root, self.register.read(), who, offset, table)
    }

    /// What becomes of stray stores of the kernel, by the linear map and by the alias.
    fn attacks(&self, table: PhysFrame) -> [Result<(), Fault>; 2] {
        let root = self.protection.root();
        [OFFSET, ALIAS].map(|offset| self.store(root, Privilege::Kernel, offset, table))
    }
}

/// Stores what is there already, as the model's CPU would.
fn store(
    model: &Model,
    arena: &Arena,
    root: PhysFrame,
    eflags: u64,
    who: Privilege,
    offset: u64,
    table: PhysFrame,
) -> Result<(), Fault> {
    let root = kpkeys_pgtable::PhysAddr(root.start_address().as_u64());
    let mut mmu = Mmu::new(model, root, Some(root), 0);
    mmu.cpu.pan = !AcFlag::opens(eflags);
    let address = offset + table.start_address().as_u64() + 24;
    mmu.store_as(who, kpkeys_pgtable::VirtAddr(address), read(arena, table, 3))
}

const READ_ONLY: Result<(), Fault> = Err(Fault::Permission(Level::Pte));
/// By a block of the alias: SMAP's fault is one of permission.
const CLOSED: Result<(), Fault> = Err(Fault::Permission(Level::Pmd));

fn lower_half() -> PageRangeInclusive {
    let at = |address| Page::containing_address(VirtAddr::new(address));
    Page::range_inclusive(at(0), at(0x7fff_ffff_ffff))
}

#[test]
fn a_store_to_any_table_works_before_and_faults_after_by_either_mapping() {
    let bare = bare(ALIAS_FLAGS);
    let before = tables(&bare.arena, bare.root);
    let model = support::model(&bare.arena);
    for (_, table) in &before {
        let stored = store(&model, &bare.arena, bare.root, 0, Privilege::Kernel, OFFSET, *table);
        assert_eq!(stored, Ok(()));
    }
    let system = adopt(bare).unwrap();
    assert!(before.iter().all(|table| system.attacks(table.1) == [READ_ONLY, CLOSED]));

    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    for number in [0, 1 << 18, 1 << 27] {
        let at = page::<Size4KiB>(ADDRESS + number * 4096);
        // SAFETY: a model's tables.
        unsafe { mapper.map_to(at, device(number), DATA, &mut *frames) }.unwrap().ignore();
        assert_eq!(mapper.translate_page(at).ok(), Some(device(number)));
    }
    let after = tables(&system.arena, system.protection.root());
    assert_eq!(after.len(), before.len() + 3 + 2 + 3);
    assert!(after.iter().all(|table| system.attacks(table.1) == [READ_ONLY, CLOSED]));
    assert!(after.iter().all(|table| system.protection.protects(table.1)));
    let data = frames.allocate_frame().unwrap();
    let stored = system.store(system.protection.root(), Privilege::Kernel, OFFSET, data);
    assert_eq!(stored, Ok(()), "data can be written");
}

#[test]
fn frames_of_tables_are_data_again_after_their_flush() {
    let system = System::new();
    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    let at = page::<Size4KiB>(0x1000);
    let before = (frames.left, tables(&system.arena, system.protection.root()).len());
    // SAFETY: a model's tables, here and below.
    unsafe { mapper.map_to(at, device(0), DATA, &mut *frames) }.unwrap().ignore();
    mapper.unmap(at).unwrap().1.ignore();
    // SAFETY: as above.
    unsafe { mapper.clean_up_addr_range(lower_half(), &mut *frames) };
    let after = (frames.left, tables(&system.arena, system.protection.root()).len());
    assert_eq!(after, before);
    let root = system.protection.root();
    for freed in frames.given_back.clone() {
        assert_eq!(system.store(root, Privilege::Kernel, OFFSET, freed), Ok(()));
        write(&system.arena, freed, 3, 7);
    }
}

/// The alias is user memory to the CPU: on a root that has it, a program writes tables.
#[test]
fn a_root_for_programs_lacks_the_alias() {
    let system = System::new();
    let kernel = system.protection.root();
    let stored = |root| system.store(root, Privilege::User, ALIAS, kernel);
    assert_eq!(stored(kernel), Ok(()), "which is why programs have roots of their own");
    let root = system.protection.new_root(&mut *system.frames.borrow_mut()).unwrap();
    assert_eq!(stored(root), Err(Fault::NotPresent(Level::Pgd)));
    let by_kernel = system.store(root, Privilege::Kernel, OFFSET, kernel);
    assert_eq!(by_kernel, READ_ONLY, "the linear map is there");

    // One that was made before and has the alias is refused; without it, it joins.
    let made = system.frames.borrow_mut().allocate_frame().unwrap();
    let alias = VirtAddr::new(ALIAS_START.0).p4_index().into();
    for index in 0..512 {
        let entry = if index < 256 { 0 } else { read(&system.arena, kernel, index) };
        write(&system.arena, made, index, entry);
    }
    let join = || {
        // SAFETY: tables that no CPU uses.
        unsafe { system.protection.adopt_root(made, &mut *system.frames.borrow_mut()) }
    };
    assert_eq!(join(), Err(AdoptError::AliasReachable { root: made }));
    write(&system.arena, made, alias, 0);
    assert_eq!(join(), Ok(()));
    assert_eq!(stored(made), Err(Fault::NotPresent(Level::Pgd)));
}

#[test]
fn an_alias_that_would_not_protect_is_refused_with_the_reason() {
    for wrong in [
        ALIAS_FLAGS - PageTableFlags::USER_ACCESSIBLE,
        ALIAS_FLAGS - PageTableFlags::WRITABLE,
        ALIAS_FLAGS - PageTableFlags::NO_EXECUTE,
        ALIAS_FLAGS | PageTableFlags::GLOBAL,
    ] {
        let bare = bare(wrong);
        let root = bare.root;
        let address = VirtAddr::new(ALIAS + root.start_address().as_u64());
        let refused = adopt(bare).err();
        assert_eq!(refused, Some(AdoptError::NoAlias { table: root, address }), "{wrong:?}");
        assert!(refused.unwrap().to_string().contains("alias"));
    }
    let arena = Arc::new(Arena::aliased(PAGES as usize).expect("the host has memory"));
    let without = Bare::on::<Huge>(arena, DATA);
    let table = without.root;
    let address = VirtAddr::new(ALIAS + table.start_address().as_u64());
    assert_eq!(adopt(without).err(), Some(AdoptError::NotMapped { table, address }));
}

#[test]
fn a_second_way_to_write_a_table_is_refused() {
    let mut bare = bare(ALIAS_FLAGS);
    let (table, at) = (bare.root, page::<Size4KiB>(ADDRESS));
    bare.map(at, table, DATA).unwrap();
    let address = at.start_address();
    assert_eq!(adopt(bare).err(), Some(AdoptError::WritableElsewhere { table, address }));
}

#[test]
fn the_kernels_own_entries_are_not_the_alias() {
    let bare = bare(ALIAS_FLAGS);
    let linear = VirtAddr::new(OFFSET + MEMORY_START.0).p4_index().into();
    let entry = read(&bare.arena, bare.root, linear);
    write(&bare.arena, bare.root, linear, entry | PageTableFlags::USER_ACCESSIBLE.bits());
    let table = bare.root;
    assert_eq!(adopt(bare).err(), Some(AdoptError::UserAccessible { table }));
}

#[test]
fn backend_and_map_must_agree() {
    let bare = bare(ALIAS_FLAGS);
    let Bare { arena, root, mut frames } = bare;
    let (by_alias, _) = machine(&arena);
    let plain = support::linear_map(&arena);
    // SAFETY: nothing is adopted, here and below.
    let refused = unsafe { Protection::adopt(by_alias, plain, root, &mut frames) }.err();
    assert_eq!(refused, Some(AdoptError::Scheme));
    let by_keys = support::machine(&arena);
    // SAFETY: as above.
    let refused = unsafe { Protection::adopt(by_keys, map(&arena), root, &mut frames) }.err();
    assert_eq!(refused, Some(AdoptError::Scheme));
}

#[test]
fn an_alias_has_addresses_of_its_own_in_the_upper_half() {
    let memory = PhysFrame::range(frame(0), frame(PAGES - 1));
    let linear = LinearMap::new(memory, VirtAddr::new(OFFSET)).unwrap();
    assert!(linear.with_alias(VirtAddr::new(ALIAS)).is_some());
    assert!(linear.with_alias(VirtAddr::new(OFFSET)).is_none(), "an entry of the root for both");
    assert!(linear.with_alias(VirtAddr::new(0x1000_0000_0000)).is_none(), "the programs' half");
    assert!(linear.with_alias(VirtAddr::new(ALIAS + 8)).is_none(), "no page");
}
