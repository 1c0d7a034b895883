//! Front: the waypoint as a process, between clients and pods that are played: real certificates, real
//! tunnels, on addresses of the loopback.
#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "nothing else runs on the stack of a test")]

mod analyze;
mod balancing;
mod blame;
mod bounds;
mod client;
mod crowds;
mod differential;
mod ejection;
mod explain;
mod floods;
mod foreign;
mod hostile;
mod http;
mod lab;
mod mirrors;
mod mission;
mod names;
mod nearness;
mod opaque;
mod origination;
mod outside;
mod patience;
mod pod;
mod policy;
mod retries;
mod routes;
mod rules;
mod script;
mod stop;
mod timeouts;
mod tunnel;
mod websocket;
