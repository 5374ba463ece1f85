//! Builds small programs that misuse a crate and holds the compiler's errors against what each program expects.
//!
//! A case is one file. Its documentation says what must not be possible, and a line `//! expect: E0277 some words` names the
//! error code and, where the message is this project's own, words of it. The misuse itself is behind
//! `#[cfg(feature = "misuse")]`: every case is built twice, and must compile without it and fail with it. So a case cannot
//! pass for another reason than its misuse.
//!
//! Codes are compared, not wording: error codes keep their meaning from compiler to compiler, wording does not. (`trybuild`
//! compares wording; `compile_fail,E0277` in documentation tests is checked by nightly compilers alone.) Programs are built, not
//! just checked, since a context's map is evaluated where it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Code and message of each error, by case.
type Errors = BTreeMap<String, Vec<(String, String)>>;

struct Case {
    name: String,
    path: PathBuf,
    code: String,
    words: String,
}

/// Builds every case of `package`, the package under test, in `tests/compile_fail/cases`. `dependencies` are the crates that
/// cases use: name and folder.
pub fn check_cases(package: &str, dependencies: &[(&str, PathBuf)]) {
    let cases = read_cases(&manifest_dir().join("tests/compile_fail/cases"));
    assert!(!cases.is_empty(), "no case was found");
    let project = write_project(package, &cases, dependencies);

    let without = build(&project, &[]);
    assert!(without.is_empty(), "cases must compile without their misuse: {without:#?}");

    let with = build(&project, &["--features", "misuse"]);
    let mut wrong = String::new();
    for case in &cases {
        let errors = with.get(&case.name).map_or(&[][..], Vec::as_slice);
        let codes: BTreeSet<&str> = errors.iter().map(|(code, _)| code.as_str()).collect();
        let says_so = errors.iter().any(|(_, message)| message.contains(&case.words));
        if codes != BTreeSet::from([case.code.as_str()]) || !says_so {
            let Case { name, code, words, .. } = case;
            let _ = writeln!(wrong, "{name}: expected {code} {words:?}, found {errors:#?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn manifest_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read_cases(folder: &Path) -> Vec<Case> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of cases can be read")
        .map(|entry| entry.expect("its entries can be read").path())
        .collect();
    paths.sort();
    paths.into_iter().map(read_case).collect()
}

fn read_case(path: PathBuf) -> Case {
    let text = std::fs::read_to_string(&path).expect("a case can be read");
    let expect = text.lines().find_map(|line| line.strip_prefix("//! expect: "));
    let expect = expect.unwrap_or_else(|| panic!("{} has no `//! expect:`", path.display()));
    let (code, words) = expect.split_once(' ').unwrap_or((expect, ""));
    let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    Case { name, code: code.to_owned(), words: words.to_owned(), path }
}

/// A package with a program for each case, outside the workspace but with its lock file.
fn write_project(package: &str, cases: &[Case], dependencies: &[(&str, PathBuf)]) -> PathBuf {
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{package}-compile-fail"));
    let mut manifest = format!(
        "[package]\nname = \"{package}-compile-fail\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\
         [workspace]\n[features]\nmisuse = []\n[profile.dev]\ndebug = 0\n[dependencies]\n"
    );
    for (name, folder) in dependencies {
        let _ = writeln!(manifest, "{name} = {{ path = {folder:?} }}");
    }
    for Case { name, path, .. } in cases {
        let _ = write!(manifest, "[[bin]]\nname = {name:?}\npath = {path:?}\n");
    }
    std::fs::create_dir_all(&project).expect("the test's folder can be made");
    std::fs::write(project.join("Cargo.toml"), manifest).expect("the manifest can be written");
    let lock = manifest_dir().join("../../Cargo.lock");
    std::fs::copy(lock, project.join("Cargo.lock")).expect("the lock file can be copied");
    project
}

fn build(project: &Path, arguments: &[&str]) -> Errors {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--keep-going", "--message-format=json"])
        .args(arguments)
        .current_dir(project)
        .env("CARGO_TARGET_DIR", project.join("target"))
        .output()
        .expect("cargo can be started");
    let errors = errors_in(&String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success() || !errors.is_empty(),
        "cargo failed before it compiled anything:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    errors
}

fn errors_in(messages: &str) -> Errors {
    let mut errors = Errors::new();
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let diagnostic = &message["message"];
        if let (Some(case), Some("error"), Some(code), Some(text)) = (
            message["target"]["name"].as_str(),
            diagnostic["level"].as_str(),
            diagnostic["code"]["code"].as_str(),
            diagnostic["message"].as_str(),
        ) {
            errors.entry(case.to_owned()).or_default().push((code.to_owned(), text.to_owned()));
        }
    }
    errors
}
