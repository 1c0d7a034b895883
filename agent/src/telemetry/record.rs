//! Shell: one connection's story: counters while it lives, one line and the metrics when it drops.
//! Never: blocks.
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    book::Owner,
    labels::TrafficLabels,
    metrics::Telemetry,
    open::{Open, Place},
    reason::Reason,
};
use crate::{
    clock,
    discovery::{Service, Workload},
    flow::Direction,
    hbone::Baggage,
    identity::Identity,
    policy::{Decided, Verdict},
    relay::Counters,
};

/// How the agent reached, or was reached by, the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Without a tunnel.
    #[default]
    Tcp,
    /// Through a tunnel.
    Hbone,
    /// Within one agent: both pods are on its node. Identity and policy are checked as in a tunnel;
    /// nothing is encrypted, because nothing leaves the kernel's memory.
    Direct,
}

impl Protocol {
    /// The word in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Hbone => "hbone",
            Self::Direct => "direct",
        }
    }
}

/// One side of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Party {
    /// From discovery, by address.
    pub workload: Option<Arc<Workload>>,
    /// Proven by a certificate.
    pub identity: Option<Identity>,
    /// What a peer of another network says of itself; used only when discovery knows nothing.
    pub baggage: Option<Box<Baggage>>,
}

/// One connection's story. Dropped, it writes exactly one line.
#[derive(Debug)]
pub struct Record {
    telemetry: Arc<Telemetry>,
    opened_at: Instant,
    direction: Direction,
    source_address: SocketAddr,
    dialled: SocketAddr,
    destination_address: SocketAddr,
    /// Who dialled.
    pub source: Party,
    /// Who was dialled.
    pub destination: Party,
    /// The service that was dialled.
    pub service: Option<Arc<Service>>,
    /// The CONNECT target.
    pub authority: Option<String>,
    /// What policies said; at the client's side nobody asked them.
    pub verdict: Option<Verdict>,
    /// With or without a tunnel.
    pub protocol: Protocol,
    skipped: Vec<String>,
    counters: Arc<Counters>,
    account: Option<Arc<TrafficLabels>>,
    place: Option<Place>,
    end: Option<(Reason, Option<String>)>,
    /// How it ends when nobody says how.
    pub unless_told: Reason,
}

impl Record {
    /// Begins the story of a connection.
    pub fn open(
        telemetry: &Arc<Telemetry>,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        telemetry.connection_begins(direction);
        Self {
            telemetry: telemetry.clone(),
            opened_at: clock::now(),
            direction,
            source_address: source,
            dialled: destination,
            destination_address: destination,
            source: Party::default(),
            destination: Party::default(),
            service: None,
            authority: None,
            verdict: None,
            protocol: Protocol::Tcp,
            skipped: Vec::new(),
            counters: Arc::default(),
            account: None,
            place: None,
            end: None,
            unless_told: Reason::Cancelled,
        }
    }

    /// Who dialled, as the application's socket has it.
    pub fn source_address(&self) -> SocketAddr {
        self.source_address
    }

    /// Where the agent dialled.
    pub fn set_destination_address(&mut self, address: SocketAddr) {
        self.destination_address = address;
    }

    /// The connection is through: all parties are known. Gives the counters for its bytes.
    pub fn opened(&mut self) -> Arc<Counters> {
        let account = self.telemetry.connection_opened(self.labels(), self.owners());
        self.account = Some(account);
        self.place = Some(self.telemetry.open_connections().insert(Open {
            direction: self.direction,
            source: (self.source.workload.clone(), self.source.identity.clone()),
            destination: (self.destination.workload.clone(), self.destination.identity.clone()),
            source_address: self.source_address,
            dialled: self.dialled,
            reached: self.destination_address,
            service: self.service.clone(),
            protocol: self.protocol,
            counters: self.counters.clone(),
            since: self.opened_at,
        }));
        self.counters.clone()
    }

    /// The same, for the other side's record of a connection within one agent.
    pub fn opened_with(&mut self, counters: &Arc<Counters>) {
        self.counters = counters.clone();
        self.opened();
    }

