//! One connection to the database: made, checked, and driven by whoever asks something. Every wait has a bound.

use super::tls::Tls;
use crate::clock::Timestamp;
use crate::config::{self, file};
use crate::ledger::OpenError;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{Client, Config, Error};

/// For connecting, TLS and the checks, all in all.
const CONNECT: Duration = Duration::from_secs(5);
/// For one question. Longer than the server gives a statement, so that its own word comes first.
const PATIENCE: Duration = Duration::from_secs(6);
/// The same for who reads, migrates or copies: nobody's deletion waits for it.
const LONG_PATIENCE: Duration = Duration::from_secs(126);
const URL_AT_MOST: u64 = 4096;
const OLDEST: i32 = 140_000;

/// What every session sets. Whoever holds the head row and is stopped loses its session, and the row with it, after
/// two seconds: the others wait no longer than that.
const SETTINGS: &str = "
    SET statement_timeout = 5000; SET lock_timeout = 4000; SET idle_in_transaction_session_timeout = 2000;
    SET tcp_user_timeout = 10000; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 2; SET search_path = pg_catalog; SET client_min_messages = warning;
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; SET jit = off;";
/// A standby that applies before a commit returns is asked for more than `on`, and keeps it.
const SYNCHRONOUS: &str = "SELECT set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)";
const FITNESS: &str = "SELECT current_setting('server_version_num')::int4, pg_is_in_recovery(),
    current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'),
    current_setting('transaction_read_only'), current_setting('server_encoding')";
/// With these, what was committed is on the disk when COMMIT returns, and on a standby that is waited for.
pub(super) const DURABLE: [&str; 2] = ["on", "remote_apply"];

/// What a session is for: its name in `pg_stat_activity`, and what the server has to be fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Keeper,
    Reader,
    /// Reads what a prune is planned on: from the server that takes writes, since a standby may lag behind.
    Pruning,
    Migration,
    /// Copies a ledger into the database. It may be idle for as long as the other store is read.
    Copying,
}

impl Role {
    fn application_name(self) -> &'static str {
        match self {
            Role::Writer => "wasend-gateway writer",
            Role::Keeper => "wasend-gateway keeper",
            Role::Reader => "wasend-gateway reader",
            Role::Pruning => "wasend-gateway prune",
            Role::Migration => "wasend-gateway migrate",
            Role::Copying => "wasend-gateway copy",
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// There is no connection any more, or no answer in time: what was asked may have happened.
    Lost(String),
    /// The server said no: what was asked has not happened, and the connection goes on.
    Refused(SqlState, String),
    /// The server or the address cannot be used as they are set up.
    Unfit(String),
}

/// Nothing was changed because of what others did at that moment, or because it took too long then.
const PASSING: [SqlState; 4] = [
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::QUERY_CANCELED,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::T_R_DEADLOCK_DETECTED,
];

impl Fault {
    /// Whether the next who asks over this connection or a new one will most likely hear the same.
    pub(super) fn lasts(&self) -> bool {
        match self {
            Fault::Lost(_) => false,
            Fault::Refused(code, _) => !PASSING.contains(code),
            Fault::Unfit(_) => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lost(what) => write!(f, "the database cannot be reached: {what}"),
            Fault::Refused(_, what) => write!(f, "the database refused it: {what}"),
            Fault::Unfit(what) => f.write_str(what),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(db) if db.parsed_severity() == Some(Severity::Error) => {
                Fault::Refused(db.code().clone(), format!("{} ({})", db.message(), db.code().code()))
            }
            Some(db) => Fault::Lost(format!("{} ({})", db.message(), db.code().code())),
            None => Fault::Lost(said(&error)),
        }
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        match fault {
            // "undefined_table", "invalid_schema_name": there is no ledger in this database.
            Fault::Refused(code, _) if code == SqlState::UNDEFINED_TABLE || code == SqlState::INVALID_SCHEMA_NAME => {
                OpenError::Unusable(super::schema::MISSING.to_owned())
            }
            fault @ (Fault::Lost(_) | Fault::Refused(..) | Fault::Unfit(_)) => OpenError::Unusable(fault.to_string()),
        }
    }
}

/// An error with its causes: tokio-postgres alone says no more than "error connecting to server".
fn said(error: &Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.contains(&next) {
            words.extend([": ", &next]);
        }
        cause = error.source();
    }
    words
}

type Connection = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A connection that nobody drives but who asks.
pub(super) struct Session {
    client: Client,
    connection: Option<Connection>,
    patience: Duration,
}

