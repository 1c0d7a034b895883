//! Shell: owns every long task, and ends them in stages: stop accepting, grace, force.
//! Never: knows what drains.
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

/// The owner of a group of tasks. Clones share the group.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

pin_project! {
    /// A task until its group is forced to end. An `async` block in its place would keep room for the
    /// task twice: for what it is given, and for what it waits for.
    struct UntilForced<F> {
        #[pin]
        forced: WaitForCancellationFutureOwned,
        #[pin]
        task: F,
    }
}

impl<F: Future<Output = ()>> Future for UntilForced<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.task.poll(context).is_ready() { Poll::Ready(()) } else { this.forced.poll(context) }
    }
}

impl Drain {
    /// A group that ends when its parent does, and can be ended by itself before.
    pub fn child(&self) -> Self {
        Self {
            soft: self.soft.child_token(),
            hard: self.hard.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Runs a task of this group; it is dropped where it stands when the group is forced to end.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_on(&Handle::current(), task);
    }

    /// Runs a task of this group on another runtime.
    pub fn spawn_on(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let forced = self.hard.clone().cancelled_owned();
        runtime.spawn(self.tasks.track_future(UntilForced { forced, task }));
    }

    /// Waits until the group is asked to finish what it is doing.
    pub async fn draining(&self) {
        self.soft.cancelled().await;
    }

    /// Whether the group was asked to finish.
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Asks the group to finish, without waiting.
    pub fn begin(&self) {
        self.soft.cancel();
    }

    /// Drops every task of the group where it stands.
    pub fn force(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Asks all tasks to finish and waits for `grace`; then drops those that are left.
    /// Says whether all had finished by themselves.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.begin();
        self.tasks.close();
        let finished = tokio::time::timeout(grace, self.tasks.wait()).await.is_ok();
        if !finished {
            self.hard.cancel();
            self.tasks.wait().await;
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_request_is_dropped_after_the_grace_period() {
        let drain = Drain::default();
        drain.spawn(std::future::pending());
        assert!(!drain.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_listens_finishes_by_itself() {
        let drain = Drain::default();
        let group = drain.child();
        drain.spawn(async move { group.draining().await });
        assert!(drain.stop(Duration::from_secs(5)).await);
    }
}
