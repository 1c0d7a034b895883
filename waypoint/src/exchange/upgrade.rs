//! Shell: what follows an agreed upgrade: bytes both ways until both sides are done.
//! Never: a deadline.
use culvert_agent::drain::Drain;
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::respond::{self, ResponseBody};
use crate::{outcome::Flag, record::Record, upstream::AnswerBody};

/// Tells the client that the endpoint agreed, and joins the two.
pub(super) fn join(
    response: Response<AnswerBody>,
    client: OnUpgrade,
    mut record: Record,
    drain: &Drain,
) -> Response<ResponseBody> {
    let (mut head, mut body) = response.into_parts();
    let taken = body.taken();
    let endpoint = head.extensions.remove::<OnUpgrade>();
    let answer = respond::switch(head, &mut record);
    drain.spawn(async move {
        // All of it, so that it ends here.
        let (mut record, _taken) = (record, taken);
        let Some(endpoint) = endpoint else { return };
        let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) else { return };
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        match copy_bidirectional(&mut client, &mut endpoint).await {
            Ok((received, sent)) => {
                record.received.add(received);
                record.sent.add(sent);
                record.whole = true;
            }
            Err(_) => record.flags.add(Flag::UpstreamConnectionTermination),
        }
    });
    answer
}
