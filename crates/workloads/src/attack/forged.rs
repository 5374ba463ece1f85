//! Attacks that change one word of what allocators, files and address spaces remember, and then have the kernel go by it.
//!
//! What was changed is put back. A frame that two believe to own stays lost for the rest of the run, and so does what a list believes to have
//! given out.

use alloc::vec::Vec;
use core::hint::black_box;

use kpkeys_mm::{AddressSpace, FilePages, Kernel, MapFlags};
use kpkeys_pgtable::ptp::REFILL_ORDERS;
use kpkeys_pgtable::{Attrs, Error, Format, Frames, Machine, PageRange, PhysAddr, Root};

use super::Failure;
use super::execute::{mapped_for_user, outcome, remap};
use super::prepare::{Prepared, USER_START};
use super::promise::Outcome;
use super::site::{Aim, Site, Store};

/// Tables made until the page-table code asks for a block: more than a pool can have spare.
const MOST_TABLES: usize = 8192;

/// The page-table code is given a block of which a program can write a page.
pub(super) fn link_to_programs_page<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
) -> Result<Outcome, Failure> {
    let victim = Victim::new(kernel)?;
    mapped_for_user(kernel, Aim::linear(kernel, victim.block, 0), victim.block, |space, aim| {
        victim
            .becomes_tables(kernel, site, || outcome(site.copy_to_user(space.root().frame(), aim)))
    })
}

/// The same of one that the kernel has mapped in its vmalloc area: a mapping that dangles.
pub(super) fn link_to_kernels_page<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    prepared: &Prepared<'_, M>,
) -> Result<Outcome, Failure> {
    let victim = Victim::new(kernel)?;
    let range = PageRange::new(prepared.vmalloc, 1).map_err(kpkeys_mm::Error::from)?;
    let own = remap(kernel, range, victim.block, Attrs::KERNEL_DATA)?;
    let own = own.ok_or(Failure::NoTarget("a free page could not be mapped"))?;
    let result = victim.becomes_tables(kernel, site, || {
        outcome(site.store(Store::Word, Aim::at(prepared.vmalloc)))
    });
    let back = remap(kernel, range, own, Attrs::KERNEL_DATA)?;
    back.ok_or(Failure::NoTarget("the page could not be mapped back"))?;
    result
}

/// What the frame allocator is to give to the page-table code, though it is somebody's.
struct Victim {
    block: PhysAddr,
    order: u8,
}

impl Victim {
    /// A block as the page-table code takes it: for the pool, or a page.
    fn new<M: Machine>(kernel: &Kernel<M>) -> Result<Victim, Failure> {
        let has_pool = kernel.paging().spares_of_this_cpu().is_some();
        let order = if has_pool { REFILL_ORDERS[0] } else { 0 };
        fill_list(kernel)?;
        let block = kernel.frames().allocate(order);
        Ok(Victim { block: block.ok_or(Failure::NoTarget("no free block"))?, order })
    }

    fn contains<F: Format>(&self, page: PhysAddr) -> bool {
        page.0.wrapping_sub(self.block.0) < F::PAGE_SIZE << self.order
    }

    /// Makes tables until one is in the block; then `store`s to it by the mapping that was there before.
    fn becomes_tables<M: Machine, S: Site<M>>(
        &self,
        kernel: &Kernel<M>,
        site: &S,
        store: impl FnOnce() -> Outcome,
    ) -> Result<Outcome, Failure> {
        let (paging, mut roots) = (kernel.paging(), Vec::<Root>::new());
        let (was, at) = kernel.frames().next_block(self.order);
        site.overwrite(at, forged(kernel, was, self.block)).map_err(Failure::Site)?;
        let made = loop {
            match paging.new_user_root(&paging.section(paging.kernel())) {
                Ok(root) => {
                    let is_in_block = self.contains::<M::Format>(root.frame());
                    roots.push(root);
                    if is_in_block {
                        break Ok(true);
                    }
                }
                Err(Error::Violation(_)) => break Ok(false),
                Err(error) => break Err(error.into()),
            }
            if roots.len() == MOST_TABLES {
                break Err(Failure::NoTarget("no block was asked for"));
            }
        };
        site.overwrite(at, was).map_err(Failure::Site)?;
        let outcome = made.map(|made| if made { store() } else { Outcome::Refused });
        roots.into_iter().for_each(|root| paging.release_user_root(root));
        outcome
    }
}

