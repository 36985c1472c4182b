//! The writer's session, and its SQL beside the batches: leases, the dead, and what is asked of it.

use super::acting::Replica;
use super::batch::{self, Ended, Prepared};
use super::plan::{Asked, Known, Plan};
use super::session::{Fault, Role, Session};
use crate::clock::Timestamp;
use crate::config;
use crate::id::RequestId;
use crate::ledger::freeze::{Covers, Freezes};
use crate::ledger::glance::Glance;
use crate::ledger::{Entries, OpenError};
use std::time::Duration;
use tokio_postgres::Error;
use tokio_postgres::types::{ToSql, Type};

const REGISTER: &str = "
    INSERT INTO ledger.replica (id, version, policy, lease_until)
    VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))";
/// What is still open is another replica's to close, once this one's lease is over.
const LEAVE: [&str; 2] = [
    "UPDATE ledger.replica SET stopped = true WHERE id = $1",
    "DELETE FROM ledger.replica WHERE id = $1 AND NOT EXISTS (SELECT FROM ledger.in_flight WHERE replica = $1)",
];
const BURY: &str = "DELETE FROM ledger.replica WHERE lease_until < clock_timestamp() AND id <> $1 RETURNING stopped";
const LEFT: &str = "
    SELECT f.seq, f.request_id, e.bytes FROM ledger.in_flight f LEFT JOIN ledger.entry e ON e.seq = f.seq
    WHERE NOT EXISTS (SELECT FROM ledger.replica r WHERE r.id = f.replica) ORDER BY f.seq LIMIT 1000";
