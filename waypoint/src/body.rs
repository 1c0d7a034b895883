//! Shell: the body of a request on its way to an endpoint: counted, and copied to mirrors.
//! Never: keeps a byte, but for another try (`replay`); waits for a mirror.
mod replay;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{Notify, mpsc};

pub use self::replay::Replay;
use crate::grpc::Messages;

/// Frames that wait for a mirror, at most; a slower one gets no more of the body.
const MOST_WAITING: usize = 64;

/// What is known of a body while it passes.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    awaited: AtomicBool,
    ended: AtomicBool,
    end: Notify,
    messages: Option<Mutex<Messages>>,
}

impl Meter {
    /// A meter; of a gRPC call's body it counts the messages.
    pub fn new(grpc: bool) -> Self {
        Self { messages: grpc.then(Mutex::default), ..Self::default() }
    }

    /// Bytes that have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Messages of a gRPC call that have passed.
    pub fn messages(&self) -> u64 {
        let messages = self.messages.as_ref();
        messages.map_or(0, |m| m.lock().unwrap_or_else(PoisonError::into_inner).count())
    }

    /// Whether all of it has passed.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until all of it has passed.
    pub async fn ended(&self) {
        let end = self.end.notified();
        if !self.has_ended() {
            end.await;
        }
    }

    /// Waits until nothing has come for `patience`, at most twice that, of a body that was asked for more
    /// all the while: for ever once it has ended, and for a gRPC call, whose client may be silent.
    pub async fn stalled(&self, patience: Duration) {
        let mut before = None;
        while !self.has_ended() && self.messages.is_none() {
            let come = self.awaited.load(Ordering::Relaxed).then(|| self.bytes());
            if come.is_some() && come == before {
                return;
            }
            before = come;
            tokio::time::sleep(patience).await;
        }
        std::future::pending().await
    }

    /// So many bytes have passed of which nobody looks at.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Some of it passes.
    pub fn pass(&self, bytes: &[u8]) {
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(messages) = &self.messages {
            messages.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
        }
    }

    /// That was all.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.notify_waiters();
    }
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Its client, or the endpoint, did.
    #[error("the body broke off")]
    Peer(#[from] hyper::Error),
    /// A mirror was too slow for it.
    #[error("a mirror was too slow")]
    Slow,
    /// The try that it was for is over.
    #[error("another try has the body")]
    Again,
}

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    meter: Arc<Meter>,
    mirrors: Vec<Mirror>,
}

/// Who gets a copy, and whether all of it was handed on.
#[derive(Debug)]
struct Mirror {
    frames: mpsc::Sender<Frame<Bytes>>,
    whole: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Source {
    Client(Incoming),
    /// A copy, and whether all of it was handed on.
    Copy(mpsc::Receiver<Frame<Bytes>>, Arc<AtomicBool>),
    /// One try's, of several.
    Again(replay::Reading),
    Nothing,
}

impl RequestBody {
    /// What comes from the client.
    pub fn new(body: Incoming, meter: Arc<Meter>) -> Self {
        if body.is_end_stream() {
            meter.end();
        }
        Self { source: Source::Client(body), meter, mirrors: Vec::new() }
    }

    /// No bytes.
    pub fn nothing() -> Self {
        let meter = Arc::new(Meter::default());
        meter.end();
        Self { source: Source::Nothing, meter, mirrors: Vec::new() }
    }

    /// A copy of what will pass.
    pub fn copy(&mut self) -> Self {
        if self.is_end_stream() {
            return Self::nothing();
        }
        let (frames, receiver) = mpsc::channel(MOST_WAITING);
        let whole = Arc::new(AtomicBool::new(false));
        self.mirrors.push(Mirror { frames, whole: whole.clone() });
        Self::of_copy(receiver, whole)
    }

    fn of_copy(frames: mpsc::Receiver<Frame<Bytes>>, whole: Arc<AtomicBool>) -> Self {
        let source = Source::Copy(frames, whole);
        Self { source, meter: Arc::default(), mirrors: Vec::new() }
    }

    /// One try's. Its meter says how much of it that try was sent.
    fn again(reading: replay::Reading) -> Self {
        let meter = Arc::new(Meter::default());
        if reading.is_end() {
            meter.end();
        }
        Self { source: Source::Again(reading), meter, mirrors: Vec::new() }
    }

    /// What is known of it while it passes.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// A mirror that is slow, or gone, gets no more.
    fn mirror(&mut self, frame: &Frame<Bytes>) {
        self.mirrors.retain(|mirror| mirror.frames.try_send(copied(frame)).is_ok());
    }

    fn poll_source(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.source {
            Source::Client(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|f| Ok(f?)))
            }
            Source::Copy(frames, whole) => match frames.poll_recv(context) {
                Poll::Ready(None) if whole.load(Ordering::Acquire) => Poll::Ready(None),
                // Cut short, it must not look whole.
                Poll::Ready(None) => Poll::Ready(Some(Err(Broken::Slow))),
                Poll::Ready(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Poll::Pending => Poll::Pending,
            },
            Source::Again(reading) => reading.poll(context),
            Source::Nothing => Poll::Ready(None),
        }
    }
}

fn copied(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => Frame::data(Bytes::new()),
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = self.poll_source(context);
        self.meter.awaited.store(polled.is_pending(), Ordering::Relaxed);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.meter.pass(data);
                }
                if !self.mirrors.is_empty() {
                    self.mirror(frame);
                }
            }
            Poll::Ready(None | Some(Err(_))) | Poll::Pending => {}
        }
        if matches!(polled, Poll::Ready(None)) || self.is_end_stream() {
            self.meter.end();
            self.mirrors.drain(..).for_each(|mirror| mirror.whole.store(true, Ordering::Release));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Client(body) => body.is_end_stream(),
            Source::Copy(..) => false,
            Source::Again(reading) => reading.is_end(),
            Source::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Client(body) => body.size_hint(),
            Source::Copy(..) => SizeHint::default(),
            Source::Again(reading) => reading.hint(),
            Source::Nothing => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drip(meter: &Meter, pause: Duration) {
        for _ in 0..20 {
            tokio::time::sleep(pause).await;
            meter.pass(b"a");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_slowly_has_not_stalled_and_what_nobody_asks_for_neither() {
        let second = Duration::from_secs(1);
        let waits = async |meter: &Meter| {
            let timeout = tokio::time::timeout(10 * second, meter.stalled(second)).await;
            timeout.is_err()
        };
        let meter = Meter::default();
        assert!(waits(&meter).await, "its endpoint has not asked for more");
        meter.awaited.store(true, Ordering::Relaxed);
        assert!(!waits(&meter).await, "nothing came");
        let (waited, ()) = tokio::join!(waits(&meter), drip(&meter, second / 2));
        assert!(waited, "something came each second");
        meter.end();
        assert!(waits(&meter).await, "it has ended");
        let call = Meter::new(true);
        call.awaited.store(true, Ordering::Relaxed);
        assert!(waits(&call).await, "a call may be silent");
    }
}
