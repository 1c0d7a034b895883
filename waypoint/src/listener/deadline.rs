//! Shell: when a response must be over, also while its client takes nothing of it, so that nobody asks
//! for more of its body.
//! Never: says why there is such a time.
use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

/// What ends a request that takes too long.
pub type Expiry = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When a response must be over. Its clones share it: one is among the extensions of the response, for
/// who sends it, another with the body.
#[derive(Clone)]
pub struct Deadline {
    time: Arc<Mutex<Time>>,
    /// The body says itself that it was cut.
    speaks: bool,
}

enum Time {
    Runs(Expiry),
    /// What was not sent by then will not be.
    Over,
    /// The response ended before.
    Met,
}

impl Deadline {
    /// Over when `expiry` is. The body fails from then on: asked once more, it has its stream reset, which
    /// HTTP/2 would put off for as long as somebody else holds a part of it.
    pub fn new(expiry: Expiry) -> Self {
        Self { speaks: true, ..Self::silent(expiry) }
    }

    /// The same of what would say an end that is none, and is asked no more.
    pub fn silent(expiry: Expiry) -> Self {
        Self { time: Arc::new(Mutex::new(Time::Runs(expiry))), speaks: false }
    }

    /// Ready from when it is over.
    pub fn poll_over(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut time = self.lock();
        match &mut *time {
            Time::Runs(expiry) => ready!(expiry.as_mut().poll(context)),
            Time::Over => {}
            Time::Met => return Poll::Pending,
        }
        *time = Time::Over;
        Poll::Ready(())
    }

    /// Whether the response was cut.
    pub fn is_over(&self) -> bool {
        matches!(*self.lock(), Time::Over)
    }

    /// The response has ended.
    pub fn meet(&self) {
        *self.lock() = Time::Met;
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline").field("over", &self.is_over()).finish()
    }
}

tokio::task_local! {
    /// That of the response which the task sends.
    static CURRENT: RefCell<Option<Deadline>>;
}

/// Does what sends responses; `None` when one of them takes too long, and then whatever sends it is gone.
/// What goes on with a response that has begun has its deadline from the beginning.
pub(super) async fn in_time<T>(
    deadline: Option<Deadline>,
    sending: impl Future<Output = T>,
) -> Option<T> {
    let timed = async {
        let mut sending = pin!(sending);
        poll_fn(|context| {
            // Before it can say an end that is none.
            if !is_over(context)
                && let Poll::Ready(done) = sending.as_mut().poll(context)
            {
                return Poll::Ready(Some(done));
            }
            if !is_over(context) {
                return Poll::Pending;
            }
            if speaks() {
                let _cut = sending.as_mut().poll(context);
            }
            Poll::Ready(None)
        })
        .await
    };
    CURRENT.scope(RefCell::new(deadline), timed).await
}

/// Whether the deadline of the task is over; if not, it is woken then.
fn is_over(context: &mut Context<'_>) -> bool {
    CURRENT.with(|current| {
        let current = current.borrow();
        current.as_ref().is_some_and(|deadline| deadline.poll_over(context).is_ready())
    })
}

/// Whether what the task sends says itself that it was cut.
fn speaks() -> bool {
    CURRENT.with(|current| current.borrow().as_ref().is_some_and(|deadline| deadline.speaks))
}

/// That of the response which the task sends.
pub(super) fn current() -> Option<Deadline> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// From here on the task sends a response with this deadline, if it has one.
pub(super) fn begin(deadline: Option<Deadline>) {
    // Outside of `in_time` nobody looks.
    let _ = CURRENT.try_with(|current| current.replace(deadline));
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::time::{sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn second() -> Deadline {
        Deadline::new(Box::pin(sleep(SECOND)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_over_in_time() {
        let deadline = second();
        let known = deadline.clone();
        let stuck = async move {
            begin(Some(known));
            pending::<()>().await;
        };
        let ended = timeout(2 * SECOND, in_time(None, stuck)).await.unwrap();
        assert!(ended.is_none() && deadline.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_before_has_all_the_time() {
        let deadline = second();
        let known = deadline.clone();
        let stuck = async move {
            begin(Some(known.clone()));
            known.meet();
            pending::<()>().await;
        };
        assert!(timeout(2 * SECOND, in_time(None, stuck)).await.is_err() && !deadline.is_over());
        let next = async {
            begin(Some(second()));
            begin(None);
            sleep(2 * SECOND).await;
        };
        assert!(in_time(None, next).await.is_some(), "the next response has no deadline");
    }
}
