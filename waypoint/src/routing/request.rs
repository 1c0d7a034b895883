//! Pure: a request as routing sees it.
//! Never: bodies, changes. Made by `exchange`.
use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use culvert_agent::identity::Identity;
use http::{HeaderMap, HeaderValue, Method, Version, header::CONTENT_TYPE};

/// The head of one request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`, lower case.
    pub scheme: &'a str,
    /// `:authority` or the Host header, verbatim: with the port if there is one.
    pub authority: &'a str,
    /// The normalised path, without the query.
    pub path: &'a str,
    /// What follows the first `?`; `None` without one.
    pub query: Option<&'a str>,
    /// The version that the client speaks.
    pub version: Version,
    /// All other headers.
    pub headers: &'a HeaderMap,
    /// Who asks.
    pub client: &'a Client<'a>,
    /// The address and service port that the client dialled.
    pub dialled: SocketAddr,
    /// When it came.
    pub began: SystemTime,
}

/// Who asks. What is not known is empty, and fits no condition.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address.
    pub address: SocketAddr,
    /// What the certificate of its tunnel proved.
    pub identity: Option<&'a Identity>,
    /// The namespace of that identity, else of the workload at its address.
    pub namespace: Option<&'a str>,
    /// The labels of the workload at its address that has that identity.
    pub labels: &'a BTreeMap<String, String>,
}

impl RequestHead<'_> {
    /// Path and query.
    pub fn target(&self) -> String {
        match self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_owned(),
        }
    }

    /// Whether this is a call of gRPC, by its content type.
    pub fn is_grpc(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    }
}
