//! Pure: a table and a request or connection → the rule that decides.
//! Never: an order other than the table's: the first that matches.
use std::sync::Arc;

use super::{
    model::{Destinations, PortRoutes, Rule, Source, TcpRule, TlsRule},
    request::{Client, RequestHead},
};

/// The first rule for a request; `None` is an answer of 404. Costs no allocation, unless an expression
/// or text is compared with a header that was sent more than once.
pub fn find<'t>(routes: &'t PortRoutes, head: &RequestHead<'_>) -> Option<&'t Rule> {
    routes.http.iter().find(|rule| rule.matches.holds(head))
}

/// How a connection that is not HTTP begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// With a ClientHello, which may name a server (RFC 6066 §3).
    Tls(Option<&'a str>),
    /// With anything else, or with nothing: many servers speak first.
    Other,
}

/// What decides about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRoute<'t> {
    /// Who wrote it; `None` for the default route.
    pub source: Option<&'t Arc<Source>>,
    /// Where to.
    pub destinations: &'t Destinations,
}

/// What decides about a connection that is not HTTP: the first TLS rule for its ClientHello, else the
/// first TCP rule; with `None` it is to be reset.
pub fn find_stream<'t>(
    routes: &'t PortRoutes,
    opening: Opening<'_>,
    client: &Client<'_>,
) -> Option<StreamRoute<'t>> {
    let tls = |rule: &&TlsRule| match opening {
        Opening::Tls(name) => rule.client.holds(client) && names(rule, name),
        Opening::Other => false,
    };
    if let Some(TlsRule { source, destinations, .. }) = routes.tls.iter().find(tls) {
        return Some(StreamRoute { source: source.as_ref(), destinations });
    }
    let tcp = routes.tcp.iter().find(|rule| rule.client.holds(client));
    tcp.map(|TcpRule { source, destinations, .. }| StreamRoute {
        source: source.as_ref(),
        destinations,
    })
}

/// Whether a TLS rule is for this server name.
fn names(rule: &TlsRule, name: Option<&str>) -> bool {
    let Some(name) = name else { return rule.sni.is_empty() };
    rule.sni.is_empty() || rule.sni.iter().any(|pattern| is_name(pattern, name))
}

/// Whether a server name is this one, or one of those below `*.suffix`.
fn is_name(pattern: &str, name: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*') else { return name.eq_ignore_ascii_case(pattern) };
    let start = name.len().checked_sub(suffix.len());
    let end = start.and_then(|start| name.as_bytes().get(start..));
    end.is_some_and(|end| end.len() < name.len() && end.eq_ignore_ascii_case(suffix.as_bytes()))
}
