//! Contents of files that guests read again and again: one copy in memory for
//! all who read them, within a budget of bytes.
//!
//! A file is the same as before if the numbers by which the system knows it are,
//! its size, and the times of its last change, to the nanosecond. As such a time
//! is only as good as the clock behind it, what was changed within the last two
//! seconds is not kept (as git guards its index). A content is kept when it is
//! read for the second time, in a file without a name that nobody can change
//! any more.

use super::pages::PageMap;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a file must have been as it is.
const SETTLED: Duration = Duration::from_secs(2);
/// Contents that are kept at most: each has a descriptor.
const MAX_KEPT: usize = 64;
/// Reads that are remembered, to know the second one.
const MAX_SEEN: usize = 1024;

/// What a file is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    /// wasmtime-wasi's hash of the device and the inode.
    pub(super) inode: u64,
    /// In bytes.
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) modified: u64,
    /// The same, of its metadata.
    pub(super) changed: u64,
}

impl FileId {
    /// Whether a change after `now` will show in the times.
    fn is_settled(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let Some(before) = now.checked_sub(SETTLED) else { return false };
        u128::from(self.modified.max(self.changed)) < before.as_nanos()
    }
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stretch {
    pub(super) file: FileId,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: usize,
    /// Where it begins in a page of the guest's memory.
    pub(super) in_page: usize,
}

/// The bytes of a [`Stretch`], which never change.
#[derive(Debug)]
pub(super) struct Content {
    /// No other content has or will have this number.
    pub(super) id: u64,
    /// As many bytes in front as put it where the guest has it in a page.
    pub(super) file: File,
    pub(super) in_page: usize,
    /// Its bytes.
    pub(super) length: usize,
    view: OnceLock<Option<Arc<View>>>,
}

/// A [`Content`] as memory of this process.
#[derive(Debug)]
struct View {
    /// The beginning of a page.
    start: NonNull<u8>,
    /// Where the content is behind it; mapped up to its end.
    bytes: Range<usize>,
}

// SAFETY: nothing writes to these bytes, whoever has them.
#[allow(unsafe_code, reason = "memory is what it is")]
unsafe impl Send for View {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "memory is what it is")]
unsafe impl Sync for View {}

impl View {
    fn new(content: &Content) -> io::Result<View> {
        let bytes = content.in_page..content.in_page + content.length;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the mapping is new, and of a file that is sealed: it never changes.
        #[allow(unsafe_code, reason = "memory is what is asked for")]
        let start = unsafe {
            mmap(std::ptr::null_mut(), bytes.end, ProtFlags::READ, flags, &content.file, 0)?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(View { start, bytes })
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: all of it is mapped, and never changes.
        #[allow(unsafe_code, reason = "memory is what it is")]
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes.end) };
        &all[self.bytes.clone()]
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: it is this one's own, and nobody has borrowed it.
        #[allow(unsafe_code, reason = "memory is what it is")]
        unsafe {
            // What stays mapped is only address space.
            munmap(self.start.as_ptr().cast(), self.bytes.end).ok();
        }
    }
}

impl Content {
    /// The bytes as memory that can only be read; none if the system has no room
    /// for it.
    pub(super) fn view(&self) -> Option<Arc<dyn AsRef<[u8]> + Send + Sync>> {
        let view = self.view.get_or_init(|| View::new(self).ok().map(Arc::new)).clone()?;
        Some(view)
    }

    /// Fills `buffer` with the bytes from `from` on.
    pub(super) fn read(&self, buffer: &mut [u8], from: usize) -> io::Result<()> {
        self.file.read_exact_at(buffer, (self.in_page + from) as u64)
    }
}

/// A content in the making.
pub(super) struct Draft {
    id: u64,
    file: File,
    stretch: Stretch,
}

impl Draft {
    /// An empty one.
    pub(super) fn new(stretch: Stretch) -> io::Result<Draft> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create(format!("proplet-content-{id}"), flags)?);
        file.write_all(&vec![0; stretch.in_page])?;
        Ok(Draft { id, file, stretch })
    }

    /// Adds the next bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn finish(self) -> io::Result<Content> {
        let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        fcntl_add_seals(&self.file, seals)?;
        let Stretch { in_page, length, .. } = self.stretch;
        Ok(Content { id: self.id, file: self.file, in_page, length, view: OnceLock::new() })
    }
}

struct KeptContent {
    content: Arc<Content>,
    bytes: u64,
    used: u64,
}

#[derive(Default)]
struct State {
    kept: HashMap<Stretch, KeptContent>,
    bytes: u64,
    /// Counts uses.
    clock: u64,
    /// The oldest first.
    seen: VecDeque<Stretch>,
}

/// The number of the next content of this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// See the module's documentation.
pub(in crate::runtime) struct Contents {
    budget: u64,
    now: fn() -> SystemTime,
    state: Mutex<State>,
    /// What tells whether a guest has written to what was mapped, if anything.
    pub(super) pages: Option<PageMap>,
    #[cfg(test)]
    pub(super) counts: Counts,
}

/// How often it happened, for tests.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Counts {
    pub(super) mapped: AtomicU64,
    pub(super) origins: AtomicU64,
    pub(super) shared: AtomicU64,
}

impl Contents {
    /// At most `budget` bytes.
    pub(in crate::runtime) fn new(budget: u64) -> Contents {
        Contents::with_clock(budget, SystemTime::now)
    }

