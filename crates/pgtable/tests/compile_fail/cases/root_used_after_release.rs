//! An address space that was ended has no root any more.
//! expect: E0382

use kpkeys_pgtable::{Frames, Machine, Paging, Root, VirtAddr};

pub fn end<M: Machine, F: Frames>(paging: &Paging<M, F>, root: Root) {
    let _ = paging.walk(&root, VirtAddr(0));
    paging.release_user_root(root);
    #[cfg(feature = "misuse")]
    let _ = paging.walk(&root, VirtAddr(0));
}

fn main() {}
