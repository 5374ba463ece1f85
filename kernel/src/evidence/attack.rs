//! The attacks of `kpkeys-workloads`, made from inside this kernel.
//!
//! An attacker here is code of this kernel that may do whatever a stray or hostile data access may: its stores go through
//! [`probe`], so that a refused one comes back as a fault instead of ending the machine. What it must not do is
//! execute the protection register's own instructions; the windows it attacks from are opened by real operations.

use crate::arch::{self, layout};
use crate::cpu::calls;
use crate::cpu::fault::{Cause, Fault};
use crate::cpu::{self, CpuId};
use crate::evidence::probe;
use crate::evidence::report::{Record, emit};
use crate::lock::IrqLock;
use crate::memory::boot::{PAGE_SIZE, PhysAddr};
use crate::memory::paging::{Bare, Memories, memories, user};
use crate::program::{self, End, Mistake};
use crate::protection;
use crate::sched::{self, Thread};
use crate::start::early_tables;
use crate::start::image;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kpkeys::{Backend, Scheme};
use kpkeys_mm::AddressSpace;
use kpkeys_pgtable::{Config, NoProbe, VirtAddr};
use kpkeys_workloads::attack::site::{Place, SavedIn};
use kpkeys_workloads::attack::{
    self, Aim, Attack, Outcome, Platform, Protection, Site, Store, promise,
};

/// Runs the whole matrix, each attack a record. Returns how many went otherwise than they must.
///
/// # Errors
///
/// Why an attack could not be made.
pub fn run_all(config: Config) -> Result<usize, String> {
    let cpu = cpu::this().id;
    let thread = sched::spawn("attacker", Some(cpu), move || run_here(memories(), cpu, config));
    thread.map_err(|error| error.to_string())?.join()
}

fn run_here(kernel: &'static Memories, cpu: CpuId, config: Config) -> Result<usize, String> {
    let protection = Protection {
        mode: config.mode,
        enforced: protection::selected().enforces(),
        scheme: protection::selected().scheme(),
        pool: config.pool,
        keys: protection::keys::chosen(),
    };
    let (mut made, mut broken) = (0, 0);
    attack::run(kernel, &Here { cpu }, protection, |attack| {
        made += 1;
        broken += usize::from(!report(&attack, config));
    })
    .map_err(|failure| failure.to_string())?;
    emit(&Record::Attacks { mode: config.mode.name(), made, broken });
    Ok(broken)
}

/// Writes an attack's record; false if it went otherwise than it must.
fn report(attack: &Attack, config: Config) -> bool {
    let Attack { target, primitive, outcome, promise } = *attack;
    let fault = match outcome {
        Outcome::Faulted(fault) => Some(fault),
        Outcome::Refused | Outcome::Succeeded => None,
    };
    emit(&Record::Attack {
        mode: config.mode.name(),
        target: &target.to_string(),
        primitive: primitive.name(),
        outcome: outcome.name(),
        promised: promise.name(),
        code: fault.map(|fault| fault.code),
        by_protection: fault.map(|fault| fault.by_protection),
    });
    let checked = promise::check(target, promise, outcome, config.mode);
    if let Err(broken) = checked {
        log::error!("{primitive} on {target} in mode {}: {broken}", config.mode.name());
    }
    checked.is_ok()
}

/// This kernel under attack, from a thread that is bound to `cpu`.
pub struct Here {
    /// The CPU of the attacking thread.
    pub cpu: CpuId,
}

impl Site<Bare<NoProbe>> for Here {
    fn image_address(&self) -> VirtAddr {
        static DATA: AtomicU64 = AtomicU64::new(0);
        VirtAddr(DATA.as_ptr() as u64)
    }

    fn text_address(&self) -> VirtAddr {
        VirtAddr(image::text().0)
    }

    fn device(&self) -> Option<PhysAddr> {
        arch::devices().next()
    }

    fn early_table(&self) -> PhysAddr {
        PhysAddr(early_tables::ROOT.load(Ordering::Relaxed))
    }

    fn static_table(&self) -> PhysAddr {
        image::phys(image::boot_tables().0)
    }

    fn platform(&self, platform: Platform) -> Option<VirtAddr> {
        arch::platform(platform)
    }

    fn store(&self, store: Store, aim: Aim) -> Result<(), attack::Fault> {
        write_back(store, aim).map_err(|fault| described(fault, refuses_kernel(&fault)))
    }

    fn copy_to_user(&self, root: PhysAddr, aim: Aim) -> Result<(), attack::Fault> {
        let write_back = || {
            let value = probe::load_u64(aim.read.0 as *const u64)?;
            // SAFETY: as in the function of this name.
            unsafe { probe::store_user_u64(aim.write.0 as *mut u64, value) }
        };
        // SAFETY: the address space is the caller's and outlives this call.
        let result = unsafe { user::in_space(root, write_back) };
        result.map_err(|fault| described(fault, refuses_programs(fault.cause)))
    }

