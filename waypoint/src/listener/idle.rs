//! Shell: when something has carried nothing for long.
//! Never: knows what it is.
use std::time::Duration;

use tokio::time::sleep;

/// What is open between a client and an endpoint ends when it has carried nothing for this long, at most
/// a quarter longer (Envoy's and Istio's `idleTimeout`).
pub const IDLE: Duration = Duration::from_secs(3600);

/// Looks within the time that something may carry nothing.
const LOOKS: u32 = 4;

/// Waits until `moved`, which counts, has not changed for `patience`, at most a quarter longer.
pub async fn idle(moved: impl Fn() -> u64, patience: Duration) {
    let (mut before, mut quiet) = (moved(), 0);
    while quiet < LOOKS {
        sleep(patience / LOOKS).await;
        let now = moved();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    async fn moving(moved: &Cell<u64>) {
        for _ in 0..10 {
            sleep(IDLE * 3 / 4).await;
            moved.set(moved.get() + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_now_and_then_is_not_idle() {
        let moved = Cell::new(0);
        tokio::select! {
            () = idle(|| moved.get(), IDLE) => panic!("it moved"),
            () = moving(&moved) => {}
        }
        assert!(timeout(IDLE * 5 / 4, idle(|| moved.get(), IDLE)).await.is_ok());
    }
}
