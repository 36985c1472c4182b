//! What every answer that is a problem has to say.

use super::*;

fn body(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[test]
fn a_problem_carries_what_people_machines_and_the_sdks_read() {
    let id = RequestId::new();
    let response = Problem::from(&Refused::Unauthenticated("no credential")).into_response(id);
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(response.headers()["x-request-id"], id.to_string());
    assert_eq!(
        body(&response),
        serde_json::json!({"type": "/problems#unauthenticated", "title": "The caller is not known", "status": 401,
            "detail": "no credential", "code": "unauthenticated", "request_id": id.to_string(), "sent": "no",
            "success": false, "message": "no credential"})
    );
}

#[test]
fn every_refusal_says_that_nothing_was_sent() {
    let caller = crate::id::CallerName::parse("c").unwrap();
    for refused in [
        Refused::Head(HeadFault::HasBody),
        Refused::BadTarget("x".into()),
        Refused::BadField("x"),
        Refused::NoSuchRoute,
        Refused::MethodNotAllowed,
        NotAllowed::NoRule(caller).into(),
        Refused::RateLimited { whose: "w".into(), retry_after_s: 3 },
        Refused::LedgerUnavailable,
        Refused::LimitsUnavailable,
        Refused::KeyUnavailable,
        Refused::Overloaded,
        Refused::TooManyConnections,
        Refused::ShuttingDown,
        Refused::Internal,
    ] {
        let response = Problem::from(&refused).into_response(RequestId::new());
        assert_eq!(body(&response)["sent"], "no", "{refused:?}");
        assert!(!response.status().is_success());
        let waits = matches!(response.status().as_u16(), 429 | 503);
        assert_eq!(response.headers().contains_key("retry-after"), waits, "{refused:?}");
    }
}

#[test]
fn no_failure_looks_like_success_and_none_invites_a_resend_unless_nothing_was_sent() {
    for (failed, status, sent) in [
        (Failed::UpstreamUnreachable, 502, "no"),
        (Failed::TooLateToSend, 503, "no"),
        (Failed::UpstreamRefused { status: 404, message: None, retry_after_s: None }, 404, "yes"),
        (Failed::UpstreamCredentialsRefused, 502, "yes"),
        (Failed::UpstreamFailed { status: 500 }, 500, "unknown"),
        (Failed::UpstreamFailed { status: 503 }, 502, "unknown"),
        (Failed::UpstreamNotConfirmed { status: Some(204), why: "x" }, 502, "unknown"),
        (Failed::OutcomeUnknown("x"), 504, "unknown"),
    ] {
        let response = Problem::from(&failed).into_response(RequestId::new());
        assert_eq!((response.status().as_u16(), &body(&response)["sent"]), (status, &sent.into()), "{failed:?}");
        assert_eq!(response.headers().contains_key("retry-after"), sent == "no" && status == 503, "{failed:?}");
    }
}

#[test]
fn a_caller_that_the_provider_asked_to_wait_comes_back_no_sooner_and_not_with_all_others() {
    for (asked, most) in [(1, 4), (7, 10), (100, 124)] {
        let refused = Failed::UpstreamRefused { status: 429, message: None, retry_after_s: Some(asked) };
        let said: std::collections::BTreeSet<u64> = (0..200)
            .map(|_| {
                Problem::from(&refused).into_response(RequestId::new()).headers()["retry-after"]
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert!(said.iter().all(|said| (asked..=most).contains(said)) && said.len() > 1, "{asked}: {said:?}");
    }
}
