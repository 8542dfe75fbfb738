// Counts a process's allocations by thread and call stack, in a file that ALLOCATIONS names: NAME.PID. For ops/bench/allocations.py, by LD_PRELOAD.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES = 14, STACKS = 8192 };

// A stack and a thread, 0 where there is none yet; return addresses, innermost first.
struct stack {
    _Atomic uint64_t hash;
    _Atomic uint64_t count;
    uint64_t thread;
    uint64_t frames[FRAMES];
};

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static struct stack *stacks;

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("ALLOCATIONS");
    if (!folder) return;
    char name[4096];
    snprintf(name, sizeof name, "%s.%d", folder, (int)getpid());
    const int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const size_t bytes = STACKS * sizeof(struct stack);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0) return;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED) stacks = memory;
}

// By frame pointers, which Swift keeps.
static __attribute__((always_inline)) inline void count(void) {
    if (!stacks) return;
    static _Thread_local uint64_t thread;
    if (!thread) thread = (uint64_t)syscall(SYS_gettid);
    uint64_t frames[FRAMES] = {0}, hash = thread;
    const uintptr_t *frame = __builtin_frame_address(0);
    for (int i = 0; i < FRAMES; ++i) {
        frames[i] = frame[1];
        hash = (hash ^ frames[i]) * 0x9E3779B97F4A7C15ull;
        hash ^= hash >> 29;
        const uintptr_t *caller = (const uintptr_t *)frame[0];
        if (caller <= frame || caller > frame + (1 << 17) || ((uintptr_t)caller & 7)) break;
        frame = caller;
    }
    hash |= 1;
    for (uint64_t i = 0; i < STACKS; ++i) {
        struct stack *place = &stacks[(hash + i) % STACKS];
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&place->hash, &found, hash)) {
            place->thread = thread;
            for (int f = 0; f < FRAMES; ++f) place->frames[f] = frames[f];
        } else if (found != hash) {
            continue;
        }
        atomic_fetch_add_explicit(&place->count, 1, memory_order_relaxed);
        return;
    }
}

void *malloc(size_t bytes) { count(); return __libc_malloc(bytes); }
void *calloc(size_t number, size_t bytes) { count(); return __libc_calloc(number, bytes); }
void *realloc(void *memory, size_t bytes) { count(); return __libc_realloc(memory, bytes); }
void *memalign(size_t alignment, size_t bytes) { count(); return __libc_memalign(alignment, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) { count(); return __libc_memalign(alignment, bytes); }

int posix_memalign(void **memory, size_t alignment, size_t bytes) {
    count();
    *memory = __libc_memalign(alignment, bytes);
    return *memory ? 0 : 12;
}
