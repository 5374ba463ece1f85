//! What registers hold at an instruction, by carrying out what ran right before it.

use iced_x86::{
    Code, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind, Register,
};

use super::kinds::WrmsrnsImmediate;
use crate::value::Value;

/// What an instruction writes, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operand {
    /// The value.
    pub value: Value,
    /// The model-specific register.
    pub msr: Option<Value>,
}

/// The operand of `instruction`, before which `block` ran from its first instruction to its last.
pub fn operand(
    block: &[Instruction],
    instruction: &Instruction,
    info: &mut InstructionInfoFactory,
) -> Operand {
    let mut registers = || Registers::after(block, info);
    let only = |value| Operand { value, msr: None };
    match instruction.mnemonic() {
        M::Wrmsr | M::Wrmsrns => {
            let registers = registers();
            Operand { value: registers.edx_eax(), msr: Some(registers.low(Register::ECX)) }
        }
        M::Wrpkru => only(registers().low(Register::EAX)),
        M::Mov => only(registers().get(instruction.op1_register())),
        M::Ltr | M::Lldt | M::Lmsw if instruction.op0_kind() == OpKind::Register => {
            only(registers().get(instruction.op0_register()).word())
        }
        M::Stac | M::Clac => only(Value::Fixed),
        _ => only(Value::Memory),
    }
}

/// The operand of WRMSRNS with the register as an immediate.
pub fn immediate(
    block: &[Instruction],
    immediate: WrmsrnsImmediate,
    info: &mut InstructionInfoFactory,
) -> Operand {
    let registers = Registers::after(block, info);
    Operand { value: registers.0[usize::from(immediate.from & 15)], msr: Some(immediate.msr) }
}

/// The general registers, by number.
struct Registers([Value; 16]);

impl Registers {
    fn after(block: &[Instruction], info: &mut InstructionInfoFactory) -> Self {
        let mut registers = Registers([Value::Unknown; 16]);
        block.iter().for_each(|instruction| registers.step(instruction, info));
        registers
    }

    fn get(&self, register: Register) -> Value {
        index(register).map_or(Value::Unknown, |index| self.0[index])
    }

    /// The low half.
    fn low(&self, register: Register) -> Value {
        match self.get(register) {
            Value::Constant(value) => Value::Constant(value & 0xffff_ffff),
            other => other,
        }
    }

    fn edx_eax(&self) -> Value {
        match (self.low(Register::EDX), self.low(Register::EAX)) {
            (Value::Constant(high), Value::Constant(low)) => Value::Constant(high << 32 | low),
            (high, low) => high.with(low),
        }
    }

    fn set(&mut self, register: Register, value: Value) {
        if let Some(index) = index(register) {
            self.0[index] = match value {
                // A write of 32 bits clears the upper half (SDM volume 1, section 3.4.1.1).
                Value::Constant(value) if register.is_gpr32() => {
                    Value::Constant(value & 0xffff_ffff)
                }
                other => other,
            };
        }
    }

    fn step(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        if let Some(value) = self.exact(instruction) {
            return self.set(instruction.op0_register(), value);
        }
        if matches!(instruction.mnemonic(), M::Call | M::Syscall | M::Vmcall | M::Vmmcall) {
            return self.call();
        }
        let used = info.info(instruction);
        let reads = |access| {
            matches!(
                access,
                OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
        };
        let writes = |access| {
            matches!(
                access,
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            )
        };
        let loads = used.used_memory().iter().any(|memory| reads(memory.access()));
        let value = if loads { Value::Memory } else { self.origin(instruction, used, reads) };
        for register in used.used_registers().iter().filter(|used| writes(used.access())) {
            self.set(register.register(), value);
        }
    }

    /// Where the result of an instruction comes from that is not carried out.
    fn origin(
        &self,
        instruction: &Instruction,
        used: &iced_x86::InstructionInfo,
        reads: impl Fn(OpAccess) -> bool,
    ) -> Value {
        match instruction.mnemonic() {
            M::Rdmsr | M::Rdpkru | M::Xgetbv | M::Smsw => return Value::Register,
            M::Mov if matches!(instruction.code(), Code::Mov_r64_cr | Code::Mov_r32_cr) => {
                return Value::Register;
            }
            M::Lea if instruction.is_ip_rel_memory_operand() => return Value::Address,
            M::Cpuid | M::Rdtsc | M::Rdtscp | M::Rdrand | M::Rdseed | M::In => {
                return Value::Unknown;
            }
            _ => {}
        }
        let sources = used.used_registers().iter().filter(|used| reads(used.access()));
        let known = sources.filter_map(|used| index(used.register())).map(|index| self.0[index]);
        known.reduce(Value::with).map_or(Value::Unknown, Value::computed)
    }

    /// The result of the few operations that constants are made by.
    fn exact(&self, instruction: &Instruction) -> Option<Value> {
        let to = instruction.op0_register();
        if instruction.op0_kind() != OpKind::Register || !(to.is_gpr32() || to.is_gpr64()) {
            return None;
        }
        let is_self =
            instruction.op1_kind() == OpKind::Register && instruction.op1_register() == to;
        match instruction.mnemonic() {
            M::Mov => self.source(instruction),
            M::Xor | M::Sub if is_self => Some(Value::Constant(0)),
            M::Lea => self.lea(instruction),
            mnemonic => {
                let Value::Constant(old) = self.get(to) else { return None };
                let Value::Constant(with) = self.source(instruction)? else { return None };
                let old = if to.is_gpr32() { old & 0xffff_ffff } else { old };
                let bits = if to.is_gpr32() { 31 } else { 63 };
                let value = match mnemonic {
                    M::Or => old | with,
                    M::And => old & with,
                    M::Xor => old ^ with,
                    M::Add => old.wrapping_add(with),
                    M::Sub => old.wrapping_sub(with),
                    M::Shl => old << (with & bits),
                    M::Shr => old >> (with & bits),
                    _ => return None,
                };
                Some(Value::Constant(value))
            }
        }
    }

    /// The second operand, if it is an immediate or a whole register.
    fn source(&self, instruction: &Instruction) -> Option<Value> {
        match instruction.op1_kind() {
            OpKind::Register if instruction.op1_register().is_gpr64() => {
                Some(self.get(instruction.op1_register()))
            }
            OpKind::Register if instruction.op1_register().is_gpr32() => {
                Some(self.low(instruction.op1_register()))
            }
            OpKind::Immediate8
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some(Value::Constant(instruction.immediate(1))),
            _ => None,
        }
    }

    fn lea(&self, instruction: &Instruction) -> Option<Value> {
        if instruction.is_ip_rel_memory_operand() || instruction.memory_index() != Register::None {
            return None;
        }
        match (instruction.memory_base(), self.get(instruction.memory_base())) {
            (Register::None, _) => Some(Value::Constant(instruction.memory_displacement64())),
            (_, Value::Constant(base)) => {
                Some(Value::Constant(base.wrapping_add(instruction.memory_displacement64())))
            }
            _ => None,
        }
    }

    /// A call leaves RBX, RBP and R12 to R15 alone, in the System V ABI and in Microsoft's.
    fn call(&mut self) {
        const KEPT: [usize; 6] = [3, 5, 12, 13, 14, 15];
        for (index, value) in self.0.iter_mut().enumerate() {
            if !KEPT.contains(&index) {
                *value = Value::Unknown;
            }
        }
    }
}

impl Value {
    fn word(self) -> Value {
        match self {
            Value::Constant(value) => Value::Constant(value & 0xffff),
            other => other,
        }
    }
}

fn index(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}
