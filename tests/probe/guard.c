/* Preloaded by the probe alone: memory of tensors ends at a page that nobody may
 * touch, is filled with a byte when it is given out, and is never given out
 *again. So what reads or writes behind it, or after it was freed, is a signal,
 * and what was left unwritten shows. `probe_fill` sets the byte. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define REGION (1UL << 40)

static _Atomic uintptr_t next;
static uintptr_t start;
static _Atomic int fill = 0xa5;

struct head { size_t pages, size; uintptr_t data; uint64_t mark; int fill; };
#define MARK 0x70726f62655f6d6bULL

static void (*real_free)(void *);
static void *(*real_realloc)(void *, size_t);
static size_t (*real_usable)(void *);

__attribute__((constructor)) static void begin(void) {
    real_free = dlsym(RTLD_NEXT, "free");
    real_realloc = dlsym(RTLD_NEXT, "realloc");
    real_usable = dlsym(RTLD_NEXT, "malloc_usable_size");
    void *region = mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED) abort();
    start = (uintptr_t)region;
    next = start;
}

void probe_fill(int byte) { fill = byte; }

static int ours(const void *p) {
    return start && (uintptr_t)p >= start && (uintptr_t)p < start + REGION;
}

/* One page of its head, the data up to the end of its pages, one page of nothing. */
static void *guarded(size_t align, size_t size) {
    if (align < 16) align = 16;
    if (align > PAGE || size > (1UL << 36)) return NULL;
    size_t pages = (size + PAGE - 1) / PAGE;
    if (pages == 0) pages = 1;
    uintptr_t at = atomic_fetch_add(&next, (pages + 2) * PAGE);
    if (at + (pages + 2) * PAGE > start + REGION) return NULL;
    if (mprotect((void *)at, (pages + 1) * PAGE, PROT_READ | PROT_WRITE)) return NULL;
    uintptr_t body = at + PAGE;
    int byte = fill;
    memset((void *)(at + sizeof(struct head)), byte, PAGE - sizeof(struct head));
    memset((void *)body, byte, pages * PAGE);
    uintptr_t data = (body + pages * PAGE - size) & ~(align - 1);
    *(struct head *)at = (struct head){pages, size, data, MARK, byte};
    return (void *)data;
}

static struct head *head_of(void *p) {
    /* The head lies in the page before the first one of the data. */
    for (uintptr_t at = ((uintptr_t)p & ~(PAGE - 1)) - PAGE; at >= start; at -= PAGE) {
        struct head *head = (struct head *)at;
        if (head->mark == MARK && head->data == (uintptr_t)p) return head;
    }
    abort();
}

static void give_back(void *p) {
    struct head *head = head_of(p);
    size_t pages = head->pages;
    uint8_t *body = (uint8_t *)head + PAGE, *data = p;
    /* Written before it or behind it, short of the guard. */
    for (uint8_t *b = (uint8_t *)head + sizeof *head; b < data; b++)
        if (*b != (uint8_t)head->fill) abort();
    for (uint8_t *b = data + head->size; b < body + pages * PAGE; b++)
        if (*b != (uint8_t)head->fill) abort();
    madvise((void *)head, (pages + 1) * PAGE, MADV_DONTNEED);
    mprotect((void *)head, (pages + 1) * PAGE, PROT_NONE);
}

void *aligned_alloc(size_t align, size_t size) { return guarded(align, size); }
void *memalign(size_t align, size_t size) { return guarded(align, size); }
int posix_memalign(void **out, size_t align, size_t size) {
    void *p = guarded(align, size);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

void free(void *p) {
    if (!p) return;
    if (ours(p)) give_back(p);
    else if (real_free) real_free(p);
}

size_t malloc_usable_size(void *p) {
    return ours(p) ? head_of(p)->size : real_usable(p);
}

void *realloc(void *p, size_t size) {
    if (!ours(p)) {
        if (!real_realloc) real_realloc = dlsym(RTLD_NEXT, "realloc");
        return real_realloc(p, size);
    }
    void *new = malloc(size);
    size_t old = head_of(p)->size;
    if (new) { memcpy(new, p, old < size ? old : size); give_back(p); }
    return new;
}
