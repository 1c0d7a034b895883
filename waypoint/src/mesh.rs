//! Pure: everything that is decided by, as it is at one moment, and who takes a request.
//! Never: half of a change.
use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use culvert_agent::{
    discovery::{Protocol, Service, Snapshot, Speech, Workload},
    origin::Problem,
    policy::{Asked, Denied, Verdict, authorize},
    route::{Choice, unmeshed_hop},
};

use crate::{
    backend::{Algorithm, Backend, Backends, Endpoint, Names, endpoints, is_anybody, is_named},
    balance::{Balance, Ticket, Traffic, View, Wish},
    outcome::LocalReply,
    routing::{self, BackendRef, Table},
    upstream::To,
};

/// One moment of the mesh, swapped whole.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    /// Workloads and services.
    pub snapshot: Snapshot,
    /// The addresses of endpoints that are names.
    pub names: Names,
    /// Where requests go.
    pub table: Arc<Table>,
    /// How backends are called.
    pub backends: Arc<Backends>,
    /// What is wrong with what was declared.
    pub problems: Vec<Problem>,
    /// Later ones have higher numbers.
    pub generation: u64,
    /// The waypoint itself, where it is known.
    pub here: Option<Arc<Workload>>,
    /// What is declared of this waypoint.
    pub own: Own,
}

/// What is declared of this waypoint.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Its Gateway, `namespace/name`.
    pub gateway: Arc<str>,
    /// Whether endpoints are told who the client is
    /// (`ambient.istio.io/xfcc-include-client-identity`).
    pub tells_clients: bool,
}

/// Who takes requests for a backend.
#[derive(Clone, Debug)]
pub enum Reach {
    /// One of its endpoints.
    Among(Arc<BackendRef>),
    /// Whoever is there.
    At(To),
}

/// Who takes an attempt.
#[derive(Debug)]
pub struct Picked {
    /// Where it goes.
    pub to: To,
    /// Its place there.
    pub ticket: Ticket,
}

/// Why nobody takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// There is no such service, or no such subset of it.
    Unknown,
    /// None of its endpoints is ready.
    NotReady,
    /// It is to be called in a way that is not built: nothing goes there in another way.
    Unmet(&'static str),
    /// What says how it is to be called cannot be obeyed: a DestinationRule that is refused and was never
    /// good, or a BackendTLSPolicy.
    Refused,
    /// It is an address that nobody declares, while what was declared may not have been read.
    Unread,
}

impl From<Nobody> for LocalReply {
    fn from(nobody: Nobody) -> Self {
        match nobody {
            Nobody::Unknown => Self::no_cluster(),
            Nobody::NotReady => Self::no_healthy_upstream(),
            Nobody::Unmet(field) => Self::unmet(field),
            Nobody::Refused => Self::not_called(
                "the host's DestinationRule is refused, or a BackendTLSPolicy asks for TLS",
            ),
            Nobody::Unread => Self::not_called("what describes the destination may be damaged"),
        }
    }
}

impl Mesh {
    /// What is spoken on a port of a service.
    pub fn protocol(&self, backend: &BackendRef) -> routing::Protocol {
        let service = self.snapshot.service_named(&backend.host);
        let ports = service.into_iter().flat_map(|service| &service.ports);
        let mut speech = ports.filter(|port| port.port == backend.port).map(|port| port.speech);
        match speech.next().unwrap_or_default() {
            Speech::Http => routing::Protocol::Http,
            Speech::Http2 => routing::Protocol::Http2,
            Speech::Grpc => routing::Protocol::Grpc,
            Speech::Tls => routing::Protocol::Tls,
            Speech::Tcp => routing::Protocol::Tcp,
            Speech::Unknown => routing::Protocol::Unknown,
        }
    }

    /// Asks the policies that are attached to a service, or to this waypoint, about a connection: by
    /// the client's identity, the addresses and the service's port. What they say of HTTP makes an ALLOW
    /// rule allow nothing, and leaves a DENY rule the rest.
    ///
    /// # Errors
    /// The answer to one that is not allowed.
    pub fn may(&self, service: Option<&Service>, asked: &Asked<'_>) -> Result<(), LocalReply> {
        let guard = self.snapshot.guard_at(&self.own.gateway, service);
        match authorize(&guard, asked) {
            Verdict::Allowed(_) => Ok(()),
            Verdict::Denied(denied) => Err(LocalReply::denied(match &denied {
                Denied::By(decided) => &decided.policy.name,
                Denied::Strict(_) | Denied::NoAllow(_) | Denied::Damaged => "none",
            })),
        }
    }

