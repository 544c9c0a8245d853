// MLX's mxfp4. A scale is a byte, the exponent of an f16: 15 more than that of 2^12 times what it is.
#define QUADS 2
#define SHORTS 1
#define FACTOR 4.0f
#define EIGHT(own, half_block, step) \
  const uint s = BYTE(own[8], half_block) * 0x04000400u; \
  E2M1(values, own[4 * half_block + step]) \
  UNROLL \
  for (uint i = 0; i < 4; i++) pair[i] = TIMES(values[i], s);
