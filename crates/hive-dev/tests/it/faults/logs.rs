//! Keeps everything that is logged on this thread, to search it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

pub(crate) struct Logs {
    text: Text,
    _second: Dispatch,
    _guard: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Logs {
    pub(crate) fn keep() -> Self {
        let text = Text::default();
        // While there is only one subscriber, tracing asks the thread that comes to an event first whether anybody wants
        // it, for all threads and for ever; and that may be a thread of another test, which has none.
        let second = Dispatch::new(NoSubscriber::new());
        let everything = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
        let subscriber = everything.with_ansi(false).with_writer(text.clone()).finish();
        Self { text, _second: second, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub(crate) fn text(&self) -> String {
        let bytes = self.text.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
