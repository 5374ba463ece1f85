//! Under what a run was made, and in what two runs differ.
//!
//! A difference between two runs says something about one cause only if everything else was the same. What was not is found here, field by
//! field; whoever compares decides which of it was meant.

use std::collections::BTreeSet;
use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::record::Run;

/// Two measured costs of a switch count as the same up to this ratio: they are measured anew in each run.
pub const SWITCH_RATIO: f64 = 1.15;

/// What has to be the same in two runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// The CPU, the system, and what is set about them.
    Machine,
    /// Where it ran: the host or an emulator, and with which entry format.
    Format,
    /// How a window was opened.
    Backend,
    /// What a register switch costs.
    SwitchCost,
    /// The program.
    Build,
    /// How much each block does.
    Effort,
    /// The rows.
    Rows,
    /// Whether the gates of the run held.
    Gates,
}

impl Condition {
    /// All of them, in the order in which they are told.
    pub const ALL: [Condition; 8] = [
        Condition::Machine,
        Condition::Format,
        Condition::Backend,
        Condition::SwitchCost,
        Condition::Build,
        Condition::Effort,
        Condition::Rows,
        Condition::Gates,
    ];

    /// Its name on the command line and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Condition::Machine => "machine",
            Condition::Format => "format",
            Condition::Backend => "backend",
            Condition::SwitchCost => "switch-cost",
            Condition::Build => "build",
            Condition::Effort => "effort",
            Condition::Rows => "rows",
            Condition::Gates => "gates",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown condition `{0}`; expected one of machine, format, backend, switch-cost, build, effort, rows, gates"
)]
pub struct UnknownCondition(pub String);

impl FromStr for Condition {
    type Err = UnknownCondition;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Condition::ALL.into_iter().find(|condition| condition.name() == name);
        known.ok_or_else(|| UnknownCondition(name.to_owned()))
    }
}

/// One thing in which two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// What kind of thing it is.
    pub condition: Condition,
    /// The field.
    pub field: String,
    /// What it was in the first run.
    pub before: String,
    /// What it was in the other.
    pub after: String,
    /// Whether the difference was meant, so that conclusions are drawn all the same.
    pub accepted: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { condition, field, before, after, accepted } = self;
        let meant = if *accepted { " (accepted)" } else { "" };
        let field = if field == condition.name() { String::new() } else { format!(", {field}") };
        write!(f, "{condition}{field}: {before} / {after}{meant}")
    }
}

/// The conditions of one run, each as a JSON value.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Where it comes from, in words.
    source: String,
    /// None of a published table, of which nothing more is known.
    values: Vec<(Condition, Value)>,
    switch_ns: Option<f64>,
}

impl Conditions {
    /// Those of a recorded run.
    #[must_use]
    pub fn of_run(run: &Run) -> Self {
        let effort = run.build.split_once(", ").map_or(run.build.as_str(), |(_, effort)| effort);
        let machine = serde_json::to_value(&run.machine).unwrap_or_default();
        let keys = run.keys.as_deref();
        Self::of(machine, [&run.on, &run.paging, &run.backend], (keys, run.switch_ns))
            .and(effort, run.origin.as_ref())
    }

    /// Those of a table that is kept without its samples.
    #[must_use]
    pub fn of_table(table: &crate::table::Table) -> Self {
        let effort =
            table.build.split_once(", ").map_or(table.build.as_str(), |(_, effort)| effort);
        let machine = serde_json::to_value(&table.machine).unwrap_or_default();
        let keys = table.keys.as_deref();
        Self::of(machine, [&table.on, &table.paging, &table.backend], (keys, table.switch_ns))
            .and(effort, table.origin.as_ref())
    }

    /// Those of a published table: another machine, another kernel, and nothing more is known.
    #[must_use]
    pub fn published(note: &str) -> Self {
        Conditions { source: note.to_owned(), values: Vec::new(), switch_ns: None }
    }

