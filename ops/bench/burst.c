// The least that a burst of tokens takes from a worker to its clients on this machine: bytes go the way that they go through the
// coordinator, over the same number of sockets and threads, and nothing is done with them.
//
//   burst [STREAMS [BURSTS]]         64 and 300
//
// A process of two threads stands for the coordinator: one reads a worker's frame from TCP and passes each stream's number on
// through a pipe, the other writes 330 bytes to each stream's TCP connection. Another process stands for worker and clients:
// one thread sends a frame every 10 ms, with the time in it, the other waits with epoll and reads. Prints the milliseconds
// from a frame's sending to the reading of each stream's bytes: `p50 p90 p99`.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EVENT_BYTES = 330, FRAME_BYTES = 1024, MOST_STREAMS = 1024, MOST_BURSTS = 100000, WARM_UP = 20 };

static int streams = 64, bursts = 300;
static int clients[MOST_STREAMS];   // the clients' ends
static int answers[MOST_STREAMS];   // the coordinator's ends
static int worker, coordinator;     // the two ends of the frames' connection
static int numbers[2];              // the pipe between the coordinator's threads

// What the coordinator's threads pass on: a stream, and when its frame was sent.
struct token {
    double sent;
    int stream;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void need(int isRight, const char *what) {
    if (!isRight) {
        fprintf(stderr, "burst: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static void connect_pair(int *near, int *far) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    const int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    need(listener >= 0 && bind(listener, (void *)&address, length) == 0 && listen(listener, 1) == 0, "listen");
    need(getsockname(listener, (void *)&address, &length) == 0, "getsockname");
    *near = socket(AF_INET, SOCK_STREAM, 0);
    need(*near >= 0 && connect(*near, (void *)&address, length) == 0, "connect");
    *far = accept(listener, NULL, NULL);
    need(*far >= 0, "accept");
    setsockopt(*near, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(*far, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
}

// Reads so many bytes; 0 at the end of the stream.
static int read_whole(int descriptor, char *bytes, size_t count) {
    for (size_t done = 0; done < count;) {
        const ssize_t some = read(descriptor, bytes + done, count - done);
        if (some <= 0) {
            return 0;
        }
        done += (size_t)some;
    }
    return 1;
}

static void *answer(void *none) {
    char event[EVENT_BYTES] = {0};
    struct token some[MOST_STREAMS];
    ssize_t bytes;
    while ((bytes = read(numbers[0], some, sizeof some)) > 0) {
        for (size_t i = 0; i < (size_t)bytes / sizeof *some; ++i) {
            memcpy(event, &some[i].sent, sizeof some[i].sent);
            need(write(answers[some[i].stream], event, sizeof event) == EVENT_BYTES, "write");
        }
    }
    return none;
}

static void coordinate(void) {
    pthread_t thread;
    char frame[FRAME_BYTES];
    need(pthread_create(&thread, NULL, answer, NULL) == 0, "thread");
    while (read_whole(coordinator, frame, sizeof frame)) {
        struct token token = {0};
        memcpy(&token.sent, frame, sizeof token.sent);
        for (token.stream = 0; token.stream < streams; ++token.stream) {
            need(write(numbers[1], &token, sizeof token) == sizeof token, "pipe");
        }
    }
    exit(0);
}

static void *work(void *none) {
    char frame[FRAME_BYTES] = {0};
    const struct timespec pause = {.tv_nsec = 10000000};
    for (int i = 0; i < bursts + WARM_UP; ++i) {
        nanosleep(&pause, NULL);
        const double sent = now();
        memcpy(frame, &sent, sizeof sent);
        need(write(worker, frame, sizeof frame) == FRAME_BYTES, "write");
    }
    return none;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int count, char **words) {
    if (count > 1) {
        streams = atoi(words[1]);
    }
    if (count > 2) {
        bursts = atoi(words[2]);
    }
    if (count > 3 || streams < 1 || streams > MOST_STREAMS || bursts < 1 || bursts > MOST_BURSTS) {
        fprintf(stderr, "usage: burst [STREAMS [BURSTS]], at most %d and %d\n", MOST_STREAMS, MOST_BURSTS);
        return 64;
    }
    connect_pair(&worker, &coordinator);
    for (int i = 0; i < streams; ++i) {
        connect_pair(&clients[i], &answers[i]);
    }
    need(pipe(numbers) == 0, "pipe");
    const pid_t child = fork();
    need(child >= 0, "fork");
    if (child == 0) {
        close(worker);
        coordinate();
    }
    close(coordinator);
    const int poll = epoll_create1(0);
    for (int i = 0; i < streams; ++i) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = clients[i]};
        need(epoll_ctl(poll, EPOLL_CTL_ADD, clients[i], &event) == 0, "epoll");
    }
    pthread_t thread;
    need(pthread_create(&thread, NULL, work, NULL) == 0, "thread");
    const size_t warm = (size_t)WARM_UP * (size_t)streams, all = warm + (size_t)bursts * (size_t)streams;
    double *times = malloc(all * sizeof *times);
    need(times != NULL, "memory");
    for (size_t seen = 0; seen < all;) {
        struct epoll_event events[64];
        const int ready = epoll_wait(poll, events, 64, 5000);
        need(ready > 0, "nothing came");
        for (int i = 0; i < ready; ++i) {
            char bytes[12 * EVENT_BYTES];
            const ssize_t some = read(events[i].data.fd, bytes, sizeof bytes);
            need(some > 0 && some % EVENT_BYTES == 0, "read");
            for (ssize_t each = 0; each < some && seen < all; each += EVENT_BYTES) {
                double sent;
                memcpy(&sent, bytes + each, sizeof sent);
                times[seen++] = (now() - sent) * 1e3;
            }
        }
    }
    pthread_join(thread, NULL);
    close(worker);
    waitpid(child, NULL, 0);
    const size_t measured = all - warm;
    qsort(times + warm, measured, sizeof *times, compare);
    printf(
        "%.3f %.3f %.3f\n", times[warm + measured / 2], times[warm + measured * 9 / 10], times[warm + measured * 99 / 100]);
    return 0;
}
