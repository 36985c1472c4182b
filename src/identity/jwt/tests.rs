//! Tokens of every kind that must not pass, and the few that must.

use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

const NOW_S: i64 = 1_800_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","kid":"ed"}"#;
const SUBJECT: &str = "system:serviceaccount:chat:moderation";

struct Keys {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    random: SystemRandom,
}

fn name(text: &str) -> CallerName {
    CallerName::parse(text).unwrap()
}

impl Keys {
    fn new() -> Self {
        let random = SystemRandom::new();
        let (algorithm, ed) = (&ECDSA_P256_SHA256_FIXED_SIGNING, Ed25519KeyPair::generate_pkcs8(&random).unwrap());
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ec = EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap();
        Self { ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(), ec, random }
    }

    fn key(&self, kid: Option<&str>) -> config::Key {
        let public = PublicKey::EdDsa(self.ed.public_key().as_ref().to_vec());
        config::Key { kid: kid.map(str::to_owned), public }
    }

    /// Its issuer with an Ed25519 key `ed` and a P-256 key `ec`, leeway 30 s.
    fn issuer(&self) -> config::Issuer {
        let ec = PublicKey::Es256(self.ec.public_key().as_ref().to_vec());
        config::Issuer {
            name: name("cluster"),
            issuer: "https://cluster.example".into(),
            audience: "wasend-gateway".into(),
            keys: vec![self.key(Some("ed")), config::Key { kid: Some("ec".into()), public: ec }],
            leeway: Duration::from_secs(30),
        }
    }

