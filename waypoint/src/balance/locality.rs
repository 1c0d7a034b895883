//! Pure: endpoints by where they are: levels of which the next stands in for one that fails, or shares
//! (`istio:pilot/pkg/networking/core/loadbalancer`).
//! Never: health (see `level`).
use std::collections::BTreeMap;

use culvert_agent::discovery::{Distribution, Workload};

use crate::backend::{CallPolicy, Endpoint, LocalityPolicy, Shares, label};

const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const NODE: &str = "kubernetes.io/hostname";

/// So many levels there are by place.
const PLACES: usize = 5;

/// Endpoints that are near or far alike, as groups with their shares.
pub type Level = Vec<Group>;

/// Endpoints that share a part of a level's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its weight among the level's groups.
    pub share: u32,
    /// Places in the list of endpoints.
    pub members: Vec<usize>,
}

/// The levels of a backend's endpoints, the nearest first, none of them empty. `here` is the waypoint,
/// where it is known; `distribution` what the service asks for.
pub fn levels(
    endpoints: &[Endpoint],
    policy: &CallPolicy,
    here: Option<&Workload>,
    distribution: Distribution,
) -> Vec<Level> {
    let setting = policy.load_balancer.locality.as_ref();
    let off = setting.is_some_and(|setting| setting.enabled == Some(false));
    let Some(here) = here.filter(|_| !off) else { return flat(endpoints) };
    if let Some(setting) = setting.filter(|setting| !setting.distribute.is_empty()) {
        // Where shares are given nothing else counts, also where none of them is ours.
        let shares = shares_of(setting, here);
        return shares.map_or_else(|| flat(endpoints), |shares| vec![shared(endpoints, shares)]);
    }
    // What a service asks for needs no detection of failures; what rules ask for does.
    let failover = policy.outlier_detection.is_some();
    let rank: Box<dyn Fn(&Workload) -> usize> = match (setting, distribution) {
        (None, Distribution::SameZone) => by_labels(&[NETWORK, REGION, ZONE], here),
        (None, Distribution::SameNode) => by_labels(&[NETWORK, REGION, ZONE, NODE], here),
        (Some(setting), _) if failover && !setting.failover_priority.is_empty() => {
            let labels: Vec<_> = setting.failover_priority.iter().map(|label| &**label).collect();
            let by_labels = by_labels(&labels, here);
            match setting.failover.is_empty() {
                true => by_labels,
                // Both: by place are those that labels make alike.
                false => {
                    let by_place = by_place(setting.clone(), here);
                    Box::new(move |workload: &Workload| {
                        PLACES * by_labels(workload) + by_place(workload)
                    })
                }
            }
        }
        (Some(setting), _) if failover => by_place(setting.clone(), here),
        (None, Distribution::Any | Distribution::OnlyNode) if failover => {
            by_place(LocalityPolicy::default(), here)
        }
        (Some(_), _) | (None, Distribution::Any | Distribution::OnlyNode) => {
            return flat(endpoints);
        }
    };
    let mut levels: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, endpoint) in endpoints.iter().enumerate() {
        levels.entry(rank(&endpoint.workload)).or_default().push(place);
    }
    levels.into_values().map(|members| vec![Group { share: 1, members }]).collect()
}

/// All alike.
fn flat(endpoints: &[Endpoint]) -> Vec<Level> {
    let members: Vec<_> = (0..endpoints.len()).collect();
    if members.is_empty() { Vec::new() } else { vec![vec![Group { share: 1, members }]] }
}

/// How many of these labels are not like ours, from the first that is not: 0 is nearest. `key=value`
/// compares with that value.
fn by_labels(labels: &[&str], here: &Workload) -> Box<dyn Fn(&Workload) -> usize> {
    let wanted: Vec<(String, Option<String>)> = labels
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => ((*text).to_owned(), label(here, text).map(str::to_owned)),
        })
        .collect();
    Box::new(move |workload| {
        let like = wanted
            .iter()
            .take_while(|(key, value)| label(workload, key) == value.as_deref())
            .count();
        wanted.len() - like
    })
}

/// By region and zone; the region that stands in for ours comes before others.
fn by_place(setting: LocalityPolicy, here: &Workload) -> Box<dyn Fn(&Workload) -> usize> {
    let own = here.locality.clone();
    let stand_in = setting.failover.into_iter().find(|(from, _)| *from == own.region);
    Box::new(move |workload| {
        let there = &workload.locality;
        match &stand_in {
            _ if *there == own || own.region.is_empty() => 0,
            _ if there.region == own.region => 2,
            Some((_, to)) if *to != there.region => 4,
            Some(_) | None => 3,
        }
    })
}

/// The shares of the first locality that is ours.
fn shares_of<'s>(setting: &'s LocalityPolicy, here: &Workload) -> Option<&'s Shares> {
    setting.distribute.iter().find(|shares| covers(&shares.from, here))
}

/// Each endpoint belongs to the most exact locality that it is in; those that are in none get nothing.
fn shared(endpoints: &[Endpoint], shares: &Shares) -> Level {
    let mut groups: Vec<_> = shares
        .to
        .iter()
        .map(|(to, share)| (to, Group { share: *share, members: Vec::new() }))
        .collect();
    groups.sort_by_key(|(to, _)| std::cmp::Reverse(exactness(to)));
    for (place, endpoint) in endpoints.iter().enumerate() {
        let own = groups.iter_mut().find(|(to, _)| covers(to, &endpoint.workload));
        if let Some((_, group)) = own {
            group.members.push(place);
        }
    }
    let groups = groups.into_iter().map(|(_, group)| group);
    groups.filter(|group| !group.members.is_empty()).collect()
}

/// How many parts of a locality are named.
fn exactness(locality: &str) -> usize {
    locality.split('/').filter(|part| *part != "*").count()
}

/// Whether a workload is in a locality, `region/zone/subzone`, of which parts may be `*` or missing.
fn covers(locality: &str, workload: &Workload) -> bool {
    let own = [&*workload.locality.region, &*workload.locality.zone];
    let mut parts = locality.split('/').take(own.len()).zip(own);
    parts.all(|(part, own)| part == "*" || part == own)
}
