#define BLOCK 256
#define WORDS 105
#define EIGHT \
  const uint j = o % 16 / 4, l = 8 * (o % 4), low = 64 * (o / 16) + 32 * (j % 2) + l, high = 128 + 32 * (o / 16) + l; \
  const float d = HALF(208) * float(int(BYTE(192 + o / 2) ^ 128) - 128); \
  for (uint i = 0; i < 8; i++) { \
    const uint code = (BYTE(low + i) >> 4 * (j / 2) & 15) | (BYTE(high + i) >> 2 * j & 3) << 4; \
    eight[i] = d * float(int(code) - 32); \
  }