    fn of(
        machine: Value,
        [on, paging, backend]: [&String; 3],
        (keys, switch_ns): (Option<&str>, Option<f64>),
    ) -> Self {
        let source = machine["cpu"].as_str().unwrap_or_default().to_owned();
        let by = keys.map_or_else(|| backend.clone(), |keys| format!("{backend} with {keys} keys"));
        let values = vec![
            (Condition::Machine, machine),
            (Condition::Format, json!({ "on": on, "paging": paging })),
            (Condition::Backend, by.into()),
        ];
        Conditions { source, values, switch_ns }
    }

    fn and(mut self, effort: &str, origin: Option<&crate::record::Origin>) -> Self {
        self.values.push((Condition::Effort, effort.into()));
        let program = origin.map_or("not known".to_owned(), crate::record::Origin::program);
        self.values.push((Condition::Build, program.into()));
        self
    }

    /// In what another run differs, the rows and gates left out.
    #[must_use]
    pub fn differences(&self, after: &Conditions) -> Vec<Difference> {
        if self.values.is_empty() || after.values.is_empty() {
            return vec![Difference {
                condition: Condition::Machine,
                field: Condition::Machine.name().to_owned(),
                before: self.source.clone(),
                after: after.source.clone(),
                accepted: false,
            }];
        }
        let mut found = Vec::new();
        for (condition, was) in &self.values {
            let is = after.values.iter().find(|(known, _)| known == condition);
            let is = is.map_or(Value::Null, |(_, value)| value.clone());
            for (field, before, after) in leaf_differences(condition.name(), was, &is) {
                found.push(Difference {
                    condition: *condition,
                    field,
                    before,
                    after,
                    accepted: false,
                });
            }
        }
        found.extend(self.switch_difference(after));
        found
    }

    fn switch_difference(&self, after: &Conditions) -> Option<Difference> {
        let (before, after) = (self.switch_ns?, after.switch_ns?);
        let differs = before.max(after) > SWITCH_RATIO * before.min(after);
        differs.then(|| Difference {
            condition: Condition::SwitchCost,
            field: Condition::SwitchCost.name().to_owned(),
            before: format!("{before:.1} ns"),
            after: format!("{after:.1} ns"),
            accepted: false,
        })
    }
}

/// Every field in which two values differ: its name, and both sides in words.
#[must_use]
pub fn leaf_differences(name: &str, was: &Value, is: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    collect(name, was, is, &mut found);
    found
}

fn collect(name: &str, was: &Value, is: &Value, found: &mut Vec<(String, String, String)>) {
    if let (Value::Object(was), Value::Object(is)) = (was, is) {
        let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for name in names {
            let of = |object: &Map<String, Value>| object.get(name).cloned().unwrap_or_default();
            collect(name, &of(was), &of(is), found);
        }
    } else if was != is {
        found.push((name.replace('_', " "), shown(was), shown(is)));
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not known".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::run;

    #[test]
    fn one_run_does_not_differ_from_itself() {
        let conditions = Conditions::of_run(&run(4));
        assert_eq!(conditions.differences(&conditions), []);
    }

    #[test]
    fn every_field_that_differs_is_named_with_both_values() {
        let before = run(4);
        let mut after = run(4);
        after.machine.cpu = "other".into();
        after.machine.extra.insert("microcode".into(), "0x2".into());
        after.backend = "pks".into();
        after.switch_ns = Some(20.0);
        let found = Conditions::of_run(&before).differences(&Conditions::of_run(&after));
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "machine, cpu: example / other",
                "machine, microcode: not known / 0x2",
                "backend: mock / pks",
                "switch-cost: 10.1 ns / 20.0 ns",
            ]
        );
    }

    #[test]
    fn a_switch_measured_anew_may_cost_a_little_more() {
        let mut after = run(4);
        after.switch_ns = Some(11.0);
        assert_eq!(Conditions::of_run(&run(4)).differences(&Conditions::of_run(&after)), []);
    }

    #[test]
    fn conditions_have_the_names_they_are_asked_for_by() {
        for condition in Condition::ALL {
            assert_eq!(condition.name().parse(), Ok(condition));
            assert_eq!(serde_json::to_value(condition).unwrap(), condition.name());
            assert!("x".parse::<Condition>().unwrap_err().to_string().contains(condition.name()));
        }
    }
}
