//! One worker of the soak, and what it remembers.

use crate::arch::PageRange;
use crate::arch::time;
use crate::evidence::probe;
use crate::memory::boot::PAGE_SIZE;
use crate::memory::paging::{Bare, Memories, user};
use crate::sched;
use crate::start::command_line::Until;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::{AddressSpace, Error, MapFlags};
use kpkeys_pgtable::{NoProbe, PhysAddr, VirtAddr};

type Space = AddressSpace<'static, Bare<NoProbe>>;

/// Where a process maps, and how much room there is.
const START: u64 = 0x10_0000_0000;
const ROOM_PAGES: u64 = 1 << 16;
const MAX_PROCESSES: usize = 4;
const MAX_AREAS: usize = 12;

/// A process, and what its pages must hold; a page that is not listed reads as zero.
struct Process {
    space: Space,
    contents: BTreeMap<u64, u64>,
}

/// A mapping in the vmalloc area, whose pages start with `value` plus their number.
struct Area {
    start: VirtAddr,
    pages: usize,
    value: u64,
    /// For `vm_map_ram`: the frames behind it.
    frames: Vec<OwnedFrame>,
}

/// One worker.
pub struct Worker {
    kernel: &'static Memories,
    random: u64,
    processes: Vec<Process>,
    areas: Vec<Area>,
}

impl Worker {
    /// A worker with nothing.
    pub fn new(kernel: &'static Memories, seed: u64) -> Self {
        // Spread, so that neighbouring seeds differ from the start; never zero, which xorshift maps to itself.
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { kernel, random, processes: Vec::new(), areas: Vec::new() }
    }

    /// Works until then, time being counted from when the soak was begun, gives everything back, and returns how many operations were done.
    ///
    /// # Errors
    ///
    /// What was wrong.
    pub fn run(mut self, begun: Duration, until: Until) -> Result<u64, String> {
        let mut operations = 0;
        let goes_on = |done| match until {
            Until::Time(length) => time::since_boot() - begun < length,
            Until::Operations(number) => done < number,
        };
        while goes_on(operations) {
            match self.step() {
                // Other workers may have it all.
                Ok(()) | Err(Failure::Refused(Error::OutOfMemory)) => operations += 1,
                Err(failure) => return Err(failure.to_string()),
            }
        }
        while let Some(area) = self.areas.pop() {
            self.free_area(area).map_err(|failure| failure.to_string())?;
        }
        Ok(operations)
    }

    fn step(&mut self) -> Result<(), Failure> {
        if self.processes.is_empty() {
            self.processes
                .push(Process { space: Space::new(self.kernel)?, contents: BTreeMap::new() });
        }
        let which = self.below(self.processes.len() as u64) as usize;
        match self.below(16) {
            0..=2 => self.map(which),
            3..=6 => self.write(which),
            7..=9 => self.read(which),
            10 => self.unmap(which),
            11 => self.protect(which),
            12 => self.fork(which),
            13 => self.allocate_area(),
            14 => self.release_area(),
            _ => {
                if self.below(64) == 0 {
                    self.kernel.paging().shrink();
                }
                sched::yield_now();
                Ok(())
            }
        }
    }

