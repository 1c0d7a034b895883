//! Story: a tunnel whose bytes nobody looks at, beyond the name that a TLS client asks for.
//! Never: HTTP.
use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_agent::relay::{Counters, Ended, relay};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Entrance, SILENCE, whole_guess};
use crate::{
    balance::{Permit, Ticket, Traffic, Wish, key},
    exchange::{Port, asked::client},
    listener::{
        Opening, TunnelStream, Version,
        hello::{self, Hello},
        idle::{IDLE, idle},
        serve::HEAD_TIMEOUT,
        sniff::{Guess, is_http_server},
    },
    mesh::Picked,
    outcome::{Failure, Flag, LocalReply, Outcome},
    record::{Record, Session},
    routing::{self, Missing, Protocol, Target, find_stream},
    upstream::{Opened, Secured},
};

/// Bytes of a server that say whether it speaks HTTP: the head of a frame (RFC 9113 §4.1).
const FIRST_OF_SERVER: usize = 9;
/// Pause before another look at a server that has said less.
const HALF_SAID: Duration = Duration::from_millis(5);

impl Entrance {
    /// A client of TLS: its rule may depend on the name that it asks for.
    pub(super) async fn tls(self, mut opening: Opening, port: Port, mut session: Session) {
        let port = Port { protocol: Protocol::Tls, ..port };
        let name = timeout(HEAD_TIMEOUT, server_name(&mut opening)).await.unwrap_or(None);
        session.server_name = name.map(Arc::from);
        Box::pin(self.opaque(opening, port, session)).await;
    }

    /// Carries bytes to the endpoint that the rules choose.
    pub(super) async fn opaque(self, opening: Opening, port: Port, session: Session) {
        let session = Arc::new(session);
        let mut record = Record::open(&self.exchange.telemetry, &session);
        let chosen = self.choose(&port, &session, &mut record);
        let opened = match chosen {
            Ok(picked) => {
                let opened = self.open(picked).await;
                opened.map_err(|failure| LocalReply::failed(&failure))
            }
            Err(reply) => Err(reply),
        };
        match opened {
            Ok(server) => Box::pin(carry(opening, server, record)).await,
            Err(reply) => {
                record.replied(&reply);
                opening.abort();
            }
        }
    }

    /// A client that has said nothing: its server may speak first, so it is dialled. Whoever speaks
    /// first says what is spoken, and a client that speaks HTTP after all is subject to the rules.
    pub(super) async fn silent(self, mut opening: Opening, port: Port, session: Session) {
        let session = Arc::new(session);
        let mut record = Record::open(&self.exchange.telemetry, &session);
        let Ok(picked) = self.choose(&port, &session, &mut record) else {
            record.forget();
            return Box::pin(self.late(opening, port, session)).await;
        };
        let Ok(mut server) = self.open(picked).await else {
            record.forget();
            return Box::pin(self.late(opening, port, session)).await;
        };
        tokio::select! {
            _ = opening.more() => {}
            is_http = server.speaks() => if !is_http {
                return Box::pin(carry(opening, server, record)).await;
            },
        }
        // A server that begins with HTTP says nothing of its client, who has to say what it speaks.
        if !has_spoken(&mut opening).await {
            record.forget();
            return opening.abort();
        }
        match whole_guess(&mut opening).await {
            Guess::Opaque | Guess::More => Box::pin(carry(opening, server, record)).await,
            Guess::Http1 | Guess::Http2 | Guess::Tls => {
                record.forget();
                // Another one is asked, by the rules; this one's place is free.
                drop(server);
                Box::pin(self.late(opening, port, session)).await;
            }
        }
    }

