//! Pure: which DestinationRules make sense (`ValidateDestinationRule`).
//! Never: other objects.
use std::{collections::BTreeSet, net::IpAddr};

use super::{
    super::{
        destination_rule::{
            ClientTls, ConnectionPool, ConsistentHash, DestinationRule, Failover, HttpSettings,
            LoadBalancer, LocalityLb, OutlierDetection, TcpSettings, TlsMode, TrafficPolicy,
            Tunnel, ZoneAwareLb,
        },
        finding::Findings,
        time::Time,
    },
    names,
};
use crate::backend::HashTable;

/// Labels of a place, which say the same as regions and zones do.
const PLACES: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Everything that is wrong with a DestinationRule of this namespace.
pub(in super::super) fn destination_rule(
    object: &DestinationRule,
    namespace: &str,
    findings: &mut Findings,
) {
    findings.check("/spec/host", names::wildcard_domain(&object.host));
    if let Some(policy) = &object.traffic_policy {
        traffic_policy("/spec/trafficPolicy", policy, findings);
    }
    let mut seen = BTreeSet::new();
    for (index, subset) in object.subsets.iter().enumerate() {
        let at = format!("/spec/subsets/{index}");
        if !seen.insert(&subset.name) {
            findings.invalid(&at, format!("duplicate subset names: {}", subset.name));
        }
        findings.check(&format!("{at}/name"), names::subset(&subset.name));
        names::labels(&format!("{at}/labels"), &subset.labels, findings);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&format!("{at}/trafficPolicy"), policy, findings);
        }
    }
    names::export_to("/spec/exportTo", namespace, &object.export_to, findings);
    if object.workload_selector.is_some() {
        let text = "workloadSelector is for proxies beside their applications: waypoints do not look at this rule";
        findings.discouraged("/spec/workloadSelector", text);
        selected(object, namespace, findings);
    }
}

fn selected(object: &DestinationRule, namespace: &str, findings: &mut Findings) {
    let own = |entry: &String| entry == "." || entry == namespace;
    if object.export_to.is_empty() {
        return;
    }
    if !object.export_to.iter().any(own) {
        let text =
            "destination rule with workload selector cannot have exportTo beyond current namespace";
        findings.invalid("/spec/exportTo", text);
    } else if object.export_to.len() > 1 {
        let text =
            "destination rule with workload selector cannot have multiple entries in exportTo";
        findings.invalid("/spec/exportTo", text);
    }
}

fn traffic_policy(at: &str, policy: &TrafficPolicy, findings: &mut Findings) {
    if *policy == TrafficPolicy::default() {
        return findings.invalid(at, "traffic policy must have at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        return findings.invalid(at, "tunnel and proxyProtocol must not be set together");
    }
    let outlier = policy.outlier_detection.as_ref();
    blocks(at, (policy.load_balancer.as_ref(), policy.connection_pool.as_ref()), outlier, findings);
    if let Some(tls) = &policy.tls {
        client_tls(&format!("{at}/tls"), tls, findings);
    }
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let at = format!("{at}/portLevelSettings/{index}");
        match port.port {
            Some(selector) => {
                findings.check(&format!("{at}/port/number"), names::port(selector.number))
            }
            None => findings.invalid(&at, "portTrafficPolicy must have valid port"),
        }
        let outlier = port.outlier_detection.as_ref();
        let (balancer, pool) = (port.load_balancer.as_ref(), port.connection_pool.as_ref());
        if balancer.is_none() && pool.is_none() && outlier.is_none() && port.tls.is_none() {
            findings.invalid(&at, "port traffic policy must have at least one field");
        }
        blocks(&at, (balancer, pool), outlier, findings);
        if let Some(tls) = &port.tls {
            client_tls(&format!("{at}/tls"), tls, findings);
        }
    }
    if let Some(tunnel) = &policy.tunnel {
        self::tunnel(&format!("{at}/tunnel"), tunnel, findings);
    }
    if let Some(percent) = policy.retry_budget.as_ref().and_then(|budget| budget.percent)
        && !(0.0..=100.0).contains(&percent)
    {
        let text = format!("percentage {percent} is not in range 0..100");
        findings.invalid(&format!("{at}/retryBudget/percent"), text);
    }
}

fn blocks(
    at: &str,
    (balancer, pool): (Option<&LoadBalancer>, Option<&ConnectionPool>),
    outlier: Option<&OutlierDetection>,
    findings: &mut Findings,
) {
    if let Some(outlier) = outlier {
        outlier_detection(&format!("{at}/outlierDetection"), outlier, findings);
    }
    if let Some(pool) = pool {
        connection_pool(&format!("{at}/connectionPool"), pool, findings);
    }
    if let Some(balancer) = balancer {
        load_balancer(&format!("{at}/loadBalancer"), balancer, outlier.is_some(), findings);
    }
}

