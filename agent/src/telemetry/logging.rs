//! Shell: where log lines go, in which form, from which level on.
//! Never: blocks a connection: lines pass through a bounded queue to a writer of their own, and are
//! counted when it is full.
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{MakeWriter, format::FmtSpan},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::settings::Format;

/// Lines that may wait to be written.
const QUEUE: usize = 16_384;
/// Pause between two rounds of writing.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the last lines may take when the agent stops.
const FLUSH: Duration = Duration::from_secs(1);

/// The running log.
#[derive(Clone, Debug)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    queue: Queue,
}

/// A level that nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LevelError(String);

impl Logging {
    /// Starts to log to standard output.
    ///
    /// # Errors
    /// When `level` is none, or somebody logs already.
    pub fn start(form: Format, level: &str) -> Result<Self, LevelError> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let (sender, receiver) = sync_channel(QUEUE);
        let queue = Queue { sender, dropped: Arc::default() };
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(&receiver))
            .map_err(|error| LevelError(format!("cannot start the log's writer: {error}")))?;
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(queue.clone())
            .with_ansi(false)
            .with_span_events(FmtSpan::NONE);
        let layer = match form {
            Format::Text => layer.boxed(),
            Format::Json => layer
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .boxed(),
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(|error| LevelError(error.to_string()))?;
        Ok(Self { filter: handle, queue })
    }

    /// Changes the level: `debug`, or `module=debug`, or (as istioctl sends it) `module:debug`.
    ///
    /// # Errors
    /// When it is none.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|error| LevelError(error.to_string()))
    }

    /// The level in force.
    pub fn level(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Writes a line that has a form of its own, with its newline; counted when the queue is full.
    pub fn line(&self, line: Vec<u8>) {
        self.queue.add(line);
    }

    /// Lines that were not written because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was logged is written.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.sender.send(Entry::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

/// A word alone is a level; the filter's own syntax would take a misspelt one for a module's name.
fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    let fixed = level.replace(':', "=").replace("==", "::");
    let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
    let directive = |part: &str| part.contains('=') || is_level(part.trim());
    let parsed = EnvFilter::builder().parse(&fixed).ok();
    parsed.filter(|_| fixed.split(',').all(directive)).ok_or_else(|| {
        LevelError(format!(
            "{level:?} is no level: use error, warn, info, debug, trace, or module=level"
        ))
    })
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Clone, Debug)]
struct Queue {
    sender: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn add(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Entry::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Queue {
    /// One call is one line: the formatter writes each event whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what waits in one go; a closed standard output ends the log, not the agent.
fn write_lines(queue: &Receiver<Entry>) {
    let mut out = io::BufWriter::new(io::stdout());
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Line(line) => {
                    let _ = out.write_all(&line);
                }
                Entry::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.send(());
                }
            }
            next = queue.try_recv().ok();
        }
        let _ = out.flush();
        // Lines gather meanwhile: to wake a sleeping reader for each costs more than the line.
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_or_pairs() {
        for (level, good) in [
            ("info", true),
            ("info,h2=debug", true),
            ("h2:debug", true),
            ("culvert_agent::hbone=trace", true),
            ("loud", false),
            ("h2=loud", false),
        ] {
            assert_eq!(parse(level).is_ok(), good, "{level}");
        }
    }
}
