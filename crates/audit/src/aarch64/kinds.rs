//! Which instructions are looked for, by the Arm Architecture Reference Manual (DDI 0487): C6.2 "MSR (register)", "MSR (immediate)",
//! "MSRR", "ERET"; D24.2 and C5.2 for the encodings of the registers. What it does not have yet says so.

use crate::kind::Kind;

/// What an instruction writes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// A general register, by number; 31 is zero.
    Register(u8),
    /// This number, in the instruction.
    Immediate(u64),
    /// A system register that was written before.
    Saved,
}

/// A system register: op0, op1, CRn, CRm, op2.
type Encoding = (u32, u32, u32, u32, u32);

macro_rules! registers {
    ($(($($field:literal),*) = $text:literal, $writes:literal;)*) => {
        /// Registers that are looked for.
        const REGISTERS: &[(Encoding, Kind)] =
            &[$((($($field),*), Kind::new($text, $writes))),*];
    };
}

registers! {
    (3, 0, 1, 0, 0) = "msr sctlr_el1", "paging, WXN, SPAN";
    (3, 0, 1, 0, 3) = "msr sctlr2_el1", "more of SCTLR_EL1";
    (3, 0, 2, 0, 0) = "msr ttbr0_el1", "the root of the tables of the lower half";
    (3, 0, 2, 0, 1) = "msr ttbr1_el1", "the root of the tables of the upper half";
    (3, 0, 2, 0, 2) = "msr tcr_el1", "sizes of the halves, E0PD, HPD";
    (3, 0, 2, 0, 3) = "msr tcr2_el1", "POE, PIE";
    (3, 0, 4, 0, 0) = "msr spsr_el1", "PSTATE after the next ERET: PAN, UAO, DAIF";
    (3, 0, 4, 0, 1) = "msr elr_el1", "where the next ERET goes";
    (3, 0, 4, 2, 3) = "msr pan", "PSTATE.PAN";
    (3, 0, 4, 2, 4) = "msr uao", "PSTATE.UAO: unprivileged accesses are privileged ones";
    (3, 0, 4, 3, 0) = "msr allint", "which interrupts wait";
    (3, 0, 10, 2, 0) = "msr mair_el1", "memory types";
    (3, 0, 10, 2, 2) = "msr pire0_el1", "permission indirection of EL0";
    (3, 0, 10, 2, 3) = "msr pir_el1", "permission indirection of EL1";
    (3, 0, 10, 2, 4) = "msr por_el1", "permission overlays of EL1";
    (3, 0, 12, 0, 0) = "msr vbar_el1", "where exceptions enter";
    (3, 0, 13, 0, 1) = "msr contextidr_el1", "the process identifier, which stands for POR_EL1 when measuring";
    (3, 3, 4, 2, 1) = "msr daif", "which interrupts wait";
    (3, 3, 10, 2, 4) = "msr por_el0", "permission overlays of EL0";
    (3, 4, 1, 0, 0) = "msr sctlr_el2", "as SCTLR_EL1, of EL2";
    (3, 4, 1, 1, 0) = "msr hcr_el2", "what EL2 traps, stage 2";
    (3, 4, 2, 0, 0) = "msr ttbr0_el2", "as TTBR0_EL1, of EL2";
    (3, 4, 2, 0, 1) = "msr ttbr1_el2", "as TTBR1_EL1, of EL2";
    (3, 4, 2, 0, 2) = "msr tcr_el2", "as TCR_EL1, of EL2";
    (3, 4, 2, 0, 3) = "msr tcr2_el2", "as TCR2_EL1, of EL2";
    (3, 4, 2, 1, 0) = "msr vttbr_el2", "the root of the stage 2 tables";
    (3, 4, 2, 1, 2) = "msr vtcr_el2", "control of stage 2";
    (3, 4, 4, 0, 0) = "msr spsr_el2", "as SPSR_EL1, of EL2";
    (3, 4, 4, 0, 1) = "msr elr_el2", "as ELR_EL1, of EL2";
    (3, 4, 10, 2, 0) = "msr mair_el2", "as MAIR_EL1, of EL2";
    (3, 4, 10, 2, 2) = "msr pire0_el2", "as PIRE0_EL1, of EL2";
    (3, 4, 10, 2, 3) = "msr pir_el2", "as PIR_EL1, of EL2";
    (3, 4, 10, 2, 4) = "msr por_el2", "as POR_EL1, of EL2";
    (3, 4, 12, 0, 0) = "msr vbar_el2", "as VBAR_EL1, of EL2";
    (3, 4, 13, 0, 1) = "msr contextidr_el2", "as CONTEXTIDR_EL1, of EL2";
    (3, 5, 1, 0, 0) = "msr sctlr_el12", "SCTLR_EL1, from EL2";
    (3, 5, 2, 0, 0) = "msr ttbr0_el12", "TTBR0_EL1, from EL2";
    (3, 5, 2, 0, 1) = "msr ttbr1_el12", "TTBR1_EL1, from EL2";
    (3, 5, 2, 0, 2) = "msr tcr_el12", "TCR_EL1, from EL2";
    (3, 5, 2, 0, 3) = "msr tcr2_el12", "TCR2_EL1, from EL2";
    (3, 5, 4, 0, 0) = "msr spsr_el12", "SPSR_EL1, from EL2";
    (3, 5, 10, 2, 0) = "msr mair_el12", "MAIR_EL1, from EL2";
    (3, 5, 10, 2, 2) = "msr pire0_el12", "PIRE0_EL1, from EL2";
    (3, 5, 10, 2, 3) = "msr pir_el12", "PIR_EL1, from EL2";
    (3, 5, 10, 2, 4) = "msr por_el12", "POR_EL1, from EL2";
    (3, 5, 12, 0, 0) = "msr vbar_el12", "VBAR_EL1, from EL2";
    (3, 5, 13, 0, 1) = "msr contextidr_el12", "CONTEXTIDR_EL1, from EL2";
}

