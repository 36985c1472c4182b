//! Clients whose runtimes are not here, by the bytes of their heads: C# and Swift.
//!
//! .NET's `HttpClient` writes `Host`, then what was set, and no length for a DELETE without content
//! (dotnet/runtime, `HttpConnection.WriteHeaders`); a traced program adds `traceparent`. The C# SDK runs the
//! provider's JavaScript, so its head is that of the JavaScript SDK. Apple's `URLSession` is CFNetwork; on Linux
//! it is libcurl, under a name of its own.

use crate::clients::{CALLS, seen, world};
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN};
use crate::wire::{connect, response};
use std::io::Write;
use std::net::SocketAddr;

/// What stands behind the request line; `HOST` and `TOKEN` are filled in.
const FORMS: [(&str, &[&str]); 5] = [
    (".NET HttpClient", &["Host: HOST", "Authorization: Bearer TOKEN"]),
    (
        ".NET HttpClient in a traced program",
        &[
            "Host: HOST",
            "Authorization: Bearer TOKEN",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ],
    ),
    (
        "the C# SDK",
        &[
            "Accept: application/json, text/plain, */*",
            "Content-Type: application/json",
            "Authorization: Bearer TOKEN",
            "User-Agent: wasend-dev/1.0.0",
            "Accept-Encoding: gzip, compress, deflate, br",
            "Host: HOST",
            "Connection: keep-alive",
        ],
    ),
    (
        "URLSession of Apple platforms",
        &[
            "Host: HOST",
            "Accept: */*",
            "Authorization: Bearer TOKEN",
            "Accept-Language: en-US,en;q=0.9",
            "Accept-Encoding: gzip, deflate",
            "User-Agent: Moderation/1 CFNetwork/1410.0.3 Darwin/22.6.0",
            "Connection: keep-alive",
        ],
    ),
    (
        "URLSession on Linux",
        &[
            "Host: HOST",
            "Authorization: Bearer TOKEN",
            "Accept: */*",
            "Accept-Encoding: deflate, gzip",
            "Accept-Language: en",
            "Connection: keep-alive",
            "User-Agent: Moderation (unknown version) curl/7.54.0",
        ],
    ),
];

fn head(fields: &[&str], to: SocketAddr, target: &str, token: &str) -> String {
    let fields = fields.join("\r\n").replace("HOST", &to.to_string()).replace("TOKEN", token);
    format!("DELETE {target} HTTP/1.1\r\n{fields}\r\n\r\n")
}

#[test]
fn each_form_is_answered_as_it_should_be_five_times_on_one_connection() {
    for (form, fields) in FORMS {
        let (provider, gateway) = world();
        let mut stream = connect(gateway.listen);
        for ([token, session, group], status, message) in CALLS {
            let target = format!("/{session}/groups/{group}/picture");
            stream.write_all(head(fields, gateway.listen, &target, token).as_bytes()).unwrap();
            let answer = response(&mut stream).unwrap_or_else(|| panic!("{form}: closed instead of {status}"));
            assert_eq!(answer.status, status, "{form}: {answer:?}");
            assert_eq!(answer.json()["success"], status == 200, "{form}: {answer:?}");
            assert!(answer.body.contains(message), "{form}: {answer:?}");
        }
        seen(&provider);
    }
}

#[test]
fn each_form_hears_of_a_provider_that_fails_and_nothing_is_sent_twice() {
    for (form, fields) in FORMS {
        let provider = Provider::start();
        let gateway = Gateway::start(&provider.url());
        let mut stream = connect(gateway.listen);
        for (reply, status, code) in [
            (Reply::Json(500, "{}"), 500, "upstream-failed"),
            (Reply::HangUp, 504, "outcome-unknown"),
            (Reply::Json(401, "{}"), 502, "upstream-credentials-refused"),
        ] {
            provider.next(reply);
            stream.write_all(head(fields, gateway.listen, TARGET, TOKEN).as_bytes()).unwrap();
            let answer = response(&mut stream).unwrap_or_else(|| panic!("{form}: closed instead of {status}"));
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{form}");
        }
        assert_eq!(provider.heads().len(), 3, "{form}");
    }
}
