//! One instruction: what it makes of a state, by the Intel SDM vol. 2. What is not here is refused, never guessed.

use iced_x86::{ConditionCode, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use z3::ast::{Ast, BV, Bool};

use crate::state::{Flags, State, constant};

/// How a path goes on after an instruction.
pub enum Next {
    /// With the instruction after it.
    On,
    /// At this address, which may be one of several.
    At(BV),
    /// There, if this holds; otherwise with the instruction after it.
    If(Bool, u64),
    /// The function is done.
    Returned,
}

/// Something whose value must be known before the instruction can be carried out.
pub enum Stop {
    /// An address with several possible values: the path is to be split by them.
    Split(BV),
    /// What is not understood, or leads to a panic.
    Refused(String),
}

impl From<String> for Stop {
    fn from(text: String) -> Stop {
        Stop::Refused(text)
    }
}

/// Decodes the instruction at an address.
pub fn decode(address: u64) -> Result<Instruction, String> {
    let bytes: Vec<u8> = (0..15).map_while(|i| constant(address + i).ok()).collect();
    let mut decoder = Decoder::with_ip(64, &bytes, address, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        Err(format!("no instruction at {address:#x}"))
    } else {
        Ok(instruction)
    }
}

fn word(value: u64, bits: u32) -> BV {
    BV::from_u64(value, bits)
}

fn is_zero(value: &BV) -> Bool {
    value.eq(word(0, value.get_size()))
}

fn bit(value: &BV, index: u32) -> Bool {
    value.extract(index, index).eq(word(1, 1))
}

/// One instruction on one state.
pub struct Step<'s> {
    /// The state.
    pub state: &'s mut State,
    /// The instruction.
    pub instruction: Instruction,
}

