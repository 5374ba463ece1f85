//! A store by another CPU between the allocation of a page-table page and its link: it must not be an entry of the table.
//!
//! The other CPU is played whenever the page-table code asks its machine for anything, so between any two of its steps: with the MMU model,
//! a register that is closed, and the frame that was allocated last, it stores as soon and as often as it can.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::support::{
    Aliased, InWindows, Keys, Protection, SMALL, Scarce, Separate, System, USER, configs, pages,
};
use kpkeys::Backend;
use kpkeys::keyed::{self, Keyed};
use kpkeys::pan::Pan;
use kpkeys::ttbr0::Ttbr0;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::boot::MockBackend;
use kpkeys_hosted::mmu::{Cpu, Mmu};
use kpkeys_hosted::register::{MockRegister, PanRegister, Ttbr0Register};
use kpkeys_hosted::{Hosted, HostedFormat};
use kpkeys_pgtable::{
    Attrs, Config, Entry, Flush, Frames, Level, Machine, Memory, Mode, NoProbe, Paging, PhysAddr,
    Root, VirtAddr,
};

/// Not valid in either format, so that it harms nothing.
const PLANTED: u64 = 0x0bad_c0de_0000;
/// An entry that no test here maps anything by.
const INDEX: u64 = 511;
const ROUNDS: usize = 1000;

/// A backend without system calls, since the attacker's CPU is the model's.
trait Mocked: Protection {
    type Mock<F: HostedFormat>: Backend + Sync;

    fn mock<F: HostedFormat>() -> Self::Mock<F>;

    /// The machine, with its alias where this way has it.
    fn place<F: HostedFormat>(hosted: Mock<F, Self>) -> Mock<F, Self>
    where
        Self: Sized,
    {
        hosted
    }
}

type Mock<F, S> = Hosted<F, <S as Mocked>::Mock<F>, NoProbe>;

impl Mocked for Keys {
    type Mock<F: HostedFormat> = MockBackend<F>;

    fn mock<F: HostedFormat>() -> Self::Mock<F> {
        let backend = Keyed::new(MockRegister::detect());
        backend.reset();
        backend
    }
}

impl Mocked for Separate {
    type Mock<F: HostedFormat> = Keyed<MockRegister, F::Encoding, keyed::Separate>;

    fn mock<F: HostedFormat>() -> Self::Mock<F> {
        Keys::mock::<F>().with_separate_keys()
    }
}

impl Mocked for Aliased {
    type Mock<F: HostedFormat> = Pan<PanRegister>;

    fn mock<F: HostedFormat>() -> Self::Mock<F> {
        let backend = Pan::new(PanRegister);
        backend.reset();
        backend
    }
}

impl Mocked for InWindows {
    type Mock<F: HostedFormat> = Ttbr0<Ttbr0Register>;

    fn mock<F: HostedFormat>() -> Self::Mock<F> {
        let backend = Ttbr0::new(Ttbr0Register);
        backend.reset();
        backend
    }

    fn place<F: HostedFormat>(hosted: Mock<F, Self>) -> Mock<F, Self> {
        hosted.with_alias_in_windows()
    }
}

/// The block that was allocated last: its first page and its last one, which the pool hands out first.
type Latest = Arc<Mutex<Option<[PhysAddr; 2]>>>;

/// Frames that say which one they gave out.
struct Noted<F: HostedFormat> {
    scarce: Scarce<F>,
    latest: Latest,
}

impl<F: HostedFormat> Frames for Noted<F> {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        let block = self.scarce.allocate(order)?;
        let last = block.offset(((1 << order) - 1) * F::PAGE_SIZE);
        *self.latest.lock().unwrap() = Some([block, last]);
        Some(block)
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.scarce.release(block, order) };
    }
}

/// A machine with another CPU, which attacks.
struct Raced<F: HostedFormat, S: Mocked> {
    hosted: Mock<F, S>,
    other: Cpu,
    root: OnceLock<PhysAddr>,
    latest: Latest,
    attacking: AtomicBool,
}

impl<F: HostedFormat, S: Mocked> Raced<F, S> {
    /// The other CPU's turn.
    fn race(&self) {
        let (Some(&root), Some(latest)) = (self.root.get(), *self.latest.lock().unwrap()) else {
            return;
        };
        if self.attacking.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut mmu = Mmu::new(&self.hosted, root, None, 0);
        mmu.cpu = self.other;
        for page in latest {
            let linear = self.memory().linear_address(page).offset(INDEX * 8);
            let alias = VirtAddr(linear.0.wrapping_add(self.alias_distance()));
            // Refused or not: what comes of it is seen in the tables.
            let _ = mmu.store(linear, PLANTED);
            let _ = mmu.store(alias, PLANTED);
        }
        self.attacking.store(false, Ordering::Relaxed);
    }

    fn alias_distance(&self) -> u64 {
        self.alias().map_or(0, |alias| alias.0.wrapping_sub(self.memory().linear.0))
    }
}

// SAFETY: the hosted machine keeps the promises; this one passes everything on to it. The attacker's stores are those of a CPU whose
// register is closed.
unsafe impl<F: HostedFormat, S: Mocked> Machine for Raced<F, S> {
    type Format = F;
    type Backend = S::Mock<F>;
    type Probe = NoProbe;