const RENEW: &str = "
    WITH renewed AS (UPDATE ledger.replica SET lease_until = clock_timestamp() + make_interval(secs => $4), policy = $3
        WHERE id = $1 RETURNING id)
    SELECT EXISTS (SELECT FROM renewed), (SELECT count(*) FROM ledger.unresolved),
        EXISTS (SELECT FROM ledger.replica WHERE lease_until < clock_timestamp() AND id <> $1)
            OR EXISTS (SELECT FROM ledger.in_flight f
                WHERE NOT EXISTS (SELECT FROM ledger.replica r WHERE r.id = f.replica)),
        current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on',
        ARRAY(SELECT format('%s: version %s, policy %s', id, version, policy) FROM ledger.replica
            WHERE id <> $1 AND lease_until >= clock_timestamp() AND policy <> '' AND $3 <> ''
                AND (version, policy) <> ($2, $3) ORDER BY id),
        ARRAY(SELECT body FROM ledger.frozen ORDER BY place),
        (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
const FLYING: &str =
    "SELECT f.seq, e.bytes FROM ledger.in_flight f JOIN ledger.entry e ON e.seq = f.seq ORDER BY f.seq";
const REPLICAS: &str = "
    SELECT r.id, r.version, r.policy, to_char(r.started AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
        r.lease_until < clock_timestamp(),
        greatest(0, ceil(extract(epoch FROM r.lease_until - clock_timestamp())))::int8, (SELECT count(*) FROM ledger.in_flight f WHERE f.replica = r.id)
    FROM ledger.replica r ORDER BY r.started, r.id";
const LONGEST: &str = "
    SELECT u.since_us, u.seq, u.attempts, e.bytes FROM (
        (SELECT * FROM ledger.unresolved WHERE since_us <= $1 ORDER BY since_us, seq LIMIT 32) UNION ALL
        (SELECT * FROM ledger.unresolved WHERE since_us > $2 ORDER BY since_us, seq LIMIT 32)) u
    JOIN ledger.entry e ON e.seq = u.seq ORDER BY u.since_us, u.seq";

/// Who this replica is, as the others see it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) version: &'static str,
    pub(super) policy: String,
}

/// What a renewal found.
#[derive(Debug)]
pub(super) struct Renewed {
    /// The lease is renewed; otherwise another replica has taken this one for dead.
    pub(super) is_ours: bool,
    pub(super) unresolved: i64,
    /// Somebody's lease is over, or what a dead replica left is still open.
    pub(super) somebody_died: bool,
    /// What is committed stays.
    pub(super) is_fit: bool,
    /// Replicas of another version or with another policy.
    pub(super) others: Vec<String>,
    pub(super) freezes: Freezes,
    /// By the database's clock.
    pub(super) now: Timestamp,
}

/// The writer's session.
pub(super) struct Writing {
    session: Session,
    prepared: Prepared,
}

fn unsigned(row: &tokio_postgres::Row, at: usize) -> Result<u64, Error> {
    row.try_get::<_, i64>(at).map(i64::cast_unsigned)
}

impl Writing {
    pub(super) async fn open(place: &config::Postgres) -> Result<Self, OpenError> {
        let mut session = Session::open(place, Role::Writer).await?;
        super::schema::check(&mut session, Role::Writer).await?;
        let prepared = session.ask(Prepared::on).await?;
        Ok(Self { session, prepared })
    }

    /// See [`Prepared::lock_and_learn`].
    pub(super) async fn lock_and_learn(&mut self, asked: &Asked, replica: &str) -> Result<(Known, bool), Fault> {
        self.prepared.lock_and_learn(&mut self.session, asked, replica).await
    }

    /// See [`Prepared::write`].
    pub(super) async fn write(&mut self, plan: &Plan, replica: &str) -> Ended {
        self.prepared.write(&mut self.session, plan, replica).await
    }

    /// See [`Prepared::try_out`].
    pub(super) async fn try_out(&mut self, plan: &Plan, replica: &str) -> Ended {
        self.prepared.try_out(&mut self.session, plan, replica).await
    }

    /// Ends a transaction in which nothing is to be changed.
    pub(super) async fn roll_back(&mut self) -> Result<(), Fault> {
        self.session.ask(async |client| client.batch_execute("ROLLBACK").await).await
    }

    /// In the locked transaction: removes replicas whose lease is over. Returns how many of them did not
    /// stop by themselves, and the intents of theirs that
    /// are open, each with its number, its request id, and its entry.
    pub(super) async fn bury(&mut self, replica: &str) -> Result<(u64, Vec<(u64, String, Vec<u8>)>), Fault> {
        let buried = self.session.ask(async |client| {
            let dead = client.query_typed(BURY, &[(&replica, Type::TEXT)]).await?;
            let stopped: Result<Vec<bool>, Error> = dead.iter().map(|row| row.try_get(0)).collect();
            let dead = stopped?.into_iter().filter(|stopped| !stopped).count() as u64;
            let rows = client.query_typed(LEFT, &[]).await?;
            let left = rows.iter().map(|row| {
                let bytes = row.try_get::<_, Option<Vec<u8>>>(2)?.unwrap_or_default();
                Ok((unsigned(row, 0)?, row.try_get(1)?, bytes))
            });
            Ok((dead, left.collect::<Result<_, Error>>()?))
        });
        buried.await
    }

    /// In the open transaction or by itself: this replica is there.
    pub(super) async fn register(&mut self, who: &Identity, lease: Duration) -> Result<(), Fault> {
        let registered = self.session.ask(async |client| {
            let values: [(&(dyn ToSql + Sync), Type); 4] = [
                (&who.id, Type::TEXT),
                (&who.version, Type::TEXT),
                (&who.policy, Type::TEXT),
                (&lease.as_secs_f64(), Type::FLOAT8),
            ];
            client.execute_typed(REGISTER, &values).await
        });
        registered.await.map(drop)
    }

    /// This replica is not there any more, unless it leaves intents open.
    pub(super) async fn leave(&mut self, replica: &str) -> Result<(), Fault> {
        let left = self.session.ask(async |client| {
            for sql in LEAVE {
                client.execute_typed(sql, &[(&replica, Type::TEXT)]).await?;
            }
            Ok(())
        });
        left.await
    }

    pub(super) async fn renew(&mut self, who: &Identity, lease: Duration) -> Result<Renewed, Fault> {
        let renewed = self.session.ask(async |client| {
            let values: [(&(dyn ToSql + Sync), Type); 4] = [
                (&who.id, Type::TEXT),
                (&who.version, Type::TEXT),
                (&who.policy, Type::TEXT),
                (&lease.as_secs_f64(), Type::FLOAT8),
            ];
            let row = client.query_typed_one(RENEW, &values).await?;
            let renewed = Renewed {
                is_ours: row.try_get(0)?,
                unresolved: row.try_get(1)?,
                somebody_died: row.try_get(2)?,
                is_fit: row.try_get(3)?,
                others: row.try_get(4)?,
                freezes: Freezes::default(),
                now: Timestamp::from_micros(row.try_get(6)?),
            };
            Ok((renewed, row.try_get::<_, Vec<String>>(5)?))
        });
        let (renewed, texts) = renewed.await?;
        Ok(Renewed { freezes: batch::freezes(&texts)?, ..renewed })
    }

    /// The requests whose intents, of any replica, have no outcome, as far as this covers them.
    pub(super) async fn covered(&mut self, covers: &Covers) -> Result<Vec<RequestId>, Fault> {
        let mut covered = Vec::new();
        for (seq, bytes) in self.flying().await? {
            // Of what cannot be read nobody says that it is over.
            let unread = || Fault::Unfit(format!("entry {seq} is said to be in flight, but is no such intent"));
            let about = Glance::at(seq, &bytes).ok().and_then(|entry| entry.covered_by(covers));
            covered.extend(about.ok_or_else(unread)?);
        }
        Ok(covered)
    }

    /// See [`Session::now`].
    pub(super) async fn now(&mut self) -> Result<Timestamp, Fault> {
        self.session.now().await
    }

    /// What is frozen.
    pub(super) async fn freezes(&mut self) -> Result<Freezes, Fault> {
        let texts = self.session.ask(async |client| {
            let rows = client.query_typed("SELECT body FROM ledger.frozen ORDER BY place", &[]).await?;
            rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, Error>>()
        });
        batch::freezes(&texts.await?)
    }

    /// Every replica, the oldest first.
    pub(super) async fn replicas(&mut self) -> Result<Vec<Replica>, Fault> {
        let read = self.session.ask(async |client| {
            let rows = client.query_typed(REPLICAS, &[]).await?;
            let replica = |row: &tokio_postgres::Row| {
                Ok(Replica {
                    id: row.try_get(0)?,
                    version: row.try_get(1)?,
                    policy: row.try_get(2)?,
                    started: row.try_get(3)?,
                    is_dead: row.try_get(4)?,
                    lease_s: unsigned(row, 5)?,
                    open: unsigned(row, 6)?,
                })
            };
            rows.iter().map(replica).collect()
        });
        read.await
    }

    /// The entries of all intents without an outcome, of every replica.
    async fn flying(&mut self) -> Result<Entries, Fault> {
        let read = self.session.ask(async |client| {
            let rows = client.query_typed(FLYING, &[]).await?;
            rows.iter().map(|row| Ok((unsigned(row, 0)?, row.try_get(1)?))).collect()
        });
        read.await
    }

    /// Some entries, ascending.
    pub(super) async fn entries(&mut self, from: u64, until: u64) -> Result<Entries, Fault> {
        const SQL: &str = "SELECT seq, bytes FROM ledger.entry WHERE seq >= $1 AND seq < $2 ORDER BY seq";
        let read = self.session.ask(async |client| {
            let (from, until) = (from.cast_signed(), until.cast_signed());
            let rows = client.query_typed(SQL, &[(&from, Type::INT8), (&until, Type::INT8)]).await?;
            rows.iter().map(|row| Ok((unsigned(row, 0)?, row.try_get(1)?))).collect()
        });
        read.await
    }

    /// The number of the first entry that is kept. A prune that was only recorded has changed nothing yet.
    pub(super) async fn first(&mut self) -> Result<u64, Fault> {
        const SQL: &str = "SELECT coalesce(max(first), 0) FROM ledger.pruned WHERE state > 0";
        self.session.ask(async |client| unsigned(&client.query_typed_one(SQL, &[]).await?, 0)).await
    }

    /// What waits longest for a look at its picture since `until` or longer, and what says that it waits until after
    /// `believed`: since when, the intent's number, how often it was looked at, and its entry.
    pub(super) async fn longest(
        &mut self,
        until_us: i64,
        believed_us: i64,
    ) -> Result<Vec<(i64, u64, i32, Vec<u8>)>, Fault> {
        let read = self.session.ask(async |client| {
            let rows = client.query_typed(LONGEST, &[(&until_us, Type::INT8), (&believed_us, Type::INT8)]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, unsigned(row, 1)?, row.try_get(2)?, row.try_get(3)?))).collect()
        });
        read.await
    }

    pub(super) async fn close(self) {
        self.session.close().await;
    }
}
