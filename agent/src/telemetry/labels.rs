//! Pure: the labels of traffic metrics: Istio's names, so that its dashboards work.
//! Never: a label whose values a client can make up without a certificate.
use std::borrow::Cow;

use prometheus_client::encoding::EncodeLabelSet;

use super::record::{Party, Protocol};
use crate::{discovery::Service, flow::Direction, identity::Identity};

/// The labels of one series of traffic metrics, in Istio's order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TrafficLabels {
    reporter: &'static str,
    source_workload: String,
    source_canonical_service: String,
    source_canonical_revision: String,
    source_workload_namespace: String,
    source_principal: String,
    source_app: String,
    source_version: String,
    source_cluster: String,
    destination_service: String,
    destination_service_namespace: String,
    destination_service_name: String,
    destination_workload: String,
    destination_canonical_service: String,
    destination_canonical_revision: String,
    destination_workload_namespace: String,
    destination_principal: String,
    destination_app: String,
    destination_version: String,
    destination_cluster: String,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
    source_region: String,
    source_zone: String,
    destination_region: String,
    destination_zone: String,
}

impl TrafficLabels {
    /// Labels of a connection that goes well.
    pub fn new(
        direction: Direction,
        protocol: Protocol,
        (source, destination): (&Party, &Party),
        service: Option<&Service>,
    ) -> Self {
        let (s, d) = (Side::of(source), Side::of(destination));
        let text = |value: Option<&str>| value.unwrap_or("unknown").to_owned();
        let configured = destination.workload.as_ref().map(|workload| &workload.identity);
        Self {
            reporter: match direction {
                Direction::Outbound => "source",
                Direction::Inbound => "destination",
            },
            source_principal: principal(source.identity.as_ref()),
            source_workload: s.workload.clone(),
            source_workload_namespace: s.namespace,
            source_canonical_service: s.service.clone(),
            source_canonical_revision: s.revision.clone(),
            source_app: s.service,
            source_version: s.revision,
            source_cluster: s.cluster,
            destination_service: text(service.map(|service| &*service.hostname)),
            destination_service_namespace: text(service.map(|service| &*service.namespace)),
            destination_service_name: text(service.map(|service| &*service.name)),
            destination_principal: principal(destination.identity.as_ref().or(configured)),
            destination_workload: d.workload,
            destination_workload_namespace: d.namespace,
            destination_canonical_service: d.service.clone(),
            destination_canonical_revision: d.revision.clone(),
            destination_app: d.service,
            destination_version: d.revision,
            destination_cluster: d.cluster,
            request_protocol: "tcp",
            response_flags: "-",
            connection_security_policy: match protocol {
                Protocol::Hbone => "mutual_tls",
                Protocol::Direct => "same_node",
                Protocol::Tcp => "unknown",
            },
            source_region: s.region,
            source_zone: s.zone,
            destination_region: d.region,
            destination_zone: d.zone,
        }
    }

    /// The same with the way in which a connection ended.
    pub(super) fn with_flags(&self, flags: &'static str) -> Cow<'_, Self> {
        if flags == self.response_flags {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self { response_flags: flags, ..self.clone() })
    }

    /// Labels that differ by the source alone.
    #[cfg(test)]
    pub(super) fn of_source(workload: &str) -> Self {
        let nobody = Party::default();
        let parties = (&nobody, &nobody);
        let labels = Self::new(Direction::Outbound, Protocol::Hbone, parties, None);
        Self { source_workload: workload.to_owned(), ..labels }
    }

    /// Where series beyond the limit are counted: one for each reporter and security policy.
    pub(super) fn other(&self) -> Self {
        Self {
            reporter: self.reporter,
            source_workload: "other".into(),
            destination_workload: "other".into(),
            request_protocol: "tcp",
            response_flags: "-",
            connection_security_policy: self.connection_security_policy,
            ..Self::default()
        }
    }
}

fn principal(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| "unknown".into(), ToString::to_string)
}

struct Side {
    workload: String,
    namespace: String,
    service: String,
    revision: String,
    cluster: String,
    region: String,
    zone: String,
}

impl Side {
    fn of(party: &Party) -> Self {
        let known = party.workload.as_deref();
        let told = party.baggage.as_ref();
        let pick = |known: Option<&str>, told: Option<&str>| {
            known.or(told).unwrap_or("unknown").to_owned()
        };
        Self {
            workload: pick(
                known.map(|w| &*w.workload_name),
                told.and_then(|b| b.workload.as_deref()),
            ),
            namespace: pick(
                known.map(|w| &*w.namespace),
                told.and_then(|b| b.namespace.as_deref()),
            ),
            service: pick(
                known.map(|w| &*w.canonical_name),
                told.and_then(|b| b.service.as_deref()),
            ),
            revision: pick(
                known.map(|w| &*w.canonical_revision),
                told.and_then(|b| b.revision.as_deref()),
            ),
            cluster: pick(
                known.and_then(|w| w.uid.split("//").next()),
                told.and_then(|b| b.cluster.as_deref()),
            ),
            region: pick(known.and_then(|w| place(&w.locality.region)), None),
            zone: pick(known.and_then(|w| place(&w.locality.zone)), None),
        }
    }
}

/// A node that nobody placed is nowhere known.
fn place(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}
