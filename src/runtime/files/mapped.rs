//! Contents of files in the place of a guest's memory.
//!
//! [`Mapped`] maps whole pages of a [`Content`] over a task's linear memory:
//! privately, so that a guest which writes there gets pages of its own. Before
//! the memory's slot goes back to the pool, anonymous memory is mapped over all
//! of them. If that were forgotten, the next guest in the slot would read this
//! one's files. So it is done by a guard, in the data of the task's store, which
//! is dropped before the store's memories; and where the kernel refuses one of
//! these mappings the process ends: what is mapped there is not known then, and
//! no interface takes a slot out of use.

use super::contents::{Content, Contents};
use crate::nn::{Kept, Origin, Origins};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};
use std::ops::Range;
#[cfg(test)]
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places in a task's memory that are mapped at the same time: each splits an
/// area of the process's memory, of which a process has 65,530.
const MAX_PLACES: usize = 64;

/// Pages of a content.
#[derive(Clone)]
struct Place {
    /// Of addresses of this process, whole pages.
    at: Range<usize>,
    content: Arc<Content>,
    /// The content's byte that is at the first.
    from: usize,
}

/// What is mapped into one task's memory. See the module's documentation.
pub(in crate::runtime) struct Mapped {
    pub(super) contents: Arc<Contents>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where contents are whole, as far as the guest has not written. No two
    /// of them overlap.
    places: Vec<Place>,
    /// All that was mapped.
    ranges: Vec<Range<usize>>,
    /// Addresses for which huge pages were asked.
    huge: Range<usize>,
}

impl Mapped {
    pub(in crate::runtime) fn new(contents: Arc<Contents>) -> Arc<Mapped> {
        Arc::new(Mapped { contents, state: Mutex::default() })
    }

    /// Huge pages were asked for at these addresses, and will be again.
    pub(in crate::runtime) fn has_huge_pages(&self, at: Range<usize>) {
        self.lock().huge = at;
    }

    /// Whether one more place can be mapped.
    pub(super) fn has_room(&self) -> bool {
        self.lock().ranges.len() < MAX_PLACES
    }

    /// Puts the content's bytes from `from` on in the place of `pages`, whole
    /// pages of a linear memory that can be written and is private, anonymous
    /// and not shared with other threads. They are in the same place in a page.
    pub(super) fn put(&self, pages: &mut [u8], content: &Arc<Content>, from: usize) {
        let page = rustix::param::page_size();
        let offset = content.in_page + from;
        let start = pages.as_mut_ptr();
        let at = start.expose_provenance()..start.addr() + pages.len();
        assert!(at.start.is_multiple_of(page) && at.end.is_multiple_of(page));
        assert!(offset.is_multiple_of(page));
        let mut state = self.lock();
        state.places.retain(|place| place.at.end <= at.start || at.end <= place.at.start);
        if !state.ranges.contains(&at) {
            state.ranges.push(at.clone());
        }
        // SAFETY: the range is that of `pages`, which is borrowed for as long,
        // and the file has as many bytes, for ever.
        #[allow(unsafe_code, reason = "the engine has no interface for this")]
        let mapped = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            mmap(start.cast(), pages.len(), access, flags, &content.file, offset as u64)
        };
        if let Err(error) = mapped {
            give_up("a file's content into a guest's memory", error);
        }
        state.places.push(Place { at, content: content.clone(), from });
        #[cfg(test)]
        self.contents.counts.mapped.fetch_add(1, Ordering::Relaxed);
    }

    /// The place that has the most of `bytes`, of the task's memory, and those of
    /// them in it, if the guest has not written there.
    fn place_of(&self, bytes: &[u8]) -> Option<(Place, Range<usize>)> {
        let pages = self.contents.pages.as_ref()?;
        let start = bytes.as_ptr().addr();
        let end = start + bytes.len();
        let state = self.lock();
        let shared =
            |place: &&Place| place.at.end.min(end).saturating_sub(place.at.start.max(start));
        let place = state.places.iter().max_by_key(shared).filter(|place| shared(place) > 0)?;
        let (first, last) = (place.at.start.max(start), place.at.end.min(end));
        if !pages.are_untouched(first, last - first) {
            return None;
        }
        #[cfg(test)]
        self.contents.counts.origins.fetch_add(1, Ordering::Relaxed);
        let from = place.from + (first - place.at.start);
        Some((Place { from, ..place.clone() }, first - start..last - start))
    }

    /// Maps anonymous memory over all that was mapped. Nobody may use that
    /// memory meanwhile or later, but for the pool.
    fn clear(&self) {
        let mut state = self.lock();
        state.places.clear();
        let huge = state.huge.clone();
        for at in state.ranges.drain(..) {
            let address = std::ptr::with_exposed_provenance_mut::<u8>(at.start);
            let huge = huge.start.max(at.start)..huge.end.min(at.end);
            // SAFETY: the range was one of a linear memory of this task's, in
            // which `put` has mapped; its slot is this task's until its store,
            // whose data is dropped first, has been dropped. It will be as it
            // was before any guest had it.
            #[allow(unsafe_code, reason = "the engine has no interface for this")]
            let cleared = unsafe {
                let access = ProtFlags::READ | ProtFlags::WRITE;
                let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
                mmap_anonymous(address.cast(), at.len(), access, flags).map(|_| {
                    if !huge.is_empty() {
                        // As its neighbours are: areas become one again only
                        // if they are alike. Without it, this is only slower.
                        let start = address.with_addr(huge.start).cast();
                        madvise(start, huge.len(), Advice::LinuxHugepage).ok();
                    }
                })
            };
            if let Err(error) = cleared {
                give_up("anonymous memory over a file's content", error);
            }
        }
    }

    // A panic under it would be one of ours, and leaves at worst a range whose
    // mapping failed, which is cleared like the others.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origins for Mapped {
    fn origin(&self, bytes: &[u8]) -> Option<Origin> {
        let (place, within) = self.place_of(bytes)?;
        Some(Origin { content: place.content.id, from: place.from, within })
    }

    fn kept(&self, bytes: &[u8]) -> Option<Kept> {
        let (place, within) = self.place_of(bytes)?;
        // Whoever has a part keeps all of it.
        if place.content.length / 2 > bytes.len() {
            return None;
        }
        let start = place.from.checked_sub(within.start)?;
        let kept = Kept::new(place.content.view()?, start..start + bytes.len())?;
        // The ends were copied, and what the guest did to them is not known.
        let same = |range: Range<usize>| kept.as_ref()[range.clone()] == bytes[range];
        if !(same(0..within.start) && same(within.end..bytes.len())) {
            return None;
        }
        #[cfg(test)]
        self.contents.counts.shared.fetch_add(1, Ordering::Relaxed);
        Some(kept)
    }
}

