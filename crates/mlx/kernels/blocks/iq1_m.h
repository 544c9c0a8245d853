// A code is a number plus 1, and ends at bit 9: it is quarters of 1024, and 4 + 1 are left to subtract, less or more an eighth.
#define QUADS 0
#define WORDS 3
#define SHORTS 1
#define TAIL 2
#define GRID 1
#define CODES 2048
#define EIGHT(own, half_block, step) \
  const uint nibble = NIBBLE(own[2], 4 * half_block + step), s = WHOLE(2 * (own[3] >> 3 * (2 * half_block + step / 2) & 7) + 1); \
  const uint codes_of_eight = CODE(BYTE(own[half_block], step) | (nibble & 7) << 8); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint code = masked(TO(codes_of_eight, 2 * i, 8), 0x03000300, MAGIC); \
    pair[i] = pair_fma(code, TIMES(s, 0x1c001c00), TIMES(s, nibble > 7 ? 0xc520c520 : 0xc4e0c4e0)); \
  }
