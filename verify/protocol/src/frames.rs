//! Physical memory, and the frames of it: some pages of the host, whose first free block is taken, or the one given back last.

use std::cell::UnsafeCell;
use std::ptr::NonNull;

use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Format, Frames, Memory, PhysAddr, VirtAddr};

use crate::world::{self, Rule, mix};

/// Pages of memory: each is looked at after every step.
pub const PAGES: usize = 128;
const ENTRIES: usize = 512;
const PAGE: u64 = 4096;

/// Memory, and where the linear map has it.
pub const fn memory<F: Format>() -> Memory<F> {
    Memory::new(PhysAddr(0x1_0000_0000), PAGES, VirtAddr(0xffff_8880_0000_0000))
}

/// The same, whatever the format: both have pages of 4 KiB.
pub const MEMORY: Memory<X86_64> = memory();

/// Where the alias has it.
pub const ALIAS: VirtAddr = VirtAddr(0xffff_a000_0000_0000);

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u64; ENTRIES]>);

thread_local! {
    /// The memory of this host thread's executions, one after the other: what one has used is emptied for the next.
    static PAGES_OF_THREAD: Vec<Page> = (0..PAGES).map(|_| Page(UnsafeCell::new([0; ENTRIES]))).collect();
}

/// Where a frame of memory is in the host.
pub fn page(frame: PhysAddr) -> NonNull<u8> {
    PAGES_OF_THREAD.with(|pages| NonNull::from(&pages[MEMORY.frame_number(frame)]).cast())
}

/// The entries of a table, as a table walker loads them. An address outside memory is that of an empty table.
pub fn table_words(table: u64) -> [u64; ENTRIES] {
    if !MEMORY.contains(PhysAddr(table), 1) {
        return [0; ENTRIES];
    }
    // SAFETY: the page is memory of this thread's, of this many words, and what runs stops while this looks.
    unsafe { page(PhysAddr(table)).cast::<[u64; ENTRIES]>().read() }
}

/// Which frames are taken.
#[derive(Default)]
pub struct FrameList {
    taken: Vec<bool>,
    /// Given back last, last.
    given_back: Vec<usize>,
    /// Frames that were ever taken, whose memory is not empty.
    used: Vec<bool>,
}

impl FrameList {
    /// All free, and their memory empty.
    pub fn empty(before: Option<&FrameList>) -> FrameList {
        if let Some(before) = before {
            for (number, _) in before.used.iter().enumerate().filter(|(_, used)| **used) {
                // SAFETY: the page is memory of this thread's, and no execution uses it now.
                unsafe { page(MEMORY.frame(number)).write_bytes(0, PAGE as usize) };
            }
        }
        FrameList { taken: vec![false; PAGES], given_back: Vec::new(), used: vec![false; PAGES] }
    }

    /// Whether a frame is nobody's.
    pub fn is_free(&self, frame: u64) -> bool {
        let number = MEMORY.frame_number(PhysAddr(frame));
        self.taken.get(number).is_some_and(|taken| !taken)
    }

    /// Another allocator has all of them.
    pub fn take_all(&mut self) {
        self.taken.fill(true);
        self.used.fill(true);
    }

    /// Has this frame handed out next, though it is somebody's: for a fault.
    pub fn give_next(&mut self, frame: PhysAddr) {
        self.given_back.push(MEMORY.frame_number(frame));
    }

    /// Hash of what taken frames hold, and of which are taken.
    pub fn hash(&self) -> u64 {
        let mut hash = self.given_back.iter().fold(1, |hash, &number| mix(hash, number as u64));
        for (number, _) in self.taken.iter().enumerate().filter(|(_, taken)| **taken) {
            let page = page(MEMORY.frame(number)).cast::<[u64; ENTRIES]>();
            // SAFETY: the page is memory of this thread's, and what runs stops while this looks.
            let words = unsafe { page.as_ref() };
            let mut lanes = [number as u64; 8];
            for eight in words.chunks_exact(8) {
                for (lane, word) in lanes.iter_mut().zip(eight) {
                    *lane = (lane.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                }
            }
            hash = lanes.iter().fold(hash, |hash, &lane| mix(hash, lane));
        }
        hash
    }

    fn take(&mut self, order: u8) -> Option<usize> {
        let pages = 1 << order;
        let back = if order == 0 { self.given_back.pop() } else { None };
        let number = match back {
            Some(number) => number,
            None => (0..=self.taken.len().checked_sub(pages)?)
                .step_by(pages)
                .find(|&first| self.taken[first..first + pages].iter().all(|taken| !taken))?,
        };
        self.taken[number..number + pages].fill(true);
        self.used[number..number + pages].fill(true);
        self.given_back.retain(|back| !(number..number + pages).contains(back));
        Some(number)
    }
}

/// The frame allocator of the machine.
pub struct ModelFrames;

impl Frames for ModelFrames {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        if world::asks_in_vain() {
            return None;
        }
        world::with(|world| world.frames.take(order)).map(|number| MEMORY.frame(number))
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        world::point();
        world::with(|world| {
            let number = MEMORY.frame_number(block);
            for number in number..number + (1 << order) {
                if !world.frames.taken[number] {
                    world.broken(Rule::Frame, format!("{block:?} is freed twice"));
                }
                world.frames.taken[number] = false;
                world.frames.given_back.push(number);
            }
        });
    }
}
