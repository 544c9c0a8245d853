#define QUADS 1
#define WORDS 3
#define TAIL 2
#define GRID 1
#define CODES 512
#define EIGHT(own, half_block, step) \
  const uint both = own[2 * half_block + step / 2] >> 16 * (step % 2), high = own[6] >> 2 * (4 * half_block + step); \
  const uint a = CODE((both & 255) | (high & 1) << 8), b = CODE((both >> 8 & 255) | (high >> 1 & 1) << 8); \
  SPREAD((a & 0xffff) | b << 16, a >> 16 | (b & 0xffff0000), BYTE(own[4 + half_block], step), NIBBLE(own[6], 4 + half_block))
