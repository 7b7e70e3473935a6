//! Where the kernel's own file systems are: they show every process of the
//! machine, this one too, and devices.

use std::path::{Path, PathBuf};

/// Where they are by custom.
const PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The types that they have in the table of mounts.
const TYPES: [&str; 15] = [
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// Those of this machine as it is now; elsewhere than on Linux by custom alone.
pub fn kernel_file_systems() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    for place in mounted(&mounts) {
        // One below another says nothing new.
        if !places.iter().any(|known| place.starts_with(known)) {
            places.push(place);
        }
    }
    places
}

/// Where the table (`proc_pid_mountinfo(5)`) has one of [`TYPES`].
fn mounted(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?;
        TYPES.contains(&kind.split(' ').next()?).then(|| unescaped(place))
    })
}

/// Spaces, tabs, line breaks and backslashes are three octal digits there.
fn unescaped(place: &str) -> PathBuf {
    let mut parts = place.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                path.push(char::from(code));
                path.push_str(&part[3..]);
            }
            None => path.push_str(part),
        }
    }
    Path::new(&path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_kernels_file_systems_are_found_wherever_they_are() {
        let table = "\
            22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            40 27 0:21 /self /srv/a\\040b/proc rw,relatime shared:1 master:2 - proc proc rw\n\
            41 27 0:25 / /run rw - tmpfs tmpfs rw\n\
            42 27 0:6 / /jail/dev rw - devtmpfs devtmpfs rw\n\
            broken\n";
        let found: Vec<_> = mounted(table).collect();
        assert_eq!(found, ["/proc", "/srv/a b/proc", "/jail/dev"].map(PathBuf::from));
    }

    #[test]
    fn the_usual_places_are_always_known() {
        let places = kernel_file_systems();
        for place in PLACES {
            assert!(places.contains(&place.into()), "{places:?}");
        }
    }
}
