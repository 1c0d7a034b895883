//! Pure: how many requests there may be at one time, found out by how long answers take: more of them as
//! long as answers take no longer than usual, fewer when they have begun to wait for each other
//! (Netflix's concurrency-limits, Gradient2; with the median, the headroom and the looking anew of Envoy's
//! adaptive concurrency filter).
//! Never: the clock; more than the backend's own limit.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::limits::{Kind, Limits, Permit};

/// The fewest requests that there may always be.
pub const LEAST: u32 = 4;
/// The most that are found out.
pub const MOST: u32 = 1_000;
/// Where it begins.
const FIRST: u32 = 20;
/// How long answers are looked at together.
const WINDOW: Duration = Duration::from_millis(100);
/// How many of them there must be.
const FEWEST_ANSWERS: usize = 10;
/// How many of them are looked at.
const MOST_ANSWERS: usize = 256;
/// Answers that take so much longer than usual have not waited.
const TOLERANCE: f64 = 1.5;
/// The limit is at most halved by one window,
const LEAST_GRADIENT: f64 = 0.5;
/// and goes this part of the way.
const SMOOTHING: f64 = 0.2;
/// The same for what is usual.
const LEARNING: f64 = 0.2;
/// After so many windows in which requests may have waited for each other, half as many are let in for
/// a moment, to see how long an answer takes that waits for none.
const UNSEEN: u32 = 100;

/// A limit that is found out.
#[derive(Clone, Debug)]
pub struct Gradient {
    limit: f64,
    /// How long an answer takes that waits for no other, in seconds.
    usual: Option<f64>,
    window: Window,
    /// Windows since it was seen how long that is.
    unseen: u32,
    /// It is looked at: after so many answers to requests that came before.
    looking: Option<u32>,
}

/// What is looked at together.
#[derive(Clone, Debug, Default)]
struct Window {
    since: Option<Instant>,
    latencies: Vec<Duration>,
    /// The most requests there were at one time.
    busiest: u32,
}

impl Default for Gradient {
    fn default() -> Self {
        let (limit, window) = (f64::from(FIRST), Window::default());
        Self { limit, usual: None, window, unseen: 0, looking: None }
    }
}

impl Gradient {
    /// A place for one more request, if fewer are under way than this limit and `most` allow.
    pub fn admit(&mut self, limits: &Arc<Limits>, most: u32) -> Option<Permit> {
        let permit = limits.take(Kind::Request, most.min(self.limit()));
        self.window.busiest = self.window.busiest.max(limits.taken(Kind::Request));
        permit
    }

    /// An answer took so long.
    pub fn report(&mut self, latency: Duration, now: Instant) {
        if let Some(before) = self.looking.filter(|before| *before > 0) {
            self.looking = Some(before - 1);
            return;
        }
        let window = &mut self.window;
        let since = *window.since.get_or_insert(now);
        if window.latencies.len() < MOST_ANSWERS {
            window.latencies.push(latency);
        }
        let whole = now.saturating_duration_since(since) >= WINDOW;
        if !whole || window.latencies.len() < FEWEST_ANSWERS {
            return;
        }
        let Window { mut latencies, busiest, .. } = std::mem::take(window);
        let middle = latencies.len() / 2;
        let (_, median, _) = latencies.select_nth_unstable(middle);
        // Nothing takes no time.
        let latency = median.as_secs_f64().max(f64::EPSILON);
        match self.looking.take() {
            Some(_) => (self.usual, self.unseen) = (Some(latency), 0),
            None => self.learn(latency, busiest),
        }
    }

    /// An answer was waited for so long, in vain. Whose patience is shorter than what is usual says
    /// nothing of the service.
    pub fn gave_up(&mut self, waited: Duration, now: Instant) {
        if self.usual.is_some_and(|usual| waited.as_secs_f64() > usual) {
            self.report(waited, now);
        }
    }

    /// How many requests there may be.
    pub fn limit(&self) -> u32 {
        // It is between the two bounds.
        let limit = self.limit as u32;
        if self.looking.is_some() { (limit / 2).max(LEAST) } else { limit }
    }

    /// Goes a part of the way to the limit that a window asks for.
    fn learn(&mut self, latency: f64, busiest: u32) {
        let pressed = f64::from(busiest) * 2.0 >= self.limit;
        let usual = self.usual.get_or_insert(latency);
        // A queue that lasts must not become usual, or the limit would follow it for ever.
        if !pressed || latency < *usual {
            *usual += (latency - *usual) * LEARNING;
        }
        if !pressed {
            self.unseen = 0;
            return;
        }
        let gradient = (TOLERANCE * *usual / latency).clamp(LEAST_GRADIENT, 1.0);
        let wanted = self.limit * gradient + self.limit.sqrt();
        let limit = self.limit + (wanted - self.limit) * SMOOTHING;
        self.limit = limit.clamp(f64::from(LEAST), f64::from(MOST));
        self.unseen += 1;
        if self.unseen >= UNSEEN {
            self.looking = Some(busiest);
        }
    }
}
