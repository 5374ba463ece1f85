//! Walks by the linear map, outside windows: what a call will need, and what there is.
//!
//! The wrapped crate's own walk goes where tables are stored to, which cannot even be loaded from outside windows if that is an alias.
//! Chunks of a range are formed as there, so both see the same.

use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_paging::MapError;
use aarch64_paging::descriptor::{Descriptor, El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{
    BITS_PER_LEVEL, Constraints, LEAF_LEVEL, MemoryRegion, PAGE_SIZE, VaRange,
};
use kpkeys::Backend;

use crate::Error;
use crate::pool::Pool;

pub(crate) const ENTRIES: usize = 1 << BITS_PER_LEVEL;
const ADDRESS: usize = ((1 << 48) - 1) & !(PAGE_SIZE - 1);
const TABLE: usize = El1Attributes::VALID.union(El1Attributes::TABLE_OR_PAGE).bits();

const _: () = assert!(size_of::<Descriptor<El1Attributes>>() == size_of::<usize>());

/// An entry, as its bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) usize);

impl Entry {
    const EMPTY: Entry = Entry(0);

    pub(crate) fn address(self) -> PhysicalAddress {
        PhysicalAddress(self.0 & ADDRESS)
    }

    pub(crate) fn flags(self) -> El1Attributes {
        El1Attributes::from_bits_retain(self.0 & !ADDRESS)
    }

    /// The table it refers to, at a level.
    pub(crate) fn table(self, level: usize) -> Option<PhysicalAddress> {
        (level < LEAF_LEVEL && self.0 & TABLE == TABLE).then(|| self.address())
    }
}

/// How far below an address's index at a level its last bit is.
fn shift(level: usize) -> usize {
    PAGE_SIZE.ilog2() as usize + (LEAF_LEVEL - level) * BITS_PER_LEVEL
}

/// What an entry at a level covers, in bytes.
pub(crate) fn granularity(level: usize) -> usize {
    1 << shift(level)
}

/// The part of an address that an entry at a level leaves as it is.
fn offset(address: usize, level: usize) -> usize {
    address & (granularity(level) - 1)
}

fn is_block(chunk: &MemoryRegion, level: usize) -> bool {
    offset(chunk.start().0 | chunk.end().0, level) == 0
}

/// Whether one entry at a level translates all of a range.
fn is_one_entry(region: &MemoryRegion, level: usize) -> bool {
    let last = region.end().0.wrapping_sub(1);
    region.start().0 >> shift(level) == last >> shift(level)
}

fn index(va: VirtualAddress, level: usize) -> usize {
    (va.0 >> shift(level)) % ENTRIES
}

/// The parts of a range that have an entry each at this level.
pub(crate) fn chunks(region: &MemoryRegion, level: usize) -> impl Iterator<Item = MemoryRegion> {
    let (mut start, end) = (region.start().0, region.end().0);
    core::iter::from_fn(move || {
        let next = (start | (granularity(level) - 1)).checked_add(1).unwrap_or(end).min(end);
        let chunk = (start < end).then(|| MemoryRegion::new(start, next));
        start = next;
        chunk
    })
}

/// A change whose needs are to be known.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    Map(PhysicalAddress, El1Attributes, Constraints),
    Modify,
}

/// Tables, as they can be read at any time.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'p, B> {
    pub(crate) pool: &'p Pool<B>,
    pub(crate) root: PhysicalAddress,
    pub(crate) level: usize,
    pub(crate) half: VaRange,
}

