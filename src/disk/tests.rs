use super::*;
use std::time::Duration;

fn cache(budget: u64) -> (tempfile::TempDir, DiskCache) {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = DiskCache::open(&dir.path().join("cache"), budget).expect("a cache");
    (dir, cache)
}

fn key(number: u8) -> Digest {
    Digest::of(&[number])
}

#[test]
fn what_was_kept_is_found_by_the_next_process() {
    let (dir, cache) = cache(1000);
    assert_eq!(cache.get(&key(1)), None);
    cache.folder.put(&key(1), b"one");
    drop(cache);
    let cache = DiskCache::open(&dir.path().join("cache"), 1000).expect("a cache");
    assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"one"[..]));
    assert_eq!(cache.get(&key(2)), None);
}

/// ARCHITECTURE.md, case 52.
#[test]
fn what_is_damaged_is_not_found() {
    let (_dir, cache) = cache(1000);
    for at in 0..3 + DIGEST {
        cache.folder.put(&key(1), b"one");
        let path = cache.folder.file(&key(1));
        let mut bytes = fs::read(&path).expect("an entry");
        bytes[at] ^= 1;
        fs::write(&path, &bytes).expect("written");
        assert_eq!(cache.get(&key(1)), None, "byte {at}");
        fs::write(&path, &bytes[..at]).expect("written");
        assert_eq!(cache.get(&key(1)), None, "cut at {at}");
        assert!(!path.exists());
    }
    cache.folder.put(&key(1), b"one");
    fs::rename(cache.folder.file(&key(1)), cache.folder.file(&key(2))).expect("renamed");
    assert_eq!(cache.get(&key(2)), None, "under another key");
}

/// ARCHITECTURE.md, case 52.
#[test]
fn what_can_not_be_written_is_not_there_and_nothing_else_happens() {
    let (dir, cache) = cache(1000);
    fs::remove_dir_all(dir.path().join("cache")).expect("removed");
    cache.folder.put(&key(1), b"one");
    assert_eq!(cache.get(&key(1)), None);
}

#[test]
fn what_was_used_least_recently_makes_room() {
    let (_dir, cache) = cache(299);
    for number in 1..=2 {
        cache.folder.put(&key(number), &[0; 100 - DIGEST]);
        let used = SystemTime::now() - Duration::from_secs(100 - u64::from(number));
        let file = File::options().write(true).open(cache.folder.file(&key(number)));
        file.and_then(|file| file.set_modified(used)).expect("a time");
    }
    assert!(cache.get(&key(1)).is_some());
    cache.folder.put(&key(3), &[0; 100 - DIGEST]);
    assert!(cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
    assert_eq!(cache.get(&key(2)), None);
    cache.folder.put(&key(4), &[0; 300 - DIGEST]);
    assert_eq!(cache.get(&key(4)), None, "larger than all of it");
    assert!(cache.get(&key(3)).is_some());
}

#[test]
fn a_folder_that_others_can_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("set");
    let refused = DiskCache::open(dir.path(), 1000).expect_err("others can write");
    assert!(format!("{refused:#}").contains("others can write"), "{refused:#}");
}

#[test]
fn a_link_is_not_used_and_what_was_left_is_not_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (folder, other) = (dir.path().join("cache"), dir.path().join("other"));
    fs::write(&other, "precious").expect("written");
    std::os::unix::fs::symlink(dir.path(), &folder).expect("linked");
    let refused = DiskCache::open(&folder, 1000).expect_err("a link");
    assert!(format!("{refused:#}").contains("it is a link"), "{refused:#}");
    fs::remove_file(&folder).expect("removed");
    fs::create_dir(&folder).expect("made");
    std::os::unix::fs::symlink(&other, folder.join(UNFINISHED)).expect("linked");
    let cache = DiskCache::open(&folder, 1000).expect("a cache");
    cache.folder.put(&key(1), b"one");
    assert_eq!(fs::read(&other).expect("there"), b"precious");
    assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"one"[..]));
}

#[test]
fn a_slow_entry_holds_nobody_up_and_the_end_waits_for_it() {
    let (_dir, cache) = cache(1000);
    let (begun, has_begun) = sync_channel(1);
    let (go, gone) = sync_channel::<()>(1);
    cache.keep(key(1), move || {
        begun.send(()).map_err(|e| e.to_string())?;
        gone.recv().map_err(|e| e.to_string())?;
        Ok(b"slow".to_vec())
    });
    has_begun.recv().expect("it begins");
    for number in 2..10 {
        cache.keep(key(number), || Ok(vec![]));
    }
    cache.close(Duration::ZERO);
    assert_eq!(cache.get(&key(1)), None);
    go.send(()).expect("it waits");
    cache.close(Duration::from_secs(60));
    assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"slow"[..]));
    assert_eq!(cache.get(&key(2)), None, "nothing is begun at the end");
}

/// In a folder of its own a process has what it made and what others left, and
/// changes nothing of that until it is taken over.
#[test]
fn what_a_process_made_beside_what_others_left_is_taken_over_or_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (earlier, own) = (dir.path().join("earlier"), dir.path().join("own"));
    DiskCache::open(&earlier, 1000).expect("a cache").folder.put(&key(1), b"one");
    let cache = DiskCache::open_over(Some(earlier.clone()), &own, 1000).expect("a cache");
    assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"one"[..]));
    cache.folder.put(&key(1), b"another");
    cache.folder.put(&key(2), b"two");
    assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"another"[..]), "its own comes first");
    let found = |number| DiskCache::open(&earlier, 1000).expect("a cache").get(&key(number));
    assert_eq!((found(1).as_deref(), found(2)), (Some(&b"one"[..]), None));
    adopt(&own, &earlier, 1000).expect("taken over");
    let expected = (Some(&b"another"[..]), Some(&b"two"[..]));
    assert_eq!((found(1).as_deref(), found(2).as_deref()), expected);
}

#[test]
fn nothing_but_entries_is_taken_over_and_no_more_than_there_is_room_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let (own, into) = (dir.path().join("own"), dir.path().join("into"));
    let cache = DiskCache::open(&own, 1000).expect("a cache");
    for number in 1..=3 {
        cache.folder.put(&key(number), &[0; 100 - DIGEST]);
    }
    fs::write(own.join("other"), "no entry").expect("written");
    fs::write(dir.path().join("secret"), "secret").expect("written");
    let link = own.join(key(4).to_string());
    std::os::unix::fs::symlink(dir.path().join("secret"), link).expect("linked");
    adopt(&own, &into, 200).expect("taken over");
    let names: Vec<_> = fs::read_dir(&into).expect("a folder").map(|e| e.expect("one")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.metadata().expect("there").len() == 100), "{names:?}");
    // A process that never kept anything has no folder.
    adopt(&dir.path().join("nothing"), &into, 200).expect("nothing to take over");
}
