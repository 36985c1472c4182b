//! `demo`: the whole of it on this machine, with the sandbox in place of the provider. It starts this very
//! binary as `sandbox` and as `serve`, calls it as a service would, and reads the ledger.

mod call;
mod stage;

use super::{Exit, page};
use call::Answer;
use stage::{NotSet, Stage, Told};

#[derive(clap::Args)]
pub(super) struct Options {
    /// End after the show instead of leaving everything running
    #[arg(long)]
    once: bool,
}

/// One call: what it shows, as whom, on which target, and what must come of it.
struct Act {
    shows: &'static str,
    token: &'static str,
    target: &'static str,
    times: usize,
    status: u16,
    code: &'static str,
}

const ACTS: [Act; 8] = [
    Act {
        shows: "an allowed deletion",
        token: stage::MODERATION,
        target: "/sess1/groups/120363000000000001@g.us/picture",
        times: 1,
        status: 200,
        code: "",
    },
    Act {
        shows: "another one, @ as %40",
        token: stage::MODERATION,
        target: "/sess1/groups/120363000000000002%40g.us/picture",
        times: 1,
        status: 200,
        code: "",
    },
    Act {
        shows: "a dry run",
        token: stage::MODERATION,
        target: "/dry-run/sess1/groups/120363000000000003@g.us/picture",
        times: 1,
        status: 200,
        code: "",
    },
    Act {
        shows: "a session that no rule allows",
        token: stage::MODERATION,
        target: "/sess2/groups/120363000000000001@g.us/picture",
        times: 1,
        status: 403,
        code: "not-allowed",
    },
    Act {
        shows: "a group that a rule denies",
        token: stage::MODERATION,
        target: "/sess1/groups/120363000000000999@g.us/picture",
        times: 1,
        status: 403,
        code: "not-allowed",
    },
    Act {
        shows: "a wrong token",
        token: "obviously-wrong-token",
        target: "/sess1/groups/120363000000000001@g.us/picture",
        times: 1,
        status: 401,
        code: "unauthenticated",
    },
    Act {
        shows: "the provider says 404",
        token: stage::MODERATION,
        target: "/sess1/groups/answer-404@g.us/picture",
        times: 1,
        status: 404,
        code: "upstream-refused",
    },
    Act {
        shows: "a runaway caller, 3rd call",
        token: stage::RUNAWAY,
        target: "/sess1/groups/120363000000000004@g.us/picture",
        times: 3,
        status: 429,
        code: "rate-limited",
    },
];

fn perform(stage: &mut Stage, act: &Act) -> Result<(Vec<String>, bool), Told> {
    let mut answer = Answer::default();
    for _ in 0..act.times {
        answer = stage.call(act.target, act.token)?;
    }
    let code = answer.code();
    let expected = answer.status == act.status && code == act.code;
    let told = if code.is_empty() { answer.summary() } else { code };
    let row = vec![
        act.shows.to_owned(),
        answer.status.to_string(),
        told,
        answer.detail(),
        if expected { "as expected" } else { "NOT EXPECTED" }.to_owned(),
    ];
    Ok((row, expected))
}

pub(super) fn run(options: &Options) -> Exit {
    let shown = Stage::set().and_then(|mut stage| Ok(show(&mut stage, options)?));
    match shown {
        Ok(exit) => exit,
        Err(NotSet::Told) => {
            page::complain("the demo was told to end before its end");
            Exit::No
        }
        Err(NotSet::Fault(what)) => {
            page::complain(format_args!("the demo could not be set up: {what}"));
            Exit::Unavailable
        }
    }
}

fn show(stage: &mut Stage, options: &Options) -> Result<Exit, Told> {
    page::line("A sandbox stands in for the provider: nothing real is deleted.\n");
    let acts = ACTS.iter().map(|act| perform(stage, act)).collect::<Result<Vec<_>, _>>()?;
    let mut all_expected = acts.iter().all(|(_, expected)| *expected);
    page::line(page::table(&["call", "status", "code or body", "detail", ""], acts.into_iter().map(|(row, _)| row)));
    page::line("\nWhat the ledger says of all of them (`audit search`), newest first:\n");
    let rows = stage.recorded()?;
    let recorded = rows.len();
    page::line(super::audit::table(rows));
    page::line("\nThe ledger is held against what was signed of it (`audit verify`):\n");
    all_expected &= stage.verified()?;
    // Ten calls (the runaway's three among them), each with its row.
    all_expected &= recorded == ACTS.iter().map(|act| act.times).sum::<usize>();
    if options.once {
        let stopped = stage.strike();
        page::line(if all_expected && stopped {
            "\nAll went as expected."
        } else {
            "\nNot everything went as expected."
        });
        return Ok(if all_expected && stopped { Exit::Done } else { Exit::No });
    }
    page::line(stage.next_steps());
    stage.wait();
    stage.strike();
    Ok(if all_expected { Exit::Done } else { Exit::No })
}