impl<B: Backend> Walk<'_, B> {
    /// Whether the root translates a range.
    ///
    /// # Errors
    ///
    /// As the wrapped crate says it.
    pub(crate) fn verify(&self, region: &MemoryRegion) -> Result<(), MapError> {
        let (start, end) = (region.start(), region.end());
        let size = granularity(self.level) << BITS_PER_LEVEL;
        let outside = match self.half {
            _ if end < start => return Err(MapError::RegionBackwards(region.clone())),
            VaRange::Lower if start.0 >> 63 == 1 => Some(start),
            VaRange::Lower => (end.0 > size).then_some(end),
            VaRange::Upper => (start.0 < size.wrapping_neg()).then_some(start),
        };
        outside.map_or(Ok(()), |address| Err(MapError::AddressRange(address)))
    }

    /// How many tables a change may need at most. It is what it does need, but where a block is split into what partly is as asked for.
    ///
    /// # Errors
    ///
    /// An entry, or a change, that the wrapped crate would stumble over.
    pub(crate) fn needs(&self, region: &MemoryRegion, change: Change) -> Result<usize, Error> {
        let (mut table, mut level) = (self.root, self.level);
        // Most ranges are small: down to the table that translates all of it, or to where that table is missing.
        while level < LEAF_LEVEL
            && is_one_entry(region, level)
            && !change.drops_table(region, level)
        {
            let Some(lower) = self.entry(table, region.start(), level).table(level) else { break };
            self.pool.layout().page(lower).ok_or(Error::ForeignTable(lower))?;
            (table, level) = (lower, level + 1);
        }
        self.needs_below(Some(table), level, region, change)
    }

    fn needs_below(
        &self,
        table: Option<PhysicalAddress>,
        level: usize,
        region: &MemoryRegion,
        change: Change,
    ) -> Result<usize, Error> {
        if level == LEAF_LEVEL {
            return Ok(0);
        }
        let mut sum = 0;
        for chunk in chunks(region, level) {
            let entry = table.map_or(Entry::EMPTY, |table| self.entry(table, chunk.start(), level));
            let change = change.at(chunk.start() - region.start());
            sum += match entry.table(level) {
                Some(lower) => {
                    self.pool.layout().page(lower).ok_or(Error::ForeignTable(lower))?;
                    if change.drops_table(&chunk, level) {
                        self.check_below(lower, level + 1)?;
                        0
                    } else {
                        self.needs_below(Some(lower), level + 1, &chunk, change)?
                    }
                }
                None if change.splits(entry, &chunk, level)? => {
                    1 + self.needs_below(None, level + 1, &chunk, change)?
                }
                None => 0,
            };
        }
        Ok(sum)
    }

    /// Looks at every entry below a table.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignTable`].
    pub(crate) fn check_below(&self, table: PhysicalAddress, level: usize) -> Result<(), Error> {
        for index in 0..ENTRIES {
            if let Some(lower) = self.entry_at(table, index).table(level) {
                self.pool.layout().page(lower).ok_or(Error::ForeignTable(lower))?;
                self.check_below(lower, level + 1)?;
            }
        }
        Ok(())
    }

    /// As the wrapped crate's `walk_range`.
    pub(crate) fn visit<F>(&self, region: &MemoryRegion, f: &mut F) -> Result<(), Error>
    where
        F: FnMut(&MemoryRegion, &Descriptor<El1Attributes>, usize) -> Result<(), ()>,
    {
        self.verify(region)?;
        self.visit_below(self.root, self.level, region, f)
    }

    fn visit_below<F>(
        &self,
        table: PhysicalAddress,
        level: usize,
        region: &MemoryRegion,
        f: &mut F,
    ) -> Result<(), Error>
    where
        F: FnMut(&MemoryRegion, &Descriptor<El1Attributes>, usize) -> Result<(), ()>,
    {
        for chunk in chunks(region, level) {
            let entry = self.entry(table, chunk.start(), level);
            if let Some(lower) = entry.table(level) {
                self.pool.layout().page(lower).ok_or(Error::ForeignTable(lower))?;
                self.visit_below(lower, level + 1, &chunk, f)?;
            } else {
                let word = self.word(table, index(chunk.start(), level));
                // SAFETY: `Descriptor` is `repr(C)` of an atomic word and nothing else (its size is checked above), and the word is one of
                // table memory, readable here for as long as the pool is borrowed; a shared reference to atomics forbids nobody's stores.
                let descriptor = unsafe { &*word.cast::<Descriptor<El1Attributes>>() };
                f(&chunk, descriptor, level)
                    .map_err(|()| Error::Map(MapError::PteUpdateFault(entry.0)))?;
            }
        }
        Ok(())
    }

    fn entry(&self, table: PhysicalAddress, va: VirtualAddress, level: usize) -> Entry {
        self.entry_at(table, index(va, level))
    }

    pub(crate) fn entry_at(&self, table: PhysicalAddress, index: usize) -> Entry {
        // SAFETY: as for `visit_below`: an aligned word of a table, which the linear map has (`Pool::new`).
        Entry(unsafe { &*self.word(table, index) }.load(Ordering::Acquire))
    }

    fn word(&self, table: PhysicalAddress, index: usize) -> *const AtomicUsize {
        self.pool.loaded_at(table + index * size_of::<usize>()).cast_const().cast()
    }
}

impl Change {
    fn at(self, offset: usize) -> Change {
        match self {
            Change::Map(pa, flags, constraints) => {
                Change::Map(PhysicalAddress(pa.0.wrapping_add(offset)), flags, constraints)
            }
            Change::Modify => self,
        }
    }

    /// Whether a table that is there is taken out with all below it.
    fn drops_table(self, chunk: &MemoryRegion, level: usize) -> bool {
        match self {
            Change::Map(_, flags, _) => {
                is_block(chunk, level) && !flags.contains(El1Attributes::VALID)
            }
            Change::Modify => false,
        }
    }

    /// Whether an entry that refers to no table is made to.
    fn splits(self, entry: Entry, chunk: &MemoryRegion, level: usize) -> Result<bool, Error> {
        let Change::Map(pa, flags, constraints) = self else { return Ok(!is_block(chunk, level)) };
        if entry.flags() == flags {
            let begin =
                pa.0.checked_sub(offset(chunk.start().0, level)).ok_or(Error::BelowBlock(pa))?;
            if entry.address().0 == begin {
                return Ok(false);
            }
        }
        let fits = is_block(chunk, level)
            && offset(pa.0, level) == 0
            && !constraints.contains(Constraints::NO_BLOCK_MAPPINGS)
            && level > 0;
        Ok(!fits)
    }
}
