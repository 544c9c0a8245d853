#define BLOCK 256
#define WORDS 68
#define EIGHT \
  const uint k = o / 4, scale = (BYTE(4 + k / 2) >> 4 * (k % 2) & 15) | (uint(w[at + 1]) >> 2 * k & 3) << 4; \
  const float d = HALF(0) * float(int(scale) - 32); \
  for (uint i = 0; i < 8; i++) { \
    const uint code = BYTE(8 + 16 * k + 8 * (o % 2) + i) >> 4 * (o % 4 / 2) & 15; \
    eight[i] = d * SIGNED(code); \
  }
