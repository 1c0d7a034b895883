//! Pure: what went wrong, in the words of outcomes.
//! Never: an error's text where its kind is known.
use std::{error::Error as _, io};

use culvert_agent::hbone;
use http::StatusCode;

use crate::{body, outcome::Failure};

/// Why there is no tunnel. What the endpoint's agent says of the endpoint is no news of the tunnel.
pub(super) fn of_tunnel(error: hbone::Error) -> Failure {
    match error {
        hbone::Error::Status(StatusCode::UNAUTHORIZED) => Failure::Denied,
        hbone::Error::DialTimeout | hbone::Error::Timeout(_) => Failure::ConnectTimeout,
        hbone::Error::Full(_) => Failure::Overflow,
        hbone::Error::Status(StatusCode::SERVICE_UNAVAILABLE) => Failure::Absent(error.to_string()),
        hbone::Error::Dial(source) => of_dial(&source),
        hbone::Error::Tls(_) | hbone::Error::Identity { .. } => Failure::Tls(error.to_string()),
        hbone::Error::Http2(_) | hbone::Error::Status(_) => Failure::Connect(error.to_string()),
    }
}

/// Why a dial failed.
pub(super) fn of_dial(error: &io::Error) -> Failure {
    match error.kind() == io::ErrorKind::ConnectionRefused {
        true => Failure::Absent(error.to_string()),
        false => Failure::Connect(error.to_string()),
    }
}

/// Why there is no response, or no more of it.
pub(super) fn of_http(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::Protocol;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return of_http2(error);
        }
        if cause.is::<body::Broken>() {
            return Failure::Request;
        }
        source = cause.source();
    }
    Failure::Terminated
}

fn of_http2(error: &h2::Error) -> Failure {
    match error.reason() {
        // So end streams that the endpoint did not take before it leaves; others go on.
        Some(h2::Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Failure::Refused,
        Some(_) if error.is_go_away() && error.is_remote() => Failure::Terminated,
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => Failure::Refused,
        Some(_) if error.is_remote() => Failure::Reset,
        // The endpoint does not keep to HTTP.
        Some(reason) if error.is_library() && reason != h2::Reason::CANCEL => Failure::Protocol,
        // The body broke off: whatever reason its client gave is handed on.
        Some(_) => Failure::Request,
        None => Failure::Terminated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_breaks_off_is_no_fault_of_the_endpoint() {
        for reason in [
            h2::Reason::INTERNAL_ERROR,
            h2::Reason::PROTOCOL_ERROR,
            h2::Reason::REFUSED_STREAM,
            h2::Reason::CANCEL,
        ] {
            assert_eq!(of_http2(&reason.into()), Failure::Request);
        }
    }
}
