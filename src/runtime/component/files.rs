//! `wasi:filesystem`, bounded and interruptible as preview 1 is here: no path
//! that no system would take, no FIFO, socket or device, and a directory that is
//! read entry by entry, where wasmtime-wasi reads all of it in one call.

use super::WASI;
use crate::runtime::files::MAX_PATH;
#[cfg(target_os = "linux")]
use crate::runtime::files::linux::{Listing, leads_to_special};
use crate::runtime::refusals::{Why, Within};
use crate::runtime::sandbox::TaskState;
use std::os::unix::fs::MetadataExt as _;
use wasmtime::StoreContextMut;
#[cfg(target_os = "linux")]
use wasmtime::component::ResourceType;
use wasmtime::component::{Linker, LinkerInstance, Resource};
use wasmtime_wasi::filesystem::{WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, ErrorCode, Host as _, HostDescriptor,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};

type Answer<R> = wasmtime::Result<(Result<R, ErrorCode>,)>;

/// Puts a function that refuses long paths in the place of the one that
/// `$types` has: its arguments, which of them are paths, and for one that changes
/// something which of those.
macro_rules! bounded {
    (
        $types:ident, $name:literal, $function:ident($($arg:ident: $ty:ty),*) -> $out:ty, $($path:ident),+
        $(; changes $changed:ident)?
    ) => {
        $types.func_wrap(
            concat!("[method]descriptor.", $name),
            |mut store: StoreContextMut<'_, TaskState>,
             (fd, $($arg),*): (Resource<Descriptor>, $($ty),*)|
             -> Answer<$out> {
                if [$(&$path),+].into_iter().any(|path| too_long(path)) {
                    return Ok((Err(ErrorCode::NameTooLong),));
                }
                let asked: Option<Asked> =
                    [$(Asked::new(&fd, &$changed, true))?].into_iter().next();
                let mut files = store.data_mut().filesystem();
                let done = HostDescriptor::$function(&mut files, fd, $($arg),*);
                let done = answer(&mut files, done)?;
                if let Some(asked) = asked {
                    asked.answered(store.data_mut(), &done);
                }
                Ok(done)
            },
        )?;
    };
}

/// Puts these functions in the place of those that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:filesystem/types@{WASI}"))?;
    bounded!(types, "create-directory-at", create_directory_at(path: String) -> (), path; changes path);
    bounded!(types, "stat-at", stat_at(links: PathFlags, path: String) -> DescriptorStat, path);
    bounded!(
        types,
        "link-at",
        link_at(links: PathFlags, old: String, dir: Resource<Descriptor>, new: String) -> (),
        old,
        new;
        changes new
    );
    bounded!(types, "readlink-at", readlink_at(path: String) -> String, path);
    bounded!(types, "remove-directory-at", remove_directory_at(path: String) -> (), path; changes path);
    bounded!(
        types,
        "rename-at",
        rename_at(old: String, dir: Resource<Descriptor>, new: String) -> (),
        old,
        new;
        changes old
    );
    bounded!(types, "symlink-at", symlink_at(old: String, new: String) -> (), old, new; changes new);
    bounded!(types, "unlink-file-at", unlink_file_at(path: String) -> (), path; changes path);
    bounded!(
        types,
        "metadata-hash-at",
        metadata_hash_at(links: PathFlags, path: String) -> MetadataHashValue,
        path
    );
    type Open = (Resource<Descriptor>, PathFlags, String, OpenFlags, DescriptorFlags);
    types.func_wrap(
        "[method]descriptor.open-at",
        |store: StoreContextMut<'_, TaskState>, (fd, links, path, how, flags): Open| {
            let changes = OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE;
            let writes = DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY;
            let writes = how.intersects(changes) || flags.intersects(writes);
            opening(store, fd, links, path, writes, |files, fd, path| {
                files.open_at(fd, links, path, how, flags)
            })
        },
    )?;
    type SetTimes = (Resource<Descriptor>, PathFlags, String, NewTimestamp, NewTimestamp);
    types.func_wrap(
        "[method]descriptor.set-times-at",
        |store: StoreContextMut<'_, TaskState>, (fd, links, path, accessed, modified): SetTimes| {
            opening(store, fd, links, path, true, |files, fd, path| {
                files.set_times_at(fd, links, path, accessed, modified)
            })
        },
    )?;
    listing(&mut types)
}

fn too_long(path: &str) -> bool {
    path.len() > MAX_PATH as usize
}

