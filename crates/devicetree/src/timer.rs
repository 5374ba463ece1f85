//! The generic timer's interrupts (Linux, bindings `arm,arch_timer.yaml`).

use crate::error::{Error, Problem};
use crate::gic;
use crate::interrupts::{self, Interrupt};
use crate::node::{Node, number};

/// A private peripheral interrupt's number, 0 to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ppi(u8);

impl Ppi {
    /// 0 to 15.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number the interrupt controller knows it by: PPIs are INTID 16 to 31 (IHI 0069,
    /// 2.2.1).
    pub const fn intid(self) -> u32 {
        16 + self.0 as u32
    }
}

/// Which interrupt each of a CPU's timers raises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// The physical timer of Secure EL1.
    pub secure: Option<Ppi>,
    /// The physical timer of Non-secure EL1, CNTP.
    pub non_secure: Option<Ppi>,
    /// The virtual timer, CNTV.
    pub virtual_: Option<Ppi>,
    /// The physical timer of EL2, CNTHP.
    pub hypervisor: Option<Ppi>,
}

const PPI: u64 = 1;

/// The timers; one of the two that EL1 has must be among them.
pub(crate) fn find(root: &Node) -> Result<Timer, Error> {
    let is_timer = |node: &Node| {
        node.is_compatible(&["arm,armv8-timer", "arm,armv7-timer"]) && node.is_available()
    };
    let node = root.find(&is_timer).ok_or_else(|| {
        root.error("", Problem::Missing("a timer compatible with arm,armv8-timer"))
    })?;
    let timer = read(root, &node)?;
    if timer.non_secure.is_none() && timer.virtual_.is_none() {
        let expected = "the interrupt of the Non-secure or of the virtual timer";
        return Err(node.error("interrupts", Problem::Missing(expected)));
    }
    Ok(timer)
}

fn read<'a>(root: &Node<'a>, node: &Node<'a>) -> Result<Timer, Error> {
    let mut names = node.property("interrupt-names").map(|names| names.split(|byte| *byte == 0));
    // Without names the order is fixed.
    let mut order = ["sec-phys", "phys", "virt", "hyp-phys"].into_iter().map(str::as_bytes);
    let mut timer = Timer::default();
    for interrupt in interrupts::of(root, node)? {
        let name = names.as_mut().map_or_else(|| order.next(), Iterator::next);
        let slot = match name {
            Some(b"sec-phys") => &mut timer.secure,
            Some(b"phys") => &mut timer.non_secure,
            Some(b"virt") => &mut timer.virtual_,
            Some(b"hyp-phys") => &mut timer.hypervisor,
            // The virtual timer of EL2, or one this kernel does not know.
            _ => continue,
        };
        *slot = Some(ppi(node, &interrupt)?);
    }
    Ok(timer)
}

/// An interrupt of a GIC: its kind, its number within that kind, and how it is triggered.
fn ppi(node: &Node, interrupt: &Interrupt) -> Result<Ppi, Error> {
    let problem = |problem| Err(node.error("interrupts", problem));
    let &[kind, found, _, ..] = interrupt.cells.as_chunks::<4>().0 else {
        return problem(Problem::Missing("interrupts of three cells or more, as a GIC has them"));
    };
    if !gic::is_gic(&interrupt.controller) {
        return problem(Problem::Missing("interrupts of a GIC"));
    }
    let (kind, found) = (number(&kind), number(&found));
    if kind != PPI {
        let expected = "1, a private peripheral interrupt";
        return problem(Problem::Value { found: kind, expected });
    }
    match found {
        0..16 => Ok(Ppi(found as u8)),
        _ => {
            let expected = "a private peripheral interrupt from 0 to 15";
            problem(Problem::Value { found, expected })
        }
    }
}