fn tunnel(at: &str, tunnel: &Tunnel, findings: &mut Findings) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        let text = "tunnel protocol must be \"CONNECT\" or \"POST\"";
        findings.invalid(&format!("{at}/protocol"), text);
    }
    if let Err(error) = names::domain(&tunnel.target_host)
        && tunnel.target_host.parse::<IpAddr>().is_err()
    {
        let text = format!("tunnel target host must be valid FQDN or IP address: {error}");
        findings.invalid(&format!("{at}/targetHost"), text);
    }
    if let Err(error) = names::port(tunnel.target_port) {
        findings.invalid(
            &format!("{at}/targetPort"),
            format!("tunnel target port is invalid: {error}"),
        );
    }
}

fn duration(at: &str, time: Option<Time>, findings: &mut Findings) {
    if let Some(time) = time {
        findings.check(at, time.check());
    }
}

fn outlier_detection(at: &str, outlier: &OutlierDetection, findings: &mut Findings) {
    duration(&format!("{at}/baseEjectionTime"), outlier.base_ejection_time, findings);
    duration(&format!("{at}/interval"), outlier.interval, findings);
    if outlier.consecutive_errors != 0 {
        let text = "outlier detection consecutive errors is deprecated, use consecutiveGatewayErrors or consecutive5xxErrors instead";
        findings.discouraged(&format!("{at}/consecutiveErrors"), text);
    }
    let local = outlier.consecutive_local_origin_failures.is_some_and(|failures| failures > 0);
    if local && !outlier.split_external_local_origin_errors {
        let text = "outlier detection consecutive local origin failures is specified, but split external local origin errors is set to false";
        findings.invalid(&format!("{at}/consecutiveLocalOriginFailures"), text);
    }
    for (field, percent) in [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ] {
        if !(0..=100).contains(&percent) {
            let text = format!("percentage {percent} is not in range 0..100");
            findings.invalid(&format!("{at}/{field}"), text);
        }
    }
    for (index, code) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(code) {
            let text = format!("HTTP status {code} is not in range 100-599");
            findings.invalid(&format!("{at}/outlierDetectionHttpErrorCodes/{index}"), text);
        }
    }
}

fn connection_pool(at: &str, pool: &ConnectionPool, findings: &mut Findings) {
    if pool.http.is_none() && pool.tcp.is_none() {
        return findings.invalid(at, "connection pool must have at least one field");
    }
    if let Some(http) = &pool.http {
        http_settings(&format!("{at}/http"), http, findings);
    }
    if let Some(tcp) = &pool.tcp {
        tcp_settings(&format!("{at}/tcp"), tcp, findings);
    }
}

fn http_settings(at: &str, http: &HttpSettings, findings: &mut Findings) {
    for (field, text, number) in [
        ("http1MaxPendingRequests", "http1 max pending requests", http.http1_max_pending_requests),
        ("http2MaxRequests", "http2 max requests", http.http2_max_requests),
        (
            "maxRequestsPerConnection",
            "max requests per connection",
            http.max_requests_per_connection,
        ),
        ("maxRetries", "max retries", http.max_retries),
        ("maxConcurrentStreams", "max concurrent streams", http.max_concurrent_streams),
    ] {
        if number < 0 {
            findings.invalid(&format!("{at}/{field}"), format!("{text} must be non-negative"));
        }
    }
    duration(&format!("{at}/idleTimeout"), http.idle_timeout, findings);
    let upgrade = super::super::destination_rule::H2UpgradePolicy::Upgrade;
    if http.h2_upgrade_policy == upgrade && http.use_client_protocol {
        let text = "use client protocol must not be true when H2UpgradePolicy is UPGRADE";
        findings.invalid(&format!("{at}/useClientProtocol"), text);
    }
    let Some(keepalive) = &http.http2_keep_alive else { return };
    for (field, time) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
        let at = format!("{at}/http2KeepAlive");
        match time {
            Some(time) => findings.check(&format!("{at}/{field}"), time.check()),
            None => findings.invalid(&at, format!("http2 keepalive {field} is required")),
        }
    }
}

