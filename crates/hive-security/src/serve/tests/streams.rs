//! Streams end with the documents of their caller, and unary calls do not.

use std::time::Instant;

use super::*;
use crate::X509Material;

/// Who is stopped by what: the life of the certificate and of the token, in seconds.
async fn stand(certificate: u64, token_life: u64) -> (Running, Channel, String) {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let layer = Authenticate::new(&server.workload, audience(AUDIENCE), clients_only());
    let running = serve(&server, layer, None).await;
    let svid = Arc::new(authority.svid_of(&expiring("/client/a", certificate)));
    client.x509.publish(Ok(X509Material::new(vec![svid], vec![authority.bundle()])));
    let channel = dial(&client, &running);
    (running, channel, token(&authority, "/client/a", token_life))
}

/// The same with documents that last, and a policy that can be replaced.
async fn reloadable_stand() -> (Running, Channel, String, PolicyHandle) {
    let authority = Authority::new("td");
    let (server, client) = (authority.workload("/server"), authority.workload("/client/a"));
    let handle = PolicyHandle::new(clients_only());
    let layer = Authenticate::new(&server.workload, audience(AUDIENCE), handle.clone());
    let running = serve(&server, layer, None).await;
    let channel = dial(&client, &running);
    let token = token(&authority, "/client/a", 600);
    (running, channel, token, handle)
}

/// Requests without end.
fn chatter() -> Body {
    let ticks = futures_util::stream::unfold((), |()| async {
        sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, Status>(http_body::Frame::data(message("tick"))), ()))
    });
    Body::new(StreamBody::new(Box::pin(ticks)))
}

#[tokio::test]
async fn a_stream_ends_when_the_first_document_of_its_caller_expires() {
    let table = [
        (600, 2, "/test.Probe/Chatter"),
        (3, 600, "/test.Probe/Silence"),
        (3, 600, "/test.Probe/Chatter"),
    ];
    let ends = table.map(|(certificate, token_life, method)| async move {
        let (running, channel, token) = stand(certificate, token_life).await;
        let began = Instant::now();
        let (code, received) = ask(&channel, method, Some(&token)).await;
        assert_eq!(code, Code::Unauthenticated, "{method}");
        assert!(received.contains("tick"), "what came before is not lost");
        let lasted = began.elapsed().as_secs_f64();
        assert!((0.5..5.0).contains(&lasted), "{method} lasted {lasted} s");
        assert_eq!(running.counts.tally().expired, 1);
    });
    futures_util::future::join_all(ends).await;
}

#[tokio::test]
async fn a_stream_of_requests_ends_too() {
    let (_running, channel, token) = stand(600, 2).await;
    let (code, text) = call(&channel, "/test.Probe/Upload", Some(&token), chatter()).await;
    assert_eq!(code, Code::Unauthenticated, "{text:?}");
    assert!(text.starts_with(b"a document that proved who calls has expired"), "{text:?}");
}

#[tokio::test]
async fn a_unary_call_is_answered_although_its_documents_expired_meanwhile() {
    for (certificate, token_life) in [(600, 2), (2, 600)] {
        let (running, channel, token) = stand(certificate, token_life).await;
        let (code, text) = ask(&channel, "/test.Probe/Late", Some(&token)).await;
        assert_eq!((code, &text[5..]), (Code::Ok, "spiffe://td/client/a"));
        assert_eq!(running.counts.tally().expired, 0);
    }
}

#[tokio::test]
async fn a_slow_unary_request_is_read_to_its_end() {
    let (_running, channel, token) = stand(600, 2).await;
    let whole = message("slowly");
    let pieces = futures_util::stream::unfold(whole, |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        sleep(Duration::from_millis(300)).await;
        let piece = rest.split_to(1);
        Some((Ok::<_, Status>(http_body::Frame::data(piece)), rest))
    });
    let body = Body::new(StreamBody::new(Box::pin(pieces)));
    let (code, text) = call(&channel, "/test.Probe/Upload", Some(&token), body).await;
    assert_eq!(code, Code::Ok, "{text:?}");
}

