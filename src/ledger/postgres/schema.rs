//! What the database is made of, in numbered steps; `migrate` takes them, and whoever opens a ledger checks the number.

use super::session::{Fault, Role, Session};
use crate::config;
use crate::ledger::OpenError;
use tokio_postgres::error::SqlState;

pub(super) const MISSING: &str =
    "there is no ledger in this database; make one with `wasend-gateway migrate --config FILE`";

/// The steps, in order. One that was released is never changed.
///
/// `head` is the one row that every batch locks: what is read after that is the newest, and nobody else's turn. The
/// path of a commit touches ordered keys alone. `search` holds what is derived, and can be built anew. `pruned` has rows
/// where the log begins elsewhere than at 0, or is to, each with the edge of the tree over what goes; `arriving` one while
/// a ledger is copied into the database.
const STEPS: &[&str] = &[
    "
    CREATE TABLE ledger.entry (seq bigint PRIMARY KEY, bytes bytea NOT NULL);
    CREATE TABLE ledger.head (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), length bigint NOT NULL, latest_us bigint NOT NULL
    ) WITH (fillfactor = 10);
    INSERT INTO ledger.head (length, latest_us) VALUES (0, 0);
    CREATE TABLE ledger.in_flight (
        seq bigint PRIMARY KEY, request_id text NOT NULL, target bytea NOT NULL, key bytea, counters bytea NOT NULL,
        replica text NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
    CREATE INDEX ON ledger.in_flight (target);
    CREATE TABLE ledger.frozen (place bigint NOT NULL, body text NOT NULL);
    CREATE TABLE ledger.idempotency (
        key bytea PRIMARY KEY, since_us bigint NOT NULL, seq bigint NOT NULL, target bytea NOT NULL,
        request_id text NOT NULL, answered text
    );
    CREATE INDEX ON ledger.idempotency (since_us);
    CREATE TABLE ledger.spent (
        counter bytea NOT NULL, ordinal bigint NOT NULL, time_us bigint NOT NULL, seq bigint NOT NULL
    );
    CREATE INDEX ON ledger.spent (counter, ordinal);
    CREATE INDEX ON ledger.spent (counter, seq);
    CREATE TABLE ledger.unresolved (
        since_us bigint NOT NULL, seq bigint NOT NULL, attempts integer NOT NULL, PRIMARY KEY (since_us, seq)
    );
    CREATE TABLE ledger.replica (
        id text PRIMARY KEY, version text NOT NULL, policy text NOT NULL DEFAULT '',
        started timestamptz NOT NULL DEFAULT clock_timestamp(), lease_until timestamptz NOT NULL,
        stopped boolean NOT NULL DEFAULT false
    );
    CREATE TABLE ledger.tile (place bigint PRIMARY KEY, hashes bytea NOT NULL);
    CREATE TABLE ledger.signed (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), note text, verifying_key text NOT NULL
    );
    CREATE SCHEMA search;
    CREATE TABLE search.cursor (one boolean PRIMARY KEY DEFAULT true CHECK (one), next bigint NOT NULL);
    INSERT INTO search.cursor (next) VALUES (0);
    CREATE TABLE search.request (
        seq bigint PRIMARY KEY, request_id text NOT NULL, decision text NOT NULL, caller text NOT NULL,
        session text NOT NULL, bare_group text NOT NULL, day bigint NOT NULL,
        outcome text, outcome_seq bigint, resolution_seq bigint, settled boolean NOT NULL
    );
    CREATE INDEX ON search.request USING hash (request_id);
    CREATE INDEX ON search.request (caller, seq);
    CREATE INDEX ON search.request (session, seq);
    CREATE INDEX ON search.request (bare_group, seq);
    CREATE INDEX ON search.request (outcome, seq);
    CREATE INDEX ON search.request (seq) WHERE NOT settled;
    CREATE TABLE search.day (
        day bigint, caller text, outcome text, count bigint NOT NULL, PRIMARY KEY (day, caller, outcome)
    );",
    "
    CREATE TABLE ledger.pruned (
        seq bigint PRIMARY KEY, first bigint NOT NULL, edge bytea NOT NULL, state smallint NOT NULL
    );
    CREATE TABLE ledger.arriving (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), first bigint NOT NULL, next bigint NOT NULL, whole text
    );
    ALTER TABLE search.cursor ADD COLUMN base bigint NOT NULL DEFAULT 0;",
];

pub(super) const ARRIVING: &str =
    "a ledger is being copied into this database, and is not whole yet: `wasend-gateway ledger copy` goes on with it";

