//! Shell: copies of requests to somebody else, whose answers are dropped.
//! Never: holds up the request; counts among its metrics.
use std::{sync::Arc, time::Duration};

use http::Request;
use http_body::Body;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    body::RequestBody,
    listener::Version,
    mesh::Picked,
    outcome::{Answered, Outcome},
    upstream::{AnswerBody, Upstream},
};

/// Copies that are under way at one time; beyond them requests are not copied.
const MOST_COPIES: usize = 1_024;
/// How long a copy may take, if its rule does not ask for less.
const PATIENCE: Duration = Duration::from_secs(60);

/// Room for copies. Clones share it.
#[derive(Clone, Debug)]
pub struct Mirrors(Arc<Semaphore>);

impl Default for Mirrors {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_COPIES)))
    }
}

impl Mirrors {
    /// Room for one copy, if there is any.
    pub(super) fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

/// Sends a copy, and reads the answer to its end.
pub(super) async fn send(
    upstream: Upstream,
    picked: Picked,
    version: Version,
    request: Request<RequestBody>,
    (patience, room): (Option<Duration>, OwnedSemaphorePermit),
) {
    let sent = async {
        let Picked { to, ticket } = &picked;
        match upstream.send(to, version, request, ticket).await {
            Ok(answer) => {
                let head = Answered::read(answer.status(), answer.headers(), &[]);
                ticket.report(&Outcome::Answered(head));
                hear_out(answer.into_body()).await;
            }
            Err(outcome) => ticket.report(&outcome),
        }
    };
    // What becomes of a copy is nobody's concern.
    let _ = timeout(patience.map_or(PATIENCE, |patience| patience.min(PATIENCE)), sent).await;
    drop(room);
}

async fn hear_out(mut body: AnswerBody) {
    use std::{future::poll_fn, pin::Pin};
    while let Some(Ok(_)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {}
}
