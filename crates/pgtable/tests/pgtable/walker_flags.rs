//! No flag that a CPU sets in an entry is lost, whatever is done to the entry at that moment.
//!
//! A thread plays the table walker of another CPU: it marks valid leaves young, and those that are writable dirty, each by an atomic update, as
//! hardware does, and keeps a record. Meanwhile the entries are mapped, protected, moved, replaced and unmapped. Every mapping has a frame of
//! its own, so the record can be compared with what came out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::support::by;
use kpkeys_hosted::boot::Timed;
use kpkeys_hosted::{HostedFormat, Setup, boot};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Format, Level, Machine, Mode, PageRange, PhysAddr, Root, VirtAddr,
};

const PAGES: usize = 16;
/// Rounds end when the walker has used this many pages, or it never does.
const ENOUGH: usize = 4000;
const MOST_ROUNDS: usize = 300_000;
const FROM: VirtAddr = VirtAddr(0x5555_4000_0000);
const TO: VirtAddr = VirtAddr(0x5555_4020_0000);
const FRAMES: PhysAddr = PhysAddr(0x10_0000_0000);
const UNTOUCHED: Attrs = Attrs { young: false, dirty: false, ..Attrs::USER_DATA };

/// Flags by frame.
type Flags = BTreeMap<u64, (bool, bool)>;

fn range<F: HostedFormat>(start: VirtAddr) -> PageRange<F> {
    PageRange::new(start, PAGES).expect("a small range")
}

/// The entries of the table that translates `va`, as a CPU's walker reaches them.
fn entries<'k, F: HostedFormat>(
    kernel: &'k Kernel<Timed<F>>,
    root: &Root,
    va: VirtAddr,
) -> Vec<&'k AtomicU64> {
    let paging = kernel.paging();
    let above = paging.find_table(root, va, Level::Pmd).expect("linked");
    let table = F::frame(Level::Pmd, above.slot(va.index::<F>(Level::Pmd)).load());
    let first = kernel.machine().table(table).cast::<AtomicU64>();
    // SAFETY: the machine gives the address of a table of 512 entries, of which `PAGES` from this one on are taken; all accesses are atomic,
    // and nothing is protected from this process.
    (0..PAGES).map(|i| unsafe { first.add(va.index::<F>(Level::Pte) + i).as_ref() }).collect()
}

fn note(flags: &mut Flags, frame: PhysAddr, young: bool, dirty: bool) {
    if !young && !dirty {
        return;
    }
    let of_frame = flags.entry(frame.0).or_default();
    *of_frame = (of_frame.0 || young, of_frame.1 || dirty);
}

/// Uses every entry again and again, by loads and stores in turn, until told to stop.
fn walk<F: Format>(entries: &[&AtomicU64], used_pages: &AtomicUsize, stop: &AtomicBool) -> Flags {
    let mut flags = Flags::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let entry = entries[turn % entries.len()];
        let old = Entry(entry.load(Ordering::Acquire));
        if !F::is_present(old) {
            continue;
        }
        let (frame, now) = (F::frame(Level::Pte, old), F::attrs(old));
        let dirty = now.dirty || now.write && turn / entries.len() % 2 == 1;
        let new = F::leaf(Level::Pte, frame, Attrs { young: true, dirty, ..now });
        let new = new.expect("an entry with more flags");
        let used = entry.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed);
        if new != old && used.is_ok() {
            note(&mut flags, frame, true, dirty);
            used_pages.store(flags.len(), Ordering::Relaxed);
        }
    }
    flags
}

/// What is done to the entries of a round's mapping. Nothing here clears a flag.
fn one_round<F: HostedFormat>(
    kernel: &Kernel<Timed<F>>,
    root: &Root,
    round: usize,
    out: &mut Flags,
) {
    let paging = kernel.paging();
    let section = paging.section(root);
    let frame =
        |i| FRAMES.offset(((2 * round + i / PAGES) * PAGES + i % PAGES) as u64 * F::PAGE_SIZE);
    paging.map(&section, root, range(FROM), UNTOUCHED, frame).expect("nothing is there");
    paging.protect(&section, root, range(FROM), by(|entry| entry)).expect("pages alone");
    paging.move_pages(&section, root, range(FROM), TO).expect("nothing is there");
    let table = paging.find_table(root, TO, Level::Pte).expect("linked");
    let slot = table.slot(TO.index::<F>(Level::Pte));
    let next = F::leaf(Level::Pte, frame(PAGES), UNTOUCHED).expect("mappable");
    let mut gone = |entry| {
        let attrs = F::attrs(entry);
        note(out, F::frame(Level::Pte, entry), attrs.young, attrs.dirty);
    };
    gone(unsafe { section.establish(slot, next) }.expect("data"));
    let seen = slot.load();
    let used =
        F::leaf(Level::Pte, F::frame(Level::Pte, seen), Attrs { young: true, ..F::attrs(seen) });
    unsafe { section.set_access_flags(slot, seen, used.expect("mappable")) }.expect("data");
    paging.protect(&section, root, range(TO), WriteProtect).expect("pages alone");
    paging.unmap(&section, root, range(TO), |_, _, entry| gone(entry)).expect("pages alone");
}

/// Not in `fused`, where entries are passed on before a gate empties them: what a walker sets in between is not told
/// (`docs/decisions/0039-gather-outside-commit-inside.md`).
fn no_flag_is_lost<F: HostedFormat>(mode: Mode) {
    let setup = Setup { pages: 4096, cpus: 1, config: Config::of(mode) };
    let kernel = boot::<F>(setup).expect("there is memory");
    let paging = kernel.paging();
    let root = {
        let section = paging.section(paging.kernel());
        let root = paging.new_user_root(&section).expect("there is memory");
        for va in [FROM, TO] {
            paging.table_for(&section, &root, va, Level::Pte).expect("there is memory");
        }
        root
    };
    let watched: Vec<_> = [FROM, TO].iter().flat_map(|&va| entries(&kernel, &root, va)).collect();
    let (used, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut out = Flags::new();
    let set = thread::scope(|scope| {
        let walker = scope.spawn(|| walk::<F>(&watched, &used, &stop));
        for round in (0..MOST_ROUNDS).take_while(|_| used.load(Ordering::Relaxed) < ENOUGH) {
            one_round(&kernel, &root, round, &mut out);
        }
        stop.store(true, Ordering::Relaxed);
        walker.join().expect("the walker does not panic")
    });
    let dirty = set.values().filter(|(_, dirty)| *dirty).count();
    assert!(set.len() > 100 && dirty > 10, "{} used, {dirty} stored to: shows nothing", set.len());
    let lost = |(frame, (young, dirty)): &(&u64, &(bool, bool))| {
        let (out_young, out_dirty) = out.get(frame).copied().unwrap_or_default();
        *young && !out_young || *dirty && !out_dirty
    };
    let lost = set.iter().filter(lost).count();
    assert_eq!(lost, 0, "of {} frames with flags, {mode:?}", set.len());
}

#[test]
fn aarch64_loses_no_flag() {
    [Mode::Off, Mode::FusedLean]
        .into_iter()
        .for_each(no_flag_is_lost::<kpkeys_pgtable::entry::Aarch64>);
}

#[test]
fn x86_64_loses_no_flag() {
    [Mode::Off, Mode::FusedLean]
        .into_iter()
        .for_each(no_flag_is_lost::<kpkeys_pgtable::entry::X86_64>);
}
