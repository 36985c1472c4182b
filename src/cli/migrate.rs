//! `migrate`: makes the ledger's schema in PostgreSQL, or brings it up to this version.

use super::place::section;
use super::{Exit, page};
use crate::ledger::postgres;
use std::path::Path;

pub(super) fn run(file: &Path) -> Exit {
    let ledger = match section(file) {
        Ok(ledger) => ledger,
        Err(exit) => return exit,
    };
    if ledger.postgres.is_none() {
        page::complain("ledger.kind is \"sqlite\": there is nothing to migrate, `serve` makes what it needs");
        return Exit::Usage;
    }
    let (migrated, is_new_key) = match postgres::migrate(&ledger) {
        Ok(done) => done,
        Err(error) => return page::ledger(&error),
    };
    if migrated.from == migrated.to {
        page::line(format_args!("the ledger's schema is of version {} already", migrated.to));
    } else {
        page::line(format_args!("the ledger's schema is of version {} now; it was {}", migrated.to, migrated.from));
    }
    if let (true, Some(key)) = (is_new_key, &ledger.signing_key_file) {
        page::line(format_args!(
            "{} was made: give this file to every replica, and keep a copy where the database is not",
            key.display()
        ));
    }
    Exit::Done
}
