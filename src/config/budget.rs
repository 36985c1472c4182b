//! `budgets` of a caller: how many deletions in hours or days.

use super::section::Section;
use std::time::Duration;

/// At most `max` intents in any `per_s` seconds. Counted from the ledger, so that a restart gives nothing back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// How many.
    pub max: u32,
    /// In how many seconds.
    pub per_s: u32,
    /// What is counted together.
    pub per: Per,
    /// What happens when it is used up.
    pub on_exhausted: OnExhausted,
}

/// What a budget or a rate counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// All requests of the caller.
    Caller,
    /// Those in each session on its own.
    Session,
}

impl Per {
    /// Reads `per` of a budget or a rate.
    pub(super) fn read(section: &mut Section) -> Self {
        section.one_of_if_there("per", &[("caller", Self::Caller), ("session", Self::Session)]).unwrap_or(Self::Caller)
    }
}

/// What a used up budget does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnExhausted {
    /// Refuses, until there is something left again.
    Refuse,
    /// Freezes the caller, until a person unfreezes it.
    Freeze,
}

/// A month: how long what is counted has to be remembered at most.
const LONGEST_S: u64 = 31 * 86_400;
pub(super) const LONGEST: Duration = Duration::from_secs(LONGEST_S);

impl Budget {
    /// Reads `budgets` of one caller.
    pub(super) fn read_all(section: &mut Section) -> Vec<Self> {
        let read = |mut budget: Section| {
            let max = u32::try_from(budget.number("max", 1, 1_000_000)).unwrap_or(1);
            let per_s = u32::try_from(budget.number("per_s", 1, LONGEST_S)).unwrap_or(1);
            let per = Per::read(&mut budget);
            let actions = [("refuse", OnExhausted::Refuse), ("freeze", OnExhausted::Freeze)];
            let on_exhausted = budget.one_of_if_there("on_exhausted", &actions);
            budget.finish();
            Self { max, per_s, per, on_exhausted: on_exhausted.unwrap_or(OnExhausted::Refuse) }
        };
        let budgets: Vec<Self> = section.tables("budgets").into_iter().map(read).collect();
        for (index, budget) in budgets.iter().enumerate() {
            let same = |other: &Self| (other.per_s, other.per) == (budget.per_s, budget.per);
            if budgets.iter().take(index).any(same) {
                section.fault(
                    &format!("budgets[{index}]"),
                    None,
                    "has the window of one before it, for the same; leave one of the two out",
                );
            }
        }
        budgets
    }
}
