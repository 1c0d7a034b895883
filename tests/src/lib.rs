//! Front: the lab.
