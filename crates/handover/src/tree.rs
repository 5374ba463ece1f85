//! The device tree, which an arm64 kernel is given: the firmware's, with the command line, and with the memory that the firmware leaves.
//!
//! The tree that firmware has describes the machine, not what firmware keeps of its memory: that is in UEFI's memory map alone. So the
//! nodes of memory are replaced by one of what may be used. Regions that the tree itself reserves stay reserved.

use crate::ranges::Usable;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

/// As many ranges as the reference kernel keeps.
pub const MAX_RANGES: usize = 32;
/// Longest tree that the boot protocol allows.
pub const MAX_LEN: usize = 2 << 20;

/// Why there is no tree to hand over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// What the firmware has is no device tree.
    NotATree,
    /// A node or property could not be made.
    Model,
    /// With what was added it is too long.
    TooLong(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATree => f.write_str("the firmware's device tree cannot be read"),
            Self::Model => f.write_str("the device tree could not be changed"),
            Self::TooLong(len) => write!(f, "the device tree has {len} bytes, more than 2 MiB"),
        }
    }
}

impl core::error::Error for Error {}

/// Where a tree at the start of `bytes` says that it ends.
pub fn len(header: [u8; 8]) -> Option<usize> {
    const MAGIC: [u8; 4] = 0xd00d_feed_u32.to_be_bytes();
    let [a, b, c, d, rest @ ..] = header;
    let len = u32::from_be_bytes(rest) as usize;
    ([a, b, c, d] == MAGIC && len <= MAX_LEN).then_some(len)
}

/// The tree for the kernel.
///
/// # Errors
///
/// [`Error`].
pub fn edited(blob: &[u8], memory: &Usable, command_line: &str) -> Result<Vec<u8>, Error> {
    let fdt = Fdt::new(blob).map_err(|_| Error::NotATree)?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let memories: Vec<_> = tree
        .root
        .children()
        .filter(|node| is_memory(node))
        .map(|node| node.name().to_string())
        .collect();
    for name in memories {
        tree.root.remove_child(&name);
    }
    tree.root.add_child(memory_node(&tree.root, memory)?);
    if tree.root.child_mut("chosen").is_none() {
        tree.root.add_child(DeviceTreeNode::new("chosen").map_err(|_| Error::Model)?);
    }
    if let Some(chosen) = tree.root.child_mut("chosen") {
        for stale in ["linux,initrd-start", "linux,initrd-end"] {
            chosen.remove_property(stale);
        }
        let text: Vec<u8> = command_line.bytes().take_while(|&byte| byte != 0).chain([0]).collect();
        chosen.add_property(property("bootargs", &text)?);
    }
    let blob = tree.to_dtb();
    if blob.len() > MAX_LEN { Err(Error::TooLong(blob.len())) } else { Ok(blob) }
}

fn is_memory(node: &DeviceTreeNode) -> bool {
    node.property("device_type").is_some_and(|kind| kind.value() == b"memory\0")
}

/// A list of addresses and sizes, in as many words as the root says.
fn memory_node(root: &DeviceTreeNode, memory: &Usable) -> Result<DeviceTreeNode, Error> {
    let words = |name: &str, otherwise: usize| {
        let cells = root.property(name).and_then(|cells| cells.value().try_into().ok());
        cells.map_or(otherwise, |bytes| u32::from_be_bytes(bytes) as usize)
    };
    // What the specification says where nothing is said (Devicetree Specification v0.4, 2.3.5).
    let (address_words, size_words) = (words("#address-cells", 2), words("#size-cells", 1));
    let kept = memory.largest(MAX_RANGES);
    let mut list = Vec::new();
    for range in kept.ranges() {
        push(&mut list, range.start, address_words)?;
        push(&mut list, range.end - range.start, size_words)?;
    }
    let start = kept.ranges().first().map_or(0, |first| first.start);
    let mut node = DeviceTreeNode::new(format!("memory@{start:x}")).map_err(|_| Error::Model)?;
    node.add_property(property("device_type", b"memory\0")?);
    node.add_property(property("reg", &list)?);
    Ok(node)
}

fn push(list: &mut Vec<u8>, value: u64, words: usize) -> Result<(), Error> {
    match words {
        1 => list.extend(u32::try_from(value).map_err(|_| Error::Model)?.to_be_bytes()),
        2 => list.extend(value.to_be_bytes()),
        _ => return Err(Error::Model),
    }
    Ok(())
}

