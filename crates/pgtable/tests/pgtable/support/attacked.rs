//! A system for attacks on arm64's aliases: tables in use in both halves, one of which is attacked.

use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Attrs, Config, Machine, Mode, PhysAddr, Root, VirtAddr};

use super::{KERNEL, Protection, SMALL, System, USER, pages};

/// Modes that protect.
pub const MODES: [Mode; 4] = [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];
/// Where in the table the word is that attacks try to change.
pub const WORD: u64 = 7 * 8;

pub struct Attacked<S: Protection> {
    pub system: System<Aarch64, S>,
    pub user: Root,
    /// A PTE table of the user's.
    pub table: PhysAddr,
}

impl<S: Protection> Attacked<S> {
    pub fn new(mode: Mode) -> Self {
        let system = System::<Aarch64, S>::boot(Config::of(mode), SMALL);
        let data = system.data_block(0);
        system.map(system.paging.kernel(), pages(KERNEL, 1), Attrs::KERNEL_DATA, data).unwrap();
        let user = system.new_user_root();
        system.map(&user, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
        let table = system.place(&user, USER).table;
        Attacked { system, user, table }
    }

    pub fn alias(&self) -> VirtAddr {
        self.system.paging.alias_of(self.table).expect("page tables are protected by an alias")
    }

    /// The word that attacks try to change, and never do unless they are to succeed.
    pub fn word(&self) -> u64 {
        self.system.read(self.table, 7).0
    }
}

pub fn open<S: Protection>(system: &System<Aarch64, S>) -> Guard<'_, impl Backend, PageTables> {
    // SAFETY: the only window of this CPU, or of an exception's handler; what runs in it is an attack that writes back.
    unsafe { Guard::enter(system.machine().backend()) }
}