    fn backend(&self) -> &Self::Backend {
        self.race();
        self.hosted.backend()
    }

    fn probe(&self) -> &NoProbe {
        self.race();
        self.hosted.probe()
    }

    fn memory(&self) -> Memory<F> {
        self.hosted.memory()
    }

    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        self.race();
        self.hosted.table(frame)
    }

    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
        self.race();
        self.hosted.data(frame)
    }

    fn alias(&self) -> Option<VirtAddr> {
        self.hosted.alias()
    }

    fn to_alias(&self) -> usize {
        self.hosted.to_alias()
    }

    fn anchor(&self) -> &kpkeys_pgtable::guarded::Anchor<F> {
        self.hosted.anchor()
    }

    fn entry_barrier(&self) {
        self.race();
        self.hosted.entry_barrier();
    }

    fn flush_tlb(&self, flush: Flush<F>) {
        self.race();
        self.hosted.flush_tlb(flush);
    }

    fn cpu(&self) -> usize {
        self.hosted.cpu()
    }

    fn cpus(&self) -> usize {
        self.hosted.cpus()
    }
}

type Tables<F, S> = Paging<Raced<F, S>, Noted<F>>;

fn boot<F: HostedFormat, S: Mocked>(config: Config) -> Tables<F, S> {
    // A CPU outside of windows, as the model has it.
    let other = System::<F, S>::build(Config::of(Mode::Batched), SMALL).mmu(None).cpu;
    let arena = Arc::new(Arena::new(SMALL).expect("the host has memory"));
    let hosted = S::place::<F>(Hosted::new(arena, S::mock::<F>(), NoProbe, 1));
    let latest = Latest::default();
    let frames = Noted { scarce: Scarce::new(hosted.memory()), latest: latest.clone() };
    let (root, attacking) = (OnceLock::new(), AtomicBool::new(false));
    let machine = Raced { hosted, other, root, latest, attacking };
    let paging = Paging::new(machine, frames, config).expect("there is memory");
    paging.enable_protection().expect("protection can be turned on");
    paging.machine().root.set(paging.kernel().frame()).expect("once");
    paging
}

/// How many tables of a root hold what was planted.
fn planted<F: HostedFormat, S: Mocked>(paging: &Tables<F, S>, root: &Root) -> usize {
    let mut tables = vec![(F::ROOT, root.frame())];
    let (mut next, mut planted) = (0, 0);
    while let Some(&(level, frame)) = tables.get(next) {
        let words = paging.machine().hosted.data(frame).cast::<u64>();
        for index in 0..F::ENTRIES {
            // SAFETY: the frame is in the arena, which lives as long as the machine, and this thread alone uses it.
            let entry = Entry(unsafe { words.add(index).read_volatile() });
            planted += usize::from(entry.0 == PLANTED);
            if let Some(below) = level.below()
                && index < 256
                && F::is_table(level, entry)
            {
                tables.push((below, F::frame(level, entry)));
            }
        }
        next += 1;
    }
    planted
}

/// Makes and frees the tables of an address space; returns how many were not as they were made.
fn round<F: HostedFormat, S: Mocked>(paging: &Tables<F, S>, data: PhysAddr) -> usize {
    let section = paging.section(paging.kernel());
    let user = paging.new_user_root(&section).expect("there is memory");
    drop(section);
    let range = pages(USER, 1);
    let section = paging.section(&user);
    paging.map(&section, &user, range, Attrs::USER_DATA, |_| data).expect("there is memory");
    drop(section);
    let wrong = planted(paging, &user);
    let mut unlinked = Vec::new();
    let section = paging.section(&user);
    paging.unmap(&section, &user, range, |_, _, _| ()).expect("it is mapped");
    let end = VirtAddr(1 << F::HALF_BITS);
    let free = |ptp| unlinked.push(ptp);

    // SAFETY: nobody else works on these tables.
    unsafe { paging.free_tables(&section, &user, range, VirtAddr(0), end, free) }
        .expect("they are empty");
    drop(section);
    paging.flush_and_release(Flush::User(user.frame(), range), unlinked);
    paging.release_user_root(user);
    paging.shrink();
    wrong
}

fn a_store_before_a_table_is_linked_is_no_entry_of_it<F: HostedFormat, S: Mocked>() {
    // Without protection, the pages of a pool are as open as any, and nothing need be raced for them.
    let raced = |config: &Config| config.mode.protects() || !config.pool;
    for config in configs().filter(|config| config.linear != Level::Pud).filter(raced) {
        let paging = boot::<F, S>(config);
        let data = paging.frames().allocate(0).expect("there is memory");
        let rounds = ROUNDS / if config.mode.protects() { 1 } else { ROUNDS };
        let wrong: usize = (0..rounds).map(|_| round(&paging, data)).sum();
        if config.mode.protects() {
            assert_eq!(wrong, 0, "{config:?}: {wrong} tables were changed in {rounds} rounds");
        } else {
            assert!(wrong > 0, "{config:?}: the attack must succeed where nothing is protected");
        }
    }
}

for_both_formats_and_schemes!(a_store_before_a_table_is_linked_is_no_entry_of_it);
