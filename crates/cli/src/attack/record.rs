//! What the kernel reports of an attack, read back.

use anyhow::{Context, Result};
use kpkeys_pgtable::Mode;
use kpkeys_workloads::attack::{self, Fault, Outcome, Primitive, Promise, Target};
use serde::{Deserialize, Serialize, Serializer};

/// One attack.
#[derive(Clone, Debug, Serialize)]
pub struct Attack {
    /// The mode it was made in.
    #[serde(serialize_with = "by_name")]
    pub mode: Mode,
    /// What was attacked.
    #[serde(serialize_with = "displayed")]
    pub target: Target,
    /// How.
    #[serde(serialize_with = "displayed")]
    pub primitive: Primitive,
    /// What came of it.
    #[serde(serialize_with = "outcome")]
    pub outcome: Outcome,
    /// What was promised.
    #[serde(serialize_with = "promise")]
    pub promised: Promise,
    /// The error code of the fault that blocked it.
    pub code: Option<u64>,
}

impl Attack {
    /// Holds it against what must be true.
    pub fn check(&self) -> Result<(), attack::Broken> {
        attack::promise::check(self.target, self.promised, self.outcome, self.mode)
    }
}

/// What this program wants of the kernel's records.
pub enum Record {
    /// An attack.
    Attack(Attack),
    /// The end of the attacks.
    Attacks {
        /// How many were made.
        made: usize,
    },
    /// Anything else.
    Other,
}

/// A record as it comes.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line {
    Attack {
        mode: String,
        target: String,
        primitive: String,
        outcome: String,
        promised: String,
        code: Option<u64>,
        by_protection: Option<bool>,
    },
    Attacks {
        made: usize,
    },
    #[serde(other)]
    Other,
}

/// Reads one record.
///
/// # Errors
///
/// What it says that this program does not know.
pub fn parse(json: &str) -> Result<Record> {
    let line = serde_json::from_str(json)
        .with_context(|| format!("not a record of the kernel: {json}"))?;
    Ok(match line {
        Line::Attacks { made } => Record::Attacks { made },
        Line::Other => Record::Other,
        Line::Attack { mode, target, primitive, outcome, promised, code, by_protection } => {
            let unknown = |what: &str| format!("unknown {what} in the kernel's record: {json}");
            let fault = code.zip(by_protection);
            let fault =
                fault.map(|(code, by_protection)| Fault { code, address: 0, by_protection });
            let outcome = match (outcome.as_str(), fault) {
                ("succeeded", None) => Some(Outcome::Succeeded),
                ("blocked", Some(fault)) => Some(Outcome::Faulted(fault)),
                ("blocked", None) => Some(Outcome::Refused),
                _ => None,
            };
            Record::Attack(Attack {
                mode: Mode::from_name(&mode).with_context(|| unknown("mode"))?,
                target: Target::from_name(&target).with_context(|| unknown("target"))?,
                primitive: Primitive::from_name(&primitive)
                    .with_context(|| unknown("primitive"))?,
                outcome: outcome.with_context(|| unknown("outcome"))?,
                promised: Promise::ALL
                    .into_iter()
                    .find(|promise| promise.name() == promised)
                    .with_context(|| unknown("promise"))?,
                code,
            })
        }
    })
}

fn by_name<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.name())
}

fn displayed<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn outcome<S: Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome.name())
}

fn promise<S: Serializer>(promise: &Promise, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(promise.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attack(json: &str) -> Attack {
        match parse(json).unwrap() {
            Record::Attack(attack) => attack,
            _ => panic!("no attack"),
        }
    }

    #[test]
    fn a_blocked_attack_is_read_with_its_code() {
        let attack = attack(
            r#"{"type":"attack","mode":"fused","target":"user-pmd","primitive":"store-8","outcome":"blocked","promised":"blocked","code":35,"by_protection":true}"#,
        );
        assert_eq!(attack.target.to_string(), "user-pmd");
        assert_eq!(attack.check(), Ok(()));
        let json = serde_json::to_value(&attack).unwrap();
        assert_eq!((&json["outcome"], &json["code"]), (&"blocked".into(), &35.into()));
    }

    #[test]
    fn words_that_mean_nothing_are_quoted() {
        let line = r#"{"type":"attack","mode":"fused","target":"moon","primitive":"store-8","outcome":"blocked","promised":"none","code":null,"by_protection":null}"#;
        let error = format!("{:#}", parse(line).err().unwrap());
        assert!(error.contains("unknown target") && error.contains("moon"), "{error}");
        assert!(parse("{}").is_err());
        assert!(matches!(parse(r#"{"type":"boot","cpus":4}"#), Ok(Record::Other)));
    }
}
