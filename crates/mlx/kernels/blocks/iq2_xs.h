#define QUADS 1
#define SHORTS 1
#define TAIL 2
#define FACTOR 0.125f
#define GRID 1
#define CODES 1024
#define EIGHT(own, half_block, step) \
  const uint both = own[2 * half_block + step / 2] >> 16 * (step % 2) & 0xffff, code = both & 511, seven = both >> 9; \
  SPREAD(CODE(2 * code), CODE(2 * code + 1), EVEN(seven), NIBBLE(own[4], 2 * half_block + step / 2))
