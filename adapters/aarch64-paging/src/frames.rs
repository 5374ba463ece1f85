//! The [`Translation`] that the wrapped crate asks for tables.

use core::ptr::NonNull;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{PageTable, Translation};
use kpkeys::Backend;

use crate::pool::Pool;

/// Tables of a pool, at the addresses they are stored through: for use inside windows alone.
#[derive(Debug)]
pub(crate) struct Frames<'p, B> {
    pub(crate) pool: &'p Pool<B>,
    /// The page that the first table asked for is, if there is one already.
    root: Option<usize>,
    /// How many pages were taken so far.
    pub(crate) taken: usize,
}

impl<'p, B: Backend> Frames<'p, B> {
    /// For new tables.
    pub(crate) fn new(pool: &'p Pool<B>) -> Self {
        Frames { pool, root: None, taken: 0 }
    }

    /// For tables that are there, below this root.
    pub(crate) fn of(pool: &'p Pool<B>, root: usize) -> Self {
        Frames { pool, root: Some(root), taken: 0 }
    }
}

impl<B: Backend> Translation<El1Attributes> for Frames<'_, B> {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let page = self.root.take().unwrap_or_else(|| {
            self.taken += 1;
            self.pool.take()
        });
        (self.pool.stored(page).cast(), self.pool.layout().address(page))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        self.pool.give(self.pool.page_stored_at(table.as_ptr().cast()));
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        // Every call has looked at the entries that it follows before its window opened.
        self.pool.stored_at(pa).cast()
    }
}
