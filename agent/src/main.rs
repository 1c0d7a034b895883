//! Shell: arguments, logging, `app::run`.
#![forbid(unsafe_code)]

fn main() {}