    /// A client that spoke late.
    async fn late(self, mut opening: Opening, port: Port, session: Arc<Session>) {
        let session = Arc::unwrap_or_clone(session);
        if !has_spoken(&mut opening).await {
            return opening.abort();
        }
        match whole_guess(&mut opening).await {
            Guess::Http1 => self.requests(opening, (port, Version::Http1), session).await,
            Guess::Http2 => self.requests(opening, (port, Version::Http2), session).await,
            Guess::Tls => Box::pin(self.tls(opening, port, session)).await,
            Guess::Opaque | Guess::More => self.opaque(opening, port, session).await,
        }
    }

    /// A connection to whoever was picked, which hears how that went.
    async fn open(&self, picked: Picked) -> Result<Server, Failure> {
        let Picked { to, ticket } = picked;
        let opened = self.exchange.upstream.open(&to, &ticket).await;
        ticket.report(&match &opened {
            Ok(_) => Outcome::Opened,
            Err(failure) => Outcome::unsent(failure.clone()),
        });
        let (opened, permit) = opened?;
        let stream = match opened {
            Opened::Tunnel(tunnel) => Stream::Tunnel(Opening::from(tunnel)),
            Opened::Plain(stream) => Stream::Plain(stream),
            Opened::SecuredTunnel(secured) => Stream::SecuredTunnel(secured),
            Opened::Secured(secured) => Stream::Secured(secured),
        };
        Ok(Server { stream, held: (permit, ticket) })
    }

    /// The endpoint that the rules choose.
    fn choose(
        &self,
        port: &Port,
        session: &Session,
        record: &mut Record,
    ) -> Result<Picked, LocalReply> {
        let mesh = self.mesh.borrow().clone();
        mesh.may(session.service.as_deref(), &session.judged())?;
        let default = port.default_routes();
        let routes = mesh.table.port(&port.host, port.number).unwrap_or(&default);
        let nobodys = std::collections::BTreeMap::new();
        let opening = match port.protocol {
            Protocol::Tls => routing::Opening::Tls(session.server_name.as_deref()),
            Protocol::Http
            | Protocol::Http2
            | Protocol::Grpc
            | Protocol::Tcp
            | Protocol::Unknown => routing::Opening::Other,
        };
        let route = find_stream(routes, opening, &client(session, &nobodys));
        let route = route.ok_or_else(LocalReply::no_route)?;
        let destination = route.destinations.draw(rand::random());
        let destination = destination.ok_or_else(LocalReply::no_backend)?;
        let reference = match &destination.target {
            Target::Backend(reference) => reference,
            Target::Missing(Missing::Cluster(_) | Missing::Backend(_)) => {
                return Err(LocalReply::no_cluster());
            }
        };
        record.backend = Some(reference.clone());
        let (reach, backend) = mesh.reach(reference, session.dialled)?;
        let (key, client) = (&backend.policy.load_balancer.algorithm, session.client.ip());
        let wish = Wish { key: key::of_connection(key, client), ..Wish::default() };
        let balance = (&self.exchange.balance, Traffic::Tcp);
        let picked = mesh.pick(balance, (&reach, &backend), session.dialled, &wish)?;
        record.destination.clone_from(&picked.to.workload);
        record.endpoint = Some(picked.to.at);
        Ok(picked)
    }
}

/// Waits until a client speaks; `false` when it ends instead, or is silent for long.
async fn has_spoken(opening: &mut Opening) -> bool {
    !opening.first().is_empty() || matches!(timeout(IDLE, opening.more()).await, Ok(Ok(true)))
}

/// The name that a client of TLS asks for, if it does.
async fn server_name(opening: &mut Opening) -> Option<String> {
    loop {
        match hello::server_name(opening.first()) {
            Hello::Name(name) => return name,
            Hello::Unknown => return None,
            Hello::More => {}
        }
        if !matches!(opening.more().await, Ok(true)) {
            return None;
        }
    }
}

/// A connection to an endpoint that may speak first.
struct Server {
    stream: Stream,
    /// What is taken as long as it is open.
    held: (Permit, Ticket),
}

enum Stream {
    Tunnel(Opening),
    Plain(TcpStream),
    SecuredTunnel(Box<Secured<TunnelStream>>),
    Secured(Box<Secured<TcpStream>>),
}

