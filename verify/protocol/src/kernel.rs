//! The kernel that the model runs: page tables or kernel mappings, threads that change them, and handlers that do.

use std::cell::RefCell;

use kpkeys::{Backend, Saved, Window};
use kpkeys_pgtable::guarded::Types;
use kpkeys_pgtable::{
    Config, Error, Event, Frames, Level, Machine, Mode, Paging, Probe, VirtAddr, store,
};

use crate::areas::Areas;
use crate::exception::give_cpu_away;
use crate::fault::Fault;
use crate::machine::{Model, System};
use crate::scenario::Scenario;
use crate::tables::{OF_HANDLERS, Tables};
use crate::world::{self, Kind, THREADS};

/// See the module.
pub struct Kernel<S: System> {
    work: Work<S>,
    /// What threads keep of the register while they do not run.
    pub saved: RefCell<Vec<Saved>>,
    /// The same of each CPU's idle thread.
    pub idle: RefCell<Vec<Saved>>,
}

/// What threads work on.
enum Work<S: System> {
    Tables(Box<Tables<S>>),
    Areas(Areas<S>),
}

/// Does the same with the page tables, whichever they are.
macro_rules! with_paging {
    ($kernel:expr, |$paging:ident| $what:expr) => {
        match &$kernel.work {
            Work::Tables(tables) => {
                let $paging = tables.paging();
                $what
            }
            Work::Areas(areas) => {
                let $paging = areas.paging();
                $what
            }
        }
    };
}

impl<S: System> Kernel<S> {
    /// A kernel that has started, in the world of this thread of the host.
    ///
    /// # Errors
    ///
    /// Why it could not.
    pub fn start(scenario: Scenario, mode: Mode) -> Result<Self, Error> {
        let work: Work<S> = match scenario {
            Scenario::Purge | Scenario::Gather => Work::Areas(Areas::start(scenario, mode)),
            _ => Work::Tables(Box::new(Tables::start(scenario, mode)?)),
        };
        let kernel = Kernel { work, saved: RefCell::default(), idle: RefCell::default() };
        let initial = |of| (0..of).map(|_| kernel.backend().initial()).collect();
        let cpus = world::with(|world| world.cpus.len());
        (*kernel.saved.borrow_mut(), *kernel.idle.borrow_mut()) = (initial(THREADS), initial(cpus));
        let root = with_paging!(kernel, |paging| paging.kernel().frame());
        world::with(|world| world.kernel_root = root.0);
        Ok(kernel)
    }

    /// What frames are, in modes that check.
    pub fn types(&self) -> Option<&Types<S::Format>> {
        with_paging!(self, |paging| paging.types())
    }

    /// The backend.
    pub fn backend(&self) -> &S::Backend {
        with_paging!(self, |paging| paging.machine().backend())
    }

    /// Hash of what it knows of frames without a lock.
    pub fn hash(&self) -> u64 {
        match &self.work {
            Work::Tables(_) => 0,
            Work::Areas(areas) => areas.hash(),
        }
    }

    /// What a thread does.
    ///
    /// # Errors
    ///
    /// Why it could not.
    pub fn run(&self, thread: usize) -> Result<(), Error> {
        match &self.work {
            Work::Tables(tables) => tables.run(self, thread),
            Work::Areas(areas) => {
                areas.run(thread);
                Ok(())
            }
        }
    }

    /// What a handler does.
    pub fn handle(&self, kind: Kind) {
        // It begins with something else than page tables.
        world::point();
        match (kind, &self.work) {
            (Kind::Nmi, _) => (),
            (Kind::Timer, _) => give_cpu_away(self),
            (Kind::Device, Work::Tables(tables))
                if world::with(|world| world.has(Fault::HandlerTakesLocks)) =>
            {
                tables.map_in_handler();
            }
            (Kind::Device, Work::Tables(tables)) => store_in_handler(tables.paging(), OF_HANDLERS),
            (Kind::Device, Work::Areas(areas)) => {
                store_in_handler(areas.paging(), areas.of_handlers());
            }
        }
    }
}

/// A handler's operation of its own: one store to an entry that is mapped, its CPU's of those from an address on.
fn store_in_handler<S: System, F: Frames>(paging: &Paging<Model<S>, F>, from: VirtAddr) {
    let root = paging.kernel();
    let va = from.offset_pages::<S::Format>(paging.machine().cpu());
    let (_, slot, entry) = paging.walk(root, va).expect("mapped since the start");
    if world::with(|world| world.has(Fault::LazySeenByHandler) && world.lazy) {
        paging.machine().probe().count(Event::EntryStore, 1);
        // SAFETY: none: this is the fault, that the interrupted section's window is taken for this handler's.
        store::set(&unsafe { Window::assume_open() }, slot, entry);
        return;
    }
    let section = paging.section(root);
    let _lazy = section.lazy();
    // SAFETY: tables that are there since the start stay.
    unsafe { section.set(slot, entry) }.expect("what is mapped may be mapped");
}

/// The set-up of a mode, on a linear map of pages: memory is small, since all of it is looked at after every step.
pub const fn config(mode: Mode) -> Config {
    Config { linear: Level::Pte, ..Config::of(mode) }
}
