//! Pure: a request between its client and its endpoint: which rule it is of, and what it goes on as.
//! Never: sends it.
use std::collections::BTreeMap;

use http::{
    HeaderValue, Request, Uri, Version as HttpVersion,
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use hyper::upgrade::OnUpgrade;

use super::{deadline::Limit, headers, mirror::shadow, place::Place};
use crate::{
    body::RequestBody,
    listener::Version,
    outcome::LocalReply,
    record::Session,
    routing::{Client, Forward, PortRoutes, RequestHead, Rule, find},
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
    /// What its client says of its time.
    pub(super) limit: Limit,
}

impl Asked {
    /// The rule that decides.
    pub(super) fn rule<'t>(&self, routes: &'t PortRoutes, session: &Session) -> Option<&'t Rule> {
        self.with_head(session, |head| find(routes, head))
    }

    /// Gives the head as rules see it.
    fn with_head<T>(&self, session: &Session, see: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let nobodys = BTreeMap::new();
        let client = client(session, &nobodys);
        see(&RequestHead {
            method: &self.head.method,
            scheme: self.place.scheme,
            authority: self.place.authority(),
            path: &self.place.path,
            query: self.place.query.as_deref(),
            version: self.head.version,
            headers: &self.head.headers,
            client: &client,
            dialled: session.dialled,
        })
    }

    /// Changes path and authority as the rule says.
    pub(super) fn rewrite(&mut self, forward: &Forward) -> Result<(), LocalReply> {
        if let Some(authority) = &forward.rewrite.authority {
            self.place.authority = authority.clone();
        }
        Ok(())
    }

    /// A copy for a mirror; `None` when there can be none.
    pub(super) fn copy(&mut self, version: Version) -> Option<Request<RequestBody>> {
        let authority = shadow(self.place.authority())?;
        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        request.headers_mut().clone_from(&self.head.headers);
        let target = self.place.target();
        let (mut head, ()) = request.into_parts();
        in_version(&mut head, version, &authority, &target)?;
        Some(Request::from_parts(head, self.body.copy()))
    }

    /// The request as the endpoint gets it.
    pub(super) fn into_request(
        self,
        version: Version,
        upgrade: bool,
    ) -> Result<Request<RequestBody>, LocalReply> {
        let Self { mut head, body, place, .. } = self;
        let wrong = || LocalReply::bad_request("invalid_path");
        in_version(&mut head, version, &place.authority, &place.target()).ok_or_else(wrong)?;
        if upgrade {
            headers::keep_upgrade(&mut head.headers);
        }
        Ok(Request::from_parts(head, body))
    }
}

/// Who asks, as rules see it. Labels are those of a workload that is who its certificate says.
pub(crate) fn client<'a>(
    session: &'a Session,
    nobodys: &'a BTreeMap<String, String>,
) -> Client<'a> {
    let source = session.source.as_ref().filter(|source| source.identity == session.peer);
    Client {
        address: session.client,
        identity: Some(&session.peer),
        namespace: Some(session.peer.namespace()),
        labels: source.map_or(nobodys, |source| &source.labels),
    }
}

fn in_version(
    head: &mut Parts,
    version: Version,
    authority: &HeaderValue,
    target: &str,
) -> Option<()> {
    let target: PathAndQuery = target.parse().ok()?;
    head.uri = match version {
        Version::Http1 => target.into(),
        Version::Http2 => {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.as_bytes().try_into().ok()?);
            parts.path_and_query = Some(target);
            Uri::from_parts(parts).ok()?
        }
    };
    head.version = match version {
        Version::Http1 => HttpVersion::HTTP_11,
        Version::Http2 => HttpVersion::HTTP_2,
    };
    headers::in_version(&mut head.headers, version, authority);
    // What the server of the client's connection keeps there is of no use on the next one.
    head.extensions.clear();
    Some(())
}
