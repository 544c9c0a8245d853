#define QUADS 1
#define WORDS 2
#define TAIL 2
#define FACTOR 0.25f
#define AHEAD 1
#define GRID 1
#define CODES 256
#define EIGHT(own, half_block, step) \
  const uint both = own[2 * half_block + step / 2] >> 16 * (step % 2), rest = own[4 + half_block], seven = rest >> 7 * step & 127; \
  const uint a = CODE(both & 255), b = CODE(both >> 8 & 255); \
  SPREAD((a & 0xffff) | b << 16, a >> 16 | (b & 0xffff0000), EVEN(seven), rest >> 28)