    /// Writes the line of a rule that matches and does not decide: an AUDIT policy's, or one's that is
    /// only tried out.
    pub fn note(&self, decided: &Decided) {
        let (source, destination) = (Names::of(&self.source), Names::of(&self.destination));
        let policy = &decided.policy;
        tracing::info!(
            target: "policy",
            {
            policy = &*policy.name,
            rule = decided.rule,
            declared = %policy.origin,
            action = policy.action.as_str(),
            dry_run = policy.dry_run,
            src.addr = %self.source_address,
            src.workload = source.workload,
            src.namespace = source.namespace,
            src.identity = source.identity,
            dst.addr = %self.destination_address,
            dst.workload = destination.workload,
            dst.namespace = destination.namespace,
            dst.identity = destination.identity,
            },
            "policy matched"
        );
    }

    /// An endpoint could not be reached, and another one is tried.
    pub fn skip(&mut self, endpoint: SocketAddr, reason: Reason) {
        self.skipped.push(format!("{endpoint} {}", reason.as_str()));
    }

    /// Ends the story.
    pub fn end(mut self, reason: Reason, detail: Option<String>) {
        self.end = Some((reason, detail));
    }

    fn labels(&self) -> TrafficLabels {
        TrafficLabels::new(
            self.direction,
            self.protocol,
            (&self.source, &self.destination),
            self.service.as_deref(),
        )
    }

    /// What the series of this connection live with.
    fn owners(&self) -> Vec<Owner> {
        let known =
            [&self.source, &self.destination].into_iter().filter_map(|p| p.workload.as_ref());
        known.map(|known| (known.namespace.clone(), known.workload_name.clone())).collect()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (reason, detail) = self.end.take().unwrap_or_else(|| {
            let why = if self.telemetry.is_draining() { Reason::Drained } else { self.unless_told };
            (why, None)
        });
        let up = self.counters.sent.load(Ordering::Relaxed);
        let down = self.counters.received.load(Ordering::Relaxed);
        self.write(reason, detail.as_deref(), (up, down));
        if let Some(place) = self.place.take() {
            self.telemetry.open_connections().remove(place);
        }
        let account = self.account.take();
        let account = account.unwrap_or_else(|| self.telemetry.enter(self.labels(), self.owners()));
        self.telemetry.connection_ends(self.direction, &account, reason, (up, down));
    }
}

impl Record {
    /// The line of the access log. Absent values are left out. The client's bytes count as sent by
    /// the side that dials, and as received by the side that is dialled.
    fn write(&self, reason: Reason, error: Option<&str>, (up, down): (u64, u64)) {
        let (sent, received) = match self.direction {
            Direction::Outbound => (up, down),
            Direction::Inbound => (down, up),
        };
        let (source, destination) = (Names::of(&self.source), Names::of(&self.destination));
        let duration = clock::now().saturating_duration_since(self.opened_at).as_millis();
        tracing::info!(
            target: "access",
            {
            src.addr = %self.source_address,
            src.workload = source.workload,
            src.namespace = source.namespace,
            src.identity = source.identity,
            dst.addr = %self.destination_address,
            dst.hbone_addr = self.authority,
            dst.service = self.service.as_ref().map(|service| &*service.hostname),
            dst.workload = destination.workload,
            dst.namespace = destination.namespace,
            dst.identity = destination.identity,
            direction = self.direction.as_str(),
            protocol = self.protocol.as_str(),
            bytes_sent = sent,
            bytes_recv = received,
            duration = format_args!("{duration}ms"),
            reason = reason.as_str(),
            skipped = (!self.skipped.is_empty()).then(|| self.skipped.join(", ")),
            policy = self.verdict.as_ref().map(ToString::to_string),
            error,
            },
            "connection complete"
        );
    }
}

/// The names of a party in a line.
struct Names<'a> {
    workload: Option<&'a str>,
    namespace: Option<&'a str>,
    identity: Option<String>,
}

impl<'a> Names<'a> {
    fn of(party: &'a Party) -> Self {
        let known = party.workload.as_deref();
        let told = party.baggage.as_ref();
        Self {
            workload: known.map(|w| &*w.name).or(told.and_then(|b| b.workload.as_deref())),
            namespace: known.map(|w| &*w.namespace).or(told.and_then(|b| b.namespace.as_deref())),
            identity: party.identity.as_ref().map(ToString::to_string),
        }
    }
}