    /// A token signed with the Ed25519 key, whatever its header says.
    fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.ed.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn sign_ec(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.ec.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn caller(who: &str, subject: Option<&str>, claims: &[(&str, &str)]) -> config::Caller {
    let claims = claims.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let jwt = config::Jwt { issuer: name("cluster"), subject: subject.map(str::to_owned), claims };
    config::Caller {
        name: name(who),
        tokens: vec![],
        jwt: Some(jwt),
        certificate: None,
        from: None,
        rates: vec![],
        budgets: vec![],
        allow: vec![],
        deny: vec![],
    }
}

fn ask(issuer: config::Issuer, token: &str) -> Result<String, Fault> {
    let callers = [caller("moderation", Some(SUBJECT), &[])];
    let now = Timestamp::from_micros(NOW_S * 1_000_000);
    let who = Issuers::new(&[issuer], &callers).holder(token.as_bytes(), now)?;
    Ok(format!("{}/{}", who.caller, who.credential))
}

/// Claims that are good but for what is replaced in them.
fn claims(replace: &str, with: &str) -> String {
    let good = format!(
        r#"{{"iss":"https://cluster.example","aud":["other","wasend-gateway"],"sub":"{SUBJECT}","exp":{},"nbf":{}}}"#,
        NOW_S + 600,
        NOW_S - 600
    );
    assert!(good.contains(replace), "{replace} is not in {good}");
    good.replace(replace, with)
}

#[test]
fn a_good_token_is_a_callers_and_names_issuer_and_key() {
    let keys = Keys::new();
    let good = claims("", "");
    assert_eq!(ask(keys.issuer(), &keys.sign(HEADER, &good)), Ok("moderation/cluster-ed".into()));
    let ec = keys.sign_ec(r#"{"alg":"ES256","kid":"ec","typ":"JWT","x5t":"ignored"}"#, &good);
    assert_eq!(ask(keys.issuer(), &ec), Ok("moderation/cluster-ec".into()));
    let one = claims(r#"["other","wasend-gateway"]"#, r#""wasend-gateway""#);
    assert!(ask(keys.issuer(), &keys.sign(r#"{"alg":"EdDSA","kid":"ed","typ":"at+JWT"}"#, &one)).is_ok());
    for typ in ["application/jwt", "Application/AT+JWT"] {
        let header = format!(r#"{{"alg":"EdDSA","kid":"ed","typ":"{typ}"}}"#);
        assert!(ask(keys.issuer(), &keys.sign(&header, &one)).is_ok(), "{typ}: the whole name of the type");
    }
    // One key needs no name.
    let only = config::Issuer { keys: vec![keys.key(None)], ..keys.issuer() };
    assert_eq!(ask(only, &keys.sign(r#"{"alg":"EdDSA"}"#, &good)), Ok("moderation/cluster".into()));
    let long = config::Issuer { keys: vec![keys.key(Some("a key: 1"))], ..keys.issuer() };
    let named = ask(long, &keys.sign(r#"{"alg":"EdDSA"}"#, &good)).unwrap();
    assert!(named.len() == "moderation/cluster-".len() + 16, "{named}");
}

#[test]
fn each_header_that_must_not_pass_is_refused_for_its_own_reason_though_the_signature_is_good() {
    let keys = Keys::new();
    for (header, word) in [
        (r#"{"alg":"none","kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":"None","kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":"HS256","kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":"RS512","kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":"PS256","kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":"eddsa","kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":["EdDSA"],"kid":"ed"}"#, "`alg` is not"),
        (r#"{"kid":"ed"}"#, "`alg` is not"),
        (r#"{"alg":"RS256","kid":"ed"}"#, "not that of its key"),
        (r#"{"alg":"ES256","kid":"ed"}"#, "not that of its key"),
        (r#"{"alg":"EdDSA","kid":"ec"}"#, "not that of its key"),
        (r#"{"alg":"ES256","kid":"ec"}"#, "signature"),
        (r#"{"alg":"EdDSA","kid":"other"}"#, "is not among"),
        (r#"{"alg":"EdDSA","kid":1}"#, "is not among"),
        (r#"{"alg":"EdDSA"}"#, "names no key"),
        (r#"{"alg":"EdDSA","kid":"ed","crit":["exp"]}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","crit":[]}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","b64":true}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","zip":"DEF"}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","cty":"JWT"}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","enc":"A128GCM"}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","jku":"https://cluster.example/keys"}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","jwk":{}}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","x5u":""}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","x5c":[]}"#, "asks for"),
        (r#"{"alg":"EdDSA","kid":"ed","typ":"logout+jwt"}"#, "`typ`"),
        (r#"{"alg":"EdDSA","kid":"ed","typ":1}"#, "`typ`"),
        (r#"{"alg":"none","alg":"EdDSA","kid":"ed"}"#, "ambiguous"),
        (r#"{"alg":"EdDSA","kid":"ed"}x"#, "ambiguous"),
        ("[]", "ambiguous"),
    ] {
        let fault = ask(keys.issuer(), &keys.sign(header, &claims("", ""))).unwrap_err();
        assert!(fault.contains(word), "{header}: {fault}");
    }
}

#[test]
fn each_claim_that_must_not_pass_is_refused_for_its_own_reason_though_the_signature_is_good() {
    let keys = Keys::new();
    let (exp, nbf) = (format!("\"exp\":{}", NOW_S + 600), format!("\"nbf\":{}", NOW_S - 600));
    let at = |name: &str, seconds: i64| format!("\"{name}\":{}", NOW_S + seconds);
    let aud = r#""aud":["other","wasend-gateway"]"#;
    let iss = r#""iss":"https://cluster.example""#;
    let sub = format!("\"sub\":\"{SUBJECT}\"");
    for (replace, with, word) in [
        (exp.as_str(), at("exp", -30), "expired"),
        (&exp, at("exp", -100_000), "expired"),
        (&exp, "\"x\":1".into(), "no `exp`"),
        (&exp, "\"exp\":\"2030\"".into(), "a time that is none"),
        (&exp, "\"exp\":null".into(), "a time that is none"),
        (&exp, "\"exp\":-1".into(), "a time that is none"),
        (&exp, "\"exp\":1e18".into(), "a time that is none"),
        (&exp, format!("{},{}", at("exp", -600), at("exp", 600)), "ambiguous"),
        (&nbf, at("nbf", 31), "not valid yet"),
        (&nbf, "\"nbf\":true".into(), "a time that is none"),
        (aud, "\"aud\":\"other\"".into(), "another audience"),
        (aud, "\"aud\":[]".into(), "another audience"),
        (aud, "\"aud\":\"wasend-gateway2\"".into(), "another audience"),
        (aud, "\"aud\":[[\"wasend-gateway\"]]".into(), "neither a text"),
        (aud, "\"aud\":[1,\"wasend-gateway\"]".into(), "neither a text"),
        (aud, "\"aud\":[\"wasend-gateway\",null]".into(), "neither a text"),
        (aud, "\"aud\":{\"wasend-gateway\":1}".into(), "neither a text"),
        (aud, "\"aud\":null".into(), "neither a text"),
        (aud, "\"x\":1".into(), "another audience"),
        (iss, "\"iss\":\"https://cluster.example/\"".into(), "is not known"),
        (iss, "\"iss\":[\"https://cluster.example\"]".into(), "no issuer"),
        (iss, "\"x\":1".into(), "no issuer"),
        (&sub, "\"sub\":\"system:serviceaccount:chat:other\"".into(), "no `jwt` fits"),
        (&sub, "\"sub\":1".into(), "`sub` is no text"),
        (&sub, "\"x\":1".into(), "no `jwt` fits"),
    ] {
        let fault = ask(keys.issuer(), &keys.sign(HEADER, &claims(replace, &with))).unwrap_err();
        assert!(fault.contains(word), "{replace} → {with}: {fault}");
    }
    for (replace, with) in [(&exp, at("exp", -29)), (&exp, format!("\"exp\":{}.5", NOW_S - 30)), (&nbf, at("nbf", 30))]
    {
        assert!(ask(keys.issuer(), &keys.sign(HEADER, &claims(replace, &with))).is_ok(), "within the leeway: {with}");
    }
}

#[test]
fn a_token_that_was_changed_or_signed_by_somebody_else_is_refused() {
    let (keys, others) = (Keys::new(), Keys::new());
    let good = keys.sign(HEADER, &claims("", ""));
    let parts: Vec<&str> = good.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(claims("\"nbf\"", "\"iat\""));
    let wrong = |token: &str| ask(keys.issuer(), token).unwrap_err();
    assert!(wrong(&others.sign(HEADER, &claims("", ""))).contains("signature"));
    assert!(wrong(&format!("{}.{other}.{}", parts[0], parts[2])).contains("signature"));
    assert!(wrong(&format!("{}.{}.", parts[0], parts[1])).contains("signature"));
    let mut flipped = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
    flipped[0] ^= 1;
    assert!(wrong(&format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode(flipped))).contains("signature"));
    assert!(wrong(&format!("{good}A")).contains("signature"));
    for token in [
        parts[0].to_owned(),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}."),
        format!("{good}.{}", parts[2]),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("..{}", parts[2]),
        "..".to_owned(),
        String::new(),
        format!("a{}", ".a".repeat(4000)),
    ] {
        assert!(wrong(&token).contains("not known"), "{token}");
    }
    let long = keys.sign(HEADER, &claims("\"nbf\"", &format!("\"x\":\"{}\",\"nbf\"", "a".repeat(8_000))));
    assert!(wrong(&long).contains("longer"));
}

#[test]
fn a_signature_of_ecdsa_in_der_or_with_an_all_zero_pair_is_none() {
    let keys = Keys::new();
    let header = r#"{"alg":"ES256","kid":"ec"}"#;
    let good = keys.sign_ec(header, &claims("", ""));
    let signed = good.rsplit_once('.').unwrap().0;
    for signature in [vec![0; 64], vec![0x30; 70]] {
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert!(ask(keys.issuer(), &token).unwrap_err().contains("signature"));
    }
}

#[test]
fn a_caller_is_known_by_all_of_its_claims_and_no_token_is_that_of_two() {
    let keys = Keys::new();
    let callers = [
        caller("team", None, &[("team", "chat"), ("env", "live")]),
        caller("one", Some("one"), &[]),
        caller("two", Some("two"), &[("env", "live")]),
    ];
    let issuers = Issuers::new(&[keys.issuer()], &callers);
    let who = |sub: &str, more: &str| {
        let token = keys.sign(HEADER, &claims(&format!("\"{SUBJECT}\""), &format!("\"{sub}\"{more}")));
        let now = Timestamp::from_micros(NOW_S * 1_000_000);
        issuers.holder(token.as_bytes(), now).map(|who| who.caller.as_str().to_owned())
    };
    assert_eq!(who("any", r#","team":"chat","env":"live""#).as_deref(), Ok("team"));
    assert_eq!(who("one", "").as_deref(), Ok("one"));
    assert_eq!(who("two", r#","env":"live""#).as_deref(), Ok("two"));
    for more in [r#","team":"chat""#, r#","team":["chat"],"env":"live""#, r#","team":"chat","env":"test""#] {
        assert!(who("any", more).unwrap_err().contains("no `jwt` fits"), "{more}");
    }
    assert!(who("two", "").unwrap_err().contains("no `jwt` fits"));
    assert!(who("one", r#","team":"chat","env":"live""#).unwrap_err().contains("several callers"));
}

#[test]
fn one_issuer_with_two_audiences_is_two() {
    let keys = Keys::new();
    let second = config::Issuer { name: name("second"), audience: "second".into(), ..keys.issuer() };
    let mut other = caller("other", Some(SUBJECT), &[]);
    other.jwt.as_mut().unwrap().issuer = name("second");
    let callers = [caller("moderation", Some(SUBJECT), &[]), other];
    let issuers = Issuers::new(&[keys.issuer(), second], &callers);
    let now = Timestamp::from_micros(NOW_S * 1_000_000);
    let who = |aud: &str| {
        let token = keys.sign(HEADER, &claims(r#"["other","wasend-gateway"]"#, aud));
        issuers.holder(token.as_bytes(), now).map(|who| who.caller.as_str().to_owned())
    };
    assert_eq!(who("\"wasend-gateway\"").as_deref(), Ok("moderation"));
    assert_eq!(who("\"second\"").as_deref(), Ok("other"));
}

#[test]
fn a_token_for_two_audiences_is_that_of_whose_key_signed_it_and_of_nobody_where_that_are_two() {
    let (keys, others) = (Keys::new(), Keys::new());
    let mut other = caller("other", Some(SUBJECT), &[]);
    other.jwt.as_mut().unwrap().issuer = name("second");
    let callers = [caller("moderation", Some(SUBJECT), &[]), other];
    let second = |keys: &Keys| config::Issuer { name: name("second"), audience: "second".into(), ..keys.issuer() };
    let both = claims(r#"["other","wasend-gateway"]"#, r#"["second","wasend-gateway"]"#);
    let now = Timestamp::from_micros(NOW_S * 1_000_000);
    let who = |issuers: [config::Issuer; 2], callers: &[config::Caller], token: &str| {
        let known = Issuers::new(&issuers, callers).holder(token.as_bytes(), now);
        known.map(|who| format!("{}/{}", who.caller, who.credential))
    };
    for token in [keys.sign(HEADER, &both), others.sign(HEADER, &both)] {
        let is_first = token == keys.sign(HEADER, &both);
        let signer = if is_first { "moderation/cluster-ed" } else { "other/second-ed" };
        assert_eq!(who([keys.issuer(), second(&others)], &callers, &token).as_deref(), Ok(signer));
        assert_eq!(who([second(&others), keys.issuer()], &callers, &token).as_deref(), Ok(signer));
    }
    let token = keys.sign(HEADER, &both);
    assert!(who([keys.issuer(), second(&keys)], &callers, &token).unwrap_err().contains("several callers"));
    assert_eq!(who([keys.issuer(), second(&keys)], &callers[1..], &token).as_deref(), Ok("other/second-ed"));
    let stranger = Keys::new().sign(HEADER, &both);
    assert!(who([keys.issuer(), second(&others)], &callers, &stranger).unwrap_err().contains("signature"));
}

/// RFC 7515 §A.2 and §A.3, RFC 8037 §A.4.
#[test]
fn the_signatures_of_the_rfcs_are_verified_and_none_with_another_key_or_text() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let of = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let rsa = PublicKey::Rs256 {
        n: of(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        ),
        e: of("AQAB"),
    };
    let point = [of("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), of("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")];
    let ec = PublicKey::Es256([vec![4], point.concat()].concat());
    let ed = PublicKey::EdDsa(of("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
    let vectors = [
        (
            &rsa,
            format!("eyJhbGciOiJSUzI1NiJ9.{payload}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            &ec,
            format!("eyJhbGciOiJFUzI1NiJ9.{payload}"),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            &ed,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (key, signed, signature) in &vectors {
        assert_eq!(verify(key, signed.as_bytes(), &of(signature)), Ok(()), "{}", key.algorithm());
        assert!(verify(key, format!("{signed}A").as_bytes(), &of(signature)).is_err(), "{}", key.algorithm());
        for (other, ..) in vectors.iter().filter(|(other, ..)| other != key) {
            assert!(verify(other, signed.as_bytes(), &of(signature)).is_err(), "{}", other.algorithm());
        }
    }
}