/// A stream of what a method says until the policy is replaced by this one: how it ended.
async fn replaced_by(policy: &str, method: &str, patience: Duration) -> (Option<Code>, Tally) {
    let (running, channel, token, handle) = reloadable_stand().await;
    let stream = ask(&channel, method, Some(&token));
    let replacing = async {
        while running.counts.tally().allowed == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        handle.reload(policy).unwrap();
    };
    let both = async { tokio::join!(stream, replacing).0 };
    let ended = timeout(patience, both).await.ok().map(|(code, _)| code);
    (ended, running.counts.tally())
}

#[tokio::test]
async fn a_stream_ends_when_a_new_policy_does_not_allow_it() {
    let others = "allow: [{ methods: /test.Probe/*, who: spiffe://td/other }]";
    for method in ["/test.Probe/Chatter", "/test.Probe/Silence"] {
        let (ended, tally) = replaced_by(others, method, Duration::from_secs(10)).await;
        assert_eq!(ended, Some(Code::PermissionDenied), "{method}");
        assert_eq!((tally.revoked, tally.expired, tally.denied), (1, 0, 0), "{method}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_when_a_new_policy_allows_it_too() {
    let same = "allow: [{ methods: /test.Probe/*, who: spiffe://td/client/a }]";
    for method in ["/test.Probe/Chatter", "/test.Probe/Silence"] {
        let (ended, tally) = replaced_by(same, method, Duration::from_secs(2)).await;
        assert_eq!((ended, tally.revoked), (None, 0), "{method}");
    }
}

#[tokio::test]
async fn a_unary_call_is_answered_although_a_new_policy_does_not_allow_it() {
    let (running, channel, token, handle) = reloadable_stand().await;
    let (answer, ()) = tokio::join!(ask(&channel, "/test.Probe/Late", Some(&token)), async {
        sleep(Duration::from_millis(500)).await;
        handle.reload("allow: []").unwrap();
    });
    assert_eq!(answer.0, Code::Ok);
    assert_eq!(running.counts.tally().revoked, 0);
}

#[tokio::test]
async fn a_stream_of_requests_ends_with_the_policy_too() {
    let (running, channel, token, handle) = reloadable_stand().await;
    let (answer, ()) =
        tokio::join!(call(&channel, "/test.Probe/Upload", Some(&token), chatter()), async {
            sleep(Duration::from_millis(300)).await;
            handle.reload("allow: []").unwrap();
        });
    assert_eq!(answer.0, Code::PermissionDenied, "{:?}", answer.1);
    assert_eq!(running.counts.tally().revoked, 1);
}

/// The leeway is that of the verifier: a stream that ended before would be opened again with the same token.
#[tokio::test]
async fn a_stream_lives_as_long_as_a_new_call_with_its_token_would_be_accepted() {
    let (running, channel, token) = stand(600, 3).await;
    let beside = async {
        sleep(Duration::from_millis(500)).await;
        ask(&channel, "/test.Probe/Ask", Some(&token)).await.0
    };
    let (stream, beside) = tokio::join!(ask(&channel, "/test.Probe/Chatter", Some(&token)), beside);
    assert_eq!((stream.0, beside), (Code::Unauthenticated, Code::Ok));
    let after = ask(&channel, "/test.Probe/Ask", Some(&token)).await;
    assert_eq!(after.0, Code::Unauthenticated, "{after:?}");
    assert_eq!(running.counts.tally().expired, 1);
}

/// The verifier of certificates has none either.
#[tokio::test]
async fn a_certificate_has_no_leeway() {
    let (_running, channel, token) = stand(3, 600).await;
    let began = SystemTime::now();
    let (code, _) = ask(&channel, "/test.Probe/Silence", Some(&token)).await;
    assert_eq!(code, Code::Unauthenticated);
    let lasted = began.elapsed().unwrap().as_secs_f64();
    assert!(lasted < 10.0, "a certificate of 3 s kept a stream for {lasted} s");
}
