//! Front: compiled route tables, and the engine that decides about one request.
//! Never: wire types, backends, sockets. Compiled by `manifest`, asked by `exchange` and `listener`.
pub mod answer;
pub mod condition;
pub mod cors;
pub mod decide;
pub mod edit;
pub mod fault;
pub mod find;
pub mod model;
mod re2;
pub mod redirect;
pub mod regex;
pub mod request;
pub mod retry;
pub mod rewrite;
mod start_time;
pub mod substitution;
pub mod template;
pub mod timeout;
mod words;

pub use answer::{Answer, Cause};
pub use condition::{
    ClientCondition, ClientMatch, Condition, Field, HeaderMatch, Match, PathMatch, Precedence,
    QueryMatch, TextMatch,
};
pub use cors::{AllowList, Cors, Unmatched};
pub use decide::{Decision, Onward, Step, decide, shadow};
pub use edit::{Changes, EditError, Edits, HeaderEdits};
pub use fault::{Abort, AbortStatus, Delay, Fault, GrpcStatus, Percentage};
pub use find::{Opening, StreamRoute, find, find_stream};
pub use model::{
    Action, BackendRef, Destination, Destinations, DirectResponse, Forward, Kind, Mirror, Missing,
    PortRoutes, Protocol, Rule, ServiceRoutes, Source, Table, Target, TcpRule, TlsRule,
};
pub use redirect::{Redirect, RedirectPort};
pub use regex::{Regex, RegexError};
pub use request::{Client, RequestHead};
pub use retry::{Retry, RetryOn, UnknownRetryOn};
pub use rewrite::{PathRewrite, Rewrite, RewriteError};
pub use substitution::{Substitution, SubstitutionError};
pub use template::{Template, TemplateError, Told, protocol};
pub use timeout::Timeouts;

#[cfg(test)]
mod tests;
