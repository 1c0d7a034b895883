//! Front: who may connect to whom. Policies as data, and one evaluator.
pub mod authorize;
pub mod model;

pub use authorize::{Allowed, Asked, Decided, Denied, Guard, Verdict, authorize, noted};
pub use model::{
    Action, Attached, Clause, Condition, Mode, Pattern, PeerAuthentication, Policy, Rule, Scope,
    Selector, Target, Test,
};
