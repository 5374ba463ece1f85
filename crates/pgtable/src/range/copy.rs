//! Copying mappings: the page-table half of fork.

use core::num::NonZeroUsize;

use super::slots_of;
use crate::addr::{Level, PageRange};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Paging, Root};
use crate::section::Section;
use crate::table::Slots;

/// Decides what a copy of a mapping shares: reference counts, as the memory manager keeps them.
pub trait Share {
    /// The error that stops the copy.
    type Error: From<Error>;

    /// Takes references for a run of pages that starts with `first`. `run` is valid entries of the parent, from the first on.
    /// Returns how many of them it took references for: those must be `first` counted up frame by frame,
    /// with the same permissions.
    ///
    /// # Errors
    ///
    /// Stops the copy; nothing was taken for this run.
    fn share(&mut self, first: Entry, run: Slots<'_>) -> Result<NonZeroUsize, Self::Error>;
}

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Copies the mappings of a range from one address space to another, write-protected on both sides and old in the copy: the
    /// page-table half of fork with copy-on-write. No TLB is flushed.
    ///
    /// # Errors
    ///
    /// What [`Share`] says, and [`Error::OutOfMemory`]; [`Error::Foreign`] and [`Error::WrongHalf`] as for [`unmap`](Self::unmap). Pages copied so far stay copied, and shared.
    pub fn copy<S: Share>(
        &self,
        section: &Section<'_, M>,
        from: &Root,
        to: &Root,
        range: PageRange<M::Format>,
        share: &mut S,
    ) -> Result<(), S::Error> {
        self.check_place(section, from, range)?;
        self.check_place(section, to, range)?;
        for piece in range.by_table(Level::Pte) {
            let Some(parent) = self.find_table(from, piece.start(), Level::Pte) else { continue };
            let child = self.table_for(section, to, piece.start(), Level::Pte)?;
            let _lazy = section.lazy();
            section.will_store(2 * piece.pages());
            let (parent, child) = (slots_of(parent, piece), slots_of(child, piece));
            if section.has_gates() {
                copy_in_gate(section, parent, child, share)?;
            } else {
                copy_table(section, parent, child, share)?;
            }
        }
        Ok(())
    }
}

/// Takes references for what is there first, and copies then: as many entries as there are references for.
#[inline]
fn copy_in_gate<M: Machine, S: Share>(
    section: &Section<'_, M>,
    parent: Slots<'_>,
    child: Slots<'_>,
    share: &mut S,
) -> Result<(), S::Error> {
    let (mut i, mut failed, mut shares_any) = (0, None, false);
    while i < parent.len() {
        let first = parent.slot(i).load();
        i += if !M::Format::is_present(first) {
            1
        } else {
            match share.share(first, parent.sub(i, parent.len() - i)) {
                Ok(shared) => {
                    shares_any = true;
                    shared.get()
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        };
    }
    if shares_any {
        section.copy_valid(parent.sub(0, i), child.sub(0, i))?;
    }
    failed.map_or(Ok(()), Err)
}

#[inline]
fn copy_table<M: Machine, S: Share>(
    section: &Section<'_, M>,
    parent: Slots<'_>,
    child: Slots<'_>,
    share: &mut S,
) -> Result<(), S::Error> {
    let mut i = 0;
    while i < parent.len() {
        let first = parent.slot(i).load();
        if !M::Format::is_present(first) {
            i += 1;
            continue;
        }
        let shared = share.share(first, parent.sub(i, parent.len() - i))?.get();
        if M::Format::is_writable(first) {
            // SAFETY: the table was just found below the section's root, and stays in use: callers keep others from freeing tables of the range
            // (crate protocol, *Locks*).
            unsafe { section.wrprotect_range(parent.sub(i, shared)) };
        }
        let copy = M::Format::old(M::Format::write_protected(first));
        section.set_range(child.sub(i, shared), |page| M::Format::behind(copy, page));
        i += shared;
    }
    Ok(())
}
