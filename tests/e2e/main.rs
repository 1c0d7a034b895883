//! The promises that Culvert makes, kept end to end. Each test is one.
#![forbid(unsafe_code)]

mod capture;