impl Session {
    /// Connects, sets what every session has, and checks that what is committed stays. The URL is read from its file
    /// each time, so that a password can be replaced.
    ///
    /// # Errors
    /// [`Fault::Lost`] where it cannot be reached now, [`Fault::Unfit`] where it is not to be used.
    pub(super) async fn open(place: &config::Postgres, role: Role) -> Result<Self, Fault> {
        let connecting = async {
            let (config, tls) = address(place, role)?;
            let (client, connection) = config.connect(tls).await?;
            let mut session = Self { client, connection: Some(Box::pin(connection)), patience: PATIENCE };
            session.set_up(role).await?;
            Ok(session)
        };
        let in_time = tokio::time::timeout(CONNECT, connecting).await;
        in_time.unwrap_or_else(|_| Err(Fault::Lost(format!("no connection within {} s", CONNECT.as_secs()))))
    }

    async fn set_up(&mut self, role: Role) -> Result<(), Fault> {
        let row = self.ask(async |client| {
            client.batch_execute(SETTINGS).await?;
            if !matches!(role, Role::Reader | Role::Pruning | Role::Copying) {
                // Whoever has gone away without a word is not believed to be there for long.
                client.batch_execute("SET idle_session_timeout = 15000").await?;
            }
            client.query_typed_one(SYNCHRONOUS, &[]).await?;
            client.query_typed_one(FITNESS, &[]).await
        });
        let row = row.await?;
        if matches!(role, Role::Reader | Role::Pruning | Role::Migration | Role::Copying) {
            self.ask(async |client| client.batch_execute("SET statement_timeout = 120000").await).await?;
            self.patience = LONG_PATIENCE;
        }
        let text = |at: usize| row.try_get::<_, &str>(at).unwrap_or_default().to_owned();
        let version: i32 = row.try_get(0)?;
        let unfit = |what: &str| Err(Fault::Unfit(format!("the database is not to be used for a ledger: {what}")));
        if version < OLDEST {
            return unfit(&format!("PostgreSQL {} is too old; 14 or newer is needed", version / 10_000));
        }
        if role == Role::Reader {
            return Ok(());
        }
        if row.try_get(1)? {
            return unfit("it is a standby (pg_is_in_recovery); name the endpoint that takes writes");
        }
        if text(5) != "off" {
            return unfit("it is read-only; name the endpoint that takes writes");
        }
        for (at, name) in [(2, "fsync"), (3, "full_page_writes")] {
            if text(at) != "on" {
                return unfit(&format!(
                    "{name} is {}: a crash could take back what was committed; set it on",
                    text(at)
                ));
            }
        }
        if !DURABLE.contains(&text(4).as_str()) {
            return unfit(&format!("synchronous_commit is {} and could not be set on", text(4)));
        }
        // Checkpoints, reasons of freezes and answers of the provider have more characters than Latin has.
        if !matches!(text(6).as_str(), "UTF8" | "SQL_ASCII") {
            return unfit(&format!("its encoding is {}; make one with ENCODING 'UTF8'", text(6)));
        }
        Ok(())
    }

    /// Asks something, and drives the connection meanwhile, as long as its role may wait. After [`Fault::Lost`] the
    /// session is of no more use.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(super) async fn ask<T>(&mut self, question: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Fault> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Fault::Lost("the connection was lost before".to_owned()));
        };
        let mut question = pin!(question(&self.client));
        let both = async {
            tokio::select! {
                biased;
                answer = &mut question => Some(answer),
                _ = connection => None,
            }
        };
        match tokio::time::timeout(self.patience, both).await {
            Ok(Some(answer)) => answer.map_err(Fault::from),
            Ok(None) => {
                // What has arrived is still there to be read; for the rest it is an error.
                self.connection = None;
                question.await.map_err(Fault::from)
            }
            Err(_) => {
                self.connection = None;
                Err(Fault::Lost(format!("no answer within {} s", self.patience.as_secs())))
            }
        }
    }

    /// The time by the database's clock, which all replicas go by.
    pub(super) async fn now(&mut self) -> Result<Timestamp, Fault> {
        const SQL: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        let now = self.ask(async |client| client.query_typed_one(SQL, &[]).await?.try_get(0));
        Ok(Timestamp::from_micros(now.await?))
    }

    /// Says goodbye, so that the server forgets it at once. What it held is given back.
    pub(super) async fn close(self) {
        let Self { client, connection, .. } = self;
        drop(client);
        if let Some(connection) = connection {
            let _ = tokio::time::timeout(Duration::from_secs(1), connection).await;
        }
    }
}

