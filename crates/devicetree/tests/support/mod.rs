//! Making trees that differ from a real one in one place.

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};

/// A real tree: GICv3, 8 CPUs, 4 GiB.
pub const VIRT: &[u8] = include_bytes!("../data/v3-smp8-4g.dtb");

/// The bytes of a property made of these cells.
pub fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// The blob of [`VIRT`] after `edit`.
pub fn edited(edit: impl FnOnce(&mut DeviceTree)) -> Vec<u8> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(VIRT).unwrap());
    edit(&mut tree);
    tree.to_dtb()
}

/// Gives the property of the node at `path` this value.
pub fn set(tree: &mut DeviceTree, path: &str, property: &str, value: &[u8]) {
    let node = match path {
        "/" => &mut tree.root,
        path => tree.find_node_mut(path).unwrap_or_else(|| panic!("no node `{path}`")),
    };
    node.add_property(DeviceTreeProperty::new(property, value).unwrap());
}