/// Why a path is not even looked at by wasmtime-wasi.
fn refused(
    files: &WasiFilesystemCtxView<'_>,
    fd: &Resource<Descriptor>,
    links: PathFlags,
    path: &str,
    opens_special: bool,
) -> Option<ErrorCode> {
    if too_long(path) {
        return Some(ErrorCode::NameTooLong);
    }
    #[cfg(target_os = "linux")]
    // What is no directory is explained by who opens.
    if !opens_special
        && let Ok(Descriptor::Dir(dir)) = files.table.get(fd)
        && leads_to_special(&dir.dir, path.as_bytes(), links.contains(PathFlags::SYMLINK_FOLLOW))
    {
        return Some(ErrorCode::Unsupported);
    }
    None
}

/// A call that opens what `path` leads to.
fn opening<R>(
    mut store: StoreContextMut<'_, TaskState>,
    fd: Resource<Descriptor>,
    links: PathFlags,
    path: String,
    writes: bool,
    open: impl FnOnce(&mut WasiFilesystemCtxView<'_>, Resource<Descriptor>, String) -> FsResult<R>,
) -> Answer<R> {
    let special = store.data().opens_special;
    let mut files = store.data_mut().filesystem();
    if let Some(code) = refused(&files, &fd, links, &path, special) {
        return Ok((Err(code),));
    }
    let asked = Asked::new(&fd, &path, writes);
    let opened = open(&mut files, fd, path);
    let answer = answer(&mut files, opened)?;
    asked.answered(store.data_mut(), &answer);
    Ok(answer)
}

/// What a call is about, in case that it is refused.
struct Asked {
    dir: u32,
    path: String,
    writes: bool,
}

impl Asked {
    fn new(dir: &Resource<Descriptor>, path: &str, writes: bool) -> Asked {
        Asked { dir: dir.rep(), path: path.to_owned(), writes }
    }

    /// Remembers what was refused, for a task that fails.
    fn answered<R>(self, state: &mut TaskState, (answer,): &(Result<R, ErrorCode>,)) {
        let why = match answer {
            Err(ErrorCode::NoEntry) => Why::Missing,
            Err(ErrorCode::Access | ErrorCode::NotPermitted | ErrorCode::ReadOnly) => {
                if self.writes { Why::Unwritable } else { Why::Denied }
            }
            _ => return,
        };
        let files = state.filesystem();
        let dir = files.table.get(&Resource::<Descriptor>::new_borrow(self.dir));
        let within = match dir {
            Ok(Descriptor::Dir(dir)) => {
                dir.dir.metadata().map_or(Within::Opened, |dir| Within::Inode(dir.dev(), dir.ino()))
            }
            _ => Within::Opened,
        };
        state.refused.add(self.path.as_bytes(), within, why);
    }
}

fn answer<R>(files: &mut WasiFilesystemCtxView<'_>, done: FsResult<R>) -> Answer<R> {
    Ok((match done {
        Ok(value) => Ok(value),
        Err(error) => Err(files.convert_error_code(error)?),
    },))
}

/// Elsewhere directories are read by wasmtime-wasi.
#[cfg(not(target_os = "linux"))]
fn listing(_: &mut LinkerInstance<'_, TaskState>) -> wasmtime::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn listing(types: &mut LinkerInstance<'_, TaskState>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p2::bindings::sync::filesystem::types::DirectoryEntry;

    types.resource(
        "directory-entry-stream",
        ResourceType::host::<Listing>(),
        |mut store, handle| {
            store.data_mut().filesystem().table.delete(Resource::<Listing>::new_own(handle))?;
            Ok(())
        },
    )?;
    types.func_wrap(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, TaskState>,
         (fd,): (Resource<Descriptor>,)|
         -> Answer<Resource<Listing>> {
            let mut files = store.data_mut().filesystem();
            let listing = match files.table.get(&fd)? {
                Descriptor::Dir(dir) => Listing::new(&dir.dir).map_err(Into::into),
                Descriptor::File(_) => return Ok((Err(ErrorCode::NotDirectory),)),
            };
            let opened = listing.and_then(|listing| Ok(files.table.push(listing)?));
            answer(&mut files, opened)
        },
    )?;
    types.func_wrap(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store: StoreContextMut<'_, TaskState>,
         (listing,): (Resource<Listing>,)|
         -> Answer<Option<DirectoryEntry>> {
            let mut files = store.data_mut().filesystem();
            let entry = files.table.get_mut(&listing)?.next().transpose();
            let entry = entry.map_err(Into::into).map(|entry| {
                entry.map(|(kind, name)| DirectoryEntry { type_: descriptor_type(kind), name })
            });
            answer(&mut files, entry)
        },
    )
}

#[cfg(target_os = "linux")]
fn descriptor_type(
    kind: rustix::fs::FileType,
) -> wasmtime_wasi::p2::bindings::sync::filesystem::types::DescriptorType {
    use rustix::fs::FileType;
    use wasmtime_wasi::p2::bindings::sync::filesystem::types::DescriptorType;
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
