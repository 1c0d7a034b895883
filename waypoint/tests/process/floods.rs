//! Shell: clients of HTTP/2 that ask without listening, begin without ending, or take nothing.
use std::{sync::Arc, time::Duration};

use culvert_agent::hbone::PING_INTERVAL;
use culvert_waypoint::listener::{TunnelStream, serve::HEAD_TIMEOUT};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::{
    hostile::{frame, head, preface},
    lab::{CART, Lab},
    rules::http,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of frames that nobody hears the answers to, bytes that may be taken: the windows of the tunnel, twice,
/// and what lies between them.
const MOST_TAKEN: usize = 24 << 20;
/// Nothing more is taken when nothing was for so long.
const STANDSTILL: Duration = Duration::from_secs(2);
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What comes: kind, flags, stream and payload.
type Heard = (u8, u8, u32, Vec<u8>);

/// The next frame; `None` at the end.
pub(crate) async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<Heard> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes([s0, s1, s2, s3]), payload))
}

/// Hears frames until one is such; `None` when the end comes before it.
async fn hear(
    stream: &mut (impl AsyncRead + Unpin),
    mut is_such: impl FnMut(&Heard) -> bool,
) -> Option<Heard> {
    loop {
        let heard = next(stream).await?;
        if is_such(&heard) {
            return Some(heard);
        }
    }
}

pub(crate) async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.expect("said");
    stream.flush().await.expect("said");
}

/// A connection to the waypoint, of the other agent, which speaks no HTTP/2 yet.
async fn session(lab: &Lab) -> TlsStream<TcpStream> {
    let credentials = lab.credentials("spiffe://cluster.local/ns/shop/sa/web");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((lab.address(100), 0).into()).expect("an address");
    let tcp = socket.connect(lab.waypoint()).await.expect("a connection");
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&credentials.client));
    connector.connect("waypoint".try_into().expect("a name"), tcp).await.expect("a session")
}

#[tokio::test]
async fn who_asks_and_does_not_listen_waits_and_is_answered_later() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    // CVE-2019-9512 and CVE-2019-9515.
    for (what, kind, asks) in
        [("PING", 6, frame(6, 0, 0, &[7; 8])), ("SETTINGS", 4, frame(4, 0, 0, &[]))]
    {
        let (mut read, mut write) = split(lab.client().stream((CART, 80)).await);
        say(&mut write, &preface()).await;
        let many = asks.repeat(1_000);
        let mut taken = 0;
        while let Ok(Ok(bytes)) =
            timeout(STANDSTILL, write.write(&many[taken % asks.len()..])).await
        {
            taken += bytes;
            assert!(taken < MOST_TAKEN, "{what}: no end");
        }
        assert_eq!(lab.client().get((CART, 80), "/").await.status, 200, "{what}");
        // The preface has SETTINGS, too.
        let expected = taken.div_ceil(asks.len()) + usize::from(kind == 4);
        let rest = asks[taken % asks.len()..].repeat(usize::from(taken % asks.len() > 0));
        let mut answered = 0;
        let all = hear(&mut read, |(heard, flags, ..)| {
            answered += usize::from(*heard == kind && *flags == 1);
            answered == expected
        });
        let both = async { tokio::join!(say(&mut write, &rest), all).1 };
        let all = timeout(PATIENCE, both).await.ok().flatten();
        assert!(all.is_some(), "{what}: unanswered");
    }
}

#[tokio::test]
async fn a_flood_of_questions_ends_the_connection_of_an_agent() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    for (what, asks) in [("PING", frame(6, 0, 0, &[7; 8])), ("SETTINGS", frame(4, 0, 0, &[]))] {
        let mut session = session(&lab).await;
        // The other side may be gone before all of it is said.
        let _ = session.write_all(&[preface(), asks.repeat(10_000)].concat()).await;
        let _ = session.flush().await;
        let told = hear(&mut session, |(kind, ..)| *kind == GOAWAY);
        let told = timeout(PATIENCE, told).await.expect("an end");
        let (.., payload) = told.unwrap_or_else(|| panic!("{what}: not told why"));
        assert_eq!(payload.get(4..8), Some(&ENHANCE_YOUR_CALM.to_be_bytes()[..]), "{what}");
        assert_eq!(lab.client().get((CART, 80), "/").await.status, 200, "{what}");
    }
}

