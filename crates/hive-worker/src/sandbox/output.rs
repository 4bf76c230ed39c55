//! What a command printed: bounded, and read while it runs so that a full pipe never stalls it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;

/// How much of each stream is kept: the end, where failures are explained.
const KEPT_BYTES: usize = 64 * 1024;
/// How long a line may be in a message for people.
const LINE_CHARS: usize = 300;

/// The end of what a command printed.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// The last 64 KiB of standard output.
    pub stdout: String,
    /// The last 64 KiB of standard error.
    pub stderr: String,
}

impl Captured {
    /// The last line that says something: of standard error, or else of standard output.
    pub fn last_line(&self) -> Option<String> {
        last_line(&self.stderr).or_else(|| last_line(&self.stdout))
    }
}

/// The last non-blank line of `text`, shortened, without control characters.
pub(crate) fn last_line(text: &str) -> Option<String> {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(printable(line))
}

/// `line` as it may stand in a message: shortened, without control characters.
pub(crate) fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect()
}

/// Reads both streams of a child in the background.
pub(super) struct Tail {
    stdout: Stream,
    stderr: Stream,
}

impl Tail {
    pub(super) fn of(child: &mut Child) -> Self {
        Self {
            stdout: Stream::read(child.stdout.take()),
            stderr: Stream::read(child.stderr.take()),
        }
    }

    /// Everything printed, once both streams have ended or `grace` is over.
    pub(super) async fn finish(self, grace: Duration) -> Captured {
        let Self { mut stdout, mut stderr } = self;
        let both = async {
            let _ = (&mut stdout.task).await;
            let _ = (&mut stderr.task).await;
        };
        let _ = tokio::time::timeout(grace, both).await;
        Captured { stdout: stdout.text(), stderr: stderr.text() }
    }
}

struct Stream {
    kept: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Stream {
    fn read(source: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(drain(source, Arc::clone(&kept)));
        Self { kept, task }
    }

    fn text(&self) -> String {
        let kept = lock(&self.kept);
        let start = kept.len().saturating_sub(KEPT_BYTES);
        String::from_utf8_lossy(&kept[start..]).into_owned()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drain(source: Option<impl AsyncRead + Unpin>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut source) = source else { return };
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = source.read(&mut chunk).await {
        let mut kept = lock(&kept);
        kept.extend_from_slice(&chunk[..count]);
        // Twice the size, so that the front is cut off rarely instead of with each chunk.
        if kept.len() > 2 * KEPT_BYTES {
            let surplus = kept.len() - KEPT_BYTES;
            kept.drain(..surplus);
        }
    }
}

fn lock(kept: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    // Bytes have no invariant that a panic elsewhere could have broken.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_a_long_output_is_kept() {
        let long = "x".repeat(5 * KEPT_BYTES) + "\nthe end\n";
        let kept = Arc::default();
        drain(Some(long.as_bytes()), Arc::clone(&kept)).await;
        let stream = Stream { kept, task: tokio::spawn(async {}) };
        assert_eq!(stream.text().len(), KEPT_BYTES);
        assert_eq!(last_line(&stream.text()).as_deref(), Some("the end"));
    }

    #[test]
    fn a_line_for_people_has_no_escape_sequences() {
        assert_eq!(last_line("one\n\u{1b}[31mtwo\u{1b}[0m\n\n").as_deref(), Some("[31mtwo[0m"));
        assert_eq!(last_line(" \n\n"), None);
    }
}