/// PSTATE fields that MSR (immediate) writes: op1 and op2 (C5.1.3 and the pseudocode of the instruction).
const FIELDS: &[((u32, u32), Kind)] = &[
    ((0, 3), Kind::new("msr uao, imm", "PSTATE.UAO")),
    ((0, 4), Kind::new("msr pan, imm", "PSTATE.PAN")),
    ((1, 0), Kind::new("msr allint, imm", "which interrupts wait")),
    ((3, 6), Kind::new("msr daifset, imm", "which interrupts wait: masks some")),
    ((3, 7), Kind::new("msr daifclr, imm", "which interrupts wait: unmasks some")),
];

const ERET: Kind =
    Kind::new("eret", "PSTATE with PAN, UAO and DAIF, and where to go on, from SPSR and ELR");

/// Instructions of Arm's future architecture (FEAT_S1POE2, FEAT_TEV) that change by what index permissions are looked up: mask, pattern. Arm has
/// published their encodings, and no pseudocode yet. Bit 17, of TEXIT bit 10, is the form NB.
const INDEX: &[(u32, u32, Kind)] = &[
    (0xfffd_f01f, 0xd4e0_0000, Kind::new("tenter", "the permission index, by a vector")),
    (0xffff_fbff, 0xd6ff_03e0, TEXIT),
    (0xfffd_f000, 0xd590_0000, Kind::new("tchangef, imm", "the permission index")),
    (0xfffd_f000, 0xd594_0000, Kind::new("tchangeb, imm", "the permission index")),
    (0xfffd_fc00, 0xd580_0000, Kind::new("tchangef", "the permission index")),
    (0xfffd_fc00, 0xd584_0000, Kind::new("tchangeb", "the permission index")),
];

const TEXIT: Kind = Kind::new("texit", "the permission index, back");

/// Every kind.
pub fn all() -> impl Iterator<Item = Kind> {
    let registers = REGISTERS.iter().map(|(_, kind)| *kind);
    let index = INDEX.iter().map(|(_, _, kind)| *kind);
    registers.chain(FIELDS.iter().map(|(_, kind)| *kind)).chain([ERET]).chain(index)
}

/// The kind of an instruction, and what it writes from.
pub fn kind(word: u32) -> Option<(Kind, Operand)> {
    match word {
        // ERET, ERETAA, ERETAB.
        0xd69f_03e0 | 0xd69f_0bff | 0xd69f_0fff => Some((ERET, Operand::Saved)),
        _ => match word >> 20 {
            // MSR (register), and MSRR, which writes 128 bits: op0 is 2 or 3.
            0xd51 | 0xd55 => {
                let (_, kind) = REGISTERS.iter().find(|(encoding, _)| *encoding == fields(word))?;
                Some((*kind, Operand::Register((word & 31) as u8)))
            }
            // MSR (immediate): op0 is 0, CRn 4, Rt 31; CRm is the number.
            0xd50 => immediate(word),
            0xd4e | 0xd58 | 0xd59 | 0xd6f => index(word),
            _ => None,
        },
    }
}

