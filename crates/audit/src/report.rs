//! The report of an audit: every site, with what people want to know of it.

use serde::Serialize;

use crate::found::{Found, Path, Scan};
use crate::image::{Architecture, Image};
use crate::kind::Kind;
use crate::source::Source;
use crate::value::Value;

/// What is in an image.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `ELF` or `PE`.
    pub format: &'static str,
    /// What the code is for.
    pub architecture: Architecture,
    /// The compiler, as the debug information has it.
    pub producer: Option<String>,
    /// Bytes of code.
    pub text_bytes: u64,
    /// Functions the image names. Without any, decoding begins at sections and may lose its way.
    pub functions: usize,
    /// One-byte instructions (x86-64: POPF, IRET) that are hidden, which are only counted.
    pub hidden_one_byte: u64,
    /// The instructions, by address.
    pub sites: Vec<Site>,
}

/// One instruction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Site {
    /// Where it begins.
    #[serde(serialize_with = "hexadecimal")]
    pub address: u64,
    /// Its kind.
    pub kind: Kind,
    /// Whether decoding the functions meets it.
    pub path: Path,
    /// What it writes.
    pub value: Value,
    /// Which model-specific register it writes, if it writes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msr: Option<Value>,
    /// The function it is in, by the image's symbols; empty where they name none.
    pub function: String,
    /// How far into it.
    pub offset: u64,
    /// Where it comes from, the innermost inlined function first; empty without debug information.
    pub source: Vec<SourceLine>,
}

/// A line of a source file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SourceLine {
    /// The function, which may have been inlined.
    pub function: Option<String>,
    /// The file, as the compiler was given it.
    pub file: Option<String>,
    /// The line, from 1 on.
    pub line: Option<u32>,
}

impl Report {
    pub(crate) fn new(image: &Image<'_>, scan: Scan) -> Self {
        let source = Source::of(&image.file);
        let mut found = scan.found;
        found.sort_by_key(|found| (found.address, found.kind));
        Report {
            format: image.format,
            architecture: image.architecture,
            producer: source.producer().map(str::to_owned),
            text_bytes: image.text.iter().map(|text| text.bytes.len() as u64).sum(),
            functions: image.symbols.iter().filter(|symbol| symbol.is_function).count(),
            hidden_one_byte: scan.hidden_one_byte,
            sites: found.iter().map(|found| site(image, &source, found)).collect(),
        }
    }

    /// How many sites a condition holds for.
    pub fn count(&self, condition: impl Fn(&Site) -> bool) -> usize {
        self.sites.iter().filter(|site| condition(site)).count()
    }
}

fn site(image: &Image<'_>, source: &Source, found: &Found) -> Site {
    let symbol = image.symbol(found.address);
    Site {
        address: found.address,
        kind: found.kind,
        path: found.path,
        value: found.value,
        msr: found.msr,
        function: symbol.map(|(symbol, _)| readable(&symbol.name)).unwrap_or_default(),
        offset: symbol.map_or(0, |(_, offset)| offset),
        source: source.lines(found.address),
    }
}

impl Site {
    /// The innermost file and line, for people.
    pub fn line(&self) -> Option<String> {
        let line = self.source.first()?;
        let file = line.file.as_deref()?;
        Some(line.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
    }

    /// The model-specific register, for people.
    pub fn msr_name(&self) -> Option<String> {
        Some(match self.msr? {
            Value::Constant(msr) => {
                crate::msr_name(msr).map_or_else(|| format!("{msr:#x}"), str::to_owned)
            }
            other => other.name().to_owned(),
        })
    }
}

/// A symbol's name as in the source, without the hash that tells versions apart.
pub(crate) fn readable(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

fn hexadecimal<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}
