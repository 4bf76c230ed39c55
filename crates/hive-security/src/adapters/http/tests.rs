#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::convert::Infallible;
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceExt;

use super::*;
use crate::SecretJson;
use crate::connect::NotSent;
use crate::testing::{Authority, audience};

fn credential(generation: u64) -> Credential {
    let data = SecretJson::new(json!({ "token": format!("hunter{generation}") }));
    Credential::new("api", generation, data)
}

async fn holder() -> TokenHolder {
    let holder = TokenHolder::new("token");
    holder.adopt(&credential(1)).await.unwrap();
    holder
}

async fn soon<T>(waited: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), waited).await.expect("it does not take long")
}

async fn still_in_use(holder: &TokenHolder, generation: u64) -> bool {
    timeout(Duration::from_millis(50), holder.drained(generation)).await.is_err()
}

#[tokio::test]
async fn whoever_asks_gets_the_current_token_and_it_is_shown_nowhere() {
    let holder = holder().await;
    let bearer = holder.bearer();
    assert_eq!(bearer.authorization().await.unwrap(), "Bearer hunter1");
    holder.adopt(&credential(2)).await.unwrap();
    let header = bearer.authorization().await.unwrap();
    assert_eq!(header, "Bearer hunter2");
    assert!(!format!("{header:?}{holder:?}{bearer:?}").contains("hunter"));
}

#[tokio::test]
async fn a_token_is_drained_when_the_last_of_its_headers_is_gone() {
    let holder = holder().await;
    let header = holder.bearer().authorization().await.unwrap();
    let another = header.clone();
    holder.adopt(&credential(2)).await.unwrap();
    drop(header);
    assert!(still_in_use(&holder, 2).await);
    drop(another);
    soon(holder.drained(2)).await;
}

#[tokio::test]
async fn a_request_uses_its_token_until_it_is_answered() {
    let holder = holder().await;
    let layer = AttachBearer::new(holder.bearer(), "https://ci.shop:443").unwrap();
    let (answer, answered) = oneshot::channel::<()>();
    let (arrived, arrives) = oneshot::channel();
    let server = tower::service_fn({
        let ends = Arc::new(Mutex::new(Some((arrived, answered))));
        move |request: Request<()>| {
            let (arrived, answered) = ends.lock().unwrap().take().unwrap();
            async move {
                let _ = arrived.send(request.headers()[AUTHORIZATION].to_str().unwrap().to_owned());
                drop(request);
                let _ = answered.await;
                Ok::<_, Infallible>(())
            }
        }
    });
    let request = Request::get("https://ci.shop/job").body(()).unwrap();
    let call = tokio::spawn(layer.layer(server).oneshot(request));
    assert_eq!(soon(arrives).await.unwrap(), "Bearer hunter1");
    holder.adopt(&credential(2)).await.unwrap();
    assert!(still_in_use(&holder, 2).await);
    answer.send(()).unwrap();
    soon(call).await.unwrap().unwrap();
    soon(holder.drained(2)).await;
}

#[tokio::test]
async fn a_leased_token_is_sent_to_its_server_and_to_nobody_else() {
    let layer = AttachBearer::new(holder().await.bearer(), "https://ci.shop:443").unwrap();
    let server = tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(()) });
    let request = Request::get("https://other.shop/").body(()).unwrap();
    let error = layer.layer(server).oneshot(request).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(NotSent::Elsewhere { .. })), "{error}");
}

#[tokio::test]
async fn the_end_of_the_overlap_waits_for_no_header() {
    let holder = holder().await;
    let _kept = holder.bearer().authorization().await.unwrap();
    holder.adopt(&credential(2)).await.unwrap();
    let waiting = tokio::spawn({
        let holder = holder.clone();
        async move { holder.drained(2).await }
    });
    holder.cut(2).await;
    soon(waiting).await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_token_is_not_sent_until_the_next_one_comes() {
    let holder = TokenHolder::new("token");
    let bearer = holder.bearer();
    assert!(matches!(bearer.authorization().await, Err(NoToken::Barred(_))), "none was issued");
    holder.adopt(&credential(1)).await.unwrap();
    holder.withdraw().await;
    assert!(matches!(bearer.authorization().await, Err(NoToken::Barred(_))));
    holder.adopt(&credential(2)).await.unwrap();
    assert_eq!(bearer.authorization().await.unwrap(), "Bearer hunter2");
}

#[tokio::test]
async fn what_is_no_token_is_not_adopted() {
    let holder = holder().await;
    for data in [json!({}), json!({ "token": "two\nlines" })] {
        let wrong = Credential::new("api", 2, SecretJson::new(data));
        for result in [holder.probe(&wrong).await, holder.adopt(&wrong).await] {
            assert!(matches!(result, Err(HolderError::Unusable { .. })), "{result:?}");
        }
    }
    assert_eq!(holder.bearer().authorization().await.unwrap(), "Bearer hunter1");
}

#[tokio::test]
async fn the_server_says_whether_it_takes_a_token_before_it_is_used() {
    let answers = |status: u16| {
        TokenHolder::with_probe("token", move |header| async move {
            assert_eq!(header, "Bearer hunter1");
            Ok(StatusCode::from_u16(status).unwrap())
        })
    };
    for status in [401, 403] {
        let result = answers(status).probe(&credential(1)).await;
        assert!(matches!(result, Err(HolderError::Refused { .. })), "{status}");
    }
    let result = answers(503).probe(&credential(1)).await;
    assert!(matches!(result, Err(HolderError::Unreachable { .. })));
    for status in [200, 404] {
        answers(status).probe(&credential(1)).await.expect("it says nothing against it");
    }
}

#[tokio::test]
async fn a_jwt_svid_is_fetched_once_for_all_requests_of_an_audience() {
    let stand = Authority::new("td").workload("/client");
    let bearer = Bearer::jwt_svid(&stand.workload, audience("orders.td"));
    let header = bearer.authorization().await.unwrap();
    for _ in 0..10 {
        assert_eq!(bearer.authorization().await.unwrap(), header);
    }
    assert_eq!(stand.fetches.load(std::sync::atomic::Ordering::SeqCst), 1);
    stand.x509.publish(Err(Error::Withdrawn { reason: "no identity issued".to_owned() }));
    assert!(matches!(bearer.authorization().await, Err(NoToken::Identity(_))));
}
