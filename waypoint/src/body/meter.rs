//! Shell: what is known of a body while it passes: how much of it, whether it is over, and who is
//! awaited.
//! Never: a byte of it.
use std::{
    future::pending,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use culvert_agent::clock;
use tokio::{sync::Notify, time::sleep};

use crate::grpc::Messages;

/// Bytes of a request that are taken for sent when the endpoint has them all but so many, as many as
/// Envoy would hold.
const AHEAD: u64 = 1 << 20;

/// What is known of a body while it passes.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    asked: AtomicBool,
    awaited: AtomicBool,
    ended: AtomicBool,
    /// The client was awaited, and is not any more.
    come: Notify,
    course: Mutex<Course>,
    messages: Option<Mutex<Messages>>,
}

/// Whose the time is that passes.
#[derive(Clone, Copy, Debug)]
struct Course {
    /// Since when the client has not been awaited.
    since: Instant,
    /// How long nobody took anything from it before that, though it may have had everything to say.
    before: Duration,
}

impl Default for Course {
    fn default() -> Self {
        Self { since: clock::now(), before: Duration::ZERO }
    }
}

impl Course {
    /// When the client may have said everything.
    fn begin(&self) -> Instant {
        self.since.checked_sub(self.before).unwrap_or(self.since)
    }
}

impl Meter {
    /// A meter; of a gRPC call's body it counts the messages.
    pub fn new(grpc: bool) -> Self {
        Self { messages: grpc.then(Mutex::default), ..Self::default() }
    }

    /// The time begins anew: what was before was the waypoint's own doing.
    pub fn begin(&self) {
        *self.course() = Course::default();
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

    /// Waits until a request has taken longer than this. The time runs from the request's end, as Envoy
    /// counts; while that has not come it runs, too, unless the client is the one who is awaited:
    /// a connection, or an endpoint that takes no more, is not the client's delay.
    pub async fn late(&self, time: Duration) {
        self.spent(Course::begin, time).await;
    }

    /// The same for one try, which has had its connection since `from`.
    pub async fn late_since(&self, from: Instant, time: Duration) {
        self.spent(|course| course.since.max(from), time).await;
    }

    /// How long that time has run.
    pub fn running(&self) -> Duration {
        match self.awaited.load(Ordering::Acquire) {
            true => Duration::ZERO,
            false => clock::now().saturating_duration_since(self.course().begin()),
        }
    }

    async fn spent(&self, begin: impl Fn(&Course) -> Instant, time: Duration) {
        loop {
            let come = self.come.notified();
            tokio::pin!(come);
            // Before looking: what comes in between counts.
            come.as_mut().enable();
            if self.awaited.load(Ordering::Acquire) {
                come.await;
                continue;
            }
            let begin = begin(&self.course());
            let left = time.saturating_sub(clock::now().saturating_duration_since(begin));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
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
            sleep(patience).await;
        }
        pending().await
    }

    /// Somebody asked for more of it; whether that has yet to come.
    pub(super) fn asked(&self, awaited: bool) {
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
            let now = clock::now();
            let mut course = self.course();
            *course = Course { since: now, before: now.saturating_duration_since(course.since) };
        }
        if awaited {
            self.awaited.store(true, Ordering::Release);
        } else {
            self.rest();
        }
    }

    /// Nobody asks for more of it at this time.
    pub(super) fn rest(&self) {
        // Read first: it is seldom true, and a swap is not free.
        if self.awaited.load(Ordering::Relaxed) {
            self.course().since = clock::now();
            self.awaited.store(false, Ordering::Release);
            self.come.notify_waiters();
        }
    }

    /// So many bytes have passed of which nobody looks at.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Some of it passes.
    pub fn pass(&self, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        if before / AHEAD != (before + length) / AHEAD {
            *self.course() = Course::default();
        }
        if let Some(messages) = &self.messages {
            messages.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes);
        }
    }

    /// That was all.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.rest();
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Times that pass for real.
    const SHORT: Duration = Duration::from_millis(100);

    async fn drip(meter: &Meter, pause: Duration) {
        for _ in 0..20 {
            sleep(pause).await;
            meter.pass(b"a");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_slowly_has_not_stalled_and_what_nobody_asks_for_neither() {
        let waits = async |meter: &Meter| {
            let timeout = tokio::time::timeout(10 * SECOND, meter.stalled(SECOND)).await;
            timeout.is_err()
        };
        let meter = Meter::default();
        assert!(waits(&meter).await, "its endpoint has not asked for more");
        meter.asked(true);
        assert!(!waits(&meter).await, "nothing came");
        let (waited, ()) = tokio::join!(waits(&meter), drip(&meter, SECOND / 2));
        assert!(waited, "something came each second");
        meter.end();
        assert!(waits(&meter).await, "it has ended");
        let call = Meter::new(true);
        call.asked(true);
        assert!(waits(&call).await, "a call may be silent");
    }

    /// How long it was until a request was late that has this time, if that was not too long.
    async fn late(meter: &Meter, time: Duration) -> Option<Duration> {
        let began = clock::now();
        let late = tokio::time::timeout(15 * SHORT, meter.late(time)).await;
        late.is_ok().then(|| began.elapsed())
    }

    fn is_about(took: Option<Duration>, time: Duration) -> bool {
        took.is_some_and(|took| took + SHORT / 5 >= time && took < time + 4 * SHORT)
    }

    #[tokio::test]
    async fn time_runs_unless_the_client_is_awaited() {
        let meter = Meter::default();
        assert!(is_about(late(&meter, SHORT).await, SHORT), "nobody asks the client");
        let meter = Meter::default();
        meter.asked(true);
        assert_eq!(late(&meter, SHORT).await, None, "the client is awaited");
        let said = async {
            sleep(5 * SHORT).await;
            meter.asked(false);
        };
        let (took, ()) = tokio::join!(late(&meter, SHORT), said);
        assert!(is_about(took, 6 * SHORT), "from what it said on: {took:?}");
    }

    #[tokio::test]
    async fn what_nobody_took_for_long_is_not_the_clients_delay() {
        let meter = Meter::default();
        sleep(8 * SHORT).await;
        meter.asked(true);
        meter.asked(false);
        meter.end();
        assert!(meter.running() >= 8 * SHORT);
        let took = late(&meter, 10 * SHORT).await;
        assert!(is_about(took, 2 * SHORT), "most of it was waiting for a connection: {took:?}");
        // A try's begins with its connection.
        let (began, from) = (clock::now(), clock::now() + 5 * SHORT);
        meter.late_since(from, SHORT).await;
        assert!(is_about(Some(began.elapsed()), 6 * SHORT));
    }

    /// Takes half a MiB again and again.
    async fn taken(meter: &Meter) {
        let part = vec![0; 1 << 19];
        for _ in 0..8 {
            sleep(SHORT).await;
            meter.asked(false);
            meter.pass(&part);
        }
    }

    #[tokio::test]
    async fn a_long_body_that_is_taken_is_not_late() {
        let meter = Meter::default();
        let (took, ()) = tokio::join!(late(&meter, 4 * SHORT), taken(&meter));
        assert!(is_about(took, 12 * SHORT), "{took:?}");
    }
}
