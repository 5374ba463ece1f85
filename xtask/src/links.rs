//! Relative links in the Markdown files of the project: the file and the heading they point to exist.
//!
//! Covers everything in `docs` and the Markdown files in the root of the checkout. The chapters of the
//! book (`docs/src`) must also all be in its summary: mdBook leaves out the others without a word.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// What [`check`] looked at and found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub files: usize,
    pub links: usize,
    /// One line each, beginning with the file.
    pub problems: Vec<String>,
}

/// Checks every Markdown file of the project in `root`.
pub fn check(root: &Path) -> Result<Report> {
    let book = root.join("docs/src");
    let summary = book.join("SUMMARY.md");
    let mut report = Report::default();
    let mut in_summary = BTreeSet::new();
    let documents = markdown_files_below(&root.join("docs"))?;
    for file in markdown_files_in(root)?.iter().chain(&documents) {
        let shown = file.strip_prefix(root).unwrap_or(file).display();
        report.files += 1;
        for link in relative_links(&read(file)?) {
            report.links += 1;
            let (target, anchor) = resolve(file, &link);
            if *file == summary {
                in_summary.insert(target.clone());
            }
            if let Err(problem) = look_up(&target, anchor)? {
                report.problems.push(format!("{shown}: link to `{link}`: {problem}"));
            }
        }
    }
    let is_chapter = |file: &&PathBuf| file.starts_with(&book) && **file != summary;
    for chapter in documents.iter().filter(is_chapter).filter(|file| !in_summary.contains(*file)) {
        let shown = chapter.strip_prefix(root).unwrap_or(chapter).display();
        report.problems.push(format!("{shown}: not in the book's SUMMARY.md"));
    }
    Ok(report)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn markdown_files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| is_markdown(path)).collect())
}

fn markdown_files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            files.extend(markdown_files_below(&path)?);
        } else if is_markdown(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

/// In a fixed order, so that two runs report the same.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md") && path.is_file()
}

/// The targets of links and images that do not leave the project.
fn relative_links(markdown: &str) -> Vec<String> {
    Parser::new(markdown)
        .filter_map(|event| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                Some(dest_url.into_string())
            }
            _ => None,
        })
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        .collect()
}

/// The file that `link`, written in `file`, means, and the heading in it.
fn resolve<'a>(file: &Path, link: &'a str) -> (PathBuf, Option<&'a str>) {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    if path.is_empty() {
        return (file.to_owned(), anchor);
    }
    (normalised(&file.parent().unwrap_or(Path::new("")).join(path)), anchor)
}

/// Without `..`, so that two ways to write one file compare equal.
fn normalised(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

fn look_up(target: &Path, anchor: Option<&str>) -> Result<Result<(), String>> {
    if !target.exists() {
        return Ok(Err("there is no such file".to_owned()));
    }
    let Some(anchor) = anchor.filter(|_| is_markdown(target)) else { return Ok(Ok(())) };
    if headings(&read(target)?).iter().any(|heading| heading == anchor) {
        return Ok(Ok(()));
    }
    Ok(Err(format!("no heading there has the anchor `{anchor}`")))
}

/// The anchors of all headings.
fn headings(markdown: &str) -> Vec<String> {
    let mut anchors = Vec::new();
    let mut heading: Option<String> = None;
    for event in Parser::new(markdown) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
            (Event::Text(text) | Event::Code(text), Some(heading)) => heading.push_str(&text),
            (Event::End(TagEnd::Heading(_)), _) => {
                anchors.extend(heading.take().map(|text| anchor_of(&text)));
            }
            _ => {}
        }
    }
    anchors
}

/// mdBook's and GitHub's rule alike: lower case, blanks become hyphens, punctuation goes.
fn anchor_of(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter_map(|c| match c {
            c if c.is_alphanumeric() || c == '_' || c == '-' => Some(c.to_ascii_lowercase()),
            c if c.is_whitespace() => Some('-'),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project with these files beside an empty root.
    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        check(project(files).path()).unwrap().problems
    }

    #[test]
    fn links_that_hold_are_counted_and_not_reported() {
        let folder = project(&[
            ("README.md", "[book](docs/src/a/one.md#what-is-a-key) [web](https://example.org/x)"),
            ("docs/src/SUMMARY.md", "- [One](a/one.md)"),
            ("docs/src/a/one.md", "# What is a `key`?\n[here](#what-is-a-key) [up](../SUMMARY.md)"),
        ]);
        let report = check(folder.path()).unwrap();
        assert_eq!(report, Report { files: 3, links: 4, problems: vec![] });
    }

    #[test]
    fn a_missing_file_a_missing_heading_and_a_forgotten_chapter_are_reported() {
        let found = problems(&[
            ("docs/src/SUMMARY.md", "- [One](one.md)\n- [Two](two.md)"),
            ("docs/src/one.md", "# Top\n[x](#bottom)"),
            ("docs/src/three.md", ""),
        ]);
        assert_eq!(
            found,
            [
                "docs/src/SUMMARY.md: link to `two.md`: there is no such file",
                "docs/src/one.md: link to `#bottom`: no heading there has the anchor `bottom`",
                "docs/src/three.md: not in the book's SUMMARY.md",
            ]
        );
    }

    #[test]
    fn what_only_looks_like_a_link_in_code_is_left_alone() {
        let found = problems(&[
            ("README.md", "`[x](no.md)`\n\n```\n[y](no.md)\n```\n"),
            ("docs/src/SUMMARY.md", ""),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
