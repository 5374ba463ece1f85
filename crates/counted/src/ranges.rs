//! Operations on ranges and on single pages, without a memory manager: a user root, all of its pages mapped to one frame.

use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{Attrs, Mode, PageRange, PhysAddr, Root, VirtAddr};

use crate::{Counted, Error, How, Measured, kernel, name_of, span};

/// A table's worth, and 32 tables'.
const SIZES: [usize; 2] = [512, 512 * 32];
/// Single pages that are counted together, all of one table.
const SINGLES: usize = 512;
const START: VirtAddr = VirtAddr(0x40_0000_0000);

pub fn count<F: HostedFormat, B: Measured>(format: &str, how: How) -> Result<(), Error> {
    for pages in SIZES {
        let name = |what: &str| format!("{format} {what} range of {pages}, {}", name_of(how));
        let range = PageRange::new(START, pages)?;
        Space::<F, B>::with(how.0, |space| {
            let operations = pages as u64;
            span::count(&name("map"), operations, || space.map(range))?;
            span::count(&name("walk"), operations, || space.walk(range))?;
            span::count(&name("protect"), operations, || space.protect(range))?;
            span::count(&name("unmap"), operations, || space.unmap(range))
        })?;
    }
    let name = |what: &str| format!("{format} {what} one page, {}", name_of(how));
    let each = |mut work: Box<dyn FnMut(PageRange<F>) -> Result<(), Error> + '_>| {
        (0..SINGLES).try_for_each(|i| work(PageRange::new(START.offset_pages::<F>(i), 1)?))
    };
    Space::<F, B>::with(how.0, |space| {
        // The tables are there already: linking them is not what a page costs.
        space.map(PageRange::new(START, 1)?)?;
        space.unmap(PageRange::new(START, 1)?)?;
        let operations = SINGLES as u64;
        span::count(&name("map"), operations, || each(Box::new(|page| space.map(page))))?;
        span::count(&name("protect"), operations, || each(Box::new(|page| space.protect(page))))?;
        span::count(&name("unmap"), operations, || each(Box::new(|page| space.unmap(page))))
    })
}

/// A user root on a kernel of its own.
struct Space<F: HostedFormat, B: Measured> {
    kernel: Counted<F, B>,
    root: Root,
    frame: PhysAddr,
}

impl<F: HostedFormat, B: Measured> Space<F, B> {
    fn with(mode: Mode, work: impl FnOnce(&Self) -> Result<(), Error>) -> Result<(), Error> {
        let kernel = kernel::<F, B>(mode)?;
        let owned = kernel.frames().new_frame()?;
        let paging = kernel.paging();
        let root = paging.new_user_root(&paging.section(paging.kernel()))?;
        let space = Space { frame: owned.address(), root, kernel };
        let result = work(&space);
        // The kernel goes with all of its memory; an owned frame must not be forgotten before.
        space.kernel.frames().free_frame(owned);
        result
    }

    fn map(&self, range: PageRange<F>) -> Result<(), Error> {
        let paging = self.kernel.paging();
        let section = paging.section(&self.root);
        Ok(paging.map(&section, &self.root, range, Attrs::USER_DATA, |_| self.frame)?)
    }

    fn walk(&self, range: PageRange<F>) -> Result<(), Error> {
        let walked = |i| self.kernel.paging().walk(&self.root, range.start().offset_pages::<F>(i));
        match (0..range.pages()).all(|i| walked(i).is_some()) {
            true => Ok(()),
            false => Err("a page that was mapped is not".into()),
        }
    }

    fn protect(&self, range: PageRange<F>) -> Result<(), Error> {
        let paging = self.kernel.paging();
        let section = paging.section(&self.root);
        Ok(paging.protect(&section, &self.root, range, WriteProtect)?)
    }

    fn unmap(&self, range: PageRange<F>) -> Result<(), Error> {
        let paging = self.kernel.paging();
        let section = paging.section(&self.root);
        let mut unmapped = 0;
        paging.unmap(&section, &self.root, range, |_, _, _| unmapped += 1)?;
        match unmapped == range.pages() {
            true => Ok(()),
            false => Err("pages that were mapped were not unmapped".into()),
        }
    }
}