    fn store_from_program(
        &self,
        space: &mut AddressSpace<'_, Bare<NoProbe>>,
        aim: Aim,
    ) -> Result<Result<(), attack::Fault>, String> {
        const CODE: VirtAddr = VirtAddr(0x40_0000);
        let value = probe::load_u64(aim.read.0 as *const u64).map_err(|fault| fault.to_string())?;
        program::load(space, CODE, arch::user::fill_program())?;
        let arguments = [aim.write.0, 1, value];
        match program::run(space, &arch::user::Start { instruction: CODE.0, stack: 0, arguments }) {
            End::Exit(_) => Ok(Ok(())),
            End::Killed(Mistake::PageFault(fault)) => {
                Ok(Err(described(fault, refuses_programs(fault.cause))))
            }
            End::Killed(_) => Err("the attacking program ended before it attacked".to_string()),
        }
    }

    fn has(&self, place: Place) -> bool {
        match place {
            Place::OtherCpu => self.other_cpu().is_some(),
            Place::AsyncError => arch::error::can_be_raised(),
            _ => true,
        }
    }

    fn run_in(&self, place: Place, f: &(dyn Fn() + Sync)) -> bool {
        match place {
            Place::Interrupt => return calls::offer_to_interrupt(f),
            Place::Nmi => calls::run_in_nmi(self.cpu, f),
            Place::OtherCpu => {
                if let Some(other) = self.other_cpu() {
                    calls::run_on_other_cpu(other, f);
                }
            }
            Place::OtherThread => return self.run_in_other_thread(f),
            Place::PageFault => probe::run_in_page_fault(&|| f()),
            Place::AsyncError => calls::run_in_error(f),
            Place::NestedFault => {
                return calls::offer_to_interrupt(&|| probe::run_in_page_fault(&|| f()));
            }
        }
        true
    }

    fn with_forged_register(&self, saved_in: SavedIn, f: &(dyn Fn() + Sync)) -> Result<(), String> {
        match saved_in {
            SavedIn::Frame => self.with_forged_frame(f),
            SavedIn::Thread => self.with_forged_thread(f),
        }
    }

    fn load_copy_of_root(&self, root: PhysAddr, copy: PhysAddr) -> Result<bool, String> {
        let (from, to) = (layout::linear(root), layout::linear(copy));
        // SAFETY: the copy is a frame of data that the caller owns.
        unsafe { probe::copy(to, from, PAGE_SIZE as usize) }.map_err(|fault| fault.to_string())?;
        self.load_root(copy)
    }

    fn load_root(&self, root: PhysAddr) -> Result<bool, String> {
        let victim =
            Victim::spawn(self.cpu, || arch::root::on_threads_root(|| arch::root::current().0))?;
        let stored = overwrite(victim.thread().root_address(), root.0);
        let loaded = victim.run();
        stored?;
        Ok(loaded == root.0)
    }

    fn overwrite(&self, at: VirtAddr, value: u64) -> Result<(), String> {
        overwrite(at.0 as *mut u64, value)
    }
}

impl Here {
    fn other_cpu(&self) -> Option<CpuId> {
        cpu::online().map(|cpu| cpu.id).find(|&id| id != self.cpu)
    }

    /// Runs `f` in another thread of this CPU, and spins until the timer has let it. With interrupts off it does not: then `f` is taken back.
    fn run_in_other_thread(&self, f: &(dyn Fn() + Sync)) -> bool {
        // SAFETY: the thread is joined below, or `f` was taken back before it ran.
        let f: &'static (dyn Fn() + Sync) = unsafe { core::mem::transmute(f) };
        let job = Arc::new(IrqLock::new(Some(f)));
        let done = Arc::new(AtomicBool::new(false));
        let (its_job, its_done) = (job.clone(), done.clone());
        let thread = sched::spawn("other thread", Some(self.cpu), move || {
            let job = its_job.lock().take();
            if let Some(f) = job {
                f();
            }
            its_done.store(true, Ordering::Release);
        });
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => {
                log::error!("no thread to attack from: {error}");
                return true;
            }
        };
        let may_come = arch::irq::enabled();
        let end = arch::time::since_boot() + calls::PATIENCE;
        while !done.load(Ordering::Acquire) {
            if !may_come && arch::time::since_boot() > end && job.lock().take().is_some() {
                return false;
            }
            core::hint::spin_loop();
        }
        if may_come {
            thread.join();
        }
        true
    }

    /// An interrupt handler's attack on the frame of what it interrupted, undone by a second one.
    fn with_forged_frame(&self, f: &(dyn Fn() + Sync)) -> Result<(), String> {
        let forge = |value: &(dyn Fn(u64) -> u64 + Sync)| {
            let result = IrqLock::new(Err(String::new()));
            calls::run_in_interrupt(self.cpu, &|| {
                let at = arch::interrupted_register();
                *result.lock() = probe::load_u64(at)
                    .map_err(|fault| fault.to_string())
                    .and_then(|old| overwrite(at, value(old)).map(|()| old));
            });
            result.lock().clone()
        };
        let original = forge(&|saved| protection::selected().forged(saved, SavedIn::Frame))?;
        f();
        forge(&|saved| protection::selected().restored(saved, original)).map(drop)
    }

    fn with_forged_thread(&self, f: &(dyn Fn() + Sync)) -> Result<(), String> {
        // SAFETY: the victim is joined before this returns.
        let f: &'static (dyn Fn() + Sync) = unsafe { core::mem::transmute(f) };
        let victim = Victim::spawn(self.cpu, f)?;
        let at = victim.thread().protection_address();
        let stored = probe::load_u64(at)
            .map_err(|fault| fault.to_string())
            .and_then(|saved| overwrite(at, protection::selected().forged(saved, SavedIn::Thread)));
        victim.run();
        stored
    }
}

