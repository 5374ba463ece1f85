//! A protection register that is a field in memory and writes down what is done to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use kpkeys::keyed::{Keyed, Register, Value};

/// What was done to the register, reads apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The register was written.
    Write(u64),
    /// The barrier that makes a write effective was issued.
    Barrier,
}

/// The register. Clones are the same register, so a test can keep one while a backend owns the other.
#[derive(Clone, Debug, Default)]
pub struct Fake<const NEEDS_BARRIER: bool> {
    value: Rc<Cell<u64>>,
    log: Rc<RefCell<Vec<Done>>>,
}

impl<const NEEDS_BARRIER: bool> Fake<NEEDS_BARRIER> {
    /// A register with this value.
    pub fn new(value: u64) -> Self {
        Fake { value: Rc::new(Cell::new(value)), log: Rc::default() }
    }

    /// A register with this value, and a backend by keys that uses it.
    #[allow(dead_code, reason = "each test program uses its own part")]
    pub fn with_backend<E: kpkeys::encoding::Encoding>(value: u64) -> (Self, Keyed<Self, E>) {
        let register = Fake::new(value);
        (register.clone(), Keyed::new(register))
    }

    /// Changes the value without being asked to by software: what hardware does when it takes an exception. Returns the value
    /// before.
    #[allow(dead_code, reason = "each test program uses its own part")]
    pub fn hardware_sets(&self, value: u64) -> u64 {
        self.value.replace(value)
    }

    /// The value now.
    #[allow(dead_code, reason = "each test program uses its own part")]
    pub fn value(&self) -> u64 {
        self.value.get()
    }

    /// What was done since this was last asked.
    pub fn done(&self) -> Vec<Done> {
        self.log.take()
    }
}

// SAFETY: there is one register and one thread, which `Rc` sees to; reads return what was last written; nothing is enforced, so
// there is no access to be ordered.
unsafe impl<const NEEDS_BARRIER: bool> Register for Fake<NEEDS_BARRIER> {
    const NEEDS_BARRIER: bool = NEEDS_BARRIER;

    fn read(&self) -> u64 {
        self.value.get()
    }

    fn write(&self, value: Value) {
        self.value.set(value.bits());
        self.log.borrow_mut().push(Done::Write(value.bits()));
    }

    fn synchronize(&self) {
        self.log.borrow_mut().push(Done::Barrier);
    }
}
