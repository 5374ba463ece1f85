//! `/dev/vulnerable`: a driver with planted faults, of the kinds that real drivers have. It is in no kernel but one built with the feature
//! `vulnerable`, and exists for `kpkeys attack --exploits`, which shows what becomes of such a fault.
//!
//! It keeps *buffers* for a device, which programs map, and *pipes* of words to it. Each call is an `ioctl` with a [`Request`], which comes
//! back with the answer. Nothing in here knows of page tables: what it does wrong it does with memory that it got from the kernel's
//! allocator as any driver does.
//!
//! | fault | where | what is missing |
//! |---|---|---|
//! | any address written, and read | [`POKE`], [`PEEK`]: the registers of a device, for debugging | whether the address is one of them |
//! | off by one | [`SET`], [`GET`]: a buffer of one page as a table of 512 words | the last index is 511, not 512 |
//! | use after free, mapped | [`PURGE`]: gives a buffer's memory back when memory is short | programs that still have it mapped |
//! | use after free, a pipe's page | [`PUSH`] after [`POP`]: an empty pipe gives its page back | the pipe still goes on where it was |
//! | double free | [`RESIZE`] to what memory does not suffice for | the buffer's handle is still good after its memory is gone |
//!
//! [`CREATE`] tells where the device finds a buffer, as drivers do whose programs fill in a device's commands themselves: the physical address.

use crate::arch::layout;
use crate::memory::boot::{PAGE_SIZE, PhysAddr};
use crate::memory::paging::memories;
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::{Memory, Pages, UserAddress};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_pgtable::Frames;
use spin::Mutex;

/// Makes a buffer of `value` pages: its handle in `object`, the physical address of its first page in `value`. It is mapped by `mmap` of the
/// device, with the handle in pages as the offset.
pub const CREATE: u32 = 0x5600;
/// Destroys a buffer that nobody has mapped.
pub const DESTROY: u32 = 0x5601;
/// Gives a buffer's memory back.
pub const PURGE: u32 = 0x5602;
/// Makes a buffer `value` pages long.
pub const RESIZE: u32 = 0x5603;
/// Sets word `index` of a buffer's table to `value`.
pub const SET: u32 = 0x5604;
/// Reads word `index` of a buffer's table into `value`.
pub const GET: u32 = 0x5605;
/// Puts `value` into pipe `object`.
pub const PUSH: u32 = 0x5606;
/// Takes a word from pipe `object` into `value`.
pub const POP: u32 = 0x5607;
/// Writes `value` to the register at `object`.
pub const POKE: u32 = 0x5608;
/// Reads `index` bytes of registers from `object` on to the program's memory at `value`.
pub const PEEK: u32 = 0x5609;

/// The longest buffer.
const MAX_PAGES: u64 = 1024;
/// Words in a page.
const WORDS: u64 = PAGE_SIZE / 8;
/// The longest read of registers.
const MAX_PEEK: u64 = PAGE_SIZE;

/// What a call is given and gives.
#[derive(Clone, Copy, Default)]
struct Request {
    object: u64,
    index: u64,
    value: u64,
}

/// Memory of the device's.
struct Buffer {
    frames: Vec<PhysAddr>,
    /// What mappings show.
    pages: Arc<Pages>,
    is_mapped: bool,
}

/// Words on their way to the device.
#[derive(Default)]
struct Pipe {
    pages: VecDeque<OwnedFrame>,
    /// Words that were taken from the first page.
    taken: u64,
    /// The page that is being filled, and how many words are in it.
    filling: Option<(PhysAddr, u64)>,
}

/// The driver.
struct Driver {
    buffers: BTreeMap<u64, Buffer>,
    pipes: BTreeMap<u64, Pipe>,
    next: u64,
}

static DRIVER: Mutex<Driver> =
    Mutex::new(Driver { buffers: BTreeMap::new(), pipes: BTreeMap::new(), next: 1 });

/// A program's `ioctl`.
///
/// # Errors
///
/// [`Errno::ENOTTY`] for what there is not, [`Errno::ENOENT`] for no such buffer, and what the calls say.
pub fn control(memory: &Memory, command: u32, at: UserAddress) -> Outcome<()> {
    let mut words = [0; 3];
    for (place, word) in words.iter_mut().enumerate() {
        *word = memory.read_u64(at.offset(8 * place as u64))?;
    }
    let [object, index, value] = words;
    let request = Request { object, index, value };
    let answer = match command {
        POKE => poke(request)?,
        PEEK => peek(memory, request)?,
        command => DRIVER.lock().call(command, request)?,
    };
    let words = [answer.object, answer.index, answer.value];
    memory.write(at, words.map(u64::to_le_bytes).as_flattened())
}

/// The pages of a buffer, for a mapping.
///
/// # Errors
///
/// [`Errno::ENOENT`].
pub fn pages_of(handle: u64) -> Outcome<Arc<Pages>> {
    let mut driver = DRIVER.lock();
    let buffer = driver.buffer(handle)?;
    buffer.is_mapped = true;
    Ok(buffer.pages.clone())
}

/// *The fault: `object` should be the address of a register.*
fn poke(request: Request) -> Outcome<Request> {
    // SAFETY: none: this is the fault.
    unsafe { (request.object as *mut u64).write_volatile(request.value) };
    Ok(request)
}

