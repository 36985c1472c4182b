//! The provider's three routes for the picture of a group, imitated in memory.

use super::behaviour::{Behaviour, of_groups};
use super::pictures::Pictures;
use super::plan::Plan;
use super::reply::{self, Body, HangUp};
use super::seen::Authorization;
use crate::id::{GroupId, IdFault, SessionId, Target};
use http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

const MOST_GONE: usize = 100_000;

/// What happens to a request: decided and carried out when this is made, answered after `wait`.
pub(super) struct Treatment {
    pub(super) reply: Result<Response<Body>, HangUp>,
    pub(super) behaviour: Option<Behaviour>,
    pub(super) wait: Duration,
}

impl Treatment {
    /// This answer, at once.
    pub(super) fn proper(reply: Response<Body>) -> Self {
        Self { reply: Ok(reply), behaviour: None, wait: Duration::ZERO }
    }

    fn refused(status: StatusCode, message: &str) -> Self {
        Self::proper(reply::refusal(status, message))
    }
}

#[derive(Deserialize)]
struct NewPicture {
    url: String,
    #[serde(default, rename = "format")]
    _format: Option<Format>,
    #[serde(default, rename = "cropToSquare")]
    _crop_to_square: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Jpeg,
    Png,
    Webp,
}

/// The imitated provider: its pictures, and how it was told to treat the next requests.
pub(super) struct Provider {
    pictures: Pictures,
    pub(super) plan: Plan,
}

impl Provider {
    /// Every group has a picture, and nothing is planned.
    pub(super) fn new() -> Self {
        Self { pictures: Pictures::new(MOST_GONE), plan: Plan::default() }
    }

    /// Decides on a request whose body was read, and changes the picture if that is what it comes to.
    pub(super) fn treat(&mut self, head: &Parts, authorization: Authorization, body: &[u8]) -> Treatment {
        if authorization != Authorization::Ok {
            return Treatment::refused(StatusCode::UNAUTHORIZED, "exactly one Authorization with the key is needed");
        }
        let Some((session, group)) = picture_route(head.uri.path()) else {
            return Treatment::refused(StatusCode::NOT_FOUND, "the sandbox has no such route");
        };
        let target = match target(session, group) {
            Ok(target) => target,
            Err(fault) => return Treatment::refused(StatusCode::BAD_REQUEST, &format!("session or group {fault}")),
        };
        match head.method {
            Method::DELETE => self.deletion(&target),
            Method::GET => Treatment::proper(self.get(&target)),
            Method::PUT => Treatment::proper(self.put(&target, body)),
            _ => Treatment::proper(reply::not_allowed("GET, PUT, DELETE")),
        }
    }

    fn get(&self, target: &Target) -> Response<Body> {
        if !self.pictures.has(target) {
            return nothing_there();
        }
        let url = format!("https://sandbox.invalid/{}/{}.jpg", target.session, target.group);
        let picture = json!({"url": url, "type": "image/jpeg", "size": 12345});
        reply::json(StatusCode::OK, &json!({"success": true, "picture": picture}))
    }

    fn put(&mut self, target: &Target, body: &[u8]) -> Response<Body> {
        let reachable = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        match serde_json::from_slice::<NewPicture>(body) {
            Ok(picture) if reachable(&picture.url) => {
                self.pictures.set(target);
                reply::success()
            }
            Ok(_) | Err(_) => reply::refusal(
                StatusCode::BAD_REQUEST,
                r#"expected {"url": "https://…", "format": "jpeg" | "png" | "webp", "cropToSquare": bool}"#,
            ),
        }
    }

    fn deletion(&mut self, target: &Target) -> Treatment {
        let behaviour = self.plan.next_deletion().or_else(|| Behaviour::of_group(target.group.bare()));
        if behaviour.is_none() && Behaviour::is_misspelt(target.group.bare()) {
            let names = of_groups().collect::<Vec<_>>().join(", ");
            let message = format!("no group of the sandbox is called so; it can be told to: {names}");
            return Treatment::refused(StatusCode::BAD_REQUEST, &message);
        }
        let was_there = if behaviour.is_none_or(Behaviour::takes_down) {
            self.pictures.take_down(target)
        } else {
            self.pictures.has(target)
        };
        let proper = if was_there { reply::success() } else { nothing_there() };
        let wait = if let Some(Behaviour::Slow(wait)) = behaviour { wait } else { Duration::ZERO };
        let reply = match behaviour {
            Some(behaviour) => reply::instead(behaviour, proper),
            None => Ok(proper),
        };
        Treatment { reply, behaviour, wait }
    }
}

fn nothing_there() -> Response<Body> {
    reply::refusal(StatusCode::NOT_FOUND, "the group has no picture")
}

fn picture_route(path: &str) -> Option<(&str, &str)> {
    let (session, rest) = path.strip_prefix('/')?.split_once("/groups/")?;
    let group = rest.strip_suffix("/picture")?;
    (!session.contains('/') && !group.contains('/')).then_some((session, group))
}

/// Both spellings of a group become one target. `@` may be written `%40`, as everywhere in HTTP.
fn target(session: &str, group: &str) -> Result<Target, IdFault> {
    let sent = GroupId::parse(&group.replacen("%40", "@", 1))?;
    Ok(Target { session: SessionId::parse(session)?, group: GroupId::parse(sent.bare())? })
}
