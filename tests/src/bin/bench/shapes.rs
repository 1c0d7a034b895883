//! Pure: the kinds of work, what is measured of each, and what is aimed at.
use crate::plane::To;

/// A kind of work.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Of the load; none for what is measured otherwise.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) to: To,
    /// What is worth a row.
    pub(crate) rows: &'static [(Row, Option<Goal>)],
}

/// A figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// Median, microseconds.
    P50,
    /// 99th percentile, microseconds.
    P99,
    /// What the median is above that of plain TCP.
    AddedP50,
    /// What the 99th percentile is above that of plain TCP.
    AddedP99,
    /// Operations per second.
    Rate,
    /// Gigabits per second.
    Throughput,
    /// What is missing of the throughput of the shape [`HEALTHY`], per cent.
    Lost,
    /// CPU time of both agents per operation, microseconds.
    AgentsPerOperation,
    /// CPU time of the machine per operation, microseconds.
    MachinePerOperation,
    /// CPU time of both agents per gigabyte, seconds.
    AgentsPerGigabyte,
    /// CPU time of the machine per gigabyte, seconds.
    MachinePerGigabyte,
    /// Resident memory of both agents, MB.
    Memory,
    /// The agents' own memory (its proportional share of what is shared): MB.
    Idle,
    /// The same, of both agents, for each connection more: KB.
    PerConnection,
    /// The same, of the agent of the pods' node, for each pod more: KB.
    PerPod,
    /// Growth of both agents' resident memory, per cent.
    Growth,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// So many times what the peer has: at most, or at least where more is better.
    OfPeer(f64),
    /// So many times what plain TCP has.
    OfPlain(f64),
    /// Not more than this.
    AtMost(f64),
    /// Not further above plain TCP than the middle half of the turns of plain TCP is wide.
    LikePlain,
}

use Goal::{AtMost, LikePlain, OfPeer, OfPlain};
use Row::{
    AddedP50, AddedP99, AgentsPerGigabyte, AgentsPerOperation, Growth, Idle, Lost,
    MachinePerGigabyte, MachinePerOperation, Memory, P50, P99, PerConnection, PerPod, Rate,
    Throughput,
};

type Rows = &'static [(Row, Option<Goal>)];

const ONE_AT_A_TIME: Rows = &[
    (P50, None),
    (P99, None),
    (AddedP50, Some(OfPeer(0.5))),
    (AddedP99, Some(OfPeer(0.5))),
    (AgentsPerOperation, None),
    (MachinePerOperation, None),
    (Memory, None),
];
const BUSY: Rows = &[
    (Rate, None),
    (P50, None),
    (P99, None),
    (AgentsPerOperation, Some(OfPeer(0.4))),
    (MachinePerOperation, None),
    (Memory, None),
];
const LARGE: Rows = &[
    (Rate, None),
    (P50, None),
    (P99, None),
    (AgentsPerOperation, None),
    (MachinePerOperation, None),
    (Memory, None),
];
const NEW: Rows = &[
    (Rate, Some(OfPeer(2.0))),
    (P50, None),
    (P99, None),
    (AgentsPerOperation, Some(OfPeer(0.4))),
    (MachinePerOperation, None),
    (Memory, None),
];
const BULK: Rows = &[
    (Throughput, Some(OfPeer(1.8))),
    (AgentsPerGigabyte, Some(OfPeer(0.5))),
    (MachinePerGigabyte, Some(OfPeer(0.6))),
    (Memory, None),
];
const BESIDE: Rows = &[(Throughput, None), (Lost, Some(AtMost(5.0))), (Memory, None)];

/// What [`Lost`] compares with.
pub(crate) const HEALTHY: &str = "bulk down, 15 streams beside one that reads as fast";
/// What a pod pays that talks to somebody else.
pub(crate) const OUTSIDE: &str = "connect() to a destination outside the mesh";
pub(crate) const IDLE: &str = "memory, idle";
pub(crate) const HELD: &str = "memory, 1,000 connections held";
pub(crate) const ENROLLED: &str = "memory, 50 more pods enrolled";
pub(crate) const ENDED: &str = "memory, 60 s after 10,000 connections ended";