/// *The fault: as in [`poke`].*
fn peek(memory: &Memory, request: Request) -> Outcome<Request> {
    if request.index > MAX_PEEK {
        return Err(Errno::EINVAL);
    }
    // SAFETY: none: this is the fault.
    let registers =
        unsafe { core::slice::from_raw_parts(request.object as *const u8, request.index as usize) };
    memory.write(UserAddress(request.value), registers)?;
    Ok(request)
}

impl Driver {
    fn call(&mut self, command: u32, request: Request) -> Outcome<Request> {
        match command {
            CREATE => self.create(request),
            DESTROY => self.destroy(request),
            PURGE => self.purge(request),
            RESIZE => self.resize(request),
            SET | GET => self.table(command, request),
            PUSH => self.pipes.entry(request.object).or_default().push(request),
            POP => self.pipes.entry(request.object).or_default().pop(request),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn buffer(&mut self, handle: u64) -> Outcome<&mut Buffer> {
        self.buffers.get_mut(&handle).ok_or(Errno::ENOENT)
    }

    fn create(&mut self, request: Request) -> Outcome<Request> {
        let buffer = Buffer::new(request.value)?;
        let (object, value) = (self.next, buffer.frames[0].0);
        self.next += 1;
        self.buffers.insert(object, buffer);
        Ok(Request { object, value, ..request })
    }

    fn destroy(&mut self, request: Request) -> Outcome<Request> {
        if self.buffer(request.object)?.is_mapped {
            return Err(Errno::EBUSY);
        }
        if let Some(buffer) = self.buffers.remove(&request.object) {
            give_back(&buffer.frames);
            // Its pages went by hand.
            mem::forget(buffer);
        }
        Ok(request)
    }

    /// *The fault: [`destroy`](Self::destroy) asks whether the buffer is mapped, and this does not.*
    fn purge(&mut self, request: Request) -> Outcome<Request> {
        self.buffer(request.object)?;
        if let Some(buffer) = self.buffers.remove(&request.object) {
            give_back(&buffer.frames);
            mem::forget(buffer);
        }
        Ok(request)
    }

    /// The old memory goes first, so that there may be enough for the new. *The fault: if there is not, the buffer stays, and is destroyed once more.*
    fn resize(&mut self, request: Request) -> Outcome<Request> {
        let buffer = self.buffer(request.object)?;
        if buffer.is_mapped {
            return Err(Errno::EBUSY);
        }
        give_back(&buffer.frames);
        let new = Buffer::new(request.value)?;
        mem::forget(mem::replace(buffer, new));
        Ok(request)
    }

    /// *The fault: an index of 512 is let through, and is the first word of the page behind.*
    fn table(&mut self, command: u32, request: Request) -> Outcome<Request> {
        let buffer = self.buffer(request.object)?;
        if request.index > WORDS {
            return Err(Errno::EINVAL);
        }
        let word = word_of(buffer.frames[0], request.index);
        // SAFETY: a word of the driver's own page; or not, which is the fault.
        let value = unsafe {
            match command {
                SET => {
                    word.write_volatile(request.value);
                    request.value
                }
                _ => word.read_volatile(),
            }
        };
        Ok(Request { value, ..request })
    }
}

impl Buffer {
    fn new(pages: u64) -> Outcome<Self> {
        if !(1..=MAX_PAGES).contains(&pages) {
            return Err(Errno::ENOMEM);
        }
        let new = (0..pages).map(|_| new_page()).collect::<Outcome<Vec<_>>>()?;
        let frames = new.iter().map(OwnedFrame::address).collect();
        let pages = Arc::new(Pages::of(new).ok_or(Errno::ENOMEM)?);
        Ok(Self { frames, pages, is_mapped: false })
    }
}

impl Pipe {
    fn push(&mut self, request: Request) -> Outcome<Request> {
        let (page, filled) = match self.filling {
            Some((page, filled)) if filled < WORDS => (page, filled),
            _ => {
                let page = new_page()?;
                let address = page.address();
                self.pages.push_back(page);
                (address, 0)
            }
        };
        // SAFETY: the page is the pipe's; or was, which is the fault.
        unsafe { word_of(page, filled).write_volatile(request.value) };
        self.filling = Some((page, filled + 1));
        Ok(request)
    }

    /// *The fault: the last page is given back when all of it was taken, and [`push`](Self::push) goes on behind what was.*
    fn pop(&mut self, request: Request) -> Outcome<Request> {
        let page = self.pages.front().ok_or(Errno::EAGAIN)?.address();
        // SAFETY: the page is the pipe's.
        let value = unsafe { word_of(page, self.taken).read_volatile() };
        self.taken += 1;
        let is_last = self.filling == Some((page, self.taken));
        if self.taken == WORDS || is_last {
            self.taken = 0;
            if let Some(page) = self.pages.pop_front() {
                memories().frames().free_frame(page);
            }
        }
        Ok(Request { value, ..request })
    }
}

fn word_of(page: PhysAddr, index: u64) -> *mut u64 {
    layout::linear(page).cast::<u64>().wrapping_add(index as usize)
}

/// A page of zeroes.
fn new_page() -> Outcome<OwnedFrame> {
    let page = memories().frames().new_frame()?;
    // SAFETY: the frame is the driver's own and holds a page.
    unsafe { layout::linear(page.address()).write_bytes(0, PAGE_SIZE as usize) };
    Ok(page)
}

/// Gives memory back to the allocator.
fn give_back(frames: &[PhysAddr]) {
    for &frame in frames {
        // SAFETY: the driver allocated it. That nothing refers to it is what the faults are about.
        unsafe { memories().frames().release(frame, 0) };
    }
}
