//! Pure: the blocks of a traffic policy → what they mean, with Istio's defaults.
//! Never: inheritance (see `policy`).
use std::sync::Arc;

use super::{
    destination_rule::{
        ClientTls, ConnectionPool, ConsistentHash, Failover, H2UpgradePolicy, LoadBalancer,
        OutlierDetection, ProxyProtocol, ProxyVersion, RetryBudget, SimpleLb, TlsMode, Tunnel,
    },
    time::Time,
};
use crate::backend::model as made;

/// Failures before an answer in a row, unless given.
const LOCAL_FAILURES: u32 = 5;
/// The share that a new endpoint begins with, unless given, percent.
const WARMUP_PERCENT: f64 = 10.0;
/// Endpoints that zone-aware balancing needs, unless given (Envoy).
const ZONE_AWARE_ENDPOINTS: u64 = 6;
/// Retries that a budget always has room for, unless given.
const MIN_RETRIES: u32 = 3;
/// Share of requests that may be retries, unless given, percent.
const RETRY_PERCENT: f64 = 20.0;

pub(super) fn load_balancer(balancer: &LoadBalancer) -> made::LoadBalancer {
    let hash = balancer.consistent_hash.as_ref().and_then(consistent_hash);
    let algorithm = hash.unwrap_or(match balancer.simple {
        None | Some(SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest) => {
            made::Algorithm::LeastRequest
        }
        Some(SimpleLb::Random) => made::Algorithm::Random,
        Some(SimpleLb::Passthrough) => made::Algorithm::Passthrough,
        Some(SimpleLb::RoundRobin) => made::Algorithm::RoundRobin,
    });
    let warmup = balancer.warmup.as_ref().and_then(|warmup| {
        Some(made::Warmup {
            duration: warmup.duration?.0,
            minimum_percent: warmup.minimum_percent.unwrap_or(WARMUP_PERCENT),
            aggression: warmup.aggression.unwrap_or(1.0),
        })
    });
    let old = balancer.warmup_duration_secs.map(|duration| made::Warmup {
        duration: duration.0,
        minimum_percent: WARMUP_PERCENT,
        aggression: 1.0,
    });
    made::LoadBalancer { algorithm, locality: locality(balancer), warmup: warmup.or(old) }
}

fn locality(balancer: &LoadBalancer) -> Option<made::LocalityPolicy> {
    let failover = |all: &[Failover]| {
        all.iter().map(|f| (f.from.as_str().into(), f.to.as_str().into())).collect()
    };
    let labels = |all: &[String]| all.iter().map(|label| label.as_str().into()).collect();
    if let Some(zones) = &balancer.zone_aware_lb_setting {
        return Some(made::LocalityPolicy {
            enabled: zones.enabled,
            distribute: Vec::new(),
            failover: failover(&zones.failover),
            failover_priority: labels(&zones.failover_priority),
            zone_aware: Some(zones.min_cluster_size.unwrap_or(ZONE_AWARE_ENDPOINTS)),
        });
    }
    let locality = balancer.locality_lb_setting.as_ref()?;
    let distribute = locality.distribute.iter().map(|share| {
        let to = share.to.iter().map(|(to, weight)| (to.as_str().into(), *weight));
        made::Shares { from: share.from.as_str().into(), to: to.collect() }
    });
    Some(made::LocalityPolicy {
        enabled: locality.enabled,
        distribute: distribute.collect(),
        failover: failover(&locality.failover),
        failover_priority: labels(&locality.failover_priority),
        zone_aware: None,
    })
}

/// `None` when no key is given: then nothing is hashed.
fn consistent_hash(hash: &ConsistentHash) -> Option<made::Algorithm> {
    let text = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(Arc::from);
    let cookie = hash.http_cookie.as_ref().map(|cookie| made::Cookie {
        name: cookie.name.as_str().into(),
        path: cookie.path.as_str().into(),
        ttl: cookie.ttl.map(|ttl| ttl.0),
        attributes: cookie
            .attributes
            .iter()
            .map(|a| (a.name.as_str().into(), a.value.as_str().into()))
            .collect(),
    });
    let header = text(&hash.http_header_name).map(made::HashKey::Header);
    let query = text(&hash.http_query_parameter_name).map(made::HashKey::Query);
    let source = hash.use_source_ip.filter(|used| *used).map(|_| made::HashKey::SourceIp);
    let key = header.or(cookie.map(made::HashKey::Cookie)).or(source).or(query)?;
    let ring = hash.ring_hash.as_ref().map_or(hash.minimum_ring_size, |r| r.minimum_ring_size);
    let table = match &hash.maglev {
        Some(maglev) => made::HashTable::Maglev(maglev.table_size),
        None if ring == 0 => made::HashTable::Ring(made::HashTable::RING),
        None => made::HashTable::Ring(ring),
    };
    Some(made::Algorithm::ConsistentHash { key, table })
}

