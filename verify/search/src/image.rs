//! The kernel's image: what its symbols say of memory.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSymbol, SymbolKind};

/// A variable of the kernel's.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its addresses, as the image has them.
    pub range: Range<u64>,
}

/// Symbols of the image.
pub struct Image {
    symbols: Vec<(String, u64)>,
    /// Variables in `.data` and `.bss`, by address.
    pub variables: Vec<Variable>,
    /// Where variables begin.
    pub data: u64,
    /// Functions of the libraries whose protocol is searched.
    pub functions: Vec<u64>,
    /// A name of the file's contents.
    pub fingerprint: String,
}

/// Crates in whose functions the machine is stopped.
const STOPPED_IN: [&str; 2] = ["kpkeys_pgtable::", "kpkeys_mm::"];

impl Image {
    /// Reads the symbols of an ELF file.
    pub fn read(path: &Path) -> Result<Image> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let file = object::File::parse(&*bytes).with_context(|| path.display().to_string())?;
        let named: Vec<_> = file
            .symbols()
            .filter_map(|symbol| {
                let name = rustc_demangle::demangle(symbol.name().ok()?).to_string();
                // Without the hash that makes a symbol unique.
                let name = name.rsplit_once("::h").map_or(name.as_str(), |(name, _)| name);
                Some((name.to_owned(), symbol))
            })
            .collect();
        let symbols: Vec<_> =
            named.iter().map(|(name, symbol)| (name.clone(), symbol.address())).collect();
        let mut image = Image {
            symbols,
            variables: Vec::new(),
            data: 0,
            functions: Vec::new(),
            fingerprint: fingerprint(&bytes),
        };
        image.data = image.address("image_data_start")?;
        let writable = [
            image.between("image_data_start", "image_data_end")?,
            image.between("image_bss_start", "image_bss_end")?,
        ];
        for (name, symbol) in named {
            let (at, size) = (symbol.address(), symbol.size());
            match symbol.kind() {
                SymbolKind::Data
                    if size > 0 && writable.iter().any(|range| range.contains(&at)) =>
                {
                    image.variables.push(Variable { name, range: at..at + size });
                }
                SymbolKind::Text if STOPPED_IN.iter().any(|part| name.contains(part)) => {
                    image.functions.push(at);
                }
                _ => {}
            }
        }
        image.variables.sort_by_key(|variable| variable.range.start);
        image.functions.sort_unstable();
        image.functions.dedup();
        Ok(image)
    }

    /// The address of the symbol whose path ends so.
    pub fn address(&self, name: &str) -> Result<u64> {
        let ends = |full: &str| full == name || full.ends_with(&format!("::{name}"));
        let found = self.symbols.iter().find(|(full, _)| ends(full));
        found.map(|(_, at)| *at).with_context(|| format!("the image has no symbol `{name}`"))
    }

    /// The addresses between two symbols.
    pub fn between(&self, start: &str, end: &str) -> Result<Range<u64>> {
        Ok(self.address(start)?..self.address(end)?)
    }

    /// The variable at an address, and how far behind its start.
    pub fn variable_at(&self, at: u64) -> Option<(&Variable, u64)> {
        let variable = self.variables.iter().find(|variable| variable.range.contains(&at))?;
        Some((variable, at - variable.range.start))
    }
}

/// FNV-1a: tells one build from another, and no more.
fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
