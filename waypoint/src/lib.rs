//! Front: the optional HTTP proxy of a service or namespace, its rooms in layer order
//! (docs/architecture.md), and what the operator's command line is made of.
//! A room may import only rooms above it in this list.
#![forbid(unsafe_code)]

pub mod path;

pub mod grpc;

pub mod routing;

pub mod backend;

pub mod manifest;

pub mod outcome;

pub mod balance;
pub mod body;
pub mod retry;

pub mod places;

pub mod listener;

pub mod upstream;

pub mod mesh;

pub mod record;

pub mod attachment;
pub mod resolver;

pub mod exchange;

pub mod entrance;

pub mod config;
pub mod dump;

pub mod explain;

pub mod operators;

pub mod app;

pub mod analyze;

pub mod admin;
pub mod table;

pub mod connections;
pub mod health;
pub mod rules;
pub mod status;
