//! What the operators' port says when it does not give what it was asked for.

use super::Problem;
use crate::error::Withheld;
use http::StatusCode;

impl From<Withheld> for Problem {
    fn from(why: Withheld) -> Self {
        match why {
            Withheld::Unauthenticated(what) => {
                Self::refused(StatusCode::UNAUTHORIZED, "unauthenticated", "The operator is not known", what)
            }
            Withheld::NotAnOperator => Self::refused(
                StatusCode::FORBIDDEN,
                "not-allowed",
                "Only an operator may do this",
                "an auditor reads; to act, ask somebody whose role is operator",
            ),
            Withheld::MethodNotAllowed(allow) => Self {
                allow,
                ..Self::refused(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method-not-allowed",
                    "The method is not allowed",
                    format!("allowed here: {allow}"),
                )
            },
            Withheld::BadRequest(what) => Self::bad_request(StatusCode::BAD_REQUEST, what),
            Withheld::TooSlow => {
                Self::bad_request(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time")
            }
            Withheld::NotFound(what) => Self::refused(StatusCode::NOT_FOUND, "not-found", "It is not there", what),
            Withheld::NotRecorded => Self::unavailable(
                "ledger-unavailable",
                "The ledger takes no entries",
                "it could not be recorded, or nobody knows whether it was: ask for the status, and try again",
            ),
            Withheld::Unreadable => Self::unavailable(
                "ledger-unavailable",
                "The ledger cannot be read",
                "the ledger cannot be read now; the gateway's log says why",
            ),
        }
    }
}
