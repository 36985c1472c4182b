//! `[[ops.operators]]`: who may ask on the operators' port.

use super::Caller;
use super::callers::{name, sha256};
use super::section::Section;
use crate::id::CallerName;
use std::collections::HashSet;
use std::fmt;

/// One operator or auditor.
#[derive(Clone, PartialEq, Eq)]
pub struct Operator {
    /// Its name in logs.
    pub name: CallerName,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of each of its tokens; several so that they can be replaced with an overlap.
    pub tokens: Vec<[u8; 32]>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operator({}, {:?}, {} × ***)", self.name, self.role, self.tokens.len())
    }
}

/// What somebody may do on the operators' port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads, and acts where there is something to act on.
    Operator,
    /// Reads.
    Auditor,
}

impl Operator {
    fn read(mut section: Section) -> Option<Self> {
        let name = section.parsed("name", name);
        let role = section.one_of("role", &[("operator", Role::Operator), ("auditor", Role::Auditor)]);
        let tokens = section.list("token_sha256", sha256).unwrap_or_default();
        section.finish();
        Some(Self { name: name?, role: role?, tokens })
    }

    /// Reads all operators of `[ops]`; a name or a token that is there twice is a fault.
    pub(super) fn read_all(ops: &mut Section) -> Vec<Self> {
        let operators: Vec<Self> = ops.tables("operators").into_iter().filter_map(Self::read).collect();
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        for operator in &operators {
            let name = &operator.name;
            if !names.insert(name) {
                let what = format!("operator `{name}` is there twice; give each a name of its own");
                ops.fault("operators", None, what);
            }
            if operator.tokens.iter().filter(|hash| !hashes.insert(**hash)).count() > 0 {
                let what = format!("a token of operator `{name}` is there twice; make a new one");
                ops.fault("operators", None, what);
            }
        }
        operators
    }

    /// A name or a token that a caller has too is a fault: one token would open both ports, and a log could not
    /// tell the two apart.
    pub(super) fn tell_apart(operators: &[Self], callers: &[Caller], root: &Section) {
        for operator in operators {
            let name = &operator.name;
            for caller in callers {
                if caller.name == *name {
                    let what = format!("operator `{name}` has the name of a caller; give each a name of its own");
                    root.fault("ops.operators", None, what);
                }
                for token in caller.tokens.iter().filter(|token| operator.tokens.contains(&token.sha256)) {
                    let (id, caller) = (&token.id, &caller.name);
                    let what = format!(
                        "a token of operator `{name}` is also token `{id}` of caller `{caller}`; make a new one"
                    );
                    root.fault("ops.operators", None, what);
                }
            }
        }
    }
}
