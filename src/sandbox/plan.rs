//! What the next requests are to meet, as ordered through the control route.

use super::behaviour::{self, Behaviour};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;

const MOST_WAITING: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    behave: String,
    #[serde(default = "once")]
    times: u32,
}

fn once() -> u32 {
    1
}

/// Orders that wait for their DELETE or connection, first come, first served.
#[derive(Default)]
pub(super) struct Plan {
    deletions: VecDeque<(Behaviour, u32)>,
    hang_ups: u32,
}

impl Plan {
    /// Takes the order `{"behave": "…", "times": N}`; `times` is 1 unless it is given.
    ///
    /// # Errors
    /// What is wrong with it, as the body of a 400.
    pub(super) fn add(&mut self, order: &[u8]) -> Result<Behaviour, Value> {
        let order: Order = serde_json::from_slice(order)
            .map_err(|_| refusal(r#"expected {"behave": "<name>", "times": <1 or more>}"#))?;
        let behaviour = Behaviour::named(&order.behave).ok_or_else(|| refusal("there is no such behaviour"))?;
        if order.times == 0 {
            return Err(refusal("`times` is 1 or more"));
        }
        if behaviour == Behaviour::HangUpBeforeReading {
            self.hang_ups = self.hang_ups.saturating_add(order.times);
        } else if self.deletions.len() < MOST_WAITING {
            self.deletions.push_back((behaviour, order.times));
        } else {
            return Err(refusal("too many orders are waiting: reset, or send the requests that they wait for"));
        }
        Ok(behaviour)
    }

    /// How the DELETE that is being answered now is to be treated, if there is an order for it.
    pub(super) fn next_deletion(&mut self) -> Option<Behaviour> {
        let (behaviour, times) = self.deletions.front_mut()?;
        let behaviour = *behaviour;
        *times -= 1;
        if *times == 0 {
            self.deletions.pop_front();
        }
        Some(behaviour)
    }

    /// Whether the connection that was accepted now is to end at once.
    pub(super) fn next_connection_hangs_up(&mut self) -> bool {
        let hangs_up = self.hang_ups > 0;
        self.hang_ups = self.hang_ups.saturating_sub(1);
        hangs_up
    }
}

fn refusal(message: &str) -> Value {
    json!({"success": false, "message": message, "behaviours": behaviour::names().collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_carried_out_in_turn() {
        let mut plan = Plan::default();
        for order in [r#"{"behave":"answer-500","times":2}"#, r#"{"behave":"hang-up-lost"}"#] {
            assert!(plan.add(order.as_bytes()).is_ok(), "{order}");
        }
        let met: Vec<_> = (0..4).map(|_| plan.next_deletion().map(|met| met.to_string())).collect();
        let expected = [Some("answer-500"), Some("answer-500"), Some("hang-up-lost"), None];
        assert_eq!(met, expected.map(|name| name.map(String::from)));
    }

    #[test]
    fn what_is_no_order_changes_nothing_and_is_told_the_names() {
        let mut plan = Plan::default();
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"behave":"answer-418"}"#,
            r#"{"behave":"slow-9","times":0}"#,
            r#"{"behave":"slow-9","time":2}"#,
        ] {
            let told = plan.add(bad.as_bytes()).err();
            let names = told.as_ref().and_then(|told| told.pointer("/behaviours/17"));
            assert_eq!(names, Some(&json!("slow-<ms>")), "{bad}");
        }
        assert!(plan.next_deletion().is_none() && !plan.next_connection_hangs_up());
    }

    #[test]
    fn orders_that_wait_are_bounded() {
        let mut plan = Plan::default();
        let taken = (0..2 * MOST_WAITING).filter(|_| plan.add(br#"{"behave":"cut-body"}"#).is_ok()).count();
        assert_eq!((taken, plan.deletions.len()), (MOST_WAITING, MOST_WAITING));
    }
}
