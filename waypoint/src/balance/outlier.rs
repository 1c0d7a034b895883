//! Pure: when an endpoint that fails is left out, and when it returns
//! (`envoy:source/common/upstream/outlier_detection_impl.cc`).
//! Never: the clock; which endpoints there are (see `balancer`).
use std::time::{Duration, Instant};

use crate::{
    backend::OutlierDetection,
    grpc,
    outcome::{Answered, Failure, Late, Outcome},
};

/// The longest time out, unless the first one is longer (Envoy's `max_ejection_time`).
const LONGEST: Duration = Duration::from_secs(300);
/// The shortest pause between sweeps.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// How one endpoint does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Runs of failures, of each kind.
    server: u32,
    gateway: u32,
    local: u32,
    /// How many bases the last time out lasted, less what was forgiven.
    multiplier: u32,
    ejected: Option<Instant>,
    returned: Option<Instant>,
}

/// What an outcome says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It answered, with this status.
    Status(u16),
    /// It was reached, or not, without an answer: this status stands for it.
    Local(u16),
    /// Nothing.
    Silence,
}

impl Word {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Opened => Self::Local(200),
            Outcome::Answered(Answered { grpc: Some(call), .. }) => {
                Self::Status(grpc::as_http(*call))
            }
            Outcome::Answered(Answered { status, grpc: None, .. }) => Self::Status(status.as_u16()),
            Outcome::Late(Late::Try | Late::Request) => Self::Local(504),
            Outcome::Late(Late::Client) => Self::Silence,
            Outcome::Failed { failure, .. } | Outcome::Cut(failure) => match failure {
                // Not the endpoint's: what we or the client broke, or a policy says to us all.
                Failure::Unmet(_) | Failure::Overflow | Failure::Request | Failure::Denied => {
                    Self::Silence
                }
                Failure::ConnectTimeout => Self::Local(504),
                Failure::Absent(_)
                | Failure::Tls(_)
                | Failure::Connect(_)
                | Failure::Terminated
                | Failure::Reset
                | Failure::Refused
                | Failure::Protocol => Self::Local(503),
            },
        }
    }
}

impl Standing {
    /// Whether it is left out.
    pub fn is_ejected(&self) -> bool {
        self.ejected.is_some()
    }

    /// Whether nothing will change unless something is heard.
    pub fn is_quiet(&self) -> bool {
        self.ejected.is_none() && self.multiplier == 0
    }

    /// The longest of its runs of failures.
    pub fn failures(&self) -> u32 {
        self.server.max(self.gateway).max(self.local)
    }

    /// From when on it may return, at the first sweep.
    pub fn until(&self, settings: &OutlierDetection) -> Option<Instant> {
        self.ejected.map(|since| since + time_out(settings, self.multiplier))
    }

    /// Hears of an attempt; whether it has failed too often in a row. Its count then begins anew.
    pub fn hear(&mut self, outcome: &Outcome, settings: &OutlierDetection) -> bool {
        match Word::of(outcome) {
            Word::Silence => false,
            Word::Local(200) if settings.split_local => {
                self.local = 0;
                false
            }
            Word::Local(_) if settings.split_local => {
                reached(&mut self.local, settings.consecutive_local)
            }
            Word::Local(status) => self.status(status, settings),
            Word::Status(status) => {
                self.local = 0;
                self.status(status, settings)
            }
        }
    }

    fn status(&mut self, status: u16, settings: &OutlierDetection) -> bool {
        let named = settings.http_error_codes.contains(&status);
        if status < 500 && !named {
            (self.server, self.gateway) = (0, 0);
            return false;
        }
        let gateway = match status {
            502..=504 => reached(&mut self.gateway, settings.consecutive_gateway),
            _ => {
                self.gateway = 0;
                false
            }
        };
        // Both are counted, whatever the first says.
        reached(&mut self.server, settings.consecutive_5xx) || gateway
    }

    /// Leaves it out.
    pub fn eject(&mut self, now: Instant, settings: &OutlierDetection) {
        self.ejected = Some(now);
        let base = settings.base_ejection_time;
        if base.saturating_mul(self.multiplier) < LONGEST.max(base) + base {
            self.multiplier = self.multiplier.saturating_add(1);
        }
    }

    /// A sweep looks at it; whether it returns.
    pub fn sweep(&mut self, now: Instant, settings: &OutlierDetection) -> bool {
        let Some(until) = self.until(settings) else {
            let since = |returned| now.saturating_duration_since(returned);
            if self.returned.is_none_or(|returned| since(returned) >= settings.interval) {
                self.multiplier = self.multiplier.saturating_sub(1);
            }
            return false;
        };
        if now < until {
            return false;
        }
        *self = Self { multiplier: self.multiplier, returned: Some(now), ..Self::default() };
        true
    }
}

/// Whether a run of failures has its full length; then it begins anew.
fn reached(run: &mut u32, most: Option<u32>) -> bool {
    *run = run.saturating_add(1);
    let full = most.is_some_and(|most| *run >= most);
    if full {
        *run = 0;
    }
    full
}

/// How long the time out lasts: it grows by a base each time, to a bound.
fn time_out(settings: &OutlierDetection, multiplier: u32) -> Duration {
    let base = settings.base_ejection_time;
    base.saturating_mul(multiplier).min(LONGEST.max(base))
}

/// Whether one more of `hosts` may be left out when `ejected` are.
pub fn may_eject(ejected: usize, hosts: usize, settings: &OutlierDetection) -> bool {
    let most = settings.max_ejection_percent.min(100) as usize;
    100 * (ejected + 1) <= most * hosts
}

/// The pause between two sweeps.
pub fn interval(settings: &OutlierDetection) -> Duration {
    settings.interval.max(SHORTEST_INTERVAL)
}
