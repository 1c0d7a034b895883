//! Pure: what travels beside the CONNECT target: trace context, baggage, forwarded.
//! Never: indexes into what a peer sent; trusts it beyond telemetry.
use std::{fmt, net::SocketAddr};

use super::{Authority, authority::LONGEST_NAME};

/// Everything that a CONNECT says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectHead {
    /// Where the tunnel leads.
    pub authority: Authority,
    /// Who dialled what.
    pub forwarded: Option<Forwarded>,
    /// Which workload asks.
    pub baggage: Option<Baggage>,
    /// Which trace it belongs to.
    pub trace: TraceParent,
}

/// Names of the three headers.
const FORWARDED: &str = "forwarded";
const BAGGAGE: &str = "baggage";
const TRACEPARENT: &str = "traceparent";

impl ConnectHead {
    /// The headers of the request. A value that HTTP cannot carry is left out: it serves telemetry
    /// only.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let forwarded = self.forwarded.as_ref().map(|value| (FORWARDED, value.to_string()));
        let trace = Some((TRACEPARENT, self.trace.to_string()));
        let all = [forwarded, self.baggage.as_ref().map(baggage), trace];
        all.into_iter().flatten().filter(|(_, value)| is_text(value))
    }

    /// Reads the headers of a request for `authority`, by their names. What is malformed counts as
    /// absent; a request without a trace starts the one that `random` names.
    pub fn read<'a>(
        authority: Authority,
        text: impl Fn(&str) -> Option<&'a str>,
        random: [u64; 3],
    ) -> Self {
        Self {
            authority,
            forwarded: text(FORWARDED).and_then(Forwarded::parse),
            baggage: text(BAGGAGE).map(Baggage::parse),
            trace: text(TRACEPARENT)
                .and_then(TraceParent::parse)
                .unwrap_or_else(|| TraceParent::new(random)),
        }
    }
}

/// The header that describes a workload.
pub fn baggage(value: &Baggage) -> (&'static str, String) {
    (BAGGAGE, value.to_string())
}

/// Whether a header may have this value (RFC 9110 §5.5).
pub fn is_text(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Who dialled what (RFC 7239).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address.
    pub client: Option<SocketAddr>,
    /// Host name of the service that was dialled.
    pub host: Option<String>,
}

impl Forwarded {
    /// Parses the first element; later ones are of earlier hops.
    pub fn parse(text: &str) -> Option<Self> {
        let mut forwarded = Self { client: None, host: None };
        for pair in text.split(',').next()?.split(';') {
            let (name, value) = pair.split_once('=')?;
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => forwarded.client = value.parse().ok(),
                "host" => forwarded.host = Some(value.to_ascii_lowercase()),
                _ => {}
            }
        }
        Some(forwarded)
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(client) = self.client {
            write!(f, "for=\"{client}\"")?;
        }
        match &self.host {
            Some(host) if self.client.is_some() => write!(f, ";host={host}"),
            Some(host) => write!(f, "host={host}"),
            None => Ok(()),
        }
    }
}

/// Describes a workload to its peer (W3C Baggage; OpenTelemetry's resource names).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<String>,
    /// `k8s.namespace.name`
    pub namespace: Option<String>,
    /// `k8s.pod.name`, `k8s.deployment.name` and the like.
    pub workload: Option<String>,
    /// `service.name`
    pub service: Option<String>,
    /// `service.version`
    pub revision: Option<String>,
}

impl Baggage {
    /// Parses a list of pairs; what it does not know is skipped.
    pub fn parse(text: &str) -> Self {
        let mut baggage = Self::default();
        for pair in text.split(',') {
            let Some((name, value)) = pair.split_once('=') else {
                continue;
            };
            let value = value.split(';').next().unwrap_or_default().trim();
            if value.is_empty() {
                continue;
            }
            let field = match name.trim() {
                "k8s.cluster.name" => &mut baggage.cluster,
                "k8s.namespace.name" => &mut baggage.namespace,
                "k8s.pod.name" | "k8s.deployment.name" | "k8s.job.name" | "k8s.cronjob.name" => {
                    &mut baggage.workload
                }
                "service.name" => &mut baggage.service,
                "service.version" => &mut baggage.revision,
                _ => continue,
            };
            // Longer is no name that Kubernetes gives: it would only fill memory.
            *field = Some(value.to_owned()).filter(|value| value.len() <= LONGEST_NAME);
        }
        baggage
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            ("k8s.pod.name", &self.workload),
            ("service.name", &self.service),
            ("service.version", &self.revision),
        ] {
            if let Some(value) = value {
                write!(f, "{separator}{name}={value}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

/// The trace that a connection belongs to (W3C Trace Context, version 00, not sampled).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
}

impl TraceParent {
    /// A trace of three random numbers.
    pub fn new([high, low, span]: [u64; 3]) -> Self {
        Self { trace: u128::from(high) << 64 | u128::from(low), span }
    }

    /// Parses `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, in any version of that length.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            parts.next().filter(|part| {
                part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        let (_version, trace, span, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        if parts.next().is_some() {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let span = u64::from_str_radix(span, 16).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span })
    }

    /// The part that all hops of one connection share.
    pub fn trace_id(&self) -> u128 {
        self.trace
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-00", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_have_istios_form_and_survive_the_wire() {
        let head = ConnectHead {
            authority: "10.2.0.2:8080".parse().unwrap(),
            forwarded: Some(Forwarded {
                client: Some("[fd00::1]:4242".parse().unwrap()),
                host: Some("cart.shop.svc.cluster.local".into()),
            }),
            baggage: Some(Baggage {
                cluster: Some("Kubernetes".into()),
                namespace: Some("shop".into()),
                workload: Some("web-0".into()),
                service: Some("web".into()),
                revision: None,
            }),
            trace: TraceParent::new([1, 2, 3]),
        };
        let headers: HashMap<_, _> = head.headers().collect();
        assert_eq!(headers["forwarded"], "for=\"[fd00::1]:4242\";host=cart.shop.svc.cluster.local");
        assert_eq!(
            headers["baggage"],
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=web-0,service.name=web"
        );
        assert_eq!(
            headers["traceparent"],
            "00-00000000000000010000000000000002-0000000000000003-00"
        );
        let text = |name: &str| headers.get(name).map(String::as_str);
        assert_eq!(ConnectHead::read(head.authority.clone(), text, [9; 3]), head);
    }

    proptest! {
        #[test]
        fn nothing_that_a_peer_sends_panics(text in ".{0,300}") {
            let _ = (Forwarded::parse(&text), Baggage::parse(&text), TraceParent::parse(&text));
        }

        #[test]
        fn traces_survive(a: u64, b in 1_u64.., c in 1_u64..) {
            let trace = TraceParent::new([a, b, c]);
            prop_assert_eq!(TraceParent::parse(&trace.to_string()), Some(trace));
        }
    }
}
