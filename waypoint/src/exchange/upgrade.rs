//! Shell: what follows an agreed upgrade: bytes both ways until both sides are done.
//! Never: a deadline, but for what carries nothing for long.
use std::io;

use bytes::BytesMut;
use culvert_agent::drain::Drain;
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::respond::{self, ResponseBody};
use crate::{
    body::Meter,
    listener::idle::{IDLE, idle},
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
    let answer = respond::switch(head, &mut record);
    drain.spawn(async move {
        // All of them, so that they end here.
        let (mut record, _place, _taken) = (record, place, taken);
        let Some(endpoint) = endpoint else { return };
        let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) else { return };
        let (received, sent) = (record.received.clone(), record.sent.clone());
        let moved = || received.bytes().wrapping_add(sent.bytes());
        tokio::select! {
            ended = carry(TokioIo::new(client), TokioIo::new(endpoint), (&received, &sent)) => {
                match ended {
                    Ok(()) => record.whole = true,
                    Err(flag) => record.flags.add(flag),
                }
            }
            () = idle(moved, IDLE) => record.idled(),
        }
    });
    answer
}

/// Carries bytes until both directions have ended; fails with who broke off.
async fn carry<C, E>(client: C, endpoint: E, (received, sent): (&Meter, &Meter)) -> Result<(), Flag>
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
    let back = async { back.await.map_err(|side| side.flag(broke, left)) };
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

/// Carries one direction to its end, and says the end.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
) -> Result<(), Side> {
    let mut bytes = BytesMut::with_capacity(MOST_READ);
    loop {
        bytes.clear();
        if from.read_buf(&mut bytes).await.map_err(|_| Side::Source)? == 0 {
            // Who is gone altogether when the other is done is no loss.
            let _: io::Result<()> = to.shutdown().await;
            return Ok(());
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
        let (ended, ()) = tokio::join!(carry(inner, outer, (&received, &sent)), talking);
        assert_eq!((ended, received.bytes(), sent.bytes()), (Ok(()), 9, 10_000));
    }
}
