// A value plus 128 ends at bit 9: it is 256ths of 1024, and 256 + 128 are left to subtract.
#define QUADS 2
#define WORDS 0
#define SHORTS 1
#define TAIL 2
#define LEAST 0
#define FACTOR 1.0f
#define AHEAD 0
#define GRID 0
#define TABLES 1
#define EIGHT(own, half_block, step) \
  const uint s = SIGNED(BYTE(own[8], half_block)), bytes[2] = LOOKED(table, own[4 * half_block + step]); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = masked(TO(bytes[i / 2], 8 * (i % 2), 2), 0x03fc03fc, MAGIC); \
    pair[i] = pair_fma(value, TIMES(s, 0x34003400), TIMES(s, 0xde00de00)); \
  }