impl Step<'_> {
    /// Carries it out.
    ///
    /// # Errors
    ///
    /// [`Stop`].
    pub fn run(&mut self) -> Result<Next, Stop> {
        use Mnemonic as M;
        match self.instruction.mnemonic() {
            M::Nop | M::Endbr64 => (),
            M::Mov | M::Movaps | M::Movups | M::Movdqa | M::Movdqu | M::Movapd | M::Movupd => {
                let value = self.operand(1)?;
                self.set(0, value)?;
            }
            M::Movzx => {
                let value = self.operand(1)?;
                let bits = self.bits(0);
                self.set(0, value.zero_ext(bits - value.get_size()))?;
            }
            M::Movsx | M::Movsxd => {
                let value = self.operand(1)?;
                let bits = self.bits(0);
                self.set(0, value.sign_ext(bits - value.get_size()))?;
            }
            M::Lea => {
                let address = self.address()?;
                let bits = self.bits(0);
                self.set(0, if bits == 64 { address } else { address.extract(bits - 1, 0) })?;
            }
            M::Add => self.add(false)?,
            M::Adc => self.add(true)?,
            M::Sub | M::Cmp => self.subtract(false)?,
            M::Sbb => self.subtract(true)?,
            M::Inc | M::Dec => self.step_by_one()?,
            M::And | M::Test => self.logic(|a, b| a.bvand(b))?,
            M::Or => self.logic(|a, b| a.bvor(b))?,
            M::Xor => self.logic(|a, b| a.bvxor(b))?,
            M::Xorps | M::Pxor | M::Xorpd => {
                let value = self.operand(0)?.bvxor(self.operand(1)?);
                self.set(0, value)?;
            }
            M::Not => {
                let value = self.operand(0)?.bvnot();
                self.set(0, value)?;
            }
            M::Neg => {
                let value = self.operand(0)?;
                let zero = word(0, value.get_size());
                self.state.flags = difference(&zero, &value, None);
                self.set(0, value.bvneg())?;
            }
            M::Shl | M::Shr | M::Sar | M::Rol | M::Ror => self.shift()?,
            M::Imul => self.multiply()?,
            M::Bt | M::Bts | M::Btr | M::Btc => self.bit_test()?,
            M::Cdqe => self.extend_rax(Register::EAX, Register::RAX),
            M::Xchg => {
                let (a, b) = (self.operand(0)?, self.operand(1)?);
                self.set(0, b)?;
                self.set(1, a)?;
            }
            M::Push => {
                let value = self.operand(0)?;
                let value = if value.get_size() == 64 {
                    value
                } else {
                    value.sign_ext(64 - value.get_size())
                };
                self.state.push(&value);
            }
            M::Pop => {
                let value = self.state.pop()?;
                self.set(0, value)?;
            }
            M::Ret => {
                let to = self.state.pop()?;
                return Ok(match to.as_u64() {
                    Some(crate::state::RETURN) => Next::Returned,
                    _ => Next::At(to),
                });
            }
            M::Call => {
                let to = self.operand(0)?;
                self.state.push(&word(self.instruction.next_ip(), 64));
                return Ok(Next::At(to));
            }
            M::Jmp => return Ok(Next::At(self.operand(0)?)),
            M::Ud2 => return Err(Stop::Refused("a panic".into())),
            _ if self.instruction.is_jcc_short_or_near() => {
                return Ok(Next::If(self.condition()?, self.instruction.near_branch_target()));
            }
            _ if self.is_conditional(1) => {
                let value = self.condition()?.ite(&word(1, 8), &word(0, 8));
                self.set(0, value)?;
            }
            _ if self.is_conditional(2) => {
                let value = self.condition()?.ite(&self.operand(1)?, &self.operand(0)?);
                self.set(0, value)?;
            }
            other => return Err(Stop::Refused(format!("instruction {other:?}"))),
        }
        Ok(Next::On)
    }

    /// Whether it is one of SETcc, of one operand, or of CMOVcc, of two.
    fn is_conditional(&self, operands: u32) -> bool {
        self.instruction.condition_code() != ConditionCode::None
            && self.instruction.op_count() == operands
    }

    /// How wide an operand is.
    fn bits(&self, operand: u32) -> u32 {
        match self.instruction.op_kind(operand) {
            OpKind::Register => self.instruction.op_register(operand).size() as u32 * 8,
            OpKind::Memory => self.instruction.memory_size().size() as u32 * 8,
            // As wide as what it goes with.
            _ => match self.instruction.op_kind(0) {
                OpKind::Register => self.instruction.op_register(0).size() as u32 * 8,
                OpKind::Memory => self.instruction.memory_size().size() as u32 * 8,
                _ => 64,
            },
        }
    }

    fn operand(&self, operand: u32) -> Result<BV, Stop> {
        Ok(match self.instruction.op_kind(operand) {
            OpKind::Register => self.state.register(self.instruction.op_register(operand)),
            OpKind::Memory => self.state.load(self.known_address()?, self.bits(operand) / 8)?,
            OpKind::NearBranch64 => word(self.instruction.near_branch64(), 64),
            _ => word(self.instruction.immediate(operand), self.bits(operand)),
        })
    }

    fn set(&mut self, operand: u32, value: BV) -> Result<(), Stop> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => {
                self.state.set_register(self.instruction.op_register(operand), value);
            }
            _ => {
                let address = self.known_address()?;
                if !State::is_stack(address) {
                    return Err(Stop::Refused(format!("a store to {address:#x}")));
                }
                self.state.store(address, &value);
            }
        }
        Ok(())
    }

    fn address(&self) -> Result<BV, Stop> {
        let instruction = &self.instruction;
        if instruction.segment_prefix() != Register::None {
            return Err(Stop::Refused("memory by a segment".into()));
        }
        let mut address = word(instruction.memory_displacement64(), 64);
        // iced counts RIP into the displacement.
        if !matches!(instruction.memory_base(), Register::None | Register::RIP) {
            address = address.bvadd(self.state.register(instruction.memory_base()));
        }
        if instruction.memory_index() != Register::None {
            let scale = word(instruction.memory_index_scale().into(), 64);
            address = address.bvadd(self.state.register(instruction.memory_index()).bvmul(scale));
        }
        Ok(address.simplify())
    }

    fn known_address(&self) -> Result<u64, Stop> {
        let address = self.address()?;
        let known = self.state.known.iter().find(|(term, _)| *term == address);
        address.as_u64().or(known.map(|(_, value)| *value)).ok_or(Stop::Split(address))
    }

    fn add(&mut self, with_carry: bool) -> Result<(), Stop> {
        let (a, b) = (self.operand(0)?, self.operand(1)?);
        let bits = a.get_size();
        let carry =
            if with_carry { self.flag(&self.state.flags.carry)? } else { Bool::from_bool(false) };
        let carry = carry.ite(&word(1, bits + 1), &word(0, bits + 1));
        let wide = a.zero_ext(1).bvadd(b.zero_ext(1)).bvadd(carry);
        let sum = wide.extract(bits - 1, 0);
        let (sa, sb, ss) = (bit(&a, bits - 1), bit(&b, bits - 1), bit(&sum, bits - 1));
        self.state.flags = Flags {
            carry: Some(bit(&wide, bits)),
            zero: Some(is_zero(&sum)),
            sign: Some(ss.clone()),
            overflow: Some(Bool::and(&[sa.eq(&sb), sa.eq(&ss).not()])),
        };
        self.set(0, sum)
    }

    fn subtract(&mut self, with_borrow: bool) -> Result<(), Stop> {
        let (a, b) = (self.operand(0)?, self.operand(1)?);
        let borrow = if with_borrow { Some(self.flag(&self.state.flags.carry)?) } else { None };
        let bits = a.get_size();
        let less = borrow
            .as_ref()
            .map_or(word(0, bits), |borrow| borrow.ite(&word(1, bits), &word(0, bits)));
        self.state.flags = difference(&a, &b, borrow.as_ref());
        if self.instruction.mnemonic() == Mnemonic::Cmp {
            return Ok(());
        }
        self.set(0, a.bvsub(b).bvsub(less))
    }

    fn step_by_one(&mut self) -> Result<(), Stop> {
        let a = self.operand(0)?;
        let bits = a.get_size();
        let (one, top) = (word(1, bits), word(1, bits).bvshl(word(u64::from(bits) - 1, bits)));
        let (value, overflow) = match self.instruction.mnemonic() {
            Mnemonic::Inc => (a.bvadd(&one), a.bvadd(&one).eq(&top)),
            _ => (a.bvsub(&one), a.eq(&top)),
        };
        let carry = self.state.flags.carry.take();
        self.state.flags = Flags { carry, overflow: Some(overflow), ..of_result(&value) };
        self.set(0, value)
    }

    fn logic(&mut self, f: impl Fn(&BV, &BV) -> BV) -> Result<(), Stop> {
        let value = f(&self.operand(0)?, &self.operand(1)?);
        self.state.flags = of_result(&value);
        if self.instruction.mnemonic() == Mnemonic::Test {
            return Ok(());
        }
        self.set(0, value)
    }

    fn shift(&mut self) -> Result<(), Stop> {
        let a = self.operand(0)?;
        let bits = a.get_size();
        let count = match self.instruction.op_count() {
            1 => word(1, 8),
            _ => self.operand(1)?,
        };
        let count = if count.get_size() > 8 { count.extract(7, 0) } else { count };
        let count = count.bvand(word(if bits == 64 { 63 } else { 31 }, 8)).simplify();
        let wide = if bits > 8 { count.zero_ext(bits - 8) } else { count.clone() };
        let value = match self.instruction.mnemonic() {
            Mnemonic::Shl => a.bvshl(wide),
            Mnemonic::Shr => a.bvlshr(wide),
            Mnemonic::Sar => a.bvashr(wide),
            Mnemonic::Rol => a.bvrotl(wide),
            _ => a.bvrotr(wide),
        };
        let rotates = matches!(self.instruction.mnemonic(), Mnemonic::Rol | Mnemonic::Ror);
        self.state.flags = match count.as_u64() {
            Some(0) => self.state.flags.clone(),
            // Carry and overflow are the last bit shifted out and the like: whoever asks is refused.
            Some(_) if !rotates => Flags { carry: None, overflow: None, ..of_result(&value) },
            _ => Flags::default(),
        };
        self.set(0, value)
    }

    fn multiply(&mut self) -> Result<(), Stop> {
        let value = match self.instruction.op_count() {
            2 => self.operand(0)?.bvmul(self.operand(1)?),
            3 => self.operand(1)?.bvmul(self.operand(2)?),
            _ => return Err(Stop::Refused("a wide product".into())),
        };
        self.state.flags = Flags::default();
        self.set(0, value)
    }

    fn bit_test(&mut self) -> Result<(), Stop> {
        if self.instruction.op_kind(0) != OpKind::Register {
            return Err(Stop::Refused("a bit of memory".into()));
        }
        let (a, index) = (self.operand(0)?, self.operand(1)?);
        let bits = a.get_size();
        let index = index.bvand(word(u64::from(bits) - 1, bits));
        let mask = word(1, bits).bvshl(&index);
        let carry = is_zero(&a.bvand(&mask)).not();
        self.state.flags =
            Flags { carry: Some(carry), zero: self.state.flags.zero.take(), ..Flags::default() };
        match self.instruction.mnemonic() {
            Mnemonic::Bts => self.set(0, a.bvor(mask)),
            Mnemonic::Btr => self.set(0, a.bvand(mask.bvnot())),
            Mnemonic::Btc => self.set(0, a.bvxor(mask)),
            _ => Ok(()),
        }
    }

    fn extend_rax(&mut self, from: Register, to: Register) {
        let value = self.state.register(from);
        let bits = to.size() as u32 * 8;
        self.state.set_register(to, value.sign_ext(bits - value.get_size()));
    }

    fn flag(&self, flag: &Option<Bool>) -> Result<Bool, Stop> {
        flag.clone().ok_or_else(|| {
            Stop::Refused(format!("a flag that is not kept, by {:?}", self.instruction.mnemonic()))
        })
    }

    fn condition(&self) -> Result<Bool, Stop> {
        use ConditionCode as C;
        let flags = &self.state.flags;
        let carry = || self.flag(&flags.carry);
        let zero = || self.flag(&flags.zero);
        let sign = || self.flag(&flags.sign);
        let less = || Ok::<_, Stop>(self.flag(&flags.sign)?.eq(self.flag(&flags.overflow)?).not());
        Ok(match self.instruction.condition_code() {
            C::o => self.flag(&flags.overflow)?,
            C::no => self.flag(&flags.overflow)?.not(),
            C::b => carry()?,
            C::ae => carry()?.not(),
            C::e => zero()?,
            C::ne => zero()?.not(),
            C::be => Bool::or(&[carry()?, zero()?]),
            C::a => Bool::or(&[carry()?, zero()?]).not(),
            C::s => sign()?,
            C::ns => sign()?.not(),
            C::l => less()?,
            C::ge => less()?.not(),
            C::le => Bool::or(&[less()?, zero()?]),
            C::g => Bool::or(&[less()?, zero()?]).not(),
            other => return Err(Stop::Refused(format!("condition {other:?}"))),
        })
    }
}

/// Flags of a result that neither carries nor overflows.
fn of_result(value: &BV) -> Flags {
    let no = || Some(Bool::from_bool(false));
    let sign = bit(value, value.get_size() - 1);
    Flags { carry: no(), zero: Some(is_zero(value)), sign: Some(sign), overflow: no() }
}

/// Flags of a difference.
fn difference(a: &BV, b: &BV, borrow: Option<&Bool>) -> Flags {
    let bits = a.get_size();
    let less = borrow
        .map_or(word(0, bits + 1), |borrow| borrow.ite(&word(1, bits + 1), &word(0, bits + 1)));
    let wide = a.zero_ext(1).bvsub(b.zero_ext(1)).bvsub(less);
    let value = wide.extract(bits - 1, 0);
    let (sa, sb, sv) = (bit(a, bits - 1), bit(b, bits - 1), bit(&value, bits - 1));
    Flags {
        carry: Some(bit(&wide, bits)),
        zero: Some(is_zero(&value)),
        sign: Some(sv.clone()),
        overflow: Some(Bool::and(&[sa.eq(&sb).not(), sa.eq(&sv).not()])),
    }
}
