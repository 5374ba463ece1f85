//! The book's page of system calls, written from the reference kernel's table of them.
//!
//! The kernel checks pointers by that table, so that the page says of each call what is checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace;

const CALLS: &str = "kernel/src/program/calls";
const PAGE: &str = "docs/src/system-calls.md";
const HEAD: &str = "<!-- written by `cargo xtask docs` from the kernel's table of calls -->

# System calls

What the reference kernel has of Linux's interface for [programs](programs.md). Before a call is made, each argument that points is checked by this table: it is null or lies in the program's half with
all it reaches, or the call fails with `EFAULT`. A call that is not here gets `ENOSYS`.
";

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
struct Call<'a> {
    name: &'a str,
    family: &'a str,
    function: &'a str,
    arguments: Vec<&'a str>,
    is_x86_64: bool,
}

/// Writes the page.
pub fn write() -> Result<()> {
    fs::write(workspace::root().join(PAGE), page()?).with_context(|| PAGE)
}

/// Refuses a page that is not what the table says.
pub fn check() -> Result<()> {
    let there = fs::read_to_string(workspace::root().join(PAGE)).with_context(|| PAGE)?;
    if there != page()? {
        bail!("{PAGE} is not what {CALLS}/table.rs says: `cargo xtask docs` writes it");
    }
    Ok(())
}

fn page() -> Result<String> {
    let folder = workspace::root().join(CALLS);
    let table = folder.join("table.rs");
    let table =
        fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let mut families = BTreeMap::<_, Vec<_>>::new();
    for call in calls(&table)? {
        families.entry(call.family).or_default().push(call);
    }
    let mut page = HEAD.to_owned();
    for (family, calls) in families {
        let file = folder.join(family).with_extension("rs");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let about = text.lines().next().and_then(|line| line.strip_prefix("//! "));
        let about = about.with_context(|| format!("{family}.rs does not say what it is"))?;
        section(&mut page, family, about, &calls);
    }
    Ok(page)
}

fn section(page: &mut String, family: &str, about: &str, calls: &[Call<'_>]) {
    // A link in the source leads nowhere in the book.
    let about = about.replace("[`", "`").replace("`]", "`");
    let _ =
        write!(page, "\n## {family}\n\n{about}\n\n| call | arguments | note |\n|---|---|---|\n");
    for call in calls {
        let arguments: Vec<_> = call.arguments.iter().map(|kind| argument(kind)).collect();
        let notes: Vec<_> = notes(call).collect();
        let _ =
            writeln!(page, "| `{}` | {} | {} |", call.name, arguments.join(", "), notes.join(", "));
    }
}

fn notes(call: &Call<'_>) -> impl Iterator<Item = &'static str> {
    let function = match call.function {
        "nothing" => Some("succeeds, and does nothing"),
        "not_supported" => Some("`EOPNOTSUPP`"),
        _ => None,
    };
    call.is_x86_64.then_some("x86-64").into_iter().chain(function)
}

/// What an argument is, in words.
fn argument(kind: &str) -> String {
    let inner = |name: &str| kind.strip_prefix(name).and_then(|rest| rest.strip_suffix(')'));
    if let Some(what) = inner("Bytes(") {
        return format!("→ {}", structure(what));
    }
    if let Some((what, place)) = inner("Counted(").and_then(|inner| inner.split_once(", ")) {
        let what = if what == "1" { "bytes".to_owned() } else { structure(what) };
        let place = place.parse::<u32>().map_or(0, |place| place + 1);
        return format!("→ {what}, as many as argument {place} says");
    }
    let word = if kind == "Text" { "→ text" } else { "value" };
    word.to_owned()
}

/// What a pointer leads to: a number of bytes, or `2 * TIME`.
fn structure(what: &str) -> String {
    if what.parse::<u64>().is_ok() {
        return format!("{what} bytes");
    }
    let (count, name) = what.split_once(" * ").unwrap_or(("", what));
    format!("{count} `{}`", name.to_lowercase()).trim().to_owned()
}

/// The lines of the macro `calls!`.
fn calls(table: &str) -> Result<Vec<Call<'_>>> {
    let (_, lines) = table.split_once("\ncalls! {\n").context("table.rs has no calls! {…}")?;
    let lines = lines.lines().take_while(|line| *line != "}");
    lines.map(|line| call(line).with_context(|| format!("no call: {line}"))).collect()
}

/// A line: `#[cfg(…)] __NR_name = family::function [kind, …] keeps;`
fn call(line: &str) -> Option<Call<'_>> {
    let (before, rest) = line.split_once("__NR_")?;
    let (name, rest) = rest.split_once(" = ")?;
    let (function, rest) = rest.split_once(" [")?;
    let (family, function) = function.split_once("::")?;
    let (kinds, _) = rest.rsplit_once(']')?;
    let is_x86_64 = before.contains("x86_64");
    Some(Call { name, family, function, arguments: split(kinds), is_x86_64 })
}

/// Arguments, at commas outside of parentheses.
fn split(kinds: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_between = |letter: char| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    };
    kinds.split(is_between).map(str::trim).filter(|kind| !kind.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_call() {
        let line = "    #[cfg(target_arch = \"x86_64\")] __NR_readlink = names::readlink [Text, Counted(1, 2), V] keeps;";
        let read = call(line).unwrap();
        let arguments = vec!["Text", "Counted(1, 2)", "V"];
        let expected = Call {
            name: "readlink",
            family: "names",
            function: "readlink",
            arguments,
            is_x86_64: true,
        };
        assert_eq!(read, expected);
        assert!(call("    __NR_getpid = identity::getpid [];").unwrap().arguments.is_empty());
        assert_eq!(call("    something else"), None);
    }

    #[test]
    fn arguments_are_words() {
        let expected = [
            ("V", "value"),
            ("Text", "→ text"),
            ("Bytes(4)", "→ 4 bytes"),
            ("Bytes(STAT)", "→ `stat`"),
            ("Bytes(2 * TIME)", "→ 2 `time`"),
            ("Counted(1, 2)", "→ bytes, as many as argument 3 says"),
            ("Counted(POLL, 1)", "→ `poll`, as many as argument 2 says"),
        ];
        for (kind, words) in expected {
            assert_eq!(argument(kind), words);
        }
    }

    #[test]
    fn every_call_of_the_table_is_read() {
        let table = fs::read_to_string(workspace::root().join(CALLS).join("table.rs")).unwrap();
        let named = table.matches("__NR_").count();
        assert_eq!(calls(&table).unwrap().len(), named);
        assert!(named > 100);
    }
}