fn tcp_settings(at: &str, tcp: &TcpSettings, findings: &mut Findings) {
    if tcp.max_connections < 0 {
        findings.invalid(&format!("{at}/maxConnections"), "max connections must be non-negative");
    }
    duration(&format!("{at}/connectTimeout"), tcp.connect_timeout, findings);
    duration(&format!("{at}/maxConnectionDuration"), tcp.max_connection_duration, findings);
    // Zero switches it off.
    let idle = tcp.idle_timeout.filter(|time| time.nonzero().is_some());
    duration(&format!("{at}/idleTimeout"), idle, findings);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        duration(&format!("{at}/tcpKeepalive/time"), keepalive.time, findings);
        duration(&format!("{at}/tcpKeepalive/interval"), keepalive.interval, findings);
    }
}

fn load_balancer(at: &str, balancer: &LoadBalancer, outlier: bool, findings: &mut Findings) {
    if let Some(hash) = &balancer.consistent_hash {
        let at = format!("{at}/consistentHash");
        if balancer.simple.is_some() {
            findings.invalid(&at, "only one of simple and consistentHash can be set");
        }
        consistent_hash(&at, hash, findings);
    }
    let zones = balancer.zone_aware_lb_setting.as_ref();
    if balancer.locality_lb_setting.is_some() && zones.is_some() {
        findings.invalid(at, "only one of localityLbSetting and zoneAwareLbSetting can be set");
    }
    if let Some(locality) = &balancer.locality_lb_setting {
        self::locality(&format!("{at}/localityLbSetting"), locality, outlier, findings);
    }
    if let Some(zones) = zones {
        zone_aware(&format!("{at}/zoneAwareLbSetting"), zones, outlier, findings);
    }
    duration(&format!("{at}/warmupDurationSecs"), balancer.warmup_duration_secs, findings);
    let Some(warmup) = &balancer.warmup else { return };
    let at = format!("{at}/warmup");
    match warmup.duration {
        Some(time) => findings.check(&format!("{at}/duration"), time.check()),
        None => findings.invalid(&at, "duration is required"),
    }
    if warmup.minimum_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        let text = "minimumPercent value should be less than or equal to 100";
        findings.invalid(&format!("{at}/minimumPercent"), text);
    }
    if warmup.aggression.is_some_and(|aggression| aggression <= 0.0 || !aggression.is_finite()) {
        findings.invalid(&format!("{at}/aggression"), "aggression should be greater than 0");
    }
}

fn consistent_hash(at: &str, hash: &ConsistentHash, findings: &mut Findings) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip.is_some(),
        hash.http_query_parameter_name.is_some(),
    ];
    if keys.into_iter().filter(|given| *given).count() > 1 {
        let text = "only one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName can be set";
        findings.invalid(at, text);
    }
    if let Some(cookie) = &hash.http_cookie {
        let at = format!("{at}/httpCookie");
        if cookie.name.is_empty() {
            findings.invalid(&at, "name required for HttpCookie");
        }
        let mut seen = Vec::new();
        for attribute in &cookie.attributes {
            let name = &attribute.name;
            if name.is_empty() {
                findings.invalid(&at, "cookie attribute name cannot be empty");
            } else if seen.contains(&name) {
                findings.invalid(&at, format!("duplicate cookie attribute name: {name}"));
            }
            seen.push(name);
        }
    }
    if hash.minimum_ring_size != 0 {
        let text = "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration instead";
        findings.discouraged(&format!("{at}/minimumRingSize"), text);
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        findings.invalid(at, "only one of ringHash and maglev can be set");
    }
    if hash.minimum_ring_size != 0 && (hash.ring_hash.is_some() || hash.maglev.is_some()) {
        findings.invalid(at, "only one of MinimumRingSize or Maglev/Ringhash can be specified");
    }
    let ring =
        hash.ring_hash.as_ref().map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    if ring > HashTable::MAX_RING {
        let text = format!("minimumRingSize must be at most {}", HashTable::MAX_RING);
        findings.invalid(&format!("{at}/ringHash"), text);
    }
    let Some(maglev) = &hash.maglev else { return };
    let at = format!("{at}/maglev/tableSize");
    match maglev.table_size {
        0 => findings.invalid(&at, "tableSize must be set for maglev"),
        HashTable::MAX_MAGLEV.. => {
            findings.invalid(&at, "tableSize must be less than 5000011 for maglev");
        }
        size if !is_prime(size) => {
            findings.invalid(&at, "tableSize must be a prime number for maglev");
        }
        _ => {}
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|factor| factor * factor <= number)
            .all(|factor| !number.is_multiple_of(factor))
}

