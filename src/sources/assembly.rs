//! An image that comes in parts: which have come, and whether that is all. Pure
//! state: no I/O, no time.

use std::collections::BTreeMap;

/// Parts of an image at most: those of the largest module that may be allowed, and
/// more.
const MOST_PARTS: u64 = 1 << 16;
/// Missing parts that are named.
const NAMED: usize = 5;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    total: u64,
    parts: BTreeMap<u64, Vec<u8>>,
    bytes: u64,
    /// What was refused last, and how much in all.
    refused: Option<(String, u32)>,
    failed: Option<String>,
    progress: bool,
}

impl Assembly {
    /// A part has come. One that there is already changes nothing. One of another
    /// image of the same name, which has another total or other bytes at this place,
    /// is the first of that one: the proxy has begun anew.
    pub(super) fn add(&mut self, index: u64, total: u64, bytes: Vec<u8>, limit: u64) {
        if self.failed.is_some() {
            return;
        }
        if index >= total || total > MOST_PARTS {
            return self.refuse(format!("a part {index} of {total}"));
        }
        let changed = self.parts.get(&index).is_some_and(|part| *part != bytes);
        if self.total != total || changed {
            if !self.parts.is_empty() {
                self.refuse("parts of an earlier image of this name".into());
            }
            self.parts.clear();
            (self.total, self.bytes) = (total, 0);
        }
        if self.parts.contains_key(&index) {
            return;
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > limit {
            self.failed = Some(format!(
                "it has {} bytes or more, over the limit of {limit} (--module-size)",
                self.bytes
            ));
            self.parts.clear();
            return;
        }
        self.parts.insert(index, bytes);
        self.progress = true;
    }

    fn refuse(&mut self, what: String) {
        let times = self.refused.take().map_or(0, |(_, times)| times);
        self.refused = Some((what, times + 1));
    }

    /// The image, once all of it is there, or why it never will be.
    pub(super) fn ended(&mut self) -> Option<Result<Vec<u8>, String>> {
        if let Some(reason) = &self.failed {
            return Some(Err(reason.clone()));
        }
        if self.total == 0 || (self.parts.len() as u64) < self.total {
            return None;
        }
        if self.bytes == 0 {
            return Some(Err("the proxy sent an empty one".into()));
        }
        let parts: Vec<_> = std::mem::take(&mut self.parts).into_values().collect();
        Some(Ok(parts.concat()))
    }

    /// Whether anything has come since this was asked last.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Whether nothing of it has come.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// What has come.
    pub(super) fn describe(&self) -> String {
        let mut text = if self.parts.is_empty() {
            "nothing came".to_owned()
        } else {
            let missing = (0..self.total).filter(|index| !self.parts.contains_key(index));
            let mut names: Vec<_> =
                missing.take(NAMED + 1).map(|index| index.to_string()).collect();
            if names.len() > NAMED {
                names[NAMED] = "…".into();
            }
            format!(
                "{} of {} parts came, missing {}",
                self.parts.len(),
                self.total,
                names.join(", ")
            )
        };
        if let Some((what, times)) = &self.refused {
            text.push_str(&format!(" ({times} refused, the last one {what})"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 1000;

    fn ended(assembly: &mut Assembly) -> Result<Vec<u8>, String> {
        assembly.ended().expect("it has ended")
    }

    #[test]
    fn a_part_that_comes_twice_counts_once() {
        let mut assembly = Assembly::default();
        assembly.add(0, 2, vec![1], LIMIT);
        assembly.add(0, 2, vec![1], LIMIT);
        assert_eq!(assembly.ended(), None);
        assembly.add(1, 2, vec![2], LIMIT);
        assert_eq!(ended(&mut assembly), Ok(vec![1, 2]));
    }

    #[test]
    fn parts_of_another_image_of_the_name_begin_it_anew() {
        let mut assembly = Assembly::default();
        assembly.add(0, 2, vec![1], LIMIT);
        // Another total, then other bytes.
        assembly.add(0, 3, vec![2], LIMIT);
        assembly.add(1, 3, vec![3], LIMIT);
        assembly.add(1, 3, vec![4], LIMIT);
        assert_eq!(
            assembly.describe(),
            "1 of 3 parts came, missing 0, 2 (2 refused, the last one parts of an earlier image of this name)"
        );
        assembly.add(2, 3, vec![5], LIMIT);
        assert_eq!(assembly.ended(), None);
        assembly.add(0, 3, vec![6], LIMIT);
        assert_eq!(ended(&mut assembly), Ok(vec![6, 4, 5]));
    }

    #[test]
    fn what_can_not_be_a_part_is_refused_and_told() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.describe(), "nothing came");
        for (index, total) in [(0, 0), (2, 2), (0, MOST_PARTS + 1), (u64::MAX, u64::MAX)] {
            assembly.add(index, total, vec![1], LIMIT);
        }
        assert_eq!(assembly.ended(), None);
        assert!(assembly.is_empty() && !assembly.take_progress());
        assert!(assembly.describe().starts_with("nothing came (4 refused, the last one a part"));
        assembly.add(1, 9, vec![1], LIMIT);
        assert!(assembly.take_progress() && !assembly.take_progress());
        assert!(assembly.describe().contains("1 of 9 parts came, missing 0, 2, 3, 4, 5, … ("));
    }

    #[test]
    fn what_is_larger_than_a_module_may_be_is_an_error_and_holds_no_memory() {
        let mut assembly = Assembly::default();
        assembly.add(0, 9, vec![0; 600], LIMIT);
        assembly.add(1, 9, vec![0; 401], LIMIT);
        let error = ended(&mut assembly).expect_err("too large");
        assert!(error.contains("1001 bytes or more, over the limit of 1000"), "{error}");
        assembly.add(2, 9, vec![0; 1], LIMIT);
        assert!(assembly.is_empty());
        let mut empty = Assembly::default();
        empty.add(0, 1, vec![], LIMIT);
        assert!(ended(&mut empty).is_err());
    }

    proptest! {
        #[test]
        fn parts_come_in_any_order_and_some_twice(
            image in proptest::collection::vec(any::<u8>(), 1..200),
            size in 1..50_usize,
            order in any::<u64>(),
        ) {
            let parts: Vec<_> = image.chunks(size).map(<[u8]>::to_vec).collect();
            let mut indices: Vec<_> = (0..parts.len()).chain(0..parts.len()).collect();
            let mut random = fastrand::Rng::with_seed(order);
            random.shuffle(&mut indices);
            let mut assembly = Assembly::default();
            let mut whole = None;
            for index in indices {
                assembly.add(index as u64, parts.len() as u64, parts[index].clone(), LIMIT);
                if let Some(ended) = assembly.ended() {
                    whole = Some(ended);
                    break;
                }
            }
            prop_assert_eq!(whole, Some(Ok(image)));
        }
    }
}
