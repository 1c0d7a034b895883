//! Pure: callgrind's report → instructions, without those of the cipher.
use std::collections::HashMap;

/// Where the cryptography library begins. Which code it has for a cipher depends on what it finds of
/// the processor, so that its instructions are not the same everywhere, nor ours to save.
const CIPHER: &str = "_EVP_AEAD_CTX_";

/// Everything that was counted, but for calls of the cipher.
pub(crate) fn instructions(report: &str) -> Option<u64> {
    let mut names = HashMap::new();
    let mut is_cipher = |function: &'_ str| -> bool {
        // A name stands beside its number only the first time.
        let (number, name) = function.split_once(')').unwrap_or((function, ""));
        let known = names.entry(number.to_owned()).or_insert(false);
        *known |= name.contains(CIPHER);
        *known
    };
    let (mut inside, mut calls, mut ciphers, mut total) = (false, false, 0, None);
    let mut lines = report.lines();
    while let Some(line) = lines.next() {
        if let Some(function) = line.strip_prefix("fn=") {
            inside = is_cipher(function);
        } else if let Some(function) = line.strip_prefix("cfn=") {
            calls = is_cipher(function);
        } else if line.starts_with("calls=") {
            // The next line has what the calls cost, with everything that they call.
            let cost: u64 = lines.next()?.split_whitespace().nth(1)?.parse().ok()?;
            ciphers += if calls && !inside { cost } else { 0 };
        } else if let Some(all) = line.strip_prefix("totals: ") {
            total = all.trim().parse::<u64>().ok();
        }
    }
    total?.checked_sub(ciphers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_cipher_do_not_count_and_calls_within_it_not_twice() {
        let report = "\
events: Ir
fn=(1) bench::seal
16 30
cfn=(2) aws_lc_0_47_0_EVP_AEAD_CTX_open
calls=2 0
+3 500
cfn=(4) memcpy
calls=1 0
+1 20
fn=(2)
0 100
cfn=(3) aws_lc_0_47_0_EVP_AEAD_CTX_open_gather
calls=2 0
0 400
totals: 550
";
        assert_eq!(instructions(report), Some(50));
        assert_eq!(instructions("events: Ir\n"), None);
    }
}