fn immediate(word: u32) -> Option<(Kind, Operand)> {
    let (op0, op1, crn, crm, op2) = fields(word);
    if op0 != 0 || crn != 4 || word & 31 != 31 {
        return None;
    }
    let (_, kind) = FIELDS.iter().find(|(field, _)| *field == (op1, op2))?;
    let number = match op1 {
        // ALLINT shares its numbers with other fields: CRm is 000x (C5.1.3).
        1 if crm > 1 => return None,
        _ => crm,
    };
    Some((*kind, Operand::Immediate(number.into())))
}

fn index(word: u32) -> Option<(Kind, Operand)> {
    let (mask, _, kind) = INDEX.iter().find(|(mask, pattern, _)| word & mask == *pattern)?;
    let operand = match *mask {
        _ if *kind == TEXIT => Operand::Saved,
        0xfffd_fc00 => Operand::Register((word >> 5 & 31) as u8),
        _ => Operand::Immediate((word >> 5 & 127).into()),
    };
    Some((*kind, operand))
}

fn fields(word: u32) -> Encoding {
    let bits = |low: u32, count: u32| (word >> low) & ((1 << count) - 1);
    (bits(19, 2), bits(16, 3), bits(12, 4), bits(8, 4), bits(5, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(word: u32) -> Option<&'static str> {
        kind(word).map(|(kind, _)| kind.name())
    }

    /// As an assembler encodes them.
    #[test]
    fn encodings_are_told_apart() {
        let known = [
            (0xd518_a282, "msr por_el1"),
            (0xd518_d022, "msr contextidr_el1"),
            (0xd518_4262, "msr pan"),
            (0xd500_419f, "msr pan, imm"),
            (0xd500_409f, "msr pan, imm"),
            (0xd500_407f, "msr uao, imm"),
            (0xd503_42df, "msr daifset, imm"),
            (0xd503_42ff, "msr daifclr, imm"),
            (0xd51b_4220, "msr daif"),
            (0xd518_2040, "msr tcr_el1"),
            (0xd518_2063, "msr tcr2_el1"),
            (0xd518_1000, "msr sctlr_el1"),
            (0xd518_2000, "msr ttbr0_el1"),
            (0xd518_2021, "msr ttbr1_el1"),
            (0xd518_c000, "msr vbar_el1"),
            (0xd518_a260, "msr pir_el1"),
            (0xd51b_a280, "msr por_el0"),
            (0xd51c_1100, "msr hcr_el2"),
            (0xd558_2020, "msr ttbr1_el1"),
            (0xd69f_03e0, "eret"),
        ];
        for (word, expected) in known {
            assert_eq!(name(word), Some(expected), "{word:#x}");
        }
    }

    /// As the tests of LLVM and of GNU binutils have them.
    #[test]
    fn instructions_that_change_the_index_are_told_apart() {
        let known = [
            (0xd4e0_0400, "tenter", Operand::Immediate(32)),
            (0xd4e2_0400, "tenter", Operand::Immediate(32)),
            (0xd4e0_0fe0, "tenter", Operand::Immediate(127)),
            (0xd6ff_03e0, "texit", Operand::Saved),
            (0xd6ff_07e0, "texit", Operand::Saved),
            (0xd590_0fe3, "tchangef, imm", Operand::Immediate(127)),
            (0xd596_0020, "tchangeb, imm", Operand::Immediate(1)),
            (0xd580_03c0, "tchangef", Operand::Register(30)),
            (0xd586_0041, "tchangeb", Operand::Register(2)),
        ];
        for (word, name, operand) in known {
            let (found, from) = kind(word).unwrap();
            assert_eq!((found.name(), from), (name, operand), "{word:#x}");
        }
    }

    #[test]
    fn reads_barriers_and_other_registers_are_not_taken_for_writes() {
        // MRS POR_EL1, ISB, NOP, MSR TPIDR_EL1, MSR SPSEL #1, MSR DIT #1, SVC, RET; TENTER and TEXIT with a bit that must be zero, DRPS.
        let others = [
            0xd538_a282,
            0xd503_3fdf,
            0xd503_201f,
            0xd518_d080,
            0xd500_41bf,
            0xd503_415f,
            0xd400_0001,
            0xd65f_03c0,
            0xd4e0_1000,
            0xd4e0_0001,
            0xd6ff_03e1,
            0xd6bf_03e0,
        ];
        for word in others {
            assert_eq!(name(word), None, "{word:#x}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names: Vec<_> = all().map(Kind::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
