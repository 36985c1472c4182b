//! `/api/v1/…` on the operators' port: the brake and how things stand, as JSON, for operators and, to read, auditors.

use crate::config::Role;
use crate::error::Withheld;
use crate::gateway::Gateway;
use crate::id::{CallerName, RequestId, SessionId};
use crate::identity::{Operator, Operators};
use crate::ledger::freeze::{Covers, Freeze, lasting, reason};
use crate::problem::Problem;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The longest body.
const BODY_AT_MOST: usize = 16 * 1024;
/// How long a body may take, from its head to its end.
const BODY_WITHIN: Duration = Duration::from_secs(10);
const NOT_THERE: &str = "there are status, freeze and unfreeze";
const FORM: &str = "send {\"covers\": \"all\" | \"caller\" | \"session\", \"caller\" or \"session\": its name, \"reason\": …} \
    and, to freeze, perhaps \"for\": \"2h\"";

/// What is asked for. No other fields: one that is misspelt, or that contradicts `covers`, would do something else than
/// was meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    covers: Kind,
    caller: Option<CallerName>,
    session: Option<SessionId>,
    /// To freeze: for how long, such as `2h`; without it until somebody unfreezes.
    #[serde(rename = "for")]
    lasts: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    All,
    Caller,
    Session,
}

impl Asked {
    fn covers(&self) -> Result<Covers, Withheld> {
        match (&self.covers, &self.caller, &self.session) {
            (Kind::All, None, None) => Ok(Covers::All),
            (Kind::Caller, Some(caller), None) => Ok(Covers::Caller { caller: caller.clone() }),
            (Kind::Session, None, Some(session)) => Ok(Covers::Session { session: session.clone() }),
            (Kind::All | Kind::Caller | Kind::Session, ..) => {
                Err(Withheld::BadRequest(format!("`covers` and the names do not belong together; {FORM}")))
            }
        }
    }
}

/// The operators' API.
pub(super) struct Api {
    operators: Arc<Operators>,
    gateway: Arc<Gateway>,
}

impl Api {
    pub(super) fn new(operators: Arc<Operators>, gateway: Arc<Gateway>) -> Self {
        Self { operators, gateway }
    }

    /// Answers one request under `/api/v1/`.
    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Response {
        self.find(request).await.unwrap_or_else(|withheld| {
            let is_cut = withheld == Withheld::TooSlow;
            let mut response = Problem::from(withheld).into_response(RequestId::new()).map(Body::from);
            if is_cut {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        })
    }

    async fn find(&self, request: Request) -> Result<Response, Withheld> {
        let values = request.headers().get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        let operator = self.operators.identify(values)?;
        let method = request.method().clone();
        match (request.uri().path().strip_prefix("/api/v1/"), &method) {
            (Some("status"), &Method::GET) => Ok(json(&self.gateway.status().await)),
            (Some("status"), _) => Err(Withheld::MethodNotAllowed("GET")),
            (Some("freeze"), &Method::POST) => self.freeze(acting(operator)?, read(request).await?).await,
            (Some("unfreeze"), &Method::POST) => self.unfreeze(acting(operator)?, read(request).await?).await,
            (Some("freeze" | "unfreeze"), _) => Err(Withheld::MethodNotAllowed("POST")),
            _ => Err(Withheld::NotFound(NOT_THERE)),
        }
    }

    async fn freeze(&self, by: String, asked: Asked) -> Result<Response, Withheld> {
        let covers = asked.covers()?;
        let lasts = asked.lasts.as_deref().map(lasting).transpose();
        let lasts = lasts.map_err(|fault| Withheld::BadRequest(format!("`for` {fault}")))?;
        let until = lasts.map(|span| self.gateway.now().after(span));
        let freeze = Freeze { covers, until, reason: reason(&asked.reason).map_err(Withheld::BadRequest)?, by };
        let stopped = self.gateway.freeze(freeze).await.map_err(|_| Withheld::NotRecorded)?;
        Ok(json(&stopped))
    }

    async fn unfreeze(&self, by: String, asked: Asked) -> Result<Response, Withheld> {
        let (covers, why) = (asked.covers()?, reason(&asked.reason).map_err(Withheld::BadRequest)?);
        if asked.lasts.is_some() {
            return Err(Withheld::BadRequest("`for` belongs to freeze alone".to_owned()));
        }
        let any = self.gateway.unfreeze(covers, why, by).await.map_err(|_| Withheld::NotRecorded)?;
        if any { Ok(json(&serde_json::json!({"unfrozen": true}))) } else { Err(Withheld::NotFound("it is not frozen")) }
    }
}

/// The name of an operator, who may act.
fn acting(operator: Operator) -> Result<String, Withheld> {
    match operator.role {
        Role::Operator => Ok(operator.name.to_string()),
        Role::Auditor => Err(Withheld::NotAnOperator),
    }
}

async fn read(request: Request) -> Result<Asked, Withheld> {
    let reading = to_bytes(request.into_body(), BODY_AT_MOST);
    let body = tokio::time::timeout(BODY_WITHIN, reading).await.map_err(|_| Withheld::TooSlow)?;
    let body = body.map_err(|_| Withheld::BadRequest(format!("the body is longer than {BODY_AT_MOST} bytes")))?;
    serde_json::from_slice(&body).map_err(|e| Withheld::BadRequest(format!("the body is not understood: {e}; {FORM}")))
}

fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body)
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_or_never_comes_is_waited_for_within_bounds() {
        let drip = stream::repeat("x").then(async |part| {
            tokio::time::sleep(BODY_WITHIN / 4).await;
            Ok::<_, std::convert::Infallible>(part)
        });
        for body in [Body::from_stream(drip), Body::from_stream(stream::pending::<Result<&str, std::fmt::Error>>())] {
            let read = tokio::time::timeout(BODY_WITHIN * 2, read(Request::new(body))).await.expect("it gives up");
            assert_eq!(read.err(), Some(Withheld::TooSlow));
        }
    }
}