/// The address of the URL's file, and how to encrypt. Nothing in the words of an error is out of the file.
fn address(place: &config::Postgres, role: Role) -> Result<(Config, Tls), Fault> {
    let wrong = |what: &str| Fault::Unfit(format!("ledger.url_file: {}: {what}", place.url_file.display()));
    let bytes = file::read(&place.url_file, URL_AT_MOST).map_err(|e| wrong(&e.to_string()))?;
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| wrong("it is not UTF-8"))?;
    let form = "it is no connection URL that is understood; write postgres://user:password@host/database, with %-escapes \
                in the password, and without sslmode=verify-full or sslrootcert: the certificate is always verified, and \
                ledger.ca_file says whose are trusted";
    let mut config: Config = text.trim().parse().map_err(|_| wrong(form))?;
    if config.get_hosts().is_empty() || config.get_user().is_none() || config.get_dbname().is_none() {
        return Err(wrong("it names no host, no user or no database; write postgres://user:password@host/database"));
    }
    match (is_local(&config), config.get_ssl_mode()) {
        (true, SslMode::Require) => {}
        (true, _) => drop(config.ssl_mode(SslMode::Disable)),
        (false, SslMode::Disable) => {
            return Err(wrong(
                "sslmode=disable is for a loopback host or a socket; anywhere else the ledger is encrypted",
            ));
        }
        (false, _) => drop(config.ssl_mode(SslMode::Require)),
    }
    config.application_name(role.application_name()).connect_timeout(CONNECT / 2);
    config.keepalives_idle(Duration::from_secs(5)).tcp_user_timeout(Duration::from_secs(10));
    if config.get_hosts().len() > 1 && role != Role::Reader {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    Ok((config, Tls::new(place.ca_file.as_deref()).map_err(Fault::Unfit)?))
}

/// Whether the way to the database does not leave the machine.
fn is_local(config: &Config) -> bool {
    let local = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(local) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// What is wrong with the files that a database needs: a key of the configuration, and what.
pub(super) fn faults(place: &config::Postgres) -> Option<String> {
    match address(place, Role::Reader) {
        Ok(_) => None,
        Err(fault) => Some(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<SslMode, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), url).unwrap();
        let place = config::Postgres { url_file: file.path().to_owned(), ca_file: None };
        address(&place, Role::Writer).map(|(config, _)| config.get_ssl_mode()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_and_never_by_choice() {
        for local in [
            "postgres://u:p@localhost/d",
            "postgres://u:p@127.0.0.1:5433/d\n",
            "postgres://u@[::1]/d",
            "postgres://u:p@%2Frun%2Fpostgresql/d",
        ] {
            assert_eq!(of(local), Ok(SslMode::Disable), "{local}");
        }
        for remote in [
            "postgres://u:p@db.example/d",
            "postgres://u:p@db.example/d?sslmode=prefer",
            "postgres://u:p@10.0.0.1/d",
            "postgres://u:p@localhost,db.example/d",
            "postgres://u:p@localhost/d?hostaddr=10.0.0.1",
            "postgres://u:p@localhost/d?sslmode=require",
        ] {
            assert_eq!(of(remote), Ok(SslMode::Require), "{remote}");
        }
        assert!(of("postgres://u:p@db.example/d?sslmode=disable").unwrap_err().contains("sslmode=disable"));
    }

    #[test]
    fn of_several_hosts_only_who_just_reads_may_be_answered_by_a_standby() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://u:p@one.example,two.example/d").unwrap();
        let place = config::Postgres { url_file: file.path().to_owned(), ca_file: None };
        let goes_to = |role| address(&place, role).map(|(config, _)| config.get_target_session_attrs()).unwrap();
        assert_eq!(goes_to(Role::Reader), TargetSessionAttrs::Any);
        for role in [Role::Writer, Role::Keeper, Role::Pruning, Role::Migration, Role::Copying] {
            assert_eq!(goes_to(role), TargetSessionAttrs::ReadWrite, "{role:?}");
        }
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_a_word_of_it() {
        for url in [
            "",
            "canary-secret",
            "postgres://u:canary-secret@/d",
            "postgres://u:canary-secret@h",
            "mysql://canary-secret",
        ] {
            let words = of(url).unwrap_err();
            assert!(words.contains("postgres://user:password@host/database") && !words.contains("canary"), "{words}");
        }
    }
}
