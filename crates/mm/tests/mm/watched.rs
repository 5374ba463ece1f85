//! A machine whose TLBs are modelled, to hold the order "flush, then free" against.
//!
//! Any CPU may have cached any translation that was valid at any time since it was last flushed. So the model keeps, for each
//! address of each address space in use, every frame that it led to since then, the tables on the way included. Whenever a
//! flush is asked for, before it takes effect, and whenever an operation ends, every frame that is free is held against it: one that
//! a TLB may still lead to was freed too early.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use kpkeys::Backend;
use kpkeys::keyed::Keyed;
use kpkeys::pan::Pan;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::boot::MockBackend;
use kpkeys_hosted::register::{MockRegister, PanRegister};
use kpkeys_hosted::{Hosted, HostedFormat, cpu};
use kpkeys_mm::{Buddy, FrameTable, Kernel, Layout};
use kpkeys_pgtable::{
    Config, Entry, Event, Flush, Level, Machine, Memory, NoProbe, PhysAddr, Probe, VirtAddr,
};

use crate::heap;

/// A way to protect page tables.
pub trait Scheme: 'static {
    type Backend<F: HostedFormat>: Backend + Sync;

    fn backend<F: HostedFormat>() -> Self::Backend<F>;
}

/// By keys.
pub struct Keys;

impl Scheme for Keys {
    type Backend<F: HostedFormat> = MockBackend<F>;

    fn backend<F: HostedFormat>() -> Self::Backend<F> {
        let backend = Keyed::new(MockRegister::detect());
        backend.reset();
        backend
    }
}

/// By an alias.
pub struct Alias;

impl Scheme for Alias {
    type Backend<F: HostedFormat> = Pan<PanRegister>;

    fn backend<F: HostedFormat>() -> Self::Backend<F> {
        let backend = Pan::new(PanRegister);
        backend.reset();
        backend
    }
}

/// A hosted machine, watched.
pub struct Watched<F: HostedFormat, S: Scheme> {
    hosted: Hosted<F, S::Backend<F>, NoProbe>,
    watch: Watch<F>,
}

/// What is watched of a machine.
pub struct Watch<F: HostedFormat> {
    memory: Memory<F>,
    arena: Arc<Arena>,
    /// The kernel's root and its frames, once they are there.
    kernel: OnceLock<(PhysAddr, &'static Buddy<F>)>,
    seen: Mutex<Seen>,
    /// Whether what is valid only within an operation is seen too.
    closely: AtomicBool,
    format: PhantomData<fn() -> F>,
}

#[derive(Default)]
struct Seen {
    /// Roots of address spaces that CPUs may be in.
    users: BTreeSet<PhysAddr>,
    /// What TLBs may hold: where an address leads to, and by which tables. The kernel's space is `None`.
    translations: BTreeMap<(Option<PhysAddr>, VirtAddr), BTreeSet<PhysAddr>>,
    tables: BTreeMap<(Option<PhysAddr>, Level, VirtAddr), BTreeSet<PhysAddr>>,
    flushes: usize,
}

/// Boots a watched machine. It is never taken down.
pub fn boot<F: HostedFormat, S: Scheme>(
    config: Config,
    pages: usize,
) -> &'static Kernel<Watched<F, S>> {
    let arena = Arc::new(Arena::new(pages).expect("the host has memory"));
    let hosted = Hosted::new(arena.clone(), S::backend::<F>(), NoProbe, 1);
    let memory = hosted.memory();
    let watch = Watch {
        memory,
        arena,
        kernel: OnceLock::new(),
        seen: Mutex::default(),
        closely: AtomicBool::new(false),
        format: PhantomData,
    };
    let frames = Buddy::new(memory, FrameTable::on_heap(pages), true, 1, cpu::current);
    // SAFETY: all of this memory is free, and nobody else has it.
    unsafe { frames.add(0..pages) };
    let kernel = Kernel::new(Watched { hosted, watch }, frames, config, Layout::standard());
    let kernel: &'static _ = Box::leak(Box::new(kernel.expect("memory")));
    kernel.enable_protection().expect("memory");
    let known = (kernel.paging().kernel().frame(), kernel.frames());
    assert!(kernel.machine().watch.kernel.set(known).is_ok());
    kernel
}

impl<F: HostedFormat, S: Scheme> Watched<F, S> {
    pub fn watch(&self) -> &Watch<F> {
        &self.watch
    }
}

impl<F: HostedFormat> Watch<F> {
    /// CPUs may be in this address space from now on.
    pub fn enters(&self, root: PhysAddr) {
        self.seen().users.insert(root);
    }

    /// No CPU enters this address space any more, though TLBs may know it.
    pub fn leaves(&self, root: PhysAddr) {
        self.look();
        self.seen().users.remove(&root);
    }

    /// From now on, TLBs know what was valid at any event, not only between operations and at flushes.
    pub fn closely(&self) {
        self.closely.store(true, Relaxed);
    }

    /// How many flushes there were.
    pub fn flushes(&self) -> usize {
        self.seen().flushes
    }

