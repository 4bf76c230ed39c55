//! Bad weather on demand: what a client meets is what was announced, and then it is fair again.

use std::time::{Duration, Instant};

use hive_dev::authority::{ClockShift, Malformed, Method, Trouble};
use tonic::{Code, Status};

use crate::authority::{Place, Raw, end, every_method, in_time, next, wire, with_header};

const METHODS: [Method; 5] = [
    Method::FetchX509Svid,
    Method::FetchX509Bundles,
    Method::FetchJwtBundles,
    Method::FetchJwtSvid,
    Method::ValidateJwtSvid,
];
const HOUR: Duration = Duration::from_secs(3_600);

fn refusal() -> Trouble {
    Trouble::Refuse { code: Code::ResourceExhausted, message: "come back later".to_owned() }
}

async fn token(raw: &mut Raw) -> Result<String, Status> {
    let wanted = wire::JwtsvidRequest { audience: vec!["a".to_owned()], spiffe_id: String::new() };
    let answer = raw.fetch_jwtsvid(with_header(wanted)).await?.into_inner();
    Ok(answer.svids.into_iter().map(|svid| svid.svid).next().unwrap_or_default())
}

async fn validate(raw: &mut Raw, svid: String) -> Result<wire::ValidateJwtsvidResponse, Status> {
    let asked = wire::ValidateJwtsvidRequest { audience: "a".to_owned(), svid };
    raw.validate_jwtsvid(with_header(asked)).await.map(tonic::Response::into_inner)
}

async fn bundle(raw: &mut Raw) -> Result<Option<wire::JwtBundlesResponse>, Status> {
    let asked = with_header(wire::JwtBundlesRequest {});
    raw.fetch_jwt_bundles(asked).await?.into_inner().message().await
}

async fn x509_bundle(raw: &mut Raw) -> Result<Option<wire::X509BundlesResponse>, Status> {
    let asked = with_header(wire::X509BundlesRequest {});
    raw.fetch_x509_bundles(asked).await?.into_inner().message().await
}

async fn svid(raw: &mut Raw) -> Result<Option<wire::X509svidResponse>, Status> {
    let asked = with_header(wire::X509svidRequest {});
    raw.fetch_x509svid(asked).await?.into_inner().message().await
}

/// One answer of a method, whatever is in it.
async fn answer(raw: &mut Raw, method: Method, good: &str) -> Result<(), Status> {
    match method {
        Method::FetchJwtBundles => bundle(raw).await.map(drop),
        Method::FetchJwtSvid => token(raw).await.map(drop),
        Method::FetchX509Bundles => x509_bundle(raw).await.map(drop),
        Method::FetchX509Svid => svid(raw).await.map(drop),
        Method::ValidateJwtSvid => validate(raw, good.to_owned()).await.map(drop),
    }
}

#[tokio::test]
async fn exactly_the_announced_answers_of_each_method_are_refused() {
    let place = Place::mine().await;
    let mut raw = place.raw().await;
    let good = token(&mut raw).await.expect("fair weather");
    for method in METHODS {
        place.authority.weather().next(method, 2, refusal());
        for other in METHODS.into_iter().filter(|other| *other != method) {
            answer(&mut raw, other, &good).await.expect("fair weather elsewhere");
        }
        for _ in 0..2 {
            let status = answer(&mut raw, method, &good).await.expect_err("announced");
            let expected = (Code::ResourceExhausted, "come back later");
            assert_eq!((status.code(), status.message()), expected, "{method:?}");
        }
        answer(&mut raw, method, &good).await.expect("fair again");
    }
}

#[tokio::test]
async fn whoever_has_no_identity_meets_no_weather() {
    let place = Place::empty(|_| {}).await;
    for method in METHODS {
        place.authority.weather().always(method, refusal());
    }
    let mut raw = place.raw().await;
    for denied in every_method(&mut raw, Some("true")).await {
        assert_eq!(denied.map_err(|status| status.code()), Err(Code::PermissionDenied));
    }
}