impl Server {
    /// Waits until it does, or ends. Says whether what it begins with is HTTP's.
    async fn speaks(&mut self) -> bool {
        if let Some(is_http) = self.more().await {
            return is_http;
        }
        timeout(SILENCE, self.rest()).await.unwrap_or(false)
    }

    /// Looks again, until it can be said.
    async fn rest(&mut self) -> bool {
        loop {
            sleep(HALF_SAID).await;
            if let Some(is_http) = self.more().await {
                return is_http;
            }
        }
    }

    /// What it begins with, if that can be said yet. How it ended, the relay finds out.
    async fn more(&mut self) -> Option<bool> {
        match &mut self.stream {
            Stream::Tunnel(opening) => match opening.more().await {
                Ok(true) => is_http_server(opening.first()),
                Ok(false) | Err(_) => Some(false),
            },
            Stream::Plain(stream) => {
                let mut first = [0; FIRST_OF_SERVER];
                match stream.peek(&mut first).await {
                    Ok(0) | Err(_) => Some(false),
                    Ok(length) => is_http_server(&first[..length]),
                }
            }
            Stream::SecuredTunnel(secured) => more(secured).await,
            Stream::Secured(secured) => more(secured).await,
        }
    }
}

async fn more<T: AsyncRead + AsyncWrite + Unpin>(secured: &mut Secured<T>) -> Option<bool> {
    match secured.more().await {
        Ok(true) => is_http_server(secured.first()),
        Ok(false) | Err(_) => Some(false),
    }
}

/// Why we end a connection ourselves.
enum Over {
    Idle,
    Old,
}

/// Carries bytes both ways until both sides are done, or the connection has been idle for too long or is
/// as old as it may become.
async fn carry(client: Opening, server: Server, mut record: Record) {
    record.opened();
    let Server { stream, held } = server;
    let policy = held.1.policy().clone();
    let pool = &policy.connection_pool;
    let carried = Carried { counters: Counters::default(), record: &mut record };
    let Counters { sent, received } = &carried.counters;
    let moved = || sent.load(Ordering::Relaxed).wrapping_add(received.load(Ordering::Relaxed));
    let relayed = async {
        match stream {
            Stream::Tunnel(server) => relay(client, server, &carried.counters).await,
            Stream::Plain(server) => relay(client, server, &carried.counters).await,
            Stream::SecuredTunnel(server) => relay(client, *server, &carried.counters).await,
            Stream::Secured(server) => relay(client, *server, &carried.counters).await,
        }
    };
    let ended = tokio::select! {
        ended = relayed => Ok(ended),
        () = still(moved, pool.tcp_idle_timeout) => Err(Over::Idle),
        () = age(pool.max_connection_duration) => Err(Over::Old),
    };
    drop(carried);
    match ended {
        Ok(Ended::Finished) => record.whole = true,
        Ok(Ended::ResetByClient) => record.flags.add(Flag::DownstreamConnectionTermination),
        Ok(Ended::ResetByServer) => record.flags.add(Flag::UpstreamConnectionTermination),
        Err(Over::Idle) => record.idled(),
        Err(Over::Old) => record.flags.add(Flag::DurationTimeout),
    }
}

/// Over when nothing has moved for this long.
async fn still(moved: impl Fn() -> u64, most: Option<Duration>) {
    match most {
        Some(most) => idle(moved, most).await,
        None => pending().await,
    }
}

async fn age(most: Option<Duration>) {
    match most {
        Some(most) => tokio::time::sleep(most).await,
        None => pending().await,
    }
}

/// The record has the bytes also when the relay is dropped where it stands.
struct Carried<'a> {
    counters: Counters,
    record: &'a mut Record,
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.record.received.add(self.counters.sent.load(Ordering::Relaxed));
        self.record.sent.add(self.counters.received.load(Ordering::Relaxed));
    }
}
