#define QUADS 1
#define WORDS 2
#define SHORTS 0
#define TAIL 2
#define LEAST 0
#define FACTOR 0.25f
#define AHEAD 1
#define GRID 1
#define CODES 256
#define TABLES 0
#define SPREAD(first, second, signs, scale) \
  const uint bytes[2] = {first, second}, sign = signs, s = WHOLE(2 * (scale) + 1); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint value = masked(bytes[i / 2] >> 8 * (i % 2), 0x00ff00ff, MAGIC); \
    pair[i] = pair_fma(value, s, TIMES(s, 0xe400e400)) ^ SIGN(sign, i); \
  }
#define EIGHT(own, half_block, step) \
  const uint both = own[2 * half_block + step / 2] >> 16 * (step % 2), rest = own[4 + half_block], seven = rest >> 7 * step & 127; \
  const uint a = CODE(both & 255), b = CODE(both >> 8 & 255); \
  SPREAD((a & 0xffff) | b << 16, a >> 16 | (b & 0xffff0000), EVEN(seven), rest >> 28)