/// Zero means the default for every number of `connectionPool`.
pub(super) fn pool(pool: &ConnectionPool) -> made::ConnectionPool {
    let given = |number: i32| u32::try_from(number).ok().filter(|number| *number > 0);
    let limit = |number: i32| given(number).unwrap_or(made::ConnectionPool::UNLIMITED);
    let mut made = made::ConnectionPool::default();
    let nonzero = |time: Time| time.nonzero();
    if let Some(tcp) = &pool.tcp {
        made.max_connections = limit(tcp.max_connections);
        made.connect_timeout = tcp.connect_timeout.map_or(made.connect_timeout, |time| time.0);
        made.max_connection_duration = tcp.max_connection_duration.map(|time| time.0);
        made.tcp_idle_timeout = tcp.idle_timeout.map_or(made.tcp_idle_timeout, nonzero);
        // It stands for requests too, unless they have their own.
        made.http_idle_timeout = made.tcp_idle_timeout;
        made.keepalive = tcp.tcp_keepalive.as_ref().map(|keepalive| made::Keepalive {
            probes: Some(keepalive.probes).filter(|probes| *probes > 0),
            time: keepalive.time.map(|time| time.0),
            interval: keepalive.interval.map(|time| time.0),
        });
    }
    if let Some(http) = &pool.http {
        made.max_pending_requests = limit(http.http1_max_pending_requests);
        made.max_requests = limit(http.http2_max_requests);
        made.max_requests_per_connection = given(http.max_requests_per_connection);
        made.max_retries = limit(http.max_retries);
        made.http_idle_timeout = http.idle_timeout.map_or(made.http_idle_timeout, nonzero);
        made.upgrade = match http.h2_upgrade_policy {
            H2UpgradePolicy::Upgrade => made::Upgrade::Http2,
            _ if http.use_client_protocol => made::Upgrade::LikeClient,
            H2UpgradePolicy::Default | H2UpgradePolicy::DoNotUpgrade => made::Upgrade::No,
        };
        let streams = given(http.max_concurrent_streams);
        made.max_concurrent_streams = streams.unwrap_or(made::ConnectionPool::MAX_STREAMS);
        made.http2_keepalive = http.http2_keep_alive.as_ref().and_then(|keepalive| {
            let (interval, timeout) = (keepalive.interval?.0, keepalive.timeout?.0);
            Some(made::Http2Keepalive { interval, timeout })
        });
    }
    made
}

pub(super) fn outlier(outlier: &OutlierDetection) -> made::OutlierDetection {
    let defaults = made::OutlierDetection::default();
    let percent = |number: i32| u32::try_from(number).ok().filter(|number| *number > 0);
    let split = outlier.split_external_local_origin_errors;
    // Istio hands on no 0, so Envoy's own number stays.
    let local = outlier.consecutive_local_origin_failures.filter(|failures| *failures > 0);
    let codes = &outlier.outlier_detection_http_error_codes;
    made::OutlierDetection {
        consecutive_5xx: outlier
            .consecutive_5xx_errors
            .map_or(defaults.consecutive_5xx, |errors| Some(errors).filter(|errors| *errors > 0)),
        consecutive_gateway: outlier.consecutive_gateway_errors.filter(|errors| *errors > 0),
        consecutive_local: split.then(|| local.unwrap_or(LOCAL_FAILURES)),
        split_local: split,
        interval: outlier.interval.map_or(defaults.interval, |time| time.0),
        base_ejection_time: outlier.base_ejection_time.map_or(defaults.base_ejection_time, |t| t.0),
        max_ejection_percent: percent(outlier.max_ejection_percent)
            .unwrap_or(defaults.max_ejection_percent),
        min_health_percent: percent(outlier.min_health_percent).unwrap_or_default(),
        http_error_codes: codes.iter().filter_map(|code| u16::try_from(*code).ok()).collect(),
    }
}

pub(super) fn tls(tls: &ClientTls) -> made::ClientTls {
    let text =
        |text: &String| Some(Arc::<str>::from(text.as_str())).filter(|text| !text.is_empty());
    made::ClientTls {
        mode: match tls.mode {
            TlsMode::Disable => made::TlsMode::Disable,
            TlsMode::Simple => made::TlsMode::Simple,
            TlsMode::Mutual => made::TlsMode::Mutual,
            TlsMode::IstioMutual => made::TlsMode::IstioMutual,
        },
        certificate: text(&tls.client_certificate).zip(text(&tls.private_key)),
        ca_certificates: text(&tls.ca_certificates),
        credential_name: text(&tls.credential_name),
        subject_alt_names: tls.subject_alt_names.iter().map(|name| name.as_str().into()).collect(),
        sni: text(&tls.sni),
        insecure_skip_verify: tls.insecure_skip_verify == Some(true),
        ca_crl: text(&tls.ca_crl),
    }
}

pub(super) fn tunnel(tunnel: &Tunnel) -> Option<made::Tunnel> {
    Some(made::Tunnel {
        post: tunnel.protocol == "POST",
        host: tunnel.target_host.as_str().into(),
        port: u16::try_from(tunnel.target_port).ok()?,
    })
}

pub(super) fn proxy(proxy: &ProxyProtocol) -> made::ProxyVersion {
    match proxy.version {
        ProxyVersion::V1 => made::ProxyVersion::V1,
        ProxyVersion::V2 => made::ProxyVersion::V2,
    }
}

pub(super) fn budget(budget: &RetryBudget) -> made::RetryBudget {
    made::RetryBudget {
        percent: budget.percent.unwrap_or(RETRY_PERCENT),
        min_retry_concurrency: budget.min_retry_concurrency.unwrap_or(MIN_RETRIES),
        interval: budget.budget_interval.and_then(Time::nonzero),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_are_told_apart_count_to_five_unless_given() {
        for (split, given, made) in [
            (true, None, Some(5)),
            (true, Some(0), Some(5)),
            (true, Some(2), Some(2)),
            (false, None, None),
        ] {
            let detection = outlier(&OutlierDetection {
                split_external_local_origin_errors: split,
                consecutive_local_origin_failures: given,
                ..OutlierDetection::default()
            });
            assert_eq!(detection.consecutive_local, made, "{given:?}");
        }
    }
}