#[tokio::test]
async fn an_open_stream_can_be_made_to_meet_trouble() {
    let place = Place::mine().await;
    let weather = place.authority.weather();
    let mut stream = place.x509_svids().await;
    next(&mut stream).await;
    weather.next(Method::FetchX509Svid, 1, Trouble::Malformed(Malformed::Empty));
    weather.say_again();
    assert!(next(&mut stream).await.svids.is_empty());
    weather.say_again();
    assert_eq!(next(&mut stream).await.svids.len(), 1, "fair again");
    weather.next(Method::FetchX509Svid, 1, refusal());
    weather.say_again();
    assert_eq!(end(&mut stream).await, Code::ResourceExhausted);
}

#[tokio::test]
async fn an_answer_stalls_until_it_is_released_or_its_deadline_comes() {
    let place = Place::mine().await;
    let weather = place.authority.weather();
    let mut raw = place.raw().await;
    weather.next(Method::FetchJwtSvid, 1, Trouble::Stall { at_most: HOUR });
    let released = async {
        weather.stalled(1).await;
        weather.release();
    };
    let (token_late, ()) = in_time(async { tokio::join!(token(&mut raw), released) }).await;
    token_late.expect("late, and good");
    let at_most = Duration::from_millis(200);
    weather.next(Method::FetchX509Svid, 1, Trouble::Stall { at_most });
    let begun = Instant::now();
    in_time(svid(&mut raw)).await.expect("late, and good").expect("a message");
    assert!(begun.elapsed() >= at_most);
}

#[tokio::test]
async fn an_identity_that_goes_while_its_answer_stalls_is_not_given() {
    let place = Place::empty(|_| {}).await;
    let entry = place.add("/a", hive_dev::authority::Selector::Pid(std::process::id()));
    let weather = place.authority.weather();
    for method in [Method::FetchJwtSvid, Method::FetchX509Svid] {
        weather.next(method, 1, Trouble::Stall { at_most: HOUR });
    }
    let (mut one, mut two) = (place.raw().await, place.raw().await);
    let removed = async {
        weather.stalled(2).await;
        assert!(place.authority.remove_entry(entry));
        weather.release();
    };
    let answers = async { tokio::join!(token(&mut one), svid(&mut two), removed) };
    let (token, svid, ()) = in_time(answers).await;
    assert_eq!(token.map_err(|status| status.code()), Err(Code::PermissionDenied));
    assert_eq!(svid.map(drop).map_err(|status| status.code()), Err(Code::PermissionDenied));
}

