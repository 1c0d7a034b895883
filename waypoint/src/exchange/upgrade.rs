//! Shell: what follows an agreed upgrade: bytes both ways until both sides are done.
//! Never: a deadline, but for what carries nothing for long.
use std::future::pending;

use bytes::BytesMut;
use culvert_agent::drain::Drain;
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::oneshot,
};

use super::respond::{self, ResponseBody};
use crate::{
    body::Meter,
    listener::{
        deadline::Deadline,
        idle::{IDLE, idle},
    },
    outcome::Flag,
    places::Place,
    record::Record,
    upstream::AnswerBody,
};

/// Bytes that are under way in one direction.
const MOST_READ: usize = 8 << 10;

/// Tells the client that the endpoint agreed, and joins the two. The request's place is theirs until
/// they are done.
pub(super) fn join(
    response: Response<AnswerBody>,
    client: OnUpgrade,
    (mut record, place): (Record, Place),
    drain: &Drain,
) -> Response<ResponseBody> {
    let (mut head, mut body) = response.into_parts();
    let taken = body.taken();
    let endpoint = head.extensions.remove::<OnUpgrade>();
    let (mut tie, deadline) = Tie::new();
    let is_stream = !record.is_http1();
    let answer = respond::switch(head, deadline, &mut record);
    drain.spawn(async move {
        // All of them, so that they end here.
        let (mut record, _place, _taken) = (record, place, taken);
        let Some(endpoint) = endpoint else { return };
        let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) else { return };
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        let (received, sent) = (record.received.clone(), record.sent.clone());
        let moved = || received.bytes().wrapping_add(sent.bytes());
        let stream = is_stream.then_some(&mut tie);
        let carried = carry(&mut client, &mut endpoint, (&received, &sent), stream);
        tokio::select! {
            ended = carried => match ended {
                Ok(()) => record.whole = true,
                Err(flag) => record.flags.add(flag),
            },
            () = idle(moved, IDLE) => record.idled(),
        }
        tie.cut(record.whole).await;
    });
    answer
}

/// What holds a client's stream of HTTP/2. hyper says its end when its socket is dropped, and hears an
/// end when it is reset: here the one is told from the other.
struct Tie {
    ended: oneshot::Sender<()>,
    left: oneshot::Receiver<()>,
}

impl Tie {
    /// With what ends the stream, for who sends it.
    fn new() -> (Self, Deadline) {
        let (ended, end) = oneshot::channel();
        let (sending, left) = oneshot::channel::<()>();
        let broken = async move {
            // Dropped with whatever sends the stream.
            let _sending = sending;
            if end.await.is_ok() {
                pending::<()>().await;
            }
        };
        (Self { ended, left }, Deadline::silent(Box::pin(broken)))
    }

    /// Waits until the stream is no longer sent: its end was said, or the client has reset it.
    async fn left(&mut self) {
        let _left = (&mut self.left).await;
    }

    /// Resets the stream, if not all was said.
    async fn cut(self, whole: bool) {
        let Self { ended, left } = self;
        if whole {
            let _left = ended.send(());
            return;
        }
        drop(ended);
        if !left.is_terminated() {
            let _left = left.await;
        }
    }
}

/// Carries bytes until both directions have ended; fails with who broke off. The client of a `stream` of
/// HTTP/2 breaks off when it resets that before its end was said.
async fn carry<C, E>(
    client: C,
    endpoint: E,
    (received, sent): (&Meter, &Meter),
    stream: Option<&mut Tie>,
) -> Result<(), Flag>
where
    C: AsyncRead + AsyncWrite,
    E: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = split(client);
    let (mut from_endpoint, mut to_endpoint) = split(endpoint);
    let (left, broke) =
        (Flag::DownstreamConnectionTermination, Flag::UpstreamConnectionTermination);
    let there = pump(&mut from_client, &mut to_endpoint, received);
    let back = pump(&mut from_endpoint, &mut to_client, sent);
    let there = async { there.await.map_err(|side| side.flag(left, broke)) };
    let back = async {
        let Some(stream) = stream else {
            return back.await.map(|_| ()).map_err(|side| side.flag(broke, left));
        };
        tokio::select! {
            // Its end is the stream's, too.
            biased;
            ended = back => match ended {
                Ok(true) => Ok(()),
                Ok(false) => Err(left),
                Err(side) => Err(side.flag(broke, left)),
            },
            () = stream.left() => Err(left),
        }
    };
    tokio::try_join!(there, back).map(|_| ())
}

/// Which end of a direction broke.
enum Side {
    Source,
    Sink,
}

impl Side {
    fn flag(self, source: Flag, sink: Flag) -> Flag {
        match self {
            Self::Source => source,
            Self::Sink => sink,
        }
    }
}

/// Carries one direction to its end, and says the end. Whether that was heard: who is gone altogether
/// when the other is done may be no loss.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
) -> Result<bool, Side> {
    let mut bytes = BytesMut::with_capacity(MOST_READ);
    loop {
        bytes.clear();
        if from.read_buf(&mut bytes).await.map_err(|_| Side::Source)? == 0 {
            return Ok(to.shutdown().await.is_ok());
        }
        to.write_all(&bytes).await.map_err(|_| Side::Sink)?;
        to.flush().await.map_err(|_| Side::Sink)?;
        meter.add(bytes.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// Says `text` and the end.
    async fn say(into: &mut (impl AsyncWrite + Unpin), text: &[u8]) {
        into.write_all(text).await.unwrap();
        into.shutdown().await.unwrap();
    }

    async fn hear(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut heard = Vec::new();
        from.read_to_end(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let (mut client, inner) = duplex(64);
        let (mut endpoint, outer) = duplex(64);
        let (received, sent) = (Meter::default(), Meter::default());
        let long = vec![b'a'; 10_000];
        let talking = async {
            say(&mut client, b"all I say").await;
            assert_eq!(hear(&mut endpoint).await, b"all I say");
            let ((), heard) = tokio::join!(say(&mut endpoint, &long), hear(&mut client));
            assert_eq!(heard, long);
        };
        let carried = carry(inner, outer, (&received, &sent), None);
        let (ended, ()) = tokio::join!(carried, talking);
        assert_eq!((ended, received.bytes(), sent.bytes()), (Ok(()), 9, 10_000));
    }
}
