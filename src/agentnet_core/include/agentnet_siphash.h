/* SipHash-1-3 with 64 bits out: a table that is hashed with a secret key cannot be aimed at. */
#ifndef AGENTNET_SIPHASH_H
#define AGENTNET_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AGENTNET_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define AGENTNET_SIPROUND                                                                     \
    do {                                                                                      \
        v0 += v1; v1 = AGENTNET_ROTL(v1, 13); v1 ^= v0; v0 = AGENTNET_ROTL(v0, 32);           \
        v2 += v3; v3 = AGENTNET_ROTL(v3, 16); v3 ^= v2;                                       \
        v0 += v3; v3 = AGENTNET_ROTL(v3, 21); v3 ^= v0;                                       \
        v2 += v1; v1 = AGENTNET_ROTL(v1, 17); v1 ^= v2; v2 = AGENTNET_ROTL(v2, 32);           \
    } while (0)

/* Words are read in the order of this machine: the result never leaves it. */
static inline uint64_t agentnet_siphash13(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size) {
    uint64_t v0 = k0 ^ 0x736f6d6570736575ull, v1 = k1 ^ 0x646f72616e646f6dull;
    uint64_t v2 = k0 ^ 0x6c7967656e657261ull, v3 = k1 ^ 0x7465646279746573ull;
    uint64_t word, last = (uint64_t)size << 56;
    const uint8_t *end = data + (size & ~(size_t)7);
    for (; data != end; data += 8) {
        memcpy(&word, data, 8);
        v3 ^= word;
        AGENTNET_SIPROUND;
        v0 ^= word;
    }
    word = 0;
    memcpy(&word, data, size & 7);
    last |= word & 0x00ffffffffffffffull;
    v3 ^= last;
    AGENTNET_SIPROUND;
    v0 ^= last;
    v2 ^= 0xff;
    AGENTNET_SIPROUND;
    AGENTNET_SIPROUND;
    AGENTNET_SIPROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

#endif
