//! Is it the one route, spelt as we take it? Decided on the raw bytes of the target: a decoded
//! path could mean one thing here and another at the provider.

use super::trace::Trace;
use crate::error::Refused;
use crate::failpoint;
use crate::head::Head;
use crate::id::{GroupId, IdempotencyKey, SessionId, Target};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// A request for the one operation, with well-formed ids.
pub struct Accepted {
    pub(super) head: Head,
    pub(super) target: Target,
    by_path: bool,
}

/// Takes a head that keeps HTTP's rules and keeps ours, or refuses it.
///
/// # Errors
/// 400, 404 or 405, in words that name what is wrong.
pub fn accept(head: Head, trusted_proxies: &[IpNet], trace: &mut Trace) -> Result<Accepted, Refused> {
    failpoint::hit("accept");
    trace.peer = peer(&head, trace.peer, trusted_proxies)?;
    let (target, by_path) = route(head.method(), head.target())?;
    trace.target = Some(target.clone());
    Ok(Accepted { head, target, by_path })
}

impl Accepted {
    /// What the fields of ours ask for: a dry run, and under which key. Read when the caller is known, so that who has
    /// got one wrong hears how its rates stand.
    pub(super) fn wishes(&self) -> Result<(bool, Option<IdempotencyKey>), Refused> {
        let by_field = dry_run_field(&self.head)?;
        Ok((self.by_path || by_field, idempotency_key(&self.head)?))
    }
}

/// Parses `/S/groups/G/picture`, optionally behind `/dry-run`.
fn route(method: &str, target: &str) -> Result<(Target, bool), Refused> {
    let bad = |why: &str| Refused::BadTarget(format!("the request target {why}"));
    if method != "DELETE" && !target.starts_with('/') {
        return Err(Refused::MethodNotAllowed);
    }
    let Some(path) = target.strip_prefix('/') else {
        return Err(bad("is not a path; send the path alone, with the host in `Host`"));
    };
    if path.contains('?') {
        return Err(bad("has a query; this operation takes none"));
    }
    if path.contains(['#', '\\', '|', '"', '<', '>', '^', '`', '{', '}']) {
        return Err(bad("holds a character that does not belong into a path"));
    }
    if path.replace("%40", "").contains('%') {
        return Err(bad("is percent-encoded; only %40 for the @ of a group may be"));
    }
    let segments: Vec<&str> = path.split('/').collect();
    if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return Err(bad("holds a dot segment"));
    }
    let (session, group, dry_run) = match segments.as_slice() {
        [session, "groups", group, "picture"] => (*session, *group, false),
        ["dry-run", session, "groups", group, "picture"] => (*session, *group, true),
        _ => return Err(Refused::NoSuchRoute),
    };
    if method != "DELETE" {
        return Err(Refused::MethodNotAllowed);
    }
    if session == "dry-run" {
        return Err(Refused::BadTarget(
            "the session id is missing behind /dry-run (no session may have that name)".into(),
        ));
    }
    let session = SessionId::parse(session).map_err(|fault| Refused::BadTarget(format!("the session id {fault}")))?;
    let group = GroupId::parse(&group.replace("%40", "@"))
        .map_err(|fault| Refused::BadTarget(format!("the group id {fault}")))?;
    Ok((Target { session, group }, dry_run))
}

fn dry_run_field(head: &Head) -> Result<bool, Refused> {
    let mut values = head.values("x-dry-run");
    match (values.next(), values.next()) {
        (None, _) | (Some(b"false"), None) => Ok(false),
        (Some(b"true"), None) => Ok(true),
        _ => Err(Refused::BadField("`X-Dry-Run` is `true` or `false`, once")),
    }
}

fn idempotency_key(head: &Head) -> Result<Option<IdempotencyKey>, Refused> {
    let mut values = head.values("idempotency-key");
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(value), None) => IdempotencyKey::parse(value).map(Some),
        _ => None,
    }
    .ok_or(Refused::BadField(
        "`Idempotency-Key` is 1 to 255 visible ASCII characters, none of them \" or \\, in quotes or without, once",
    ))
}

/// Who really calls: the connection's peer, unless that is a proxy that is trusted to say.
fn peer(head: &Head, connection: IpAddr, trusted: &[IpNet]) -> Result<IpAddr, Refused> {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip));
    if !is_trusted(connection) {
        return Ok(connection);
    }
    let malformed = || Refused::BadField("`X-Forwarded-For` holds something that is not an address");
    let mut hops = Vec::new();
    for value in head.values("x-forwarded-for") {
        for hop in std::str::from_utf8(value).map_err(|_| malformed())?.split(',') {
            hops.push(address(hop.trim_matches([' ', '\t'])).ok_or_else(malformed)?.to_canonical());
        }
    }
    Ok(hops.iter().rev().copied().find(|hop| !is_trusted(*hop)).or(hops.first().copied()).unwrap_or(connection))
}

