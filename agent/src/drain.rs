//! Shell: owns every long task, and ends them in stages: stop accepting, grace, force.
//! Never: knows what drains.
use std::{future::Future, time::Duration};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The owner of a group of tasks. Clones share the group.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
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
        let hard = self.hard.clone();
        // Boxed, because each future that it is moved into would keep room for it once more.
        let task = Box::pin(task);
        runtime.spawn(self.tasks.track_future(async move {
            hard.run_until_cancelled(task).await;
        }));
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
