//! Shell: arguments, and what `app` makes of them.
#![forbid(unsafe_code)]

fn main() {}
