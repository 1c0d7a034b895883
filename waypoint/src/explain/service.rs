//! Pure: a service as people name it → the mesh's, and what tunnels to it dial.
//! Never: what is behind it.
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_agent::discovery::{Service, Snapshot, WaypointDestination};

use crate::attachment::{Error, Gateway};

/// How many names an error lists.
const LISTED: usize = 10;

/// The service that is meant by a host name, `name.namespace`, `namespace/name`, a name that only one
/// has, or an address; and the port, if it is said after a colon.
///
/// # Errors
/// When there is none, or more than one.
pub(super) fn named<'a>(
    snapshot: &'a Snapshot,
    text: &str,
) -> Result<(&'a Arc<Service>, Option<u16>), String> {
    let none = || {
        format!(
            "there is no service {text}: say its host name, NAME.NAMESPACE or NAMESPACE/NAME; culvert services lists them"
        )
    };
    let (text, port) = match (text.parse::<SocketAddr>(), text.rsplit_once(':')) {
        (Ok(at), _) => (at.ip().to_string(), Some(at.port())),
        (Err(_), Some((name, port))) if !name.contains(':') => {
            (name.to_owned(), Some(port.parse().map_err(|_| format!("{port} is no port"))?))
        }
        (Err(_), Some(_) | None) => (text.to_owned(), None),
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((snapshot.service_at(address).ok_or_else(none)?, port));
    }
    let host = text.to_ascii_lowercase();
    if let Some(service) = snapshot.service_named(&host) {
        return Ok((service, port));
    }
    let mut found: Vec<_> = snapshot.services().filter(|s| is_called(s, &host)).collect();
    found.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    match found.as_slice() {
        [] => Err(none()),
        [only] => Ok((only, port)),
        several => {
            let names: Vec<_> = several.iter().take(LISTED).map(|s| &*s.hostname).collect();
            Err(format!("{host} may be any of {}: say which", names.join(", ")))
        }
    }
}

fn is_called(service: &Service, text: &str) -> bool {
    let (name, namespace) = (&*service.name, &*service.namespace);
    let halves = |separator| text.split_once(separator);
    text == name
        || halves('/') == Some((namespace, name))
        || halves('.').is_some_and(|(first, rest)| {
            first == name && rest.strip_suffix(".svc").unwrap_or(rest) == namespace
        })
}

/// What a client dials: the service's address, or the one by which it was named.
///
/// # Errors
/// When there is no address, or more than one port.
pub(super) fn dialled(
    service: &Service,
    named: &str,
    port: Option<u16>,
) -> Result<SocketAddr, String> {
    let host = &service.hostname;
    let said = named.parse().ok().or_else(|| Some(named.parse::<SocketAddr>().ok()?.ip()));
    let address = said.or_else(|| service.vips.first().copied()).ok_or_else(|| {
        format!("{host} has no address, so its clients dial pods, and no rule of it is asked")
    })?;
    let port = match (port, service.ports.as_slice()) {
        (Some(port), _) => port,
        (None, [only]) => only.port,
        (None, _) => return Err(format!("{host} has ports {}: give --port", ports(service))),
    };
    Ok(SocketAddr::new(address, port))
}

fn ports(service: &Service) -> String {
    let ports: Vec<_> = service.ports.iter().map(|port| port.port.to_string()).collect();
    ports.join(", ")
}

/// Why a waypoint refuses tunnels to a service.
pub(super) fn refused(error: &Error, service: &Service, gateway: &Gateway) -> String {
    match error {
        Error::Foreign(_) => foreign(service, gateway),
        Error::NoPort { .. } => format!("{error}: it has {}", ports(service)),
        Error::Unknown(_) => error.to_string(),
    }
}

/// That a waypoint does not serve a service, and what to do about it.
pub(super) fn foreign(service: &Service, gateway: &Gateway) -> String {
    let Service { hostname, origin, .. } = service;
    let own = &gateway.host;
    let other = match service.waypoint.as_ref().map(|waypoint| &waypoint.destination) {
        Some(WaypointDestination::Host(host)) => host.to_string(),
        Some(WaypointDestination::Address(address)) => address.to_string(),
        None => {
            let name = own.split('.').next().unwrap_or_default();
            return format!(
                "{hostname} ({origin}) has no waypoint: its requests are routed by no rule; label it istio.io/use-waypoint: {name} for this one, {own}"
            );
        }
    };
    format!("{hostname} ({origin}) is not this waypoint's, {own}: ask its own, {other}")
}
