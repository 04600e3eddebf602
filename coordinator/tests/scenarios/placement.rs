//! Where the ring places slots.

use coordinator::hash::HashSlot;
use coordinator::slots::{MapEpoch, SlotMap};
use shard::id::GroupId;

fn place(count: u32) -> SlotMap {
    SlotMap::place(MapEpoch(1), &(1..=count).map(GroupId).collect::<Vec<_>>()).unwrap()
}

#[test]
fn slots_are_spread_evenly_over_one_to_sixteen_groups() {
    for count in 1..=16u32 {
        let map = place(count);
        let shares = map.shares();
        assert_eq!(shares.len(), count as usize);
        assert_eq!(shares.values().sum::<usize>(), 4096);
        let even = 4096.0 / f64::from(count);
        for (group, share) in shares {
            let ratio = f64::from(u32::try_from(share).unwrap()) / even;
            let allowed = if count <= 2 { 0.9..=1.1 } else { 0.75..=1.25 };
            assert!(
                allowed.contains(&ratio),
                "group {group} of {count} has {ratio} of an even share"
            );
        }
    }
}

#[test]
fn another_group_takes_its_part_and_moves_nothing_else() {
    for count in 1..16u32 {
        let (before, after) = (place(count), place(count + 1));
        let moved: Vec<_> = HashSlot::all()
            .filter(|slot| before.group(*slot) != after.group(*slot))
            .collect();
        assert!(moved.iter().all(|slot| after.group(*slot) == GroupId(count + 1)));
        let part = 4096.0 / f64::from(count + 1);
        let ratio = f64::from(u32::try_from(moved.len()).unwrap()) / part;
        assert!(
            (0.75..=1.25).contains(&ratio),
            "{} slots moved to group {}",
            moved.len(),
            count + 1
        );
    }
}

#[test]
fn the_placement_is_the_same_forever() {
    let map = place(2);
    let first: Vec<u32> = map.by_slot()[..24].iter().map(|group| group.0).collect();
    assert_eq!(
        (first, map.shares()[&GroupId(1)]),
        (
            vec![
                1, 2, 2, 1, 1, 1, 2, 2, 1, 1, 1, 1, 2, 2, 2, 1, 1, 2, 2, 2, 1, 2, 1, 2
            ],
            2034
        )
    );
}

#[test]
fn a_map_survives_its_text_form() {
    for count in [1, 2, 5] {
        let map = place(count);
        assert_eq!(map.to_string().parse::<SlotMap>().unwrap(), map);
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<SlotMap>(&json).unwrap(), map);
    }
    for bad in [
        "",
        "1",
        "x:1*4096",
        "1:1*4095",
        "1:1*4097",
        "1:1*4096,2",
        "1:1*99999999999999999999",
        "1:a*4096",
    ] {
        assert!(bad.parse::<SlotMap>().is_err(), "{bad:?} was taken");
    }
    assert!(SlotMap::place(MapEpoch(1), &[]).is_err());
}
