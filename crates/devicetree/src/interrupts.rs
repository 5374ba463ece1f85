//! Which interrupts a node raises, and at which controller (Devicetree Specification v0.4, 2.4).

use crate::error::{Error, Problem};
use crate::node::{Node, number};
use arrayvec::ArrayVec;

/// Most interrupts of one node that are looked at. Those of a timer are five at most.
const MAX_INTERRUPTS: usize = 8;

/// An interrupt as its controller wants it described.
pub(crate) struct Interrupt<'a> {
    pub(crate) controller: Node<'a>,
    pub(crate) cells: &'a [u8],
}

/// The interrupts of `node`: what `interrupts-extended` says, which comes before `interrupts`.
pub(crate) fn of<'a>(
    root: &Node<'a>,
    node: &Node<'a>,
) -> Result<ArrayVec<Interrupt<'a>, MAX_INTERRUPTS>, Error> {
    match node.property("interrupts-extended") {
        Some(bytes) => extended(root, node, bytes),
        None => at_parent(root, node),
    }
}

/// Each interrupt after the number of its controller.
fn extended<'a>(
    root: &Node<'a>,
    node: &Node<'a>,
    mut bytes: &'a [u8],
) -> Result<ArrayVec<Interrupt<'a>, MAX_INTERRUPTS>, Error> {
    let name = "interrupts-extended";
    let mut interrupts = ArrayVec::new();
    while !bytes.is_empty() && !interrupts.is_full() {
        let incomplete = || {
            let expected = "a controller's number and the cells of its interrupt";
            node.error(name, Problem::Length { bytes: bytes.len(), expected })
        };
        let (phandle, rest) = bytes.split_at_checked(4).ok_or_else(incomplete)?;
        let controller = by_phandle(root, node, name, number(phandle))?;
        let (cells, rest) =
            rest.split_at_checked(4 * cell_count(&controller)?).ok_or_else(incomplete)?;
        interrupts.push(Interrupt { controller, cells });
        bytes = rest;
    }
    Ok(interrupts)
}

/// All at the controller that the node, or the nearest one above it, names.
fn at_parent<'a>(
    root: &Node<'a>,
    node: &Node<'a>,
) -> Result<ArrayVec<Interrupt<'a>, MAX_INTERRUPTS>, Error> {
    let name = "interrupts";
    let bytes = node.required(name, "the interrupts, here or in `interrupts-extended`")?;
    let controller = controller(root, node)?;
    let entries = node.entries(name, bytes, cell_count(&controller)?)?;
    Ok(entries
        .take(MAX_INTERRUPTS)
        .map(|cells| Interrupt { controller: controller.clone(), cells })
        .collect())
}

fn controller<'a>(root: &Node<'a>, node: &Node<'a>) -> Result<Node<'a>, Error> {
    let name = "interrupt-parent";
    let mut at = Some(node.clone());
    while let Some(here) = at {
        if let Some(phandle) = here.cell(name)? {
            return by_phandle(root, &here, name, phandle.into());
        }
        at = here.parent();
    }
    Err(node.error(name, Problem::Missing("the controller, here or in a node above")))
}

fn by_phandle<'a>(
    root: &Node<'a>,
    from: &Node<'a>,
    property: &'static str,
    phandle: u64,
) -> Result<Node<'a>, Error> {
    let is_it = |node: &Node| {
        node.property("phandle").is_some_and(|it| number(it) == phandle && it.len() == 4)
    };
    root.find(&is_it).ok_or_else(|| {
        let expected = "the number of an interrupt controller";
        from.error(property, Problem::Value { found: phandle, expected })
    })
}

/// One to four cells: all that is known of any controller.
fn cell_count(controller: &Node) -> Result<usize, Error> {
    let (name, expected) = ("#interrupt-cells", "1 to 4 cells an interrupt");
    match controller.cell(name)? {
        Some(cells @ 1..=4) => Ok(cells as usize),
        Some(cells) => {
            Err(controller.error(name, Problem::Value { found: cells.into(), expected }))
        }
        None => Err(controller.error(name, Problem::Missing(expected))),
    }
}
