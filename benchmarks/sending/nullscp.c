/* A DICOM receiver that costs next to nothing, so that a benchmark measures the sender.
 *
 *     nullscp [-p MAX_PDU_BYTES] [-d RESPONSE_DELAY_US] PORT      (0: any free port, which it prints)
 *
 * Accepts every association and every presentation context with its first transfer syntax, reads data sets without
 * looking at them, and answers each C-STORE and C-ECHO with success in one write, without Nagle. A process per
 * association. Speaks only what a well-behaved sender needs (PS3.8 9.3, PS3.7 9.3.1); anything else ends the
 * connection. Not for anything but benchmarks.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ASSOCIATE_RQ = 1, ASSOCIATE_AC = 2, P_DATA = 4, RELEASE_RQ = 5, RELEASE_RP = 6 };
enum { BUFFER_BYTES = 1 << 20, COMMAND_BYTES = 1 << 12, UID_BYTES = 64 };

static uint32_t max_pdu = 16384;
static useconds_t delay_us = 0;

/* -- reading: a large buffer, so that small PDUs cost no system call each ---------------------------------------- */

static unsigned char buffer[BUFFER_BYTES];
static size_t filled, used;

static void fill(int peer) {
    ssize_t got = read(peer, buffer, sizeof buffer);
    if (got <= 0) exit(0);
    filled = (size_t)got;
    used = 0;
}

static void take(int peer, unsigned char *into, size_t count) {
    while (count) {
        if (used == filled) fill(peer);
        size_t some = filled - used < count ? filled - used : count;
        if (into) {
            memcpy(into, buffer + used, some);
            into += some;
        }
        used += some;
        count -= some;
    }
}

static void give(int peer, const unsigned char *data, size_t count) {
    while (count) {
        ssize_t sent = write(peer, data, count);
        if (sent <= 0) exit(0);
        data += sent;
        count -= (size_t)sent;
    }
}