    /// The same, for which it is `now`.
    pub(super) fn with_clock(budget: u64, now: fn() -> SystemTime) -> Contents {
        let pages = PageMap::open();
        if pages.is_none() {
            tracing::debug!(
                "the kernel does not tell which pages were written: models that guests read are \
                 compared"
            );
        }
        Contents {
            budget,
            now,
            state: Mutex::default(),
            pages,
            #[cfg(test)]
            counts: Counts::default(),
        }
    }

    pub(super) fn find(&self, stretch: &Stretch) -> Option<Arc<Content>> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let kept = state.kept.get_mut(stretch)?;
        kept.used = now;
        Some(kept.content.clone())
    }

    /// Whether a read of `stretch`, which is not there, should be kept: it was
    /// seen before, fits and can be told from a later one. Who asks gets to
    /// keep it; for the next one it is new again.
    pub(super) fn wants(&self, stretch: &Stretch) -> bool {
        if weight(stretch) > self.budget || !stretch.file.is_settled((self.now)()) {
            return false;
        }
        let mut state = self.lock();
        if let Some(at) = state.seen.iter().position(|seen| seen == stretch) {
            state.seen.remove(at);
            return true;
        }
        if state.seen.len() == MAX_SEEN {
            state.seen.pop_front();
        }
        state.seen.push_back(*stretch);
        false
    }

    /// Keeps what has all bytes of its stretch; those that were used least
    /// recently go.
    pub(super) fn keep(&self, draft: Draft) -> io::Result<()> {
        let stretch = draft.stretch;
        let content = Arc::new(draft.finish()?);
        let mut state = self.lock();
        let bytes = weight(&stretch);
        let used = state.clock;
        let before = state.kept.insert(stretch, KeptContent { content, bytes, used });
        state.bytes += bytes;
        let mut gone: Vec<_> = before.into_iter().collect();
        state.bytes -= gone.iter().map(|kept| kept.bytes).sum::<u64>();
        while state.bytes > self.budget || state.kept.len() > MAX_KEPT {
            let others = state.kept.iter().filter(|(other, _)| **other != stretch);
            let Some(oldest) = others.min_by_key(|(_, kept)| kept.used).map(|(other, _)| *other)
            else {
                break;
            };
            let oldest = state.kept.remove(&oldest);
            state.bytes -= oldest.as_ref().map_or(0, |kept| kept.bytes);
            gone.extend(oldest);
        }
        drop(state);
        // Those who have one mapped keep it; to free the others takes a while.
        drop(gone);
        Ok(())
    }

    /// The numbers of those that are kept, and their bytes together.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (Vec<u64>, u64) {
        let state = self.lock();
        (state.kept.values().map(|kept| kept.content.id).collect(), state.bytes)
    }

    // Numbers that a panic may leave a content behind: memory is freed later.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of memory that it takes.
fn weight(stretch: &Stretch) -> u64 {
    let page = rustix::param::page_size();
    (stretch.in_page.saturating_add(stretch.length)).div_ceil(page).saturating_mul(page) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 << 10;

    fn stretch(inode: u64, length: usize) -> Stretch {
        let file = FileId { inode, size: length as u64, modified: 1, changed: 1 };
        Stretch { file, offset: 0, length, in_page: 0 }
    }

    fn keep(contents: &Contents, stretch: Stretch, bytes: &[u8]) {
        let mut draft = Draft::new(stretch).expect("memory");
        draft.add(bytes).expect("memory");
        contents.keep(draft).expect("memory");
    }

    #[test]
    fn a_content_is_wanted_the_second_time() {
        let contents = Contents::new(1 << 20);
        let (one, other) = (stretch(1, PAGE), stretch(2, PAGE));
        assert!(!contents.wants(&one));
        assert!(!contents.wants(&other));
        assert!(contents.wants(&one));
        // One of those who read it at the same time keeps it.
        assert!(!contents.wants(&one));
    }

    #[test]
    fn what_has_just_changed_is_not_wanted() {
        let contents = Contents::new(1 << 20);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let now = u64::try_from(now.as_nanos()).expect("before 2554");
        for (modified, changed) in [(now, 1), (1, now), (u64::MAX, 1)] {
            let file = FileId { inode: 1, size: 1, modified, changed };
            let fresh = Stretch { file, ..stretch(1, PAGE) };
            assert!((0..3).all(|_| !contents.wants(&fresh)), "{fresh:?}");
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let contents = Contents::new(2 * PAGE as u64);
        let [first, second, third] = [1, 2, 3].map(|inode| stretch(inode, PAGE));
        keep(&contents, first, &[1; PAGE]);
        keep(&contents, second, &[2; PAGE]);
        assert!(contents.find(&first).is_some());
        keep(&contents, third, &[3; PAGE]);
        assert!(contents.find(&second).is_none());
        let mut bytes = [0; 2];
        contents.find(&first).expect("kept").read(&mut bytes, 1).expect("read");
        assert_eq!(bytes, [1, 1]);
        let (kept, bytes) = contents.kept();
        assert_eq!((kept.len(), bytes), (2, 2 * PAGE as u64));
        assert!((0..3).all(|_| !contents.wants(&stretch(4, 2 * PAGE + 1))), "it is too large");
    }

    #[test]
    fn a_content_can_not_be_changed() {
        let contents = Contents::new(1 << 20);
        keep(&contents, stretch(1, PAGE), &[1; PAGE]);
        let content = contents.find(&stretch(1, PAGE)).expect("kept");
        assert!(content.file.write_at(b"x", 0).is_err());
        assert!(content.file.set_len(0).is_err());
    }
}
