//! Getting hold of the targets.
//!
//! Pages that change from data to table and back are had by making the allocators do it: many tables are made and freed, with memory in
//! between used for data, until a page has been both.

use alloc::vec::Vec;

use kpkeys::Pkey;
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::{AddressSpace, Kernel, MapFlags};
use kpkeys_pgtable::{Format, Level, Machine, PageRange, PhysAddr, Root, VirtAddr};

use super::Failure;
use super::site::Site;
use super::target::{Region, Target};

/// Where user mappings start.
pub(super) const USER_START: VirtAddr = VirtAddr(0x40_0000_0000);
/// Tables made at once: more than the pool's largest block has, so that a new block must be taken.
const MANY_TABLES: usize = 640;
/// Frames that are used as data before tables are made.
const MANY_FRAMES: usize = 1 << 17;

/// Targets, held so that they stay what they are.
pub struct Prepared<'k, M: Machine> {
    kernel: &'k Kernel<M>,
    /// A mapping in the vmalloc area, one page.
    pub(super) vmalloc: VirtAddr,
    linear: VirtAddr,
    image: VirtAddr,
    text: VirtAddr,
    early: PhysAddr,
    fixed: PhysAddr,
    user: AddressSpace<'k, M>,
    given_back: PhysAddr,
    become_table: PhysAddr,
    become_data: OwnedFrame,
    /// Keeps `become_table` a table.
    tables: AddressSpace<'k, M>,
}

impl<'k, M: Machine> Prepared<'k, M> {
    /// Prepares all targets.
    ///
    /// # Errors
    ///
    /// Out of memory, or an allocator that does not reuse pages as it should.
    pub fn new<S: Site<M>>(kernel: &'k Kernel<M>, site: &S) -> Result<Self, Failure> {
        let become_data = table_become_data(kernel)?;
        let (tables, become_table) = data_become_table(kernel)?;
        let (space, frames) = many_tables(kernel)?;
        drop(space);
        // The one freed first: allocators hand out last what was freed first, so that it stays what it is.
        let given_back = *frames.first().ok_or(Failure::NoTarget("no table was made"))?;
        let mut user = AddressSpace::new(kernel)?;
        user.mmap(PageRange::new(USER_START, 1).map_err(kpkeys_mm::Error::from)?, MapFlags::DATA)?;
        user.fault(USER_START, true)?;
        Ok(Prepared {
            kernel,
            vmalloc: kernel.vmalloc(1)?,
            linear: linear_address(kernel, become_data.address())?,
            image: site.image_address(),
            text: site.text_address(),
            early: site.early_table(),
            fixed: site.static_table(),
            user,
            given_back,
            become_table,
            become_data,
            tables,
        })
    }

    /// The page of a target, and the offset in it of what is attacked: an entry in use where there is one.
    ///
    /// # Errors
    ///
    /// [`Failure::NoTarget`] if the tables have no such level.
    pub(super) fn locate(&self, target: Target) -> Result<(PhysAddr, u64), Failure> {
        Ok(match target {
            Target::Table(region, level) => {
                let (root, address) = self.region(region);
                let level = level.of_tables::<M::Format>();
                let table = table_frame(self.kernel, root, address, level)
                    .ok_or(Failure::NoTarget("the tables have no such level here"))?;
                (table, address.index::<M::Format>(level) as u64 * 8)
            }
            Target::Early => (self.early, (M::Format::PAGE_SIZE / 8 - 1) * 8),
            Target::Static => (self.fixed, 0),
            Target::GivenBack => (self.given_back, 0),
            Target::DataBecomeTable => (self.become_table, 0),
            Target::TableBecomeData => (self.become_data.address(), 0),
            Target::UserPage => (self.frame(self.user.root(), USER_START)?, 0),
            Target::KernelPage => (self.kernels(self.vmalloc)?, 0),
            Target::KernelData => (self.kernels(self.image)?, 0),
            Target::KernelText => (self.kernels(self.text)?, 0),
            Target::ProtectionFlag
            | Target::LinearMapRoot
            | Target::Platform(_)
            | Target::Device => {
                return Err(Failure::NoTarget("it is no page of memory"));
            }
        })
    }

    fn kernels(&self, address: VirtAddr) -> Result<PhysAddr, Failure> {
        self.frame(self.kernel.paging().kernel(), address)
    }

    fn frame(&self, root: &Root, address: VirtAddr) -> Result<PhysAddr, Failure> {
        let mapped = self.kernel.paging().translate(root, address);
        Ok(PhysAddr(
            mapped.ok_or(Failure::NoTarget("it is not mapped"))?.0 & !(M::Format::PAGE_SIZE - 1),
        ))
    }