/// Clears what was mapped when it is dropped, whoever else still knows of it.
pub(in crate::runtime) struct Guard(pub(in crate::runtime) Arc<Mapped>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Ends the process: a guest's memory is in an unknown state.
fn give_up(what: &str, error: rustix::io::Errno) -> ! {
    tracing::error!(
        "the kernel did not map {what}: {error}; without that the next task could see \
                     what is not its own, so this process ends"
    );
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::super::contents::{Draft, FileId, Stretch};
    use super::*;
    use rustix::mm::{MprotectFlags, mprotect, munmap};

    const HUGE: usize = 2 << 20;

    /// Memory like that of a slot: reserved, then partly made accessible.
    struct Slot {
        start: *mut u8,
        length: usize,
    }

    impl Slot {
        fn new(length: usize) -> Slot {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: the mapping is new; half of it is made accessible.
            #[allow(unsafe_code, reason = "it takes the place of the engine")]
            let start = unsafe {
                let start =
                    mmap_anonymous(std::ptr::null_mut(), 2 * length, ProtFlags::empty(), flags);
                let start = start.expect("mapped");
                let access = MprotectFlags::READ | MprotectFlags::WRITE;
                mprotect(start, length, access).expect("accessible");
                start.cast()
            };
            Slot { start, length }
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: it is as long, can be read and written, and is borrowed.
            #[allow(unsafe_code, reason = "it takes the place of the engine")]
            unsafe {
                std::slice::from_raw_parts_mut(self.start, self.length)
            }
        }

        /// Areas of the process's memory that lie in it.
        fn areas(&self) -> usize {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("what is mapped");
            let starts = maps
                .lines()
                .filter_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
            let inside = self.start.addr()..self.start.addr() + 2 * self.length;
            starts.filter(|start| inside.contains(start)).count()
        }
    }

    impl Drop for Slot {
        fn drop(&mut self) {
            // SAFETY: it is this one's own, and nobody has borrowed it.
            #[allow(unsafe_code, reason = "it takes the place of the engine")]
            unsafe {
                munmap(self.start.cast(), 2 * self.length).expect("unmapped");
            }
        }
    }

    fn content(contents: &Contents, bytes: &[u8]) -> Arc<Content> {
        let file = FileId { inode: 1, size: bytes.len() as u64, modified: 1, changed: 1 };
        let stretch = Stretch { file, offset: 0, length: bytes.len(), in_page: 0 };
        let mut draft = Draft::new(stretch).expect("memory");
        draft.add(bytes).expect("memory");
        contents.keep(draft).expect("memory");
        contents.find(&stretch).expect("kept")
    }

    /// The limit of areas is one of the whole process.
    #[test]
    fn areas_become_one_again_when_a_task_has_ended() {
        let contents = Arc::new(Contents::new(16 << 20));
        let content = content(&contents, &vec![7; 3 * HUGE]);
        let mut slot = Slot::new(8 * HUGE);
        let first = slot.start.addr().next_multiple_of(HUGE) - slot.start.addr();
        let huge = slot.start.addr() + first..slot.start.addr() + 7 * HUGE;
        // SAFETY: it changes no byte.
        #[allow(unsafe_code, reason = "it takes the place of the runtime")]
        unsafe {
            let start = slot.start.with_addr(huge.start).cast();
            madvise(start, huge.len(), Advice::LinuxHugepage).expect("advised");
        }
        slot.bytes().fill(1);
        let before = slot.areas();
        for round in 0..200 {
            let guard = Guard(Mapped::new(contents.clone()));
            guard.0.has_huge_pages(huge.clone());
            // Across the border of what is advised, and elsewhere each time.
            let at = (round % 16) * (64 << 10);
            let pages = &mut slot.bytes()[at..at + 3 * HUGE];
            guard.0.put(pages, &content, 0);
            pages[HUGE] = 9;
            assert_eq!((pages[0], pages[HUGE], pages[3 * HUGE - 1]), (7, 9, 7));
            drop(guard);
            assert!(slot.bytes()[at..at + 3 * HUGE].iter().all(|byte| *byte == 0));
            assert_eq!(slot.areas(), before, "in round {round}");
        }
    }

    #[test]
    fn an_origin_is_known_until_the_guest_writes() {
        let contents = Arc::new(Contents::new(16 << 20));
        let content = content(&contents, &vec![7; HUGE]);
        let id = content.id;
        let mut slot = Slot::new(2 * HUGE);
        let guard = Guard(Mapped::new(contents));
        let bytes = slot.bytes();
        let page = rustix::param::page_size();
        guard.0.put(&mut bytes[page..HUGE], &content, page);
        let origin = |bytes: &[u8]| guard.0.origin(bytes);
        let whole = Origin { content: id, from: page, within: page - 10..HUGE - 10 };
        assert_eq!(origin(&bytes[10..HUGE + 10]), Some(whole.clone()));
        assert!(bytes[page..HUGE].iter().all(|byte| *byte == 7));
        assert_eq!(origin(&bytes[10..HUGE + 10]), Some(whole), "it was only read");
        let part = Origin { content: id, from: HUGE - 10, within: 0..10 };
        assert_eq!(origin(&bytes[HUGE - 10..HUGE + 10]), Some(part));
        assert_eq!(origin(&bytes[HUGE..HUGE + 10]), None);
        // The same byte again is a write, too.
        bytes[HUGE / 2] = 7;
        assert_eq!(origin(&bytes[10..HUGE + 10]), None);
        let later = HUGE / 2 + page..HUGE;
        let rest = Origin { content: id, from: later.start, within: 0..later.len() };
        assert_eq!(origin(&bytes[later]), Some(rest));
        // What is mapped over it is no longer whole; what is mapped twice is the
        // later one's.
        guard.0.put(&mut bytes[page..2 * page], &content, 0);
        assert_eq!(origin(&bytes[HUGE - 10..HUGE]), None);
        let twice = Origin { content: id, from: 0, within: 0..page };
        assert_eq!(origin(&bytes[page..2 * page]), Some(twice));
    }

    #[test]
    fn kept_bytes_are_those_of_the_guest_or_none() {
        let contents = Arc::new(Contents::new(16 << 20));
        let all: Vec<u8> = (0..HUGE).map(|n| (n % 251) as u8).collect();
        let content = content(&contents, &all);
        let mut slot = Slot::new(2 * HUGE);
        let guard = Guard(Mapped::new(contents));
        let bytes = slot.bytes();
        let page = rustix::param::page_size();
        // The pages between, and copies of the ends.
        guard.0.put(&mut bytes[page..HUGE - page], &content, page);
        bytes[..page].copy_from_slice(&all[..page]);
        bytes[HUGE - page..HUGE].copy_from_slice(&all[HUGE - page..]);
        let kept = |bytes: &[u8]| guard.0.kept(bytes);
        for range in [0..HUGE, 8..HUGE - 8, page..HUGE - page, 100..HUGE / 2 + 100] {
            let kept = kept(&bytes[range.clone()]).expect("known");
            assert!(kept.as_ref() == &all[range]);
        }
        assert!(kept(&bytes[..HUGE / 2 - 8]).is_none(), "a small part keeps nothing large");
        assert!(kept(&bytes[..HUGE + 1]).is_none(), "the content ends before");
        for end in [page - 1, HUGE - page] {
            bytes[end] ^= 1;
            assert!(kept(&bytes[..HUGE]).is_none(), "{end}");
            bytes[end] ^= 1;
            assert!(kept(&bytes[..HUGE]).is_some());
        }
        let before = kept(&bytes[..HUGE]).expect("known");
        bytes[HUGE / 2] ^= 1;
        assert!(kept(&bytes[..HUGE]).is_none());
        drop(guard);
        assert!(before.as_ref() == all, "it outlives the task, as it was");
        // Nobody can make it a memory to write to.
        let start = before.as_ref().as_ptr().cast_mut().cast();
        // SAFETY: it only tries; what it asks for is refused.
        #[allow(unsafe_code, reason = "the kernel is asked")]
        let allowed = unsafe { mprotect(start, page, MprotectFlags::READ | MprotectFlags::WRITE) };
        assert_eq!(allowed, Err(rustix::io::Errno::ACCESS));
    }
}
