//! J1 to J13, W18: the JWT-SVIDs that are issued, and those that are validated for others.

use hive_dev::authority::Selector;

use super::*;

const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// Whether the server validates a token whose header has `name` changed.
async fn header_is_valid(place: &Place, foreign: &Foreign, name: &str, to: &Value) -> bool {
    let token = foreign.sign(&with(Foreign::header(), name, to.clone()), &Foreign::claims());
    judge(validate(place, &token).await.err())
}

/// Whether the server validates a token whose claims have `name` changed.
async fn claim_is_valid(place: &Place, foreign: &Foreign, name: &str, to: &Value) -> bool {
    let token = foreign.sign(&Foreign::header(), &with(Foreign::claims(), name, to.clone()));
    judge(validate(place, &token).await.err())
}

/// There is one way to refuse a token.
fn judge(refused: Option<Code>) -> bool {
    assert!(matches!(refused, None | Some(Code::InvalidArgument)), "{refused:?}");
    refused.is_none()
}

#[tokio::test]
async fn j1_only_the_compact_serialisation_is_issued_and_validated() {
    let place = named("td").await;
    let token = token(&place).await;
    open(&token);
    assert!(validate(&place, &token).await.is_ok());
    let parts: Vec<&str> = token.split('.').collect();
    let flat = json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] });
    let signatures = json!([{ "protected": parts[0], "signature": parts[2] }]);
    let general = json!({ "payload": parts[1], "signatures": signatures });
    for other in [flat.to_string(), general.to_string(), format!("{token}.x")] {
        assert_eq!(validate(&place, &other).await, Err(Code::InvalidArgument), "{other}");
    }
}

#[tokio::test]
async fn j2_to_j5_the_header_has_alg_kid_and_typ_alone() {
    let place = named("td").await;
    let (header, _) = open(&token(&place).await);
    let mut names: Vec<&String> = header.as_object().expect("an object").keys().collect();
    names.sort();
    assert_eq!(names, ["alg", "kid", "typ"]);
    assert!(ALGORITHMS.iter().any(|known| header["alg"] == *known), "{header}");
    assert_eq!(header["typ"], "JWT");
}

#[tokio::test]
async fn j2_a_token_with_another_header_parameter_is_not_valid() {
    let place = named("td").await;
    let foreign = Foreign::of(&place);
    for name in ["jku", "jwk", "x5u", "x5c", "x5t", "cty", "crit", "b64", "private"] {
        assert!(!header_is_valid(&place, &foreign, name, &json!("x")).await, "{name}");
    }
}

#[tokio::test]
async fn j3_a_token_of_another_algorithm_is_not_valid() {
    let place = named("td").await;
    let foreign = Foreign::of(&place);
    for name in ["none", "", "HS256", "HS512", "EdDSA", "ES256K", "es256", "ES384", "RS256"] {
        assert!(!header_is_valid(&place, &foreign, "alg", &json!(name)).await, "{name}");
    }
    assert!(!header_is_valid(&place, &foreign, "alg", &Value::Null).await);
    assert!(header_is_valid(&place, &foreign, "alg", &json!("ES256")).await);
}

#[tokio::test]
async fn j4_j5_kid_and_typ_may_be_absent_and_typ_is_jwt_or_jose() {
    let place = named("td").await;
    let foreign = Foreign::of(&place);
    for (name, to, valid) in [
        ("kid", Value::Null, true),
        ("kid", json!("another"), false),
        ("typ", Value::Null, true),
        ("typ", json!("JOSE"), true),
        ("typ", json!("at+jwt"), false),
        ("typ", json!("wit+jwt"), false),
    ] {
        assert_eq!(header_is_valid(&place, &foreign, name, &to).await, valid, "{name}: {to}");
    }
}

#[tokio::test]
async fn j6_the_subject_is_the_spiffe_id_of_a_workload() {
    let place = named("td").await;
    place.add("/second", Selector::Pid(std::process::id()));
    let svids = jwt_svids(&place, "").await.expect("tokens");
    for (svid, path) in svids.iter().zip([ME, "/second"]) {
        assert_eq!(open(&svid.svid).1["sub"], place.id(path));
        assert_eq!(svid.spiffe_id, place.id(path));
    }
    assert_eq!(svids.len(), 2);
    let foreign = Foreign::of(&place);
    for sub in [
        json!("spiffe://there.org"),
        json!("spiffe://there.org/"),
        json!("spiffe://there.org/a?b"),
        json!("spiffe://there.org/a//b"),
        json!("spiffe://there.org:1/a"),
        json!("https://there.org/a"),
        json!("a"),
        json!(7),
        json!("spiffe://td/a"),
        json!("spiffe://nowhere.org/a"),
        Value::Null,
    ] {
        assert!(!claim_is_valid(&place, &foreign, "sub", &sub).await, "{sub}");
    }
}

