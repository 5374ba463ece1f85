//! Sweeps beside another CPU that copies, moves and maps: what is mapped at every moment is never found to be free.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kpkeys::keyed::Keyed;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::cpu;
use kpkeys_hosted::machine::{Hosted, HostedFormat};
use kpkeys_hosted::register::MockRegister;
use kpkeys_mm::{Buddy, FrameTable};
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::guarded::FrameType;
use kpkeys_pgtable::range::Share;
use kpkeys_pgtable::table::Slots;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Frames, Level, Machine, Mode, NoProbe, PageRange, Paging,
    PhysAddr, Root, VirtAddr,
};

type Threads<F> = Hosted<F, Keyed<MockRegister, <F as HostedFormat>::Encoding>, NoProbe>;

const SWEEPS: usize = 300;
/// Two places, in tables far apart, so that a sweep comes to one long before the other.
const PLACES: [VirtAddr; 2] = [VirtAddr(0x1_0000_0000), VirtAddr(0x7000_0000_0000)];

/// Shares one page at a time and counts nothing.
struct ShareAll;

impl Share for ShareAll {
    type Error = Error;

    fn share(&mut self, _: Entry, _: Slots<'_>) -> Result<NonZeroUsize, Error> {
        Ok(NonZeroUsize::MIN)
    }
}

fn boot<F: HostedFormat>() -> Paging<Threads<F>, Buddy<F>> {
    let arena = Arc::new(Arena::new(8 << 10).unwrap());
    let backend = Keyed::new(MockRegister::detect());
    backend.reset();
    let machine = Threads::<F>::new(arena, backend, NoProbe, 2);
    let memory = machine.memory();
    let frames = Buddy::new(memory, FrameTable::on_heap(memory.pages), true, 2, cpu::current);
    // SAFETY: all of this memory is free, and nobody else has it.
    unsafe { frames.add(0..memory.pages) };
    let config = Config { mode: Mode::Fused, linear: Level::Pmd, pool: true };
    let paging = Paging::new(machine, frames, config).unwrap();
    paging.enable_protection().unwrap();
    paging
}

/// A system with two address spaces, the first of which maps a page. Tables of others lie between theirs, so that a sweep comes to the second's long
/// after the first's.
fn mapped<F: HostedFormat>() -> (Paging<Threads<F>, Buddy<F>>, [Root; 2], PhysAddr) {
    const BETWEEN: usize = 64;
    let paging = boot::<F>();
    let new_root = || {
        let section = paging.section(paging.kernel());
        paging.new_user_root(&section).unwrap()
    };
    let new_frame = || paging.frames().allocate(0).unwrap();
    let (first, frame) = (new_root(), new_frame());
    map(&paging, &first, frame);
    for _ in 0..BETWEEN {
        map(&paging, &new_root(), new_frame());
    }
    let second = new_root();
    map(&paging, &second, new_frame());
    unmap(&paging, &second);
    (paging, [first, second], frame)
}

fn page<F: HostedFormat>(va: VirtAddr) -> PageRange<F> {
    PageRange::new(va, 1).unwrap()
}

fn map<F: HostedFormat>(paging: &Paging<Threads<F>, Buddy<F>>, root: &Root, frame: PhysAddr) {
    let section = paging.section(root);
    paging.map(&section, root, page(PLACES[0]), Attrs::USER_DATA, |_| frame).unwrap();
}

fn unmap<F: HostedFormat>(paging: &Paging<Threads<F>, Buddy<F>>, root: &Root) {
    let section = paging.section(root);
    paging.unmap(&section, root, page(PLACES[0]), |_, _, _| ()).unwrap();
}

/// Sweeps on one CPU while `turn` runs again and again on another, which keeps `frame` mapped throughout.
fn sweep_beside<F: HostedFormat>(
    paging: &Paging<Threads<F>, Buddy<F>>,
    frame: PhysAddr,
    turn: impl Fn() + Sync,
) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cpu::become_cpu(1);
            paging.machine().backend().reset();
            while !ended.load(Ordering::Relaxed) {
                turn();
            }
        });
        let mut lost = 0;
        for _ in 0..SWEEPS {
            paging.sweep().unwrap();
            lost += usize::from(paging.types().unwrap().of(frame) != FrameType::Mapped);
        }
        ended.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0, "of {SWEEPS} sweeps so many lost a page that was mapped");
    });
}

fn a_page_that_moves_is_found<F: HostedFormat>() {
    let (paging, [root, _], frame) = mapped::<F>();
    sweep_beside(&paging, frame, || {
        for (from, to) in [(PLACES[0], PLACES[1]), (PLACES[1], PLACES[0])] {
            let section = paging.section(&root);
            paging.move_pages(&section, &root, page(from), to).unwrap();
        }
    });
}

fn a_page_that_is_copied_is_found<F: HostedFormat>() {
    let (paging, roots, frame) = mapped::<F>();
    sweep_beside(&paging, frame, || {
        for (from, to) in [(0, 1), (1, 0)] {
            let section = paging.section(&roots[to]);
            paging
                .copy(&section, &roots[from], &roots[to], page(PLACES[0]), &mut ShareAll)
                .unwrap();
            drop(section);
            unmap(&paging, &roots[from]);
        }
    });
}

fn a_page_that_is_mapped_again_is_found<F: HostedFormat>() {
    let (paging, roots, frame) = mapped::<F>();
    sweep_beside(&paging, frame, || {
        for (from, to) in [(0, 1), (1, 0)] {
            map(&paging, &roots[to], frame);
            unmap(&paging, &roots[from]);
        }
    });
}

macro_rules! both_formats {
    ($($test:ident),* $(,)?) => {
        mod aarch64 {
            $(#[test] fn $test() { super::$test::<super::Aarch64>(); })*
        }
        mod x86_64 {
            $(#[test] fn $test() { super::$test::<super::X86_64>(); })*
        }
    };
}

both_formats!(
    a_page_that_moves_is_found,
    a_page_that_is_copied_is_found,
    a_page_that_is_mapped_again_is_found,
);
