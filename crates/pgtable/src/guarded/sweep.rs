//! Which data no entry maps any more, found by looking at every table.
//!
//! Nothing in ordinary memory says when a frame may become a page table: not the allocator's lists, not a reference count. An entry marks what it maps,
//! and nothing takes a mark back when the entry goes, so that neither a fault nor a fork pays for it. When the pool is handed a block with a mark in
//! it, the tables themselves are asked, as a garbage collector asks its heap.
//!
//! # Protocol
//!
//! 1. A sweep takes the next number. From then on gates mark with it, and what copies or moves entries marks too.
//! 2. It waits until each CPU has left the gate it may be in ([`Machine::wait_for_gates`]): no gate that goes by the number before is left.
//! 3. It looks at each table in use and marks what its leaves map.
//! 4. It flushes all translations of all CPUs: those of entries that had gone before it looked.
//! 5. It ends. Data with an older mark, or none, is mapped by no entry and known to no TLB.
//!
//! An entry that was there from the first step to the third is found. One that is stored meanwhile marks for itself. Two sweeps at a time
//! disturb each other's speed and nothing else, so that the lock that keeps them apart decides nothing.

use super::frame_type::FrameType;
use super::types::Types;
use crate::addr::{Level, PhysAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::machine::{Event, Flush, Machine, Probe};
use crate::section::Section;
use crate::table::Table;

impl<M: Machine> Section<'_, M> {
    /// Makes data that is not mapped any more [`FrameType::Data`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the machine cannot wait for gates, or there were four million sweeps: what is marked stays so.
    #[cold]
    pub(crate) fn sweep(&self, types: &Types<M::Format>) -> Result<(), Error> {
        let number = self.store_guarded(|window, to_alias| types.begin_sweep(window, to_alias));
        let number = number.ok_or(Error::OutOfMemory)?;
        if !self.machine().wait_for_gates() {
            return Err(Error::OutOfMemory);
        }
        for (table, level) in types.tables() {
            self.mark_leaves(types, table, level);
        }
        self.machine().probe().count(Event::TlbFlush, 1);
        self.machine().flush_tlb(Flush::All);
        self.store_guarded(|window, to_alias| types.end_sweep(window, to_alias, number));
        Ok(())
    }

    /// Marks what the leaves of a table map, in gates of one table's work.
    fn mark_leaves(&self, types: &Types<M::Format>, table: PhysAddr, level: Level) {
        // SAFETY: it is a table by its type, and every frame of memory can be read. If it is none any more by now, what is marked is too much
        // and not too little.
        let slots = unsafe { Table::at(self.machine(), table) }.all();
        let leaves = slots.iter().map(|slot| slot.load_relaxed()).filter_map(|entry| {
            let is_leaf = M::Format::is_leaf(level, entry);
            is_leaf.then(|| M::Format::frame(level, entry))
        });
        let mut mapped = leaves.flat_map(|first| {
            let pages = 0..level.entry_pages::<M::Format>() as u64;
            pages.map(move |page| first.offset(page * M::Format::PAGE_SIZE))
        });
        let mut more = true;
        while more {
            more = self.store_guarded(|window, to_alias| {
                let (word, mut seen) = (types.mapped_word(), 0);
                for frame in mapped.by_ref().take(M::Format::ENTRIES) {
                    seen += 1;
                    // What is no data needs no mark.
                    let _: Result<(), FrameType> = types.mark(window, to_alias, frame, word);
                }
                seen == M::Format::ENTRIES
            });
        }
    }
}
