//! Shell: a pod of the service: its agent's tunnels, and an application that says its version.
//! Never: more than it takes: the same is behind every plane, and is not measured.
use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use culvert_agent::{
    drain::Drain,
    hbone::{
        Baggage,
        server::{self, Incoming},
    },
};
use culvert_waypoint::listener::TunnelStream;
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{ACCOUNT, BODY, VERSION, credentials, http1, rules::Http};

/// Who it is, and where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file of the certificate authority.
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    version: String,
    /// Where it takes tunnels.
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<()> {
    let credentials = Arc::new(credentials(&arguments.ca, ACCOUNT)?);
    let listener = TcpListener::bind(arguments.listen).await?;
    let drain = Drain::default();
    let version: Arc<str> = arguments.version.as_str().into();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (credentials, version, owner) = (credentials.clone(), version.clone(), drain.clone());
        drain.spawn(async move {
            // A connection that breaks is the waypoint's affair.
            let on_connect = |incoming| owner.spawn(answered(incoming, version.clone()));
            drop(Box::pin(server::serve(stream, &credentials, &owner, on_connect)).await);
        });
    }
}

async fn answered(incoming: Incoming, version: Arc<str>) {
    drop(answer(incoming, &version).await);
}

async fn answer(incoming: Incoming, version: &str) -> Result<()> {
    let port = incoming.head.as_ref().map(|head| head.authority.port).unwrap_or_default();
    let stream = TunnelStream::from(incoming.accept(&Baggage::default())?);
    if port == Http::Two.target() {
        return http2(stream, version).await;
    }
    http1(stream, version).await
}

async fn http1(mut stream: TunnelStream, version: &str) -> Result<()> {
    let body = "b".repeat(BODY);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{VERSION}: {version}\r\ncontent-length: {BODY}\r\n\r\n{body}"
    );
    let mut buffer = BytesMut::new();
    loop {
        while let Some(end) = http1::end(&buffer) {
            ensure!(buffer.starts_with(b"GET "), "only GET is asked here");
            buffer.advance(end);
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(stream.shutdown().await?);
        }
    }
}

async fn http2(stream: TunnelStream, version: &str) -> Result<()> {
    let body = Bytes::from("b".repeat(BODY));
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(asked) = connection.accept().await {
        let (_, mut respond) = asked?;
        let head = Response::builder().header("content-type", "text/plain");
        let head = head.header(VERSION, version).header("content-length", BODY).body(())?;
        respond.send_response(head, false)?.send_data(body.clone(), true)?;
    }
    Ok(())
}
