#define QUADS 1
#define TAIL 2
#define FACTOR 0.125f
#define GRID 1
#define CODES 512
#define EIGHT(own, half_block, step) \
  const uint code = BYTE(own[half_block], step), rest = own[2 + half_block], seven = rest >> 7 * step & 127; \
  SPREAD(CODE(2 * code), CODE(2 * code + 1), EVEN(seven), rest >> 28)
