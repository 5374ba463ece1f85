//! What `/chosen` says: the console and the kernel's command line (Devicetree Specification v0.4,
//! 3.6).

use crate::error::{Error, Problem};
use crate::memory::Region;
use crate::node::{Node, number};

/// The registers a driver writes end with the interrupt clear register at 0x44 (PL011, DDI 0183,
/// 3.2).
const PL011_LEN: u64 = 0x48;

/// Where boot messages are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console<'a> {
    /// To a PL011; its registers.
    Pl011(Region),
    /// To something that takes another driver, by the first name it has in `compatible`.
    Other(&'a str),
    /// The tree names nothing, and has no PL011.
    Unsaid,
}

/// The PL011 that `stdout-path` names; where that names nothing or something else, the first one.
pub(crate) fn console<'a>(root: &Node<'a>) -> Result<Console<'a>, Error> {
    let named = stdout(root);
    match (named.clone().filter(is_pl011).or_else(|| root.find(&is_pl011)), named) {
        (Some(pl011), _) => registers(&pl011).map(Console::Pl011),
        (None, Some(other)) => Ok(Console::Other(model(&other)?)),
        (None, None) => Ok(Console::Unsaid),
    }
}

fn registers(pl011: &Node) -> Result<Region, Error> {
    match pl011.reg()?.first() {
        Some(region) if region.size() >= PL011_LEN => Ok(*region),
        Some(region) => {
            let expected = "72 bytes of registers or more";
            Err(pl011.error("reg", Problem::Value { found: region.size(), expected }))
        }
        None => Err(pl011.error("reg", Problem::Missing("the registers"))),
    }
}

fn model<'a>(node: &Node<'a>) -> Result<&'a str, Error> {
    let list = node.required("compatible", "what the console is")?;
    let first = list.split(|byte| *byte == 0).next().unwrap_or_default();
    core::str::from_utf8(first).map_err(|_| node.error("compatible", Problem::Text("text")))
}

/// The command line; empty where there is none.
pub(crate) fn boot_arguments<'a>(root: &Node<'a>) -> Result<&'a str, Error> {
    let Some(chosen) = root.child("chosen") else { return Ok("") };
    Ok(chosen.text("bootargs")?.unwrap_or_default())
}

/// Where the initramfs is: two addresses, each of one cell or two, as the loader likes (`linux,initrd-start` and `-end`).
pub(crate) fn initramfs(root: &Node) -> Result<Option<Region>, Error> {
    let Some(chosen) = root.child("chosen") else { return Ok(None) };
    let address = |name: &'static str| match chosen.property(name) {
        None => Ok(None),
        Some(cells) if matches!(cells.len(), 4 | 8) => Ok(Some(number(cells))),
        Some(cells) => {
            let expected = "an address of 1 or 2 cells";
            Err(chosen.error(name, Problem::Length { bytes: cells.len(), expected }))
        }
    };
    let (start, end) = (address("linux,initrd-start")?, address("linux,initrd-end")?);
    match (start, end) {
        (Some(start), Some(end)) if start == end => Ok(None),
        (Some(start), Some(end)) => {
            let region = end.checked_sub(start).and_then(|size| Region::new(start, size));
            let problem = Problem::Value { found: end, expected: "an address behind the start" };
            region.map(Some).ok_or_else(|| chosen.error("linux,initrd-end", problem))
        }
        (None, None) => Ok(None),
        _ => Err(chosen.error("linux,initrd-start", Problem::Missing("both start and end"))),
    }
}

fn is_pl011(node: &Node) -> bool {
    node.is_compatible(&["arm,pl011"]) && node.is_available()
}

/// The node `stdout-path` names: a path, or an alias of one, before options that follow a colon.
fn stdout<'a>(root: &Node<'a>) -> Option<Node<'a>> {
    let path = root.child("chosen")?.text("stdout-path").ok()??;
    let path = path.split(':').next()?;
    let path = match path.starts_with('/') {
        true => path,
        false => alias(root, path)?,
    };
    // A path has no more parts than a node has ancestors, or `child` finds nothing.
    path.split('/')
        .filter(|part| !part.is_empty())
        .try_fold(root.clone(), |node, part| node.child(part))
}

fn alias<'a>(root: &Node<'a>, name: &str) -> Option<&'a str> {
    let bytes = root.child("aliases")?.property(name)?;
    core::str::from_utf8(bytes.strip_suffix(&[0])?).ok()
}
