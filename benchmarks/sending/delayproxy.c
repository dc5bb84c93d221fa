/* A way of some length between a sender and a receiver on one machine, without root.
 *
 *     delayproxy DELAY_US TARGET_PORT PORT      (0: any free port, which it prints)
 *
 * What comes on a connection to PORT goes on to TARGET_PORT after DELAY_US microseconds, and back alike: a round trip
 * takes twice that. Nothing is lost and the rate is not limited. TCP itself ends here, so acknowledgements take no time;
 * senders that wait for those are flattered. A process per connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE_BYTES = 1 << 16, PIECES = 2048 };

/* One direction: pieces on their way, in a ring. An empty piece is the end of the stream. */
struct way {
    int from, to;
    int is_read_out;
    unsigned first, count;
    size_t sent; /* of the first piece */
    struct piece {
        int64_t due_ns;
        size_t length;
        unsigned char *bytes;
    } pieces[PIECES];
};

static int64_t delay_ns;

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void receive(struct way *way) {
    static unsigned char buffer[PIECE_BYTES];
    ssize_t got = recv(way->from, buffer, sizeof buffer, 0);
    if (got < 0) exit(0);
    struct piece *piece = &way->pieces[(way->first + way->count++) % PIECES];
    piece->due_ns = now_ns() + delay_ns;
    piece->length = (size_t)got;
    piece->bytes = got ? malloc((size_t)got) : NULL;
    if (got && !piece->bytes) exit(1);
    if (got) memcpy(piece->bytes, buffer, (size_t)got);
    way->is_read_out = !got;
}

static void deliver(struct way *way) {
    while (way->count && way->pieces[way->first].due_ns <= now_ns()) {
        struct piece *piece = &way->pieces[way->first];
        if (!piece->length) {
            shutdown(way->to, SHUT_WR);
        } else {
            ssize_t sent = send(way->to, piece->bytes + way->sent, piece->length - way->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0) return; /* full, or gone: poll tells */
            way->sent += (size_t)sent;
            if (way->sent < piece->length) return;
        }
        free(piece->bytes);
        way->sent = 0;
        way->first = (way->first + 1) % PIECES;
        way->count--;
    }
}

static void serve(int near, int far) {
    static struct way out, back;
    struct way *ways[2] = {&out, &back};
    out.from = back.to = near;
    out.to = back.from = far;
    while (!(out.is_read_out && back.is_read_out && !out.count && !back.count)) {
        struct pollfd wanted[2] = {{.fd = near}, {.fd = far}};
        int64_t wait_ns = INT64_MAX, now = now_ns();
        for (int i = 0; i < 2; i++) {
            struct way *way = ways[i];
            if (!way->is_read_out && way->count < PIECES) wanted[i].events |= POLLIN;
            if (!way->count) continue;
            int64_t left = way->pieces[way->first].due_ns - now;
            if (left > 0) wait_ns = left < wait_ns ? left : wait_ns;
            else wanted[1 - i].events |= POLLOUT;
        }
        struct timespec limit = {wait_ns / 1000000000, wait_ns % 1000000000};
        for (int i = 0; i < 2; i++)
            if (!wanted[i].events) wanted[i].fd = -1; /* or an end already seen would wake us for ever */
        ppoll(wanted, 2, wait_ns == INT64_MAX ? NULL : &limit, NULL);
        for (int i = 0; i < 2; i++) {
            if (wanted[i].revents & (POLLERR | POLLNVAL)) exit(0);
            if ((wanted[i].events & POLLIN) && (wanted[i].revents & (POLLIN | POLLHUP))) receive(ways[i]);
            deliver(ways[i]);
        }
    }
    exit(0);
}

static struct sockaddr_in local(const char *port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: delayproxy DELAY_US TARGET_PORT PORT\n");
        return 2;
    }
    delay_ns = (int64_t)strtoul(argv[1], NULL, 10) * 1000;
    struct sockaddr_in target = local(argv[2]), address = local(argv[3]);
    socklen_t size = sizeof address;
    int on = 1, server = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGCHLD, SIG_IGN);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 64) ||
        getsockname(server, (struct sockaddr *)&address, &size)) {
        perror("delayproxy");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int near = accept(server, NULL, NULL);
        if (near < 0) continue;
        if (fork() == 0) {
            close(server);
            int far = socket(AF_INET, SOCK_STREAM, 0);
            if (connect(far, (struct sockaddr *)&target, sizeof target)) exit(1);
            setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            setsockopt(far, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            serve(near, far);
        }
        close(near);
    }
}
