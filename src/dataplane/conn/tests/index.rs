//! The index with hashes as an attacker would choose them: few buckets, few tags.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::dataplane::conn::index::{Full, Index, Reference};
use crate::dpdk::memory::HugePages;
use crate::wire::flow_key::Direction;

const DIRECTIONS: [Direction; 2] = [Direction::Inbound, Direction::Reply];

fn hash(tag: u16, bucket: u8) -> u64 {
    u64::from(tag) << 48 | u64::from(bucket)
}

fn found(index: &Index, hash: u64, reference: Reference) -> bool {
    let same = |other: Reference| {
        (other.record(), other.direction()) == (reference.record(), reference.direction())
    };
    index.find(hash, same).is_some()
}

/// An index as a model knows it: by record and direction, the hash.
#[derive(Default)]
struct Model(BTreeMap<(u32, bool), u64>);

impl Model {
    fn check(&self, index: &Index) {
        for ((record, reply), hash) in &self.0 {
            let direction = DIRECTIONS[usize::from(*reply)];
            let reference = Reference::new(*record, direction);
            assert!(found(index, *hash, reference), "record {record} {direction:?} is lost");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn entries_are_found_until_they_are_removed(
        entries in 4_usize..200,
        tags in 1_u16..5,
        buckets in 1_u8..9,
        steps in prop::collection::vec((any::<bool>(), 0_u32..150, any::<bool>(), 0_u16..5, 0_u8..9), 1..400),
    ) {
        let mut index = Index::new(entries, HugePages::Never).unwrap();
        let mut model = Model::default();
        for (insert, record, reply, tag, bucket) in steps {
            let key = (record, reply);
            let reference = Reference::new(record, DIRECTIONS[usize::from(reply)]);
            match model.0.get(&key).copied() {
                None if insert => {
                    let hash = hash(tag % tags, bucket % buckets);
                    match index.insert(hash, reference) {
                        Ok(()) => { model.0.insert(key, hash); }
                        // Two full buckets hold 16 entries.
                        Err(Full) => prop_assert!(model.0.len() >= 16),
                    }
                }
                Some(hash) if !insert => {
                    index.remove(hash, reference);
                    model.0.remove(&key);
                    prop_assert!(!found(&index, hash, reference), "removed, and still found");
                }
                _ => {}
            }
            model.check(&index);
        }
        for ((record, reply), hash) in std::mem::take(&mut model.0) {
            index.remove(hash, Reference::new(record, DIRECTIONS[usize::from(reply)]));
        }
        prop_assert!(index.is_pristine(), "an empty index counts nothing as displaced");
    }
}

#[test]
fn one_tag_in_one_bucket_fills_two_buckets_and_is_then_refused() {
    let mut index = Index::new(1000, HugePages::Never).unwrap();
    for record in 0..16 {
        index.insert(hash(7, 3), Reference::new(record, Direction::Inbound)).unwrap();
    }
    assert_eq!(index.insert(hash(7, 3), Reference::new(16, Direction::Inbound)), Err(Full));
    for record in 0..16 {
        assert!(found(&index, hash(7, 3), Reference::new(record, Direction::Inbound)));
    }
    // Room in one of them is used again.
    index.remove(hash(7, 3), Reference::new(4, Direction::Inbound));
    index.insert(hash(7, 3), Reference::new(16, Direction::Inbound)).unwrap();
}

#[test]
fn a_full_bucket_moves_an_entry_aside_for_another() {
    let mut index = Index::new(1000, HugePages::Never).unwrap();
    // Eight entries of bucket 3, each with another second bucket; then a tag whose second bucket
    // is full of its own.
    let mut record = 0;
    let mut add = |index: &mut Index, tag: u16, bucket: u8| {
        record += 1;
        index.insert(hash(tag, bucket), Reference::new(record, Direction::Reply)).map(|()| record)
    };
    let mut all = Vec::new();
    for _ in 0..16 {
        all.push((hash(1, 3), add(&mut index, 1, 3).unwrap()));
    }
    let (moved, aside) = (all[0], hash(1, 3));
    index.remove(aside, Reference::new(moved.1, Direction::Reply));
    all.remove(0);
    all.push((hash(2, 3), add(&mut index, 2, 3).unwrap()));
    // Bucket 3 and tag 1's second bucket are full; tag 2 can still move to its own second bucket.
    all.push((hash(1, 3), add(&mut index, 1, 3).unwrap()));
    for (hash, record) in all {
        assert!(found(&index, hash, Reference::new(record, Direction::Reply)));
    }
}