    fn map(&mut self, which: usize) -> Result<(), Failure> {
        let huge = self.below(8) == 0;
        let (range, flags) = if huge {
            let first = self.below(ROOM_PAGES / 512) * 512;
            (PageRange::new(VirtAddr(START + first * PAGE_SIZE), 512)?, MapFlags::HUGE_DATA)
        } else {
            (self.range(64)?, MapFlags::DATA)
        };
        match self.processes[which].space.mmap(range, flags) {
            Ok(()) | Err(Error::Occupied(..)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, which: usize) -> Result<(), Failure> {
        let (Some((va, writable)), value) = (self.mapped_page(which), self.next()) else {
            return Ok(());
        };
        let process = &mut self.processes[which];
        match user::write(&mut process.space, va, value) {
            Ok(()) if writable => {
                process.contents.insert(va.0, value);
                Ok(())
            }
            Ok(()) => Err(Failure::Wrong(format!("wrote {va:?}, which is read-only"))),
            Err(Error::Forbidden(_)) if !writable => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self, which: usize) -> Result<(), Failure> {
        let Some((va, _)) = self.mapped_page(which) else { return Ok(()) };
        let process = &mut self.processes[which];
        let found = user::read(&mut process.space, va)?;
        expect(va, found, process.contents.get(&va.0).copied().unwrap_or(0))
    }

    fn unmap(&mut self, which: usize) -> Result<(), Failure> {
        let (range, keep) = (self.range(512)?, self.below(4) == 0);
        let process = &mut self.processes[which];
        if keep {
            process.space.discard(range);
        } else {
            process.space.munmap(range)?;
        }
        process.contents.retain(|&va, _| !range.contains(VirtAddr(va)));
        Ok(())
    }

    fn protect(&mut self, which: usize) -> Result<(), Failure> {
        let mappings: Vec<_> = self.processes[which].space.mappings().collect();
        let write = self.below(2) == 0;
        let chosen = self.below(mappings.len() as u64) as usize;
        match mappings.get(chosen) {
            Some((range, _)) => Ok(self.processes[which].space.mprotect(*range, write)?),
            None => Ok(()),
        }
    }

    fn fork(&mut self, which: usize) -> Result<(), Failure> {
        if self.processes.len() == MAX_PROCESSES {
            self.processes.swap_remove(which);
            return Ok(());
        }
        let space = self.processes[which].space.fork()?;
        let contents = self.processes[which].contents.clone();
        self.processes.push(Process { space, contents });
        Ok(())
    }

    fn allocate_area(&mut self) -> Result<(), Failure> {
        if self.areas.len() == MAX_AREAS {
            return self.release_area();
        }
        let (value, pages) = (self.next(), self.below(40) as usize + 1);
        let (start, frames) = match self.below(3) {
            0 => (self.kernel.vmalloc(pages)?, Vec::new()),
            1 => (self.kernel.vmalloc_huge(pages)?, Vec::new()),
            _ => self.map_ram(pages.min(8))?,
        };
        let pages = if frames.is_empty() { pages } else { frames.len() };
        let area = Area { start, pages, value, frames };
        for (at, value) in area.words() {
            // SAFETY: the area is this worker's, and mapped.
            unsafe { probe::store_u64(at.0 as *mut u64, value) }
                .map_err(|fault| Failure::Wrong(format!("{at:?} of a new area: {fault}")))?;
        }
        self.areas.push(area);
        Ok(())
    }

    fn map_ram(&mut self, pages: usize) -> Result<(VirtAddr, Vec<OwnedFrame>), Failure> {
        let mut frames = Vec::new();
        for _ in 0..pages {
            frames.extend(self.kernel.frames().new_frame());
        }
        let addresses: Vec<PhysAddr> = frames.iter().map(OwnedFrame::address).collect();
        match self.kernel.vm_map_ram(&addresses) {
            Ok(start) => Ok((start, frames)),
            Err(error) => {
                frames.into_iter().for_each(|frame| self.kernel.frames().free_frame(frame));
                Err(if addresses.is_empty() { Error::OutOfMemory } else { error }.into())
            }
        }
    }

    fn release_area(&mut self) -> Result<(), Failure> {
        if self.areas.is_empty() {
            return Ok(());
        }
        let which = self.below(self.areas.len() as u64) as usize;
        let area = self.areas.swap_remove(which);
        self.free_area(area)
    }

    fn free_area(&mut self, area: Area) -> Result<(), Failure> {
        for (at, value) in area.words() {
            let found = probe::load_u64(at.0 as *const u64)
                .map_err(|fault| Failure::Wrong(format!("{at:?} of an area: {fault}")))?;
            expect(at, found, value)?;
        }
        if area.frames.is_empty() {
            self.kernel.vfree(area.start)?;
        } else {
            self.kernel.vm_unmap_ram(area.start, area.pages)?;
            area.frames.into_iter().for_each(|frame| self.kernel.frames().free_frame(frame));
        }
        Ok(())
    }

    /// A page of some mapping of a process, and whether it may be written.
    fn mapped_page(&mut self, which: usize) -> Option<(VirtAddr, bool)> {
        let mappings: Vec<_> = self.processes[which].space.mappings().collect();
        let chosen = self.below(mappings.len() as u64) as usize;
        let (range, flags) = *mappings.get(chosen)?;
        let page = self.below(range.pages() as u64) as usize;
        Some((range.start().offset_pages::<crate::arch::Format>(page), flags.write))
    }

    /// A range inside the room, up to `most` pages long.
    fn range(&mut self, most: u64) -> Result<PageRange, Failure> {
        let first = self.below(ROOM_PAGES - most);
        Ok(PageRange::new(VirtAddr(START + first * PAGE_SIZE), self.below(most) as usize + 1)?)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// The next random number (xorshift64).
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Area {
    /// The first word of each page, and what it holds.
    fn words(&self) -> impl Iterator<Item = (VirtAddr, u64)> + '_ {
        (0..self.pages).map(|page| {
            (
                self.start.offset_pages::<crate::arch::Format>(page),
                self.value.wrapping_add(page as u64),
            )
        })
    }
}

/// Why a worker stops.
#[derive(Debug)]
enum Failure {
    /// The memory manager refused.
    Refused(Error),
    /// Something is not as it must be.
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Refused(error)
    }
}

impl From<kpkeys_pgtable::addr::RangeError> for Failure {
    fn from(error: kpkeys_pgtable::addr::RangeError) -> Self {
        Failure::Refused(error.into())
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Failure::Refused(error) => error.fmt(f),
            Failure::Wrong(what) => f.write_str(what),
        }
    }
}

fn expect(va: VirtAddr, found: u64, expected: u64) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::Wrong(format!("{va:?} holds {found:#x} instead of {expected:#x}")))
}