/// One hop: an address, or `ip:port` and `[v6]:port`, as some load balancers write it.
fn address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<SocketAddr>().ok().filter(|_| !hop.contains('%')).map(|hop| hop.ip());
    hop.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Progress;
    use proptest::prelude::*;

    fn head(fields: &str) -> Head {
        let text = format!("DELETE /s/groups/g/picture HTTP/1.1\r\nHost: gw\r\n{fields}\r\n");
        let length = Progress::default().advance(text.as_bytes()).unwrap().unwrap();
        Head::parse(&text.as_bytes()[..length]).unwrap()
    }

    fn delete(target: &str) -> Result<String, u16> {
        let shown =
            |(target, dry_run): (Target, bool)| format!("{}{}", if dry_run { "dry " } else { "" }, target.path());
        route("DELETE", target).map(shown).map_err(|refused| crate::problem::Problem::from(&refused).status.as_u16())
    }

    #[test]
    fn the_one_route_is_taken_in_its_two_spellings() {
        let path = "/s1/groups/1@g.us/picture";
        assert_eq!(delete(path).as_deref(), Ok(path));
        assert_eq!(delete("/s1/groups/1%40g.us/picture").as_deref(), Ok(path));
        assert_eq!(delete("/dry-run/s1/groups/1@g.us/picture"), Ok(format!("dry {path}")));
    }

    #[test]
    fn what_could_mean_something_else_at_the_provider_is_refused() {
        for target in [
            "/s1%40x/groups/1@g.us/picture",
            "/s1/groups/1%2f2@g.us/picture",
            "/s1%2Fgroups%2Fx/groups/1@g.us/picture",
            "/s1/groups/1%5c/picture",
            "/s1/groups/%00/picture",
            "/s1/groups/%0d%0a/picture",
            "/s1/groups/../picture",
            "/dry-run/groups/1/picture",
            "/dry-run/dry-run/groups/1/picture",
            "/s1/groups/%2e%2e/picture",
            "/../groups/1/picture",
            "/./s1/groups/1/picture",
            "/x/../s1/groups/1/picture",
            "/s1/groups/1@g.us%3F/picture",
            "/s1/groups/%201/picture",
            "/s1/groups//picture",
            "/s1/groups/1@g.us/picture?",
            "/s1/groups/1@g.us/picture?a=1",
            "/s1/groups/1@G.US/picture",
            "/s1/groups/1@c.us/picture",
            "/s1/groups/1@g.us@evil/picture",
            "/s1/groups/1#/picture",
            "/s1/groups/a|b/picture",
            "//groups/1/picture",
            "http://gw/s1/groups/1/picture",
            "*",
            "gw:80",
            "/s1/groups/1%2540g.us/picture",
            "/s1/groups/1%4%400g.us/picture",
        ] {
            assert_eq!(delete(target), Err(400), "{target}");
        }
    }

    #[test]
    fn other_routes_are_not_found_and_other_methods_not_allowed() {
        for target in [
            "/",
            "/s1",
            "//s1/groups/1/picture",
            "/s1//groups/1/picture",
            "/s1/groups/1/picture/",
            "/s1/groups/1/picture;x=1",
            "/s1/groups/1/PICTURE",
            "/S1/GROUPS/1/picture",
            "/dry-run/dry-run/s1/groups/1/picture",
        ] {
            assert_eq!(delete(target), Err(404), "{target}");
        }
        for (method, target) in [
            ("GET", "/s1/groups/1/picture"),
            ("delete", "/s1/groups/1/picture"),
            ("CONNECT", "gw:443"),
            ("OPTIONS", "*"),
        ] {
            assert_eq!(route(method, target).err(), Some(Refused::MethodNotAllowed), "{method}");
        }
    }

    #[test]
    fn dry_run_is_exactly_true_or_false_and_once() {
        assert_eq!(dry_run_field(&head("X-Dry-Run: true\r\n")), Ok(true));
        assert_eq!(dry_run_field(&head("x-dry-run: false\r\n")), Ok(false));
        for fields in
            ["X-Dry-Run: True\r\n", "X-Dry-Run:\r\n", "X-Dry-Run: 1\r\n", "X-Dry-Run: true\r\nX-Dry-Run: true\r\n"]
        {
            assert!(dry_run_field(&head(fields)).is_err(), "{fields}");
        }
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let ask =
            |fields: &str, from: &str| peer(&head(fields), from.parse().unwrap(), &trusted).map(|ip| ip.to_string());
        let forwarded = "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-For: 10.0.0.9\r\n";
        assert_eq!(ask(forwarded, "9.9.9.9").as_deref(), Ok("9.9.9.9"));
        assert_eq!(ask(forwarded, "10.0.0.1").as_deref(), Ok("2.2.2.2"));
        assert_eq!(ask("", "10.0.0.1").as_deref(), Ok("10.0.0.1"));
        let hop = |hop: &str| ask(&format!("X-Forwarded-For: {hop}\r\n"), "10.0.0.1");
        for (written, means) in [
            ("9.9.9.9:443", "9.9.9.9"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("9.9.9.9:1 \t, 10.0.0.9:65535", "9.9.9.9"),
        ] {
            assert_eq!(hop(written).as_deref(), Ok(means), "{written}");
        }
        for bad in [
            "me",
            "",
            "1.1.1.1,",
            "\u{a0}1.1.1.1",
            "1.1.1.1\u{2003}",
            "1.1.1.1:",
            "1.1.1.1:x",
            "1.1.1.1:+1",
            "1.1.1.1:65536",
            "1.1.1.1:80:80",
            "[::1]",
            "[::1]80",
            "[::1]:",
            "[1.1.1.1]:80",
            "[fe80::1%1]:80",
            "fe80::1%1",
            "1.1.1",
        ] {
            assert!(hop(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_goes_out_as_a_url_that_reads_back_the_same(text in "[a-z0-9@%4.#?/\\\\_-]{0,12}") {
            if let Ok((target, _)) = route("DELETE", &format!("/s/groups/{text}/picture")) {
                prop_assert_eq!(target.group.as_str(), text.replace("%40", "@"));
                prop_assert_eq!(target.path().split('/').count(), 5);
            }
        }
    }
}
