// MLX's nvfp4. A scale is a byte, which in the place of an f16's exponent and mantissa is divided by 2^8.
#define QUADS 2
#define WORDS 1
#define FACTOR 16384.0f
#define EIGHT(own, half_block, step) \
  const uint s = TIMES(BYTE(own[8], 2 * half_block + step / 2) * 0x00800080u, 0x5c005c00); \
  E2M1(values, own[4 * half_block + step]) \
  UNROLL \
  for (uint i = 0; i < 4; i++) pair[i] = TIMES(values[i], s);