/// A table in use is given out as data, and mapped for a program.
pub(super) fn link_to_table<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    linear: Aim,
    table: PhysAddr,
) -> Result<Outcome, Failure> {
    fill_list(kernel)?;
    let (was, at) = kernel.frames().next_block(0);
    site.overwrite(at, forged(kernel, was, table)).map_err(Failure::Site)?;
    let given = kernel.frames().new_frame();
    site.overwrite(at, was).map_err(Failure::Site)?;
    let given = given?;
    if given.address() != table {
        kernel.frames().free_frame(given);
        return Err(Failure::NoTarget("another frame was given"));
    }
    // It is a table: nobody gives it back as data.
    mapped_for_user(kernel, linear, table, |space, aim| {
        Ok(outcome(site.copy_to_user(space.root().frame(), aim)))
    })
}

/// Sees to it that there is a single frame that is next.
fn fill_list<M: Machine>(kernel: &Kernel<M>) -> Result<(), Failure> {
    let frames = [kernel.frames().new_frame()?, kernel.frames().new_frame()?];
    frames.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
    Ok(())
}

/// The word that says which block is next, with another one in it.
fn forged<M: Machine>(kernel: &Kernel<M>, was: u64, block: PhysAddr) -> u64 {
    let number = kernel.machine().memory().frame_number(block) as u64;
    was & !u64::from(u32::MAX) | number
}

/// A file is said to have a page in a frame that is no file's, and a program that maps the file writes it.
pub(super) fn file<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    linear: Aim,
    page: PhysAddr,
) -> Result<Outcome, Failure> {
    let file = kernel.new_file(1, 1)?;
    let result = written_by_file(kernel, site, linear, page, &file);
    kernel.close_file(file);
    result
}

fn written_by_file<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    linear: Aim,
    page: PhysAddr,
    file: &kpkeys_mm::File,
) -> Result<Outcome, Failure> {
    let paging = kernel.paging();
    let range = PageRange::new(USER_START, 1).map_err(kpkeys_mm::Error::from)?;
    let mut space = AddressSpace::new(kernel)?;
    space.mmap_file(range, MapFlags::DATA, FilePages { file, first: 0, shared: true })?;
    let (was, at) = file.cached(0).ok_or(Failure::NoTarget("a page of a file"))?;
    site.overwrite(at, page.0).map_err(Failure::Site)?;
    let mapped = space.fault(USER_START, true);
    site.overwrite(at, was.0).map_err(Failure::Site)?;
    if mapped.is_err() {
        return Ok(Outcome::Refused);
    }
    let write = USER_START.offset(linear.read.0 % M::Format::PAGE_SIZE);
    let result = site.copy_to_user(space.root().frame(), Aim { write, ..linear });
    // Not by the address space, which would give back a reference.
    let section = paging.section(space.root());
    paging.unmap(&section, space.root(), range, |_, _, _| ())?;
    drop(section);
    paging.flush(kpkeys_pgtable::Flush::User(space.root().frame(), range));
    Ok(outcome(result))
}

/// An address space is said to have another's root: what is mapped in it the other one gets.
pub(super) fn space<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
) -> Result<Outcome, Failure> {
    let range = PageRange::new(USER_START, 1).map_err(kpkeys_mm::Error::from)?;
    let (mut own, other) = (AddressSpace::new(kernel)?, AddressSpace::new(kernel)?);
    own.mmap(range, MapFlags::DATA)?;
    let (root, at) = (own.root().frame(), own.root().frame_address());
    site.overwrite(at, other.root().frame().0).map_err(Failure::Site)?;
    let mapped = black_box(&mut own).fault(USER_START, true);
    let is_others = kernel.paging().translate(other.root(), USER_START).is_some();
    let unmapped = own.munmap(range);
    site.overwrite(at, root.0).map_err(Failure::Site)?;
    drop(black_box(own));
    unmapped?;
    Ok(if mapped.is_ok() && is_others { Outcome::Succeeded } else { Outcome::Refused })
}
