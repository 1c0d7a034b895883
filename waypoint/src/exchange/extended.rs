//! Pure: websockets in HTTP/2 (RFC 8441) in the words of HTTP/1.1: whatever lies between its client and
//! its endpoint knows one way to ask for one, and one to agree.
//! Never: other protocols than websockets.
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY},
    request, response,
};
use hyper::ext::Protocol;

use super::headers::{self, WEBSOCKET};

/// Whether it was, or is, a CONNECT: its client takes success for a tunnel.
pub(super) fn is_connect(head: &request::Parts) -> bool {
    head.method == Method::CONNECT || head.extensions.get::<Protocol>().is_some()
}

/// A CONNECT that asks for a websocket becomes the GET of HTTP/1.1 that does (RFC 8441 §5); anything
/// else stays as it is. The key (RFC 6455 §4.1) is the one that `random` makes: HTTP/2 has none.
pub(super) fn into_get(head: &mut request::Parts, random: impl FnOnce() -> [u8; 16]) {
    let protocol = head.extensions.get::<Protocol>();
    let is_websocket = protocol.is_some_and(|protocol| protocol.as_str() == WEBSOCKET);
    if head.method != Method::CONNECT || !is_websocket {
        return;
    }
    head.method = Method::GET;
    headers::keep_upgrade(&mut head.headers);
    if let Ok(key) = HeaderValue::try_from(STANDARD.encode(random())) {
        head.headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// The agreement of HTTP/1.1 becomes that of HTTP/2 (RFC 8441 §5.1).
pub(super) fn agree(head: &mut response::Parts) {
    head.status = StatusCode::OK;
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    head.headers.remove(CONTENT_LENGTH);
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn asked(method: Method, protocol: &'static str) -> request::Parts {
        let request = Request::builder().method(method).uri("https://cart/socket");
        let request = request.extension(Protocol::from_static(protocol)).header("x-kept", "1");
        let mut head = request.body(()).unwrap().into_parts().0;
        into_get(&mut head, || [0; 16]);
        head
    }

    #[test]
    fn a_websocket_is_asked_for_as_in_http1() {
        let head = asked(Method::CONNECT, "websocket");
        assert_eq!((head.method.as_str(), head.uri.path()), ("GET", "/socket"));
        assert!(is_connect(&head), "its client knows nothing of GET");
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("x-kept", "1"),
        ] {
            assert_eq!(head.headers[name], value);
        }
    }

    #[test]
    fn anything_else_stays() {
        for (method, protocol) in [(Method::CONNECT, "connect-udp"), (Method::POST, "websocket")] {
            let head = asked(method.clone(), protocol);
            assert_eq!((head.method, head.headers.len()), (method, 1), "{protocol}");
        }
    }

    #[test]
    fn an_agreement_has_no_words_of_http1() {
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(SEC_WEBSOCKET_ACCEPT, "proof")
            .header("sec-websocket-protocol", "chat");
        let mut head = response.body(()).unwrap().into_parts().0;
        agree(&mut head);
        assert_eq!((head.status.as_u16(), head.headers.len()), (200, 1));
    }
}
