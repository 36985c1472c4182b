//! Every rule that bears on a request, with why it covers it or does not, beside the decision that they come to.

use super::rule::{Part, Rule};
use super::{Policy, Question, Rules};
use crate::error::NotAllowed;
use std::sync::Arc;

/// A decision with all rules that were looked at, in the order in which they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What [`Policy::decide`] says.
    pub decision: Result<Arc<str>, NotAllowed>,
    /// The caller's `from`, where it has one; its deny rules; its allow rules. Empty for a caller who is not known.
    pub looked: Vec<Looked>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Its name.
    pub rule: Arc<str>,
    /// Whether it covers the request.
    pub covers: bool,
    /// Whether the decision is its.
    pub decides: bool,
    /// Why, a line for each part that it says something about.
    pub why: Vec<String>,
}

impl Explanation {
    /// The rule that the decision is by, a deny rule or a caller's `from` too; nothing where no rule covers the request.
    #[must_use]
    pub fn rule(&self) -> Option<&Arc<str>> {
        self.looked.iter().find(|looked| looked.decides).map(|looked| &looked.rule)
    }
}

impl Policy {
    /// Decides as [`Policy::decide`] does, and says what each rule comes to.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let decision = self.decide(question);
        let looked = self.callers.get(question.caller).map(|rules| rules.looked_at(question, &decision));
        Explanation { decision, looked: looked.unwrap_or_default() }
    }
}

impl Rules {
    fn looked_at(&self, question: &Question<'_>, decision: &Result<Arc<str>, NotAllowed>) -> Vec<Looked> {
        let from = self.from.as_ref().map(|networks| {
            let covers = self.may_call_from(question.peer);
            let list: Vec<String> = networks.iter().map(ToString::to_string).collect();
            let (is, list) = (if covers { "is" } else { "is not" }, list.join(", "));
            let why = vec![format!("{} {is} in [{list}]", question.peer)];
            let decides = matches!(decision, Err(NotAllowed::From(_)));
            Looked { rule: format!("{}.from", question.caller).into(), covers, decides, why }
        });
        let decides = |rule: &Rule| match decision {
            Ok(by) | Err(NotAllowed::Denied(_, by)) => Arc::ptr_eq(by, &rule.name),
            Err(NotAllowed::NoRule(_) | NotAllowed::From(_)) => false,
        };
        let rules = self.deny.iter().chain(&self.allow).map(|rule| Looked {
            rule: Arc::clone(&rule.name),
            covers: rule.covers(question),
            decides: decides(rule),
            why: Part::ALL.into_iter().filter_map(|part| rule.why(part, question)).collect(),
        });
        from.into_iter().chain(rules).collect()
    }
}