fn locality(at: &str, locality: &LocalityLb, outlier: bool, findings: &mut Findings) {
    if !locality.distribute.is_empty() && !locality.failover.is_empty() {
        let text = "can not simultaneously specify 'distribute' and 'failover'";
        return findings.invalid(at, text);
    }
    let place = locality.failover_priority.iter().find(|label| PLACES.contains(&label.as_str()));
    if let Some(label) = place.filter(|_| !locality.failover.is_empty()) {
        let text = format!(
            "can not simultaneously set 'failover' and topology label '{label}' in 'failover_priority'"
        );
        return findings.invalid(at, text);
    }
    for (index, share) in locality.distribute.iter().enumerate() {
        let at = format!("{at}/distribute/{index}");
        if share.to.values().any(|weight| !(1..=100).contains(weight)) {
            return findings.invalid(&at, "locality weight must be in range [1, 100]");
        }
        let total: u64 = share.to.values().map(|weight| u64::from(*weight)).sum();
        if total != 100 {
            return findings.invalid(&at, format!("total locality weight {total} != 100"));
        }
        findings.check(&at, apart(share.to.keys().map(String::as_str)));
    }
    findings.check(at, apart(locality.distribute.iter().map(|share| share.from.as_str())));
    failovers(
        at,
        ("locality lb", "locality lb failover only specify region"),
        &locality.failover,
        findings,
    );
    let fails = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
    if fails && !outlier {
        findings.discouraged(at, "outlier detection policy must be provided for failover");
    }
}

fn zone_aware(at: &str, zones: &ZoneAwareLb, outlier: bool, findings: &mut Findings) {
    for label in zones.failover_priority.iter().filter(|label| PLACES.contains(&label.as_str())) {
        let text = format!(
            "'failover_priority' for zone aware lb must not use topology label '{label}'; region- and zone-level routing are handled automatically"
        );
        findings.invalid(at, text);
    }
    let only = "zone aware lb failover only specifies region; zone and subzone failover are handled automatically";
    failovers(at, ("zone aware lb", only), &zones.failover, findings);
    let fails = !zones.failover.is_empty() || !zones.failover_priority.is_empty();
    if fails && !outlier {
        findings.discouraged(at, "outlier detection policy must be provided for failover");
    }
}

fn failovers(at: &str, (what, only): (&str, &str), all: &[Failover], findings: &mut Findings) {
    for (index, Failover { from, to }) in all.iter().enumerate() {
        let at = format!("{at}/failover/{index}");
        if from == to {
            findings
                .invalid(&at, format!("{what} failover settings must specify different regions"));
        }
        if from.contains('/') || to.contains('/') {
            findings.invalid(&at, only);
        }
        if from.contains('*') || to.contains('*') {
            findings
                .invalid(&at, format!("{what} failover region should not contain '*' wildcard"));
        }
    }
}

/// Whether no locality (`region/zone/subzone`, `*` at the end) is another's part.
fn apart<'a>(localities: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen: Vec<Vec<&str>> = Vec::new();
    for locality in localities {
        let stars = locality.matches('*').count();
        if stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            return Err(format!(
                "locality {locality} wildcard '*' number can not exceed 1 and must be in the end"
            ));
        }
        let mut parts: Vec<_> = locality.splitn(3, '/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "locality {locality} must not contain empty region/zone/subzone info"
            ));
        }
        if parts.last() == Some(&"*") {
            parts.pop();
        }
        let nested = |other: &Vec<&str>| parts.iter().zip(other).all(|(one, other)| one == other);
        if seen.iter().any(nested) {
            return Err(format!("locality {locality} overlap with previous specified ones"));
        }
        seen.push(parts);
    }
    Ok(())
}

fn client_tls(at: &str, tls: &ClientTls, findings: &mut Findings) {
    let skip = tls.insecure_skip_verify == Some(true);
    let names = !tls.subject_alt_names.is_empty();
    if skip && tls.mode == TlsMode::Simple {
        if !tls.ca_certificates.is_empty() || !tls.credential_name.is_empty() || names {
            let text = "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is set true";
            findings.invalid(at, text);
        }
    } else if skip && tls.mode == TlsMode::Mutual && (!tls.ca_certificates.is_empty() || names) {
        let text =
            "cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true";
        findings.invalid(at, text);
    }
    let own = matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual);
    if own && !tls.credential_name.is_empty() {
        let files = [&tls.client_certificate, &tls.ca_certificates, &tls.private_key, &tls.ca_crl];
        if files.into_iter().any(|file| !file.is_empty()) {
            let text = "cannot specify client certificates or CA certificate or CA CRL If credentialName is set";
            findings.invalid(at, text);
        }
        return;
    }
    if tls.mode == TlsMode::Mutual {
        if tls.client_certificate.is_empty() {
            findings.invalid(at, "client certificate required for mutual tls");
        }
        if tls.private_key.is_empty() {
            findings.invalid(at, "private key required for mutual tls");
        }
    }
}