    /// No frame is free that a TLB may lead to.
    ///
    /// # Panics
    ///
    /// If one is.
    pub fn assert_nothing_freed_early(&self, when: &str) {
        self.look();
        let Some((_, frames)) = self.kernel.get() else { return };
        let free = free_frames(frames, &self.memory);
        let is_free = |frame: &&PhysAddr| free[self.memory.frame_number(**frame)];
        let seen = self.seen();
        for ((space, va), led_to) in &seen.translations {
            let early = led_to.iter().find(is_free);
            assert_eq!(early, None, "free {when}, and TLBs may hold it for {va:?} of {space:?}");
        }
        for ((space, level, va), led_to) in &seen.tables {
            let early = led_to.iter().find(is_free);
            assert_eq!(early, None, "a free {when} {level:?} table of {va:?} in {space:?}");
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn flush(&self, flush: Flush<F>) {
        self.assert_nothing_freed_early("before a flush");
        let mut seen = self.seen();
        seen.flushes += 1;
        let (space, range) = match flush {
            Flush::Kernel(range) => (None, Some(range)),
            Flush::AllKernel => (None, None),
            Flush::User(root, range) => (Some(root), Some(range)),
            Flush::AddressSpace(root) => (Some(root), None),
            Flush::All => {
                seen.translations.clear();
                seen.tables.clear();
                return;
            }
        };
        let covers = |first: VirtAddr, bytes: u64| {
            range.is_none_or(|range| {
                first.0 < range.end().0 && range.start().0 < first.0 + (bytes - 1)
            })
        };
        seen.translations.retain(|(of, va), _| *of != space || !covers(*va, F::PAGE_SIZE));
        seen.tables
            .retain(|(of, level, va), _| *of != space || !covers(*va, level.table_bytes::<F>()));
    }

    /// Adds all that is valid now to what TLBs may hold.
    fn look(&self) {
        let Some(&(kernel, _)) = self.kernel.get() else { return };
        let mut seen = self.seen();
        // Of the kernel's half, what is mapped beside the linear map and the alias, which lead to free frames as well.
        let vmalloc = Layout::<F>::standard().vmalloc.start().index::<F>(F::ROOT);
        self.look_below(&mut seen, None, (kernel, F::ROOT, 0), vmalloc..vmalloc + 1);
        for user in seen.users.clone() {
            self.look_below(&mut seen, Some(user), (user, F::ROOT, 0), 0..256);
        }
    }

    fn look_below(
        &self,
        seen: &mut Seen,
        space: Option<PhysAddr>,
        (table, level, base): (PhysAddr, Level, u64),
        entries: std::ops::Range<usize>,
    ) {
        seen.tables.entry((space, level, VirtAddr(base))).or_default().insert(table);
        for index in entries {
            let entry = self.entry(table, index);
            let va = base | (index as u64) << level.shift::<F>();
            let va = ((va as i64) << 16 >> 16) as u64;
            if F::is_leaf(level, entry) {
                for page in 0..level.entry_pages::<F>() {
                    let place = (space, VirtAddr(va).offset_pages::<F>(page));
                    let frame = F::frame(level, entry).offset(page as u64 * F::PAGE_SIZE);
                    seen.translations.entry(place).or_default().insert(frame);
                }
            } else if let Some(below) = level.below()
                && F::is_table(level, entry)
            {
                let lower = (F::frame(level, entry), below, va);
                self.look_below(seen, space, lower, 0..512);
            }
        }
    }

    fn entry(&self, table: PhysAddr, index: usize) -> Entry {
        let word = (table.0 - self.memory.start.0) as usize / 8 + index;
        // SAFETY: tables lie in the arena, which lives as long as this, and no table is stored to meanwhile: tests have one thread.
        Entry(unsafe { self.arena.tables().cast::<u64>().add(word).read_volatile() })
    }
}

/// Whether each frame is free now: whether it can be allocated, to the last one.
fn free_frames<F: HostedFormat>(frames: &Buddy<F>, memory: &Memory<F>) -> Vec<bool> {
    let mut free = vec![false; memory.pages];
    let taken: Vec<_> = std::iter::from_fn(|| frames.new_frame().ok()).collect();
    taken.iter().for_each(|frame| free[memory.frame_number(frame.address())] = true);
    taken.into_iter().for_each(|frame| frames.free_frame(frame));
    free
}

impl<F: HostedFormat> Probe for Watch<F> {
    fn count(&self, _: Event, _: u64) {
        if self.closely.load(Relaxed) {
            heap::granting(|| self.look());
        }
    }
}

// SAFETY: the hosted machine keeps the promises; this one passes everything on to it.
unsafe impl<F: HostedFormat, S: Scheme> Machine for Watched<F, S> {
    type Format = F;
    type Backend = S::Backend<F>;
    type Probe = Watch<F>;

    fn backend(&self) -> &Self::Backend {
        self.hosted.backend()
    }

    fn probe(&self) -> &Watch<F> {
        &self.watch
    }

    fn memory(&self) -> Memory<F> {
        self.hosted.memory()
    }

    fn table(&self, frame: PhysAddr) -> NonNull<u8> {
        self.hosted.table(frame)
    }

    fn data(&self, frame: PhysAddr) -> NonNull<u8> {
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
        self.hosted.entry_barrier();
    }

    fn flush_tlb(&self, flush: Flush<F>) {
        heap::granting(|| self.watch.flush(flush));
        self.hosted.flush_tlb(flush);
    }

    fn cpu(&self) -> usize {
        self.hosted.cpu()
    }

    fn cpus(&self) -> usize {
        self.hosted.cpus()
    }
}
