//! Shell: our sessions with rustls' own at the other end.
use std::{sync::Arc, time::Duration};

use std::pin::Pin;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{
    clock,
    hbone::handshake,
    identity::{Credentials, ca::LocalCa},
};

/// Sizes around what a record, a read and a buffer hold.
const SIZES: [usize; 9] = [1, 100, 16_383, 16_384, 16_385, 70_000, 131_072, 300_000, 1];

/// A session as a byte stream.
struct Stream {
    session: Session,
    pieces: Vec<Bytes>,
    ended: bool,
}

impl From<Session> for Stream {
    fn from(session: Session) -> Self {
        Self { session, pieces: Vec::new(), ended: false }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Session { socket, receiver, sender, .. } = &mut this.session;
        while this.pieces.is_empty() && !this.ended {
            this.ended = receiver.open(&mut this.pieces, |requested| sender.renew(requested))?;
            if this.pieces.is_empty()
                && !this.ended
                && !ready!(receiver.poll_fill(socket, context))?
            {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        if let Some(piece) = this.pieces.first_mut() {
            buffer.put_slice(&piece.split_to(piece.len().min(buffer.remaining())));
            if piece.is_empty() {
                this.pieces.remove(0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.session.sender.unsent() > MOST_UNSENT {
            ready!(self.as_mut().poll_flush(context))?;
        }
        self.session.sender.seal_all(bytes).map_err(bad)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Session { socket, sender, .. } = &mut self.session;
        while let Some(mut bytes) = sender.take() {
            ready!(socket.poll_write_ready(context))?;
            send(socket, &mut bytes)?;
            sender.give_back(bytes);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.sender.say_goodbye().map_err(bad)?;
        self.as_mut().poll_flush(context)?.map(Ok)
    }
}

async fn connect(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<Stream> {
    handshake::connect(socket, config).await.map(Stream::from)
}

async fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Stream> {
    handshake::accept(socket, config).await.map(Stream::from)
}

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let folder = std::env::temp_dir().join(format!("culvert-secure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let now = clock::wall();
    let hour = Duration::from_secs(3600);
    let ca = LocalCa::open(&folder.join("ca.pem"), "cluster.local", hour, now).unwrap();
    let identity = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    let credentials = Credentials::new(ca.issue(&identity, now).unwrap()).unwrap();
    (credentials.client.clone(), credentials.server.clone())
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Says each size one way and hears it back.
async fn talk(near: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    for size in SIZES {
        let said = pattern(size);
        near.write_all(&said).await.unwrap();
        near.flush().await.unwrap();
        let mut heard = vec![0; size];
        near.read_exact(&mut heard).await.unwrap();
        assert!(heard == said, "{size} bytes came back as others");
    }
}

/// Says everything back, until the end.
async fn echo(mut far: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 100_000];
    loop {
        let read = far.read(&mut buffer).await?;
        if read == 0 {
            return far.shutdown().await;
        }
        far.write_all(&buffer[..read]).await?;
        far.flush().await?;
    }
}

#[tokio::test]
async fn our_client_and_rustls_as_the_server_understand_each_other() {
    let ((client, server), (near, far)) = (configs(), sockets().await);
    let theirs =
        async { echo(TlsAcceptor::from(server).accept(far).await.unwrap()).await.unwrap() };
    let ours = async {
        let mut near = connect(near, client).await.unwrap();
        assert!(near.session.peer.is_some());
        talk(&mut near).await;
        near.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0, "the peer says goodbye too");
    };
    tokio::join!(theirs, ours);
}

#[tokio::test]
async fn rustls_as_the_client_and_our_server_understand_each_other() {
    let ((client, server), (near, far)) = (configs(), sockets().await);
    let ours = async { echo(accept(far, server).await.unwrap()).await.unwrap() };
    let theirs = async {
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let mut near = TlsConnector::from(client).connect(name, near).await.unwrap();
        talk(&mut near).await;
        // It asks for new keys as it gives new ones, several times before we answer.
        for _ in 0..3 {
            near.get_mut().1.refresh_traffic_keys().unwrap();
            near.get_mut().1.refresh_traffic_keys().unwrap();
            talk(&mut near).await;
        }
        near.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    };
    tokio::join!(ours, theirs);
}

#[tokio::test]
async fn keys_are_renewed_before_they_are_worn_out() {
    let ((client, server), (near, far)) = (configs(), sockets().await);
    let theirs =
        async { echo(TlsAcceptor::from(server).accept(far).await.unwrap()).await.unwrap() };
    let ours = async {
        let mut near = connect(near, client).await.unwrap();
        near.session.sender.most_records = 3;
        talk(&mut near).await;
        assert!(near.session.sender.key.sequence() <= 3, "the key was not renewed");
        near.shutdown().await.unwrap();
    };
    tokio::join!(theirs, ours);
}

#[tokio::test]
async fn an_end_without_a_goodbye_is_no_end() {
    let ((client, server), (near, far)) = (configs(), sockets().await);
    let (near, far) = tokio::join!(connect(near, client), accept(far, server));
    let (near, mut far) = (near.unwrap(), far.unwrap());
    drop(near);
    let error = far.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// Passes everything on, except that it damages a record of a thousand bytes.
async fn damage(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; 65_536];
    loop {
        let read = from.read(&mut buffer).await.unwrap();
        let damaged = read == 5 + 1_000 + 17;
        buffer[read.saturating_sub(1)] ^= u8::from(damaged);
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_the_session() {
    let ((client, server), (near, relay_near)) = (configs(), sockets().await);
    let (relay_far, far) = sockets().await;
    let tamper = async move {
        let (from, mut back) = relay_near.into_split();
        let (mut other, to) = relay_far.into_split();
        let forth = damage(from, to);
        tokio::join!(forth, async { tokio::io::copy(&mut other, &mut back).await.ok() });
    };
    let ours = async {
        let (near, far) = tokio::join!(connect(near, client), accept(far, server));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        near.write_all(&pattern(1_000)).await.unwrap();
        near.flush().await.unwrap();
        let error = far.read(&mut [0; 2_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    };
    tokio::select! {
        () = ours => {}
        () = tamper => {}
    }
}

/// Whatever a peer says before there is a session, it gets an error and no more.
#[tokio::test]
async fn no_handshake_panics() {
    let (client, server) = configs();
    // What a genuine client says first, to be damaged in each place.
    let (near, mut far) = sockets().await;
    let mut hello = vec![0; 2_000];
    let heard = async {
        let length = far.read(&mut hello).await.unwrap();
        drop(far);
        length
    };
    let (asked, length) = tokio::join!(connect(near, client.clone()), heard);
    asked.map(|_| ()).unwrap_err();
    hello.truncate(length);
    let damaged = |at: usize| {
        let mut hello = hello.clone();
        hello[at] ^= 0x41;
        hello
    };
    let garbage = [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![22; 300], vec![0; 300], vec![255; 300]];
    for said in (0..length).map(damaged).chain(garbage) {
        let (mut near, far) = sockets().await;
        near.write_all(&said).await.unwrap();
        near.shutdown().await.unwrap();
        let _ = accept(far, server.clone()).await.map(|_| ()).unwrap_err();
        let (near, mut far) = sockets().await;
        far.write_all(&said).await.unwrap();
        far.shutdown().await.unwrap();
        let _ = connect(near, client.clone()).await.map(|_| ()).unwrap_err();
    }
}

/// A server's answers, damaged in each place.
#[tokio::test]
async fn no_answer_panics() {
    let (client, server) = configs();
    for at in (0..800).step_by(7) {
        let (near, relay_near) = sockets().await;
        let (relay_far, far) = sockets().await;
        let relay = async move {
            let (mut from, mut back) = relay_near.into_split();
            let (mut other, mut to) = relay_far.into_split();
            let forth = tokio::io::copy(&mut from, &mut to);
            tokio::join!(forth, flip(&mut other, &mut back, at)).1
        };
        let both = async {
            // A damaged length makes one side wait for more, as long as its caller lets it.
            let patience = Duration::from_millis(200);
            let (near, far) = tokio::join!(
                tokio::time::timeout(patience, connect(near, client.clone())),
                tokio::time::timeout(patience, accept(far, server.clone()))
            );
            let agreed = matches!((near, far), (Ok(Ok(_)), Ok(Ok(_))));
            assert!(!agreed, "byte {at} does not matter");
        };
        tokio::select! {
            () = both => {}
            () = relay => {}
        }
    }
}

/// Passes everything on, with one byte damaged.
async fn flip(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), at: usize) {
    let (mut buffer, mut passed) = (vec![0; 4_096], 0);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if (passed..passed + read).contains(&at) {
            buffer[at - passed] ^= 0x41;
        }
        passed += read;
        let _ = to.write_all(&buffer[..read]).await;
    }
    let _ = to.shutdown().await;
}
