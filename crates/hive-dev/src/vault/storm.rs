//! What a trouble does to an answer, before it is made and after.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::response::Response;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};

use super::connections::HangUp;
use super::core::Core;
use super::reply::{Fault, random_uuid};
use super::weather::{Malformed, Trouble};

/// A client reads no more than this.
const HUGE_BYTES: usize = 2 << 20;
const GARBAGE: &str = "<html><body>It works!</body></html>";
/// A slow body comes in at most so many parts.
const PARTS_MAX: usize = 64;

/// What is answered instead of what was asked for; None lets it happen.
pub(super) async fn before(
    core: &Arc<Core>,
    trouble: Option<&Trouble>,
    path: &str,
    hang_up: &HangUp,
) -> Option<Response> {
    let trouble = trouble?;
    tracing::debug!(?trouble, path, "an answer meets bad weather");
    match trouble {
        Trouble::Drop => {
            hang_up.now().await;
            Some(Fault::internal().into_response(""))
        }
        Trouble::Redirect { to } => Some(redirect(to, path)),
        Trouble::Refuse { status, message } => {
            Some(Fault::new(*status, message.clone()).into_response(&random_uuid()))
        }
        Trouble::Stall { at_most } => {
            core.weather.stall(*at_most, &hang_up.stop).await;
            None
        }
        Trouble::Lose | Trouble::Malformed(_) | Trouble::Slow { .. } => None,
    }
}

/// What becomes of an answer that was made.
pub(super) async fn after(
    trouble: Option<Trouble>,
    response: Response,
    hang_up: &HangUp,
) -> Response {
    match trouble {
        Some(Trouble::Lose) => {
            hang_up.now().await;
            response
        }
        Some(Trouble::Malformed(how)) => malformed(how, response).await,
        Some(Trouble::Slow { over }) => slow(over, response).await,
        _ => response,
    }
}

fn redirect(to: &str, path: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(place) = HeaderValue::from_str(&format!("{}/v1/{path}", to.trim_end_matches('/'))) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

async fn malformed(how: Malformed, response: Response) -> Response {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let body = match how {
        Malformed::Empty => Bytes::new(),
        Malformed::Garbage => Bytes::from_static(GARBAGE.as_bytes()),
        Malformed::Huge => Bytes::from(vec![b' '; HUGE_BYTES]),
        Malformed::Torn => body.slice(..body.len() / 2),
    };
    Response::from_parts(head, Body::from(body))
}

async fn slow(over: Duration, response: Response) -> Response {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let size = body.len().div_ceil(PARTS_MAX).max(1);
    let parts: Vec<Bytes> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let pause = over.checked_div(u32::try_from(parts.len()).unwrap_or(1)).unwrap_or_default();
    let parts = stream::unfold(parts.into_iter(), move |mut parts| async move {
        let part = parts.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(part), parts))
    });
    Response::from_parts(head, Body::from_stream(parts))
}