/// Says something, and waits for the end.
async fn given_up(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &[u8], within: Duration) {
    say(&mut stream, said).await;
    let ended = async { while next(&mut stream).await.is_some() {} };
    timeout(within, ended).await.unwrap_or_else(|_| panic!("waited for: {said:?}"));
}

#[tokio::test]
async fn what_is_begun_in_http2_and_not_ended_is_given_up_and_a_silent_connection_is_not() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let (begun, part) = (frame(1, 0x1, 1, &head()), frame(6, 0, 0, &[7; 8]));
    let whole = frame(1, 0x5, 1, &head());
    let mut idle = client.stream((CART, 80)).await;
    say(&mut idle, &[preface(), whole].concat()).await;
    // The preface without SETTINGS, headers without an end, a part of a frame.
    let of_nothing = preface();
    let of_head = [preface(), begun].concat();
    let of_frame = [preface(), part[..12].to_vec()].concat();
    let late = HEAD_TIMEOUT * 2;
    tokio::join!(
        given_up(client.stream((CART, 80)).await, &of_nothing[..24], late),
        given_up(client.stream((CART, 80)).await, &of_head, late),
        given_up(client.stream((CART, 80)).await, &of_frame, late),
    );
    sleep(Duration::from_secs(2)).await;
    say(&mut idle, &frame(1, 0x5, 3, &head())).await;
    let answered = hear(&mut idle, |(kind, _, stream, _)| (*kind, *stream) == (1, 3));
    assert!(timeout(PATIENCE, answered).await.expect("in time").is_some(), "it was given up, too");
}

#[tokio::test]
async fn an_agent_that_begins_and_does_not_end_is_given_up() {
    let lab = Lab::new("").await;
    let (nothing, begun) = (preface(), [preface(), frame(1, 0, 1, &head())].concat());
    // Whoever is within headers cannot answer either, and is asked three times.
    let silent = PING_INTERVAL * 3 + Duration::from_secs(5);
    tokio::join!(
        given_up(session(&lab).await, &nothing[..24], PING_INTERVAL + Duration::from_secs(5)),
        given_up(session(&lab).await, &begun, silent),
    );
}

#[tokio::test]
async fn a_response_that_its_client_does_not_take_is_cut_in_time() {
    let lab = Lab::new(&http("[{timeout: 1s, route: [{destination: {host: cart}}]}]")).await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let (settings, ask) = (frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), frame(1, 0x5, 1, &head()));
    say(&mut stream, &[&preface()[..24], &settings, &ask].concat()).await;
    let until = async |stream: &mut TunnelStream, wanted: (u8, u32)| {
        let heard = hear(stream, |(kind, _, id, payload)| {
            assert!(*kind != 0 || *id != 1 || payload.is_empty(), "it had no window");
            (*kind, *id) == wanted
        });
        let heard = timeout(Duration::from_secs(10), heard).await.ok().flatten();
        assert!(heard.is_some(), "no {wanted:?}");
    };
    until(&mut stream, (1, 1)).await;
    until(&mut stream, (3, 1)).await;
    lab.line(&["\"GET / HTTP/2\" 200 UT response_timeout"]).await;
    // The stream alone was cut.
    let window = 65_535_u32.to_be_bytes();
    let again = [frame(1, 0x5, 3, &head()), frame(8, 0, 3, &window)].concat();
    say(&mut stream, &again).await;
    until(&mut stream, (0, 3)).await;
    lab.line(&["\"GET / HTTP/2\" 200 - via_upstream"]).await;
}

#[tokio::test]
async fn a_response_that_a_client_of_http1_does_not_take_is_cut_in_time() {
    let lab = Lab::new(&http("[{timeout: 3s, route: [{destination: {host: cart}}]}]")).await;
    let _pod = lab.pod(1, "v1").await;
    let (mut read, mut write) = split(lab.client().stream((CART, 80)).await);
    // The application says it back; no tunnel holds as much.
    let length = 16 << 20;
    let head = format!("POST /large HTTP/1.1\r\nhost: cart\r\ncontent-length: {length}\r\n\r\n");
    say(&mut write, head.as_bytes()).await;
    say(&mut write, &vec![b'a'; length]).await;
    lab.line(&["\"POST /large HTTP/1.1\" 200 UT response_timeout"]).await;
    let mut heard = Vec::new();
    let ended = timeout(PATIENCE, read.read_to_end(&mut heard)).await.expect("an end");
    assert!(ended.is_err() && heard.len() < length, "{ended:?} after {}", heard.len());
}
