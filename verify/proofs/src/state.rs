//! What instructions act on, as terms of the solver: registers, flags, the stack, and constants of this program.

use std::collections::BTreeMap;
use std::fs;

use iced_x86::Register;
use z3::ast::{Ast, BV, Bool};

/// Where the stack of a property begins: an address that nothing else has.
pub const STACK: u64 = 0x0000_7000_0000_0000;
/// Where it returns to.
pub const RETURN: u64 = 0x0000_7000_dead_0000;

/// The condition flags; `None` where an instruction leaves one undefined.
#[derive(Clone, Default)]
pub struct Flags {
    /// Carry.
    pub carry: Option<Bool>,
    /// Zero.
    pub zero: Option<Bool>,
    /// Sign.
    pub sign: Option<Bool>,
    /// Overflow.
    pub overflow: Option<Bool>,
}

/// One path's state.
#[derive(Clone)]
pub struct State {
    registers: [BV; 16],
    vectors: BTreeMap<usize, BV>,
    /// The flags.
    pub flags: Flags,
    /// The next instruction.
    pub next: u64,
    /// Bytes of the stack that were stored.
    stack: BTreeMap<u64, BV>,
    /// What must hold for this path to be taken.
    pub conditions: Vec<Bool>,
    /// Arguments that take it.
    pub witness: [u64; 4],
    /// Terms whose value this path was split by.
    pub known: Vec<(BV, u64)>,
}

impl State {
    /// At the start of a function, with these arguments.
    pub fn new(function: u64, arguments: &[BV]) -> State {
        let unknown = |i: usize| BV::fresh_const(&format!("r{i}"), 64);
        let mut state = State {
            registers: core::array::from_fn(unknown),
            vectors: BTreeMap::new(),
            flags: Flags::default(),
            next: function,
            stack: BTreeMap::new(),
            conditions: Vec::new(),
            witness: [0; 4],
            known: Vec::new(),
        };
        // System V: RDI, RSI, RDX, RCX.
        let places = [Register::RDI, Register::RSI, Register::RDX, Register::RCX];
        for (place, argument) in places.into_iter().zip(arguments) {
            state.registers[place.number()] = argument.clone();
        }
        state.registers[Register::RSP.number()] = BV::from_u64(STACK, 64);
        state.push(&BV::from_u64(RETURN, 64));
        state
    }

    /// A register, as wide as it is.
    pub fn register(&self, register: Register) -> BV {
        if register.is_xmm() {
            let number = register.number();
            return self
                .vectors
                .get(&number)
                .cloned()
                .unwrap_or_else(|| BV::fresh_const("xmm", 128));
        }
        let full = &self.registers[register.full_register().number()];
        let bits = register.size() as u32 * 8;
        match register {
            Register::AH | Register::BH | Register::CH | Register::DH => {
                self.registers[register.full_register().number()].extract(15, 8)
            }
            _ if bits == 64 => full.clone(),
            _ => full.extract(bits - 1, 0),
        }
    }

    /// Writes a register: one of 32 bits clears the rest, narrower ones keep it.
    pub fn set_register(&mut self, register: Register, value: BV) {
        if register.is_xmm() {
            self.vectors.insert(register.number(), value.simplify());
            return;
        }
        let number = register.full_register().number();
        let full = &self.registers[number];
        let value = match (register, register.size()) {
            (Register::AH | Register::BH | Register::CH | Register::DH, _) => {
                full.extract(63, 16).concat(&value).concat(full.extract(7, 0))
            }
            (_, 8) => value,
            (_, 4) => value.zero_ext(32),
            (_, 2) => full.extract(63, 16).concat(&value),
            _ => full.extract(63, 8).concat(&value),
        };
        self.registers[number] = value.simplify();
    }

    /// Pushes a word.
    pub fn push(&mut self, value: &BV) {
        let top = self.register(Register::RSP).bvsub(BV::from_u64(8, 64)).simplify();
        let address = top.as_u64().expect("the stack pointer is known");
        self.set_register(Register::RSP, top);
        self.store(address, value);
    }

    /// Pops a word.
    pub fn pop(&mut self) -> Result<BV, String> {
        let top = self.register(Register::RSP);
        let address = top.as_u64().ok_or("the stack pointer is not known")?;
        let value = self.load(address, 8)?;
        self.set_register(Register::RSP, top.bvadd(BV::from_u64(8, 64)));
        Ok(value)
    }

    /// Stores to the stack.
    pub fn store(&mut self, address: u64, value: &BV) {
        for byte in 0..value.get_size() / 8 {
            let low = byte * 8;
            self.stack.insert(address + u64::from(byte), value.extract(low + 7, low).simplify());
        }
    }

    /// Whether an address is on the stack of the property.
    pub fn is_stack(address: u64) -> bool {
        (STACK - (1 << 20)..STACK + (1 << 12)).contains(&address)
    }

    /// Loads from the stack, or from constants of this program.
    pub fn load(&self, address: u64, bytes: u32) -> Result<BV, String> {
        let byte = |address: u64| -> Result<BV, String> {
            if let Some(value) = self.stack.get(&address) {
                return Ok(value.clone());
            }
            if Self::is_stack(address) {
                return Ok(BV::fresh_const("unset", 8));
            }
            constant(address).map(|value| BV::from_u64(value.into(), 8))
        };
        let mut value = byte(address + u64::from(bytes) - 1)?;
        for index in (0..bytes - 1).rev() {
            value = value.concat(byte(address + u64::from(index))?);
        }
        Ok(value.simplify())
    }
}

/// A byte of this program that cannot be written: its code, or a constant.
///
/// # Errors
///
/// The address, if it is none.
pub fn constant(address: u64) -> Result<u8, String> {
    thread_local! {
        static READ_ONLY: Vec<(u64, u64)> = read_only();
    }
    let is_constant = READ_ONLY
        .with(|ranges| ranges.iter().any(|(start, end)| (*start..*end).contains(&address)));
    if !is_constant {
        return Err(format!("memory at {address:#x} is not constant"));
    }
    // SAFETY: the address lies in a mapping of this program's file that is readable and not writable, and stays.
    Ok(unsafe { std::ptr::with_exposed_provenance::<u8>(address as usize).read() })
}

/// Mappings of files that can be read and not written.
fn read_only() -> Vec<(u64, u64)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let is_file = words.nth(3).is_some_and(|name| name.starts_with('/'));
        let (start, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        (rights.starts_with("r-") && is_file).then_some((number(start)?, number(end)?))
    };
    maps.lines().filter_map(line).collect()
}
