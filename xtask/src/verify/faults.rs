//! The stage `faults`: each fault of `verify/faults.toml` is planted in a copy of the sources, built, and must be found by the stage that it names.
//!
//! Found means that the stage says which rule is broken or which property is refuted. A copy that does not compile, or of which nothing can be said, is
//! not found. Before, the same parts of the stages must hold without a fault.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{command, workspace};

#[derive(Deserialize)]
struct File {
    fault: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    name: String,
    file: String,
    find: String,
    replace: String,
    stage: Stage,
    of: Vec<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Protocol,
    Proofs,
}

/// Plants the faults whose names contain `part`, one after the other.
pub fn run(part: &str) -> Result<()> {
    let faults: Vec<_> = read()?.into_iter().filter(|fault| fault.name.contains(part)).collect();
    ensure!(!faults.is_empty(), "no fault has `{part}` in its name");
    let copy = Copy::make()?;
    let parts: BTreeSet<_> = faults.iter().map(|fault| (fault.stage, fault.of.clone())).collect();
    for (stage, of) in parts {
        if let Verdict::Found(what) | Verdict::NotFound(what) = copy.judge(stage, &of)? {
            bail!("without a fault, {stage:?} of {of:?} does not hold: {what}");
        }
    }
    let mut missed = 0;
    for fault in &faults {
        let source = copy.plant(fault)?;
        let verdict = copy.judge(fault.stage, &fault.of);
        copy.write(&fault.file, &source)?;
        let (word, what) = match verdict? {
            Verdict::Found(what) => ("found", what),
            Verdict::NotFound(what) => ("MISSED", what),
            Verdict::Held => ("MISSED", "everything holds".to_owned()),
        };
        missed += usize::from(word == "MISSED");
        println!(
            "{word:<7} {:<9} {}: {what}",
            format!("{:?}", fault.stage).to_lowercase(),
            fault.name
        );
    }
    println!("{} of {} faults found", faults.len() - missed, faults.len());
    ensure!(missed == 0, "{missed} faults were not found");
    Ok(())
}

fn read() -> Result<Vec<Fault>> {
    let file = workspace::root().join("verify/faults.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let file: File = toml::from_str(&text).context("verify/faults.toml")?;
    Ok(file.fault)
}

/// What a stage says.
enum Verdict {
    Held,
    Found(String),
    NotFound(String),
}

/// A copy of the sources, which is built apart.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy> {
        let copy = Copy { root: workspace::target_dir()?.join("verify-faults") };
        for folder in ["crates/kpkeys", "crates/pgtable", "crates/emulator", "verify"] {
            copy.copy(Path::new(folder))?;
        }
        for file in ["Cargo.toml", "verify/Cargo.lock"] {
            copy.copy(Path::new(file))?;
        }
        Ok(copy)
    }

    /// Copies a file, or a folder but for what was built in it. What is the same already is left, so that it is not built again.
    fn copy(&self, path: &Path) -> Result<()> {
        let from = workspace::root().join(path);
        if !from.is_dir() {
            let text =
                fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            return self.write(path, text);
        }
        for entry in
            fs::read_dir(&from).with_context(|| format!("cannot list {}", from.display()))?
        {
            let name = entry?.file_name();
            if name != "target" {
                self.copy(&path.join(name))?;
            }
        }
        Ok(())
    }

    fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<()> {
        let to = self.root.join(path);
        if fs::read(&to).is_ok_and(|is| is == text.as_ref()) {
            return Ok(());
        }
        let folder = to.parent().context("a file is in a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&to, text))
            .with_context(|| format!("cannot write {}", to.display()))
    }

    /// Plants a fault and returns what its file was.
    fn plant(&self, fault: &Fault) -> Result<String> {
        let file = self.root.join(&fault.file);
        let source =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let faulty = plant(&source, fault)?;
        self.write(&fault.file, faulty)?;
        Ok(source)
    }

    /// What a part of a stage says of the copy.
    fn judge(&self, stage: Stage, of: &[String]) -> Result<Verdict> {
        let package: &[&str] = match stage {
            Stage::Protocol => &["-p", "kpkeys-protocol", "--", "1"],
            Stage::Proofs => &["--release", "-p", "kpkeys-proofs", "--"],
        };
        let of: Vec<_> = of.iter().map(String::as_str).collect();
        let mut cargo = command::cargo(&[&["run", "--quiet"], package, &of].concat());
        cargo
            .current_dir(self.root.join("verify"))
            .env("CARGO_TARGET_DIR", self.root.join("target"));
        let output = cargo.output().context("cannot start cargo")?;
        let (said, erred) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(verdict(output.status.success(), &said, &erred))
    }
}

fn verdict(success: bool, said: &str, erred: &str) -> Verdict {
    let line = said.lines().find(|line| line.contains("BROKEN: ") || line.contains("REFUTED"));
    match line {
        Some(line) => Verdict::Found(line.trim().to_owned()),
        None if success => Verdict::Held,
        None => {
            let last = erred
                .lines()
                .chain(said.lines())
                .find(|line| line.contains("error") || line.contains("UNKNOWN"));
            Verdict::NotFound(last.unwrap_or("it says nothing").trim().to_owned())
        }
    }
}

fn plant(source: &str, fault: &Fault) -> Result<String> {
    let Fault { name, file, find, replace, .. } = fault;
    match source.matches(find.as_str()).count() {
        1 => Ok(source.replacen(find.as_str(), replace, 1)),
        count => bail!("{name}: {file} has {count} places like `{find}`; it is to have one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the source that moves a fault's place shows at once, not when the stage is asked for.
    #[test]
    fn every_fault_has_its_place_in_the_source() {
        let faults = read().unwrap();
        let names: BTreeSet<_> = faults.iter().map(|fault| &fault.name).collect();
        assert_eq!(names.len(), faults.len(), "every fault has a name of its own");
        for fault in &faults {
            let source = fs::read_to_string(workspace::root().join(&fault.file)).unwrap();
            assert_ne!(plant(&source, fault).unwrap(), source, "{}", fault.name);
        }
    }

    #[test]
    fn only_a_broken_rule_is_a_fault_found() {
        let is_found =
            |success, said, erred| matches!(verdict(success, said, erred), Verdict::Found(_));
        assert!(is_found(false, "x\n  BROKEN: Table: writable\n", ""));
        assert!(is_found(false, "range_new REFUTED by [1]\n", ""));
        assert!(!is_found(false, "", "error[E0308]: mismatched types"), "it does not compile");
        assert!(!is_found(false, "leaf UNKNOWN: an instruction", ""));
        assert!(matches!(verdict(true, "all holds", ""), Verdict::Held));
    }
}
