//! The locks of the crate `spin` that page tables use, for a model.
//!
//! Where the real ones spin, these ask a [`Scheduler`] to let other threads run. Everything is on one thread of the host at a time, so a flag
//! is enough of a lock; what it means to wait, the scheduler knows.
#![no_std]

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// What is told of locks. A lock is known by its address.
pub trait Scheduler: Sync {
    /// A lock is about to be taken.
    fn taking(&self, lock: usize);
    /// It is held: returns when it is free.
    fn wait(&self, lock: usize);
    /// It was taken.
    fn taken(&self, lock: usize);
    /// It was given back.
    fn given_back(&self, lock: usize);
}

static SCHEDULER: AtomicPtr<&'static dyn Scheduler> = AtomicPtr::new(core::ptr::null_mut());

/// From now on this scheduler is told.
pub fn schedule_by(scheduler: &'static &'static dyn Scheduler) {
    SCHEDULER.store(core::ptr::from_ref(scheduler).cast_mut(), Ordering::Release);
}

fn tell(f: impl FnOnce(&dyn Scheduler)) {
    // SAFETY: null, or what `schedule_by` stored, which lives for ever.
    if let Some(scheduler) = unsafe { SCHEDULER.load(Ordering::Acquire).as_ref() } {
        f(*scheduler);
    }
}

/// A lock.
#[derive(Debug, Default)]
pub struct Mutex<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the flag lets one holder at a time to the value.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Mutex { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock.
    ///
    /// # Panics
    ///
    /// If the scheduler returns from waiting while the lock is held.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let address = core::ptr::from_ref(&self.held).addr();
        tell(|scheduler| scheduler.taking(address));
        if self.held.load(Ordering::Acquire) {
            tell(|scheduler| scheduler.wait(address));
        }
        assert!(
            !self.held.swap(true, Ordering::Acquire),
            "who waits goes on when the lock is free"
        );
        tell(|scheduler| scheduler.taken(address));
        MutexGuard { lock: self }
    }

    /// Takes the lock, unless it is held.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let address = core::ptr::from_ref(&self.held).addr();
        tell(|scheduler| scheduler.taking(address));
        if self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        tell(|scheduler| scheduler.taken(address));
        Some(MutexGuard { lock: self })
    }
}

/// A lock that is held, until it is dropped.
#[derive(Debug)]
pub struct MutexGuard<'l, T> {
    lock: &'l Mutex<T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the one way to the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
        let address = core::ptr::from_ref(&self.lock.held).addr();
        tell(|scheduler| scheduler.given_back(address));
    }
}

/// A value that is set once. What makes it gives way to no other thread.
#[derive(Debug)]
pub struct Once<T>(UnsafeCell<Option<T>>);

// SAFETY: one thread of the model runs at a time, and none gives way while it sets the value, which is shared from then on.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Once<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Once(UnsafeCell::new(None))
    }

    /// The value, if it is set.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: it is changed but once, before anybody has a reference to what is in it.
        unsafe { (*self.0.get()).as_ref() }
    }

    /// The value, if it is set, for its owner.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.0.get_mut().as_mut()
    }

    /// Sets it, unless it is set.
    pub fn call_once(&self, value: impl FnOnce() -> T) -> &T {
        match self.try_call_once(|| Ok::<_, core::convert::Infallible>(value())) {
            Ok(value) => value,
        }
    }

    /// The same with a value that may not be had.
    ///
    /// # Errors
    ///
    /// Why not; it is not set then.
    pub fn try_call_once<E>(&self, value: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        if self.get().is_none() {
            let value = value()?;
            // SAFETY: nobody has a reference to a value that is not there.
            unsafe { *self.0.get() = Some(value) };
        }
        // SAFETY: as for `get`.
        Ok(unsafe { (*self.0.get()).as_ref() }.expect("it was just set"))
    }
}
