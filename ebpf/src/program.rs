//! Front: one file per kernel hook. The only place with unsafe code: the kernel's contexts are
//! raw pointers, and the verifier checks every access before the program may run.
mod connect;
mod count;
mod flow;
mod maps;
mod peer;
mod sockops;
mod steer;
