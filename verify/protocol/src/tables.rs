//! Two threads that change page tables of `kpkeys-pgtable` themselves.

use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{
    Attrs, Error, Flush, Format, Frames, Level, Mode, PageRange, Paging, PhysAddr, VirtAddr,
};

use crate::exception::give_cpu_away;
use crate::fault::Fault;
use crate::frames::ModelFrames;
use crate::kernel::{Kernel, config};
use crate::machine::{Model, System};
use crate::scenario::Scenario;
use crate::tlb::{Cached, walk};
use crate::world::{self, THREADS};

/// Addresses whose last table belongs to threads. Each thread has a page beside the other's.
const SHARED: VirtAddr = VirtAddr(0xffff_d000_0000_0000);
/// An address whose last table belongs to the first thread.
const OWN: VirtAddr = VirtAddr(0xffff_d000_4000_0000);
/// Where handlers store: mapped since the start, a page for each CPU.
pub const OF_HANDLERS: VirtAddr = VirtAddr(0xffff_d000_8000_0000);
/// Where nothing is mapped, not even a table.
const ELSEWHERE: VirtAddr = VirtAddr(0xffff_e000_0000_0000);
/// An address of a program.
const OF_PROGRAM: VirtAddr = VirtAddr(0x4000_0000);

/// See the module.
pub struct Tables<S: System> {
    paging: Paging<Model<S>, ModelFrames>,
    scenario: Scenario,
    /// From where to where a page moves.
    moves: [VirtAddr; 2],
}

impl<S: System> Tables<S> {
    /// Tables that are protected, with what a scenario starts from.
    ///
    /// # Errors
    ///
    /// Why they could not be made.
    pub fn start(scenario: Scenario, mode: Mode) -> Result<Self, Error> {
        let paging = Paging::new(Model::<S>::new(), ModelFrames, config(mode))?;
        let mut tables = Tables { paging, scenario, moves: [OWN, SHARED] };
        tables.paging.link_kernel_half(PageRange::new(SHARED, 1 << 18)?)?;
        tables.paging.enable_protection()?;
        tables.map(PageRange::new(OF_HANDLERS, world::with(|world| world.cpus.len()))?)?;
        if scenario == Scenario::Free {
            tables.map(PageRange::new(OWN, 1)?)?;
        }
        if scenario == Scenario::Lazy {
            tables.map(PageRange::new(SHARED, THREADS)?)?;
        }
        if scenario == Scenario::Sweep {
            [OWN, SHARED].into_iter().try_for_each(|at| {
                tables.map(PageRange::new(at.offset_pages::<S::Format>(1), 1)?)
            })?;
            tables.order_by_looks();
            tables.map(PageRange::new(tables.moves[0], 1)?)?;
        }
        Ok(tables)
    }

    /// A page moves to the table that is looked at first, which has the smaller frame number: its entry is then in no table that is looked at.
    fn order_by_looks(&mut self) {
        let all = walk(S::decode, self.paging.kernel().frame().0, &[]);
        self.moves.sort_by_key(|va| {
            let is_its_table = |part: &&Cached| {
                part.table == Some(0) && (part.va..part.va + part.bytes).contains(&va.0)
            };
            all.iter().find(is_its_table).map(|part| std::cmp::Reverse(part.frame))
        });
    }

    /// The tables.
    pub fn paging(&self) -> &Paging<Model<S>, ModelFrames> {
        &self.paging
    }

    /// What a thread of `kernel` does.
    ///
    /// # Errors
    ///
    /// Why it could not.
    pub fn run(&self, kernel: &Kernel<S>, thread: usize) -> Result<(), Error> {
        let beside = PageRange::new(SHARED.offset_pages::<S::Format>(thread), 1)?;
        match (self.scenario, thread) {
            (Scenario::Free, 0) => self.free(PageRange::new(OWN, 1)?),
            (Scenario::Lazy, 0) => self.be_lazy(kernel, beside),
            (Scenario::Lazy, _) => self.protect(beside),
            (Scenario::Program, 0) => self.program(),
            (Scenario::Sweep, 0) => self.move_map_and_free(),
            (Scenario::Sweep, _) => self.paging.sweep(),
            _ => self.map(beside),
        }
    }

    /// A handler that takes locks of threads: a fault.
    pub fn map_in_handler(&self) {
        let range =
            PageRange::new(OWN.offset_pages::<S::Format>(8), 1).expect("a page of the kernel's");
        // What it could not do is no matter: what it waits for is.
        let _ = self.map(range);
    }

    /// Maps new pages.
    fn map(&self, range: PageRange<S::Format>) -> Result<(), Error> {
        let root = self.paging.kernel();
        let frames: Option<Vec<PhysAddr>> =
            (0..range.pages()).map(|_| ModelFrames.allocate(0)).collect();
        let frames = frames.ok_or(Error::OutOfMemory)?;
        let section = self.paging.section(root);
        let mapped =
            self.paging.map(&section, root, range, Attrs::KERNEL_DATA, |page| frames[page]);
        drop(section);
        if mapped.is_err() {
            // Of what was not mapped nobody knows.
            frames.into_iter().for_each(release);
            return mapped;
        }
        for (page, frame) in frames.into_iter().enumerate() {
            let is = self.paging.translate(root, range.start().offset_pages::<S::Format>(page));
            assert_eq!(is, Some(frame), "what was mapped stays mapped");
        }
        Ok(())
    }

