//! `/sys`, as far as programs read it: which CPUs there are. They do not change once programs run.

use super::data::Data;
use super::node::{Content, Node};
use super::proc::Proc;
use super::tree::{directory_at, put};
use crate::cpu;
use alloc::format;
use alloc::sync::Arc;
use spin::Mutex;

const CPUS: &str = "sys/devices/system/cpu";

/// Adds it to a tree.
pub fn add(root: &Arc<Node>) {
    let cpus = directory_at(root, CPUS);
    for name in ["online", "possible", "present"] {
        put(&cpus, name, Node::new(0o444, Content::Proc(Proc::Cpus)));
    }
    for cpu in cpu::online() {
        let own = directory_at(&cpus, &format!("cpu{}", cpu.id));
        // The first cannot be switched off, and has no switch.
        if cpu.id.0 > 0 {
            let on = Content::File(Mutex::new(Data::archive(b"1\n")));
            put(&own, "online", Node::new(0o444, on));
        }
    }
}