    /// Who takes requests for a backend by an address like the one that was dialled, and how it is
    /// called.
    ///
    /// # Errors
    /// When there is nobody.
    pub fn reach(
        &self,
        reference: &Arc<BackendRef>,
        dialled: SocketAddr,
    ) -> Result<(Reach, Backend), Nobody> {
        let backend = self.backends.find(reference).ok_or(Nobody::Unknown)?;
        if backend.policy.refused {
            return Err(Nobody::Refused);
        }
        backend.policy.unmet().map_or(Ok(()), |field| Err(Nobody::Unmet(field)))?;
        let to = |at, workload| To { backend: reference.clone(), at, workload };
        let at = |there, workload| Reach::At(to(there, workload));
        let Some(service) = self.snapshot.service_named(&reference.host) else {
            // What was dialled may be a workload's own address.
            let workload = self.snapshot.workload(&reference.host).ok_or(Nobody::Unknown)?;
            if !workload.addresses.contains(&dialled.ip()) {
                return Err(Nobody::NotReady);
            }
            return Ok((at(dialled, Some(workload.clone())), backend));
        };
        let vip = service.vips.first().map_or(dialled.ip(), |vip| *vip);
        if service.passthrough {
            let own = service.vips.contains(&dialled.ip())
                || service.ranges.iter().any(|range| range.contains(&dialled.ip()));
            let there = SocketAddr::new(if own { dialled.ip() } else { vip }, reference.port);
            let to = to(there, self.snapshot.workload_at(there.ip()).cloned());
            let unread = self.snapshot.is_partial() && !to.is_meshed();
            return if unread { Err(Nobody::Unread) } else { Ok((Reach::At(to), backend)) };
        }
        // Behind a service's address there is only the mesh itself, so only others are passed on to.
        let passes = backend.policy.load_balancer.algorithm == Algorithm::Passthrough;
        if let Some(workload) = self.snapshot.workload_at(dialled.ip()).filter(|_| passes) {
            return Ok((at(dialled, Some(workload.clone())), backend));
        }
        if is_anybody(&self.snapshot, &self.names, &backend) {
            return Ok((Reach::Among(reference.clone()), backend));
        }
        // Names that nobody could look up are no reason to go elsewhere.
        if is_named(&self.snapshot, &backend) {
            return Err(Nobody::NotReady);
        }
        // Who is behind it may be nobody that the mesh can know: then the node's own rules find them.
        let vip = SocketAddr::new(vip, reference.port);
        let outside = reference.subset.is_none().then(|| {
            let choice = Choice::default();
            unmeshed_hop(&self.snapshot, "", vip, &choice).ok().filter(|hop| hop.workload.is_none())
        });
        let hop = outside.flatten().ok_or(Nobody::NotReady)?;
        Ok((at(hop.endpoint, None), backend))
    }

    /// Who takes an attempt at a backend.
    ///
    /// # Errors
    /// When there is nobody.
    pub fn pick(
        &self,
        (balance, traffic): (&Balance, Traffic),
        (reach, backend): (&Reach, &Backend),
        dialled: SocketAddr,
        wish: &Wish,
    ) -> Result<Picked, Nobody> {
        let policy = &backend.policy;
        let reference = match reach {
            Reach::At(to) => {
                let group = match self.snapshot.service_named(&to.backend.host) {
                    Some(_) => balance.group(&to.backend, traffic),
                    None => balance.passing(&to.backend, traffic),
                };
                return Ok(Picked { to: to.clone(), ticket: group.fixed(policy) });
            }
            Reach::Among(reference) => reference,
        };
        let group = balance.group(reference, traffic);
        group.follow(self.generation, || self.view(backend));
        let ticket = group.pick(policy, wish).ok_or(Nobody::NotReady)?;
        let endpoint = ticket.pick().map(|pick| pick.endpoint.clone()).ok_or(Nobody::NotReady)?;
        let to = To::endpoint(reference, &endpoint, dialled).ok_or(Nobody::NotReady)?;
        Ok(Picked { to, ticket })
    }

