#define QUADS 1
#define WORDS 1
#define TAIL 2
#define FACTOR 0.125f
#define GRID 1
#define CODES 2048
#define EIGHT(own, half_block, step) \
  const uint code = BYTE(own[half_block], step) | (own[4] >> 2 * (4 * half_block + step) & 3) << 8; \
  SPREAD(CODE(2 * code), CODE(2 * code + 1), BYTE(own[2 + half_block], step), NIBBLE(own[4], 4 + 2 * half_block + step / 2))
