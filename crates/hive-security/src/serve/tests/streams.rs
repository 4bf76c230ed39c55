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
    let chatter = futures_util::stream::unfold((), |()| async {
        sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, Status>(http_body::Frame::data(message("tick"))), ()))
    });
    let body = Body::new(StreamBody::new(Box::pin(chatter)));
    let (code, text) = call(&channel, "/test.Probe/Upload", Some(&token), body).await;
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
