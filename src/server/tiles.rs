//! `/log/…` on the operators' port: the ledger as a C2SP tlog-tiles log, for operators and auditors.
//!
//! What is served is what the newest signed checkpoint covers, and no more: an entry that nobody has signed for could
//! still be another one tomorrow.

use crate::error::Withheld;
use crate::id::RequestId;
use crate::identity::Operators;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::tree::bundle;
use crate::ledger::tree::tile::{Bundle, Resource, Tile};
use crate::ledger::{OpenError, ProofReader, Reader};
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How many requests may read the store at once.
const READERS: usize = 4;

const NOT_THERE: &str = "there are checkpoint, tile/<L>/<N>[.p/<W>] and tile/entries/<N>[.p/<W>], as far as the newest \
    checkpoint covers them, and entries that were not pruned";

/// A ledger that can be read and proved.
pub trait Log: Reader + ProofReader {}

impl<T: Reader + ProofReader> Log for T {}

/// Opens the ledger for one request; may wait for the disk.
type OpenLog = dyn Fn() -> Result<Box<dyn Log>, OpenError> + Send + Sync;

/// The log, and who may read it.
pub struct Published {
    operators: Arc<Operators>,
    open: Box<OpenLog>,
    readers: Arc<Semaphore>,
}

/// What a path under `/log/` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Checkpoint,
    Resource(Resource),
}

/// What is at such a path.
enum Found {
    Checkpoint(String),
    Immutable(Vec<u8>),
}

impl Wanted {
    /// Reads a target by its raw bytes: nothing is decoded, and there is one spelling.
    fn parse(uri: &Uri) -> Option<Self> {
        let path = uri.path().strip_prefix("/log/").filter(|_| uri.query().is_none())?;
        if path == "checkpoint" { Some(Self::Checkpoint) } else { Resource::parse(path).map(Self::Resource) }
    }
}

impl Published {
    /// What `open` opens, for these operators.
    #[must_use]
    pub fn new(operators: Arc<Operators>, open: Box<OpenLog>) -> Self {
        Self { operators, open, readers: Arc::new(Semaphore::new(READERS)) }
    }

    /// Who may read it.
    pub(super) fn operators(&self) -> Arc<Operators> {
        Arc::clone(&self.operators)
    }

    /// Answers one request under `/log/`.
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Response {
        let found = self.find(&request.into_parts().0).await;
        let (kind, caching, body) = match found {
            Ok(Found::Checkpoint(note)) => ("text/plain; charset=utf-8", "no-store", Body::from(note)),
            Ok(Found::Immutable(bytes)) => {
                ("application/octet-stream", "private, max-age=31536000, immutable", Body::from(bytes))
            }
            Err(withheld) => return Problem::from(withheld).into_response(RequestId::new()).map(Body::from),
        };
        ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, caching)], body).into_response()
    }

    async fn find(self: Arc<Self>, request: &axum::http::request::Parts) -> Result<Found, Withheld> {
        let values = request.headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let operator = self.operators.identify(values)?;
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Withheld::MethodNotAllowed("GET, HEAD"));
        }
        tracing::debug!(operator = %operator.name, role = ?operator.role, path = request.uri.path(), "the log is read");
        let wanted = Wanted::parse(&request.uri).ok_or(Withheld::NotFound(NOT_THERE))?;
        let seat = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| Withheld::Unreadable)?;
        let reading = tokio::task::spawn_blocking(move || {
            let found = (self.open)().and_then(|log| read(log.as_ref(), wanted));
            drop(seat);
            found
        });
        match reading.await {
            Ok(Ok(found)) => found.ok_or(Withheld::NotFound(NOT_THERE)),
            Ok(Err(error)) => {
                tracing::error!(%error, "the log cannot be read");
                Err(Withheld::Unreadable)
            }
            Err(_) => Err(Withheld::Unreadable),
        }
    }
}

/// `None`: the newest signed checkpoint does not cover it, or there is none yet.
fn read(log: &dyn Log, wanted: Wanted) -> Result<Option<Found>, OpenError> {
    let Some(note) = log.checkpoint()? else { return Ok(None) };
    let Wanted::Resource(resource) = wanted else { return Ok(Some(Found::Checkpoint(note))) };
    let checkpoint = Checkpoint::verify(&note, &log.verifying_key()?);
    let size = checkpoint.map_err(|fault| OpenError::Damaged(fault.to_string()))?.head().size;
    match resource {
        Resource::Tile(tile) if tile.is_covered_by(size) => hashes(log, tile).map(Some),
        Resource::Bundle(bundle) if bundle.is_covered_by(size) => entries(log, bundle),
        Resource::Tile(_) | Resource::Bundle(_) => Ok(None),
    }
}

fn hashes(log: &dyn Log, tile: Tile) -> Result<Found, OpenError> {
    let hashes = log.hashes(tile)?;
    Ok(Found::Immutable(hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()))
}

/// `None`: it was pruned.
fn entries(log: &dyn Log, bundle: Bundle) -> Result<Option<Found>, OpenError> {
    let wrong = |what: &str| OpenError::Damaged(format!("{bundle}: {what}"));
    let first = bundle.first().ok_or_else(|| wrong("is above every tree"))?;
    let entries = log.read(first, first.saturating_add(u64::from(bundle.width())))?;
    if log.pruned()?.is_some_and(|pruned| first < pruned.first) {
        return Ok(None);
    }
    if entries.len() != usize::from(bundle.width()) {
        return Err(wrong("the ledger does not have all of its entries"));
    }
    let mut bytes = Vec::new();
    if !entries.iter().all(|(_, entry)| bundle::push(&mut bytes, entry)) {
        return Err(wrong("an entry is too long"));
    }
    Ok(Some(Found::Immutable(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling_and_nothing_is_decoded() {
        let read = |path: &str| Wanted::parse(&path.parse().unwrap());
        assert_eq!(read("/log/checkpoint"), Some(Wanted::Checkpoint));
        let full = Resource::Tile(Tile::new(0, 1_234_067, 256).unwrap());
        assert_eq!(read("/log/tile/0/x001/x234/067"), Some(Wanted::Resource(full)));
        let partial = Resource::Bundle(Bundle::new(0, 7).unwrap());
        assert_eq!(read("/log/tile/entries/000.p/7"), Some(Wanted::Resource(partial)));
        for bad in [
            "/log",
            "/log/",
            "/log/checkpoint/",
            "/log/checkpoint?",
            "/log//checkpoint",
            "/log/%63heckpoint",
            "/log/./checkpoint",
            "/log/tile/0/000?x=1",
            "/log/tile/0/00%30",
            "/log/tile/00/000",
            "/log/tile/0/000.p/256",
            "/log/tile/0/000.p/0",
            "/log/tile/entries/../0/000",
            "/checkpoint",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