#[tokio::test]
async fn a_dropped_connection_takes_everything_on_it_along() {
    let place = Place::mine().await;
    let mut raw = place.raw().await;
    let asked = with_header(wire::X509svidRequest {});
    let mut stream = raw.fetch_x509svid(asked).await.expect("a stream").into_inner();
    next(&mut stream).await;
    place.authority.weather().next(Method::FetchJwtSvid, 1, Trouble::Drop);
    let status = in_time(token(&mut raw)).await.expect_err("it broke");
    assert!(
        matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
        ),
        "{status:?}"
    );
    in_time(stream.message()).await.expect_err("it was on the same connection");
    // The client connects again by itself, and the weather is fair.
    in_time(async {
        while token(&mut raw).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn malformed_answers_are_malformed_in_the_way_that_was_announced() {
    let place = Place::mine().await;
    let weather = place.authority.weather();
    let mut raw = place.raw().await;
    let good = token(&mut raw).await.expect("fair weather");
    for how in [Malformed::Empty, Malformed::Garbage, Malformed::Torn] {
        for method in METHODS {
            weather.next(method, 1, Trouble::Malformed(how));
        }
        let valid = validate(&mut raw, good.clone()).await.expect("an answer");
        let whole = valid.spiffe_id.starts_with("spiffe://") && valid.claims.is_some();
        assert!(!whole, "{how:?}");
        let svids = svid(&mut raw).await.expect("an answer").expect("a message").svids;
        let x509_is_readable = svids
            .first()
            .is_some_and(|svid| x509_parser::parse_x509_certificate(&svid.x509_svid).is_ok());
        assert!(!x509_is_readable && svids.is_empty() == (how == Malformed::Empty), "{how:?}");
        let bundles = x509_bundle(&mut raw).await.expect("an answer").expect("a message").bundles;
        let readable = |der: &Vec<u8>| x509_parser::parse_x509_certificate(der).is_ok();
        assert!(!bundles.values().any(readable), "{how:?}");
        let bundles = bundle(&mut raw).await.expect("an answer").expect("a message").bundles;
        let readable = |json: &Vec<u8>| serde_json::from_slice::<serde_json::Value>(json).is_ok();
        assert!(!bundles.values().any(readable), "{how:?}");
        let spoiled = token(&mut raw).await.expect("an answer");
        assert!(validate(&mut place.raw().await, spoiled).await.is_err(), "{how:?}");
    }
    let left = METHODS.map(|method| weather.announced(method));
    assert_eq!(left, [Some(0); 5]);
    validate(&mut raw, good).await.expect("fair again");
}

#[tokio::test]
async fn an_independent_client_refuses_a_malformed_answer_and_keeps_the_good_one() {
    let place = Place::mine().await;
    let source = place.x509_source().await;
    let before = source.svid().expect("an SVID");
    for how in [Malformed::Empty, Malformed::Garbage, Malformed::Torn] {
        place.authority.weather().next(Method::FetchX509Svid, 1, Trouble::Malformed(how));
        place.authority.weather().say_again();
        in_time(async {
            while place.authority.weather().announced(Method::FetchX509Svid) != Some(0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    let leaf = |svid: &spiffe::X509Svid| svid.leaf().as_bytes().to_vec();
    let now = source.svid().expect("never without");
    let parsed = leaf(&now);
    assert!(x509_parser::parse_x509_certificate(&parsed).is_ok());
    assert_eq!(now.spiffe_id(), before.spiffe_id());
}

#[tokio::test]
async fn expired_documents_are_pushed_and_replaced_without_a_storm() {
    let place = Place::mine().await;
    let weather = place.authority.weather();
    let mut raw = place.raw().await;
    weather.next(Method::FetchJwtSvid, 1, Trouble::Expired);
    let expired = token(&mut raw).await.expect("an answer");
    let refused = validate(&mut raw, expired).await.expect_err("it has expired");
    assert!(refused.message().contains("expired"), "{refused:?}");
    weather.next(Method::FetchX509Svid, 1, Trouble::Expired);
    let mut stream = place.x509_svids().await;
    let begun = Instant::now();
    let valid = |message: &wire::X509svidResponse| {
        let der = &message.svids[0].x509_svid;
        x509_parser::parse_x509_certificate(der).expect("DER").1.validity().is_valid()
    };
    assert!(!valid(&next(&mut stream).await));
    assert!(valid(&next(&mut stream).await), "a good one follows by itself");
    assert!(begun.elapsed() >= Duration::from_millis(400), "and not at once");
}

#[tokio::test]
async fn a_shifted_clock_is_in_every_document_until_it_is_right_again() {
    let place = Place::mine().await;
    let weather = place.authority.weather();
    let mut stream = place.x509_svids().await;
    let not_before = |message: &wire::X509svidResponse| {
        let der = &message.svids[0].x509_svid;
        x509_parser::parse_x509_certificate(der).expect("DER").1.validity().not_before.timestamp()
    };
    let right = not_before(&next(&mut stream).await);
    for (shift, ahead) in [
        (ClockShift::Ahead(HOUR), 3_600),
        (ClockShift::Behind(HOUR), -3_600),
        (ClockShift::Right, 0),
    ] {
        weather.shift_clock(shift);
        let off = not_before(&next(&mut stream).await) - right;
        assert!((off - ahead).abs() < 30, "{shift:?}: {off}");
    }
    // A token of a clock that is behind has expired for a clock that is right.
    let mut raw = place.raw().await;
    weather.shift_clock(ClockShift::Behind(HOUR));
    let old = token(&mut raw).await.expect("a token");
    validate(&mut raw, old.clone()).await.expect("by that clock it is good");
    weather.clear();
    assert!(validate(&mut raw, old).await.is_err());
}