    /// Unmaps a page, frees what table is left empty, and the page.
    fn free(&self, range: PageRange<S::Format>) -> Result<(), Error> {
        let root = self.paging.kernel();
        let (early, retype) = world::with(|world| {
            (world.has(Fault::FreeBeforeFlush), world.has(Fault::RetypeBeforeFlush))
        });
        let section = self.paging.section(root);
        let (mut tables, mut frame) = (Vec::with_capacity(4), None);
        self.paging.unmap(&section, root, range, |_, level, entry| {
            frame = Some(S::Format::frame(level, entry));
        })?;
        let frame = frame.expect("it was mapped");
        let (floor, ceiling) = (OWN, OWN.offset(1 << 30));

        // SAFETY: nobody else works on these tables.
        unsafe {
            self.paging
                .free_tables(&section, root, range, floor, ceiling, |table| tables.push(table))
        }?;
        drop(section);
        if early {
            release(frame);
        }
        if retype {
            // Into the hands of whoever wants a table next, as by a list of free frames that has one too many.
            world::with(|world| world.frames.give_next(frame));
            self.paging.link_kernel_half(PageRange::new(ELSEWHERE, 1)?)?;
        }
        self.paging.flush_and_release(Flush::Kernel(range), tables);
        if !early && !retype {
            release(frame);
        }
        Ok(())
    }

    /// Moves a page to another table, maps one beside it, and unmaps and frees a third.
    fn move_map_and_free(&self) -> Result<(), Error> {
        let root = self.paging.kernel();
        let section = self.paging.section(root);
        let [from, to] = self.moves;
        self.paging.move_pages(&section, root, PageRange::new(from, 1)?, to)?;
        drop(section);
        self.map(PageRange::new(to.offset_pages::<S::Format>(2), 1)?)?;
        let gone = PageRange::new(to.offset_pages::<S::Format>(1), 1)?;
        let section = self.paging.section(root);
        let mut frame = None;
        self.paging.unmap(&section, root, gone, |_, level, entry| {
            frame = Some(S::Format::frame(level, entry));
        })?;
        drop(section);
        // One flush for both, as for an unmap of many.
        self.paging.flush(Flush::AllKernel);
        release(frame.expect("mapped since the start"));
        Ok(())
    }

    /// Two stores in a lazy section, and other work in between, for which the thread gives its CPU away.
    fn be_lazy(&self, kernel: &Kernel<S>, range: PageRange<S::Format>) -> Result<(), Error> {
        let root = self.paging.kernel();
        let (_, slot, entry) =
            self.paging.walk(root, range.start()).expect("mapped since the start");
        let section = self.paging.section(root);
        let lazy = section.lazy();
        world::with(|world| world.lazy = true);
        // SAFETY: tables that are there since the start stay.
        let store = || unsafe { section.set(slot, entry) };
        store()?;
        give_cpu_away(kernel);
        store()?;
        section.paused(world::point);
        store()?;
        world::with(|world| world.lazy = false);
        drop(lazy);
        Ok(())
    }

    /// Takes write permission from a page, and flushes.
    fn protect(&self, range: PageRange<S::Format>) -> Result<(), Error> {
        let root = self.paging.kernel();
        let section = self.paging.section(root);
        self.paging.protect(&section, root, range, WriteProtect)?;
        drop(section);
        self.paging.flush(Flush::Kernel(range));
        Ok(())
    }

    /// The life of an address space.
    fn program(&self) -> Result<(), Error> {
        let range = PageRange::new(OF_PROGRAM, 1)?;
        let section = self.paging.section(self.paging.kernel());
        let root = self.paging.new_user_root(&section)?;
        drop(section);
        world::with(|world| world.user_roots.push(root.frame().0));
        let frame = ModelFrames.allocate(0).ok_or(Error::OutOfMemory)?;
        let section = self.paging.section(&root);
        self.paging.map(&section, &root, range, Attrs::USER_DATA, |_| frame)?;
        self.paging.unmap(&section, &root, range, |_, _, _| ())?;
        let mut tables = Vec::with_capacity(4);
        let (floor, ceiling) = (VirtAddr(0), VirtAddr(1 << 47));

        // SAFETY: nobody else works on these tables.
        unsafe {
            self.paging
                .free_tables(&section, &root, range, floor, ceiling, |table| tables.push(table))
        }?;
        drop(section);
        self.paging.flush_and_release(Flush::User(root.frame(), range), tables);
        release(frame);
        world::with(|world| world.user_roots.clear());
        self.paging.release_user_root(root);
        Ok(())
    }
}

fn release(frame: PhysAddr) {
    // SAFETY: for the rules to say: nothing maps it any more, unless a fault is planted.
    unsafe { ModelFrames.release(frame, 0) };
}

/// Levels are numbered as a walker of the model numbers them.
const _: () = assert!(Level::Pte as u8 == 0 && Level::Pgd as u8 == 3);
