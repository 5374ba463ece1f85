//! The checker: walks every table and holds what it finds against what protection promises.
//!
//! What is promised, and so what is checked:
//!
//! 1. every page-table page reachable from a root carries [`Pkey::PAGE_TABLES`](kpkeys::Pkey::PAGE_TABLES) in the linear map; or, if it is an address space's, below its root,
//!    and these have a key of their own, [`Pkey::USER_TABLES`](kpkeys::Pkey::USER_TABLES);
//! 2. nothing else does, except pages that wait in the pool to become page-table pages, and those recorded as made before
//!    keys worked, whether or not they are linked; and those all do;
//! 3. no mapping outside the linear map reaches a page-table page with write permission and without its key - or for user mode,
//!    which the key does not bind;
//! 4. the linear map maps each frame at its own address or not at all, for the kernel alone, and not to be executed;
//! 5. no root has entries in a half that is not its own, except that user roots may hold the kernel root's own entries, other than
//!    those of the alias. The window root has the alias's alone.
//!
//! Where page tables are protected by an [alias](mod@crate::alias), what is said of the key above is said of these two:
//!
//! - in the linear map, page-table pages cannot be written;
//! - each has its alias, with exactly the entry that [`Format::alias`] gives, and nothing else has one.
//!
//! A key binds nothing then, so it makes no other writable mapping harmless.
//!
//! Where frames have types, these are held against the tables: a table is one of its level and kind, linked, a page that waits in the pool is spare,
//! no frame is said to be a linked table of the kernel's that no root leads to, and no leaf maps a frame that it must not map so, or data that is
//! said to be mapped by none. [`check_root`] does the same for what a root register holds, which the caller reads.
//!
//! The checker trusts nothing it reads: entries that point outside memory are findings too, and are not followed. It needs
//! that no table changes while it runs.

mod finding;
mod walk;

use walk::Walk;

pub use finding::Finding;

use crate::addr::{PhysAddr, VirtAddr};
use crate::entry::{Entry, Format, other_half, own_half};
use crate::guarded::{FrameType, Kind};
use crate::machine::{Frames, Machine, Memory};
use crate::paging::{Paging, Root};
use crate::section::Space;

/// What a check counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Page-table pages reached.
    pub ptps: usize,
    /// Pages that carry the key and wait in the pool.
    pub spare: usize,
    /// Pages that hold what the pool must remember.
    pub state: usize,
    /// Things not as promised.
    pub findings: usize,
}

/// Memory the checker needs: one bit for each frame.
pub struct Scratch<'b> {
    bits: &'b mut [u64],
}

impl<'b> Scratch<'b> {
    /// Words of scratch memory that `memory` needs.
    pub const fn words<F: Format>(memory: &Memory<F>) -> usize {
        memory.pages.div_ceil(64)
    }

    /// Scratch memory, whatever it holds. A check refuses one with fewer than [`words`](Self::words).
    pub fn new(bits: &'b mut [u64]) -> Self {
        bits.fill(0);
        Scratch { bits }
    }

    /// Marks a frame; false if it was marked before.
    fn mark(&mut self, number: usize) -> bool {
        let (word, bit) = (&mut self.bits[number / 64], 1 << (number % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn is_marked(&self, number: usize) -> bool {
        self.bits[number / 64] & (1 << (number % 64)) != 0
    }
}

/// Checks the kernel's tables and those of `users`, and passes each finding to `found`. Returns `None` if the scratch memory is too
/// small.
pub fn check<M: Machine, F: Frames>(
    paging: &Paging<M, F>,
    users: &[&Root],
    mut scratch: Scratch<'_>,
    mut found: impl FnMut(Finding),
) -> Option<Report> {
    if scratch.bits.len() < Scratch::words(&paging.machine().memory()) {
        return None;
    }
    let mut walk = Walk::new(paging, &mut found);
    walk.mark_tables(paging.kernel(), own_half::<M::Format>(true), &mut scratch);
    walk.find_foreign_entries(paging.kernel(), other_half::<M::Format>(true), |_| Entry::EMPTY);
    let kernel = paging.root_table(paging.kernel());
    let for_every_root = |index| match paging.is_for_every_root(index) {
        true => kernel.slot(index).load(),
        false => Entry::EMPTY,
    };
    if let Some(root) = paging.programs_kernel_root() {
        walk.mark(root.frame(), M::Format::ROOT, VirtAddr(0), &mut scratch);
        walk.check_type(
            root.frame(),
            FrameType::linked(M::Format::ROOT, Kind::of_root(root.space())),
        );
        walk.find_foreign_entries(root, other_half::<M::Format>(true), |_| Entry::EMPTY);
        walk.find_foreign_entries(root, own_half::<M::Format>(true), for_every_root);
    }
    if let Some(root) = paging.window_root() {
        walk.mark_tables(root, own_half::<M::Format>(false), &mut scratch);
        walk.find_foreign_entries(root, other_half::<M::Format>(false), |_| Entry::EMPTY);
    }
    for user in users {
        walk.mark_tables(user, own_half::<M::Format>(false), &mut scratch);
        let shared = M::Format::USER_ROOT_HAS_KERNEL_HALF;
        walk.find_foreign_entries(user, other_half::<M::Format>(false), |index| {
            if shared { for_every_root(index) } else { Entry::EMPTY }
        });
    }
    if paging.is_protected() {
        walk.mark_foreign(&mut scratch);
        walk.mark_spares(&mut scratch);
        if paging.alias().is_none() {
            walk.find_keyed_data(&scratch);
        }
        walk.find_aliases(paging.kernel(), own_half::<M::Format>(true), &scratch);
        for root in paging.window_root().into_iter().chain(users.iter().copied()) {
            walk.find_aliases(root, own_half::<M::Format>(false), &scratch);
        }
    }
    walk.find_wrong_types(&scratch);
    walk.report.state = paging.state_pages();
    Some(walk.report)
}

/// Holds what a root register or a thread says its root is against what it must be: one of the kernel's, or, where frames have types, a root
/// in use of an address space. (Where they have none, any is one.) Where one register has both halves, the kernel's own may be in it.
pub fn check_root<M: Machine, F: Frames>(
    paging: &Paging<M, F>,
    root: PhysAddr,
    space: Space,
) -> Option<Finding> {
    let kernels = [Some(paging.kernel()), paging.programs_kernel_root()];
    let is_kernels = kernels.into_iter().flatten().any(|kernels| kernels.frame() == root);
    let is_window = paging.window_root().is_some_and(|window| window.frame() == root);
    let types = paging.types();
    let is_users = || types.is_none_or(|types| types.is_root(root, Kind::User));
    let may_be = match space {
        Space::Alias => is_window,
        Space::User => {
            is_users() && !is_window || M::Format::USER_ROOT_HAS_KERNEL_HALF && is_kernels
        }
        Space::Kernel | Space::Linear => is_kernels,
    };
    let is = types.map(|types| types.of(root));
    (!may_be).then_some(Finding::ForeignRoot { root, is })
}
