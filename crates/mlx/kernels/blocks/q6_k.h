// A code ends at bit 9: it is 64ths of 1024, and 64 + 32 are left to subtract.
#define QUADS 3
#define WORDS 1
#define TAIL 2
#define AHEAD 1
#define EIGHT(own, half_block, step) \
  const uint s = SIGNED(BYTE(own[12], 2 * half_block + step / 2)); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint high = masked(TO(own[8 + 2 * half_block + step / 2], 2 * (4 * (step % 2) + i), 8), 0x03000300, MAGIC); \
    const uint code = masked(TO(own[4 * half_block + step], 4 * i, 4), 0x00f000f0, high); \
    pair[i] = pair_fma(code, TIMES(s, 0x2c002c00), TIMES(s, 0xd600d600)); \
  }