pub(crate) fn property(name: &str, value: &[u8]) -> Result<DeviceTreeProperty, Error> {
    DeviceTreeProperty::new(name, value).map_err(|_| Error::Model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use core::iter;

    fn firmwares() -> Vec<u8> {
        let mut tree = DeviceTree::new();
        let node = |name: &str, properties: &[(&str, &[u8])]| {
            let mut node = DeviceTreeNode::new(name).unwrap();
            properties
                .iter()
                .for_each(|(name, value)| node.add_property(property(name, value).unwrap()));
            node
        };
        for name in ["#address-cells", "#size-cells"] {
            tree.root.add_property(property(name, &2u32.to_be_bytes()).unwrap());
        }
        tree.root
            .add_child(node("memory@40000000", &[("device_type", b"memory\0"), ("reg", &[7; 16])]));
        tree.root.add_child(node("cpus", &[]));
        tree.root
            .add_child(node("chosen", &[("bootargs", b"old\0"), ("linux,initrd-start", &[0; 8])]));
        tree.to_dtb()
    }

    #[test]
    fn the_kernel_gets_the_command_line_and_what_memory_is_left() {
        let memory = Usable::new([0x4000_0000..0x4800_0000, 0x5000_0000..0x5000_1000]);
        let blob = edited(&firmwares(), &memory, "attack").unwrap();
        assert_eq!(len(blob[..8].try_into().unwrap()), Some(blob.len()));
        let fdt = Fdt::new(&blob).unwrap();
        let tree = DeviceTree::from_fdt(&fdt);
        let names: Vec<String> = tree.root.children().map(|node| node.name().to_string()).collect();
        assert!(names.contains(&"cpus".to_string()));
        let memories: Vec<_> = tree.root.children().filter(|node| is_memory(node)).collect();
        assert_eq!(memories.len(), 1, "{names:?}");
        let list: Vec<u8> = [0x4000_0000u64, 0x800_0000, 0x5000_0000, 0x1000]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect();
        assert_eq!(memories[0].property("reg").unwrap().value(), list);
        let chosen = tree.find_node("/chosen").unwrap();
        assert_eq!(chosen.property("bootargs").unwrap().value(), b"attack\0");
        assert!(chosen.property("linux,initrd-start").is_none());
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let memory = Usable::default();
        assert_eq!(edited(b"no tree", &memory, ""), Err(Error::NotATree));
        assert_eq!(len(*b"\xd0\x0d\xfe\xed\xff\xff\xff\xff"), None);
        assert_eq!(len(*b"\xd0\x0d\xfe\xee\0\0\0\x40"), None);
    }

    /// Devicetree Specification v0.4, 2.3.5: two words of address and one of size.
    #[test]
    fn a_root_that_says_nothing_has_the_specifications_words() {
        let memory = Usable::new(iter::once(0x1_4000_0000..0x1_4800_0000));
        let blob = edited(&DeviceTree::new().to_dtb(), &memory, "").unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let tree = DeviceTree::from_fdt(&fdt);
        let node = tree.find_node("/memory@140000000").unwrap();
        let words = [1u32, 0x4000_0000, 0x800_0000].map(u32::to_be_bytes).concat();
        assert_eq!(node.property("reg").unwrap().value(), words);
    }

    #[test]
    fn numbers_that_the_words_of_the_root_cannot_hold_are_refused() {
        let large = Usable::new(iter::once(0..1 << 32));
        assert_eq!(edited(&DeviceTree::new().to_dtb(), &large, ""), Err(Error::Model));
        let mut tree = DeviceTree::new();
        tree.root.add_property(property("#address-cells", &3u32.to_be_bytes()).unwrap());
        let small = Usable::new(iter::once(0..1));
        assert_eq!(edited(&tree.to_dtb(), &small, ""), Err(Error::Model));
    }

    #[test]
    fn a_tree_may_be_as_long_as_is_allowed_and_no_longer() {
        let with = |letters| edited(&firmwares(), &Usable::default(), &"x".repeat(letters));
        let room = MAX_LEN - with(0).unwrap().len();
        let longest = with(room).unwrap();
        assert_eq!(longest.len(), MAX_LEN);
        assert_eq!(len(longest[..8].try_into().unwrap()), Some(MAX_LEN));
        assert_eq!(with(room + 4), Err(Error::TooLong(MAX_LEN + 4)));
    }

    #[test]
    fn an_error_says_what_is_wrong_with_the_tree() {
        for (error, what) in [
            (Error::NotATree, "cannot be read"),
            (Error::Model, "could not be changed"),
            (Error::TooLong(2_097_156), "2097156 bytes"),
        ] {
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