    /// The root of a region, and an address of it.
    pub(super) fn region(&self, region: Region) -> (&Root, VirtAddr) {
        let kernel = self.kernel.paging().kernel();
        match region {
            Region::LinearMap => (kernel, self.linear),
            Region::Vmalloc => (kernel, self.vmalloc),
            Region::Image => (kernel, self.image),
            Region::User => (self.user.root(), USER_START),
        }
    }
}

impl<'k, M: Machine> Prepared<'k, M> {
    /// Gives everything back.
    ///
    /// # Errors
    ///
    /// The area's mapping is gone.
    pub fn finish(self) -> Result<(), Failure> {
        self.kernel.vfree(self.vmalloc)?;
        self.kernel.purge_vmalloc();
        drop(self.tables);
        self.kernel.frames().free_frame(self.become_data);
        Ok(())
    }
}

/// The linear map's address of a page of data that is mapped there as a page: a block is split if need be, which is how the linear map comes
/// by tables of pages.
fn linear_address<M: Machine>(kernel: &Kernel<M>, page: PhysAddr) -> Result<VirtAddr, Failure> {
    let paging = kernel.paging();
    let address = paging.machine().memory().linear_address(page);
    if paging.walk(paging.kernel(), address).is_some_and(|(level, _, _)| level > Level::Pte) {
        paging.set_memory_pkey(page, 1, Pkey::DEFAULT)?;
    }
    Ok(address)
}

/// Makes many tables and returns their frames. They are tables as long as the address space lives.
fn many_tables<M: Machine>(
    kernel: &Kernel<M>,
) -> Result<(AddressSpace<'_, M>, Vec<PhysAddr>), Failure> {
    let mut space = AddressSpace::new(kernel)?;
    let pages = MANY_TABLES * Level::Pmd.entry_pages::<M::Format>();
    space
        .mmap(PageRange::new(USER_START, pages).map_err(kpkeys_mm::Error::from)?, MapFlags::DATA)?;
    let mut frames = Vec::with_capacity(MANY_TABLES);
    for table in 0..MANY_TABLES {
        let address = USER_START.offset(table as u64 * Level::Pmd.entry_bytes::<M::Format>());
        space.fault(address, true)?;
        frames.extend(table_frame(kernel, space.root(), address, Level::Pte));
    }
    Ok((space, frames))
}

/// A frame that was a page-table page, and is data now.
fn table_become_data<M: Machine>(kernel: &Kernel<M>) -> Result<OwnedFrame, Failure> {
    fill_reserve(kernel)?;
    let (space, mut tables) = many_tables(kernel)?;
    drop(space);
    // Where there is a pool, this is how its pages become data again.
    kernel.paging().shrink();
    tables.sort_unstable();
    let (mut others, mut found) = (Vec::new(), None);
    while found.is_none()
        && others.len() < MANY_FRAMES
        && let Ok(frame) = kernel.frames().new_frame()
    {
        if tables.binary_search(&frame.address()).is_ok() {
            found = Some(frame);
        } else {
            others.push(frame);
        }
    }
    others.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
    found.ok_or(Failure::NoTarget("no freed page-table page came back as data"))
}

/// Fills the pool's reserve of pages for splitting the linear map, so that no page of a block taken later goes there: that block could
/// never be given back.
fn fill_reserve<M: Machine>(kernel: &Kernel<M>) -> Result<(), Failure> {
    let frame = kernel.frames().new_frame()?;
    // The first call may split a block, with a page of the reserve; the second only fills it up.
    let set = || kernel.paging().set_memory_pkey(frame.address(), 1, Pkey::DEFAULT);
    let result = set().and_then(|()| set());
    kernel.frames().free_frame(frame);
    Ok(result?)
}

/// A page-table page whose frame was data before.
fn data_become_table<M: Machine>(
    kernel: &Kernel<M>,
) -> Result<(AddressSpace<'_, M>, PhysAddr), Failure> {
    let owned: Vec<OwnedFrame> =
        (0..MANY_FRAMES).map_while(|_| kernel.frames().new_frame().ok()).collect();
    let mut data: Vec<PhysAddr> = owned.iter().map(OwnedFrame::address).collect();
    owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
    data.sort_unstable();
    let (space, tables) = many_tables(kernel)?;
    let reused = tables.iter().rev().find(|table| data.binary_search(table).is_ok()).copied();
    Ok((space, reused.ok_or(Failure::NoTarget("no data frame became a page-table page"))?))
}

/// The frame of the table at `level` that translates an address.
pub fn table_frame<M: Machine>(
    kernel: &Kernel<M>,
    root: &Root,
    address: VirtAddr,
    level: Level,
) -> Option<PhysAddr> {
    if level == M::Format::ROOT {
        return Some(root.frame());
    }
    let above = Level::ALL.into_iter().find(|above| above.below() == Some(level))?;
    let index = address.index::<M::Format>(above);
    let entry = kernel.paging().find_table(root, address, above)?.slot(index).load();
    M::Format::is_table(above, entry).then(|| M::Format::frame(above, entry))
}