#[tokio::test]
async fn j7_the_audience_is_embedded_as_given_and_demanded() {
    let place = named("td").await;
    for audience in [vec!["a"], vec!["spiffe://td/a", "A b", "ä"]] {
        let audience: Vec<String> = audience.into_iter().map(str::to_owned).collect();
        let asked = wire::JwtsvidRequest { audience: audience.clone(), spiffe_id: String::new() };
        let answer = place.raw().await.fetch_jwtsvid(with_header(asked)).await.expect("a token");
        assert_eq!(open(&answer.into_inner().svids[0].svid).1["aud"], json!(audience));
    }
    let foreign = Foreign::of(&place);
    for (aud, valid) in [
        (json!("a"), true),
        (json!(["b", "a"]), true),
        (json!([]), false),
        (json!(["b"]), false),
        (json!("A"), false),
        (json!("ab"), false),
        (json!({ "a": "a" }), false),
        (Value::Null, false),
    ] {
        assert_eq!(claim_is_valid(&place, &foreign, "aud", &aud).await, valid, "{aud}");
    }
}

#[tokio::test]
async fn j8_the_expiry_is_set_and_demanded() {
    let place = named("td").await;
    let (_, claims) = open(&token(&place).await);
    assert!(claims["exp"].as_u64().is_some_and(|exp| exp > unix_now()));
    let foreign = Foreign::of(&place);
    let now = unix_now();
    for (exp, valid) in [
        (json!(now + 60), true),
        (json!(now as f64 + 60.5), true),
        (json!(now - 60), false),
        (json!(0), false),
        (json!("2999-01-01"), false),
        (Value::Null, false),
    ] {
        assert_eq!(claim_is_valid(&place, &foreign, "exp", &exp).await, valid, "{exp}");
    }
}

#[tokio::test]
async fn j13_a_token_lives_for_minutes_and_may_be_shown_twice() {
    let place = named("td").await;
    let token = token(&place).await;
    let (_, claims) = open(&token);
    let life = claims["exp"].as_u64().expect("exp") - claims["iat"].as_u64().expect("iat");
    assert!(life <= 5 * 60, "{life} s");
    let foreign = Foreign::of(&place);
    let with_jti = foreign.sign(&Foreign::header(), &with(Foreign::claims(), "jti", json!("once")));
    for _ in 0..2 {
        assert!(validate(&place, &token).await.is_ok());
        assert!(validate(&place, &with_jti).await.is_ok());
    }
}

#[tokio::test]
async fn w18_what_is_valid_comes_back_with_its_claims() {
    let place = named("td").await;
    let foreign = Foreign::of(&place);
    let claims = with(Foreign::claims(), "private", json!({ "yes": [true] }));
    let token = foreign.sign(&Foreign::header(), &claims);
    let valid = validate(&place, &token).await.expect("it is valid");
    assert_eq!(valid.spiffe_id, "spiffe://there.org/a");
    let fields = valid.claims.expect("claims").fields;
    let names: std::collections::BTreeSet<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "private", "sub"].into());
    let kind = |name: &str| fields[name].kind.clone().expect("a value");
    assert_eq!(kind("sub"), prost_types::value::Kind::StringValue(valid.spiffe_id));
    let exp = claims["exp"].as_f64().expect("a number");
    assert_eq!(kind("exp"), prost_types::value::Kind::NumberValue(exp));
}

#[tokio::test]
async fn w18_what_is_not_yet_valid_or_not_signed_is_refused() {
    let place = named("td").await;
    let foreign = Foreign::of(&place);
    let nbf = json!(unix_now() + 600);
    assert!(!claim_is_valid(&place, &foreign, "nbf", &nbf).await);
    let stranger = Foreign(Key::new("key")).sign(&Foreign::header(), &Foreign::claims());
    assert_eq!(validate(&place, &stranger).await, Err(Code::InvalidArgument));
    let token = foreign.sign(&Foreign::header(), &Foreign::claims());
    let unsigned = token.rsplit_once('.').expect("a signature").0;
    assert_eq!(validate(&place, &format!("{unsigned}.")).await, Err(Code::InvalidArgument));
}
