//! Shell: per-CPU counters by reason.
//! Never: text, logs.
use culvert_ebpf::why::Why;

use super::maps::COUNTERS;

/// Counts one exit.
#[inline(always)]
pub(super) fn count(why: Why) {
    if let Some(counter) = COUNTERS.get_ptr_mut(why as u32) {
        // SAFETY: the slot belongs to this CPU, and the program is not preempted by itself.
        unsafe { *counter += 1 };
    }
}