/// Puts a ledger aside under its number, and makes an empty one in its place; freezes hold on, budgets stay spent, and
/// keys stay known, but their entries have no numbers here.
pub(super) fn successor(number: u64) -> Vec<String> {
    let aside = format!(
        "ALTER SCHEMA ledger RENAME TO ledger_{number}; ALTER SCHEMA search RENAME TO search_{number};
         CREATE SCHEMA ledger; CREATE TABLE ledger.version (version integer NOT NULL)"
    );
    let take_over = format!(
        "INSERT INTO ledger.version VALUES ({});
         INSERT INTO ledger.frozen TABLE ledger_{number}.frozen;
         INSERT INTO ledger.idempotency
            SELECT key, since_us, -1, target, request_id, answered FROM ledger_{number}.idempotency;
         INSERT INTO ledger.spent SELECT counter, ordinal, time_us, -1 FROM ledger_{number}.spent",
        newest()
    );
    let steps = STEPS.iter().map(|step| (*step).to_owned());
    std::iter::once(aside).chain(steps).chain(std::iter::once(take_over)).collect()
}

/// Any number that is ours, so that two migrations wait for each other.
const LOCK: i64 = 0x7767_6d01;

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The schema's version before; 0 where there was none.
    pub from: i32,
    /// The version now.
    pub to: i32,
}

/// The version that this program writes.
fn newest() -> i32 {
    i32::try_from(STEPS.len()).unwrap_or(i32::MAX)
}

fn too_new(version: i32) -> OpenError {
    OpenError::Unusable(format!(
        "the ledger's schema is of version {version}; this program knows versions up to {}: use a newer one",
        newest()
    ))
}

async fn version(session: &mut Session) -> Result<i32, Fault> {
    let sql = "SELECT version FROM ledger.version";
    session.ask(async |client| client.query_typed_one(sql, &[]).await?.try_get(0)).await
}

/// Refuses a database whose schema is not this program's, and for who writes or reads a ledger also one that is not whole.
pub(super) async fn check(session: &mut Session, role: Role) -> Result<(), OpenError> {
    let version = match version(session).await {
        Ok(version) => version,
        Err(Fault::Refused(code, _)) if code == SqlState::INSUFFICIENT_PRIVILEGE => {
            let words = "this user may not read the schema `ledger`: it has to be the one that ran `migrate`, or be \
                         granted what that one has";
            return Err(OpenError::Unusable(words.to_owned()));
        }
        Err(fault) => return Err(fault.into()),
    };
    match version.cmp(&newest()) {
        std::cmp::Ordering::Equal => whole(session, role).await,
        std::cmp::Ordering::Greater => Err(too_new(version)),
        std::cmp::Ordering::Less => Err(OpenError::Unusable(format!(
            "the ledger's schema is of version {version}, this program needs {}: run `wasend-gateway migrate --config \
             FILE`",
            newest()
        ))),
    }
}

async fn whole(session: &mut Session, role: Role) -> Result<(), OpenError> {
    match role {
        Role::Migration | Role::Copying => return Ok(()),
        Role::Writer | Role::Keeper | Role::Reader | Role::Pruning => {}
    }
    let arriving = session.ask(async |client| {
        client.query_typed_one("SELECT EXISTS (SELECT FROM ledger.arriving)", &[]).await?.try_get::<_, bool>(0)
    });
    if arriving.await? { Err(OpenError::Unusable(ARRIVING.to_owned())) } else { Ok(()) }
}

/// Brings the schema up to this program's version, in one transaction: all of it or nothing.
pub(super) async fn migrate(place: &config::Postgres) -> Result<Migrated, OpenError> {
    let mut session = Session::open(place, Role::Migration).await?;
    // Where nothing is to be done, nobody needs the right to do it.
    match version(&mut session).await {
        Ok(version) if version > newest() => return Err(too_new(version)),
        Ok(version) if version == newest() => {
            session.close().await;
            return Ok(Migrated { from: version, to: version });
        }
        Err(fault @ Fault::Lost(_)) => return Err(fault.into()),
        Ok(_) | Err(_) => {}
    }
    let begun = session.ask(async |client| {
        client.batch_execute("BEGIN").await?;
        client.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        client.batch_execute("CREATE SCHEMA IF NOT EXISTS ledger").await?;
        client.batch_execute("CREATE TABLE IF NOT EXISTS ledger.version (version integer NOT NULL)").await?;
        let row = client.query_typed_opt("SELECT version FROM ledger.version", &[]).await?;
        row.map_or(Ok(0), |row| row.try_get::<_, i32>(0))
    });
    let from = begun.await?;
    if from > newest() {
        return Err(too_new(from));
    }
    for step in STEPS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        session.ask(async |client| client.batch_execute(step).await).await?;
    }
    let written = format!("DELETE FROM ledger.version; INSERT INTO ledger.version VALUES ({}); COMMIT", newest());
    session.ask(async |client| client.batch_execute(&written).await).await?;
    session.close().await;
    Ok(Migrated { from, to: newest() })
}
