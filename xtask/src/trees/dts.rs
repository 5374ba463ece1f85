//! The memory and CPUs of a tree as `dtc` shows it, in source form.
//!
//! On purpose nothing is shared with `kpkeys-devicetree`, which is compared with it: this reads text, and allocates as it likes.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command;

/// What a tree says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// First address and first address behind, rising, touching ranges joined.
    pub memory: Vec<(u64, u64)>,
    /// `reg` of each usable CPU, in order.
    pub cpus: Vec<u64>,
}

impl Shown {
    /// Asks `dtc`.
    pub fn of(file: &Path) -> Result<Self> {
        let path = std::path::absolute(file)?;
        let path = path.to_str().context("a path that is no text")?;
        let arguments = ["-q", "-I", "dtb", "-O", "dts", path];
        let source = command::output(&mut command::program("dtc", &arguments))?;
        Self::in_source(&source).with_context(|| format!("what dtc shows of {}", file.display()))
    }

    fn in_source(source: &str) -> Result<Self> {
        let root = Node::root(source)?;
        let (address, size) = (root.cell("#address-cells", 2)?, root.cell("#size-cells", 1)?);
        let mut memory = Vec::new();
        for node in root.children.iter().filter(|node| node.is_usable("memory")) {
            for entry in node.cells("reg")?.chunks(address + size) {
                let (base, size) = (number(&entry[..address]), number(&entry[address..]));
                if size > 0 {
                    memory.push((base, base + size));
                }
            }
        }
        let mut cpus = Vec::new();
        let parent = root.children.iter().find(|node| node.name == "cpus");
        for node in
            parent.iter().flat_map(|node| &node.children).filter(|node| node.is_usable("cpu"))
        {
            cpus.push(number(&node.cells("reg")?));
        }
        Ok(Self { memory: joined(memory), cpus })
    }
}

fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => joined.push((start, end)),
        }
    }
    joined
}

fn number(cells: &[u64]) -> u64 {
    cells.iter().fold(0, |number, cell| number << 32 | cell)
}

#[derive(Default)]
struct Node {
    name: String,
    properties: Vec<(String, String)>,
    children: Vec<Node>,
}

impl Node {
    /// One line of `dtc`'s begins a node (`name {`), ends it (`};`), or is a property (`name;`, `name = value;`).
    fn root(source: &str) -> Result<Self> {
        let mut open = vec![Self::default()];
        for line in source.lines().map(str::trim) {
            if let Some(name) = line.strip_suffix('{') {
                open.push(Self { name: name.trim().to_owned(), ..Self::default() });
            } else if line == "};" {
                let node = open.pop().context("an end of a node too many")?;
                open.last_mut().context("an end of a node too many")?.children.push(node);
            } else if let (Some(line), Some(node)) = (line.strip_suffix(';'), open.last_mut()) {
                let (name, value) = line.split_once(" = ").unwrap_or((line, ""));
                node.properties.push((name.to_owned(), value.to_owned()));
            }
        }
        match open.as_mut_slice() {
            [outside] if outside.children.len() == 1 => Ok(outside.children.remove(0)),
            _ => bail!("not one root"),
        }
    }

    fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    fn is_usable(&self, device_type: &str) -> bool {
        self.property("device_type").map(|value| value.trim_matches('"')) == Some(device_type)
            && matches!(self.property("status"), None | Some("\"okay\"" | "\"ok\""))
    }

    fn cells(&self, name: &str) -> Result<Vec<u64>> {
        let value = self.property(name).with_context(|| format!("{}: no `{name}`", self.name))?;
        let inside = value.strip_prefix('<').and_then(|value| value.strip_suffix('>'));
        let cells =
            inside.with_context(|| format!("{}: `{name}` is not of cells: {value}", self.name))?;
        let cell = |cell: &str| u64::from_str_radix(cell.trim_start_matches("0x"), 16);
        cells
            .split_whitespace()
            .map(|text| {
                cell(text).with_context(|| format!("{}: `{name}` has a cell `{text}`", self.name))
            })
            .collect()
    }

    fn cell(&self, name: &str, default: usize) -> Result<usize> {
        match self.property(name) {
            Some(_) => Ok(number(&self.cells(name)?) as usize),
            None => Ok(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_cpus_are_read_as_dtc_prints_them() {
        let source = "/dts-v1/;\n\n/ {\n\t#address-cells = <0x02>;\n\t#size-cells = <0x02>;\n\n\tmemory@80000000 {\n\
            \t\tdevice_type = \"memory\";\n\t\treg = <0x00 0x80000000 0x00 0x40000000 0x01 0x00 0x00 0x00 0x00 0xc0000000 0x00 0x1000>;\n\t};\n\n\
            \tcpus {\n\t\t#address-cells = <0x02>;\n\n\t\tcpu@0 {\n\t\t\tdevice_type = \"cpu\";\n\t\t\treg = <0x01 0x100>;\n\t\t};\n\n\
            \t\tcpu@1 {\n\t\t\tdevice_type = \"cpu\";\n\t\t\tstatus = \"disabled\";\n\t\t\treg = <0x00 0x01>;\n\t\t};\n\t};\n};\n";
        let expected =
            Shown { memory: vec![(0x8000_0000, 0xc000_1000)], cpus: vec![0x1_0000_0100] };
        assert_eq!(Shown::in_source(source).unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(Shown::in_source("/dts-v1/;\n").is_err());
        let bytes = "/ {\nmemory {\ndevice_type = \"memory\";\nreg = [00 01];\n};\n};\n";
        assert!(Shown::in_source(bytes).unwrap_err().to_string().contains("is not of cells"));
    }
}
