//! Stopping: one token, cancelled by SIGTERM or SIGINT, handed down to every task.

use std::io;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT.
///
/// Must be called inside a tokio runtime. The task that waits for the signals ends with the runtime.
pub fn on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        token.cancel();
    });
    Ok(stop)
}

/// Ends when the stop was asked for and the time to drain is over: whoever waits for calls under way waits no longer.
pub async fn drained(stop: &CancellationToken, deadline: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(deadline).await;
    tracing::warn!("calls were still under way when the time to drain was over");
}
