//! Front: the optional HTTP proxy of a service or namespace. It routes nothing yet.
#![forbid(unsafe_code)]
