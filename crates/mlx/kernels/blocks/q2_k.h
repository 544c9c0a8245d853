#define QUADS 1
#define WORDS 1
#define TAIL 4
#define LEAST 1
#define EIGHT(own, half_block, step) \
  const uint both = BYTE(own[4], 2 * half_block + step / 2), s = WHOLE(both & 15); \
  least = WHOLE(both >> 4); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint code = masked(own[2 * half_block + step / 2] >> 2 * (4 * (step % 2) + i), 0x00030003, MAGIC); \
    pair[i] = pair_fma(code, s, TIMES(s, 0xe400e400)); \
  }
