#define BLOCK 256
#define WORDS 55
#define EIGHT \
  const uint k = o / 2, l = 8 * (o % 4), from = 32 + 32 * (o / 16) + l, shift = 2 * (o % 16 / 4); \
  const uint scale = (BYTE(96 + k % 8) >> 4 * (k / 8) & 15) | (BYTE(104 + k % 4) >> 2 * (k / 4) & 3) << 4; \
  const float d = HALF(108) * float(int(scale) - 32); \
  for (uint i = 0; i < 8; i++) { \
    const uint code = (BYTE(from + i) >> shift & 3) | (BYTE(l + i) >> (o / 4) & 1) << 2; \
    eight[i] = d * float(int(code) - 4); \
  }
