//! What README and book show is what is compiled here.

use std::fs;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines between an anchor's marks, as far to the left as they go, and without rustfmt's way with comments behind code.
fn compiled(anchor: &str) -> Vec<String> {
    let source = read("examples/hosted/src/snippets.rs");
    let begin = source.lines().skip_while(|line| !line.ends_with(&format!("ANCHOR: {anchor}")));
    let lines = begin.skip(1).take_while(|line| !line.contains("ANCHOR_END"));
    let lines: Vec<_> = lines.collect();
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let left = lines.iter().filter(|line| !line.is_empty()).map(indent).min().unwrap_or(0);
    lines.iter().map(|line| squeezed(line.get(left..).unwrap_or(""))).collect()
}

/// The lines of a file's only block of Rust.
fn shown(file: &str) -> Vec<String> {
    let text = read(file);
    let block = text.lines().skip_while(|line| !line.starts_with("```rust")).skip(1);
    block.take_while(|line| *line != "```").map(squeezed).collect()
}

/// With one space before a comment that follows code, however it is aligned.
fn squeezed(line: &str) -> String {
    match line.split_once("//").filter(|(code, _)| !code.trim().is_empty()) {
        Some((code, comment)) => format!("{} //{comment}", code.trim_end()),
        None => line.to_owned(),
    }
}

#[test]
fn what_is_shown_is_what_is_compiled() {
    assert!(compiled("kernel").len() > 10);
    assert_eq!(shown("README.md"), compiled("kernel"));
    assert_eq!(shown("docs/src/tables-you-have.md"), compiled("wrapper"));
    let short = shown("crates/pgtable/README.md");
    let steps = short.iter().filter(|line| !line.is_empty());
    assert!(steps.clone().count() > 3);
    for step in steps {
        assert!(compiled("kernel").contains(step), "{step}");
    }
}