const fn far(name: &'static str, arguments: &'static [&'static str], rows: Rows) -> Shape {
    Shape { name, arguments, to: To::OtherNode, rows }
}

const fn near(name: &'static str, arguments: &'static [&'static str], rows: Rows) -> Shape {
    Shape { name, arguments, to: To::SameNode, rows }
}

pub(crate) const SHAPES: &[Shape] = &[
    far("round trips, 128 B, 1 connection", &["pingpong", "--conns", "1"], ONE_AT_A_TIME),
    far("round trips, 128 B, 16 connections", &["pingpong", "--conns", "16"], BUSY),
    far("round trips, 128 B, 64 connections", &["pingpong", "--conns", "64"], BUSY),
    far(
        "round trips, 128 B, 1,000 a second over 16 connections",
        &["pingpong", "--conns", "16", "--rate", "1000"],
        // The machine's own account is too coarse for so little work.
        &[(P50, None), (P99, None), (AgentsPerOperation, None), (Memory, None)],
    ),
    far(
        "round trips, 16 KiB, 4 connections",
        &["pingpong", "--conns", "4", "--size", "16384"],
        LARGE,
    ),
    far("bulk up, 1 stream", &["stream", "--conns", "1"], BULK),
    far("bulk up, 8 streams", &["stream", "--conns", "8"], BULK),
    far("bulk down, 1 stream", &["stream", "--conns", "1", "--down"], BULK),
    far("bulk down, 8 streams", &["stream", "--conns", "8", "--down"], BULK),
    far("new connections, 1 client", &["rate", "--conns", "1"], NEW),
    far("new connections, 16 clients", &["rate", "--conns", "16"], NEW),
    far(
        HEALTHY,
        &["stream", "--conns", "15", "--down", "--beside", "busy"],
        &[(Throughput, None), (Memory, None)],
    ),
    far(
        "bulk down, 15 streams beside one that reads slowly",
        &["stream", "--conns", "15", "--down", "--beside", "slow"],
        BESIDE,
    ),
    far(
        "bulk down, 15 streams beside one that does not read",
        &["stream", "--conns", "15", "--down", "--beside", "stalled"],
        BESIDE,
    ),
    near(
        "same node: round trips, 128 B, 1 connection",
        &["pingpong", "--conns", "1"],
        &[
            (Rate, Some(OfPlain(0.95))),
            (P50, None),
            (P99, None),
            (AgentsPerOperation, None),
            (MachinePerOperation, None),
            (Memory, None),
        ],
    ),
    near(
        "same node: bulk up, 1 stream",
        &["stream", "--conns", "1"],
        &[
            (Throughput, Some(OfPlain(0.95))),
            (AgentsPerGigabyte, None),
            (MachinePerGigabyte, None),
            (Memory, None),
        ],
    ),
    far(OUTSIDE, &[], &[(P50, Some(LikePlain))]),
    far(IDLE, &[], &[(Idle, Some(OfPeer(0.5)))]),
    far(HELD, &[], &[(PerConnection, Some(OfPeer(0.5))), (Memory, None)]),
    far(ENROLLED, &[], &[(PerPod, Some(OfPeer(0.5))), (Memory, None)]),
    far(ENDED, &[], &[(Growth, Some(AtMost(10.0))), (Memory, None)]),
];

impl Shape {
    /// Whether it is measured on all planes in turns; memory is measured on fresh ones.
    pub(crate) fn needs_planes(&self) -> bool {
        !self.arguments.is_empty() || self.name == OUTSIDE
    }
}

impl Row {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50, µs",
            Self::P99 => "p99, µs",
            Self::AddedP50 => "added to plain TCP's p50, µs",
            Self::AddedP99 => "added to plain TCP's p99, µs",
            Self::Rate => "per second",
            Self::Throughput => "Gbit/s",
            Self::Lost => "lost by the 15, %",
            Self::AgentsPerOperation => "agents' CPU each, µs",
            Self::MachinePerOperation => "machine's CPU each, µs",
            Self::AgentsPerGigabyte => "agents' CPU per GB, s",
            Self::MachinePerGigabyte => "machine's CPU per GB, s",
            Self::Memory => "agents' memory (RSS), MB",
            Self::Idle => "agents' memory (PSS), MB",
            Self::PerConnection => "for each connection (PSS), KB",
            Self::PerPod => "for each pod (PSS), KB",
            Self::Growth => "growth of RSS, %",
        }
    }

    pub(crate) const fn more_is_better(self) -> bool {
        matches!(self, Self::Rate | Self::Throughput)
    }

    /// Whether a quotient of two such figures means anything: those that are differences of larger
    /// ones in per cent may be nothing, or less.
    pub(crate) const fn has_ratio(self) -> bool {
        !matches!(self, Self::Lost | Self::Growth)
    }
}
