// MLX's integers of 8 bits: numbers 0 1 4 5, then 2 3 6 7.
#define QUADS 4
#define AFFINE 2
#define EIGHT(own, half_block, step) \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint word = own[8 * half_block + 2 * step + i / 2]; \
    pair[i] = SCALED(own, half_block, UNDER(0, i % 2 == 0 ? bytes_even(word) : bytes_odd(word))); \
  }
