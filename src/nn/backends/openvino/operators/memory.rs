//! How much memory the tensors of a model take, as far as it says their shapes.

use std::collections::HashMap;
use std::hash::Hash;

/// What one operator makes and reads, in the order in which they compute.
pub(in crate::nn) struct Step<K> {
    /// Its outputs, and the bytes of each; 0 for one that is not known.
    pub(in crate::nn) makes: Vec<(K, u64)>,
    /// Its inputs.
    pub(in crate::nn) reads: Vec<K>,
}

/// Where tensors take more than `most` bytes at one time: the step, the bytes of
/// all that a later step still reads and of its own outputs, and those of its
/// own outputs alone.
pub(in crate::nn) fn peak<K: Copy + Eq + Hash>(
    steps: &[Step<K>],
    most: u64,
) -> Option<(usize, u64, u64)> {
    // When each one is read last.
    let mut last: HashMap<K, usize> = HashMap::new();
    for (at, step) in steps.iter().enumerate() {
        last.extend(step.reads.iter().map(|&value| (value, at)));
    }
    let mut ends: Vec<u64> = vec![0; steps.len()];
    let mut live = 0u64;
    for (at, step) in steps.iter().enumerate() {
        let mut own = 0u64;
        // What nobody reads lives as long as its step.
        let mut unread = 0u64;
        for &(value, bytes) in &step.makes {
            own = own.saturating_add(bytes);
            match last.get(&value).filter(|&&end| end > at) {
                Some(&end) => {
                    ends[end] = ends[end].saturating_add(bytes);
                    live = live.saturating_add(bytes);
                }
                None => unread = unread.saturating_add(bytes),
            }
        }
        let all = live.saturating_add(unread);
        if all > most {
            return Some((at, all, own));
        }
        live = live.saturating_sub(ends[at]);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(makes: &[(u8, u64)], reads: &[u8]) -> Step<u8> {
        Step { makes: makes.to_vec(), reads: reads.to_vec() }
    }

    #[test]
    fn what_a_later_step_reads_counts_until_then() {
        let steps =
            [step(&[(0, 10)], &[]), step(&[(1, 20)], &[0]), step(&[(2, 5)], &[1]), step(&[], &[2])];
        assert_eq!(peak(&steps, 30), None);
        assert_eq!(peak(&steps, 29), Some((1, 30, 20)));
        // The first one is read once more at the end.
        let mut steps = steps;
        steps[3].reads.push(0);
        assert_eq!(peak(&steps, 34), Some((2, 35, 5)));
    }

    #[test]
    fn what_nobody_reads_counts_for_its_own_step() {
        let steps = [step(&[(0, 10)], &[]), step(&[(1, 10), (2, 90)], &[0])];
        assert_eq!(peak(&steps, 109), Some((1, 110, 100)));
        assert_eq!(peak(&steps, 110), None);
    }

    #[test]
    fn sums_over_64_bits_are_more_than_any_limit() {
        let steps = [step(&[(0, u64::MAX), (1, u64::MAX)], &[]), step(&[], &[0, 1])];
        assert_eq!(peak(&steps, u64::MAX - 1), Some((0, u64::MAX, u64::MAX)));
        assert_eq!(peak(&steps, u64::MAX), None);
    }
}
