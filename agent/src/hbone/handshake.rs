//! Shell: the TLS 1.3 handshake, by rustls, over a socket; what it agrees on goes to `secure`.
//! Never: decides who may be there: that is the verifier's, in the configurations.
use std::{io, sync::Arc};

use bytes::BytesMut;
use rustls::{
    ClientConfig, Error, ExtractedSecrets, ServerConfig,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::secure::{Session, Updates};

/// The most that a handshake may make us keep, bytes: certificates are its bulk.
const LONGEST: usize = 256 << 10;

/// Shakes hands as the client. The name is not sent: peers are known by their identity.
///
/// # Errors
/// When there is no agreement; the peer is told why.
pub(super) async fn connect(
    mut socket: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<Session> {
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let mut session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    let rest = shake(&mut socket, &mut session).await?;
    let peer = first(session.peer_certificates());
    let (secrets, updates) = session.dangerous_into_kernel_connection().map_err(invalid)?;
    finish(socket, rest, (secrets, Updates::Client(updates)), peer)
}

/// Shakes hands as the server.
///
/// # Errors
/// When there is no agreement; the peer is told why.
pub(super) async fn accept(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
) -> io::Result<Session> {
    let mut session = UnbufferedServerConnection::new(config).map_err(invalid)?;
    let rest = shake(&mut socket, &mut session).await?;
    let peer = first(session.peer_certificates());
    let (secrets, updates) = session.dangerous_into_kernel_connection().map_err(invalid)?;
    finish(socket, rest, (secrets, Updates::Server(updates)), peer)
}

fn first(chain: Option<&[CertificateDer<'static>]>) -> Option<CertificateDer<'static>> {
    chain.and_then(<[_]>::first).cloned()
}

fn finish(
    socket: TcpStream,
    rest: Rest,
    (secrets, updates): (ExtractedSecrets, Updates),
    peer: Option<CertificateDer<'static>>,
) -> io::Result<Session> {
    Session::new(socket, rest, (secrets, updates), peer).map_err(io::Error::other)
}

/// What came behind the handshake already.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Still sealed.
    pub(super) wire: BytesMut,
    /// Opened by rustls.
    pub(super) plain: BytesMut,
}

/// What is to be done next.
enum Next {
    Again,
    Send,
    Read,
    Done,
}

/// The two kinds of sessions.
trait Shaking {
    /// One step of the handshake, and how much of `incoming` it has used up.
    fn step(&mut self, incoming: &mut [u8], buffers: Buffers<'_>) -> (usize, Result<Next, Error>);
}

/// Where a step puts what it makes.
struct Buffers<'a> {
    outgoing: &'a mut Vec<u8>,
    plain: &'a mut BytesMut,
}

impl Shaking for UnbufferedClientConnection {
    fn step(&mut self, incoming: &mut [u8], buffers: Buffers<'_>) -> (usize, Result<Next, Error>) {
        step(self.process_tls_records(incoming), buffers)
    }
}

impl Shaking for UnbufferedServerConnection {
    fn step(&mut self, incoming: &mut [u8], buffers: Buffers<'_>) -> (usize, Result<Next, Error>) {
        step(self.process_tls_records(incoming), buffers)
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    buffers: Buffers<'_>,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let next = state.and_then(|state| match state {
        ConnectionState::EncodeTlsData(mut message) => {
            encode(buffers.outgoing, |room| message.encode(room))?;
            Ok(Next::Again)
        }
        ConnectionState::TransmitTlsData(message) => {
            message.done();
            Ok(Next::Send)
        }
        ConnectionState::BlockedHandshake => Ok(Next::Read),
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                buffers.plain.extend_from_slice(record?.payload);
            }
            Ok(Next::Again)
        }
        ConnectionState::WriteTraffic(_) => Ok(Next::Done),
        ConnectionState::PeerClosed
        | ConnectionState::Closed
        | ConnectionState::ReadEarlyData(_)
        | _ => Err(Error::HandshakeNotComplete),
    });
    (discard, next)
}

/// Appends what `encode` writes.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let used = outgoing.len();
    loop {
        match encode(&mut outgoing[used..]) {
            Ok(written) => {
                outgoing.truncate(used + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => {
                outgoing.resize(used + size.required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => return Err(Error::HandshakeNotComplete),
        }
    }
}

async fn shake(socket: &mut TcpStream, session: &mut impl Shaking) -> io::Result<Rest> {
    let (mut rest, mut outgoing) = (Rest::default(), Vec::new());
    loop {
        let buffers = Buffers { outgoing: &mut outgoing, plain: &mut rest.plain };
        let (discard, next) = session.step(&mut rest.wire, buffers);
        let _ = rest.wire.split_to(discard);
        match next {
            Ok(Next::Again) => {}
            Ok(Next::Done) if outgoing.is_empty() => return Ok(rest),
            Ok(Next::Send | Next::Done) => {
                socket.write_all(&outgoing).await?;
                outgoing.clear();
            }
            Ok(Next::Read) => read(socket, &mut rest.wire).await?,
            Err(error) => {
                tell(socket, session, rest.wire, outgoing).await;
                return Err(invalid(error));
            }
        }
    }
}

async fn read(socket: &mut TcpStream, wire: &mut BytesMut) -> io::Result<()> {
    if wire.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long"));
    }
    wire.reserve(4 << 10);
    match socket.read_buf(wire).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")),
        _ => Ok(()),
    }
}

/// Sends the alert that says what went wrong, if the peer still listens. One step gives it; a second
/// one would have rustls look at the damage again.
async fn tell(
    socket: &mut TcpStream,
    session: &mut impl Shaking,
    mut wire: BytesMut,
    mut outgoing: Vec<u8>,
) {
    let mut plain = BytesMut::new();
    let buffers = Buffers { outgoing: &mut outgoing, plain: &mut plain };
    let _ = session.step(&mut wire, buffers);
    let _ = socket.write_all(&outgoing).await;
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
