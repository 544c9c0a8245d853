// A code ends at bit 9: it is eighths of 1024, and 8 + 4 are left to subtract.
#define QUADS 1
#define WORDS 3
#define TAIL 2
#define AHEAD 1
#define EIGHT(own, half_block, step) \
  const uint s = SIGNED(BYTE(own[6], 2 * half_block + step / 2)); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint high = masked(TO(own[4 + half_block], 4 * step + i, 9), 0x02000200, MAGIC); \
    const uint code = masked(TO(own[2 * half_block + step / 2], 2 * (4 * (step % 2) + i), 7), 0x01800180, high); \
    pair[i] = pair_fma(code, TIMES(s, 0x20002000), TIMES(s, 0xca00ca00)); \
  }
