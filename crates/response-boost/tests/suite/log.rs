//! What the library logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::dispatcher::{DefaultGuard, Dispatch};
use tracing::subscriber::NoSubscriber;
pub(crate) use tracing_subscriber::filter::LevelFilter;

/// Collects what this thread logs until it is dropped.
pub(crate) struct Log {
    lines: Lines,
    _guard: DefaultGuard,
    /// With a single subscriber, the first thread that reaches a log call would decide for all threads whether it is
    /// enabled.
    _second: Dispatch,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn of_this_thread(level: LevelFilter) -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        Self { lines, _guard: guard, _second: Dispatch::new(NoSubscriber::default()) }
    }

    pub(crate) fn written(&self) -> String {
        String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
