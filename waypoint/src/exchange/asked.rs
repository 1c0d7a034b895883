//! Pure: a request between its client and its endpoint: what rules see of it, and what it goes on as.
//! Never: sends it.
use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use culvert_agent::identity::Identity;
use http::{
    HeaderValue, Request, Uri, Version as HttpVersion,
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use hyper::upgrade::OnUpgrade;

use super::{
    headers::{self, Upgrade},
    place::Place,
};
use crate::{
    body::RequestBody,
    listener::Version,
    outcome::LocalReply,
    path::Normalisation,
    record::Session,
    routing::{Client, Decision, Onward, PortRoutes, RequestHead, Told, decide, shadow},
};

/// A request on its way.
pub(super) struct Asked {
    pub(super) head: Parts,
    pub(super) body: RequestBody,
    pub(super) place: Place,
    /// The client's side of the websocket that it asks for.
    pub(super) client: Option<OnUpgrade>,
    /// What its client speaks.
    pub(super) version: Version,
}

impl Asked {
    /// What happens to it.
    pub(super) fn decide<'t>(
        &self,
        routes: &'t PortRoutes,
        (session, began): (&Session, SystemTime),
        draw: &mut impl FnMut() -> u32,
    ) -> Decision<'t> {
        let nobodys = BTreeMap::new();
        let client = client(session, &nobodys);
        let head = head(&self.head, &self.place, &client, (session.dialled, began));
        decide(routes, &head, draw)
    }

    /// Adds who asks.
    pub(super) fn tell_client(&mut self, own: &Identity, client: &Identity) {
        headers::tell_client(&mut self.head.headers, own, client);
    }

    /// Makes of it what the rule says.
    pub(super) fn change(&mut self, onward: &Onward<'_>) -> Result<(), LocalReply> {
        onward.request.apply(Told::default(), &mut self.head.headers);
        if let Some(authority) = &onward.authority {
            self.place.authority = authority.clone();
        }
        let target = match &onward.target {
            Some(target) => target.clone(),
            None => self.target().ok_or_else(|| LocalReply::bad_request("invalid_path"))?,
        };
        self.head.uri = target.into();
        Ok(())
    }

    /// What it asks for, where no rule changes it.
    fn target(&self) -> Option<PathAndQuery> {
        let said = self.head.uri.path_and_query();
        said.filter(|said| said.path() == self.place.path).cloned().or_else(|| self.place.target())
    }

    /// A copy for a mirror; `None` when there can be none.
    pub(super) fn copy(&mut self, version: Version) -> Option<Request<RequestBody>> {
        let authority = HeaderValue::try_from(shadow(self.place.authority())).ok()?;
        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.uri.clone();
        request.headers_mut().clone_from(&self.head.headers);
        let (mut head, ()) = request.into_parts();
        in_version(&mut head, version, &authority)?;
        Some(Request::from_parts(head, self.body.copy()))
    }

    /// The request as the endpoint gets it.
    pub(super) fn into_request(
        self,
        version: Version,
        upgrade: bool,
    ) -> Result<Request<RequestBody>, LocalReply> {
        let Self { mut head, body, place, .. } = self;
        let wrong = || LocalReply::bad_request("invalid_authority");
        in_version(&mut head, version, &place.authority).ok_or_else(wrong)?;
        if upgrade {
            headers::keep_upgrade(&mut head.headers);
        }
        Ok(Request::from_parts(head, body))
    }
}

impl Place {
    /// Path and query together.
    fn target(&self) -> Option<PathAndQuery> {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path).parse().ok(),
            None => self.path.parse().ok(),
        }
    }
}

/// What is asked, in the one form that it is decided by, and whether it asks for a
/// websocket. Adds the headers that every request has before anything is decided about it.
///
/// # Errors
/// The answer to a request that may mean several things.
pub(crate) fn read(
    head: &mut Parts,
    mode: Normalisation,
    random: u128,
) -> Result<(Place, bool), LocalReply> {
    if !headers::is_plainly_framed(&head.headers) {
        return Err(LocalReply::bad_request("http1.invalid_transfer_encoding"));
    }
    let place = Place::read(head, mode)?;
    let upgrade = headers::upgrade(&head.headers, head.version);
    if upgrade == Upgrade::Other {
        return Err(LocalReply::no_upgrade());
    }
    headers::for_endpoint(&mut head.headers);
    headers::complete(&mut head.headers, place.scheme, random);
    Ok((place, upgrade == Upgrade::WebSocket))
}

/// A request as rules see it.
pub(crate) fn head<'a>(
    head: &'a Parts,
    place: &'a Place,
    client: &'a Client<'a>,
    (dialled, began): (SocketAddr, SystemTime),
) -> RequestHead<'a> {
    RequestHead {
        method: &head.method,
        scheme: place.scheme,
        authority: place.authority(),
        path: &place.path,
        query: place.query.as_deref(),
        version: head.version,
        headers: &head.headers,
        client,
        dialled,
        began,
    }
}

/// Who asks, as rules see it. Labels are those of a workload that is who its certificate says; a trust
/// domain that came this far is the mesh's, or stands for it.
pub(crate) fn client<'a>(
    session: &'a Session,
    nobodys: &'a BTreeMap<String, String>,
) -> Client<'a> {
    let source = session.source.as_ref().filter(|source| {
        let (own, peer) = (&source.identity, &session.peer);
        (own.namespace(), own.service_account()) == (peer.namespace(), peer.service_account())
    });
    Client {
        address: session.client,
        identity: Some(&session.peer),
        namespace: Some(session.peer.namespace()),
        labels: source.map_or(nobodys, |source| &source.labels),
    }
}

fn in_version(head: &mut Parts, version: Version, authority: &HeaderValue) -> Option<()> {
    head.version = match version {
        Version::Http1 => HttpVersion::HTTP_11,
        Version::Http2 => {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.as_bytes().try_into().ok()?);
            parts.path_and_query = head.uri.path_and_query().cloned();
            head.uri = Uri::from_parts(parts).ok()?;
            HttpVersion::HTTP_2
        }
    };
    headers::in_version(&mut head.headers, version, authority);
    // What the server of the client's connection keeps there is of no use on the next one.
    head.extensions.clear();
    Some(())
}