/// A thread that is suspended until it is let run, so that what it keeps in memory can be changed.
struct Victim<T> {
    handle: sched::JoinHandle<T>,
    go: &'static AtomicBool,
}

impl<T: Send + 'static> Victim<T> {
    fn spawn(cpu: CpuId, f: impl FnOnce() -> T + Send + 'static) -> Result<Self, String> {
        static GO: AtomicBool = AtomicBool::new(false);
        static READY: AtomicBool = AtomicBool::new(false);
        GO.store(false, Ordering::Relaxed);
        READY.store(false, Ordering::Relaxed);
        let handle = sched::spawn("victim", Some(cpu), move || {
            READY.store(true, Ordering::Relaxed);
            while !GO.load(Ordering::Relaxed) {
                sched::yield_now();
            }
            f()
        });
        let handle = handle.map_err(|error| error.to_string())?;
        while !READY.load(Ordering::Relaxed) {
            sched::yield_now();
        }
        Ok(Self { handle, go: &GO })
    }

    fn thread(&self) -> &Thread {
        self.handle.thread()
    }

    fn run(self) -> T {
        self.go.store(true, Ordering::Relaxed);
        self.handle.join()
    }
}

/// Reads and writes back.
fn write_back(store: Store, aim: Aim) -> Result<(), Fault> {
    let (from, at) = (aim.read.0 as *const u64, aim.write.0 as *mut u64);
    let mut bulk = [0u64; 8];
    let value = probe::load_u64(from)?;
    // SAFETY: what is written is what was just read, or nothing is added to it. Nothing else changes these words
    // meanwhile but accessed flags of other CPUs, which may be lost: they are hints.
    unsafe {
        match store {
            Store::Byte => probe::store_u8(at.cast(), value as u8),
            Store::Word => probe::store_u64(at, value),
            Store::ReadModifyWrite => probe::fetch_add_u64(at, 0).map(drop),
            Store::Bulk => {
                let len = size_of_val(&bulk);
                probe::copy(bulk.as_mut_ptr().cast(), from.cast(), len)?;
                probe::copy(at.cast(), bulk.as_ptr().cast(), len)
            }
        }
    }
}

/// Writes something else than what is there: this is what an attacker gains from a saved state in ordinary memory.
fn overwrite(at: *mut u64, value: u64) -> Result<(), String> {
    // SAFETY: `at` is a saved register or root of a thread or frame that the attack itself set up and runs only code that is
    // sound with either value.
    unsafe { probe::store_u64(at, value) }.map_err(|fault| fault.to_string())
}

/// Whether the protection under test is what refuses a store of the kernel for this reason: the key; or, with an alias, that
/// the linear map has page tables read-only, or PAN or SMAP, all of which are refused permission; or that the alias is not mapped outside of windows.
fn refuses_kernel(fault: &Fault) -> bool {
    match protection::selected().scheme() {
        Scheme::Keys => fault.cause == Cause::Key,
        Scheme::Alias if protection::selected().hides(fault.address) => {
            fault.cause == Cause::NotMapped
        }
        Scheme::Alias => fault.cause == Cause::Write,
    }
}

/// The same of a store with a program's permissions. E0PD reports an alias, which is mapped, as not mapped (Arm ARM, `TCR_EL1.E0PD1`), and
/// a program's root on x86-64 has none.
fn refuses_programs(cause: Cause) -> bool {
    match protection::selected().scheme() {
        Scheme::Keys => cause == Cause::Key,
        Scheme::Alias => cause == Cause::NotMapped,
    }
}

fn described(fault: Fault, by_protection: bool) -> attack::Fault {
    let Fault { code, address, .. } = fault;
    attack::Fault { code, address, by_protection }
}