    /// Who is behind a backend, as balancers see it.
    pub fn view(&self, backend: &Backend) -> View {
        let service = self.snapshot.service_named(&backend.reference.host);
        View {
            endpoints: endpoints(&self.snapshot, &self.names, backend),
            policy: backend.policy.clone(),
            here: self.here.clone(),
            distribution: service.map(|service| service.distribution).unwrap_or_default(),
        }
    }
}

impl To {
    /// An endpoint, at an address like the one that was dialled.
    pub fn endpoint(
        reference: &Arc<BackendRef>,
        endpoint: &Endpoint,
        dialled: SocketAddr,
    ) -> Option<Self> {
        let Endpoint { workload, port } = endpoint;
        let at = SocketAddr::new(address_like(workload, dialled.ip())?, *port);
        Some(Self { backend: reference.clone(), at, workload: Some(workload.clone()) })
    }

    /// Whether it is reached by a tunnel.
    pub fn is_meshed(&self) -> bool {
        self.workload.as_ref().is_some_and(|workload| workload.protocol == Protocol::Hbone)
    }
}

fn address_like(workload: &Workload, dialled: IpAddr) -> Option<IpAddr> {
    let same = |address: &&IpAddr| address.is_ipv4() == dialled.is_ipv4();
    workload.addresses.iter().find(same).or_else(|| workload.addresses.first()).copied()
}

#[cfg(test)]
mod tests {
    use culvert_agent::manifest::{Folder, Settings, compile};

    use super::*;

    const ENTRIES: &str = r"
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: out, namespace: shop}, spec: {hosts: [out.example], addresses: [10.97.0.1], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: closed, namespace: shop}, spec: {hosts: [closed.example], addresses: [10.97.0.2], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: closed, namespace: shop}, spec: {host: closed.example, trafficPolicy: {tls: {mod: SIMPLE}}}}
";

    const POD: &str = "{kind: Pod, apiVersion: v1, metadata: {name: p, namespace: shop}, spec: {}, status: {podIP: 10.97.0.1}}\n";

    fn pick(files: &[&str], host: &str) -> Result<SocketAddr, Nobody> {
        let mut folder = Folder::default();
        let files = files.iter().enumerate();
        let files = files.map(|(n, text)| (format!("{n}.yaml").into(), Ok((*text).to_owned())));
        let changes = folder.update(files.collect());
        let snapshot = compile(&folder, &Settings::default());
        let mut compiler = crate::manifest::Compiler::new(crate::manifest::Settings::default());
        let backends = compiler.apply(&folder, &changes, &snapshot).backends;
        let mesh = Mesh { snapshot, backends, ..Mesh::default() };
        let reference = Arc::new(BackendRef { host: host.into(), port: 80, subset: None });
        let dialled = SocketAddr::from(([10, 97, 0, 1], 80));
        mesh.reach(&reference, dialled).map(|(reach, _)| match reach {
            Reach::At(to) => to.at,
            Reach::Among(_) => panic!("nobody is there but who was dialled"),
        })
    }

    #[test]
    fn a_pod_is_called_at_addresses_of_its_own_alone() {
        let (uid, at) = ("Kubernetes//Pod/shop/p", SocketAddr::from(([10, 97, 0, 1], 80)));
        assert_eq!(pick(&[POD], uid), Ok(at));
        // It has another one since its client dialled.
        let moved = POD.replace("10.97.0.1", "10.97.0.7");
        assert_eq!(pick(&[&moved], uid), Err(Nobody::NotReady));
        assert_eq!(pick(&[], uid), Err(Nobody::Unknown));
    }

    #[test]
    fn nobody_is_called_in_the_clear_whom_nobody_could_read() {
        let at = SocketAddr::from(([10, 97, 0, 1], 80));
        assert_eq!(pick(&[ENTRIES], "out.example"), Ok(at));
        assert_eq!(
            pick(&[ENTRIES, "kind: Pod\nmetadata: [\n"], "out.example"),
            Err(Nobody::Unread)
        );
        assert_eq!(pick(&[ENTRIES], "closed.example"), Err(Nobody::Refused));
    }
}
