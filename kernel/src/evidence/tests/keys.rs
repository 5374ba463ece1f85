//! Which tables carry which key, and which window is for which tables: with one key for all, and with one of their own for those of address
//! spaces.

use crate::cpu::{self, calls};
use crate::evidence::attack::Here;
use crate::lock::IrqLock;
use crate::memory::paging::memories;
use crate::protection::{has_gates, keys, selected};
use crate::{arch, ensure, kernel_test};
use alloc::string::{String, ToString};
use kpkeys::{Backend, Pkey, Scheme};
use kpkeys_mm::{AddressSpace, Error, MapFlags};
use kpkeys_pgtable::{Format, Level, PageRange, PhysAddr, Root, VirtAddr};
use kpkeys_workloads::attack::execute::inside_window_of;
use kpkeys_workloads::attack::prepare::table_frame;
use kpkeys_workloads::attack::{Aim, Site, Store};

const START: VirtAddr = VirtAddr(0x30_0000_0000);

fn failed(error: Error) -> String {
    error.to_string()
}

fn is_enforced() -> bool {
    memories().paging().is_protected() && selected().enforces()
}

/// A page of an address space and one of the kernel's, and the tables that map them.
struct Mapped {
    space: AddressSpace<'static, crate::memory::paging::Bare<kpkeys_pgtable::NoProbe>>,
    area: VirtAddr,
    /// The table of PTEs of the first, and that of the second.
    tables: [PhysAddr; 2],
}

impl Mapped {
    fn new() -> Result<Self, String> {
        let mut space = AddressSpace::new(memories()).map_err(failed)?;
        let range = PageRange::new(START, 1).map_err(|error| error.to_string())?;
        space.mmap(range, MapFlags::DATA).map_err(failed)?;
        space.fault(START, true).map_err(failed)?;
        let area = memories().vmalloc(1).map_err(failed)?;
        let tables = [
            table_of(space.root(), START, Level::Pte)?,
            table_of(memories().paging().kernel(), area, Level::Pte)?,
        ];
        Ok(Self { space, area, tables })
    }

    /// What `f` returns inside of the window for the address space's tables, and of that for the kernel's.
    fn inside<R: Send>(&self, f: impl Fn() -> R) -> Result<[R; 2], String> {
        let users = inside((self.space.root(), START), &f)?;
        Ok([users, inside((memories().paging().kernel(), self.area), &f)?])
    }

    fn free(self) -> Result<(), String> {
        memories().vfree(self.area).map_err(failed)
    }
}

/// Whether a store to each table gets through, here and now.
fn can_store(tables: [PhysAddr; 2]) -> [bool; 2] {
    let site = Here { cpu: cpu::this().id };
    let aims = tables.map(|table| Aim::of_table(memories(), table, 4088));
    aims.map(|aim| site.store(Store::Word, aim).is_ok())
}

fn inside<R: Send>(place: (&Root, VirtAddr), f: impl Fn() -> R) -> Result<R, String> {
    let seen = IrqLock::new(None);
    inside_window_of(memories(), place, || {
        let result = f();
        seen.lock().get_or_insert(result);
    })
    .map_err(|failure| failure.to_string())?;
    let seen = seen.lock().take();
    seen.ok_or_else(|| "nothing ran in the window".to_string())
}

fn table_of(root: &Root, va: VirtAddr, level: Level) -> Result<PhysAddr, String> {
    table_frame(memories(), root, va, level).ok_or_else(|| "no table".to_string())
}

/// What windows let be stored: that for the address space's tables to these and to the kernel's, and that for the kernel's.
fn expected() -> [[bool; 2]; 2] {
    let others = !(keys::are_separate() && is_enforced());
    [[true, others], [others, true]]
}

kernel_test! {
    /// An address space's tables have their own key below the root, where there are two; everything else has the one of all.
    fn tables_carry_their_key() {
        let paging = memories().paging();
        let mapped = Mapped::new()?;
        let keyed = paging.is_protected() && selected().scheme() == Scheme::Keys;
        let expected = |key| if keyed { key } else { Pkey::DEFAULT };
        for level in Level::ALL.into_iter().filter(|&level| level <= arch::Format::ROOT) {
            let own = keys::are_separate() && level != Level::Pgd;
            let must = expected(if own { Pkey::USER_TABLES } else { Pkey::PAGE_TABLES });
            let key = paging.memory_pkey(table_of(mapped.space.root(), START, level)?);
            ensure!(key == Some(must), "the program's {level:?} table carries {key:?}");
            let key = paging.memory_pkey(table_of(paging.kernel(), mapped.area, level)?);
            ensure!(key == Some(expected(Pkey::PAGE_TABLES)), "the kernel's {level:?} table carries {key:?}");
        }
        ensure!(paging.separates_user_tables() == keys::are_separate(), "as the command line said");
        mapped.free()?;
    }

    /// With one key a window is one for all tables. With two, that for an address space leaves the kernel's closed, and the reverse.
    fn a_window_is_for_its_own_tables() {
        let mapped = Mapped::new()?;
        let tables = mapped.tables;
        let seen = mapped.inside(|| can_store(tables))?;
        ensure!(seen == expected(), "(its own, the kernel's) tables in each window: {seen:?}");
        let after = can_store(tables);
        ensure!(after == [!is_enforced(); 2], "after the windows: {after:?}");
        mapped.free()?;
    }

    /// Its handler finds all tables closed, and what it interrupted is open for the same tables as before.
    fn an_nmi_gives_back_the_window_it_found() {
        if !has_gates() {
            // Then the frame keeps the register, which `protection` looks at.
            return Ok(());
        }
        let mapped = Mapped::new()?;
        let tables = mapped.tables;
        let seen = mapped.inside(|| {
            let before = can_store(tables);
            let meanwhile = IrqLock::new(None);
            calls::run_in_nmi(cpu::this().id, &|| *meanwhile.lock() = Some(can_store(tables)));
            let meanwhile = *meanwhile.lock();
            (before, meanwhile, can_store(tables))
        })?;
        for (seen, open) in seen.into_iter().zip(expected()) {
            let must = (open, Some([!is_enforced(); 2]), open);
            ensure!(seen == must, "before, in the NMI, after it: {seen:?}, not {must:?}");
        }
        mapped.free()?;
    }
}
