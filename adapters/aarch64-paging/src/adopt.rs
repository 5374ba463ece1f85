//! Tables that are there: copied into table memory, entry by entry, and given back when no CPU uses them any more.

use core::ops::Range;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{Constraints, LEAF_LEVEL, MemoryRegion, PAGE_SIZE, VaRange};
use kpkeys::Backend;

use crate::Error;
use crate::pool::Pool;
use crate::tables::Tables;
use crate::walk::{ENTRIES, Walk, granularity};

/// Tables that somebody else made.
#[derive(Clone, Debug)]
pub struct Existing {
    /// The root table, from TTBRn_EL1.
    pub root: PhysicalAddress,
    /// Its level, from TCR_EL1.TnSZ.
    pub level: usize,
    /// The half it translates.
    pub half: VaRange,
    /// The memory that the linear map has at the same distance as table memory. All tables must be in it.
    pub linear_memory: Range<PhysicalAddress>,
}

/// What an entry restricts below it, if it refers to a table.
const RESTRICTS: El1Attributes = El1Attributes::PXN_TABLE
    .union(El1Attributes::XN_TABLE)
    .union(El1Attributes::AP_TABLE_NO_EL0)
    .union(El1Attributes::AP_TABLE_NO_WRITE);

impl<'p, B: Backend> Tables<'p, B> {
    /// A copy of tables that are there, in table memory: the same leaves at the same levels, but for the linear map of table memory, which
    /// is protected in the copy. Activate it, and the others are out of use.
    ///
    /// A block that had table memory and more is smaller blocks and pages in the copy. To load the copy is then a change of block size
    /// without break-before-make, which only CPUs with FEAT_BBM level 2 allow (Arm ARM D8.16.1) - unless the leaves are not global and
    /// `asid` is another one, or table memory is whole blocks of the tables there are.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be copied; nothing is kept then.
    ///
    /// # Safety
    ///
    /// The tables are valid, in memory that the linear map has, and nobody changes them meanwhile.
    pub unsafe fn adopt(
        pool: &'p Pool<B>,
        existing: &Existing,
        asid: usize,
    ) -> Result<Self, Error> {
        let old = Old::of(pool, existing)?;
        let mut tables = Tables::new(pool, asid, existing.level, existing.half)?;
        old.for_each(&mut |step| match step {
            Step::Leaf(region, level, pa, flags) => {
                let flags = flags - El1Attributes::TABLE_OR_PAGE;
                // A page stays one; a block is made where its whole range is mapped.
                let constraints = match level {
                    LEAF_LEVEL => Constraints::NO_BLOCK_MAPPINGS,
                    _ => Constraints::empty(),
                };
                tables.map_range(&region, pa, flags, constraints)
            }
            Step::Left(_) => Ok(()),
        })?;
        Ok(tables)
    }
}

impl Existing {
    /// Passes each of the tables, those below before those above, to whoever allocated them.
    ///
    /// # Errors
    ///
    /// As [`Tables::adopt`]: none, if that succeeded.
    ///
    /// # Safety
    ///
    /// No CPU uses the tables, and all have flushed what they knew of them. No table is linked twice.
    pub unsafe fn give_back<B: Backend>(
        self,
        pool: &Pool<B>,
        mut free: impl FnMut(PhysicalAddress),
    ) -> Result<(), Error> {
        let old = Old::of(pool, &self)?;
        // All of it once before the first is given back, which may be overwritten at once.
        old.for_each(&mut |_| Ok(()))?;
        old.for_each(&mut |step| {
            if let Step::Left(table) = step {
                free(table);
            }
            Ok(())
        })
    }
}

/// What a walk over all of it comes to.
enum Step {
    Leaf(MemoryRegion, usize, PhysicalAddress, El1Attributes),
    /// A table whose entries have all been seen.
    Left(PhysicalAddress),
}

struct Old<'a, 'p, B> {
    walk: Walk<'p, B>,
    existing: &'a Existing,
}

impl<'a, 'p, B: Backend> Old<'a, 'p, B> {
    fn of(pool: &'p Pool<B>, existing: &'a Existing) -> Result<Self, Error> {
        let Existing { root, level, half, .. } = *existing;
        if !root.0.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Misaligned(root.0));
        }
        Ok(Old { walk: Walk { pool, root, level, half }, existing })
    }

    fn for_each<F>(&self, f: &mut F) -> Result<(), Error>
    where
        F: FnMut(Step) -> Result<(), Error>,
    {
        let size = granularity(self.walk.level) * ENTRIES;
        let base = match self.walk.half {
            VaRange::Lower => 0,
            VaRange::Upper => size.wrapping_neg(),
        };
        let mut path = [None; LEAF_LEVEL + 1];
        self.below(self.walk.root, self.walk.level, VirtualAddress(base), &mut path, f)
    }

    fn below<F>(
        &self,
        table: PhysicalAddress,
        level: usize,
        base: VirtualAddress,
        path: &mut [Option<PhysicalAddress>; LEAF_LEVEL + 1],
        f: &mut F,
    ) -> Result<(), Error>
    where
        F: FnMut(Step) -> Result<(), Error>,
    {
        self.check_table(table, &path[..level])?;
        path[level] = Some(table);
        for index in 0..ENTRIES {
            let entry = self.walk.entry_at(table, index);
            let va = base + index * granularity(level);
            if let Some(lower) = entry.table(level) {
                if entry.flags().intersects(RESTRICTS) {
                    return Err(Error::TableAttributes(va));
                }
                self.below(lower, level + 1, va, path, f)?;
            } else if entry.flags().contains(El1Attributes::VALID) {
                let region = MemoryRegion::new(va.0, va.0.wrapping_add(granularity(level)));
                f(Step::Leaf(region, level, entry.address(), entry.flags()))?;
            } else if entry.0 != 0 {
                return Err(Error::UnknownEntry(va));
            }
        }
        f(Step::Left(table))
    }

    fn check_table(
        &self,
        table: PhysicalAddress,
        above: &[Option<PhysicalAddress>],
    ) -> Result<(), Error> {
        let memory = &self.existing.linear_memory;
        if table < memory.start || memory.end.0.saturating_sub(table.0) < PAGE_SIZE {
            return Err(Error::OutsideLinearMap(table));
        }
        match above.contains(&Some(table)) {
            true => Err(Error::Recursive(table)),
            false => Ok(()),
        }
    }
}
