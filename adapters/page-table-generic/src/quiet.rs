//! The kernel's description of its tables, for code in a window: the same, without its flush.

use core::marker::PhantomData;

use page_table_generic::{PteConfigOf, TableMeta, VirtAddr};

/// `T`, but that nothing is flushed: the wrapped crate flushes in the middle, and a flush of other CPUs has no business in a window. The adapter
/// flushes by `T` after it.
#[derive(Debug)]
pub struct Quiet<T>(PhantomData<T>);

impl<T> Clone for Quiet<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Quiet<T> {}

impl<T: TableMeta> TableMeta for Quiet<T> {
    type P = T::P;

    const PAGE_SIZE: usize = T::PAGE_SIZE;
    const LEVEL_BITS: &[usize] = T::LEVEL_BITS;
    const MAX_BLOCK_LEVEL: usize = T::MAX_BLOCK_LEVEL;
    const STRICT_ADDRESS_WIDTH: bool = T::STRICT_ADDRESS_WIDTH;

    fn canonicalize_vaddr(vaddr: VirtAddr) -> VirtAddr {
        T::canonicalize_vaddr(vaddr)
    }

    fn flush(_: Option<VirtAddr>) {}
}

/// What an entry is made of.
pub(crate) type Config<T> = PteConfigOf<Quiet<T>>;

/// Checks that tables have the shape of x86-64's with four levels, which [`kpkeys_x86_64`] reads.
pub(crate) const fn assert_shape<T: TableMeta>() {
    assert!(T::PAGE_SIZE == 4096 && T::LEVEL_BITS.len() == 4, "tables of x86-64, four levels");
    let mut level = 0;
    while level < 4 {
        assert!(T::LEVEL_BITS[level] == 9, "tables of x86-64 have 512 entries");
        level += 1;
    }
    assert!(size_of::<T::P>() == 8, "entries of x86-64 have 8 bytes");
}
