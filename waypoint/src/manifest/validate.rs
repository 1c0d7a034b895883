//! Front: which objects make sense, in Istio's rules and words (`pkg/config/validation`).
//! Never: what they mean.
mod connection;
mod destination_rule;
mod http;
mod names;
mod route;
mod shadowed;
mod virtual_service;

pub(super) use destination_rule::destination_rule;
pub(super) use route::route;
pub(super) use shadowed::rules as shadowed;
pub(super) use virtual_service::virtual_service;
