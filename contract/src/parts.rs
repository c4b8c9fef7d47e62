//! How large the parts of an upload are. The length of a dump is not known beforehand, so sizes grow:
//! part *n* of a cap of *C* parts is 8 MiB × 2^⌊10(n−1)/C⌋, at most 5 GiB (S3's largest part).

/// Size of the first parts.
pub const FIRST_PART_BYTES: u64 = 8 * 1024 * 1024;
/// S3's largest part.
pub const MAX_PART_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// Size in bytes of part `number` (from 1) where an upload may have `cap` parts.
pub fn part_bytes(number: u32, cap: u32) -> u64 {
    let doublings = 10 * u64::from(number.saturating_sub(1)) / u64::from(cap.max(1));
    (FIRST_PART_BYTES << doublings.min(10)).min(MAX_PART_BYTES)
}

/// The largest artifact that fits under a cap of parts.
pub fn max_artifact_bytes(cap: u32) -> u64 {
    (1..=cap).map(|n| part_bytes(n, cap)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_so_that_ten_thousand_parts_hold_seven_tebibytes() {
        assert_eq!(part_bytes(1, 10_000), FIRST_PART_BYTES);
        assert_eq!(part_bytes(1_000, 10_000), FIRST_PART_BYTES);
        assert_eq!(part_bytes(1_001, 10_000), 2 * FIRST_PART_BYTES);
        assert_eq!(part_bytes(10_000, 10_000), 512 * FIRST_PART_BYTES);
        assert!(max_artifact_bytes(10_000) > 7 << 40);
        assert!(max_artifact_bytes(20) > 15 << 30);
    }
}