static uint32_t be32(const unsigned char *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint16_t be16(const unsigned char *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t le32(const unsigned char *p) { return (uint32_t)p[3] << 24 | p[2] << 16 | p[1] << 8 | p[0]; }
static uint16_t le16(const unsigned char *p) { return (uint16_t)(p[1] << 8 | p[0]); }
static void put_be32(unsigned char *p, uint32_t v) { p[0] = v >> 24, p[1] = v >> 16, p[2] = v >> 8, p[3] = v; }
static void put_be16(unsigned char *p, uint16_t v) { p[0] = v >> 8, p[1] = v; }
static void put_le32(unsigned char *p, uint32_t v) { p[3] = v >> 24, p[2] = v >> 16, p[1] = v >> 8, p[0] = v; }
static void put_le16(unsigned char *p, uint16_t v) { p[1] = v >> 8, p[0] = v; }

/* -- association --------------------------------------------------------------------------------------------------- */

static unsigned char *put_item(unsigned char *at, unsigned char type, const void *value, uint16_t length) {
    at[0] = type;
    at[1] = 0;
    put_be16(at + 2, length);
    memcpy(at + 4, value, length);
    return at + 4 + length;
}

/* The answer to an A-ASSOCIATE-RQ of `length` bytes (without the 6 of its head): every context, its first syntax. */
static void accept_association(int peer, const unsigned char *rq, uint32_t length) {
    static unsigned char ac[1 << 16];
    const unsigned char *end = rq + length, *item = rq + 68;
    unsigned char *at = ac + 6, size[4];
    memcpy(at, rq, 68); /* protocol version and AE titles come back as they are */
    at = put_item(at + 68, 0x10, "1.2.840.10008.3.1.1.1", 21);
    for (; item + 4 <= end; item += 4 + be16(item + 2)) {
        if (item[0] != 0x20) continue;
        const unsigned char *sub = item + 8, *stop = item + 4 + be16(item + 2);
        while (sub + 4 <= stop && sub[0] != 0x40) sub += 4 + be16(sub + 2);
        unsigned char context[4 + 4 + UID_BYTES] = {item[4]};
        uint16_t uid = be16(sub + 2);
        if (sub >= stop || uid > UID_BYTES) exit(1);
        put_item(context + 4, 0x40, sub + 4, uid);
        at = put_item(at, 0x21, context, (uint16_t)(8 + uid));
    }
    unsigned char user[64];
    put_be32(size, max_pdu);
    unsigned char *user_end = put_item(user, 0x51, size, 4);
    user_end = put_item(user_end, 0x52, "2.25.1", 6);
    at = put_item(at, 0x50, user, (uint16_t)(user_end - user));
    ac[0] = ASSOCIATE_AC;
    ac[1] = 0;
    put_be32(ac + 2, (uint32_t)(at - ac - 6));
    give(peer, ac, (size_t)(at - ac));
}

/* -- messages ------------------------------------------------------------------------------------------------------ */

struct command {
    unsigned char bytes[COMMAND_BYTES], sop_class[UID_BYTES], instance[UID_BYTES];
    size_t length;
    uint16_t field, message_id, data_set_type, class_length, instance_length;
};

static void parse_command(struct command *c) {
    size_t at = 0;
    c->class_length = c->instance_length = 0;
    while (at + 8 <= c->length) {
        const unsigned char *e = c->bytes + at;
        uint16_t number = le16(e + 2);
        uint32_t length = le32(e + 4);
        if (at + 8 + length > c->length) exit(1);
        if (number == 0x0100) c->field = le16(e + 8);
        if (number == 0x0110) c->message_id = le16(e + 8);
        if (number == 0x0800) c->data_set_type = le16(e + 8);
        if (number == 0x0002 && length <= UID_BYTES) memcpy(c->sop_class, e + 8, c->class_length = (uint16_t)length);
        if (number == 0x1000 && length <= UID_BYTES) memcpy(c->instance, e + 8, c->instance_length = (uint16_t)length);
        at += 8 + length;
    }
}

static unsigned char *put_element(unsigned char *at, uint16_t number, const void *value, uint32_t length) {
    put_le16(at, 0);
    put_le16(at + 2, number);
    put_le32(at + 4, length);
    memcpy(at + 8, value, length);
    return at + 8 + length;
}

static unsigned char *put_number(unsigned char *at, uint16_t number, uint16_t value) {
    unsigned char encoded[2];
    put_le16(encoded, value);
    return put_element(at, number, encoded, 2);
}

static void respond(int peer, unsigned char context, const struct command *c) {
    unsigned char pdu[512], group_length[4], *start = pdu + 12, *at = start + 12;
    at = put_element(at, 0x0002, c->sop_class, c->class_length);
    at = put_number(at, 0x0100, (uint16_t)(c->field | 0x8000));
    at = put_number(at, 0x0120, c->message_id);
    at = put_number(at, 0x0800, 0x0101);
    at = put_number(at, 0x0900, 0x0000);
    if (c->instance_length) at = put_element(at, 0x1000, c->instance, c->instance_length);
    put_le32(group_length, (uint32_t)(at - start - 12));
    put_element(start, 0x0000, group_length, 4);
    pdu[0] = P_DATA;
    pdu[1] = 0;
    put_be32(pdu + 2, (uint32_t)(at - pdu - 6));
    put_be32(pdu + 6, (uint32_t)(at - pdu - 10));
    pdu[10] = context;
    pdu[11] = 3;
    if (delay_us) usleep(delay_us);
    give(peer, pdu, (size_t)(at - pdu));
}

static void serve(int peer) {
    static struct command command;
    static unsigned char request[1 << 16];
    unsigned char head[6], item[6];
    for (;;) {
        take(peer, head, 6);
        uint32_t length = be32(head + 2);
        if (head[0] == ASSOCIATE_RQ && length >= 68 && length <= sizeof request) {
            take(peer, request, length);
            accept_association(peer, request, length);
        } else if (head[0] == RELEASE_RQ) {
            take(peer, NULL, length);
            give(peer, (const unsigned char[]){RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0}, 10);
        } else if (head[0] == P_DATA) {
            while (length >= 6) {
                take(peer, item, 6);
                uint32_t bytes = be32(item) - 2, is_command = item[5] & 1, is_last = item[5] & 2;
                if (bytes + 6 > length) exit(1);
                length -= bytes + 6;
                if (is_command) {
                    if (command.length + bytes > COMMAND_BYTES) exit(1);
                    take(peer, command.bytes + command.length, bytes);
                    command.length += bytes;
                    if (!is_last) continue;
                    parse_command(&command);
                    command.length = 0;
                    if (command.data_set_type != 0x0101) continue;
                } else {
                    take(peer, NULL, bytes);
                    if (!is_last) continue;
                }
                respond(peer, item[4], &command);
            }
        } else {
            exit(0);
        }
    }
}

int main(int argc, char **argv) {
    int option, on = 1;
    while ((option = getopt(argc, argv, "p:d:")) != -1) {
        if (option == 'p') max_pdu = (uint32_t)strtoul(optarg, NULL, 10);
        else if (option == 'd') delay_us = (useconds_t)strtoul(optarg, NULL, 10);
        else return 2;
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "usage: nullscp [-p MAX_PDU_BYTES] [-d RESPONSE_DELAY_US] PORT\n");
        return 2;
    }
    signal(SIGCHLD, SIG_IGN);
    int server = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[optind])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 64) ||
        getsockname(server, (struct sockaddr *)&address, &size)) {
        perror("nullscp");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int peer = accept(server, NULL, NULL);
        if (peer < 0) continue;
        setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fork() == 0) {
            close(server);
            serve(peer);
        }
        close(peer);
    }
}
