// MLX's mxfp8: numbers 0 1 4 5, then 2 3 6 7, divided by 2^8 in the places of an f16's exponent and mantissa; the first of two is in
// its place, the other has its sign in the bit in between. A scale is a byte as of mxfp4, of 2^18 times what it is.
#define QUADS 4
#define SHORTS 1
#define FACTOR 0.0009765625f
#define EIGHT(own, half_block, step) \
  const uint s = BYTE(own[16], half_block) * 0x04000400u; \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint word = own[8 * half_block + 2 * step + i / 2]; \
    const uint value = i % 2 == 0 ? word & 0xbf80bf80 : masked(word << 7, 0x3f803f80, word << 1 & 0x80008000); \
    pair[i] = TIMES(value, s); \
  }
