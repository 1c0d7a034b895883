//! Front: what kernel and agent agree on. Built for the host as a library, and into the program.
//! Never: names aya, touches a map.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod abi;
pub mod decide;
pub mod flow;
pub mod why;
