#define QUADS 1
#define WORDS 0
#define SHORTS 1
#define TAIL 2
#define LEAST 0
#define FACTOR 0.125f
#define AHEAD 0
#define GRID 1
#define CODES 1024
#define TABLES 0
#define SPREAD(first, second, signs, scale) \
  const uint bytes[2] = {first, second}, sign = signs, s = WHOLE(2 * (scale) + 1); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = masked(bytes[i / 2] >> 8 * (i % 2), 0x00ff00ff, MAGIC); \
    pair[i] = pair_fma(value, s, TIMES(s, 0xe400e400)) ^ SIGN(sign, i); \
  }
#define EIGHT(own, half_block, step) \
  const uint both = own[2 * half_block + step / 2] >> 16 * (step % 2) & 0xffff, code = both & 511, seven = both >> 9; \
  SPREAD(CODE(2 * code), CODE(2 * code + 1), EVEN(seven), NIBBLE(own[4], 2 * half_block + step / 2))
