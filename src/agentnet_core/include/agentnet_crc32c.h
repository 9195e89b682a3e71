/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), reflected, as used by iSCSI and ext4.
 *
 * One lane of the SSE4.2 or ARMv8 instruction has a latency of three cycles for eight bytes;
 * blocks of three lanes keep it busy, and are joined by a table that advances a register over a
 * lane of zeros.  Machines without the instruction take eight tables, eight bytes a step.
 */
#ifndef AGENTNET_CRC32C_H
#define AGENTNET_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AGENTNET_CRC_POLYNOMIAL 0x82f63b78u
#define AGENTNET_CRC_LANE 1024

static uint32_t agentnet_crc_table[8][256];
static uint32_t agentnet_crc_skip_lane[4][256];
static int agentnet_crc_in_hardware;

static inline uint64_t agentnet_load_le64(const unsigned char *p) {
    uint64_t value;
    memcpy(&value, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static uint32_t agentnet_crc_by_table(uint32_t crc, const unsigned char *p, size_t n) {
    while (n >= 8) {
        uint64_t v = agentnet_load_le64(p) ^ crc;
        crc = agentnet_crc_table[7][v & 255] ^ agentnet_crc_table[6][(v >> 8) & 255] ^
              agentnet_crc_table[5][(v >> 16) & 255] ^ agentnet_crc_table[4][(v >> 24) & 255] ^
              agentnet_crc_table[3][(v >> 32) & 255] ^ agentnet_crc_table[2][(v >> 40) & 255] ^
              agentnet_crc_table[1][(v >> 48) & 255] ^ agentnet_crc_table[0][v >> 56];
        p += 8;
        n -= 8;
    }
    while (n--) crc = (crc >> 8) ^ agentnet_crc_table[0][(crc ^ *p++) & 255];
    return crc;
}

#if (defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)))
#define AGENTNET_CRC_HARDWARE 1
#define AGENTNET_CRC_TARGET __attribute__((target("sse4.2")))
#define AGENTNET_CRC_8(crc, v) ((uint32_t)__builtin_ia32_crc32di((crc), (v)))
#define AGENTNET_CRC_1(crc, v) __builtin_ia32_crc32qi((crc), (v))
static int agentnet_crc_probe(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define AGENTNET_CRC_HARDWARE 1
#define AGENTNET_CRC_TARGET
#define AGENTNET_CRC_8(crc, v) __crc32cd((crc), (v))
#define AGENTNET_CRC_1(crc, v) __crc32cb((crc), (v))
static int agentnet_crc_probe(void) { return 1; }
#else
#define AGENTNET_CRC_HARDWARE 0
static int agentnet_crc_probe(void) { return 0; }
#endif

#if AGENTNET_CRC_HARDWARE
static inline uint32_t agentnet_crc_skip(uint32_t crc) {
    return agentnet_crc_skip_lane[0][crc & 255] ^ agentnet_crc_skip_lane[1][(crc >> 8) & 255] ^
           agentnet_crc_skip_lane[2][(crc >> 16) & 255] ^ agentnet_crc_skip_lane[3][crc >> 24];
}

AGENTNET_CRC_TARGET
static uint32_t agentnet_crc_by_instruction(uint32_t crc, const unsigned char *p, size_t n) {
    while (n >= 3 * AGENTNET_CRC_LANE) {
        uint32_t a = crc, b = 0, c = 0;
        for (int i = 0; i < AGENTNET_CRC_LANE; i += 8) {
            a = AGENTNET_CRC_8(a, agentnet_load_le64(p + i));
            b = AGENTNET_CRC_8(b, agentnet_load_le64(p + i + AGENTNET_CRC_LANE));
            c = AGENTNET_CRC_8(c, agentnet_load_le64(p + i + 2 * AGENTNET_CRC_LANE));
        }
        crc = agentnet_crc_skip(agentnet_crc_skip(a) ^ b) ^ c;
        p += 3 * AGENTNET_CRC_LANE;
        n -= 3 * AGENTNET_CRC_LANE;
    }
    while (n >= 8) {
        crc = AGENTNET_CRC_8(crc, agentnet_load_le64(p));
        p += 8;
        n -= 8;
    }
    while (n--) crc = AGENTNET_CRC_1(crc, *p++);
    return crc;
}
#endif

/* Fills the constant tables; called once, when the module is imported. */
static void agentnet_crc32c_setup(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? AGENTNET_CRC_POLYNOMIAL : 0);
        agentnet_crc_table[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int row = 1; row < 8; row++) {
            uint32_t crc = agentnet_crc_table[row - 1][i];
            agentnet_crc_table[row][i] = (crc >> 8) ^ agentnet_crc_table[0][crc & 255];
        }
    /* Advancing over zeros is linear: 32 single bits, advanced, give every other register. */
    static const unsigned char zeros[AGENTNET_CRC_LANE];
    for (int byte = 0; byte < 4; byte++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t moved = agentnet_crc_by_table(1u << (8 * byte + bit), zeros, AGENTNET_CRC_LANE);
            for (uint32_t i = 0; i < 256; i++)
                if (i >> bit & 1) agentnet_crc_skip_lane[byte][i] ^= moved;
        }
    agentnet_crc_in_hardware = agentnet_crc_probe();
}

static inline uint32_t agentnet_crc32c_extend(uint32_t crc, const unsigned char *p, size_t n) {
    crc = ~crc;
#if AGENTNET_CRC_HARDWARE
    if (agentnet_crc_in_hardware) return ~agentnet_crc_by_instruction(crc, p, n);
#endif
    return ~agentnet_crc_by_table(crc, p, n);
}

#endif
